from __future__ import annotations

import io
import json
import os
import pty
import sys
import time
import warnings
from pathlib import Path

import pytest

from aws_hmac.backend import fingerprint_of
from aws_hmac.cli import main

ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
COMMAND = str(Path(sys.executable).parent / "aws-hmac")

pytestmark = pytest.mark.usefixtures("aws_home")  # no test sees, or writes, the files of whoever runs it


@pytest.fixture
def uri(toy: Path) -> str:
    return f"toy:file={toy}/prod"


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def stored(uri: str) -> bytes | None:
    path = Path(uri.partition("=")[2])
    return path.read_bytes() if path.exists() else None


def console_csv(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    file = folder / "prod_accessKeys.csv"
    file.write_text(text, encoding=encoding, newline="")
    file.chmod(0o600)
    return file


def test_standard_input(uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    give(monkeypatch, SECRET.encode())
    assert main(["key", "import", uri, "--access-key-id", ID]) == 0
    assert stored(uri) == b"AWS4" + SECRET.encode()
    out, err = capsys.readouterr()
    assert err == ""
    assert uri in out
    assert fingerprint_of(b"AWS4" + SECRET.encode()).hex() in out
    assert f"aws-hmac configure --profile NAME --key {uri} --access-key-id {ID}" in out
    assert SECRET not in out
    assert "\x1b" not in out


def test_json(uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    give(monkeypatch, SECRET.encode())
    assert main(["key", "import", uri, "--access-key-id", ID, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "uri": uri,
        "access_key_id": ID,
        "fingerprint": fingerprint_of(b"AWS4" + SECRET.encode()).hex(),
        "plaintext": None,
    }


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_end_is_stripped_and_said(
    uri: str, end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, (SECRET + end).encode())
    assert main(["key", "import", uri, "--access-key-id", ID]) == 0
    assert stored(uri) == b"AWS4" + SECRET.encode()
    assert "warning: the secret access key ended in a line end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "standard input is empty"),
        (b"\n", "is empty"),
        (b"  \t ", "is empty"),
        (SECRET.encode() + b" x", "blank or control character"),
        (b"secret\0", "blank or control character"),
        (b"s\xc3\xa9cret", "not ASCII"),
        (b"x" * 100_000, "more than"),
        (b"Access key ID,Secret access key\nAKIAB,secret\n", "give the file by --csv"),
    ],
)
def test_no_secret(
    uri: str, data: bytes, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, data)
    assert main(["key", "import", uri]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1 + err.count("warning:")
    assert stored(uri) is None


def test_temporary_key(uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    give(monkeypatch, SECRET.encode())
    assert main(["key", "import", uri, "--access-key-id", "ASIAIOSFODNN7EXAMPLE"]) == 1
    assert "temporary credentials" in capsys.readouterr().err
    assert stored(uri) is None


@pytest.mark.parametrize("wrong", ["AKIAB", "akiaiosfodnn7example", "minio", SECRET])
def test_form_of_the_access_key_id(
    uri: str, wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, SECRET.encode())
    assert main(["key", "import", uri, "--access-key-id", wrong]) == 0
    err = capsys.readouterr().err
    assert "warning: the access key id does not have the form of AWS's" in err
    assert wrong not in err


def test_length_of_the_secret(uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    give(monkeypatch, SECRET[:-1].encode())
    assert main(["key", "import", uri, "--access-key-id", ID]) == 0
    assert "copied whole" in capsys.readouterr().err


def test_a_secret_as_argument_is_not_shown(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([uri, SECRET], [uri, f"--secret-access-key={SECRET}"], [uri, "--secret", SECRET]):
        with pytest.raises(SystemExit) as caught:
            main(["key", "import", *words])
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        assert SECRET not in out + err
        assert "unknown: " in err


def test_a_secret_as_uri_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "import", SECRET]) == 1
    err = capsys.readouterr().err
    assert "not a key URI" in err
    assert SECRET not in err


def test_a_pin_in_the_uri(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "import", "pkcs11:token=aws;object=prod?pin-value=98765432"]) == 1
    err = capsys.readouterr().err
    assert "pin-source" in err
    assert "98765432" not in err


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nosuch:key=1", "no installed backend has the scheme 'nosuch'"),
        ("memory:env=X", "memory: keys cannot be imported"),
    ],
)
def test_nothing_is_asked_where_no_key_can_go(
    uri: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["key", "import", uri]) == 1
    assert said in capsys.readouterr().err


def test_overwrite(uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path(uri.partition("=")[2]).write_bytes(b"old")
    give(monkeypatch, b"new")
    assert main(["key", "import", uri]) == 1
    assert "there is a key already" in capsys.readouterr().err
    assert stored(uri) == b"old"
    give(monkeypatch, b"new")
    assert main(["key", "import", uri, "--overwrite"]) == 0
    assert stored(uri) == b"AWS4new"


def test_sigv4a(uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    give(monkeypatch, b"new")
    assert main(["key", "import", uri, "--sigv4a"]) == 0
    assert stored(uri) == b"AWS4Anew"
    assert fingerprint_of(b"AWS4Anew").hex() in capsys.readouterr().out


def test_a_device_that_computes_something_else(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOY_LIES", "1")
    give(monkeypatch, b"new")
    assert main(["key", "import", uri]) == 1
    assert "computes with another key" in capsys.readouterr().err
    assert stored(uri) is None


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (f"Access key ID,Secret access key\r\n{ID},{SECRET}\r\n", "utf-8-sig"),
        (f"Access key ID,Secret access key\n{ID},{SECRET}", "utf-8"),
        (
            f"User name,Password,Access key ID,Secret access key,Console login link\nme,,{ID},{SECRET},https://x\n\n",
            "utf-8",
        ),
        (f'"access key id" , "secret access key"\n"{ID}" , "{SECRET}"\n', "utf-8"),
    ],
)
def test_csv(uri: str, tmp_path: Path, text: str, encoding: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = console_csv(tmp_path, text, encoding=encoding)
    assert main(["key", "import", uri, "--csv", str(file)]) == 0
    assert stored(uri) == b"AWS4" + SECRET.encode()
    out, err = capsys.readouterr()
    assert err == ""
    assert f"remove the plaintext: shred -u {file}" in out
    assert f"--access-key-id {ID}" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not name the columns"),
        (f"{ID},{SECRET}\n", "does not name the columns"),
        (f"{SECRET}\n", "does not name the columns"),
        (f"User,Key\n{ID},{SECRET}\n", "does not name the columns"),
        (f"Access key ID,Access key ID,Secret access key\n{ID},{ID},{SECRET}\n", "does not name the columns"),
        ("Access key ID,Secret access key\n", "no key"),
        (f"Access key ID,Secret access key\n{SECRET}\n", "line 2 has 1 columns"),
        (f"Access key ID,Secret access key\n{ID},{SECRET}\nAKIAB,{SECRET}\n", f"holds 2 keys ({ID}, AKIAB)"),
        (f"Access key ID,Secret access key\nASIAIOSFODNN7EXAMPLE,{SECRET}\n", "temporary"),
        (f"Access key ID,Secret access key\n{ID},\n", "is empty"),
        ("Access key ID,Secret access key\n" * 9999, "larger than"),
    ],
)
def test_wrong_csv(uri: str, tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "import", uri, "--csv", str(console_csv(tmp_path, text))]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert SECRET not in err
    assert stored(uri) is None


def test_csv_of_many(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = console_csv(tmp_path, f"Access key ID,Secret access key\nAKIAB,x\n{ID},{SECRET}\n")
    assert main(["key", "import", uri, "--csv", str(file), "--access-key-id", ID]) == 0
    assert stored(uri) == b"AWS4" + SECRET.encode()
    assert main(["key", "import", uri, "--csv", str(file), "--access-key-id", "AKIAC"]) == 1
    assert "holds no key AKIAC" in capsys.readouterr().err


def test_csv_that_is_not_utf8_or_not_there(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = console_csv(tmp_path, f"Access key ID,Secret access key\n{ID},{SECRET}\n", encoding="utf-16")
    assert main(["key", "import", uri, "--csv", str(file)]) == 1
    assert "not UTF-8" in capsys.readouterr().err
    assert main(["key", "import", uri, "--csv", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_csv_that_others_can_read(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = console_csv(tmp_path, f"Access key ID,Secret access key\n{ID},{SECRET}\n")
    file.chmod(0o644)
    assert main(["key", "import", uri, "--csv", str(file)]) == 0
    assert "warning: others on this machine can read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("credentials", "config"),
    [
        (f"[old]\naws_access_key_id = {ID}\naws_secret_access_key = {SECRET}\n", ""),
        ("", f"[profile old]\naws_access_key_id={ID}\naws_secret_access_key={SECRET}\n"),
        ("", f'[profile "old"]\naws_access_key_id={ID}\naws_secret_access_key={SECRET}\n'),
        (
            f"[old]\naws_access_key_id = {ID}\naws_secret_access_key = {SECRET}\n",
            "[profile old]\naws_access_key_id=AKIAB\naws_secret_access_key=b\n",
        ),
    ],
)
def test_profile(uri: str, aws_home: Path, credentials: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    aws_home.mkdir()
    (aws_home / "credentials").write_text(credentials)
    (aws_home / "config").write_text(config)
    assert main(["key", "import", uri, "--from-profile", "old"]) == 0
    assert stored(uri) == b"AWS4" + SECRET.encode()
    out, err = capsys.readouterr()
    assert err == ""
    assert "remove the plaintext: delete aws_access_key_id and aws_secret_access_key of 'old' in" in out


@pytest.mark.parametrize(
    ("credentials", "said"),
    [
        (b"", "has a profile 'old'"),
        (b"[old]\nregion = eu-west-1\n", "holds no aws_access_key_id"),
        (b"[old]\naws_secret_access_key = %s\n" % SECRET.encode(), "without the other"),
        (
            b"[old]\naws_access_key_id = AKIA\naws_secret_access_key = %s\naws_session_token = t\n" % SECRET.encode(),
            "temporary",
        ),
        (
            b"[old]\naws_access_key_id = ASIAIOSFODNN7EXAMPLE\naws_secret_access_key = %s\n" % SECRET.encode(),
            "temporary",
        ),
        (b"[old]\n%s\n" % SECRET.encode(), "line 2"),
        (b"%s\n" % SECRET.encode(), "line 1"),
        (b"[old]\na=1\n[old]\nb=%s\n" % SECRET.encode(), "line 3: a section is there twice"),
        (b"[old]\na = 1\naws_secret_access_key = %s\xff\n" % SECRET.encode(), "line 3 is not UTF-8"),
    ],
)
def test_wrong_profile(
    uri: str, aws_home: Path, credentials: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    aws_home.mkdir()
    (aws_home / "credentials").write_bytes(credentials)
    assert main(["key", "import", uri, "--from-profile", "old"]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert SECRET not in err
    assert stored(uri) is None


def test_a_full_disk(uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    give(monkeypatch, SECRET.encode())
    assert main(["key", "import", "toy:file=/dev/full", "--overwrite"]) == 1
    assert capsys.readouterr().err == "aws-hmac: toy:file=/dev/full: No space left on device\n"


def test_a_fault_of_ours_shows_nothing(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    give(monkeypatch, SECRET.encode())
    monkeypatch.setattr("aws_hmac.keys.import_key", fail)
    assert main(["key", "import", uri]) == 1
    err = capsys.readouterr().err
    assert "RuntimeError in" in err
    assert SECRET not in err
    give(monkeypatch, SECRET.encode())
    with pytest.raises(RuntimeError):
        main(["key", "import", uri, "--debug"])


def on_a_terminal(words: list[str], answers: list[bytes]) -> tuple[int, str]:
    """Runs the command on a terminal of its own, answers each prompt; returns exit status and what was shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child does nothing but exec
        pid, terminal = pty.fork()
    if pid == 0:
        os.execv(COMMAND, [COMMAND, *words])
    shown = b""
    deadline = time.monotonic() + 20
    todo = list(answers)
    while time.monotonic() < deadline:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        shown += chunk
        if todo and shown.rstrip(b" ").endswith(b":"):
            time.sleep(0.05)  # getpass flushes what was typed before it hides
            os.write(terminal, todo.pop(0) + b"\n")
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_prompt(uri: str) -> None:
    status, shown = on_a_terminal(["key", "import", uri, "--access-key-id", ID], [SECRET.encode()] * 2)
    assert status == 0, shown
    assert SECRET not in shown
    assert "Once more:" in shown
    assert "\x1b[" in shown
    assert stored(uri) == b"AWS4" + SECRET.encode()


def test_prompt_answered_differently(uri: str) -> None:
    status, shown = on_a_terminal(["key", "import", uri], [SECRET.encode(), b"typo"])
    assert status == 1
    assert "the two entries differ" in shown
    assert SECRET not in shown
    assert stored(uri) is None


def test_prompt_interrupted(uri: str) -> None:
    status, shown = on_a_terminal(["key", "import", uri], [b"\x03"])
    assert status == 130
    assert "Traceback" not in shown
    assert stored(uri) is None
