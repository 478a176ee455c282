"""The payload's hash: the last line of the canonical request, and the header ``x-amz-content-sha256``."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from aws_hmac.errors import SigningError

if TYPE_CHECKING:
    from typing import BinaryIO, TypeAlias

    Body: TypeAlias = "bytes | bytearray | memoryview | str | BinaryIO | PayloadHash | None"

CHUNK = 1 << 20
"""Bytes that are read from a file at once."""

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""Hexadecimal SHA-256 of nothing."""


class PayloadHash(str):
    """What stands for the payload in the canonical request, given in place of a body: a marker, or a hash."""

    __slots__ = ()


UNSIGNED_PAYLOAD = PayloadHash("UNSIGNED-PAYLOAD")
"""The payload is not signed (S3: only https then keeps it from being changed)."""


def payload_hash(body: Body) -> str:
    """Returns the hexadecimal SHA-256 of a body.

    Args:
        body: bytes; text, which is sent as UTF-8; a binary file, which is read to its end from where it stands
            and put back there; a `PayloadHash`, which is returned as it is; or None for nothing.

    Raises:
        SigningError: it is none of these, or a file that cannot be put back.
    """
    if isinstance(body, bytes):
        return sha256(body).hexdigest() if body else EMPTY_SHA256
    if body is None:
        return EMPTY_SHA256
    if isinstance(body, PayloadHash):
        return str(body)
    if isinstance(body, str):
        try:
            return sha256(body.encode()).hexdigest()
        except UnicodeEncodeError as exc:
            raise SigningError("body: the text holds a lone surrogate, which UTF-8 does not know") from exc
    if isinstance(body, (bytearray, memoryview)):
        return sha256(body).hexdigest()
    if not hasattr(body, "read"):
        raise SigningError(
            f"body: must be bytes, text, a binary file or a payload marker, and is of type {type(body).__name__}"
        )
    try:
        start = body.tell()
        body.seek(start)
    except (AttributeError, OSError, ValueError) as exc:
        raise SigningError(
            "body: the stream cannot be put back to where it was, so it cannot be hashed before it is sent;"
            " give UNSIGNED_PAYLOAD or a PayloadHash instead, or sign it in chunks"
        ) from exc
    digest = sha256()
    try:
        while chunk := body.read(CHUNK):
            digest.update(chunk)
    except TypeError as exc:
        raise SigningError("body: the file was opened as text; open it in binary mode") from exc
    finally:
        body.seek(start)
    return digest.hexdigest()
