"""Bodies signed in chunks, event-stream messages and POST policies: AWS's published examples, botocore, hashlib."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import itertools
import json
import tracemalloc
import zlib
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from botocore.auth import S3SigV4PostAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.eventstream import EventStreamBuffer
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum
from hypothesis import given, settings
from hypothesis import strategies as st

from aws_hmac import ExpiryWarning, Signer, SigningError, sigv4
from aws_hmac.sigv4.streaming import event_date_header, event_message
from aws_hmac_backends.memory import MemoryBackend
from tests.oracle import botocore_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")

KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
AT = datetime(2013, 5, 24, tzinfo=timezone.utc)
SCOPE = "20130524/us-east-1/s3/aws4_request"
URL = "https://s3.amazonaws.com/examplebucket/chunkObject.txt"
EXAMPLE = b"a" * 66560
"""The body of the examples in the Amazon S3 API Reference: 65 KiB."""


class Crc32c:
    """CRC-32C by awscrt, as a user would bring it along."""

    name = "crc32c"
    digest_size = 4

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        from awscrt.checksums import crc32c

        self._value = crc32c(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


@pytest.fixture
def signer() -> Signer:
    return Signer(KEY_ID, MemoryBackend(b"AWS4" + SECRET.encode()))


def signing_key(date: str = "20130524", service: str = "s3", secret: str = SECRET) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (date, "us-east-1", service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def check(body: bytes, key: bytes | None, seed: str, *, trailer: str | None = None) -> bytes:
    """Decodes an aws-chunked body and checks each signature with hashlib; returns what it holds."""
    out, previous, stream = b"", seed, io.BytesIO(body)

    def sign(kind: str, *lines: str) -> str:
        assert key is not None
        text = "\n".join([f"AWS4-HMAC-SHA256-{kind}", "20130524T000000Z", SCOPE, previous, *lines])
        return hmac.digest(key, text.encode(), "sha256").hex()

    while True:
        size_text, _, extra = stream.readline().removesuffix(b"\r\n").partition(b";")
        data = stream.read(int(size_text, 16))
        if key is None:
            assert extra == b""
        else:
            expected = sign("PAYLOAD", hashlib.sha256(b"").hexdigest(), hashlib.sha256(data).hexdigest())
            assert extra == b"chunk-signature=" + expected.encode()
            previous = expected
        if not data:
            break
        out += data
        assert stream.read(2) == b"\r\n"
    if trailer is not None:
        line = stream.readline().removesuffix(b"\r\n")
        assert line.startswith(trailer.encode() + b":")
        if key is not None:
            expected = sign("TRAILER", hashlib.sha256(line + b"\n").hexdigest())
            assert stream.readline() == b"x-amz-trailer-signature:%b\r\n" % expected.encode()
    assert stream.read() == b"\r\n"
    return out


def seed_of(headers: dict[str, str]) -> str:
    return headers["Authorization"].rpartition("=")[2]


def test_published_chunked_upload(signer: Signer) -> None:
    """Amazon S3 API Reference, "Transferring Payload in Multiple Chunks", example."""
    headers, body = signer.sign_stream(
        "PUT", URL, region="us-east-1", body=EXAMPLE, at=AT, headers={"x-amz-storage-class": "REDUCED_REDUNDANCY"}
    )
    assert headers["Content-Length"] == "66824" == str(len(body))
    assert headers["X-Amz-Decoded-Content-Length"] == "66560"
    assert headers["Content-Encoding"] == "aws-chunked"
    assert headers["X-Amz-Content-SHA256"] == "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    assert seed_of(headers) == "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    chunks = list(body)
    assert [chunk.partition(b"\r\n")[0] for chunk in chunks] == [
        b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        b"400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        b"0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ]
    assert check(b"".join(chunks), signing_key(), seed_of(headers)) == EXAMPLE


def test_published_trailer(signer: Signer) -> None:
    """Amazon S3 API Reference, "Including Trailing Headers", example; it does not sign Content-Length."""
    headers, names = sigv4.canonical_headers(
        [
            ("Host", "s3.amazonaws.com"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("Content-Encoding", "aws-chunked"),
            ("x-amz-decoded-content-length", "66560"),
            ("x-amz-trailer", "x-amz-checksum-crc32c"),
            ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"),
        ]
    )
    request = sigv4.canonical_request(
        "PUT", "/examplebucket/chunkObject.txt", "", headers, names, sigv4.STREAMING_PAYLOAD_TRAILER
    )
    key = sigv4.SigningKey(signing_key())
    seed = key.sign(sigv4.string_to_sign("20130524T000000Z", SCOPE, request).encode())
    assert seed == "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
    body = sigv4.ChunkedBody(
        EXAMPLE,
        len(EXAMPLE),
        signer=lambda: sigv4.ChunkSigner(key, "20130524T000000Z", SCOPE, seed),
        trailer=sigv4.trailer_for(Crc32c),
    )
    signatures = [
        line.rpartition(b"chunk-signature=")[2].decode()
        for line in b"".join(body).split(b"\r\n")
        if b"chunk-signature=" in line
    ]
    assert signatures == [
        "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
    ]
    assert b"".join(body).endswith(
        b"\r\nx-amz-checksum-crc32c:sOO8/Q==\r\n"
        b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
    )


def make_bytes(data: bytes) -> Any:
    return data


def make_file(data: bytes) -> Any:
    file = io.BytesIO(b"skipped" + data)
    file.seek(7)
    return file


def make_pieces(data: bytes) -> Any:
    return (data[start : start + 3000] for start in range(0, len(data), 3000))


def make_pipe(data: bytes) -> Any:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.left = data

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:  # gives less than was asked for, as pipes do
            piece, self.left = self.left[: min(size, 5000)], self.left[min(size, 5000) :]
            return piece

    return Pipe()


MODES: list[dict[str, Any]] = [
    {},
    {"checksum": "crc32"},
    {"checksum": "sha1"},
    {"checksum": "sha256"},
    {"checksum": Crc32c},
    {"signed": False},
    {"signed": False, "checksum": "sha256"},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("make", [make_bytes, make_file, make_pieces, make_pipe])
@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 16384, 20000])
def test_every_way(signer: Signer, make: Callable[[bytes], Any], size: int, mode: dict[str, Any]) -> None:
    data = hashlib.shake_256(b"%d" % size).digest(size)
    headers, body = signer.sign_stream(
        "PUT", URL, region="us-east-1", body=make(data), length=size, chunk_size=8192, at=AT, **mode
    )
    sent = b"".join(body)
    assert len(sent) == len(body) == int(headers["Content-Length"])
    assert headers["X-Amz-Decoded-Content-Length"] == str(size)
    signed, checksum = mode.get("signed", True), mode.get("checksum", None if mode.get("signed", True) else "crc32")
    trailer = None if checksum is None else f"x-amz-checksum-{getattr(checksum, 'name', checksum)}"
    assert headers.get("X-Amz-Trailer") == trailer
    assert headers["X-Amz-Content-SHA256"] == (
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        if not signed
        else "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailer else "")
    )
    assert check(sent, signing_key() if signed else None, seed_of(headers), trailer=trailer) == data
    if checksum == "crc32":
        assert base64.b64encode(zlib.crc32(data).to_bytes(4, "big")) in sent
    if signed:  # the twins: one bit of the data, and of the key
        broken = bytearray(sent)
        broken[-3] ^= 1
        with pytest.raises(AssertionError):
            check(bytes(broken), signing_key(), seed_of(headers), trailer=trailer)
        with pytest.raises(AssertionError):
            check(sent, signing_key(secret=SECRET[:-1] + "X"), seed_of(headers), trailer=trailer)


@given(data=st.binary(max_size=40000), size=st.integers(8192, 20000))
@settings(max_examples=50, deadline=None)
def test_unsigned_chunks_are_botocores_byte_for_byte(data: bytes, size: int) -> None:
    expected = AwsChunkedWrapper(
        io.BytesIO(data), checksum_cls=Crc32Checksum, checksum_name="x-amz-checksum-crc32", chunk_size=size
    ).read()
    body = sigv4.ChunkedBody(data, len(data), chunk_size=size, trailer=sigv4.trailer_for("crc32"))
    assert b"".join(body) == expected
    assert len(body) == len(expected)


def test_a_retry_sends_the_same_bytes(signer: Signer) -> None:
    for make in (make_bytes, make_file):
        _, body = signer.sign_stream("PUT", URL, region="us-east-1", body=make(EXAMPLE), checksum="crc32", at=AT)
        first = b"".join(body)
        assert b"".join(body) == first
    _, body = signer.sign_stream("PUT", URL, region="us-east-1", body=make_pieces(EXAMPLE), length=66560, at=AT)
    b"".join(body)
    with pytest.raises(SigningError, match="second time"):
        iter(body)


def test_content_encoding_is_kept(signer: Signer) -> None:
    headers, _ = signer.sign_stream(
        "PUT", URL, region="us-east-1", body=b"x", at=AT,
        headers={"content-encoding": "gzip", "content-length": "7", "Transfer-Encoding": "chunked"},
    )  # fmt: skip
    assert headers["Content-Encoding"] == "aws-chunked,gzip"
    assert headers["Content-Length"] == str((1 + 81 + 2 + 1 + 2) + (1 + 81 + 2 + 2))
    assert "Transfer-Encoding" not in headers


def test_memory_is_constant(signer: Signer) -> None:
    piece = bytes(1 << 16)
    pieces = itertools.repeat(piece, 1024)
    _, body = signer.sign_stream("PUT", URL, region="us-east-1", body=pieces, length=64 << 20, checksum="crc32")
    tracemalloc.start()
    try:
        total = sum(map(len, body))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert total == len(body) > 64 << 20


def test_a_stream_keeps_its_key_across_midnight(signer: Signer) -> None:
    headers, body = signer.sign_stream("PUT", URL, region="us-east-1", body=EXAMPLE, at=AT)
    chunks = iter(body)
    first = next(chunks)
    signer.keys.clear()
    signer.keys.backend._key = b"AWS4other"  # type: ignore[attr-defined] # the memory backend's
    assert check(first + b"".join(chunks), signing_key(), seed_of(headers)) == EXAMPLE


def numbers() -> Iterator[bytes]:
    yield b"12"


@pytest.mark.parametrize(
    ("said", "changed"),
    [
        ("body: its size must be declared", {"body": numbers()}),
        ("body: its size must be declared", {"body": make_pipe(b"x")}),
        ("body: must be bytes, .* str", {"body": "text"}),
        ("body: must be bytes, .* int", {"body": 7}),
        ("body: must be bytes, .* NoneType", {"body": None}),
        ("length: 5 bytes were said, and the body has 3", {"body": b"abc", "length": 5}),
        ("length: 5 bytes were said, and the body has 3", {"body": io.BytesIO(b"abc"), "length": 5}),
        ("length: must", {"length": -1}),
        ("length: must", {"length": "3"}),
        ("length: must", {"length": True}),
        ("chunk_size", {"chunk_size": 8191}),
        ("chunk_size", {"chunk_size": 1e6}),
        ("checksum: 'crc64nvme' is not built in; there are crc32, sha1, sha256", {"checksum": "crc64nvme"}),
        ("checksum: .*int", {"checksum": 5}),
        ("header X-A", {"headers": {"X-A": "a\r\nb"}}),
    ],
)
def test_refuses(signer: Signer, said: str, changed: dict[str, Any]) -> None:
    with pytest.raises(SigningError, match=f"^{said}"):
        signer.sign_stream("PUT", URL, **{"region": "us-east-1", "body": b"abc", **changed})


@pytest.mark.parametrize(
    ("said", "body", "length"),
    [
        ("ended 1 bytes before", numbers, 3),
        ("longer than the 1 bytes", numbers, 1),
        ("gave str", lambda: iter(["12"]), 2),
        ("gave str", lambda: io.StringIO("12"), 2),
        ("gave int", lambda: iter([1, 2]), 2),
    ],
)
def test_refuses_while_it_sends(signer: Signer, said: str, body: Callable[[], Any], length: int) -> None:
    _, chunks = signer.sign_stream("PUT", URL, region="us-east-1", body=body(), length=length)
    with pytest.raises(SigningError, match=f"^body: .*{said}"):
        list(chunks)


def test_published_event_signatures() -> None:
    """The vectors with which the AWS SDK for Go tests its event-stream signer."""
    previous = b"foobarbazqux".hex()
    for seconds, data, expected in (
        (10, b"foo", "e3a136405ec1152f62136742efd41f8639cd647a1cf21fab12aedb22cccd8999"),
        (20, b"bar", "92a6ad677e839d3003672cb2cefc71ef80d42e8cb300fefce0807e8398c74068"),
        (30, b"baz", "46d6660bd40f2ff5d6246a347895cabe7f4e89d9e1f4c6dad6dabdc801923be1"),
        (30, b"", "492bcb3e21de447c85f8a9bef6c0eb833e992e405b9b3584be84edaccc5aad18"),
    ):
        to_sign = sigv4.event_string_to_sign(
            f"19700101T0000{seconds}Z", "19700101/us-east-1/transcribestreaming/aws4_request", previous, data, data
        )
        key = sigv4.SigningKey(signing_key("19700101", "transcribestreaming", "SECRET"))
        previous = key.sign(to_sign.encode())
        assert previous == expected


def test_event_stream(signer: Signer) -> None:
    """botocore's decoder, which checks every CRC, reads what was signed; hashlib checks the signatures."""
    at = datetime(2026, 1, 2, 23, 59, 59, 123456, tzinfo=timezone.utc)
    headers, events = signer.sign_events(
        "POST",
        "https://transcribestreaming.us-east-1.amazonaws.com/stream-transcription",
        service="transcribe",
        region="us-east-1",
        headers={"Content-Type": "application/vnd.amazon.eventstream"},
        at=at,
    )
    assert headers["X-Amz-Content-SHA256"] == "STREAMING-AWS4-HMAC-SHA256-EVENTS"
    previous = seed_of(headers)
    inner = event_message(b"\x0d:content-type\x07\x00\x04text", b"audio")
    # The second message belongs to the next day, and is signed by that day's key.
    for message, moment in ((inner, at), (inner, at + timedelta(seconds=1)), (b"", at + timedelta(seconds=2))):
        sent = events.sign(message, at=moment)
        buffer = EventStreamBuffer()
        buffer.add_data(sent)
        decoded = next(buffer).to_response_dict()
        assert decoded["body"] == message
        assert abs(decoded["headers"][":date"] - moment.timestamp() * 1000) < 1
        signature = decoded["headers"][":chunk-signature"].hex()
        date = f"{moment:%Y%m%d}"
        to_sign = "\n".join(
            [
                "AWS4-HMAC-SHA256-PAYLOAD",
                f"{moment:%Y%m%dT%H%M%SZ}",
                f"{date}/us-east-1/transcribe/aws4_request",
                previous,
                hashlib.sha256(event_date_header(decoded["headers"][":date"])).hexdigest(),
                hashlib.sha256(message).hexdigest(),
            ]
        )
        assert signature == hmac.digest(signing_key(date, "transcribe"), to_sign.encode(), "sha256").hex()
        previous = signature
        damaged = bytearray(sent)
        damaged[20] ^= 1
        with pytest.raises(Exception, match="Checksum mismatch"):
            broken = EventStreamBuffer()
            broken.add_data(bytes(damaged))
            next(broken)
    for wrong in ("text", None):
        with pytest.raises(SigningError, match=r"^message"):
            events.sign(wrong)  # type: ignore[arg-type] # that is what is refused
    assert len(events.end()) == 16 + 15 + 52


