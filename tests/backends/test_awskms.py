from __future__ import annotations

import datetime
import hmac
import json
import os
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest

from aws_hmac import (
    AuthenticationError,
    ConfigError,
    DeviceBusyError,
    DeviceError,
    KeyExistsError,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
    SecurityWarning,
    UnsupportedError,
    import_key,
    open_backend,
)
from aws_hmac.backend import PROFILES_VARIABLE, fingerprint, fingerprint_of, profile_under_way, profiles_under_way
from aws_hmac.cli import main
from aws_hmac.testing import EXAMPLE_KEY, ImporterContract, import_into, in_fork
from aws_hmac.uri import KeyURI
from aws_hmac_backends import awskms
from aws_hmac_backends.awskms import AwsKmsBackend
from tests.backends.kms_server import ACCOUNT, REGION, FakeKms, KmsError

if TYPE_CHECKING:
    from pathlib import Path

    from aws_hmac import HmacBackend
    from tests.conftest import MotoServer

SECRET = EXAMPLE_KEY[4:].decode()
MISSING = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000"


@pytest.fixture
def kms(fake_kms: FakeKms) -> FakeKms:
    return fake_kms


@pytest.fixture
def uri(kms: FakeKms) -> str:
    """A key in KMS, imported."""
    return import_into(
        f"awskms:key-id={kms.create_key('HMAC_256', Origin='EXTERNAL')}?endpoint-url={kms.url}", EXAMPLE_KEY
    )


@pytest.mark.filterwarnings("ignore:.*keeps its secret:aws_hmac.SecurityWarning")
class TestAwsKms(ImporterContract):
    threads = 8
    calls_per_thread = 20

    @pytest.fixture
    def uri(self, kms: FakeKms) -> str:
        return f"awskms:alias=test/prod?region={REGION}&endpoint-url={kms.url}"

    # GenerateMac takes no empty message; nothing in SigV4 has one.
    @pytest.mark.parametrize("message", [b"20260101", b"\0", b"x" * 64, bytes(range(256)) * 16])
    def test_is_hmac_sha256(self, backend: HmacBackend, key: bytes, message: bytes) -> None:
        super().test_is_hmac_sha256(backend, key, message)


@pytest.mark.parametrize("message", [b"", b"x" * 4097])
def test_messages_that_kms_does_not_take(kms: FakeKms, uri: str, message: bytes) -> None:
    with open_backend(uri) as backend, pytest.raises(UnsupportedError, match="1 to 4096"):
        backend.hmac_sha256(message)


