"""The backend itself."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from aws_hmac.backend import (
    Diagnosable,
    Finding,
    HmacBackend,
    KeyDeleter,
    KeyEntry,
    KeyImporter,
    KeyInspector,
    KeyLister,
    KeyTransfer,
)
from aws_hmac.errors import DeviceError, DeviceLostError
from aws_hmac_backends.pkcs11 import _import, _inspect, _modules, _tokens
from aws_hmac_backends.pkcs11._errors import map_exceptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from aws_hmac.uri import KeyURI


REOPENINGS = 3
"""Times that one call finds its key anew: a key that another process is replacing can be lost again at once."""


class Pkcs11Backend(HmacBackend, KeyImporter, KeyInspector, KeyLister, KeyDeleter, KeyTransfer, Diagnosable):
    """A key on a PKCS#11 token.

    Opened keys of one token share the process's login on it. Where the token, its session or the module was lost
    (token pulled, session closed or module finalized by another part of the process, fork), the key is found anew
    for the call (`REOPENINGS` times at most), logging in again with the PIN that ``pin-source`` then gives; a PIN
    that was refused is never sent a second time.

    Args:
        uri: the parsed key URI.

    Raises:
        KeyURIError, KeyNotFoundError, AmbiguousKeyError, AuthenticationError, DeviceError: as their names say.
    """

    def __init__(self, uri: KeyURI) -> None:
        self.name = uri.identity
        self._uri = uri
        self._key: _tokens.OpenKey | None = _tokens.open_key(uri, self.name)

    @classmethod
    def from_uri(cls, uri: KeyURI, /) -> Self:
        """Opens the key that a URI names."""
        return cls(uri)

    def hmac_sha256(self, message: bytes, /) -> bytes:
        """Returns HMAC-SHA256(key, message), computed by the token."""
        reopened = 0
        while True:
            key = self._usable()
            try:
                with _modules.DEVICE, map_exceptions(self.name):
                    return key.sign(message, self.name)
            except DeviceLostError:
                if reopened == REOPENINGS:
                    raise
            reopened += self._reopen(key)

    def close(self) -> None:
        """Lets go of the key; the last key closed on a token logs this process out of it."""
        with _modules.DEVICE:
            key, self._key = self._key, None
            if key is not None:
                key.connection.release()

    def inspect(self) -> list[Finding]:
        """Returns what protects this key and what does not; tries to read its value."""
        with suppress(DeviceLostError):
            return self._inspect(self._usable())
        self._reopen(self._usable())
        return self._inspect(self._usable())

    def _inspect(self, key: _tokens.OpenKey) -> list[Finding]:
        with _modules.DEVICE, map_exceptions(self.name):
            key.check(self.name)
            found = [*_inspect.of_key(key.object), *_inspect.of_token(key.connection.token.slot.get_token())]
        order = ("bad", "warning", "good", "info")
        return sorted(found, key=lambda finding: order.index(finding.level))

    def _usable(self) -> _tokens.OpenKey:
        key = self._key
        if key is None:
            raise DeviceError(f"{self.name}: closed")
        return key

    def _reopen(self, lost: _tokens.OpenKey) -> bool:
        """Finds the key anew; False if another thread has done so meanwhile."""
        with _modules.OPENING:
            if self._usable() is not lost:
                return False
            fresh = _tokens.open_key(self._uri, self.name, again=True)
            with _modules.DEVICE:
                if self._key is None:  # closed meanwhile
                    fresh.connection.release()
                else:
                    self._key = fresh
                    lost.connection.release()
            return True

    @classmethod
    def import_key(cls, uri: KeyURI, key: bytes, *, overwrite: bool = False, label: str | None = None) -> KeyURI:
        """Puts a key into the token: sensitive, never to be extracted, good for HMAC-SHA256 only."""
        try:
            return _import.import_key(uri, key, overwrite=overwrite, label=label)
        finally:
            del key  # tracebacks show what frames hold

    @classmethod
    def list_keys(cls, uri: KeyURI) -> list[KeyEntry]:
        """Returns the HMAC keys that a URI fits; logs in only where it fits a single token."""
        return _import.list_keys(uri)

    @classmethod
    def delete_key(cls, uri: KeyURI) -> None:
        """Destroys the one key that a URI names."""
        _import.delete_key(uri)

    @classmethod
    def transfer_offer(cls, uri: KeyURI) -> dict[str, str]:
        """Makes an RSA key pair on the token, whose private half unwraps and does nothing else."""
        from aws_hmac_backends.pkcs11 import _transfer

        return _transfer.offer(uri)

    @classmethod
    def transfer_wrap(
        cls, offer: Mapping[str, str], key: bytes, *, expect_name: str, password: bytes | None = None
    ) -> str:
        """Wraps a key by AES-KWP, and the AES key by RSA-OAEP; needs no token."""
        from aws_hmac_backends.pkcs11 import _transfer

        try:
            return _transfer.wrap(offer, key, expect_name=expect_name, password=password)
        finally:
            del key  # tracebacks show what frames hold

    @classmethod
    def transfer_receive(
        cls, uri: KeyURI, wrapped: str, *, overwrite: bool = False, label: str | None = None
    ) -> KeyURI:
        """Unwraps a key in the token, where it is what an imported one is, and destroys the RSA key pair."""
        from aws_hmac_backends.pkcs11 import _transfer

        return _transfer.receive(uri, wrapped, overwrite=overwrite, label=label)

    @classmethod
    def diagnose(cls, uri: KeyURI | None) -> list[Finding]:
        """Returns what was looked at: p11-kit's configuration, the module, token, PIN and key."""
        from aws_hmac_backends.pkcs11._diagnose import diagnose  # only the doctor needs it

        return list(diagnose(uri))
