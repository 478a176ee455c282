"""Oracles of signatures that share no code with aws_hmac: botocore at a frozen clock, and plain hashlib."""

from __future__ import annotations

import hashlib
import hmac
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ACCESS_KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
"""AWS's example key, that of its published test suite."""

AT = datetime(2015, 8, 30, 12, 36, tzinfo=timezone.utc)
AMZ_DATE = "20150830T123600Z"

S3_KIN = frozenset({"s3", "s3-object-lambda", "s3-outposts", "s3express"})


@contextmanager
def botocore_clock(at: datetime = AT) -> Iterator[None]:
    """Stops botocore's clock."""
    with mock.patch("botocore.auth.get_current_datetime", return_value=at):
        yield


class Signed(NamedTuple):
    """What botocore made of a request."""

    headers: dict[str, str]
    canonical_request: str
    signature: str


def botocore_sign(
    method: str,
    url: str,
    *,
    service: str,
    region: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    token: str | None = None,
    secret: str = SECRET,
) -> Signed:
    """Signs by botocore's SigV4Auth or S3SigV4Auth, within `botocore_clock`."""
    request = AWSRequest(method=method, url=url, data=body)
    for name, value in headers:
        request.headers.add_header(name, value)
    kind = S3SigV4Auth if service in S3_KIN else SigV4Auth
    auth = kind(Credentials(ACCESS_KEY_ID, secret, token), service, region)
    auth.add_auth(request)
    made = {name.lower(): value for name, value in request.headers.items()}
    signature = made["authorization"].rpartition("=")[2]
    del request.headers["Authorization"]
    return Signed(made, auth.canonical_request(request), signature)


def botocore_presign(
    method: str,
    url: str,
    *,
    service: str,
    region: str,
    expires: int,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    token: str | None = None,
    secret: str = SECRET,
) -> str:
    """Presigns by botocore's SigV4QueryAuth or S3SigV4QueryAuth, within `botocore_clock`."""
    request = AWSRequest(method=method, url=url, data=body)
    for name, value in headers:
        request.headers.add_header(name, value)
    kind = S3SigV4QueryAuth if service in S3_KIN else SigV4QueryAuth
    kind(Credentials(ACCESS_KEY_ID, secret, token), service, region, expires=expires).add_auth(request)
    return str(request.url)


def hashlib_signature(
    canonical_request: str,
    *,
    service: str,
    region: str,
    amz_date: str = AMZ_DATE,
    secret: str = SECRET,
) -> str:
    """Computes the signature of a canonical request as the specification writes it, step by step."""
    key = b"AWS4" + secret.encode()
    for part in (amz_date[:8], region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    to_sign = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            amz_date,
            f"{amz_date[:8]}/{region}/{service}/aws4_request",
            hashlib.sha256(canonical_request.encode()).hexdigest(),
        ]
    )
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
