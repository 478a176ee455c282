"""A small AWS KMS on loopback, for what moto has not: import of HMAC key material, key states, faults on purpose.

It speaks KMS's protocol (JSON 1.1 over HTTP) with KMS's error codes, unwraps imported key material with a real RSA
key, encrypts by AES-256-GCM under the encryption context, and computes real MACs. It does not verify signatures
(moto's KMS, which other tests use, does). GetCallerIdentity of STS is answered too.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import threading
import time
import uuid
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REGION, ACCOUNT = "eu-west-1", "111122223333"


class KmsError(Exception):
    """An answer other than 200."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code)
        self.code, self.message, self.status = code, message, status


@cache
def wrapping_key() -> rsa.RSAPrivateKey:
    """The RSA key that wraps what is imported; AWS makes a new one each time, which takes long here."""
    return rsa.generate_private_key(65537, 4096)


class FakeKms:
    """What the server holds and how it misbehaves.

    Attributes:
        url: where it listens.
        keys: DescribeKey's metadata, by ARN.
        material: the keys themselves, by ARN.
        aliases: ARNs by alias.
        rotating: ARNs of the keys that rotate.
        policies: key policies, by ARN.
        sizes: lengths of HMAC key material that are taken, in bytes.
        fault: for an operation the faults to answer with, each once; a fault with no end is a callable.
        answers: for an operation a function that changes the answer.
        calls: operation and parameters of each call.
        caller: the ARN that GetCallerIdentity answers.
        peers: for each call the port that it came from.
    """

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, dict[str, Any]] = {}
        self.material: dict[str, bytes] = {}
        self.aliases: dict[str, str] = {}
        self.rotating: set[str] = set()
        self.policies: dict[str, str] = {}
        self.sizes = range(32, 129)
        self.fault: dict[str, list[KmsError]] = {}
        self.answers: dict[str, Callable[[dict[str, Any]], None]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.caller = f"arn:aws:sts::{ACCOUNT}:assumed-role/importer/session"
        self.peers: list[int] = []
        self._tokens: dict[str, str] = {}

    # Set-up

    def create_key(
        self, spec: str = "SYMMETRIC_DEFAULT", *, account: str = ACCOUNT, partition: str = "aws", **more: Any
    ) -> str:
        """Makes a key with material of its own, or without where ``Origin="EXTERNAL"``; returns its ARN."""
        key_id = str(uuid.uuid4())
        arn = f"arn:{partition}:kms:{REGION}:{account}:key/{key_id}"
        external = more.get("Origin") == "EXTERNAL"
        self.keys[arn] = {
            "AWSAccountId": account, "KeyId": key_id, "Arn": arn, "KeySpec": spec, "KeyManager": "CUSTOMER",
            "KeyUsage": "ENCRYPT_DECRYPT" if spec == "SYMMETRIC_DEFAULT" else "GENERATE_VERIFY_MAC",
            "KeyState": "PendingImport" if external else "Enabled", "Origin": "AWS_KMS", "MultiRegion": False,
            "CreationDate": time.time(), "Enabled": not external, **more,
        }  # fmt: skip
        if not external:
            self.material[arn] = os.urandom(32)
        return arn

    # Operations

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        arn = self.create_key(
            asked.get("KeySpec", "SYMMETRIC_DEFAULT"),
            Origin=asked.get("Origin", "AWS_KMS"),
            Description=asked.get("Description", ""),
        )
        self.policies[arn] = asked.get("Policy", "")
        return {"KeyMetadata": self.keys[arn]}

    def describe(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"KeyMetadata": self.keys[self._find(asked["KeyId"])]}

    def list_keys(self, asked: dict[str, Any]) -> dict[str, Any]:
        arns = sorted(self.keys)
        start = int(asked.get("Marker", "0"))
        page = [{"KeyArn": arn, "KeyId": self.keys[arn]["KeyId"]} for arn in arns[start : start + 2]]
        more = start + 2 < len(arns)
        return {"Keys": page, "Truncated": more, **({"NextMarker": str(start + 2)} if more else {})}

    def create_alias(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["AliasName"] in self.aliases:
            raise KmsError("AlreadyExistsException", f"{asked['AliasName']} already exists")
        return self.update_alias(asked)

    def update_alias(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.aliases[asked["AliasName"]] = self._find(asked["TargetKeyId"])
        return {}

    def rotation(self, asked: dict[str, Any]) -> dict[str, Any]:
        arn = self._find(asked["KeyId"])
        return {"KeyId": arn, "KeyRotationEnabled": arn in self.rotating, "RotationPeriodInDays": 365}

    def encrypt(self, asked: dict[str, Any]) -> dict[str, Any]:
        arn = self._usable(asked["KeyId"])
        nonce = os.urandom(12)
        sealed = AESGCM(self.material[arn]).encrypt(nonce, base64.b64decode(asked["Plaintext"]), _context(asked))
        blob = json.dumps([arn, nonce.hex(), sealed.hex()]).encode()
        return {"KeyId": arn, "CiphertextBlob": _base64(blob)}

    def decrypt(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            arn, nonce, sealed = json.loads(base64.b64decode(asked["CiphertextBlob"]))
        except ValueError as exc:
            raise KmsError("InvalidCiphertextException") from exc
        if "KeyId" in asked and self._find(asked["KeyId"]) != arn:
            raise KmsError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
        self._usable(arn)
        try:
            plaintext = AESGCM(self.material[arn]).decrypt(bytes.fromhex(nonce), bytes.fromhex(sealed), _context(asked))
        except InvalidTag as exc:
            raise KmsError("InvalidCiphertextException") from exc
        return {"KeyId": arn, "Plaintext": _base64(plaintext), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}

    def generate_mac(self, asked: dict[str, Any]) -> dict[str, Any]:
        arn = self._usable(asked["KeyId"])
        message = base64.b64decode(asked["Message"])
        if not 1 <= len(message) <= 4096:
            raise KmsError("ValidationException", "Value at 'message' failed to satisfy constraint")
        if self.keys[arn]["KeySpec"] != "HMAC_256" or asked["MacAlgorithm"] != "HMAC_SHA_256":
            raise KmsError("InvalidKeyUsageException", f"{arn} key usage is {self.keys[arn]['KeyUsage']}")
        mac = hmac.digest(self.material[arn], message, "sha256")
        return {"KeyId": arn, "Mac": _base64(mac), "MacAlgorithm": "HMAC_SHA_256"}

    def parameters_for_import(self, asked: dict[str, Any]) -> dict[str, Any]:
        arn = self._find(asked["KeyId"])
        if self.keys[arn]["Origin"] != "EXTERNAL":
            raise KmsError(
                "UnsupportedOperationException",
                f"{arn} origin is {self.keys[arn]['Origin']} which is not valid for this operation.",
            )
        if (asked["WrappingAlgorithm"], asked["WrappingKeySpec"]) != ("RSAES_OAEP_SHA_256", "RSA_4096"):
            raise KmsError("ValidationException", "this server knows RSAES_OAEP_SHA_256 with RSA_4096 only")
        token = os.urandom(32)
        self._tokens[_base64(token)] = arn
        public = wrapping_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return {
            "KeyId": arn,
            "ImportToken": _base64(token),
            "PublicKey": _base64(public),
            "ParametersValidTo": time.time() + 86400,
        }

    def import_material(self, asked: dict[str, Any]) -> dict[str, Any]:
        arn = self._find(asked["KeyId"])
        if self._tokens.pop(asked["ImportToken"], None) != arn:
            raise KmsError("InvalidImportTokenException")
        expires = asked.get("ExpirationModel", "KEY_MATERIAL_EXPIRES") == "KEY_MATERIAL_EXPIRES"
        if expires != ("ValidTo" in asked) or (expires and not 0 < asked["ValidTo"] - time.time() <= 365 * 86400):
            raise KmsError("ValidationException", "ValidTo must be a date within the next 365 days")
        try:
            oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
            material = wrapping_key().decrypt(base64.b64decode(asked["EncryptedKeyMaterial"]), oaep)
        except ValueError as exc:
            raise KmsError("InvalidCiphertextException") from exc
        if len(material) not in self.sizes:
            raise KmsError(
                "IncorrectKeyMaterialException", f"key material of {len(material) * 8} bits does not fit HMAC_256"
            )
        if self.keys[arn].setdefault("first", material.hex()) != material.hex():
            raise KmsError("IncorrectKeyMaterialException", "The key material does not match that of the first import")
        self.material[arn] = material
        self.keys[arn].update(KeyState="Enabled", Enabled=True, **({"ValidTo": asked["ValidTo"]} if expires else {}))
        return {"KeyId": arn}

    def delete_material(self, asked: dict[str, Any]) -> dict[str, Any]:
        arn = self._find(asked["KeyId"])
        del self.material[arn]
        self.keys[arn].update(KeyState="PendingImport", Enabled=False)
        return {"KeyId": arn}

    def schedule_deletion(self, asked: dict[str, Any]) -> dict[str, Any]:
        arn = self._find(asked["KeyId"])
        date = time.time() + 86400 * asked.get("PendingWindowInDays", 30)
        self.keys[arn].update(KeyState="PendingDeletion", Enabled=False, DeletionDate=date)
        return {"KeyId": arn, "DeletionDate": date, "KeyState": "PendingDeletion"}

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Answers one call.

        Raises:
            KmsError: an error, meant or on purpose.
        """
        self.calls.append((operation, asked))
        faults = self.fault.get(operation)
        if faults:
            raise faults.pop(0)
        answer = OPERATIONS[operation](self, asked)
        answer = {
            k: {n: v for n, v in m.items() if n != "first"} if isinstance(m, dict) else m for k, m in answer.items()
        }
        if operation in self.answers:
            self.answers[operation](answer)
        return answer

    def _find(self, key: str) -> str:
        name = key.rpartition(":")[2] if key.startswith("arn:") and ":alias/" in key else key
        arn = self.aliases.get(name) or (key if key in self.keys else None)
        arn = arn or next((a for a, k in self.keys.items() if k["KeyId"] == key), None)
        if arn is None:
            raise KmsError("NotFoundException", f"Key '{key}' does not exist")
        return arn

    def _usable(self, key: str) -> str:
        arn = self._find(key)
        state = self.keys[arn]["KeyState"]
        if state == "Disabled":
            raise KmsError("DisabledException", f"{arn} is disabled.")
        if state != "Enabled":
            words = {"PendingDeletion": "pending deletion", "PendingImport": "pending import"}.get(state, state)
            raise KmsError("KMSInvalidStateException", f"{arn} is {words}.")
        return arn


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _context(asked: dict[str, Any]) -> bytes:
    return json.dumps(asked.get("EncryptionContext", {}), sort_keys=True).encode()


OPERATIONS: dict[str, Callable[[FakeKms, dict[str, Any]], dict[str, Any]]] = {
    "CreateAlias": FakeKms.create_alias,
    "CreateKey": FakeKms.create,
    "Decrypt": FakeKms.decrypt,
    "DeleteImportedKeyMaterial": FakeKms.delete_material,
    "DescribeKey": FakeKms.describe,
    "Encrypt": FakeKms.encrypt,
    "GenerateMac": FakeKms.generate_mac,
    "GetKeyRotationStatus": FakeKms.rotation,
    "GetParametersForImport": FakeKms.parameters_for_import,
    "ImportKeyMaterial": FakeKms.import_material,
    "ListKeys": FakeKms.list_keys,
    "ScheduleKeyDeletion": FakeKms.schedule_deletion,
    "UpdateAlias": FakeKms.update_alias,
}


@contextmanager
def serve(kms: FakeKms) -> Iterator[FakeKms]:
    """Serves on a port that the system picks."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if b"Action=GetCallerIdentity" in body:
                text = (
                    '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
                    f"<Arn>{kms.caller}</Arn><UserId>AROA:session</UserId><Account>{kms.caller.split(':')[4]}</Account>"
                    "</GetCallerIdentityResult></GetCallerIdentityResponse>"
                )
                self._send(200, text.encode(), "text/xml")
                return
            kms.peers.append(self.client_address[1])
            operation = self.headers["X-Amz-Target"].removeprefix("TrentService.")
            try:
                answer, status = kms.answer(operation, json.loads(body)), 200
            except KmsError as fault:
                answer, status = {"__type": fault.code, "message": fault.message}, fault.status
            self._send(status, json.dumps(answer).encode(), "application/x-amz-json-1.1")

        def _send(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        kms.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield kms
        finally:
            server.shutdown()
            thread.join()
