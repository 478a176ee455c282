from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aws_hmac.testing import ImporterContract

if TYPE_CHECKING:
    from aws_hmac._softhsm import SoftHSMToken

pytestmark = pytest.mark.device("pkcs11")


class TestModulePath(ImporterContract):
    @pytest.fixture
    def uri(self, softhsm_token: SoftHSMToken) -> str:
        return softhsm_token.uri()


class TestProxy(ImporterContract):
    @pytest.fixture
    def uri(self, softhsm_token: SoftHSMToken) -> str:
        return softhsm_token.uri(module_path=None)
