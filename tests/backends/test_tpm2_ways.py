"""Every way in, times every way to authorise; and each one's refusal."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import subprocess
import traceback
from typing import TYPE_CHECKING

import pytest
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_CC,
    TPM2_SE,
    TPM2B_DATA,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPML_DIGEST_VALUES,
    TPMS_SENSITIVE_CREATE,
    TPMT_HA,
    TPMT_SYM_DEF,
    TPMT_SYM_DEF_OBJECT,
    TPMU_HA,
    TSS2_Exception,
)
from tpm2_pytss.tsskey import TSSPrivKey

from aws_hmac import (
    AuthenticationError,
    DeviceError,
    Error,
    KeyExistsError,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
    UnsupportedError,
    open_backend,
)
from aws_hmac._swtpm import Swtpm
from aws_hmac.registry import backend_class
from aws_hmac.testing import EXAMPLE_KEY, import_into
from aws_hmac.uri import KeyURI
from aws_hmac_backends.tpm2 import Tpm2Backend, _device, _keyfile, _policy
from aws_hmac_backends.tpm2._options import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.device("tpm2")

HANDLE = "handle=0x81008001"
PASSWORD = "correct horse"
EXPECTED = hmac.digest(EXAMPLE_KEY, b"20260101", "sha256")


@pytest.fixture(autouse=True)
def passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPM_AUTH", PASSWORD)
    monkeypatch.setenv("WRONG_AUTH", "wrong")


@pytest.fixture
def esys(swtpm: Swtpm) -> Iterator[ESAPI]:
    """The test's own way to the TPM."""
    with ESAPI(swtpm.tcti) as esys:
        yield esys


@pytest.fixture(autouse=True)
def nothing_left_behind(swtpm: Swtpm) -> Iterator[None]:
    """After each test no transient object and no session is left in the TPM."""
    yield
    with ESAPI(swtpm.tcti) as esys:
        assert loaded(esys) == []


def loaded(esys: ESAPI) -> list[int]:
    handles: list[int] = []
    for first in (0x80000000, 0x02000000, 0x03000000):  # transient objects, loaded and saved sessions
        _, data = esys.get_capability(TPM2_CAP.HANDLES, first, 64)
        handles += [int(h) for h in data.data.handles]
    return handles


def extend(esys: ESAPI, pcr: int) -> None:
    digest = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=b"\1" * 32))
    esys.pcr_extend(ESYS_TR(pcr), TPML_DIGEST_VALUES([digest]))


def make_srk(esys: ESAPI, *, rsa: bool = False) -> None:
    """Provisions a storage root key at 0x81000001, as tpm2-tools and systemd do."""
    template = TPM2B_PUBLIC(publicArea=_device.storage_template(rsa=rsa))
    tr, *_ = esys.create_primary(None, template)
    esys.evict_control(ESYS_TR.OWNER, tr, 0x81000001)
    esys.flush_context(tr)


WAYS = {
    "handle, no SRK": (HANDLE, ""),
    "handle, SRK": (HANDLE, "&parent=srk"),
    "handle, under the EK": (HANDLE, "&parent=ek-ecc"),
    "handle, EK salts": (HANDLE, "&session-key=ek-rsa"),
    "file, SRK": ("file={dir}/key.pem", "&parent=srk"),
    "file, owner ECC": ("file={dir}/key.pem", "&parent=owner"),
    "file, owner RSA": ("file={dir}/key.pem", "&parent=owner-rsa"),
    "file, EK ECC": ("file={dir}/key.pem", "&parent=ek-ecc"),
    "file, EK RSA": ("file={dir}/key.pem", "&parent=ek-rsa"),
    "file, EK salts": ("file={dir}/key.pem", "&parent=owner&session-key=ek-ecc"),
}
AUTHS = {
    "open": "",
    "password": "&auth-source=env:TPM_AUTH",
    "PCR": "&pcrs=sha256:7,23",
    "PCR and password": "&pcrs=sha256:23&auth-source=env:TPM_AUTH",
}


@pytest.mark.parametrize("auth", AUTHS)
@pytest.mark.parametrize("way", WAYS)
def test_way_and_authorisation(swtpm: Swtpm, esys: ESAPI, tmp_path: Path, way: str, auth: str) -> None:
    path, query = WAYS[way]
    if "srk" in query:
        make_srk(esys)
    uri = f"tpm2:{path.format(dir=tmp_path)}?tcti={swtpm.tcti}{query}{AUTHS[auth]}"
    named = import_into(uri, EXAMPLE_KEY, label="AKIAIOSFODNN7EXAMPLE")
    with open_backend(named) as backend:
        assert backend.hmac_sha256(b"20260101") == EXPECTED
        levels = {f.subject: f.level for f in backend.inspect()}  # type: ignore[attr-defined] # a KeyInspector
        assert levels["fixedTPM"] == levels["session"] == "good"
        assert loaded(esys) == []
    if "password" in auth:
        with pytest.raises(AuthenticationError, match=r"wrong password; 2 of 3 tries are left.*0x98e"):
            use(named.replace("TPM_AUTH", "WRONG_AUTH"))
    if "PCR" in auth:
        extend(esys, 23)
        with pytest.raises(KeyPolicyError, match="PCR sha256:23 changed since the import"):
            use(named)
        with open_backend(named) as backend:
            findings = {f.subject: f for f in backend.inspect()}  # type: ignore[attr-defined] # likewise
            assert (findings["PCR"].level, findings["use"].level) == ("bad", "bad")


