"""``awskms``: AWS KMS as the HMAC device. The secret is in KMS's HSMs only; each HMAC is one kms:GenerateMac.

Attributes of the URI. Before ``?`` (exactly one):

========== ==================================================================================================
``key-id`` the full ARN of an HMAC_256 KMS key, ``arn:aws:kms:REGION:ACCOUNT:key/ID``; an import fills such a
           key if its origin is EXTERNAL and it has no key material yet
``alias``  for an import only: makes a new KMS key with this alias (without ``alias/``), and returns its ARN
========== ==================================================================================================

After it:

================ ============================================================================================
``profile``      the profile that the credentials for KMS come from; botocore's default chain if left out
``region``       for ``alias``: the region; the profile's if left out
``endpoint-url`` where KMS is, where not at its usual place (a VPC endpoint); ``http`` only on this machine
``valid-to``     for an import: when KMS deletes the key material, ``2027-01-31T00:00:00Z``, at most 365 days on;
                 never if left out
``signer``       for an import with ``alias``, and for ``key policy``: the ARN of the role or user who may sign
``importer``     likewise: of the one who imports; the caller if left out
================ ============================================================================================

Example: ``awskms:key-id=arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab?profile=kms``.
Permissions needed: kms:GenerateMac for a signer; kms:DescribeKey besides for ``key check``; for an import
kms:GetParametersForImport, kms:ImportKeyMaterial and kms:GenerateMac, with ``alias`` also kms:CreateKey,
kms:CreateAlias and kms:UpdateAlias. ``aws-hmac key policy`` writes the key policy.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from contextlib import closing, suppress
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from aws_hmac.backend import (
    MAC_SIZE,
    Diagnosable,
    Finding,
    HmacBackend,
    KeyDeleter,
    KeyEntry,
    KeyImporter,
    KeyInspector,
    KeyLister,
    PolicyPrinter,
    shorten,
)
from aws_hmac.errors import (
    DeviceError,
    Error,
    KeyExistsError,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
    SecurityWarning,
    UnsupportedError,
)
from aws_hmac_backends._aws_kms import KeyArn, Kms, key_findings, parse_arn
from aws_hmac_backends._clients import look_at

if TYPE_CHECKING:
    from typing_extensions import Self

    from aws_hmac.uri import KeyURI

for _package in ("botocore", "cryptography"):  # loaded when KMS is asked; that they are there is seen now
    if find_spec(_package) is None:
        raise ModuleNotFoundError(f"No module named {_package!r}", name=_package)

MAC_ALGORITHM = "HMAC_SHA_256"
KEY_SPEC = "HMAC_256"

MIN_KEY_SIZE = 32
"""Bytes of an HMAC_256 key at least; zeros at the end change no HMAC (RFC 2104, section 2)."""

MAX_MESSAGE_SIZE = 4096
"""Bytes that GenerateMac takes at most; it takes at least one."""

MAX_VALIDITY = timedelta(days=365)
"""How far ahead ``valid-to`` may lie at most (ImportKeyMaterial)."""

SETTLE_TIME = 30.0
"""Seconds that a change may take until all of KMS knows of it (KMS is eventually consistent)."""

SETTLE_STEP = 1.0
"""Seconds between two looks."""

_PATH = ("key-id", "alias")
_QUERY = ("profile", "region", "endpoint-url", "valid-to", "signer", "importer")
_ALIAS = re.compile(r"(?!alias/|aws/)[A-Za-z0-9/_-]{1,250}", re.ASCII)
_PRINCIPAL = re.compile(
    r"arn:aws(?:-[a-z]+)*:(?:iam|sts)::\d{12}:(?:root|(?:user|role|assumed-role)/[\w+=,.@/-]+)", re.ASCII
)


class AwsKmsBackend(HmacBackend, KeyImporter, KeyInspector, KeyLister, KeyDeleter, PolicyPrinter, Diagnosable):
    """An HMAC_256 key in AWS KMS; see this module for the URI.

    Args:
        key_id: the key's full ARN.
        kms: the client to reach it with.
        name: what it is called in logs and messages.
    """

    def __init__(self, key_id: str, kms: Kms, *, name: str) -> None:
        self.name = name
        self._key_id = key_id
        self._kms = kms

    @classmethod
    def from_uri(cls, uri: KeyURI, /) -> Self:
        """Names the key; KMS is asked when an HMAC is.

        Raises:
            KeyURIError: an attribute is unknown, missing or impossible, or the key is named by an alias.
            ConfigError: the credentials for KMS would come from the profile that is being made.
            KeyNotFoundError: there is no such alias.
        """
        _check(uri)
        alias = uri.get("alias")
        if alias is not None:
            with closing(Kms.of(uri, "")) as kms:
                found = str(kms.describe(f"alias/{alias}")["Arn"])
            arn = parse_arn(found)
            where = f" ({arn.where})" if arn else ""
            raise KeyURIError(
                f"{uri.identity}: an alias can mean another key tomorrow; name the one it means today{where}:"
                f" awskms:key-id={found}"
            )
        key_id = uri.require("key-id")
        return cls(key_id, Kms.of(uri, key_id), name=uri.identity)

    def hmac_sha256(self, message: bytes, /) -> bytes:
        """Returns HMAC-SHA256(key, message), computed in KMS.

        Raises:
            UnsupportedError: the message is empty or longer than 4096 bytes, which KMS does not take.
            KeyMismatchError: KMS answers for another key or algorithm.
            Error: KMS's answer in words.
        """
        if not 1 <= len(message) <= MAX_MESSAGE_SIZE:
            raise UnsupportedError(
                f"{self.name}: KMS takes messages of 1 to {MAX_MESSAGE_SIZE} bytes, and not of {len(message)}"
            )
        answer = self._kms.call(
            "GenerateMac", key=self._key_id, KeyId=self._key_id, MacAlgorithm=MAC_ALGORITHM, Message=message
        )
        used, algorithm = str(answer.get("KeyId")), answer.get("MacAlgorithm")
        # AWS answers the ARN; moto and LocalStack the bare id, which is as unique.
        if used not in (self._key_id, self._key_id.rpartition("/")[2]) or algorithm != MAC_ALGORITHM:
            raise KeyMismatchError(
                f"{self.name}: KMS answered with key {used} and {algorithm}, and not with {self._key_id} and"
                f" {MAC_ALGORITHM}"
            )
        mac = bytes(answer["Mac"])
        if len(mac) != MAC_SIZE:
            raise DeviceError(f"{self.name}: KMS answered {len(mac)} bytes, an HMAC-SHA256 has {MAC_SIZE}")
        return mac

    def close(self) -> None:
        """Closes the connections to KMS."""
        self._kms.close()

    def inspect(self) -> list[Finding]:
        """Returns the key's state, place, kind, origin and expiry."""
        findings = key_findings(self._kms, self._key_id)
        with suppress(Error):
            findings += _kind_findings(self._kms.describe(self._key_id))
        findings.append(
            Finding(
                "info",
                "exposure",
                "the secret cannot be read out of KMS; whoever may call kms:GenerateMac on this key can ask for any"
                " date's signing key while they may. CloudTrail records each call, but not for which date",
            )
        )
        return findings

    @classmethod
    def import_key(cls, uri: KeyURI, key: bytes, *, overwrite: bool = False, label: str | None = None) -> KeyURI:
        """Wraps a key for KMS's HSMs here and imports it; returns the URI with the key's ARN.

        Raises:
            KeyExistsError: the KMS key has key material, or the alias is taken.
            KeyURIError, UnsupportedError: what KMS says of the key, or of the key material's length.
            Error: KMS's answer in words.
        """
        _check(uri)
        valid_to = _valid_to(uri)
        key_id, alias = uri.get("key-id"), uri.get("alias")
        with closing(Kms.of(uri, key_id or "")) as kms:
            if key_id is not None:
                _check_empty(kms.describe(key_id), uri, overwrite=overwrite)
                _import_material(kms, key_id, key, valid_to)
                return _named(uri, key_id)
            old = _alias_target(kms, f"alias/{alias}")
            if old is not None and not overwrite:
                raise KeyExistsError(f"{uri.identity}: the alias is taken by {old}; --overwrite points it to a new key")
            made = _create(kms, uri, label)
            try:
                _import_material(kms, made, key, valid_to)
                operation = "CreateAlias" if old is None else "UpdateAlias"
                kms.call(operation, key=made, AliasName=f"alias/{alias}", TargetKeyId=made)
            except Error:
                with suppress(Error):
                    kms.call("ScheduleKeyDeletion", key=made, KeyId=made, PendingWindowInDays=7)
                raise
        if old is not None:
            warnings.warn(
                f"{uri.identity}: the alias means {made} now; the key before it keeps its secret: once nothing uses it,"
                f" aws-hmac key delete 'awskms:key-id={old}'",
                SecurityWarning,
                stacklevel=2,
            )
        return _named(uri, made)

    @classmethod
    def list_keys(cls, uri: KeyURI) -> list[KeyEntry]:
        """Returns the HMAC_256 keys of an account and region, or the one named."""
        uri.check(path=_PATH, query=_QUERY)
        key_id, alias = uri.get("key-id"), uri.get("alias")
        with closing(Kms.of(uri, key_id or "")) as kms:
            named = key_id or (f"alias/{alias}" if alias else None)
            keys = [named] if named else _all_keys(kms)
            found = []
            for key in keys:
                # Among all keys of an account there are some that we may not look at.
                with suppress(*(() if named else (KeyPolicyError,))):
                    found.append(kms.describe(key))
        return [
            KeyEntry(
                str(_named(uri, str(metadata["Arn"]))),
                f"{KEY_SPEC}, {metadata.get('KeyState')}, origin {metadata.get('Origin')}"
                + (f", {metadata['Description']}" if metadata.get("Description") else ""),
            )
            for metadata in found
            if metadata.get("KeySpec") == KEY_SPEC
        ]

    @classmethod
    def delete_key(cls, uri: KeyURI) -> None:
        """Deletes the imported key material, at once; the KMS key stays, an empty shell.

        Raises:
            KeyNotFoundError: there is no such key, or it has no key material.
            UnsupportedError: KMS made this key itself: then only the KMS key can be deleted.
        """
        _check(uri)
        key_id = uri.require("key-id")
        with closing(Kms.of(uri, key_id)) as kms:
            metadata = kms.describe(key_id)
            if metadata.get("Origin") != "EXTERNAL":
                raise UnsupportedError(
                    f"{uri.identity}: KMS made this key itself (origin {metadata.get('Origin')}); delete it with:"
                    f" aws kms schedule-key-deletion --key-id {key_id}"
                )
            if metadata.get("KeyState") == "PendingImport":
                raise KeyNotFoundError(f"{uri.identity}: it has no key material")
            kms.call("DeleteImportedKeyMaterial", key=key_id, KeyId=key_id)

    @classmethod
    def diagnose(cls, uri: KeyURI | None) -> list[Finding]:
        """Asks KMS for the key's state, and STS whose credentials these are."""
        return look_at(cls, uri)

    @classmethod
    def policy(cls, uri: KeyURI, role: Literal["signer", "importer"]) -> str:
        """Returns a key policy: for the import, and for the time after it, when nobody may import any more.

        Raises:
            KeyURIError: the key is not named by its ARN, or a principal is none.
        """
        _check(uri)
        arn = parse_arn(uri.get("key-id") or "")
        if arn is None:
            raise KeyURIError(f"{uri.identity}: a policy needs the key's ARN: awskms:key-id=arn:aws:kms:…")
        principal = uri.get(role) or f"arn:{arn.partition}:iam::{arn.account}:role/aws-hmac-{role}"
        return json.dumps(_policy(arn, **{role: principal}), indent=2)


