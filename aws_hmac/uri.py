"""Key URIs: which key, and how to reach it.

The grammar is RFC 7512's for every scheme, ``scheme:what-key-it-is;…?how-to-reach-it&…``; schemes other than
``pkcs11`` may also hold a raw ``/`` in the path, so that file names and ARNs read well. A key URI holds no
secret: where one is needed, an attribute that ends in ``-source`` says where to get it (`aws_hmac.sources`).
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from aws_hmac.errors import KeyURIError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)  # pk11-v-attr-nm-char

# RFC 7512, section 2.3: pk11-pchar is unreserved, pk11-res-avail or pct-encoded; the path adds "&", the query
# adds "/", "?" and "|".
_UNRESERVED = "-._~"
_RES_AVAIL = ":[]@!$'()*+,="
_PATH_SAFE = _UNRESERVED + _RES_AVAIL + "&"
_QUERY_SAFE = _UNRESERVED + _RES_AVAIL + "/?|"
_PKCS11_PATH = re.compile(rf"(?:[A-Za-z0-9{re.escape(_PATH_SAFE)}]|%[0-9A-Fa-f]{{2}})*", re.ASCII)
_OTHER_PATH = re.compile(rf"(?:[A-Za-z0-9{re.escape(_PATH_SAFE)}/]|%[0-9A-Fa-f]{{2}})*", re.ASCII)
_QUERY = re.compile(rf"(?:[A-Za-z0-9{re.escape(_QUERY_SAFE)}]|%[0-9A-Fa-f]{{2}})*", re.ASCII)

_SECRETS_REFUSED = {
    "pin-value": "pin-source",
    "pin": "pin-source",
    "password": "auth-source",
    "auth-value": "auth-source",
    "token-value": "token-source",
    "secret": "a source",
    "secret-id": "secret-id-source",
}
"""Attributes that would put a secret into the URI, with what to use instead."""

_SOURCE = re.compile(rb"(file|env|cmd):.*|prompt|[/|].*", re.DOTALL)
"""How a source begins (`aws_hmac.sources`); anything else may be the secret itself."""


class KeyURI:
    """A parsed key URI. Its text and repr hold no secret, only references to where secrets are.

    Attributes:
        scheme: which backend.
        path: the attributes before ``?``, percent-decoded to bytes.
        query: the attributes after it, likewise.

    Raises:
        KeyURIError: an attribute would hold a secret, is no name, or stands in both parts.
    """

    __slots__ = ("path", "query", "scheme")

    def __init__(
        self, scheme: str, path: Mapping[str, bytes | str], query: Mapping[str, bytes | str] | None = None
    ) -> None:
        self.scheme = scheme
        self.path: Mapping[str, bytes] = MappingProxyType({k: _bytes(v) for k, v in path.items()})
        self.query: Mapping[str, bytes] = MappingProxyType({k: _bytes(v) for k, v in (query or {}).items()})
        for name in (*self.path, *self.query):
            _check_name(scheme, name)
        for name in self.path.keys() & self.query.keys():
            raise KeyURIError(f"{scheme}: URI: attribute {name!r} stands both before and after '?'")
        for name, value in (*self.path.items(), *self.query.items()):
            if name.endswith("-source") and not _SOURCE.fullmatch(value):
                raise KeyURIError(
                    f"{scheme}: URI: {name!r} says where the secret is: file:/path, env:NAME, cmd:program args or"
                    " prompt (what it says is not shown, as it may be the secret itself)"
                )

    @classmethod
    def parse(cls, text: str) -> KeyURI:
        """Reads a key URI (RFC 7512, section 2.3; the scheme's case does not count: RFC 3986, section 3.1).

        Raises:
            KeyURIError: it has no scheme, a malformed or repeated attribute, or would hold a secret. A string
                without a scheme is never shown: it may be a pasted secret.
        """
        scheme, colon, rest = text.partition(":")
        scheme = scheme.lower()
        if not colon or not _SCHEME.fullmatch(scheme):
            raise KeyURIError(
                "not a key URI: it does not begin with a scheme, as in pkcs11:token=…;object=…"
                " (the text is not shown, as it may be a secret)"
            )
        path_text, mark, query_text = rest.partition("?")
        path_pattern = _PKCS11_PATH if scheme == "pkcs11" else _OTHER_PATH
        path = _attributes(scheme, path_text, ";", path_pattern, "path")
        query = _attributes(scheme, query_text, "&", _QUERY, "query") if mark else {}
        return cls(scheme, path, query)

    @property
    def identity(self) -> str:
        """The URI without the query: which key, not how to reach it. For logs, messages and cache keys."""
        return f"{self.scheme}:" + ";".join(f"{k}={self._quoted(k, v)}" for k, v in self.path.items())

    def _quoted(self, name: str, value: bytes) -> str:
        if self.scheme != "pkcs11":
            return quote(value, safe=_PATH_SAFE + "/")
        if name == "id":  # bytes, not text: encoded whole (RFC 7512, section 2.3)
            return "".join(f"%{byte:02X}" for byte in value)
        return quote(value, safe=_PATH_SAFE)

    def __str__(self) -> str:
        if not self.query:
            return self.identity
        return f"{self.identity}?" + "&".join(f"{k}={quote(v, safe=_QUERY_SAFE)}" for k, v in self.query.items())

    def __repr__(self) -> str:
        return f"KeyURI({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyURI):
            return NotImplemented
        return (self.scheme, self.path, self.query) == (other.scheme, other.path, other.query)

    def __hash__(self) -> int:
        return hash((self.scheme, tuple(sorted(self.path.items())), tuple(sorted(self.query.items()))))

    def __reduce__(self) -> tuple[object, ...]:
        return KeyURI, (self.scheme, dict(self.path), dict(self.query))

    def check(self, *, path: Iterable[str], query: Iterable[str] = ()) -> None:
        """Refuses any attribute that is in neither table of a backend.

        Raises:
            KeyURIError: names the attribute, and the nearest that there is.
        """
        path, query = set(path), set(query)
        for given, known, others, place in (
            (self.path, path, query, "after '?'"),
            (self.query, query, path, "before '?'"),
        ):
            for name in given:
                if name in known:
                    continue
                if name in others:
                    raise KeyURIError(f"{self.scheme}: URI: attribute {name!r} belongs {place}")
                import difflib  # only for the error

                near = difflib.get_close_matches(name, sorted(path | query), n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(path | query))}"
                raise KeyURIError(f"{self.scheme}: URI: unknown attribute {name!r}; {hint}")

    def raw(self, name: str) -> bytes | None:
        """Returns an attribute's percent-decoded bytes, from path or query; None if it is not there."""
        value = self.path.get(name)
        return self.query.get(name) if value is None else value

    def get(self, name: str, default: str | None = None) -> str | None:
        """Returns an attribute's text, from path or query.

        Raises:
            KeyURIError: it is not UTF-8, or holds a NUL.
        """
        value = self.raw(name)
        if value is None:
            return default
        try:
            text = value.decode()
        except UnicodeDecodeError as exc:
            raise KeyURIError(f"{self.scheme}: URI: attribute {name!r} is not UTF-8") from exc
        if "\0" in text:
            raise KeyURIError(f"{self.scheme}: URI: attribute {name!r} holds a NUL")
        return text

    def require(self, name: str) -> str:
        """Returns an attribute's text.

        Raises:
            KeyURIError: it is missing or empty.
        """
        value = self.get(name)
        if not value:
            raise KeyURIError(f"{self.scheme}: URI: attribute {name!r} is {'missing' if value is None else 'empty'}")
        return value

    def secret(self, name: str) -> bytes | None:
        """Fetches the secret that a ``…-source`` attribute refers to; None if the attribute is not there.

        Raises:
            KeyURIError: the attribute names no kind of source.
            AuthenticationError: the source cannot be read, is empty, or others could change it.
        """
        source = self.get(name)
        if source is None:
            return None
        from aws_hmac.sources import read_source  # most keys need none

        return read_source(source, f"{name} of {self.identity}")

    def replace(self, **attributes: str | None) -> KeyURI:
        """Returns a copy with some attributes changed (``_`` for ``-``), added to the path, or dropped (None)."""
        path, query = dict(self.path), dict(self.query)
        for key, value in attributes.items():
            name = key.replace("_", "-")
            home = query if name in query else path
            if value is None:
                home.pop(name, None)
            else:
                home[name] = value.encode()
        return KeyURI(self.scheme, path, query)


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _check_name(scheme: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise KeyURIError(f"{scheme}: URI: an attribute's name is empty or holds other than letters, digits, - and _")
    if name.lower() in _SECRETS_REFUSED:
        raise KeyURIError(
            f"{scheme}: URI: {name!r} would put a secret into the URI, where logs and process lists show it;"
            f" use {_SECRETS_REFUSED[name.lower()]} (file:/path, env:NAME, cmd:program or prompt)"
        )


def _attributes(scheme: str, text: str, separator: str, pattern: re.Pattern[str], place: str) -> dict[str, bytes]:
    attributes: dict[str, bytes] = {}
    if not text:
        return attributes
    for part in text.split(separator):
        name, equals, value = part.partition("=")
        if not equals:
            # The part itself is not shown: without a name nobody knows what it is.
            raise KeyURIError(f"{scheme}: URI: the {place} has a part that is not name=value")
        _check_name(scheme, name)
        if name in attributes:
            raise KeyURIError(f"{scheme}: URI: attribute {name!r} is given twice")
        if not pattern.fullmatch(value):
            bad = next((c for c in value if not pattern.fullmatch(c) and c != "%"), "%")
            raise KeyURIError(
                f"{scheme}: URI: attribute {name!r} holds {bad!r}, which must be written in percent-encoding"
                if bad != "%"
                else f"{scheme}: URI: attribute {name!r} holds a '%' that two hexadecimal digits must follow"
            )
        attributes[name] = unquote_to_bytes(value)
    return attributes
