"""What AWS answers when it refuses a request: error code, message, and the server's view of the signature.

The forms: S3's XML (``<Error>`` with ``CanonicalRequest`` and ``StringToSign``), the query protocol's XML
(``<ErrorResponse><Error>``, EC2's ``<Response><Errors><Error>``) and JSON (``__type``, ``message``); the latter
two quote both strings in the message.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

SIGNATURE_ERRORS = frozenset({"SignatureDoesNotMatch", "InvalidSignatureException", "AuthFailure"})
"""Codes that say: the signature is wrong; the secret may be another than before (EC2 says AuthFailure)."""

MAX_ERROR_SIZE = 1 << 20
"""Bytes; a longer answer is no error answer."""

_CANONICAL = re.compile(r"The Canonical String for this request should have been\s*'(.*?)'(?=\s*(?:\n|$))", re.DOTALL)
_TO_SIGN = re.compile(r"The String-to-Sign should have been\s*'(.*?)'(?=\s*(?:\n|$))", re.DOTALL)


class ErrorAnswer(NamedTuple):
    """An error as AWS or an S3-compatible store answers it; what the answer does not hold is None.

    Attributes:
        code: as ``SignatureDoesNotMatch``.
        message: in words.
        request_id: AWS's id of the request.
        canonical_request: as the server computed it.
        string_to_sign: as the server computed it.
        access_key_id: whose signature the server saw.
        signature: what the server was given.
    """

    code: str | None = None
    message: str | None = None
    request_id: str | None = None
    canonical_request: str | None = None
    string_to_sign: str | None = None
    access_key_id: str | None = None
    signature: str | None = None


def read_error(body: bytes, error_type: str | None = None) -> ErrorAnswer | None:
    """Reads an error answer.

    Args:
        body: the answer's body, or a file that someone saved it to.
        error_type: the header ``x-amzn-ErrorType``, which some JSON services send in place of ``__type``.

    Returns:
        The error; None if this is none that AWS sends.
    """
    text = body[:MAX_ERROR_SIZE].decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        fields = _read_xml(text)
    elif text.startswith("{"):
        fields = _read_json(text, error_type)
    else:
        return None
    if fields is None:
        return None
    message = fields.get("Message") or ""
    canonical, to_sign = _CANONICAL.search(message), _TO_SIGN.search(message)
    return ErrorAnswer(
        code=fields.get("Code"),
        message=fields.get("Message"),
        request_id=fields.get("RequestId"),
        canonical_request=fields.get("CanonicalRequest") or (canonical[1] if canonical else None),
        string_to_sign=fields.get("StringToSign") or (to_sign[1] if to_sign else None),
        access_key_id=fields.get("AWSAccessKeyId"),
        signature=fields.get("SignatureProvided"),
    )


def is_signature_error(body: bytes, error_type: str | None = None) -> bool:
    """Tells whether an answer says that the signature is wrong."""
    error = read_error(body, error_type)
    return error is not None and error.code in SIGNATURE_ERRORS


def _read_xml(text: str) -> dict[str, str] | None:
    # ElementTree resolves no external entity; a document type, which could define inner ones, AWS never sends.
    from xml.etree import ElementTree

    if "<!DOCTYPE" in text.upper():
        return None
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - see above
    except ElementTree.ParseError:
        return None
    fields: dict[str, str] = {}
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        if name == "RequestID":
            name = "RequestId"
        if element.text and name not in fields:
            fields[name] = element.text
    return fields if "Code" in fields else None


def _read_json(text: str, error_type: str | None) -> dict[str, str] | None:
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):  # the latter of a server that nests on purpose
        return None
    if not isinstance(document, dict):
        return None
    code = document.get("__type") or document.get("code") or document.get("Code") or error_type
    message = document.get("message") or document.get("Message")
    if not isinstance(code, str) and not isinstance(message, str):
        return None
    fields = {}
    if isinstance(code, str):
        fields["Code"] = code.rpartition("#")[2].partition(":")[0]
    if isinstance(message, str):
        fields["Message"] = message
    return fields
