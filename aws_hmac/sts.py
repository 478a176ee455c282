"""Temporary credentials from AWS STS: AssumeRole, GetSessionToken; and GetCallerIdentity.

The device signs one request, and what comes back works in any SDK for its lifetime. Reference: the AWS Security
Token Service API, version 2011-06-15.
"""

from __future__ import annotations

import os
import re
import warnings
from datetime import datetime, timedelta, timezone
from time import sleep
from typing import TYPE_CHECKING, NamedTuple, TypedDict
from urllib.parse import urlencode

from aws_hmac._endpoints import sts_endpoint
from aws_hmac._transport import Answer, TransportError, check_url, post
from aws_hmac.errors import ClockSkewWarning, ConfigError, STSError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Unpack

    from aws_hmac.signer import Signer

MAX_ATTEMPTS = 3
"""How often a call is sent at most when STS throttles or fails, as in AWS's standard retry mode."""

MAX_BACKOFF = 20.0
"""Seconds between two attempts at most."""

MAX_SKEW = timedelta(hours=24)
"""A clock that is further off is not corrected, only complained about: no server shall choose dates freely."""

MIN_SKEW = timedelta(minutes=4)
"""A smaller difference is no reason for STS to refuse (it allows 5 minutes)."""

_VERSION = "2011-06-15"
_THROTTLED = frozenset({
    "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
    "TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded", "LimitExceededException",
    "PriorRequestNotComplete", "RequestTimeout", "RequestTimeoutException", "SlowDown",
})  # fmt: skip
_SKEWED = frozenset({
    "SignatureDoesNotMatch", "InvalidSignatureException", "AuthFailure", "RequestExpired", "RequestInTheFuture",
    "RequestTimeTooSkewed",
})  # fmt: skip
_WRONG_SIGNATURE = frozenset(["SignatureDoesNotMatch", "InvalidSignatureException", "AuthFailure"])
_NAME = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
_HINTS = {
    "InvalidClientTokenId": "the access key id {id} is unknown there, inactive or deleted, or the region is not on",
    "SignatureDoesNotMatch": "the key in the device is not the secret of {id}, or this machine's clock is wrong",
    "ExpiredToken": "the session that signs has expired",
    "RegionDisabledException": "enable the region for STS in the account's settings, or choose another",
}


class TemporaryCredentials:
    """What STS gives out. Its repr shows the access key id only.

    Attributes:
        access_key_id: ``ASIA…``; not secret.
        secret_access_key: secret until the expiration.
        session_token: likewise.
        expiration: an aware datetime, UTC.
        account_id: whose the session is, where STS said so (AssumeRole); else None.
    """

    __slots__ = ("access_key_id", "account_id", "expiration", "secret_access_key", "session_token")

    def __init__(
        self,
        access_key_id: str,
        secret_access_key: str,
        session_token: str,
        expiration: datetime,
        account_id: str | None = None,
    ) -> None:
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key
        self.session_token = session_token
        self.expiration = expiration
        self.account_id = account_id

    def __repr__(self) -> str:
        return f"TemporaryCredentials({self.access_key_id!r}, …, expiration={self.expiration.isoformat()!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TemporaryCredentials):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment] # mutable

    def __reduce_ex__(self, protocol: object, /) -> str:
        raise TypeError("temporary credentials are not pickled: that would write the secret in the clear")


class CallerIdentity(NamedTuple):
    """Who signed.

    Attributes:
        account: the account's 12 digits.
        arn: of the user or assumed role.
        user_id: its unique id.
    """

    account: str
    arn: str
    user_id: str


