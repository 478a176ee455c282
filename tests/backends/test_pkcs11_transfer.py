"""A key wrapped on a machine without a token, and unwrapped in one."""

from __future__ import annotations

import hmac
import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pkcs11
import pytest
from pkcs11 import Attribute, Mechanism, ObjectClass

from aws_hmac import ConfigError, KeyExistsError, KeyMismatchError, UnsupportedError, open_backend
from aws_hmac.cli import main
from aws_hmac.testing import EXAMPLE_KEY
from aws_hmac.uri import KeyURI
from aws_hmac_backends.pkcs11 import Pkcs11Backend, _transfer

if TYPE_CHECKING:
    from pathlib import Path

    from aws_hmac._softhsm import SoftHSMToken

pytestmark = pytest.mark.device("pkcs11")

SECRET = EXAMPLE_KEY[4:].decode()


@pytest.fixture(autouse=True)
def small_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transfer, "RSA_BITS", 2048)  # made in a tenth of the time


def objects(token: SoftHSMToken) -> list[dict[Attribute, Any]]:
    """What another program sees on the token."""
    library = pkcs11.lib(str(token.module))
    with library.get_token(token_label=token.label).open(user_pin=token.pin) as session:
        wanted = [Attribute.CLASS, Attribute.LABEL, Attribute.ID]
        return [item.get_attributes(wanted) for item in list(session.get_objects())]


@pytest.mark.parametrize("size", [1, 44, 68])
def test_transfer(softhsm_token: SoftHSMToken, size: int) -> None:
    key = (EXAMPLE_KEY * 2)[:size]
    uri = KeyURI.parse(softhsm_token.uri("prod"))
    offer = Pkcs11Backend.transfer_offer(uri)
    wrapped = Pkcs11Backend.transfer_wrap(offer, key, expect_name=offer["name"])
    with open_backend(Pkcs11Backend.transfer_receive(uri, wrapped, label="AKIAIOSFODNN7EXAMPLE")) as backend:
        assert backend.hmac_sha256(b"20260101") == hmac.digest(key, b"20260101", "sha256")
        levels = {f.subject: f.level for f in backend.inspect()}  # type: ignore[attr-defined] # a KeyInspector
        assert levels["CKA_SENSITIVE"] == levels["CKA_EXTRACTABLE"] == "good"
    left = objects(softhsm_token)
    assert [o[Attribute.CLASS] for o in left] == [ObjectClass.SECRET_KEY]  # the key pair is gone, the AES key too
    assert left[0][Attribute.ID].startswith(b"AKIAIOSFODNN7EXAMPLE-")
    with pytest.raises(KeyMismatchError, match="received already"):
        Pkcs11Backend.transfer_receive(uri, wrapped, overwrite=True)


def test_the_sender_must_know_the_name(softhsm_token: SoftHSMToken) -> None:
    uri = KeyURI.parse(softhsm_token.uri("prod"))
    mine, other = (Pkcs11Backend.transfer_offer(uri) for _ in range(2))
    assert mine["name"] != other["name"]
    with pytest.raises(KeyMismatchError, match="not the expected one"):
        Pkcs11Backend.transfer_wrap(other, EXAMPLE_KEY, expect_name=mine["name"])
    with pytest.raises(KeyMismatchError):  # the name is computed, not read
        Pkcs11Backend.transfer_wrap(other | {"name": mine["name"]}, EXAMPLE_KEY, expect_name=mine["name"])
    wrapped = json.loads(Pkcs11Backend.transfer_wrap(other, EXAMPLE_KEY, expect_name=other["name"]))
    with pytest.raises(KeyMismatchError, match="does not hold"):
        Pkcs11Backend.transfer_receive(uri, json.dumps(wrapped | {"name": "00" * 32}))
    assert len(objects(softhsm_token)) == 4  # both pairs wait, and no key was made


def test_refusals(softhsm_token: SoftHSMToken, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = KeyURI.parse(softhsm_token.uri("prod"))
    offer = Pkcs11Backend.transfer_offer(uri)
    for change in ({"public": ""}, {"public": "AAAA"}, {"policy": "never used"}):
        with pytest.raises(ConfigError, match="damaged"):
            Pkcs11Backend.transfer_wrap(offer | change, EXAMPLE_KEY, expect_name=offer["name"])
    with pytest.raises(ConfigError, match="no password of its own"):
        Pkcs11Backend.transfer_wrap(offer, EXAMPLE_KEY, expect_name=offer["name"], password=b"p")
    for damaged in ("", "{}", "[]", '{"name": "zz", "aes_key": "", "key": ""}'):
        with pytest.raises(ConfigError, match="damaged"):
            Pkcs11Backend.transfer_receive(uri, damaged)
    wrapped = Pkcs11Backend.transfer_wrap(offer, EXAMPLE_KEY, expect_name=offer["name"])
    with open_backend(Pkcs11Backend.transfer_receive(uri, wrapped)):
        pass
    again = Pkcs11Backend.transfer_offer(uri)
    wrapped = Pkcs11Backend.transfer_wrap(again, b"another key", expect_name=again["name"])
    with pytest.raises(KeyExistsError):
        Pkcs11Backend.transfer_receive(uri, wrapped)
    with open_backend(Pkcs11Backend.transfer_receive(uri, wrapped, overwrite=True)) as backend:
        assert backend.hmac_sha256(b"m") == hmac.digest(b"another key", b"m", "sha256")
    monkeypatch.setattr(_transfer, "_KWP", (Mechanism.AES_KEY_WRAP_KWP,))  # which SoftHSM does not have
    with pytest.raises(UnsupportedError, match="does not unwrap by RSA-OAEP and AES-KWP"):
        Pkcs11Backend.transfer_offer(uri)


def test_command(
    softhsm_token: SoftHSMToken,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = softhsm_token.uri("prod")
    assert main(["key", "transfer", "target", uri]) == 0
    out = capsys.readouterr().out
    (tmp_path / "offer.json").write_text(out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SECRET.encode())))
    words = ["key", "transfer", "wrap", str(tmp_path / "offer.json"), "--expect-name", json.loads(out)["name"]]
    assert main(words) == 0
    wrapped = capsys.readouterr().out
    assert SECRET not in wrapped
    (tmp_path / "wrapped.json").write_text(wrapped)
    assert main(["key", "transfer", "import", uri, str(tmp_path / "wrapped.json")]) == 0
    assert "computes as the sender's does" in capsys.readouterr().out
    with open_backend(uri) as backend:
        assert backend.hmac_sha256(b"m") == hmac.digest(EXAMPLE_KEY, b"m", "sha256")
