"""Tokens, logins, policies, mounts, quotas: what surrounds the engine."""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.transit_server import acl
from tests.transit_server.transit import RefusedError, Transit, bad_request

MAX_TTL = 32 * 24 * 3600
DENIED = "permission denied"
_OPERATIONS = {"GET": "read", "LIST": "list", "POST": "update", "PUT": "update", "DELETE": "delete"}
_SUDO = re.compile(r"sys/(raw|seal|step-down|policies|policy|mounts|auth|namespaces|quotas|audit|rotate)(/|$)")


@dataclass
class Token:
    id: str
    namespace: str
    policies: list[str]
    ttl: int
    path: str
    renewable: bool = True
    period: int = 0
    explicit_max_ttl: int = 0
    num_uses: int = 0
    meta: dict[str, str] = field(default_factory=dict)
    created: float = field(default_factory=time.time)
    renewed: float = field(default_factory=time.time)
    accessor: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def expires(self) -> float | None:
        if not self.ttl:
            return None
        oldest = self.created + self.explicit_max_ttl if self.explicit_max_ttl and not self.period else None
        return self.renewed + self.ttl if oldest is None else min(self.renewed + self.ttl, oldest)

    @property
    def remaining(self) -> int:
        return max(0, round(self.expires - time.time())) if self.expires else 0

    def auth(self) -> dict[str, Any]:
        return {
            "client_token": self.id,
            "accessor": self.accessor,
            "policies": self.policies,
            "token_policies": self.policies,
            "metadata": self.meta or None,
            "lease_duration": self.remaining,
            "renewable": self.renewable,
            "entity_id": "",
            "token_type": "service",
            "orphan": True,
            "mfa_requirement": None,
            "num_uses": self.num_uses,
        }

    def describe(self) -> dict[str, Any]:
        stamp = None if self.expires is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.expires))
        answer: dict[str, Any] = {
            "accessor": self.accessor,
            "creation_time": int(self.created),
            "creation_ttl": self.ttl,
            "display_name": "token",
            "entity_id": "",
            "expire_time": stamp,
            "explicit_max_ttl": self.explicit_max_ttl,
            "id": self.id,
            "meta": self.meta or None,
            "num_uses": self.num_uses,
            "orphan": True,
            "path": self.path,
            "policies": self.policies,
            "renewable": self.renewable and bool(self.ttl),
            "ttl": self.remaining,
            "type": "service",
        }
        if self.period:
            answer["period"] = self.period
        return answer


@dataclass
class Space:
    """One namespace."""

    policies: dict[str, acl.Policy] = field(default_factory=lambda: {"default": acl.parse(acl.DEFAULT_POLICY)})
    mounts: dict[str, Transit] = field(default_factory=dict)
    auths: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)


@dataclass
class Request:
    method: str
    path: str
    body: dict[str, Any]
    token: str
    namespace: str
    wrap_ttl: int
    peer: bytes | None


def _seconds(value: Any) -> int:
    """A duration as Vault reads it: seconds, or a number with a unit."""
    match = re.fullmatch(r"(\d+)(s|m|h|d)?", str(value or 0))
    if not match:
        raise bad_request(f"time: invalid duration {value!r}")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, None: 1}[match[2]]


def _words(value: Any) -> list[str]:
    return [w for w in (value if isinstance(value, list) else str(value or "").split(",")) if w]


def _envelope(**parts: Any) -> dict[str, Any]:
    return {
        "request_id": secrets.token_hex(16),
        "lease_id": "",
        "renewable": False,
        "lease_duration": 0,
        "data": None,
        "wrap_info": None,
        "warnings": None,
        "auth": None,
        **parts,
    }


