"""Policies: the HCL that Vault's documentation shows, and its rules of which path wins."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

DEFAULT_POLICY = """
path "auth/token/lookup-self"   { capabilities = ["read"] }
path "auth/token/renew-self"    { capabilities = ["update"] }
path "auth/token/revoke-self"   { capabilities = ["update"] }
path "sys/capabilities-self"    { capabilities = ["update"] }
path "sys/wrapping/wrap"        { capabilities = ["update"] }
path "sys/wrapping/lookup"      { capabilities = ["update"] }
path "sys/wrapping/unwrap"      { capabilities = ["update"] }
"""

KNOWN = {"create", "read", "update", "patch", "delete", "list", "sudo", "deny"}
_TOKEN = re.compile(r'\s+|#[^\n]*|//[^\n]*|/\*.*?\*/|"(?:[^"\\]|\\.)*"|[A-Za-z_][A-Za-z0-9_]*|[{}\[\]=,]', re.S)

Value = str | list["Value"] | dict[str, "Value"]
Policy = dict[str, "Rule"]


@dataclass
class Rule:
    """What one path's block allows."""

    capabilities: set[str] = field(default_factory=set)
    parameters: dict[str, list[str]] | None = None
    """The only parameters that a request may have, each with its only values (none: any value)."""


class _Reader:
    def __init__(self, text: str) -> None:
        self.words: list[str] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                raise ValueError(f"failed to parse policy: illegal character at {at}")
            at = match.end()
            word = match.group()
            if not word.isspace() and not word.startswith(("#", "//", "/*")):
                self.words.append(word)

    def take(self, expected: str | None = None) -> str:
        if not self.words:
            raise ValueError("failed to parse policy: it ends too early")
        word = self.words.pop(0)
        if expected is not None and word != expected:
            raise ValueError(f"failed to parse policy: {expected} expected, not {word}")
        return word

    def value(self) -> Value:
        word = self.take()
        if word == "[":
            items: list[Value] = []
            while self.words[:1] != ["]"]:
                items.append(self.value())
                if self.words[:1] == [","]:
                    self.take()
            self.take("]")
            return items
        if word == "{":
            return self.block()
        return word.strip('"')

    def block(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while self.words[:1] != ["}"]:
            name = self.take().strip('"')
            self.take("=")
            found[name] = self.value()
            if self.words[:1] == [","]:
                self.take()
        self.take("}")
        return found


def parse(text: str) -> Policy:
    """Reads a policy; ValueError says what is wrong with it."""
    reader, policy = _Reader(text), Policy()
    while reader.words:
        reader.take("path")
        path = reader.take().strip('"')
        reader.take("{")
        block = reader.block()
        if not block.keys() <= {"capabilities", "allowed_parameters"}:
            raise ValueError(f'path "{path}": invalid key among {sorted(block)}')
        rule = policy.setdefault(path.lstrip("/"), Rule())
        capabilities = {str(c) for c in block.get("capabilities", [])}
        if not capabilities <= KNOWN:
            raise ValueError(f'path "{path}": invalid capability {sorted(capabilities - KNOWN)[0]!r}')
        rule.capabilities |= capabilities
        parameters = block.get("allowed_parameters")
        if isinstance(parameters, dict):
            rule.parameters = {name: [str(v) for v in values] for name, values in parameters.items()}
    return policy


def _matches(pattern: str, path: str) -> bool:
    prefix = pattern.endswith("*")
    expression = "[^/]+".join(re.escape(part) for part in pattern.removesuffix("*").split("+"))
    return re.fullmatch(expression + (".*" if prefix else ""), path, re.S) is not None


def _rank(pattern: str) -> tuple[int, bool, int, int, str]:
    """Vault's priority: a later first wildcard, no trailing glob, fewer '+', longer, later in the alphabet."""
    wild = [i for i in (pattern.find("+"), pattern.find("*", len(pattern) - 1)) if i >= 0]
    first = min(wild) if wild else 10**6
    return (first, not pattern.endswith("*"), -pattern.count("+"), len(pattern), pattern)


def allowed(policies: list[Policy], path: str) -> Rule:
    """Returns what policies together allow on a path: those of the most specific pattern, united; deny wins."""
    patterns = {pattern for policy in policies for pattern in policy if _matches(pattern, path)}
    if not patterns:
        return Rule()
    best = max(patterns, key=_rank)
    rules = [policy[best] for policy in policies if best in policy]
    capabilities: set[str] = set().union(*(rule.capabilities for rule in rules))
    if "deny" in capabilities:
        return Rule()
    if any(rule.parameters is None for rule in rules):
        return Rule(capabilities)
    merged: dict[str, list[str]] = {}
    for rule in rules:
        merged |= rule.parameters or {}
    return Rule(capabilities, merged)


def fits(rule: Rule, body: dict[str, Any]) -> bool:
    """Whether a request has only the parameters that a rule allows."""
    if rule.parameters is None:
        return True
    return all(
        name in rule.parameters and (not rule.parameters[name] or str(value) in rule.parameters[name])
        for name, value in body.items()
    )
