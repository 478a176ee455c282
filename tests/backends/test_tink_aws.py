"""Whose key is it: pins, states and faults of a KEK in AWS KMS."""

from __future__ import annotations

import base64
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from aws_hmac import (
    AuthenticationError,
    ConfigError,
    DeviceBusyError,
    DeviceError,
    Finding,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
    UnsupportedError,
    open_backend,
)
from aws_hmac.backend import fingerprint, fingerprint_of
from aws_hmac.cli import main
from aws_hmac.errors import Error
from aws_hmac.testing import EXAMPLE_KEY, import_into
from aws_hmac_backends.tink import TinkBackend
from tests.backends.kms_server import ACCOUNT, REGION, FakeKms, KmsError

if TYPE_CHECKING:
    from pathlib import Path

FOREIGN = "999999999999"


@pytest.fixture
def arn(fake_kms: FakeKms) -> str:
    return fake_kms.create_key()


@pytest.fixture
def uri(arn: str, tmp_path: Path) -> str:
    return import_into(f"tink:file={tmp_path}/k.json;kek=aws-kms://{arn}", EXAMPLE_KEY, label="AKIAIOSFODNN7EXAMPLE")


def compute(uri: str) -> bytes:
    with open_backend(uri) as backend:
        return fingerprint(backend)


def inspect(uri: str) -> dict[str, Finding]:
    with open_backend(uri) as backend:
        assert isinstance(backend, TinkBackend)
        return {finding.subject: finding for finding in backend.inspect()}


def test_associated_data_on_the_wire(fake_kms: FakeKms, uri: str) -> None:
    """As Tink has it in every language: hexadecimal, in the encryption context."""
    compute(uri)
    contexts = [
        asked["EncryptionContext"] for operation, asked in fake_kms.calls if operation in ("Encrypt", "Decrypt")
    ]
    assert len(contexts) == 3  # the import's, Tink's trial after it, and ours
    assert all(context == {"associatedData": b"AKIAIOSFODNN7EXAMPLE".hex()} for context in contexts)


# Pins


@pytest.mark.parametrize("operation", ["Encrypt", "Decrypt"])
@pytest.mark.parametrize("named", ["other", "none"])
def test_answer_of_another_key(
    fake_kms: FakeKms, uri: str, arn: str, tmp_path: Path, operation: str, named: str
) -> None:
    other = fake_kms.create_key(account=FOREIGN) if named == "other" else None
    fake_kms.answers[operation] = lambda answer: answer.update(KeyId=other)
    with pytest.raises(KeyMismatchError, match=f"used the key {other}, and not {arn}"):
        if operation == "Decrypt":
            compute(uri)
        else:
            import_into(f"tink:file={tmp_path}/new.json;kek=aws-kms://{arn}", EXAMPLE_KEY)
    assert not (tmp_path / "new.json").exists()


def test_wrapped_by_another_key(fake_kms: FakeKms, uri: str, arn: str) -> None:
    other = fake_kms.create_key()
    wrong = uri.replace(arn, other)
    with pytest.raises(KeyMismatchError, match=r"another key than .* wraps this keyset"):
        compute(wrong)
    found = inspect(wrong)["wrapped by"]
    assert found.level == "bad"
    assert f"{arn} (account {ACCOUNT}, {REGION}), and not {other}" in found.text
    assert inspect(uri)["wrapped by"].level == "good"


