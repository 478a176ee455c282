"""The local AWS that other tests rely on does verify signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from tests.conftest import MotoServer


@pytest.mark.parametrize("fixture", ["moto_server", "moto_server_tls"])
def test_verifies_signatures(request: pytest.FixtureRequest, fixture: str) -> None:
    server: MotoServer = request.getfixturevalue(fixture)
    key = server.create_user()
    assert server.client("sts", key).get_caller_identity()["Arn"].endswith(f":user/{key.user_name}")
    wrong = key._replace(secret_access_key=key.secret_access_key[:-1] + "~")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        server.client("sts", wrong).get_caller_identity()


def test_checks_actions_and_roles(moto_server: MotoServer) -> None:
    key = moto_server.create_user(["sts:AssumeRole"])
    with pytest.raises(ClientError, match="AccessDenied"):
        moto_server.client("s3", key).list_buckets()
    role = moto_server.create_role(["s3:*"])
    made = moto_server.client("sts", key).assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    session = key._replace(access_key_id=made["AccessKeyId"], secret_access_key=made["SecretAccessKey"])
    assert moto_server.client("s3", session, session_token=made["SessionToken"]).list_buckets()["Buckets"] is not None
    with pytest.raises(ClientError, match="Invalid"):
        moto_server.client("s3", session, session_token="other").list_buckets()
