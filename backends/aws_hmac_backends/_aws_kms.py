"""AWS KMS for the backends ``awskms`` and ``tink``: key ARNs, a client of one's own, errors in words, key states."""

from __future__ import annotations

import os
import re
import threading
from contextlib import contextmanager
from datetime import timezone
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from aws_hmac.backend import Finding, profiles_under_way
from aws_hmac.errors import (
    AuthenticationError,
    BackendUnavailableError,
    ConfigError,
    DeviceBusyError,
    DeviceError,
    Error,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
    UnsupportedError,
)
from aws_hmac_backends._clients import check_endpoint, is_plain_http_elsewhere, quiet, said

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from aws_hmac.uri import KeyURI

CONNECT_TIMEOUT = 5
"""Seconds to reach KMS."""

READ_TIMEOUT = 10
"""Seconds until KMS answers."""

ATTEMPTS = 4
"""How often botocore asks at most when KMS throttles or the network fails."""

_ARN = re.compile(
    r"arn:(?P<partition>aws(?:-[a-z]+)*):kms:(?P<region>[a-z0-9-]+):(?P<account>\d{12})"
    r":(?:key/(?P<key_id>[A-Za-z0-9-]+)|alias/[A-Za-z0-9:/_-]+)",
    re.ASCII,
)
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z0-9]+)+", re.ASCII)

_XML_ERROR = re.compile(r"<Code>(?P<code>\w+)</Code>\s*<Message>(?P<message>[^<]*)</Message>")

_TELLTALES = (
    "botocore.endpoint",
    "botocore.parsers",
    "botocore.hooks",
    "botocore.httpsession",
    "botocore.retryhandler",
)


class KeyArn(NamedTuple):
    """The parts of a KMS key's ARN, in any partition (``aws``, ``aws-cn``, ``aws-us-gov``, …)."""

    partition: str
    region: str
    account: str
    key_id: str

    def __str__(self) -> str:
        return f"arn:{self.partition}:kms:{self.region}:{self.account}:key/{self.key_id}"

    @property
    def where(self) -> str:
        """Account and region in words."""
        return f"account {self.account}, {self.region}"


def parse_arn(text: str) -> KeyArn | None:
    """Returns the parts of a key's full ARN; None for an alias, a bare key id or anything else."""
    match = _ARN.fullmatch(text)
    if not match or match["key_id"] is None:
        return None
    return KeyArn(match["partition"], match["region"], match["account"], match["key_id"])


def region_of(text: str, uri: KeyURI) -> str | None:
    """Returns the region of a key or alias: its ARN's, else the URI's ``region``; None for the profile's own.

    Raises:
        KeyURIError: it is no region.
    """
    given = uri.get("region")
    if given is not None and not _REGION.fullmatch(given):
        raise KeyURIError(f"{uri.scheme}: URI: {given!r} is no AWS region")
    match = _ARN.fullmatch(text)
    return match["region"] if match else given


