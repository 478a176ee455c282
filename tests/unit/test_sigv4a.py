"""SigV4A: the derivation by published vectors, signatures by the CRT and by `cryptography`."""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from aws_hmac import BackendUnavailableError, DeviceError, HmacBackend, Signer, SigningError, UnsupportedError
from aws_hmac.sigv4 import UNSIGNED_PAYLOAD, sigv4a, string_to_sign
from aws_hmac.sigv4a_key import SigV4aKey
from aws_hmac_backends.memory import MemoryBackend
from tests.oracle import ACCESS_KEY_ID, AT, SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")

PUBLISHED = json.loads((Path(__file__).parents[1] / "vectors" / "published" / "sigv4a.json").read_text())
URL = "https://example.amazonaws.com/"
CALL: dict[str, Any] = {"service": "service", "region_set": "us-east-1", "at": AT}


def make(access_key_id: str = ACCESS_KEY_ID, secret: str = SECRET, **options: Any) -> Signer:
    return Signer(
        access_key_id,
        MemoryBackend(b"AWS4" + secret.encode()),
        sigv4a_backend=MemoryBackend(b"AWS4A" + secret.encode()),
        **options,
    )


def private_key(access_key_id: str = ACCESS_KEY_ID, secret: str = SECRET) -> ec.EllipticCurvePrivateKey:
    number = sigv4a.derive_private_key(
        lambda message: hmac.digest(b"AWS4A" + secret.encode(), message, "sha256"), access_key_id
    )
    return ec.derive_private_key(number, ec.SECP256R1())


def verify(signature: str, to_sign: str, **key: str) -> None:
    private_key(**key).public_key().verify(bytes.fromhex(signature), to_sign.encode(), ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("vector", PUBLISHED["keys"], ids=lambda vector: vector["name"])
def test_published_keys(vector: dict[str, str]) -> None:
    key = private_key(vector["access_key_id"], vector["secret"])
    numbers = key.private_numbers()
    assert f"{numbers.private_value:064x}" == vector["private_key"]
    if "public_x" in vector:
        assert f"{numbers.public_numbers.x:064x}" == vector["public_x"]
        assert f"{numbers.public_numbers.y:064x}" == vector["public_y"]
    twin = private_key(vector["access_key_id"], vector["secret"][:-1] + "l")
    assert twin.private_numbers().private_value != numbers.private_value


@pytest.mark.parametrize("vector", PUBLISHED["strings_to_sign"], ids=lambda vector: vector["name"])
def test_published_strings_to_sign(vector: dict[str, Any]) -> None:
    scope = sigv4a.credential_scope("20150830", "service")
    to_sign = string_to_sign("20150830T123600Z", scope, vector["canonical_request"], sigv4a.ALGORITHM)
    assert to_sign == vector["string_to_sign"]
    made = make().explain(vector["method"], vector["url"], presign=vector["expires"], **CALL)
    assert made.canonical_request.replace("X-Amz-Expires=3600&", "") == vector["canonical_request"]
    verify(made.signature, made.string_to_sign)
    with pytest.raises(InvalidSignature):
        verify(made.signature, made.string_to_sign[:-1] + chr(ord(made.string_to_sign[-1]) ^ 1))


def test_candidates_above_n_minus_2_are_rejected() -> None:
    """The edges of the candidate, which no real key will ever show: each is what the HMAC answers first."""
    order = sigv4a.P256_ORDER
    asked: list[bytes] = []

    def hmac_of(*answers: int) -> int:
        asked.clear()
        left = iter(answers)

        def answer(message: bytes) -> bytes:
            asked.append(message)
            return next(left).to_bytes(32, "big")

        return sigv4a.derive_private_key(answer, "AKID")

    assert hmac_of(0) == 1
    assert hmac_of(order - 2) == order - 1
    for too_large in (order - 1, order, order + 1, 2**256 - 1):
        assert hmac_of(too_large, 7) == 8
        assert [message[:27] for message in asked] == [b"\0\0\0\1AWS4-ECDSA-P256-SHA256\0"] * 2
        assert [message[27:] for message in asked] == [b"AKID\1\0\0\1\0", b"AKID\2\0\0\1\0"]
    assert hmac_of(*[order] * 253, 5) == 6
    with pytest.raises(SigningError, match="no candidate"):
        hmac_of(*[order] * 254)
    assert len(asked) == 254


def crt_sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    *,
    body_hash: str,
    service: str,
    region_set: str,
    token: str | None = None,
    expires: int | None = None,
) -> tuple[str, str]:
    """Signs by the AWS CRT, an implementation in C; returns signature and path with query."""
    from awscrt import auth, http

    host, _, path = url.partition("//")[2].partition("/")
    request = http.HttpRequest(method, "/" + path, http.HttpHeaders([("Host", host), *headers.items()]))
    s3 = service == "s3"
    config = auth.AwsSigningConfig(
        algorithm=auth.AwsSigningAlgorithm.V4_ASYMMETRIC,
        signature_type=auth.AwsSignatureType.HTTP_REQUEST_QUERY_PARAMS
        if expires
        else auth.AwsSignatureType.HTTP_REQUEST_HEADERS,
        credentials_provider=auth.AwsCredentialsProvider.new_static(ACCESS_KEY_ID, SECRET, token),
        region=region_set,
        service=service,
        date=AT,
        use_double_uri_encode=not s3,
        should_normalize_uri_path=not s3,
        signed_body_value=body_hash,
        signed_body_header_type=auth.AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256
        if s3 and not expires
        else auth.AwsSignedBodyHeaderType.NONE,
        expiration_in_seconds=expires,
    )
    auth.aws_sign_request(request, config).result(10)
    if expires:
        return request.path.rpartition("X-Amz-Signature=")[2], request.path
    authorization = str(request.headers.get("Authorization"))
    return authorization.rpartition("Signature=")[2], authorization


