"""A small Google Cloud KMS on loopback: gRPC, its protocol, real AES-256-GCM; keys and their states in memory."""

from __future__ import annotations

import datetime
import os
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud import kms_v1
from google_crc32c import value as crc32c

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Version = kms_v1.CryptoKeyVersion
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
SERVICE = "google.cloud.kms.v1.KeyManagementService"


class GcpKms:
    """What the server holds and how it misbehaves.

    Attributes:
        url: where it listens, as ``http://127.0.0.1:40123``.
        keys: for each key's name its versions' AES keys; the last is the primary.
        states: the state of a version, by its full name; ENABLED if not there.
        fault: for a method's name the status to fail with, and how often (-1: always).
        answers: for a method's name a function that changes the answer.
        calls: the methods that were called.
    """

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, list[bytes]] = {}
        self.states: dict[str, Any] = {}
        self.fault: dict[str, tuple[grpc.StatusCode, int]] = {}
        self.answers: dict[str, Callable[[Any], None]] = {}
        self.calls: list[str] = []

    def create_key(self, name: str) -> str:
        """Makes a key, or a further version of it; returns its resource name."""
        key = f"projects/test/locations/global/keyRings/ring/cryptoKeys/{name}"
        self.keys.setdefault(key, []).append(os.urandom(32))
        return key

    def encrypt(self, request: Any, context: Any) -> Any:
        key = request.name.partition("/cryptoKeyVersions/")[0]
        number = len(self._versions(key, context))
        self._usable(f"{key}/cryptoKeyVersions/{number}", context)
        checked = request.plaintext_crc32c is not None
        if checked and request.plaintext_crc32c != crc32c(request.plaintext):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The checksum in field plaintext_crc32c did not match.")
        nonce = os.urandom(12)
        aead = AESGCM(self.keys[key][-1])
        sealed = aead.encrypt(nonce, request.plaintext, request.additional_authenticated_data)
        ciphertext = bytes([number]) + nonce + sealed
        return kms_v1.EncryptResponse(
            name=f"{key}/cryptoKeyVersions/{number}",
            ciphertext=ciphertext,
            ciphertext_crc32c=crc32c(ciphertext),
            verified_plaintext_crc32c=checked,
        )

    def decrypt(self, request: Any, context: Any) -> Any:
        versions = self._versions(request.name, context)
        number, nonce, sealed = request.ciphertext[0], request.ciphertext[1:13], request.ciphertext[13:]
        self._usable(f"{request.name}/cryptoKeyVersions/{number}", context)
        try:
            plaintext = AESGCM(versions[number - 1]).decrypt(nonce, sealed, request.additional_authenticated_data)
        except (InvalidTag, IndexError):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Decryption failed: the ciphertext is invalid.")
        return kms_v1.DecryptResponse(
            plaintext=plaintext,
            plaintext_crc32c=crc32c(plaintext),
            used_primary=number == len(versions),
            protection_level=kms_v1.ProtectionLevel.SOFTWARE,
        )

    def get_crypto_key(self, request: Any, context: Any) -> Any:
        self._versions(request.name, context)
        return kms_v1.CryptoKey(name=request.name, rotation_period=datetime.timedelta(days=90))

    def list_crypto_key_versions(self, request: Any, context: Any) -> Any:
        answer = kms_v1.ListCryptoKeyVersionsResponse()
        for number in range(1, len(self._versions(request.parent, context)) + 1):
            name = f"{request.parent}/cryptoKeyVersions/{number}"
            state = self.states.get(name, State.ENABLED)
            version = Version(name=name, state=state)
            if state == State.DESTROY_SCHEDULED:
                version.destroy_time = datetime.datetime(2030, 1, 2, 3, 4, tzinfo=datetime.timezone.utc)
            answer.crypto_key_versions.append(version)
        return answer

    def _versions(self, key: str, context: Any) -> list[bytes]:
        if key not in self.keys:
            context.abort(grpc.StatusCode.NOT_FOUND, f"CryptoKey {key} not found.")
        return self.keys[key]

    def _usable(self, version: str, context: Any) -> None:
        state = self.states.get(version, State.ENABLED)
        if state != State.ENABLED:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"{version} is not enabled, current state is: {state.name}."
            )

    def _handler(self, name: str, answer: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
        def handle(asked: Any, context: Any) -> Any:
            self.calls.append(name)
            status, left = self.fault.get(name, (grpc.StatusCode.OK, 0))
            if left:
                self.fault[name] = (status, left - 1)
                context.abort(status, "a fault on purpose")
            made = answer(asked, context)
            if name in self.answers:
                self.answers[name](made)
            return made

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=request.deserialize, response_serializer=response.serialize
        )

    def handlers(self) -> Any:
        """The methods, as gRPC wants them."""
        methods = {
            "Encrypt": (self.encrypt, kms_v1.EncryptRequest, kms_v1.EncryptResponse),
            "Decrypt": (self.decrypt, kms_v1.DecryptRequest, kms_v1.DecryptResponse),
            "GetCryptoKey": (self.get_crypto_key, kms_v1.GetCryptoKeyRequest, kms_v1.CryptoKey),
            "ListCryptoKeyVersions": (
                self.list_crypto_key_versions,
                kms_v1.ListCryptoKeyVersionsRequest,
                kms_v1.ListCryptoKeyVersionsResponse,
            ),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE, {name: self._handler(name, *method) for name, method in methods.items()}
        )


@contextmanager
def serve(kms: GcpKms) -> Iterator[GcpKms]:
    """Serves on a port that the system picks."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((kms.handlers(),))
    kms.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield kms
    finally:
        server.stop(None).wait()
