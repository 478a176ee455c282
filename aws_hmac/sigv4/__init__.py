"""Signature Version 4 as pure functions: no clock, no network, no device.

The stages are `canonical` (the canonical request) and `signature` (string to sign, signing key, signature);
`rules` holds what differs between services, `payload` the payload's hash.
"""

from __future__ import annotations

from aws_hmac.sigv4.canonical import (
    UNSIGNED_HEADERS,
    canonical_headers,
    canonical_query_string,
    canonical_request,
    canonical_uri,
)
from aws_hmac.sigv4.payload import UNSIGNED_PAYLOAD, PayloadHash, payload_hash
from aws_hmac.sigv4.rules import ServiceRules, rules_for
from aws_hmac.sigv4.signature import ALGORITHM, SigningKey, credential_scope, derive_signing_key, string_to_sign

__all__ = [
    "ALGORITHM",
    "UNSIGNED_HEADERS",
    "UNSIGNED_PAYLOAD",
    "PayloadHash",
    "ServiceRules",
    "SigningKey",
    "canonical_headers",
    "canonical_query_string",
    "canonical_request",
    "canonical_uri",
    "credential_scope",
    "derive_signing_key",
    "payload_hash",
    "rules_for",
    "string_to_sign",
]
