"""Parameters for any operation, made from its model: always the same, so that two clients can be compared."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from botocore.model import OperationModel, Shape

Style = Literal["required", "everything"]
"""Which members of a structure are given."""

DEPTH = 4
"""Structures deeper than this hold required members only."""

_WHEN = datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)
_TAME = {  # members that botocore itself looks at before it sends anything
    "AccountId": "123456789012",
    "Bucket": "bucket-name",
    "CopySource": "bucket-name/key",
    "ConsumerARN": "arn:aws:kinesis:us-west-2:123456789012:stream/s/consumer/c:1",
    "PredictEndpoint": "https://realtime.machinelearning.us-east-1.amazonaws.com",
    "ResourceARN": "arn:aws:kinesis:us-west-2:123456789012:stream/s",
    "SourceRegion": "us-east-1",
    "StreamARN": "arn:aws:kinesis:us-west-2:123456789012:stream/s",
    "accountId": "123456789012",
}


def parameters(operation: OperationModel, style: Style, *, wild: bool) -> dict[str, Any]:
    """Returns parameters for an operation.

    Args:
        operation: its model.
        style: which members.
        wild: text holds blanks, slashes and letters beyond ASCII, so that encoding shows; else plain letters.
    """
    if operation.input_shape is None:
        return {}
    value: dict[str, Any] = _structure(operation.input_shape, "", style, wild, 0)
    return value


def _structure(shape: Any, name: str, style: Style, wild: bool, depth: int) -> dict[str, Any]:
    if getattr(shape, "is_document_type", False):
        return {"key": ["text", 1, True]}
    members = shape.members
    required = set(shape.required_members)
    if getattr(shape, "is_tagged_union", False):
        chosen = list(members)[:1]
    elif style == "everything" and depth < DEPTH:
        chosen = [member for member in members if member in required or not _is_stream(members[member])]
    else:
        chosen = [member for member in members if member in required]
    made = {}
    for member in chosen:
        if member != "EndpointId" or member in required:  # EventBridge's means Version 4A
            made[member] = _value(members[member], member, style, wild, depth + 1)
    return made


def _is_stream(shape: Any) -> bool:
    return bool(shape.serialization.get("eventstream"))


def _value(shape: Shape, name: str, style: Style, wild: bool, depth: int) -> Any:
    kind = shape.type_name
    if kind == "structure":
        return _structure(shape, name, style, wild, depth)
    if kind == "list":
        if depth > 2 * DEPTH:
            return []
        count = max(1, min(int(shape.metadata.get("min", 1)), 20))
        return [_value(shape.member, name, style, wild, depth + 1)] * count  # type: ignore[attr-defined]
    if kind == "map":
        if depth > 2 * DEPTH:
            return {}
        key = _value(shape.key, f"{name}Key", style, False, depth)  # type: ignore[attr-defined]
        return {key: _value(shape.value, name, style, wild, depth + 1)}  # type: ignore[attr-defined]
    if kind == "string":
        return _text(shape, name, wild)
    if kind in ("integer", "long"):
        return max(int(shape.metadata.get("min", 1)), 1)
    if kind in ("float", "double"):
        return float(max(shape.metadata.get("min", 1.5), 1.5))
    if kind == "boolean":
        return True
    if kind == "timestamp":
        return _WHEN
    if kind == "blob":
        return b"some \x00 bytes"
    raise AssertionError(f"no value for the type {kind}")


def _text(shape: Any, name: str, wild: bool) -> Any:
    if shape.serialization.get("jsonvalue"):
        return {"key": "value"} if shape.serialization.get("location") == "header" else '{"key": "value"}'
    if shape.enum:
        return shape.enum[0]
    if tame := _TAME.get(name):
        return tame
    text = "a b/c~é+*%41" if wild else "some-text"
    least = int(shape.metadata.get("min", 1))
    return text.ljust(min(least, 2000), "x")
