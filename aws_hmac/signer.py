"""`Signer`: one access key whose secret is in a device, ready to sign requests."""

from __future__ import annotations

import re
import time
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from aws_hmac.errors import ExpiryWarning, SigningError
from aws_hmac.signing_keys import SigningKeys
from aws_hmac.sigv4.canonical import (
    HeaderPlan,
    canonical_query_string,
    canonical_request,
    canonical_uri,
    clean_values,
    encode,
    header_plan,
    shown,
    url_parts,
    wire_form,
)
from aws_hmac.sigv4.payload import UNSIGNED_PAYLOAD, PayloadHash, payload_hash
from aws_hmac.sigv4.rules import rules_for
from aws_hmac.sigv4.signature import ALGORITHM, Moment, credential_scope, moment, string_to_sign

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from typing import TypeAlias

    from aws_hmac.backend import HmacBackend
    from aws_hmac.signing_keys import Mode
    from aws_hmac.sigv4.payload import Body
    from aws_hmac.sigv4.rules import ServiceRules

    _Stages: TypeAlias = tuple[str, str, str, str, str]  # the fields of Explanation
    Headers: TypeAlias = "Mapping[str, str] | Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]"

MAX_EXPIRES = 604800
"""Seconds that a presigned URL can be valid at most: 7 days (Amazon S3 API Reference, "Query Parameters")."""

