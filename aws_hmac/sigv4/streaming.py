"""Bodies that are signed chunk by chunk while they are sent, and event-stream messages.

"Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks" and "… Including
Trailing Headers" (Amazon S3 API Reference); "Signing Event Stream messages" (Amazon Transcribe Developer Guide).
Each signature covers the one before it, so that no chunk can be left out, doubled or moved. Memory is constant.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from hashlib import sha1, sha256
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aws_hmac.errors import SigningError
from aws_hmac.sigv4.payload import EMPTY_SHA256, PayloadHash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO, TypeAlias

    from aws_hmac.sigv4.signature import SigningKey

    StreamBody: TypeAlias = "bytes | bytearray | memoryview | BinaryIO | Iterable[bytes]"

STREAMING_PAYLOAD = PayloadHash("STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
"""Each chunk is signed."""

STREAMING_PAYLOAD_TRAILER = PayloadHash("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER")
"""Each chunk is signed, and a checksum after the last."""

STREAMING_UNSIGNED_PAYLOAD_TRAILER = PayloadHash("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
"""Nothing of the body is signed; a checksum follows it."""

STREAMING_EVENTS = PayloadHash("STREAMING-AWS4-HMAC-SHA256-EVENTS")
"""The body is a stream of signed event-stream messages."""

CHUNK_SIZE = 65536
"""Bytes of a chunk. All but the last must be equal, and of 8 KiB at least."""

MIN_CHUNK_SIZE = 8192

_SIGNATURE_LENGTH = 64


class Checksum(Protocol):
    """What computes a checksum: an object of hashlib, or one like it."""

    @property
    def name(self) -> str:
        """As S3 calls it."""

    @property
    def digest_size(self) -> int:
        """Bytes of the checksum."""

    def update(self, data: bytes, /) -> None:
        """Takes in more bytes."""

    def digest(self) -> bytes:
        """Returns the checksum of all bytes taken in."""


class _Crc32:
    name = "crc32"
    digest_size = 4

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


CHECKSUMS: dict[str, Callable[[], Checksum]] = {
    "crc32": _Crc32,
    "sha1": lambda: sha1(usedforsecurity=False),
    "sha256": sha256,
}
"""Checksums that need no other package, by S3's names (``x-amz-checksum-<name>``)."""


class Trailer(NamedTuple):
    """A checksum that follows the body.

    Attributes:
        name: of the trailing header, as ``x-amz-checksum-crc32``.
        length: characters of its value.
        make: makes what computes it, anew for each time that the body is sent.
    """

    name: str
    length: int
    make: Callable[[], Checksum]


