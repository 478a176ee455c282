"""Stage one: the canonical request ("Create a canonical request", IAM User Guide; RFC 3986 for URLs).

Pure functions. Each canonicalises what goes over the wire: text that a client will percent-encode before it
sends it (raw blanks, raw UTF-8) is taken as it will be sent. What is already in plain form is recognised by
one match of a regular expression and returned as it is.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from aws_hmac.errors import SigningError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_hmac.sigv4.rules import ServiceRules

UNSIGNED_HEADERS = frozenset(
    {
        "authorization",  # holds the signature
        # What proxies and load balancers on the way add, change or drop:
        "baggage",
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-amzn-trace-id",
    }
)
"""Headers that are sent but never signed."""

_UNRESERVED = "-._~"  # letters and digits besides (RFC 3986, section 2.3)

_HOST = re.compile(r"\[[0-9a-f:.%a-z]+\]|[a-z0-9._~!$&'()*+,;=%-]+", re.ASCII)
_PLAIN_PATH = re.compile(r"(?:/(?!\.{0,2}(?:/|\Z))[A-Za-z0-9\-._~]*)+/?|/", re.ASCII)
# A percent sequence in upper case whose byte is not unreserved:
_PCT = r"%(?:2[0-9A-CF]|3[A-F]|40|5[B-E]|60|7[B-DF]|[0189A-F][0-9A-F])"
# Twice as fast where Python knows it; nothing is lost without. Before 3.11.5 it matches what it should not (gh-106052).
_POSSESSIVE = "+" if sys.version_info >= (3, 11, 5) else ""
_PLAIN = rf"[A-Za-z0-9\-._~]*{_POSSESSIVE}(?:{_PCT}[A-Za-z0-9\-._~]*{_POSSESSIVE})*{_POSSESSIVE}"
_PLAIN_QUERY = re.compile(rf"{_PLAIN}={_PLAIN}(?:&{_PLAIN}={_PLAIN})*{_POSSESSIVE}", re.ASCII)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_ON_THE_WIRE = re.compile(r"[^A-Za-z0-9\-._~:/?@!$&'()*+,;=%]+")  # RFC 3986, sections 3.3 and 3.4
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, section 5.6.2
_BLANKS = re.compile(r"[ \t]+")


class URL(NamedTuple):
    """The parts of a URL that are signed.

    Attributes:
        scheme: ``http`` or ``https``.
        host: what the Host header holds.
        path: as it was given; may be empty.
        query: as it was given, without ``?``.
    """

    scheme: str
    host: str
    path: str
    query: str


def split_url(url: str) -> URL:
    """Takes a URL apart; a fragment, which is never sent, is dropped.

    Raises:
        SigningError: it is not http(s), or has no host.
    """
    return URL(*url_parts(url))


def url_parts(url: str) -> tuple[str, str, str, str]:
    """Returns what `split_url` does as a bare tuple, which costs half."""
    if not isinstance(url, str):
        raise SigningError(f"URL: must be text, and is {shown(url)}")
    if "#" in url:
        url = url.partition("#")[0]
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if scheme not in ("https", "http") and scheme.lower() not in ("https", "http"):
        raise SigningError(f"URL: must begin with https:// or http://, and is {shown(url)}")
    if not url.isascii() and _SURROGATE.search(url):
        raise SigningError(f"URL: {shown(url)} holds a lone surrogate, which UTF-8 does not know")
    return scheme, host_header(scheme, authority), slash + path, query


@lru_cache(maxsize=256)
def host_header(scheme: str, authority: str) -> str:
    """Returns the Host header for a URL's authority: lower case, no user, no default port (RFC 9110, section 7.2).

    Raises:
        SigningError: there is no host, or it holds what a host cannot.
    """
    host, port = authority.rpartition("@")[2].lower(), ""
    if host.startswith("["):
        host, bracket, rest = host.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise SigningError("URL: the IPv6 host lacks its ']'")
        host, port = f"{host}]", rest[1:]
    elif ":" in host:
        host, _, port = host.partition(":")
    if not host:
        raise SigningError("URL: has no host")
    if not host.isascii():
        raise SigningError(f"URL: host {host!r} is not ASCII; write it in its xn-- form")
    if not _HOST.fullmatch(host):
        raise SigningError(f"URL: host {host!r} holds a character that no host has")
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise SigningError(f"URL: port {port!r} is no port")
    return host if port in ("", "443" if scheme.lower() == "https" else "80") else f"{host}:{port}"


def canonical_uri(path: str, rules: ServiceRules) -> str:
    """Returns the canonical URI of a path ("Create a canonical request", CanonicalUri).

    S3 and its kin decode the path and encode each byte once; the others encode the encoded path once more.

    Args:
        path: the URL's path as the client sends it, or will once it has encoded it.
        rules: whether dot segments are resolved, and whether what is encoded is encoded again.
    """
    if path == "/" or _PLAIN_PATH.fullmatch(path):
        return path
    wire = wire_form(path if path.startswith("/") else f"/{path}")
    if rules.normalize_path:
        wire = _without_dot_segments(wire)
    return quote(wire if rules.double_encode else unquote_to_bytes(wire), safe="/" + _UNRESERVED)


def canonical_query_string(query: str) -> str:
    """Returns the canonical query string ("Create a canonical request", CanonicalQueryString).

    Each key and value is decoded and encoded once (``+`` stands for a blank, as servers read it), and sorted by
    encoded key, then value; a key without ``=`` gets one; empty parts are left out.

    Args:
        query: the URL's query as the client sends it, or will once it has encoded it, without ``?``.
    """
    if not query:
        return ""
    if _PLAIN_QUERY.fullmatch(query):
        if "&" not in query:
            return query
        # "\0" sorts below all that a name can hold, "=" does not: a < a-b must hold for a=1 < a-b=1 too.
        parts = query.replace("=", "\0").split("&")
        parts.sort()
        return "&".join(parts).replace("\0", "=")
    pairs = []
    for part in query.split("&"):
        if part:
            key, _, value = part.partition("=")
            pairs.append((_recode(key), _recode(value)))
    return "&".join(f"{key}={value}" for key, value in sorted(pairs))


def wire_form(text: str) -> str:
    """Returns a path or query as a client sends it (RFC 3986, sections 3.3 and 3.4).

    Raw blanks, raw UTF-8, bare ``%`` and what else neither may hold are percent-encoded.
    """
    return _BARE_PERCENT.sub("%25", _NOT_ON_THE_WIRE.sub(_percent_encode, text))


def encode(text: str) -> str:
    """Percent-encodes every byte of UTF-8 that is not unreserved (RFC 3986, section 2.3)."""
    return quote(text, safe=_UNRESERVED)


class HeaderPlan(NamedTuple):
    """How the headers of one shape of request, a tuple of names, are signed.

    Attributes:
        signed_headers: the SignedHeaders of the canonical request.
        template: the canonical headers with ``%s`` for each value.
        order: which of the values, given in the order of the names, each ``%s`` stands for.
    """

    signed_headers: str
    template: str
    order: tuple[int, ...]

    def fill(self, values: Sequence[str]) -> str:
        """Returns the canonical headers of values of `clean_values`, in the order of the names."""
        return self.template % tuple([values[index] for index in self.order])


@lru_cache(maxsize=512)
def header_plan(names: tuple[str, ...]) -> HeaderPlan:
    """Makes the plan for headers of these names, in any case and order; equal names are joined by commas.

    Raises:
        SigningError: a name is not a token (RFC 9110, section 5.1).
    """
    homes: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise SigningError(f"header: {shown(name)} is not a header's name")
        lower = name.lower()
        if lower not in UNSIGNED_HEADERS:
            homes.setdefault(lower, []).append(index)
    ordered = sorted(homes)
    template = "".join(f"{name.replace('%', '%%')}:{','.join(['%s'] * len(homes[name]))}\n" for name in ordered)
    return HeaderPlan(";".join(ordered), template, tuple(index for name in ordered for index in homes[name]))


def clean_values(names: Sequence[str], values: Sequence[object]) -> Sequence[str]:
    """Returns header values without outer blanks and with runs of blanks folded to one.

    Raises:
        SigningError: a value holds CR, LF or another control character (header injection), or is neither
            Latin-1 text nor bytes.
    """
    try:
        joined = f" {' '.join(values)} "  # type: ignore[arg-type] # what is not text ends in the loop below
        if joined.isascii() and joined.isprintable() and "  " not in joined:
            return values  # type: ignore[return-value] # join() has seen that all are text
    except TypeError:
        pass
    return [_clean(name, value) for name, value in zip(names, values, strict=True)]


def canonical_headers(headers: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Returns the canonical headers and the signed headers ("Create a canonical request").

    Args:
        headers: pairs of name and value, the Host header among them; names may repeat.

    Raises:
        SigningError: a name or value that no header has.
    """
    names = tuple(name for name, _ in headers)
    plan = header_plan(names)
    return plan.fill(clean_values(names, [value for _, value in headers])), plan.signed_headers


