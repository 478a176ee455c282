"""Stages two and three: the string to sign, the signing key, the signature.

"Create a string to sign", "Derive a signing key" and "Calculate the signature" (IAM User Guide, "Create a
signed AWS API request").
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from aws_hmac.errors import SigningError

ALGORITHM = "AWS4-HMAC-SHA256"
"""The Algorithm line of the string to sign."""

TERMINATOR = "aws4_request"
"""What every credential scope ends in."""

_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_FORBIDDEN = re.compile(r"[^!-+\-.0-~]")  # what no scope within an Authorization header can hold
_FIRST_YEAR = 2012


class SigningKey:
    """A key of the derivation chain, ready to compute HMAC-SHA256 (RFC 2104) many times.

    The states of both hashes after the padded key are kept and copied, so that one HMAC costs no set-up and
    two blocks less; the repr shows nothing of them.

    Args:
        key: at most 64 bytes; those of the chain have 32.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(64, b"\0")
        self._inner = sha256(block.translate(_INNER))
        self._outer = sha256(block.translate(_OUTER))

    def sign(self, message: bytes) -> str:
        """Returns the HMAC in hexadecimal: a signature."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.hexdigest()

    def digest(self, message: bytes) -> bytes:
        """Returns the HMAC, 32 bytes: the next key of the chain."""
        return bytes.fromhex(self.sign(message))

    def __repr__(self) -> str:
        return "<SigningKey>"

    def __reduce_ex__(self, protocol: object, /) -> str:
        raise TypeError("a signing key cannot be pickled or copied")


class Moment(NamedTuple):
    """A point in time as signatures write it.

    Attributes:
        amz_date: ``yyyymmddThhmmssZ``.
        date: ``yyyymmdd``.
    """

    amz_date: str
    date: str


def moment(at: datetime) -> Moment:
    """Returns a point in time as signatures write it.

    Raises:
        SigningError: it has no time zone, or lies before 2012, when no server knew this signature.
    """
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise SigningError("at: must be a datetime with a time zone, as datetime.now(timezone.utc)")
    try:
        utc = at.astimezone(timezone.utc)
    except OverflowError as exc:
        raise SigningError(f"at: {at} lies beyond the calendar") from exc
    if utc.year < _FIRST_YEAR:
        raise SigningError(f"at: the year {utc.year} lies before Signature Version 4; is the clock right?")
    amz_date = utc.strftime("%Y%m%dT%H%M%SZ")
    return Moment(amz_date, amz_date[:8])


@lru_cache(maxsize=1024)
def credential_scope(date: str, region: str, service: str) -> str:
    """Returns ``yyyymmdd/region/service/aws4_request`` ("Create a string to sign", CredentialScope).

    Upper case is let through: Ceph and OpenStack know a ``RegionOne``.

    Raises:
        SigningError: region or service is empty, or holds a slash, comma, blank, control or non-ASCII character.
    """
    check_scope_part("region", region, "us-east-1")
    check_scope_part("service", service, "s3")
    return f"{date}/{region}/{service}/{TERMINATOR}"


def check_scope_part(name: str, value: str, example: str) -> None:
    """Checks a region or service.

    Raises:
        SigningError: it is empty, or holds a slash, comma, blank, control or non-ASCII character.
    """
    if not isinstance(value, str) or not value:
        raise SigningError(f"{name}: must be given, as in {example}")
    if _FORBIDDEN.search(value):
        raise SigningError(f"{name}: {value!r} holds a slash, comma, blank, control or non-ASCII character")


def string_to_sign(amz_date: str, scope: str, request: str, algorithm: str = ALGORITHM) -> str:
    """Returns the string to sign ("Create a string to sign").

    Args:
        amz_date: ``yyyymmddThhmmssZ``.
        scope: of `credential_scope`.
        request: of `aws_hmac.sigv4.canonical.canonical_request`.
        algorithm: the first line.
    """
    return f"{algorithm}\n{amz_date}\n{scope}\n{sha256(request.encode()).hexdigest()}"


def derive_signing_key(date_key: bytes, region: str, service: str) -> bytes:
    """Derives kSigning from kDate, the HMAC that the device computes ("Derive a signing key").

    Args:
        date_key: HMAC-SHA256("AWS4" + secret, yyyymmdd), 32 bytes.
        region: as ``eu-west-1``.
        service: the service's signing name.

    Returns:
        32 bytes.
    """
    region_key = SigningKey(date_key).digest(region.encode())
    service_key = SigningKey(region_key).digest(service.encode())
    return SigningKey(service_key).digest(TERMINATOR.encode())
