"""PKCS#11 modules: which library a URI names, loading it, and sharing it among threads and forks.

Two rules hold throughout. Whoever calls into a module holds `DEVICE`: python-pkcs11 initialises modules without
telling them of threads (``C_Initialize(NULL)``), and concurrent calls then crash the process. It is one lock for
all modules, not one for each, because p11-kit's proxy leads to the same libraries as a module path does. And no
thread is inside a module while Python forks, so that a child finds every module in a whole state.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import sysconfig
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pkcs11
from pkcs11 import _pkcs11

from aws_hmac.errors import AmbiguousKeyError, DeviceError, KeyURIError
from aws_hmac_backends.pkcs11._errors import map_exceptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aws_hmac.uri import KeyURI
    from aws_hmac_backends.pkcs11._tokens import Connection

FORK_PATIENCE = 10
"""Seconds that a fork waits for a call into a module to end."""

PROXY = {"darwin": ("p11-kit-proxy.dylib", "libp11-kit.0.dylib"), "win32": ()}.get(
    sys.platform, ("p11-kit-proxy.so", "libp11-kit.so.0")
)
"""p11-kit's proxy module, by the names that the dynamic linker may know it by."""

CONFIGS = (Path("/usr/share/p11-kit/modules"), Path("/etc/pkcs11/modules"))
"""Where p11-kit's module configurations are (pkcs11.conf(5)); the later goes before the earlier."""


