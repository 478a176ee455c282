"""Keysets: the contract, what Tink itself reads and writes, and what is no keyset of ours."""

from __future__ import annotations

import base64
import hmac
import json
from typing import TYPE_CHECKING, Any

import pytest
import tink
from tink import aead, json_proto_keyset_format, mac, proto_keyset_format, secret_key_access
from tink.proto import common_pb2, hmac_pb2, tink_pb2

from aws_hmac import (
    AuthenticationError,
    DeviceError,
    KeyExistsError,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
    SecurityWarning,
    UnsupportedError,
    open_backend,
)
from aws_hmac.backend import fingerprint, fingerprint_of
from aws_hmac.cli import main
from aws_hmac.testing import EXAMPLE_KEY, ImporterContract, import_into
from aws_hmac_backends.tink import TinkBackend, keks, keysets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import MotoServer

pytestmark = pytest.mark.filterwarnings("ignore:insecure-local-kms:aws_hmac.SecurityWarning")


GCP_KEY = "projects/p/locations/l/keyRings/r/cryptoKeys/k"


class TestLocalKek(ImporterContract):
    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return f"tink:file={tmp_path}/keyset.json;kek=insecure-local-kms://{tmp_path}/kek.json"


class TestLocalKekBinary(ImporterContract):
    threads = 4

    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return f"tink:file={tmp_path}/keyset.bin;kek=insecure-local-kms://{tmp_path}/kek.json?format=binary"


class TestAwsKek(ImporterContract):
    """With moto's KMS, a process of its own."""

    threads = 4
    calls_per_thread = 10

    @pytest.fixture
    def uri(self, moto_kms: MotoServer, tmp_path: Path) -> str:
        key = moto_kms.client("kms", region="eu-west-1").create_key()["KeyMetadata"]["Arn"]
        return f"tink:file={tmp_path}/keyset.json;kek=aws-kms://{key}"


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A keyset and its KEK, both on disk."""
    return import_into(f"tink:file={tmp_path}/keyset.json;kek=insecure-local-kms://{tmp_path}/kek.json", EXAMPLE_KEY)


@pytest.fixture
def kek(uri: str, tmp_path: Path) -> Any:
    """Tink's own AEAD of that KEK."""
    aead.register()
    text = (tmp_path / "kek.json").read_text()
    return json_proto_keyset_format.parse(text, secret_key_access.TOKEN).primitive(aead.Aead)


# Interoperability with Tink


@pytest.mark.parametrize("form", ["json", "binary"])
def test_tink_reads_ours(tmp_path: Path, form: str) -> None:
    import_into(
        f"tink:file={tmp_path}/keyset;kek=insecure-local-kms://{tmp_path}/kek.json?format={form}",
        EXAMPLE_KEY,
        label="AKIAIOSFODNN7EXAMPLE",
    )
    aead.register()
    mac.register()
    kek = json_proto_keyset_format.parse((tmp_path / "kek.json").read_text(), secret_key_access.TOKEN)
    parse = json_proto_keyset_format.parse_encrypted if form == "json" else proto_keyset_format.parse_encrypted
    content = (tmp_path / "keyset").read_bytes()
    text = content.decode() if form == "json" else content
    handle = parse(text, kek.primitive(aead.Aead), b"AKIAIOSFODNN7EXAMPLE")
    assert handle.primitive(mac.Mac).compute_mac(b"20260101") == hmac.digest(EXAMPLE_KEY, b"20260101", "sha256")
    with pytest.raises(tink.TinkError):
        parse(text, kek.primitive(aead.Aead), b"AKIAOTHEROTHEROTHER0")


@pytest.mark.parametrize("form", ["json", "binary"])
def test_we_read_tinks(uri: str, kek: Any, tmp_path: Path, form: str) -> None:
    """A key that Tink made, never seen by us: Tink's MAC is the oracle."""
    mac.register()
    template = tink_pb2.KeyTemplate()
    template.CopyFrom(mac.mac_key_templates.HMAC_SHA256_256BITTAG)
    template.output_prefix_type = tink_pb2.RAW
    handle = tink.new_keyset_handle(template)
    if form == "json":
        content = json_proto_keyset_format.serialize_encrypted(handle, kek, b"AKIAIOSFODNN7EXAMPLE").encode()
    else:
        content = proto_keyset_format.serialize_encrypted(handle, kek, b"AKIAIOSFODNN7EXAMPLE")
    (tmp_path / "keyset.json").write_bytes(content)
    with open_backend(f"{uri};associated-data=AKIAIOSFODNN7EXAMPLE") as backend:
        assert backend.hmac_sha256(b"20260101") == handle.primitive(mac.Mac).compute_mac(b"20260101")
    with open_backend(uri) as backend, pytest.raises(KeyMismatchError, match="associated data"):
        backend.hmac_sha256(b"20260101")