def use(uri: str) -> bytes:
    with open_backend(uri) as backend:
        return backend.hmac_sha256(b"20260101")


@pytest.mark.parametrize("auth", AUTHS)
def test_plain_session(swtpm: Swtpm, auth: str) -> None:
    named = import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&session=plain{AUTHS[auth]}", EXAMPLE_KEY)
    assert use(named) == EXPECTED
    assert "session-key" not in named


# -- what others made ------------------------------------------------------------------------------------------


def make(
    esys: ESAPI, attributes: int, policy: bytes = b"", password: bytes = b"", alg: str = "hmac:sha256"
) -> tuple[TPM2B_PRIVATE, TPM2B_PUBLIC]:
    """Makes an HMAC key under the owner's ECC primary, as other programs would."""
    parent, *_ = esys.create_primary(None, TPM2B_PUBLIC(publicArea=_device.storage_template(rsa=False)))
    template = TPM2B_PUBLIC.parse(alg, objectAttributes=attributes, authPolicy=policy)
    data = _device.sensitive(Secret(password), Secret(EXAMPLE_KEY if alg.startswith("hmac") else b""))
    private, public, *_ = esys.create(parent, data, template, TPM2B_DATA())
    esys.flush_context(parent)
    return private, public


def persist(esys: ESAPI, private: TPM2B_PRIVATE, public: TPM2B_PUBLIC, handle: int = 0x81008001) -> None:
    parent, *_ = esys.create_primary(None, TPM2B_PUBLIC(publicArea=_device.storage_template(rsa=False)))
    key = esys.load(parent, private, public)
    esys.evict_control(ESYS_TR.OWNER, key, handle)
    esys.flush_context(key)
    esys.flush_context(parent)


def duplication_branch(new_parent: bytes) -> bytes:
    """The digest of TPM2_PolicyDuplicationSelect to a parent of any name, as a plain hash."""
    code = int(TPM2_CC.PolicyDuplicationSelect).to_bytes(4, "big")
    return hashlib.sha256(bytes(32) + code + new_parent + b"\0").digest()


@pytest.mark.parametrize("auth", ["PCR", "password"])
def test_key_with_a_duplication_branch(swtpm: Swtpm, esys: ESAPI, auth: str) -> None:
    """As the Go tools make them: usable, and said that the key may get out."""
    if auth == "PCR":
        commands: tuple[_policy.Command, ...] = (_policy.policy_pcr(_policy.Pcrs.parse("sha256:23")),)
        use_branch = _policy.digest_of(commands, hashlib.sha256(bytes(32)).digest())
        query, password = "&pcrs=sha256:23", b""
    else:
        use_branch = _policy.digest_of((_policy.POLICY_AUTH_VALUE,))
        query, password = "&auth-source=env:TPM_AUTH", PASSWORD.encode()
    branches = [use_branch, duplication_branch(b"\0\x0b" + bytes(32))]
    policy = _policy.digest_of((_policy.policy_or(branches),))
    persist(esys, *make(esys, TPMA_OBJECT.SIGN_ENCRYPT, policy, password))
    listed = ",".join(b.hex() for b in branches)
    uri = f"tpm2:{HANDLE}?tcti={swtpm.tcti}{query}"
    with open_backend(f"{uri}&policy-or={listed}") as backend:
        assert backend.hmac_sha256(b"20260101") == EXPECTED
        findings = {f.subject: f for f in backend.inspect()}  # type: ignore[attr-defined] # a KeyInspector
        assert any("let the key out" in f.text and f.level == "bad" for f in findings.values())
    with pytest.raises(KeyPolicyError, match="policy is not met"):
        use(uri)  # the branch alone is not the policy
    with pytest.raises(UnsupportedError, match="let the key out"):
        import_into(f"tpm2:handle=0x81008002?tcti={swtpm.tcti}{query}&policy-or={listed}", EXAMPLE_KEY)