class _Lock:
    """A reentrant lock that a forked child finds free."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


DEVICE = _Lock()
"""Held during each call into any module."""

OPENING = _Lock()
"""Held while a key is opened, also while its PIN is asked for; taken before `DEVICE`, never after."""


class Module:
    """A loaded module.

    Attributes:
        lib: python-pkcs11's object for it.
        name: its path, or its name for p11-kit's proxy.
        connections: this process's sessions, by slot id.
        ours: we initialised it, and may finalize it; else another part of this process did, and may have sessions.
    """

    def __init__(self, lib: Any, name: str, *, ours: bool) -> None:
        self.lib = lib
        self.name = name
        self.connections: dict[int, Connection] = {}
        self.ours = ours
        self.forked: str | None = None

    def ready(self) -> None:
        """Initialises the module where it is not: first use, after a fork, after someone finalized it."""
        if self.forked == "busy":
            raise DeviceError(
                f"{self.name}: this process was forked while a call into the module hung; start such processes by"
                " 'spawn' instead of 'fork'"
            )
        if self.forked:
            # What a child inherits is not its own (PKCS#11, C_Initialize): it may share the parent's connection.
            self.restart()
            self.forked = None
        if not self.lib.initialized:
            self._initialize()

    def restart(self) -> None:
        """Finalizes and initialises the module; every session on it ends."""
        with suppress(pkcs11.PKCS11Error):  # a module that has noticed the fork says that it is not initialised
            self.lib.finalize()
        self._initialize()

    def restart_if_alone(self) -> bool:
        """Restarts the module unless somebody uses it: some see a token that was made or came back only then."""
        if not self.ours or any(connection.alive() for connection in self.connections.values()):
            return False
        self.restart()
        return True

    def _initialize(self) -> None:
        try:
            self.lib.initialize()
        except pkcs11.PKCS11Error as exc:
            try:
                self.lib.get_slots()
            except pkcs11.PKCS11Error:
                raise exc from None
            self.ours = False  # it works: somebody else has initialised it
        else:
            self.ours = True
            self.connections.clear()


_modules: dict[str, Module] = {}


def for_uri(uri: KeyURI, name: str) -> Module:
    """Loads the module that a URI names (RFC 7512, sections 2.3 and 2.4), ready for use. Holds `DEVICE`.

    Raises:
        KeyURIError: the path is not absolute, others can change it, or an attribute is malformed.
        DeviceError: there is no such module, or it cannot be loaded; the message lists those that there are.
        AmbiguousKeyError: the library attributes fit several modules.
    """
    path, module_name = uri.get("module-path"), uri.get("module-name")
    if path is not None:
        module = load(str(_by_path(Path(path), module_name)))
    elif module_name is not None:
        module = load(str(_by_name(module_name, name)))
    elif any(attribute.startswith("library-") for attribute in uri.path):
        return _by_library(uri, name)
    else:
        return proxy()
    if not _fits(module, uri):
        raise DeviceError(f"{name}: no PKCS#11 module fits; {module.name} is {_described(module)}")
    return module


def proxy() -> Module:
    """Loads p11-kit's proxy, which leads to every module installed.

    Raises:
        DeviceError: p11-kit is not installed.
    """
    for name in PROXY:
        if name in _modules:
            return load(name)
    reasons = []
    for name in PROXY:
        try:
            return load(name)
        except DeviceError as exc:
            reasons.append(exc)
    raise DeviceError(
        "p11-kit's proxy module cannot be loaded; install it (Debian: apt-get install p11-kit p11-kit-modules) or name"
        " a module by module-path=/…"
    ) from (reasons[0] if reasons else None)


def load(name: str) -> Module:
    """Loads and initialises a library.

    Raises:
        DeviceError: it cannot be loaded, or is no PKCS#11 module.
    """
    library = str(Path(name).resolve()) if "/" in name else name
    module = _modules.get(library)
    if module is None:
        module = _modules[library] = _load(name, library)
    with map_exceptions(name):
        module.ready()
    return module


def _load(name: str, library: str) -> Module:
    # A library is there once in a process, by whichever of its names another part has loaded it.
    for other, lib in list(pkcs11._loaded.items()):
        if other == name or ("/" in other and str(Path(other).resolve()) == library):
            return Module(lib, name, ours=not lib.initialized)
    try:
        return Module(pkcs11.lib(name), name, ours=True)
    except pkcs11.PKCS11Error as exc:
        first = exc
    try:
        # Initialised already, but not by python-pkcs11: the object without C_Initialize, which __init__ would call.
        vendor: Any = _pkcs11.lib
        lib = vendor.__new__(vendor, name)
        lib.get_slots()
    except pkcs11.PKCS11Error:
        raise DeviceError(f"{name} cannot be loaded as a PKCS#11 module: {_reason(first, name)}; {_known()}") from first
    return Module(lib, name, ours=False)


def _reason(exc: pkcs11.PKCS11Error, name: str) -> str:
    return str(exc).rpartition(f"{name}: ")[2] or type(exc).__name__


def check_path(path: Path) -> None:
    """Refuses a library that another user could exchange.

    Raises:
        KeyURIError: its path is not absolute, or it or a folder above it can be written by others.
        DeviceError: it is not there.
    """
    if not path.is_absolute():
        raise KeyURIError(f"pkcs11: URI: module-path {path} must be an absolute path")
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as exc:
        raise DeviceError(f"there is no PKCS#11 module {path}; {_known()}") from exc
    if os.name != "posix":
        return  # Windows keeps no such bits; its ACLs are not looked at
    for part in dict.fromkeys((real, *real.parents, *path.parents)):
        info = part.stat()
        others_write = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a folder with the sticky bit, as /tmp, nobody can exchange what belongs to another.
        if others_write and not (stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX):
            raise KeyURIError(f"{path} is not loaded: others can write {part}; mend it with: chmod go-w {part}")
        if info.st_uid not in (0, os.geteuid()):
            raise KeyURIError(f"{path} is not loaded: {part} belongs to another user (uid {info.st_uid})")


def configured() -> Mapping[str, Path]:
    """Returns the modules that p11-kit knows, by name, with the paths of their libraries."""
    modules: dict[str, Path] = {}
    for folder in CONFIGS:
        for file in sorted(folder.glob("*.module")) if folder.is_dir() else ():
            with suppress(OSError):
                found = re.search(r"^\s*module:\s*(\S.*?)\s*$", file.read_text(errors="replace"), re.MULTILINE)
                if found:
                    modules[file.stem] = _in_folders(found[1])
    return modules


def folders() -> list[Path]:
    """Returns the system's folders for PKCS#11 modules."""
    multiarch = sysconfig.get_config_var("MULTIARCH")
    names = ([f"/usr/lib/{multiarch}"] if multiarch else []) + ["/usr/lib64", "/usr/lib", "/usr/local/lib"]
    names += ["/opt/homebrew/lib"] if sys.platform == "darwin" else []
    return [folder for folder in (Path(name, "pkcs11") for name in names) if folder.is_dir()]


