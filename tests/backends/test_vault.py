"""The contract, the import and wrong answers."""

from __future__ import annotations

import hmac
import json
import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from aws_hmac import (
    DeviceError,
    KeyExistsError,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
    UnsupportedError,
    import_key,
    open_backend,
)
from aws_hmac.backend import KeyInspector, fingerprint, fingerprint_of
from aws_hmac.cli.memory_scan import forms, scan
from aws_hmac.testing import EXAMPLE_KEY, ImporterContract, import_into
from aws_hmac.uri import KeyURI
from aws_hmac_backends.vault import VaultBackend

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transit_server.fixtures import Vault

DAY = b"20260101"


class TestVault(ImporterContract):
    @pytest.fixture
    def uri(self, vault: Vault) -> str:
        return vault.uri()


def test_bare_hmac_key_is_what_vault_holds(vault: Vault) -> None:
    named = KeyURI.parse(vault.imported())
    assert named.get("version") == "1"
    read = vault.do("GET", f"{vault.mount}/keys/{named.get('key')}")["data"]
    assert read["type"] == "hmac"
    assert read["imported_key"] is True
    wanted = ("exportable", "allow_plaintext_backup", "deletion_allowed", "imported_key_allow_rotation", "derived")
    assert [read[flag] for flag in wanted] == [False] * len(wanted)
    assert read["auto_rotate_period"] == 0
    assert vault.call("GET", f"{vault.mount}/export/hmac-key/{named.get('key')}").status_code == 400
    assert vault.call("POST", f"{vault.mount}/keys/{named.get('key')}/rotate").status_code == 500


class TestRotation:
    def test_old_versions_are_refused(self, vault: Vault) -> None:
        first = vault.imported(b"first key" * 5)
        with open_backend(first) as old:
            second = import_into(first, b"second key" * 5, overwrite=True)
            assert KeyURI.parse(second).get("version") == "2"
            with open_backend(second) as new:
                assert fingerprint(new) == fingerprint_of(b"second key" * 5)
            with pytest.raises((KeyPolicyError, KeyNotFoundError), match="version"):
                old.hmac_sha256(DAY)
        with pytest.raises(KeyPolicyError, match="version 1 is below the key's minimum of 2"):
            open_backend(first)

    def test_old_versions_can_be_kept(self, vault: Vault) -> None:
        first = vault.imported(b"first key" * 5)
        with open_backend(first) as old:
            second = import_into(f"{first}&old-versions=keep", b"second key" * 5, overwrite=True)
            assert "old-versions" not in second
            with open_backend(second) as new:
                assert fingerprint(new) == fingerprint_of(b"second key" * 5)
            assert fingerprint(old) == fingerprint_of(b"first key" * 5)

    def test_no_version_pins_the_latest(self, vault: Vault) -> None:
        first = KeyURI.parse(vault.imported(b"first key" * 5))
        with open_backend(first.replace(version=None)) as pinned:
            import_into(f"{first}&old-versions=keep", b"second key" * 5, overwrite=True)
            assert fingerprint(pinned) == fingerprint_of(b"first key" * 5)
        with open_backend(first.replace(version=None)) as latest:
            assert fingerprint(latest) == fingerprint_of(b"second key" * 5)

    def test_a_version_that_is_not_there(self, vault: Vault) -> None:
        named = KeyURI.parse(vault.imported())
        with pytest.raises(KeyNotFoundError, match="no version 7; the latest is 1"):
            open_backend(named.replace(version="7"))


