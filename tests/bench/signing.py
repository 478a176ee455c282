"""What one signature costs, side by side with everything else that signs in Python.

The candidates take turns, and the best of many rounds counts, so that what else the machine does falls on all.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.metadata
import itertools
import os
import ssl
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from aws_hmac import Signer
from aws_hmac_backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
REGION = "us-east-1"

ROUNDS = 120
SECONDS = 0.004
"""A round's length, for each candidate."""


class Case(NamedTuple):
    """One request that all sign."""

    title: str
    method: str
    url: str
    service: str
    headers: dict[str, str]
    body: bytes
    expires: int | None = None
    varied: bool = False
    """The query is another one each time."""


POST = Case(
    "DynamoDB POST, 200 bytes, 4 headers",
    "POST",
    "https://dynamodb.us-east-1.amazonaws.com/",
    "dynamodb",
    {
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Target": "DynamoDB_20120810.PutItem",
        "Content-Length": "200",
        "User-Agent": "bench",
    },
    b"x" * 200,
)
GET = Case(
    "S3 GET, 5 query parameters",
    "GET",
    "https://examplebucket.s3.us-east-1.amazonaws.com/"
    "?list-type=2&prefix=photos%2F2026%2F&delimiter=%2F&max-keys=100&encoding-type=url",
    "s3",
    {"User-Agent": "bench"},
    b"",
)
VARIED = GET._replace(title="The same, another query each time", varied=True)
PRESIGN = Case(
    "S3 presigned GET",
    "GET",
    "https://examplebucket.s3.us-east-1.amazonaws.com/photos/2026/puppy.jpg",
    "s3",
    {},
    b"",
    expires=300,
)
GOALS = {"botocore": (10.0, 5.0), "awscrt": (2.5, None), "floor": (1 / 2.5, None)}
"""How many times faster than these: signing, presigning."""