class Where(TypedDict, total=False):
    """Which STS is asked; every call takes these.

    What is left out comes from the environment, as for the SDKs: AWS_REGION, AWS_DEFAULT_REGION,
    AWS_STS_REGIONAL_ENDPOINTS, AWS_USE_FIPS_ENDPOINT, AWS_USE_DUALSTACK_ENDPOINT, AWS_ENDPOINT_URL_STS,
    AWS_ENDPOINT_URL (unless AWS_IGNORE_CONFIGURED_ENDPOINT_URLS is true) and AWS_CA_BUNDLE. HTTPS_PROXY and
    NO_PROXY are honoured.

    Attributes:
        region: as ``eu-west-1``.
        sts_regional_endpoints: ``regional`` (if left out) or ``legacy``.
        use_fips_endpoint: FIPS 140 validated endpoints.
        use_dualstack_endpoint: endpoints with IPv6.
        endpoint_url: another server; http:// to this machine only.
        ca_bundle: file of the certificate authorities to trust.
    """

    region: str | None
    sts_regional_endpoints: str | None
    use_fips_endpoint: bool | None
    use_dualstack_endpoint: bool | None
    endpoint_url: str | None
    ca_bundle: str | None


def assume_role(
    signer: Signer,
    *,
    role_arn: str,
    role_session_name: str | None = None,
    duration_seconds: int | None = None,
    external_id: str | None = None,
    policy: str | None = None,
    policy_arns: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    transitive_tag_keys: Sequence[str] = (),
    source_identity: str | None = None,
    mfa_serial: str | None = None,
    token_code: str | None = None,
    **where: Unpack[Where],
) -> TemporaryCredentials:
    """Calls AssumeRole.

    Args:
        signer: signs the call; one with a session token chains roles.
        role_arn: the role.
        role_session_name: shown in CloudTrail, 2 to 64 characters; ``aws-hmac-`` and the access key id if None.
        duration_seconds: 900 to 43200, and at most what the role allows (3600 when chaining); 3600 if None.
        external_id: what the role's owner agreed on with you.
        policy: JSON that narrows the session's rights further.
        policy_arns: managed policies that do so, at most 10.
        tags: session tags, at most 50.
        transitive_tag_keys: those of them that go along when the session assumes another role.
        source_identity: who is behind the session; stays along a chain.
        mfa_serial: serial number or ARN of the MFA device.
        token_code: the six digits that it shows.
        where: which STS, see `Where`.

    Raises:
        ConfigError: an argument cannot be, or contradicts another. Nothing was sent.
        STSError: STS refused, or could not be reached.
        Error: whatever the device answers.
    """
    chained = signer.session_token is not None
    parameters = {
        "RoleArn": _arn("role_arn", role_arn),
        "RoleSessionName": _name("role_session_name", role_session_name or default_session_name(signer.access_key_id)),
    }
    _add(parameters, "DurationSeconds", _duration(duration_seconds, 3600 if chained else 43200, chained=chained))
    _add(parameters, "ExternalId", external_id)
    _add(parameters, "Policy", _policy(policy))
    for number, arn in enumerate(policy_arns, 1):
        parameters[f"PolicyArns.member.{number}.arn"] = _arn("policy_arns", arn)
    for number, (key, value) in enumerate((tags or {}).items(), 1):
        parameters[f"Tags.member.{number}.Key"] = key
        parameters[f"Tags.member.{number}.Value"] = value
    for number, key in enumerate(transitive_tag_keys, 1):
        parameters[f"TransitiveTagKeys.member.{number}"] = key
    _add(parameters, "SourceIdentity", None if source_identity is None else _name("source_identity", source_identity))
    _add_mfa(parameters, mfa_serial, token_code)
    found = _call(signer, "AssumeRole", parameters, where, role_arn)
    arn = found.get("AssumedRoleUser/Arn", "")
    return _credentials(found, "AssumeRole", account_id=arn.split(":")[4] if arn.count(":") >= 5 else None)


