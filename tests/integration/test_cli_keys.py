"""The commands on a real token, with a server that verifies signatures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aws_hmac.backend import fingerprint_of
from aws_hmac.cli import main

if TYPE_CHECKING:
    from aws_hmac._softhsm import SoftHSMToken
    from tests.conftest import AccessKey, MotoServer

FOLDER = Path(sys.executable).parent
COMMAND = str(FOLDER / "aws-hmac")


def run(*words: str, standard_input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *words], input=standard_input, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def user(moto_server: MotoServer, aws_home: Path) -> AccessKey:
    return moto_server.create_user()


@pytest.fixture
def uri(softhsm_token: SoftHSMToken, user: AccessKey) -> str:
    done = run(
        "key",
        "import",
        softhsm_token.uri(),
        "--access-key-id",
        user.access_key_id,
        "--json",
        standard_input=user.secret_access_key,
    )
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["uri"])


def test_check(uri: str, user: AccessKey, moto_server: MotoServer) -> None:
    words = ["key", "check", uri, "--json"]
    sts = ["--sts", "--access-key-id", user.access_key_id, "--region", "eu-west-1", "--endpoint-url", moto_server.url]
    done = run(*words, *sts)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["fingerprint"] == fingerprint_of(b"AWS4" + user.secret_access_key.encode()).hex()
    assert document["identity"]["arn"].endswith(f":user/{user.user_name}")
    assert {"level": "good", "subject": "CKA_EXTRACTABLE"}.items() <= next(
        f for f in document["findings"] if f["subject"] == "CKA_EXTRACTABLE"
    ).items()
    assert "accepts its signatures" in run(*words[:-1], *sts).stdout


def test_check_of_another_users_key(uri: str, moto_server: MotoServer) -> None:
    other = moto_server.create_user()
    done = run(
        "key", "check", uri, "--sts", "--access-key-id", other.access_key_id, "--region", "eu-west-1",
        "--endpoint-url", moto_server.url,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("aws-hmac: ")
    assert "SignatureDoesNotMatch" in done.stderr
    assert done.stderr.count("\n") == 1


def test_list_and_delete(uri: str, softhsm_token: SoftHSMToken) -> None:
    everything = softhsm_token.uri(None)
    (listed,) = json.loads(run("key", "list", everything, "--json").stdout)
    assert "prod" in listed["uri"]
    assert "object=prod" in run("key", "list", everything).stdout
    again = run("key", "import", uri, standard_input="x")
    assert again.returncode == 1
    assert again.stderr.endswith("; --overwrite replaces it\n")
    assert run("key", "delete", uri, "--yes").stdout.startswith("deleted: ")
    gone = run("key", "delete", uri, "--yes")
    assert gone.returncode == 1
    assert "fits no key" in run("key", "list", everything).stdout


def test_from_console_to_the_aws_cli(
    softhsm_token: SoftHSMToken, user: AccessKey, moto_server: MotoServer, tmp_path: Path
) -> None:
    """What a user does: the console's CSV in, a profile out, and the AWS CLI works; the plaintext is not needed."""
    file = tmp_path / "accessKeys.csv"
    file.write_text(
        f"Access key ID,Secret access key\r\n{user.access_key_id},{user.secret_access_key}\r\n", "utf-8-sig"
    )
    file.chmod(0o600)
    uri = json.loads(run("key", "import", softhsm_token.uri(), "--csv", str(file), "--json").stdout)["uri"]
    file.unlink()
    role = moto_server.create_role()
    done = run(
        "configure", "--profile", "prod", "--key", uri, "--access-key-id", user.access_key_id, "--role-arn", role,
        "--region", "eu-west-1", "--endpoint-url", moto_server.url,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert run("key", "check", "--profile", "prod", "--sts").returncode == 0
    words = ["sts", "get-caller-identity", "--query", "Arn", "--output", "text", "--profile", "prod"]
    aws = subprocess.run(
        [FOLDER / "aws", *words, "--endpoint-url", moto_server.url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
    )
    assert aws.returncode == 0, aws.stderr
    assert f":assumed-role/{role.rpartition('/')[2]}/" in aws.stdout


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, str]]:
    capsys.readouterr()
    main(["doctor", "--json", *words])
    found: list[dict[str, str]] = json.loads(capsys.readouterr().out)
    return [f for f in found if f["level"] == "bad" and f["area"] != "installation"]


def test_doctor(
    uri: str,
    user: AccessKey,
    moto_server: MotoServer,
    softhsm_token: SoftHSMToken,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A profile on a real token: nothing wrong; then the key gone, the PIN wrong, the PIN's file gone."""
    words = ["--profile", "prod", "--key", uri, "--access-key-id", user.access_key_id]
    assert main(["configure", *words, "--region", "eu-west-1", "--endpoint-url", moto_server.url]) == 0
    assert doctor(capsys, "--profile", "prod") == []
    assert doctor(capsys) == []

    kept = softhsm_token.pin_file.read_text()
    softhsm_token.pin_file.unlink()
    (found,) = doctor(capsys, "--profile", "prod")
    assert str(softhsm_token.pin_file) in found["text"]
    assert found["mend"]
    softhsm_token.pin_file.write_text(kept)
    softhsm_token.pin_file.chmod(0o622)
    (found,) = doctor(capsys, "--profile", "prod")
    assert found["mend"] == f"chmod go-w {softhsm_token.pin_file}"
    subprocess.run(found["mend"], shell=True, check=True)
    softhsm_token.pin_file.chmod(0o644)
    assert main(["doctor", "--profile", "prod"]) == 0
    out, err = capsys.readouterr()
    assert f"mend: chmod go-rwx {softhsm_token.pin_file}" in out
    assert err == ""
    subprocess.run(f"chmod go-rwx {softhsm_token.pin_file}", shell=True, check=True)
    assert main(["doctor", "--profile", "prod"]) == 0
    assert "chmod" not in capsys.readouterr().out

    assert run("key", "delete", uri, "--yes").returncode == 0
    (found,) = doctor(capsys, "--profile", "prod")
    assert "prod" in found["text"]
    assert kept not in json.dumps(found)
    assert run("key", "import", uri, standard_input=user.secret_access_key).returncode == 0
    assert doctor(capsys, "--profile", "prod") == []
