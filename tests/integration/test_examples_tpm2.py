from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aws_hmac import import_key

if TYPE_CHECKING:
    from aws_hmac._swtpm import Swtpm
    from tests.conftest import MotoServer

pytestmark = pytest.mark.device("tpm2")

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_ACCESS", "AWS_SECRET"))}
    return subprocess.run(
        [sys.executable, EXAMPLES / example, *arguments],
        env={**environment, "AWS_EC2_METADATA_DISABLED": "true", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("secret", [None, "wrong"])
def test_sign(swtpm: Swtpm, moto_server: MotoServer, tmp_path: Path, secret: str | None) -> None:
    """From a key file with a password, as a service would."""
    user = moto_server.create_user(["s3:ListAllMyBuckets"])
    password = tmp_path / "tpm-auth"
    password.write_text("correct horse\n")
    password.chmod(0o600)
    uri = f"tpm2:file={tmp_path}/prod.pem?tcti={swtpm.tcti}&auth-source=file:{password}"
    uri = import_key(uri, secret or user.secret_access_key, access_key_id=user.access_key_id)
    done = run("tpm2_sign.py", uri, user.access_key_id, f"{moto_server.url}/", "s3", "us-east-1")
    assert done.returncode == (0 if secret is None else 1), done.stderr
    assert ("ListAllMyBucketsResult" in done.stdout) is (secret is None)
    assert ("SignatureDoesNotMatch" in done.stdout) is (secret is not None)


@pytest.mark.parametrize("secret", [None, "wrong"])
def test_boto3(swtpm: Swtpm, moto_server: MotoServer, aws_home: Path, secret: str | None) -> None:
    """By the provider: the key at a persistent handle, bound to a PCR, assumes a role."""
    role = moto_server.create_role(["s3:ListAllMyBuckets"])
    user = moto_server.create_user(["sts:AssumeRole"])
    moto_server.client("s3").create_bucket(Bucket=f"bucket-of-{user.user_name}")
    uri = f"tpm2:handle=0x81008001?tcti={swtpm.tcti}&pcrs=sha256:7"
    uri = import_key(uri, secret or user.secret_access_key, access_key_id=user.access_key_id)
    where = {"AWS_ENDPOINT_URL": moto_server.url, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    done = run("tpm2_boto3.py", uri, user.access_key_id, role, **where)
    assert (f"bucket-of-{user.user_name}" in done.stdout) is (secret is None), done.stderr
    assert ("SignatureDoesNotMatch" in done.stderr) is (secret is not None)
