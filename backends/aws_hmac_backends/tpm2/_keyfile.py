"""TSS2 PRIVATE KEY files, and the raw pairs of tpm2-tools.

The ASN.1 is that of draft-bottomley-tpm2-keys ("ASN.1 Specification for TPM 2.0 Key Files"). What it has no
field for (the names that are checked, the PCR values seen at import) stands in the explanatory text before the
PEM block, where RFC 7468, section 2 has a place for it and every reader skips it.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from asn1crypto import core, pem
from tpm2_pytss import TPM2B_PRIVATE, TPM2B_PUBLIC

from aws_hmac.errors import DeviceError, KeyExistsError, KeyNotFoundError, KeyURIError
from aws_hmac.sources import check_file

from ._policy import Command

if TYPE_CHECKING:
    from pathlib import Path

PEM_TYPE = "TSS2 PRIVATE KEY"
LOADABLE = "2.23.133.10.1.3"
IMPORTABLE = "2.23.133.10.1.4"
_KINDS = {LOADABLE: "loadable", IMPORTABLE: "importable", "2.23.133.10.1.5": "sealed data"}

MAX_SIZE = 64 * 1024
"""Bytes that a key file may have at most."""


class _TPMPolicy(core.Sequence):  # type: ignore[misc] # asn1crypto has no types
    _fields: ClassVar[list[Any]] = [
        ("code", core.Integer, {"explicit": 0}),
        ("body", core.OctetString, {"explicit": 1}),
    ]


class _TPMPolicies(core.SequenceOf):  # type: ignore[misc] # likewise
    _child_spec = _TPMPolicy


class _TPMAuthPolicy(core.Sequence):  # type: ignore[misc] # likewise
    _fields: ClassVar[list[Any]] = [
        ("name", core.UTF8String, {"explicit": 0, "optional": True}),
        ("policy", _TPMPolicies, {"explicit": 1}),
    ]


class _TPMAuthPolicies(core.SequenceOf):  # type: ignore[misc] # likewise
    _child_spec = _TPMAuthPolicy


class _TPMKey(core.Sequence):  # type: ignore[misc] # likewise
    _fields: ClassVar[list[Any]] = [
        ("type", core.ObjectIdentifier),
        ("empty_auth", core.Boolean, {"explicit": 0, "optional": True}),
        ("policy", _TPMPolicies, {"explicit": 1, "optional": True}),
        ("secret", core.OctetString, {"explicit": 2, "optional": True}),
        ("auth_policy", _TPMAuthPolicies, {"explicit": 3, "optional": True}),
        ("description", core.UTF8String, {"explicit": 4, "optional": True}),
        ("rsa_parent", core.Boolean, {"explicit": 5, "optional": True}),
        ("parent", core.Integer),
        ("public", core.OctetString),
        ("private", core.OctetString),
    ]


@dataclass(frozen=True)
class KeyFile:
    """A key outside the TPM, encrypted by its parent.

    Attributes:
        public: its public area.
        private: its private area; for an importable key the duplicate.
        parent: handle of its parent: persistent (0x81…), or a hierarchy's (0x40…) whose primary is meant.
        empty_auth: it has no password.
        policy: what must be run before it is used.
        secret: an importable key's encrypted seed, marshalled.
        rsa_parent: the hierarchy's primary is RSA, not ECC.
        notes: what stands before the PEM block, by name.
    """

    public: TPM2B_PUBLIC
    private: TPM2B_PRIVATE
    parent: int
    empty_auth: bool = False
    policy: tuple[Command, ...] = ()
    secret: bytes | None = None
    rsa_parent: bool = False
    notes: dict[str, str] = field(default_factory=dict)

    def to_pem(self) -> bytes:
        """Returns the PEM text with its notes before it."""
        # The draft recommends to leave a false empty_auth out; tpm2-pytss cannot read the file then.
        fields: dict[str, Any] = {
            "type": IMPORTABLE if self.secret is not None else LOADABLE,
            "empty_auth": self.empty_auth,
        }
        if self.policy:
            fields["policy"] = [{"code": c.code, "body": c.body} for c in self.policy]
        if self.secret is not None:
            fields["secret"] = self.secret
        if self.rsa_parent:
            fields["rsa_parent"] = True
        fields |= {"parent": self.parent, "public": self.public.marshal(), "private": self.private.marshal()}
        text = "".join(f"{name}: {value}\n" for name, value in self.notes.items())
        return text.encode() + bytes(pem.armor(PEM_TYPE, _TPMKey(fields).dump()))


def parse(data: bytes, what: str) -> KeyFile:
    """Reads a PEM file.

    Raises:
        KeyURIError: it is no TPM key, or one of another kind.
    """
    begin = re.search(rb"^-----BEGIN ([A-Z0-9 ]+)-----", data, re.MULTILINE)
    if not begin:
        raise KeyURIError(f"{what}: is not a PEM file")
    if begin[1].decode() != PEM_TYPE:
        raise KeyURIError(f"{what}: is a {begin[1].decode()}, not a {PEM_TYPE}")
    try:
        _, _, der = pem.unarmor(data[begin.start() :])
        key = _TPMKey.load(der, strict=True)
        kind = key["type"].dotted
        if kind not in (LOADABLE, IMPORTABLE):
            raise KeyURIError(f"{what}: holds a TPM object of kind {_KINDS.get(kind, kind)}, not a key to load")
        public_bytes, private_bytes = key["public"].native, key["private"].native
        public, used = TPM2B_PUBLIC.unmarshal(public_bytes)
        private, used_private = TPM2B_PRIVATE.unmarshal(private_bytes)
        if (used, used_private) != (len(public_bytes), len(private_bytes)):
            raise KeyURIError(f"{what}: holds more than one key's bytes")
        policy = key["policy"].native or ()
        secret = key["secret"].native
        if (kind == IMPORTABLE) != (secret is not None):
            raise KeyURIError(f"{what}: an importable key needs a seed, and only that")
        return KeyFile(
            public=public,
            private=private,
            parent=key["parent"].native & 0xFFFFFFFF,
            empty_auth=bool(key["empty_auth"].native),
            policy=tuple(Command(int(p["code"]), bytes(p["body"])) for p in policy),
            secret=secret,
            rsa_parent=bool(key["rsa_parent"].native),
            notes=_notes(data[: begin.start()], what),
        )
    except (ValueError, TypeError, RuntimeError) as exc:
        if isinstance(exc, KeyURIError):
            raise
        raise KeyURIError(f"{what}: is damaged: it cannot be read as a {PEM_TYPE}") from exc


def read(path: Path, what: str) -> KeyFile:
    """Reads a key file.

    Raises:
        KeyNotFoundError: there is none.
        KeyURIError: it is none.
        AuthenticationError: others could exchange it.
        DeviceError: it cannot be read.
    """
    return parse(_bytes(path, what, guard=True), what)


def read_pair(public: Path, private: Path, parent: int, what: str) -> KeyFile:
    """Reads the pair of files that ``tpm2_create -u … -r …`` and ``tpm2_import`` write; raises as `read`."""
    # tpm2-tools make them writable by the group; they hold no name to check, so there is nothing to guard.
    public_bytes, private_bytes = _bytes(public, what, guard=False), _bytes(private, what, guard=False)
    try:
        area, used = TPM2B_PUBLIC.unmarshal(public_bytes)
        blob, used_private = TPM2B_PRIVATE.unmarshal(private_bytes)
    except RuntimeError as exc:
        raise KeyURIError(f"{what}: is not the public and private part of a TPM key (TPM2B_PUBLIC, _PRIVATE)") from exc
    if (used, used_private) != (len(public_bytes), len(private_bytes)):
        raise KeyURIError(f"{what}: is not the public and private part of a TPM key: there are bytes left over")
    return KeyFile(public=area, private=blob, parent=parent)


def write(path: Path, key: KeyFile, what: str, *, overwrite: bool) -> None:
    """Writes a key file, whole or not at all; its mode is 0600.

    Raises:
        KeyExistsError: there is one, and `overwrite` was not asked for.
        DeviceError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(key.to_pem())
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # unlike a rename it fails where there is one
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    except FileExistsError as exc:
        raise KeyExistsError(f"{what}: there is such a file already") from exc
    except OSError as exc:
        raise DeviceError(f"{what}: cannot be written: {exc.strerror}") from exc