def test_with_moto(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against moto, which verifies our signatures and has its own implementation of the MAC."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", moto_server.url)
    user = moto_server.create_user(["kms:GenerateMac"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", user.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user.secret_access_key)
    client = moto_server.client("kms", region="eu-central-1")
    made = client.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]
    with open_backend(f"awskms:key-id={made['Arn']}") as backend:
        mac = backend.hmac_sha256(b"20260101")
    verify = {"KeyId": made["Arn"], "MacAlgorithm": "HMAC_SHA_256", "Message": b"20260101"}
    assert client.verify_mac(Mac=mac, **verify)["MacValid"]
    with pytest.raises(client.exceptions.KMSInvalidMacException):
        client.verify_mac(Mac=mac[:-1] + bytes([mac[-1] ^ 1]), **verify)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with open_backend(f"awskms:key-id={made['Arn']}") as backend, pytest.raises(AuthenticationError, match="Signature"):
        backend.hmac_sha256(b"20260101")
    stranger = moto_server.create_user(["kms:DescribeKey"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stranger.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stranger.secret_access_key)
    with (
        open_backend(f"awskms:key-id={made['Arn']}") as backend,
        pytest.raises(KeyPolicyError, match="kms:GenerateMac"),
    ):
        backend.hmac_sha256(b"20260101")


def test_import_of_a_secret(kms: FakeKms) -> None:
    named = import_key(
        f"awskms:alias=prod?region={REGION}&endpoint-url={kms.url}", SECRET, access_key_id="AKIAIOSFODNN7EXAMPLE"
    )
    (arn,) = kms.keys
    assert named == f"awskms:key-id={arn}?endpoint-url={kms.url}"
    assert kms.material[arn] == EXAMPLE_KEY
    assert kms.aliases == {"alias/prod": arn}
    assert kms.keys[arn]["Description"] == "aws-hmac AKIAIOSFODNN7EXAMPLE"
    assert EXAMPLE_KEY.decode() not in str(kms.calls)
    assert SECRET not in str(kms.calls)


def test_import_with_expiry(kms: FakeKms) -> None:
    arn = kms.create_key("HMAC_256", Origin="EXTERNAL")
    date = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=30)
    text = f"{date:%Y-%m-%dT%H:%M:%SZ}"
    named = import_into(f"awskms:key-id={arn}?endpoint-url={kms.url}&valid-to={text}", EXAMPLE_KEY)
    assert "valid-to" not in named
    with open_backend(named) as backend:
        assert isinstance(backend, AwsKmsBackend)
        assert any(f.subject == "expiry" and f"{date:%Y-%m-%d}" in f.text for f in backend.inspect())
    with pytest.raises(KeyURIError, match="no date"):
        import_into(f"awskms:key-id={arn}?endpoint-url={kms.url}&valid-to=tomorrow", EXAMPLE_KEY)
    del kms.material[arn]
    kms.keys[arn].update(KeyState="PendingImport")
    with open_backend(named) as backend, pytest.raises(KeyNotFoundError, match="deleted, expired or never imported"):
        backend.hmac_sha256(b"20260101")


@pytest.mark.parametrize("days", [-1, 0, 366])
def test_expiry_that_cannot_be(kms: FakeKms, days: int) -> None:
    arn = kms.create_key("HMAC_256", Origin="EXTERNAL")
    date = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    with pytest.raises(KeyURIError, match="365 days at most"):
        import_into(f"awskms:key-id={arn}?endpoint-url={kms.url}&valid-to={date:%Y-%m-%dT%H:%M:%S}", EXAMPLE_KEY)


def test_kms_that_takes_its_time(kms: FakeKms, monkeypatch: pytest.MonkeyPatch) -> None:
    """KMS is eventually consistent: what was just made or imported may not be known everywhere at once."""
    monkeypatch.setattr(awskms, "SETTLE_STEP", 0.01)
    kms.fault["GetParametersForImport"] = [KmsError("NotFoundException", "not yet")] * 3
    kms.fault["GenerateMac"] = [KmsError("NotFoundException", "not yet")] * 3
    named = import_key(f"awskms:alias=prod?region={REGION}&endpoint-url={kms.url}", SECRET)
    with open_backend(named) as backend:
        assert fingerprint(backend) == fingerprint_of(EXAMPLE_KEY)
    monkeypatch.setattr(awskms, "SETTLE_TIME", 0)
    kms.fault["GenerateMac"] = [KmsError("NotFoundException", "not yet")]
    with pytest.raises(KeyNotFoundError, match="not yet"):
        import_key(f"awskms:alias=other?region={REGION}&endpoint-url={kms.url}", SECRET)
    assert "alias/other" not in kms.aliases


def test_material_is_fixed(kms: FakeKms, uri: str) -> None:
    with pytest.raises(KeyExistsError, match="fixes for good"):
        import_into(uri, b"another key")
    with pytest.raises(UnsupportedError, match="IncorrectKeyMaterialException"):
        import_into(uri, b"another key", overwrite=True)
    assert import_into(uri, EXAMPLE_KEY, overwrite=True) == uri
    with open_backend(uri) as backend:
        assert fingerprint(backend) == fingerprint_of(EXAMPLE_KEY)


def test_if_aws_refuses_44_bytes(kms: FakeKms) -> None:
    kms.sizes = range(32, 33)
    with pytest.raises(
        UnsupportedError, match=r"IncorrectKeyMaterialException: .*352 bits.* has 44 bytes; AWS documents 32"
    ):
        import_into(f"awskms:alias=prod?region={REGION}&endpoint-url={kms.url}", EXAMPLE_KEY)
    # What was half made is on its way out.
    assert [k["KeyState"] for k in kms.keys.values()] == ["PendingDeletion"]
    assert kms.aliases == {}


@pytest.mark.parametrize(
    ("spec", "origin", "said"), [("HMAC_512", "EXTERNAL", "HMAC_512"), ("HMAC_256", "AWS_KMS", "KMS made it")]
)
def test_keys_that_take_no_import(kms: FakeKms, spec: str, origin: str, said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        import_into(f"awskms:key-id={kms.create_key(spec, Origin=origin)}?endpoint-url={kms.url}", EXAMPLE_KEY)


def test_overwriting_by_alias_names_the_old_key(kms: FakeKms) -> None:
    uri = f"awskms:alias=prod?region={REGION}&endpoint-url={kms.url}"
    old = KeyURI.parse(import_into(uri, EXAMPLE_KEY)).require("key-id")
    with pytest.warns(SecurityWarning, match=f"key delete 'awskms:key-id={old}'"):
        import_into(uri, b"another key", overwrite=True)


def test_alias_is_no_name_for_a_signer(kms: FakeKms, uri: str) -> None:
    arn = KeyURI.parse(uri).require("key-id")
    kms.aliases["alias/prod"] = arn
    with pytest.raises(KeyURIError, match=f"account {ACCOUNT}, {REGION}.*awskms:key-id={arn}"):
        open_backend(f"awskms:alias=prod?region={REGION}&endpoint-url={kms.url}")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("awskms:", "exactly one"),
        (f"awskms:key-id={MISSING};alias=x", "exactly one"),
        ("awskms:key-id=1234abcd-12ab-34cd-56ef-1234567890ab", "full ARN"),
        ("awskms:key-id=arn:aws:kms:eu-west-1:111122223333:alias/x", "full ARN"),
        ("awskms:key-id=arn:aws:s3:::bucket", "full ARN"),
        ("awskms:alias=alias/x", "without 'alias/'"),
        ("awskms:alias=aws/s3", "aws/"),
        (f"awskms:key-id={MISSING}?endpoint-url=http://kms.example.com", "http to another machine"),
        (f"awskms:key-id={MISSING}?endpoint-url=kms.example.com", "must be http"),
        (f"awskms:key-id={MISSING}?signer=me", "ARN of a role"),
        ("awskms:alias=x?region=Ireland", "no AWS region"),
        (f"awskms:key-id={MISSING}?profil=x", "did you mean 'profile'"),
    ],
)
def test_uris_that_cannot_be(uri: str, said: str) -> None:
    with pytest.raises(KeyURIError, match=said):
        open_backend(uri)