def test_policy_in_the_other_order(swtpm: Swtpm, esys: ESAPI) -> None:
    """PolicyAuthValue before PolicyPCR gives another digest; a handle's URI fits both."""
    pcr = _policy.policy_pcr(_policy.Pcrs.parse("sha256:23"))
    now = hashlib.sha256(bytes(32)).digest()
    digests = [_policy.digest_of(c, now) for c in ((pcr, _policy.POLICY_AUTH_VALUE), (_policy.POLICY_AUTH_VALUE, pcr))]
    assert digests[0] != digests[1]
    for number, digest in enumerate(digests):
        persist(esys, *make(esys, TPMA_OBJECT.SIGN_ENCRYPT, digest, PASSWORD.encode()), handle=0x81008001 + number)
        query = f"tcti={swtpm.tcti}&pcrs=sha256:23&auth-source=env:TPM_AUTH"
        assert use(f"tpm2:handle=0x{0x81008001 + number:x}?{query}") == EXPECTED


def test_policy_digest_is_the_tpms(esys: ESAPI) -> None:
    """What is computed here is what a trial session of the TPM computes."""
    pcr = _policy.Pcrs.parse("sha1:0,9+sha256:23")
    commands = (_policy.policy_pcr(pcr), _policy.POLICY_AUTH_VALUE, _policy.policy_or([bytes(32), b"\1" * 32]))
    for run in (
        commands[:1],
        commands[:2],
        (
            *commands[:2],
            _policy.policy_or([_policy.digest_of(commands[:2], _policy.pcr_digest(pcr.read(esys))), b"\1" * 32]),
        ),
    ):
        session = esys.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.TRIAL, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256
        )
        _policy.run(esys, session, run)
        assert bytes(esys.policy_get_digest(session)) == _policy.digest_of(run, _policy.pcr_digest(pcr.read(esys)))
        esys.flush_context(session)


def test_many_pcrs(esys: ESAPI) -> None:
    """More than the eight that TPM2_PCR_Read answers at once."""
    pcrs = _policy.Pcrs.parse("sha256:" + ",".join(map(str, range(24))))
    assert len(pcrs.read(esys)) == 24


def test_raw_pair_of_tpm2_tools(swtpm: Swtpm, tmp_path: Path) -> None:
    """tpm2_import makes the pair, tpm2_hmac is the oracle, and the SRK is RSA."""
    tools = Tools(swtpm, tmp_path)
    (tmp_path / "secret").write_bytes(EXAMPLE_KEY)
    tools.run("tpm2_createprimary", "-C", "o", "-G", "rsa2048", "-c", "srk.ctx")
    tools.run("tpm2_evictcontrol", "-C", "o", "-c", "srk.ctx", "0x81000001")
    tools.run("tpm2_flushcontext", "-t")
    tools.run(
        "tpm2_import", "-C", "0x81000001", "-G", "hmac", "-i", "secret", "-u", "k.pub", "-r", "k.priv", "-p", PASSWORD
    )
    uri = f"tpm2:public={tmp_path}/k.pub;private={tmp_path}/k.priv?tcti={swtpm.tcti}&auth-source=env:TPM_AUTH"
    assert use(uri) == EXPECTED
    with pytest.raises(AuthenticationError, match="wrong password"):
        use(uri.replace("TPM_AUTH", "WRONG_AUTH"))
    with pytest.raises(KeyMismatchError, match="another parent"):
        use(f"{uri}&parent=owner")
    with pytest.raises(UnsupportedError, match="file="):
        import_into(uri, EXAMPLE_KEY, overwrite=True)


@pytest.mark.parametrize("parent", ["srk", "owner"])
def test_tpm2_tools_read_our_file(swtpm: Swtpm, esys: ESAPI, tmp_path: Path, parent: str) -> None:
    """tpm2_hmac and tpm2_load take our PEM, and TSSPrivKey of tpm2-pytss does."""
    make_srk(esys)
    uri = f"tpm2:file={tmp_path}/k.pem?tcti={swtpm.tcti}&parent={parent}&auth-source=env:TPM_AUTH"
    import_into(uri, EXAMPLE_KEY, label="AKIAIOSFODNN7EXAMPLE")
    read = TSSPrivKey.from_pem((tmp_path / "k.pem").read_bytes())
    assert (read.parent, read.empty_auth) == ({"srk": 0x81000001, "owner": 0x40000001}[parent], False)
    tools = Tools(swtpm, tmp_path)
    tools.run("tpm2_load", "-r", "k.pem", "-c", "k.ctx")
    tools.run("tpm2_flushcontext", "-t")
    assert tools.run("tpm2_hmac", "-c", "k.ctx", "-p", PASSWORD, "date") == EXPECTED
    tools.run("tpm2_flushcontext", "-t")


class Tools:
    """tpm2-tools against the test's TPM."""

    def __init__(self, swtpm: Swtpm, folder: Path) -> None:
        self.folder = folder
        self.environment = dict(os.environ, TPM2TOOLS_TCTI=swtpm.tcti)
        (folder / "date").write_bytes(b"20260101")

    def run(self, *words: str) -> bytes:
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


