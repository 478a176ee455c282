"""`Signer`: one access key whose secret is in a device, ready to sign requests."""

from __future__ import annotations

import re
import time
import warnings
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from aws_hmac.errors import ConfigError, ExpiryWarning, SigningError, UnsupportedError
from aws_hmac.signing_keys import SigningKeys
from aws_hmac.sigv4.canonical import (
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
from aws_hmac.sigv4.signature import ALGORITHM, credential_scope, moment, string_to_sign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from typing import TypeAlias

    from aws_hmac.backend import HmacBackend
    from aws_hmac.event_stream import EventSigner
    from aws_hmac.signing_keys import Mode
    from aws_hmac.sigv4.payload import Body
    from aws_hmac.sigv4.post import Condition, PresignedPost
    from aws_hmac.sigv4.rules import ServiceRules
    from aws_hmac.sigv4.streaming import Checksum, ChunkedBody, StreamBody
    from aws_hmac.sigv4a_key import SigV4aKey

    _Stages: TypeAlias = tuple[str, str, str, str, str]  # the fields of Explanation
    Headers: TypeAlias = "Mapping[str, str] | Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]"

MAX_EXPIRES = 604800
"""Seconds that a presigned URL can be valid at most: 7 days (Amazon S3 API Reference, "Query Parameters")."""

PRESIGN_RECHECK_SECONDS = 300.0
"""No answer is seen for a presigned URL, so the device's key is looked at again at this interval."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, section 5.6.2
_PRESIGNED = re.compile(r"(?:^|&)x-amz-signature=", re.IGNORECASE)
_ACCESS_KEY_ID = re.compile(r"[!-.0-~]+", re.ASCII)

_OF_THE_STREAM = frozenset(
    {"content-length", "x-amz-content-sha256", "x-amz-decoded-content-length", "x-amz-trailer", "transfer-encoding"}
)
"""Headers that follow from how a body is sent."""

_kept_query_string = lru_cache(maxsize=256)(canonical_query_string)
"""APIs are asked the same again and again. Not for presigned URLs, which never repeat and hold tokens."""


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
        sigv4a_backend: a second key, "AWS4A" + secret (``aws-hmac key import --sigv4a``), for requests that are
            signed for a `region_set`. Leave it out unless you need them: what is derived from it knows no date,
            so whoever may use it once signs for good.

    Attributes:
        keys: the `SigningKeys`.
        sigv4a_key: the `SigV4aKey`, or None.

    Raises:
        SigningError: the access key id is empty or holds a slash, blank or other character that none has; the
            session token or its expiration is none.
        ConfigError: `backend` is none.
    """

    __slots__ = ("__weakref__", "access_key_id", "keys", "session_expiration", "session_token", "sigv4a_key")

    def __init__(
        self,
        access_key_id: str,
        backend: HmacBackend,
        *,
        session_token: str | None = None,
        session_expiration: datetime | None = None,
        cache: Mode = "date",
        max_age: float | None = None,
        sigv4a_backend: HmacBackend | None = None,
    ) -> None:
        if not isinstance(access_key_id, str) or not _ACCESS_KEY_ID.fullmatch(access_key_id):
            raise SigningError("access_key_id: must be text without slash or blank, as AKIAIOSFODNN7EXAMPLE")
        if session_token is not None and not isinstance(session_token, str):
            raise SigningError(f"session_token: must be text, and is of type {type(session_token).__name__}")
        for name, given in (("backend", backend), ("sigv4a_backend", sigv4a_backend or backend)):
            if not hasattr(given, "hmac_sha256"):
                raise ConfigError(
                    f"{name}: must be a backend, as aws_hmac.open_backend(key_uri) opens it,"
                    f" and is of type {type(given).__name__}"
                )
        if session_expiration is not None and getattr(session_expiration, "tzinfo", None) is None:
            raise SigningError("session_expiration: must be a datetime with a time zone")
        if session_token and not (session_token.isascii() and session_token.isprintable() and " " not in session_token):
            raise SigningError("session_token: holds a blank, line end, control or non-ASCII character")
        self.access_key_id = access_key_id
        self.session_token = session_token or None
        self.session_expiration = session_expiration
        self.keys = SigningKeys(backend, mode=cache, max_age=max_age)
        self.sigv4a_key: SigV4aKey | None = None
        if sigv4a_backend is not None:
            from aws_hmac.sigv4a_key import SigV4aKey

            self.sigv4a_key = SigV4aKey(sigv4a_backend, access_key_id, mode=cache, max_age=max_age)

    def sign(
        self,
        method: str,
        url: str,
        *,
        service: str,
        region: str | None = None,
        region_set: str | Sequence[str] | None = None,
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
            region_set: instead, the regions that the signature is for, as ``["eu-west-1", "us-*"]`` or ``*``:
                signs by SigV4A.
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
            UnsupportedError: `region_set` without a `sigv4a_backend`.
            Error: what the device answers, when it has to be asked.
        """
        try:
            return self._sign_headers(method, url, service, region, headers, body, at, rules, region_set)[0]
        except (TypeError, AttributeError):
            _check_types(method, service, region, headers, rules)
            raise

    def presign(
        self,
        method: str,
        url: str,
        *,
        service: str,
        region: str | None = None,
        region_set: str | Sequence[str] | None = None,
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
            region_set: instead, the regions that the signature is for, as ``["eu-west-1", "us-*"]`` or ``*``:
                signs by SigV4A.
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
            UnsupportedError: `region_set` without a `sigv4a_backend`.
            Error: what the device answers, when it has to be asked.
        """
        try:
            return self._sign_url(method, url, service, region, expires, headers, body, at, rules, region_set)[0]
        except (TypeError, AttributeError):
            _check_types(method, service, region, headers, rules)
            raise

    def sign_stream(
        self,
        method: str,
        url: str,
        *,
        region: str,
        body: StreamBody,
        service: str = "s3",
        headers: Headers = (),
        length: int | None = None,
        checksum: str | Callable[[], Checksum] | None = None,
        signed: bool = True,
        chunk_size: int = 65536,
        at: datetime | None = None,
        rules: ServiceRules | None = None,
    ) -> tuple[dict[str, str], ChunkedBody]:
        """Signs an upload whose body is signed in chunks while it is sent, in constant memory.

        The three ways of S3: ``STREAMING-AWS4-HMAC-SHA256-PAYLOAD``; with `checksum` the same and a trailer;
        with ``signed=False`` ``STREAMING-UNSIGNED-PAYLOAD-TRAILER``.

        Args:
            method: ``PUT`` mostly.
            url: what is requested.
            region: as ``eu-west-1``.
            body: bytes, a binary file (sent from where it stands) or an iterable of bytes in any pieces.
            service: the service's signing name.
            headers: what the request sends besides.
            length: bytes of the body; needed where it cannot be asked, as of a generator.
            checksum: sent after the body as ``x-amz-checksum-…``: ``crc32``, ``sha1``, ``sha256``, or what makes
                an object like hashlib's (`aws_hmac.sigv4.trailer_for`). ``crc32`` where nothing is signed.
            signed: whether each chunk is signed. If not, only https keeps the body from being changed.
            chunk_size: bytes of a chunk, 8192 at least.
            at: when it is signed; now if None.
            rules: how the service wants it; its own rules if None.

        Returns:
            Every header to send, Content-Length among them, and the body: an iterable with a length, which
            keeps its signing key until it ends.

        Raises:
            SigningError: the request cannot be signed as asked; names the part.
            Error: what the device answers, when it has to be asked.
        """
        from aws_hmac.sigv4 import streaming  # most who sign do not stream

        if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < streaming.MIN_CHUNK_SIZE:
            raise SigningError(f"chunk_size: must be a whole number of bytes, {streaming.MIN_CHUNK_SIZE} at least")
        size = streaming.length_of(body, length)
        trailer = None if checksum is None and signed else streaming.trailer_for(checksum or "crc32")
        marker = (
            streaming.STREAMING_UNSIGNED_PAYLOAD_TRAILER if not signed
            else streaming.STREAMING_PAYLOAD if trailer is None
            else streaming.STREAMING_PAYLOAD_TRAILER
        )  # fmt: skip
        pairs: list[tuple[str, str | bytes]] = []
        encodings = ["aws-chunked"]
        for name, value in zip(*_split_headers(headers), strict=True):
            lower = name.lower() if isinstance(name, str) else name
            if lower == "content-encoding":
                encodings.append(value.decode("latin-1") if isinstance(value, bytes) else str(value))
            elif lower not in _OF_THE_STREAM:
                pairs.append((name, value))  # type: ignore[arg-type] # looked at when it is signed
        pairs += [
            ("Content-Encoding", ",".join(encodings)),
            ("Content-Length", str(streaming.encoded_length(size, chunk_size, signed=signed, trailer=trailer))),
            ("X-Amz-Decoded-Content-Length", str(size)),
        ]
        if trailer is not None:
            pairs.append(("X-Amz-Trailer", trailer.name))
        made, stages = self._sign_headers(method, url, service, region, pairs, marker, at, rules)
        scope, seed, amz_date = stages[2], stages[-1], made["X-Amz-Date"]
        key = self.keys.signing_key(scope[:8], region, service)
        return made, streaming.ChunkedBody(
            body, size, chunk_size=chunk_size, trailer=trailer,
            signer=(lambda: streaming.ChunkSigner(key, amz_date, scope, seed)) if signed else None,
        )  # fmt: skip

    def sign_events(
        self,
        method: str,
        url: str,
        *,
        service: str,
        region: str,
        headers: Headers = (),
        at: datetime | None = None,
        rules: ServiceRules | None = None,
    ) -> tuple[dict[str, str], EventSigner]:
        """Signs a request that opens an event stream, whose messages are signed one by one.

        Args:
            method: ``POST`` mostly.
            url: what is requested.
            service: the service's signing name, as ``transcribe``.
            region: as ``eu-west-1``.
            headers: what the request sends besides.
            at: when it is signed; now if None.
            rules: how the service wants it; its own rules if None.

        Returns:
            Every header to send, and what signs the messages.

        Raises:
            SigningError: the request cannot be signed as asked; names the part.
            Error: what the device answers, when it has to be asked.
        """
        from aws_hmac.event_stream import EventSigner
        from aws_hmac.sigv4.streaming import STREAMING_EVENTS

        made, stages = self._sign_headers(method, url, service, region, headers, STREAMING_EVENTS, at, rules)
        return made, EventSigner(self.keys, region, service, stages[-1])

    def presign_post(
        self,
        url: str,
        *,
        bucket: str,
        key: str,
        region: str,
        expires: int,
        fields: Mapping[str, str] | None = None,
        conditions: Sequence[Condition] = (),
        service: str = "s3",
        at: datetime | None = None,
    ) -> PresignedPost:
        """Signs a form with which a browser uploads one object to S3.

        Args:
            url: the bucket's, where the form is sent.
            bucket: the bucket's name.
            key: the object's key; ``${filename}`` at its end stands for the name of the user's file.
            region: as ``eu-west-1``.
            expires: seconds for which the form is valid, 1 to 604800 (7 days).
            fields: what else the form holds, as ``{"acl": "private"}``; each must be sent as it is, unless a
                condition says otherwise.
            conditions: what the form may hold: ``{"name": "value"}``, ``["starts-with", "$name", "prefix"]`` or
                ``["content-length-range", least, most]``.
            service: the service's signing name.
            at: from when it is valid; now if None.

        Returns:
            The URL and all fields of the form.

        Raises:
            SigningError: the form cannot be signed as asked; names the part.
            Error: what the device answers, when it has to be asked.

        Warns:
            ExpiryWarning: the session token expires before the form does.
        """
        from datetime import datetime, timedelta, timezone

        from aws_hmac.sigv4.post import PresignedPost, conditions_for, key_condition, post_policy

        _check_expires(expires)
        url_parts(url)
        if at is None:
            at = datetime.fromtimestamp(time.time(), timezone.utc)
        amz_date, date = moment(at)
        scope = credential_scope(date, region, service)
        own = {
            "x-amz-algorithm": ALGORITHM,
            "x-amz-credential": f"{self.access_key_id}/{scope}",
            "x-amz-date": amz_date,
        }
        if self.session_token is not None:
            own["x-amz-security-token"] = self.session_token
            if self.session_expiration is not None:
                _warn_of_expiry(self.session_expiration, at, expires, stacklevel=3)
        for name, value in (("bucket", bucket), ("key", key)):
            if not isinstance(value, str) or not value:
                raise SigningError(f"{name}: must be given")
        policy = post_policy(
            (at + timedelta(seconds=expires)).astimezone(timezone.utc),
            [
                *conditions_for(fields or {}, conditions or ()),
                {"bucket": bucket},
                key_condition(key),
                *({name: value} for name, value in own.items()),
            ],
        )
        signature = self._unanswered_signature(date, region, service, policy.encode())
        return PresignedPost(url, {**(fields or {}), "key": key, **own, "policy": policy, "x-amz-signature": signature})

    def explain(
        self,
        method: str,
        url: str,
        *,
        service: str,
        region: str | None = None,
        region_set: str | Sequence[str] | None = None,
        headers: Headers = (),
        body: Body = b"",
        at: datetime | None = None,
        rules: ServiceRules | None = None,
        presign: int | None = None,
    ) -> Explanation:
        """Returns the stages of what `sign`, or with ``presign=seconds`` what `presign`, does with these arguments."""
        try:
            if presign is None:
                stages = self._sign_headers(method, url, service, region, headers, body, at, rules, region_set)[1]
            else:
                stages = self._sign_url(method, url, service, region, presign, headers, body, at, rules, region_set)[1]
        except (TypeError, AttributeError):
            _check_types(method, service, region, headers, rules)
            raise
        return Explanation(*stages)

    def __repr__(self) -> str:
        return f"<Signer {self.access_key_id} by {self.keys.backend.name}>"

    def __reduce_ex__(self, protocol: object, /) -> str:
        raise TypeError("a signer cannot be pickled or copied; make one in each process")

    def _sign_headers(
        self,
        method: str,
        url: str,
        service: str,
        region: str | None,
        headers: Headers,
        body: Body,
        at: datetime | None,
        rules: ServiceRules | None,
        region_set: str | Sequence[str] | None = None,
    ) -> tuple[dict[str, str], _Stages]:
        if rules is None:
            rules = rules_for(service)
        amz_date, date = _now() if at is None else moment(at)
        _, host, path, query = url_parts(url)
        names, values = _split_headers(headers)
        if region_set is not None:
            headers = ()
            names, values = _with_region_set(names, values, region_set)
        token = self.session_token
        plan = _plan(
            method,
            names,
            rules.content_sha256_header or isinstance(body, PayloadHash),
            None if token is None else rules.sign_session_token,
        )
        if plan.keep is not None:
            headers, values = (), [values[index] for index in plan.keep]
        clean = clean_values(plan.names, values)
        payload = _payload(body, clean, plan, rules.unsigned_payload)
        request = plan.template % plan.pick(
            (*clean, host, canonical_uri(path, rules), _kept_query_string(query), payload, amz_date, token)
        )
        if region_set is None:
            algorithm = ALGORITHM
            scope = credential_scope(date, region, service)
            to_sign = string_to_sign(amz_date, scope, request)
            key = self.keys.signing_key(date, region, service)  # type: ignore[arg-type] # credential_scope() refuses None
            signature = key.sign(to_sign.encode())
        else:
            algorithm, scope = self._sigv4a(date, region, service)
            to_sign = string_to_sign(amz_date, scope, request, algorithm)
            signature = self._sigv4a_signature(to_sign)

        if clean is values and plan.unique and type(headers) is dict:
            out = headers.copy()
        else:
            out = _merged(plan.names, clean)
        if plan.adds_host:
            out["Host"] = host
        out["X-Amz-Date"] = amz_date
        if plan.adds_hash:
            out["X-Amz-Content-SHA256"] = payload
        if token is not None:
            out["X-Amz-Security-Token"] = token
        out["Authorization"] = (
            f"{algorithm} Credential={self.access_key_id}/{scope}, "
            f"SignedHeaders={plan.signed_headers}, Signature={signature}"
        )
        return out, (request, to_sign, scope, plan.signed_headers, signature)

    def _sign_url(
        self,
        method: str,
        url: str,
        service: str,
        region: str | None,
        expires: int,
        headers: Headers,
        body: Body,
        at: datetime | None,
        rules: ServiceRules | None,
        region_set: str | Sequence[str] | None = None,
    ) -> tuple[str, _Stages]:
        _check_expires(expires)
        if rules is None:
            rules = rules_for(service)
        amz_date, date = _now() if at is None else moment(at)
        if self.session_token is not None and self.session_expiration is not None:
            _warn_of_expiry(self.session_expiration, at, expires)
        scheme, host, path, query = url_parts(url)
        if query and _PRESIGNED.search(query):
            raise SigningError("URL: is presigned already; presign the URL that it was made of")
        names, values = _split_headers(headers)
        plan = _plan(method, names, False, None, presigned=True)
        if plan.keep is not None:
            values = [values[index] for index in plan.keep]
        clean = clean_values(plan.names, values)
        payload = _payload(body, clean, plan, rules.unsigned_payload or rules.presign_unsigned_payload)

        token = "" if self.session_token is None else f"&X-Amz-Security-Token={encode(self.session_token)}"
        if region_set is None:
            algorithm, regions = ALGORITHM, ""
            scope = credential_scope(date, region, service)
        else:
            algorithm, scope = self._sigv4a(date, region, service)
            regions = f"&X-Amz-Region-Set={encode(_region_set_header(region_set))}"
        own_query = (
            f"X-Amz-Algorithm={algorithm}&X-Amz-Credential={_encoded_credential(self.access_key_id, scope)}"
            f"&X-Amz-Date={amz_date}&X-Amz-Expires={expires}{regions}"
            f"&X-Amz-SignedHeaders={plan.encoded_signed_headers}"
        )
        sent_query = f"{own_query}{token}" if rules.sign_session_token else own_query
        if query:
            sent_query = f"{wire_form(query)}&{sent_query}"
        uri = canonical_uri(path, rules)
        query_string = own_query if sent_query is own_query else canonical_query_string(sent_query)  # is in order
        request = plan.template % plan.pick((*clean, host, uri, query_string, payload))

        to_sign = string_to_sign(amz_date, scope, request, algorithm)
        if region_set is None:
            signature = self._unanswered_signature(date, region, service, to_sign.encode())  # type: ignore[arg-type] # likewise
        else:
            signature = self._sigv4a_signature(to_sign)
        if not rules.sign_session_token:
            sent_query += token
        sent_path = path if path == uri else wire_form(path) or "/"
        signed_url = f"{scheme}://{host}{sent_path}?{sent_query}&X-Amz-Signature={signature}"
        return signed_url, (request, to_sign, scope, plan.signed_headers, signature)

    def _unanswered_signature(self, date: str, region: str, service: str, to_sign: bytes) -> str:
        """Signs what is handed on: no answer will tell that the device's key is another."""
        signature = self.keys.signing_key(date, region, service).sign(to_sign)
        if self.keys.recheck(interval=PRESIGN_RECHECK_SECONDS):
            signature = self.keys.signing_key(date, region, service).sign(to_sign)
        return signature

    def _sigv4a(self, date: str, region: object, service: str) -> tuple[str, str]:
        """Returns SigV4A's algorithm and credential scope."""
        from aws_hmac.sigv4 import sigv4a

        if region is not None:
            raise SigningError("region: give either region or region_set")
        if self.sigv4a_key is None:
            raise UnsupportedError(
                "SigV4A (region_set) is off: it needs a second key, 'AWS4A' + secret (aws-hmac key import --sigv4a),"
                " given as Signer(sigv4a_backend=…). The key pair derived from it knows no date: whoever may use it"
                " once signs for good, until the access key is deactivated"
            )
        return sigv4a.ALGORITHM, sigv4a.credential_scope(date, service)

    def _sigv4a_signature(self, to_sign: str) -> str:
        assert self.sigv4a_key is not None  # _sigv4a() has looked
        return self.sigv4a_key.sign(to_sign.encode())


class _Plan(NamedTuple):
    """What follows from the method and the names of the given headers alone.

    `template` is a canonical request with ``%s`` for all that a single request brings; `pick` takes that, in
    order, out of the sent values of the given headers, the host, the canonical URI and query, the payload's
    hash, the date and the session token.
    """

    names: tuple[str, ...]  # of the given headers, those that are sent
    keep: tuple[int, ...] | None  # their indexes among those given; None for all
    adds_host: bool
    adds_hash: bool
    hash_index: int | None  # where the payload's hash was given
    unique: bool  # no name repeats, in whatever case
    signed_headers: str
    encoded_signed_headers: str
    template: str
    pick: Callable[[tuple[str | None, ...]], tuple[str, ...]]


@lru_cache(maxsize=1024)
def _plan(
    method: str, given: tuple[str, ...], sends_hash: bool, signs_token: bool | None, presigned: bool = False
) -> _Plan:
    """Makes the plan; `signs_token` is None if there is no token to send in a header."""
    if not isinstance(method, str) or not _TOKEN.fullmatch(method):
        raise SigningError(f"method: {shown(method)} is no HTTP method")
    header_plan(given)  # refuses what is no header's name
    replaced = {"authorization", "x-amz-date"} | (set() if signs_token is None else {"x-amz-security-token"})
    keep = tuple(index for index, name in enumerate(given) if name.lower() not in replaced)
    names = tuple(given[index] for index in keep)
    lower = [name.lower() for name in names]
    hash_index = lower.index("x-amz-content-sha256") if "x-amz-content-sha256" in lower else None
    adds_host = "host" not in lower
    adds_hash = sends_hash and hash_index is None

    # All names that are signed, and where their values are in what `pick` is given:
    host, uri, query, payload, date, token = range(len(names), len(names) + 6)
    places = dict(enumerate(names))
    if adds_host:
        places[host] = "host"
    if adds_hash:
        places[payload] = "x-amz-content-sha256"
    if not presigned:
        places[date] = "x-amz-date"
    if signs_token:
        places[token] = "x-amz-security-token"
    signed_headers, headers_template, order = header_plan(tuple(places.values()))
    where = tuple(places)
    method, literal_names = (text.replace("%", "%%") for text in (method.upper(), signed_headers))
    return _Plan(
        names=names,
        keep=None if len(keep) == len(given) else keep,
        adds_host=adds_host,
        adds_hash=adds_hash,
        hash_index=hash_index,
        unique=len(set(lower)) == len(lower),
        signed_headers=signed_headers,
        encoded_signed_headers=encode(signed_headers),
        template=canonical_request(method, "%s", "%s", headers_template, literal_names, "%s"),
        pick=itemgetter(uri, query, *(where[index] for index in order), payload),
    )


@lru_cache(maxsize=64)
def _encoded_credential(access_key_id: str, scope: str) -> str:
    return encode(f"{access_key_id}/{scope}")


def _check_types(method: object, service: object, region: object, headers: object, rules: object) -> None:
    """Says which argument is of a wrong type, where one is; only called when something went wrong already."""
    names = _split_headers(headers)[0]  # type: ignore[arg-type] # it says what is wrong
    texts = [("method", method), ("service", service), *(("header", name) for name in names)]
    if region is not None:
        texts.append(("region", region))
    for part, value in texts:
        if not isinstance(value, str):
            raise SigningError(f"{part}: must be text, and is of type {type(value).__name__}")
    if rules is not None and not hasattr(rules, "content_sha256_header"):
        raise SigningError(f"rules: must be a ServiceRules, and is of type {type(rules).__name__}")


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


def _with_region_set(
    names: tuple[str, ...], values: list[object], region_set: str | Sequence[str]
) -> tuple[tuple[str, ...], list[object]]:
    pairs = [pair for pair in zip(names, values, strict=True) if str(pair[0]).lower() != "x-amz-region-set"]
    pairs.append(("X-Amz-Region-Set", _region_set_header(region_set)))
    return tuple(name for name, _ in pairs), [value for _, value in pairs]


def _region_set_header(region_set: str | Sequence[str]) -> str:
    from aws_hmac.sigv4.sigv4a import region_set_header  # few need it

    return region_set_header(region_set)


def _payload(body: Body, clean: Sequence[str], plan: _Plan, unsigned: bool) -> str:
    if plan.hash_index is not None:
        return clean[plan.hash_index]
    if unsigned and not isinstance(body, PayloadHash):
        return UNSIGNED_PAYLOAD
    return payload_hash(body)


def _check_expires(expires: int) -> None:
    if not isinstance(expires, int) or isinstance(expires, bool) or not 1 <= expires <= MAX_EXPIRES:
        raise SigningError(f"expires: must be a whole number of seconds from 1 to {MAX_EXPIRES} (7 days)")


def _warn_of_expiry(session_expiration: datetime, at: datetime | None, expires: int, stacklevel: int = 4) -> None:
    start = time.time() if at is None else at.timestamp()
    left = int(session_expiration.timestamp() - start)
    if left < expires:
        ends = f"in {left} s" if left > 0 else "already"
        warnings.warn(
            f"this is meant for {expires} s, but the session token expires {ends}, and this with it",
            ExpiryWarning,
            stacklevel=stacklevel,
        )


def _merged(names: Iterable[str], values: Iterable[str]) -> dict[str, str]:
    """Joins the values of repeated headers by commas, as they are signed (RFC 9110, section 5.3)."""
    out: dict[str, str] = {}
    first: dict[str, str] = {}
    for name, value in zip(names, values, strict=True):
        home = first.setdefault(name.lower(), name)
        out[home] = f"{out[home]},{value}" if home in out else value
    return out


_this_second: tuple[float, tuple[str, str]] = (0.0, ("", ""))


def _now() -> tuple[str, str]:
    """The present `Moment`'s two texts, made once a second."""
    global _this_second
    start, texts = _this_second
    now = time.time()
    if not 0 <= now - start < 1:
        amz_date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        if amz_date < "2012":
            raise SigningError(f"the clock says {amz_date}, before Signature Version 4; set it")
        texts = (amz_date, amz_date[:8])
        _this_second = (now // 1, texts)
    return texts
