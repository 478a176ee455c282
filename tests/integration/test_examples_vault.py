from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aws_hmac import KeyURI, import_key
from aws_hmac_backends.vault import VaultBackend

if TYPE_CHECKING:
    from tests.conftest import AccessKey, MotoServer
    from tests.transit_server.fixtures import Vault

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


def signers_uri(vault: Vault, key: AccessKey, secret: str | None = None) -> str:
    """Imports a user's secret as the administrator; returns the URI with a signer's token."""
    named = KeyURI.parse(import_key(vault.uri(), secret or key.secret_access_key, access_key_id=key.access_key_id))
    return vault.uri(str(named.get("key")), path=";version=1", token=vault.token(VaultBackend.policy(named, "signer")))


@pytest.mark.parametrize("secret", [None, "wrong"])
def test_sign(vault: Vault, moto_server: MotoServer, secret: str | None) -> None:
    user = moto_server.create_user(["s3:ListAllMyBuckets"])
    uri = signers_uri(vault, user, secret)
    done = run("vault_sign.py", uri, user.access_key_id, f"{moto_server.url}/", "s3", "us-east-1")
    assert done.returncode == (0 if secret is None else 1), done.stderr
    assert ("ListAllMyBucketsResult" in done.stdout) is (secret is None)
    assert ("SignatureDoesNotMatch" in done.stdout) is (secret is not None)


@pytest.mark.parametrize("secret", [None, "wrong"])
def test_boto3(vault: Vault, moto_server: MotoServer, aws_home: Path, secret: str | None) -> None:
    role = moto_server.create_role(["s3:ListAllMyBuckets"])
    user = moto_server.create_user(["sts:AssumeRole"])
    moto_server.client("s3").create_bucket(Bucket=f"bucket-of-{user.user_name}")
    uri = signers_uri(vault, user, secret)
    where = {"AWS_ENDPOINT_URL": moto_server.url, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    done = run("vault_boto3.py", uri, user.access_key_id, role, **where)
    assert (f"bucket-of-{user.user_name}" in done.stdout) is (secret is None), done.stderr
    assert ("SignatureDoesNotMatch" in done.stderr) is (secret is not None)


def test_load(vault: Vault) -> None:
    done = run("vault_load.py", vault.imported(), "--threads", "8", "--requests", "200")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("200 HMACs in ")
    assert "100 % within" in done.stdout