def candidates(case: Case) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Yields (name, version, call) of everything here that can sign this; says what cannot run, and why."""
    yield "aws-hmac", "", ours(case)
    for name, make in (
        ("botocore", by_botocore),
        ("awscrt", by_awscrt),
        ("aws-sdk-signers", by_aws_sdk_signers),
        ("requests-aws4auth", by_requests_aws4auth),
        ("httpx-auth-awssigv4", by_httpx_auth),
    ):
        try:
            version = importlib.metadata.version(name)
            call = make(case)
        except ImportError as exc:
            reason = "needs Python 3.12" if name == "aws-sdk-signers" and sys.version_info < (3, 12) else str(exc)
            print(f"   without {name}: {reason}")
            continue
        if call is not None:
            yield name, version, call
    yield "floor", f"hashlib, {ssl.OPENSSL_VERSION.split(' ', 2)[1]}", floor(case)


def ours(case: Case) -> Callable[[], object]:
    signer = _signer()
    method, url, service, headers, body = case.method, case.url, case.service, case.headers, case.body
    if (expires := case.expires) is not None:
        return lambda: signer.presign(method, url, service=service, region=REGION, headers=headers, expires=expires)
    if case.varied:
        urls = itertools.cycle([f"{url}{number:05}" for number in range(10_000)])
        return lambda: signer.sign(method, next(urls), service=service, region=REGION, headers=headers, body=body)
    return lambda: signer.sign(method, url, service=service, region=REGION, headers=headers, body=body)


def floor(case: Case) -> Callable[[], object]:
    """The hashing alone: SHA-256 of the body and of the canonical request, one HMAC of the string to sign."""
    made = _signer().explain(
        case.method, case.url, service=case.service, region=REGION, headers=case.headers, body=case.body,
        presign=case.expires,
    )  # fmt: skip
    request, to_sign, key = made.canonical_request.encode(), made.string_to_sign.encode(), b"k" * 32
    sha256, body = hashlib.sha256, case.body

    def call() -> None:
        if body:
            sha256(body).hexdigest()
        sha256(request).hexdigest()
        hmac.digest(key, to_sign, "sha256").hex()

    return call


def by_botocore(case: Case) -> Callable[[], object]:
    from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    credentials = Credentials(KEY_ID, SECRET)
    if case.expires is not None:
        presigner = S3SigV4QueryAuth(credentials, case.service, REGION, expires=case.expires)
        return lambda: presigner.add_auth(AWSRequest(method=case.method, url=case.url))
    auth = (S3SigV4Auth if case.service == "s3" else SigV4Auth)(credentials, case.service, REGION)
    request = AWSRequest(method=case.method, url=case.url, headers=case.headers, data=case.body)
    return lambda: auth.add_auth(request)  # replaces the signature before; making requests is not what is measured


def by_awscrt(case: Case) -> Callable[[], object]:
    from awscrt import auth, http

    provider = auth.AwsCredentialsProvider.new_static(KEY_ID, SECRET)
    host, _, path = case.url.partition("//")[2].partition("/")
    query = case.expires is not None

    def call() -> object:
        from datetime import datetime, timezone

        request = http.HttpRequest(case.method, "/" + path, http.HttpHeaders([("Host", host), *case.headers.items()]))
        config = auth.AwsSigningConfig(
            algorithm=auth.AwsSigningAlgorithm.V4,
            signature_type=auth.AwsSignatureType.HTTP_REQUEST_QUERY_PARAMS
            if query
            else auth.AwsSignatureType.HTTP_REQUEST_HEADERS,
            credentials_provider=provider,
            region=REGION,
            service=case.service,
            date=datetime.now(timezone.utc),
            use_double_uri_encode=case.service != "s3",
            should_normalize_uri_path=case.service != "s3",
            signed_body_value="UNSIGNED-PAYLOAD" if query else hashlib.sha256(case.body).hexdigest(),
            expiration_in_seconds=case.expires,
        )
        return auth.aws_sign_request(request, config).result()

    return call


def by_aws_sdk_signers(case: Case) -> Callable[[], object] | None:
    from io import BytesIO

    from aws_sdk_signers import (  # type: ignore[import-not-found,unused-ignore] # Python 3.12 and above only
        URI,
        AWSCredentialIdentity,
        AWSRequest,
        Field,
        Fields,
        SigV4Signer,
        SigV4SigningProperties,
    )

    if case.expires is not None:
        return None  # does not presign
    signer = SigV4Signer()
    identity = AWSCredentialIdentity(access_key_id=KEY_ID, secret_access_key=SECRET)
    host, _, rest = case.url.partition("//")[2].partition("/")
    path, _, query = rest.partition("?")
    destination = URI(scheme="https", host=host, path="/" + path, query=query or None)

    def call() -> object:
        fields = Fields([Field(name=name, values=[value]) for name, value in case.headers.items()])
        request = AWSRequest(destination=destination, method=case.method, body=BytesIO(case.body), fields=fields)
        properties = SigV4SigningProperties(region=REGION, service=case.service)
        return signer.sign(properties=properties, request=request, identity=identity)

    return call


def by_requests_aws4auth(case: Case) -> Callable[[], object] | None:
    import requests
    from requests_aws4auth import AWS4Auth

    if case.expires is not None:
        return None
    auth = AWS4Auth(KEY_ID, SECRET, REGION, case.service)
    prepared = requests.Request(case.method, case.url, headers=case.headers, data=case.body).prepare()

    def call() -> object:
        prepared.headers.pop("Authorization", None)
        return auth(prepared)

    return call


def by_httpx_auth(case: Case) -> Callable[[], object] | None:
    import httpx
    from httpx_auth_awssigv4 import SigV4Auth

    if case.expires is not None:
        return None
    auth = SigV4Auth(access_key=KEY_ID, secret_key=SECRET, service=case.service, region=REGION)
    request = httpx.Request(case.method, case.url, headers=case.headers, content=case.body)
    return lambda: auth(request)


def measure(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Returns microseconds a call, the best of `ROUNDS` rounds in which all take turns."""
    counts, best = {}, dict.fromkeys(calls, float("inf"))
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        counts[name] = max(1, int(SECONDS / (time.perf_counter() - start)))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            repeat = range(counts[name])
            start = time.perf_counter()
            for _ in repeat:
                call()
            best[name] = min(best[name], (time.perf_counter() - start) / len(repeat) * 1e6)
    return best


