"""Every vector file: the canonical request, stage by stage, against the oracle that the file names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aws_hmac import Signer, SigningError, sigv4
from aws_hmac.sigv4 import ServiceRules
from aws_hmac.sigv4.canonical import split_url, wire_form
from aws_hmac_backends.memory import MemoryBackend
from tests.oracle import ACCESS_KEY_ID, AT, SECRET, botocore_clock, botocore_presign, botocore_sign, hashlib_signature

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")

VECTORS = Path(__file__).parents[1] / "vectors"
RULES = {path.stem: json.loads(path.read_text()) for path in sorted(VECTORS.glob("*.json"))}
CASES = [
    pytest.param({"oracle": rule["oracle"], "why": rule.get("why"), **vector}, id=f"{name}: {vector['name']}")
    for name, rule in RULES.items()
    for vector in rule["vectors"]
]


def explain(vector: dict[str, Any], **changed: Any) -> Any:
    case = {**vector, **changed}
    rules = sigv4.rules_for(case["service"])._replace(**case["rules"]) if "rules" in case else None
    payload = case.get("payload")
    return signer(case.get("token")).explain(
        case["method"],
        case["url"],
        service=case["service"],
        region=case["region"],
        headers=[(name, value) for name, value in case.get("headers", ())],
        body=case.get("body", "").encode() if payload is None else sigv4.PayloadHash(payload),
        at=AT,
        rules=rules,
        presign=case.get("expires"),
    )


def signer(token: str | None = None) -> Signer:
    return Signer(ACCESS_KEY_ID, MemoryBackend(b"AWS4" + SECRET.encode()), session_token=token)


def by_botocore(vector: dict[str, Any], url: str) -> str:
    headers = [(name, value) for name, value in vector.get("headers", ())]
    if (payload := vector.get("payload")) is not None:
        return _botocore_with_payload(vector, url, payload)
    request: dict[str, Any] = {
        "service": vector["service"],
        "region": vector["region"],
        "headers": headers,
        "body": vector.get("body", "").encode(),
        "token": vector.get("token"),
    }
    with botocore_clock():
        if "expires" in vector:
            presigned = botocore_presign(vector["method"], url, expires=vector["expires"], **request)
            return presigned.rpartition("=")[2]
        return botocore_sign(vector["method"], url, **request).signature


def _botocore_with_payload(vector: dict[str, Any], url: str, payload: str) -> str:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    class Given(S3SigV4Auth):
        def payload(self, request: object) -> str:
            return payload

    request = AWSRequest(method=vector["method"], url=url)
    with botocore_clock():
        Given(Credentials(ACCESS_KEY_ID, SECRET), vector["service"], vector["region"]).add_auth(request)
    return str(request.headers["Authorization"]).rpartition("=")[2]


@pytest.mark.parametrize("vector", CASES)
def test_vector(vector: dict[str, Any]) -> None:
    made = explain(vector)
    assert made.canonical_request == vector["canonical_request"]
    assert made.signature == vector["signature"]
    # The file itself is right: its signature is that of its canonical request …
    scope = {"service": vector["service"], "region": vector["region"]}
    assert vector["signature"] == hashlib_signature(vector["canonical_request"], **scope)
    # … which one changed bit would not have.
    flipped = vector["canonical_request"][:-1] + chr(ord(vector["canonical_request"][-1]) ^ 1)
    assert made.signature != hashlib_signature(flipped, **scope)


@pytest.mark.parametrize("vector", CASES)
def test_oracle(vector: dict[str, Any]) -> None:
    if vector["oracle"] == "botocore":
        assert by_botocore(vector, vector["url"]) == vector["signature"]
        return
    assert vector["oracle"] == "specification"
    assert vector["why"]
    assert by_botocore(vector, vector["url"]) != vector["signature"], "botocore agrees: let it be the oracle"
    if "botocore_url" in vector:
        assert by_botocore(vector, vector["botocore_url"]) == vector["signature"]


def test_every_rule_has_vectors() -> None:
    for name, rule in RULES.items():
        assert rule["rule"], name
        assert rule["source"], name
        assert rule["vectors"], name
    assert len(CASES) >= 140


def published() -> Iterator[Any]:
    for path in sorted((VECTORS / "published").glob("*.json")):
        suite = json.loads(path.read_text())
        for vector in suite.get("vectors", ()):
            if "signature" in vector:
                yield pytest.param({**suite["defaults"], **vector}, id=f"{path.stem}: {vector['name']}")


@pytest.mark.parametrize("vector", list(published()))
def test_published(vector: dict[str, Any]) -> None:
    from datetime import datetime

    at = datetime.fromisoformat(vector["at"])
    signer = Signer(
        vector["access_key_id"],
        MemoryBackend(b"AWS4" + vector["secret"].encode()),
        session_token=vector.get("token"),
    )
    rules = sigv4.rules_for(vector["service"])._replace(**vector.get("rules", {}))
    common: dict[str, Any] = {
        "service": vector["service"],
        "region": vector["region"],
        "headers": [(name, value) for name, value in vector.get("headers", ())],
        "body": vector.get("body", "").encode(),
        "at": at,
        "rules": rules,
    }
    if "expires" in vector:
        url = signer.presign(vector["method"], vector["url"], expires=vector["expires"], **common)
        assert url.endswith(f"X-Amz-Signature={vector['signature']}")
    else:
        made = signer.sign(vector["method"], vector["url"], **common)
        assert made["Authorization"].endswith(f"Signature={vector['signature']}")
    twin = signer.explain(vector["method"], vector["url"], **{**common, "region": common["region"] + "0"})
    assert twin.signature != vector["signature"]


def test_stages_are_public() -> None:
    """The three stages, put together by hand, give what Signer gives."""
    rules = sigv4.rules_for("service")
    headers, signed = sigv4.canonical_headers([("Host", "example.amazonaws.com"), ("X-Amz-Date", "20150830T123600Z")])
    request = sigv4.canonical_request(
        "GET",
        sigv4.canonical_uri("/a%20b/../c", rules),
        sigv4.canonical_query_string("b=2&a=1"),
        headers,
        signed,
        sigv4.payload_hash(b""),
    )
    to_sign = sigv4.string_to_sign(
        "20150830T123600Z", sigv4.credential_scope("20150830", "us-east-1", "service"), request
    )
    date_key = MemoryBackend(b"AWS4" + SECRET.encode()).hmac_sha256(b"20150830")
    key = sigv4.SigningKey(sigv4.derive_signing_key(date_key, "us-east-1", "service"))
    made = signer().explain(
        "GET", "https://example.amazonaws.com/a%20b/../c?b=2&a=1", service="service", region="us-east-1", at=AT
    )
    assert (request, to_sign, key.sign(to_sign.encode())) == (
        made.canonical_request,
        made.string_to_sign,
        made.signature,
    )


@pytest.mark.parametrize(
    ("path", "double", "normalize", "expected"),
    [
        ("/a/../b", True, False, "/a/../b"),
        ("/a//b%20c", True, False, "/a//b%2520c"),
        ("/a//b%20c", False, True, "/a/b%20c"),
        ("a", True, True, "/a"),
    ],
)
def test_rules_are_independent(path: str, double: bool, normalize: bool, expected: str) -> None:
    rules = ServiceRules(normalize_path=normalize, double_encode=double)
    assert sigv4.canonical_uri(path, rules) == expected


def test_wire_form_is_what_clients_send() -> None:
    """urllib3, which requests and botocore send by, encodes a path as wire_form does."""
    from urllib3.util import parse_url

    for path in ("/a b", "/é/ሴ", "/100%", '/<"{a}|^`>\\', "/a[0]", "/!$&'()*+,;=:@-._~", "/caf%C3%A9", "/%2F"):
        assert parse_url(f"https://example.com{path}").path == wire_form(path)


@pytest.mark.parametrize(
    "url",
    ["", "example.com/", "ftp://example.com/", "https://", "https:///path", "https://?a=1", "//example.com", None],
)
def test_no_url(url: Any) -> None:
    with pytest.raises(SigningError, match="URL"):
        split_url(url)


def test_payload_hash() -> None:
    for body in (b"", b"abc", bytearray(b"abc"), memoryview(b"abc"), "abc", "hé", None):
        raw = b"" if body is None else body.encode() if isinstance(body, str) else bytes(body)
        assert sigv4.payload_hash(body) == hashlib.sha256(raw).hexdigest()
