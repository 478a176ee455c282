"""What the tests of direct signing share."""

from __future__ import annotations

import hmac
from typing import Any

import boto3

import aws_hmac
from aws_hmac import Signer
from aws_hmac.backend import HmacBackend


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
