"""Policies: the HCL that Vault's documentation shows, and its rules of which path wins."""

from __future__ import annotations

import re

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

Policy = dict[str, set[str]]


def parse(text: str) -> Policy:
    """Reads a policy; ValueError says what is wrong with it."""
    words: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise ValueError(f"failed to parse policy: illegal character at {at}")
        at = match.end()
        word = match.group()
        if not word.isspace() and not word.startswith(("#", "//", "/*")):
            words.append(word)
    policy: Policy = {}
    position = 0

    def take(expected: str | None = None) -> str:
        nonlocal position
        if position >= len(words):
            raise ValueError("failed to parse policy: it ends too early")
        word = words[position]
        if expected is not None and word != expected:
            raise ValueError(f"failed to parse policy: {expected} expected, not {word}")
        position += 1
        return word

    while position < len(words):
        take("path")
        path = take()[1:-1]
        take("{")
        take("capabilities")
        take("=")
        take("[")
        capabilities = set()
        while words[position] != "]":
            capabilities.add(take()[1:-1])
            if words[position] == ",":
                take(",")
        take("]")
        take("}")
        if not capabilities <= KNOWN:
            raise ValueError(f'path "{path}": invalid capability {sorted(capabilities - KNOWN)[0]!r}')
        policy.setdefault(path.lstrip("/"), set()).update(capabilities)
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


def capabilities(policies: list[Policy], path: str) -> set[str]:
    """Returns what policies together allow on a path: those of the most specific pattern, united; deny wins."""
    patterns = {pattern for policy in policies for pattern in policy if _matches(pattern, path)}
    if not patterns:
        return set()
    best = max(patterns, key=_rank)
    allowed: set[str] = set().union(*(policy.get(best, set()) for policy in policies))
    return set() if "deny" in allowed else allowed
