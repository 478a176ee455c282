"""The examples of the pkcs11 backend, and what docs/testing.md and the folder softhsm tell users to type."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, ObjectClass

from aws_hmac import import_key
from aws_hmac.testing import EXAMPLE_KEY, import_into

if TYPE_CHECKING:
    from aws_hmac._softhsm import SoftHSMToken
    from tests.conftest import MotoServer

pytestmark = pytest.mark.device("pkcs11")

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_ACCESS", "AWS_SECRET", "PYTEST"))}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=cwd)


def example(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, ROOT / "examples" / name, *arguments, cwd=None, **variables)


@pytest.mark.parametrize("secret", [None, "wrong"])
def test_sign(softhsm_token: SoftHSMToken, moto_server: MotoServer, secret: str | None) -> None:
    user = moto_server.create_user(["s3:ListAllMyBuckets"])
    uri = import_key(softhsm_token.uri(), secret or user.secret_access_key, access_key_id=user.access_key_id)
    done = example("pkcs11_sign.py", uri, user.access_key_id, f"{moto_server.url}/", "s3", "us-east-1")
    assert done.returncode == (0 if secret is None else 1), done.stderr
    assert ("ListAllMyBucketsResult" in done.stdout) is (secret is None)
    assert ("SignatureDoesNotMatch" in done.stdout) is (secret is not None)


@pytest.mark.parametrize("secret", [None, "wrong"])
def test_boto3(softhsm_token: SoftHSMToken, moto_server: MotoServer, aws_home: Path, secret: str | None) -> None:
    role = moto_server.create_role(["s3:ListAllMyBuckets"])
    user = moto_server.create_user(["sts:AssumeRole"])
    moto_server.client("s3").create_bucket(Bucket=f"bucket-of-{user.user_name}")
    uri = import_key(softhsm_token.uri(module_path=None), secret or user.secret_access_key)
    where = {"AWS_ENDPOINT_URL": moto_server.url, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    done = example("pkcs11_boto3.py", uri, user.access_key_id, role, **where)
    assert (f"bucket-of-{user.user_name}" in done.stdout) is (secret is None), done.stderr
    assert ("SignatureDoesNotMatch" in done.stderr) is (secret is not None)


def test_protection(softhsm_token: SoftHSMToken) -> None:
    done = example("pkcs11_protection.py", import_into(softhsm_token.uri(), EXAMPLE_KEY))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good     CKA_EXTRACTABLE" in done.stdout
    (token,) = [t for t in pkcs11.lib(softhsm_token.module).get_tokens() if t.label == softhsm_token.label]
    with token.open(rw=True, user_pin=softhsm_token.pin) as session:
        session.create_object(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
                Attribute.TOKEN: True,
                Attribute.LABEL: "careless",
                Attribute.VALUE: EXAMPLE_KEY,
                Attribute.SIGN: True,
                Attribute.EXTRACTABLE: True,
            }
        )
    done = example("pkcs11_protection.py", softhsm_token.uri("careless"))
    assert done.returncode == 1
    assert "bad      CKA_EXTRACTABLE" in done.stdout


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_ci_recipe(tmp_path: Path) -> None:
    """The conftest.py and test of docs/testing.md, as a user's project holds them."""
    conftest, test = blocks("testing.md", "python")[:2]
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_upload.py").write_text(test)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path))
    done = run(*command, cwd=tmp_path, AWS_HMAC_REQUIRE="pkcs11")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_required_device_that_is_missing_fails(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["aws_hmac.testing"]\n')
    (tmp_path / "test_it.py").write_text("def test_it(softhsm_token): pass\n")
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "sed", "cut", "rm", "mkdir", "ls", "dirname", "od", "tr"):  # all but pkcs11-tool
        found = next(folder / tool for folder in map(Path, os.environ["PATH"].split(":")) if (folder / tool).exists())
        (tmp_path / "bin" / tool).symlink_to(found)
    command = (sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", str(tmp_path))
    skipped = run(*command, cwd=tmp_path, PATH=f"{tmp_path}/bin", AWS_HMAC_REQUIRE="")
    assert "1 skipped" in skipped.stdout, skipped.stdout
    assert "pkcs11-tool is not installed" in skipped.stdout
    failed = run(*command, cwd=tmp_path, PATH=f"{tmp_path}/bin", AWS_HMAC_REQUIRE="tpm2, pkcs11")
    assert failed.returncode == 1
    assert "AWS_HMAC_REQUIRE names it" in failed.stdout


class TestMakeToken:
    def test_as_documented(self, tmp_path: Path) -> None:
        script = f"""
set -eu
eval "$({ROOT}/softhsm/make-token '{tmp_path}/my & token|s' "it's mine")"
test "$(cat "$SOFTHSM2_PIN_FILE" | wc -c)" -eq 16
softhsm2-util --show-slots
stat -c '%a %n' '{tmp_path}/my & token|s' '{tmp_path}/my & token|s/pin' '{tmp_path}/my & token|s/so-pin'
"""
        done = run("bash", "-c", script)
        assert done.returncode == 0, done.stderr
        assert "Label:            it's mine" in done.stdout
        assert re.findall(r"^(\d+) /", done.stdout, re.MULTILINE) == ["700", "600", "600"]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [("", "usage:"), ("/a b c", "usage:"), ("/usr", "/usr is not empty"), ("/proc/x", "cannot create")],
    )
    def test_wrong_use(self, arguments: str, said: str) -> None:
        done = run(ROOT / "softhsm" / "make-token", *arguments.split())
        assert done.returncode
        assert done.stdout == ""
        assert said in done.stderr
