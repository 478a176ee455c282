"""Direct signing against an S3-compatible store without STS, which verifies signatures by code of its own."""

from __future__ import annotations

import datetime
import io
import os
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from aws_hmac.errors import ClockSkewWarning
from tests.integration.direct_support import CountingBackend, direct_session, memory_signer

if TYPE_CHECKING:
    from pathlib import Path

    from aws_hmac import Signer
    from tests.conftest import S3Store


PATH_STYLE = Config(s3={"addressing_style": "path"})


def _client(store: S3Store, *, secret: str | None = None) -> Any:
    signer = memory_signer(store.access_key_id, secret or store.secret_access_key)
    return direct_session(signer).client("s3", endpoint_url=store.url, config=PATH_STYLE)


@pytest.fixture(scope="module")
def bucket(rclone_s3: S3Store) -> str:
    _client(rclone_s3).create_bucket(Bucket="direct")
    return "direct"


def test_objects(rclone_s3: S3Store, bucket: str) -> None:
    client = _client(rclone_s3)
    client.put_object(Bucket=bucket, Key="a b/ü+~.txt", Body=b"content")
    assert client.get_object(Bucket=bucket, Key="a b/ü+~.txt")["Body"].read() == b"content"
    client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a b/ü+~.txt"}]})
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.get_object(Bucket=bucket, Key="a b/ü+~.txt")


def test_wrong_key(rclone_s3: S3Store, bucket: str) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        _client(rclone_s3, secret=rclone_s3.secret_access_key[:-1]).list_objects_v2(Bucket=bucket)


@pytest.mark.parametrize("prefer", ["auto", "classic", "crt"])
def test_managed_transfer(rclone_s3: S3Store, bucket: str, tmp_path: Path, prefer: str) -> None:
    # "crt" asks for a client that signs with the secret; boto3 goes on with the classic one.
    config = TransferConfig(
        multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=4, preferred_transfer_client=prefer
    )
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(11 << 20))
    client = _client(rclone_s3)
    client.upload_file(str(source), bucket, "big", Config=config)
    client.download_file(bucket, "big", str(target), Config=config)
    assert target.read_bytes() == source.read_bytes()
    with pytest.raises(S3UploadFailedError, match="SignatureDoesNotMatch"):
        _client(rclone_s3, secret="other").upload_file(str(source), bucket, "big", Config=config)


def test_presigned_url(rclone_s3: S3Store, bucket: str) -> None:
    client = _client(rclone_s3)
    put = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "presigned"}, ExpiresIn=60)
    assert "X-Amz-Signature=" in put  # and not Signature Version 2, botocore's default
    with urllib.request.urlopen(urllib.request.Request(put, b"hello", method="PUT")) as answer:
        assert answer.status == 200
    get = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "presigned"}, ExpiresIn=60)
    with urllib.request.urlopen(get) as answer:
        assert answer.read() == b"hello"
    last = "0" if get[-1] != "0" else "1"
    for tampered in (get[:-1] + last, get.replace("presigned?", "other?"), get.replace("Expires=60", "Expires=600")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(tampered)
        assert refused.value.code == 403
        refused.value.close()


def test_clock_skew(rclone_s3: S3Store, bucket: str) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    client = _client(rclone_s3)
    with time_machine.travel(now + datetime.timedelta(hours=3)):
        with pytest.warns(ClockSkewWarning, match="differ by -10[78]"):
            client.list_objects_v2(Bucket=bucket)
        client.list_objects_v2(Bucket=bucket)  # no second warning
        url = client.generate_presigned_url("list_objects_v2", Params={"Bucket": bucket}, ExpiresIn=60)
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200


def _rotated(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Signer, CountingBackend]:
    """A client that has signed with the old key, whose device has the new one since; the store knows the new one."""
    signer = memory_signer(store.access_key_id, "before the rotation")
    backend = signer.keys.backend
    assert isinstance(backend, CountingBackend)
    client = direct_session(signer).client("s3", endpoint_url=store.url, config=PATH_STYLE)
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client.list_buckets()
    backend.key = b"AWS4" + store.secret_access_key.encode()
    later = time.monotonic() + 61  # the device is asked once a minute
    monkeypatch.setattr("aws_hmac.signing_keys.monotonic", lambda: later)
    backend.asked.clear()
    return client, signer, backend


def test_rotation_is_noticed(rclone_s3: S3Store, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client, signer, backend = _rotated(rclone_s3, monkeypatch)
    client.put_object(Bucket=bucket, Key="rotated", Body=io.BytesIO(b"a body that is sent twice"))
    assert client.get_object(Bucket=bucket, Key="rotated")["Body"].read() == b"a body that is sent twice"
    assert len(backend.asked) == 3  # the fingerprint for the recheck, then the day's key with its fingerprint
    assert signer.keys.generation == 1


def test_rotation_with_a_body_that_cannot_be_sent_again(
    rclone_s3: S3Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _, _ = _rotated(rclone_s3, monkeypatch)

    class Pipe(io.BytesIO):
        def seek(self, *args: int) -> int:
            if len(sent) > 0:
                raise OSError("a pipe")
            return super().seek(*args)

    sent: list[str] = []
    client.meta.events.register("before-send", lambda request, **_: sent.append(request.url))
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client.put_object(Bucket=bucket, Key="pipe", Body=Pipe(b"once"))
    assert len(sent) == 1


def test_a_wrong_key_asks_the_device_once_a_minute(rclone_s3: S3Store, bucket: str) -> None:
    signer = memory_signer(rclone_s3.access_key_id, "wrong")
    backend = signer.keys.backend
    assert isinstance(backend, CountingBackend)
    client = direct_session(signer).client("s3", endpoint_url=rclone_s3.url, config=PATH_STYLE)
    for _ in range(20):
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            client.list_objects_v2(Bucket=bucket)
    assert len(backend.asked) == 2


def test_device_calls(rclone_s3: S3Store, bucket: str) -> None:
    signer = memory_signer(rclone_s3.access_key_id, rclone_s3.secret_access_key)
    backend = signer.keys.backend
    assert isinstance(backend, CountingBackend)
    client = direct_session(signer).client("s3", endpoint_url=rclone_s3.url, config=PATH_STYLE)
    for _ in range(20):
        client.list_objects_v2(Bucket=bucket)
    assert len(backend.asked) == 2  # the day's key and the fingerprint
