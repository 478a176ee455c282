"""Keys in, keys out, and what there is."""

from __future__ import annotations

import hmac
import secrets
from collections import Counter
from contextlib import contextmanager, suppress
from itertools import product
from typing import TYPE_CHECKING, Any

import pkcs11
from pkcs11 import Attribute, Mechanism, ObjectClass, TokenFlag

from aws_hmac.backend import KeyEntry, shorten
from aws_hmac.errors import (
    AmbiguousKeyError,
    DeviceBusyError,
    Error,
    KeyExistsError,
    KeyPolicyError,
    KeyURIError,
    UnsupportedError,
)
from aws_hmac.uri import KeyURI
from aws_hmac_backends.pkcs11 import _modules, _tokens
from aws_hmac_backends.pkcs11._errors import map_exceptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PROBE = b"aws-hmac import check"

MUST: dict[Attribute, object] = {
    Attribute.CLASS: ObjectClass.SECRET_KEY,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.SIGN: True,
    # Modules let a key do everything that its template does not deny.
    Attribute.VERIFY: False,
    Attribute.ENCRYPT: False,
    Attribute.DECRYPT: False,
    Attribute.WRAP: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}
"""What each imported key is; a token that refuses it gets no key."""

MAY: dict[Attribute, object] = {
    Attribute.ALLOWED_MECHANISMS: [Mechanism.SHA256_HMAC],
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,
}
"""What each is where the token allows it; given up in this order. `Attribute.ID` goes last."""

IMPORT_PATIENCE = 120
"""Seconds to wait for another import, whose PIN a person may be typing."""

SIZES = (0, 32, 64)
"""Lengths, in bytes, to which a shorter key is filled with zeros, which leaves its HMACs the same (RFC 2104,
section 2): some tokens take no key shorter than the hash, or than its block."""

NOT_THIS_WAY = (
    pkcs11.ArgumentsBad,
    pkcs11.AttributeReadOnly,
    pkcs11.AttributeTypeInvalid,
    pkcs11.AttributeValueInvalid,
    pkcs11.DataInvalid,
    pkcs11.DataLenRange,
    pkcs11.FunctionNotSupported,
    pkcs11.KeySizeRange,
    pkcs11.KeyTypeInconsistent,
    pkcs11.MechanismInvalid,
    pkcs11.TemplateIncomplete,
    pkcs11.TemplateInconsistent,
)
"""Refusals that another template may avoid."""


def import_key(uri: KeyURI, key: bytes, *, overwrite: bool, label: str | None) -> KeyURI:
    """Puts a key into the token that a URI names.

    The object's CKA_LABEL is the URI's ``object``, its CKA_ID the URI's ``id``; without one it is the access key id
    with a random end, so that two keys of one name can be told apart.
    """
    name = uri.identity
    held = [shorten(key)]
    try:
        if not key:
            raise UnsupportedError(f"{name}: the key is empty")
        return place(uri, lambda session: _create(session, uri, held[0], label, name), overwrite=overwrite)
    finally:
        del key  # tracebacks show what frames hold
        held.clear()


def place(uri: KeyURI, make: Callable[[Any], Any], *, overwrite: bool) -> KeyURI:
    """Makes a key on the token that a URI names, and lets the old one go after it.

    Args:
        uri: where the key goes.
        make: given a session that may write, logged in, makes the key's object.
        overwrite: replaces the one key that is there.
    """
    name = uri.identity
    _tokens.check(uri)
    if not uri.path.get("object") and not uri.path.get("id"):
        raise KeyURIError(f"{name}: the key needs a name: add object=… (or id=%…)")
    with _alone(name):
        connection, found = _tokens.find_keys(uri, name)
        try:
            if found and not overwrite:
                raise KeyExistsError(f"{name}: there is such a key already: {found[0]}")
            if len(found) > 1:
                raise AmbiguousKeyError(f"{name}: {len(found)} keys fit: {', '.join(map(str, found))}; tell them apart")
            with _modules.DEVICE, map_exceptions(name):
                _replace(connection, uri, make, found, name)
        finally:
            with _modules.DEVICE:
                connection.release()
    return uri


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One import at a time of this user's processes: a token has no way to say "create, unless it is there"."""
    from filelock import FileLock, Timeout  # only imports need them
    from platformdirs import user_state_path

    lock = None
    try:
        folder = user_state_path("aws-hmac")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(folder / "pkcs11-import.lock")
        lock.acquire(timeout=IMPORT_PATIENCE)
    except Timeout as exc:
        raise DeviceBusyError(f"{name}: another import has not ended for {IMPORT_PATIENCE} s; end it") from exc
    except OSError:
        pass  # no folder for it: what `_replace` sees is all there is
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _replace(
    connection: _tokens.Connection, uri: KeyURI, make: Callable[[Any], Any], old: list[_tokens.Found], name: str
) -> None:
    if connection.token.flags & TokenFlag.WRITE_PROTECTED:
        raise KeyPolicyError(f"{name}: {_tokens.describe_token(connection.token)} is write-protected")
    session = connection.token.open(rw=True, attribute_mapper=_tokens.MAPPER)
    try:
        new = make(session)
        try:
            known = {item.object.handle for item in old} | {new.handle}
            if any(item.object.handle not in known for item in connection.find(uri)):
                raise KeyExistsError(f"{name}: another process imported such a key at the same time")  # noqa: TRY301 - the undoing below is for it too
            for item in old:
                _destroy(session, item, name)
        except BaseException:
            with suppress(pkcs11.PKCS11Error):
                new.destroy()
            raise
    finally:
        with suppress(pkcs11.PKCS11Error):
            session.close()


