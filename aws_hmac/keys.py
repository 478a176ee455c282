"""Putting a secret access key into a device."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import cast

from aws_hmac.backend import HmacBackend, KeyDeleter, KeyImporter, fingerprint, fingerprint_of
from aws_hmac.errors import ConfigError, Error, KeyMismatchError, SecurityWarning, UnsupportedError, forget_locals
from aws_hmac.registry import backend_class
from aws_hmac.sources import prompted_once
from aws_hmac.uri import KeyURI


def import_key(
    uri: str | KeyURI,
    secret_access_key: str,
    *,
    overwrite: bool = False,
    access_key_id: str | None = None,
    sigv4a: bool = False,
) -> str:
    """Puts "AWS4" + `secret_access_key` into the device that a URI names, and proves that it arrived.

    Args:
        uri: where the key goes.
        secret_access_key: the secret of an IAM user, or of an S3-compatible store.
        overwrite: replaces the key that is there.
        access_key_id: whose secret it is; devices that can bind the key to it.
        sigv4a: puts in "AWS4A" + secret instead, from which SigV4A's key pair is derived. That key knows no
            date: whoever may use it once can sign for good.

    Returns:
        The URI that names the key from now on.

    Raises:
        ConfigError: the secret is empty or holds blanks, or the access key id is that of a temporary key.
        UnsupportedError: this kind of device takes no keys.
        KeyExistsError: there is a key, and `overwrite` was not asked for.
        KeyMismatchError: the device computes with another key than was given; what was imported is removed.
        Error: whatever else the device answers.
    """
    try:
        with prompted_once():
            return _import(uri, secret_access_key, access_key_id, overwrite=overwrite, sigv4a=sigv4a)
    except BaseException as exc:
        forget_locals(exc)
        raise
    finally:
        del secret_access_key  # tracebacks show what frames hold


def _import(
    uri: str | KeyURI, secret_access_key: str, access_key_id: str | None, *, overwrite: bool, sigv4a: bool
) -> str:
    parsed = KeyURI.parse(uri) if isinstance(uri, str) else uri
    key = (b"AWS4A" if sigv4a else b"AWS4") + check_secret(secret_access_key, access_key_id)
    backend = backend_class(parsed.scheme)
    if not issubclass(backend, KeyImporter):
        raise UnsupportedError(f"{parsed.scheme}: keys cannot be imported by aws-hmac")
    named = cast("type[KeyImporter]", backend).import_key(parsed, key, overwrite=overwrite, label=access_key_id)
    opened: HmacBackend
    with backend.from_uri(named) as opened:
        proven = fingerprint(opened) == fingerprint_of(key)
    if not proven:
        if issubclass(backend, KeyDeleter):
            with suppress(Error):
                backend.delete_key(named)
        raise KeyMismatchError(f"{named.identity}: the device computes with another key than was imported; removed")
    return str(named)


def check_secret(secret_access_key: str, access_key_id: str | None) -> bytes:
    """Returns the secret as bytes, without a trailing line end.

    Raises:
        ConfigError: it is no long-lived secret access key.
    """
    if access_key_id is not None and access_key_id.startswith("ASIA"):
        raise ConfigError(
            f"{access_key_id} is the id of temporary credentials, which expire within hours and need a session token;"
            " import the long-lived key of an IAM user (AKIA…)"
        )
    secret = secret_access_key.rstrip("\r\n")
    if secret != secret_access_key:
        warnings.warn("the secret access key ended in a line end, which was stripped", SecurityWarning, stacklevel=4)
    if not secret.strip():
        raise ConfigError("the secret access key is empty")
    if any(c.isspace() or not c.isprintable() for c in secret):
        raise ConfigError("the secret access key holds a blank or control character: it was not copied whole or alone")
    return secret.encode()
