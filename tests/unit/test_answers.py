"""Every form in which AWS says that a signature is wrong, read and compared with ours."""

from __future__ import annotations

import hmac
import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import pytest

from aws_hmac import HmacBackend, Signer
from aws_hmac.answers import is_signature_error, read_error
from aws_hmac.compare import amz_date_of, differences
from aws_hmac.sigv4 import UNSIGNED_PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_hmac.signer import Explanation

AT = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
ID = "AKIAIOSFODNN7EXAMPLE"
SENTENCE = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key"
    " and signing method. Consult the service documentation for details."
)


class Device(HmacBackend):
    def hmac_sha256(self, message: bytes, /) -> bytes:
        return hmac.digest(b"AWS4secret", message, "sha256")


def s3_xml(canonical: str, to_sign: str) -> bytes:
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SignatureDoesNotMatch</Code><Message>{SENTENCE}</Message><AWSAccessKeyId>{ID}</AWSAccessKeyId>\
<StringToSign>{escape(to_sign)}</StringToSign><SignatureProvided>0123</SignatureProvided>\
<StringToSignBytes>41 57</StringToSignBytes><CanonicalRequest>{escape(canonical)}</CanonicalRequest>\
<CanonicalRequestBytes>47 45</CanonicalRequestBytes><RequestId>ABC</RequestId><HostId>x</HostId></Error>""".encode()


def _sentence(canonical: str, to_sign: str) -> str:
    return (
        f"{SENTENCE}\n\nThe Canonical String for this request should have been\n'{canonical}'\n\n"
        f"The String-to-Sign should have been\n'{to_sign}'\n"
    )


def query_xml(canonical: str, to_sign: str) -> bytes:
    return f"""<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
  <Error><Type>Sender</Type><Code>SignatureDoesNotMatch</Code>
    <Message>{escape(_sentence(canonical, to_sign))}</Message></Error>
  <RequestId>ABC</RequestId></ErrorResponse>""".encode()


def json_body(canonical: str, to_sign: str) -> bytes:
    code = "com.amazon.coral.service#InvalidSignatureException"
    return json.dumps({"__type": code, "message": _sentence(canonical, to_sign)}).encode()


FORMS = [s3_xml, query_xml, json_body]


@pytest.fixture
def signer() -> Signer:
    return Signer(ID, Device())


def explain(signer: Signer, url: str = "https://iam.amazonaws.com/a/b?Action=X&V=1", **more: object) -> Explanation:
    arguments: dict[str, object] = {"service": "iam", "region": "us-east-1", "at": AT, "headers": {"X-Amz-A": "1"}}
    return signer.explain("GET", url, **{**arguments, **more})  # type: ignore[arg-type] # the defaults above or the test's


@pytest.mark.parametrize("form", FORMS)
def test_read(signer: Signer, form: Callable[[str, str], bytes]) -> None:
    ours = explain(signer, "https://iam.amazonaws.com/it's?a=<&b=\"")
    error = read_error(form(ours.canonical_request, ours.string_to_sign))
    assert error is not None
    assert error.canonical_request == ours.canonical_request
    assert error.string_to_sign == ours.string_to_sign
    assert amz_date_of(error) == AT
    assert (error.code or "").startswith(("SignatureDoesNotMatch", "InvalidSignatureException"))
    assert is_signature_error(form("x", "y"))


@pytest.mark.parametrize("form", FORMS)
def test_same_request_means_another_key(signer: Signer, form: Callable[[str, str], bytes]) -> None:
    ours = explain(signer)
    error = read_error(form(ours.canonical_request, ours.string_to_sign))
    assert error is not None
    (finding,) = differences(ours, ID, error)
    assert finding.subject == "key"
    assert "key import --overwrite" in finding.mend


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        (("GET\n", "POST\n"), "method", "POST"),
        (("/a/b", "/prod/a/b"), "path", "prefix"),
        (("/a/b", "/a%2Fb"), "path", "encoded otherwise"),
        (("V=1", "V=2"), "query", "lacks V=1; the server has V=2"),
        (("host:iam.amazonaws.com", "host:10.0.0.7"), "header host", "proxy"),
        (("x-amz-a:1", "x-amz-a:2"), "header x-amz-a", "changed on the way"),
        (("x-amz-a:1", "x-amz-a:"), "header x-amz-a", "dropped"),
        (("x-amz-a:1\n", ""), "header x-amz-a", "does not cover"),
        (("e3b0c442", "00000000"), "payload hash", "body was changed"),
        (("20260131T120000Z", "20260131T130000Z"), "time", "--at 20260131T130000Z"),
        (("/us-east-1/", "/eu-west-1/"), "scope: region", "eu-west-1"),
        (("/iam/", "/sts/"), "scope: service", "sts"),
    ],
)
def test_each_difference_is_named(
    signer: Signer, form: Callable[[str, str], bytes], change: tuple[str, str], subject: str, words: str
) -> None:
    ours = explain(signer)
    error = read_error(form(ours.canonical_request.replace(*change, 1), ours.string_to_sign.replace(*change, 1)))
    assert error is not None
    found = {finding.subject: finding.text for finding in differences(ours, ID, error)}
    assert words in found[subject]
    assert "key" not in found


def test_path_encoded_twice(signer: Signer) -> None:
    url = "https://bucket.s3.amazonaws.com/a%20b"
    as_s3 = explain(signer, url, service="s3")
    as_other = explain(signer, url, rules=None)
    for ours, theirs, words in ((as_s3, as_other, "once more than we did"), (as_other, as_s3, "once more than the")):
        error = read_error(s3_xml(theirs.canonical_request, theirs.string_to_sign))
        assert error is not None
        found = {finding.subject: finding.text for finding in differences(ours, ID, error)}
        assert words in found["path"]


def test_unsigned_payload(signer: Signer) -> None:
    ours = explain(signer, body=UNSIGNED_PAYLOAD, headers={})
    theirs = explain(signer, headers={})
    error = read_error(s3_xml(theirs.canonical_request, theirs.string_to_sign))
    assert error is not None
    assert any("does not sign the body" in finding.text for finding in differences(ours, ID, error))


def test_another_access_key_id(signer: Signer) -> None:
    error = read_error(s3_xml("x", "y").replace(ID.encode(), b"AKIAOTHER"))
    assert error is not None
    assert any("AKIAOTHER" in finding.text for finding in differences(explain(signer), ID, error))


def test_session_token_is_not_shown(signer: Signer) -> None:
    ours = explain(Signer(ID, Device(), session_token="token-one"))
    theirs = ours.canonical_request.replace("token-one", "token-two")
    error = read_error(s3_xml(theirs, ours.string_to_sign))
    assert error is not None
    assert "token-" not in str(differences(ours, ID, error))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"<Error><Code>RequestTimeTooSkewed</Code><Message>m</Message></Error>", "RequestTimeTooSkewed"),
        (b'{"__type":"ExpiredTokenException","Message":"m"}', "ExpiredTokenException"),
        (b"<Response><Errors><Error><Code>AuthFailure</Code></Error></Errors></Response>", "AuthFailure"),
    ],
)  # fmt: skip
def test_an_answer_without_strings_says_so(signer: Signer, body: bytes, code: str) -> None:
    error = read_error(body)
    assert error is not None
    assert error.code == code
    assert any("neither" in finding.text for finding in differences(explain(signer), ID, error))


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", b"{", b"[]", b"{}", b"<html><body>502 Bad Gateway</body></html>", b"<a>", b"\xff\xfe",
     b"<!DOCTYPE x [<!ENTITY a 'b'>]><Error><Code>&a;</Code></Error>",
     b"<!--" + b"-" * 5000 + b"--><!DOCTYPE x [<!ENTITY a 'b'>]><Error><Code>&a;</Code></Error>",
     b"<!--" + b" " * 5000 + b"--><!DOCTYPE x [<!ENTITY a 'b'>]><Error><Code>&a;</Code></Error>",
     b'{"a":' * 100_000, b"<a>" * 100_000 + b"</a>" * 100_000, b"<Error><Code>a" + b"<a>" * 100_000],
    ids=lambda body: body[:20].decode("latin-1"),
)  # fmt: skip
def test_what_is_no_answer(body: bytes) -> None:
    assert read_error(body) is None
    assert not is_signature_error(body)
