"""The policy that is enough, the one that is a line too little, and what is said of one that is too much."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aws_hmac_backends.vault
from aws_hmac import (
    AuthenticationError,
    DeviceError,
    Finding,
    KeyExistsError,
    KeyInspector,
    KeyPolicyError,
    KeyURIError,
    open_backend,
)
from aws_hmac.backend import fingerprint, fingerprint_of
from aws_hmac.cli import main
from aws_hmac.testing import EXAMPLE_KEY, import_into
from aws_hmac.uri import KeyURI
from aws_hmac_backends.vault import VaultBackend, _connection

if TYPE_CHECKING:
    from tests.transit_server.fixtures import Vault

FULL = 'path "*" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }'


def printed(uri: str, role: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``aws-hmac key policy`` prints."""
    assert main(["key", "policy", uri, "--role", role]) == 0
    return capsys.readouterr().out


def blocks(policy: str) -> list[str]:
    """A policy's paths, each with its block, comments dropped."""
    return re.findall(r'^path "[^"]+"\s*\{(?:[^{}]|\{[^{}]*\})*\}', policy, re.M)


def with_token(vault: Vault, uri: str, token: str) -> str:
    parsed = KeyURI.parse(uri)
    query = {**parsed.query, "token-source": f"file:{vault.file(token)}".encode()}
    return str(KeyURI(parsed.scheme, parsed.path, query))


def findings(uri: str) -> list[Finding]:
    with open_backend(uri) as key:
        assert isinstance(key, KeyInspector)
        return key.inspect()


