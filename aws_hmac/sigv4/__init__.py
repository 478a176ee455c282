"""Signature Version 4 as pure functions: no clock, no network, no device.

The stages are `canonical` (the canonical request) and `signature` (string to sign, signing key, signature);
`rules` holds what differs between services, `payload` the payload's hash, `streaming` bodies and messages that
are signed piece by piece, `post` the policies of S3's forms.
"""

from __future__ import annotations

from importlib import import_module

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

TYPE_CHECKING = False  # type checkers take it for typing's
if TYPE_CHECKING:
    from aws_hmac.sigv4.post import PresignedPost, post_policy
    from aws_hmac.sigv4.streaming import (
        CHECKSUMS,
        STREAMING_EVENTS,
        STREAMING_PAYLOAD,
        STREAMING_PAYLOAD_TRAILER,
        STREAMING_UNSIGNED_PAYLOAD_TRAILER,
        ChunkedBody,
        ChunkSigner,
        chunk_string_to_sign,
        encoded_length,
        event_string_to_sign,
        trailer_for,
        trailer_string_to_sign,
    )

__all__ = [
    "ALGORITHM",
    "CHECKSUMS",
    "STREAMING_EVENTS",
    "STREAMING_PAYLOAD",
    "STREAMING_PAYLOAD_TRAILER",
    "STREAMING_UNSIGNED_PAYLOAD_TRAILER",
    "UNSIGNED_HEADERS",
    "UNSIGNED_PAYLOAD",
    "ChunkSigner",
    "ChunkedBody",
    "PayloadHash",
    "PresignedPost",
    "ServiceRules",
    "SigningKey",
    "canonical_headers",
    "canonical_query_string",
    "canonical_request",
    "canonical_uri",
    "chunk_string_to_sign",
    "credential_scope",
    "derive_signing_key",
    "encoded_length",
    "event_string_to_sign",
    "payload_hash",
    "post_policy",
    "rules_for",
    "string_to_sign",
    "trailer_for",
    "trailer_string_to_sign",
]

# Loaded on first use: most who sign neither stream nor post.
_HOME = dict.fromkeys(("PresignedPost", "post_policy"), "post") | dict.fromkeys(
    (
        "CHECKSUMS", "STREAMING_EVENTS", "STREAMING_PAYLOAD", "STREAMING_PAYLOAD_TRAILER",
        "STREAMING_UNSIGNED_PAYLOAD_TRAILER", "ChunkSigner", "ChunkedBody", "chunk_string_to_sign", "encoded_length",
        "event_string_to_sign", "trailer_for", "trailer_string_to_sign",
    ),
    "streaming",
)  # fmt: skip


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'aws_hmac.sigv4' has no attribute {name!r}")
    return getattr(import_module(f"aws_hmac.sigv4.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
