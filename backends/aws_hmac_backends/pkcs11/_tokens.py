"""Tokens and keys: those that a URI fits, this process's sessions on them, and login.

Login belongs to the process, not to a session: the second login on a token is refused, and whoever logs out, or
closes the session that logged in, logs everybody out. So the backends of one token share one `Connection`, which
logs in once, by a session kept for that alone, and out when the last of them closes.
"""

from __future__ import annotations

import hmac
import os
import random
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

import pkcs11
from pkcs11 import Attribute, Mechanism, ObjectClass, TokenFlag
from pkcs11.attributes import AttributeMapper

from aws_hmac.backend import MAC_SIZE
from aws_hmac.errors import (
    AmbiguousKeyError,
    AuthenticationError,
    DeviceError,
    DeviceLostError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
)
from aws_hmac.uri import KeyURI
from aws_hmac_backends.pkcs11 import _modules
from aws_hmac_backends.pkcs11._errors import PIN_REFUSED, is_session_lost, map_exceptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_hmac_backends.pkcs11._modules import Module

T = TypeVar("T")

TOKEN_ATTRIBUTES = ("token", "manufacturer", "serial", "model")
SLOT_ATTRIBUTES = ("slot-id", "slot-manufacturer", "slot-description")
LIBRARY_ATTRIBUTES = ("library-manufacturer", "library-description", "library-version")
OBJECT_ATTRIBUTES = ("object", "type", "id")
PATH_ATTRIBUTES = (*TOKEN_ATTRIBUTES, *SLOT_ATTRIBUTES, *LIBRARY_ATTRIBUTES, *OBJECT_ATTRIBUTES)
QUERY_ATTRIBUTES = ("module-path", "module-name", "pin-source")

PATIENCE = 1.0
"""Seconds for which a token that is not there, or a key that is there twice, may be a passing state."""

PATIENCE_AGAIN = 0.1
"""Likewise when a key in use was lost: callers wait, and the next one tries again."""

KEY_TYPES = {0x2B: "SHA256_HMAC", 0x10: "GENERIC_SECRET"}
"""CKK_SHA256_HMAC and CKK_GENERIC_SECRET (PKCS#11 3.0, section 2.10): modules differ in which they take."""

_TYPES = ("public", "private", "cert", "secret-key", "data")  # RFC 7512, section 2.3


def _mapper() -> AttributeMapper:
    mapper = AttributeMapper()
    # As plain numbers and text, so that what python-pkcs11 has no name for does not fail.
    mapper.register_handler(
        Attribute.KEY_TYPE, lambda v: struct.pack("@L", int(v)), lambda b: int(struct.unpack("@L", b)[0])
    )
    mapper.register_handler(Attribute.LABEL, str.encode, lambda b: b.decode(errors="replace"))
    mapper.register_handler(
        Attribute.ALLOWED_MECHANISMS,
        lambda v: struct.pack(f"@{len(v)}L", *map(int, v)),
        lambda b: list(struct.unpack(f"@{len(b) // struct.calcsize('@L')}L", b)),
    )
    return mapper


MAPPER = _mapper()

_pin_key = os.urandom(32)
_refused: set[bytes] = set()
"""Keyed hashes of the PINs that a token refused, for as long as this process lives: PINs lock."""


class Found(NamedTuple):
    """A key on a token, as seen."""

    object: Any
    label: str
    id: bytes
    key_type: int
    private: bool
    sign: bool

    def __str__(self) -> str:
        number = f"id={quote(self.id, safe='')}" if self.id else "no id"
        return f"{self.label!r} ({number}, {KEY_TYPES.get(self.key_type, hex(self.key_type))})"


