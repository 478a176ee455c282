"""Profiles whose key needs AWS credentials itself: from a profile of its own, and never in a circle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aws_hmac import import_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import AccessKey, MotoServer

COMMAND = f"{Path(sys.executable).with_name('aws-hmac')} credential-process"


@pytest.fixture
def keyset(moto_server: MotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The block of a profile with a keyset under a KEK of moto's, without the KEK's credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_server.admin.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_server.admin.secret_access_key)
    user = moto_server.create_user(["sts:AssumeRole"])
    kek = moto_server.client("kms", region="eu-west-1").create_key()["KeyMetadata"]["Arn"]
    uri = import_key(
        f"tink:file={tmp_path}/k.json;kek=aws-kms://{kek}", user.secret_access_key, access_key_id=user.access_key_id
    )
    return (
        f"region = us-east-1\naws_hmac =\n  key = {uri}%s\n  access_key_id = {user.access_key_id}\n"
        f"  role_arn = {moto_server.create_role()}\n  session_cache = off\n"
    )


@pytest.fixture
def credentials(moto_server: MotoServer, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(config: str, profile: str, **variables: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "config").write_text(config)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        environment.update(
            AWS_CONFIG_FILE=str(tmp_path / "config"),
            AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "credentials"),
            AWS_ENDPOINT_URL=moto_server.url,
            AWS_EC2_METADATA_DISABLED="true",
            **variables,
        )
        return subprocess.run(
            [*COMMAND.split(), "--profile", profile],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def static(key: AccessKey) -> str:
    return f"aws_access_key_id = {key.access_key_id}\naws_secret_access_key = {key.secret_access_key}\n"


def test_profile_of_its_own(
    keyset: str, credentials: Callable[..., subprocess.CompletedProcess[str]], moto_server: MotoServer
) -> None:
    decrypter = moto_server.create_user(["kms:Decrypt"])
    own = f"[profile kms]\n{static(decrypter)}"
    done = credentials(f"[profile prod]\n{keyset % '?profile=kms'}{own}", "prod")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["AccessKeyId"].startswith("ASIA")
    # The twin: one who may not decrypt.
    other = moto_server.create_user(["kms:DescribeKey"])
    refused = f"[profile kms]\n{static(other)}"
    done = credentials(f"[profile prod]\n{keyset % '?profile=kms'}{refused}", "prod")
    assert done.returncode == 1
    assert "kms:Decrypt" in done.stderr
    assert "not allowed" in done.stderr


def test_circle_within_a_process(keyset: str, credentials: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = credentials(
        f"[profile prod]\n{keyset % ''}credential_process = {COMMAND} --profile prod\n", "prod", AWS_PROFILE="prod"
    )
    assert done.returncode == 1
    assert "go in a circle (prod -> prod)" in done.stderr


def test_circle_across_processes(keyset: str, credentials: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """The credentials for KMS come from a profile whose process, further down, wants those of the first one."""
    config = (
        f"[profile prod]\n{keyset % '?profile=kms'}"
        f"[profile kms]\nregion = us-east-1\ncredential_process = {COMMAND} --profile middle\n"
        f"[profile middle]\n{keyset % '?profile=back'}"
        f"[profile back]\nregion = us-east-1\ncredential_process = {COMMAND} --profile prod\n"
    )
    done = credentials(config, "prod")
    assert done.returncode == 1
    assert "go in a circle (prod -> middle -> prod)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
