from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aws_hmac.testing import ImporterContract

if TYPE_CHECKING:
    from pathlib import Path

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