class Connection:
    """This process's sessions on one token.

    Attributes:
        users: how many backends use it.
    """

    def __init__(self, module: Module, token: Any) -> None:
        self.module = module
        self.token = token
        self.users = 0
        self.pid = os.getpid()
        self.session = token.open(attribute_mapper=MAPPER)
        self._login: Any = None
        module.connections[token.slot.slot_id] = self

    def alive(self) -> bool:
        """Whether the token still answers."""
        try:
            self.token.slot.get_token()
            list(self.session.get_objects({Attribute.LABEL: "aws-hmac asks whether this session lives"}))
        except pkcs11.PKCS11Error:
            return False
        return True

    def forget(self) -> None:
        """Drops sessions that are no longer ours. They are not closed: their numbers may be someone else's by now."""
        if self.module.connections.get(self.token.slot.slot_id) is self:
            del self.module.connections[self.token.slot.slot_id]
        self.session = self._login = None

    def release(self) -> None:
        """One backend less; the last one logs out and closes. Holds `DEVICE`."""
        self.users -= 1
        if self.users > 0 or self.session is None or self.pid != os.getpid():
            return
        if self.module.connections.get(self.token.slot.slot_id) is self:
            for session in (self._login, self.session):
                with suppress(pkcs11.PKCS11Error):
                    if session is not None:
                        session.close()
        self.forget()

    def find(self, uri: KeyURI) -> list[Found]:
        """Returns the HMAC keys that a URI fits, of those that are visible. Holds `DEVICE`."""
        template: dict[Attribute, object] = {Attribute.CLASS: ObjectClass.SECRET_KEY}
        label, id_ = uri.get("object"), uri.raw("id")
        if label is not None:
            template[Attribute.LABEL] = label
        if id_ is not None:
            template[Attribute.ID] = id_
        found: list[Found] = []
        for _ in range(3):
            items = list(self.session.get_objects(template))  # a list first: a search is an operation of the session
            try:
                found = [_found(item) for item in items]
            except pkcs11.ObjectHandleInvalid:
                continue  # deleted meanwhile, or replaced by one that the search has not met: look again
            break
        return [key for key in found if key.key_type in KEY_TYPES]

    def needs_login(self, found: list[Found]) -> bool:
        """Whether logging in may show more keys. Holds `DEVICE`."""
        if any(key.private for key in found) or not self.token.flags & TokenFlag.LOGIN_REQUIRED:
            return False
        return self._login is None or not self._is_logged_in()

    def _is_logged_in(self) -> bool:
        try:
            probe = self.session.create_object(
                {Attribute.CLASS: ObjectClass.DATA, Attribute.TOKEN: False, Attribute.PRIVATE: True}
            )
        except pkcs11.UserNotLoggedIn:
            self._login = None
            return False
        except pkcs11.PKCS11Error:
            return True  # a token that makes no such objects tells nothing
        with suppress(pkcs11.PKCS11Error):
            probe.destroy()
        return True

    def log_in(self, uri: KeyURI, name: str) -> bool:
        """Logs this process in, with the PIN that the URI's ``pin-source`` gives. Does not hold `DEVICE`: it may ask.

        Returns:
            False if the URI gives no PIN and the token has no PIN pad.

        Raises:
            AuthenticationError: the PIN is wrong, was refused before, is locked, or one failure from being so.
        """
        flags = self.token.flags
        if flags & TokenFlag.USER_PIN_LOCKED:
            raise AuthenticationError(
                f"{name}: the PIN of {describe_token(self.token)} is locked after too many wrong ones;"
                " the security officer can set a new one"
            )
        pad = "pin-source" not in uri.query and bool(flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH)
        if "pin-source" not in uri.query and not pad:
            return False
        if flags & TokenFlag.USER_PIN_FINAL_TRY and not pad and uri.get("pin-source") != "prompt":
            raise AuthenticationError(
                f"{name}: one more wrong PIN locks {describe_token(self.token)}, so none is sent unasked;"
                " log in once with the right one by another tool, or use pin-source=prompt"
            )
        pin = uri.secret("pin-source")
        try:
            with _modules.DEVICE, map_exceptions(name):
                self._send(pin, name)
        finally:
            del pin  # tracebacks show what frames hold
        return True

    def _send(self, pin: bytes | None, name: str) -> None:
        token, where = self.token, describe_token(self.token)
        text: str | None = None
        try:
            if pin is None:
                self._login = token.open(user_pin=pkcs11.PROTECTED_AUTH)
                return
            mark = hmac.digest(_pin_key, b"\0".join((where.encode(), pin)), "sha256")
            if mark in _refused:
                raise AuthenticationError(
                    f"{name}: {where} has refused this PIN before, and it is not tried again, as PINs lock;"
                    " put the right one into the pin-source (if the token's PIN was changed, restart this process)"
                )
            text = _text(pin)
            if text is None:
                raise AuthenticationError(f"{name}: the PIN that pin-source gives is not UTF-8")
            try:
                self._login = token.open(user_pin=text)
            except pkcs11.UserPinNotInitialized as exc:
                if token.flags & TokenFlag.USER_PIN_INITIALIZED:  # it was, a moment ago
                    raise DeviceLostError(f"{name}: {where} is just being changed by another process") from exc
                raise
            except PIN_REFUSED as exc:
                _refused.add(mark)
                raise AuthenticationError(
                    f"{name}: {where} refuses the PIN that pin-source gives; it is not tried again"
                ) from exc
        except pkcs11.UserAlreadyLoggedIn:
            pass  # another part of this process was first; the session that logs nobody in is enough
        finally:
            del pin
            text = None


