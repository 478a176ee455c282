"""Signer against botocore at a frozen clock, over requests that hypothesis makes; and all that it refuses."""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import threading
import time
import warnings
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

import pytest
import time_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from aws_hmac import ConfigError, ExpiryWarning, Signer, SigningError
from aws_hmac.sigv4 import UNSIGNED_PAYLOAD, PayloadHash, rules_for
from aws_hmac_backends.memory import MemoryBackend
from tests.oracle import (
    ACCESS_KEY_ID,
    AMZ_DATE,
    AT,
    S3_KIN,
    SECRET,
    botocore_clock,
    botocore_presign,
    botocore_sign,
    hashlib_signature,
)

pytestmark = pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")

URL = "https://example.amazonaws.com/"
CALL: dict[str, Any] = {"service": "service", "region": "us-east-1", "at": AT}


def make(token: str | None = None, secret: str = SECRET, **options: Any) -> Signer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Signer(ACCESS_KEY_ID, MemoryBackend(b"AWS4" + secret.encode()), session_token=token, **options)


SIGNER = make()
WITH_TOKEN = make("a/session+token==")
ROTATED = make(secret=SECRET[:-1] + "X")  # Y is 0x59, X 0x58: one bit

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
segments = st.lists(text | st.sampled_from(["", ".", "..", "a b", "~", "%", "+", "é/ü"]), max_size=5)
pairs = st.lists(st.tuples(text.filter(lambda key: not key.lower().startswith("x-amz-")), text), max_size=5)
header_names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,12}", fullmatch=True).filter(
    lambda name: name.lower() not in {"date", "host", "content-type"}
)
header_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.just("\t"), max_size=20)
services = st.sampled_from(["dynamodb", "sts", "execute-api", "s3", "s3-outposts", "s3-object-lambda", "es"])


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A request whose URL is spelled canonically, so that botocore, which takes it as it stands, is right."""
    host = draw(st.sampled_from(["example.amazonaws.com", "Example.com:8443", "127.0.0.1:9000", "[::1]:80", "a.b:443"]))
    service = draw(services)
    # To S3 %2F is the slash within a key; botocore signs it as it stands.
    path = "".join("/" + quote(part, safe="/" if service in S3_KIN else "") for part in draw(segments))
    query = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in draw(pairs))
    return {
        "method": draw(st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "get"])),
        "url": f"{draw(st.sampled_from(['http', 'https']))}://{host}{path or '/'}" + (f"?{query}" if query else ""),
        "service": service,
        "region": draw(st.sampled_from(["us-east-1", "eu-west-1", "RegionOne"])),
        "headers": draw(st.lists(st.tuples(header_names, header_values), max_size=5)),
        "body": draw(st.binary(max_size=64)),
    }


@given(request=requests(), with_token=st.booleans())
@settings(max_examples=400, deadline=None)
def test_sign_as_botocore_does(request: dict[str, Any], with_token: bool) -> None:
    signer = WITH_TOKEN if with_token else SIGNER
    with botocore_clock():
        expected = botocore_sign(**request, token=signer.session_token)
    made = {name.lower(): value for name, value in signer.sign(**request, at=AT).items()}
    assert made["authorization"] == expected.headers["authorization"]
    assert made["x-amz-date"] == expected.headers["x-amz-date"]
    assert made.get("x-amz-security-token") == expected.headers.get("x-amz-security-token")
    if request["service"] in S3_KIN:
        assert made["x-amz-content-sha256"] == expected.headers["x-amz-content-sha256"]
    explained = signer.explain(**request, at=AT)
    assert explained.canonical_request == expected.canonical_request
    assert made["authorization"].endswith(explained.signature)
    # The twins, each with one bit changed:
    for twin in (
        {"body": request["body"] + b"\1"},
        {"region": request["region"][:-1] + chr(ord(request["region"][-1]) ^ 1)},
        {"url": request["url"] + ("&" if "?" in request["url"] else "?") + "x=y"},
        {"headers": [*request["headers"], ("X-Other", "1")]},
        {"at": AT + timedelta(seconds=1)},
    ):
        assert signer.explain(**{"at": AT, **request, **twin}).signature != explained.signature
    assert ROTATED.explain(**request, at=AT).signature != SIGNER.explain(**request, at=AT).signature


@given(request=requests(), expires=st.integers(1, 604800), with_token=st.booleans())
@settings(max_examples=300, deadline=None)
def test_presign_as_botocore_does(request: dict[str, Any], expires: int, with_token: bool) -> None:
    from urllib.parse import parse_qsl, urlsplit

    # botocore keeps one value of a key only, and makes a body a part of the query
    parts = urlsplit(request["url"])
    known = dict(parse_qsl(parts.query, keep_blank_values=True))
    query = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in known.items())
    request = {
        **request,
        "url": f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{query}" if query else ""),
        "body": b"",
        "expires": expires,
    }
    signer = WITH_TOKEN if with_token else SIGNER
    with botocore_clock():
        expected = botocore_presign(**request, token=signer.session_token)
    made = signer.presign(**request, at=AT)
    assert made.partition("?")[2] == expected.partition("?")[2]
    assert (
        signer.explain(**{k: v for k, v in request.items() if k != "expires"}, presign=expires, at=AT).signature
        == made.rpartition("=")[2]
    )
    for twin in (
        {"expires": expires - 1 or 2},
        {"method": "PROPFIND"},
        {"service": request["service"] + "x"},
        {"headers": [*request["headers"], ("X-Other", "1")]},
    ):
        assert signer.presign(**{**request, **twin}, at=AT).rpartition("=")[2] != made.rpartition("=")[2]


def test_presigned_url_is_botocores_byte_for_byte() -> None:
    url = "https://examplebucket.s3.eu-west-1.amazonaws.com/a%20b/c.txt?response-content-type=text%2Fplain"
    for signer in (SIGNER, WITH_TOKEN):
        with botocore_clock():
            expected = botocore_presign(
                "GET", url, service="s3", region="eu-west-1", expires=300, token=signer.session_token
            )
        assert signer.presign("GET", url, service="s3", region="eu-west-1", expires=300, at=AT) == expected


def test_returns_every_header_to_send() -> None:
    made = SIGNER.sign("GET", URL, headers={"User-Agent": "test", "X-A": "  1  2 "}, **CALL)
    assert list(made) == ["User-Agent", "X-A", "Host", "X-Amz-Date", "Authorization"]
    assert made["X-A"] == "1 2"
    assert made["Host"] == "example.amazonaws.com"
    assert "user-agent" not in made["Authorization"]
    repeated = SIGNER.sign("GET", URL, headers=[("X-A", "1"), ("x-a", "2")], **CALL)
    assert repeated["X-A"] == "1,2"
    # Clients' dictionaries know no case: one of these would be lost on the way.
    by_case = SIGNER.sign("GET", URL, headers={"X-A": "1", "x-a": "2"}, **CALL)
    assert by_case == repeated


@pytest.mark.parametrize("kind", [dict, list, iter, lambda pairs: (pair for pair in pairs)])
def test_headers_in_any_form(kind: Any) -> None:
    pairs = [("X-A", "1"), ("X-B", b"\xfc")]
    assert SIGNER.sign("GET", URL, headers=kind(pairs), **CALL) == SIGNER.sign(
        "GET", URL, headers=[("X-A", "1"), ("X-B", "\xfc")], **CALL
    )


def test_signs_again_what_was_signed() -> None:
    once = WITH_TOKEN.sign("GET", URL, headers={"X-A": "1"}, **CALL)
    assert WITH_TOKEN.sign("GET", URL, headers=once, **CALL) == once
    unsigned = rules_for("service")._replace(sign_session_token=False)
    assert WITH_TOKEN.sign("GET", URL, headers={"x-amz-security-token": "old"}, rules=unsigned, **CALL) == (
        WITH_TOKEN.sign("GET", URL, rules=unsigned, **CALL)
    )
    later = WITH_TOKEN.sign("GET", URL, headers=once, **{**CALL, "at": AT + timedelta(days=1)})
    assert later["X-Amz-Date"] == "20150831T123600Z"
    assert later["Authorization"] != once["Authorization"]


@pytest.mark.parametrize(
    "body",
    [b"data", bytearray(b"data"), memoryview(b"data"), "data", io.BytesIO(b"data")],
    ids=lambda b: type(b).__name__,
)
def test_bodies(body: Any) -> None:
    made = SIGNER.sign("PUT", "https://b.s3.amazonaws.com/k", service="s3", region="us-east-1", body=body, at=AT)
    assert made["X-Amz-Content-SHA256"] == hashlib.sha256(b"data").hexdigest()


def test_file_is_read_from_where_it_stands_and_put_back() -> None:
    file = io.BytesIO(b"--data")
    file.seek(2)
    assert SIGNER.explain("PUT", URL, body=file, **CALL) == SIGNER.explain("PUT", URL, body=b"data", **CALL)
    assert file.tell() == 2


def test_payload_markers() -> None:
    s3: dict[str, Any] = {"service": "s3", "region": "us-east-1", "at": AT}
    unsigned = SIGNER.sign("PUT", URL, body=UNSIGNED_PAYLOAD, **s3)
    assert unsigned["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"
    given = hashlib.sha256(b"data").hexdigest()
    by_marker = SIGNER.sign("PUT", URL, body=PayloadHash(given), **s3)
    by_header = SIGNER.sign("PUT", URL, headers={"X-Amz-Content-SHA256": given}, **s3)
    assert by_marker["Authorization"] == by_header["Authorization"]
    assert by_marker["Authorization"] == SIGNER.sign("PUT", URL, body=b"data", **s3)["Authorization"]
    assert by_marker["Authorization"] != unsigned["Authorization"]
    # A service that does not ask for the header is told all the same, or it could not know:
    assert SIGNER.sign("PUT", URL, body=UNSIGNED_PAYLOAD, **CALL)["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"


def test_token_after_signing() -> None:
    rules = rules_for("service")._replace(sign_session_token=False)
    made = WITH_TOKEN.sign("GET", URL, rules=rules, **CALL)
    assert made["X-Amz-Security-Token"] == WITH_TOKEN.session_token
    assert made["Authorization"] == SIGNER.sign("GET", URL, **CALL)["Authorization"]
    url = WITH_TOKEN.presign("GET", URL, expires=60, rules=rules, **CALL)
    assert "&X-Amz-Security-Token=a%2Fsession%2Btoken%3D%3D&X-Amz-Signature=" in url
    assert url.rpartition("=")[2] == SIGNER.presign("GET", URL, expires=60, **CALL).rpartition("=")[2]


def test_aware_datetimes_of_any_zone() -> None:
    there = AT.astimezone(timezone(timedelta(hours=14)))
    assert SIGNER.sign("GET", URL, **{**CALL, "at": there})["X-Amz-Date"] == AMZ_DATE


def test_explain() -> None:
    made = SIGNER.explain("GET", URL, **CALL)
    assert made.credential_scope == "20150830/us-east-1/service/aws4_request"
    assert made.signed_headers == "host;x-amz-date"
    assert made.string_to_sign.splitlines()[-1] == hashlib.sha256(made.canonical_request.encode()).hexdigest()
    assert made.signature == hashlib_signature(made.canonical_request, service="service", region="us-east-1")


def test_the_clock_is_used() -> None:
    with time_machine.travel(datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), tick=False):
        assert SIGNER.sign("GET", URL, service="sts", region="us-east-1")["X-Amz-Date"] == "20260102T030405Z"
    with time_machine.travel(datetime(2026, 1, 3, 0, 0, 0, tzinfo=timezone.utc), tick=False):
        assert "/20260103/" in SIGNER.sign("GET", URL, service="sts", region="us-east-1")["Authorization"]


def test_threads_do_not_mix() -> None:
    """Requests with different headers, signed at once by one signer, each get their own signature."""
    shapes = [{f"X-{name}": str(n) for name in "ABC"[: n % 3 + 1]} for n in range(40)]
    expected = [make().sign("POST", f"{URL}{n}", headers=h, body=b"%d" % n, **CALL) for n, h in enumerate(shapes)]
    failures: list[int] = []

    def work() -> None:
        for _ in range(20):
            for n, headers in enumerate(shapes):
                if SIGNER.sign("POST", f"{URL}{n}", headers=headers, body=b"%d" % n, **CALL) != expected[n]:
                    failures.append(n)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


class Broken(io.RawIOBase):
    """Binary and readable, but not seekable: a pipe."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return 0