@pytest.mark.parametrize("partition", ["aws-cn", "aws-us-gov"])
def test_partitions(kms: FakeKms, partition: str) -> None:
    arn = kms.create_key("HMAC_256", partition=partition)
    with open_backend(f"awskms:key-id={arn}?endpoint-url={kms.url}") as backend:
        assert backend.hmac_sha256(b"20260101") == hmac.digest(kms.material[arn], b"20260101", "sha256")


@pytest.mark.parametrize(
    ("field", "value"), [("KeyId", MISSING), ("MacAlgorithm", "HMAC_SHA_512"), ("Mac", "c2hvcnQ="), ("KeyId", None)]
)
def test_answers_are_checked(kms: FakeKms, uri: str, field: str, value: object) -> None:
    kms.answers["GenerateMac"] = lambda answer: answer.update({field: value})
    with open_backend(uri) as backend, pytest.raises((KeyMismatchError, DeviceError), match="KMS answered"):
        backend.hmac_sha256(b"20260101")


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("AccessDeniedException", KeyPolicyError, "kms:GenerateMac on arn:.* is not allowed"),
        ("DisabledException", KeyPolicyError, "aws kms enable-key --key-id arn"),
        ("NotFoundException", KeyNotFoundError, "account 111122223333, eu-west-1"),
        ("InvalidArnException", KeyURIError, "service or region"),
        ("InvalidKeyUsageException", UnsupportedError, "InvalidKeyUsageException"),
        ("KeyUnavailableException", DeviceError, "KeyUnavailableException"),
        ("UnrecognizedClientException", AuthenticationError, "does not accept the credentials"),
        ("ExpiredTokenException", AuthenticationError, "ExpiredTokenException"),
        ("SomethingNewException", DeviceError, "SomethingNewException"),
    ],
)
def test_errors_in_words(kms: FakeKms, uri: str, code: str, error: type[Exception], said: str) -> None:
    kms.fault["GenerateMac"] = [KmsError(code, "because of the test")]
    with open_backend(uri) as backend:
        with pytest.raises(error, match=said) as caught:
            backend.hmac_sha256(b"20260101")
        assert "because of the test" in str(caught.value) or code == "DisabledException"
        assert backend.hmac_sha256(b"20260101") == hmac.digest(EXAMPLE_KEY, b"20260101", "sha256")


def test_pending_deletion(kms: FakeKms, uri: str) -> None:
    arn = KeyURI.parse(uri).require("key-id")
    kms.keys[arn].update(KeyState="PendingDeletion", DeletionDate=1893553440)
    with (
        open_backend(uri) as backend,
        pytest.raises(
            KeyPolicyError, match=r"until 2030-01-02 .* cancel-key-deletion --key-id .* && aws kms enable-key"
        ),
    ):
        backend.hmac_sha256(b"20260101")
    kms.fault["DescribeKey"] = [KmsError("AccessDeniedException")]
    with open_backend(uri) as backend, pytest.raises(KeyPolicyError, match="pending deletion"):
        backend.hmac_sha256(b"20260101")