def _text(pin: bytes) -> str | None:
    try:
        return pin.decode()
    except UnicodeDecodeError:
        return None  # not raised on: the exception holds the PIN


class OpenKey:
    """A key in use: its handle, and what must be true of it."""

    def __init__(self, connection: Connection, found: Found) -> None:
        self.connection = connection
        self.object = found.object
        self.session = connection.session
        self._is = self._looks()

    def sign(self, message: bytes, name: str) -> bytes:
        """Returns the HMAC-SHA256 of a message. Holds `DEVICE`.

        Raises:
            DeviceLostError: this handle is of no more use; opening the key again may help.
        """
        self.check(name)
        try:
            mac: bytes = self.object.sign(message, mechanism=Mechanism.SHA256_HMAC)
        except pkcs11.PKCS11Error as exc:
            self._note(exc)
            raise
        if len(mac) != MAC_SIZE:
            raise DeviceError(f"{name}: the token answered {len(mac)} bytes, an HMAC-SHA256 has {MAC_SIZE}")
        return mac

    def check(self, name: str) -> None:
        """Makes sure that the handle still means this key. Holds `DEVICE`.

        Raises:
            DeviceLostError: it does not; opening the key again may help.
        """
        if self.connection.session is not self.session or self.connection.pid != os.getpid():
            raise DeviceLostError(f"{name}: the session on the token is gone")
        try:
            same = self._looks() == self._is
        except pkcs11.PKCS11Error as exc:
            self._note(exc)
            raise
        if not same:
            # After someone else's C_Finalize and C_Initialize, the same handle may mean another key.
            self.connection.forget()
            raise DeviceLostError(f"{name}: another part of this process has reset the PKCS#11 module")

    def _note(self, exc: pkcs11.PKCS11Error) -> None:
        if is_session_lost(exc):
            self.connection.forget()

    def _looks(self) -> dict[int, object]:
        looks: dict[int, object] = self.object.get_attributes([Attribute.LABEL, Attribute.ID])
        return looks


def open_key(uri: KeyURI, name: str, *, again: bool = False) -> OpenKey:
    """Finds the token and the key that a URI names, logs in, and counts as a user of the connection.

    Args:
        uri: the key URI.
        name: what messages call the key.
        again: it was open, and was lost.

    Raises:
        KeyURIError, KeyNotFoundError, AmbiguousKeyError, AuthenticationError, DeviceError: as their names say.
    """

    def attempt() -> OpenKey:
        connection, found = _find_keys(uri, name)
        with _modules.DEVICE, map_exceptions(name):
            try:
                return OpenKey(connection, only(found, uri, connection, name))
            except BaseException:
                connection.release()
                raise

    return _patiently(attempt, uri, name, PATIENCE_AGAIN if again else PATIENCE)