words = st.text("abcXYZ019-._~", max_size=6)


@given(
    service=st.sampled_from(["service", "s3", "execute-api"]),
    path=st.lists(words | st.sampled_from(["%20", "%C3%A9", "..", ""]), max_size=4),
    query=st.lists(st.tuples(words.filter(bool), words), max_size=3),
    headers=st.dictionaries(st.sampled_from(["X-A", "content-type", "X-Amz-Meta-B"]), words, max_size=3),
    regions=st.sampled_from(["us-east-1", "*", "us-east-1,eu-*"]),
    token=st.sampled_from([None, "a/token+of=="]),
    expires=st.none() | st.integers(1, 604800),
)
@settings(max_examples=150, deadline=None)
def test_the_crt_agrees(
    service: str,
    path: list[str],
    query: list[tuple[str, str]],
    headers: dict[str, str],
    regions: str,
    token: str | None,
    expires: int | None,
) -> None:
    """ECDSA signatures differ each time, so what is compared is what is signed: ours verifies theirs."""
    url = f"https://example.amazonaws.com/{'/'.join(path)}"
    url += "?" + "&".join(f"{key}={value}" for key, value in query) if query else ""
    body = UNSIGNED_PAYLOAD if expires and service == "s3" else b""
    theirs, sent = crt_sign(
        "GET", url, headers,
        body_hash="UNSIGNED-PAYLOAD" if body else hashlib.sha256(b"").hexdigest(),
        service=service, region_set=regions, token=token, expires=expires,
    )  # fmt: skip
    signer = make(session_token=token)
    call: dict[str, Any] = {"service": service, "region_set": regions, "headers": headers, "at": AT}
    made = signer.explain("GET", url, presign=expires, **call)
    verify(theirs, made.string_to_sign)
    if expires:
        ours = signer.presign("GET", url, expires=expires, **call)
        assert sorted(_without_signature(ours)) == sorted(_without_signature(sent))
    else:
        authorization = signer.sign("GET", url, **call)["Authorization"]
        assert authorization.partition(", Signature=")[0] == sent.partition(", Signature=")[0]
    other = signer.explain("GET", url, presign=expires, **{**call, "region_set": "eu-west-1"})
    with pytest.raises(InvalidSignature):
        verify(theirs, other.string_to_sign)


def _without_signature(url: str) -> list[str]:
    return [part for part in url.partition("?")[2].split("&") if not part.startswith("X-Amz-Signature=")]


