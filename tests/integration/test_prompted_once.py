"""A person is asked for a PIN once in what is one step to them, and it is forgotten then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aws_hmac import AuthenticationError, import_key, open_backend, sources
from aws_hmac.backend import fingerprint
from aws_hmac.cli import main

if TYPE_CHECKING:
    from aws_hmac.testing import SoftHSMToken


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, softhsm_token: SoftHSMToken) -> list[str]:
    """What was asked; each time the token's PIN is typed, unless the list begins with a wrong one."""
    prompts: list[str] = []

    def prompt(what: str) -> bytes:
        prompts.append(what)
        return b"000000" if prompts[0] == "wrong" else softhsm_token.pin.encode()

    monkeypatch.setattr(sources, "_from_prompt", prompt)
    return prompts


def with_prompt(token: SoftHSMToken) -> str:
    return token.uri("prod").rpartition("pin-source=")[0] + "pin-source=prompt"


def test_import_and_delete_ask_once(asked: list[str], softhsm_token: SoftHSMToken) -> None:
    uri = with_prompt(softhsm_token)
    named = import_key(uri, "secret")
    assert len(asked) == 1
    with open_backend(named) as backend:
        fingerprint(backend)
    assert len(asked) == 2, "it is forgotten after the import"
    assert main(["key", "delete", named, "--yes"]) == 0
    assert len(asked) == 3
    assert sources._answers.get() is None


def test_a_wrong_pin_is_not_kept(asked: list[str], softhsm_token: SoftHSMToken) -> None:
    asked.append("wrong")
    with pytest.raises(AuthenticationError):
        import_key(with_prompt(softhsm_token), "secret")
    asked.clear()
    import_key(with_prompt(softhsm_token), "secret")
    assert len(asked) == 1