def _create(session: Any, uri: KeyURI, key: bytes, label: str | None, name: str) -> Any:
    """Creates the key in the first way that the token takes and that computes HMAC-SHA256."""
    refusals: list[str] = []
    last: pkcs11.PKCS11Error | None = None
    expected = hmac.digest(key, _PROBE, "sha256")
    template: dict[Attribute, object] = {}
    try:
        for optional, size, key_type in product(optional_attributes(uri, label), SIZES, _tokens.KEY_TYPES):
            if size and size <= len(key):
                continue
            template = MUST | optional | {Attribute.KEY_TYPE: key_type, Attribute.VALUE: key.ljust(size, b"\0")}
            made = None
            try:
                made = session.create_object(template)
                if made[Attribute.SENSITIVE] and not made[Attribute.EXTRACTABLE]:
                    if made.sign(_PROBE, mechanism=Mechanism.SHA256_HMAC) == expected:
                        good, made = made, None
                        return good
                    refusals.append("a wrong HMAC")
                else:
                    refusals.append("a key that can be read")
            except NOT_THIS_WAY as exc:
                last = exc
                refusals.append(type(exc).__name__)
            finally:
                if made is not None:
                    made.destroy()
    finally:
        del key, template
    raise UnsupportedError(
        f"{name}: the token takes no HMAC-SHA256 key from outside; it answered {', '.join(dict.fromkeys(refusals))}"
    ) from last


def optional_attributes(uri: KeyURI, label: str | None) -> Iterator[dict[Attribute, object]]:
    """What is asked of the token besides, less and less."""
    named: dict[Attribute, object] = {}
    if "object" in uri.path:
        named[Attribute.LABEL] = uri.require("object")
    number = uri.raw("id")
    chosen = {Attribute.ID: number or f"{label or 'aws-hmac'}-{secrets.token_hex(4)}".encode()}
    asked = list(MAY)
    for given_up in range(len(asked) + 1):
        yield named | chosen | {attribute: MAY[attribute] for attribute in asked[given_up:]}
    if number is None:
        yield named


def _destroy(session: Any, item: _tokens.Found, name: str) -> None:
    try:
        # By the session that may write; the handle is the token's, the same in each.
        target = next(o for o in list(session.get_objects(_exactly(item))) if o.handle == item.object.handle)
        target.destroy()
    except (pkcs11.PKCS11Error, StopIteration) as exc:
        raise KeyPolicyError(f"{name}: the token does not let go of {item} ({type(exc).__name__})") from exc


def _exactly(item: _tokens.Found) -> dict[Attribute, object]:
    return {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: item.label, Attribute.ID: item.id}


def delete_key(uri: KeyURI) -> None:
    """Destroys the one key that a URI names."""
    name = uri.identity
    connection, found = _tokens.find_keys(uri, name)
    try:
        with _modules.DEVICE, map_exceptions(name):
            if found and not found[0].sign:
                found[0] = found[0]._replace(sign=True)  # a key that may not sign can still go
            item = _tokens.only(found, uri, connection, name)
            session = connection.token.open(rw=True, attribute_mapper=_tokens.MAPPER)
            try:
                _destroy(session, item, name)
            finally:
                with suppress(pkcs11.PKCS11Error):
                    session.close()
    finally:
        with _modules.DEVICE:
            connection.release()


def list_keys(uri: KeyURI) -> list[KeyEntry]:
    """Returns the HMAC keys that a URI fits."""
    name = uri.identity
    _tokens.check(uri)
    with _modules.DEVICE, map_exceptions(name):
        module = _modules.for_uri(uri, name)
        tokens = _tokens.find_tokens(module, uri, name)
    entries = []
    for token in tokens:
        where = _token_uri(uri, token)
        # A PIN is for one token: sent to others, it would count as wrong there.
        asked = where if len(tokens) == 1 else KeyURI(where.scheme, where.path, _without_pin(where))
        try:
            connection, found = _tokens.find_keys(asked, name)
        except Error:
            if len(tokens) == 1:
                raise
            continue
        with _modules.DEVICE:
            connection.release()
        labels = Counter(item.label for item in found)
        entries += [_entry(where, item, pin_id="id" in uri.path or labels[item.label] > 1) for item in found]
    return entries


def _without_pin(uri: KeyURI) -> dict[str, bytes]:
    return {attribute: value for attribute, value in uri.query.items() if attribute != "pin-source"}


def _token_uri(uri: KeyURI, token: Any) -> KeyURI:
    serial = token.serial.rstrip(b"\0 ")
    asked = {name: value for name, value in uri.path.items() if name in _tokens.OBJECT_ATTRIBUTES}
    pinned = {"token": token.label, **({"serial": serial} if serial else {})}
    return KeyURI(uri.scheme, {**pinned, **asked}, uri.query)


def _entry(where: KeyURI, item: _tokens.Found, *, pin_id: bool) -> KeyEntry:
    path = {k: v for k, v in where.path.items() if k not in ("object", "id")}
    if item.label or not item.id:
        path["object"] = item.label.encode()
    if item.id and (pin_id or not item.label):
        path["id"] = item.id
    return KeyEntry(str(KeyURI(where.scheme, path, where.query)), f"{item}{'' if item.sign else ', may not sign'}")
