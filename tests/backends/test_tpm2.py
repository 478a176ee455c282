from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aws_hmac import open_backend
from aws_hmac.testing import BackendContract, ImporterContract
from aws_hmac.uri import KeyURI
from aws_hmac_backends.tpm2 import Tpm2Backend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aws_hmac import HmacBackend
    from aws_hmac._swtpm import Swtpm

pytestmark = pytest.mark.device("tpm2")


class TestHandle(ImporterContract):
    calls_per_thread = 10

    @pytest.fixture
    def uri(self, swtpm: Swtpm) -> str:
        return f"tpm2:handle=0x81008001?tcti={swtpm.tcti}"


class TestFile(ImporterContract):
    calls_per_thread = 5

    @pytest.fixture
    def uri(self, swtpm: Swtpm, tmp_path: Path) -> str:
        return f"tpm2:file={tmp_path}/key.pem?tcti={swtpm.tcti}"


class TestPassword(ImporterContract):
    calls_per_thread = 5

    @pytest.fixture
    def uri(self, swtpm: Swtpm, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("TPM_AUTH", "correct horse")
        return f"tpm2:handle=0x81008001?tcti={swtpm.tcti}&auth-source=env:TPM_AUTH"


class TestPcr(ImporterContract):
    calls_per_thread = 5

    @pytest.fixture
    def uri(self, swtpm: Swtpm, tmp_path: Path) -> str:
        return f"tpm2:file={tmp_path}/key.pem?tcti={swtpm.tcti}&pcrs=sha256:7,23"


class TestWrappedToTheEK(BackendContract):
    calls_per_thread = 3

    @pytest.fixture
    def backend(self, key: bytes, swtpm: Swtpm, tmp_path: Path) -> Iterator[HmacBackend]:
        uri = KeyURI.parse(f"tpm2:file={tmp_path}/key.pem?tcti={swtpm.tcti}&parent=ek-ecc")
        offer = Tpm2Backend.transfer_offer(uri)
        wrapped = Tpm2Backend.transfer_wrap(offer, key, expect_name=offer["name"])
        with open_backend(Tpm2Backend.transfer_receive(uri, wrapped)) as backend:
            yield backend