class TestSigner:
    def test_printed_policy_is_enough(self, vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
        named = vault.imported()
        token = vault.token(printed(named, "signer", capsys))
        with open_backend(with_token(vault, named, token)) as key:
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
        found = findings(with_token(vault, named, token))
        assert {f.level for f in found} == {"good"}
        assert [f.text for f in found if f.subject == "token"] == [
            "it can do nothing with this key but ask for HMACs and look at it"
        ]

    @pytest.mark.parametrize(
        ("line", "said"), [("hmac", r"make an HMAC \(update on \S+/sha2-256\)"), ("keys", "look at the key")]
    )
    def test_one_line_too_little(self, vault: Vault, capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
        named = vault.imported()
        kept = [b for b in blocks(printed(named, "signer", capsys)) if not b.startswith(f'path "{vault.mount}/{line}/')]
        short = with_token(vault, named, vault.token("\n".join(kept)))
        wanted = pytest.raises(KeyPolicyError, match=said + ".*permission denied; aws-hmac key policy prints")
        with wanted, open_backend(short) as key:
            key.hmac_sha256(b"20260101")

    @pytest.mark.parametrize(
        "request_", ["POST keys/{}/config", "POST keys/{}/rotate", "GET export/hmac-key/{}", "GET backup/{}"]
    )
    def test_denials_beat_a_broader_policy(
        self, vault: Vault, capsys: pytest.CaptureFixture[str], request_: str
    ) -> None:
        named = KeyURI.parse(vault.imported())
        policy = printed(str(named), "signer", capsys)
        broad = f'path "{vault.mount}/*" {{ capabilities = ["create", "read", "update", "delete", "list"] }}'
        method, path = request_.format(named.get("key")).split()
        for token, denied in ((vault.token(broad), False), (vault.token(f"{broad}\n{policy}"), True)):
            status = vault.call(method, f"{vault.mount}/{path}", token=token, exportable=False).status_code
            assert (status == 403) is denied, status

    def test_other_keys_are_not_its(self, vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
        mine, other = vault.imported(), vault.imported(b"another" * 8)
        with pytest.raises(KeyPolicyError):
            open_backend(with_token(vault, other, vault.token(printed(mine, "signer", capsys))))


class TestImporter:
    def test_printed_policy_is_enough(self, vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
        uri = vault.uri()
        own = with_token(vault, uri, vault.token(printed(uri, "importer", capsys)))
        with pytest.raises(KeyExistsError):
            import_into(import_into(own, EXAMPLE_KEY), b"second" * 8)
        second = import_into(own, b"second" * 8, overwrite=True)
        assert KeyURI.parse(second).get("version") == "2"
        with open_backend(second) as key:
            assert fingerprint(key) == fingerprint_of(b"second" * 8)

    @pytest.mark.parametrize("number", range(6))
    def test_one_line_too_little(self, vault: Vault, capsys: pytest.CaptureFixture[str], number: int) -> None:
        uri = vault.uri()
        kept = blocks(printed(uri, "importer", capsys))
        path = kept.pop(number).split('"')[1]
        short = with_token(vault, uri, vault.token("\n".join(kept)))
        with pytest.raises(KeyPolicyError, match=f"{re.escape(path)}\\): permission denied"):
            import_into(import_into(short, EXAMPLE_KEY), b"second" * 8, overwrite=True)

    @pytest.mark.parametrize("flag", ["exportable", "allow_plaintext_backup", "deletion_allowed"])
    def test_it_cannot_make_the_key_readable(self, vault: Vault, capsys: pytest.CaptureFixture[str], flag: str) -> None:
        named = KeyURI.parse(vault.imported())
        token = vault.token(printed(str(named), "importer", capsys))
        path = f"{vault.mount}/keys/{named.get('key')}"
        assert vault.call("POST", f"{path}/config", token=token, **{flag: True}).status_code == 403
        assert vault.call("POST", f"{path}/config", token=token, min_decryption_version=1).ok
        refused = vault.call("POST", f"{path}/import", token=token, type="hmac", ciphertext="x", **{flag: True})
        assert refused.status_code == 403


class TestCheck:
    def test_root_token(self, vault: Vault) -> None:
        found = findings(vault.imported())
        assert (found[0].level, found[0].subject) == ("bad", "token")
        assert "root token" in found[0].text

    def test_a_token_that_can_do_anything(self, vault: Vault) -> None:
        named = KeyURI.parse(vault.imported())
        found = findings(with_token(vault, str(named), vault.token(FULL)))
        said = "\n".join(f"{f.level} {f.text}" for f in found if f.subject == "token")
        for power in ("export the key", "make the key exportable", "write policies", "read Vault's storage"):
            assert f"bad the token could {power}" in said
        for power in ("delete the key", "replace the key by a random one", "make HMACs with other keys"):
            assert f"warning the token could {power}" in said

    def test_one_power_too_many(self, vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
        named = KeyURI.parse(vault.imported())
        extra = f'path "{vault.mount}/export/hmac-key/*" {{ capabilities = ["read"] }}\n'
        policy = "\n".join(b for b in blocks(printed(str(named), "signer", capsys)) if '["deny"]' not in b)
        found = findings(with_token(vault, str(named), vault.token(policy + extra)))
        assert [(f.level, f.text) for f in found if f.subject == "token"] == [
            (
                "bad",
                "the token could export the key, were it ever exportable"
                f" (read on {vault.mount}/export/hmac-key/{named.get('key')})",
            )
        ]

    def test_a_token_that_may_not_ask(self, vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
        named = vault.imported()
        policy = "\n".join(b for b in blocks(printed(named, "signer", capsys)) if "capabilities-self" not in b)
        found = findings(with_token(vault, named, vault.token(policy)))
        assert [(f.level, f.text) for f in found if f.subject == "token"] == [
            ("info", "it may not ask what it may do (update on sys/capabilities-self)")
        ]

    @pytest.mark.parametrize("body", ["{}", "[]", '{"data": []}', '{"data": {"sys/raw/logical": ["deny"]}}'])
    def test_no_answer_is_no_good_news(self, vault_double: Vault, body: str) -> None:
        named = vault_double.imported()
        vault_double.order("fault", path="sys/capabilities-self", kind="raw", body=body)
        with pytest.raises(DeviceError):
            findings(named)

    def test_flags(self, vault: Vault) -> None:
        named = KeyURI.parse(vault.imported())
        assert {f.level for f in findings(str(named)) if f.subject != "token"} == {"good"}
        path = f"{vault.mount}/keys/{named.get('key')}/config"
        vault.do("POST", path, deletion_allowed=True, auto_rotate_period=3600)
        second = import_into(f"{named}&old-versions=keep", b"second" * 8, overwrite=True)
        said = {f.subject: (f.level, f.mend) for f in findings(second)}
        assert said["deletion_allowed"][0] == "warning"
        assert said["auto_rotate_period"][0] == "bad"
        assert said["version"] == (
            "warning",
            f"vault write {path} min_decryption_version=2 min_encryption_version=2",
        )
        assert {f.subject: f.level for f in findings(str(named))}["version"] == "warning"

    def test_a_closed_key_tells_nothing(self, vault: Vault) -> None:
        key = open_backend(vault.imported())
        key.close()
        assert isinstance(key, VaultBackend)
        with pytest.raises(DeviceError, match="closed"):
            key.inspect()


class TestCommand:
    def test_names_the_mount_and_the_key(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = printed("vault:key=aws-prod;mount=team/transit", "signer", capsys)
        assert 'path "team/transit/hmac/aws-prod/sha2-256" { capabilities = ["update"] }' in text

    def test_the_two_roles_differ(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "/import" not in re.sub(r'.*\["deny"\].*', "", printed("vault:key=aws-prod", "signer", capsys))
        assert '"transit/keys/aws-prod/import_version"' in printed("vault:key=aws-prod", "importer", capsys)

    @pytest.mark.parametrize(
        ("uri", "said"),
        [
            ("vault:", "'key' is missing"),
            ("vault:key=a/b", "key names"),
            ("vault:key=aws;mont=x", "did you mean 'mount'"),
            ("memory:env=SECRET", "memory: no policy language guards these keys"),
            ("hunter2", "does not begin with a scheme"),
        ],
    )
    def test_refused(self, capsys: pytest.CaptureFixture[str], uri: str, said: str) -> None:
        assert main(["key", "policy", uri]) == 1
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert "hunter2" not in error

    def test_needs_no_vault(self, clean_environment: None) -> None:
        assert "update" in VaultBackend.policy(KeyURI.parse("vault:key=aws"), "signer")
        with pytest.raises(KeyURIError):
            VaultBackend.policy(KeyURI.parse("vault:"), "signer")


class TestDocs:
    TEXT = (Path(__file__).parents[2] / "docs" / "vault.md").read_text()

    def test_policy_is_the_one_that_is_printed(self) -> None:
        shown = re.search(r"```hcl\n(.*?)```", self.TEXT, re.S)
        assert shown
        printed_ = VaultBackend.policy(KeyURI.parse("vault:key=aws-prod"), "signer")
        lines = [line for line in shown[1].splitlines() if line]
        assert len(lines) == 6
        assert [line for line in printed_.splitlines() if line in lines] == lines

    @pytest.mark.parametrize("attribute", sorted({*_connection.PATH, *_connection.QUERY}))
    def test_every_attribute_is_in_both_tables(self, attribute: str) -> None:
        assert re.search(rf"^\| [^|]*`{attribute}`", self.TEXT, re.M)
        assert re.search(rf"^``{attribute}`` ", aws_hmac_backends.vault.__doc__ or "", re.M)

    @pytest.mark.parametrize(
        "name", ["KeyURI", "KeyNotFound", "Unsupported", "KeyPolicy", "KeyMismatch", "KeyExists", "Authentication"]
    )
    def test_errors(self, name: str) -> None:
        assert f"| `{name}Error` |" in self.TEXT


def test_no_token_at_all(vault: Vault) -> None:
    named = KeyURI.parse(vault.imported())
    query = {k: v for k, v in named.query.items() if k != "token-source"}
    with pytest.raises(AuthenticationError, match="no token; give token-source, VAULT_TOKEN"):
        open_backend(KeyURI("vault", named.path, query))
    with pytest.raises(KeyPolicyError, match="permission denied"):
        open_backend(KeyURI("vault", named.path, {**query, "auth": "none"}))
