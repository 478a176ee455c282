"""Signed requests with the library ``requests``: ``requests.get(url, auth=aws_hmac.requests.Auth(…))``."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

from aws_hmac._http import SIGNATURE_HEADERS, HttpSigning, may_be_signature_error
from aws_hmac.answers import is_signature_error
from aws_hmac.errors import BackendUnavailableError, SigningError
from aws_hmac.sigv4.canonical import split_url

try:
    import requests.auth
    from requests.sessions import SessionRedirectMixin
    from requests.utils import requote_uri
except ImportError as exc:
    raise BackendUnavailableError(
        "aws_hmac.requests needs the package requests; install it with: pip install 'aws-hmac[requests]'"
    ) from exc


class Auth(HttpSigning, requests.auth.AuthBase):
    """Signs each request of a requests.Session, or of one call.

    A redirect is signed anew if it leads to the same scheme, host and port; elsewhere nothing of the
    signature is sent. When the server says that the signature is wrong and the device's key turns out to have
    been changed under the same access key id, the request is signed and sent once more.

    Args:
        signer: the key.
        service: the service's signing name, as ``execute-api``.
        region: as ``eu-west-1``.
        payload: a payload marker in place of hashing the body, as `aws_hmac.sigv4.UNSIGNED_PAYLOAD`: bodies
            that can be read only once (generators, pipes) need one.
        rules: how the service wants it; its own rules if None.

    Raises:
        SigningError: when a request is made that cannot be signed as asked.
        Error: what the device answers, when it has to be asked.
    """

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        """Signs a prepared request; requests calls this."""
        if isinstance(r.body, str):
            r.body = r.body.encode()  # as it is hashed; urllib3 1 would send it as Latin-1
            r.headers["Content-Length"] = str(len(r.body))
        generation = self._sign(r, r.method or "", r.url or "", r.body)
        place = split_url(r.url or "")[:2]

        def on_response(response: requests.Response, **kwargs: Any) -> requests.Response:
            # What another place answers, after a redirect, is none of ours: nothing is signed for it.
            if split_url(response.request.url or "")[:2] != place:
                return response
            return self._on_response(response, generation, **kwargs)

        r.hooks["response"].insert(0, on_response)
        return r

    def _sign(self, r: requests.PreparedRequest, method: str, url: str, body: Any) -> int:
        generation = self.signer.keys.generation
        if self.payload is not None:
            body = self.payload
            # Of an earlier signature; what the user sends is signed as the payload's hash.
            r.headers.pop("X-Amz-Content-SHA256", None)
        signed = self._signed(method, url, r.headers.items(), body)
        if "Host" not in r.headers:
            del signed["Host"]  # urllib3 sends the same; kept, it would follow a redirect to another host
        r.headers.update(signed)
        return generation

    def _on_response(self, response: requests.Response, generation: int, **kwargs: Any) -> requests.Response:
        if response.is_redirect:
            self._prepare_redirect(response)
            return response
        # A streamed answer of unknown length is the caller's to read.
        length = response.headers.get("Content-Length", "" if kwargs.get("stream") else "1")
        if (
            may_be_signature_error(response.status_code, length)
            and is_signature_error(response.content, response.headers.get("x-amzn-ErrorType"))
            and _replayable(response.request.body)
            and self.signer.keys.recheck(generation)
        ):
            return self._send_again(response, **kwargs)
        return response

    def _send_again(self, response: requests.Response, **kwargs: Any) -> requests.Response:
        # As requests.auth.HTTPDigestAuth does it: the answer is read, so that its connection is free again.
        response.close()
        again = response.request.copy()
        again.hooks["response"] = []  # once only
        again.headers.pop("X-Amz-Content-SHA256", None)
        self._sign(again, again.method or "", again.url or "", again.body)
        answer: requests.Response = response.connection.send(again, **kwargs)
        answer.history.append(response)
        answer.request = again
        return answer

    def _prepare_redirect(self, response: requests.Response) -> None:
        """Signs the request for where the redirect leads: requests copies its headers into the next one."""
        r = response.request
        for name in SIGNATURE_HEADERS:
            r.headers.pop(name, None)
        following = SessionRedirectMixin()
        after = r.copy()
        after.url = requote_uri(urljoin(response.url, following.get_redirect_target(response) or ""))
        following.rebuild_method(after, response)
        try:
            elsewhere = split_url(r.url or "")[:2] != split_url(after.url)[:2]
        except SigningError:
            return  # not http: requests will say so
        if elsewhere:
            return
        if response.status_code not in (307, 308):
            after.body = None  # requests drops the body, and the headers that go with it
            for name in ("Content-Length", "Content-Type", "Transfer-Encoding"):
                r.headers.pop(name, None)
        elif not _replayable(after.body) and self.payload is None:
            return  # the server will refuse it: better than a signature for a body that was not sent
        self._sign(r, after.method or "", after.url, after.body)


def _replayable(body: Any) -> bool:
    return body is None or isinstance(body, (bytes, str))
