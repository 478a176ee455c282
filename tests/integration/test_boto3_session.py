"""boto3 sessions whose credentials a device makes, against a server that verifies every signature."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
import pytest
from botocore.exceptions import ClientError, CredentialRetrievalError

import aws_hmac
from aws_hmac import ConfigError, KeyNotFoundError, Signer, STSError
from aws_hmac_backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from botocore.credentials import Credentials

    from tests.conftest import AccessKey, MotoServer, ScriptedSts

pytestmark = pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)


@pytest.fixture(scope="module")
def user(moto_server: MotoServer) -> AccessKey:
    return moto_server.create_user(["sts:*"])


@pytest.fixture(scope="module")
def role(moto_server: MotoServer) -> str:
    return moto_server.create_role(["*"])


def signer_of(key: AccessKey) -> Signer:
    return Signer(key.access_key_id, MemoryBackend(b"AWS4" + key.secret_access_key.encode()))


def credentials_of(session: boto3.Session) -> Credentials:
    credentials = session.get_credentials()
    assert credentials is not None
    return credentials


def who(session: boto3.Session, server: MotoServer) -> str:
    return str(session.client("sts", endpoint_url=server.url).get_caller_identity()["Arn"])


@pytest.fixture
def profile(
    tmp_path: Path, moto_server: MotoServer, user: AccessKey, role: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Writes a profile ``p`` for the user's key, with more lines for the block and for the profile."""
    monkeypatch.setenv("SECRET", user.secret_access_key)

    def write(block: str = "", settings: str = "", *, role_arn: str | None = role) -> None:
        lines = [
            "[profile p]",
            "region = us-east-1",
            *settings.splitlines(),
            "aws_hmac =",
            "  key = memory:env=SECRET",
            f"  access_key_id = {user.access_key_id}",
            f"  endpoint_url = {moto_server.url}",
            *([f"  role_arn = {role_arn}"] if role_arn else []),
            *(f"  {line}" for line in block.splitlines()),
        ]
        (tmp_path / "config").write_text("\n".join(lines) + "\n")

    return write


def test_role_session_puts_and_gets(moto_server: MotoServer, user: AccessKey, role: str) -> None:
    session = aws_hmac.Session(
        signer=signer_of(user), role_arn=role, endpoint_url=moto_server.url, region_name="us-east-1"
    )
    assert f":assumed-role/{role.split('/')[-1]}/aws-hmac-{user.access_key_id}" in who(session, moto_server)
    s3 = session.client("s3", endpoint_url=moto_server.url)
    s3.create_bucket(Bucket="boto3-session")
    s3.put_object(Bucket="boto3-session", Key="a b/ü", Body=b"hello")
    assert s3.get_object(Bucket="boto3-session", Key="a b/ü")["Body"].read() == b"hello"
    with pytest.raises(ClientError, match="AccessDenied"):  # the user itself may not
        moto_server.client("s3", user).list_buckets()


def test_wrong_key_is_rejected(moto_server: MotoServer, user: AccessKey, role: str) -> None:
    wrong = user._replace(secret_access_key=user.secret_access_key[:-1] + "~")
    session = aws_hmac.Session(
        signer=signer_of(wrong), role_arn=role, endpoint_url=moto_server.url, region_name="us-east-1"
    )
    with pytest.raises(STSError, match="not the secret of") as caught:
        who(session, moto_server)
    assert isinstance(caught.value, CredentialRetrievalError)
    assert caught.value.code == "SignatureDoesNotMatch"


def test_profile(moto_server: MotoServer, profile: Callable[..., None], role: str) -> None:
    profile("role_session_name = by-profile")
    session = aws_hmac.Session(profile_name="p")
    assert session.region_name == "us-east-1"
    assert who(session, moto_server).endswith(f"{role.split('/')[-1]}/by-profile")
    again = aws_hmac.Session(profile_name="p", role_session_name="by-argument")
    assert who(again, moto_server).endswith("/by-argument")