def bad(part: str, **changed: Any) -> Any:
    return pytest.param(part, changed, id=" ".join(f"{name}={value!r}" for name, value in changed.items())[:60])


BAD = [
    bad("method", method="GE T"),
    bad("method", method=" GET"),
    bad("method", method="GET\r\n"),
    bad("method", method=""),
    bad("method", method=None),
    bad("method", method="GÉT"),
    bad("URL", url="https:///path"),
    bad("URL", url="https://:443/"),
    bad("URL", url="/path"),
    bad("URL", url="example.com"),
    bad("URL", url="ftp://example.com/"),
    bad("URL", url=b"https://example.com/"),
    bad("URL", url=None),
    bad("URL", url="https://exa mple.com/"),
    bad("URL", url="https://example.com\r\nX: y/"),
    bad("URL", url="https://exämple.com/"),
    bad("URL", url="https://example.com:port/"),
    bad("URL", url="https://example.com:99999/"),
    bad("URL", url="https://[::1/"),
    bad("URL", url="https://example.com/\ud800"),
    bad("header X-A", headers={"X-A": "a\r\nX-Admin: 1"}),
    bad("header X-A", headers={"X-A": "a\n b"}),
    bad("header X-A", headers={"X-A": "a\rb"}),
    bad("header X-A", headers={"X-A": "a\0b"}),
    bad("header X-A", headers={"X-A": "\x7f"}),
    bad("header X-A", headers={"X-A": b"a\r\nb"}),
    bad("header X-A", headers={"X-A": "\n"}),
    bad("header X-A", headers=[("X-A", "ok"), ("X-A", "a\n")]),
    bad("header X-A.*Latin-1", headers={"X-A": "日本"}),
    bad("header X-A.*Latin-1", headers={"X-A": "\ud800"}),
    bad("header X-A.*int", headers={"X-A": 1}),
    bad("header X-A.*None", headers={"X-A": None}),
    bad("header: ", headers={"X A": "1"}),
    bad("header: ", headers={"X-A\n": "1"}),
    bad("header: ", headers={"": "1"}),
    bad("header: ", headers={"X-A:": "1"}),
    bad("header: ", headers={b"X-A": "1"}),
    bad("header: ", headers={"X-Ä": "1"}),
    bad("headers", headers="X-A: 1"),
    bad("headers", headers=[("X-A", "1", "2")]),
    bad("headers", headers=7),
    bad("at", at=datetime(2026, 1, 1)),  # noqa: DTZ001 - that is what is refused
    bad("at", at=1767225600),
    bad("at", at="20260101T000000Z"),
    bad("at.*2011", at=datetime(2011, 12, 31, tzinfo=timezone.utc)),
    bad("at.*2011", at=datetime(2012, 1, 1, 5, tzinfo=timezone(timedelta(hours=14)))),
    bad("region", region=""),
    bad("region", region="us/east"),
    bad("region", region="us east"),
    bad("region", region="us-east-1\0"),
    bad("region", region="us-east-1\n"),
    bad("region", region="us,east"),
    bad("region", region="us‑east‑1"),
    bad("region", region=None),
    bad("service", service=""),
    bad("service", service="s3/"),
    bad("service", service="s 3"),
    bad("service", service="s3\0"),
    bad("service", service=None),
    bad("method: .*list", method=["GET"]),
    bad("region: .*list", region=["us-east-1"]),
    bad("service: .*list", service=["s3"]),
    bad("header: .*list", headers=[(["X-A"], "1")]),
    bad("header X-A.*list", headers={"X-A": ["1", "2"]}),
    bad("rules", rules="s3"),
    bad("at.*beyond", at=datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-14)))),
]


