"""The Transit engine, as far as HMACs need it (developer.hashicorp.com/vault/api-docs/secret/transit)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

HMAC_SIZES = range(32, 513)
NAME = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA1": hashes.SHA1(),
    "SHA256": hashes.SHA256(),
    "SHA384": hashes.SHA384(),
    "SHA512": hashes.SHA512(),
}


class RefusedError(Exception):
    """An answer that is an error.

    Args:
        status: the HTTP status.
        text: the one error.
        bare: False where Vault wraps it in "1 error occurred".
    """

    def __init__(self, status: int, text: str, *, bare: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.text = text if bare else f"1 error occurred:\n\t* {text}\n\n"


def bad_request(text: str) -> RefusedError:
    return RefusedError(400, text, bare=True)


_wrapping: list[rsa.RSAPrivateKey] = []


def use_wrapping_key(pem: bytes) -> None:
    """Takes a wrapping key that exists, as making one takes seconds."""
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    _wrapping[:] = [key]


def _wrapping_key() -> rsa.RSAPrivateKey:
    if not _wrapping:
        _wrapping.append(rsa.generate_private_key(public_exponent=65537, key_size=4096))
    return _wrapping[0]


@dataclass
class Key:
    name: str
    type: str
    keys: dict[int, bytes] = field(default_factory=dict)
    created: dict[int, int] = field(default_factory=dict)
    latest: int = 0
    imported: bool = False
    allow_rotation: bool = False
    exportable: bool = False
    allow_plaintext_backup: bool = False
    deletion_allowed: bool = False
    derived: bool = False
    auto_rotate_period: int = 0
    min_decryption: int = 1
    min_encryption: int = 0
    min_available: int = 0

    def add(self, material: bytes) -> None:
        self.latest += 1
        self.keys[self.latest] = material
        self.created[self.latest] = int(time.time())

    def describe(self) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "derived": self.derived,
            "deletion_allowed": self.deletion_allowed,
            "min_available_version": self.min_available,
            "min_decryption_version": self.min_decryption,
            "min_encryption_version": self.min_encryption,
            "latest_version": self.latest,
            "exportable": self.exportable,
            "allow_plaintext_backup": self.allow_plaintext_backup,
            "supports_encryption": self.type != "hmac",
            "supports_decryption": self.type != "hmac",
            "supports_signing": False,
            "supports_derivation": self.type != "hmac",
            "auto_rotate_period": self.auto_rotate_period,
            "imported_key": self.imported,
            "keys": {str(n): t for n, t in self.created.items() if n >= self.min_decryption},
        }
        if self.type == "hmac":
            answer["key_size"] = len(self.keys[self.latest])
        if self.imported:
            answer["imported_key_allow_rotation"] = self.allow_rotation
        return answer


class Transit:
    """One mount."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}

    def handle(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Answers one request; None is "204 No Content"."""
        parts = path.split("/")
        if path in ("keys", "keys/") and method == "LIST":
            if not self.keys:
                raise RefusedError(404, "", bare=True)
            return {"keys": sorted(self.keys)}
        if path == "wrapping_key" and method == "GET":
            public = _wrapping_key().public_key()
            pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            return {"public_key": pem.decode()}
        if len(parts) < 2 or not NAME.fullmatch(parts[1 if parts[0] != "export" else min(2, len(parts) - 1)]):
            raise RefusedError(404, "unsupported path")
        match (method, parts):
            case ("POST", ["hmac", name, *algorithm]):
                return self.hmac(name, (algorithm or [body.get("algorithm", "sha2-256")])[0], body)
            case ("GET", ["keys", name]):
                key = self.keys.get(name)
                if key is None:
                    raise RefusedError(404, "", bare=True)
                return key.describe()
            case ("POST", ["keys", name]):
                if name not in self.keys:
                    key = Key(name, body.get("type", "aes256-gcm96"))
                    for flag in ("exportable", "allow_plaintext_backup"):
                        setattr(key, flag, bool(body.get(flag)))
                    key.add(os.urandom(int(body.get("key_size") or 32)))
                    self.keys[name] = key
                return self.keys[name].describe()
            case ("DELETE", ["keys", name]):
                key = self.keys.get(name)
                if key is None:
                    raise bad_request(f"error deleting policy {name}: could not delete key; not found")
                if not key.deletion_allowed:
                    raise bad_request(f"error deleting policy {name}: deletion is not allowed for this key")
                del self.keys[name]
                return None
            case ("POST", ["keys", name, "import"]):
                self.import_key(name, body)
                return None
            case ("POST", ["keys", name, "import_version"]):
                self.import_version(name, body)
                return None
            case ("POST", ["keys", name, "config"]):
                return self.config(name, body)
            case ("POST", ["keys", name, "rotate"]):
                return self.rotate(name)
            case ("GET", ["export", "hmac-key", name, *_]):
                key = self.keys.get(name)
                if key is None:
                    raise RefusedError(404, "", bare=True)
                if not key.exportable:
                    raise bad_request("private key material is not exportable")
                return {
                    "name": name,
                    "type": key.type,
                    "keys": {str(n): base64.b64encode(k).decode() for n, k in key.keys.items()},
                }
            case ("GET", ["backup", name]):
                key = self.keys.get(name)
                if key is None or not key.exportable:
                    raise RefusedError(500, "exporting is disallowed on the policy")
                if not key.allow_plaintext_backup:
                    raise RefusedError(500, "plaintext backup is disallowed on the policy")
                return {"backup": base64.b64encode(key.keys[key.latest]).decode()}
        raise RefusedError(405, "unsupported operation")

    def hmac(self, name: str, algorithm: str, body: dict[str, Any]) -> dict[str, Any]:
        key = self.keys.get(name)
        if key is None:
            raise bad_request("encryption key not found")
        version = int(body.get("key_version") or 0) or key.latest
        if version != key.latest and 0 < version < key.min_encryption:
            raise bad_request("cannot generate HMAC: version is too old (disallowed by policy)")
        if version > key.latest:
            raise bad_request(f"key version does not exist; latest key version is {key.latest}")
        if version < key.min_decryption or version not in key.keys:
            raise bad_request("no such key version")
        if algorithm not in ("sha2-224", "sha2-256", "sha2-384", "sha2-512"):
            raise bad_request("unsupported algorithm")
        # Any other type has an HMAC key of its own, drawn at random: the trap that a client must refuse.
        material = key.keys[version] if key.type == "hmac" else hashlib.sha256(key.keys[version] + b"hmac").digest()

        def one(item: dict[str, Any]) -> str:
            if "input" not in item:
                raise bad_request("missing input for HMAC")
            try:
                message = base64.b64decode(item["input"], validate=True)
            except (binascii.Error, TypeError):
                raise bad_request("unable to decode input as base64: illegal base64 data at input byte 0") from None
            mac = hmac.digest(material, message, algorithm.replace("sha2-", "sha"))
            return f"vault:v{version}:{base64.b64encode(mac).decode()}"

        if "batch_input" in body:
            return {"batch_results": [{"hmac": one(item), "reference": ""} for item in body["batch_input"]]}
        return {"hmac": one(body)}

    def _unwrap(self, body: dict[str, Any]) -> bytes:
        try:
            blob = base64.b64decode(body.get("ciphertext", ""), validate=True)
        except binascii.Error:
            raise RefusedError(500, "illegal base64 data at input byte 0") from None
        if len(blob) <= 512:
            raise RefusedError(500, "provided ciphertext is too short")
        name = str(body.get("hash_function", "SHA256")).upper()
        if name not in _HASHES:
            raise bad_request(f"unknown hash function: {name}")
        oaep = padding.OAEP(mgf=padding.MGF1(_HASHES[name]), algorithm=_HASHES[name], label=None)
        try:
            ephemeral = _wrapping_key().decrypt(blob[:512], oaep)
        except ValueError:
            raise RefusedError(500, "crypto/rsa: decryption error") from None
        if len(ephemeral) != 32:
            raise RefusedError(500, "expected ephemeral AES key to be 256-bit")
        try:
            return keywrap.aes_key_unwrap_with_padding(ephemeral, blob[512:])
        except (keywrap.InvalidUnwrap, InvalidSignature, ValueError):
            raise RefusedError(500, "unwrap failed: integrity check failed") from None

    def _material(self, kind: str, body: dict[str, Any]) -> bytes:
        material = self._unwrap(body)
        if (kind == "hmac" and len(material) not in HMAC_SIZES) or (kind == "aes256-gcm96" and len(material) != 32):
            raise RefusedError(500, f"invalid key size {len(material)} bytes for key type {kind}")
        return material

    def import_key(self, name: str, body: dict[str, Any]) -> None:
        kind = str(body.get("type", "aes256-gcm96")).lower()
        if kind not in ("hmac", "aes256-gcm96"):
            raise bad_request(f"unknown key type: {kind}")
        if body.get("auto_rotate_period") and not body.get("allow_rotation"):
            raise RefusedError(500, "allow_rotation must be set to true if auto-rotation is enabled")
        if name in self.keys:
            raise RefusedError(
                500,
                "the import path cannot be used with an existing key; use import-version to rotate an existing"
                " imported key",
            )
        key = Key(name, kind, imported=True)
        for flag in ("allow_rotation", "exportable", "allow_plaintext_backup", "derived"):
            setattr(key, flag, bool(body.get(flag)))
        key.auto_rotate_period = int(body.get("auto_rotate_period") or 0)
        key.add(self._material(kind, body))
        self.keys[name] = key

    def import_version(self, name: str, body: dict[str, Any]) -> None:
        key = self.keys.get(name)
        if key is None:
            raise RefusedError(500, f"no key found with name {name}; to import a new key, use the import/ endpoint")
        if not key.imported:
            raise RefusedError(500, "the import_version endpoint can only be used with an imported key")
        key.add(self._material(key.type, body))

    def config(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        key = self.keys.get(name)
        if key is None:
            raise bad_request(f"no existing key named {name} could be found")
        decryption = int(body.get("min_decryption_version", key.min_decryption)) or 1
        encryption = int(body.get("min_encryption_version", key.min_encryption))
        for word, value in (("decryption", decryption), ("encryption", encryption)):
            if value < 0:
                raise bad_request(f"min {word} version cannot be negative")
            if value > key.latest:
                raise bad_request(f"cannot set min {word} version of {value}, latest key version is {key.latest}")
        if 0 < encryption < decryption:
            raise bad_request(
                f"cannot set min encryption/decryption values; min encryption version of {encryption} must be greater"
                f" than or equal to min decryption version of {decryption}"
            )
        period = int(body.get("auto_rotate_period", key.auto_rotate_period))
        if 0 < period < 3600:
            raise bad_request("auto rotate period must be 0 to disable or at least an hour")
        key.min_decryption, key.min_encryption, key.auto_rotate_period = decryption, encryption, period
        key.deletion_allowed = bool(body.get("deletion_allowed", key.deletion_allowed))
        key.exportable |= bool(body.get("exportable"))  # once set, these cannot be unset
        key.allow_plaintext_backup |= bool(body.get("allow_plaintext_backup"))
        return key.describe()

    def rotate(self, name: str) -> dict[str, Any]:
        key = self.keys.get(name)
        if key is None:
            raise bad_request("key not found")
        if key.imported and not key.allow_rotation:
            raise RefusedError(500, f"imported key {name} does not allow rotation within Vault")
        key.add(os.urandom(len(key.keys[key.latest])))
        key.imported = False
        return key.describe()
