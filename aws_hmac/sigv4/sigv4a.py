"""Signature Version 4A: one signature for several regions, by ECDSA on P-256 instead of HMAC.

"Create a signed AWS API request", "AWS Signature Version 4A" (IAM User Guide); the key pair by NIST SP 800-108,
section 5.1 (KDF in counter mode), and FIPS 186-4, appendix B.4.2 (candidates too large are rejected). The
derivation knows no date and no region: the derived private key is the key for good.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aws_hmac.errors import SigningError
from aws_hmac.sigv4.signature import TERMINATOR, check_scope_part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ALGORITHM = "AWS4-ECDSA-P256-SHA256"
"""The Algorithm line of the string to sign, and the KDF's label."""

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""n, the order of the curve P-256 (FIPS 186-4, appendix D.1.2.3)."""

MAX_COUNTER = 254
"""The counter is one byte, from 1 on. A candidate is rejected once in 2**32."""

_REGION = re.compile(r"[A-Za-z0-9*-]+", re.ASCII)


def fixed_input(access_key_id: str, counter: int) -> bytes:
    """Returns what the HMAC key "AWS4A" + secret authenticates for one candidate (SP 800-108, section 5.1).

    Args:
        access_key_id: part of the context.
        counter: 1 to 254.
    """
    label, context = ALGORITHM.encode(), access_key_id.encode() + bytes([counter])
    return (1).to_bytes(4, "big") + label + b"\0" + context + (256).to_bytes(4, "big")


def derive_private_key(hmac_sha256: Callable[[bytes], bytes], access_key_id: str) -> int:
    """Derives the private key d, 1 <= d < n.

    Args:
        hmac_sha256: computes HMAC-SHA256 with the key "AWS4A" + secret; called once, almost always.
        access_key_id: whose secret it is.

    Raises:
        SigningError: 254 candidates were rejected, which no true HMAC does.
    """
    for counter in range(1, MAX_COUNTER + 1):
        candidate = int.from_bytes(hmac_sha256(fixed_input(access_key_id, counter)), "big")
        if candidate <= P256_ORDER - 2:
            return candidate + 1
    raise SigningError("SigV4A: no candidate for the private key is below n - 2; the backend computes no HMAC")


def region_set_header(region_set: str | Sequence[str]) -> str:
    """Returns ``X-Amz-Region-Set``: regions separated by commas; ``*`` stands for any text.

    Raises:
        SigningError: it is empty, or no region.
    """
    if not hasattr(region_set, "__iter__"):
        raise SigningError(f"region_set: must be text or a list, and is of type {type(region_set).__name__}")
    regions = region_set.split(",") if isinstance(region_set, str) else list(region_set)
    for region in regions:
        if not isinstance(region, str) or not _REGION.fullmatch(region):
            raise SigningError(f"region_set: {region!r} is no region, as in us-east-1, eu-* or *")
    if not regions:
        raise SigningError("region_set: must hold a region, as us-east-1, eu-* or *")
    return ",".join(regions)


def credential_scope(date: str, service: str) -> str:
    """Returns ``yyyymmdd/service/aws4_request``: there is no region in it.

    Raises:
        SigningError: service is empty, or holds a slash, comma, blank, control or non-ASCII character.
    """
    check_scope_part("service", service, "s3")
    return f"{date}/{service}/{TERMINATOR}"
