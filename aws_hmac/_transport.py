"""One POST over the standard library: what a cold ``credential_process`` can afford.

botocore needs 0.4 s for the first request of a process; this needs a quarter of it. Verified TLS always;
plain http only to this machine; redirects are never followed.
"""

from __future__ import annotations

import http.client
import os
from base64 import b64encode
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from aws_hmac.errors import ConfigError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

CONNECT_TIMEOUT = 10.0
"""Seconds until a connection must stand; TLS included."""

READ_TIMEOUT = 30.0
"""Seconds without a byte of the answer."""

MAX_ANSWER = 256 * 1024
"""Bytes of an answer that are read at most; STS's are below 8 KiB."""


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class TransportError(Exception):
    """No answer came. Its text says why and what to do.

    Attributes:
        sent: whether the server may have got the request all the same.
        lasting: whether trying again is pointless.
    """

    def __init__(self, text: str, *, sent: bool = False, lasting: bool = False) -> None:
        super().__init__(text)
        self.sent = sent
        self.lasting = lasting


def check_url(url: str, what: str = "endpoint_url") -> SplitResult:
    """Reads the URL of a server.

    Raises:
        ConfigError: it is no http or https URL of a server alone, or would send plain http to another machine.
    """
    try:
        parts = urlsplit(url)
        port_is_right = parts.port != 0
    except ValueError:
        parts, port_is_right = SplitResult("", "", "", "", ""), False
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{what}: a URL with a name or password in it is refused (not shown)")
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_right or not url.isprintable():
        raise ConfigError(f"{what}: {url!r} is not the URL of a server, as https://sts.eu-west-1.amazonaws.com")
    if parts.query or parts.fragment or " " in url:
        raise ConfigError(f"{what}: {url!r} must end with the path")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigError(f"{what}: {url!r} would send credentials in the clear; http:// goes to this machine only")
    return parts


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, without asking a name server."""
    if host in ("localhost", "127.0.0.1", "::1"):
        return True
    import ipaddress  # few hosts are addresses

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def post(url: str, headers: Mapping[str, str], body: bytes, *, ca_bundle: str | None = None) -> Answer:
    """Sends one POST.

    Args:
        url: https, or http to this machine (`check_url`).
        headers: all that are sent, Host and Content-Length too.
        body: what is sent.
        ca_bundle: file of the certificate authorities to trust; the system's if None.

    Raises:
        TransportError: no answer came.
        ConfigError: the proxy or the bundle cannot be used.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection, proxy = _connection(parts.scheme, host, port, ca_bundle)
    place = f"{host}:{port}" if port else host
    sent = False
    try:
        connection.connect()
        connection.sock.settimeout(READ_TIMEOUT)
        connection.putrequest("POST", parts.path or "/", skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        sent = True
        connection.endheaders(body)
        response = connection.getresponse()
        answer = Answer(response.status, dict(response.headers.items()), response.read(MAX_ANSWER + 1))
    except (OSError, http.client.HTTPException) as exc:
        from traceback import clear_frames

        clear_frames(exc.__traceback__)  # they hold the request, and on Python 3.10 an open socket
        raise _as_transport_error(exc, place, proxy, sent=sent) from exc
    finally:
        connection.close()
    if len(answer.body) > MAX_ANSWER:
        del answer  # no traceback shall hold what may be credentials
        raise TransportError(f"{place} answered with more than {MAX_ANSWER} bytes", sent=True, lasting=True)
    return answer


def _connection(scheme: str, host: str, port: int | None, ca_bundle: str | None) -> tuple[
    http.client.HTTPConnection, str | None
]:  # fmt: skip
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT), None
    context = _tls(ca_bundle)
    proxy = _proxy_for(host, port or 443)
    if proxy is None:
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT, context=context), None
    through = proxy.hostname or ""
    connection = http.client.HTTPSConnection(through, proxy.port or 80, timeout=CONNECT_TIMEOUT, context=context)
    headers = {}
    if proxy.username is not None:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    connection.set_tunnel(host, port or 443, headers)
    return connection, f"{through}:{proxy.port or 80}"


def _tls(ca_bundle: str | None) -> ssl.SSLContext:
    import ssl

    try:
        if ca_bundle is None:
            context = ssl.create_default_context()
        elif os.path.isdir(ca_bundle):  # noqa: PTH112 - pathlib is not loaded here
            context = ssl.create_default_context(capath=ca_bundle)
        else:
            context = ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ssl.SSLError) as exc:
        why = getattr(exc, "strerror", None) or "it holds no certificate"
        raise ConfigError(f"AWS_CA_BUNDLE, ca_bundle: {ca_bundle!r} cannot be read: {why}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _proxy_for(host: str, port: int) -> SplitResult | None:
    """The proxy that the environment names for a host, as curl and requests read it."""
    text = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
    if not text or is_loopback(host) or _bypasses(host.lower(), port):
        return None
    try:
        proxy = urlsplit(text if "://" in text else f"http://{text}")
        usable = bool(proxy.hostname) and proxy.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            "HTTPS_PROXY is not the URL of a proxy, as http://proxy:3128 (not shown: it may hold a password)"
        )
    if proxy.scheme != "http":
        raise ConfigError(f"HTTPS_PROXY: a proxy is reached by http://, not by {proxy.scheme}:// (TLS goes through it)")
    return proxy


def _bypasses(host: str, port: int) -> bool:
    for entry in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").lower().split(","):
        name = entry.strip()
        if name == "*":
            return True
        name, colon, only_port = name.rpartition(":") if name.rpartition(":")[2].isdigit() else (name, "", "")
        name = name.removeprefix("*").lstrip(".")
        if name and (not colon or only_port == str(port)) and (host == name or host.endswith(f".{name}")):
            return True
    return False


def _as_transport_error(exc: Exception, place: str, proxy: str | None, *, sent: bool) -> TransportError:
    import socket
    import ssl

    via = f" through the proxy {proxy}" if proxy else ""
    if isinstance(exc, ssl.SSLCertVerificationError):
        why = f"the certificate of {place} is not trusted: {exc.verify_message}; AWS_CA_BUNDLE names the authorities"
        return TransportError(why, lasting=True)
    if isinstance(exc, socket.gaierror):
        return TransportError(f"the name {proxy or place} cannot be resolved: {exc.strerror}", sent=sent)
    if isinstance(exc, TimeoutError):
        return TransportError(f"{place} did not answer in time{via}", sent=sent)
    if isinstance(exc, http.client.HTTPException):
        return TransportError(f"{place} broke off or does not speak HTTP{via} ({type(exc).__name__})", sent=sent)
    # A proxy's own words may be in it.
    reason = "".join(c if c.isprintable() else " " for c in getattr(exc, "strerror", None) or str(exc))[:200]
    return TransportError(f"{place} cannot be reached{via}: {reason}", sent=sent)