def canonical_request(
    method: str, uri: str, query_string: str, headers: str, signed_headers: str, payload_hash: str
) -> str:
    """Puts the canonical request together from its canonical parts ("Create a canonical request").

    Args:
        method: in upper case.
        uri: of `canonical_uri`.
        query_string: of `canonical_query_string`.
        headers: of `canonical_headers`; each ends in a line end.
        signed_headers: of `canonical_headers`.
        payload_hash: hexadecimal SHA-256 of the body, or a marker such as ``UNSIGNED-PAYLOAD``.
    """
    return f"{method}\n{uri}\n{query_string}\n{headers}\n{signed_headers}\n{payload_hash}"


def shown(value: object) -> str:
    """How a message shows a URL or name that is wrong: what it begins with, as the rest may hold a signature."""
    return repr(value.partition("?")[0][:60]) if isinstance(value, str) else f"of type {type(value).__name__}"


def _recode(text: str) -> str:
    return quote(unquote_to_bytes(text.replace("+", " ")), safe=_UNRESERVED)


def _percent_encode(match: re.Match[str]) -> str:
    return quote(match[0], safe="")


def _without_dot_segments(path: str) -> str:
    """Resolves "." and ".." (RFC 3986, section 5.2.4) and repeated slashes, as AWS's servers do."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if kept:
                kept.pop()
        elif segment and segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if path.endswith("/") and kept else "")


def _clean(name: str, value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        raise SigningError(f"header {name}: the value must be text, and is of type {type(value).__name__}")
    if any((c < " " and c != "\t") or c == "\x7f" for c in value):
        raise SigningError(f"header {name}: the value holds a line end or control character")
    if any(c > "\xff" for c in value):
        raise SigningError(f"header {name}: the value holds characters that are not Latin-1")
    # Only blanks and tabs fold: str.split() would also take U+0085 and U+00A0.
    return _BLANKS.sub(" ", value).strip(" ")