def test_profile_named_by_the_environment(
    moto_server: MotoServer, profile: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile()
    monkeypatch.setenv("AWS_PROFILE", "p")
    assert ":assumed-role/" in who(aws_hmac.Session(), moto_server)


def test_chain_of_profiles(moto_server: MotoServer, profile: Callable[..., None], tmp_path: Path, role: str) -> None:
    profile("role_session_name = first")
    second = moto_server.create_role()
    with (tmp_path / "config").open("a") as file:
        file.write(
            f"[profile q]\nregion = us-east-1\naws_hmac =\n  source_profile = p\n  role_arn = {second}\n"
            f"  endpoint_url = {moto_server.url}\n"
        )
    assert f"/{second.split('/')[-1]}/aws-hmac-AK" in who(aws_hmac.Session(profile_name="q"), moto_server)
    assert len(list((tmp_path / "run" / "aws-hmac").glob("*.session"))) == 2


@pytest.mark.parametrize("source", ["p", "q"])
def test_circle_of_profiles(tmp_path: Path, source: str) -> None:
    (tmp_path / "config").write_text(
        "".join(
            f"[profile {name}]\nregion = us-east-1\naws_hmac =\n  source_profile = {other}\n"
            "  role_arn = arn:aws:iam::1:role/r\n"
            for name, other in (("p", source), ("q", "p"))
        )
    )
    with pytest.raises(ConfigError, match=r"a circle: .*p"):
        aws_hmac.Session(profile_name="p")


def test_source_profile_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[profile p]\nregion = us-east-1\naws_hmac =\n  source_profile = q\n  role_arn = arn:aws:iam::1:role/r\n"
    )
    with pytest.raises(ConfigError, match=r"profile 'p' in .*: source_profile: there is no profile 'q'"):
        aws_hmac.Session(profile_name="p")


# Which credentials win.


