from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from aws_hmac import __version__
from aws_hmac.cli import main
from aws_hmac.cli.output import print_json

COMMAND = str(Path(sys.executable).parent / "aws-hmac")

pytestmark = pytest.mark.usefixtures("aws_home")  # no test sees, or writes, the files of whoever runs it


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert all(name in out for name in ("key import", "configure", "doctor", "demo"))
    assert err == ""
    assert main([]) == 2
    assert capsys.readouterr().err == out
    assert main(["key", "--help"]) == 0
    assert "key import" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"aws-hmac {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["key", "chekc"], "there is no command 'key chekc'; did you mean 'key check'?"),
        (["docotr"], "did you mean 'doctor'?"),
        (["key", "list"], "the following arguments are required: KEY_URI"),
        (["key", "list", "toy:", "--jsno"], "unknown: --jsno"),
        (["key", "list", "toy:", "hush", "--hush", "hush", "-x"], "unknown: --hush, -x, 2 more word(s), not shown"),
    ],
)
def test_wrong_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(words)
    except SystemExit as exc:
        status = int(exc.code or 0)
    assert status == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "\nhush" not in err.replace(" ", "\n")
    assert out == ""


def test_a_pasted_secret_is_no_command_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"]) == 2
    assert "wJalr" not in capsys.readouterr().err


def test_an_interrupt_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aws_hmac.registry.backend_class", interrupt)
    assert main(["key", "list", "toy:"]) == 130
    assert capsys.readouterr() == ("", "")


def test_errors_of_the_system_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise FileNotFoundError(2, "No such file", "/some/where\x1b")

    monkeypatch.setattr("aws_hmac.registry.backend_class", fail)
    assert main(["key", "list", "toy:"]) == 1
    assert capsys.readouterr().err == "aws-hmac: /some/where\\x1b: No such file\n"


def test_control_characters_are_shown_not_obeyed(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "check", "toy:file=%1B%5D0;file2=%07"]) == 1
    assert "\x1b" not in capsys.readouterr().err
    assert main(["key", "check", f"toy:file={toy}/%C2%9B31m"]) == 1
    err = capsys.readouterr().err
    assert all(c.isprintable() or c == "\n" for c in err)


def test_json_holds_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"label": "\x1b[31m \x9b31m \u202egnp.exe \udc80 \U000e0041 é ✓ 😀\n"}
    print_json(value)
    out = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert json.loads(out) == value
    assert "é ✓ 😀" in out


def test_a_reader_that_goes_away(toy: Path) -> None:
    for number in range(2000):
        (toy / f"key{number}").write_bytes(b"k")
    child = subprocess.Popen([COMMAND, "key", "list", "toy:"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.read(10)
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(30) == 141


def test_standard_output_on_a_full_disk(toy: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [COMMAND, "key", "list", "toy:", "--json"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "aws-hmac: No space left on device\n")


def test_colour_only_on_a_terminal(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "prod").write_bytes(b"key")
    piped = io.StringIO()
    monkeypatch.setattr(sys, "stdout", piped)
    main(["key", "check", f"toy:file={toy}/prod"])
    assert "\x1b[" not in piped.getvalue()

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    main(["key", "check", f"toy:file={toy}/prod"])
    assert "\x1b[32m✓" in terminal.getvalue()
