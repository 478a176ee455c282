"""A key-encryption key in Google Cloud KMS, on the wire as Tink's own integration."""

from __future__ import annotations

import os
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from aws_hmac.backend import Finding
from aws_hmac.errors import (
    AuthenticationError,
    BackendUnavailableError,
    DeviceBusyError,
    DeviceError,
    Error,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
)
from aws_hmac_backends._clients import check_endpoint, quiet, said

from .keks import GCP, Kek

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aws_hmac.uri import KeyURI

TIMEOUT = 15
"""Seconds for one call, its retries included."""

_NAME = re.compile(
    r"projects/(?P<project>[^/]+)/locations/(?P<location>[A-Za-z0-9_-]{1,63})"
    r"/keyRings/(?P<ring>[A-Za-z0-9_-]{1,63})/cryptoKeys/(?P<key>[A-Za-z0-9_-]{1,63})",
    re.ASCII,
)
_TELLTALE = "google.cloud.kms_v1.services.key_management_service.transports.grpc"

_grpc_pid: int | None = None


class GcpKek(Kek):
    """A Cloud KMS key, named by its full resource name (no version: Google decrypts with whichever it was)."""

    def __init__(self, kek_uri: str, uri: KeyURI) -> None:
        self.kek_uri = kek_uri
        self._name = uri.identity
        self._key = kek_uri.removeprefix(GCP)
        match = _NAME.fullmatch(self._key)
        if not match:
            raise KeyURIError(
                f"{uri.scheme}: URI: the kek {kek_uri} is not a key's full name"
                " (gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K, without a version)"
            )
        self._where = f"project {match['project']}, {match['location']}"
        self._endpoint = check_endpoint(uri)
        self._client: Any = None
        self._closed = False
        self._lock, self._lock_pid = threading.Lock(), os.getpid()

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """Wraps by Encrypt; checks the checksums and which key answered."""
        crc = _crc32c()
        request = {
            "name": self._key,
            "plaintext": plaintext,
            "plaintext_crc32c": crc(plaintext),
            "additional_authenticated_data": associated_data,
            "additional_authenticated_data_crc32c": crc(associated_data),
        }
        answer = self._call("encrypt", request)
        version = str(answer.name)
        if not version.startswith(f"{self._key}/cryptoKeyVersions/"):
            raise KeyMismatchError(
                f"{self._name}: KMS used the key {version}, and not {self._key}, which the URI names"
            )
        ciphertext = bytes(answer.ciphertext)
        if not answer.verified_plaintext_crc32c or answer.ciphertext_crc32c != crc(ciphertext):
            raise DeviceError(f"{self._name}: what KMS encrypted was changed on the way (CRC32C); try again")
        return ciphertext

    def decrypt(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        """Unwraps by Decrypt, in which Google holds the key to the name asked for; checks the checksum."""
        return bytes(self._decrypt(ciphertext, associated_data).plaintext)

    def inspect(self, ciphertext: bytes, associated_data: bytes) -> list[Finding]:
        """Asks KMS whether this key unwraps this, and looks at the key and its versions."""
        findings: list[Finding] = []
        try:
            answer = self._decrypt(ciphertext, associated_data)
        except Error as exc:
            text = f"KMS does not unwrap the keyset: {said(exc, self._name)}"
            return [Finding("bad", "wrapped by", text), *self._key_findings("bad")]
        findings.append(Finding("good", "wrapped by", f"{self._key} ({self._where}), the key that the URI names"))
        if not answer.used_primary:
            findings.append(
                Finding(
                    "warning",
                    "key version",
                    "by a version that is not the primary any more: it must not be destroyed",
                    "aws-hmac key rewrap with the same --kek wraps the keyset by the primary version",
                )
            )
        return findings + self._key_findings("info")

    def close(self) -> None:
        """Closes the channel."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None and self._lock_pid == os.getpid():
            client.transport.close()

    def _decrypt(self, ciphertext: bytes, associated_data: bytes) -> Any:
        crc = _crc32c()
        request = {
            "name": self._key,
            "ciphertext": ciphertext,
            "ciphertext_crc32c": crc(ciphertext),
            "additional_authenticated_data": associated_data,
            "additional_authenticated_data_crc32c": crc(associated_data),
        }
        answer = self._call("decrypt", request)
        if answer.plaintext_crc32c != crc(bytes(answer.plaintext)):
            raise DeviceError(f"{self._name}: what KMS decrypted was changed on the way (CRC32C); try again")
        return answer

    def _key_findings(self, unusable: Literal["bad", "info"]) -> list[Finding]:
        """Looks at the key; versions that cannot be used matter only where the keyset cannot be unwrapped."""
        try:
            key = self._call("get_crypto_key", {"name": self._key})
            versions = list(self._call("list_crypto_key_versions", {"parent": self._key}))
        except KeyNotFoundError as exc:
            text = f"missing: {said(exc, self._name)}"
            return [Finding("bad", "key state", text, "restore the keyset that another key wraps, or import anew")]
        except Error as exc:
            text = f"not known: {said(exc, self._name)}"
            return [Finding("warning", "key state", text, "allow cloudkms.cryptoKeys.get")]
        findings = [self._version_finding(version, unusable) for version in versions]
        period = key.rotation_period
        if period:
            findings.append(Finding("good", "rotation", f"on, every {period.days} days; old versions still unwrap"))
        else:
            findings.append(
                Finding("info", "rotation", "off", f"gcloud kms keys update {self._key} --rotation-period 90d …")
            )
        findings.append(Finding("info", "account", f"the key is in {self._where}"))
        return findings

    def _version_finding(self, version: Any, unusable: Literal["bad", "info"]) -> Finding:
        number, state, destroyed = version.name.rpartition("/")[2], version.state.name, version.destroy_time
        restore = f"gcloud kms keys versions restore {number} --key {self._key}"
        enable = f"gcloud kms keys versions enable {number} --key {self._key}"
        if state == "ENABLED":
            return Finding("good", "key state", f"version {number} enabled")
        if state == "DISABLED":
            return Finding(unusable, "key state", f"version {number} disabled", enable)
        if state == "DESTROY_SCHEDULED":
            when = f"{destroyed:%Y-%m-%d %H:%M} UTC" if destroyed else "an unknown date"
            text = f"version {number} pending destruction at {when}; after that nothing unwraps what it wraps"
            return Finding(unusable, "key state", text, f"{restore} && {enable}")
        return Finding(unusable, "key state", f"version {number} is {state}")

    def _call(self, method: str, request: dict[str, Any]) -> Any:
        with self._map_exceptions(method):
            client = self._connect()
            from google.api_core import exceptions
            from google.api_core.retry import Retry, if_exception_type

            retry = Retry(
                if_exception_type(exceptions.ServiceUnavailable, exceptions.TooManyRequests),
                initial=0.1,
                maximum=2,
                timeout=TIMEOUT,
            )
            with quiet(_TELLTALE):
                return getattr(client, method)(request=request, timeout=TIMEOUT, retry=retry)

    def _connect(self) -> Any:
        global _grpc_pid
        pid = os.getpid()
        if self._closed:
            raise DeviceError(f"{self._name}: closed")
        if _grpc_pid not in (None, pid):
            # gRPC's threads are gone in the child, and a call there waits for ever.
            raise DeviceError(
                f"{self._name}: gRPC was in use before this process was forked off, and does not survive that;"
                " open the key in a process started afresh (multiprocessing: 'spawn' or 'forkserver')"
            )
        _grpc_pid = pid
        with self._lock:
            if self._client is None:
                self._client = _client(self._name, self._endpoint)
            return self._client

    @contextmanager
    def _map_exceptions(self, method: str) -> Iterator[None]:
        try:
            yield
        except Error:
            raise
        except Exception as exc:
            raise self._in_words(exc, method) from exc

    def _in_words(self, exc: Exception, method: str) -> Exception:
        from google.api_core import exceptions as api
        from google.auth import exceptions as auth

        if isinstance(exc, api.RetryError) and isinstance(exc.cause, Exception):
            exc = exc.cause
        key = f"{self._key} ({self._where})"
        told = f"{type(exc).__name__}: {' '.join(str(getattr(exc, 'message', exc)).split())}"
        if isinstance(exc, api.PermissionDenied):
            permission = _PERMISSIONS.get(method, method)
            return KeyPolicyError(f"{self._name}: {permission} on {key} is not allowed: {told}; grant it on that key")
        if isinstance(exc, (api.Unauthenticated, auth.GoogleAuthError)):
            return AuthenticationError(
                f"{self._name}: no credentials that Google KMS accepts: {told};"
                " gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS"
            )
        if isinstance(exc, api.NotFound):
            return KeyNotFoundError(f"{self._name}: there is no key {key}: {told}")
        if isinstance(exc, api.FailedPrecondition):
            return KeyPolicyError(
                f"{self._name}: the state of {key} forbids it: {told}; a disabled version comes back with gcloud kms"
                " keys versions enable, one that is to be destroyed with restore before that"
            )
        if isinstance(exc, api.InvalidArgument):
            return KeyMismatchError(
                f"{self._name}: {key} did not wrap this, or with other associated data, or it was changed: {told}"
            )
        if isinstance(exc, api.TooManyRequests):
            return DeviceBusyError(f"{self._name}: Google KMS is too busy: {told}")
        if isinstance(exc, (api.GoogleAPIError, OSError)):
            return DeviceError(f"{self._name}: Google KMS cannot be reached or failed: {told}")
        return DeviceError(f"{self._name}: {method} failed: {type(exc).__name__}")


_PERMISSIONS = {
    "encrypt": "cloudkms.cryptoKeyVersions.useToEncrypt",
    "decrypt": "cloudkms.cryptoKeyVersions.useToDecrypt",
    "get_crypto_key": "cloudkms.cryptoKeys.get",
    "list_crypto_key_versions": "cloudkms.cryptoKeyVersions.list",
}


def _client(name: str, endpoint: str | None) -> Any:
    try:
        from google.cloud import kms_v1  # 350 ms that other KEKs do without
    except ImportError as exc:
        raise BackendUnavailableError(
            f"{name}: Google Cloud KMS needs its client; install it with: pip install 'aws-hmac[gcpkms]'", name=exc.name
        ) from exc
    if endpoint is None:
        return kms_v1.KeyManagementServiceClient()
    parts = urlsplit(endpoint)
    if parts.scheme == "https":
        return kms_v1.KeyManagementServiceClient(client_options={"api_endpoint": parts.netloc})
    # Plain HTTP/2 is for this machine only (`check_endpoint`): an emulator, which knows no accounts.
    import grpc
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport

    channel = grpc.insecure_channel(parts.netloc)
    anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call] # google-auth ships half its types
    transport = KeyManagementServiceGrpcTransport(channel=channel, credentials=anonymous)
    return kms_v1.KeyManagementServiceClient(transport=transport)


def _crc32c() -> Any:
    try:
        from google_crc32c import value
    except ImportError as exc:
        raise BackendUnavailableError(
            f"Google Cloud KMS needs its client; install it with: pip install 'aws-hmac[gcpkms]' ({exc.name})",
            name=exc.name,
        ) from exc
    return value
