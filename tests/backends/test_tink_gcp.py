from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aws_hmac.testing import ImporterContract
from tests.backends.gcp_kms_server import GcpKms, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def kms() -> Iterator[GcpKms]:
    with serve(GcpKms()) as kms:
        yield kms


class TestGcpKek(ImporterContract):
    threads = 8
    calls_per_thread = 10

    @pytest.fixture
    def uri(self, kms: GcpKms, tmp_path: Path) -> str:
        key = kms.create_key("kek")
        return f"tink:file={tmp_path}/keyset.json;kek=gcp-kms://{key}?endpoint-url={kms.url}"
