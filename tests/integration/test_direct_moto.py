"""Direct signing against servers that verify signatures."""

from __future__ import annotations

import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

import aws_hmac
from aws_hmac import DeviceError, Signer
from aws_hmac._softhsm import make_token
from aws_hmac.cli.memory_scan import forms, scan
from aws_hmac.testing import finalize_pkcs11_modules, require_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aws_hmac._softhsm import SoftHSMToken
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


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory, key: AccessKey) -> Iterator[SoftHSMToken]:
    """A token with the key as ``right`` and another, one letter different, as ``wrong``."""
    try:
        token = make_token(tmp_path_factory.mktemp("softhsm"), f"direct-{uuid.uuid4().hex[:8]}")
    except DeviceError as exc:
        require_device("pkcs11", str(exc))
        raise
    with pytest.MonkeyPatch.context() as patch:
        for name, value in token.environment.items():
            patch.setenv(name, value)
        finalize_pkcs11_modules()
        aws_hmac.import_key(token.uri("right"), key.secret_access_key)
        aws_hmac.import_key(token.uri("wrong"), key.secret_access_key[:-1] + "~")
        yield token
        finalize_pkcs11_modules()


def _client(server: MotoServer, service: Any, signer: Signer) -> Any:
    session = aws_hmac.Session(signer=signer, mode="direct", region_name="us-east-1")
    return session.client(service, endpoint_url=server.url, verify=server.ca_bundle)


@pytest.mark.device("pkcs11")
@pytest.mark.parametrize("service", sorted(CALLS))
def test_service(
    server: MotoServer, key: AccessKey, token: SoftHSMToken, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An explicit signer goes before the environment.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFROMENVIRONMENT0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with aws_hmac.open_backend(token.uri("right")) as backend:
        CALLS[service](_client(server, service, aws_hmac.Signer(key.access_key_id, backend)))
    refused = r"SignatureDoesNotMatch|AuthFailure"
    with aws_hmac.open_backend(token.uri("wrong")) as backend, pytest.raises(ClientError, match=refused):
        CALLS[service](_client(server, service, aws_hmac.Signer(key.access_key_id, backend)))


PROGRAM = """
import sys
url, access_key_id, what = sys.argv[1:]
import aws_hmac, boto3
if what.startswith("pkcs11:"):
    signer = aws_hmac.Signer(access_key_id, aws_hmac.open_backend(what))
    session = aws_hmac.Session(signer=signer, mode="direct", region_name="us-east-1")
else:  # the control holds the secret
    secret = sys.stdin.readline().strip()
    session = boto3.Session(access_key_id, secret, region_name="us-east-1")
session.client("sts", endpoint_url=url).get_caller_identity()
s3 = session.client("s3", endpoint_url=url)
s3.list_buckets()
s3.generate_presigned_url("get_object", {"Bucket": "bucket-name", "Key": "k"})
s3.generate_presigned_post("bucket-name", "k")
session.client("dynamodb", endpoint_url=url).list_tables()
if what.startswith("pkcs11:"):
    assert not hasattr(session.get_credentials(), "secret_key")
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.device("pkcs11")
def test_the_secret_is_not_in_the_memory(moto_server: MotoServer, softhsm_token: SoftHSMToken) -> None:
    key = moto_server.create_user()
    aws_hmac.import_key(softhsm_token.uri("prod"), key.secret_access_key)
    texts = forms(key.secret_access_key)
    hits = {}
    for what in (softhsm_token.uri("prod"), "control"):  # both started after the import
        arguments = [sys.executable, "-c", PROGRAM, moto_server.url, key.access_key_id, what]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if what == "control":
                process.stdin.write(key.secret_access_key + "\n")
                process.stdin.flush()
            assert process.stdout.readline() == "ready\n"
            found = scan(process.pid, texts)
            hits[what] = found.hits
            print(f"{what}: {found.size >> 20} MiB: {found.hits}")
            process.stdin.close()
    direct, control = hits.values()
    assert not any(direct.values())
    assert control["the secret"] > 0
