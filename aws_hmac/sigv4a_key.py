"""The key pair of SigV4A, derived from a device's second key, and the ECDSA signatures made with it."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

from aws_hmac.backend import device_hmac
from aws_hmac.errors import BackendUnavailableError
from aws_hmac.sigv4.sigv4a import derive_private_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from aws_hmac.backend import HmacBackend
    from aws_hmac.signing_keys import Mode


class SigV4aKey:
    """The P-256 key pair that belongs to an access key. Safe for threads.

    **The private key is derived into this process, and knows no date**: whoever reads it here, or may use the
    device's second key once, signs by SigV4A for as long as the access key is active.

    Args:
        backend: the device's key "AWS4A" + secret.
        access_key_id: whose secret it is.
        mode: ``none`` derives the key pair anew for every signature and keeps nothing; the others keep it.
        max_age: seconds for which a kept key pair signs without asking the device; None for as long as it lives.

    Raises:
        BackendUnavailableError: the package ``cryptography`` is missing.
    """

    def __init__(
        self, backend: HmacBackend, access_key_id: str, *, mode: Mode = "date", max_age: float | None = None
    ) -> None:
        try:
            import cryptography.hazmat.primitives.asymmetric.ec  # noqa: F401 - said now, not at the first signature
        except ImportError as exc:
            raise BackendUnavailableError(
                f"SigV4A needs the package cryptography, which is missing or cannot be loaded ({exc});"
                " install it with: pip install 'aws-hmac[sigv4a]'",
                name=exc.name,
            ) from exc
        self.backend = backend
        self.access_key_id = access_key_id
        self.mode = mode
        self.max_age = max_age
        self._lock = threading.Lock()
        self._key: EllipticCurvePrivateKey | None = None
        self._derived = 0.0

    def sign(self, message: bytes) -> str:
        """Returns the ECDSA signature (SHA-256, DER) in hexadecimal; another one each time.

        Raises:
            Error: whatever the backend raises.
        """
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        return self._private_key().sign(message, ec.ECDSA(hashes.SHA256())).hex()

    def clear(self) -> None:
        """Forgets the key pair (best effort: Python may hold copies)."""
        with self._lock:
            self._key = None

    def _private_key(self) -> EllipticCurvePrivateKey:
        key = self._kept()
        if key is None:
            with self._lock:
                key = self._kept()  # another thread may have been faster
                if key is None:
                    asked = monotonic()
                    key = self._derive()
                    if self.mode != "none":
                        self._key, self._derived = key, asked
        return key

    def _kept(self) -> EllipticCurvePrivateKey | None:
        if self.max_age is not None and monotonic() - self._derived >= self.max_age:
            return None
        return self._key

    def _derive(self) -> EllipticCurvePrivateKey:
        from cryptography.hazmat.primitives.asymmetric import ec

        number = derive_private_key(
            lambda message: device_hmac(self.backend, message, purpose="SigV4A key pair"), self.access_key_id
        )
        return ec.derive_private_key(number, ec.SECP256R1())

    def __repr__(self) -> str:
        return f"<SigV4aKey of {self.backend.name}>"

    def __reduce_ex__(self, protocol: object, /) -> str:
        raise TypeError("a SigV4A key cannot be pickled or copied")
