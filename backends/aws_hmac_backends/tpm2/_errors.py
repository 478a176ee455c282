"""TPM return codes in words."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tpm2_pytss import TSS2_Exception

from aws_hmac.errors import (
    AuthenticationError,
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    Error,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# TPM 2.0 Library, Part 2, section 6.6.3 (format-zero) and 6.6.2 (format-one, without handle, parameter or session).
RC_INITIALIZE = 0x100
RC_AUTH_TYPE = 0x124
RC_PCR_CHANGED = 0x128
RC_AUTH_UNAVAILABLE = 0x12F
RC_NV_SPACE = 0x14B
RC_NV_DEFINED = 0x14C
RC_OBJECT_MEMORY = 0x902
RC_SESSION_MEMORY = 0x903
RC_SESSION_HANDLES = 0x905
RC_REFERENCES = range(0x910, 0x920)
RC_LOCKOUT = 0x921
RC_BUSY = (0x908, 0x909, 0x920, 0x922, 0x923)  # YIELDED, CANCELED, NV_RATE, RETRY, NV_UNAVAILABLE
RC_VALUE = 0x84
RC_HIERARCHY = 0x85
RC_TYPE = 0x8A
RC_HANDLE = 0x8B
RC_AUTH_FAIL = 0x8E
RC_SCHEME = 0x92
RC_KEY = 0x9C
RC_POLICY_FAIL = 0x9D
RC_INTEGRITY = 0x9F
RC_BAD_AUTH = 0xA2

# TCG TSS 2.0 Overview, section 3.6: the layer that speaks is in the third byte.
_LAYERS_BELOW = (0x0A0000, 0x0B0000, 0x0C0000)  # TCTI, the two resource manager layers
ESYS_BAD_SEQUENCE = 0x70007
ESYS_RSP_AUTH_FAILED = 0x7001B


def is_lost(exc: TSS2_Exception) -> bool:
    """Tells whether the connection, or what the TPM held for it, is gone: a new context may mend it."""
    rc = int(exc.rc)
    return (
        rc & 0xFF0000 in _LAYERS_BELOW
        or (rc & 0xFF0000 == 0x070000 and rc != ESYS_RSP_AUTH_FAILED)
        or rc == RC_INITIALIZE
        or rc in RC_REFERENCES
    )


def is_full(exc: TSS2_Exception) -> bool:
    """Tells whether the TPM had no free slot; nothing was done, and others may soon free one."""
    return int(exc.rc) in (RC_OBJECT_MEMORY, RC_SESSION_MEMORY, RC_SESSION_HANDLES)


def words(exc: TSS2_Exception) -> str:
    """Returns what the TSS calls a return code, with the code."""
    return f"{exc} (0x{int(exc.rc):x})"


def translate(exc: TSS2_Exception, what: str) -> Error:
    """Returns our error for one of the TSS.

    Args:
        exc: what the TSS raised.
        what: the key or thing in question, for the message.
    """
    rc, base = int(exc.rc), int(exc.error)
    said = words(exc)
    if rc & 0xFF0000:
        if rc == ESYS_RSP_AUTH_FAILED:
            return DeviceError(f"{what}: an answer was not the TPM's, somebody may sit on its bus: {said}")
        if is_lost(exc):
            return DeviceLostError(f"{what}: the connection to the TPM is lost: {said}")
        return DeviceError(f"{what}: the TPM software stack failed: {said}")
    if rc == RC_LOCKOUT:
        return AuthenticationError(
            f"{what}: the TPM is locked after too many wrong passwords: {said};"
            " wait for its lockout interval, or let its owner run: tpm2_dictionarylockout --clear-lockout"
        )
    if rc in (RC_AUTH_TYPE, RC_AUTH_UNAVAILABLE):
        return KeyPolicyError(f"{what}: may be used by its policy only, not by a password alone: {said}")
    if rc == RC_PCR_CHANGED:
        return KeyPolicyError(f"{what}: a PCR changed while the policy was being met: {said}; try again")
    if is_full(exc):
        return DeviceBusyError(
            f"{what}: the TPM has no free slot: {said}; use a resource manager (tcti=device:/dev/tpmrm0 or tabrmd)"
        )
    if rc in RC_BUSY:
        return DeviceBusyError(f"{what}: the TPM is busy: {said}")
    if rc == RC_INITIALIZE:
        return DeviceError(f"{what}: the TPM has not been started (TPM2_Startup): {said}")
    if rc in RC_REFERENCES:
        return DeviceLostError(f"{what}: the TPM no longer holds what was loaded: {said}")
    if rc == RC_NV_SPACE:
        return DeviceError(f"{what}: the TPM has no room for another persistent key: {said}")
    if rc == RC_NV_DEFINED:
        return DeviceError(f"{what}: there is something at this persistent handle already: {said}")
    if base in (RC_AUTH_FAIL, RC_BAD_AUTH):
        return AuthenticationError(f"{what}: wrong password: {said}")
    if base == RC_POLICY_FAIL:
        return KeyPolicyError(f"{what}: its policy is not met: {said}")
    if base == RC_INTEGRITY:
        return KeyMismatchError(f"{what}: was made by another TPM, or under another parent key: {said}")
    if base == RC_HANDLE:
        return KeyNotFoundError(f"{what}: the TPM holds nothing at this handle: {said}")
    if base in (RC_TYPE, RC_SCHEME, RC_KEY):
        return UnsupportedError(f"{what}: the TPM cannot do this with this kind of key: {said}")
    if base == RC_HIERARCHY:
        return DeviceError(f"{what}: the hierarchy is disabled or the wrong one: {said}")
    return DeviceError(f"{what}: the TPM answered: {said}")


@contextmanager
def map_exceptions(what: str) -> Iterator[None]:
    """Turns the TSS's exceptions into ours; `what` begins the message."""
    try:
        yield
    except TSS2_Exception as exc:
        raise translate(exc, what) from exc
