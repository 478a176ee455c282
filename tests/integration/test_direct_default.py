"""`install_default`: one line for a whole process. Each test is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

START = """
import warnings; warnings.simplefilter("ignore")
import boto3, botocore.session, botocore.credentials
import aws_hmac, aws_hmac.botocore
from aws_hmac_backends.memory import MemoryBackend

def who(session):
    return session.get_credentials() and (session.get_credentials().access_key, session.get_credentials().method)
"""


def _run(program: str, folder: Path, **variables: str) -> list[str]:
    (folder / "config").write_text(
        "[profile device]\nregion = eu-west-1\naws_hmac =\n  key = memory:env=THE_SECRET\n"
        "  access_key_id = AKIAPROFILE\n  mode = direct\n[profile other]\naws_access_key_id = AKIAOTHER\n"
        "aws_secret_access_key = x\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | {
        "AWS_CONFIG_FILE": str(folder / "config"), "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true", "THE_SECRET": "secret", **variables,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(program)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_signer_for_every_session(tmp_path: Path) -> None:
    said = _run(
        """
        before = botocore.session.Session()
        signer = aws_hmac.Signer("AKIASIGNER", MemoryBackend(b"AWS4secret"))
        aws_hmac.botocore.install_default(signer=signer, mode="direct")
        print(who(before))
        print(who(botocore.session.Session()), who(boto3.Session()), who(boto3.Session(profile_name="device")))
        print(who(boto3.Session("AKIAGIVEN", "x")))
        params = {"Bucket": "bucket-name", "Key": "k"}
        url = boto3.client("s3", "eu-west-1").generate_presigned_url("get_object", params)
        print(url.partition("X-Amz-Credential=")[2][:10])
        client = boto3.client("sts", "eu-west-1", aws_access_key_id="AKIAGIVEN", aws_secret_access_key="x")
        print(client.generate_presigned_url("get_caller_identity").partition("X-Amz-Credential=")[2][:9])
        other = aws_hmac.Signer("AKIASECOND", MemoryBackend(b"AWS4secret"))
        print(who(aws_hmac.Session(signer=other, mode="direct")))
        aws_hmac.botocore.install_default(signer=other, mode="direct")
        print(who(boto3.Session()))
        """,
        tmp_path,
        AWS_ACCESS_KEY_ID="AKIAENVIRONMENT",
        AWS_SECRET_ACCESS_KEY="x",
    )
    ours = "('AKIASIGNER', 'aws-hmac')"
    assert said == [
        "('AKIAENVIRONMENT', 'env')",
        f"{ours} {ours} {ours}",
        "('AKIAGIVEN', 'explicit')",
        "AKIASIGNER",
        "AKIAGIVEN",
        "('AKIASECOND', 'aws-hmac')",
        "('AKIASECOND', 'aws-hmac')",
    ]


def test_profiles(tmp_path: Path) -> None:
    said = _run(
        """
        aws_hmac.botocore.install_default()
        print(who(boto3.Session(profile_name="device")), who(boto3.Session(profile_name="other")), who(boto3.Session()))
        client = boto3.Session(profile_name="device").client("sts")
        print(client.generate_presigned_url("get_caller_identity").partition("X-Amz-Credential=")[2][:11])
        """,
        tmp_path,
    )
    assert said == ["('AKIAPROFILE', 'aws-hmac') ('AKIAOTHER', 'config-file') None", "AKIAPROFILE"]


def test_a_key_by_its_uri(tmp_path: Path) -> None:
    said = _run(
        """
        aws_hmac.botocore.install_default(key="memory:env=THE_SECRET", access_key_id="AKIAKEY", mode="direct")
        one, two = boto3.Session(), boto3.Session()
        print(who(one), one.get_credentials().signer is two.get_credentials().signer)
        """,
        tmp_path,
    )
    assert said == ["('AKIAKEY', 'aws-hmac') True"]


def test_sessions_by_default(tmp_path: Path) -> None:
    said = _run(
        """
        signer = aws_hmac.Signer("AKIASIGNER", MemoryBackend(b"AWS4secret"))
        aws_hmac.botocore.install_default(signer=signer, role_arn="arn:aws:iam::123456789012:role/x")
        print(boto3.Session().get_credentials())
        """,
        tmp_path,
        AWS_REGION="eu-west-1",
    )
    assert said == ["<SessionBackedCredentials of Session>"]


@pytest.mark.skipif(find_spec("aiobotocore") is None, reason="aiobotocore is not installed")
def test_aiobotocore_is_left_alone(tmp_path: Path) -> None:
    said = _run(
        """
        import aiobotocore.session, asyncio
        aws_hmac.botocore.install_default(key="memory:env=THE_SECRET", access_key_id="AKIAKEY", mode="direct")
        print(asyncio.run(aiobotocore.session.get_session().get_credentials()).method)
        """,
        tmp_path,
        AWS_ACCESS_KEY_ID="AKIAENVIRONMENT",
        AWS_SECRET_ACCESS_KEY="x",
    )
    assert said == ["env"]


def test_wrong_options(tmp_path: Path) -> None:
    said = _run(
        """
        signer = aws_hmac.Signer("AKIASIGNER", MemoryBackend(b"AWS4secret"))
        for options in (
            dict(signer=signer, mode="indirect"),
            dict(signer=signer, mode="direct", role_arn="arn:aws:iam::123456789012:role/x"),
            dict(signer=signer, key="memory:env=THE_SECRET"),
            dict(key="memory:env=THE_SECRET"),
        ):
            try:
                aws_hmac.botocore.install_default(**options)
            except aws_hmac.ConfigError as exc:
                print(exc)
        print(who(boto3.Session()))
        """,
        tmp_path,
    )
    assert said[0].endswith("'indirect' is none of session, direct")
    assert said[1].endswith("role_arn cannot be set where mode = direct makes no session")
    assert said[2].endswith("key cannot be set where a signer is given")
    assert said[3].endswith("access_key_id is missing")
    assert said[4] == "None"
