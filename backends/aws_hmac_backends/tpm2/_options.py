"""What a ``tpm2`` URI says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aws_hmac.errors import AuthenticationError, KeyURIError

from . import _policy, _tcti

if TYPE_CHECKING:
    from aws_hmac.uri import KeyURI

PATH = ("handle", "file", "public", "private")
QUERY = (
    "tcti",
    "parent",
    "auth-source",
    "owner-auth-source",
    "endorsement-auth-source",
    "parent-auth-source",
    "pcrs",
    "pcr-record",
    "policy-or",
    "session",
    "session-key",
    "session-key-name",
    "no-da",
)

PERSISTENT = range(0x81000000, 0x82000000)
"""Handles of persistent objects (TPM 2.0, Part 2, section 7.2)."""

OWNER_PERSISTENT = range(0x81000000, 0x81800000)
"""Those of the owner; the rest are the platform's (TCG Registry of Reserved TPM 2.0 Handles, section 2.3)."""

SRK = 0x81000001
"""Where the storage root key is, once provisioned (TCG TPM v2.0 Provisioning Guidance, section 7.8)."""

PRIMARIES = ("owner", "owner-rsa", "ek-ecc", "ek-rsa", "endorsement", "endorsement-rsa", "null", "null-rsa")
"""Primary keys that are made from a template when needed: storage keys of a hierarchy, and the two EKs."""

MAX_AUTH = 32
"""Bytes of a key's password: the TPM takes no more than its name algorithm's digest."""


class Secret:
    """Bytes that no repr shows: tracebacks print what frames hold.

    Attributes:
        value: the bytes.
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value


@dataclass(frozen=True)
class Options:
    """A parsed URI; secrets are fetched when needed.

    Attributes:
        uri: as given.
        what: the key in words.
        handle: the persistent handle; None for files.
        file: the PEM file; None otherwise.
        pair: the public and the private file; None otherwise.
        tcti: the way to the TPM.
        parent: a persistent handle, or one of `PRIMARIES`; None if the URI is silent.
        pcrs: PCRs of the key's policy.
        pcr_record: their values at import.
        policy_or: the branches of its TPM2_PolicyOR.
        salted: whether the bus is protected.
        session_key: which key salts the session, likewise.
        session_key_name: the name that it must have.
        no_da: what ``no-da`` says; None if the URI is silent.
    """

    uri: KeyURI
    what: str
    handle: int | None
    file: Path | None
    pair: tuple[Path, Path] | None
    tcti: str
    parent: int | str | None
    pcrs: _policy.Pcrs | None
    pcr_record: dict[tuple[str, int], str] | None
    policy_or: tuple[bytes, ...]
    salted: bool
    session_key: int | str | None
    session_key_name: bytes | None
    no_da: bool | None
    _secrets: dict[str, Secret] = field(default_factory=dict, repr=False, compare=False)

    @property
    def named(self) -> bool:
        """Whether the URI names one key."""
        return self.handle is not None or self.file is not None or self.pair is not None

    def secret(self, attribute: str) -> Secret | None:
        """Fetches a password, once; None if the URI has no such attribute.

        Raises:
            AuthenticationError: no source, or longer than a TPM takes.
        """
        if attribute not in self._secrets:
            value = self.uri.secret(attribute)
            if value is None:
                return None
            too_long = attribute == "auth-source" and len(value) > MAX_AUTH
            found = Secret(value)
            del value
            if too_long:
                raise AuthenticationError(
                    f"{self.what}: the password is longer than {MAX_AUTH} bytes, the most that a TPM takes"
                )
            self._secrets[attribute] = found
        return self._secrets[attribute]

    def forget(self) -> None:
        """Forgets the passwords (best effort: Python may hold copies)."""
        self._secrets.clear()


def parse(uri: KeyURI, *, need_key: bool = True) -> Options:
    """Reads a URI.

    Raises:
        KeyURIError: names the attribute at fault.
    """
    uri.check(path=PATH, query=QUERY)
    handle, file = uri.get("handle"), uri.get("file")
    public, private = uri.get("public"), uri.get("private")
    if (public is None) != (private is None):
        raise KeyURIError("tpm2: URI: 'public' and 'private' come together")
    if sum(x is not None for x in (handle, file, public)) > 1 or (need_key and not (handle or file or public)):
        raise KeyURIError("tpm2: URI: give exactly one of 'handle', 'file', and the pair 'public' and 'private'")
    session = uri.get("session", "salted")
    if session not in ("salted", "plain"):
        raise KeyURIError("tpm2: URI: session is 'salted' or 'plain'")
    key, name = uri.get("session-key"), uri.get("session-key-name")
    if session == "plain" and (key or name):
        raise KeyURIError("tpm2: URI: session=plain salts nothing: leave session-key and session-key-name out")
    no_da = uri.get("no-da")
    if no_da not in (None, "yes", "no"):
        raise KeyURIError("tpm2: URI: no-da is 'yes' or 'no'")
    pcrs, seen = uri.get("pcrs"), uri.get("pcr-record")
    return Options(
        uri=uri,
        what=uri.identity,
        handle=None if handle is None else _handle("handle", handle),
        file=None if file is None else _path("file", file),
        pair=None if public is None or private is None else (_path("public", public), _path("private", private)),
        tcti=_tcti.check(uri.get("tcti", _tcti.DEFAULT) or ""),
        parent=_key("parent", uri.get("parent")),
        pcrs=None if pcrs is None else _policy.Pcrs.parse(pcrs),
        pcr_record=None if seen is None else _policy.parse_record(seen),
        policy_or=_branches(uri.get("policy-or")),
        salted=session == "salted",
        session_key=_key("session-key", key),
        session_key_name=None if name is None else _name(name),
        no_da=None if no_da is None else no_da == "yes",
    )


def _handle(attribute: str, text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if value not in PERSISTENT:
        raise KeyURIError(
            f"tpm2: URI: {attribute}={text} is no persistent handle; they run from 0x81000000 to 0x81ffffff"
        )
    return value


def _key(attribute: str, text: str | None) -> int | str | None:
    if text is None:
        return None
    if text == "srk":
        return SRK
    if text in PRIMARIES[:4]:
        return text
    try:
        return _handle(attribute, text)
    except KeyURIError as exc:
        raise KeyURIError(
            f"tpm2: URI: {attribute} is 'srk', a persistent handle (0x81…), or made from a template:"
            f" {', '.join(PRIMARIES[:4])}"
        ) from exc


def _path(attribute: str, text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise KeyURIError(f"tpm2: URI: {attribute}={text} must be an absolute path")
    return path


def _name(text: str) -> bytes:
    if not re.fullmatch(r"000b[0-9a-f]{64}", text.lower()):
        raise KeyURIError("tpm2: URI: session-key-name is the key's name as 68 hexadecimal digits that begin with 000b")
    return bytes.fromhex(text)


def _branches(text: str | None) -> tuple[bytes, ...]:
    if text is None:
        return ()
    parts = text.lower().split(",")
    if not 2 <= len(parts) <= 8 or not all(re.fullmatch(r"[0-9a-f]{64}", p) for p in parts):
        raise KeyURIError(
            "tpm2: URI: policy-or lists the 2 to 8 digests of TPM2_PolicyOR, in order, each 64 hexadecimal digits"
        )
    return tuple(bytes.fromhex(p) for p in parts)