def _check(uri: KeyURI) -> None:
    uri.check(path=_PATH, query=_QUERY)
    key_id, alias = uri.get("key-id"), uri.get("alias")
    if (key_id is None) == (alias is None):
        raise KeyURIError(f"{uri.scheme}: URI: give exactly one of 'key-id' and, for an import, 'alias'")
    if key_id is not None and parse_arn(key_id) is None:
        raise KeyURIError(
            f"{uri.identity}: key-id must be a key's full ARN (arn:aws:kms:REGION:ACCOUNT:key/ID): an alias or a bare"
            " id can mean a key of another account"
        )
    if alias is not None and not _ALIAS.fullmatch(alias):
        raise KeyURIError(
            f"{uri.identity}: alias must be letters, digits, / _ - without 'alias/', and not begin with 'aws/'"
        )
    for name in ("signer", "importer"):
        principal = uri.get(name)
        if principal is not None and not _PRINCIPAL.fullmatch(principal):
            raise KeyURIError(f"{uri.identity}: {name} must be the ARN of a role or user, and not {principal!r}")


def _named(uri: KeyURI, key_id: str) -> KeyURI:
    """The URI of a signer: the key's ARN, and how to reach it; what only the import needs is left out."""
    plain = uri.replace(alias=None, valid_to=None, signer=None, importer=None, region=None)
    return plain.replace(key_id=key_id)