def test_throttled(kms: FakeKms, uri: str) -> None:
    throttled = KmsError("ThrottlingException", "Rate exceeded")
    kms.fault["GenerateMac"] = [throttled]
    with open_backend(uri) as backend:
        assert backend.hmac_sha256(b"20260101") == hmac.digest(EXAMPLE_KEY, b"20260101", "sha256")
        kms.fault["GenerateMac"] = [throttled] * 4
        with pytest.raises(DeviceBusyError, match="after 4 tries"):
            backend.hmac_sha256(b"20260101")


def test_unreachable(kms: FakeKms, uri: str) -> None:
    gone = KeyURI.parse(uri).replace(endpoint_url="http://127.0.0.1:9")
    with open_backend(gone) as backend, pytest.raises(DeviceError, match="cannot be reached") as caught:
        backend.hmac_sha256(b"20260101")
    assert type(caught.value) is DeviceError


def test_no_credentials(kms: FakeKms, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with open_backend(uri) as backend, pytest.raises(AuthenticationError, match="no credentials for KMS"):
        backend.hmac_sha256(b"20260101")
    with open_backend(f"{uri}&profile=none") as backend, pytest.raises(ConfigError, match="no profile 'none'"):
        backend.hmac_sha256(b"20260101")


class TestLoops:
    """Credentials for KMS never come from the profile whose credentials are being made."""

    @pytest.fixture(autouse=True)
    def profiles(self, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "config").write_text(
            "[profile kms]\nrole_arn = arn:aws:iam::111122223333:role/x\nsource_profile = prod\n"
            "[profile prod]\naws_access_key_id = a\naws_secret_access_key = b\n"
            "[profile own]\naws_access_key_id = a\naws_secret_access_key = b\n"
        )
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    def test_by_name(self, uri: str) -> None:
        with profile_under_way("prod"):
            with pytest.raises(ConfigError, match=r"circle \(prod -> prod\).*\?profile="):
                open_backend(f"{uri}&profile=prod")
            open_backend(f"{uri}&profile=own").close()

    def test_by_the_environment(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "prod")
        with profile_under_way("prod"), pytest.raises(ConfigError, match="circle"):
            open_backend(uri)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")  # then no profile is asked
        with profile_under_way("prod"):
            open_backend(uri).close()

    def test_by_source_profile(self, uri: str) -> None:
        with profile_under_way("prod"):
            backend = open_backend(f"{uri}&profile=kms")
        with backend, pytest.raises(ConfigError, match=r"circle \(prod -> kms -> prod\)"):
            backend.hmac_sha256(b"20260101")

    def test_across_processes(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PROFILES_VARIABLE, "outer my%20prod")
        with pytest.raises(ConfigError, match=r"circle \(outer -> my prod -> my prod\)"):
            open_backend(f"{uri}&profile=my%20prod")
        with pytest.raises(ConfigError, match="from themselves"), profile_under_way("outer"):
            pass
        with profile_under_way("my dev", export=True):
            assert os.environ[PROFILES_VARIABLE] == "outer my%20prod my%20dev"
            assert profiles_under_way() == ("outer", "my prod", "my dev")
            with profile_under_way("inner"):
                assert profiles_under_way() == ("outer", "my prod", "my dev", "inner")
        assert os.environ[PROFILES_VARIABLE] == "outer my%20prod"


def test_key_check_states(kms: FakeKms, uri: str) -> None:
    arn = KeyURI.parse(uri).require("key-id")

    def findings() -> dict[str, str]:
        with open_backend(uri) as backend:
            assert isinstance(backend, AwsKmsBackend)
            return {f.subject: f"{f.level} {f.text}" for f in backend.inspect()}

    seen = findings()
    assert seen["key state"] == "good enabled"
    assert seen["origin"].startswith("good EXTERNAL")
    assert f"account {ACCOUNT}" in seen["account"]
    kms.keys[arn]["KeyState"] = "Disabled"
    assert findings()["key state"] == "bad disabled"
    kms.keys[arn].update(KeyState="PendingDeletion", DeletionDate=1893553440)
    assert findings()["key state"].startswith("bad pending deletion until 2030-01-02")
    kms.keys[arn].update(KeyState="PendingImport")
    assert findings()["key state"].startswith("bad no key material")
    kms.keys[arn].update(KeyState="Enabled", Origin="AWS_KMS", MultiRegion=True)
    seen = findings()
    assert seen["origin"].startswith("bad AWS_KMS")
    assert "multi-Region" in seen
    kms.caller = "arn:aws:iam::999999999999:user/x"
    assert findings()["account"].startswith("warning")
    del kms.keys[arn]
    assert findings()["key state"].startswith("bad missing")


def test_forked_child_has_its_own_connection(kms: FakeKms, uri: str) -> None:
    with open_backend(uri) as backend:
        kms.peers.clear()
        expected = backend.hmac_sha256(b"20260101")
        assert in_fork(lambda: backend.hmac_sha256(b"20260101")) == expected
        assert backend.hmac_sha256(b"20260101") == expected
    parent, child, again = kms.peers
    assert child != parent == again


def test_list(kms: FakeKms, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        kms.create_key()
    bare = kms.create_key("HMAC_256")
    assert main(["key", "list", f"awskms:?region={REGION}&endpoint-url={kms.url}", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert sorted(entry["uri"] for entry in listed) == sorted([uri, f"awskms:key-id={bare}?endpoint-url={kms.url}"])
    kms.fault["DescribeKey"] = [KmsError("AccessDeniedException")]
    assert main(["key", "list", f"awskms:?region={REGION}&endpoint-url={kms.url}"]) == 0
    kms.fault["DescribeKey"] = [KmsError("AccessDeniedException")]
    assert main(["key", "list", uri]) == 1


def test_doctor(kms: FakeKms, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", uri, "--offline", "--json"]) in (0, 1)  # other things may stand in the way here
    assert '"key state"' in capsys.readouterr().out
    assert [f.level for f in AwsKmsBackend.diagnose(KeyURI.parse(uri))].count("bad") == 0
    kms.keys[KeyURI.parse(uri).require("key-id")]["KeyState"] = "Disabled"
    assert [f.level for f in AwsKmsBackend.diagnose(KeyURI.parse(uri))].count("bad") == 1
    assert AwsKmsBackend.diagnose(None) == []


@pytest.mark.parametrize("package", ["botocore", "cryptography"])
def test_missing_extra(package: str) -> None:
    program = f"""
import sys
class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from aws_hmac.cli import main
sys.exit(main(["key", "check", "awskms:key-id={MISSING}"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'aws-hmac[awskms]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_policies(kms: FakeKms, capsys: pytest.CaptureFixture[str]) -> None:
    arn = "arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    assert main(["key", "policy", f"awskms:key-id={arn}?signer=arn:aws-cn:iam::111122223333:role/web"]) == 0
    signer = json.loads(capsys.readouterr().out)
    by_name = {statement["Sid"]: statement for statement in signer["Statement"]}
    assert set(by_name) == {"Administer", "SignCompute", "SignKey"}
    assert by_name["SignCompute"]["Action"] == "kms:GenerateMac"
    assert by_name["SignCompute"]["Condition"] == {"StringEquals": {"kms:MacAlgorithm": "HMAC_SHA_256"}}
    assert by_name["SignCompute"]["Principal"] == {"AWS": "arn:aws-cn:iam::111122223333:role/web"}
    assert by_name["Administer"]["Principal"] == {"AWS": "arn:aws-cn:iam::111122223333:root"}
    assert not {"kms:GenerateMac", "kms:ImportKeyMaterial", "kms:*"} & set(by_name["Administer"]["Action"])
    assert main(["key", "policy", f"awskms:key-id={arn}", "--role", "importer"]) == 0
    importer = capsys.readouterr().out
    assert "kms:ImportKeyMaterial" in importer
    assert "role/aws-hmac-importer" in importer
    assert "kms:ImportKeyMaterial" not in json.dumps(signer)
    assert main(["key", "policy", "awskms:alias=x"]) == 1


def test_key_made_with_its_policy(kms: FakeKms) -> None:
    import_into(
        f"awskms:alias=prod?region={REGION}&endpoint-url={kms.url}&signer=arn:aws:iam::{ACCOUNT}:role/web", EXAMPLE_KEY
    )
    (policy,) = kms.policies.values()
    assert f"arn:aws:iam::{ACCOUNT}:role/importer" in policy  # the caller's role, and not its session
    assert f"arn:aws:iam::{ACCOUNT}:role/web" in policy


def test_nothing_is_logged(kms: FakeKms, uri: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"), open_backend(uri) as backend:
        mac = backend.hmac_sha256(b"20260101")
    assert "KMS" in caplog.text or "kms" in caplog.text  # the log is on
    assert mac.hex() not in caplog.text
    assert json.dumps(mac.hex()) not in caplog.text
    import base64

    assert base64.b64encode(mac).decode() not in caplog.text


def test_warns_of_nothing(kms: FakeKms, uri: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_backend(uri) as backend:
            backend.hmac_sha256(b"20260101")