@pytest.mark.parametrize(("part", "changed"), BAD)
def test_refuses_and_names_the_part(part: str, changed: dict[str, Any]) -> None:
    call: dict[str, Any] = {"method": "GET", "url": URL, **CALL, **changed}
    for sign in (SIGNER.sign, SIGNER.explain, lambda **kw: SIGNER.presign(expires=60, **kw)):
        with pytest.raises(SigningError, match=f"^{part}"):
            sign(**call)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (7, "int"),
        (["data"], "list"),
        ({"a": 1}, "dict"),
        ((part for part in (b"a", b"b")), "generator"),
        (io.StringIO("text"), "binary mode"),
        (Broken(), "chunks"),
        ("\ud800", "surrogate"),
    ],
    ids=["int", "list", "dict", "generator", "text file", "pipe", "surrogate"],
)
def test_refuses_bodies(body: Any, said: str) -> None:
    with pytest.raises(SigningError, match=f"^body: .*{said}"):
        SIGNER.sign("PUT", URL, body=body, **CALL)


@pytest.mark.parametrize("expires", [0, -1, 604801, 1.5, True, "60", None])
def test_refuses_expires(expires: Any) -> None:
    with pytest.raises(SigningError, match=r"^expires"):
        SIGNER.presign("GET", URL, expires=expires, **CALL)
    assert "X-Amz-Expires=1&" in SIGNER.presign("GET", URL, expires=1, **CALL)
    assert "X-Amz-Expires=604800&" in SIGNER.presign("GET", URL, expires=604800, **CALL)