def test_tinks_own_aws_integration_reads_ours_and_writes_for_us(moto_kms: MotoServer, tmp_path: Path) -> None:
    from tink.integration import awskms

    client = moto_kms.client("kms", region="eu-west-1")
    key_uri = f"aws-kms://{client.create_key()['KeyMetadata']['Arn']}"
    uri = import_into(f"tink:file={tmp_path}/keyset.json;kek={key_uri}", EXAMPLE_KEY, label="AKIAIOSFODNN7EXAMPLE")
    theirs = awskms.new_client(boto3_client=client).get_aead(key_uri)
    mac.register()
    text = (tmp_path / "keyset.json").read_text()
    handle = json_proto_keyset_format.parse_encrypted(text, theirs, b"AKIAIOSFODNN7EXAMPLE")
    assert handle.primitive(mac.Mac).compute_mac(b"x") == hmac.digest(EXAMPLE_KEY, b"x", "sha256")
    text = json_proto_keyset_format.serialize_encrypted(handle, theirs, b"AKIAIOSFODNN7EXAMPLE")
    (tmp_path / "keyset.json").write_text(text)
    with open_backend(uri) as backend:
        assert fingerprint(backend) == fingerprint_of(EXAMPLE_KEY)
    with pytest.raises(KeyMismatchError), open_backend(uri.replace("AKIAI", "AKIAJ")) as backend:
        fingerprint(backend)


def test_layout_of_the_go_original(uri: str, kek: Any, tmp_path: Path) -> None:
    """As a Go program writes it: pretty-printed with tabs, mode 0644, no associated data, an unsigned key id."""
    keyset = tink_pb2.Keyset(primary_key_id=4020405060)
    key = keyset.key.add(status=tink_pb2.ENABLED, key_id=4020405060, output_prefix_type=tink_pb2.RAW)
    key.key_data.type_url = "type.googleapis.com/google.crypto.tink.HmacKey"
    key.key_data.key_material_type = tink_pb2.KeyData.SYMMETRIC
    params = hmac_pb2.HmacParams(hash=common_pb2.SHA256, tag_size=32)
    key.key_data.value = hmac_pb2.HmacKey(key_value=EXAMPLE_KEY, params=params).SerializeToString()
    info = {
        "primaryKeyId": 4020405060,
        "keyInfo": [
            {
                "typeUrl": "type.googleapis.com/google.crypto.tink.HmacKey",
                "status": "ENABLED",
                "keyId": 4020405060,
                "outputPrefixType": "RAW",
            }
        ],
    }
    sealed = base64.b64encode(kek.encrypt(keyset.SerializeToString(), b"")).decode()
    file = tmp_path / "key.json"
    file.write_text(json.dumps({"encryptedKeyset": sealed, "keysetInfo": info}, indent="\t"))
    file.chmod(0o644)
    uri = uri.replace("keyset.json", "key.json")
    with pytest.warns(SecurityWarning, match="others can read"):
        backend = open_backend(uri)
    with backend:
        assert fingerprint(backend) == fingerprint_of(EXAMPLE_KEY)
        assert isinstance(backend, TinkBackend)
        findings = {f.subject: f for f in backend.inspect()}
        assert findings["associated data"].level == "warning"
        assert "--access-key-id" in findings["associated data"].mend
        assert findings["file"].level == "warning"


# What is no keyset of ours


def sealed(kek: Any, change: Callable[[tink_pb2.Keyset, tink_pb2.Keyset.Key, hmac_pb2.HmacKey], None]) -> bytes:
    keyset = tink_pb2.Keyset(primary_key_id=7)
    key = keyset.key.add(status=tink_pb2.ENABLED, key_id=7, output_prefix_type=tink_pb2.RAW)
    key.key_data.type_url = "type.googleapis.com/google.crypto.tink.HmacKey"
    key.key_data.key_material_type = tink_pb2.KeyData.SYMMETRIC
    params = hmac_pb2.HmacParams(hash=common_pb2.SHA256, tag_size=32)
    hmac_key = hmac_pb2.HmacKey(key_value=EXAMPLE_KEY, params=params)
    change(keyset, key, hmac_key)
    if not key.key_data.value:
        key.key_data.value = hmac_key.SerializeToString()
    wrapped: bytes = tink_pb2.EncryptedKeyset(
        encrypted_keyset=kek.encrypt(keyset.SerializeToString(), b"")
    ).SerializeToString()
    return wrapped


