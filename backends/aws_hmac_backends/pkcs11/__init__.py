"""``pkcs11``: a key in an HSM, smart card or other token, through its PKCS#11 module."""

from __future__ import annotations

from aws_hmac_backends.pkcs11._backend import Pkcs11Backend

__all__ = ["Pkcs11Backend"]
