"""What the backends that use a cloud's client library share."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aws_hmac.backend import Finding, KeyInspector
from aws_hmac.errors import Error, KeyURIError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aws_hmac.backend import HmacBackend
    from aws_hmac.uri import KeyURI

_in_call: ContextVar[bool] = ContextVar("aws_hmac_quiet", default=False)


def _not_ours(record: object) -> bool:  # noqa: ARG001 - a logging filter's signature
    """Drops what is logged during a call of ours, and in its thread only."""
    return not _in_call.get()


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Keeps client libraries from logging bodies that hold a key: at DEBUG, several log all that they send and get.

    Args:
        loggers: the loggers to silence; a filter counts for its own logger only, not for those below.
    """
    import logging  # the client library has loaded it

    for name in loggers:
        logging.getLogger(name).addFilter(_not_ours)  # a second time changes nothing
    token = _in_call.set(True)
    try:
        yield
    finally:
        _in_call.reset(token)


def said(exc: Exception, name: str) -> str:
    """Returns an error's text without the name before it, for a finding on the key of that name."""
    return str(exc).removeprefix(f"{name}: ")


def look_at(backend: type[HmacBackend], uri: KeyURI | None) -> list[Finding]:
    """Opens a key and inspects it: what `aws_hmac.backend.Diagnosable` answers for a key service."""
    if uri is None:
        return []  # a machine has no key service of its own
    try:
        with backend.from_uri(uri) as key:
            assert isinstance(key, KeyInspector)
            return key.inspect()
    except Error as exc:
        return [Finding("bad", "key", str(exc))]


def is_plain_http_elsewhere(url: str) -> bool:
    """Tells whether a URL is plain HTTP to another machine, where anyone between could read the key."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


def check_endpoint(uri: KeyURI) -> str | None:
    """Returns the URI's ``endpoint-url``.

    Raises:
        KeyURIError: it is no URL, or plain HTTP to another machine, where the key would be readable.
    """
    endpoint = uri.get("endpoint-url")
    if endpoint is None:
        return None
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise KeyURIError(f"{uri.scheme}: URI: endpoint-url must be http(s)://host[:port]")
    if is_plain_http_elsewhere(endpoint):
        raise KeyURIError(f"{uri.scheme}: URI: endpoint-url: http to another machine would show the key; use https")
    return endpoint
