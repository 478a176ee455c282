"""From a key URI and the environment to a Vault that answers."""

from __future__ import annotations

import os
import re
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import hvac
import hvac.exceptions

from aws_hmac.errors import DeviceError, KeyURIError, SecurityWarning
from aws_hmac_backends.vault._auth import ATTRIBUTES, Auth
from aws_hmac_backends.vault._cluster import Cluster, map_exceptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_hmac.uri import KeyURI

T = TypeVar("T")

PATH = ("key", "mount", "version")
QUERY = {"addr", "namespace", "ca-file", "cert-file", "key-file", "proxy", "timeout", "patience", "old-versions"}
QUERY |= ATTRIBUTES

KEY_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
_MOUNT = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*", re.ASCII)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_open: weakref.WeakSet[Connection] = weakref.WeakSet()


class Connection:
    """A cluster, and a token for it.

    Args:
        uri: the key URI.

    Raises:
        KeyURIError: something in it is impossible.
    """

    def __init__(self, uri: KeyURI) -> None:
        check(uri)
        self.uri = uri
        self.name = uri.identity
        self.mount = mount(uri)
        self.namespace = uri.get("namespace") or environment("NAMESPACE") or None
        self.cluster = Cluster(
            addresses(uri),
            name=self.name,
            namespace=self.namespace,
            verify=_authority(uri),
            cert=_certificate(uri),
            proxy=_proxy(uri),
            timeout=_seconds(uri, "timeout", environment("CLIENT_TIMEOUT") or "10"),
            patience=_seconds(uri, "patience", "30"),
        )
        # An empty token, as hvac would read VAULT_TOKEN itself; tokens are `Auth`'s business.
        self.client = hvac.Client(url=self.cluster.base_uri, token="", verify=True, adapter=lambda **_: self.cluster)
        self.auth = Auth(uri, self.cluster, self.client)
        for address in filter(in_clear, self.cluster.addresses):
            warnings.warn(
                f"{self.name}: {address} is not encrypted: whoever is on the way reads the token and the HMACs; use"
                " https",
                SecurityWarning,
                stacklevel=4,
            )
        _open.add(self)

    def ask(self, doing: str, question: Callable[[], T]) -> T:
        """Asks Vault with a good token, once more if the token was gone.

        Args:
            doing: what for, in words, for messages.
            question: a call of hvac's.

        Raises:
            Error: what Vault's refusal means.
        """
        with map_exceptions(self.name, doing):
            used = self.auth.ensure()
            try:
                return question()
            except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized):
                if not self.auth.replace(used):
                    raise
                return question()

    def key(self, name: str) -> dict[str, Any]:
        """Returns what Vault tells of a key: type, versions, flags; never the key itself."""
        answer = self.ask(
            f"look at the key (read on {self.mount}/keys/{name})",
            lambda: self.client.secrets.transit.read_key(name, mount_point=self.mount),
        )
        data = data_of(answer)
        if not isinstance(data.get("type"), str):
            raise DeviceError(f"{self.name}: Vault's answer does not describe a key")
        return data

    def close(self) -> None:
        """Gives back what was borrowed."""
        self.auth.close()
        self.cluster.close()


def _after_fork() -> None:
    for connection in list(_open):
        connection.cluster.connect()
        connection.auth.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def data_of(answer: object) -> dict[str, Any]:
    """Returns what Vault's answer is about; nothing if it is about nothing."""
    data = answer.get("data") if isinstance(answer, dict) else None
    return data if isinstance(data, dict) else {}


def environment(name: str) -> str | None:
    """Returns ``VAULT_<name>``, or OpenBao's ``BAO_<name>``."""
    return os.environ.get(f"VAULT_{name}") or os.environ.get(f"BAO_{name}") or None


def check(uri: KeyURI) -> None:
    """Refuses what no table of attributes has, and impossible names.

    Raises:
        KeyURIError: as said.
    """
    uri.check(path=PATH, query=QUERY)
    name = uri.get("key")
    if name is not None and not KEY_NAME.fullmatch(name):
        raise KeyURIError(f"{uri.identity}: Vault's key names have letters, digits, and '_', '.', '-' between them")
    mount(uri)
    version(uri)
    namespace = uri.get("namespace") or environment("NAMESPACE")
    if namespace and not re.fullmatch(r"[!-~]+", namespace):
        raise KeyURIError(f"{uri.identity}: namespace is {namespace!r}, which has blanks or letters beyond ASCII in it")
    if uri.get("old-versions", "refuse") not in ("refuse", "keep"):
        raise KeyURIError(f"{uri.identity}: old-versions is neither refuse nor keep")


