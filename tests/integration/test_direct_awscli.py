"""The AWS CLI, version 1, with the plug-in: its commands are signed by the device."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import AccessKey, MotoServer, S3Store

CONFIG = """\
[plugins]
aws_hmac = aws_hmac.awscli

[default]
region = us-east-1

[profile device]
region = us-east-1
s3 =
  addressing_style = path
  multipart_threshold = 5MB
  multipart_chunksize = 5MB
aws_hmac =
  key = memory:file={key}
  access_key_id = {access_key_id}
  mode = direct
"""


class Cli:
    def __init__(self, folder: Path, access_key_id: str, secret: str) -> None:
        self.folder = folder
        key = folder / "key"
        key.write_text(secret)
        key.chmod(0o600)
        (folder / "config").write_text(CONFIG.format(key=key, access_key_id=access_key_id))

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        environment |= {
            "AWS_CONFIG_FILE": str(self.folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONWARNINGS": "ignore",
            **variables,
        }
        aws = Path(sys.executable).with_name("aws")
        return subprocess.run([aws, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def cli(rclone_s3: S3Store, tmp_path: Path) -> Cli:
    return Cli(tmp_path, rclone_s3.access_key_id, rclone_s3.secret_access_key)


def test_s3(cli: Cli, rclone_s3: S3Store) -> None:
    def s3(*arguments: str) -> str:
        done = cli("s3", *arguments, "--profile", "device", "--endpoint-url", rclone_s3.url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    s3("mb", "s3://cli")
    source = cli.folder / "source"
    source.write_bytes(os.urandom(6 << 20))  # two parts
    s3("cp", str(source), "s3://cli/a b+ü.bin")
    assert "a b+ü.bin" in s3("ls", "s3://cli")
    s3("cp", "s3://cli/a b+ü.bin", str(cli.folder / "target"))
    assert (cli.folder / "target").read_bytes() == source.read_bytes()
    url = s3("presign", "s3://cli/a b+ü.bin", "--expires-in", "60").strip()
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == source.read_bytes()
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(url.replace("Expires=60", "Expires=61"))
    refused.value.close()


def test_wrong_key(rclone_s3: S3Store, tmp_path: Path) -> None:
    done = Cli(tmp_path, rclone_s3.access_key_id, "wrong")(
        "s3", "ls", "--profile", "device", "--endpoint-url", rclone_s3.url
    )
    assert done.returncode != 0
    assert "SignatureDoesNotMatch" in done.stderr


def test_which_credentials_win(moto_server: MotoServer, tmp_path: Path) -> None:
    key: AccessKey = moto_server.create_user()
    cli = Cli(tmp_path, key.access_key_id, key.secret_access_key)
    call = ("sts", "get-caller-identity", "--endpoint-url", moto_server.url, "--output", "text", "--query", "Arn")
    environment = {"AWS_ACCESS_KEY_ID": "AKIAFROMENVIRONMENT0", "AWS_SECRET_ACCESS_KEY": "x"}
    assert cli(*call, "--profile", "device", **environment).stdout.strip().endswith(key.user_name)
    # As with every profile: AWS_PROFILE does not go before keys in the environment, --profile does.
    assert "InvalidClientTokenId" in cli(*call, AWS_PROFILE="device", **environment).stderr
    assert cli(*call, AWS_PROFILE="device").stdout.strip().endswith(key.user_name)


def test_a_profile_without_block_is_left_alone(cli: Cli) -> None:
    done = cli("sts", "get-caller-identity")
    assert "Unable to locate credentials" in done.stderr


def test_the_secret_is_asked_for(cli: Cli) -> None:
    done = cli("configure", "list", "--profile", "device")
    assert done.returncode != 0
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_block(cli: Cli) -> None:
    config = cli.folder / "config"
    config.write_text(config.read_text().replace("mode = direct", "mode = indirect"))
    done = cli("sts", "get-caller-identity", "--profile", "device")
    assert done.returncode != 0
    assert "'indirect' is none of session, direct" in done.stderr
