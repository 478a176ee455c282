"""The way to Vault: several addresses as one, with redirects, fail-over and retries."""

from __future__ import annotations

import os
import random
import ssl
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import hvac.adapters
import hvac.exceptions
import requests
import requests.utils
import urllib3.exceptions
from requests.adapters import HTTPAdapter

from aws_hmac.errors import (
    AuthenticationError,
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    KeyNotFoundError,
    KeyPolicyError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CONNECT_TIMEOUT = 5.0
"""Seconds that a connection may take to be made; a dead node must not use up the time for the others."""

MAX_REDIRECTS = 3
MAX_ERRORS = 3
"""How often a 500 without a known cause is asked again before it is believed."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class NoEngineError(KeyNotFoundError):
    """Nothing is mounted there, so that no key can be."""


class Fault(NamedTuple):
    """Why one address gave no answer.

    Attributes:
        address: which.
        text: why, in words.
        kind: ``away``: waiting may help; ``busy``: it may, but no other address will do better; ``error``: a 500
            without a known cause, believed when it stays; ``sealed`` and ``final``: waiting does not help.
        pause: seconds that the server asks to wait.
        cause: the library's exception, where there was one.
        done: the request may have been carried out all the same.
    """

    address: str
    text: str
    kind: Literal["away", "busy", "error", "sealed", "final"]
    pause: float = 0.0
    cause: Exception | None = None
    done: bool = False


class Cluster(hvac.adapters.JSONAdapter):  # type: ignore[misc] # hvac ships no types
    """What hvac's API classes talk through: one Vault, whatever address it has just now.

    Args:
        addresses: as ``https://vault-1:8200``; tried in turn, beginning with the one that answered last.
        name: the key, for messages.
        namespace: Vault's or OpenBao's namespace, or None.
        verify: True, or the path of a CA file or directory.
        cert: the files of a client certificate and its key.
        proxy: a proxy's URL, ``none``, or None for what the environment says.
        timeout: seconds for one answer.
        patience: seconds that one request goes on while Vault fails over, is busy or cannot be reached.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        name: str,
        namespace: str | None = None,
        verify: bool | str = True,
        cert: tuple[str, str] | None = None,
        proxy: str | None = None,
        timeout: float = 10.0,
        patience: float = 30.0,
    ) -> None:
        self.addresses = list(addresses)
        self.name = name
        self.patience = patience
        self.met = False
        """Whether Vault has ever answered."""
        self._verify, self._cert = verify, cert
        # Found out once: after a fork, macOS may not be asked for its proxies.
        self._proxies = {address: _proxies(proxy, address) for address in self.addresses}
        self._timeout = (min(CONNECT_TIMEOUT, timeout), timeout)
        self._anonymous = threading.local()
        self._current = 0
        self._closed = False
        super().__init__(base_uri=self.addresses[0], namespace=namespace, verify=verify, allow_redirects=False)
        self.connect()

    def connect(self) -> None:
        """Makes new connections; after a fork, as a connection must not be used by two processes."""
        session = requests.Session()
        session.trust_env = False  # no .netrc; proxies and authority come from here
        session.verify, session.cert = self._verify, self._cert  # hvac prefers a session's to its own arguments
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(pool_connections=len(self.addresses) + 1, pool_maxsize=64))
        self.session = session
        self._nodes = {
            address: hvac.adapters.RawAdapter(
                base_uri=address,
                session=session,
                cert=self._cert,
                verify=self._verify,
                proxies=self._proxies[address],
                timeout=self._timeout,
                namespace=self.namespace,
                allow_redirects=False,
                strict_http=True,  # LIST as GET ?list=true, which every proxy lets pass
            )
            for address in self.addresses
        }

    def close(self) -> None:
        """Closes every connection."""
        self._closed = True
        super().close()

    @contextmanager
    def without_token(self) -> Iterator[None]:
        """Sends no token meanwhile, in this thread: for a login; the others go on with the old one."""
        self._anonymous.now = True
        try:
            yield
        finally:
            self._anonymous.now = False

    def node(self, address: str, method: str, path: str) -> requests.Response:
        """Asks one address, once, without a token."""
        response: requests.Response = self._nodes[address].request(method, path, raise_exception=False)
        return response

    def explain(self, address: str, exc: requests.RequestException) -> str:
        """Returns why an address could not be asked, in words."""
        return self._unreachable(address, exc).text

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = True,  # noqa: ARG002 - hvac's interface
        once: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Sends a request to whichever address answers it.

        Args:
            method: the HTTP method, or LIST.
            url: the path, with ``/v1``.
            headers: more headers.
            raise_exception: hvac's; always True here.
            once: never send it again once it may have been carried out.
            kwargs: what ``requests`` takes.

        Returns:
            The answer's JSON object, or the response if it has no body.

        Raises:
            hvac.exceptions.VaultError: Vault refuses.
            DeviceError: no address answers as Vault does.
        """
        until = time.monotonic() + self.patience
        pause, errors = _FIRST_PAUSE, 0
        token = None if getattr(self._anonymous, "now", False) else self.token
        headers = {**({"X-Vault-Token": token} if token else {}), **(headers or {})}
        while True:
            if self._closed:
                raise DeviceError(f"{self.name}: closed")
            faults = []
            for address in self.addresses[self._current :] + self.addresses[: self._current]:
                answer = self._ask(address, method, url, headers, kwargs)
                if not isinstance(answer, Fault):
                    return answer
                faults.append(answer)
                if answer.kind == "busy" or (once and answer.done):
                    break
            errors += all(f.kind == "error" for f in faults)
            wait = max(pause * random.uniform(0.5, 1.0), *(f.pause for f in faults))  # noqa: S311 - jitter
            if (
                all(f.kind in ("sealed", "final") for f in faults)
                or (once and faults[-1].done)
                or errors >= MAX_ERRORS
                or time.monotonic() + wait > until
            ):
                raise self._gone(faults) from faults[-1].cause
            time.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _gone(self, faults: Sequence[Fault]) -> DeviceError:
        said = "; ".join(f"{f.address} {f.text}" for f in faults)
        kinds = {f.kind for f in faults}
        if "busy" in kinds:
            return DeviceBusyError(f"{self.name}: {said}")
        if kinds == {"sealed"}:
            return DeviceError(f"{self.name}: {said}; its keepers must unseal it")
        if self.met and "away" in kinds:
            return DeviceLostError(f"{self.name}: Vault was there and is gone: {said}")
        return DeviceError(f"{self.name}: {said}")

    def _ask(self, address: str, method: str, url: str, headers: Mapping[str, str], kwargs: dict[str, Any]) -> Any:
        """Returns an answer, or the `Fault` why there is none; raises hvac's error for a refusal."""
        for _ in range(MAX_REDIRECTS):
            try:
                response = self._nodes[address].request(
                    method, url, headers=dict(headers), raise_exception=False, **kwargs
                )
            except (OSError, ValueError, urllib3.exceptions.HTTPError) as exc:  # requests does not wrap them all
                return self._unreachable(address, exc)
            if response.status_code not in (301, 302, 303, 307, 308):
                return self._read(address, method, url, response)
            target = urlsplit(response.headers.get("Location", ""))
            home = f"{target.scheme}://{target.netloc.lower()}"
            same = urlsplit(response.url).path == target.path and response.status_code in (307, 308)
            if home not in self._nodes or not same:
                where = home if target.netloc else "elsewhere"
                return Fault(
                    address,
                    f"redirects to {where}, which is not followed: the token would go there; if it is a node of the"
                    " same Vault, add it to addr",
                    "final",
                )
            address = home
        return Fault(address, "redirects in a circle", "away")

    def _unreachable(self, address: str, exc: Exception) -> Fault:
        if isinstance(exc, requests.RequestException):
            exc.request = exc.response = None  # they hold the token, and at a login the password
        done = not isinstance(exc, requests.ConnectTimeout) and "NewConnectionError" not in repr(exc)
        if isinstance(exc, requests.exceptions.SSLError) and (not self.met or _certificate_fault(exc)):
            return Fault(address, _tls(exc), "final", cause=exc)
        if isinstance(exc, requests.Timeout):
            text = f"did not answer within {self._timeout[1]:g} s"
        elif isinstance(exc, requests.exceptions.ProxyError):
            text = "cannot be reached through the proxy"
        elif isinstance(exc, requests.ConnectionError):
            text = "cannot be reached" if not done else "closed the connection"
        else:
            text = f"cannot be asked: {type(exc).__name__}"
        # One that never answered is more likely misspelt than failing over.
        return Fault(address, text, "away" if self.met else "final", cause=exc, done=done)

    def _read(self, address: str, method: str, url: str, response: requests.Response) -> Any:
        status = response.status_code
        if status == 204:
            return self._met(address, response)
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            kind = response.headers.get("Content-Type", "nothing").partition(";")[0][:40]
            if status in (500, 502, 503, 504):
                return Fault(address, f"answers {status} with {kind}", "away", done=True)
            return Fault(
                address,
                f"answers {status} with {kind} instead of Vault's JSON: this is not Vault, or a proxy or login page"
                " stands before it",
                "final",
                done=True,
            )
        if response.ok:
            return self._met(address, body)
        listed = body.get("errors")
        errors = [_line(e) for e in listed if isinstance(e, str)] if isinstance(listed, list) else []
        said = ", ".join(errors)
        fault = _fault(address, status, said, response)
        if fault is not None:
            return fault
        self._met(address, None)
        raise hvac.exceptions.VaultError.from_status(status, errors=errors, method=method, url=url, text=said)

    def _met(self, address: str, answer: Any) -> Any:
        self.met = True
        self._current = self.addresses.index(address)
        return answer