class Core:
    """What all nodes of the cluster share."""

    def __init__(self, root_token: str) -> None:
        self.spaces: dict[str, Space] = {"": Space()}
        self.tokens: dict[str, Token] = {}
        self.tokens[root_token] = Token(root_token, "", ["root"], 0, "auth/token/root", renewable=False)
        self.wrapped: dict[str, tuple[dict[str, Any], str, float]] = {}
        self.logins = 0
        self.quotas: dict[str, tuple[str, float, list[float]]] = {}

    # -- requests ----------------------------------------------------------------------------------------------

    def handle(self, request: Request) -> dict[str, Any] | None:
        """Answers a request to ``/v1/…``; raises RefusedError."""
        self._quota(request)
        space = self.spaces.get(request.namespace)
        if space is None:
            raise RefusedError(404, f'no handler for route "{request.path}". route entry not found.', bare=True)
        answer = self._login(space, request)
        if answer is None:
            token = self._check(space, request)
            answer = self._route(space, request, token)
        if answer is not None and request.wrap_ttl:
            wrapping = "hvs.wrap" + secrets.token_urlsafe(24)
            self.wrapped[wrapping] = (answer, request.path, time.time() + request.wrap_ttl)
            info = {"token": wrapping, "ttl": request.wrap_ttl, "creation_path": request.path, "wrapped_accessor": ""}
            return _envelope(wrap_info=info)
        return answer

    def _quota(self, request: Request) -> None:
        for path, rate, seen in self.quotas.values():
            if request.path.startswith(path):
                now = time.time()
                seen[:] = [t for t in seen if t > now - 1]
                if len(seen) >= rate:
                    raise RefusedError(429, f'request path "{request.path}": rate limit quota exceeded', bare=True)
                seen.append(now)

    def _policies(self, space: Space, token: Token) -> list[acl.Policy]:
        return [space.policies[name] for name in token.policies if name in space.policies]

    def live(self, token_id: str) -> Token | None:
        token = self.tokens.get(token_id)
        if token is not None and token.expires is not None and token.expires <= time.time():
            del self.tokens[token_id]
            token = None
        return token

    def _check(self, space: Space, request: Request) -> Token:
        if request.path in ("sys/wrapping/unwrap", "sys/wrapping/lookup") and (
            request.token in self.wrapped or not request.token
        ):
            return Token("", request.namespace, [], 0, "")
        if not request.token:
            raise RefusedError(403, DENIED, bare=True)
        token = self.live(request.token)
        root = token is not None and "root" in token.policies
        if token is None or (token.namespace != request.namespace and not root):
            raise RefusedError(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n", bare=True)
        if not root:
            rule = acl.allowed(self._policies(space, token), request.path)
            missing = {_OPERATIONS[request.method]} | ({"sudo"} if _SUDO.match(request.path) else set())
            if missing - rule.capabilities or not acl.fits(rule, request.body):
                raise RefusedError(403, DENIED)
        if token.num_uses:
            token.num_uses -= 1
            if not token.num_uses:
                del self.tokens[token.id]
        return token

    def _route(self, space: Space, request: Request, token: Token) -> dict[str, Any] | None:
        path = request.path
        if path.startswith("auth/token/"):
            return self._token(space, request, token)
        if path.startswith("auth/"):
            return self._configure_auth(space, request)
        if path.startswith("sys/"):
            return self._sys(space, request, token)
        for mount in sorted(space.mounts, key=len, reverse=True):
            if path.startswith(f"{mount}/"):
                data = space.mounts[mount].handle(
                    "POST" if request.method == "PUT" else request.method, path[len(mount) + 1 :], request.body
                )
                return None if data is None else _envelope(data=data)
        raise RefusedError(404, f'no handler for route "{path}". route entry not found.', bare=True)

    # -- tokens ------------------------------------------------------------------------------------------------

    def issue(self, request: Request, path: str, settings: dict[str, Any], policies: list[str]) -> dict[str, Any]:
        period = _seconds(settings.get("token_period") or settings.get("period"))
        ttl = period or _seconds(settings.get("token_ttl") or settings.get("ttl")) or MAX_TTL
        maximum = _seconds(settings.get("token_max_ttl") or settings.get("explicit_max_ttl"))
        if not (settings.get("token_no_default_policy") or settings.get("no_default_policy")):
            policies = ["default", *policies]
        batch = settings.get("token_type") == "batch"
        token = Token(
            ("hvb." if batch else "hvs.") + secrets.token_urlsafe(24),
            request.namespace,
            sorted(set(policies)),
            min(ttl, maximum) if maximum else ttl,
            path,
            renewable=not batch and settings.get("renewable", True) not in (False, "false"),
            period=period,
            explicit_max_ttl=maximum,
            num_uses=int(settings.get("num_uses") or settings.get("token_num_uses") or 0),
        )
        self.tokens[token.id] = token
        return _envelope(auth=token.auth())

    def _token(self, space: Space, request: Request, token: Token) -> dict[str, Any] | None:
        match (request.method, request.path.removeprefix("auth/token/")):
            case ("POST", "create" | "create-orphan"):
                policies = _words(request.body.get("policies")) or token.policies
                if "root" not in token.policies and not set(policies) <= set(token.policies):
                    raise bad_request("child policies must be subset of parent")
                return self.issue(request, "auth/token/create", request.body, policies)
            case ("GET", "lookup-self"):
                return _envelope(data=token.describe())
            case ("POST" | "PUT", "renew-self"):
                if not token.renewable or not token.ttl:
                    raise bad_request("lease is not renewable")
                token.renewed = time.time()
                return _envelope(auth=token.auth())
            case ("POST" | "PUT", "revoke-self"):
                if token.id.startswith("hvb."):
                    raise bad_request("batch tokens cannot be revoked")
                self.tokens.pop(token.id, None)
                return None
            case ("POST", "revoke"):
                self.tokens.pop(request.body.get("token", ""), None)
                return None
        raise RefusedError(405, "unsupported operation")

    # -- logins ------------------------------------------------------------------------------------------------

    def _login(self, space: Space, request: Request) -> dict[str, Any] | None:
        for mount, (kind, settings) in space.auths.items():
            rest = request.path.removeprefix(f"auth/{mount}/")
            if rest == request.path or rest.partition("/")[0] != "login" or request.method not in ("POST", "PUT"):
                continue
            login = {
                "approle": self._login_approle,
                "userpass": self._login_userpass,
                "kubernetes": self._login_kubernetes,
                "jwt": self._login_jwt,
                "cert": self._login_cert,
            }[kind]
            self.logins += 1
            role = login(settings, rest, request)
            return self.issue(request, request.path, role, _words(role.get("token_policies")))
        return None

    def _login_approle(self, settings: dict[str, Any], rest: str, request: Request) -> dict[str, Any]:
        for role in settings["role"].values():
            if role["role_id"] == request.body.get("role_id"):
                secret = request.body.get("secret_id", "")
                left, expires = role["secrets"].get(secret, (-1, 0.0))
                if left < 0 or expires <= time.time():
                    break
                if left == 1:
                    del role["secrets"][secret]
                elif left > 1:
                    role["secrets"][secret] = (left - 1, expires)
                return dict(role)
        raise bad_request("invalid role or secret ID")

    def _login_userpass(self, settings: dict[str, Any], rest: str, request: Request) -> dict[str, Any]:
        user = settings["users"].get(rest.partition("/")[2])
        if user is None or user.get("password") != request.body.get("password"):
            raise bad_request("invalid username or password")
        return dict(user)

    def _login_kubernetes(self, settings: dict[str, Any], rest: str, request: Request) -> dict[str, Any]:
        role = settings["role"].get(request.body.get("role"))
        if role is None:
            raise bad_request(f'invalid role name "{request.body.get("role")}"')
        claims = _verified(request.body.get("jwt", ""), settings["config"].get("pem_keys", []))
        if claims is None:
            raise RefusedError(403, DENIED, bare=True)
        account = claims.get("kubernetes.io", {})
        if account.get("serviceaccount", {}).get("name") not in _words(role.get("bound_service_account_names")):
            raise RefusedError(403, "service account name not authorized", bare=True)
        if account.get("namespace") not in _words(role.get("bound_service_account_namespaces")):
            raise RefusedError(403, "namespace not authorized", bare=True)
        return dict(role)

    def _login_jwt(self, settings: dict[str, Any], rest: str, request: Request) -> dict[str, Any]:
        role = settings["role"].get(request.body.get("role"))
        if role is None:
            raise bad_request(f'role "{request.body.get("role")}" could not be found')
        claims = _verified(request.body.get("jwt", ""), settings["config"].get("jwt_validation_pubkeys", []))
        if claims is None:
            raise bad_request("error validating token: error verifying token signature: no known key")
        if not set(_words(claims.get("aud"))) & set(_words(role.get("bound_audiences"))):
            raise bad_request("error validating token: invalid audience (aud) claim: audience claim does not match")
        return dict(role)

    def _login_cert(self, settings: dict[str, Any], rest: str, request: Request) -> dict[str, Any]:
        if request.peer is None:
            raise bad_request("client certificate must be supplied")
        peer = x509.load_der_x509_certificate(request.peer)
        wanted = request.body.get("name")
        for name, role in settings["certs"].items():
            authority = x509.load_pem_x509_certificate(role["certificate"].encode())
            if wanted in (None, name) and peer.issuer == authority.subject:
                return dict(role)
        raise bad_request("invalid certificate or no client certificate supplied")

    def _configure_auth(self, space: Space, request: Request) -> dict[str, Any] | None:
        for mount, (_, settings) in space.auths.items():
            rest = request.path.removeprefix(f"auth/{mount}/")
            if rest == request.path:
                continue
            match (request.method, rest.split("/")):
                case ("POST", ["config"]):
                    settings["config"] = request.body
                    return None
                case ("POST", [("role" | "users" | "certs") as kind, name]):
                    settings[kind][name] = {"role_id": secrets.token_hex(16), "secrets": {}} | request.body
                    return None
                case ("GET", ["role", name, "role-id"]) if name in settings["role"]:
                    return _envelope(data={"role_id": settings["role"][name]["role_id"]})
                case ("POST", ["role", name, "secret-id"]) if name in settings["role"]:
                    role = settings["role"][name]
                    secret = secrets.token_hex(16)
                    life = _seconds(role.get("secret_id_ttl")) or MAX_TTL
                    role["secrets"][secret] = (int(role.get("secret_id_num_uses") or 0), time.time() + life)
                    return _envelope(data={"secret_id": secret, "secret_id_accessor": secrets.token_hex(8)})
        raise RefusedError(404, f'no handler for route "{request.path}". route entry not found.', bare=True)

    # -- system ------------------------------------------------------------------------------------------------

    def _sys(self, space: Space, request: Request, token: Token) -> dict[str, Any] | None:
        body = request.body
        match (request.method.replace("PUT", "POST"), request.path.split("/")[1:]):
            case ("POST", ["capabilities-self"]):
                found = {}
                for path in _words(body.get("paths") or body.get("path")):
                    found[path] = (
                        ["root"]
                        if "root" in token.policies
                        else sorted(acl.allowed(self._policies(space, token), path).capabilities) or ["deny"]
                    )
                alone = {"capabilities": next(iter(found.values()))} if len(found) == 1 else {}
                return _envelope(data={**found, **alone}) | found | alone
            case ("POST", ["policies", "acl", name] | ["policy", name]):
                try:
                    space.policies[name] = acl.parse(body.get("policy", ""))
                except ValueError as exc:
                    raise bad_request(str(exc)) from None
                return None
            case ("DELETE", ["policies", "acl", name]):
                space.policies.pop(name, None)
                return None
            case ("POST", ["mounts", *mount]):
                name = "/".join(mount)
                if name in space.mounts:
                    raise bad_request(f"path is already in use at {name}/")
                space.mounts[name] = Transit()
                return None
            case ("DELETE", ["mounts", *mount]):
                space.mounts.pop("/".join(mount), None)
                return None
            case ("POST", ["auth", *mount]):
                name = "/".join(mount)
                space.auths[name] = (body["type"], {"role": {}, "users": {}, "certs": {}, "config": {}})
                return None
            case ("DELETE", ["auth", *mount]):
                space.auths.pop("/".join(mount), None)
                return None
            case ("POST", ["namespaces", *name]):
                self.spaces["/".join(filter(None, [request.namespace, *name]))] = Space()
                return _envelope(data={"path": "/".join(name) + "/"})
            case ("DELETE", ["namespaces", *name]):
                self.spaces.pop("/".join(filter(None, [request.namespace, *name])), None)
                return None
            case ("POST", ["quotas", "rate-limit", name]):
                self.quotas[name] = (str(body.get("path", "")).strip("/"), float(body["rate"]), [])
                return None
            case ("DELETE", ["quotas", "rate-limit", name]):
                self.quotas.pop(name, None)
                return None
            case ("POST", ["wrapping", "wrap"]):
                return _envelope(data=body)
            case ("POST", ["wrapping", ("unwrap" | "lookup") as what]):
                wrapping = body.get("token") or request.token
                answer, path, expires = self.wrapped.get(wrapping, ({}, "", 0.0))
                if expires <= time.time():
                    raise bad_request("wrapping token is not valid or does not exist")
                if what == "lookup":
                    stamp = "2026-01-01T00:00:00Z"
                    return _envelope(data={"creation_path": path, "creation_time": stamp, "creation_ttl": 60})
                del self.wrapped[wrapping]
                return answer
        raise RefusedError(404, f'no handler for route "{request.path}". route entry not found.', bare=True)


def _verified(token: str, keys: Any) -> dict[str, Any] | None:
    """The claims of a JWT (RS256) that one of the PEM keys has signed and that has not expired, or None."""

    def decode(part: str) -> bytes:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

    try:
        head, body, signature = token.split(".")
        if json.loads(decode(head)).get("alg") != "RS256":
            return None
        claims: dict[str, Any] = json.loads(decode(body))
        for pem in _words(keys):
            key = serialization.load_pem_public_key(pem.encode())
            assert isinstance(key, rsa.RSAPublicKey)
            try:
                key.verify(decode(signature), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())
            except InvalidSignature:
                continue
            return claims if claims.get("exp", 0) > time.time() else None
    except ValueError:
        return None
    return None
