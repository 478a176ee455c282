"""The files of the session cache. Loads next to nothing: a cached ``credential-process`` goes through here alone.

A session's file is ``<hash of all that made it>.session`` and holds a line each: the format, when to renew, when it
expires, the key's fingerprint, the account, and the JSON that ``credential-process`` prints. An index,
``<checksum>.index``, leads from a profile to its session's file without reading the profile: it holds the identity
of the configuration file, the profile's name and the environment, all compared in full, so that a change of any
misses. Whatever is not exactly as expected is a miss.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # importing typing would take longer than all the rest
if TYPE_CHECKING:
    from typing import TypeAlias

    Record: TypeAlias = tuple[float, float, str, str, str]
    # When to renew and when it expires (Unix time), fingerprint, account, JSON.

_SESSION = "aws-hmac session 1"
_INDEX = "aws-hmac index 1"
_MAX_SIZE = 65536
_MAX_AGE = 129600 + 3600  # seconds; no session lives longer
_VARIABLES = (
    "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS", "AWS_CA_BUNDLE",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_STS_REGIONAL_ENDPOINTS", "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
)  # fmt: skip
_RACY = 2_000_000_000  # ns; a file system may keep times no finer than this


def config_path() -> str:
    """Returns the path of the configuration file: AWS_CONFIG_FILE, else ``~/.aws/config``."""
    return os.path.expanduser(os.path.expandvars(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"))  # noqa: PTH111


def chosen_profile(name: str | None = None) -> str:
    """Returns the profile's name: the one given, else AWS_DEFAULT_PROFILE, AWS_PROFILE, ``default``, as botocore."""
    environ = os.environ
    return name or environ.get("AWS_DEFAULT_PROFILE") or environ.get("AWS_PROFILE") or "default"


def folder() -> str:
    """Returns the folder of the cache: below ``$XDG_RUNTIME_DIR`` first, which is gone at logout."""
    environ = os.environ
    runtime, cache = environ.get("XDG_RUNTIME_DIR", ""), environ.get("XDG_CACHE_HOME", "")
    if runtime.startswith("/") and _is_ours(runtime):
        return f"{runtime}/aws-hmac"
    if cache.startswith("/"):
        return f"{cache}/aws-hmac"
    if sys.platform == "win32":
        return os.path.expandvars(r"%LOCALAPPDATA%\aws-hmac\cache")
    home = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return os.path.expanduser(f"{home}/aws-hmac")  # noqa: PTH111 - pathlib is not loaded here


def _is_ours(path: str) -> bool:
    """Whether a folder is there and ours; after ``su`` the variable may still name another user's."""
    try:
        info = os.stat(path)  # noqa: PTH116
    except OSError:
        return False
    return info.st_mode & 0o170000 == 0o040000 and (os.name != "posix" or info.st_uid == os.geteuid())


def check_folder(path: str, *, create: bool = False) -> None:
    """Refuses a folder that others own, can read or could have put there as a link.

    Raises:
        OSError: as said, or it is not there.
    """
    above = os.path.dirname(path)  # noqa: PTH120
    if create:
        os.makedirs(above, mode=0o700, exist_ok=True)  # noqa: PTH103
    if os.name == "posix" and os.stat(above).st_uid not in (0, os.geteuid()):  # noqa: PTH116
        raise PermissionError(13, "lies in a folder of another user, who could exchange it", path)
    if create:
        try:  # noqa: SIM105 - contextlib is not loaded here
            os.mkdir(path, 0o700)  # noqa: PTH102
        except FileExistsError:
            pass
    info = os.lstat(path)
    if info.st_mode & 0o170000 != 0o040000:
        raise PermissionError(20, "is no folder, or a symbolic link", path)
    if os.name == "posix":
        if info.st_uid != os.geteuid():
            raise PermissionError(13, "belongs to another user", path)
        if info.st_mode & 0o077:
            raise PermissionError(13, f"is open to others; mend it with: chmod 700 {path}", path)


