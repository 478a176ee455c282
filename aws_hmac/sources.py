"""Where a secret comes from: ``file:/path`` (or a bare path), ``env:NAME``, ``cmd:program args``, ``prompt``.

An unreadable or empty source is an error, never an empty PIN.
"""

from __future__ import annotations

import os
import stat
import warnings
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from aws_hmac.errors import AuthenticationError, KeyURIError, SecurityWarning

TYPE_CHECKING = False  # importing typing would take longer than reading a file
if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND_TIMEOUT = 60
"""Seconds that a ``cmd:`` source may take: long enough for a person to touch a key."""

MAX_SIZE = 64 * 1024
"""Bytes that a source may hold at most; more is no PIN, password or token."""


_answers: ContextVar[dict[str, bytes] | None] = ContextVar("_answers", default=None)


@contextmanager
def prompted_once() -> Iterator[None]:
    """Within it, a person who was prompted for a secret is not prompted for it again; then it is forgotten.

    For what a user sees as one step and takes the device several: an import opens the key once more to prove it.
    """
    token = _answers.set({})
    try:
        yield
    finally:
        _answers.reset(token)


def read_source(source: str, what: str) -> bytes:
    """Fetches a secret.

    Args:
        source: ``file:/path``, a bare absolute path, ``env:NAME``, ``cmd:program args`` (split as a shell
            would, run without one) or ``prompt`` (on the terminal itself, one prompt at a time).
        what: what the secret is, for messages and the prompt, as ``pin-source of pkcs11:token=aws``.

    Returns:
        The secret, without the one line end that editors add. Never empty.

    Raises:
        KeyURIError: this is no kind of source.
        AuthenticationError: it cannot be read, is empty, or others could change it.
    """
    kind, _, rest = source.partition(":")
    if source == "prompt":
        secret = _asked(what)
    elif kind == "file" and rest:
        secret = _from_file(_path_of(rest, what), what)
    elif kind == "env" and rest:
        secret = _from_environment(rest, what)
    elif kind == "cmd" and rest.strip():
        secret = _from_command(rest, what)
    elif source.startswith("/"):
        secret = _from_file(source, what)
    elif source.startswith("|"):
        raise KeyURIError(f"{what}: '|command' would run a shell and is refused; use cmd:program args")
    else:
        raise KeyURIError(f"{what}: not a source; use file:/path, env:NAME, cmd:program args or prompt")
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise AuthenticationError(f"{what}: {_shown(source)} is empty")
    return secret


def check_file(path: Path, info: os.stat_result, what: str, *, readable: str = "warn") -> None:
    """Refuses a file that others can write, and warns of (or refuses) one that others can read.

    Args:
        path: its name, for messages.
        info: what ``stat`` says of the open file, so that nothing can be exchanged in between.
        what: what it holds, for messages.
        readable: ``warn``, ``refuse`` or ``allow`` that others can read it.

    Raises:
        AuthenticationError: as said.
    """
    if not stat.S_ISREG(info.st_mode) and not stat.S_ISFIFO(info.st_mode):
        raise AuthenticationError(f"{what}: {path} is not a file")
    if os.name != "posix":
        return  # Windows keeps no such bits; its ACLs are not looked at
    if info.st_uid not in (0, os.geteuid()):
        raise AuthenticationError(f"{what}: {path} belongs to another user (uid {info.st_uid}), who can change it")
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise AuthenticationError(f"{what}: others can write {path}; mend it with: chmod go-w {path}")
    if info.st_mode & (stat.S_IRGRP | stat.S_IROTH) and readable != "allow":
        message = f"{what}: others can read {path}; mend it with: chmod go-rwx {path}"
        if readable == "refuse":
            raise AuthenticationError(message)
        warnings.warn(message, SecurityWarning, stacklevel=4)


def _shown(source: str) -> str:
    """A source as messages show it; a command without its arguments."""
    kind, _, rest = source.partition(":")
    return f"cmd:{rest.split()[0]}" if kind == "cmd" else source


def _path_of(rest: str, what: str) -> str:
    """The path of a ``file:`` URI: ``/path``, ``///path`` or ``//localhost/path`` (RFC 8089, section 2)."""
    if not rest.startswith("//"):
        return rest
    host, slash, path = rest[2:].partition("/")
    if host not in ("", "localhost"):
        raise KeyURIError(f"{what}: file: names a file on this machine, not on {host!r}; write file:/path")
    return slash + path


def _from_file(name: str, what: str) -> bytes:
    path = Path(name)
    if not path.is_absolute():
        raise KeyURIError(f"{what}: {name} must be an absolute path")
    try:
        with path.open("rb") as file:
            check_file(path, os.fstat(file.fileno()), what)
            secret = file.read(MAX_SIZE + 1)
    except OSError as exc:
        if isinstance(exc, AuthenticationError):
            raise
        raise AuthenticationError(f"{what}: {path} cannot be read: {exc.strerror}") from exc
    if len(secret) > MAX_SIZE:
        del secret  # tracebacks show what frames hold
        raise AuthenticationError(f"{what}: {path} is larger than {MAX_SIZE} bytes")
    return secret


def _from_environment(name: str, what: str) -> bytes:
    value = os.environ.get(name)
    if value is None:
        raise AuthenticationError(f"{what}: the environment variable {name} is not set")
    return os.fsencode(value)


def _from_command(command: str, what: str) -> bytes:
    import shlex  # few sources are commands
    import subprocess

    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise KeyURIError(f"{what}: cmd: {exc}") from exc
    if not words:
        raise KeyURIError(f"{what}: cmd: names no program")
    output, fault = b"", ""
    try:
        done = subprocess.run(  # noqa: S603 - no shell; the program is what the key's owner wrote
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=COMMAND_TIMEOUT, check=False
        )
        output, status = done.stdout, done.returncode
        del done
        if status:
            fault = f"ended with status {status}"
        elif len(output) > MAX_SIZE:
            fault = f"printed more than {MAX_SIZE} bytes"
    except subprocess.TimeoutExpired:
        fault = f"did not answer within {COMMAND_TIMEOUT} s"
    except OSError as exc:
        raise AuthenticationError(f"{what}: {words[0]!r} cannot be run: {exc.strerror}") from exc
    if fault:
        # Out here, as a timeout's exception holds what the program has printed; and tracebacks, what frames hold.
        del output
        raise AuthenticationError(f"{what}: {words[0]} {fault}")
    return output


def _asked(what: str) -> bytes:
    answers, name = _answers.get(), what.partition(" of ")[0]  # pin-source of pkcs11:token=aws
    if answers is None:
        return _from_prompt(what)
    if name not in answers:
        answers[name] = _from_prompt(what)
    return answers[name]


def _from_prompt(what: str) -> bytes:
    import getpass  # only people are prompted

    from filelock import FileLock
    from platformdirs import user_state_path

    if os.name == "posix":
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError as exc:
            raise AuthenticationError(f"{what}: there is no terminal to prompt on") from exc
    lock = None
    with suppress(OSError):  # a home that cannot be written: better two prompts at once than none
        folder = user_state_path("aws-hmac")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(folder / "prompt.lock")
        lock.acquire()
    try:
        return getpass.getpass(f"{what}: ").encode()
    except EOFError as exc:
        raise AuthenticationError(f"{what}: the prompt was not answered") from exc
    finally:
        if lock is not None:
            lock.release()