def _in_folders(name: str) -> Path:
    return next((folder / name for folder in folders() if (folder / name).exists()), Path(name))


def _bare(name: str) -> str:
    """A module's name without a system's affixes, in lower case (RFC 7512, section 2.4)."""
    return re.sub(r"(\.so|\.dylib|\.dll)(\.[0-9]+)*$", "", name.casefold()).removeprefix("lib")


def _matching(name: str, paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if _bare(path.name) == _bare(name)), None)


def _by_name(name: str, what: str) -> Path:
    if "/" in name or "\\" in name:
        raise KeyURIError("pkcs11: URI: module-name is a name; for a path there is module-path")
    modules = configured()
    by_config = next((path for known, path in modules.items() if _bare(known) == _bare(name)), None)
    files = (path for folder in folders() for path in sorted(folder.iterdir()))
    found = by_config or _matching(name, [*modules.values(), *files])
    if found is None:
        raise DeviceError(f"{what}: there is no PKCS#11 module {name!r}; {_known()}")
    check_path(found)
    return found


def _by_path(path: Path, name: str | None) -> Path:
    check_path(path)
    if path.is_dir():
        if name is None:
            raise KeyURIError(f"pkcs11: URI: module-path {path} is a folder; give a file, or module-name as well")
        found = _matching(name, sorted(path.iterdir()))
        if found is None:
            raise DeviceError(f"there is no PKCS#11 module {name!r} in {path}")
        check_path(found)
        return found
    if name is not None and _bare(path.name) != _bare(name):
        raise KeyURIError(f"pkcs11: URI: module-path {path} is not the module {name!r}")
    return path


def _by_library(uri: KeyURI, name: str) -> Module:
    fitting: list[tuple[str, Module]] = []
    others: list[str] = []
    for known, path in configured().items():
        try:
            check_path(path)
            module = load(str(path))
        except (DeviceError, KeyURIError) as exc:
            others.append(f"{known} ({exc})")
            continue
        if _fits(module, uri):
            fitting.append((f"{known} ({_described(module)})", module))
        else:
            others.append(f"{known} ({_described(module)})")
    if not fitting:
        raise DeviceError(f"{name}: no PKCS#11 module fits; there are {', '.join(others) or 'none'}")
    if len(fitting) > 1:
        listed = ", ".join(shown for shown, _ in fitting)
        raise AmbiguousKeyError(f"{name}: several PKCS#11 modules fit: {listed}; add module-name=")
    return fitting[0][1]


def library_version(uri: KeyURI) -> tuple[int, int] | None:
    """Returns ``library-version``; ``2`` means 2.0.

    Raises:
        KeyURIError: it is no such number.
    """
    version = uri.get("library-version")
    if version is None:
        return None
    number = re.fullmatch(r"([0-9]+)(?:\.([0-9]+))?", version, re.ASCII)
    if number is None:
        raise KeyURIError("pkcs11: URI: library-version is not a number as 2 or 2.40")
    return int(number[1]), int(number[2] or 0)


def _fits(module: Module, uri: KeyURI) -> bool:
    wanted, lib = library_version(uri), module.lib
    return (
        (uri.get("library-manufacturer", lib.manufacturer_id) or "").rstrip(" ") == (lib.manufacturer_id or "")
        and (uri.get("library-description", lib.library_description) or "").rstrip(" ")
        == (lib.library_description or "")
        and (wanted is None or wanted == lib.library_version)
    )


def _described(module: Module) -> str:
    major, minor = module.lib.library_version
    return f"{module.lib.manufacturer_id}, {module.lib.library_description}, version {major}.{minor}"


def _known() -> str:
    known = ", ".join(f"{name} ({path})" for name, path in configured().items())
    return f"p11-kit knows {known}" if known else "p11-kit knows none"


_waited = False


def _before_fork() -> None:
    global _waited
    _waited = DEVICE.lock.acquire(timeout=FORK_PATIENCE)


def _after_in_parent() -> None:
    if _waited:
        DEVICE.lock.release()


def _after_in_child() -> None:
    DEVICE.lock = threading.RLock()
    OPENING.lock = threading.RLock()
    for module in _modules.values():
        module.forked = "yes" if _waited and module.forked != "busy" else "busy"
        module.connections = {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
