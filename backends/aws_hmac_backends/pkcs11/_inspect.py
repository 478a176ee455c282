"""How well a key is protected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pkcs11
from pkcs11 import Attribute, Mechanism, MechanismFlag, SlotFlag, TokenFlag

from aws_hmac.backend import Finding
from aws_hmac_backends.pkcs11._tokens import KEY_TYPES, describe_token

if TYPE_CHECKING:
    from collections.abc import Iterator

_AGAIN = "import the key again with --overwrite"

_USES = (
    (Attribute.DERIVE, "derive other keys, from which its value may be learnt"),
    (Attribute.WRAP, "wrap other keys"),
    (Attribute.UNWRAP, "unwrap other keys"),
    (Attribute.ENCRYPT, "encrypt"),
    (Attribute.DECRYPT, "decrypt"),
    (Attribute.VERIFY, "verify HMACs"),
)


def of_key(key: Any) -> Iterator[Finding]:
    """Looks at a key's attributes. Holds `DEVICE`."""
    yield _value(key)
    yield _must(key, Attribute.SENSITIVE, True, "is never shown in plain", "may be shown in plain")
    yield _must(key, Attribute.EXTRACTABLE, False, "cannot be wrapped out", "can be wrapped out by another key")
    uses = [(attribute, text) for attribute, text in _USES if read(key, attribute)]
    for attribute, text in uses:
        yield Finding("warning", f"CKA_{attribute.name}", f"the key may also {text}", _AGAIN)
    if not uses:
        yield Finding("good", "CKA_SIGN", "the key computes HMACs and may do nothing else")
    yield _mechanisms(key)
    yield _should(key, Attribute.PRIVATE, True, "works after login only", "works without login")
    yield _should(key, Attribute.MODIFIABLE, False, "its attributes are fixed", "its attributes can be changed")
    yield _should(key, Attribute.COPYABLE, False, "cannot be copied", "can be copied within the token")
    kind = KEY_TYPES.get(read(key, Attribute.KEY_TYPE), "unknown")
    yield Finding("info", "CKA_KEY_TYPE", f"{kind}, {read(key, Attribute.VALUE_LEN) or 'an unknown number of'} bytes")
    history = [
        f"CKA_{attribute.name} is {'unknown' if value is None else str(value).lower()}"
        for attribute in (Attribute.LOCAL, Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE)
        if (value := read(key, attribute)) is not True
    ]
    if history:
        text = f"{', '.join(history)}: the key came from outside, as AWS makes it"
        yield Finding("info", "CKA_LOCAL", text, "destroy every other copy of the secret")


def of_token(token: Any) -> Iterator[Finding]:
    """Looks at the token that holds a key. Holds `DEVICE`."""
    where = describe_token(token)
    try:
        hardware = bool(token.slot.flags & SlotFlag.HW_SLOT) or bool(
            token.slot.get_mechanism_info(Mechanism.SHA256_HMAC).flags & MechanismFlag.HW
        )
    except pkcs11.PKCS11Error:
        hardware = False
    if hardware:
        yield Finding("good", "token", f"{where} says that it is hardware")
    else:
        yield Finding(
            "warning",
            "token",
            f"{where} is software: who can read its files and knows its PIN has the key",
            "use an HSM, smart card or TPM where that matters",
        )
    if not token.flags & TokenFlag.LOGIN_REQUIRED:
        yield Finding("warning", "CKF_LOGIN_REQUIRED", f"{where} needs no login", "set a PIN")
    yield from pin_state(token)


def pin_state(token: Any) -> Iterator[Finding]:
    """Looks at the state of a token's user PIN."""
    flags, where = token.flags, describe_token(token)
    reset = "the security officer sets a new PIN: pkcs11-tool --login --login-type so --init-pin"
    log_in = f"log in once with the right PIN: pkcs11-tool --token-label '{token.label}' --login --list-objects"
    if not flags & TokenFlag.LOGIN_REQUIRED:
        return
    if not flags & TokenFlag.USER_PIN_INITIALIZED:
        yield Finding("bad", "CKF_USER_PIN_INITIALIZED", f"{where} has no user PIN yet", reset)
    if flags & TokenFlag.USER_PIN_LOCKED:
        yield Finding("bad", "CKF_USER_PIN_LOCKED", f"the PIN of {where} is locked after too many wrong ones", reset)
    elif flags & TokenFlag.USER_PIN_FINAL_TRY:
        yield Finding("bad", "CKF_USER_PIN_FINAL_TRY", f"one more wrong PIN locks {where}", log_in)
    elif flags & TokenFlag.USER_PIN_COUNT_LOW:
        text = f"a wrong PIN was given to {where} since the last login"
        yield Finding("warning", "CKF_USER_PIN_COUNT_LOW", text, log_in)
    if flags & TokenFlag.USER_PIN_TO_BE_CHANGED:
        text = f"the PIN of {where} is the one that it came with, or has expired"
        yield Finding("warning", "CKF_USER_PIN_TO_BE_CHANGED", text, "pkcs11-tool --login --change-pin")


def read(key: Any, attribute: Attribute) -> Any:
    """Returns an attribute, None where the token does not tell."""
    try:
        return key[attribute]
    except (pkcs11.PKCS11Error, NotImplementedError, ValueError):
        return None


def _value(key: Any) -> Finding:
    try:
        readable = bool(key[Attribute.VALUE])
    except pkcs11.AttributeSensitive:
        return Finding("good", "CKA_VALUE", "the token refuses to show the key's value")
    except pkcs11.PKCS11Error as exc:
        return Finding("good", "CKA_VALUE", f"the token does not show the key's value ({type(exc).__name__})")
    if readable:
        return Finding("bad", "CKA_VALUE", "the token has shown the key's value", f"rotate the secret, then {_AGAIN}")
    return Finding("good", "CKA_VALUE", "the token shows an empty value")


def _must(key: Any, attribute: Attribute, wanted: bool, good: str, bad: str) -> Finding:
    value, subject = read(key, attribute), f"CKA_{attribute.name}"
    if value is None:
        return Finding("warning", subject, "the token does not tell", "see the token's manual")
    if value == wanted:
        return Finding("good", subject, f"the key {good}")
    return Finding("bad", subject, f"the key {bad}", f"rotate the secret, then {_AGAIN}")


def _should(key: Any, attribute: Attribute, wanted: bool, good: str, bad: str) -> Finding:
    value, subject = read(key, attribute), f"CKA_{attribute.name}"
    if value is None:
        return Finding("info", subject, "the token does not tell")
    text = good if value == wanted else bad
    text = text if text.startswith("its") else f"the key {text}"
    return Finding("good", subject, text) if value == wanted else Finding("warning", subject, text, _AGAIN)


def _mechanisms(key: Any) -> Finding:
    allowed = read(key, Attribute.ALLOWED_MECHANISMS)
    if allowed == [Mechanism.SHA256_HMAC]:
        return Finding("good", "CKA_ALLOWED_MECHANISMS", "HMAC-SHA256 only")
    if not allowed:
        text = "not restricted: every HMAC that fits the key's type"
        return Finding("warning", "CKA_ALLOWED_MECHANISMS", text, f"{_AGAIN}, if the token can restrict it")
    names = ", ".join(hex(mechanism) for mechanism in allowed)
    return Finding("warning", "CKA_ALLOWED_MECHANISMS", f"{names}", _AGAIN)