def test_explicit_signer_wins_over_the_environment(
    moto_server: MotoServer, user: AccessKey, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_server.admin.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_server.admin.secret_access_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    session = aws_hmac.Session(
        signer=signer_of(user), role_arn=role, endpoint_url=moto_server.url, region_name="us-east-1"
    )
    assert credentials_of(session).method == "aws-hmac"
    assert ":assumed-role/" in who(session, moto_server)


def test_explicit_key_wins_over_the_environment(
    moto_server: MotoServer, user: AccessKey, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("SECRET", user.secret_access_key)
    session = aws_hmac.Session(
        key="memory:env=SECRET",
        access_key_id=user.access_key_id,
        role_arn=role,
        endpoint_url=moto_server.url,
        region_name="us-east-1",
    )
    assert ":assumed-role/" in who(session, moto_server)


def test_named_profile_wins_over_the_environment(
    moto_server: MotoServer, profile: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    assert ":assumed-role/" in who(aws_hmac.Session(profile_name="p"), moto_server)


def test_the_environment_wins_over_a_profile_that_it_names(
    profile: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As botocore has it for every profile."""
    profile()
    monkeypatch.setenv("AWS_PROFILE", "p")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    assert credentials_of(aws_hmac.Session()).method == "env"


def test_block_wins_over_the_rest_of_the_profile(
    moto_server: MotoServer, profile: Callable[..., None], tmp_path: Path
) -> None:
    profile(settings="role_arn = arn:aws:iam::1:role/other\nsource_profile = p\ncredential_process = false")
    (tmp_path / "credentials").write_text("[p]\naws_access_key_id = AKIAOTHER\naws_secret_access_key = other\n")
    assert credentials_of(aws_hmac.Session(profile_name="p")).method == "aws-hmac"


# Installing.


def test_install_on_a_session_one_has(moto_server: MotoServer, user: AccessKey, role: str) -> None:
    mine = botocore.session.Session()
    aws_hmac.botocore.install(
        mine, signer=signer_of(user), role_arn=role, endpoint_url=moto_server.url, region="us-east-1"
    )
    aws_hmac.botocore.install(
        botocore.session.Session(), signer=signer_of(user), region="us-east-1"
    )  # another, in peace
    assert ":assumed-role/" in who(boto3.Session(botocore_session=mine, region_name="us-east-1"), moto_server)


def test_installing_twice_before_use(moto_server: MotoServer, user: AccessKey, role: str) -> None:
    mine = botocore.session.Session()
    aws_hmac.botocore.install(mine, signer=signer_of(user), region="us-east-1")
    with pytest.raises(ConfigError, match=r"credentials already \(aws-hmac\)"):
        aws_hmac.botocore.install(mine, signer=signer_of(user), region="us-east-1", role_arn=role)


def test_session_that_has_credentials(user: AccessKey) -> None:
    mine = botocore.session.Session()
    mine.set_credentials("AKIAOTHER", "other")
    with pytest.raises(ConfigError, match=r"credentials already \(explicit\): install before"):
        aws_hmac.botocore.install(mine, signer=signer_of(user), region="us-east-1")


def test_not_a_botocore_session(user: AccessKey) -> None:
    with pytest.raises(ConfigError, match="takes a botocore session"):
        aws_hmac.botocore.install(boto3.Session(), signer=signer_of(user))  # type: ignore[arg-type] # as is tested


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rol_arn": "x"}, "Session: there is no option 'rol_arn'; did you mean 'role_arn'"),
        ({"aws_access_key_id": "AKIAX"}, "no option 'aws_access_key_id'; did you mean 'access_key_id'"),
        ({"access_key_id": "AKIAX"}, "access_key_id cannot be set where a signer is given"),
        ({"external_id": "x"}, "there is no role_arn"),
        ({"duration_seconds": 60}, "60 is not between 900"),
        ({"mode": "both"}, "mode: 'both' is none of"),
    ],
)
def test_what_is_refused(user: AccessKey, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        aws_hmac.Session(signer=signer_of(user), region_name="us-east-1", **options)


def test_profile_without_the_block(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile p]\nregion = us-east-1\n")
    with pytest.raises(ConfigError, match="add the line 'aws_hmac ='"):
        aws_hmac.Session(profile_name="p")


def test_signer_and_a_profile_with_a_key(profile: Callable[..., None], user: AccessKey) -> None:
    profile()
    with pytest.raises(ConfigError, match="profile 'p' names a key of its own"):
        aws_hmac.Session(signer=signer_of(user), profile_name="p")


def test_signer_and_a_profile_for_the_rest(tmp_path: Path, user: AccessKey, role: str, moto_server: MotoServer) -> None:
    (tmp_path / "config").write_text("[profile plain]\nregion = us-east-1\n")
    session = aws_hmac.Session(
        signer=signer_of(user), profile_name="plain", role_arn=role, endpoint_url=moto_server.url
    )
    assert ":assumed-role/" in who(session, moto_server)


@pytest.mark.parametrize(
    "settings", ["endpoint_url = {url}", "services = local\n[services local]\nsts =\n  endpoint_url = {url}"]
)
def test_signer_and_the_endpoint_of_a_profile(
    tmp_path: Path, user: AccessKey, role: str, moto_server: MotoServer, settings: str
) -> None:
    (tmp_path / "config").write_text(f"[profile local]\nregion = us-east-1\n{settings.format(url=moto_server.url)}\n")
    session = aws_hmac.Session(signer=signer_of(user), profile_name="local", role_arn=role)
    assert ":assumed-role/" in who(session, moto_server)


# Errors and credentials as botocore sees them.


def test_missing_key_is_a_retrieval_error(profile: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    profile()
    monkeypatch.delenv("SECRET")
    credentials = credentials_of(aws_hmac.Session(profile_name="p"))
    with pytest.raises(CredentialRetrievalError, match="environment variable is not set") as caught:
        credentials.get_frozen_credentials()
    assert isinstance(caught.value, KeyNotFoundError)
    assert isinstance(caught.value, LookupError)
    assert type(caught.value).__name__ == "KeyNotFoundError"


def test_every_error_can_be_a_retrieval_error() -> None:
    def walk(kind: type[aws_hmac.Error]) -> list[type[aws_hmac.Error]]:
        return [kind, *(below for sub in kind.__subclasses__() for below in walk(sub))]

    kinds = {kind for kind in walk(aws_hmac.Error) if not issubclass(kind, CredentialRetrievalError)}
    assert len(kinds) > 15
    for kind in kinds:
        exc = STSError("text", code="X", request_id="r", status=400) if kind is STSError else kind("text")
        made = aws_hmac.botocore.as_retrieval_error(exc)
        assert isinstance(made, kind)
        assert isinstance(made, CredentialRetrievalError)
        assert str(made) == "text"
        assert aws_hmac.botocore.as_retrieval_error(made) is made
    assert isinstance(made, aws_hmac.Error)


def test_credentials_show_nothing(scripted_sts: ScriptedSts, user: AccessKey) -> None:
    session = aws_hmac.Session(signer=signer_of(user), endpoint_url=scripted_sts.url, region_name="us-east-1")
    credentials = credentials_of(session)
    assert (credentials.access_key, credentials.secret_key, credentials.token) == (
        "ASIAEXAMPLE000000001",
        "secret-1",
        "token-1",
    )
    frozen = credentials.get_frozen_credentials()
    assert (frozen.access_key, frozen.secret_key, frozen.token) == ("ASIAEXAMPLE000000001", "secret-1", "token-1")
    for shown in (repr(credentials), str(session), repr(session)):
        assert "secret-1" not in shown
        assert "token-1" not in shown
    for duplicate in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            duplicate(credentials)
    assert len(scripted_sts.requests) == 1


def test_nothing_is_asked_before_it_is_needed(scripted_sts: ScriptedSts, user: AccessKey) -> None:
    session = aws_hmac.Session(signer=signer_of(user), endpoint_url=scripted_sts.url, region_name="us-east-1")
    session.client("s3")
    assert scripted_sts.requests == []


def test_many_threads_make_one_call(scripted_sts: ScriptedSts, user: AccessKey) -> None:
    session = aws_hmac.Session(
        signer=signer_of(user), endpoint_url=scripted_sts.url, region_name="us-east-1", session_cache=False
    )
    credentials = credentials_of(session)
    seen: list[str | None] = []
    start = threading.Barrier(32)

    def work() -> None:
        start.wait()
        seen.append(credentials.get_frozen_credentials().access_key)

    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["ASIAEXAMPLE000000001"] * 32
    assert len(scripted_sts.requests) == 1


@pytest.mark.filterwarnings("ignore:.*SDKs renew 15 minutes ahead:aws_hmac.SessionWarning")
def test_a_session_of_15_minutes_is_not_renewed_for_every_signature(
    scripted_sts: ScriptedSts, user: AccessKey, moto_server: MotoServer
) -> None:
    """botocore's own refreshing credentials make 100 calls here."""
    scripted_sts.lifetime = 900
    session = aws_hmac.Session(
        signer=signer_of(user), endpoint_url=scripted_sts.url, region_name="us-east-1", duration_seconds=900
    )
    s3 = session.client("s3", endpoint_url=moto_server.url)
    for _ in range(100):
        s3.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
    assert len(scripted_sts.requests) == 1


def test_dynamodb_endpoint_by_account(scripted_sts: ScriptedSts, user: AccessKey) -> None:
    session = aws_hmac.Session(
        signer=signer_of(user),
        endpoint_url=scripted_sts.url,
        region_name="us-east-1",
        role_arn="arn:aws:iam::123456789012:role/r",
    )
    assert getattr(credentials_of(session), "account_id") == "123456789012"  # noqa: B009 - new in botocore
