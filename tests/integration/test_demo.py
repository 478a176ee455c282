from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aws_hmac.cli import demo, main, memory_scan
from aws_hmac.errors import UnsupportedError
from aws_hmac.testing import require_device

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = str(Path(sys.executable).parent / "aws-hmac")
STEPS = 9


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo makes its folder; afterwards nothing must be left there, nor a process that knows it."""
    for program in ("softhsm2-util", "pkcs11-tool"):
        if shutil.which(program) is None:
            require_device("pkcs11", f"{program} is not installed")
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield folder
    assert list(folder.iterdir()) == []
    assert processes_that_know(folder) == []


def processes_that_know(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{folder}/aws-hmac-demo-".encode() in environment + words and int(process.name) != os.getpid():
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_every_step(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    strange = {"HOME": str(home), "AWS_ACCESS_KEY_ID": "AKIAWRONG", "AWS_SECRET_ACCESS_KEY": "x", "AWS_PROFILE": "none"}
    done = subprocess.run(
        [COMMAND, "demo"], capture_output=True, text=True, check=False, timeout=240, env={**os.environ, **strange}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert re.findall(r"^(\d)\. ", done.stdout, re.MULTILINE) == [str(n + 1) for n in range(STEPS)]
    assert done.stdout.count("   ✓ ") >= STEPS
    assert "✗" not in done.stdout
    assert "\x1b" not in done.stdout
    for said in (
        "200 arn:aws:iam::123456789012:user/demo",
        "arn:aws:sts::123456789012:assumed-role/deploy/",
        "403 SignatureDoesNotMatch",
        'the secret 0×, its base64 0×, "AWS4" + secret 0×',
        "Nothing is left",
    ):
        assert said in done.stdout
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(("number", "after"), [(signal.SIGINT, 0.3), (signal.SIGTERM, 1.5), (signal.SIGINT, 3)])
def test_an_interrupt_leaves_nothing(temporary: Path, number: int, after: float) -> None:
    child = subprocess.Popen(
        [COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert child.stdout is not None
    deadline = time.monotonic() + 60
    while not list(temporary.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    if after == 3:  # late: the process that signs lives on
        for line in child.stdout:
            if line.startswith("6."):
                break
    else:
        time.sleep(after)
    child.send_signal(number)
    child.send_signal(number)
    said, _ = child.communicate(timeout=60)
    assert child.returncode in (130, 0), said
    assert "Traceback" not in said


def test_a_server_that_verifies_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = demo._tools()
    lax = tmp_path / "moto_server"
    lax.write_text(f'#!/bin/sh\nINITIAL_NO_AUTH_ACTION_COUNT=1000 exec {tools.server} "$@"\n')
    lax.chmod(0o755)
    monkeypatch.setattr(demo, "_tools", lambda: tools._replace(server=str(lax)))
    assert main(["demo"]) == 1
    assert "✗ the server accepts a signature by an unknown key" in capsys.readouterr().out


def test_a_server_that_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_tools", lambda: demo.Tools(COMMAND, "/bin/false"))
    assert main(["demo"]) == 1
    assert "✗ moto_server ended with status 1" in capsys.readouterr().out


def test_a_device_that_holds_another_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def otherwise(self: demo.Demo, uri: str, key: demo.Key) -> str:
        return real(self, uri, demo.Key(key.access_key_id, key.secret_access_key[::-1]))

    real = demo.Demo._import
    monkeypatch.setattr(demo.Demo, "_import", otherwise)
    assert main(["demo"]) == 1
    assert "✗ the device computes with another key than was imported" in capsys.readouterr().out


def test_a_signer_that_holds_the_secret(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def forms(secret_access_key: str) -> dict[str, bytes]:
        return {"what is in any Python": b"PYTHONDONTWRITEBYTECODE"}

    monkeypatch.setattr(memory_scan, "forms", forms)
    assert main(["demo"]) == 1
    assert "✗ the secret is in the memory of the signer" in capsys.readouterr().out


def test_missing_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == (
        "aws-hmac: the demo needs programs that are not installed; do: apt-get install softhsm2;"
        " apt-get install opensc; pip install 'moto[server]' boto3 'aws-hmac[pkcs11]'\n"
    )


def test_the_search_finds_what_lies_across_two_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_scan, "CHUNK", 4096)
    program = (
        "import mmap, sys; pages = mmap.mmap(-1, 51 * 4096); name = sys.stdin.readline().strip().encode()\n"
        "for page in range(1, 51): pages[page * 4096 - 7:page * 4096 - 7 + len(name)] = name\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    text = b"hidden-" + os.urandom(8).hex().encode()
    child.stdin.write(text + b"\n")
    child.stdin.flush()
    child.stdout.readline()
    try:
        found = memory_scan.scan(child.pid, {"it": text, "not it": text[::-1]})
        assert 50 <= found.hits["it"] < 70  # and the few copies that Python made
        assert found.hits["not it"] == 0
        assert found.size > 4 * 2**20
    finally:
        child.communicate()


def test_a_process_that_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    with pytest.raises(UnsupportedError, match="cannot be read"):
        memory_scan.scan(child.pid, {"it": b"it"})