class Kms:
    """A KMS client of one key's own, made on first use, and anew in a forked process.

    Args:
        name: whose it is, for messages: the key URI's identity.
        region: the AWS region; None for the profile's.
        profile: the profile that the credentials for KMS come from; None for botocore's default chain.
        endpoint_url: where KMS is; None for AWS's, or ``AWS_ENDPOINT_URL_KMS``.

    Raises:
        ConfigError: the profile is the one whose credentials are being made: a loop.
    """

    def __init__(
        self, name: str, *, region: str | None = None, profile: str | None = None, endpoint_url: str | None = None
    ) -> None:
        self.name = name
        self._region, self._profile, self._endpoint_url = region, profile, endpoint_url
        self._clients: dict[int, Any] = {}
        self._lock, self._lock_pid = threading.Lock(), os.getpid()
        self._closed = False
        # Remembered: the first call may come when the profile's credentials have long been made.
        self._under_way = profiles_under_way()
        if profile is not None or not os.environ.get("AWS_ACCESS_KEY_ID"):
            self._refuse_loop(profile or _environment_profile(), ())

    @classmethod
    def of(cls, uri: KeyURI, key: str) -> Kms:
        """Returns the client that a key URI asks for."""
        return cls(
            uri.identity,
            region=region_of(key, uri),
            profile=uri.get("profile"),
            endpoint_url=check_endpoint(uri),
        )

    def call(self, operation: str, *, key: str, **parameters: Any) -> dict[str, Any]:
        """Asks KMS.

        Args:
            operation: the action, as ``GenerateMac``.
            key: the key in question, for messages.
            **parameters: as the API has them.

        Raises:
            Error: in words; nothing of botocore leaves.
        """
        with self._map_exceptions(operation, key):
            client = self._client()
            from botocore import xform_name

            with quiet(*_TELLTALES):
                answer: dict[str, Any] = getattr(client, xform_name(operation))(**parameters)
            return answer

    def describe(self, key: str) -> dict[str, Any]:
        """Returns DescribeKey's metadata of a key, alias or bare id."""
        metadata: dict[str, Any] = self.call("DescribeKey", key=key, KeyId=key)["KeyMetadata"]
        return metadata

    def caller(self) -> str:
        """Returns the ARN of the user or role whose credentials are in use, as STS tells it."""
        with self._map_exceptions("GetCallerIdentity", "", service="sts"):
            client = self._session().create_client("sts", region_name=self._client().meta.region_name, config=_config())
            try:
                arn = str(client.get_caller_identity()["Arn"])
            finally:
                client.close()
        # A key policy names the role, and not its sessions.
        return re.sub(r":sts:(:\d{12}):assumed-role/(.+)/[^/]+$", r":iam:\1:role/\2", arn)

    def account(self) -> str:
        """Returns the account of the credentials in use."""
        return self.caller().split(":")[4]

    def pin(self, key: str) -> str:
        """Returns the full ARN of a key, asked once: what an alias or bare id means today.

        Args:
            key: a key ARN, which is returned as it is; an alias, alias ARN or key id.

        Raises:
            KeyPolicyError: it is AWS's own default key, or one of an account other than the credentials'.
        """
        if parse_arn(key):
            return key
        metadata = self.describe(key)
        arn = parse_arn(str(metadata.get("Arn", "")))
        if arn is None:
            raise DeviceError(f"{self.name}: KMS answered no key ARN for {key}")
        if metadata.get("KeyManager") == "AWS":
            raise KeyPolicyError(
                f"{self.name}: {key} is a default key that AWS manages ({arn}), not yours to grant, rotate or keep;"
                " create a key of your own"
            )
        account = self.account()
        if arn.account != account:
            raise KeyPolicyError(
                f"{self.name}: {key} is a key of account {arn.account}, and the credentials are of account {account};"
                f" if that is meant, name it in full: {arn}"
            )
        return str(arn)

    def close(self) -> None:
        """Closes the connections."""
        self._closed = True
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def _client(self) -> Any:
        pid = os.getpid()
        if self._lock_pid != pid:
            # Another thread may have held the lock when this process was forked off.
            self._lock, self._lock_pid = threading.Lock(), pid
        with self._lock:
            if self._closed:
                raise DeviceError(f"{self.name}: closed")
            client = self._clients.get(pid)  # connections of the parent are not ours to use, nor to close
            if client is None:
                client = self._session().create_client(
                    "kms", region_name=self._region, endpoint_url=self._endpoint_url, config=_config()
                )
                if is_plain_http_elsewhere(client.meta.endpoint_url):  # of the environment or the profile
                    raise ConfigError(
                        f"{self.name}: KMS's endpoint is {client.meta.endpoint_url}: http to another machine would show"
                        " the key; use https"
                    )
                self._clients[pid] = client
            return client

    def _session(self) -> Any:
        try:
            from botocore.session import Session  # 150 ms that other keys do without
        except ImportError as exc:
            raise BackendUnavailableError(
                f"{self.name}: AWS KMS needs botocore; install it with: pip install 'aws-hmac[awskms]'", name=exc.name
            ) from exc
        session = Session(profile=self._profile)
        session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
        profiles = session.full_config.get("profiles", {})
        profile: str | None = self._profile or _environment_profile()
        seen: tuple[str, ...] = ()
        while profile is not None and profile not in seen:
            if self._profile is not None or not os.environ.get("AWS_ACCESS_KEY_ID"):
                self._refuse_loop(profile, seen)
            seen = (*seen, profile)
            profile = profiles.get(profile, {}).get("source_profile")
        return session

    def _refuse_loop(self, profile: str, seen: tuple[str, ...]) -> None:
        if profile in self._under_way:
            chain = " -> ".join((*self._under_way, *seen, profile))
            raise ConfigError(
                f"{self.name}: credentials go in a circle ({chain}): the credentials for KMS would come from profile"
                f" {profile!r}, whose credentials are being made by this key; name another with ?profile="
            )

    @contextmanager
    def _map_exceptions(self, operation: str, key: str, *, service: str = "kms") -> Iterator[None]:
        try:
            yield
        except Error:
            raise
        except Exception as exc:
            raise self._in_words(exc, operation, key, service) from exc

    def _in_words(self, exc: Exception, operation: str, key: str, service: str) -> Exception:
        from botocore import exceptions as boto

        action = f"{service}:{operation}"
        if isinstance(exc, boto.ClientError):
            return self._refused(exc, action, key)
        if isinstance(exc, boto.ProfileNotFound):
            profile = self._profile or _environment_profile()
            return ConfigError(f"{self.name}: there is no profile {profile!r} for the credentials for KMS")
        if isinstance(exc, boto.NoRegionError):
            return KeyURIError(f"{self.name}: no region: name the key by its full ARN, or give ?region=")
        if isinstance(
            exc,
            (
                boto.NoCredentialsError,
                boto.PartialCredentialsError,
                boto.CredentialRetrievalError,
                boto.TokenRetrievalError,
                boto.UnauthorizedSSOTokenError,
                boto.SSOError,
                boto.InvalidConfigError,
                boto.ConfigNotFound,
                boto.ConfigParseError,
            ),
        ):
            source = f"profile {self._profile!r}" if self._profile else "botocore's default chain"
            return AuthenticationError(f"{self.name}: no credentials for KMS from {source}: {_line(exc)}")
        if isinstance(exc, boto.ParamValidationError):
            return KeyURIError(f"{self.name}: {action}: {_line(exc)}")
        if isinstance(exc, (boto.BotoCoreError, boto.HTTPClientError, OSError)):
            return DeviceError(f"{self.name}: KMS cannot be reached for {action}: {_line(exc)}")
        return DeviceError(f"{self.name}: {action} failed: {type(exc).__name__}")

    def _refused(self, exc: Any, action: str, key: str) -> Exception:
        error = exc.response.get("Error", {})
        code = str(error.get("Code", ""))
        message = " ".join(str(error.get("Message", "")).split())
        if code.isdigit() and (xml := _XML_ERROR.search(message)):  # emulators answer some errors in XML
            code, message = xml["code"], xml["message"]
        told = f"{code}: {message}" if message else code
        arn = parse_arn(key)
        option = f"--key-id {arn} --region {arn.region}" if arn else f"--key-id {key}"
        where = f" ({arn.where})" if arn else ""
        if code in ("AccessDeniedException", "AccessDenied"):
            return KeyPolicyError(
                f"{self.name}: {action} on {key} is not allowed: {told}; allow {action} in the key policy of that key"
                " or, where the key policy leaves it to IAM, in a policy of the caller"
            )
        if code in _BAD_CREDENTIALS:
            return AuthenticationError(f"{self.name}: KMS does not accept the credentials for {action}: {told}")
        if code == "DisabledException":
            return KeyPolicyError(
                f"{self.name}: the key {key}{where} is disabled ({code}); enable it with: aws kms enable-key {option}"
            )
        if code in ("KMSInvalidStateException", "KMSInvalidState"):
            return self._bad_state(action, key, option, told)
        if code == "NotFoundException":
            return KeyNotFoundError(
                f"{self.name}: there is no key {key} where KMS was asked{where}: {told};"
                " look at account and region, or it has been deleted"
            )
        if code == "InvalidArnException":
            return KeyURIError(f"{self.name}: {key} is not a key ARN of this service or region: {told}")
        if code in _NOT_SO or (action, code) == ("kms:ImportKeyMaterial", "InvalidCiphertextException"):
            return UnsupportedError(f"{self.name}: KMS does not do {action} with {key}: {told}")
        if code == "IncorrectKeyException":
            return KeyMismatchError(
                f"{self.name}: another key than {key} wraps this keyset ({told}); aws-hmac key check tells which"
            )
        if code == "InvalidCiphertextException":
            return KeyMismatchError(
                f"{self.name}: {key} did not wrap this, or with other associated data, or it was changed ({told});"
                " aws-hmac key check tells which key did"
            )
        if code in _THROTTLED:
            return DeviceBusyError(f"{self.name}: KMS is too busy for {action} after {ATTEMPTS} tries: {told}")
        if exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (401, 403):
            return AuthenticationError(f"{self.name}: KMS refuses the credentials, or {action} to them: {told}")
        return DeviceError(f"{self.name}: {action} on {key} failed: {told}")

    def _bad_state(self, action: str, key: str, option: str, told: str) -> Exception:
        try:
            metadata = self.describe(key)
        except Error:  # the caller may lack kms:DescribeKey
            return KeyPolicyError(f"{self.name}: the state of {key} forbids {action}: {told}")
        state = metadata.get("KeyState")
        if state == "PendingDeletion":
            return KeyPolicyError(
                f"{self.name}: the key {key} is pending deletion{_until(metadata.get('DeletionDate'))} ({told});"
                f" keep it with: aws kms cancel-key-deletion {option} && aws kms enable-key {option}"
            )
        if state == "PendingImport":
            return KeyNotFoundError(
                f"{self.name}: the key {key} has no key material: deleted, expired or never imported"
            )
        return KeyPolicyError(f"{self.name}: the key {key} is in state {state}, which forbids {action}: {told}")


