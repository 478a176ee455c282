"""Each login, and what becomes of its token."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import os
import threading
import time
import traceback
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from aws_hmac import AuthenticationError, DeviceError, Error, KeyPolicyError, KeyURIError, open_backend
from aws_hmac.backend import fingerprint, fingerprint_of
from aws_hmac.testing import EXAMPLE_KEY, in_fork
from aws_hmac.uri import KeyURI
from aws_hmac_backends.vault import VaultBackend, _auth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.transit_server.fixtures import Vault

DAY = b"20260101"


class Login:
    """An auth method that is mounted for one test, and a key that its users may sign with."""

    def __init__(self, vault: Vault, kind: str) -> None:
        self.vault = vault
        self.mount = f"{kind}-{uuid.uuid4().hex[:8]}"
        vault.do("POST", f"sys/auth/{self.mount}", type=kind)
        self.key = KeyURI.parse(vault.imported()).get("key") or ""
        self.policy = f"aws-hmac-{uuid.uuid4().hex[:8]}"
        text = VaultBackend.policy(KeyURI.parse(vault.uri(self.key)), "signer")
        vault.do("PUT", f"sys/policies/acl/{self.policy}", policy=text)

    def role(self, kind: str, name: str, **settings: Any) -> None:
        settings = {"token_policies": [self.policy], "token_no_default_policy": True, "token_ttl": "1h", **settings}
        self.vault.do("POST", f"auth/{self.mount}/{kind}/{name}", **settings)

    def uri(self, auth: str, **query: str) -> str:
        return self.vault.uri(self.key, path=";version=1", auth=auth, auth_mount=self.mount, **query)


@pytest.fixture
def approle(vault: Vault) -> Login:
    login = Login(vault, "approle")
    login.role("role", "signer")
    return login


def role_id(login: Login) -> str:
    return str(login.vault.do("GET", f"auth/{login.mount}/role/signer/role-id")["data"]["role_id"])


def secret_id(login: Login) -> str:
    return str(login.vault.do("POST", f"auth/{login.mount}/role/signer/secret-id")["data"]["secret_id"])


def signs(uri: str) -> bool:
    with open_backend(uri) as key:
        return fingerprint(key) == fingerprint_of(EXAMPLE_KEY)


def lookup(vault: Vault, token: str) -> int:
    return vault.call("GET", "auth/token/lookup-self", token=token).status_code


def held(key: object) -> str:
    """The token that a backend has just now."""
    assert isinstance(key, VaultBackend)
    return str(key._connection.cluster.token)


class TestToken:
    def test_from_the_environment_by_name(self, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
        named = KeyURI.parse(vault.imported())
        monkeypatch.setenv("MY_TOKEN", vault.root)
        assert signs(vault.uri(str(named.get("key")), token_source="env:MY_TOKEN"))

    @pytest.mark.parametrize("token", ["hvs.wrong", "hvs.wrong\nhvs.wrong", " hvs.wrong", "hvs.wrong\u20ac"])
    def test_wrong(self, vault: Vault, token: str) -> None:
        uri = vault.uri(token=token)
        with pytest.raises(AuthenticationError) as caught:
            open_backend(uri)
        chain: BaseException | None = caught.value
        while chain is not None:
            assert "hvs.wrong" not in str(chain)
            chain = chain.__cause__ or chain.__context__

    def test_wrong_in_the_environment(self, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VAULT_TOKEN", "hvs. wrong")
        with pytest.raises(AuthenticationError, match="VAULT_TOKEN holds no Vault token"):
            open_backend(f"vault:key=k?addr={vault.addresses[0]}")

    def test_expired_while_open(self, vault: Vault) -> None:
        named = KeyURI.parse(vault.imported())
        token = vault.token(VaultBackend.policy(named, "signer"))
        with open_backend(vault.uri(str(named.get("key")), token=token)) as key:
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
            assert vault.call("POST", "auth/token/revoke-self", token=token).ok
            with pytest.raises(AuthenticationError, match="has expired, was revoked, or may not do this"):
                key.hmac_sha256(DAY)

    def test_agents_sink_is_read_again(self, vault: Vault) -> None:
        """Vault Agent writes a new token into its sink; the old one dies."""
        named = KeyURI.parse(vault.imported())
        policy = VaultBackend.policy(named, "signer")
        first, second = vault.token(policy), vault.token(policy)
        sink = vault.file(first)
        with open_backend(vault.uri(str(named.get("key")), token_source=f"file:{sink}")) as key:
            key.hmac_sha256(DAY)
            assert held(key) == first
            sink.write_text(second)
            vault.call("POST", "auth/token/revoke-self", token=first)
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
            assert held(key) == second

    def test_is_not_revoked_at_the_end(self, vault: Vault) -> None:
        named = KeyURI.parse(vault.imported())
        token = vault.token(VaultBackend.policy(named, "signer"))
        assert signs(vault.uri(str(named.get("key")), token=token))
        assert lookup(vault, token) == 200

    def test_renewed_while_nobody_asks(self, vault: Vault) -> None:
        """A token of two seconds still signs after four: nothing but its keeper has renewed it."""
        named = KeyURI.parse(vault.imported())
        policy = VaultBackend.policy(named, "signer")
        kept, left = vault.token(policy, ttl="2s"), vault.token(policy, ttl="2s")
        with open_backend(vault.uri(str(named.get("key")), token=kept)) as key:
            key.hmac_sha256(DAY)
            time.sleep(4)
            assert lookup(vault, left) == 403
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
            assert held(key) == kept
            keeper = key._connection.auth._keeper  # type: ignore[attr-defined]
        keeper.join(2)
        assert not keeper.is_alive()

    def test_the_next_token_in_the_sink_is_kept_as_well(self, vault: Vault) -> None:
        named = KeyURI.parse(vault.imported())
        policy = VaultBackend.policy(named, "signer")
        first, second = vault.token(policy, ttl="1s", renewable=False), vault.token(policy, ttl="2s")
        sink = vault.file(first)
        with open_backend(vault.uri(str(named.get("key")), token_source=f"file:{sink}")) as key:
            sink.write_text(second)
            time.sleep(1.1)
            key.hmac_sha256(DAY)
            time.sleep(2.5)
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
            assert held(key) == second

    def test_not_renewable(self, vault: Vault) -> None:
        named = KeyURI.parse(vault.imported())
        token = vault.token(VaultBackend.policy(named, "signer"), ttl="1s", renewable=False)
        with open_backend(vault.uri(str(named.get("key")), token=token)) as key:
            key.hmac_sha256(DAY)
            time.sleep(1.6)
            with pytest.raises(AuthenticationError, match="expired"):
                key.hmac_sha256(DAY)


class TestAppRole:
    def test_signs_and_gives_its_token_back(self, approle: Login) -> None:
        source = f"file:{approle.vault.file(secret_id(approle))}"
        uri = approle.uri("approle", role_id=role_id(approle), secret_id_source=source)
        with open_backend(uri) as key:
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
            token = held(key)
            assert lookup(approle.vault, token) == 200
        assert lookup(approle.vault, token) == 403

    def test_wrong_secret_id(self, approle: Login) -> None:
        uri = approle.uri("approle", role_id=role_id(approle), secret_id_source=f"file:{approle.vault.file('wrong')}")
        with pytest.raises(AuthenticationError, match="the approle login was refused: invalid role or secret ID"):
            open_backend(uri)

    def test_not_mounted(self, approle: Login) -> None:
        approle.mount = "no-such-mount"
        uri = approle.uri("approle", role_id="r", secret_id_source=f"file:{approle.vault.file('x')}")
        with pytest.raises((AuthenticationError, KeyPolicyError)):
            open_backend(uri)

    def test_logs_in_again_when_the_token_is_gone(self, approle: Login) -> None:
        source = f"file:{approle.vault.file(secret_id(approle))}"
        with open_backend(approle.uri("approle", role_id=role_id(approle), secret_id_source=source)) as key:
            first = held(key)
            approle.vault.call("POST", "auth/token/revoke-self", token=first)
            failures: list[str] = []

            def ask(number: int) -> None:
                message = b"%d" % number
                if key.hmac_sha256(message) != hmac.digest(EXAMPLE_KEY, message, "sha256"):
                    failures.append(f"wrong for {number}")

            threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failures == []
            assert held(key) != first

    def test_token_is_renewed_or_replaced_before_it_expires(self, approle: Login) -> None:
        """With a life of one second, and two at most, HMACs are asked for during four."""
        approle.role("role", "signer", token_ttl="1s", token_max_ttl="2s")
        source = f"file:{approle.vault.file(secret_id(approle))}"
        with open_backend(approle.uri("approle", role_id=role_id(approle), secret_id_source=source)) as key:
            seen = set()
            until = time.monotonic() + 4
            while time.monotonic() < until:
                assert key.hmac_sha256(DAY) == hmac.digest(EXAMPLE_KEY, DAY, "sha256")
                seen.add(held(key))
                time.sleep(0.1)
        assert 2 <= len(seen) <= 5, "renewed for as long as that helps, then replaced"

    def test_batch_tokens_are_replaced(self, approle: Login) -> None:
        """They cannot be renewed or revoked, and cost Vault no storage."""
        approle.role("role", "signer", token_ttl="1s", token_type="batch")
        source = f"file:{approle.vault.file(secret_id(approle))}"
        with open_backend(approle.uri("approle", role_id=role_id(approle), secret_id_source=source)) as key:
            seen = set()
            until = time.monotonic() + 2
            while time.monotonic() < until:
                assert key.hmac_sha256(DAY) == hmac.digest(EXAMPLE_KEY, DAY, "sha256")
                seen.add(held(key))
                time.sleep(0.05)
        assert 3 <= len(seen) <= 5, "a new one when two thirds of a second have passed"

    def test_one_refusal_is_not_repeated_by_every_thread(self, approle: Login) -> None:
        vault = approle.vault
        if not vault.double:
            pytest.skip("a real server does not count requests for us")
        file = vault.file(secret_id(approle))
        uri = approle.uri("approle", role_id=role_id(approle), secret_id_source=f"file:{file}")
        with open_backend(uri) as key:
            file.write_text("wrong")
            vault.call("POST", "auth/token/revoke-self", token=held(key))
            before = vault.order("status")["logins"]
            refused: list[BaseException] = []

            def ask() -> None:
                with pytest.raises(AuthenticationError) as caught:
                    key.hmac_sha256(DAY)
                refused.append(caught.value)

            threads = [threading.Thread(target=ask) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(refused) == 16
            assert vault.order("status")["logins"] == before + 1

    def test_a_forked_child_does_not_revoke_its_parents_token(self, approle: Login) -> None:
        source = f"file:{approle.vault.file(secret_id(approle))}"
        with open_backend(approle.uri("approle", role_id=role_id(approle), secret_id_source=source)) as key:

            def child() -> bytes:
                mac = key.hmac_sha256(b"child")
                key.close()
                return mac

            assert in_fork(child) == hmac.digest(EXAMPLE_KEY, b"child", "sha256")
            assert lookup(approle.vault, held(key)) == 200


class TestWrappedSecretId:
    def wrapped(self, login: Login, ttl: int = 60) -> str:
        path = f"auth/{login.mount}/role/signer/secret-id"
        return str(login.vault.do("POST", path, **{"X-Vault-Wrap-TTL": ttl})["wrap_info"]["token"])

    def uri(self, login: Login, file: Path) -> str:
        return login.uri("approle", role_id=role_id(login), secret_id_source=f"file:{file}", secret_id_wrapped="true")

    def test_unwrapped_once_and_kept(self, approle: Login) -> None:
        file = approle.vault.file(self.wrapped(approle))
        with open_backend(self.uri(approle, file)) as key:
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)
            approle.vault.call("POST", "auth/token/revoke-self", token=held(key))
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY), "logged in again with the secret_id it holds"
        with pytest.raises(AuthenticationError, match=r"expired, or was unwrapped before.*revoke it"):
            open_backend(self.uri(approle, file))

    def test_a_token_of_another_maker_is_refused(self, approle: Login) -> None:
        """Who stole the wrapping token may have put another in its place; its origin tells."""
        made = approle.vault.do("POST", "sys/wrapping/wrap", secret_id="evil", **{"X-Vault-Wrap-TTL": 60})
        file = approle.vault.file(made["wrap_info"]["token"])
        with pytest.raises(AuthenticationError, match="was not made for a secret_id"):
            open_backend(self.uri(approle, file))

    def test_said_to_be_wrapped_but_is_not(self, approle: Login) -> None:
        file = approle.vault.file(secret_id(approle))
        with pytest.raises(AuthenticationError, match="cannot be unwrapped"):
            open_backend(self.uri(approle, file))


@pytest.fixture(scope="module")
def issuer() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey) -> str:
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, kind).decode()


def jwt(key: rsa.RSAPrivateKey, **claims: Any) -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    claims = {"exp": int(time.time()) + 600, "iat": int(time.time()), **claims}
    text = f"{part(json.dumps({'alg': 'RS256', 'typ': 'JWT'}).encode())}.{part(json.dumps(claims).encode())}"
    return f"{text}.{part(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


class TestKubernetes:
    """Against the double alone: a real Vault asks a Kubernetes API."""

    @pytest.fixture
    def login(self, vault_double: Vault, issuer: rsa.RSAPrivateKey) -> Login:
        login = Login(vault_double, "kubernetes")
        vault_double.do("POST", f"auth/{login.mount}/config", pem_keys=[pem(issuer)])
        bound = {"bound_service_account_names": "signer", "bound_service_account_namespaces": "prod"}
        login.role("role", "signer", **bound)
        return login

    @staticmethod
    def account(name: str = "signer", namespace: str = "prod") -> dict[str, Any]:
        return {"kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name}}}

    def test_service_accounts_token(
        self, login: Login, issuer: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = login.vault.file(jwt(issuer, **self.account()) + "\n")
        file.chmod(0o644)  # as Kubernetes does; no warning, or the test would fail
        monkeypatch.setattr(_auth, "KUBERNETES_TOKEN", file)
        assert signs(login.uri("kubernetes", role="signer"))

    @pytest.mark.parametrize(
        ("role", "claims", "said"),
        [
            ("signer", {"name": "other"}, "service account name not authorized"),
            ("signer", {"namespace": "dev"}, "namespace not authorized"),
            ("nobody", {}, 'invalid role name "nobody"'),
        ],
    )
    def test_refused(
        self, login: Login, issuer: rsa.RSAPrivateKey, role: str, claims: dict[str, str], said: str
    ) -> None:
        source = f"file:{login.vault.file(jwt(issuer, **self.account(**claims)))}"
        with pytest.raises(AuthenticationError, match=f"the kubernetes login was refused: {said}"):
            open_backend(login.uri("kubernetes", role=role, jwt_source=source))

    def test_not_in_a_pod(self, login: Login, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(_auth, "KUBERNETES_TOKEN", tmp_path / "none")
        with pytest.raises(AuthenticationError, match="is this a Kubernetes pod"):
            open_backend(login.uri("kubernetes", role="signer"))


class TestJwt:
    @pytest.fixture
    def login(self, vault: Vault, issuer: rsa.RSAPrivateKey) -> Login:
        login = Login(vault, "jwt")
        vault.do("POST", f"auth/{login.mount}/config", jwt_validation_pubkeys=[pem(issuer)])
        login.role("role", "signer", role_type="jwt", bound_audiences=["vault"], user_claim="sub")
        return login

    def test_signs(self, login: Login, issuer: rsa.RSAPrivateKey) -> None:
        source = f"file:{login.vault.file(jwt(issuer, aud='vault', sub='me'))}"
        assert signs(login.uri("jwt", role="signer", jwt_source=source))

    def test_another_audience_or_issuer(self, login: Login, issuer: rsa.RSAPrivateKey) -> None:
        stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        for token in (jwt(issuer, aud="aws", sub="me"), jwt(stranger, aud="vault", sub="me"), "no.jwt.atall"):
            source = f"file:{login.vault.file(token)}"
            with pytest.raises(AuthenticationError, match="the jwt login was refused"):
                open_backend(login.uri("jwt", role="signer", jwt_source=source))


class TestUserpass:
    @pytest.fixture
    def login(self, vault: Vault) -> Login:
        login = Login(vault, "userpass")
        login.role("users", "alice", password="correct horse")
        return login

    def test_signs(self, login: Login) -> None:
        source = f"file:{login.vault.file('correct horse')}"
        assert signs(login.uri("userpass", username="alice", password_source=source))

    def test_wrong_password(self, login: Login) -> None:
        source = f"file:{login.vault.file('battery staple')}"
        with pytest.raises(AuthenticationError, match="invalid username or password") as caught:
            open_backend(login.uri("userpass", username="alice", password_source=source))
        assert "battery" not in str(caught.value)

    def test_a_name_with_a_slash_is_no_path(self, login: Login) -> None:
        source = f"file:{login.vault.file('x')}"
        with pytest.raises(AuthenticationError, match="login was refused: invalid username or password"):
            open_backend(login.uri("userpass", username="../../sys", password_source=source))


class TestNamespaces:
    """OpenBao's and Vault Enterprise's; a community Vault has none, so against the double alone."""

    @pytest.fixture
    def inner(self, vault_double: Vault) -> Iterator[str]:
        name = f"ns-{uuid.uuid4().hex[:8]}"
        vault_double.do("POST", f"sys/namespaces/{name}")
        vault_double.do("POST", f"sys/mounts/{vault_double.mount}", type="transit", **{"X-Vault-Namespace": name})
        yield name
        vault_double.do("DELETE", f"sys/namespaces/{name}")

    def test_a_key_lives_in_its_namespace(
        self, vault_double: Vault, inner: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        named = KeyURI.parse(vault_double.imported(namespace=inner))
        assert signs(str(named))
        outside = KeyURI("vault", named.path, {k: v for k, v in named.query.items() if k != "namespace"})
        with pytest.raises(LookupError):
            open_backend(outside)
        monkeypatch.setenv("VAULT_NAMESPACE", inner)
        assert signs(str(outside))

    def test_another_namespace(self, vault_double: Vault) -> None:
        with pytest.raises((LookupError, PermissionError)):
            open_backend(vault_double.uri(namespace="no-such"))


def test_tokens_are_never_logged(approle: Login, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = secret_id(approle)
    source = f"file:{approle.vault.file(secret)}"
    with open_backend(approle.uri("approle", role_id=role_id(approle), secret_id_source=source)) as key:
        key.hmac_sha256(DAY)
        token = held(key)
        shown = repr(key) + str(key._connection.auth) + repr(key._connection.cluster)  # type: ignore[attr-defined]
    assert "logged in by approle for 3600 s" in caplog.text
    for hidden in (token, secret):
        assert hidden not in caplog.text
        assert hidden not in shown


def shown(exc: BaseException | None) -> Iterator[str]:
    """Everything that an exception and those behind it show or carry along."""
    while exc is not None:
        yield from ("".join(traceback.format_exception(exc)), repr(exc), repr(exc.args))
        for value in vars(exc).values():
            yield f"{value!r} {getattr(value, 'headers', '')!r} {getattr(value, 'body', '')!r}"
        exc = exc.__cause__ or exc.__context__


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop"},
        {"kind": "hang", "seconds": 1},
        {"kind": "html"},
        {"kind": "status", "status": 400, "errors": ["no"]},
        {"kind": "status", "status": 403, "errors": ["permission denied"]},
        {"kind": "status", "status": 500, "errors": ["disk full"]},
        {"kind": "status", "status": 418, "errors": ["teapot"]},
        {"kind": "raw", "body": "{}"},
        {"kind": "raw", "body": '{"auth": {"client_token": "two words"}}'},
    ],
    ids=str,
)
def test_failed_logins_show_no_secret(vault_double: Vault, fault: dict[str, Any]) -> None:
    login = Login(vault_double, "userpass")
    login.role("users", "alice", password="correct horse")
    source = f"file:{vault_double.file('correct horse')}"
    vault_double.order("fault", path=f"auth/{login.mount}/login", **{"times": 9, **fault})
    with pytest.raises(Error) as caught:
        open_backend(login.uri("userpass", username="alice", password_source=source, timeout="0.3", patience="0.1"))
    for text in shown(caught.value):
        assert "correct horse" not in text
        assert "two words" not in text


@pytest.mark.parametrize("fault", [{"kind": "drop"}, {"kind": "hang", "seconds": 1}, {"kind": "html"}], ids=str)
def test_failed_hmacs_show_no_token(vault_double: Vault, fault: dict[str, Any]) -> None:
    named = KeyURI.parse(vault_double.imported())
    uri = vault_double.uri(str(named.get("key")), timeout="0.3", patience="0.1")
    with open_backend(uri) as key:
        vault_double.order("fault", path=f"{vault_double.mount}/hmac", **{"times": 9, **fault})
        with pytest.raises(DeviceError) as caught:
            key.hmac_sha256(DAY)
    for text in shown(caught.value):
        assert vault_double.root not in text


@pytest.mark.parametrize("auth", ["approle", "kubernetes", "jwt", "cert", "userpass"])
def test_attributes_of_another_method(auth: str, clean_environment: None) -> None:
    needed = {"approle": "role-id", "kubernetes": "role", "jwt": "role", "cert": "cert-file", "userpass": "username"}
    with pytest.raises(KeyURIError, match=f"auth={auth} needs"):
        open_backend(f"vault:key=k?addr=https://v:1&auth={auth}&token-source=env:X")
    assert needed[auth] in _auth.METHODS[auth][0]


def test_a_source_that_others_can_write(vault: Vault) -> None:
    named = KeyURI.parse(vault.imported())
    file = vault.file(vault.root)
    file.chmod(0o666)
    with pytest.raises(AuthenticationError, match="others can write"):
        open_backend(vault.uri(str(named.get("key")), token_source=f"file:{file}"))
    assert os.environ.get("VAULT_TOKEN") is None


def test_a_login_under_way_disturbs_nobody(approle: Login) -> None:
    """While one thread replaces a token that nears its end, the others go on with it; also if that fails."""
    vault = approle.vault
    if not vault.double:
        pytest.skip("a real server cannot be told to hang")
    approle.role("role", "signer", token_ttl="3s", token_type="batch")
    source = f"file:{vault.file(secret_id(approle))}"
    uri = approle.uri("approle", role_id=role_id(approle), secret_id_source=source, patience="1")
    failures: list[BaseException] = []
    with open_backend(uri) as key:
        fault = {"kind": "status", "status": 503, "errors": ["no server is available"], "times": 1000}
        vault.order("fault", path=f"auth/{approle.mount}/login", **fault)
        until = time.monotonic() + 2.7

        def ask() -> None:
            while time.monotonic() < until:
                try:
                    assert key.hmac_sha256(DAY) == hmac.digest(EXAMPLE_KEY, DAY, "sha256")
                except Exception as exc:  # noqa: BLE001 - counted and shown
                    failures.append(exc)
                time.sleep(0.01)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        vault.order("heal")
        assert key.hmac_sha256(DAY) == hmac.digest(EXAMPLE_KEY, DAY, "sha256")


@pytest.mark.parametrize("duration", ['"soon"', "null", "-1", "[]"])
def test_odd_leases(vault_double: Vault, duration: str) -> None:
    named = KeyURI.parse(vault_double.imported())
    token = vault_double.token(VaultBackend.policy(named, "signer"))
    uri = vault_double.uri(str(named.get("key")), token=token)
    body = '{"data": {"ttl": %s, "renewable": true}}' % duration  # noqa: UP031 - braces
    vault_double.order("fault", path="auth/token/lookup-self", kind="raw", body=body)
    assert signs(uri)
