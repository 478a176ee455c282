"""A KEK in Google Cloud KMS: its own client library against a small server that speaks its gRPC protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import grpc
import pytest

from aws_hmac import (
    AuthenticationError,
    DeviceBusyError,
    DeviceError,
    Finding,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
    open_backend,
)
from aws_hmac.backend import fingerprint, fingerprint_of
from aws_hmac.cli import main
from aws_hmac.testing import EXAMPLE_KEY, ImporterContract, import_into, in_fork
from aws_hmac.uri import KeyURI
from aws_hmac_backends.tink import TinkBackend, gcp
from tests.backends.gcp_kms_server import GcpKms, State

if TYPE_CHECKING:
    from pathlib import Path

    from aws_hmac.errors import Error

Code = grpc.StatusCode


class TestGcpKek(ImporterContract):
    threads = 8
    calls_per_thread = 10

    @pytest.fixture
    def uri(self, gcp_kms: GcpKms, tmp_path: Path) -> str:
        key = gcp_kms.create_key("kek")
        return f"tink:file={tmp_path}/keyset.json;kek=gcp-kms://{key}?endpoint-url={gcp_kms.url}"


@pytest.fixture
def key(gcp_kms: GcpKms) -> str:
    return gcp_kms.create_key("kek")


@pytest.fixture
def uri(gcp_kms: GcpKms, key: str, tmp_path: Path) -> str:
    return import_into(
        f"tink:file={tmp_path}/k.json;kek=gcp-kms://{key}?endpoint-url={gcp_kms.url}",
        EXAMPLE_KEY,
        label="AKIAIOSFODNN7EXAMPLE",
    )


def compute(uri: str) -> bytes:
    with open_backend(uri) as backend:
        return fingerprint(backend)


def inspect(uri: str) -> dict[str, Finding]:
    with open_backend(uri) as backend:
        assert isinstance(backend, TinkBackend)
        return {finding.subject: finding for finding in backend.inspect()}


def test_tinks_own_integration_reads_ours(gcp_kms: GcpKms, key: str, uri: str, tmp_path: Path) -> None:
    import hmac

    from google.auth.credentials import AnonymousCredentials
    from google.cloud import kms_v1
    from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
    from tink import json_proto_keyset_format, mac
    from tink.integration import gcpkms

    channel = grpc.insecure_channel(gcp_kms.url.removeprefix("http://"))
    anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call] # google-auth ships half its types
    transport = KeyManagementServiceGrpcTransport(channel=channel, credentials=anonymous)
    theirs = gcpkms.new_client(kms_v1_client=kms_v1.KeyManagementServiceClient(transport=transport)).get_aead(
        f"gcp-kms://{key}"
    )
    mac.register()
    handle = json_proto_keyset_format.parse_encrypted(
        (tmp_path / "k.json").read_text(), theirs, b"AKIAIOSFODNN7EXAMPLE"
    )
    assert handle.primitive(mac.Mac).compute_mac(b"x") == hmac.digest(EXAMPLE_KEY, b"x", "sha256")
    text = json_proto_keyset_format.serialize_encrypted(handle, theirs, b"AKIAIOSFODNN7EXAMPLE")
    (tmp_path / "k.json").write_text(text)
    assert compute(uri) == fingerprint_of(EXAMPLE_KEY)
    with pytest.raises(KeyMismatchError):
        compute(uri.replace("AKIAI", "AKIAJ"))
    channel.close()


def test_encrypted_by_another_key(gcp_kms: GcpKms, key: str, tmp_path: Path) -> None:
    other = gcp_kms.create_key("other")
    gcp_kms.answers["Encrypt"] = lambda answer: setattr(answer, "name", f"{other}/cryptoKeyVersions/1")
    with pytest.raises(KeyMismatchError, match=f"used the key {other}"):
        import_into(f"tink:file={tmp_path}/k.json;kek=gcp-kms://{key}?endpoint-url={gcp_kms.url}", EXAMPLE_KEY)


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [("Encrypt", "ciphertext", b"x"), ("Encrypt", "verified_plaintext_crc32c", False), ("Decrypt", "plaintext", b"x")],
)
def test_checksums(gcp_kms: GcpKms, key: str, uri: str, tmp_path: Path, method: str, field: str, value: object) -> None:
    gcp_kms.answers[method] = lambda answer: setattr(answer, field, value)
    with pytest.raises(DeviceError, match="CRC32C"):
        if method == "Decrypt":
            compute(uri)
        else:
            import_into(f"tink:file={tmp_path}/n.json;kek=gcp-kms://{key}?endpoint-url={gcp_kms.url}", EXAMPLE_KEY)


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (Code.PERMISSION_DENIED, KeyPolicyError, "cloudkms.cryptoKeyVersions.useToDecrypt on projects/test"),
        (Code.UNAUTHENTICATED, AuthenticationError, "application-default"),
        (Code.NOT_FOUND, KeyNotFoundError, "no key projects/test"),
        (Code.FAILED_PRECONDITION, KeyPolicyError, "state of projects/test"),
        (Code.INVALID_ARGUMENT, KeyMismatchError, "associated data"),
        (Code.RESOURCE_EXHAUSTED, DeviceBusyError, "too busy"),
        (Code.UNAVAILABLE, DeviceError, "cannot be reached or failed"),
        (Code.INTERNAL, DeviceError, "cannot be reached or failed"),
    ],
)
def test_faults(
    gcp_kms: GcpKms, uri: str, monkeypatch: pytest.MonkeyPatch, status: grpc.StatusCode, error: type[Error], said: str
) -> None:
    monkeypatch.setattr(gcp, "TIMEOUT", 1)
    gcp_kms.fault["Decrypt"] = (status, -1)
    with pytest.raises(error, match=said) as caught:
        compute(uri)
    assert type(caught.value).__module__ == "aws_hmac.errors"
    gcp_kms.fault["Decrypt"] = (status, 1 if status in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE) else 0)
    assert compute(uri) == fingerprint_of(EXAMPLE_KEY)  # one refusal for want of time is tried again


def test_unreachable(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcp, "TIMEOUT", 1)
    gone = KeyURI.parse(uri).replace(endpoint_url="http://127.0.0.1:9")
    with pytest.raises(DeviceError, match="cannot be reached"):
        compute(str(gone))


@pytest.mark.parametrize("endpoint", ["http://kms.example.com", "127.0.0.1:1"])
def test_endpoints_that_cannot_be(uri: str, endpoint: str) -> None:
    with pytest.raises(KeyURIError, match="endpoint-url"):
        open_backend(KeyURI.parse(uri).replace(endpoint_url=endpoint))


def test_no_credentials(uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(AuthenticationError, match="no credentials"):
        compute(str(KeyURI.parse(uri).replace(endpoint_url=None)))


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        (State.DISABLED, KeyPolicyError, "version 1 disabled"),
        (State.DESTROY_SCHEDULED, KeyPolicyError, "pending destruction at 2030-01-02 03:04 UTC"),
        (State.DESTROYED, KeyPolicyError, "version 1 is DESTROYED"),
    ],
)
def test_states(
    gcp_kms: GcpKms, key: str, uri: str, state: State, error: type[Error], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gcp_kms.states[f"{key}/cryptoKeyVersions/1"] = state
    with pytest.raises(error):
        compute(uri)
    assert main(["key", "check", uri]) == 1
    assert said in capsys.readouterr().out
    gcp_kms.states.clear()
    seen = inspect(uri)
    assert seen["key state"].text == "version 1 enabled"
    assert seen["wrapped by"].level == "good"
    assert "project test, global" in seen["account"].text
    assert "every 90 days" in seen["rotation"].text
    gcp_kms.keys.clear()
    assert "missing" in inspect(uri)["key state"].text


def test_rotated_and_rewrapped_by_the_same_key(gcp_kms: GcpKms, key: str, uri: str, tmp_path: Path) -> None:
    assert "key version" not in inspect(uri)
    gcp_kms.create_key("kek")
    assert "not the primary" in inspect(uri)["key version"].text
    rewrapped = str(TinkBackend.rewrap_key(KeyURI.parse(uri), f"gcp-kms://{key}"))
    assert rewrapped == uri
    assert "key version" not in inspect(rewrapped)
    # What became of the old version matters no more.
    gcp_kms.states[f"{key}/cryptoKeyVersions/1"] = State.DESTROYED
    assert main(["key", "check", rewrapped]) == 0
    gcp_kms.states.clear()
    assert [f.subject for f in TinkBackend.confirm_rewrap(KeyURI.parse(rewrapped))] == ["rewrap", "old keyset"]


def test_forked_child_is_told(uri: str) -> None:
    """gRPC does not survive a fork: a child that asked would wait for ever."""
    with open_backend(uri) as backend:
        fingerprint(backend)

        def child() -> bytes:
            try:
                return compute(uri)  # opened anew, even
            except DeviceError as exc:
                return str(exc).encode()

        assert b"does not survive" in in_fork(child)
        assert fingerprint(backend) == fingerprint_of(EXAMPLE_KEY)


def test_nothing_is_logged(uri: str) -> None:
    """At DEBUG Google's client hands requests and answers to the log; ours must not."""
    program = """
import logging, sys
class Shown(logging.Handler):
    def emit(self, record):
        print(record.name, record.getMessage(), record.__dict__)
logging.basicConfig(level=logging.DEBUG, handlers=[Shown()])
from aws_hmac import open_backend
from aws_hmac.backend import fingerprint
with open_backend(sys.argv[1]) as backend:
    print("fingerprint", fingerprint(backend).hex())
    kek = backend._keks[0]
    if sys.argv[2] == "control":
        import aws_hmac_backends.tink.gcp as gcp, contextlib
        gcp.quiet = lambda *_: contextlib.nullcontext()
        fingerprint(backend)
"""
    environment = {**os.environ, "GOOGLE_SDK_PYTHON_LOGGING_SCOPE": "google.cloud.kms_v1"}
    outputs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, uri, mode],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        for mode in ("ours", "control")
    ]
    leaks = [("plaintext" in done.stdout + done.stderr) for done in outputs]
    assert fingerprint_of(EXAMPLE_KEY).hex() in outputs[0].stdout
    assert leaks == [False, True]
