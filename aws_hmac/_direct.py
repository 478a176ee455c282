"""Direct signing in botocore: each request is signed by the device's key; no secret is in the process.

How it plugs in, by public names of botocore: on the event ``creating-client-class`` a mixin goes in front of the
client's base classes. It hands the client a subclass of the `RequestSigner` that botocore made, whose
`get_auth_instance` answers, for our credentials, botocore's own pure-Python signing class with another
``signature()``: the one place where those classes use the secret. Clients with other credentials, bearer tokens
and anonymous operations take botocore's path unchanged.

Everything is derived from the classes in hand, so that the copy of botocore inside the AWS CLI v2, and
aiobotocore, work the same.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError

from aws_hmac._botocore import as_retrieval_error
from aws_hmac._clock import HostClocks
from aws_hmac.answers import SIGNATURE_ERRORS
from aws_hmac.errors import Error, SigningError, UnsupportedError
from aws_hmac.signer import PRESIGN_RECHECK_SECONDS
from aws_hmac.sigv4 import sigv4a
from aws_hmac.sigv4.canonical import UNSIGNED_HEADERS, clean_values, encode, header_plan, host_header
from aws_hmac.sigv4.signature import ALGORITHM, string_to_sign

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from aws_hmac.signer import Signer
    from aws_hmac.sigv4.canonical import HeaderPlan
    from aws_hmac.sigv4.signature import SigningKey

_CLASSES = {
    "v4": "SigV4Auth",
    "v4-query": "SigV4QueryAuth",
    "s3v4": "S3SigV4Auth",
    "s3v4-query": "S3SigV4QueryAuth",
    "s3v4-presign-post": "S3SigV4PostAuth",
    # Signature Version 2 of S3, still botocore's default for presigned URLs in old regions, becomes Version 4:
    "s3": "S3SigV4Auth",
    "s3-query": "S3SigV4QueryAuth",
    "s3-presign-post": "S3SigV4PostAuth",
}
"""botocore's name of a signature version to its pure-Python class."""

_V4A_CLASSES = {
    "v4a": "SigV4Auth",
    "v4a-query": "SigV4QueryAuth",
    "s3v4a": "S3SigV4Auth",
    "s3v4a-query": "S3SigV4QueryAuth",
}
"""The same for Version 4A: its canonical request is that of Version 4."""

_REFUSALS = SIGNATURE_ERRORS | {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
"""What servers answer to a signature that is wrong, or of another time; the former may mean the latter."""

_SIGNED = "aws_hmac_signed"  # our places in a request's context
_RESENT = "aws_hmac_resent"


class NoSecretKeyError(UnsupportedError, AttributeError, NoCredentialsError):
    """Code asked direct-signing credentials for the secret, which only the device has.

    An AttributeError, so that ``hasattr`` says no; a NoCredentialsError, so that boto3's transfer manager, which
    compares secrets before it takes the CRT client, goes on with its classic client.
    """

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)
        self.kwargs: dict[str, Any] = {}

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return type(self), self.args


class DirectCredentials(Credentials):
    """An access key id and, in place of the secret, a `Signer`.

    Copies are the same object; pickling is refused.

    Args:
        signer: signs.

    Attributes:
        signer: as given.
        clocks: the hosts whose clock differs from ours.
    """

    method = "aws-hmac"
    account_id = None

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        self.clocks = HostClocks()

    @property
    def access_key(self) -> str:  # type: ignore[override] # read-only
        """The access key id."""
        return self.signer.access_key_id

    @property
    def token(self) -> str | None:  # type: ignore[override] # read-only
        """The session token, if the signer has one."""
        return self.signer.session_token

    @property
    def secret_key(self) -> str:  # type: ignore[override] # read-only
        """Raises NoSecretKeyError."""
        raise NoSecretKeyError(
            f"the secret of {self.access_key} is in {self.signer.keys.backend.name} and cannot be read: sign with"
            " aws_hmac.Signer, aws_hmac.requests or aws_hmac.httpx, or give this code temporary credentials"
            " (aws_hmac.Session without mode='direct')"
        )

    def get_frozen_credentials(self) -> DirectCredentials:  # type: ignore[override] # botocore's holds a secret
        """Returns itself: it does not change."""
        return self

    def __copy__(self) -> DirectCredentials:
        return self

    def __deepcopy__(self, memo: object) -> DirectCredentials:
        return self

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("direct-signing credentials cannot be pickled; install the signer in each process")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.access_key} by {self.signer.keys.backend.name}>"


