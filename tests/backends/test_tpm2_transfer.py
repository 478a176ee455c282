"""A key wrapped on a machine without a TPM, for one TPM alone."""

from __future__ import annotations

import base64
import datetime
import hmac
import io
import json
import sys
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import NameOID
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_CC,
    TPM2_SE,
    TPM2B_DATA,
    TPM2B_NV_PUBLIC,
    TPM2B_PUBLIC,
    TPMA_NV,
    TPMS_NV_PUBLIC,
    TPMT_SYM_DEF,
    TPMT_SYM_DEF_OBJECT,
    TSS2_Exception,
)

from aws_hmac import (
    AuthenticationError,
    ConfigError,
    KeyExistsError,
    KeyMismatchError,
    UnsupportedError,
    open_backend,
)
from aws_hmac._swtpm import Swtpm
from aws_hmac.cli import main
from aws_hmac.testing import EXAMPLE_KEY
from aws_hmac.uri import KeyURI
from aws_hmac_backends.tpm2 import Tpm2Backend, _keyfile, _policy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.device("tpm2")

SECRET = EXAMPLE_KEY[4:].decode()
PASSWORD = "correct horse"
EXPECTED = hmac.digest(EXAMPLE_KEY, b"20260101", "sha256")
HANDLE = "handle=0x81008001"


@pytest.fixture(autouse=True)
def passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPM_AUTH", PASSWORD)
    monkeypatch.setenv("WRONG_AUTH", "wrong")


@pytest.fixture(autouse=True)
def nothing_left_behind(swtpm: Swtpm) -> Iterator[None]:
    yield
    with ESAPI(swtpm.tcti) as esys:
        for first in (0x80000000, 0x02000000, 0x03000000):  # transient objects, loaded and saved sessions
            _, data = esys.get_capability(TPM2_CAP.HANDLES, first, 64)
            assert [int(h) for h in data.data.handles] == []


def transfer(uri: str, *, password: bytes | None = None) -> str:
    """All three steps; returns the key's URI."""
    parsed = KeyURI.parse(uri)
    offer = Tpm2Backend.transfer_offer(parsed)
    wrapped = Tpm2Backend.transfer_wrap(offer, EXAMPLE_KEY, expect_name=offer["name"], password=password)
    assert SECRET not in wrapped
    return str(Tpm2Backend.transfer_receive(parsed, wrapped, label="AKIAIOSFODNN7EXAMPLE"))


@pytest.mark.parametrize("auth", ["", "&auth-source=env:TPM_AUTH", "&pcrs=sha256:7,23&auth-source=env:TPM_AUTH"])
@pytest.mark.parametrize(
    ("place", "parent"),
    [
        (HANDLE, ""),
        (HANDLE, "&parent=ek-ecc"),
        (HANDLE, "&parent=ek-rsa"),
        ("file={dir}/key.pem", ""),
        ("file={dir}/key.pem", "&parent=ek-ecc"),
    ],
)
def test_transfer(swtpm: Swtpm, tmp_path: Path, place: str, parent: str, auth: str) -> None:
    uri = f"tpm2:{place.format(dir=tmp_path)}?tcti={swtpm.tcti}{parent}{auth}"
    named = transfer(uri, password=PASSWORD.encode() if "auth-source" in auth else None)
    with open_backend(named) as backend:
        assert backend.hmac_sha256(b"20260101") == EXPECTED
        findings = {f.subject: f for f in backend.inspect()}  # type: ignore[attr-defined] # a KeyInspector
        assert "no policy allows TPM2_Duplicate" in findings["fixedTPM"].text
        assert findings["session"].level == "good"
    if "auth-source" in auth:
        with (
            pytest.raises(AuthenticationError, match="wrong password"),
            open_backend(named.replace("TPM_AUTH", "WRONG_AUTH")) as backend,
        ):
            backend.hmac_sha256(b"20260101")


@pytest.mark.parametrize("auth", ["", "&pcrs=sha256:23"])
def test_a_transferred_key_cannot_be_duplicated(swtpm: Swtpm, auth: str) -> None:
    """By no session that we know: neither the bare command code nor its own policy before or after it."""
    transfer(f"tpm2:{HANDLE}?tcti={swtpm.tcti}{auth}")
    with ESAPI(swtpm.tcti) as esys:
        tr = esys.tr_from_tpmpublic(0x81008001)
        pcr = _policy.policy_pcr(_policy.Pcrs.parse("sha256:23"))
        code = _policy.Command(int(TPM2_CC.PolicyCommandCode), int(TPM2_CC.Duplicate).to_bytes(4, "big"))
        for policy in ((), (code,), (pcr,), (pcr, code), (code, pcr)):
            session = esys.start_auth_session(
                ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256
            )
            _policy.run(esys, session, policy)
            with pytest.raises(TSS2_Exception) as caught:
                esys.duplicate(
                    tr, ESYS_TR.NULL, TPM2B_DATA(), TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL), session1=session
                )
            assert caught.value.rc in (0x99D, 0x9A4)  # TPM_RC_POLICY_FAIL, TPM_RC_POLICY_CC
            esys.flush_context(session)
        with pytest.raises(TSS2_Exception):
            esys.duplicate(tr, ESYS_TR.NULL, TPM2B_DATA(), TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL))