def test_pem_of_the_go_original(swtpm: Swtpm, esys: ESAPI, tmp_path: Path) -> None:
    """It names the passing handle of the owner's primary, says true as 1, and says nothing of a policy."""
    private, public = make(esys, TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.USERWITHAUTH)
    file = tmp_path / "go.pem"
    pem = _keyfile.KeyFile(public, private, 0x80000001, empty_auth=True).to_pem()
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1])).replace(b"\xa0\3\1\1\xff", b"\xa0\3\1\1\1")
    body = base64.encodebytes(der).decode()
    file.write_text(f"-----BEGIN TSS2 PRIVATE KEY-----\n{body}-----END TSS2 PRIVATE KEY-----\n")
    assert use(f"tpm2:file={file}?tcti={swtpm.tcti}") == EXPECTED


def test_description_and_rsa_parent_are_read() -> None:
    """Fields of later drafts that we do not write."""
    private, public = TPM2B_PRIVATE(b"x"), TPM2B_PUBLIC.parse("hmac:sha256", objectAttributes=TPMA_OBJECT.SIGN_ENCRYPT)
    der = _keyfile._TPMKey(
        {
            "type": _keyfile.LOADABLE,
            "auth_policy": [{"name": "n", "policy": [{"code": 0x16B, "body": b""}]}],
            "description": "a key",
            "rsa_parent": True,
            "parent": 0x40000001,
            "public": public.marshal(),
            "private": private.marshal(),
        }
    ).dump()
    text = f"-----BEGIN TSS2 PRIVATE KEY-----\n{base64.encodebytes(der).decode()}-----END TSS2 PRIVATE KEY-----\n"
    assert _keyfile.parse(text.encode(), "test").rsa_parent


@pytest.mark.parametrize("order", ["engine", "TPM"])
def test_pcr_policy_of_both_encodings(order: str) -> None:
    pcrs, digest = _policy.Pcrs.parse("sha256:7,23"), b"\7" * 32
    selection = pcrs.selection().marshal()
    body = selection + digest if order == "engine" else b"\0\x20" + digest + selection
    read, _, found = _policy.parse_pcr_body(body)
    assert (read, found) == (pcrs, digest)
    with pytest.raises(KeyURIError):
        _policy.parse_pcr_body(body[:-1])


# -- refusals --------------------------------------------------------------------------------------------------


def test_another_kind_of_key_at_the_handle(swtpm: Swtpm, esys: ESAPI) -> None:
    make_srk(esys, rsa=True)
    with pytest.raises(UnsupportedError, match="an RSA key, not a key for HMAC-SHA256"):
        use(f"tpm2:handle=0x81000001?tcti={swtpm.tcti}")
    with pytest.raises(KeyExistsError, match="an RSA key, which is not replaced"):
        import_into(f"tpm2:handle=0x81000001?tcti={swtpm.tcti}", EXAMPLE_KEY, overwrite=True)
    with pytest.raises(UnsupportedError, match="an RSA key"):
        backend_class("tpm2").delete_key(KeyURI.parse(f"tpm2:handle=0x81000001?tcti={swtpm.tcti}"))  # type: ignore[attr-defined] # a KeyDeleter
    persist(esys, *make(esys, TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.USERWITHAUTH, alg="hmac:sha1"))
    with pytest.raises(UnsupportedError, match="an HMAC key for SHA1, not"):
        use(f"tpm2:{HANDLE}?tcti={swtpm.tcti}")
    listed = backend_class("tpm2").list_keys(KeyURI.parse(f"tpm2:?tcti={swtpm.tcti}"))  # type: ignore[attr-defined] # a KeyLister
    assert listed == []


def test_an_empty_handle_names_the_others(swtpm: Swtpm, esys: ESAPI) -> None:
    make_srk(esys)
    with pytest.raises(KeyNotFoundError, match="holds nothing at this handle; persistent handles: 0x81000001"):
        use(f"tpm2:{HANDLE}?tcti={swtpm.tcti}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-----BEGIN RSA PRIVATE KEY-----\nAA==\n-----END RSA PRIVATE KEY-----\n", "RSA PRIVATE KEY, not a TSS2"),
        ("no PEM at all", "not a PEM file"),
        ("-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n", "damaged"),
        ("", "not a PEM file"),
    ],
)
def test_not_a_key_file(swtpm: Swtpm, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "key.pem").write_text(text)
    with pytest.raises(KeyURIError, match=said):
        use(f"tpm2:file={tmp_path}/key.pem?tcti={swtpm.tcti}")