def add_to_clients(session: Any, mixin: type | None = None) -> None:
    """Has the clients that a botocore session makes from now on sign by the device, where `DirectCredentials` sign.

    Args:
        session: botocore's, or one derived from it.
        mixin: what goes in front of a client's base classes.
    """
    front = mixin or DirectClient

    def add(base_classes: list[type], **_: object) -> None:
        if front not in base_classes:
            base_classes.insert(0, front)

    session.register("creating-client-class", add, unique_id="aws-hmac-direct")


class DirectClient:
    """Goes in front of a client's base classes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        signer = kwargs["request_signer"] = direct_signer(kwargs["request_signer"], DirectSigner)
        super().__init__(*args, **kwargs)
        register(self, V4Chooser(signer, kwargs["service_model"]).choose, needs_retry)


def register(client: Any, choose_signer: Callable[..., Any], needs_retry: Callable[..., Any]) -> None:
    """Registers the handlers of a client."""
    if "v4a" in _auth_module(type(client)).AUTH_TYPE_MAPS:
        client.meta.events.register_first("choose-signer", choose_signer)
    client.meta.events.register_first("needs-retry", needs_retry)


class DirectSigner:
    """Goes in front of a RequestSigner's class."""

    def get_auth_instance(
        self, signing_name: str, region_name: str, signature_version: str | None = None, **kwargs: Any
    ) -> Any:
        """Returns what signs one request: botocore's own for other credentials than ours."""
        version = signature_version or self.signature_version  # type: ignore[attr-defined] # RequestSigner's
        auth = super().get_auth_instance(  # type: ignore[misc] # RequestSigner's
            signing_name, region_name, signature_version=version, **kwargs
        )
        return device_auth(auth, type(self), version, signing_name, region_name, kwargs)

    get_auth = get_auth_instance


def device_auth(
    stock: Any, signer_class: type, version: str, signing_name: str, region_name: str, kwargs: dict[str, Any]
) -> Any:
    """Returns what signs one request by the device, in place of what botocore made of our credentials.

    Args:
        stock: what botocore made; returned as it is if it has other credentials, or a token.
        signer_class: the RequestSigner's class.
        version: the signature version, as botocore names it.
        signing_name: the service.
        region_name: the region.
        kwargs: the other arguments of ``get_auth_instance``.

    Raises:
        UnsupportedError: this signature version needs the secret.
    """
    credentials = getattr(stock, "credentials", None)
    if not isinstance(credentials, DirectCredentials):
        return stock
    auth_class = _auth_class(cast("Hashable", signer_class), version, credentials.signer.sigv4a_key is not None)
    if auth_class is None:
        raise UnsupportedError(_why_not(version, signing_name, credentials))
    if "expires" in kwargs:
        return auth_class(credentials, signing_name, region_name, expires=kwargs["expires"])
    return auth_class(credentials, signing_name, region_name)


def _why_not(version: str, signing_name: str, credentials: DirectCredentials) -> str:
    if "v4a" in version:
        return (
            f"{signing_name}: this request wants Signature Version 4A, which needs a second key of"
            f" {credentials.access_key} (aws-hmac key import --sigv4a), given as Signer(sigv4a_backend=…); or use"
            " temporary credentials for it (aws_hmac.Session without mode='direct')"
        )
    return (
        f"{signing_name}: signature version {version!r} needs the secret of {credentials.access_key} itself, which only"
        " the device has; direct signing does Signature Version 4"
    )


class _Signed(NamedTuple):
    """By what a request was signed."""

    credentials: DirectCredentials
    generation: int  # of the keys