def test_region_sets() -> None:
    signer = make()
    for given_set, header in (("*", "*"), (["us-east-1", "eu-*"], "us-east-1,eu-*"), (("RegionOne",), "RegionOne")):
        made = signer.sign("GET", URL, service="s3", region_set=given_set, at=AT)
        assert made["X-Amz-Region-Set"] == header
        assert made["Authorization"].startswith(
            "AWS4-ECDSA-P256-SHA256 Credential=AKIDEXAMPLE/20150830/s3/aws4_request, "
            "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-region-set, Signature=30"
        )
    again = signer.sign("GET", URL, service="s3", region_set="us-west-2", headers=made, at=AT)
    assert again["X-Amz-Region-Set"] == "us-west-2"
    assert [name for name in again if name.lower() == "x-amz-region-set"] == ["X-Amz-Region-Set"]
    for wrong in ("", [], "us east", ["us-east-1", ""], "us-east-1,", "a\nb", [None], "us/east", 5):
        for sign in (signer.sign, lambda *args, **kw: signer.presign(*args, expires=5, **kw)):
            with pytest.raises(SigningError, match=r"^region_set"):
                sign("GET", URL, service="s3", region_set=wrong)  # type: ignore[arg-type] # that is what is refused


def test_off_unless_asked_for() -> None:
    signer = Signer(ACCESS_KEY_ID, MemoryBackend(b"AWS4x"))
    for sign in (signer.sign, signer.explain, lambda *args, **kw: signer.presign(*args, expires=5, **kw)):
        with pytest.raises(UnsupportedError, match=r"off.*key import --sigv4a.*knows no date"):
            sign("GET", URL, **CALL)
    with pytest.raises(SigningError, match=r"^region: give either"):
        make().sign("GET", URL, region="us-east-1", **CALL)
    for sign in (make().sign, make().explain, lambda *args, **kw: make().presign(*args, expires=5, **kw)):
        with pytest.raises(SigningError, match=r"^region: must be given"):
            sign("GET", URL, service="s3")
    with pytest.raises(SigningError, match=r"^service"):
        make().sign("GET", URL, service="s 3", region_set="*")


class Counting(HmacBackend):
    name = "counting"

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.broken = False

    def hmac_sha256(self, message: bytes, /) -> bytes:
        self.messages.append(message)
        if self.broken:
            raise DeviceError("counting: away")
        return hmac.digest(b"AWS4A" + SECRET.encode(), message, "sha256")


def test_the_device_is_asked_once() -> None:
    backend = Counting()
    signer = Signer(ACCESS_KEY_ID, MemoryBackend(b"AWS4x"), sigv4a_backend=backend)
    threads = [threading.Thread(target=signer.sign, args=("GET", URL), kwargs=CALL) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert backend.messages == [sigv4a.fixed_input(ACCESS_KEY_ID, 1)]
    assert signer.sigv4a_key is not None
    signer.sigv4a_key.clear()
    backend.broken = True
    with pytest.raises(DeviceError, match="away"):
        signer.sign("GET", URL, **CALL)


def test_cache_none_keeps_nothing() -> None:
    backend = Counting()
    signer = Signer(ACCESS_KEY_ID, MemoryBackend(b"AWS4x"), sigv4a_backend=backend, cache="none")
    for _ in range(3):
        signer.sign("GET", URL, **CALL)
    assert len(backend.messages) == 3


def test_max_age(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("aws_hmac.sigv4a_key.monotonic", lambda: now[0])
    backend = Counting()
    signer = Signer(ACCESS_KEY_ID, MemoryBackend(b"AWS4x"), sigv4a_backend=backend, max_age=60)
    for later in (0, 59, 1, 59.5):
        now[0] += later
        signer.sign("GET", URL, **CALL)
    assert len(backend.messages) == 2
    backend.broken = True
    now[0] += 1
    with pytest.raises(DeviceError):
        signer.sign("GET", URL, **CALL)


def test_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ec", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'aws-hmac\[sigv4a\]'"):
        SigV4aKey(Counting(), ACCESS_KEY_ID)


def test_shows_no_key() -> None:
    signer = make()
    signer.sign("GET", URL, **CALL)
    number = private_key().private_numbers().private_value
    for shown in (repr(signer), repr(signer.sigv4a_key)):
        assert SECRET not in shown
        assert str(number) not in shown
        assert f"{number:x}" not in shown


def test_the_clock_is_used() -> None:
    made = make().sign("GET", URL, service="s3", region_set="*")
    assert made["X-Amz-Date"][:8] == f"{datetime.now(timezone.utc):%Y%m%d}"
