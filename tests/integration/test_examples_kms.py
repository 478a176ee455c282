"""The examples of `tink` and `awskms`, as programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aws_hmac import import_key, open_backend
from aws_hmac.backend import fingerprint, fingerprint_of
from tests.backends.kms_server import ACCOUNT, REGION, FakeKms, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import AccessKey, MotoServer

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example: str, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / example, *arguments],
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true", **variables},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def server(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MotoServer:
    """moto for KMS, STS and S3; in the environment the credentials of one who may do nothing but use KMS keys."""
    decrypter = moto_server.create_user(["kms:Decrypt", "kms:Encrypt"])
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", decrypter.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", decrypter.secret_access_key)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return moto_server


def keyset(server: MotoServer, folder: Path, user: AccessKey, secret: str | None = None) -> str:
    kek = server.client("kms", region="eu-west-1").create_key()["KeyMetadata"]["Arn"]
    return import_key(
        f"tink:file={folder}/keyset.json;kek=aws-kms://{kek}",
        secret or user.secret_access_key,
        access_key_id=user.access_key_id,
    )


@pytest.mark.parametrize("secret", [None, "wrong"])
def test_tink_sign(server: MotoServer, tmp_path: Path, secret: str | None) -> None:
    user = server.create_user(["s3:ListAllMyBuckets"])
    uri = keyset(server, tmp_path, user, secret)
    done = run("tink_sign.py", uri, user.access_key_id, f"{server.url}/", "s3", "us-east-1")
    assert done.returncode == (0 if secret is None else 1), done.stderr
    assert ("ListAllMyBucketsResult" in done.stdout) is (secret is None)
    assert ("SignatureDoesNotMatch" in done.stdout) is (secret is not None)


@pytest.mark.parametrize("secret", [None, "wrong"])
def test_tink_boto3(server: MotoServer, tmp_path: Path, secret: str | None) -> None:
    role = server.create_role(["s3:ListAllMyBuckets"])
    user = server.create_user(["sts:AssumeRole"])
    server.client("s3").create_bucket(Bucket=f"bucket-of-{user.user_name}")
    done = run("tink_boto3.py", keyset(server, tmp_path, user, secret), user.access_key_id, role)
    assert (f"bucket-of-{user.user_name}" in done.stdout) is (secret is None), done.stderr
    assert ("SignatureDoesNotMatch" in done.stderr) is (secret is not None)


def test_tink_rewrap(server: MotoServer, tmp_path: Path) -> None:
    user = server.create_user()
    uri = keyset(server, tmp_path, user)
    new = f"aws-kms://{server.client('kms', region='us-west-2').create_key()['KeyMetadata']['Arn']}"
    done = run("tink_rewrap.py", uri, new)
    assert done.returncode == 0, done.stderr
    rewrapped = done.stdout.splitlines()[0].removeprefix("from now on: ")
    assert f"kek={new};" in rewrapped
    with open_backend(rewrapped) as backend:
        assert fingerprint(backend) == fingerprint_of(b"AWS4" + user.secret_access_key.encode())
    assert [p.name for p in tmp_path.iterdir()] == ["keyset.json"]


@pytest.fixture
def kms() -> Iterator[FakeKms]:
    with serve(FakeKms()) as kms:
        yield kms


def test_awskms(server: MotoServer, kms: FakeKms) -> None:
    """Imported by one program, used by the other against a store that verifies."""
    user = server.create_user(["s3:ListAllMyBuckets"])
    server.client("s3").create_bucket(Bucket=f"bucket-of-{user.user_name}")
    signer = f"arn:aws:iam::{ACCOUNT}:role/web"
    done = run(
        *("awskms_import.py", "store", REGION, signer, user.access_key_id),
        stdin=f"{user.secret_access_key}\n",
        AWS_ENDPOINT_URL_KMS=kms.url,
        AWS_ENDPOINT_URL_STS=kms.url,
    )
    assert done.returncode == 0, done.stderr
    uri = done.stdout.strip()
    assert signer in kms.policies[uri.removeprefix("awskms:key-id=")]
    kms.calls.clear()
    done = run("awskms_boto3.py", uri, user.access_key_id, server.url, AWS_ENDPOINT_URL_KMS=kms.url)
    assert f"bucket-of-{user.user_name}" in done.stdout, done.stderr
    assert {name for name, _ in kms.calls} == {"GenerateMac"}
    # The twin: a key with other material signs nothing that the store accepts.
    kms.material[uri.removeprefix("awskms:key-id=")] = b"AWS4" + b"wrong" * 8
    done = run("awskms_boto3.py", uri, user.access_key_id, server.url, AWS_ENDPOINT_URL_KMS=kms.url)
    assert "SignatureDoesNotMatch" in done.stderr