PRESIGN_RECHECK_SECONDS = 300.0
"""No answer is seen for a presigned URL, so the device's key is looked at again at this interval."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, section 5.6.2
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_PRESIGNED = re.compile(r"(?:^|&)x-amz-signature=", re.IGNORECASE)
_ACCESS_KEY_ID = re.compile(r"[!-.0-~]+", re.ASCII)


class Explanation(NamedTuple):
    """How a request is signed, stage by stage.

    Attributes:
        canonical_request: stage one.
        string_to_sign: stage two.
        credential_scope: ``yyyymmdd/region/service/aws4_request``.
        signed_headers: names of the headers that are signed, separated by ``;``.
        signature: stage three, hexadecimal.
    """

    canonical_request: str
    string_to_sign: str
    credential_scope: str
    signed_headers: str
    signature: str


class Signer:
    """Signs requests with an access key whose secret is in a device. Safe for threads; one per key is enough.

    Args:
        access_key_id: as ``AKIAIOSFODNN7EXAMPLE``.
        backend: the device's key, of `aws_hmac.open_backend`.
        session_token: that of temporary credentials.
        session_expiration: when the session token expires; presigned URLs that would outlive it are warned of.
        cache: what is kept of the derivation, as `SigningKeys` says.
        max_age: seconds for which a kept key signs without asking the device.

    Attributes:
        keys: the `SigningKeys`.

    Raises:
        SigningError: the access key id is empty or holds a slash, blank or other character that none has.
    """

    __slots__ = ("__weakref__", "access_key_id", "keys", "session_expiration", "session_token")

    def __init__(
        self,
        access_key_id: str,
        backend: HmacBackend,
        *,
        session_token: str | None = None,
        session_expiration: datetime | None = None,
        cache: Mode = "date",
        max_age: float | None = None,
    ) -> None:
        if not isinstance(access_key_id, str) or not _ACCESS_KEY_ID.fullmatch(access_key_id):
            raise SigningError("access_key_id: must be text without slash or blank, as AKIAIOSFODNN7EXAMPLE")
        if session_token is not None and not isinstance(session_token, str):
            raise SigningError(f"session_token: must be text, and is of type {type(session_token).__name__}")
        if session_expiration is not None and session_expiration.tzinfo is None:
            raise SigningError("session_expiration: must be a datetime with a time zone")
        self.access_key_id = access_key_id
        self.session_token = session_token or None
        self.session_expiration = session_expiration
        self.keys = SigningKeys(backend, mode=cache, max_age=max_age)

    def sign(
        self,
        method: str,
        url: str,
        *,
        service: str,
        region: str,
        headers: Headers = (),
        body: Body = b"",
        at: datetime | None = None,
        rules: ServiceRules | None = None,
    ) -> dict[str, str]:
        """Signs a request in its Authorization header.

        Args:
            method: as ``GET``; sent in upper case.
            url: as it will be requested; its host becomes the Host header if `headers` hold none.
            service: the service's signing name, as ``s3`` or ``execute-api``.
            region: as ``eu-west-1``.
            headers: what the request sends besides, a mapping or pairs; all are signed but those that proxies
                change. Headers of an earlier signature are replaced. An ``x-amz-content-sha256`` is taken as
                the payload's hash.
            body: bytes, text, a binary file that can be read twice, or a payload marker such as
                `aws_hmac.sigv4.UNSIGNED_PAYLOAD`.
            at: when it is signed; now if None.
            rules: how the service wants it; its own rules if None.

        Returns:
            Every header to send, Host and Authorization among them.

        Raises:
            SigningError: the request cannot be signed as asked; names the part.
            Error: what the device answers, when it has to be asked.
        """
        return self._sign_headers(method, url, service, region, headers, body, at, rules)[0]

    def presign(
        self,
        method: str,
        url: str,
        *,
        service: str,
        region: str,
        expires: int,
        headers: Headers = (),
        body: Body = b"",
        at: datetime | None = None,
        rules: ServiceRules | None = None,
    ) -> str:
        """Signs a request in the query of its URL.

        Args:
            method: as ``GET``.
            url: what is requested.
            service: the service's signing name.
            region: as ``eu-west-1``.
            expires: seconds for which the URL is valid, 1 to 604800 (7 days).
            headers: what whoever uses the URL must send besides.
            body: what they must send; S3 takes any.
            at: from when it is valid; now if None.
            rules: how the service wants it; its own rules if None.

        Returns:
            The URL; whoever has it can make this one request until it, or the session token, expires.

        Warns:
            ExpiryWarning: the session token expires before the URL does.

        Raises:
            SigningError: the request cannot be signed as asked; names the part.
            Error: what the device answers, when it has to be asked.
        """
        return self._sign_url(method, url, service, region, expires, headers, body, at, rules)[0]

    def explain(
        self,
        method: str,
        url: str,
        *,
        service: str,
        region: str,
        headers: Headers = (),
        body: Body = b"",
        at: datetime | None = None,
        rules: ServiceRules | None = None,
        presign: int | None = None,
    ) -> Explanation:
        """Returns the stages of what `sign`, or with ``presign=seconds`` what `presign`, does with these arguments."""
        if presign is None:
            return Explanation(*self._sign_headers(method, url, service, region, headers, body, at, rules)[1])
        return Explanation(*self._sign_url(method, url, service, region, presign, headers, body, at, rules)[1])

    def __repr__(self) -> str:
        return f"<Signer {self.access_key_id} by {self.keys.backend.name}>"

    def __reduce_ex__(self, protocol: object, /) -> str:
        raise TypeError("a signer cannot be pickled or copied; make one in each process")

    def _sign_headers(
        self,
        method: str,
        url: str,
        service: str,
        region: str,
        headers: Headers,
        body: Body,
        at: datetime | None,
        rules: ServiceRules | None,
    ) -> tuple[dict[str, str], _Stages]:
        rules = rules or rules_for(service)
        when = _now() if at is None else moment(at)
        _, host, path, query = url_parts(url)
        names, values = _split_headers(headers)
        token = self.session_token
        signed_token = token is not None and rules.sign_session_token
        shape = _shape(names, rules.content_sha256_header or isinstance(body, PayloadHash), signed_token)
        payload = _payload(body, values, shape, rules.unsigned_payload)

        # In the order of shape.names:
        if shape.keep is not None:
            values = [values[index] for index in shape.keep]
        if shape.adds_host:
            values.append(host)
        values.append(when.amz_date)
        if shape.adds_hash:
            values.append(payload)
        if signed_token:
            values.append(token)
        clean = clean_values(shape.names, values)
        stages = self._signature(
            _method(method), canonical_uri(path, rules), canonical_query_string(query),
            shape.plan, clean, payload, when, region, service,
        )  # fmt: skip
        _, _, scope, signed_headers, signature = stages

        # Without strict=, which costs as much as an HMAC's hash: both have the length of shape.names.
        out = dict(zip(shape.names, clean)) if shape.unique else _merged(shape.names, clean)  # noqa: B905
        if token is not None and not signed_token:
            out["X-Amz-Security-Token"] = token
        out["Authorization"] = (
            f"{ALGORITHM} Credential={self.access_key_id}/{scope}, "
            f"SignedHeaders={signed_headers}, Signature={signature}"
        )
        return out, stages

    def _sign_url(
        self,
        method: str,
        url: str,
        service: str,
        region: str,
        expires: int,
        headers: Headers,
        body: Body,
        at: datetime | None,
        rules: ServiceRules | None,
    ) -> tuple[str, _Stages]:
        if not isinstance(expires, int) or isinstance(expires, bool) or not 1 <= expires <= MAX_EXPIRES:
            raise SigningError(f"expires: must be a whole number of seconds from 1 to {MAX_EXPIRES} (7 days)")
        rules = rules or rules_for(service)
        when = _now() if at is None else moment(at)
        if self.session_token is not None and self.session_expiration is not None:
            _warn_of_expiry(self.session_expiration, at, expires)
        scheme, host, path, query = url_parts(url)
        if query and _PRESIGNED.search(query):
            raise SigningError("URL: is presigned already; presign the URL that it was made of")
        names, values = _split_headers(headers)
        shape = _shape(names, False, False, presigned=True)
        payload = _payload(body, values, shape, rules.unsigned_payload or rules.presign_unsigned_payload)
        if shape.keep is not None:
            values = [values[index] for index in shape.keep]
        if shape.adds_host:
            values.append(host)

        token = "" if self.session_token is None else f"&X-Amz-Security-Token={encode(self.session_token)}"
        credential = _encoded_credential(self.access_key_id, credential_scope(when.date, region, service))
        own_query = (
            f"X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={credential}&X-Amz-Date={when.amz_date}"
            f"&X-Amz-Expires={expires}&X-Amz-SignedHeaders={shape.plan.encoded_signed_headers}"
        )
        signed_query = f"{own_query}{token}" if rules.sign_session_token else own_query
        if query:
            signed_query = f"{wire_form(query)}&{signed_query}"
        uri = canonical_uri(path, rules)
        request = (
            _method(method), uri,
            own_query if signed_query is own_query else canonical_query_string(signed_query),  # it is in order
            shape.plan, clean_values(shape.names, values), payload, when, region, service,
        )  # fmt: skip
        stages = self._signature(*request)
        if self.keys.recheck(interval=PRESIGN_RECHECK_SECONDS):
            stages = self._signature(*request)
        sent_path = path if path == uri else wire_form(path) or "/"
        sent_query = signed_query if rules.sign_session_token else f"{signed_query}{token}"
        return f"{scheme}://{host}{sent_path}?{sent_query}&X-Amz-Signature={stages[-1]}", stages

    def _signature(
        self,
        method: str,
        uri: str,
        query_string: str,
        plan: HeaderPlan,
        values: Sequence[str],
        payload: str,
        when: Moment,
        region: str,
        service: str,
    ) -> _Stages:
        request = canonical_request(
            method, uri, query_string, plan.template % plan.pick(values), plan.signed_headers, payload
        )
        scope = credential_scope(when.date, region, service)
        to_sign = string_to_sign(when.amz_date, scope, request)
        signature = self.keys.signing_key(when.date, region, service).sign(to_sign.encode())
        return request, to_sign, scope, plan.signed_headers, signature


class _Shape(NamedTuple):
    """What follows from the names of the given headers alone."""

    names: tuple[str, ...]  # all that are sent, in order: those kept, then Host, X-Amz-Date, the hash, the token
    keep: tuple[int, ...] | None  # indexes of the given values that are sent; None for all
    adds_host: bool
    adds_hash: bool
    hash_index: int | None  # where the payload's hash was given
    unique: bool
    plan: HeaderPlan


@lru_cache(maxsize=512)
def _shape(names: tuple[str, ...], sends_hash: bool, sends_token: bool, presigned: bool = False) -> _Shape:
    header_plan(names)  # refuses what is no header's name
    lower = [name.lower() for name in names]
    replaced = {"authorization", "x-amz-date"} | ({"x-amz-security-token"} if sends_token else set())
    keep = tuple(index for index, name in enumerate(lower) if name not in replaced)
    kept = [names[index] for index in keep]
    adds_host = "host" not in lower
    hash_index = lower.index("x-amz-content-sha256") if "x-amz-content-sha256" in lower else None
    adds_hash = sends_hash and hash_index is None
    if adds_host:
        kept.append("Host")
    if not presigned:
        kept.append("X-Amz-Date")
    if adds_hash:
        kept.append("X-Amz-Content-SHA256")
    if sends_token:
        kept.append("X-Amz-Security-Token")
    return _Shape(
        names=tuple(kept),
        keep=None if len(keep) == len(names) else keep,
        adds_host=adds_host,
        adds_hash=adds_hash,
        hash_index=hash_index,
        unique=len({name.lower() for name in kept}) == len(kept),
        plan=header_plan(tuple(kept)),
    )


@lru_cache(maxsize=64)
def _encoded_credential(access_key_id: str, scope: str) -> str:
    return encode(f"{access_key_id}/{scope}")


def _split_headers(headers: Headers) -> tuple[tuple[str, ...], list[object]]:
    if isinstance(headers, dict):
        return tuple(headers), list(headers.values())
    if hasattr(headers, "items"):
        headers = headers.items()
    try:
        pairs = [(name, value) for name, value in headers]
    except (TypeError, ValueError) as exc:
        raise SigningError("headers: must be a mapping, or pairs of name and value") from exc
    return tuple(name for name, _ in pairs), [value for _, value in pairs]


def _payload(body: Body, values: list[object], shape: _Shape, unsigned: bool) -> str:
    if shape.hash_index is not None:
        (given,) = clean_values(("x-amz-content-sha256",), [values[shape.hash_index]])
        return given
    if unsigned and not isinstance(body, PayloadHash):
        return UNSIGNED_PAYLOAD
    return payload_hash(body)


def _method(method: str) -> str:
    if method in _METHODS:
        return method
    if not isinstance(method, str) or not _TOKEN.fullmatch(method):
        raise SigningError(f"method: {shown(method)} is no HTTP method")
    return method.upper()


def _warn_of_expiry(session_expiration: datetime, at: datetime | None, expires: int) -> None:
    start = time.time() if at is None else at.timestamp()
    left = int(session_expiration.timestamp() - start)
    if left < expires:
        ends = f"in {left} s" if left > 0 else "already"
        warnings.warn(
            f"the URL is meant for {expires} s, but the session token expires {ends}, and the URL with it",
            ExpiryWarning,
            stacklevel=4,
        )


def _merged(names: Iterable[str], values: Iterable[str]) -> dict[str, str]:
    """Joins the values of repeated headers by commas, as they are signed (RFC 9110, section 5.3)."""
    out: dict[str, str] = {}
    first: dict[str, str] = {}
    for name, value in zip(names, values, strict=True):
        home = first.setdefault(name.lower(), name)
        out[home] = f"{out[home]},{value}" if home in out else value
    return out


_this_second: tuple[int, Moment] = (0, Moment("", ""))


def _now() -> Moment:
    """The present moment; made once a second."""
    global _this_second
    second = int(time.time())
    known, when = _this_second
    if known != second:
        amz_date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        if amz_date < "2012":
            raise SigningError(f"the clock says {amz_date}, before Signature Version 4; set it")
        when = Moment(amz_date, amz_date[:8])
        _this_second = (second, when)
    return when
