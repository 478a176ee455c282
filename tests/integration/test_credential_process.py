"""``aws-hmac credential-process`` as SDKs run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

import aws_hmac
from aws_hmac import _session_files
from aws_hmac.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_hmac._softhsm import SoftHSMToken
    from tests.conftest import MotoServer, ScriptedSts

COMMAND = str(Path(sys.executable).parent / "aws-hmac")
ROLE = "arn:aws:iam::111122223333:role/deploy"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("SECRET", "secret")
    (tmp_path / "run").mkdir(mode=0o700)


@pytest.fixture
def write(tmp_path: Path, scripted_sts: ScriptedSts) -> Callable[..., Path]:
    """Writes a profile ``p`` a while ago."""

    def write(block: str = "", *, url: str = scripted_sts.url) -> Path:
        path = tmp_path / "config"
        path.write_text(
            "[profile p]\nregion = us-east-1\n"
            f"credential_process = {COMMAND} credential-process --profile p\n"
            "aws_hmac =\n  key = memory:env=SECRET\n  access_key_id = AKIAIOSFODNN7EXAMPLE\n"
            f"  endpoint_url = {url}\n" + "".join(f"  {line}\n" for line in block.splitlines())
        )
        return path

    return write


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a configuration file count as old enough at once, so that an index is written."""
    monkeypatch.setattr(_session_files, "_RACY", -1)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        status = main(["credential-process", *words])
    except SystemExit as exc:  # argparse
        status = int(str(exc.code))
    out, err = capsys.readouterr()
    return status, out, err


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "credential-process", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_document(write: Callable[..., Path]) -> None:
    write()
    done = process("--profile", "p")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert list(document) == ["Version", "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"]
    assert document["Version"] == 1
    assert document["AccessKeyId"] == "ASIAEXAMPLE000000001"
    assert document["Expiration"].endswith("Z")
    assert "secret-1" not in done.stderr
    assert done.stderr.startswith("aws-hmac: warning: the memory backend")


