from __future__ import annotations

import collections
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import configloader
from hypothesis import given, settings
from hypothesis import strategies as st

from aws_hmac import profile
from aws_hmac.cli import aws_files, configure, main
from aws_hmac.errors import ConfigError

ID = "AKIAIOSFODNN7EXAMPLE"
URI = "memory:env=AWS_HMAC_TEST"
COMMAND = str(Path(sys.executable).parent / "aws-hmac")
PROCESS = f"{COMMAND} credential-process --profile prod"
BLOCK = f"aws_hmac =\n  key = {URI}\n  access_key_id = {ID}\n"

pytestmark = pytest.mark.usefixtures("aws_home")


def run(*words: str, profile: str = "prod") -> int:
    return main(["configure", "--profile", profile, "--key", URI, "--access-key-id", ID, *words])


@pytest.fixture
def config(aws_home: Path) -> Path:
    aws_home.mkdir()
    return aws_home / "config"


def test_new_file(aws_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--region", "eu-west-1", "--role-arn", "arn:aws:iam::111122223333:role/deploy") == 0
    file = aws_home / "config"
    assert file.read_text() == (
        f"[profile prod]\ncredential_process = {PROCESS}\nregion = eu-west-1\n"
        f"{BLOCK}  role_arn = arn:aws:iam::111122223333:role/deploy\n"
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(aws_home.stat().st_mode) == 0o700
    assert [p.name for p in aws_home.iterdir()] == ["config"]
    out, err = capsys.readouterr()
    assert "Next: aws sts get-caller-identity --profile prod" in out
    assert err == ""


def test_botocore_reads_what_was_written(config: Path) -> None:
    policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
    role = "arn:aws:iam::111122223333:role/x"
    assert run("--policy", policy, "--role-arn", role, profile="my prod") == 0
    profile = botocore.session.Session(profile="my prod").get_scoped_config()
    assert profile["aws_hmac"] == {"key": URI, "access_key_id": ID, "role_arn": role, "policy": policy}
    assert profile["credential_process"] == f'{COMMAND} credential-process --profile "my prod"'


def test_every_option_of_a_profile_can_be_written() -> None:
    elsewhere = {"region", "use_fips_endpoint", "use_dualstack_endpoint", "ca_bundle"}
    assert set(configure.HELP) == set(profile.OPTIONS) - elsewhere


def test_what_was_written_can_be_read(config: Path) -> None:
    words = ["--role-arn", "arn:aws:iam::111122223333:role/x", "--tags", "team=web,cost=42", "--max-age", "60"]
    words += ["--policy-arns", "arn:aws:iam::aws:policy/ReadOnlyAccess", "--transitive-tag-keys", "team"]
    words += ["--duration-seconds", "7200", "--session-cache", "off", "--external-id", "a b", "--cache", "scope"]
    words += ["--source-identity", "me", "--mfa-serial", "GAHT12345678", "--endpoint-url", "https://sts.example"]
    assert run("--region", "eu-west-1", *words) == 0
    read = profile.load_profile("prod")
    assert (read.tags, read.max_age, read.duration_seconds) == ({"team": "web", "cost": "42"}, 60, 7200)
    assert (read.session_cache, read.external_id, read.cache) == (False, "a b", "scope")
    assert (read.region, read.endpoint_url) == ("eu-west-1", "https://sts.example")


def test_a_chained_role(config: Path) -> None:
    words = ["configure", "--profile", "next", "--source-profile", "prod", "--role-arn", "arn:aws:iam::1:role/x"]
    assert main(words) == 0
    assert profile.load_profile("next").source_profile == "prod"


def test_default_profile(config: Path) -> None:
    assert main(["configure", "--key", URI, "--access-key-id", ID]) == 0
    assert config.read_text().startswith("[default]\ncredential_process = ")


def test_direct_has_no_credential_process(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--mode", "direct") == 0
    assert config.read_text() == f"[profile prod]\n{BLOCK}  mode = direct\n"
    assert "aws_hmac.Session(profile_name='prod')" in capsys.readouterr().out


STRANGE = [
    "",
    "# my config\n\n[default]\nregion=us-east-1 # not a comment\n; another comment\n",
    "[default]\nregion = us-east-1",
    "[profile prod]\n",
    "[profile prod]",
    "[profile other]\nregion = x\n\n"
    "[profile prod]\n# mine\nregion : eu-west-1\noutput=json\n\n# of the next\n[plugins]\na = b\n",
    '[profile "prod"]\r\noutput = json\r\n\r\n[default]\r\nregion = x\r\n',
    "[profile prod]\n  region = eu-west-1\n  output = json\n"
    "[profile z]\ns3 =\n  max_concurrent_requests = 20\n\n  addressing_style = path\n",
    "[profile prod]\ns3 =\n    addressing_style = path\n    # a comment inside\n\n"
    "    use_accelerate_endpoint = true\n\n\n"
    "[sso-session x]\nsso_region = y\n",
    "[profile über]\nregion = zürich\n[profile prod]\noutput = \u2028json\n",
    "[profile prod] ; the one\noutput\t=\tjson\n\t# tab\n[profile prod2]\noutput = text\n",
]


@pytest.mark.parametrize("text", STRANGE)
@pytest.mark.parametrize("words", [[], ["--region", "ap-south-1"]])
def test_the_rest_stays_byte_for_byte(config: Path, text: str, words: list[str]) -> None:
    before = text.encode()
    config.write_bytes(before)
    assert run(*words) == 0
    after = config.read_bytes()
    newline = b"\r\n" if b"\r\n" in before else b"\n"
    added = f"credential_process = {PROCESS}\n{BLOCK}[profile prod]\nregion = ap-south-1\n\n"
    new = [line.strip() for line in added.splitlines()]
    old = before.split(newline)
    kept = [line for line in after.split(newline) if line.decode().strip() not in new]
    dropped = [b"region : eu-west-1", b"  region = eu-west-1"] if words else []
    assert kept == [line for line in old if line.decode().strip() not in new and line not in dropped]
    assert after.count(b"[profile prod]") <= 1
    scoped = botocore.session.Session(profile="prod").get_scoped_config()
    assert scoped["aws_hmac"] == {"key": URI, "access_key_id": ID}
    assert scoped["credential_process"] == PROCESS
    if words:
        assert scoped["region"] == "ap-south-1"
    # once more changes nothing, and writes nothing
    inode = config.stat().st_ino
    assert run("--overwrite", *words) == 0
    assert config.read_bytes() == after
    assert config.stat().st_ino == inode


LINES = st.sampled_from([
    "", " ", "# comment", "; comment", "  # indented comment", "[default]", "[profile prod]", '[profile "prod"]',
    "[profile prod] # x", "[profile  prod]", " [profile prod]", "[plugins]", "[sso-session prod]", "[profile b]",
    "region = eu-west-1", "region: x", "  region = y", "output=json", "s3 =", "  a = 1", "\tb = 2", "    deep = 3",
    "aws_hmac =", "aws_hmac = x", "  key = memory:env=OLD", "  access_key_id = A", "  # in the block",
    "credential_process = other", "CREDENTIAL_PROCESS = other", "x = [y]", "= z", "key with blanks = 1 = 2", "lonely",
])  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(LINES, max_size=14), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_file_is_changed_as_meant_or_refused(lines: list[str], newline: str, last: bool) -> None:
    """botocore's own parser is the judge; what does not belong to the profile's options stays byte for byte."""
    text = newline.join(lines) + (newline if last else "")
    options = {"credential_process": PROCESS}
    block = {"key": URI, "access_key_id": ID}
    try:
        changed = aws_files.edit(text, Path("config"), "prod", options=options, block=block)
    except ConfigError:
        return
    with tempfile.NamedTemporaryFile("w", newline="") as before, tempfile.NamedTemporaryFile("w", newline="") as after:
        before.write(text)
        before.flush()
        after.write(changed)
        after.flush()
        old = configloader.load_config(before.name)["profiles"]
        new = configloader.load_config(after.name)["profiles"]
    expected = {k: v for k, v in old.get("prod", {}).items() if k not in ("aws_hmac", "credential_process")}
    assert new.pop("prod") == expected | {"credential_process": PROCESS, "aws_hmac": block}
    old.pop("prod", None)
    assert new == old
    lost = collections.Counter(re.findall("[^\r\n]+", text)) - collections.Counter(re.findall("[^\r\n]+", changed))
    first = {line.strip().split()[0].lower() for line in lost if line == line.lstrip()}
    assert first <= {"credential_process", "aws_hmac"}  # what else went stood indented beneath one of these


def test_what_would_be_misread_is_not_written(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = aws_files._put

    def clumsy(lines: list[str], *rest: Any) -> None:
        real(lines, *rest)
        lines.remove("region = x\n") if "region = x\n" in lines else None

    monkeypatch.setattr(aws_files, "_put", clumsy)
    config.write_text("[default]\nregion = x\n")
    assert run() == 1
    assert "too unusual to change safely" in capsys.readouterr().err
    assert config.read_text() == "[default]\nregion = x\n"


def test_other_sections_are_not_touched_at_all(config: Path) -> None:
    head = "# head \t\n[profile a]\nregion = x\n\n\n"
    tail = "\n# of b\n[profile b]\n\tkey = 1\n\n[services s]\ns3 = \n  endpoint_url = http://x\n \t \n"
    config.write_text(f"{head}[profile prod]\noutput = json\n{tail}")
    assert run() == 0
    assert config.read_text() == f"{head}[profile prod]\noutput = json\ncredential_process = {PROCESS}\n{BLOCK}{tail}"


def test_an_existing_block_needs_overwrite(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (
        "[profile prod]\naws_hmac =\n  # why\n  key = memory:env=OLD\n  role_arn = arn:old\n"
        f"  access_key_id = {ID}\noutput = json\n"
    )
    config.write_text(before)
    assert run() == 1
    assert "already has an aws_hmac block; --overwrite replaces it" in capsys.readouterr().err
    assert config.read_text() == before
    assert run("--overwrite") == 0
    assert config.read_text() == (
        f"[profile prod]\naws_hmac =\n  # why\n  key = {URI}\n  access_key_id = {ID}\noutput = json\n"
        f"credential_process = {PROCESS}\n"
    )
    assert run("--overwrite", "--mode", "direct") == 0
    assert "credential_process" not in config.read_text()


def test_a_foreign_credential_process_needs_overwrite(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("[profile prod]\ncredential_process = other\n")
    assert run() == 1
    assert "already has a credential_process" in capsys.readouterr().err
    assert config.read_text() == "[profile prod]\ncredential_process = other\n"
    assert run("--overwrite") == 0
    assert config.read_text() == f"[profile prod]\ncredential_process = {PROCESS}\n{BLOCK}"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[default]\nregion = \xff\n", "line 2 is not UTF-8"),
        (b"region = x\n", "line 1: neither"),
        (b"[default]\nregion\n", "line 2: neither"),
        (b"[a]\nx=1\n[a]\ny=1\n", "line 3: a section is there twice"),
        (b"[a]\nx=1\nx=2\n", "line 3: an option is there twice"),
        (b"[a]\ns3 =\n  x\n", "[a]: a line beneath s3 is not name = value"),
        (b'[profile prod]\n[profile "prod"]\n', "two sections"),
        (b"[default]\nx = 1\n  [profile prod]\n", None),
    ],
)
def test_a_file_that_cannot_be_changed_stays(
    config: Path, data: bytes, said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_bytes(data)
    assert run() == (0 if said is None else 1)
    err = capsys.readouterr().err
    if said is not None:
        assert said in err
        assert err.count("\n") == 1
        assert config.read_bytes() == data
    else:  # an indented heading is part of the value above
        assert config.read_bytes().startswith(data)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--key", "pkcs11:token=a;object=b?pin-value=1234"], "pin-source"),
        (["--key", "pkcs11:token=a;object=b?pin-source=1234"], "says where the secret is"),
        (["--key", "nosuch:x=1"], "no installed backend"),
        (["--access-key-id", "ASIAIOSFODNN7EXAMPLE"], "temporary credentials"),
        (["--access-key-id", ""], "--access-key-id is empty"),
        (["--role-arn", "a\nb"], "--role-arn is empty, or holds a line end"),
        (["--role-session-name", " x"], "--role-session-name"),
        (["--role-session-name", "x"], "role_session_name cannot be set where there is no role_arn"),
        (["--mode", "direct", "--role-arn", "arn:aws:iam::1:role/x"], "role_arn cannot be set where mode = direct"),
        (["--mode", "indirect"], "mode: 'indirect' is none of session, direct"),
        (["--duration-seconds", "5"], "duration_seconds: 5 is not between"),
        (["--source-profile", "x"], "key cannot be set where source_profile signs"),
        (["--tags", "x"], "tags are written as"),
        (["--profile", "a]b"], "--profile: a name has no"),
        (["--profile", "a\nb"], "--profile: a name has no"),
        (["--profile", "$(x)"], "--profile: a name has no"),
        (["--profile", ""], "--profile: a name has no"),
    ],
)
def test_wrong_options(aws_home: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 1
    assert said in capsys.readouterr().err
    assert not aws_home.exists()


@pytest.mark.parametrize(
    "words", [[], ["--key", URI], ["--access-key-id", ID], ["--role-arn", "arn:aws:iam::1:role/x"]]
)
def test_no_key(aws_home: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configure", *words]) == 1
    assert "give --key KEY_URI and --access-key-id ID, or --source-profile" in capsys.readouterr().err
    assert not aws_home.exists()


def test_mode_and_symlink_stay(config: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "aws"
    real.parent.mkdir()
    real.write_text("[default]\nregion = x\n")
    real.chmod(0o640)
    config.symlink_to(real)
    assert run() == 0
    assert config.is_symlink()
    assert "aws_hmac" in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert [p.name for p in real.parent.iterdir()] == ["aws"]


def test_aws_config_file(tmp_path: Path, aws_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "~/elsewhere")
    assert run() == 0
    assert (aws_home.parent / "elsewhere").exists()
    assert not aws_home.exists()


def test_what_is_no_file_of_its_own_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.mkdir()
    assert run() == 1
    assert "Is a directory" in capsys.readouterr().err
    config.rmdir()
    config.symlink_to("/dev/null")
    assert run() == 1
    assert "not a regular file" in capsys.readouterr().err
    config.unlink()
    config.write_text("")
    os.link(config, config.parent / "second")
    assert run() == 1
    assert "hard link" in capsys.readouterr().err
    config.unlink()
    config.symlink_to("config")
    assert run() == 1
    assert "symbolic links" in capsys.readouterr().err


def in_a_child(*, powerless: bool = False, limit: int = 0) -> subprocess.CompletedProcess[str]:
    # A first run loads all that the second needs. Without capabilities, root too is bound by file modes.
    code = """
import ctypes, os, resource, sys
from aws_hmac import profile
from aws_hmac.cli import aws_files, configure, main
from aws_hmac.errors import ConfigError
configure.command_path = lambda: "/usr/bin/aws-hmac"
powerless, limit, *words = sys.argv[1:]
home = os.environ["HOME"]
os.environ["HOME"] = home + "/../rehearsal"
os.mkdir(os.environ["HOME"])
assert main(words) == 0 and main(words) == 1
os.environ["HOME"] = home
if powerless == "True":
    none = (ctypes.c_uint32 * 6)()  # capset(2), version 3
    assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), none) == 0
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
print("--", file=sys.stderr)
sys.exit(main(words))
"""
    words = ["configure", "--profile", "prod", "--key", URI, "--access-key-id", ID]
    return subprocess.run(
        [sys.executable, "-c", code, str(powerless), str(limit), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize("there", [True, False])
def test_a_read_only_home(aws_home: Path, there: bool) -> None:
    if there:
        aws_home.mkdir()
        (aws_home / "config").write_text("[default]\nregion = x\n")
        (aws_home / "config").chmod(0o666)
        aws_home.chmod(0o555)
    aws_home.parent.chmod(0o555)
    done = in_a_child(powerless=True)
    assert done.returncode == 1, done
    assert (
        done.stderr.partition("--\n")[2]
        == f"aws-hmac: {aws_home}/config: cannot be written: Permission denied; nothing was changed\n"
    )
    if there:
        assert [p.name for p in aws_home.iterdir()] == ["config"]
        assert (aws_home / "config").read_text() == "[default]\nregion = x\n"
    else:
        assert not aws_home.exists()
    aws_home.parent.chmod(0o755)
    if there:
        aws_home.chmod(0o755)


@pytest.mark.parametrize("there", [True, False])
def test_a_disk_that_fills_up_half_way(aws_home: Path, there: bool) -> None:
    before = "".join(f"[profile p{n}]\nregion = eu-west-1\n" for n in range(200))
    if there:
        aws_home.mkdir()
        (aws_home / "config").write_text(before)
    limit = 4096 if there else 64
    done = in_a_child(limit=limit)
    assert done.returncode == 1, done
    assert (
        done.stderr.partition("--\n")[2]
        == f"aws-hmac: {aws_home}/config: cannot be written: File too large; nothing was changed\n"
    )
    if there:
        assert [p.name for p in aws_home.iterdir()] == ["config"]
        assert (aws_home / "config").read_text() == before
    else:
        assert not aws_home.exists()


def test_another_program_writes_at_the_same_time(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("[default]\nregion = x\n")
    real = aws_files.parse

    def slow(text: str, path: Path) -> dict[str, dict[str, str]]:
        config.write_text("[default]\nregion = changed\n")
        return real(text, path)

    monkeypatch.setattr(aws_files, "parse", slow)
    assert run() == 1
    assert "another program has just changed it" in capsys.readouterr().err
    assert config.read_text() == "[default]\nregion = changed\n"


def test_says_what_sdks_take_first(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "credentials").write_text(f"[prod]\naws_access_key_id = {ID}\naws_secret_access_key = hush\n")
    config.write_text("[profile prod]\nrole_arn = arn:aws:iam::111122223333:role/x\nsource_profile = y\n")
    assert run() == 0
    err = capsys.readouterr().err
    assert "credentials: profile 'prod' still holds a plaintext access key" in err
    assert "has role_arn, which SDKs follow before credential_process" in err
    assert "hush" not in err


def test_the_command_is_absolute(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    command = folder / "aws-hmac"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(command)])
    assert configure.credential_process("prod") == f'"{command}" credential-process --profile prod'
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["./aws-hmac"])
    assert configure.credential_process("prod") == f'"{command}" credential-process --profile prod'


def test_a_path_that_no_sdk_can_be_told(
    aws_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "$(id)"
    folder.mkdir()
    command = folder / "aws-hmac"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(command)])
    assert run() == 1
    assert "SDKs cannot be told a path" in capsys.readouterr().err
    assert not aws_home.exists()


def test_no_command(aws_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(sys, "argv", ["python"])
    assert run() == 1
    assert "not on PATH" in capsys.readouterr().err
    assert not aws_home.exists()