def read_text(path: str) -> str:
    """Reads a file of the cache.

    Raises:
        OSError: it is not there, is a link, or others own or can read it.
        ValueError: it is no text.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        info = os.fstat(handle)
        if info.st_mode & 0o170000 != 0o100000:
            raise PermissionError(13, "is no file", path)
        if os.name == "posix" and (info.st_uid != os.geteuid() or info.st_mode & 0o077):
            raise PermissionError(13, "belongs to another user or is open to others", path)
        return os.read(handle, _MAX_SIZE).decode()
    finally:
        os.close(handle)


def write_text(path: str, text: str) -> None:
    """Writes a file whole or not at all, for its owner only.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    partial = f"{path}.{os.getpid()}.{os.urandom(6).hex()}.part"
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        try:
            data = text.encode()
            while data:
                data = data[os.write(handle, data) :]
        finally:
            os.close(handle)
        os.replace(partial, path)  # noqa: PTH105
    except BaseException:
        os.unlink(partial)  # noqa: PTH108
        raise


def try_lock(path: str) -> int | None:
    """Takes a lock without waiting, the same that ``filelock`` takes (flock on the file, which stays).

    Loading filelock takes a fifth of a cold ``credential-process``, and most find the lock free.

    Returns:
        The open file for `unlock`; None if another process has the lock, or only filelock can tell.

    Raises:
        OSError: the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    if os.fstat(handle).st_nlink == 0:  # swept away in between: it guards nothing
        os.close(handle)
        return None
    held.add(handle)
    return handle


def unlock(handle: int) -> None:
    """Releases what `try_lock` took, also where a forked child still has the file open."""
    import fcntl

    held.discard(handle)
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def forget_locks() -> None:
    """Lets go, in a forked child, of the locks that its parent holds."""
    while held:
        os.close(held.pop())


held: set[int] = set()
"""Open files of the locks that this process holds."""


def sweep(path: str, now: float) -> None:
    """Removes what has expired long ago, and what a crash left half written."""
    with os.scandir(path) as entries:
        for entry in entries:
            limit = 3600 if entry.name.endswith(".part") else _MAX_AGE
            if entry.name.endswith((".session", ".index", ".part")):
                try:
                    if now - entry.stat(follow_symlinks=False).st_mtime > limit:
                        os.unlink(entry.path)  # noqa: PTH108
                except OSError:
                    continue  # another process was first


def encode_session(record: Record) -> str:
    """Returns the text of a session's file."""
    renew, expires, fingerprint, account_id, document = record
    return "\n".join((_SESSION, repr(float(renew)), repr(float(expires)), fingerprint, account_id, document, ""))


def decode_session(text: str) -> Record:
    """Reads it back.

    Raises:
        ValueError: it is something else, or was cut off.
    """
    first, renew, expires, fingerprint, account_id, document, end = text.split("\n")
    if first != _SESSION or end or not (document[:1] == "{" and document[-1:] == "}"):
        raise ValueError("not a session's file")
    return float(renew), float(expires), fingerprint, account_id, document


def identity(name: str, path: str, version: str) -> str:
    """Returns, on one line, all that decides what a profile means: its name, its file and the environment.

    Raises:
        OSError: the file is not there.
    """
    info = os.stat(path)  # noqa: PTH116
    stamps = info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
    return repr((version, name, path, stamps, [os.environ.get(variable) for variable in _VARIABLES]))


def index_path(identity: str) -> str:
    """Returns the index's path. A checksum that collides costs a miss, as the identity is compared in full."""
    from binascii import crc32

    return f"{folder()}/{crc32(identity.encode('utf-8', 'surrogateescape')):08x}.index"


def write_index(identity: str, path: str, session: str, now_ns: int) -> None:
    """Remembers which session's file a profile leads to.

    A configuration file that was written just now is not remembered: it could be written once more within the
    same tick of its time stamps.

    Raises:
        OSError: it cannot be written.
    """
    info = os.stat(path)  # noqa: PTH116
    if now_ns - max(info.st_mtime_ns, info.st_ctime_ns) < _RACY:
        return
    write_text(index_path(identity), "\n".join((_INDEX, identity, os.path.basename(session), "")))  # noqa: PTH119


def cached_document(name: str, path: str, version: str, now: float) -> str | None:
    """Returns the JSON of a profile's session while it needs no renewal, else None."""
    try:
        known = identity(name, path, version)
        place = folder()
        check_folder(place)
        first, same, session, end = read_text(index_path(known)).split("\n")
        if first != _INDEX or same != known or end or "/" in session or not session.endswith(".session"):
            return None
        renew, _, _, _, document = decode_session(read_text(f"{place}/{session}"))
    except (OSError, ValueError):
        return None
    return document if now < renew else None