def find_keys(uri: KeyURI, name: str) -> tuple[Connection, list[Found]]:
    """Finds the token that a URI names and its keys there, logged in where that is needed and possible.

    Returns:
        The connection, counting one user more, and the keys.
    """
    return _patiently(lambda: _find_keys(uri, name), uri, name, PATIENCE)


def _patiently(attempt: Callable[[], T], uri: KeyURI, name: str, patience: float) -> T:
    """Tries again for a moment what passes by itself.

    A key that is just being replaced is there twice. SoftHSM writes a token's file at each login, and a process that
    is initialised meanwhile sees no token: a third of them, where six processes do nothing but log in.
    """
    check(uri)
    end, pause = time.monotonic() + patience, 0.002
    with _modules.OPENING:
        while True:
            try:
                return attempt()
            except (AmbiguousKeyError, DeviceLostError) as exc:
                if time.monotonic() > end:
                    raise
                if isinstance(exc, DeviceLostError):
                    with _modules.DEVICE, map_exceptions(name):
                        _modules.for_uri(uri, name).restart_if_alone()
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads processes, no secret
            pause = min(2 * pause, 0.03)


def _find_keys(uri: KeyURI, name: str) -> tuple[Connection, list[Found]]:
    with _modules.DEVICE, map_exceptions(name):
        connection = _connect(uri, name)
        connection.users += 1
    try:
        with _modules.DEVICE, map_exceptions(name):
            found = _search(connection, uri)
            wanted = connection.needs_login(found)
        logged_in = False
        if wanted:
            logged_in = connection.log_in(uri, name)
            with _modules.DEVICE, map_exceptions(name):
                found = _search(connection, uri)
    except BaseException:
        with _modules.DEVICE:
            connection.release()
        raise
    if wanted and not found and not logged_in:
        with _modules.DEVICE:
            connection.release()
        raise AuthenticationError(
            f"{name}: {describe_token(connection.token)} shows its keys only after login;"
            " add ?pin-source=… (file:/path, env:NAME, cmd:program or prompt)"
        )
    return connection, found


def _search(connection: Connection, uri: KeyURI) -> list[Found]:
    try:
        return connection.find(uri)
    except pkcs11.PKCS11Error as exc:
        if is_session_lost(exc):
            connection.forget()
        raise


def _connect(uri: KeyURI, name: str) -> Connection:
    module = _modules.for_uri(uri, name)
    token = find_token(module, uri, name)
    known = module.connections.get(token.slot.slot_id)
    if known is not None and known.session is not None:
        try:
            known.token = token  # its flags are today's
            list(known.session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: "\0"}))
        except pkcs11.PKCS11Error:
            known.forget()
        else:
            return known
    return Connection(module, token)


def only(found: list[Found], uri: KeyURI, connection: Connection, name: str) -> Found:
    """Returns the one key that was found, fit to sign. Holds `DEVICE`.

    Raises:
        KeyNotFoundError, AmbiguousKeyError: not one; the message lists what is there.
        KeyPolicyError: it may not sign.
    """
    # A second look: where another process is just replacing the key, the first may see neither old nor new.
    found = found or connection.find(uri)
    if not found:
        others = connection.find(KeyURI(uri.scheme, {}))
        listed = ", ".join(map(str, others)) or "none visible"
        raise KeyNotFoundError(
            f"{name}: no such HMAC key on {describe_token(connection.token)}; its HMAC keys are: {listed}"
        )
    if len(found) > 1:
        raise AmbiguousKeyError(
            f"{name}: {len(found)} keys fit: {', '.join(map(str, found))}; tell them apart by id= or object="
        )
    if not found[0].sign:
        raise KeyPolicyError(f"{name}: this key may not compute HMACs: its CKA_SIGN is false")
    return found[0]