def test_published_post_policy(signer: Signer) -> None:
    """Amazon S3 API Reference, "Browser-Based Upload using HTTP POST", example."""
    policy = (
        '{ "expiration": "2015-12-30T12:00:00.000Z",\r\n  "conditions": [\r\n    {"bucket": "sigv4examplebucket"},\r\n'
        '    ["starts-with", "$key", "user/user1/"],\r\n    {"acl": "public-read"},\r\n'
        '    {"success_action_redirect": "http://sigv4examplebucket.s3.amazonaws.com/successful_upload.html"},\r\n'
        '    ["starts-with", "$Content-Type", "image/"],\r\n    {"x-amz-meta-uuid": "14365123651274"},\r\n'
        '    {"x-amz-server-side-encryption": "AES256"},\r\n    ["starts-with", "$x-amz-meta-tag", ""],\r\n\r\n'
        '    {"x-amz-credential": "AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request"},\r\n'
        '    {"x-amz-algorithm": "AWS4-HMAC-SHA256"},\r\n    {"x-amz-date": "20151229T000000Z" }\r\n  ]\r\n}'
    )
    key = signer.keys.signing_key("20151229", "us-east-1", "s3")
    assert key.sign(base64.b64encode(policy.encode())) == (
        "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e"
    )


@pytest.mark.parametrize("token", [None, "a/token+of=="])
@pytest.mark.parametrize("key", ["photos/1.jpg", "photos/${filename}"])
def test_post_is_botocores_byte_for_byte(token: str | None, key: str) -> None:
    signer = Signer(KEY_ID, MemoryBackend(b"AWS4" + SECRET.encode()), session_token=token)
    made = signer.presign_post(
        "https://examplebucket.s3.amazonaws.com/",
        bucket="examplebucket",
        key=key,
        region="us-east-1",
        expires=3600,
        fields={"acl": "private", "Content-Type": "image/png"},
        conditions=[["starts-with", "$content-type", "image/"], ["content-length-range", 1, 1048576]],
        at=AT,
    )
    request = AWSRequest(method="POST", url=made.url)
    request.context["s3-presign-post-fields"] = {"acl": "private", "Content-Type": "image/png", "key": key}
    request.context["s3-presign-post-policy"] = {
        "expiration": "2013-05-24T01:00:00Z",
        "conditions": [
            ["starts-with", "$content-type", "image/"],
            ["content-length-range", 1, 1048576],
            {"acl": "private"},
            {"bucket": "examplebucket"},
            ["starts-with", "$key", "photos/"] if "$" in key else {"key": key},
        ],
    }
    with botocore_clock(AT):
        S3SigV4PostAuth(Credentials(KEY_ID, SECRET, token), "s3", "us-east-1").add_auth(request)
    assert made.fields == request.context["s3-presign-post-fields"]
    assert json.loads(base64.b64decode(made.fields["policy"]))["expiration"] == "2013-05-24T01:00:00Z"
    other = signer.presign_post(
        made.url, bucket="examplebucket", key=key, region="us-east-1", expires=3601, at=AT
    )  # fmt: skip
    assert other.fields["x-amz-signature"] != made.fields["x-amz-signature"]