def change(what: str, value: Any) -> Callable[..., None]:
    """Sets one field: of the keyset, its key, the key's data, the HmacKey or its parameters."""
    where, _, field = what.partition(".")

    def changes(keyset: Any, key: Any, hmac_key: Any) -> None:
        places = {"keyset": keyset, "key": key, "data": key.key_data, "hmac": hmac_key, "params": hmac_key.params}
        setattr(places[where], field, value)

    return changes


AES = "type.googleapis.com/google.crypto.tink.AesGcmKey"
CHANGES: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "two keys": (lambda keyset, *_: keyset.key.add(key_id=8), UnsupportedError, r"2 keys \(7, 8\)"),
    "no key": (lambda keyset, *_: keyset.ClearField("key"), UnsupportedError, "0 keys"),
    "disabled": (change("key.status", tink_pb2.DISABLED), KeyPolicyError, "DISABLED"),
    "destroyed": (change("key.status", tink_pb2.DESTROYED), KeyPolicyError, "DESTROYED"),
    "primary": (change("keyset.primary_key_id", 8), KeyMismatchError, "primary key is 8"),
    "tag size": (change("params.tag_size", 16), UnsupportedError, "16 bytes"),
    "hash": (change("params.hash", common_pb2.SHA512), UnsupportedError, "SHA512"),
    "unknown hash": (change("params.hash", 99), UnsupportedError, "number 99"),
    "version": (change("hmac.version", 1), UnsupportedError, "version 1"),
    "short": (change("hmac.key_value", b"x"), UnsupportedError, "1 bytes"),
    "TINK": (change("key.output_prefix_type", tink_pb2.TINK), UnsupportedError, "TINK"),
    "LEGACY": (change("key.output_prefix_type", tink_pb2.LEGACY), UnsupportedError, "LEGACY"),
    "CRUNCHY": (change("key.output_prefix_type", tink_pb2.CRUNCHY), UnsupportedError, "CRUNCHY"),
    "type": (change("data.type_url", AES), UnsupportedError, "AesGcmKey"),
    "garbage": (change("data.value", b"\xff\xff"), KeyMismatchError, "HmacKey"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_keysets_of_another_kind(uri: str, kek: Any, tmp_path: Path, kind: str) -> None:
    changes, error, said = CHANGES[kind]
    (tmp_path / "keyset.json").write_bytes(sealed(kek, lambda *_: None))
    with open_backend(uri) as backend:
        assert fingerprint(backend) == fingerprint_of(EXAMPLE_KEY)  # the twin that is right
        (tmp_path / "keyset.json").write_bytes(sealed(kek, changes))
        with pytest.raises(error, match=said) as caught:
            backend.hmac_sha256(b"20260101")
    assert_tells_nothing(caught.value)


def assert_tells_nothing(exc: BaseException | None) -> None:
    """No message of a chain of exceptions holds the key."""
    while exc is not None:
        for form in (EXAMPLE_KEY.decode(), EXAMPLE_KEY[4:].decode(), EXAMPLE_KEY.hex()):
            assert form not in f"{exc} {exc!r}"
        for start in range(3):
            assert base64.b64encode(EXAMPLE_KEY[start:])[4:-4].decode() not in f"{exc} {exc!r}"
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)


def test_keyset_in_the_clear(uri: str, tmp_path: Path) -> None:
    keyset = tink_pb2.Keyset()
    sealed(aead_that_keeps(keyset), lambda *_: None)
    handle = proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    for content in (
        json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN).encode(),
        proto_keyset_format.serialize(handle, secret_key_access.TOKEN),
    ):
        (tmp_path / "keyset.json").write_bytes(content)
        with pytest.raises(KeyMismatchError, match="in the clear") as caught:
            open_backend(uri)
        assert_tells_nothing(caught.value)


def aead_that_keeps(keyset: tink_pb2.Keyset) -> Any:
    class Keeps:
        def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
            keyset.ParseFromString(plaintext)
            return b"x"

    return Keeps()