class _DeviceSignature:
    """Goes in front of botocore's pure-Python signing classes."""

    credentials: DirectCredentials
    fetched: Mapping[str, SigningKey] = MappingProxyType({})
    """Signing keys by credential scope, fetched beforehand where ``signature`` must not wait for the device."""

    def canonical_request(self, request: Any) -> str:
        if self.credentials.clocks.differ:
            self.credentials.clocks.shift(request)
        canonical: str = super().canonical_request(request)  # type: ignore[misc] # SigV4Auth's
        return canonical

    def signature(self, string_to_sign: str, request: Any) -> str:
        keys = self.credentials.signer.keys
        request.context[_SIGNED] = _Signed(self.credentials, keys.generation)
        scope: str = self.credential_scope(request)  # type: ignore[attr-defined] # SigV4Auth's
        key = self.fetched.get(scope) or signing_key(self.credentials, scope)
        return key.sign(string_to_sign.encode())


class _PlainHeaders(NamedTuple):
    """The headers to sign, where none needs any folding."""

    plan: HeaderPlan
    values: Sequence[str]


class _AnsweredSignature(_DeviceSignature):
    """The same for requests that are sent: the headers of the usual request go through our own, faster stage."""

    disputed: frozenset[str]
    """Headers that only this botocore, or only we, sign."""

    plain: _PlainHeaders | None = None
    """Those of the canonical request; botocore asks for them once more for the Authorization header."""

    def canonical_request(self, request: Any) -> str:
        self.plain = None
        return super().canonical_request(request)

    def headers_to_sign(self, request: Any) -> Any:
        if self.plain is not None:
            return self.plain
        names: list[str] = request.headers.keys()
        values: list[str] = request.headers.values()
        try:
            if "host" not in request.headers:
                names.append("host")
                scheme, _, rest = request.url.partition("://")
                values.append(host_header(scheme, rest.partition("/")[0].partition("?")[0]))
            # Only where both agree to the byte what a blank is.
            if clean_values(names, values) is values and "".join(values).isascii():
                plan = _agreed_plan(tuple(names), self.disputed)
                if plan is not None:
                    self.plain = _PlainHeaders(plan, values)
                    return self.plain
        except SigningError:
            pass  # let botocore say what is wrong
        return super().headers_to_sign(request)  # type: ignore[misc] # SigV4Auth's

    def canonical_headers(self, headers_to_sign: Any) -> str:
        if isinstance(headers_to_sign, _PlainHeaders):
            plan, values = headers_to_sign
            return plan.fill(values)[:-1]
        canonical: str = super().canonical_headers(headers_to_sign)  # type: ignore[misc] # SigV4Auth's
        return canonical

    def signed_headers(self, headers_to_sign: Any) -> str:
        if isinstance(headers_to_sign, _PlainHeaders):
            return headers_to_sign.plan.signed_headers
        signed: str = super().signed_headers(headers_to_sign)  # type: ignore[misc] # SigV4Auth's
        return signed


@lru_cache(maxsize=512)
def _agreed_plan(names: tuple[str, ...], disputed: frozenset[str]) -> HeaderPlan | None:
    return None if any(name.lower() in disputed for name in names) else header_plan(names)


class _UnansweredSignature(_DeviceSignature):
    """The same for presigned URLs and POSTs, whose answers nobody sees here."""

    def signature(self, string_to_sign: str, request: Any) -> str:
        signature = super().signature(string_to_sign, request)
        if not self.fetched and self.credentials.signer.keys.recheck(interval=PRESIGN_RECHECK_SECONDS):
            signature = super().signature(string_to_sign, request)
        return signature


