"""The examples of signing by hand, as a user runs them, against rclone's S3 server."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_signer_store import call

if TYPE_CHECKING:
    from tests.conftest import S3Store

pytestmark = pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example: str, *arguments: str, secret: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / example, "memory:env=TEST_SECRET", *arguments],
        env={**os.environ, "TEST_SECRET": secret},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def bucket(rclone_s3: S3Store) -> str:
    assert call(rclone_s3, "PUT", "/examples")[0] == 200
    return f"{rclone_s3.url}/examples"


def test_rest_by_hand(rclone_s3: S3Store, bucket: str, tmp_path: Path) -> None:
    file = tmp_path / "a photo, ü.jpg"
    file.write_bytes(os.urandom(300_000))
    arguments = (rclone_s3.access_key_id, bucket, "us-east-1", str(file))
    done = run("rest_by_hand.py", *arguments, secret=rclone_s3.secret_access_key)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "PUT 200",
        f"GET 200 {hashlib.sha256(file.read_bytes()).hexdigest()}",
        "DELETE 204",
    ]
    wrong = run("rest_by_hand.py", *arguments, secret="wrong")
    assert wrong.returncode == 1
    assert "SignatureDoesNotMatch" in wrong.stderr


def test_presign(rclone_s3: S3Store, bucket: str) -> None:
    def url(method: str, secret: str = rclone_s3.secret_access_key) -> str:
        done = run("presign.py", rclone_s3.access_key_id, method, f"{bucket}/by url.txt", "us-east-1", secret=secret)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with urllib.request.urlopen(urllib.request.Request(url("PUT"), b"hello", method="PUT")) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(url("GET")) as answer:
        assert answer.read() == b"hello"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url("GET", secret="wrong"))
    assert refused.value.code == 403
    refused.value.close()