def trailer_for(checksum: str | Callable[[], Checksum]) -> Trailer:
    """Returns the trailer for a checksum.

    Args:
        checksum: one of `CHECKSUMS`, or what makes an object like hashlib's, with ``name``, ``digest_size``,
            ``update()`` and ``digest()`` (for crc32c or crc64nvme, from a package of your choice).

    Raises:
        SigningError: there is none of this name.
    """
    if isinstance(checksum, str):
        if checksum not in CHECKSUMS:
            raise SigningError(
                f"checksum: {checksum!r} is not built in; there are {', '.join(CHECKSUMS)},"
                " and for others give what makes an object with name, digest_size, update() and digest()"
            )
        checksum = CHECKSUMS[checksum]
    if not callable(checksum):
        raise SigningError(f"checksum: must be a name or make an object, and is of type {type(checksum).__name__}")
    made = checksum()
    return Trailer(f"x-amz-checksum-{made.name}", 4 * -(-made.digest_size // 3), checksum)


def chunk_string_to_sign(amz_date: str, scope: str, previous_signature: str, chunk: bytes) -> str:
    """Returns the string to sign of a chunk; the first follows the signature of the headers."""
    digest = sha256(chunk).hexdigest() if chunk else EMPTY_SHA256
    return f"AWS4-HMAC-SHA256-PAYLOAD\n{amz_date}\n{scope}\n{previous_signature}\n{EMPTY_SHA256}\n{digest}"


def trailer_string_to_sign(amz_date: str, scope: str, previous_signature: str, name: str, value: str) -> str:
    """Returns the string to sign of a trailing header, which follows the last, empty, chunk."""
    digest = sha256(f"{name}:{value}\n".encode()).hexdigest()
    return f"AWS4-HMAC-SHA256-TRAILER\n{amz_date}\n{scope}\n{previous_signature}\n{digest}"


def event_string_to_sign(amz_date: str, scope: str, previous_signature: str, headers: bytes, payload: bytes) -> str:
    """Returns the string to sign of an event-stream message.

    Args:
        amz_date: the message's own time.
        scope: that time's credential scope.
        previous_signature: that of the message before; that of the request for the first.
        headers: the message's encoded headers, ``:date``.
        payload: its payload, itself an encoded message; empty for the last.
    """
    return (
        f"AWS4-HMAC-SHA256-PAYLOAD\n{amz_date}\n{scope}\n{previous_signature}\n"
        f"{sha256(headers).hexdigest()}\n{sha256(payload).hexdigest()}"
    )


def event_date_header(milliseconds: int) -> bytes:
    """Encodes the header ``:date``: name, type 8 (timestamp), milliseconds since 1970."""
    return b"\x05:date\x08" + struct.pack(">q", milliseconds)


def event_message(headers: bytes, payload: bytes) -> bytes:
    """Encodes an event-stream message: lengths, their CRC-32, headers, payload, CRC-32 of all."""
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


def signed_event(headers: bytes, payload: bytes, signature: str) -> bytes:
    """Encodes a signed event-stream message: the signature is its header ``:chunk-signature``, 32 bytes (type 6)."""
    return event_message(headers + b"\x10:chunk-signature\x06\x00\x20" + binascii.unhexlify(signature), payload)


def encoded_length(length: int, chunk_size: int, *, signed: bool, trailer: Trailer | None) -> int:
    """Returns the Content-Length of a body of `length` bytes once it is cut into chunks."""
    extra = len(";chunk-signature=") + _SIGNATURE_LENGTH if signed else 0
    whole, rest = divmod(length, chunk_size)
    total = whole * (len(f"{chunk_size:x}") + extra + 4 + chunk_size)
    if rest:
        total += len(f"{rest:x}") + extra + 4 + rest
    total += len("0") + extra + 2  # the last chunk
    if trailer is not None:
        total += len(trailer.name) + 1 + trailer.length + 2
        if signed:
            total += len("x-amz-trailer-signature:") + _SIGNATURE_LENGTH + 2
    return total + 2


class ChunkSigner:
    """The signatures of one body's chunks, each of which covers the one before.

    Args:
        key: kSigning, kept until the stream ends, also across midnight.
        amz_date: the request's date.
        scope: its credential scope.
        seed_signature: the signature of its headers.
    """

    def __init__(self, key: SigningKey, amz_date: str, scope: str, seed_signature: str) -> None:
        self._key = key
        self._amz_date = amz_date
        self._scope = scope
        self.signature = seed_signature

    def sign_chunk(self, chunk: bytes) -> str:
        """Returns the signature of the next chunk; the last one is empty."""
        return self._sign(chunk_string_to_sign(self._amz_date, self._scope, self.signature, chunk))

    def sign_trailer(self, name: str, value: str) -> str:
        """Returns the signature of a trailing header."""
        return self._sign(trailer_string_to_sign(self._amz_date, self._scope, self.signature, name, value))

    def _sign(self, to_sign: str) -> str:
        self.signature = self._key.sign(to_sign.encode())
        return self.signature

    def __repr__(self) -> str:
        return "<ChunkSigner>"


class ChunkedBody:
    """A body in chunks (``Content-Encoding: aws-chunked``): an iterable of bytes with a length.

    A body of bytes or a file can be iterated again, for a retry, and gives the same bytes; one of a generator
    cannot.

    Args:
        body: bytes, a binary file (from where it stands), or an iterable of bytes.
        length: bytes of `body`.
        chunk_size: bytes of all chunks but the last.
        signer: makes a `ChunkSigner` for each time that the body is sent; None for unsigned chunks.
        trailer: the checksum to send after the body.
    """

    def __init__(
        self,
        body: StreamBody,
        length: int,
        *,
        chunk_size: int = CHUNK_SIZE,
        signer: Callable[[], ChunkSigner] | None = None,
        trailer: Trailer | None = None,
    ) -> None:
        self._body = body
        self._length = length
        self._chunk_size = chunk_size
        self._make_signer = signer
        self._trailer = trailer
        self._start = _position(self._body)
        self._sent = False

    def __len__(self) -> int:
        """The Content-Length."""
        return encoded_length(
            self._length, self._chunk_size, signed=self._make_signer is not None, trailer=self._trailer
        )

    def __iter__(self) -> Iterator[bytes]:
        """Yields the encoded chunks.

        Raises:
            SigningError: the body is shorter or longer than was said, or cannot be sent a second time.
        """
        if self._sent and not isinstance(self._body, (bytes, bytearray, memoryview)):
            if self._start is None:
                raise SigningError("body: cannot be sent a second time, as it cannot be put back; sign it anew")
            self._body.seek(self._start)  # type: ignore[attr-defined] # _position() has seen that it can
        self._sent = True
        return self._encode()

    def _encode(self) -> Iterator[bytes]:
        signer = self._make_signer() if self._make_signer is not None else None
        checksum = self._trailer.make() if self._trailer is not None else None
        left = self._length
        for chunk in _cut(self._body, self._chunk_size):
            left -= len(chunk)
            if left < 0:
                raise SigningError(f"body: is longer than the {self._length} bytes that were said")
            if checksum is not None:
                checksum.update(chunk)
            extra = f";chunk-signature={signer.sign_chunk(chunk)}" if signer is not None else ""
            yield b"%x%b\r\n%b\r\n" % (len(chunk), extra.encode(), chunk)
        if left:
            raise SigningError(f"body: ended {left} bytes before the {self._length} that were said")
        last = f"0;chunk-signature={signer.sign_chunk(b'')}\r\n" if signer is not None else "0\r\n"
        if checksum is not None and self._trailer is not None:
            value = base64.b64encode(checksum.digest()).decode()
            last += f"{self._trailer.name}:{value}\r\n"
            if signer is not None:
                last += f"x-amz-trailer-signature:{signer.sign_trailer(self._trailer.name, value)}\r\n"
        yield f"{last}\r\n".encode()


def length_of(body: object, length: int | None) -> int:
    """Returns the bytes that a body will give, which S3 wants to know ahead.

    Args:
        body: bytes, a binary file, or an iterable of bytes.
        length: as it was declared; None if it was not.

    Raises:
        SigningError: it cannot be known, or the body is none.
    """
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 0):
        raise SigningError("length: must be a whole number of bytes, 0 or more")
    if isinstance(body, (bytes, bytearray, memoryview)):
        known: int | None = memoryview(body).nbytes
    elif hasattr(body, "read"):
        known = _rest_of(body)
    elif isinstance(body, str) or not hasattr(body, "__iter__"):
        raise SigningError(f"body: must be bytes, a binary file or give bytes, and is of type {type(body).__name__}")
    else:
        known = None
    if known is None and length is None:
        raise SigningError("body: its size must be declared (length=), as it is sent ahead of a stream")
    if known is not None and length is not None and known != length:
        raise SigningError(f"length: {length} bytes were said, and the body has {known}")
    return known if known is not None else length or 0


def _position(body: object) -> int | None:
    try:
        start = int(body.tell())  # type: ignore[attr-defined] # what has no tell() raises
        body.seek(start)  # type: ignore[attr-defined] # likewise
    except (AttributeError, OSError, ValueError):
        return None
    return start


def _rest_of(body: object) -> int | None:
    start = _position(body)
    if start is None:
        return None
    end = int(body.seek(0, 2))  # type: ignore[attr-defined] # _position() has seen that it can
    body.seek(start)  # type: ignore[attr-defined] # likewise
    return end - start


def _cut(body: StreamBody, size: int) -> Iterator[bytes]:
    """Yields chunks of `size` bytes, the last one shorter, of what may come in any pieces."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        view = memoryview(body).cast("B")
        yield from (bytes(view[start : start + size]) for start in range(0, len(view), size))
        return
    read = getattr(body, "read", None)
    pieces: Iterator[bytes] = iter(lambda: read(size), b"") if read is not None else iter(body)
    kept = bytearray()
    for piece in pieces:
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise SigningError(f"body: must give bytes, and gave {type(piece).__name__}; open files in binary mode")
        if not kept and len(piece) == size:
            yield bytes(piece)
            continue
        kept += piece
        while len(kept) >= size:
            yield bytes(kept[:size])
            del kept[:size]
    if kept:
        yield bytes(kept)