def _fault(address: str, status: int, said: str, response: requests.Response) -> Fault | None:
    """What an error says of the node (rather than of the request), or None."""
    if status == 503 and "sealed" in said:
        return Fault(address, "is sealed", "sealed")
    if status == 500 and "not active" in said:
        return Fault(address, "is a standby that knows of no active node", "away")
    if status == 501:
        return Fault(address, "is not initialized", "final")
    if status == 429:
        asked = response.headers.get("Retry-After", "")
        pause = min(float(asked), 60.0) if asked.isdecimal() else 0.0
        return Fault(address, f"limits the rate: {said}", "busy", pause=pause)
    if status == 412:
        return Fault(address, f"lags behind its cluster: {said}", "busy")
    if status == 500:
        return Fault(address, f"error 500: {said}", "error", done=True)
    if status in (502, 503, 504):
        return Fault(address, f"answers {status}: {said}", "away", done=True)
    return None


def _proxies(proxy: str | None, address: str) -> dict[str, str]:
    if proxy == "none":
        return {}
    if proxy:
        return {"http": proxy, "https": proxy}
    return dict(requests.utils.get_environ_proxies(address))


def _line(text: str) -> str:
    """A server's text in one short line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


def _certificate_fault(exc: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The failed verification inside an exception of requests, or None."""
    seen: list[Any] = [exc]
    while seen:
        one = seen.pop()
        if isinstance(one, ssl.SSLCertVerificationError):
            return one
        if isinstance(one, BaseException):
            seen += [*one.args, getattr(one, "reason", None)]
    return None