@pytest.mark.parametrize(
    ("said", "changed"),
    [
        ("expires", {"expires": 604801}),
        ("expires", {"expires": 0}),
        ("bucket", {"bucket": ""}),
        ("key", {"key": ""}),
        ("key", {"key": None}),
        ("URL", {"url": "bucket"}),
        ("at", {"at": datetime(2026, 1, 1)}),  # noqa: DTZ001 - that is what is refused
        ("region", {"region": "us east"}),
        ("fields", {"fields": {"a": 1}}),
        ("fields", {"fields": ["a"]}),
        ("conditions", {"conditions": ["acl"]}),
        ("conditions", {"conditions": [["starts-with", "$key"]]}),
    ],
)
def test_refuses_posts(signer: Signer, said: str, changed: dict[str, Any]) -> None:
    call = {"url": URL, "bucket": "b", "key": "k", "region": "us-east-1", "expires": 60, **changed}
    with pytest.raises(SigningError, match=f"^{said}"):
        signer.presign_post(**call)


def test_post_warns_when_the_token_expires_first() -> None:
    signer = Signer(
        KEY_ID, MemoryBackend(b"AWS4x"), session_token="t", session_expiration=AT + timedelta(seconds=59)
    )  # fmt: skip
    with pytest.warns(ExpiryWarning, match="59 s") as seen:
        signer.presign_post(URL, bucket="b", key="k", region="us-east-1", expires=60, at=AT)
    assert seen[0].filename == __file__
