"""Signed requests with the library ``httpx``, sync and async.

`Auth` signs what a client is about to send. `Transport` and `AsyncTransport` sign below the client instead, so
that each request of a chain of redirects carries its own signature at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aws_hmac._http import SIGNATURE_HEADERS, HttpSigning, may_be_signature_error
from aws_hmac.answers import is_signature_error
from aws_hmac.errors import BackendUnavailableError, ConfigError, SigningError

try:
    import httpx
except ImportError as exc:
    raise BackendUnavailableError(
        "aws_hmac.httpx needs the package httpx; install it with: pip install 'aws-hmac[httpx]'"
    ) from exc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from aws_hmac.signer import Signer
    from aws_hmac.sigv4 import PayloadHash, ServiceRules

T = TypeVar("T")


class _Signing(HttpSigning):
    """What `Auth` and the transports share."""

    def sign(self, request: httpx.Request) -> int:
        """Puts a signature on a request; returns the generation of the key that made it."""
        generation = self.signer.keys.generation
        body: Any = self.payload
        if body is not None:
            request.headers.pop("X-Amz-Content-SHA256", None)
        elif "X-Amz-Content-SHA256" not in request.headers or "Authorization" in request.headers:
            request.headers.pop("X-Amz-Content-SHA256", None)
            body = _content(request)
        request.headers.update(self._signed(request.method, str(request.url), request.headers.multi_items(), body))
        return generation

    def may_be_stale(self, response: httpx.Response) -> bool:
        """Tells whether an answer is worth reading for a complaint about the signature."""
        return may_be_signature_error(response.status_code, response.headers.get("Content-Length", ""))

    def worth_again(self, request: httpx.Request, response: httpx.Response, generation: int) -> bool:
        """Tells whether an answer, read, says that the signature is wrong, and the key is now another."""
        return (
            isinstance(request.stream, httpx.ByteStream)
            and is_signature_error(response.content, response.headers.get("x-amzn-ErrorType"))
            and self.signer.keys.recheck(generation)
        )


class Auth(_Signing, httpx.Auth):
    """Signs each request of a client, or of one call: ``httpx.get(url, auth=Auth(…))``; sync and async.

    When the server says that the signature is wrong and the device's key turns out to have been changed under
    the same access key id, the request is signed and sent once more. httpx follows redirects without asking
    its auth: one to the same host is refused by the server and then signed and sent anew; one to another host
    gets no signature, as httpx takes it off. `Transport` signs redirects at once.

    The arguments are those of `Transport`.

    Raises:
        ConfigError: the signer has a session token: httpx would send it along on a redirect to another host.
            Use `Transport`.
        SigningError: when a request is made that cannot be signed as asked.
        Error: what the device answers, when it has to be asked.
    """

    def _check(self) -> None:
        if self.signer.session_token is not None:
            raise ConfigError(
                "httpx sends the session token along on a redirect to another host;"
                " use httpx.Client(transport=aws_hmac.httpx.Transport(…)) with temporary credentials"
            )

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Signs; httpx calls this."""
        generation = self.sign(request)
        response = yield request
        if self.may_be_stale(response):
            response.read()
            again = self._again(request, response, generation)
            if again is not None:
                yield again

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Signs, the device being asked in another thread where it has to be; httpx calls this."""
        generation = await _in_thread(self.sign, request)
        response = yield request
        if self.may_be_stale(response):
            await response.aread()
            again = await _in_thread(self._again, request, response, generation)
            if again is not None:
                yield again

    def _again(self, request: httpx.Request, response: httpx.Response, generation: int) -> httpx.Request | None:
        """Returns the request to send once more; None if it would not help."""
        last = response.request
        redirected = last.url != request.url and _same_place(last.url, request.url)
        stale = redirected and is_signature_error(response.content, response.headers.get("x-amzn-ErrorType"))
        if stale and isinstance(last.stream, httpx.ByteStream):
            self.sign(last)
            return last
        if last.url == request.url and self.worth_again(request, response, generation):
            self.sign(request)
            return request
        return None


class _TransportSigning(_Signing, Generic[T]):
    """What the two transports share."""

    def __init__(
        self,
        signer: Signer,
        *,
        service: str,
        region: str,
        payload: PayloadHash | None = None,
        rules: ServiceRules | None = None,
        origin: str | None = None,
        transport: T | None = None,
    ) -> None:
        super().__init__(signer, service=service, region=region, payload=payload, rules=rules)
        self._origin = None if origin is None else httpx.URL(origin)
        self._transport: T = self._plain_transport() if transport is None else transport

    def _plain_transport(self) -> T:
        raise NotImplementedError

    def _is_ours(self, request: httpx.Request) -> bool:
        """Tells whether a request goes where we sign; takes the signature off one that does not."""
        if self._origin is None:
            self._origin = request.url
        if _same_place(self._origin, request.url):
            return True
        for name in SIGNATURE_HEADERS:
            request.headers.pop(name, None)
        return False


class Transport(_TransportSigning[httpx.BaseTransport], httpx.BaseTransport):
    """Signs each single request, redirects among them: ``httpx.Client(transport=Transport(…))``.

    Only requests to the origin (scheme, host and port) of the first one are signed; to any other origin, as
    after a redirect, they go without signature and session token.

    Args:
        signer: the key.
        service: the service's signing name, as ``execute-api``.
        region: as ``eu-west-1``.
        payload: a payload marker in place of hashing the body, as `aws_hmac.sigv4.UNSIGNED_PAYLOAD`: streaming
            bodies, which can be read only once, need one.
        rules: how the service wants it; its own rules if None.
        origin: the only origin to sign for, as ``https://api.example.com``; that of the first request if None.
        transport: what sends; ``httpx.HTTPTransport()`` if None.
    """

    def _plain_transport(self) -> httpx.BaseTransport:
        return httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Signs and sends; httpx calls this."""
        if not self._is_ours(request):
            return self._transport.handle_request(request)
        generation = self.sign(request)
        response = self._transport.handle_request(request)
        if self.may_be_stale(response):
            response.read()
            if self.worth_again(request, response, generation):
                self.sign(request)
                response = self._transport.handle_request(request)
        return response

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()


class AsyncTransport(_TransportSigning[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport):
    """`Transport` for ``httpx.AsyncClient``; the device is asked in another thread where it has to be."""

    def _plain_transport(self) -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Signs and sends; httpx calls this."""
        if not self._is_ours(request):
            return await self._transport.handle_async_request(request)
        generation = await _in_thread(self.sign, request)
        response = await self._transport.handle_async_request(request)
        if self.may_be_stale(response):
            await response.aread()
            if await _in_thread(self.worth_again, request, response, generation):
                await _in_thread(self.sign, request)
                response = await self._transport.handle_async_request(request)
        return response

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._transport.aclose()


async def _in_thread(function: Any, *args: Any) -> Any:
    import anyio.to_thread  # httpx needs anyio; it also runs under trio

    return await anyio.to_thread.run_sync(function, *args)


def _content(request: httpx.Request) -> bytes:
    if not isinstance(request.stream, httpx.ByteStream):
        raise SigningError(
            "body: a stream can be read only once and cannot be hashed before it is sent;"
            " give payload=aws_hmac.sigv4.UNSIGNED_PAYLOAD, the header x-amz-content-sha256, or bytes"
        )
    return request.read()


def _same_place(one: httpx.URL, other: httpx.URL) -> bool:
    def place(url: httpx.URL) -> tuple[str, str, int | None]:
        return url.scheme, url.host, url.port  # httpx drops default ports

    return place(one) == place(other)
