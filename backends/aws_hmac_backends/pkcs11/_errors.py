"""python-pkcs11's exceptions, as aws-hmac's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pkcs11

from aws_hmac.errors import (
    AuthenticationError,
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    Error,
    KeyPolicyError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PIN_REFUSED = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange)
"""A PIN that was wrong: sent again, it would count towards the lock."""

OBJECT_LOST = (pkcs11.ObjectHandleInvalid, pkcs11.KeyHandleInvalid, pkcs11.UserNotLoggedIn)
"""The session lives; its object, or its login, does not."""

SESSION_LOST = (
    pkcs11.DeviceError,
    pkcs11.DeviceRemoved,
    pkcs11.FunctionFailed,
    pkcs11.GeneralError,
    pkcs11.OperationActive,
    pkcs11.OperationNotInitialized,
    pkcs11.SessionClosed,
    pkcs11.SessionHandleInvalid,
    pkcs11.SlotIDInvalid,
    pkcs11.TokenNotPresent,
    pkcs11.TokenNotRecognised,
)
"""The session is of no more use; a new one may be. Likewise a bare PKCS11Error: the module was finalized."""

_SAID: list[tuple[tuple[type[Exception], ...], type[Error], str]] = [
    (PIN_REFUSED, AuthenticationError, "the PIN is wrong; it is not tried again"),
    (
        (pkcs11.PinLocked,),
        AuthenticationError,
        "the PIN is locked after too many wrong ones; the security officer can set a new one",
    ),
    ((pkcs11.PinExpired,), AuthenticationError, "the PIN has expired and must be changed"),
    ((pkcs11.UserPinNotInitialized,), AuthenticationError, "the token's user PIN is not set yet"),
    (
        (pkcs11.AnotherUserAlreadyLoggedIn, pkcs11.UserTooManyTypes),
        AuthenticationError,
        "another part of this process is logged in as security officer",
    ),
    ((pkcs11.UserNotLoggedIn,), DeviceLostError, "this process was logged out of the token"),
    (OBJECT_LOST, DeviceLostError, "the key is gone from the token, or its session was closed"),
    (SESSION_LOST, DeviceLostError, "the token or the session on it is gone"),
    ((pkcs11.SessionCount,), DeviceBusyError, "the token has no session left; close some"),
    ((pkcs11.DeviceMemory,), DeviceBusyError, "the token has no memory left; delete something"),
    ((pkcs11.HostMemory,), DeviceBusyError, "this machine has no memory left"),
    (
        (pkcs11.TokenWriteProtected, pkcs11.SessionReadOnly),
        KeyPolicyError,
        "the token is write-protected",
    ),
    (
        (pkcs11.MechanismInvalid, pkcs11.KeyTypeInconsistent, pkcs11.KeySizeRange),
        UnsupportedError,
        "the token computes no HMAC-SHA256 with this key",
    ),
    (
        (pkcs11.AttributeReadOnly, pkcs11.FunctionRejected),
        KeyPolicyError,
        "the token's policy forbids it",
    ),
]


def is_session_lost(exc: BaseException) -> bool:
    """Whether a new session may help where this one failed."""
    return isinstance(exc, SESSION_LOST) or type(exc) is pkcs11.PKCS11Error


@contextmanager
def map_exceptions(name: str) -> Iterator[None]:
    """Raises python-pkcs11's exceptions as aws-hmac's, in a sentence that begins with `name`."""
    try:
        yield
    except pkcs11.PKCS11Error as exc:
        code = type(exc).__name__
        for kinds, error, text in _SAID:
            if isinstance(exc, kinds):
                raise error(f"{name}: {text} ({code})") from exc
        detail = str(exc) or code
        kind = DeviceLostError if type(exc) is pkcs11.PKCS11Error else DeviceError
        raise kind(f"{name}: the PKCS#11 module failed: {detail}") from exc
