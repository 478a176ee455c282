"""Fixtures: a Vault to test against. A double, or with ``make test-vault`` and VAULT_ADDR, VAULT_TOKEN a real one."""

from __future__ import annotations

import base64
import functools
import json
import os
import socket
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from aws_hmac.testing import EXAMPLE_KEY, import_into

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
REAL = bool(os.environ.get("AWS_HMAC_TEST_VAULT") and os.environ.get("VAULT_ADDR") and os.environ.get("VAULT_TOKEN"))
"""Whether the tests run against a real server. ``make test`` never does, whatever a shell has set."""

_REAL_ADDR, _REAL_TOKEN = os.environ.get("VAULT_ADDR", ""), os.environ.get("VAULT_TOKEN", "")


class Vault:
    """One server or cluster, seen by its administrator.

    Attributes:
        addresses: of its nodes.
        root: a token that may do everything.
        mount: where Transit is mounted for these tests.
        folder: where the tests keep tokens.
        double: whether this is the test double, which obeys `order`.
    """

    def __init__(self, addresses: Sequence[str], root: str, control: int | None, verify: bool | str = True) -> None:
        self.addresses = list(addresses)
        self.root = root
        self.mount = f"aws-hmac-{uuid.uuid4().hex[:8]}"
        self.folder = Path()
        self.verify = verify
        self.cert: tuple[str, str] | None = None
        self.double = control is not None
        self._control = socket.create_connection(("127.0.0.1", control)) if control is not None else None
        self._answers = self._control.makefile("rb") if self._control is not None else None

    def call(
        self, method: str, path: str, /, *, token: str | None = None, node: int = 0, **body: Any
    ) -> requests.Response:
        """Sends a request as ``curl`` would."""
        headers = {"X-Vault-Token": self.root if token is None else token, "X-Vault-Request": "true"}
        headers |= {name: str(body.pop(name)) for name in list(body) if name.startswith("X-Vault-")}
        return requests.request(
            method,
            f"{self.addresses[node]}/v1/{path}",
            headers=headers,
            json=body or None,
            verify=self.verify,
            cert=self.cert,
            timeout=30,
        )

    def do(self, method: str, path: str, /, **body: Any) -> dict[str, Any]:
        """Does something as the administrator; returns the answer's JSON."""
        response = self.call(method, path, **body)
        assert response.ok, f"{method} {path}: {response.status_code} {response.text}"
        return dict(response.json()) if response.content else {}

    def order(self, do: str, **what: Any) -> Any:
        """Tells the double what to do to itself."""
        assert self._control is not None
        assert self._answers is not None
        self._control.sendall(json.dumps({"do": do, **what}).encode() + b"\n")
        return json.loads(self._answers.readline())

    def token(self, policy: str | None = None, **settings: Any) -> str:
        """Makes a token with one policy's text, or none, and without the default policy."""
        name = f"aws-hmac-{uuid.uuid4().hex[:8]}"
        if policy is not None:
            self.do("PUT", f"sys/policies/acl/{name}", policy=policy)
        settings = {"ttl": "1h", "no_default_policy": True, **settings}
        made = self.do("POST", "auth/token/create", policies=[name] if policy is not None else ["none"], **settings)
        return str(made["auth"]["client_token"])

    def file(self, text: str) -> Path:
        """Puts a secret into a file that nobody else can read."""
        path = self.folder / uuid.uuid4().hex
        path.touch(0o600)
        path.write_text(text)
        return path

    def uri(self, key: str | None = None, *, token: str | None = None, path: str = "", **query: str) -> str:
        """Returns a key URI; the administrator's token unless another, or another ``auth``, is given."""
        key = key or f"key-{uuid.uuid4().hex[:8]}"
        attributes = {"addr": ",".join(self.addresses)}
        if "auth" not in query and "token_source" not in query:
            attributes["token-source"] = f"file:{self.file(self.root if token is None else token)}"
        attributes |= {name.replace("_", "-"): value for name, value in query.items()}
        return f"vault:key={key};mount={self.mount}{path}?" + "&".join(f"{k}={v}" for k, v in attributes.items())

    def imported(self, key: bytes = EXAMPLE_KEY, **query: str) -> str:
        """Imports a key as the administrator; returns its URI."""
        return import_into(self.uri(**query), key)

    def close(self) -> None:
        if self._control is not None and self._answers is not None:
            self._answers.close()
            self._control.close()


@functools.cache
def _wrapping_key() -> bytes:
    """One for all doubles of a process, as making one takes seconds."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=4096)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return base64.b64encode(key.private_bytes(*form))


@contextmanager
def double(*arguments: str, verify: bool | str = True) -> Iterator[Vault]:
    """Runs a double of its own until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.transit_server", "--wrapping-key", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(_wrapping_key() + b"\n")
        process.stdin.flush()
        try:
            ready = json.loads(process.stdout.readline())
            vault = Vault(ready["addresses"], ready["root_token"], ready["control"], verify)
            try:
                yield vault
            finally:
                vault.close()
        finally:
            process.stdin.close()
            process.wait(10)


@pytest.fixture(scope="session")
def vault_server() -> Iterator[Vault]:
    """One Vault for all tests of a process, with Transit mounted."""
    if REAL:
        vault = Vault([_REAL_ADDR], _REAL_TOKEN, None, os.environ.get("VAULT_CACERT") or True)
        if os.environ.get("VAULT_CLIENT_CERT"):
            vault.cert = (os.environ["VAULT_CLIENT_CERT"], os.environ["VAULT_CLIENT_KEY"])
        vault.do("POST", f"sys/mounts/{vault.mount}", type="transit")
        try:
            yield vault
        finally:
            vault.do("DELETE", f"sys/mounts/{vault.mount}")
        return
    with double() as vault:
        vault.do("POST", f"sys/mounts/{vault.mount}", type="transit")
        yield vault


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No VAULT_ variable that would name another server or token, and a home without a token."""
    for name in list(os.environ):
        kept = REAL and name in ("VAULT_CACERT", "VAULT_CAPATH", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY")
        if name.startswith(("VAULT_", "BAO_")) and not kept:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def vault(vault_server: Vault, clean_environment: None, tmp_path: Path) -> Iterator[Vault]:
    """A Vault with Transit mounted; the double is healed of its faults afterwards."""
    vault_server.folder = tmp_path
    yield vault_server
    if vault_server.double:
        vault_server.order("heal")


@pytest.fixture
def vault_double(vault: Vault) -> Vault:
    """The double, for what a real server cannot be told to do."""
    if not vault.double:
        pytest.skip("a real server cannot be told to answer wrongly")
    return vault


@pytest.fixture
def vault_cluster(clean_environment: None, tmp_path: Path) -> Iterator[Vault]:
    """Three nodes, the first of them active."""
    if REAL:
        pytest.skip("a real server's nodes are not the tests' to kill")
    with double("--nodes", "3") as vault:
        vault.folder = tmp_path
        vault.do("POST", f"sys/mounts/{vault.mount}", type="transit")
        yield vault