def test_the_sender_must_know_the_name(swtpm: Swtpm, tmp_path: Path) -> None:
    offer = Tpm2Backend.transfer_offer(KeyURI.parse(f"tpm2:{HANDLE}?tcti={swtpm.tcti}"))
    with Swtpm(tmp_path / "other") as other:
        theirs = Tpm2Backend.transfer_offer(KeyURI.parse(f"tpm2:{HANDLE}?tcti={other.tcti}"))
    assert offer["name"] != theirs["name"]
    with pytest.raises(KeyMismatchError, match=r"has the name .* not the expected one"):
        Tpm2Backend.transfer_wrap(theirs, EXAMPLE_KEY, expect_name=offer["name"])
    with pytest.raises(KeyMismatchError):  # the name is computed, not read
        Tpm2Backend.transfer_wrap(theirs | {"name": offer["name"]}, EXAMPLE_KEY, expect_name=offer["name"])
    wrapped = Tpm2Backend.transfer_wrap(theirs, EXAMPLE_KEY, expect_name=theirs["name"].upper())
    uri = KeyURI.parse(f"tpm2:{HANDLE}?tcti={swtpm.tcti}")
    with pytest.raises(KeyMismatchError, match="another TPM"):
        Tpm2Backend.transfer_receive(uri, wrapped)
    bare = wrapped[wrapped.index("-----BEGIN") :]  # without the name; the TPM itself refuses
    with pytest.raises(KeyMismatchError, match="another TPM, or under another parent"):
        Tpm2Backend.transfer_receive(uri, bare)


def test_password_is_as_offered(swtpm: Swtpm) -> None:
    open_uri = KeyURI.parse(f"tpm2:{HANDLE}?tcti={swtpm.tcti}")
    with_password = KeyURI.parse(f"{open_uri}&auth-source=env:TPM_AUTH")
    offer = Tpm2Backend.transfer_offer(open_uri)
    with pytest.raises(ConfigError, match="asks for no password"):
        Tpm2Backend.transfer_wrap(offer, EXAMPLE_KEY, expect_name=offer["name"], password=b"p")
    wrapped = Tpm2Backend.transfer_wrap(offer, EXAMPLE_KEY, expect_name=offer["name"])
    with pytest.raises(ConfigError, match="has no password; leave auth-source out"):
        Tpm2Backend.transfer_receive(with_password, wrapped)
    offer = Tpm2Backend.transfer_offer(with_password)
    with pytest.raises(ConfigError, match="asks for a password: give --auth-source"):
        Tpm2Backend.transfer_wrap(offer, EXAMPLE_KEY, expect_name=offer["name"])
    with pytest.raises(ConfigError, match="not bound to the PCRs sha256:7"):
        Tpm2Backend.transfer_receive(KeyURI.parse(f"{open_uri}&pcrs=sha256:7"), wrapped)
    Tpm2Backend.transfer_receive(open_uri, wrapped)
    with pytest.raises(KeyExistsError):
        Tpm2Backend.transfer_receive(open_uri, wrapped)


def test_a_wrapped_key_with_a_way_out_is_refused(swtpm: Swtpm) -> None:
    """A sender's policy that could let the key out again is not taken in, said or unsaid."""
    uri = KeyURI.parse(f"tpm2:{HANDLE}?tcti={swtpm.tcti}")
    offer = Tpm2Backend.transfer_offer(uri)
    file = _keyfile.parse(Tpm2Backend.transfer_wrap(offer, EXAMPLE_KEY, expect_name=offer["name"]).encode(), "test")
    code = _policy.Command(int(TPM2_CC.PolicyCommandCode), int(TPM2_CC.Duplicate).to_bytes(4, "big"))
    file.public.publicArea.authPolicy = _policy.digest_of((code,))
    for policy in ((), (code,)):
        pem = _keyfile.KeyFile(file.public, file.private, file.parent, True, policy, file.secret).to_pem()
        with pytest.raises(UnsupportedError, match="may let it out"):
            Tpm2Backend.transfer_receive(uri, pem.decode())