def get_session_token(
    signer: Signer,
    *,
    duration_seconds: int | None = None,
    mfa_serial: str | None = None,
    token_code: str | None = None,
    **where: Unpack[Where],
) -> TemporaryCredentials:
    """Calls GetSessionToken: the user's own rights, for a while.

    Without MFA such a session may call neither IAM nor STS (but AssumeRole and GetCallerIdentity).

    Args:
        signer: signs the call, with a long-lived key.
        duration_seconds: 900 to 129600; 3600 if None (AWS's own default is 12 hours).
        mfa_serial: serial number or ARN of the MFA device.
        token_code: the six digits that it shows.
        where: which STS, see `Where`.

    Raises:
        ConfigError: an argument cannot be, or contradicts another. Nothing was sent.
        STSError: STS refused, or could not be reached.
        Error: whatever the device answers.
    """
    if signer.session_token is not None:
        raise ConfigError("GetSessionToken takes a long-lived key; temporary credentials can only assume a role")
    parameters = {"DurationSeconds": str(_duration(3600 if duration_seconds is None else duration_seconds, 129600))}
    _add_mfa(parameters, mfa_serial, token_code)
    return _credentials(_call(signer, "GetSessionToken", parameters, where, None), "GetSessionToken")


def get_caller_identity(signer: Signer, **where: Unpack[Where]) -> CallerIdentity:
    """Calls GetCallerIdentity, which needs no permission: who signs here?

    Args:
        signer: signs the call.
        where: which STS, see `Where`.

    Raises:
        ConfigError: an argument cannot be. Nothing was sent.
        STSError: STS refused, or could not be reached.
        Error: whatever the device answers.
    """
    found = _call(signer, "GetCallerIdentity", {}, where, None)
    account, arn, user_id = (found.get(name, "") for name in ("Account", "Arn", "UserId"))
    if not (account and arn):
        raise STSError("GetCallerIdentity: STS's answer lacks the account or the ARN")
    return CallerIdentity(account, arn, user_id)


def default_session_name(access_key_id: str) -> str:
    """Returns the name of a role session when none is given; the same every time, so that a cache finds it."""
    return re.sub(r"[^\w+=,.@-]", "-", f"aws-hmac-{access_key_id}", flags=re.ASCII)[:64]


