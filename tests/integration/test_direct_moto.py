"""Direct signing against servers that verify signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tests.integration.direct_support import direct_session, memory_signer

if TYPE_CHECKING:
    from tests.conftest import AccessKey, MotoServer


def _sts(client: Any) -> None:
    assert client.get_caller_identity()["Account"] == "123456789012"


def _s3(client: Any) -> None:
    client.create_bucket(Bucket="direct-bucket")
    client.put_object(Bucket="direct-bucket", Key="a b/ü+~.txt", Body=b"content", Metadata={"note": "two  blanks"})
    assert client.get_object(Bucket="direct-bucket", Key="a b/ü+~.txt")["Body"].read() == b"content"
    assert [found["Key"] for found in client.list_objects_v2(Bucket="direct-bucket")["Contents"]] == ["a b/ü+~.txt"]
    client.delete_object(Bucket="direct-bucket", Key="a b/ü+~.txt")
    client.delete_bucket(Bucket="direct-bucket")


def _dynamodb(client: Any) -> None:
    client.create_table(
        TableName="direct",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    client.put_item(TableName="direct", Item={"id": {"S": "ü"}})
    assert client.get_item(TableName="direct", Key={"id": {"S": "ü"}})["Item"] == {"id": {"S": "ü"}}
    client.delete_table(TableName="direct")


def _sqs(client: Any) -> None:
    url = client.create_queue(QueueName="direct")["QueueUrl"]
    client.send_message(QueueUrl=url, MessageBody="hello")
    assert client.receive_message(QueueUrl=url)["Messages"][0]["Body"] == "hello"
    client.delete_queue(QueueUrl=url)


def _iam(client: Any) -> None:
    client.create_user(UserName="direct-user")
    assert client.get_user(UserName="direct-user")["User"]["UserName"] == "direct-user"
    client.delete_user(UserName="direct-user")


def _ec2(client: Any) -> None:
    assert client.describe_regions(RegionNames=["eu-west-1"])["Regions"][0]["RegionName"] == "eu-west-1"


CALLS = {"sts": _sts, "s3": _s3, "dynamodb": _dynamodb, "sqs": _sqs, "iam": _iam, "ec2": _ec2}


@pytest.fixture(scope="module", params=["moto_server", "moto_server_tls"], ids=["http", "https"])
def server(request: pytest.FixtureRequest) -> MotoServer:
    server: MotoServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="module")
def key(server: MotoServer) -> AccessKey:
    return server.create_user()


def _client(server: MotoServer, service: str, key: AccessKey) -> Any:
    session = direct_session(memory_signer(key.access_key_id, key.secret_access_key))
    return session.client(service, endpoint_url=server.url, verify=server.ca_bundle)  # type: ignore[call-overload]


@pytest.mark.parametrize("service", sorted(CALLS))
def test_service(server: MotoServer, key: AccessKey, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # An explicit signer goes before the environment.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFROMENVIRONMENT0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    CALLS[service](_client(server, service, key))


@pytest.mark.parametrize("service", sorted(CALLS))
def test_wrong_key(server: MotoServer, key: AccessKey, service: str) -> None:
    wrong = key._replace(secret_access_key=key.secret_access_key[:-1] + "~")
    with pytest.raises(
        ClientError, match=r"SignatureDoesNotMatch|AuthFailure|403|IncompleteSignature|InvalidSignature"
    ):
        CALLS[service](_client(server, service, wrong))
