"""Key services for the tests of the backends `tink` and `awskms`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aws_hmac.backend import PROFILES_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.backends.gcp_kms_server import GcpKms
    from tests.backends.kms_server import FakeKms


@pytest.fixture
def fake_kms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeKms]:
    """AWS KMS as the key states and faults want it; credentials and STS in the environment, configuration empty."""
    from tests.backends.kms_server import FakeKms, serve

    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", PROFILES_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    with serve(FakeKms()) as kms:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", kms.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", kms.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAKMSKMSKMSKMSKMSK")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the secret of the caller of KMS")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        yield kms


@pytest.fixture
def gcp_kms() -> Iterator[GcpKms]:
    """Google Cloud KMS over gRPC."""
    from tests.backends.gcp_kms_server import GcpKms, serve  # gRPC is for those tests only

    with serve(GcpKms()) as kms:
        yield kms


@pytest.fixture
def moto_kms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    """moto's KMS, as the environment of the AWS tools names it."""
    server = request.getfixturevalue("moto_server")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.admin.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.admin.secret_access_key)
    return server