def test_stock_boto3_puts_and_gets(moto_server: MotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user, role = moto_server.create_user(["sts:*"]), moto_server.create_role(["s3:*"])
    monkeypatch.setenv("SECRET", user.secret_access_key)
    (tmp_path / "config").write_text(
        f"[profile p]\nregion = us-east-1\ncredential_process = {COMMAND} credential-process --profile p\n"
        f"aws_hmac =\n  key = memory:env=SECRET\n  access_key_id = {user.access_key_id}\n"
        f"  endpoint_url = {moto_server.url}\n  role_arn = {role}\n"
    )
    session = boto3.Session(profile_name="p")
    credentials = session.get_credentials()
    assert credentials is not None
    assert credentials.method == "custom-process"
    s3 = session.client("s3", endpoint_url=moto_server.url)
    s3.create_bucket(Bucket="process")
    s3.put_object(Bucket="process", Key="k", Body=b"hello")
    assert s3.get_object(Bucket="process", Key="k")["Body"].read() == b"hello"
    # The AWS CLI does the same.
    listed = subprocess.run(
        [
            sys.executable,
            "-m",
            "awscli",
            "--profile",
            "p",
            "--endpoint-url",
            moto_server.url,
            "s3",
            "ls",
            "s3://process",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert listed.stdout.rstrip().endswith("5 k"), listed.stderr

    monkeypatch.setenv("SECRET", "wrong")
    (tmp_path / "empty").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "empty"))
    done = process("--profile", "p")
    assert done.returncode == 1
    assert "SignatureDoesNotMatch" in done.stderr
    assert done.stdout == ""


@pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")
@pytest.mark.usefixtures("settled")
def test_from_the_cache(
    write: Callable[..., Path],
    scripted_sts: ScriptedSts,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write()
    first = run(capsys, "--profile", "p")[1]
    # Now neither the key nor a reading of the file is needed.
    monkeypatch.delenv("SECRET")
    monkeypatch.setattr("aws_hmac.profile.load_profile", None)
    assert run(capsys, "--profile", "p") == (0, first, "")
    assert run(capsys, "--profile=p") == (0, first, "")
    monkeypatch.setenv("AWS_PROFILE", "p")
    assert run(capsys) == (0, first, "")
    assert len(scripted_sts.requests) == 1


def test_the_cached_path_loads_nothing_needless(write: Callable[..., Path]) -> None:
    path = write()
    os.utime(path)
    time.sleep(2.1)  # until the file's time stamps count
    assert process("--profile", "p").returncode == 0
    source = (
        "import sys; before = set(sys.modules); from aws_hmac.cli import main;"
        " main(['credential-process', '--profile', 'p']); print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["AccessKeyId"] == "ASIAEXAMPLE000000001"
    loaded = set(done.stderr.split())
    assert {name for name in loaded if name.startswith("aws_hmac")} == {
        "aws_hmac",
        "aws_hmac.cli",
        "aws_hmac.cli.credential_process",
        "aws_hmac._session_files",
    }
    assert loaded <= {*(n for n in loaded if n.startswith("aws_hmac")), "__future__", "binascii", "importlib", "time",
                      "importlib._bootstrap", "importlib._bootstrap_external", "warnings", "_warnings"}  # fmt: skip


def test_output_that_cannot_be_written(write: Callable[..., Path], scripted_sts: ScriptedSts) -> None:
    write()
    time.sleep(2.1)
    assert process("--profile", "p").returncode == 0
    for _ in range(2):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [COMMAND, "credential-process", "--profile", "p"], stdout=full, stderr=subprocess.PIPE, check=False
            )
        assert done.returncode == 1
        assert done.stderr.count(b"\n") == 1
        assert b"No space left on device" in done.stderr


CHANGES = {
    "role": lambda text: text.replace("role/deploy", "role/others"),
    "key": lambda text: text.replace("env=SECRET", "env=SECRE2"),
    "access key id": lambda text: text.replace("N7EXAMPLE", "N7EXAMPL2"),
}


@pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")
@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_changed_profile_is_read_anew(
    write: Callable[..., Path],
    scripted_sts: ScriptedSts,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    how: str,
) -> None:
    """Even where the file keeps its size and its time stamp of modification."""
    monkeypatch.setenv("SECRE2", "other")
    path = write(f"role_arn = {ROLE}")
    before = path.stat()
    run(capsys, "--profile", "p")
    run(capsys, "--profile", "p")
    assert len(scripted_sts.requests) == 1
    time.sleep(0.02)  # a tick of the file system's clock
    if how == "in place":
        path.write_text(CHANGES[change](path.read_text()))
    else:
        other = path.with_suffix(".new")
        other.write_text(CHANGES[change](path.read_text()))
        other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert "000000002" in run(capsys, "--profile", "p")[1]
    assert len(scripted_sts.requests) == 2


@pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")
def test_file_that_was_written_just_now_is_not_indexed(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write()
    run(capsys, "--profile", "p")
    assert list((tmp_path / "run").glob("*/*.index")) == []


@pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")
@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    ("variable", "value"), [("AWS_ENDPOINT_URL_STS", "{url}/"), ("AWS_REGION", "eu-west-1"), ("AWS_CA_BUNDLE", "/x")]
)
def test_changed_environment_is_noticed(
    write: Callable[..., Path],
    scripted_sts: ScriptedSts,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    path = write()
    path.write_text(path.read_text().replace(f"  endpoint_url = {scripted_sts.url}\n", ""))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", scripted_sts.url)
    run(capsys, "--profile", "p")
    monkeypatch.setenv(variable, value.format(url=scripted_sts.url))
    run(capsys, "--profile", "p")
    assert len(scripted_sts.requests) == (1 if variable == "AWS_CA_BUNDLE" else 2)


@pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")
@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("how", ["link", "open", "other identity", "elsewhere", "binary", "folder"])
def test_index_that_is_not_taken(
    write: Callable[..., Path],
    scripted_sts: ScriptedSts,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    how: str,
) -> None:
    write()
    document = run(capsys, "--profile", "p")[1]
    (index,) = (tmp_path / "run").glob("*/*.index")
    (session,) = (tmp_path / "run").glob("*/*.session")
    assert _session_files.cached_document(*_arguments(), time.time()) == document.strip()
    if how == "link":
        moved = tmp_path / "planted"
        index.rename(moved)
        index.symlink_to(moved)
    elif how == "open":
        index.chmod(0o640)
    elif how == "other identity":
        index.write_text(index.read_text().replace("'p'", "'q'"))
    elif how == "elsewhere":
        (tmp_path / "x.session").write_text(session.read_text())
        (tmp_path / "x.session").chmod(0o600)
        index.write_text(index.read_text().replace(session.name, "../../x.session"))
    elif how == "binary":
        index.write_bytes(b"\xff\xfe")
    elif how == "folder":
        index.parent.chmod(0o750)
    assert _session_files.cached_document(*_arguments(), time.time()) is None


def _arguments() -> tuple[str, str, str]:
    from aws_hmac import __version__

    return "p", _session_files.config_path(), __version__


@pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")
@pytest.mark.usefixtures("settled")
def test_session_near_its_end_is_renewed(
    write: Callable[..., Path], scripted_sts: ScriptedSts, capsys: pytest.CaptureFixture[str]
) -> None:
    """An SDK asks again 15 minutes before the end: it must not get the same once more."""
    scripted_sts.lifetime = 7200
    write("duration_seconds = 7200")
    run(capsys, "--profile", "p")
    now = time.time()
    assert _session_files.cached_document(*_arguments(), now + 7200 - 905) is not None
    assert _session_files.cached_document(*_arguments(), now + 7200 - 895) is None


def test_mfa_code_is_asked_for_on_the_terminal(write: Callable[..., Path], scripted_sts: ScriptedSts) -> None:
    """Not on the pipes that an SDK reads; and it is not echoed."""
    write("mfa_serial = arn:aws:iam::1:mfa/me")
    terminal, theirs = os.openpty()
    name = os.ttyname(theirs)
    in_session = (
        "import os, sys; os.setsid(); os.close(os.open(sys.argv[1], os.O_RDWR)); os.execv(sys.argv[2], sys.argv[2:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", in_session, name, COMMAND, "credential-process", "--profile", "p"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    shown = b""
    while b": " not in shown:
        shown += os.read(terminal, 1000)
    time.sleep(0.2)  # until the echo is off
    os.write(terminal, b"123456\n")
    out, err = process.communicate(timeout=30)
    os.close(theirs)
    try:
        while more := os.read(terminal, 1000):
            shown += more
    except OSError:
        pass  # the end, on Linux
    os.close(terminal)
    assert process.returncode == 0, err
    assert b"MFA code of arn:aws:iam::1:mfa/me" in shown
    assert b"123456" not in shown + err
    assert scripted_sts.requests[0].parameters["TokenCode"] == "123456"
    assert json.loads(out)["AccessKeyId"].startswith("ASIA")


@pytest.mark.device("pkcs11")
def test_token_that_is_away(
    moto_server: MotoServer, softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the key in SoftHSM; while a session is cached the token is not needed."""
    user, role = moto_server.create_user(["sts:*"]), moto_server.create_role(["s3:*"])
    uri = aws_hmac.import_key(softhsm_token.uri("prod"), user.secret_access_key)
    monkeypatch.delenv("SECRET")
    (tmp_path / "config").write_text(
        f"[profile p]\nregion = us-east-1\naws_hmac =\n  key = {uri}\n  access_key_id = {user.access_key_id}\n"
        f"  endpoint_url = {moto_server.url}\n  role_arn = {role}\n"
    )
    done = process("--profile", "p")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    session = user._replace(access_key_id=document["AccessKeyId"], secret_access_key=document["SecretAccessKey"])
    identity = moto_server.client("sts", session, session_token=document["SessionToken"]).get_caller_identity()
    assert f":assumed-role/{role.split('/')[-1]}/" in identity["Arn"]

    assert process("--profile", "p", SOFTHSM2_CONF="/nonexistent").stdout == done.stdout
    (tmp_path / "empty").mkdir(mode=0o700)
    away = process("--profile", "p", SOFTHSM2_CONF="/nonexistent", XDG_RUNTIME_DIR=str(tmp_path / "empty"))
    assert (away.returncode, away.stdout) == (1, "")
    assert away.stderr.startswith("aws-hmac: ")
    assert away.stderr.count("\n") == 1


def test_many_processes_make_one_call(write: Callable[..., Path], scripted_sts: ScriptedSts) -> None:
    write()
    scripted_sts.delay = 0.3
    processes = [
        subprocess.Popen(
            [COMMAND, "credential-process", "--profile", "p"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for _ in range(6)
    ]
    assert len({child.communicate(timeout=60)[0] for child in processes}) == 1
    assert [child.returncode for child in processes] == [0] * 6
    assert len(scripted_sts.requests) == 1


@pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")
@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "config does not exist; aws-hmac configure writes it"),
        ("[profile q]\n", "there is no profile 'p' in "),
        ("[profile p]\nregion = x\n", "has no aws_hmac block: add the line 'aws_hmac ='"),
        ("[profile p]\naws_hmac =\n  key = memory:env=SECRET\n  access_key_id = AKIAX\n  mode = direct\n",
         "mode = direct makes no credentials that could be handed out"),
        ("[profile p]\naws_hmac =\n  key = memory:env=SECRET\n  access_key_id = AKIAX\n", "no region for STS"),
        ("[profile p]\naws_hmac =\n  key = memory:env=NONE\n  access_key_id = AKIAX\n  region = eu-west-1\n",
         "the environment variable is not set"),
        ("[profile p]\naws_hmac =\n  keys = x\n", "there is no option 'keys'; did you mean 'key'?"),
        (b"[profile p]\nx = \xff\n", "config is not UTF-8 (line 2)"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str | bytes | None, said: str
) -> None:
    if config is not None:
        (tmp_path / "config").write_bytes(config if isinstance(config, bytes) else config.encode())
    status, out, err = run(capsys, "--profile", "p")
    assert (status, out) == (1, "")
    assert err.startswith("aws-hmac: ")
    assert err.count("\n") == 1
    assert said in err


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--profile"], ["p"], ["--role", "x"]):
        status, out, err = run(capsys, *words)
        assert (status, out) == (2, "")
        assert "usage: aws-hmac credential-process" in err
    assert run(capsys, "--help")[0] == 0


@pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")
def test_cache_that_cannot_be_written_warns_once(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    status, out, err = run(capsys, "--profile", "p")
    assert status == 0
    assert json.loads(out)["AccessKeyId"] == "ASIAEXAMPLE000000001"
    assert err.count("the session cache /proc/nowhere/aws-hmac cannot be used") == 1
    assert "secret-1" not in err
