from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest

import aws_hmac
from aws_hmac import ConfigError, Signer, SigningError
from aws_hmac.sigv4 import UNSIGNED_PAYLOAD
from tests.integration.test_requests import SECRET, Device
from tests.verifier import ACCESS_KEY_ID, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Send = Callable[..., httpx.Response]

SCOPE: dict[str, str] = {"service": "execute-api", "region": "eu-west-1"}


@pytest.fixture
def verifier() -> Iterator[Verifier]:
    with Verifier(SECRET) as verifier:
        yield verifier


@pytest.fixture
def device() -> Device:
    return Device(SECRET)


def send_by_auth(signer: Signer, method: str, url: str, options: dict[str, Any], request: dict[str, Any]) -> Any:
    with httpx.Client(auth=aws_hmac.httpx.Auth(signer, **options), follow_redirects=True) as client:
        return client.request(method, url, **request)


def send_by_transport(signer: Signer, method: str, url: str, options: dict[str, Any], request: dict[str, Any]) -> Any:
    with httpx.Client(transport=aws_hmac.httpx.Transport(signer, **options), follow_redirects=True) as client:
        return client.request(method, url, **request)


def send_by_async_auth(signer: Signer, method: str, url: str, options: dict[str, Any], request: dict[str, Any]) -> Any:
    async def send() -> httpx.Response:
        auth = aws_hmac.httpx.Auth(signer, **options)
        async with httpx.AsyncClient(auth=auth, follow_redirects=True) as client:
            return await client.request(method, url, **request)

    return asyncio.run(send())


def send_by_async_transport(
    signer: Signer, method: str, url: str, options: dict[str, Any], request: dict[str, Any]
) -> Any:
    async def send() -> httpx.Response:
        transport = aws_hmac.httpx.AsyncTransport(signer, **options)
        async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
            return await client.request(method, url, **request)

    return asyncio.run(send())


WAYS = [send_by_auth, send_by_transport, send_by_async_auth, send_by_async_transport]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__.removeprefix("send_by_"))
def send(request: pytest.FixtureRequest, device: Device) -> Send:
    def send(method: str, url: str, *, signer: Signer | None = None, **more: Any) -> httpx.Response:
        options = {**SCOPE, **more.pop("options", {})}
        answer: httpx.Response = request.param(signer or Signer(ACCESS_KEY_ID, device), method, url, options, more)
        return answer

    return send


@pytest.mark.parametrize("service", ["execute-api", "s3"])
@pytest.mark.parametrize("path", ["/", "/a b/ü?q=a b&x=&y&a=2&a=1", "/a%2Fb/%7e/(x)?k=%e2%82%ac", "/x'y*z!?a-b=1&a=2"])
def test_get(verifier: Verifier, send: Send, path: str, service: str) -> None:
    answer = send("GET", verifier.url + path, options={"service": service})
    assert answer.status_code == 200, answer.text
    assert httpx.get(verifier.url + path).status_code == 403


@pytest.mark.parametrize("body", [{"content": b"bytes"}, {"content": "tëxt"}, {"data": {"f": "ü &"}}, {"json": [1]}])
def test_post(verifier: Verifier, send: Send, body: dict[str, Any]) -> None:
    answer = send("POST", f"{verifier.url}/x", headers={"X-Amz-Meta-A": "a  b"}, **body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["size"] > 0


def test_wrong_key_is_refused(verifier: Verifier, send: Send) -> None:
    assert send("GET", verifier.url, signer=Signer(ACCESS_KEY_ID, Device("wrong"))).status_code == 403
    assert len(verifier.seen) == 1


def test_stream_needs_a_marker(verifier: Verifier, device: Device) -> None:
    with pytest.raises(SigningError, match="body"):
        send_by_auth(Signer(ACCESS_KEY_ID, device), "PUT", verifier.url, SCOPE, {"content": iter([b"a"])})
    options = {"service": "s3", "region": "r", "payload": UNSIGNED_PAYLOAD}
    for way in (send_by_auth, send_by_transport):
        request = {"content": iter([b"a", b"b"])}
        answer = way(Signer(ACCESS_KEY_ID, device), "PUT", f"{verifier.url}/x", options, request)
        assert answer.status_code == 200, answer.text
        assert verifier.seen[-1].body == b"ab"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirect_on_the_same_host_is_signed_anew(verifier: Verifier, send: Send, code: int) -> None:
    target = quote("/there/a%20b?x=%C3%BC", safe="")
    answer = send("POST", f"{verifier.url}/redirect?to={target}&code={code}", content=b"body")
    assert answer.status_code == 200, answer.text
    assert verifier.seen[-1].verified
    assert verifier.seen[-1].method == ("POST" if code in (307, 308) else "GET")
    assert verifier.seen[-1].body == (b"body" if code in (307, 308) else b"")


def test_redirect_elsewhere_takes_no_signature_along(verifier: Verifier, send: Send) -> None:
    with Verifier(SECRET) as other:
        answer = send("GET", f"{verifier.url}/redirect?to={quote(other.url, safe='')}")
        assert answer.status_code == 403
        assert all("authorization" not in {name.lower() for name in seen.headers} for seen in other.seen)


@pytest.mark.parametrize("way", [send_by_transport, send_by_async_transport])
def test_session_token_stays_here(verifier: Verifier, device: Device, way: Any) -> None:
    signer = Signer(ACCESS_KEY_ID, device, session_token="the-token")
    with Verifier(SECRET) as other:
        way(signer, "GET", f"{verifier.url}/redirect?to={quote(other.url, safe='')}", SCOPE, {})
        assert verifier.seen[0].headers["X-Amz-Security-Token"] == "the-token"
        assert len(other.seen) == 1
        assert "the-token" not in str(other.seen)
    with pytest.raises(ConfigError, match="Transport"):
        aws_hmac.httpx.Auth(signer, service="s3", region="r")


def test_rotated_key_is_noticed(verifier: Verifier, device: Device, send: Send) -> None:
    signer = Signer(ACCESS_KEY_ID, device)
    assert send("GET", verifier.url, signer=signer).status_code == 200
    verifier.secret = device.secret = "another"
    signer.keys._checked = float("-inf")  # a minute has passed
    answer = send("POST", f"{verifier.url}/x", content=b"body", signer=signer)
    assert answer.status_code == 200, answer.text
    assert [seen.verified for seen in verifier.seen] == [True, False, True]


def test_a_hostile_server_makes_one_recheck_a_minute(verifier: Verifier, device: Device, send: Send) -> None:
    signer = Signer(ACCESS_KEY_ID, device)
    verifier.secret = "never right"
    for _ in range(5):
        assert send("GET", verifier.url, signer=signer).status_code == 403
    assert device.calls == 2
    assert len(verifier.seen) == 5