def resolve(where: Where) -> Where:
    """Fills in from the environment what is left out, and checks it.

    Returns:
        What the environment no longer changes: ``endpoint_url`` and the ``region`` to sign for are set.

    Raises:
        ConfigError: there is no region, or something cannot be.
    """
    environ = os.environ
    endpoint_url = where.get("endpoint_url")
    if endpoint_url is None and (environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") or "").lower() != "true":
        endpoint_url = environ.get("AWS_ENDPOINT_URL_STS") or environ.get("AWS_ENDPOINT_URL") or None
    region = where.get("region") or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    regional = where.get("sts_regional_endpoints") or environ.get("AWS_STS_REGIONAL_ENDPOINTS") or "regional"
    fips, dualstack = (
        environ.get(variable, "").lower() == "true" if given is None else given
        for given, variable in (
            (where.get("use_fips_endpoint"), "AWS_USE_FIPS_ENDPOINT"),
            (where.get("use_dualstack_endpoint"), "AWS_USE_DUALSTACK_ENDPOINT"),
        )
    )
    if not region:
        if regional != "legacy":
            raise ConfigError("no region for STS: give region, in the profile or as an argument, or set AWS_REGION")
        region = "aws-global"
    url, signing_region = sts_endpoint(
        region,
        use_fips_endpoint=fips,
        use_dualstack_endpoint=dualstack,
        sts_regional_endpoints=regional,
    )
    if endpoint_url is not None:
        if fips or dualstack:
            which = "use_fips_endpoint" if fips else "use_dualstack_endpoint"
            raise ConfigError(f"{which} contradicts endpoint_url {endpoint_url}: name one or the other")
        check_url(endpoint_url)
        url = endpoint_url
    return {
        "region": signing_region,
        "sts_regional_endpoints": "regional",
        "use_fips_endpoint": False,
        "use_dualstack_endpoint": False,
        "endpoint_url": url,
        "ca_bundle": where.get("ca_bundle") or environ.get("AWS_CA_BUNDLE") or None,
    }


def _call(
    signer: Signer, action: str, parameters: Mapping[str, str], where: Where, subject: str | None
) -> dict[str, str]:
    """Sends one action and returns the texts of its result by their path."""
    place = resolve(where)
    url, region = place["endpoint_url"] or "", place["region"] or ""
    what = f"{action} of {subject}" if subject else action
    body = urlencode({"Action": action, "Version": _VERSION, **parameters}).encode()
    content = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    skew: timedelta | None = None
    rechecked = False
    attempt = 1
    while True:
        at = None if skew is None else _now() + skew
        generation = signer.keys.generation
        headers = signer.sign("POST", url, service="sts", region=region, headers=content, body=body, at=at)
        headers = {"Content-Length": str(len(body)), **headers}
        try:
            answer = post(url, headers, body, ca_bundle=place["ca_bundle"])
        except TransportError as exc:
            # A one-time code may be spent already: sending it again would only hide the reason.
            if exc.lasting or attempt >= MAX_ATTEMPTS or (exc.sent and "TokenCode" in parameters):
                raise STSError(f"{what}: {exc}") from exc
            _back_off(attempt)
            attempt += 1
            continue
        finally:
            headers.clear()  # no traceback shall hold a session token
        if answer.status == 200:
            found = _result(answer, action)
            if found is None:
                del answer  # no traceback shall hold what may be half an answer with credentials
                raise STSError(f"{action}: the server's answer is not STS's (status 200, no XML of STS)", status=200)
            return found
        error = _error(answer, what, signer)
        if error.code in _SKEWED and skew is None and (skew := _skew(answer, what)) is not None:
            continue
        if error.code in _WRONG_SIGNATURE and not rechecked:
            rechecked = True
            if signer.keys.recheck(generation):
                continue
        if attempt >= MAX_ATTEMPTS or not (error.code in _THROTTLED or answer.status in (429, 500, 502, 503, 504)):
            raise error
        _back_off(attempt)
        attempt += 1


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _back_off(attempt: int) -> None:
    import random  # few calls fail

    sleep(min(MAX_BACKOFF, random.random() * 2 ** (attempt - 1)))  # noqa: S311 - jitter is no secret


def _skew(answer: Answer, what: str) -> timedelta | None:
    """How far this machine's clock is behind the server's, where that explains the refusal.

    Every answer comes over verified TLS or from this machine (`_transport`), so its date may be believed;
    within a day, so that nobody can have requests signed for days to come.
    """
    from email.utils import parsedate_to_datetime

    text = next((value for name, value in answer.headers.items() if name.lower() == "date"), None)
    try:
        skew = parsedate_to_datetime(text or "") - _now()
    except (TypeError, ValueError, OverflowError):
        return None
    if abs(skew) < MIN_SKEW:
        return None
    direction = "behind" if skew > timedelta(0) else "ahead of"
    seconds = round(abs(skew).total_seconds())
    if abs(skew) > MAX_SKEW:
        warnings.warn(
            f"{what}: this machine's clock is {seconds} s {direction} AWS's: too far to be corrected; set the clock",
            ClockSkewWarning,
            stacklevel=4,
        )
        return None
    warnings.warn(
        f"{what}: this machine's clock is {seconds} s {direction} AWS's; corrected for this call; set the clock",
        ClockSkewWarning,
        stacklevel=4,
    )
    return skew


def _result(answer: Answer, action: str) -> dict[str, str] | None:
    prefix = f"{action}Response/{action}Result/"
    texts = _texts(answer.body)
    if texts is None:
        return None
    return {path.removeprefix(prefix): text for path, text in texts.items() if path.startswith(prefix)}


def _error(answer: Answer, what: str, signer: Signer) -> STSError:
    texts = _texts(answer.body) or {}
    # Some servers put <Errors> around it, as EC2 does; botocore reads both.
    code, message = (
        texts.get(f"ErrorResponse/Error/{name}") or texts.get(f"ErrorResponse/Errors/Error/{name}")
        for name in ("Code", "Message")
    )
    request_id = texts.get("ErrorResponse/RequestId") or next(
        (value for name, value in answer.headers.items() if name.lower() == "x-amzn-requestid"), None
    )
    if code is None:
        return STSError(
            f"{what}: the server answered with status {answer.status} and no error of STS: is it STS that is asked,"
            " or a proxy that answers?",
            request_id=request_id,
            status=answer.status,
        )
    message = _shown(message or "", signer.session_token)
    text = f"{what}: STS refused: {_shown(code)}" + (f": {message}" if message else "")
    if hint := _HINTS.get(code):
        text += f" ({hint.format(id=signer.access_key_id)})"
    if request_id:
        text += f" (request id {_shown(request_id)})"
    return STSError(text, code=code, message=message, request_id=request_id, status=answer.status)


def _shown(text: str, session_token: str | None = None) -> str:
    """A server's text on one line, of a bearable length, without the token that a canonical request would hold."""
    if session_token:
        text = text.replace(session_token, "…")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= 1000 else f"{text[:1000]}…"


def _texts(body: bytes) -> dict[str, str] | None:
    """The texts of an XML document by path, as ``ErrorResponse/Error/Code``; None if it is none of ours.

    A document type is refused: with it go entities, and so the bombs and the reading of files.
    """
    from xml.parsers import expat

    found: dict[str, str] = {}
    path: list[str] = []
    pieces: list[str] = []

    def start(name: str, _: object) -> None:
        path.append(name)
        pieces.clear()
        if len(path) > 20:
            raise ValueError("nested too deeply")

    def end(_: str) -> None:
        if text := "".join(pieces).strip():
            found.setdefault("/".join(path), text)
        pieces.clear()
        path.pop()

    def refuse(*_: object) -> None:
        raise ValueError("a document type")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = pieces.append
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError):
        return None
    return found


