"""Moving a keyset to another KEK, so that a crash at any point leaves a keyset that works.

In order: unwrap; wrap by the new KEK into a file of another name; read that file back through the new KEK and
compare fingerprints; keep the old file beside under a second name; rename the new one into place.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack, closing, suppress
from glob import escape
from typing import TYPE_CHECKING

from aws_hmac.backend import Finding, fingerprint, fingerprint_of
from aws_hmac.errors import DeviceBusyError, Error, KeyExistsError, KeyMismatchError, KeyNotFoundError, KeyURIError
from aws_hmac_backends._aws_kms import parse_arn

from .files import lock_folder, map_os_errors, read_file, sync_folder, write_temporary
from .keks import AWS, Kek, open_kek, pin_kek
from .keysets import hmac_key, is_json, parse, read_encrypted, unwrap, wrap

if TYPE_CHECKING:
    from pathlib import Path

    from tink.proto import tink_pb2

    from aws_hmac.backend import HmacBackend
    from aws_hmac.uri import KeyURI

    from . import TinkBackend


def before_rewrap(path: Path) -> Path:
    """Returns where the old keyset is kept until the rewrap is confirmed: beside the file, not beside a link to it."""
    path = path.resolve()
    return path.with_name(f"{path.name}.before-rewrap")


def rewrap(kind: type[TinkBackend], path: Path, uri: KeyURI, target: str | None, label: str | None) -> KeyURI:
    """Moves a keyset to another KEK; see `TinkBackend.rewrap_key`."""
    path = path.resolve()
    target = target or uri.get("planned-kek")
    if target is None and label is None:
        raise KeyURIError(f"{uri.identity}: rewrap to which key? Give --kek, or planned-kek= in the URI")
    name = uri.identity
    new_uri = uri.replace(kek=pin_kek(target or uri.require("kek"), uri), planned_kek=None, region=None)
    bound = uri.get("associated-data")
    if label is not None and bound is None:
        new_uri = new_uri.replace(associated_data=label)
    elif label not in (None, bound):
        raise KeyURIError(f"{name}: it is bound to {bound} already, and cannot be bound to {label}")
    with lock_folder(path.parent, name), map_os_errors(path, name), ExitStack() as stack:
        for leftover in path.parent.glob(f".{escape(path.name)}.*.new"):  # of one that was killed
            leftover.unlink(missing_ok=True)
        content = read_file(path, name, readable="allow")
        wrapped = read_encrypted(content, name)
        old = [open_kek(kek, uri) for kek in (uri.require("kek"), uri.get("planned-kek")) if kek is not None]
        new = open_kek(new_uri.require("kek"), uri)
        for kek in (*old, new):
            stack.enter_context(closing(kek))
        before = before_rewrap(path)
        if before.exists() and before.read_bytes() != content:
            if _unwraps(new, wrapped, new_uri):
                return new_uri  # done, by one that was killed before it could say so
            raise KeyExistsError(
                f"{name}: {before} is from an earlier rewrap; confirm that one first (--confirm), or remove the file"
            )
        keyset = unwrap(wrapped, old, uri.raw("associated-data") or b"", name)
        expected = fingerprint_of(hmac_key(keyset, name))
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        try:
            data = new_uri.raw("associated-data") or b""
            write_temporary(temporary, wrap(keyset, new, data, json=is_json(content)), like=path)
            proof = kind(temporary, [open_kek(new.kek_uri, uri)], associated_data=data, name=new_uri.identity)
            with proof:
                if fingerprint(proof) != expected:
                    raise KeyMismatchError(f"{name}: {new.kek_uri} gives back another key; nothing was changed")
            if path.read_bytes() != content:
                raise DeviceBusyError(f"{name}: {path} was changed meanwhile; nothing was done, try again")
            if not before.exists():
                os.link(path, before)
            sync_folder(path.parent)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return new_uri


def confirm(path: Path, uri: KeyURI, backend: HmacBackend, keks: list[Kek]) -> list[Finding]:
    """Proves the new wrapping and deletes the old; see `TinkBackend.confirm_rewrap`."""
    name = uri.identity
    before = before_rewrap(path)
    if not before.exists():
        raise KeyNotFoundError(f"{name}: there is no rewrap to confirm: no file {before}")
    proven = fingerprint(backend)
    new = read_encrypted(read_file(path, name, readable="allow"), name)
    old = read_encrypted(read_file(before, name, readable="allow"), name)
    if old == new:
        raise KeyMismatchError(f"{name}: not rewrapped yet: {path} is the same as {before}; run key rewrap again")
    old_kek, keyset = _who_wraps(keks, old, uri)
    new_kek, _ = _who_wraps(keks, new, uri)
    if keyset is not None and fingerprint_of(hmac_key(keyset, name)) != proven:
        raise KeyMismatchError(f"{name}: {before} holds another key than {path}; nothing was deleted")
    with map_os_errors(before, name):
        before.unlink()
        sync_folder(before.parent)
    findings = [
        Finding("good", "rewrap", f"the keyset works, wrapped by {new_kek}; fingerprint {proven.hex()}"),
        Finding("good", "old keyset", f"{before} deleted; a backup that holds it still needs the old key"),
    ]
    if old_kek != new_kek:
        arn = parse_arn(old_kek.removeprefix(AWS))
        findings.append(
            Finding(
                "info",
                "old key",
                f"this keyset needs {old_kek or 'its old key'} no more. Look for other uses, then disable that key for"
                " some weeks, which can be undone, and delete it only after that",
                f"aws kms disable-key --key-id {arn} --region {arn.region}; weeks later:"
                f" aws kms schedule-key-deletion --key-id {arn} --region {arn.region} --pending-window-in-days 30"
                if arn
                else "",
            )
        )
    return findings


def _who_wraps(keks: list[Kek], wrapped: bytes, uri: KeyURI) -> tuple[str, tink_pb2.Keyset | None]:
    """Returns which KEK wraps a keyset, and the keyset; ("", None) where none of these can tell."""
    for kek in keks:
        # Before an access key id was bound to it, the keyset had no associated data.
        for data in dict.fromkeys((uri.raw("associated-data") or b"", b"")):
            with suppress(Error):  # gone already, or in another cloud: the rewrap itself has compared the two
                actual, plaintext = kek.decrypt_by_any(wrapped, data)
                return actual, parse(plaintext, actual, uri.identity)
    return "", None


def _unwraps(kek: Kek, wrapped: bytes, uri: KeyURI) -> bool:
    try:
        kek.decrypt(wrapped, uri.raw("associated-data") or b"")
    except (KeyMismatchError, KeyNotFoundError):
        return False
    return True
