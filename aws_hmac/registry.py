"""Which backend has which scheme: entry points of the group ``aws_hmac.backends``, loaded on use."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from aws_hmac.backend import HmacBackend
from aws_hmac.errors import BackendUnavailableError, Error, UnknownSchemeError
from aws_hmac.uri import KeyURI

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUP = "aws_hmac.backends"
"""The entry-point group; an entry's name is the scheme, its object an `HmacBackend` class."""


def schemes() -> Sequence[str]:
    """Returns the schemes that are installed, sorted. Imports no backend."""
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


def _claims(scheme: str) -> Sequence[EntryPoint]:
    return tuple(entry_points(group=GROUP, name=scheme))


def _load(entry: EntryPoint) -> object:
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