class TestUnfitKeys:
    def make(self, vault: Vault, **settings: Any) -> str:
        uri = vault.uri()
        vault.do("POST", f"{vault.mount}/keys/{KeyURI.parse(uri).get('key')}", **settings)
        return uri

    def test_another_type_is_refused_by_name(self, vault: Vault) -> None:
        uri = self.make(vault, type="aes256-gcm96")
        with pytest.raises(UnsupportedError, match="type aes256-gcm96, which makes HMACs with another, random key"):
            open_backend(uri)
        with pytest.raises(UnsupportedError, match="aes256-gcm96"):
            import_into(uri, EXAMPLE_KEY, overwrite=True)

    def test_only_hmac_keys_are_listed(self, vault: Vault) -> None:
        other, named = KeyURI.parse(self.make(vault, type="aes256-gcm96")), KeyURI.parse(vault.imported())
        listed = [KeyURI.parse(entry.uri).get("key") for entry in VaultBackend.list_keys(named.replace(key=None))]
        assert named.get("key") in listed
        assert other.get("key") not in listed
        assert VaultBackend.list_keys(other) == []

    def test_a_missing_key_names_those_that_are_there(self, vault: Vault) -> None:
        named = KeyURI.parse(vault.imported())
        with pytest.raises(KeyNotFoundError, match="there is no such key; there are ") as caught:
            open_backend(named.replace(key="aws-proud", version=None))
        assert str(named.get("key")) in str(caught.value) or "more" in str(caught.value)
        token = vault.token(VaultBackend.policy(named.replace(key="aws-proud"), "signer"))
        query = {**named.query, "token-source": f"file:{vault.file(token)}".encode()}
        with pytest.raises(KeyNotFoundError, match=r"there is no such key$"):  # a signer may not list
            open_backend(KeyURI("vault", {**named.path, "key": "aws-proud"}, query))

    def test_a_key_of_vaults_own_takes_no_import(self, vault: Vault) -> None:
        uri = self.make(vault, type="hmac", key_size=32)
        with pytest.raises(KeyExistsError):
            import_into(uri, EXAMPLE_KEY)
        with pytest.raises(UnsupportedError, match="made by Vault"):
            import_into(uri, EXAMPLE_KEY, overwrite=True)
        with open_backend(uri) as key:
            assert isinstance(key, KeyInspector)
            assert ("warning", "imported_key") in [(f.level, f.subject) for f in key.inspect()]

    @pytest.mark.parametrize("flag", ["exportable", "allow_plaintext_backup"])
    def test_a_readable_key_takes_no_import(self, vault: Vault, flag: str) -> None:
        named = vault.imported()
        vault.do("POST", f"{vault.mount}/keys/{KeyURI.parse(named).get('key')}/config", **{flag: True})
        with pytest.raises(KeyPolicyError, match=f"{flag}, for good"):
            import_into(named, b"another" * 8, overwrite=True)
        with open_backend(named) as key:
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
            assert isinstance(key, KeyInspector)
            assert ("bad", flag) in [(f.level, f.subject) for f in key.inspect()]

    def test_no_engine_there(self, vault: Vault) -> None:
        uri = vault.uri().replace(vault.mount, "no-such-mount")
        with pytest.raises(KeyNotFoundError, match="nothing is mounted there; check mount and namespace"):
            open_backend(uri)
        with pytest.raises(KeyNotFoundError, match="nothing is mounted"):
            import_into(uri, EXAMPLE_KEY)

    def test_deleted_while_open(self, vault: Vault) -> None:
        named = KeyURI.parse(vault.imported())
        with open_backend(named) as key:
            key.hmac_sha256(DAY)
            VaultBackend.delete_key(named)
            with pytest.raises(KeyNotFoundError, match="no such key"):
                key.hmac_sha256(DAY)

    def test_one_version_of_several_is_not_deleted(self, vault: Vault) -> None:
        second = KeyURI.parse(import_into(vault.imported(), b"second" * 8, overwrite=True))
        with pytest.raises(UnsupportedError, match="deletes all 2 versions"):
            VaultBackend.delete_key(second)
        VaultBackend.delete_key(second.replace(version=None))


def test_a_lost_race_is_noticed(vault_double: Vault) -> None:
    """The answer of another's key at the import's proof: nothing is handed out, and the old version still signs."""
    first = vault_double.imported()
    vault_double.order("fault", path=f"{vault_double.mount}/hmac", kind="mac", how="flip")
    with pytest.raises(KeyMismatchError, match="not the key that was imported"):
        import_into(first, b"second" * 8, overwrite=True)
    with open_backend(first) as key:
        assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)


def test_a_failed_import_leaves_nothing(vault_double: Vault) -> None:
    uri = vault_double.uri()
    vault_double.order("fault", path=f"{vault_double.mount}/hmac", kind="mac", how="flip")
    with pytest.raises(KeyMismatchError, match="not the key that was imported"):
        import_into(uri, EXAMPLE_KEY)
    with pytest.raises(KeyNotFoundError):
        open_backend(uri)