def _valid_to(uri: KeyURI) -> datetime | None:
    text = uri.get("valid-to")
    if text is None:
        return None
    try:
        date = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as exc:
        raise KeyURIError(f"{uri.identity}: valid-to is no date as in 2027-01-31T00:00:00Z: {text!r}") from exc
    date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    if not timedelta() < date - datetime.now(timezone.utc) <= MAX_VALIDITY:
        raise KeyURIError(f"{uri.identity}: valid-to must lie ahead, by {MAX_VALIDITY.days} days at most: {text}")
    return date


def _check_empty(metadata: dict[str, Any], uri: KeyURI, *, overwrite: bool) -> None:
    if metadata.get("KeySpec") != KEY_SPEC:
        raise UnsupportedError(f"{uri.identity}: it is a {metadata.get('KeySpec')} key; {KEY_SPEC} is wanted")
    if metadata.get("Origin") != "EXTERNAL":
        raise UnsupportedError(
            f"{uri.identity}: its origin is {metadata.get('Origin')}, so KMS made it and takes no other; make one with"
            f" aws kms create-key --key-spec {KEY_SPEC} --key-usage GENERATE_VERIFY_MAC --origin EXTERNAL, or give"
            " alias="
        )
    if metadata.get("KeyState") == "Enabled" and not overwrite:
        raise KeyExistsError(
            f"{uri.identity}: it has key material, which KMS fixes for good; import into a new KMS key"
        )


