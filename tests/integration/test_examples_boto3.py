"""examples/boto3_session.py with a key in SoftHSM, against a server that verifies signatures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aws_hmac

if TYPE_CHECKING:
    from aws_hmac._softhsm import SoftHSMToken
    from tests.conftest import MotoServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "boto3_session.py"

pytestmark = pytest.mark.device("pkcs11")


def run(moto_server: MotoServer, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    environment |= {
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": moto_server.url,
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    return subprocess.run(
        [sys.executable, EXAMPLE, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_example(moto_server: MotoServer, softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    user = moto_server.create_user(["sts:AssumeRole"])
    role = moto_server.create_role(["s3:PutObject", "s3:GetObject"])
    moto_server.client("s3").create_bucket(Bucket="example")
    uri = aws_hmac.import_key(softhsm_token.uri("example"), user.secret_access_key)
    done = run(moto_server, tmp_path, uri, user.access_key_id, role, "example")
    assert done.returncode == 0, done.stderr
    assert f"we are arn:aws:sts::123456789012:assumed-role/{role.split('/')[-1]}/aws-hmac-" in done.stdout
    assert "read back: signed by a role" in done.stdout

    other = aws_hmac.import_key(softhsm_token.uri("other"), "not-the-secret")
    (tmp_path / "other").mkdir()
    refused = run(moto_server, tmp_path / "other", other, user.access_key_id, role, "example")
    assert refused.returncode == 1
    assert "SignatureDoesNotMatch" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert run(moto_server, tmp_path).returncode == 1
