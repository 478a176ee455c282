"""What stands between this machine and Vault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests

from aws_hmac.backend import Finding
from aws_hmac.errors import AuthenticationError, Error
from aws_hmac.uri import KeyURI
from aws_hmac_backends.vault import _connection
from aws_hmac_backends.vault._auth import ATTRIBUTES
from aws_hmac_backends.vault._connection import Connection

if TYPE_CHECKING:
    from aws_hmac_backends.vault import VaultBackend

# developer.hashicorp.com/vault/api-docs/system/health
_CODES: dict[int, tuple[Any, str, str]] = {
    200: ("good", "the active node", ""),
    429: ("good", "a standby", ""),
    472: ("bad", "the active node of a disaster recovery secondary, which serves nobody", "name the primary in addr"),
    473: ("good", "a performance standby", ""),
    501: ("bad", "not initialized", "vault operator init"),
    503: ("bad", "sealed", "its keepers must unseal it: vault operator unseal"),
}


def diagnose(backend: type[VaultBackend], uri: KeyURI | None) -> list[Finding]:
    """Returns what was found; see `aws_hmac.backend.Diagnosable`."""
    if uri is None:
        if _connection.environment("ADDR") is None:
            return [Finding("info", "vault", "neither VAULT_ADDR nor BAO_ADDR is set")]
        uri = KeyURI("vault", {})
    try:
        connection = Connection(_without_login(uri))
    except Error as exc:
        return [Finding("bad", "vault", str(exc))]
    found = []
    try:
        for address in connection.cluster.addresses:
            found.append(_health(connection, address))
            if _connection.in_clear(address):
                found.append(Finding("bad", address, "not encrypted: token and HMACs can be read", "use https"))
    finally:
        connection.close()
    if uri.get("key") is None or not any(f.level == "good" for f in found):
        return found
    try:
        with backend.from_uri(uri) as key:
            found.append(Finding("good", key.name, "the login works, and the key is there"))
            return found + key.inspect()
    except AuthenticationError as exc:
        return [*found, Finding("bad", "login", str(exc))]
    except Error as exc:
        return [*found, Finding("bad", "key", str(exc))]


def _without_login(uri: KeyURI) -> KeyURI:
    """The same Vault, asked without a token: its health needs none."""
    query = {k: v for k, v in uri.query.items() if k not in ATTRIBUTES - {"cert-file", "key-file"}}
    return KeyURI(uri.scheme, uri.path, {**query, "auth": b"none"})


def _health(connection: Connection, address: str) -> Finding:
    try:
        response = connection.cluster.node(address, "GET", "/v1/sys/health")
        body = response.json()
    except requests.JSONDecodeError:
        return Finding("bad", address, "this is not Vault: its health is not JSON", "check addr and proxies")
    except requests.RequestException as exc:
        return Finding("bad", address, connection.cluster.explain(address, exc), "check addr, network and firewall")
    level, text, mend = _CODES.get(response.status_code, ("bad", f"health code {response.status_code}", ""))
    version = body.get("version") if isinstance(body, dict) else None
    return Finding(level, address, f"{text}{f', version {version}' if version else ''}", mend)