def _import_material(kms: Kms, key_id: str, key: bytes, valid_to: datetime | None) -> None:
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    material = shorten(key).ljust(MIN_KEY_SIZE, b"\0")
    parameters = _settled(
        kms,
        "GetParametersForImport",
        key=key_id,
        KeyId=key_id,
        WrappingAlgorithm="RSAES_OAEP_SHA_256",
        WrappingKeySpec="RSA_4096",
    )
    wrapping_key = load_der_public_key(bytes(parameters["PublicKey"]))
    if parameters.get("KeyId") != key_id or not isinstance(wrapping_key, rsa.RSAPublicKey):
        raise KeyMismatchError(
            f"{kms.name}: KMS gave a wrapping key for {parameters.get('KeyId')}, and not for {key_id}"
        )
    if wrapping_key.key_size < 4096:
        raise KeyMismatchError(
            f"{kms.name}: KMS gave a wrapping key of {wrapping_key.key_size} bits; 4096 were asked for"
        )
    wrapped = wrapping_key.encrypt(material, padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
    expiry: dict[str, Any] = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
    if valid_to is not None:
        expiry = {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": valid_to}
    try:
        kms.call(
            "ImportKeyMaterial",
            key=key_id,
            KeyId=key_id,
            ImportToken=parameters["ImportToken"],
            EncryptedKeyMaterial=wrapped,
            **expiry,
        )
    except UnsupportedError as exc:
        raise UnsupportedError(
            f"{exc} (the key material has {len(material)} bytes; AWS documents 32 to 128 for {KEY_SPEC}, and that key"
            " material, once imported, can only be imported again, not changed)"
        ) from exc
    _settled(kms, "GenerateMac", key=key_id, KeyId=key_id, MacAlgorithm=MAC_ALGORITHM, Message=b"is it there?")


def _settled(kms: Kms, operation: str, **parameters: Any) -> dict[str, Any]:
    """Calls KMS, and once more while it does not know yet of the key or key material that it was given just now."""
    end = time.monotonic() + SETTLE_TIME
    while True:
        try:
            return kms.call(operation, **parameters)
        except KeyNotFoundError:
            if time.monotonic() >= end:
                raise
            time.sleep(SETTLE_STEP)


def _alias_target(kms: Kms, alias: str) -> str | None:
    try:
        return str(kms.describe(alias)["Arn"])
    except KeyNotFoundError:
        return None


def _create(kms: Kms, uri: KeyURI, label: str | None) -> str:
    signer = uri.get("signer")
    policy: dict[str, str] = {}
    if signer is not None:
        importer = uri.get("importer") or kms.caller()
        partition, account = importer.split(":")[1], importer.split(":")[4]
        own = KeyArn(partition, "", account, "")
        policy = {"Policy": json.dumps(_policy(own, signer=signer, importer=importer))}
    made = kms.call(
        "CreateKey",
        key=uri.identity,
        KeySpec=KEY_SPEC,
        KeyUsage="GENERATE_VERIFY_MAC",
        Origin="EXTERNAL",
        Description=f"aws-hmac {label}" if label else "aws-hmac",
        **policy,
    )
    return str(made["KeyMetadata"]["Arn"])


def _all_keys(kms: Kms) -> list[str]:
    keys: list[str] = []
    marker: dict[str, str] = {}
    while True:
        answer = kms.call("ListKeys", key="the account's keys", **marker)
        keys += [str(key["KeyArn"]) for key in answer["Keys"]]
        if not answer.get("Truncated"):
            return keys
        marker = {"Marker": answer["NextMarker"]}


def _kind_findings(metadata: dict[str, Any]) -> list[Finding]:
    findings = []
    spec, usage = metadata.get("KeySpec"), metadata.get("KeyUsage")
    if spec != KEY_SPEC or usage != "GENERATE_VERIFY_MAC":
        findings.append(Finding("bad", "key spec", f"{spec}, {usage}; {KEY_SPEC}, GENERATE_VERIFY_MAC is wanted"))
    if metadata.get("Origin") == "EXTERNAL":
        findings.append(Finding("good", "origin", "EXTERNAL: imported, wrapped for KMS's HSMs; KMS gives it to nobody"))
    else:
        findings.append(
            Finding("bad", "origin", f"{metadata.get('Origin')}: KMS made this key, so it is no AWS secret access key")
        )
    if metadata.get("ValidTo") is not None:
        date = metadata["ValidTo"].astimezone(timezone.utc)
        findings.append(
            Finding(
                "warning",
                "expiry",
                f"KMS deletes the key material on {date:%Y-%m-%d %H:%M} UTC",
                "import it again before",
            )
        )
    if metadata.get("MultiRegion"):
        findings.append(Finding("info", "multi-Region", "replicas of this key in other regions hold it too"))
    return findings


def _policy(arn: KeyArn, *, signer: str | None = None, importer: str | None = None) -> dict[str, Any]:
    """A key policy: the account administers, but neither computes nor imports; the others do only their part."""
    mac = {"StringEquals": {"kms:MacAlgorithm": MAC_ALGORITHM}}
    statements: list[dict[str, Any]] = [
        {
            "Sid": "Administer",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:{arn.partition}:iam::{arn.account}:root"},
            "Action": [
                "kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:DeleteImportedKeyMaterial",
                "kms:DescribeKey", "kms:DisableKey", "kms:EnableKey", "kms:GetKeyPolicy", "kms:ListGrants",
                "kms:ListKeyPolicies", "kms:ListResourceTags", "kms:PutKeyPolicy", "kms:RevokeGrant",
                "kms:ScheduleKeyDeletion", "kms:TagResource", "kms:UntagResource", "kms:UpdateAlias",
                "kms:UpdateKeyDescription",
            ],
            "Resource": "*",
        }
    ]  # fmt: skip
    for principal, may_import in ((signer, False), (importer, True)):
        if principal is None:
            continue
        who = {"AWS": principal}
        name = "Import" if may_import else "Sign"
        looks = (
            ["kms:DescribeKey", "kms:GetParametersForImport", "kms:ImportKeyMaterial"]
            if may_import
            else ["kms:DescribeKey"]
        )
        statements += [
            {
                "Sid": f"{name}Compute",
                "Effect": "Allow",
                "Principal": who,
                "Action": "kms:GenerateMac",
                "Resource": "*",
                "Condition": mac,
            },
            {"Sid": f"{name}Key", "Effect": "Allow", "Principal": who, "Action": looks, "Resource": "*"},
        ]
    return {"Version": "2012-10-17", "Statement": statements}