class _V4aSignature(_DeviceSignature):
    """Goes in front of the same classes for Version 4A; the region is a set of regions."""

    def add_auth(self, request: Any) -> None:
        super().add_auth(request)  # type: ignore[misc] # SigV4Auth's
        authorization = request.headers["Authorization"]
        if authorization is not None:
            request.headers.replace_header("Authorization", authorization.replace(ALGORITHM, sigv4a.ALGORITHM, 1))

    def canonical_request(self, request: Any) -> str:
        _, region_set, _, _ = super().credential_scope(request).split("/")  # type: ignore[misc] # SigV4Auth's
        head, marker, tail = request.url.rpartition(f"X-Amz-Algorithm={ALGORITHM}")
        if marker:  # a presigned URL
            request.url = f"{head}X-Amz-Algorithm={sigv4a.ALGORITHM}&X-Amz-Region-Set={encode(region_set)}{tail}"
        else:
            del request.headers["X-Amz-Region-Set"]
            request.headers["X-Amz-Region-Set"] = sigv4a.region_set_header(region_set)
        return super().canonical_request(request)

    def credential_scope(self, request: Any) -> str:
        date, _, service, end = super().credential_scope(request).split("/")  # type: ignore[misc] # SigV4Auth's
        return f"{date}/{service}/{end}"

    def scope(self, request: Any) -> str:
        return f"{self.credentials.access_key}/{self.credential_scope(request)}"

    def string_to_sign(self, request: Any, canonical_request: str) -> str:
        return string_to_sign(
            request.context["timestamp"], self.credential_scope(request), canonical_request, sigv4a.ALGORITHM
        )

    def signature(self, string_to_sign: str, request: Any) -> str:
        key = self.credentials.signer.sigv4a_key
        assert key is not None  # _auth_class() has looked
        request.context[_SIGNED] = _Signed(self.credentials, self.credentials.signer.keys.generation)
        try:
            return key.sign(string_to_sign.encode())
        except Error as exc:
            raise as_retrieval_error(exc) from exc


def signing_key(credentials: DirectCredentials, scope: str) -> SigningKey:
    """Returns the signing key of a credential scope as botocore writes it.

    Raises:
        SigningError: region or service hold a slash.
        Error: whatever the device answers; also a botocore CredentialRetrievalError.
    """
    try:
        date, region, service, _ = scope.split("/")
    except ValueError:
        raise SigningError(f"credential scope {scope!r}: region or service hold a slash") from None
    try:
        return credentials.signer.keys.signing_key(date, region, service)
    except Error as exc:
        raise as_retrieval_error(exc) from exc


@lru_cache(maxsize=64)
def _auth_class(signer_class: Any, version: str, has_sigv4a_key: bool) -> Callable[..., Any] | None:
    auth = _auth_module(signer_class)
    if has_sigv4a_key and (name := _V4A_CLASSES.get(version)) is not None:
        return type(f"DirectV4A{name}", (_V4aSignature, getattr(auth, name)), {})
    name = _CLASSES.get(version)
    if name is None:
        return None
    mixin = _UnansweredSignature if version.endswith(("-query", "-post")) else _AnsweredSignature
    # botocore removes an earlier signature before it signs.
    disputed = UNSIGNED_HEADERS.symmetric_difference(auth.SIGNED_HEADERS_BLACKLIST) - {"authorization"}
    return type(f"Direct{name}", (mixin, getattr(auth, name)), {"disputed": disputed})


def _auth_module(of: type) -> Any:
    """The module with the signing classes of a client's or signer's botocore: its own ``auth``, or the CLI v2's."""
    home = next(base.__module__ for base in of.__mro__ if base.__name__ in ("BaseClient", "RequestSigner"))
    return sys.modules[f"{home.rpartition('.')[0]}.auth"]


@lru_cache(maxsize=16)
def _signer_class(mixin: Any, base: Any) -> Any:
    return type(f"Direct{base.__name__}", (mixin, base), {})


def direct_signer(given: Any, mixin: type) -> Any:
    """Returns a RequestSigner that does all that the given one does, with `mixin` in front of its class."""
    if isinstance(given, mixin):
        return given
    signer_class = _signer_class(cast("Hashable", mixin), cast("Hashable", type(given)))
    signer = signer_class.__new__(signer_class)
    vars(signer).update(vars(given))
    return signer


