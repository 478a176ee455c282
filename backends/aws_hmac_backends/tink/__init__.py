"""``tink``: a key in a Tink keyset, wrapped by a key-encryption key (KEK) in a KMS.

The keyset is unwrapped for each HMAC, used in this process and dropped: it is never decrypted on disk, but whoever
reads this process's memory in that moment has the key. Where that is not enough: ``awskms``, an HSM, a TPM.

Attributes of the URI. Before ``?``:

=================== ===================================================================================
``file``            the absolute path of the keyset, Tink's encrypted JSON or binary; required
``kek``             what wraps it; required, named in full (an import resolves an alias and writes the
                    full name): ``aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID``,
                    ``gcp-kms://projects/…/locations/…/keyRings/…/cryptoKeys/…`` or, for development
                    only, ``insecure-local-kms:///path`` (made by the import where it is missing)
``associated-data`` what the keyset is bound to: the access key id, written here by the import
=================== ===================================================================================

After it:

================ ======================================================================================
``planned-kek``  the KEK that is to be used: what ``key rewrap`` moves to; until then either may wrap
``format``       ``json`` (if left out) or ``binary``: how an import writes the file
``profile``      AWS: the profile that the credentials for KMS come from; the default chain if left out
``region``       AWS: the region of an alias or bare key id at the import; else the ARN's counts
``endpoint-url`` where the KMS is, where not at its usual place; ``http`` only on this machine
================ ======================================================================================

Example: ``tink:file=/etc/aws-hmac/prod.json;kek=aws-kms://arn:aws:kms:eu-west-1:111122223333:key/…;
associated-data=AKIAIOSFODNN7EXAMPLE?profile=kms``. Permissions needed: kms:Decrypt on the KEK for a signer,
kms:Encrypt besides for an import, kms:DescribeKey and kms:GetKeyRotationStatus for ``key check``
(Google: cloudkms.cryptoKeyVersions.useToDecrypt, .useToEncrypt, .list and cloudkms.cryptoKeys.get, by application
default credentials).
"""

from __future__ import annotations

import hmac
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aws_hmac.backend import (
    Diagnosable,
    Finding,
    HmacBackend,
    KeyDeleter,
    KeyEntry,
    KeyImporter,
    KeyInspector,
    KeyLister,
    KeyRewrapper,
    PolicyPrinter,
)
from aws_hmac.errors import (
    DeviceError,
    Error,
    KeyExistsError,
    KeyNotFoundError,
    KeyURIError,
)
from aws_hmac_backends._clients import look_at

from .files import map_os_errors, read_file, sync_folder, write_new
from .keks import Kek, open_kek, pin_kek
from .keysets import hmac_key, is_json, new_keyset, read_encrypted, unwrap, wrap

if TYPE_CHECKING:
    from typing_extensions import Self

    from aws_hmac.uri import KeyURI

_PATH = ("file", "kek", "associated-data")
_QUERY = ("planned-kek", "format", "profile", "region", "endpoint-url")
_ACCESS_KEY_ID = re.compile(r"AKIA[A-Z0-9]{12,}", re.ASCII)


