"""The interface between aws-hmac and a device that holds a key.

`HmacBackend` is all that signing needs: one method. What a device can do besides is a separate small
capability (`KeyImporter`, `KeyInspector`, `KeyLister`, `KeyDeleter`, `KeyTransfer`, `KeyRewrapper`,
`PolicyPrinter`, `Diagnosable`), so that a read-only signer needs none of it. Nothing here knows AWS's signatures.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import quote, unquote

from aws_hmac.errors import ConfigError, DeviceError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Self

    from aws_hmac.uri import KeyURI

MAC_SIZE = 32
"""Length of an HMAC-SHA256, in bytes (RFC 4868, section 2.1)."""

BLOCK_SIZE = 64
"""Block size of SHA-256, in bytes: HMAC replaces a longer key by its hash (RFC 2104, section 2)."""

FINGERPRINT_SIZE = 16
"""Length of a key's fingerprint, in bytes."""

_FINGERPRINT_MESSAGE = b"aws-hmac key fingerprint v1"


class HmacBackend(ABC):
    """Holds one HMAC-SHA256 key and never gives it out.

    A backend is safe to call from many threads and after a fork: there it works or raises, and never hangs,
    crashes or answers wrongly. It checks the length of what its device answers. It raises only
    `aws_hmac.Error`s; its vendor's exceptions stay inside.

    Attributes:
        name: the key in words, for audit log and messages: its URI without the part that says how to reach it.
    """

    name: str = "unnamed key"

    @classmethod
    def from_uri(cls, uri: KeyURI, /) -> Self:
        """Opens the key that a URI names.

        Args:
            uri: the parsed key URI, whose scheme is this backend's.

        Raises:
            KeyURIError: an attribute is unknown, missing or impossible.
            KeyNotFoundError, AmbiguousKeyError, AuthenticationError, DeviceError: as their names say.
        """
        raise UnsupportedError(f"{cls.__name__} cannot be opened by a URI such as {uri.identity}")

    @abstractmethod
    def hmac_sha256(self, message: bytes, /) -> bytes:
        """Returns HMAC-SHA256(key, message): exactly 32 bytes.

        Raises:
            AuthenticationError, KeyPolicyError, KeyNotFoundError, DeviceError: as their names say.
        """

    def close(self) -> None:  # noqa: B027 - optional on purpose: many devices need no farewell
        """Lets go of the device. Closing twice does nothing; a closed backend raises DeviceError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object, /) -> str:
        raise TypeError(f"{self.name}: a backend cannot be pickled or copied; open the key again by its URI")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Finding(NamedTuple):
    """One thing seen when a key or machine was looked at.

    Attributes:
        level: ``good`` protects or works; ``info`` is neutral; ``warning`` protects less than it could;
            ``bad`` must be mended.
        subject: what was looked at, in the device's own terms, as ``CKA_EXTRACTABLE`` or ``policy``.
        text: what was seen.
        mend: what to do, a command where there is one; empty where nothing needs doing.
    """

    level: Literal["good", "info", "warning", "bad"]
    subject: str
    text: str
    mend: str = ""


class KeyEntry(NamedTuple):
    """One key that a device holds.

    Attributes:
        uri: the key URI that opens it.
        description: type, label and what else tells it from others.
    """

    uri: str
    description: str


class KeyImporter(ABC):
    """A backend that can take a key in."""

    @classmethod
    @abstractmethod
    def import_key(cls, uri: KeyURI, key: bytes, *, overwrite: bool = False, label: str | None = None) -> KeyURI:
        """Puts a key into the device, where it can be used and no longer be read.

        Whatever was half made is removed when this fails.

        Args:
            uri: where the key goes.
            key: the HMAC key, of any length above 0; `shorten` helps devices that take few bytes.
            overwrite: replaces the key that the URI names.
            label: what the key is for, in its owner's words (an access key id), which a device that can
                binds to the key. Not secret.

        Returns:
            The URI that names the key from now on: the one given, or a fuller one where the import learnt
            something (a version, a pinned name).

        Raises:
            KeyExistsError: there is one, and ``overwrite`` was not asked for.
            UnsupportedError: the device takes no key like this.
        """


class KeyInspector(ABC):
    """A backend that can tell how well its key is protected."""

    @abstractmethod
    def inspect(self) -> list[Finding]:
        """Returns what protects this key and what does not, most important first."""


class KeyLister(ABC):
    """A backend that can tell which keys its device holds."""

    @classmethod
    @abstractmethod
    def list_keys(cls, uri: KeyURI) -> list[KeyEntry]:
        """Returns the HMAC keys that a URI fits; one with few attributes, or none, fits many."""


class KeyDeleter(ABC):
    """A backend that can delete a key."""

    @classmethod
    @abstractmethod
    def delete_key(cls, uri: KeyURI) -> None:
        """Deletes the one key that a URI names.

        Raises:
            KeyNotFoundError, AmbiguousKeyError: nothing was deleted.
        """


class PolicyPrinter(ABC):
    """A backend whose service decides by policies who may use a key, and that can write the least such policy."""

    @classmethod
    @abstractmethod
    def policy(cls, uri: KeyURI, role: Literal["signer", "importer"]) -> str:
        """Returns the least policy for a key, in the service's own language, ready to be stored there.

        Asks nobody: no device, no network, no credentials.

        Args:
            uri: the key, which need not exist yet.
            role: ``signer`` may ask for HMACs and look at the key; ``importer`` may put it in, rotate it and
                prove that it arrived.

        Raises:
            KeyURIError: the URI does not say enough to name the key.
        """


class Diagnosable(ABC):
    """A backend that can look for what stands between this machine and its device."""

    @classmethod
    @abstractmethod
    def diagnose(cls, uri: KeyURI | None) -> list[Finding]:
        """Returns what was looked at, faults with their mends; never raises for a fault that it can name.

        Args:
            uri: the key in question, or None for a look at what the machine has.
        """


class KeyRewrapper(ABC):
    """A backend whose key is wrapped by another one, which can be exchanged (a key-encryption key, KEK)."""

    @classmethod
    @abstractmethod
    def rewrap_key(cls, uri: KeyURI, kek: str | None = None, *, label: str | None = None) -> KeyURI:
        """Moves the key to a new KEK, proves that it is the same key under it, and keeps the old wrapping beside.

        A crash at any point leaves one wrapping that works where the URI says it is.

        Args:
            uri: the key as it is wrapped now.
            kek: the new KEK; None for the one that the URI plans, or to keep the present one.
            label: binds the key to this (an access key id) on the way, where it is not bound yet.

        Returns:
            The URI that names the key from now on.
        """

    @classmethod
    @abstractmethod
    def confirm_rewrap(cls, uri: KeyURI) -> list[Finding]:
        """Proves the new wrapping once more, then deletes the old one, and tells what may become of the old KEK.

        Args:
            uri: the key under its new KEK.
        """


class KeyTransfer(ABC):
    """A device that takes in a key which another machine, one without the device, wrapped for it alone.

    Three steps: the target makes an offer; the sender checks that its name is the one that the target's owner
    told by another way, and wraps the key to it; the target receives it. The key is never in clear there.
    """

    @classmethod
    @abstractmethod
    def transfer_offer(cls, uri: KeyURI) -> dict[str, str]:
        """Returns what the sender needs: a public key of the device, and how the new key may be used.

        Args:
            uri: where the key will go.

        Returns:
            Nothing secret; ``name`` is what the sender compares, ``policy`` says in words what the key will need.
        """

    @classmethod
    @abstractmethod
    def transfer_wrap(
        cls, offer: Mapping[str, str], key: bytes, *, expect_name: str, password: bytes | None = None
    ) -> str:
        """Wraps a key so that only the device which made the offer can take it in; needs no device.

        Args:
            offer: what `transfer_offer` returned.
            key: the HMAC key, of any length above 0.
            expect_name: the name that the target's owner told.
            password: what the key is to ask for, where the offer says so.

        Returns:
            Text that may pass over any wire.

        Raises:
            KeyMismatchError: the offered key has another name.
            ConfigError: the offer is damaged, or a password is missing or not wanted.
        """

    @classmethod
    @abstractmethod
    def transfer_receive(
        cls, uri: KeyURI, wrapped: str, *, overwrite: bool = False, label: str | None = None
    ) -> KeyURI:
        """Takes a wrapped key in; otherwise as `KeyImporter.import_key`.

        Raises:
            KeyMismatchError: it was wrapped for another device.
        """


def shorten(key: bytes) -> bytes:
    """Returns a key of at most 64 bytes with the same HMAC-SHA256 as `key` (RFC 2104, section 2)."""
    return hashlib.sha256(key).digest() if len(key) > BLOCK_SIZE else key


def _audit(message: str, *arguments: object) -> None:
    # Where logging was never loaded nobody listens; loading it takes a tenth of a cold credential-process.
    if (logging := sys.modules.get("logging")) is not None:
        logging.getLogger("aws_hmac.audit").info(message, *arguments)


def device_hmac(backend: HmacBackend, message: bytes, *, purpose: str) -> bytes:
    """Asks a backend for one HMAC, and says so on the logger ``aws_hmac.audit``.

    Args:
        backend: the device's key.
        message: what to authenticate.
        purpose: what for, in the audit log: a date, ``fingerprint``, ``import check``.

    Returns:
        32 bytes.

    Raises:
        DeviceError: the backend answered with another length.
        Error: whatever the backend raises.
    """
    start = time.perf_counter()
    try:
        mac = backend.hmac_sha256(message)
    except Exception as exc:
        _audit(
            "%s: no HMAC for %s: %s after %.1f ms",
            backend.name,
            purpose,
            type(exc).__name__,
            (time.perf_counter() - start) * 1e3,
        )
        raise
    _audit("%s: HMAC for %s in %.1f ms", backend.name, purpose, (time.perf_counter() - start) * 1e3)
    if len(mac) != MAC_SIZE:
        raise DeviceError(f"{backend.name}: the backend answered {len(mac)} bytes, an HMAC-SHA256 has {MAC_SIZE}")
    return mac


PROFILES_VARIABLE = "AWS_HMAC_PROFILES_UNDER_WAY"
"""Environment variable that tells the processes below ``aws-hmac credential-process`` whose credentials are being made:
profile names, percent-encoded, separated by blanks."""

_under_way: ContextVar[tuple[str, ...]] = ContextVar("aws_hmac_profiles_under_way", default=())


def profiles_under_way() -> tuple[str, ...]:
    """Returns the profiles whose credentials are being made here and in the processes above, outermost first.

    A backend that needs AWS credentials itself must not take them from one of these: that would go on for ever.
    """
    above = os.environ.get(PROFILES_VARIABLE, "").split()
    return tuple(dict.fromkeys((*map(unquote, above), *_under_way.get())))  # what is exported stands in both


@contextmanager
def profile_under_way(profile: str, *, export: bool = False) -> Iterator[None]:
    """Notes that a profile's credentials are being made.

    Args:
        profile: its name.
        export: also tells the processes that this one starts; for a process that makes credentials once.

    Raises:
        ConfigError: they already are being made, further up.
    """
    above = profiles_under_way()
    if profile in above:
        raise ConfigError(
            f"credentials go in a circle ({' -> '.join((*above, profile))}): those of profile {profile!r} would be made"
            " from themselves"
        )
    before = os.environ.get(PROFILES_VARIABLE)
    if export:
        os.environ[PROFILES_VARIABLE] = " ".join((*(before or "").split(), quote(profile, safe="")))
    token = _under_way.set((*_under_way.get(), profile))
    try:
        yield
    finally:
        _under_way.reset(token)
        if export and before is None:
            del os.environ[PROFILES_VARIABLE]
        elif export and before is not None:
            os.environ[PROFILES_VARIABLE] = before


def fingerprint(backend: HmacBackend) -> bytes:
    """Returns the 16 bytes that identify a backend's key; they tell nothing about the key and sign nothing."""
    return device_hmac(backend, _FINGERPRINT_MESSAGE, purpose="fingerprint")[:FINGERPRINT_SIZE]


def fingerprint_of(key: bytes) -> bytes:
    """Returns the fingerprint of a key in hand: what `fingerprint` answers once the key is in a device."""
    import hmac  # only an import needs it

    return hmac.digest(key, _FINGERPRINT_MESSAGE, "sha256")[:FINGERPRINT_SIZE]