def test_a_file_that_others_can_exchange(swtpm: Swtpm, tmp_path: Path) -> None:
    uri = f"tpm2:file={tmp_path}/key.pem?tcti={swtpm.tcti}"
    import_into(uri, EXAMPLE_KEY)
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    (tmp_path / "key.pem").chmod(0o666)
    with pytest.raises(AuthenticationError, match="others can write"):
        use(uri)


def test_sealed_data_and_rsa_files(swtpm: Swtpm, esys: ESAPI, tmp_path: Path) -> None:
    attributes = TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.SENSITIVEDATAORIGIN
    private, public = make(esys, attributes, alg="rsa2048")
    (tmp_path / "rsa.pem").write_bytes(_keyfile.KeyFile(public, private, 0x40000001, empty_auth=True).to_pem())
    with pytest.raises(UnsupportedError, match="holds an RSA key"):
        use(f"tpm2:file={tmp_path}/rsa.pem?tcti={swtpm.tcti}")


def test_file_of_another_tpm(swtpm: Swtpm, tmp_path: Path) -> None:
    with Swtpm(tmp_path / "other") as other:
        import_into(f"tpm2:file={tmp_path}/key.pem?tcti={other.tcti}", EXAMPLE_KEY)
    uri = f"tpm2:file={tmp_path}/key.pem?tcti={swtpm.tcti}"
    with pytest.raises(KeyMismatchError, match="another TPM, or a cleared one"):
        use(uri)
    text = (tmp_path / "key.pem").read_text()
    (tmp_path / "key.pem").write_text(text[text.index("-----BEGIN") :])  # without the names
    with pytest.raises(KeyMismatchError, match=r"another TPM, or under another parent.*0x1df"):
        use(uri)


def test_wrong_password_is_asked_once_and_can_lock(swtpm: Swtpm, esys: ESAPI) -> None:
    named = import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&auth-source=env:TPM_AUTH", EXAMPLE_KEY)
    wrong = named.replace("TPM_AUTH", "WRONG_AUTH")
    for left in (2, 1):
        with pytest.raises(AuthenticationError, match=f"{left} of 3 tries are left"):
            use(wrong)
    with pytest.raises(AuthenticationError, match="0 of 3 tries are left"):
        use(wrong)
    with pytest.raises(AuthenticationError, match=r"locked after too many wrong passwords.*0x921.*clear-lockout"):
        use(named)
    with open_backend(named) as backend:
        findings = {f.subject: f for f in backend.inspect()}  # type: ignore[attr-defined] # a KeyInspector
    assert (findings["lockout"].level, "locked after 3" in findings["lockout"].text) == ("bad", True)
    esys.dictionary_attack_lock_reset(ESYS_TR.LOCKOUT)
    assert use(named) == EXPECTED


def test_no_da_does_not_lock(swtpm: Swtpm) -> None:
    named = import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&auth-source=env:TPM_AUTH&no-da=yes", EXAMPLE_KEY)
    for _ in range(5):
        with pytest.raises(AuthenticationError, match=r"noDA, so this is not counted.*0x9a2"):
            use(named.replace("TPM_AUTH", "WRONG_AUTH"))
    assert use(named) == EXPECTED


def test_password_left_out(swtpm: Swtpm, tmp_path: Path) -> None:
    query = f"tcti={swtpm.tcti}&auth-source=env:TPM_AUTH"
    named = import_into(f"tpm2:{HANDLE}?{query}", EXAMPLE_KEY)
    with pytest.raises(AuthenticationError, match="no auth-source is given; 2 of 3"):
        use(named.replace("auth-source=env:TPM_AUTH&", ""))
    import_into(f"tpm2:file={tmp_path}/key.pem?{query}", EXAMPLE_KEY)
    with pytest.raises(AuthenticationError, match="add auth-source"):
        use(f"tpm2:file={tmp_path}/key.pem?tcti={swtpm.tcti}")  # asks the TPM nothing
    assert use(f"tpm2:file={tmp_path}/key.pem?{query}") == EXPECTED


def test_pcr_changed_without_a_record(swtpm: Swtpm, esys: ESAPI) -> None:
    named = import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&pcrs=sha256:7,23", EXAMPLE_KEY)
    uri = "&".join(p for p in named.split("&") if not p.startswith("pcr-record="))
    assert uri != named
    assert use(uri) == EXPECTED
    extend(esys, 23)
    with pytest.raises(KeyPolicyError, match=r"one of the PCRs sha256:7,23 changed .*0x99d"):
        use(uri)
    with pytest.raises(KeyPolicyError, match="the URI does not say which"):
        use(f"tpm2:{HANDLE}?tcti={swtpm.tcti}")


