"""Keyset files: read with their protection checked, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

from aws_hmac.errors import DeviceBusyError, DeviceError, Error, KeyExistsError, KeyNotFoundError, KeyPolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_SIZE = 64 * 1024
"""Bytes of a keyset file at most: an encrypted keyset of one key has some 500."""


def read_file(path: Path, name: str, *, readable: Literal["allow", "warn", "refuse"]) -> bytes:
    """Reads a keyset file.

    Args:
        path: the file.
        name: whose it is, for messages.
        readable: what to do when others can read it.

    Raises:
        KeyNotFoundError: there is none.
        AuthenticationError: others can write it, or read it where that is refused.
        DeviceError: it cannot be read.
    """
    from aws_hmac.sources import check_file

    try:
        with path.open("rb") as file:
            check_file(path, os.fstat(file.fileno()), name, readable=readable)
            content = file.read(MAX_SIZE + 1)
    except Error:
        raise
    except FileNotFoundError as exc:
        raise KeyNotFoundError(f"{name}: there is no file {path}") from exc
    except OSError as exc:
        raise DeviceError(f"{name}: {path} cannot be read: {exc.strerror}") from exc
    if len(content) > MAX_SIZE:
        raise DeviceError(f"{name}: {path} is larger than {MAX_SIZE} bytes, so no keyset")
    return content


def write_new(path: Path, content: bytes, name: str, *, overwrite: bool) -> None:
    """Writes a file for its owner only, whole or not at all.

    Raises:
        KeyExistsError: it is there, and is not to be overwritten.
        KeyPolicyError, DeviceError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    with map_os_errors(path, name):
        try:
            write_temporary(temporary, content)
            if overwrite:
                temporary.replace(path)
            else:
                os.link(temporary, path)  # unlike a rename, fails where a file is
        except FileExistsError as exc:
            raise KeyExistsError(f"{name}: {path} exists; --overwrite replaces it") from exc
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        sync_folder(path.parent)


def write_temporary(path: Path, content: bytes, *, like: Path | None = None) -> None:
    """Writes a file that did not exist, down to the disk.

    Args:
        path: the file.
        content: what goes into it.
        like: the file whose owner and mode it gets, so that whoever reads that one can read this; mode 0600 if None.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    with os.fdopen(handle, "wb") as file:
        if like is not None and os.name == "posix":
            wanted, given = like.stat(), os.fstat(file.fileno())
            if (wanted.st_uid, wanted.st_gid) != (given.st_uid, given.st_gid):
                os.fchown(file.fileno(), wanted.st_uid, wanted.st_gid)
            os.fchmod(file.fileno(), wanted.st_mode & 0o777)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes sure that a new or renamed file survives a power cut."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def map_os_errors(path: Path, name: str) -> Iterator[None]:
    """Turns what the file system answers into words."""
    try:
        yield
    except Error:
        raise
    except FileNotFoundError as exc:
        raise DeviceError(f"{name}: {path} cannot be written: there is no folder {path.parent}") from exc
    except PermissionError as exc:
        raise KeyPolicyError(f"{name}: {path} cannot be written: {exc.strerror}") from exc
    except OSError as exc:
        raise DeviceError(f"{name}: {path} cannot be written: {exc.strerror}") from exc


@contextmanager
def lock_folder(folder: Path, name: str) -> Iterator[None]:
    """Keeps two rewraps from crossing; leaves nothing behind.

    Raises:
        DeviceBusyError: another one is under way.
    """
    try:
        import fcntl
    except ImportError:  # Windows: the file is compared once more before it is replaced
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as exc:
        raise DeviceError(f"{name}: {folder} cannot be read: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise DeviceBusyError(f"{name}: another rewrap is under way in {folder}") from exc
        yield
    finally:
        os.close(handle)
