"""What the tests of direct signing share."""

from __future__ import annotations

import hmac
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

import aws_hmac
from aws_hmac import Signer
from aws_hmac.backend import HmacBackend

if TYPE_CHECKING:
    from collections.abc import Iterator


class CountingBackend(HmacBackend):
    """Holds a key in memory, notes each message that it is asked for; its key can be replaced."""

    name = "counting:"

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.asked: list[bytes] = []

    def hmac_sha256(self, message: bytes, /) -> bytes:
        self.asked.append(message)
        return hmac.digest(self.key, message, "sha256")


def direct_session(signer: Signer, region: str = "us-east-1") -> boto3.Session:
    """Returns a session whose clients are signed by ``signer``."""
    return aws_hmac.Session(signer=signer, mode="direct", region_name=region)


def memory_signer(access_key_id: str, secret: str, **options: Any) -> Signer:
    """Returns a signer with a key in memory."""
    return Signer(access_key_id, CountingBackend(b"AWS4" + secret.encode()), **options)


class Sent(NamedTuple):
    """What a client would have sent."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes


class Wire:
    """Takes what a client sends, and answers as it is told."""

    def __init__(self, client: Any, *answers: tuple[int, dict[str, str], bytes]) -> None:
        self.sent: list[Sent] = []
        self.answers = list(answers)
        protocol = client.meta.service_model.metadata["protocol"]
        self.usual: tuple[int, dict[str, str], bytes] = (
            200,
            {},
            b"{}" if "json" in protocol else b"<Response><GetCallerIdentityResult/></Response>",
        )
        client.meta.events.register_first("before-send", self._answer)

    def _answer(self, request: Any, **_: object) -> AWSResponse:
        body = request.body.read() if hasattr(request.body, "read") else request.body
        headers = {k: v.decode() if isinstance(v, bytes) else v for k, v in request.headers.items()}
        self.sent.append(
            Sent(request.method, request.url, headers, body.encode() if isinstance(body, str) else bytes(body or b""))
        )
        status, answer, content = self.answers.pop(0) if self.answers else self.usual
        found = HTTPHeaders()
        for name, value in answer.items():
            found[name] = value
        return AWSResponse(request.url, status, found, _Raw(content))


class _Raw(io.BytesIO):
    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self.read()
