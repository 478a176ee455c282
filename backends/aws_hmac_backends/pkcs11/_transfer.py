"""A key for this token, wrapped on a machine that needs none: RSA-OAEP of an AES key, and AES-KWP (RFC 5649).

The key pair that unwraps lives from the offer to the receipt: whoever holds it, the PIN and the wrapped key could
unwrap it a second time, and then as a key that may be read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING, Any

import pkcs11
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass

from aws_hmac.backend import shorten
from aws_hmac.errors import AuthenticationError, ConfigError, KeyMismatchError, UnsupportedError
from aws_hmac_backends.pkcs11 import _import, _modules, _tokens
from aws_hmac_backends.pkcs11._errors import map_exceptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_hmac.uri import KeyURI

LABEL = "aws-hmac transfer"
"""CKA_LABEL of the key pairs; their CKA_ID is the beginning of their name."""

POLICY = "used after login"
"""What a token asks for."""

RSA_BITS = 3072
"""Size of the key pair: 128 bits of security (NIST SP 800-57, part 1, table 2)."""

KEY_SIZE = 32
"""Bytes to which a shorter HMAC key is filled with zeros, which some tokens want and no HMAC notices."""

_OAEP = {"mechanism": Mechanism.RSA_PKCS_OAEP, "mechanism_param": (Mechanism.SHA_1, MGF.SHA1, None)}
"""With SHA-1, as every module takes it (SoftHSM takes no other); OAEP does not rest on its collision resistance."""

_NOTHING = {
    Attribute.ENCRYPT: False,
    Attribute.DECRYPT: False,
    Attribute.SIGN: False,
    Attribute.VERIFY: False,
    Attribute.WRAP: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}
_KWP = (Mechanism.AES_KEY_WRAP_KWP, Mechanism.AES_KEY_WRAP_PAD)
"""The name of PKCS#11 3.0, and that of 2.40 by which many modules mean the same."""


def offer(uri: KeyURI) -> dict[str, str]:
    """Makes a key pair and returns its public half, and its name: the SHA-256 of the SubjectPublicKeyInfo.

    Raises:
        UnsupportedError: the token unwraps no keys so.
    """
    name = uri.identity
    connection, _ = _tokens.find_keys(uri, name)
    try:
        with _modules.DEVICE, map_exceptions(name):
            there = connection.token.slot.get_mechanisms()
            if Mechanism.RSA_PKCS_OAEP not in there or not set(_KWP) & set(there):
                raise UnsupportedError(f"{name}: the token does not unwrap by RSA-OAEP and AES-KWP; use key import")
            session = connection.token.open(rw=True, attribute_mapper=_tokens.MAPPER)
            try:
                return _make_pair(session, name)
            finally:
                with suppress(pkcs11.PKCS11Error):
                    session.close()
    finally:
        with _modules.DEVICE:
            connection.release()


def _make_pair(session: Any, name: str) -> dict[str, str]:
    secret = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}
    try:
        public, private = session.generate_keypair(
            KeyType.RSA,
            RSA_BITS,
            store=True,
            label=LABEL,
            public_template={
                Attribute.WRAP: True,
                **dict.fromkeys((Attribute.ENCRYPT, Attribute.VERIFY), False),
            },
            private_template={
                Attribute.UNWRAP: True,
                **dict.fromkeys((Attribute.DECRYPT, Attribute.SIGN), False),
                **secret,
            },
        )
    except pkcs11.UserNotLoggedIn as exc:
        raise AuthenticationError(f"{name}: the token makes keys only after login; add ?pin-source=…") from exc
    spki = _spki(public)
    called = hashlib.sha256(spki).hexdigest()
    for half in (public, private):
        half[Attribute.ID] = bytes.fromhex(called)[:16]
    return {"name": called, "policy": POLICY, "public": base64.b64encode(spki).decode(), "password": "no"}


