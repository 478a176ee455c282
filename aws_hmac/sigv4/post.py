"""POST policies: what a browser's form may upload to S3 ("Creating a POST Policy", Amazon S3 API Reference)."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, NamedTuple

from aws_hmac.errors import SigningError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from typing import TypeAlias

    Condition: TypeAlias = "Mapping[str, str] | Sequence[str | int]"


class PresignedPost(NamedTuple):
    """A form that uploads one object.

    Attributes:
        url: where the form is sent.
        fields: its fields, in order; the file itself goes last, as ``file``.
    """

    url: str
    fields: dict[str, str]


def post_policy(expiration: datetime, conditions: Sequence[Condition]) -> str:
    """Returns a policy in Base64: the string to sign of a POST.

    Args:
        expiration: when S3 stops taking the form, in UTC.
        conditions: ``{"name": "value"}``, ``["starts-with", "$name", "prefix"]`` or
            ``["content-length-range", least, most]``.
    """
    document = {"expiration": f"{expiration:%Y-%m-%dT%H:%M:%SZ}", "conditions": list(conditions)}
    return base64.b64encode(json.dumps(document).encode()).decode()


def key_condition(key: str) -> Condition:
    """Returns the condition for an object's key, which may end in ``${filename}``."""
    prefix, mark, _ = key.partition("${filename}")
    return ["starts-with", "$key", prefix] if mark else {"key": key}


def conditions_for(fields: Mapping[str, str], conditions: Sequence[Condition]) -> list[Condition]:
    """Returns the conditions and, for each field that none of them covers, that it must be as it is.

    Raises:
        SigningError: a field or condition is none.
    """
    if not hasattr(fields, "items"):
        raise SigningError(f"fields: must be a mapping, and is of type {type(fields).__name__}")
    covered: set[str] = set()
    for condition in conditions:
        if hasattr(condition, "keys"):
            covered.update(str(name).lower() for name in condition)
        elif isinstance(condition, (list, tuple)) and len(condition) == 3:
            covered.add(str(condition[1]).lstrip("$").lower())
        else:
            raise SigningError(
                'conditions: each must be {"name": "value"}, ["starts-with", "$name", "prefix"]'
                ' or ["content-length-range", least, most]'
            )
    made = list(conditions)
    for name, value in fields.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise SigningError(f"fields: {name!r} and its value must be text")
        if name.lower() not in covered:
            made.append({name: value})
    return made