class TinkBackend(
    HmacBackend, KeyImporter, KeyInspector, KeyLister, KeyDeleter, KeyRewrapper, PolicyPrinter, Diagnosable
):
    """A key in an encrypted Tink keyset; see this module for the URI.

    Args:
        path: the keyset file. It is read anew for each HMAC, so that an exchanged file counts at once.
        keks: what may wrap it, tried in order.
        associated_data: what it is bound to; empty for nothing.
        name: what it is called in logs and messages.
    """

    def __init__(self, path: Path, keks: list[Kek], *, associated_data: bytes = b"", name: str) -> None:
        self.name = name
        self._path = path
        self._keks = keks
        self._associated_data = associated_data
        self._closed = False

    @classmethod
    def from_uri(cls, uri: KeyURI, /) -> Self:
        """Opens a keyset file; the KMS is asked when an HMAC is.

        Raises:
            KeyURIError: an attribute is unknown, missing or impossible; the KEK is an alias.
            KeyNotFoundError: there is no such file.
            KeyMismatchError: it is no encrypted keyset.
            AuthenticationError: others can write it.
        """
        path = _path(uri)
        keks = [open_kek(name, uri) for name in (uri.require("kek"), uri.get("planned-kek")) if name is not None]
        backend = cls(path, keks, associated_data=_associated_data(uri), name=uri.identity)
        read_encrypted(read_file(path, uri.identity, readable="warn"), uri.identity)
        return backend

    def hmac_sha256(self, message: bytes, /) -> bytes:
        """Returns HMAC-SHA256(key, message): unwraps the key for this one call."""
        if self._closed:
            raise DeviceError(f"{self.name}: closed")
        wrapped = read_encrypted(read_file(self._path, self.name, readable="allow"), self.name)
        keyset = unwrap(wrapped, self._keks, self._associated_data, self.name)
        return hmac.digest(hmac_key(keyset, self.name), message, "sha256")

    def close(self) -> None:
        """Closes the connections to the KMS."""
        self._closed = True
        for kek in self._keks:
            kek.close()

    def inspect(self) -> list[Finding]:
        """Returns which KEK wraps the keyset, whose it is, in which state, and what it is bound to."""
        wrapped = read_encrypted(read_file(self._path, self.name, readable="allow"), self.name)
        kek, *planned = self._keks
        findings = kek.inspect(wrapped, self._associated_data)
        for other in planned:
            findings += _planned_findings(other, wrapped, self._associated_data)
        if self._associated_data:
            bound = self._associated_data.decode(errors="replace")
            findings.append(Finding("good", "associated data", f"the keyset is bound to {bound}"))
        else:
            findings.append(
                Finding(
                    "warning",
                    "associated data",
                    "none: the keyset of another access key, wrapped by the same KEK, would be used without a word",
                    "aws-hmac key rewrap KEY_URI --access-key-id AKIA… binds it",
                )
            )
        findings.append(_file_finding(self._path))
        findings += _unconfirmed(self._path)
        findings.append(
            Finding(
                "info",
                "exposure",
                "the key is decrypted into this process for each HMAC: whoever may read its memory, or call the KEK and"
                " read the file, has the secret itself",
                "where that is too much: awskms, an HSM or a TPM",
            )
        )
        return findings

    @classmethod
    def import_key(cls, uri: KeyURI, key: bytes, *, overwrite: bool = False, label: str | None = None) -> KeyURI:
        """Wraps a key and writes the keyset file; returns the URI with the KEK pinned and the label bound.

        Raises:
            KeyExistsError: the file exists.
            KeyURIError: the URI is bound to another access key id than ``label``.
            Error: the KMS's answer.
        """
        path = _path(uri)
        bound = uri.get("associated-data")
        if bound is None and label is not None:
            uri = uri.replace(associated_data=label)
        elif bound != label and bound and label and _ACCESS_KEY_ID.fullmatch(bound):
            raise KeyURIError(f"{uri.identity}: associated-data is {bound}, but the key to import is that of {label}")
        if path.exists() and not overwrite:
            raise KeyExistsError(f"{uri.identity}: {path} exists; --overwrite replaces it")
        pinned = pin_kek(uri.get("planned-kek") or uri.require("kek"), uri)
        uri = uri.replace(kek=pinned, planned_kek=None, region=None)
        kek = open_kek(uri.require("kek"), uri)
        try:
            content = wrap(new_keyset(key), kek, _associated_data(uri), json=_json(uri))
        finally:
            kek.close()
        write_new(path.resolve(), content, uri.identity, overwrite=overwrite)
        return uri

    @classmethod
    def rewrap_key(cls, uri: KeyURI, kek: str | None = None, *, label: str | None = None) -> KeyURI:
        """Moves the keyset to a new KEK; the old file stays beside it as ``FILE.before-rewrap`` until confirmed.

        Run again after a crash, it takes up where it was.

        Raises:
            KeyURIError: no new KEK is given or planned.
            KeyExistsError: an earlier rewrap is not confirmed yet.
            KeyMismatchError: the new KEK gives back another key; nothing was changed.
            DeviceBusyError: another rewrap is under way, or the file changed.
        """
        from .rewrap import rewrap

        return rewrap(cls, _path(uri), uri, kek, label)

    @classmethod
    def confirm_rewrap(cls, uri: KeyURI) -> list[Finding]:
        """Computes with the keyset under its new KEK, then deletes ``FILE.before-rewrap``.

        Raises:
            KeyNotFoundError: there is no rewrap to confirm.
            KeyMismatchError: the two files hold different keys; nothing was deleted.
        """
        from .rewrap import confirm

        path = _path(uri)
        with cls.from_uri(uri) as backend:
            return confirm(path, uri, backend, backend._keks)

    @classmethod
    def list_keys(cls, uri: KeyURI) -> list[KeyEntry]:
        """Returns the one keyset of the file that the URI names."""
        path = _path(uri)
        content = read_file(path, uri.identity, readable="allow")
        read_encrypted(content, uri.identity)
        return [KeyEntry(str(uri), f"encrypted Tink keyset, {'JSON' if is_json(content) else 'binary'}")]

    @classmethod
    def delete_key(cls, uri: KeyURI) -> None:
        """Deletes the keyset file; its KEK stays."""
        path = _path(uri)
        with map_os_errors(path, uri.identity):
            try:
                path.unlink()
            except FileNotFoundError as exc:
                raise KeyNotFoundError(f"{uri.identity}: there is no file {path}") from exc
            sync_folder(path.parent)

    @classmethod
    def diagnose(cls, uri: KeyURI | None) -> list[Finding]:
        """Asks the KMS which key wraps the keyset, and for that key's state."""
        return look_at(cls, uri)

    @classmethod
    def policy(cls, uri: KeyURI, role: Literal["signer", "importer"]) -> str:
        """Returns the least policy on the KEK: for AWS an IAM policy, for Google the key's IAM bindings.

        Raises:
            KeyURIError: the KEK is not named in full.
            UnsupportedError: it is a local file, which knows no policies.
        """
        from .policies import policy

        _path(uri)
        return policy(uri, role)