def test_password_alone_does_not_open_a_policy(swtpm: Swtpm, esys: ESAPI) -> None:
    """With PCR and password in the policy, the password must do nothing alone."""
    import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&pcrs=sha256:23&auth-source=env:TPM_AUTH", EXAMPLE_KEY)
    tr = esys.tr_from_tpmpublic(0x81008001)
    esys.tr_set_auth(tr, PASSWORD)
    with pytest.raises(TSS2_Exception) as caught:
        esys.hmac(tr, b"20260101", TPM2_ALG.SHA256)
    assert caught.value.rc == 0x12F  # TPM_RC_AUTH_UNAVAILABLE
    with pytest.raises(KeyPolicyError, match="policy is not met"):
        use(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&auth-source=env:TPM_AUTH")


def test_created_keys_cannot_be_duplicated(swtpm: Swtpm, esys: ESAPI) -> None:
    import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}", EXAMPLE_KEY)
    assert duplicate(esys, 0x81008001) == 0x99D  # TPM_RC_POLICY_FAIL


def duplicate(esys: ESAPI, handle: int) -> int:
    """Tries TPM2_Duplicate to nobody's key, in the clear; returns the TPM's answer."""
    tr = esys.tr_from_tpmpublic(handle)
    session = esys.start_auth_session(
        ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256
    )
    try:
        esys.policy_command_code(session, TPM2_CC.Duplicate)
        esys.duplicate(tr, ESYS_TR.NULL, TPM2B_DATA(), TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL), session1=session)
    except TSS2_Exception as exc:
        return int(exc.rc)
    finally:
        esys.flush_context(session)
    return 0


def test_duplicate_works_where_it_may(swtpm: Swtpm, esys: ESAPI) -> None:
    """The twin: a key whose policy allows it does get out, so the refusals above mean something."""
    policy = _policy.digest_of(
        (_policy.Command(int(TPM2_CC.PolicyCommandCode), int(TPM2_CC.Duplicate).to_bytes(4, "big")),)
    )
    persist(esys, *make(esys, TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.USERWITHAUTH, policy))
    assert duplicate(esys, 0x81008001) == 0
    with open_backend(f"tpm2:{HANDLE}?tcti={swtpm.tcti}") as backend:
        findings = {f.subject: f for f in backend.inspect()}  # type: ignore[attr-defined] # a KeyInspector
    assert findings["fixedTPM"].level == "warning"
    assert "may let the key out" in findings["fixedTPM"].text


def test_pinned_session_key(swtpm: Swtpm) -> None:
    named = import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}", EXAMPLE_KEY)
    name = KeyURI.parse(named).get("session-key-name") or ""
    assert len(name) == 68
    wrong = named.replace(name, name[:-1] + ("0" if name[-1] != "0" else "1"))
    with pytest.raises(KeyMismatchError, match="another TPM, a cleared one, or somebody on its bus"):
        use(wrong)


def test_owner_password(swtpm: Swtpm, esys: ESAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNER", "owner password")
    esys.hierarchy_change_auth(ESYS_TR.OWNER, "owner password")
    uri = f"tpm2:{HANDLE}?tcti={swtpm.tcti}"
    with pytest.raises(AuthenticationError, match="wrong password"):
        import_into(uri, EXAMPLE_KEY)
    named = import_into(f"{uri}&owner-auth-source=env:OWNER", EXAMPLE_KEY)
    assert use(named) == EXPECTED
    with pytest.raises(AuthenticationError, match="wrong password"):
        backend_class("tpm2").delete_key(KeyURI.parse(uri))  # type: ignore[attr-defined] # a KeyDeleter
    backend_class("tpm2").delete_key(KeyURI.parse(named))  # type: ignore[attr-defined] # a KeyDeleter


def test_long_key_is_shortened(swtpm: Swtpm) -> None:
    key = b"AWS4" + b"k" * 64
    named = import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}", key)
    with open_backend(named) as backend:
        assert backend.hmac_sha256(b"20260101") == hmac.digest(key, b"20260101", "sha256")
        with pytest.raises(UnsupportedError, match="1024"):
            backend.hmac_sha256(bytes(1025))