def compare(case: Case) -> bool:
    """Prints one table; returns whether a goal was missed."""
    print(f"\n{case.title}")
    found = [(name, version, call) for name, version, call in candidates(case)]
    took = measure({name: call for name, _, call in found})
    missed = False
    for name, version, _ in found:
        ratio = took[name] / took["aws-hmac"]
        goal = None if case.varied else GOALS.get(name, (None, None))[case.expires is not None]
        verdict = ""
        if goal is not None:
            verdict = f"goal {goal:.4g}: {'reached' if ratio >= goal else 'MISSED'}"
            missed |= ratio < goal
        print(f"   {name:20} {version:16} {took[name]:8.1f} µs   ×{ratio:6.2f}   {verdict}".rstrip())
    return missed


def upload() -> None:
    """Prints what a body of 1 MiB costs: signed chunks, unsigned chunks with a CRC-32, one hash of all."""
    from io import BytesIO

    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum

    data = os.urandom(1 << 20)
    url = "https://examplebucket.s3.us-east-1.amazonaws.com/photo.jpg"
    signer = _signer()
    auth = S3SigV4Auth(Credentials(KEY_ID, SECRET), "s3", REGION)
    chunks = [data[start : start + 65536] for start in range(0, len(data), 65536)]

    def chunked(**mode: Any) -> Callable[[], object]:
        def call() -> None:
            for _ in signer.sign_stream("PUT", url, region=REGION, body=data, **mode)[1]:
                pass

        return call

    def by_wrapper() -> None:
        request = AWSRequest(method="PUT", url=url, headers={"X-Amz-Trailer": "x-amz-checksum-crc32"})
        request.context["checksum"] = {"request_algorithm": {"in": "trailer"}}
        auth.add_auth(request)
        body = AwsChunkedWrapper(
            BytesIO(data), checksum_cls=Crc32Checksum, checksum_name="x-amz-checksum-crc32", chunk_size=65536
        )
        while body.read(65536):
            pass

    def bare() -> None:
        for chunk in chunks:
            hashlib.sha256(chunk).hexdigest()
            hmac.digest(b"k" * 32, b"x" * 300, "sha256").hex()

    took = measure(
        {
            "aws-hmac, signed chunks": chunked(),
            "aws-hmac, signed chunks and CRC-32": chunked(checksum="crc32"),
            "floor: 16 hashes of 64 KiB, 16 HMACs": bare,
            "aws-hmac, one hash": lambda: signer.sign("PUT", url, service="s3", region=REGION, body=data),
            "botocore, one hash": lambda: auth.add_auth(AWSRequest(method="PUT", url=url, data=data)),
            "aws-hmac, unsigned chunks and CRC-32": chunked(signed=False),
            "botocore, unsigned chunks and CRC-32": by_wrapper,
        }
    )
    print("\nS3 PUT of 1 MiB")
    for name, microseconds in took.items():
        print(f"   {name:38} {microseconds:8.0f} µs   {(1 << 20) / microseconds:6.0f} MB/s")


def threads() -> None:
    """Prints signatures a second over threads."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"\nThreads, DynamoDB POST ({'with' if gil else 'without'} a global interpreter lock)")
    for count in (1, 2, 4, 8):
        call = ours(POST)
        done = [0] * count
        stop = threading.Event()

        def work(index: int, call: Callable[[], object] = call, done: list[int] = done, stop: Any = stop) -> None:
            while not stop.is_set():
                for _ in range(100):
                    call()
                done[index] += 100

        workers = [threading.Thread(target=work, args=(index,)) for index in range(count)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        time.sleep(0.5)
        stop.set()
        for worker in workers:
            worker.join()
        print(f"   {count} threads: {sum(done) / (time.perf_counter() - start):10,.0f} signatures a second")


def _signer() -> Signer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Signer(KEY_ID, MemoryBackend(b"AWS4" + SECRET.encode()))


def main() -> bool:
    """Prints all tables; returns whether a goal was missed."""
    missed = [compare(case) for case in (POST, GET, VARIED, PRESIGN)]
    upload()
    threads()
    return any(missed)