def wrap(given: Mapping[str, str], key: bytes, *, expect_name: str, password: bytes | None) -> str:
    """Wraps a key to an offered public key; see `Pkcs11Backend.transfer_wrap`."""
    try:
        if not key:
            raise ConfigError("the key is empty")
        if password is not None:
            raise ConfigError("a key on a PKCS#11 token has no password of its own; leave --auth-source out")
        public, spki = _offered(given)
        if given.get("policy") != POLICY:
            raise ConfigError("the offer is damaged: a PKCS#11 token has no such policy")
        called = hashlib.sha256(spki).hexdigest()
        if expect_name.lower().replace(":", "") != called:
            raise KeyMismatchError(
                f"the offered key has the name {called}, not the expected one; ask the token's owner for it"
            )
        once = secrets.token_bytes(32)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - see _OAEP
        parts = {
            "aes_key": public.encrypt(once, oaep),
            "key": aes_key_wrap_with_padding(once, shorten(key).ljust(KEY_SIZE, b"\0")),
        }
        return json.dumps({"name": called} | {k: base64.b64encode(v).decode() for k, v in parts.items()})
    finally:
        del key  # tracebacks show what frames hold


def receive(uri: KeyURI, wrapped: str, *, overwrite: bool, label: str | None) -> KeyURI:
    """Unwraps a key in the token; see `Pkcs11Backend.transfer_receive`."""
    name = uri.identity
    try:
        found = json.loads(wrapped)
        called = str(found["name"])
        aes_key, key = (base64.b64decode(found[part], validate=True) for part in ("aes_key", "key"))
        pair = bytes.fromhex(called)[:16]
    except (KeyError, TypeError, ValueError, binascii.Error) as exc:
        raise ConfigError("the wrapped key is damaged") from exc

    def make(session: Any) -> Any:
        halves = list(session.get_objects({Attribute.LABEL: LABEL, Attribute.ID: pair}))
        private = next((h for h in halves if h.object_class == ObjectClass.PRIVATE_KEY), None)
        public = next((h for h in halves if h.object_class == ObjectClass.PUBLIC_KEY), None)
        if private is None or public is None or hashlib.sha256(_spki(public)).hexdigest() != called:
            raise KeyMismatchError(
                f"{name}: the wrapped key is for a key pair named {called}, which this token does not hold:"
                " another token, or it was received already"
            )
        made = _unwrap(session, private, aes_key, key, uri, label)
        for half in halves:
            half.destroy()
        return made

    return _import.place(uri, make, overwrite=overwrite)


def _unwrap(session: Any, private: Any, aes_key: bytes, key: bytes, uri: KeyURI, label: str | None) -> Any:
    """Unwraps in the first way that the token takes; the AES key lives in this session alone."""
    refusals: list[str] = []
    last: pkcs11.PKCS11Error | None = None
    usable = set(session.token.slot.get_mechanisms())
    once = private.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.AES,
        aes_key,
        template=_NOTHING
        | {Attribute.TOKEN: False, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.UNWRAP: True},
        **_OAEP,
    )
    try:
        for mechanism, optional, key_type in product(_KWP, _import.optional_attributes(uri, label), _tokens.KEY_TYPES):
            if mechanism not in usable:
                continue
            template = {k: v for k, v in (_import.MUST | optional).items() if k is not Attribute.CLASS}
            try:
                made = once.unwrap_key(
                    ObjectClass.SECRET_KEY, KeyType(key_type), key, mechanism=mechanism, store=True, template=template
                )
            except _import.NOT_THIS_WAY as exc:
                last = exc
                refusals.append(type(exc).__name__)
                continue
            if made[Attribute.SENSITIVE] and not made[Attribute.EXTRACTABLE]:
                return made
            made.destroy()
            refusals.append("a key that can be read")
    finally:
        once.destroy()
    raise UnsupportedError(
        f"{uri.identity}: the token unwraps no HMAC key; it answered {', '.join(dict.fromkeys(refusals))}"
    ) from last


def _spki(public: Any) -> bytes:
    numbers = rsa.RSAPublicNumbers(
        int.from_bytes(public[Attribute.PUBLIC_EXPONENT], "big"), int.from_bytes(public[Attribute.MODULUS], "big")
    )
    return numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _offered(given: Mapping[str, str]) -> tuple[rsa.RSAPublicKey, bytes]:
    try:
        spki = base64.b64decode(given["public"], validate=True)
        public = load_der_public_key(spki)
    except (KeyError, ValueError, binascii.Error) as exc:
        raise ConfigError("the offer is damaged: it holds no public key") from exc
    if not isinstance(public, rsa.RSAPublicKey) or public.key_size < 2048:
        raise ConfigError("the offer is damaged: it holds no RSA public key of 2048 bits or more")
    return public, public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
