"""Odd spellings of paths and queries, sent as they are, against a server that canonicalises by code of its own."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

import pytest

from aws_hmac import Signer
from aws_hmac_backends.memory import MemoryBackend

if TYPE_CHECKING:
    from tests.conftest import S3Store

pytestmark = pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")


def call(
    store: S3Store, method: str, target: str, body: bytes = b"", *, secret: str | None = None
) -> tuple[int, bytes]:
    signer = Signer(store.access_key_id, MemoryBackend(b"AWS4" + (secret or store.secret_access_key).encode()))
    headers = signer.sign(method, store.url + target, service="s3", region="us-east-1", body=body)
    connection = http.client.HTTPConnection(store.url.partition("//")[2])
    try:
        connection.request(method, target, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def bucket(rclone_s3: S3Store) -> str:
    assert call(rclone_s3, "PUT", "/spellings")[0] == 200
    for key in ("a%20b", "%C3%A9", "~user", "d/e"):
        assert call(rclone_s3, "PUT", f"/spellings/{key}", key.encode())[0] == 200
    return "spellings"


@pytest.mark.parametrize(
    "target",
    [
        "/a%20b",
        "/%61%20b",
        "/%c3%a9",
        "/%7Euser",
        "/%7euser",
        "/d%2Fe",
        "/d%2fe",
        "/d/e?x-id=GetObject",
        "/d/e?x-id=Get+Object",
        "/d/e?%78-id=%47et%20Object&b=1&a=1&b=2",
        "/d/e?x=a/b:c,d@e",
        "/d/e?x",
        "?list-type=2&prefix=d%2f",
        "?prefix=a+b&list-type=2",
        "?list-type=2&prefix=&delimiter=/",
    ],
)
def test_spellings(rclone_s3: S3Store, bucket: str, target: str) -> None:
    assert call(rclone_s3, "GET", f"/{bucket}{target}")[0] == 200
    assert call(rclone_s3, "GET", f"/{bucket}{target}", secret="other")[0] == 403