def test_refuses_to_presign_twice() -> None:
    url = SIGNER.presign("GET", URL, expires=60, **CALL)
    with pytest.raises(SigningError, match=r"^URL: is presigned already"):
        SIGNER.presign("GET", url, expires=60, **CALL)


def test_a_message_shows_no_signature_or_value() -> None:
    with pytest.raises(SigningError) as caught:
        SIGNER.sign("GET", "ftp://example.com/?X-Amz-Signature=secret", **CALL)
    assert "secret" not in str(caught.value)
    with pytest.raises(SigningError, match=r"^session_token: holds a blank, line end") as caught:
        make("secret\ntoken")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("access_key_id", ["", "AK/IA", "AK IA", "AKIA\n", None, b"AKIA"])
def test_refuses_access_key_ids(access_key_id: Any) -> None:
    with pytest.raises(SigningError, match=r"^access_key_id"):
        Signer(access_key_id, MemoryBackend(b"AWS4x"))


def test_refuses_tokens_and_their_dates() -> None:
    with pytest.raises(SigningError, match=r"^session_token"):
        make(b"token")  # type: ignore[arg-type] # that is what is refused
    with pytest.raises(SigningError, match=r"^session_expiration"):
        make("token", session_expiration=datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is refused
    with pytest.raises(SigningError, match=r"^session_expiration"):
        make("token", session_expiration="2026-01-01")
    assert make("").session_token is None


@pytest.mark.parametrize("wrong", ["pkcs11:token=aws", None, b"key"])
def test_refuses_backends(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"^backend: .*open_backend"):
        Signer(ACCESS_KEY_ID, wrong)
    if wrong is not None:
        with pytest.raises(ConfigError, match=r"^sigv4a_backend"):
            Signer(ACCESS_KEY_ID, MemoryBackend(b"AWS4x"), sigv4a_backend=wrong)


def test_a_clock_before_2012() -> None:
    with (
        time_machine.travel(datetime(1970, 1, 2, tzinfo=timezone.utc), tick=False),
        pytest.raises(SigningError, match=r"clock.*1970"),
    ):
        SIGNER.sign("GET", URL, service="sts", region="us-east-1")


def test_warns_when_the_token_expires_first() -> None:
    def presign(left: int, expires: int, at: datetime | None) -> str:
        start = at or datetime.now(timezone.utc)
        signer = make("token", session_expiration=start + timedelta(seconds=left))
        return signer.presign("GET", URL, service="s3", region="us-east-1", expires=expires, at=at)

    for at in (AT, None):
        with pytest.warns(ExpiryWarning, match=r"meant for 3600 s, .* in (899|900) s") as seen:
            presign(900, 3600, at)
        assert seen[0].filename == __file__  # the caller's line, not ours
        with pytest.warns(ExpiryWarning, match="already"):
            presign(-5, 3600, at)
        presign(3602, 3600, at)
    make(session_expiration=AT).presign("GET", URL, expires=3600, **CALL)  # no token, nothing to expire


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [time.monotonic()]
    monkeypatch.setattr("aws_hmac.signing_keys.monotonic", lambda: now[0])
    return now


def test_presign_notices_a_rotated_key(slow_clock: list[float]) -> None:
    backend = MemoryBackend(b"AWS4" + SECRET.encode())
    signer = Signer(ACCESS_KEY_ID, backend)
    before = signer.presign("GET", URL, expires=60, **CALL)
    backend._key = b"AWS4other"
    assert signer.presign("GET", URL, expires=60, **CALL) == before  # asked a moment ago
    slow_clock[0] += 301
    after = signer.presign("GET", URL, expires=60, **CALL)
    assert after == make(secret="other").presign("GET", URL, expires=60, **CALL) != before


def test_shows_no_secret() -> None:
    shown = repr(WITH_TOKEN) + str(WITH_TOKEN) + repr(WITH_TOKEN.keys)
    assert SECRET not in shown
    assert "session+token" not in shown
    assert ACCESS_KEY_ID in shown
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="signer"):
            duplicate(SIGNER)
