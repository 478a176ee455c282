"""Tink's encrypted keysets, JSON and binary, with one HMAC-SHA256 key and no other."""

from __future__ import annotations

import io
import secrets
from typing import TYPE_CHECKING

import tink
from google.protobuf.message import DecodeError
from tink import proto_keyset_format, secret_key_access
from tink.proto import common_pb2, hmac_pb2, tink_pb2

from aws_hmac.backend import MAC_SIZE
from aws_hmac.errors import Error, KeyMismatchError, KeyNotFoundError, KeyPolicyError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .keks import Kek

TYPE_URL = "type.googleapis.com/google.crypto.tink.HmacKey"

MIN_KEY_SIZE = 16
"""Bytes of an HmacKey at least: what Tink in every language demands. Zeros at the end change no HMAC (RFC 2104)."""


def is_json(content: bytes) -> bool:
    """Tells whether a keyset file is JSON: a binary keyset begins with a field number instead."""
    return content.lstrip()[:1] == b"{"


def read_encrypted(content: bytes, name: str) -> bytes:
    """Returns the wrapped keyset in a file.

    Raises:
        KeyMismatchError: it is no encrypted keyset, or one in the clear.
    """
    # First: in binary, a keyset in the clear reads as an encrypted one, and would be sent to the KMS as it is.
    if _is_clear(content):
        raise KeyMismatchError(
            f"{name}: the file holds a keyset in the clear, so its secret is known to whoever read it:"
            " make a new access key and import that"
        )
    try:
        wrapped = bytes(_reader(content).read_encrypted().encrypted_keyset)
    except (tink.TinkError, UnicodeDecodeError):
        wrapped = b""
    if not wrapped:
        raise KeyMismatchError(
            f"{name}: the file is no encrypted Tink keyset, JSON or binary: cut off, changed, or another file"
        )
    return wrapped


def unwrap(wrapped: bytes, keks: Sequence[Kek], associated_data: bytes, name: str) -> tink_pb2.Keyset:
    """Returns the keyset that the first of these KEKs unwraps that can.

    Raises:
        KeyMismatchError: what was unwrapped is no keyset.
        Error: what the first KEK said, if none can.
    """
    first: Error | None = None
    for kek in keks:
        try:
            return parse(kek.decrypt(wrapped, associated_data), kek.kek_uri, name)
        except (KeyMismatchError, KeyNotFoundError, KeyPolicyError) as exc:
            first = first or exc
    assert first is not None, "no KEK was given"
    raise first


def parse(plaintext: bytes, kek_uri: str, name: str) -> tink_pb2.Keyset:
    """Returns the keyset that was unwrapped.

    Raises:
        KeyMismatchError: it is none.
    """
    try:
        return tink_pb2.Keyset.FromString(plaintext)
    except DecodeError:
        # "from None": the exception may quote the plaintext.
        raise KeyMismatchError(f"{name}: {kek_uri} unwraps the file, but to something that is no keyset") from None


def wrap(keyset: tink_pb2.Keyset, kek: Kek, associated_data: bytes, *, json: bool) -> bytes:
    """Returns the file's content: the keyset, wrapped by Tink's own writer, which also unwraps it once to see.

    Raises:
        Error: the KEK's.
    """
    handle = proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    if json:
        text = io.StringIO()
        handle.write_with_associated_data(tink.JsonKeysetWriter(text), kek, associated_data)
        return text.getvalue().encode()
    binary = io.BytesIO()
    handle.write_with_associated_data(tink.BinaryKeysetWriter(binary), kek, associated_data)
    return binary.getvalue()


