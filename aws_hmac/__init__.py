"""Sign AWS requests with a secret access key that never leaves an HSM, a TPM, a KMS or Vault.

The device computes only the first HMAC of Signature Version 4, kDate = HMAC-SHA256("AWS4" + secret, yyyymmdd);
the rest of the derivation runs here. Names are loaded on first use, so that ``import aws_hmac`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for typing's, whose import would double the time of a start
if TYPE_CHECKING:
    from aws_hmac import aiobotocore, botocore, errors, httpx, requests, sigv4, sts
    from aws_hmac.backend import (
        Diagnosable,
        Finding,
        HmacBackend,
        KeyDeleter,
        KeyEntry,
        KeyImporter,
        KeyInspector,
        KeyLister,
        PolicyPrinter,
    )
    from aws_hmac.botocore import Session
    from aws_hmac.errors import (
        AmbiguousKeyError,
        AuthenticationError,
        BackendUnavailableError,
        ClockSkewWarning,
        ConfigError,
        DeviceBusyError,
        DeviceError,
        DeviceLostError,
        Error,
        ExpiryWarning,
        KeyExistsError,
        KeyMismatchError,
        KeyNotFoundError,
        KeyPolicyError,
        KeyURIError,
        SecurityWarning,
        SessionExpiredError,
        SessionWarning,
        SigningError,
        STSError,
        UnknownSchemeError,
        UnsupportedError,
    )
    from aws_hmac.keys import import_key
    from aws_hmac.registry import open_backend, schemes
    from aws_hmac.signer import Signer
    from aws_hmac.signing_keys import SigningKeys
    from aws_hmac.sts import TemporaryCredentials
    from aws_hmac.uri import KeyURI

__version__ = "0.1.0"

_HOMES = {
    "backend": (
        "Diagnosable", "Finding", "HmacBackend", "KeyDeleter", "KeyEntry", "KeyImporter", "KeyInspector", "KeyLister",
        "PolicyPrinter",
    ),
    "botocore": ("Session",),
    "errors": (
        "AmbiguousKeyError", "AuthenticationError", "BackendUnavailableError", "ClockSkewWarning", "ConfigError",
        "DeviceBusyError", "DeviceError", "DeviceLostError", "Error", "ExpiryWarning", "KeyExistsError",
        "KeyMismatchError", "KeyNotFoundError", "KeyPolicyError", "KeyURIError", "STSError", "SecurityWarning",
        "SessionExpiredError", "SessionWarning", "SigningError", "UnknownSchemeError", "UnsupportedError",
    ),
    "keys": ("import_key",),
    "registry": ("open_backend", "schemes"),
    "signer": ("Signer",),
    "signing_keys": ("SigningKeys",),
    "sts": ("TemporaryCredentials",),
    "uri": ("KeyURI",),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = frozenset({"aiobotocore", "botocore", "errors", "httpx", "requests", "sigv4", "sts"})

__all__ = [
    "AmbiguousKeyError",
    "AuthenticationError",
    "BackendUnavailableError",
    "ClockSkewWarning",
    "ConfigError",
    "DeviceBusyError",
    "DeviceError",
    "DeviceLostError",
    "Diagnosable",
    "Error",
    "ExpiryWarning",
    "Finding",
    "HmacBackend",
    "KeyDeleter",
    "KeyEntry",
    "KeyExistsError",
    "KeyImporter",
    "KeyInspector",
    "KeyLister",
    "KeyMismatchError",
    "KeyNotFoundError",
    "KeyPolicyError",
    "KeyURI",
    "KeyURIError",
    "PolicyPrinter",
    "STSError",
    "SecurityWarning",
    "Session",
    "SessionExpiredError",
    "SessionWarning",
    "Signer",
    "SigningError",
    "SigningKeys",
    "TemporaryCredentials",
    "UnknownSchemeError",
    "UnsupportedError",
    "aiobotocore",
    "botocore",
    "errors",
    "httpx",
    "import_key",
    "open_backend",
    "requests",
    "schemes",
    "sigv4",
    "sts",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"aws_hmac.{name}")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'aws_hmac' has no attribute {name!r}")
    value = getattr(import_module(f"aws_hmac.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