@pytest.mark.parametrize("name", ["alias/prod", f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/prod", "id"])
def test_alias_and_id_are_resolved_once_and_pinned(fake_kms: FakeKms, arn: str, tmp_path: Path, name: str) -> None:
    fake_kms.aliases["alias/prod"] = arn
    name = fake_kms.keys[arn]["KeyId"] if name == "id" else name
    named = import_into(f"tink:file={tmp_path}/k.json;kek=aws-kms://{name}?region={REGION}", EXAMPLE_KEY)
    assert f"kek=aws-kms://{arn}" in named
    fake_kms.aliases["alias/prod"] = fake_kms.create_key(account=FOREIGN)
    assert compute(named) == fingerprint_of(EXAMPLE_KEY)
    with pytest.raises(KeyURIError, match="not a key's full ARN"):
        open_backend(f"tink:file={tmp_path}/k.json;kek=aws-kms://{name}?region={REGION}")


def test_default_key_of_aws_is_refused(fake_kms: FakeKms, tmp_path: Path) -> None:
    fake_kms.aliases["alias/aws/secretsmanager"] = fake_kms.create_key(KeyManager="AWS")
    with pytest.raises(KeyPolicyError, match="default key that AWS manages"):
        import_into(f"tink:file={tmp_path}/k.json;kek=aws-kms://alias/aws/secretsmanager?region={REGION}", EXAMPLE_KEY)
    assert not (tmp_path / "k.json").exists()


def test_foreign_key_is_refused_unless_named(fake_kms: FakeKms, tmp_path: Path) -> None:
    foreign = fake_kms.create_key(account=FOREIGN)
    fake_kms.aliases["alias/prod"] = foreign
    with pytest.raises(
        KeyPolicyError, match=f"account {FOREIGN}, and the credentials are of account {ACCOUNT}.*{foreign}"
    ):
        import_into(f"tink:file={tmp_path}/k.json;kek=aws-kms://alias/prod?region={REGION}", EXAMPLE_KEY)
    named = import_into(f"tink:file={tmp_path}/k.json;kek=aws-kms://{foreign}", EXAMPLE_KEY)
    assert compute(named) == fingerprint_of(EXAMPLE_KEY)
    found = inspect(named)["account"]
    assert found.level == "warning"
    assert FOREIGN in found.text


@pytest.mark.parametrize("partition", ["aws-cn", "aws-us-gov"])
def test_partitions(fake_kms: FakeKms, tmp_path: Path, partition: str) -> None:
    kek = fake_kms.create_key(partition=partition)
    assert compute(import_into(f"tink:file={tmp_path}/k.json;kek=aws-kms://{kek}", EXAMPLE_KEY)) == fingerprint_of(
        EXAMPLE_KEY
    )


# States


@pytest.mark.parametrize(
    ("state", "error", "said", "level"),
    [
        ("Disabled", KeyPolicyError, "is disabled .*aws kms enable-key", "disabled"),
        ("PendingDeletion", KeyPolicyError, "until 2030-01-02.*aws kms cancel-key-deletion", "until 2030-01-02"),
        ("PendingImport", KeyNotFoundError, "no key material", "no key material"),
        ("Unavailable", KeyPolicyError, "in state Unavailable", "Unavailable"),
    ],
)
def test_states(
    fake_kms: FakeKms, uri: str, arn: str, state: str, error: type[Error], said: str, level: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fake_kms.keys[arn].update(KeyState=state, DeletionDate=1893553440)
    with pytest.raises(error, match=said):
        compute(uri)
    found = inspect(uri)["key state"]
    assert found.level == "bad"
    assert level in found.text
    assert main(["key", "check", uri]) == 1
    out = capsys.readouterr().out
    assert level in out
    assert "computes: no:" in " ".join(out.split())
    fake_kms.keys[arn].update(KeyState="Enabled")
    assert compute(uri) == fingerprint_of(EXAMPLE_KEY)
    assert inspect(uri)["key state"] == Finding("good", "key state", "enabled")


def test_missing(fake_kms: FakeKms, uri: str, arn: str) -> None:
    del fake_kms.keys[arn]
    with pytest.raises(KeyNotFoundError, match=f"no key {arn}.*account {ACCOUNT}"):
        compute(uri)
    assert "missing" in inspect(uri)["key state"].text


def test_rotation(fake_kms: FakeKms, uri: str, arn: str) -> None:
    assert inspect(uri)["rotation"].text == "off"
    fake_kms.rotating.add(arn)
    assert "on, every 365 days" in inspect(uri)["rotation"].text


def test_planned_kek(fake_kms: FakeKms, uri: str, arn: str) -> None:
    """A plan changes nothing until it is carried out, and that is said."""
    planned = fake_kms.create_key()
    found = inspect(f"{uri}?planned-kek=aws-kms://{planned}")["planned KEK"]
    assert found.level == "warning"
    assert "does not wrap the keyset" in found.text
    assert "key rewrap" in found.mend
    TinkBackend.rewrap_key(open_uri(f"{uri}?planned-kek=aws-kms://{planned}"))
    seen = inspect(f"{uri}?planned-kek=aws-kms://{planned}")
    assert "wraps the keyset" in seen["planned KEK"].text
    assert planned in seen["wrapped by"].text
    fake_kms.keys[arn].update(KeyState="PendingDeletion", DeletionDate=1893553440)
    assert compute(f"{uri}?planned-kek=aws-kms://{planned}") == fingerprint_of(EXAMPLE_KEY)
    assert main(["key", "rewrap", uri.replace(arn, planned), "--confirm"]) == 0


def open_uri(text: str) -> Any:
    from aws_hmac.uri import KeyURI

    return KeyURI.parse(text)


def test_rewrap_between_accounts_wants_the_name(fake_kms: FakeKms, uri: str) -> None:
    foreign = fake_kms.create_key(account=FOREIGN)
    fake_kms.aliases["alias/new"] = foreign
    with pytest.raises(KeyPolicyError, match=FOREIGN):
        TinkBackend.rewrap_key(open_uri(f"{uri}?region={REGION}"), "aws-kms://alias/new")
    assert foreign in str(TinkBackend.rewrap_key(open_uri(uri), f"aws-kms://{foreign}"))


# Faults


@pytest.mark.parametrize("operation", ["Encrypt", "Decrypt"])
@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("AccessDeniedException", KeyPolicyError, "is not allowed.*key policy"),
        ("DisabledException", KeyPolicyError, "enable-key"),
        ("NotFoundException", KeyNotFoundError, "account"),
        ("InvalidArnException", KeyURIError, "region"),
        ("InvalidCiphertextException", KeyMismatchError, "associated data"),
        ("IncorrectKeyException", KeyMismatchError, "another key"),
        ("InvalidKeyUsageException", UnsupportedError, "InvalidKeyUsageException"),
        ("KeyUnavailableException", DeviceError, "KeyUnavailableException"),
        ("ExpiredTokenException", AuthenticationError, "ExpiredTokenException"),
        ("LimitExceededException", DeviceBusyError, "too busy"),
    ],
)
def test_faults(
    fake_kms: FakeKms, uri: str, arn: str, tmp_path: Path, operation: str, code: str, error: type[Error], said: str
) -> None:
    """Each answer of KMS, at each call: a typed error in words, nothing half made, and all is well afterwards."""
    fake_kms.fault[operation] = [KmsError(code, "on purpose")] * 4
    new = f"tink:file={tmp_path}/new.json;kek=aws-kms://{arn}"
    with pytest.raises(error, match=said) as caught:
        compute(uri) if operation == "Decrypt" else import_into(new, EXAMPLE_KEY)
    assert type(caught.value).__module__ == "aws_hmac.errors"
    assert EXAMPLE_KEY.decode() not in f"{caught.value} {caught.value.__cause__}"
    fake_kms.fault.clear()
    assert [p.name for p in tmp_path.iterdir()] == ["k.json"]
    assert compute(uri) == compute(import_into(new, EXAMPLE_KEY)) == fingerprint_of(EXAMPLE_KEY)


def test_throttled_and_then_not(fake_kms: FakeKms, uri: str) -> None:
    fake_kms.fault["Decrypt"] = [KmsError("ThrottlingException", "Rate exceeded")] * 2
    assert compute(uri) == fingerprint_of(EXAMPLE_KEY)


def test_a_server_that_hangs_up(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{server.getsockname()[1]}")

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.recv(1)
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with pytest.raises(DeviceError, match="cannot be reached"):
            compute(uri)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_plain_http_elsewhere(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://kms.example.com")
    with pytest.raises(ConfigError, match="http to another machine"):
        compute(uri)


def test_profile_that_is_not_there(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(ConfigError, match="no profile 'none'"):
        compute(uri)


def test_nothing_is_logged(fake_kms: FakeKms, arn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG botocore logs bodies: Encrypt's request and Decrypt's answer hold the key. Not ours."""
    with caplog.at_level("DEBUG"):
        compute(import_into(f"tink:file={tmp_path}/k.json;kek=aws-kms://{arn}", EXAMPLE_KEY))
    plaintext = next(base64.b64decode(asked["Plaintext"]) for name, asked in fake_kms.calls if name == "Encrypt")
    assert EXAMPLE_KEY in plaintext
    logged = " ".join(f"{r.getMessage()} {r.__dict__}" for r in caplog.records)
    assert "botocore" in logged  # the log is on
    for form in forms(EXAMPLE_KEY) + forms(plaintext):
        assert form not in logged
    # The control: a client that is not ours does log it.
    import boto3

    with caplog.at_level("DEBUG"):
        boto3.session.Session().client("kms", region_name=REGION).encrypt(KeyId=arn, Plaintext=plaintext)
    assert any(form in " ".join(r.getMessage() for r in caplog.records) for form in forms(plaintext))


def forms(secret: bytes) -> list[str]:
    """A secret as it may stand in a text: itself, and its base64 at each of the three alignments."""
    encoded = [base64.b64encode(b"\0" * pad + secret).decode()[4:-4] for pad in range(3)]
    return [secret.decode("latin-1"), repr(secret)[2:-1], secret.hex(), *encoded]


def test_json_of_key_check(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "check", uri, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["fingerprint"] == fingerprint_of(EXAMPLE_KEY).hex()
    assert {f["subject"] for f in document["findings"]} >= {"wrapped by", "key state", "account", "rotation", "file"}
