"""The examples of direct signing, run against rclone's S3 server, which verifies signatures."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import S3Store

EXAMPLES = Path(__file__).parents[2] / "examples"


def _run(store: S3Store, example: str, *arguments: str, secret: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | {
        "TEST_SECRET": secret or store.secret_access_key,
        "AWS_ENDPOINT_URL": store.url,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    return subprocess.run(
        [sys.executable, EXAMPLES / example, "memory:env=TEST_SECRET", store.access_key_id, *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def bucket(rclone_s3: S3Store) -> str:
    import boto3

    name = f"example-{uuid.uuid4().hex[:8]}"
    client = boto3.Session(rclone_s3.access_key_id, rclone_s3.secret_access_key, region_name="us-east-1").client(
        "s3", endpoint_url=rclone_s3.url
    )
    client.create_bucket(Bucket=name)
    return name


def test_boto3_direct(rclone_s3: S3Store, bucket: str, tmp_path: Path) -> None:
    file = tmp_path / "report.bin"
    file.write_bytes(os.urandom(9 << 20))
    done = _run(rclone_s3, "boto3_direct.py", bucket, str(file))
    assert done.returncode == 0, done.stderr
    size, url = done.stdout.splitlines()
    assert size == f"report.bin: {9 << 20} bytes"
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == file.read_bytes()


def test_s3_compatible(rclone_s3: S3Store, bucket: str) -> None:
    done = _run(rclone_s3, "s3_compatible.py", rclone_s3.url, "auto", bucket)
    assert done.stdout.splitlines() == ["signed by the device", "hello.txt"], done.stderr


def test_aiobotocore_direct(rclone_s3: S3Store, bucket: str) -> None:
    done = _run(rclone_s3, "aiobotocore_direct.py", bucket)
    assert done.stdout == "20 objects\n", done.stderr


@pytest.mark.parametrize(
    ("example", "arguments"),
    [
        ("boto3_direct.py", [str(EXAMPLES / "boto3_direct.py")]),
        ("s3_compatible.py", []),
        ("aiobotocore_direct.py", []),
    ],
)
def test_wrong_key(rclone_s3: S3Store, bucket: str, example: str, arguments: list[str]) -> None:
    words = [rclone_s3.url, "auto", bucket] if example == "s3_compatible.py" else [bucket, *arguments]
    done = _run(rclone_s3, example, *words, secret="wrong")
    assert done.returncode == 1
    assert "SignatureDoesNotMatch" in done.stderr
