from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import traceback
from typing import TYPE_CHECKING

import pytest

from aws_hmac import AuthenticationError, KeyURIError, SecurityWarning, sources
from aws_hmac.sources import read_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "s3cr3t"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "pin"
    file.write_text(SECRET)
    file.chmod(0o600)
    return file


def shows_secret(exc: BaseException | None) -> bool:
    """Whether a message, a frame's local variable or an attribute of an exception or of its causes holds the secret."""
    while exc is not None:
        shown = ["".join(traceback.format_exception(exc)), *map(repr, vars(exc).values()), *map(repr, exc.args)]
        for frame, _ in traceback.walk_tb(exc.__traceback__):
            if frame.f_code.co_filename != __file__:
                shown += map(repr, frame.f_locals.values())
        if any(SECRET in text for text in shown):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


class TestFile:
    def test_forms(self, file: Path) -> None:
        for source in (f"file:{file}", f"file://{file}", f"file://localhost{file}", str(file)):
            assert read_source(source, "PIN") == b"s3cr3t"

    @pytest.mark.parametrize("source", ["file:pin", "file:./pin", "file:~/pin"])
    def test_relative(self, source: str) -> None:
        with pytest.raises(KeyURIError, match="must be an absolute path"):
            read_source(source, "PIN")

    def test_another_machine(self, file: Path) -> None:
        with pytest.raises(KeyURIError, match="not on 'server'"):
            read_source(f"file://server{file}", "PIN")

    @pytest.mark.parametrize(
        ("content", "read"),
        [
            (b"1\n", b"1"),
            (b"1\r\n", b"1"),
            (b"1\n\n", b"1\n"),
            (b" 1 ", b" 1 "),
            (b"\xff", b"\xff"),
            (b"a\rb", b"a\rb"),
        ],
    )
    def test_one_line_end_goes(self, file: Path, content: bytes, read: bytes) -> None:
        file.write_bytes(content)
        assert read_source(str(file), "PIN") == read

    @pytest.mark.parametrize("content", [b"", b"\n", b"\r\n"])
    def test_empty(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        with pytest.raises(AuthenticationError, match=f"PIN: {file} is empty"):
            read_source(str(file), "PIN")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(AuthenticationError, match=r"PIN: .*/none cannot be read: No such file"):
            read_source(f"file:{tmp_path}/none", "PIN")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(AuthenticationError, match="cannot be read: Is a directory"):
            read_source(f"file:{tmp_path}", "PIN")

    def test_device(self) -> None:
        with pytest.raises(AuthenticationError, match="/dev/zero is not a file"):
            read_source("file:/dev/zero", "PIN")

    def test_too_large(self, file: Path) -> None:
        file.write_bytes(SECRET.encode() * sources.MAX_SIZE)
        with pytest.raises(AuthenticationError, match="is larger than 65536 bytes") as caught:
            read_source(str(file), "PIN")
        assert not shows_secret(caught.value)

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
    def test_others_can_write(self, file: Path, mode: int) -> None:
        file.chmod(mode)
        with pytest.raises(AuthenticationError, match=f"others can write {file}; mend it with: chmod go-w"):
            read_source(str(file), "PIN")

    @pytest.mark.parametrize("mode", [0o640, 0o604])
    def test_others_can_read(self, file: Path, mode: int) -> None:
        file.chmod(mode)
        with pytest.warns(SecurityWarning, match=f"others can read {file}; mend it with: chmod go-rwx"):
            assert read_source(str(file), "PIN") == b"s3cr3t"

    def test_symbolic_link_counts_as_what_it_names(self, file: Path, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(file)
        assert read_source(str(link), "PIN") == b"s3cr3t"
        file.chmod(0o622)
        with pytest.raises(AuthenticationError, match="others can write"):
            read_source(str(link), "PIN")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_another_owner(self, file: Path) -> None:
        os.chown(file, 54321, -1)
        with pytest.raises(AuthenticationError, match="belongs to another user"):
            read_source(str(file), "PIN")

    def test_pipe(self) -> None:
        """As a shell's ``<(command)`` makes."""
        reader, writer = os.pipe()
        os.write(writer, b"s3cr3t\n")
        os.close(writer)
        assert read_source(f"file:/dev/fd/{reader}", "PIN") == b"s3cr3t"
        os.close(reader)


class TestEnvironment:
    def test_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PIN", "s3cr3t=é")
        assert read_source("env:PIN", "PIN") == "s3cr3t=é".encode()

    def test_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PIN", raising=False)
        with pytest.raises(AuthenticationError, match="the environment variable PIN is not set"):
            read_source("env:PIN", "PIN")

    def test_empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PIN", "")
        with pytest.raises(AuthenticationError, match="env:PIN is empty"):
            read_source("env:PIN", "PIN")


class TestCommand:
    def test_output(self) -> None:
        assert read_source("cmd:printf '%s' 's3cr3t x'", "PIN") == b"s3cr3t x"

    def test_standard_input_is_not_its_own(self) -> None:
        """It may be a request's body, or the secret that is to be imported."""
        code = "from aws_hmac.sources import read_source; read_source('cmd:cat', 'x')"
        done = subprocess.run(
            [sys.executable, "-c", code], input="stolen", capture_output=True, text=True, check=False, timeout=60
        )
        assert "AuthenticationError: x: cmd:cat is empty" in done.stderr

    def test_no_shell(self, tmp_path: Path) -> None:
        assert read_source(f"cmd:echo $HOME; touch {tmp_path}/made", "PIN") == f"$HOME; touch {tmp_path}/made".encode()
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            (f"sh -c 'echo {SECRET}; exit 3'", "sh ended with status 3"),
            (f"sh -c 'echo {SECRET}; sleep 9'", "sh did not answer within 0.3 s"),
            ("sh -c 'head -c 70000 /dev/zero'", "sh printed more than 65536 bytes"),
            ("true", "cmd:true is empty"),
            ("no-such-program x", "'no-such-program' cannot be run: No such file"),
        ],
    )
    def test_faults(self, monkeypatch: pytest.MonkeyPatch, command: str, said: str) -> None:
        monkeypatch.setattr(sources, "COMMAND_TIMEOUT", 0.3)
        with pytest.raises(AuthenticationError, match=said) as caught:
            read_source(f"cmd:{command}", "PIN")
        shown = "".join(traceback.format_exception(caught.value, limit=0))
        assert SECRET not in shown  # not even the command's arguments are shown

    def test_output_is_in_no_traceback(self, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
        monkeypatch.setattr(sources, "COMMAND_TIMEOUT", 0.3)
        for script in (f"cat {file}; exit 1", f"cat {file}; sleep 9"):
            with pytest.raises(AuthenticationError) as caught:
                read_source(f"cmd:sh -c '{script}'", "PIN")
            assert not shows_secret(caught.value)

    def test_not_closed(self) -> None:
        with pytest.raises(KeyURIError, match="No closing quotation"):
            read_source("cmd:echo 'x", "PIN")


@pytest.mark.parametrize(
    "source", ["", "s3cr3t", "1234", "env:", "file:", "cmd:", "cmd: ", "prompt:x", "http://x/y", "PROMPT"]
)
def test_no_source(source: str) -> None:
    with pytest.raises(KeyURIError, match="not a source; use file:/path") as caught:
        read_source(source, "PIN")
    assert not source or source not in str(caught.value).partition(":")[2].partition(";")[0]


def test_shell_command_of_the_rfc() -> None:
    with pytest.raises(KeyURIError, match="would run a shell and is refused; use cmd:program"):
        read_source("|cat /etc/pin", "PIN")


class Person:
    """A person at a terminal of their own, at which a program asks for a PIN."""

    def __init__(self, state: Path) -> None:
        self.master, slave = os.openpty()
        code = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # this terminal is the one of this session
sys.stdin = open(os.devnull)          # standard input and output belong to the SDK that runs the program
from aws_hmac.sources import read_source
sys.stderr.write(read_source("prompt", "pin-source of pkcs11:token=aws").decode())
"""
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=slave,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | {"XDG_STATE_HOME": str(state)},
        )
        os.close(slave)

    def sees(self, text: str, *, within: float = 20) -> bool:
        seen, end = b"", time.monotonic() + within
        while time.monotonic() < end and text.encode() not in seen:
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    seen += os.read(self.master, 1000)
                except OSError:  # the program has ended
                    break
        self.seen = seen
        return text.encode() in seen

    def types(self, text: str) -> bytes:
        os.write(self.master, text.encode())
        answer: bytes = self.process.communicate(timeout=20)[1]
        return answer


@pytest.fixture
def people(tmp_path: Path) -> Iterator[list[Person]]:
    people = [Person(tmp_path), Person(tmp_path)]
    yield people
    for person in people:
        person.process.kill()
        person.process.communicate()
        os.close(person.master)


class TestPrompt:
    def test_one_at_a_time_and_no_echo(self, people: list[Person]) -> None:
        prompt = "pin-source of pkcs11:token=aws: "
        first = people[0] if people[0].sees(prompt, within=2) else people[1]
        if first is people[1]:
            assert first.sees(prompt)
        second = people[1 - people.index(first)]
        assert not second.sees(prompt, within=1), "both were asked at once"
        assert first.types("s3cr3t\n") == b"s3cr3t"
        assert second.sees(prompt)
        assert second.types("other\n") == b"other"
        assert not second.sees("other", within=0.2), "what was typed is shown"

    def test_nowhere_for_a_lock(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        person = Person(tmp_path / "file")
        assert person.sees("pin-source of pkcs11:token=aws: ")
        assert person.types("s3cr3t\n") == b"s3cr3t"
        os.close(person.master)

    def test_no_terminal(self) -> None:
        code = "from aws_hmac.sources import read_source; read_source('prompt', 'PIN')"
        done = subprocess.run(
            [sys.executable, "-c", code],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert "AuthenticationError: PIN: there is no terminal to prompt on" in done.stderr