def _path(uri: KeyURI) -> Path:
    uri.check(path=_PATH, query=_QUERY)
    path = Path(uri.require("file"))
    if not path.is_absolute():
        raise KeyURIError(f"{uri.identity}: file must be an absolute path")
    if uri.get("associated-data") == "":
        raise KeyURIError(f"{uri.identity}: associated-data is empty; leave it out for a keyset without it")
    _json(uri)
    return path


def _json(uri: KeyURI) -> bool:
    form = uri.get("format", "json")
    if form not in ("json", "binary"):
        raise KeyURIError(f"{uri.identity}: format is 'json' or 'binary', and not {form!r}")
    return form == "json"


def _associated_data(uri: KeyURI) -> bytes:
    return uri.raw("associated-data") or b""


def _planned_findings(kek: Kek, wrapped: bytes, associated_data: bytes) -> list[Finding]:
    try:
        kek.decrypt(wrapped, associated_data)
    except Error:
        return [
            Finding(
                "warning",
                "planned KEK",
                f"{kek.kek_uri} does not wrap the keyset: the plan changes nothing until it is carried out",
                "aws-hmac key rewrap KEY_URI",
            )
        ]
    return [
        Finding("warning", "planned KEK", f"{kek.kek_uri} wraps the keyset", f"write kek={kek.kek_uri} into the URI")
    ]


def _unconfirmed(path: Path) -> list[Finding]:
    from .rewrap import before_rewrap

    before = before_rewrap(path)
    if not before.exists():
        return []
    return [
        Finding("warning", "rewrap", f"not confirmed: {before} is still there", "aws-hmac key rewrap KEY_URI --confirm")
    ]


def _file_finding(path: Path) -> Finding:
    mode = path.stat().st_mode
    if mode & 0o077:
        return Finding("warning", "file", f"others can read {path}; it is encrypted", f"chmod go-rwx {path}")
    return Finding("good", "file", f"only its owner can read {path}")
