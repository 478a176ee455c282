"""Which backend has which scheme: entry points of the group ``aws_hmac.backends``, loaded on use."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from aws_hmac.backend import HmacBackend
from aws_hmac.errors import BackendUnavailableError, Error, UnknownSchemeError
from aws_hmac.uri import KeyURI

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.metadata import EntryPoint

GROUP = "aws_hmac.backends"
"""The entry-point group; an entry's name is the scheme, its object an `HmacBackend` class."""


def schemes() -> Sequence[str]:
    """Returns the schemes that are installed, sorted. Imports no backend."""
    from importlib.metadata import entry_points

    return sorted({entry.name for entry in entry_points(group=GROUP)})


def backend_class(scheme: str) -> type[HmacBackend]:
    """Loads the backend of a scheme.

    Raises:
        UnknownSchemeError: none, or more than one, claims it.
        BackendUnavailableError: its optional dependency is missing.
    """
    # A distribution that is found twice on sys.path makes one claim, not two.
    claims = {(entry.value, entry.dist.name if entry.dist else ""): entry for entry in _claims(scheme)}
    if not claims:
        raise UnknownSchemeError(f"no installed backend has the scheme {scheme!r}; there are {', '.join(schemes())}")
    if len(claims) > 1:
        who = " and ".join(sorted(f"{value} ({dist or 'unknown distribution'})" for value, dist in claims))
        raise UnknownSchemeError(f"two backends claim the scheme {scheme!r}: {who}; uninstall one")
    (entry,) = claims.values()
    loaded = _load(entry)
    if not (isinstance(loaded, type) and issubclass(loaded, HmacBackend)):
        raise UnknownSchemeError(f"{entry.value}, which claims the scheme {scheme!r}, is not an HmacBackend")
    return loaded


def open_backend(uri: str | KeyURI) -> HmacBackend:
    """Opens the key that a URI names.

    Args:
        uri: such as ``pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin``.

    Returns:
        The backend, which is also a context manager.

    Raises:
        KeyURIError, UnknownSchemeError, BackendUnavailableError: the URI or the installation is at fault.
        KeyNotFoundError, AmbiguousKeyError, AuthenticationError, DeviceError: the device's answer.
    """
    parsed = KeyURI.parse(uri) if isinstance(uri, str) else uri
    return backend_class(parsed.scheme).from_uri(parsed)


class _OwnEntry(NamedTuple):
    """An entry point of this distribution, as `importlib.metadata` would give it."""

    name: str
    value: str
    dist: None = None

    @property
    def module(self) -> str:
        return self.value.partition(":")[0]

    def load(self) -> object:
        return getattr(import_module(self.module), self.value.partition(":")[2])


def _claims(scheme: str) -> Sequence[EntryPoint | _OwnEntry]:
    if (own := _own_entry(scheme)) is not None:
        return (own,)
    from importlib.metadata import entry_points

    return tuple(entry_points(group=GROUP, name=scheme))


def _own_entry(scheme: str) -> _OwnEntry | None:
    """Finds a backend of this distribution where no other one has backends; None in any other case.

    A short cut for the start of a process: `importlib.metadata` takes as long to load and to read all that is
    installed as a call of STS takes. It is asked as soon as there is anything that this does not understand.
    """
    if sum(hasattr(finder, "find_distributions") for finder in sys.meta_path) != 1:
        return None
    found = []
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")  # noqa: PTH208 - pathlib is not loaded here
        except FileNotFoundError:
            continue
        except OSError:
            return None  # a zip archive, for instance
        for name in names:
            if name.endswith((".dist-info", ".egg-info", ".egg")):
                try:
                    with open(f"{folder or '.'}/{name}/entry_points.txt", encoding="utf-8") as file:  # noqa: PTH123
                        text = file.read()
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except (OSError, ValueError):
                    return None
                if GROUP in text:
                    found.append((name, text))
            elif name.endswith(".egg-link"):
                return None
    if len(found) != 1 or not found[0][0].startswith("aws_hmac-"):
        return None
    _, _, section = found[0][1].partition(f"[{GROUP}]")
    for line in section.splitlines():
        entry, _, value = (part.strip() for part in line.partition("="))
        if line.startswith("["):
            break
        if scheme and entry == scheme and "[" not in value:
            return _OwnEntry(entry, value)
    return None


def _load(entry: EntryPoint | _OwnEntry) -> object:
    distribution = entry.dist.name if entry.dist else "aws-hmac"
    try:
        return entry.load()
    except Error:
        raise
    except ImportError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing in (entry.module.partition(".")[0], "aws_hmac"):
            raise  # a fault of the backend's own must not look like a missing extra
        raise BackendUnavailableError(
            f"{entry.name}: keys need a Python package that is missing or cannot be loaded ({exc});"
            f" install it with: pip install '{distribution}[{entry.name}]'",
            name=exc.name,
        ) from exc
