"""A key-encryption key in AWS KMS.

On the wire as Tink's own integration, in any language: associated data travel in the encryption context, in
hexadecimal, as ``associatedData``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_hmac.backend import Finding
from aws_hmac.errors import Error, KeyMismatchError, KeyURIError
from aws_hmac_backends._aws_kms import Kms, key_findings, parse_arn
from aws_hmac_backends._clients import said

from .keks import AWS, Kek

if TYPE_CHECKING:
    from aws_hmac.uri import KeyURI


class AwsKek(Kek):
    """An AWS KMS key, named by its full ARN."""

    def __init__(self, kek_uri: str, uri: KeyURI) -> None:
        self.kek_uri = kek_uri
        self._name = uri.identity
        self._arn = kek_uri.removeprefix(AWS)
        if parse_arn(self._arn) is None:
            raise KeyURIError(
                f"{uri.scheme}: URI: the kek {kek_uri} is not a key's full ARN (aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID):"
                " an alias or a bare id can mean another key tomorrow, in another account; aws kms describe-key"
                f" --key-id {self._arn} tells the ARN, key import and key rewrap write it by themselves"
            )
        self._kms = Kms.of(uri, self._arn)

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """Wraps by kms:Encrypt."""
        answer = self._kms.call(
            "Encrypt", key=self._arn, KeyId=self._arn, Plaintext=plaintext, EncryptionContext=_context(associated_data)
        )
        self._check(answer.get("KeyId"))
        return bytes(answer["CiphertextBlob"])

    def decrypt(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        """Unwraps by kms:Decrypt."""
        answer = self._kms.call(
            "Decrypt",
            key=self._arn,
            KeyId=self._arn,
            CiphertextBlob=ciphertext,
            EncryptionContext=_context(associated_data),
        )
        self._check(answer.get("KeyId"))
        return bytes(answer["Plaintext"])

    def decrypt_by_any(self, ciphertext: bytes, associated_data: bytes) -> tuple[str, bytes]:
        """Unwraps without naming a key: KMS knows which it was, and says so."""
        answer = self._kms.call(
            "Decrypt", key=self._arn, CiphertextBlob=ciphertext, EncryptionContext=_context(associated_data)
        )
        return f"{AWS}{answer.get('KeyId')}", bytes(answer["Plaintext"])

    def inspect(self, ciphertext: bytes, associated_data: bytes) -> list[Finding]:
        """Asks KMS which key unwraps this, without naming one, and looks at that key."""
        try:
            actual = self.decrypt_by_any(ciphertext, associated_data)[0].removeprefix(AWS)
        except Error as exc:
            # What KMS refuses to unwrap it does not name; the state of the pinned key may tell why.
            return [
                Finding("bad", "wrapped by", f"KMS does not unwrap the keyset: {said(exc, self._name)}"),
                *key_findings(self._kms, self._arn),
            ]
        arn = parse_arn(actual)
        where = f" ({arn.where})" if arn else ""
        if actual == self._arn:
            findings = [Finding("good", "wrapped by", f"{actual}{where}, the key that the URI names")]
        else:
            findings = [
                Finding(
                    "bad",
                    "wrapped by",
                    f"{actual}{where}, and not {self._arn}, which the URI names",
                    f"if that key is meant, write kek={AWS}{actual} into the URI; else aws-hmac key rewrap",
                )
            ]
        return findings + key_findings(self._kms, actual)

    def close(self) -> None:
        """Closes the client."""
        self._kms.close()

    def _check(self, answered: object) -> None:
        if answered != self._arn:
            raise KeyMismatchError(
                f"{self._name}: KMS used the key {answered}, and not {self._arn}, which the URI names"
            )


def _context(associated_data: bytes) -> dict[str, str]:
    return {"associatedData": associated_data.hex()} if associated_data else {}