@cache
def _loader(data_path: str | None) -> Any:
    """Botocore's API models, read once in a process: a further client costs 7 ms in place of 60."""
    from botocore.loaders import create_loader

    return create_loader(data_path)


def _environment_profile() -> str:
    return os.environ.get("AWS_DEFAULT_PROFILE") or os.environ.get("AWS_PROFILE") or "default"


_BAD_CREDENTIALS = frozenset({
    "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "IncompleteSignatureException",
    "InvalidClientTokenId", "InvalidSignatureException", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "NotAuthorized", "OptInRequired", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
})  # fmt: skip
_THROTTLED = frozenset({
    "LimitExceededException", "RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip
_NOT_SO = frozenset({
    "IncorrectKeyMaterialException", "InvalidKeyUsageException", "UnsupportedOperationException", "ValidationException",
    "InvalidGrantTokenException", "MalformedPolicyDocumentException",
})  # fmt: skip


def key_findings(kms: Kms, key: str) -> list[Finding]:
    """Returns the state of a KMS key, where it is, who manages it and whether it rotates."""
    arn = parse_arn(key)
    option = f"--key-id {arn} --region {arn.region}" if arn else f"--key-id {key}"
    try:
        metadata = kms.describe(key)
    except KeyNotFoundError as exc:
        return [
            Finding(
                "bad",
                "key state",
                f"missing: {said(exc, kms.name)}",
                "restore the keyset that another key wraps, or import anew",
            )
        ]
    except Error as exc:
        return [Finding("warning", "key state", f"not known: {said(exc, kms.name)}", "allow kms:DescribeKey")]
    findings = [_state_finding(metadata, option)]
    if metadata.get("KeyManager") == "AWS":
        findings.append(Finding("warning", "key manager", "a default key that AWS manages", "use a key of your own"))
    if arn is not None:
        findings.append(_account_finding(kms, arn))
    if metadata.get("KeySpec", "SYMMETRIC_DEFAULT") == "SYMMETRIC_DEFAULT":
        findings.append(_rotation_finding(kms, key, option))
    return findings


def _state_finding(metadata: dict[str, Any], option: str) -> Finding:
    state = metadata.get("KeyState")
    if state == "Enabled":
        return Finding("good", "key state", "enabled")
    if state == "Disabled":
        return Finding("bad", "key state", "disabled", f"aws kms enable-key {option}")
    if state == "PendingDeletion":
        return Finding(
            "bad",
            "key state",
            f"pending deletion{_until(metadata.get('DeletionDate'))}; after that nothing can unwrap what it wraps",
            f"aws kms cancel-key-deletion {option} && aws kms enable-key {option}",
        )
    if state == "PendingImport":
        return Finding(
            "bad", "key state", "no key material: deleted, expired or never imported", "import the key again"
        )
    return Finding("bad", "key state", str(state), 'see AWS KMS, "Key states of AWS KMS keys"')


def _account_finding(kms: Kms, arn: KeyArn) -> Finding:
    try:
        caller = kms.caller()
    except Error as exc:
        return Finding("info", "account", f"the key is in {arn.where}; whose the credentials are is not known: {exc}")
    if caller.split(":")[4] == arn.account:
        return Finding(
            "good", "account", f"the key is in {arn.where}, the account of the credentials for KMS ({caller})"
        )
    return Finding(
        "warning",
        "account",
        f"the key is in {arn.where}: another account than that of the credentials for KMS ({caller})",
        "make sure that you know who holds it: its owner can lock you out, and its administrators may use it",
    )


def _rotation_finding(kms: Kms, key: str, option: str) -> Finding:
    try:
        status = kms.call("GetKeyRotationStatus", key=key, KeyId=key)
    except Error as exc:
        return Finding("info", "rotation", f"not known: {said(exc, kms.name)}")
    if status.get("KeyRotationEnabled"):
        period = status.get("RotationPeriodInDays")
        return Finding("good", "rotation", f"on{f', every {period} days' if period else ''}; old versions still unwrap")
    return Finding("info", "rotation", "off", f"aws kms enable-key-rotation {option}")


def _until(date: datetime | None) -> str:
    return f" until {date.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC" if date else ""


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())


def _config() -> Any:
    from botocore.config import Config

    return Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=32,
        user_agent_extra="aws-hmac",
    )