def _tls(exc: requests.exceptions.SSLError) -> str:
    fault = _certificate_fault(exc)
    if fault is None:
        return "speaks no TLS that is understood here (is it an http address, or does it want a client certificate?)"
    text = f"shows a certificate that is not accepted: {fault.verify_message or fault.reason}"
    if os.environ.get("VAULT_SKIP_VERIFY") or os.environ.get("BAO_SKIP_VERIFY"):
        return f"{text}; VAULT_SKIP_VERIFY is not obeyed: name the authority by ca-file"
    return f"{text}; name its authority by ca-file or VAULT_CACERT"


@contextmanager
def map_exceptions(name: str, doing: str) -> Iterator[None]:
    """Turns hvac's errors into aws-hmac's.

    Args:
        name: the key, for messages.
        doing: what was asked for, as ``make an HMAC (update on transit/hmac/aws/sha2-256)``.
    """
    try:
        yield
    except hvac.exceptions.Unauthorized as exc:
        raise AuthenticationError(f"{name}: Vault does not know this token; renew or replace it") from exc
    except hvac.exceptions.Forbidden as exc:
        raise KeyPolicyError(
            f"{name}: the token may not {doing}: {_said(exc)}; aws-hmac key policy prints what it needs"
        ) from exc
    except hvac.exceptions.InvalidPath as exc:
        said = _said(exc)
        if "no handler for route" in said:
            raise NoEngineError(f"{name}: nothing is mounted there; check mount and namespace ({said})") from exc
        raise KeyNotFoundError(f"{name}: there is no such key") from exc
    except hvac.exceptions.InvalidRequest as exc:
        said = _said(exc)
        if "key not found" in said or "no existing key" in said:
            raise KeyNotFoundError(f"{name}: there is no such key") from exc
        if "too old" in said:
            raise KeyPolicyError(
                f"{name}: this version is below the key's minimum: it was rotated; use the URI that the last import"
                " printed"
            ) from exc
        if "version" in said and ("no such" in said or "does not exist" in said):
            raise KeyNotFoundError(f"{name}: {said}") from exc
        raise DeviceError(f"{name}: Vault refuses to {doing}: {said}") from exc
    except hvac.exceptions.VaultError as exc:
        raise DeviceError(f"{name}: Vault cannot {doing}: {_said(exc)}") from exc


def _said(exc: hvac.exceptions.VaultError) -> str:
    text = ", ".join(exc.errors or ()) or type(exc).__name__
    return text.removeprefix("1 error occurred: * ")
