"""Key-encryption keys: what wraps a keyset. Each kind's client library is imported when one of its kind is used."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import tink
from tink import aead, json_proto_keyset_format, secret_key_access

from aws_hmac.backend import Finding
from aws_hmac.errors import DeviceError, KeyMismatchError, KeyNotFoundError, KeyURIError, SecurityWarning
from aws_hmac_backends._clients import said

from .files import read_file, write_new

if TYPE_CHECKING:
    from aws_hmac.uri import KeyURI

AWS = "aws-kms://"
GCP = "gcp-kms://"
LOCAL = "insecure-local-kms://"


class Kek(aead.Aead):  # type: ignore[misc] # tink ships no types
    """A key-encryption key: Tink's own interface, so that Tink's readers and writers take it.

    Attributes:
        kek_uri: its name in full, as it is pinned.
    """

    kek_uri: str

    @abstractmethod
    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """Wraps, and checks which key did it.

        Raises:
            Error: in words.
        """

    @abstractmethod
    def decrypt(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        """Unwraps, and checks which key did it.

        Raises:
            KeyMismatchError: another key, other associated data or another ciphertext.
            Error: in words.
        """

    def decrypt_by_any(self, ciphertext: bytes, associated_data: bytes) -> tuple[str, bytes]:
        """Unwraps by whichever key the KMS says it was, where it can say that: to look, never to sign with.

        Returns:
            That key as a KEK URI, and the plaintext.
        """
        return self.kek_uri, self.decrypt(ciphertext, associated_data)

    @abstractmethod
    def inspect(self, ciphertext: bytes, associated_data: bytes) -> list[Finding]:
        """Returns which key wraps this, whose it is and in which state."""

    def close(self) -> None:
        """Lets go of the connection."""


def open_kek(kek_uri: str, uri: KeyURI) -> Kek:
    """Returns a pinned KEK. Asks nobody yet.

    Args:
        kek_uri: ``aws-kms://`` and a key's full ARN, ``gcp-kms://`` and a key's resource name, or
            ``insecure-local-kms://`` and the path of a file.
        uri: the key URI, which tells how to reach it.

    Raises:
        KeyURIError: it is of no known kind, or not named in full.
        BackendUnavailableError: the client library is missing.
    """
    if kek_uri.startswith(AWS):
        from .aws import AwsKek

        return AwsKek(kek_uri, uri)
    if kek_uri.startswith(GCP):
        from .gcp import GcpKek

        return GcpKek(kek_uri, uri)
    if kek_uri.startswith(LOCAL):
        return LocalKek(kek_uri, uri)
    raise _unknown(kek_uri, uri)


def pin_kek(kek_uri: str, uri: KeyURI) -> str:
    """Returns a KEK's full name, resolving once what an alias or bare id means. Makes a local KEK that is missing.

    Raises:
        KeyURIError: it is of no known kind.
        KeyPolicyError: it is a default key, or one of a foreign account that was not named.
        Error: the KMS's answer.
    """
    if kek_uri.startswith(AWS):
        from aws_hmac_backends._aws_kms import Kms

        key = kek_uri.removeprefix(AWS)
        kms = Kms.of(uri, key)
        try:
            return AWS + kms.pin(key)
        finally:
            kms.close()
    if kek_uri.startswith(LOCAL):
        _make_local(Path(kek_uri.removeprefix(LOCAL)), uri)
    elif not kek_uri.startswith(GCP):
        raise _unknown(kek_uri, uri)
    return kek_uri


def _unknown(kek_uri: str, uri: KeyURI) -> KeyURIError:
    kind = kek_uri.partition("://")[0] if "://" in kek_uri else "no kind"
    return KeyURIError(
        f"{uri.scheme}: URI: kek is of {kind!r}, which is not known; there are {AWS}arn:aws:kms:…:key/…,"
        f" {GCP}projects/…/cryptoKeys/… and, for development, {LOCAL}/path"
    )


_warned = False


class LocalKek(Kek):
    """A KEK in a file of this machine, as a Tink AEAD keyset in the clear. **For development only.**"""

    def __init__(self, kek_uri: str, uri: KeyURI) -> None:
        self.kek_uri = kek_uri
        self._name = uri.identity
        self._path = Path(kek_uri.removeprefix(LOCAL))
        if not self._path.is_absolute():
            raise KeyURIError(f"{uri.scheme}: URI: {LOCAL} must be followed by an absolute path")
        global _warned
        if not _warned:
            _warned = True
            warnings.warn(
                f"{LOCAL} keeps the key-encryption key in a file beside the keyset and protects nothing:"
                " for development only",
                SecurityWarning,
                stacklevel=2,
            )

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """Wraps by AES-256-GCM."""
        wrapped: bytes = self._aead().encrypt(plaintext, associated_data)
        return wrapped

    def decrypt(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        """Unwraps by AES-256-GCM."""
        try:
            plaintext: bytes = self._aead().decrypt(ciphertext, associated_data)
        except tink.TinkError as exc:
            raise KeyMismatchError(
                f"{self._name}: {self.kek_uri} did not wrap this, or with other associated data, or it was changed"
            ) from exc
        return plaintext

    def inspect(self, ciphertext: bytes, associated_data: bytes) -> list[Finding]:
        """Says that nothing protects this key."""
        findings = [
            Finding(
                "bad",
                "key-encryption key",
                f"{self.kek_uri} is a file of this machine: for development only",
                "aws-hmac key rewrap moves the keyset to a KMS",
            )
        ]
        try:
            self.decrypt(ciphertext, associated_data)
        except KeyMismatchError as exc:
            findings.append(Finding("bad", "wrapped by", f"not by the key that the URI names: {said(exc, self._name)}"))
        except KeyNotFoundError as exc:
            findings.append(Finding("bad", "key state", f"missing: {said(exc, self._name)}"))
        else:
            findings.append(Finding("info", "wrapped by", self.kek_uri))
        return findings

    def _aead(self) -> aead.Aead:
        text = read_file(self._path, self._name, readable="refuse")
        try:
            aead.register()
            handle = json_proto_keyset_format.parse(text.decode(), secret_key_access.TOKEN)
            return handle.primitive(aead.Aead)
        except (tink.TinkError, UnicodeDecodeError):
            # "from None": the exception may quote the file, which is a key in the clear.
            raise DeviceError(f"{self._name}: {self._path} is no Tink AEAD keyset") from None


def _make_local(path: Path, uri: KeyURI) -> None:
    if not path.is_absolute():
        raise KeyURIError(f"{uri.scheme}: URI: {LOCAL} must be followed by an absolute path")
    if os.path.lexists(path):
        return
    aead.register()
    handle = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
    text: str = json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
    write_new(path, text.encode(), uri.identity, overwrite=False)