def find_token(module: Module, uri: KeyURI, name: str) -> Any:
    """Returns the one token that a URI fits. Holds `DEVICE`.

    Raises:
        DeviceLostError: there is none; the message lists those that there are.
        AmbiguousKeyError: there are several; the message lists them.
    """
    fitting = find_tokens(module, uri, name)
    if len(fitting) > 1:
        listed = ", ".join(map(describe_token, fitting))
        raise AmbiguousKeyError(f"{name}: several tokens fit: {listed}; name one by token= or serial=")
    return fitting[0]


def find_tokens(module: Module, uri: KeyURI, name: str) -> list[Any]:
    """Returns the tokens, at least one, that a URI fits (RFC 7512, section 2.5). Holds `DEVICE`.

    Raises:
        DeviceLostError: there is none; the message lists those that there are.
    """
    fitting, others = [], []
    for slot in module.lib.get_slots(token_present=True):
        try:
            token = slot.get_token()
        except (pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
            continue
        except pkcs11.PKCS11Error as exc:
            others.append(f"one that does not answer in slot {slot.slot_id} ({type(exc).__name__})")
            continue
        if not token.flags & TokenFlag.TOKEN_INITIALIZED:
            others.append(f"an uninitialised one in slot {slot.slot_id} ({slot.slot_description})")
        elif fits(token, uri):
            fitting.append(token)
        else:
            others.append(describe_token(token))
    if not fitting:
        raise DeviceLostError(f"{name}: no such token; there are {', '.join(others) or 'none'} (module {module.name})")
    return fitting


def fits(token: Any, uri: KeyURI) -> bool:
    """Whether a token fits every token and slot attribute of a URI; blanks at the end do not count."""
    slot = token.slot
    texts = {
        "token": token.label,
        "manufacturer": token.manufacturer_id,
        "serial": token.serial.rstrip(b"\0 ").decode(errors="replace"),
        "model": token.model,
        "slot-manufacturer": slot.manufacturer_id,
        "slot-description": slot.slot_description,
    }
    slot_id = uri.get("slot-id")
    return (slot_id is None or int(slot_id) == slot.slot_id) and all(
        (uri.get(attribute) or "").rstrip(" ") == text for attribute, text in texts.items() if attribute in uri.path
    )


def describe_token(token: Any) -> str:
    """A token as messages show it."""
    serial = token.serial.rstrip(b"\0 ").decode(errors="replace")
    return f"token {token.label!r} (serial {serial or 'none'}, {token.manufacturer_id}, {token.model})"


def check(uri: KeyURI) -> None:
    """Refuses attributes that RFC 7512 does not know, or whose values it does not allow.

    Raises:
        KeyURIError: names the attribute.
    """
    uri.check(path=PATH_ATTRIBUTES, query=QUERY_ATTRIBUTES)
    kind, slot_id = uri.get("type", "secret-key"), uri.get("slot-id", "0")
    if kind != "secret-key":
        known = "holds no HMAC key" if kind in _TYPES else f"is unknown; there are {', '.join(_TYPES)}"
        raise KeyURIError(f"pkcs11: URI: type={kind} {known}; use type=secret-key")
    if not (slot_id and slot_id.isascii() and slot_id.isdigit()):
        raise KeyURIError("pkcs11: URI: slot-id is not a decimal number")
    _modules.library_version(uri)


def _found(item: Any) -> Found:
    wanted = [Attribute.KEY_TYPE, Attribute.LABEL, Attribute.ID, Attribute.PRIVATE, Attribute.SIGN]
    has = item.get_attributes(wanted)
    return Found(
        item,
        has.get(Attribute.LABEL, ""),
        has.get(Attribute.ID, b""),
        has.get(Attribute.KEY_TYPE, -1),
        has.get(Attribute.PRIVATE, True),
        has.get(Attribute.SIGN, False),
    )
