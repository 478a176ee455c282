"""STS calls against a server that verifies their signatures.

moto's GetSessionToken answers hard-coded credentials, so only its call is proven here, not their use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aws_hmac import Signer, STSError, sts
from aws_hmac_backends.memory import MemoryBackend

if TYPE_CHECKING:
    from tests.conftest import AccessKey, MotoServer

pytestmark = pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")


@pytest.fixture(autouse=True)
def region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def signer_of(key: AccessKey) -> Signer:
    return Signer(key.access_key_id, MemoryBackend(b"AWS4" + key.secret_access_key.encode()))


@pytest.mark.parametrize("fixture", ["moto_server", "moto_server_tls"])
def test_all_calls(request: pytest.FixtureRequest, fixture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server: MotoServer = request.getfixturevalue(fixture)
    if server.ca_bundle:
        monkeypatch.setenv("AWS_CA_BUNDLE", server.ca_bundle)
    key = server.create_user()
    signer = signer_of(key)
    assert sts.get_caller_identity(signer, endpoint_url=server.url).arn.endswith(f":user/{key.user_name}")
    assert sts.get_session_token(signer, endpoint_url=server.url).session_token
    role = server.create_role()
    made = sts.assume_role(
        signer,
        role_arn=role,
        role_session_name="it",
        tags={"team": "infra & ops", "ü": "ä ö"},
        policy='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}',
        endpoint_url=server.url,
    )
    assert made.account_id == "123456789012"
    session = key._replace(access_key_id=made.access_key_id, secret_access_key=made.secret_access_key)
    assert server.client("sts", session, session_token=made.session_token).get_caller_identity()["Arn"].endswith("/it")

    # The session assumes the next role.
    chained = Signer(
        made.access_key_id,
        MemoryBackend(b"AWS4" + made.secret_access_key.encode()),
        session_token=made.session_token,
    )
    other = sts.assume_role(chained, role_arn=server.create_role(), endpoint_url=server.url)
    assert other.access_key_id != made.access_key_id


def test_wrong_key_is_rejected(moto_server: MotoServer) -> None:
    key = moto_server.create_user()
    wrong = signer_of(key._replace(secret_access_key=key.secret_access_key[:-1] + "~"))
    with pytest.raises(STSError, match="the key in the device is not the secret of") as caught:
        sts.assume_role(wrong, role_arn=moto_server.create_role(), endpoint_url=moto_server.url)
    assert caught.value.code == "SignatureDoesNotMatch"


def test_unknown_key_is_rejected(moto_server: MotoServer) -> None:
    key = moto_server.create_user()
    with pytest.raises(STSError, match="AKIANOBODY0000000000 is unknown there") as caught:
        sts.get_caller_identity(
            signer_of(key._replace(access_key_id="AKIANOBODY0000000000")), endpoint_url=moto_server.url
        )
    assert caught.value.code == "InvalidClientTokenId"


def test_missing_permission(moto_server: MotoServer) -> None:
    key = moto_server.create_user(["s3:*"])
    with pytest.raises(STSError, match="AccessDenied"):
        sts.assume_role(signer_of(key), role_arn=moto_server.create_role(), endpoint_url=moto_server.url)