def _credentials(found: dict[str, str], action: str, *, account_id: str | None = None) -> TemporaryCredentials:
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
    missing = next((name for name in names if not found.get(f"Credentials/{name}")), None)
    try:
        if missing is not None:
            raise STSError(f"{action}: STS's answer lacks {missing}", status=200)
        try:
            expiration = parse_time(found["Credentials/Expiration"])
        except ValueError as exc:
            raise STSError(f"{action}: STS's answer holds an expiration that is no time", status=200) from exc
        key_id, secret, token = (found[f"Credentials/{name}"] for name in names[:3])
        return TemporaryCredentials(key_id, secret, token, expiration, account_id)
    finally:
        found.clear()  # no traceback shall hold a secret


def parse_time(text: str) -> datetime:
    """Reads ISO 8601 in UTC, as ``2026-01-01T00:00:00Z``, with or without a fraction.

    Raises:
        ValueError: it is something else.
    """
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)", text, re.ASCII)
    if match is None:
        raise ValueError("not a time in UTC")
    return datetime.fromisoformat(match[1]).replace(tzinfo=timezone.utc)


def _add(parameters: dict[str, str], name: str, value: object) -> None:
    if value is not None:
        parameters[name] = str(value)


def _add_mfa(parameters: dict[str, str], mfa_serial: str | None, token_code: str | None) -> None:
    if (mfa_serial is None) != (token_code is None):
        raise ConfigError("mfa_serial and token_code go together: one is missing")
    if token_code is not None and not re.fullmatch(r"\d{6}", token_code, re.ASCII):
        raise ConfigError("token_code: an MFA code has six digits")
    _add(parameters, "SerialNumber", mfa_serial)
    _add(parameters, "TokenCode", token_code)


def _duration(seconds: int | None, most: int, *, chained: bool = False) -> int | None:
    if seconds is None or 900 <= seconds <= most:
        return seconds
    why = " (AWS allows an hour when a role is assumed by a role's session)" if chained else ""
    raise ConfigError(f"duration_seconds: {seconds} is not between 900 and {most}{why}")


def _arn(what: str, arn: str) -> str:
    if not arn.startswith("arn:"):
        raise ConfigError(f"{what}: {arn!r} is no ARN, as arn:aws:iam::111122223333:role/deploy")
    return arn


def _name(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{what}: {name!r} must have 2 to 64 letters, digits or characters of _+=,.@-")
    return name


def _policy(policy: str | None) -> str | None:
    if policy is not None:
        import json

        try:
            document = json.loads(policy)
        except ValueError as exc:
            raise ConfigError(f"policy: is not JSON: {exc}") from exc
        if not isinstance(document, dict):
            raise ConfigError("policy: is not a policy document in JSON")
    return policy