class V4Chooser:
    """Brings services that merely prefer Signature Version 4A back to Version 4."""

    def __init__(self, signer: Any, service_model: Any) -> None:
        self.signer = signer
        self._service_takes_v4 = "aws.auth#sigv4" in (service_model.metadata.get("auth") or ())

    def choose(self, signature_version: object, signing_name: str, context: dict[str, Any], **_: object) -> str | None:
        """Handles ``choose-signer``, before botocore's own handlers."""
        if not self.concerns(signature_version, context):
            return None
        auth = self.signer.get_auth_instance(signing_name, self.signer.region_name, "v4")
        return self.fallback(auth, signing_name, context)

    def concerns(self, signature_version: object, context: dict[str, Any]) -> bool:
        """Whether Version 4A would be taken."""
        return any(isinstance(v, str) and "v4a" in v for v in (signature_version, context.get("auth_type")))

    def fallback(self, auth: Any, signing_name: str, context: dict[str, Any]) -> str | None:
        """Returns the Version 4 that the endpoint or else the service takes, and sets its region, if it is ours."""
        if not isinstance(auth, _DeviceSignature) or auth.credentials.signer.sigv4a_key is not None:
            return None
        schemes = context.get("endpoint_properties", {}).get("authSchemes")
        if schemes is not None:
            scheme = next((scheme for scheme in schemes if scheme["name"] == "sigv4"), None)
        else:
            # Presigning does not tell the endpoint's schemes; a set of regions has come from one that wants 4A.
            regions = context.get("signing", {}).get("region", "")
            scheme = {} if self._service_takes_v4 and "*" not in regions and "," not in regions else None
        if scheme is None:
            return None
        signing_name = scheme.get("signingName", signing_name)
        context.setdefault("signing", {}).update(
            region=scheme.get("signingRegion", self.signer.region_name), signing_name=signing_name
        )
        return "s3v4" if signing_name.startswith("s3") else "v4"


def needs_retry(request_dict: dict[str, Any], response: Any = None, endpoint: Any = None, **_: object) -> int | None:
    """Handles ``needs-retry``: a refused signature is made once more if the clock or the key was another.

    Returns:
        0, the seconds to wait, to have the request signed and sent once more; None to leave it to others.
    """
    refused = refusal(request_dict, response, endpoint)
    if refused is None:
        return None
    return resend(request_dict, corrected=refused.clock_corrected() or refused.key_changed())


class Refusal(NamedTuple):
    """An answer that says that a signature is wrong."""

    signed: _Signed
    url: str
    date: str | None
    timestamp: str
    verified: bool

    def clock_corrected(self) -> bool:
        """Whether the host's clock was found to differ, so that signing again helps."""
        return self.signed.credentials.clocks.learn(self.url, self.date, self.timestamp, verified=self.verified)

    def key_changed(self) -> bool:
        """Whether the device's key is another now; may ask the device."""
        return self.signed.credentials.signer.keys.recheck(self.signed.generation)


def refusal(request_dict: dict[str, Any], response: Any, endpoint: Any) -> Refusal | None:
    """Returns what a server said against one of our signatures, once per request."""
    if response is None or response[0].status_code < 400:
        return None
    context = request_dict["context"]
    signed = context.get(_SIGNED)
    if signed is None or _RESENT in context:
        return None
    http, parsed = response
    code = parsed.get("Error", {}).get("Code")
    # The answer to a HEAD request has no body that could say more than 403.
    if code not in _REFUSALS and not (request_dict["method"] == "HEAD" and http.status_code in (400, 403)):
        return None
    # botocore has no public way to ask whether it checks certificates: what cannot be told is taken for no.
    verified = bool(getattr(endpoint.http_session, "_verify", False))
    return Refusal(signed, http.url, http.headers.get("Date"), context["timestamp"], verified)


def resend(request_dict: dict[str, Any], *, corrected: bool) -> int | None:
    """Answers ``needs-retry``: 0 if there is something to gain and the body can be sent again."""
    if not corrected:
        return None
    body = request_dict["body"]
    if not isinstance(body, (bytes, bytearray, str, dict, type(None))):
        try:
            body.seek(0)  # as botocore will do
        except (AttributeError, OSError, ValueError):
            return None
    request_dict["context"][_RESENT] = True
    return 0