def test_a_failed_import_leaves_nothing(swtpm: Swtpm, esys: ESAPI, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be written"):
        import_into(f"tpm2:file={tmp_path}/none/key.pem?tcti={swtpm.tcti}", EXAMPLE_KEY)
    with pytest.raises(KeyNotFoundError, match="should be its parent"):
        import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&parent=0x81000005", EXAMPLE_KEY)
    with pytest.raises(KeyURIError, match="empty"):
        import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}", b"")
    assert _device.persistent_handles(esys) == []
    assert list(tmp_path.glob(".key*")) == []


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("tpm2:", "exactly one of"),
        ("tpm2:handle=0x81008001;file=/k.pem", "exactly one of"),
        ("tpm2:public=/a", "come together"),
        ("tpm2:handle=0x80000001", "no persistent handle"),
        ("tpm2:handle=later", "no persistent handle"),
        ("tpm2:file=k.pem", "absolute path"),
        ("tpm2:handle=0x81008001?tcti=cmd:rm", "tcti must be one of"),
        ("tpm2:handle=0x81008001?session=none", "'salted' or 'plain'"),
        ("tpm2:handle=0x81008001?session=plain&session-key=srk", "salts nothing"),
        ("tpm2:handle=0x81008001?session-key=nobody", "session-key is 'srk'"),
        ("tpm2:handle=0x81008001?session-key-name=00", "68 hexadecimal digits"),
        ("tpm2:handle=0x81008001?pcrs=md5:1", "not a list of PCRs"),
        ("tpm2:handle=0x81008001?pcrs=sha256:24", "0 to 23"),
        ("tpm2:handle=0x81008001?pcrs=sha256:1+sha256:2", "twice"),
        ("tpm2:handle=0x81008001?pcr-record=7", "pcr-record"),
        ("tpm2:handle=0x81008001?policy-or=00", "policy-or lists"),
        ("tpm2:handle=0x81008001?no-da=maybe", "'yes' or 'no'"),
        ("tpm2:handle=0x81008001?password=x", "would put a secret into the URI"),
    ],
)
def test_bad_uri(uri: str, said: str) -> None:
    with pytest.raises(KeyURIError, match=said):
        open_backend(uri)