def mount(uri: KeyURI) -> str:
    """Returns the path at which Transit is mounted."""
    path = uri.get("mount", "transit") or ""
    if not _MOUNT.fullmatch(path) or ".." in path.split("/"):
        raise KeyURIError(f"{uri.identity}: mount must be a path as in mount=transit, without '/' at its ends")
    return path


def version(uri: KeyURI) -> int | None:
    """Returns the pinned version, or None."""
    text = uri.get("version")
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text, re.ASCII):
        raise KeyURIError(f"{uri.identity}: version is {text!r}, not a number from 1 on")
    return int(text)


def addresses(uri: KeyURI) -> list[str]:
    """Returns Vault's addresses, at least one, each scheme, host and port alone."""
    text = uri.get("addr") or environment("ADDR")
    if not text:
        raise KeyURIError(f"{uri.identity}: no address; give addr=https://vault:8200 or set VAULT_ADDR")
    found = []
    for word in text.split(","):
        url = urlsplit(word.strip())
        try:
            port = url.port
        except ValueError:
            port = -1
        if url.username is not None or url.password is not None:
            raise KeyURIError(f"{uri.identity}: an address holds a user or password; neither belongs there")
        if url.scheme not in ("http", "https") or not url.hostname or port in (-1, 0):
            raise KeyURIError(f"{uri.identity}: address {word.strip()!r} is not as in https://vault:8200")
        if url.path.strip("/") or url.query or url.fragment:
            raise KeyURIError(f"{uri.identity}: address {word.strip()!r} has a path; give scheme, host and port alone")
        found.append(f"{url.scheme}://{url.netloc.lower()}")
    return list(dict.fromkeys(found))


def in_clear(address: str) -> bool:
    """Whether what goes to an address can be read on the network."""
    url = urlsplit(address)
    return url.scheme == "http" and url.hostname not in _LOOPBACK


def _authority(uri: KeyURI) -> bool | str:
    given = uri.get("ca-file")
    path = given or environment("CACERT") or environment("CAPATH") or os.environ.get("REQUESTS_CA_BUNDLE")
    if not path:
        return True
    if not Path(path).exists():
        what = "ca-file" if given else "VAULT_CACERT, VAULT_CAPATH or REQUESTS_CA_BUNDLE"
        raise KeyURIError(f"{uri.identity}: {what} names {path}, which is not there")
    return path


def _certificate(uri: KeyURI) -> tuple[str, str] | None:
    certificate = uri.get("cert-file") or environment("CLIENT_CERT")
    key = uri.get("key-file") or environment("CLIENT_KEY")
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise KeyURIError(f"{uri.identity}: cert-file and key-file belong together")
    for name, path in (("cert-file", certificate), ("key-file", key)):
        if not Path(path).is_file():
            raise KeyURIError(f"{uri.identity}: {name} names {path}, which is not there")
    from aws_hmac.sources import check_file  # few listeners want a client certificate

    check_file(Path(key), Path(key).stat(), f"{uri.identity}: key-file")
    return certificate, key


def _proxy(uri: KeyURI) -> str | None:
    text = uri.get("proxy") or os.environ.get("VAULT_PROXY_ADDR") or os.environ.get("VAULT_HTTP_PROXY") or None
    given = uri.get("proxy")
    if given and given != "none":
        url = urlsplit(given)
        if url.username is not None or url.password is not None:
            raise KeyURIError(f"{uri.identity}: proxy holds a user or password; set HTTPS_PROXY instead")
        if url.scheme not in ("http", "https") or not url.hostname:
            raise KeyURIError(f"{uri.identity}: proxy is neither 'none' nor as in http://proxy:3128")
    return text


def _seconds(uri: KeyURI, name: str, default: str) -> float:
    """Reads seconds, or a duration as Vault's own variables have it: 90, 90s, 1m30s."""
    text = uri.get(name, default) or ""
    match = re.fullmatch(r"(?:([0-9]{1,3})m)?(?:([0-9]{1,4}(?:\.[0-9]{1,3})?)s?)?", text, re.ASCII)
    seconds = 60 * float(match[1] or 0) + float(match[2] or 0) if match and text else -1.0
    if seconds < 0 or (name == "timeout" and not seconds):
        raise KeyURIError(f"{uri.identity}: {name} is {text!r}, not a number of seconds")
    return seconds
