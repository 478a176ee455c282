"""aiobotocore: signed by the device, whose calls do not hold up the event loop."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
import urllib.request
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiobotocore.session
import pytest
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError

import aws_hmac.aiobotocore
from aws_hmac import ConfigError, DeviceError, HmacBackend, Signer

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tests.conftest import AccessKey, MotoServer, S3Store


class Backend(HmacBackend):
    """Notes in which thread it was asked."""

    def __init__(self, secret: str) -> None:
        self.key = b"AWS4" + secret.encode()
        self.threads: list[threading.Thread] = []
        self.error: Exception | None = None

    def hmac_sha256(self, message: bytes, /) -> bytes:
        self.threads.append(threading.current_thread())
        if self.error is not None:
            raise self.error
        return hmac.digest(self.key, message, "sha256")


@pytest.fixture
def key(moto_server: MotoServer) -> AccessKey:
    return moto_server.create_user()


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def _session(signer: Signer, **options: Any) -> Any:
    return aws_hmac.aiobotocore.get_session(signer=signer, region_name="us-east-1", **options)


@pytest.mark.parametrize("cache", ["date", "scope", "none"])
def test_services(moto_server: MotoServer, key: AccessKey, cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFROMENVIRONMENT0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    backend = Backend(key.secret_access_key)

    async def calls() -> None:
        session = _session(Signer(key.access_key_id, backend, cache=cache), mode="direct")
        async with session.create_client("sts", endpoint_url=moto_server.url) as sts:
            assert (await sts.get_caller_identity())["Arn"].endswith(key.user_name)
        async with session.create_client("s3", endpoint_url=moto_server.url) as s3:
            bucket = f"aio-{cache}"
            await s3.create_bucket(Bucket=bucket)
            await asyncio.gather(*(s3.put_object(Bucket=bucket, Key=f"k{n}", Body=b"x") for n in range(10)))
            assert len((await s3.list_objects_v2(Bucket=bucket))["Contents"]) == 10

    _run(calls())
    assert backend.threads
    assert threading.main_thread() not in backend.threads
    if cache == "date":
        assert len(backend.threads) == 2


def test_wrong_key(moto_server: MotoServer, key: AccessKey) -> None:
    async def call() -> None:
        session = _session(Signer(key.access_key_id, Backend("wrong")), mode="direct")
        async with session.create_client("sts", endpoint_url=moto_server.url) as sts:
            await sts.get_caller_identity()

    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        _run(call())


def test_session_mode(moto_server: MotoServer, key: AccessKey, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    backend = Backend(key.secret_access_key)
    role = moto_server.create_role()

    async def call() -> str:
        session = _session(
            Signer(key.access_key_id, backend), role_arn=role, endpoint_url=moto_server.url, session_cache=False
        )
        async with session.create_client("sts", endpoint_url=moto_server.url) as sts:
            arn: str = (await sts.get_caller_identity())["Arn"]
            return arn

    assert ":assumed-role/" in _run(call())
    assert threading.main_thread() not in backend.threads


def test_presigned_and_rotation(rclone_s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend("before the rotation")
    signer = Signer(rclone_s3.access_key_id, backend)

    async def calls() -> str:
        session = _session(signer, mode="direct")
        config = AioConfig(s3={"addressing_style": "path"})
        async with session.create_client("s3", endpoint_url=rclone_s3.url, config=config) as s3:
            with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
                await s3.list_buckets()
            backend.key = b"AWS4" + rclone_s3.secret_access_key.encode()
            later = time.monotonic() + 61
            monkeypatch.setattr("aws_hmac.signing_keys.monotonic", lambda: later)
            await s3.create_bucket(Bucket="aio")
            await s3.put_object(Bucket="aio", Key="k", Body=b"content")
            url: str = await s3.generate_presigned_url("get_object", Params={"Bucket": "aio", "Key": "k"})
            return url

    with urllib.request.urlopen(_run(calls())) as answer:
        assert answer.read() == b"content"
    assert signer.keys.generation == 1
    assert threading.main_thread() not in backend.threads


def test_device_error(moto_server: MotoServer, key: AccessKey) -> None:
    backend = Backend(key.secret_access_key)
    backend.error = DeviceError("the device is away")

    async def call() -> None:
        session = _session(Signer(key.access_key_id, backend), mode="direct")
        async with session.create_client("sts", endpoint_url=moto_server.url) as sts:
            await sts.get_caller_identity()

    with pytest.raises(DeviceError, match="the device is away"):
        _run(call())


def test_a_session_with_credentials_is_refused() -> None:
    session = aiobotocore.session.get_session()
    session.set_credentials("AKIAOTHER", "secret")
    with pytest.raises(ConfigError, match="has credentials already"):
        aws_hmac.aiobotocore.install(session, signer=Signer("AKIAIOSFODNN7EXAMPLE", Backend("x")), mode="direct")


def test_a_botocore_session_is_refused() -> None:
    import botocore.session

    with pytest.raises(ConfigError, match=r"aws_hmac\.botocore\.install"):
        aws_hmac.aiobotocore.install(botocore.session.Session(), signer=Signer("AKIA", Backend("x")))


def test_under_another_loop_than_asyncios(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_loop() -> None:
        raise RuntimeError("no running event loop")

    monkeypatch.setattr("aws_hmac.aiobotocore.asyncio", SimpleNamespace(get_running_loop=no_loop))
    thread = _run(aws_hmac.aiobotocore.in_thread(threading.current_thread))
    assert thread is not threading.main_thread()