def new_keyset(key: bytes) -> tink_pb2.Keyset:
    """Returns a keyset of one HMAC key: SHA256, 32-byte tag, RAW."""
    hmac_key = hmac_pb2.HmacKey(
        version=0,
        key_value=key.ljust(MIN_KEY_SIZE, b"\0"),
        params=hmac_pb2.HmacParams(hash=common_pb2.SHA256, tag_size=MAC_SIZE),
    )
    key_id = secrets.randbelow(2**31 - 1) + 1  # Java reads key ids as signed
    keyset = tink_pb2.Keyset(primary_key_id=key_id)
    keyset.key.add(
        key_data=tink_pb2.KeyData(
            type_url=TYPE_URL,
            value=hmac_key.SerializeToString(),
            key_material_type=tink_pb2.KeyData.SYMMETRIC,
        ),
        status=tink_pb2.ENABLED,
        key_id=key_id,
        output_prefix_type=tink_pb2.RAW,
    )
    return keyset


def hmac_key(keyset: tink_pb2.Keyset, name: str) -> bytes:
    """Returns the one key of a keyset.

    Raises:
        UnsupportedError: it is not a single HmacKey with SHA256, a 32-byte tag and no prefix; says what it is.
        KeyPolicyError: the key is disabled.
        KeyMismatchError: it contradicts itself.
    """
    if len(keyset.key) != 1:
        ids = ", ".join(str(key.key_id) for key in keyset.key) or "none"
        raise UnsupportedError(
            f"{name}: the keyset holds {len(keyset.key)} keys ({ids}); one is wanted, or nobody knows which signs"
        )
    (key,) = keyset.key
    status = _enum(tink_pb2.KeyStatusType, key.status)
    if status != "ENABLED":
        raise KeyPolicyError(f"{name}: key {key.key_id} of the keyset is {status}; enable it with tinkey enable-key")
    if key.key_id != keyset.primary_key_id:
        raise KeyMismatchError(
            f"{name}: the keyset's primary key is {keyset.primary_key_id}, but it holds only {key.key_id}"
        )
    if key.key_data.type_url != TYPE_URL:
        kind = key.key_data.type_url.rpartition(".")[2] or "unnamed type"
        raise UnsupportedError(f"{name}: key {key.key_id} of the keyset is of type {kind}; HmacKey is wanted")
    prefix = _enum(tink_pb2.OutputPrefixType, key.output_prefix_type)
    if prefix != "RAW":
        raise UnsupportedError(
            f"{name}: key {key.key_id} of the keyset has the prefix {prefix}, which changes the MAC; RAW is wanted"
        )
    try:
        hmac_key = hmac_pb2.HmacKey.FromString(key.key_data.value)
    except DecodeError:
        # "from None": the exception may quote the key.
        raise KeyMismatchError(f"{name}: key {key.key_id} of the keyset cannot be read as an HmacKey") from None
    hash_name = _enum(common_pb2.HashType, hmac_key.params.hash)
    if hmac_key.version != 0:
        raise UnsupportedError(f"{name}: key {key.key_id} of the keyset has version {hmac_key.version}; 0 is wanted")
    if hash_name != "SHA256":
        raise UnsupportedError(f"{name}: key {key.key_id} of the keyset uses {hash_name}; SHA256 is wanted")
    if hmac_key.params.tag_size != MAC_SIZE:
        raise UnsupportedError(
            f"{name}: key {key.key_id} of the keyset has a tag size of {hmac_key.params.tag_size} bytes;"
            f" {MAC_SIZE} are wanted"
        )
    if len(hmac_key.key_value) < MIN_KEY_SIZE:
        raise UnsupportedError(
            f"{name}: key {key.key_id} of the keyset has {len(hmac_key.key_value)} bytes; {MIN_KEY_SIZE} is the least"
        )
    return bytes(hmac_key.key_value)


def _reader(content: bytes) -> tink.KeysetReader:
    return tink.JsonKeysetReader(content.decode()) if is_json(content) else tink.BinaryKeysetReader(content)


def _is_clear(content: bytes) -> bool:
    try:
        return any(key.key_data.type_url.startswith("type.") for key in _reader(content).read().key)
    except (tink.TinkError, UnicodeDecodeError):
        return False


def _enum(kind: object, value: int) -> str:
    try:
        return str(kind.Name(value))  # type: ignore[attr-defined] # protobuf's enum wrapper, untyped here
    except ValueError:
        return f"number {value}"