def _notes(text: bytes, what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in text.decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(": ")
        if colon and re.fullmatch(r"[A-Za-z-]+", name):
            found[name] = value.strip()
    for name in ("Parent-Name", "Session-Key-Name"):
        if name in found and not re.fullmatch(r"[0-9a-f]{68}", found[name]):
            raise KeyURIError(f"{what}: is damaged: its {name} is no name of a TPM key, 68 hexadecimal digits")
    return found


def _bytes(path: Path, what: str, *, guard: bool) -> bytes:
    try:
        with path.open("rb") as file:
            if guard:
                check_file(path, os.fstat(file.fileno()), what, readable="allow")
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError as exc:
        raise KeyNotFoundError(f"{what}: there is no file {path}") from exc
    except IsADirectoryError as exc:
        raise KeyURIError(f"{what}: {path} is a folder") from exc
    except PermissionError as exc:
        from aws_hmac.errors import AuthenticationError

        if isinstance(exc, AuthenticationError):
            raise
        raise DeviceError(f"{what}: this user may not read {path}") from exc
    except OSError as exc:
        raise DeviceError(f"{what}: {path} cannot be read: {exc.strerror}") from exc
    if len(data) > MAX_SIZE:
        raise KeyURIError(f"{what}: {path} is too large for a key file")
    return data