def write_certificate(tpm: Swtpm, key: ec.EllipticCurvePublicKey) -> None:
    """Writes an EK certificate where TPM makers do (TCG EK Credential Profile, section 2.2.1.4)."""
    maker = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "TPM maker")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key).serial_number(1)
    certificate = (
        builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=9)).sign(maker, hashes.SHA256())
    )
    data = certificate.public_bytes(Encoding.DER) + b"\xff" * 16  # makers fill the index up
    with ESAPI(tpm.tcti) as esys:
        area = TPMS_NV_PUBLIC(
            nvIndex=0x01C0000A,
            nameAlg=TPM2_ALG.SHA256,
            attributes=TPMA_NV.OWNERWRITE | TPMA_NV.OWNERREAD | TPMA_NV.AUTHREAD | TPMA_NV.NO_DA,
            dataSize=len(data),
        )
        index = esys.nv_define_space(b"", TPM2B_NV_PUBLIC(nvPublic=area))
        esys.nv_write(index, data, auth_handle=ESYS_TR.OWNER)


@pytest.mark.parametrize("right", [True, False])
def test_ek_certificate(swtpm: Swtpm, right: bool) -> None:
    uri = KeyURI.parse(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&parent=ek-ecc")
    offer = Tpm2Backend.transfer_offer(uri)
    assert "certificate" not in offer
    public, _ = TPM2B_PUBLIC.unmarshal(base64.b64decode(offer["public"]))
    key = load_der_public_key(public.to_der()) if right else ec.generate_private_key(ec.SECP256R1()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    write_certificate(swtpm, key)
    offer = Tpm2Backend.transfer_offer(uri)
    if right:
        wrapped = Tpm2Backend.transfer_wrap(offer, EXAMPLE_KEY, expect_name=offer["name"])
        Tpm2Backend.transfer_receive(uri, wrapped)
    else:
        with pytest.raises(KeyMismatchError, match="certificate is for another key"):
            Tpm2Backend.transfer_wrap(offer, EXAMPLE_KEY, expect_name=offer["name"])


def test_damaged_offers(swtpm: Swtpm) -> None:
    offer = Tpm2Backend.transfer_offer(KeyURI.parse(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&pcrs=sha256:7"))
    for change in (
        {"public": ""},
        {"public": "AAAA"},
        {"pcrs": "none"},
        {"pcr-record": "none"},
        {"pcrs": "sha256:8"},
        {"policy": "never used"},
    ):
        with pytest.raises(ConfigError, match="damaged"):
            Tpm2Backend.transfer_wrap(offer | change, EXAMPLE_KEY, expect_name=offer["name"])


# -- the command -------------------------------------------------------------------------------------------------


def test_command(
    swtpm: Swtpm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"tpm2:{HANDLE}?tcti={swtpm.tcti}&parent=ek-ecc&auth-source=env:TPM_AUTH"
    assert main(["key", "transfer", "target", uri]) == 0
    out, err = capsys.readouterr()
    (tmp_path / "offer.json").write_text(out)
    name = json.loads(out)["name"]
    assert f"name of the device's key: {name}" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SECRET.encode() + b"\n")))
    words = ["key", "transfer", "wrap", str(tmp_path / "offer.json"), "--auth-source", "env:TPM_AUTH"]
    assert main([*words, "--expect-name", name[:-1] + "x"]) == 1  # refused before the secret is read
    assert "not the expected one" in capsys.readouterr().err
    assert main([*words, "--expect-name", name, "--access-key-id", "AKIAIOSFODNN7EXAMPLE"]) == 0
    wrapped, err = capsys.readouterr()
    assert f"wrapped for {name} alone" in err
    assert SECRET not in wrapped
    (tmp_path / "wrapped.json").write_text(wrapped)
    take = ["key", "transfer", "import", uri, str(tmp_path / "wrapped.json")]
    assert main([*take, "--json"]) == 0
    named = json.loads(capsys.readouterr().out)["uri"]
    with open_backend(named) as backend:
        assert backend.hmac_sha256(b"20260101") == EXPECTED
    assert main(take) == 1
    assert "there is a key at this handle already" in capsys.readouterr().err
    other = json.loads(wrapped) | {"fingerprint": "00" * 16}
    (tmp_path / "wrapped.json").write_text(json.dumps(other))
    assert main([*take, "--overwrite"]) == 1
    assert "computes with another key than the sender wrapped; removed" in capsys.readouterr().err
    assert Tpm2Backend.list_keys(KeyURI.parse(f"tpm2:?tcti={swtpm.tcti}")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no JSON", "not JSON"),
        ("[]", "is no offer"),
        ('{"what": "wrapped key"}', "is no offer"),
        ('{"what": "offer", "aws-hmac key transfer": 2}', "another version"),
        (
            '{"what": "offer", "aws-hmac key transfer": 1, "scheme": "memory"}',
            "takes no key that was wrapped elsewhere",
        ),
        ('{"what": "offer", "aws-hmac key transfer": 1, "scheme": "tpm2"}', "damaged"),
    ],
)
def test_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    (tmp_path / "offer").write_text(text)
    assert main(["key", "transfer", "wrap", str(tmp_path / "offer"), "--expect-name", "00"]) == 1
    assert said in capsys.readouterr().err
