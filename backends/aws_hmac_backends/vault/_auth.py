"""Tokens: from a source, or by a login; renewed before they expire, replaced when they are gone."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import hvac.exceptions

from aws_hmac.errors import AuthenticationError, DeviceError, Error, KeyURIError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import hvac

    from aws_hmac.uri import KeyURI
    from aws_hmac_backends.vault._cluster import Cluster

METHODS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "token": (frozenset(), frozenset({"token-source"})),
    "approle": (frozenset({"role-id", "secret-id-source"}), frozenset({"secret-id-wrapped", "auth-mount"})),
    "kubernetes": (frozenset({"role"}), frozenset({"jwt-source", "auth-mount"})),
    "jwt": (frozenset({"role", "jwt-source"}), frozenset({"auth-mount"})),
    "cert": (frozenset({"cert-file", "key-file"}), frozenset({"role", "auth-mount"})),
    "userpass": (frozenset({"username", "password-source"}), frozenset({"auth-mount"})),
    "none": (frozenset(), frozenset()),
}
"""Each auth method with the attributes that it needs and those that it takes."""

ATTRIBUTES = frozenset(name for pair in METHODS.values() for names in pair for name in names) | {"auth"}

KUBERNETES_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
RENEW_AT = 2 / 3
"""When a token is renewed: this part of its life has passed."""

_REFUSED_FOR = 5.0
"""Seconds that a refused login is not tried again: 64 threads must not lock an account."""

_log = logging.getLogger("aws_hmac.vault")


@dataclass(frozen=True)
class _Lease:
    token: str = field(repr=False)
    expires: float | None  # time.monotonic()
    renew: float | None
    ttl: float
    renewable: bool
    pid: int


class Auth:
    """Keeps `Cluster.token` good.

    Args:
        uri: says which method and where its secrets are.
        cluster: whose token is kept.
        client: hvac's client on that cluster.
    """

    def __init__(self, uri: KeyURI, cluster: Cluster, client: hvac.Client) -> None:
        self._uri, self._cluster, self._client = uri, cluster, client
        self.method = _method(uri)
        self._lock = threading.Lock()
        self._lease: _Lease | None = None
        self._refused: tuple[float, str] = (0.0, "")
        self._secret_id: tuple[str, str] | None = None  # what the source held, and what it was unwrapped to
        self._stop = threading.Event()
        self._keeper: threading.Thread | None = None

    def after_fork(self) -> None:
        """Makes what a child process cannot inherit: a lock that is surely free, and the renewing thread."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._keeper = None

    def ensure(self) -> str | None:
        """Returns a token that has not expired as far as is known; logs in or renews where needed."""
        if self.method == "none":
            return None
        lease = self._lease
        now = time.monotonic()
        if lease is None or (lease.expires is not None and now >= lease.expires):
            with self._lock:
                if self._lease is lease:
                    self._login()
        elif lease.renew is not None and now >= lease.renew and self._lock.acquire(blocking=False):
            try:
                self._renew()
            finally:
                self._lock.release()
        self._keep()
        lease = self._lease
        if lease is None:
            raise DeviceError(f"{self._uri.identity}: closed")
        return lease.token

    def replace(self, used: str | None) -> bool:
        """Gets another token after one was refused.

        Args:
            used: the token that was refused.

        Returns:
            Whether asking again makes sense; False if the token is alive and simply has not the right.

        Raises:
            AuthenticationError: the token is gone, and there is no other.
        """
        if self.method == "none":
            return False
        with self._lock:
            if self._lease is not None and self._lease.token != used:
                return True
            try:
                self._client.auth.token.lookup_self()
            except hvac.exceptions.VaultError:
                pass
            else:
                return False
            self._login(gone=used)
            return True

    def close(self) -> None:
        """Gives back a token that this process got by a login; best effort."""
        self._stop.set()
        lease, self._lease = self._lease, None
        if lease is not None and lease.pid == os.getpid() and self.method not in ("token", "none"):
            self._cluster.patience = 0.0
            with suppress(hvac.exceptions.VaultError, Error):
                self._client.auth.token.revoke_self()
        self._cluster.token = None
        self._secret_id = None

    # -- with the lock held --------------------------------------------------------------------------------------

    def _login(self, *, gone: str | None = None) -> None:
        until, said = self._refused
        if time.monotonic() < until:
            raise AuthenticationError(said)
        name = self._uri.identity
        if self.method == "token":
            token = self._given()
            if token == gone:
                raise AuthenticationError(
                    f"{name}: the token has expired, was revoked, or may not do this, and its source holds no other"
                )
            self._cluster.token = token
            self._lease = self._looked_up(token)
            return
        try:
            with self._cluster.without_token():
                answer = self._by_login()
        except (hvac.exceptions.InvalidRequest, hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as exc:
            said = f"{name}: the {self.method} login was refused: {', '.join(exc.errors or ())}"
            self._refused = (time.monotonic() + _REFUSED_FOR, said)
            raise AuthenticationError(said) from exc
        except hvac.exceptions.InvalidPath as exc:
            mount = self._uri.get("auth-mount", self.method)
            raise AuthenticationError(
                f"{name}: no auth method is mounted at {mount!r}; check auth-mount and namespace"
            ) from exc
        auth = answer.get("auth") if isinstance(answer, dict) else None
        if not isinstance(auth, dict) or not isinstance(auth.get("client_token"), str):
            raise AuthenticationError(f"{name}: the {self.method} login gave no token (does it want a second factor?)")
        token = _token(auth["client_token"], f"{name}: the {self.method} login's answer")
        life = _life(auth.get("lease_duration"))
        self._take(token, life, bool(auth.get("renewable")))
        _log.info("%s: logged in by %s for %.0f s", name, self.method, life)

    def _renew(self) -> None:
        lease = self._lease
        if lease is None:
            return  # closed meanwhile
        auth = None
        if lease.renewable:  # a batch token, for one, is not
            with suppress(hvac.exceptions.VaultError, Error, TypeError, KeyError):
                auth = self._client.auth.token.renew_self()["auth"]
        life = _life(auth.get("lease_duration")) if isinstance(auth, dict) else 0.0
        # Near its greatest age a token gets less and less; then a new login lasts longer, where there is one.
        if auth and life and (self.method == "token" or life >= lease.ttl / 2):
            self._take(lease.token, life, bool(auth.get("renewable")), ttl=lease.ttl)
            return
        if self.method != "token":
            with suppress(hvac.exceptions.VaultError, Error):
                self._login()
                return
        # It still lives; try again a little later.
        self._lease = replace(lease, renew=time.monotonic() + max(1.0, lease.ttl / 10))

    def _take(self, token: str, life: float, renewable: bool, *, ttl: float = 0.0) -> None:
        now = time.monotonic()
        self._lease = _Lease(
            token,
            now + life if life else None,
            # A login can be had again, so that its token must not be renewable.
            now + life * RENEW_AT if life and (renewable or self.method != "token") else None,
            max(life, ttl),
            renewable,
            os.getpid(),
        )
        self._cluster.token = token

    # -- the methods ---------------------------------------------------------------------------------------------

    def _given(self) -> str:
        secret = self._uri.secret("token-source")
        if secret is not None:
            return _token(_text(secret, f"{self._uri.identity}: token-source"), f"{self._uri.identity}: token-source")
        for name in ("VAULT_TOKEN", "BAO_TOKEN"):
            if os.environ.get(name):
                return _token(os.environ[name].strip(), name)
        files = [".vault-token", ".bao-token"]  # where "vault login" and "bao login" put it
        if os.environ.get("BAO_ADDR") and not os.environ.get("VAULT_ADDR"):
            files.reverse()
        for file in files:
            token = ""
            with suppress(OSError, RuntimeError, UnicodeDecodeError):
                token = (Path.home() / file).read_text().strip()
            if token:
                return _token(token, f"~/{file}")
        raise AuthenticationError(
            f"{self._uri.identity}: no token; give token-source, VAULT_TOKEN, another auth, or auth=none for Vault"
            " Agent"
        )

    def _looked_up(self, token: str) -> _Lease:
        """What Vault says of a given token; nothing if it may not ask."""
        try:
            data = self._client.auth.token.lookup_self()["data"]
            life, renewable = _life(data.get("ttl")), bool(data.get("renewable"))
        except (hvac.exceptions.VaultError, TypeError, KeyError, AttributeError):
            life, renewable = 0.0, False
        now = time.monotonic()
        # Even a token that cannot be renewed may be replaced in its file, by Vault Agent: it is read again.
        renew = now + life * RENEW_AT if renewable else None
        return _Lease(token, now + life if life else None, renew, life, renewable, 0)

    def _by_login(self) -> Any:
        auth, get = self._client.auth, self._uri.get
        mount = get("auth-mount", self.method)
        if self.method == "approle":
            return auth.approle.login(
                self._uri.require("role-id"), self._secret(mount or ""), use_token=False, mount_point=mount
            )
        if self.method == "kubernetes":
            return auth.kubernetes.login(self._uri.require("role"), self._jwt(), use_token=False, mount_point=mount)
        if self.method == "jwt":
            return auth.jwt.jwt_login(self._uri.require("role"), self._jwt(), use_token=False, path=mount)
        if self.method == "cert":
            return auth.cert.login(
                name=get("role", ""),
                cert_pem=self._uri.require("cert-file"),
                key_pem=self._uri.require("key-file"),
                mount_point=mount,
                use_token=False,
            )
        password = self._uri.secret("password-source") or b""
        return auth.userpass.login(
            quote(self._uri.require("username"), safe=""),
            _text(password, f"{self._uri.identity}: password-source"),
            use_token=False,
            mount_point=mount,
        )

    def _jwt(self) -> str:
        what = f"{self._uri.identity}: jwt-source"
        secret = self._uri.secret("jwt-source")
        if secret is None:
            try:
                # Kubernetes makes it readable for the whole container; that is its way, and no cause for warnings.
                secret = KUBERNETES_TOKEN.read_bytes()
            except OSError as exc:
                raise AuthenticationError(
                    f"{what}: {KUBERNETES_TOKEN} cannot be read: {exc.strerror}; is this a Kubernetes pod?"
                ) from exc
        return _text(secret.strip(), what)

    def _secret(self, mount: str) -> str:
        name = self._uri.identity
        held = _text(self._uri.secret("secret-id-source") or b"", f"{name}: secret-id-source")
        if not _flag(self._uri, "secret-id-wrapped"):
            return held
        if self._secret_id is not None and self._secret_id[0] == held:
            return self._secret_id[1]
        headers = {"X-Vault-Token": _token(held, f"{name}: secret-id-source")}
        try:
            made = self._cluster.post("/v1/sys/wrapping/lookup", json={"token": held})["data"]["creation_path"]
            if not re.fullmatch(rf"auth/{re.escape(mount)}/role/[^/]+/secret-id", str(made)):
                raise AuthenticationError(
                    f"{name}: the wrapping token was not made for a secret_id of {mount!r}: someone may have"
                    " exchanged it; revoke the secret_id and find out"
                )
            answer = self._cluster.post("/v1/sys/wrapping/unwrap", json={}, headers=headers, once=True)
            secret_id = str(answer["data"]["secret_id"])
        except (hvac.exceptions.VaultError, TypeError, KeyError) as exc:
            raise AuthenticationError(
                f"{name}: the wrapped secret_id cannot be unwrapped: it has expired, or was unwrapped before; if not"
                " by this program, someone else has it: revoke it"
            ) from exc
        self._secret_id = (held, secret_id)
        return secret_id

    # -- renewal while nobody asks -------------------------------------------------------------------------------

    def _keep(self) -> None:
        """A given token cannot be had again: a thread renews it even if no HMAC is asked for all day."""
        lease = self._lease
        if self.method != "token" or lease is None or lease.renew is None or self._is_kept():
            return
        with self._lock:
            if not self._is_kept():
                self._keeper = threading.Thread(
                    target=_renew_until_gone, args=(weakref.ref(self), self._stop), name="vault-token", daemon=True
                )
                self._keeper.start()

    def _is_kept(self) -> bool:
        return self._keeper is not None and self._keeper.is_alive()

    def keep_alive(self) -> float | None:
        """Renews if it is time; returns the seconds until it is again, or None if there is nothing to renew."""
        with self._lock:
            lease = self._lease
            if lease is None or lease.renew is None:
                return None
            if time.monotonic() >= lease.renew:
                self._renew()
                lease = self._lease or lease
            if lease.renew is None or (lease.expires is not None and time.monotonic() >= lease.expires):
                return None
            return max(0.2, lease.renew - time.monotonic())


def _renew_until_gone(ref: weakref.ref[Auth], stop: threading.Event) -> None:
    wait: float | None = 0.2
    while wait is not None and not stop.wait(wait):
        auth = ref()
        if auth is None:
            return
        wait = auth.keep_alive()
        del auth


def _method(uri: KeyURI) -> str:
    method = uri.get("auth", "token") or "token"
    if method not in METHODS:
        raise KeyURIError(f"{uri.identity}: auth is {method!r}; there are {', '.join(METHODS)}")
    needed, taken = METHODS[method]
    given = {name for name in ATTRIBUTES - {"auth"} if uri.raw(name) is not None}
    # A client certificate may also be wanted by the listener, whatever the login.
    given -= {"cert-file", "key-file"} - needed
    for name in sorted(needed - given):
        raise KeyURIError(f"{uri.identity}: auth={method} needs {name}")
    for name in sorted(given - needed - taken):
        raise KeyURIError(f"{uri.identity}: {name} does not belong to auth={method}")
    _flag(uri, "secret-id-wrapped")
    return method


def _flag(uri: KeyURI, name: str) -> bool:
    value = uri.get(name, "false")
    if value not in ("true", "false"):
        raise KeyURIError(f"{uri.identity}: {name} is {value!r}, not true or false")
    return value == "true"


def _life(seconds: object) -> float:
    """A lease's duration in an answer; 0 is for ever."""
    return float(seconds) if isinstance(seconds, int | float) and seconds > 0 else 0.0


def _token(text: str, what: str) -> str:
    """Refuses what is no token, as the HTTP library's own refusal would show it."""
    if not re.fullmatch(r"[!-~]+", text):
        raise AuthenticationError(f"{what} holds no Vault token: there are blanks or letters beyond ASCII in it")
    return text


def _text(secret: bytes, what: str) -> str:
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        # "from None": the exception would show the secret.
        raise AuthenticationError(f"{what} holds no text") from None
    if not text.isprintable():
        raise AuthenticationError(f"{what} holds more than one line, or control characters")
    return text