def test_unwraps_to_no_keyset(uri: str, kek: Any, tmp_path: Path) -> None:
    wrapped = tink_pb2.EncryptedKeyset(encrypted_keyset=kek.encrypt(EXAMPLE_KEY, b""))
    (tmp_path / "keyset.json").write_bytes(wrapped.SerializeToString())
    with open_backend(uri) as backend, pytest.raises(KeyMismatchError, match="no keyset") as caught:
        backend.hmac_sha256(b"20260101")
    assert_tells_nothing(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"\xff\xfe", b'{"encryptedKeyset": ""}', b'{"encryptedKeyset": "!"}']
)
def test_no_keyset_at_all(uri: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keyset.json").write_bytes(content)
    with pytest.raises(KeyMismatchError, match="no encrypted Tink keyset"):
        open_backend(uri)


def test_every_cut_and_many_changed_bits(uri: str, tmp_path: Path) -> None:
    """No changed file ever gives an HMAC: the KEK's AEAD notices."""
    file = tmp_path / "keyset.json"
    document = json.loads(file.read_text())
    wrapped = base64.b64decode(document["encryptedKeyset"])
    for bit in range(0, len(wrapped) * 8, 37):
        changed = bytearray(wrapped)
        changed[bit // 8] ^= 1 << bit % 8
        document["encryptedKeyset"] = base64.b64encode(changed).decode()
        file.write_text(json.dumps(document))
        with pytest.raises(KeyMismatchError), open_backend(uri) as backend:
            backend.hmac_sha256(b"20260101")
    for length in range(0, len(wrapped), 7):
        document["encryptedKeyset"] = base64.b64encode(wrapped[:length]).decode()
        file.write_text(json.dumps(document))
        with pytest.raises(KeyMismatchError), open_backend(uri) as backend:
            backend.hmac_sha256(b"20260101")


def test_keyset_of_another_access_key(tmp_path: Path) -> None:
    """Bound to its access key id, a keyset that is put in another's place is refused."""
    kek = f"insecure-local-kms://{tmp_path}/kek.json"
    mine = import_into(f"tink:file={tmp_path}/mine.json;kek={kek}", EXAMPLE_KEY, label="AKIAIOSFODNN7EXAMPLE")
    import_into(f"tink:file={tmp_path}/theirs.json;kek={kek}", b"AWS4 another secret", label="AKIAOTHEROTHEROTHER0")
    assert mine.endswith(";associated-data=AKIAIOSFODNN7EXAMPLE")
    (tmp_path / "mine.json").write_bytes((tmp_path / "theirs.json").read_bytes())
    with open_backend(mine) as backend, pytest.raises(KeyMismatchError, match="associated data"):
        backend.hmac_sha256(b"20260101")


def test_import_for_another_access_key(uri: str) -> None:
    with pytest.raises(KeyURIError, match="AKIAIOSFODNN7EXAMPLE, but the key to import is that of AKIAOTHER"):
        import_into(
            f"{uri};associated-data=AKIAIOSFODNN7EXAMPLE", EXAMPLE_KEY, overwrite=True, label="AKIAOTHEROTHEROTHER0"
        )
    assert ";associated-data=my%20own" in import_into(
        f"{uri};associated-data=my%20own", EXAMPLE_KEY, overwrite=True, label="AKIAIOSFODNN7EXAMPLE"
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("file=/k;kek=hcvault://x", "of 'hcvault', which is not known"),
        ("file=/k;kek=projects/p", "of 'no kind'"),
        ("file=/k", "'kek' is missing"),
        ("kek=aws-kms://x", "'file' is missing"),
        ("file=k;kek=aws-kms://x", "absolute"),
        ("file=/k;kek=aws-kms://alias/prod", "not a key's full ARN"),
        ("file=/k;kek=aws-kms://1234abcd-12ab-34cd-56ef-1234567890ab", "not a key's full ARN"),
        ("file=/k;kek=aws-kms://arn:aws:kms:eu-west-1:111122223333:alias/aws/s3", "not a key's full ARN"),
        (f"file=/k;kek=gcp-kms://{GCP_KEY}/cryptoKeyVersions/1", "without a version"),
        ("file=/k;kek=insecure-local-kms://kek.json", "absolute"),
        ("file=/k;kek=insecure-local-kms:///k;associated-data=", "associated-data is empty"),
        ("file=/k;kek=insecure-local-kms:///k?format=yaml", "'json' or 'binary'"),
        ("file=/k;kek=insecure-local-kms:///k?kek=x", "both before and after"),
        ("file=/k;key=insecure-local-kms:///k", "did you mean 'kek'"),
    ],
)  # fmt: skip
def test_uris_that_cannot_be(path: str, said: str) -> None:
    with pytest.raises(KeyURIError, match=said):
        open_backend(f"tink:{path}")


@pytest.mark.parametrize(
    ("name", "mode"), [("keyset.json", 0o620), ("keyset.json", 0o602), ("kek.json", 0o640), ("kek.json", 0o602)]
)
def test_files_of_others(uri: str, tmp_path: Path, name: str, mode: int) -> None:
    (tmp_path / name).chmod(mode)
    with pytest.raises(AuthenticationError, match="others can"), open_backend(uri) as backend:
        backend.hmac_sha256(b"20260101")


def test_files_are_private_from_the_start(uri: str, tmp_path: Path) -> None:
    assert {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {"keyset.json": 0o600, "kek.json": 0o600}
    assert EXAMPLE_KEY not in (tmp_path / "keyset.json").read_bytes()


def test_two_imports_at_once(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that appears while the KMS is asked is not overwritten."""
    wrap, file = keysets.wrap, tmp_path / "new.json"

    def slow(*arguments: Any, **options: Any) -> bytes:
        file.write_bytes(b"of another import")
        return wrap(*arguments, **options)

    monkeypatch.setattr("aws_hmac_backends.tink.wrap", slow)
    with pytest.raises(KeyExistsError):
        import_into(uri.replace("keyset.json", "new.json"), EXAMPLE_KEY)
    assert file.read_bytes() == b"of another import"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kek.json", "keyset.json", "new.json"]


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "kek").mkdir()
    with pytest.raises(DeviceError, match="no folder"):
        import_into(f"tink:file={tmp_path}/none/k.json;kek=insecure-local-kms://{tmp_path}/kek/k.json", EXAMPLE_KEY)


def test_kek_that_is_gone_or_none(uri: str, tmp_path: Path) -> None:
    kek = tmp_path / "kek.json"
    kek.write_text("{}")
    with open_backend(uri) as backend, pytest.raises(DeviceError, match="no Tink AEAD keyset"):
        backend.hmac_sha256(b"20260101")
    kek.unlink()
    with open_backend(uri) as backend:
        with pytest.raises(KeyNotFoundError):
            backend.hmac_sha256(b"20260101")
        assert isinstance(backend, TinkBackend)
        assert any(f.subject == "key state" and "missing" in f.text for f in backend.inspect())
    assert not kek.exists()  # only an import makes one


def test_local_kek_says_what_it_is(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keks, "_warned", False)
    with pytest.warns(SecurityWarning, match="development only"):
        backend = open_backend(uri)
    with backend:
        assert isinstance(backend, TinkBackend)
        assert backend.inspect()[0].level == "bad"


def test_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    bound = f"tink:file=/k;kek=aws-kms://{arn};associated-data=AKIAIOSFODNN7EXAMPLE"
    assert main(["key", "policy", bound]) == 0
    use, look = json.loads(capsys.readouterr().out)["Statement"]
    assert use["Action"] == "kms:Decrypt"
    assert use["Resource"] == look["Resource"] == arn
    expected = b"AKIAIOSFODNN7EXAMPLE".hex()
    assert use["Condition"] == {"StringEquals": {"kms:EncryptionContext:associatedData": expected}}
    assert main(["key", "policy", f"{bound}?planned-kek=aws-kms://{arn[:-1]}c", "--role", "importer"]) == 0
    use, _ = json.loads(capsys.readouterr().out)["Statement"]
    assert use["Action"] == ["kms:Encrypt", "kms:Decrypt"]
    assert use["Resource"] == [arn, f"{arn[:-1]}c"]
    assert main(["key", "policy", f"tink:file=/k;kek=gcp-kms://{GCP_KEY}"]) == 0
    assert json.loads(capsys.readouterr().out)["bindings"][0]["role"] == "roles/cloudkms.cryptoKeyDecrypter"
    assert main(["key", "policy", "tink:file=/k;kek=insecure-local-kms:///k"]) == 1
    assert main(["key", "policy", "tink:file=/k;kek=aws-kms://alias/x"]) == 1