def test_password_too_long(swtpm: Swtpm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPM_AUTH", "p" * 33)
    with pytest.raises(AuthenticationError, match="longer than 32 bytes"):
        import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&auth-source=env:TPM_AUTH", EXAMPLE_KEY)


def shown(exc: BaseException | None) -> str:
    """Everything that a traceback with local variables would print, of an exception and its causes."""
    texts = []
    while exc is not None:
        texts += ["".join(traceback.format_exception(exc)), *map(repr, exc.args)]
        for frame, _ in traceback.walk_tb(exc.__traceback__):
            if "aws_hmac" in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename:
                texts += [f"{frame.f_code.co_name}: {k}={v!r}" for k, v in frame.f_locals.items()]
        exc = exc.__cause__ or exc.__context__
    return "\n".join(texts)


def test_tracebacks_hold_no_secret(swtpm: Swtpm, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = KeyURI.parse(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&auth-source=env:TPM_AUTH&owner-auth-source=env:WRONG_AUTH")
    failures: list[BaseException] = []
    with ESAPI(swtpm.tcti) as esys:
        esys.hierarchy_change_auth(ESYS_TR.OWNER, "wrong")
    with pytest.raises(KeyExistsError) as exists:
        for _ in range(2):
            Tpm2Backend.import_key(uri, EXAMPLE_KEY)
    failures.append(exists.value)
    with pytest.raises(AuthenticationError) as wrong:
        use(str(uri).replace("TPM_AUTH", "WRONG_AUTH"))
    failures.append(wrong.value)
    with ESAPI(swtpm.tcti) as esys:
        esys.tr_set_auth(ESYS_TR.OWNER, "wrong")
        esys.hierarchy_change_auth(ESYS_TR.OWNER, "another")
    with pytest.raises(AuthenticationError) as owner:
        Tpm2Backend.import_key(uri, EXAMPLE_KEY, overwrite=True)
    failures.append(owner.value)
    monkeypatch.setenv("TPM_AUTH", PASSWORD * 4)
    with pytest.raises(AuthenticationError) as long:
        Tpm2Backend.import_key(uri, EXAMPLE_KEY, overwrite=True)
    failures.append(long.value)
    for failure in failures:
        text = shown(failure)
        assert "import_key" in text or "_mac" in text
        for secret in (EXAMPLE_KEY.decode(), EXAMPLE_KEY.hex(), PASSWORD, "b'wrong'"):
            assert secret not in text


def test_other_passwords(swtpm: Swtpm, esys: ESAPI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the endorsement hierarchy, and of a parent key."""
    monkeypatch.setenv("ENDORSEMENT", "endorsement password")
    monkeypatch.setenv("PARENT", "parent password")
    esys.hierarchy_change_auth(ESYS_TR.ENDORSEMENT, "endorsement password")
    uri = f"tpm2:file={tmp_path}/ek.pem?tcti={swtpm.tcti}"
    with pytest.raises(AuthenticationError, match="wrong password"):
        import_into(f"{uri}&parent=ek-ecc", EXAMPLE_KEY)
    assert use(import_into(f"{uri}&parent=ek-ecc&endorsement-auth-source=env:ENDORSEMENT", EXAMPLE_KEY)) == EXPECTED
    with pytest.raises(AuthenticationError, match="wrong password"):
        use(uri)
    data = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth="parent password"))
    tr, *_ = esys.create_primary(data, TPM2B_PUBLIC(publicArea=_device.storage_template(rsa=False)))
    esys.evict_control(ESYS_TR.OWNER, tr, 0x81000007)
    esys.flush_context(tr)
    uri = f"tpm2:file={tmp_path}/child.pem?tcti={swtpm.tcti}"
    with pytest.raises(AuthenticationError, match="wrong password"):
        import_into(f"{uri}&parent=0x81000007", EXAMPLE_KEY)
    assert use(import_into(f"{uri}&parent=0x81000007&parent-auth-source=env:PARENT", EXAMPLE_KEY)) == EXPECTED


def test_damaged_files(swtpm: Swtpm, tmp_path: Path) -> None:
    """A key file with any one byte changed is an error of ours, or the same key; never a crash or a wrong MAC."""
    file = tmp_path / "key.pem"
    uri = f"tpm2:file={file}?tcti={swtpm.tcti}&pcrs=sha256:7"
    import_into(uri, EXAMPLE_KEY)
    lines = file.read_text().splitlines()
    begin = lines.index("-----BEGIN TSS2 PRIVATE KEY-----")
    der = base64.b64decode("".join(lines[begin + 1 : -1]))
    refused = 0
    for position in range(len(der)):
        damaged = der[:position] + bytes([der[position] ^ 0x21]) + der[position + 1 :]
        body = base64.encodebytes(damaged).decode()
        file.write_text("\n".join(lines[: begin + 1]) + f"\n{body}-----END TSS2 PRIVATE KEY-----\n")
        try:
            _keyfile.read(file, "damaged")
            if position % 7 == 0:
                assert use(uri) == EXPECTED
        except Error:
            refused += 1
    assert refused > 60  # most bytes are not looked at before the TPM does, which was asked for each seventh


def test_diagnose(swtpm: Swtpm, tmp_path: Path) -> None:
    named = KeyURI.parse(import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}", EXAMPLE_KEY))
    subjects = {f.subject: f.level for f in Tpm2Backend.diagnose(named)}
    assert subjects == {"TPM": "good", "lockout": "info", "SRK": "info", "key": "good"}
    for uri, subject, said in (
        (f"tpm2:handle=0x81008009?tcti={swtpm.tcti}", "key", "holds nothing at this handle"),
        ("tpm2:handle=0x81008009?tcti=swtpm:host=127.0.0.1,port=1", "TPM", "no TPM emulator answers"),
        (f"tpm2:handle=0x81008009?tcti=device:{tmp_path}/none", "TPM", "there is no TPM here"),
        ("tpm2:handle=1", "URI", "no persistent handle"),
    ):
        worst = next(f for f in Tpm2Backend.diagnose(KeyURI.parse(uri)) if f.level == "bad")
        assert worst.subject == subject
        assert said in worst.text
    assert all(f.level in ("good", "info") for f in Tpm2Backend.diagnose(None))


@pytest.mark.parametrize(
    ("old", "new", "error", "said"),
    [
        ("Parent-Name: 000b", "Parent-Name: 000c", KeyMismatchError, "another TPM"),
        ("Session-Key-Name: 000b", "Session-Key-Name: 000c", KeyMismatchError, "another TPM"),
        ("Parent-Name: 000b", "Parent-Name: ", KeyURIError, "damaged: its Parent-Name"),
        ("Session-Key-Name: 000b", "Session-Key-Name: zz", KeyURIError, "damaged: its Session-Key-Name"),
        ("Session-Key: ek-ecc", "Session-Key: nobody", KeyURIError, "names no key"),
        ("Parent: owner", "Parent: ek-rsa", KeyMismatchError, "another TPM"),
        ("PCR-Record: sha256", "PCR-Record: md5", KeyURIError, "pcr-record"),
    ],
)
def test_changed_notes(
    swtpm: Swtpm, esys: ESAPI, tmp_path: Path, old: str, new: str, error: type[Error], said: str
) -> None:
    """What stands before the PEM block is checked, not believed."""
    file = tmp_path / "key.pem"
    uri = f"tpm2:file={file}?tcti={swtpm.tcti}"
    import_into(f"{uri}&parent=owner&session-key=ek-ecc&pcrs=sha256:23", EXAMPLE_KEY)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    extend(esys, 23)  # the record is read when it is needed
    with pytest.raises(error, match=said):
        use(uri)


def test_label_is_one_line(swtpm: Swtpm, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    uri = f"tpm2:file={file}?tcti={swtpm.tcti}"
    import_into(uri, EXAMPLE_KEY, label="a\n-----BEGIN X-----\nSession-Key-Name: b")
    assert file.read_text().startswith("Label: a -----BEGIN X----- Session-Key-Name: b\nParent: owner\n")
    assert use(uri) == EXPECTED
    (entry,) = Tpm2Backend.list_keys(KeyURI.parse(uri))
    assert entry.description.startswith("key file a")
