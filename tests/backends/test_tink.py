from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aws_hmac.testing import ImporterContract

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MotoServer

pytestmark = pytest.mark.filterwarnings("ignore:insecure-local-kms:aws_hmac.SecurityWarning")


class TestLocalKek(ImporterContract):
    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return f"tink:file={tmp_path}/keyset.json;kek=insecure-local-kms://{tmp_path}/kek.json"


class TestLocalKekBinary(ImporterContract):
    threads = 4

    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return f"tink:file={tmp_path}/keyset.bin;kek=insecure-local-kms://{tmp_path}/kek.json?format=binary"


@pytest.fixture
def kms(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> MotoServer:
    """moto's KMS, as the environment of the AWS tools names it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_server.admin.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_server.admin.secret_access_key)
    return moto_server


class TestAwsKek(ImporterContract):
    threads = 4
    calls_per_thread = 10

    @pytest.fixture
    def uri(self, kms: MotoServer, tmp_path: Path) -> str:
        key = kms.client("kms", region="eu-west-1").create_key()["KeyMetadata"]["Arn"]
        return f"tink:file={tmp_path}/keyset.json;kek=aws-kms://{key}"