class TestLaggingNode:
    """A performance standby that shows an import a little later."""

    def test_a_new_key(self, vault_double: Vault) -> None:
        uri = vault_double.uri()
        path = f"{vault_double.mount}/keys/{KeyURI.parse(uri).get('key')}"
        vault_double.order(
            "fault", path=path, method="GET", skip=1, times=3, kind="status", status=404, errors=list[str]()
        )
        with open_backend(import_into(uri, EXAMPLE_KEY)) as key:
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)

    def test_the_next_version(self, vault_double: Vault) -> None:
        named = vault_double.imported()
        path = f"{vault_double.mount}/keys/{KeyURI.parse(named).get('key')}"
        old = json.dumps(vault_double.do("GET", path))
        vault_double.order("fault", path=path, method="GET", skip=1, times=3, kind="raw", body=old)
        second = import_into(named, b"second" * 8, overwrite=True)
        assert KeyURI.parse(second).get("version") == "2"

    def test_one_that_never_shows_it(self, vault_double: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aws_hmac_backends.vault._SETTLING", 0.3)
        named = vault_double.imported()
        path = f"{vault_double.mount}/keys/{KeyURI.parse(named).get('key')}"
        old = json.dumps(vault_double.do("GET", path))
        vault_double.order("fault", path=path, method="GET", times=99, kind="raw", body=old)
        with pytest.raises(DeviceError, match="shows no version after 1"):
            import_into(named, b"second" * 8, overwrite=True)


SIGNER = """
import sys, warnings
warnings.simplefilter("ignore")
import aws_hmac
signer = aws_hmac.Signer("AKIAIOSFODNN7EXAMPLE", aws_hmac.open_backend(sys.argv[1]))
print(signer.sign("GET", "https://s3.example/", service="s3", region="eu-west-1")["Authorization"], flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the search reads /proc")
def test_the_secret_is_not_in_a_signers_memory(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that was started after the import, and in the control that has the secret it is found."""
    secret = uuid.uuid4().hex + "/Canary+"
    named = import_key(vault.uri(), secret)
    monkeypatch.setenv("CONTROL_SECRET", secret)
    found = {}
    for uri in (named, "memory:env=CONTROL_SECRET"):
        environment = {k: v for k, v in os.environ.items() if k != "CONTROL_SECRET" or uri != named}
        with subprocess.Popen(
            [sys.executable, "-c", SIGNER, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"AWS4-HMAC-SHA256 Credential=AKIA")
            found[uri] = scan(process.pid, forms(secret)).hits
            process.communicate()
    assert set(found.pop(named).values()) == {0}
    (control,) = found.values()
    assert control["the secret"] > 0
    assert control['"AWS4" + secret'] > 0


class TestWrongAnswers:
    """Each is one clear error, and the answer after it is right again."""

    @pytest.mark.parametrize(
        ("how", "error", "said"),
        [
            ("version", KeyMismatchError, "version 2 answered where version 1 was asked"),
            ("prefix", DeviceError, "no HMAC of the form vault:v1:"),
            ("fields", DeviceError, "no HMAC of the form"),
            ("base64", DeviceError, "no HMAC of the form"),
            ("padding", DeviceError, "not base64"),
            ("short", DeviceError, "31 bytes"),
        ],
    )
    def test_mac(self, vault_double: Vault, how: str, error: type[Exception], said: str) -> None:
        with open_backend(vault_double.imported()) as key:
            vault_double.order("fault", path=f"{vault_double.mount}/hmac", kind="mac", how=how)
            with pytest.raises(error, match=said):
                key.hmac_sha256(DAY)
            assert key.hmac_sha256(DAY) == hmac.digest(EXAMPLE_KEY, DAY, "sha256")

    @pytest.mark.parametrize("status", [200, 401, 404])
    def test_html(self, vault_double: Vault, status: int) -> None:
        with open_backend(vault_double.imported()) as key:
            vault_double.order("fault", path=f"{vault_double.mount}/hmac", kind="html", status=status)
            with pytest.raises(DeviceError, match=rf"{status} with text/html instead of Vault's JSON.*login page"):
                key.hmac_sha256(DAY)
            assert key.hmac_sha256(DAY) == hmac.digest(EXAMPLE_KEY, DAY, "sha256")

    @pytest.mark.parametrize("body", ["[]", "{}", '{"data": []}', '{"data": {"hmac": 7}}', '{"data": {"hmac": ""}}'])
    def test_other_json(self, vault_double: Vault, body: str) -> None:
        with open_backend(vault_double.imported()) as key:
            vault_double.order("fault", path=f"{vault_double.mount}/hmac", kind="raw", body=body)
            with pytest.raises(DeviceError):
                key.hmac_sha256(DAY)

    @pytest.mark.parametrize("body", ["[]", '{"errors": 7}', '{"errors": [{}]}', '{"errors": "x"}', "null"])
    def test_odd_errors(self, vault_double: Vault, body: str) -> None:
        with open_backend(vault_double.imported()) as key:
            vault_double.order("fault", path=f"{vault_double.mount}/hmac", kind="raw", status=400, body=body)
            with pytest.raises(DeviceError):
                key.hmac_sha256(DAY)

    @pytest.mark.parametrize("body", ["[]", "{}", '{"data": {}}', '{"data": {"type": "hmac", "latest_version": "1"}}'])
    def test_odd_description(self, vault_double: Vault, body: str) -> None:
        uri = vault_double.imported()
        vault_double.order("fault", path=f"{vault_double.mount}/keys", kind="raw", body=body)
        with pytest.raises(DeviceError):
            open_backend(uri)

    @pytest.mark.parametrize("body", ["{}", '{"data": {"public_key": "no PEM"}}'])
    def test_odd_wrapping_key(self, vault_double: Vault, body: str) -> None:
        vault_double.order("fault", path=f"{vault_double.mount}/wrapping_key", kind="raw", body=body)
        with pytest.raises(DeviceError, match="wrapping key cannot be read"):
            import_into(vault_double.uri(), EXAMPLE_KEY)

    def test_a_small_wrapping_key(self, vault_double: Vault) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        public = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        body = json.dumps({"data": {"public_key": pem.decode()}})
        vault_double.order("fault", path=f"{vault_double.mount}/wrapping_key", kind="raw", body=body)
        with pytest.raises(DeviceError, match="not RSA with 4096 bits"):
            import_into(vault_double.uri(), EXAMPLE_KEY)


class TestURI:
    """What can be told without asking anybody."""

    @pytest.fixture(autouse=True)
    def _alone(self, clean_environment: None) -> None: ...

    @pytest.mark.parametrize(
        ("uri", "said"),
        [
            ("vault:key=aws", "no address"),
            ("vault:?addr=https://v:1", "'key' is missing"),
            ("vault:key=?addr=https://v:1", "key names"),
            ("vault:key=a%2Fb?addr=https://v:1", "key names"),
            ("vault:key=..?addr=https://v:1", "key names"),
            ("vault:key=aws;mount=/transit?addr=https://v:1", "mount must be a path"),
            ("vault:key=aws;mount=a/../b?addr=https://v:1", "mount must be a path"),
            ("vault:key=aws;version=0?addr=https://v:1", "version is '0'"),
            ("vault:key=aws;version=latest?addr=https://v:1", "version is 'latest'"),
            ("vault:key=aws;version=-1?addr=https://v:1", "version is '-1'"),
            ("vault:key=aws?addr=vault:8200", "not as in https://vault:8200"),
            ("vault:key=aws?addr=https://v:1/v1", "has a path"),
            ("vault:key=aws?addr=https://me:hunter2@v:1", "holds a user or password"),
            ("vault:key=aws?addr=https://v:99999", "not as in"),
            ("vault:key=aws?addr=https://v:1,", "not as in"),
            ("vault:key=aws?addr=https://v:1&timeout=0", "timeout is '0'"),
            ("vault:key=aws?addr=https://v:1&timeout=m", "timeout is 'm'"),
            ("vault:key=aws?addr=https://v:1&namespace=a%20b", "namespace is 'a b'"),
            ("vault:key=aws?addr=https://v:1&patience=soon", "patience is 'soon'"),
            ("vault:key=aws?addr=https://v:1&ca-file=/no/such/ca.pem", "ca-file names /no/such/ca.pem"),
            ("vault:key=aws?addr=https://v:1&cert-file=/etc/hostname", "belong together"),
            ("vault:key=aws?addr=https://v:1&proxy=socks4://p:1", "proxy is neither"),
            ("vault:key=aws?addr=https://v:1&proxy=http://me:hunter2@p:1", "proxy holds a user or password"),
            ("vault:key=aws?addr=https://v:1&old-versions=delete", "old-versions"),
            ("vault:key=aws?addr=https://v:1&auth=ldap", "auth is 'ldap'; there are token, approle"),
            ("vault:key=aws?addr=https://v:1&auth=approle&role-id=r", "auth=approle needs secret-id-source"),
            ("vault:key=aws?addr=https://v:1&role-id=r", "role-id does not belong to auth=token"),
            ("vault:key=aws?addr=https://v:1&token=hvs.x", "unknown attribute 'token'"),
            ("vault:key=aws?addr=https://v:1&secret-id=x", "would put a secret into the URI"),
            ("vault:key=aws;addr=https%3A//v:1", "belongs after"),
        ],
    )
    def test_refused(self, uri: str, said: str) -> None:
        with pytest.raises(KeyURIError, match=said) as caught:
            open_backend(uri)
        assert "hunter2" not in str(caught.value)

    def test_the_environment_names_the_server(
        self, vault: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        named = KeyURI.parse(vault.imported())
        bare = f"vault:key={named.get('key')};mount={vault.mount}"
        monkeypatch.setenv("VAULT_ADDR", vault.addresses[0])
        monkeypatch.setenv("VAULT_TOKEN", vault.root)
        with open_backend(bare) as key:
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
        monkeypatch.delenv("VAULT_TOKEN")
        (tmp_path / ".vault-token").write_text(vault.root)
        with open_backend(bare) as key:
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
        (tmp_path / ".bao-token").write_text("hvs.other")
        with open_backend(bare) as key:
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
        (tmp_path / ".vault-token").write_text("hvs.other")
        (tmp_path / ".bao-token").write_text(vault.root)
        monkeypatch.delenv("VAULT_ADDR")
        monkeypatch.setenv("BAO_ADDR", vault.addresses[0])
        with open_backend(bare) as key:
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
