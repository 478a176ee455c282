from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests

import aws_hmac
from aws_hmac import DeviceLostError, HmacBackend, Signer, SigningError
from aws_hmac.sigv4 import UNSIGNED_PAYLOAD
from tests.verifier import ACCESS_KEY_ID, Verifier

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


class Device(HmacBackend):
    name = "device:test"

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.calls = 0

    def hmac_sha256(self, message: bytes, /) -> bytes:
        import hmac

        self.calls += 1
        if not self.secret:
            raise DeviceLostError("device:test: gone")
        return hmac.digest(b"AWS4" + self.secret.encode(), message, "sha256")


@pytest.fixture
def verifier() -> Iterator[Verifier]:
    with Verifier(SECRET) as verifier:
        yield verifier


@pytest.fixture
def device() -> Device:
    return Device(SECRET)


@pytest.fixture
def auth(device: Device) -> aws_hmac.requests.Auth:
    return aws_hmac.requests.Auth(Signer(ACCESS_KEY_ID, device), service="execute-api", region="eu-west-1")


@pytest.mark.parametrize("service", ["execute-api", "s3"])
@pytest.mark.parametrize("path", ["/", "/a b/ü?q=a b&x=&y&a=2&a=1", "/a%2Fb/%7e/(x)?k=%e2%82%ac", "/x'y*z!?a-b=1&a=2"])
def test_get(verifier: Verifier, device: Device, path: str, service: str) -> None:
    auth = aws_hmac.requests.Auth(Signer(ACCESS_KEY_ID, device), service=service, region="eu-west-1")
    answer = requests.get(verifier.url + path, auth=auth, timeout=10)
    assert answer.status_code == 200, answer.text
    assert requests.get(verifier.url + path, timeout=10).status_code == 403


@pytest.mark.parametrize("service", ["execute-api", "s3"])
@pytest.mark.parametrize("data", [b"bytes", "tëxt", {"form": "ü &"}, "a file"])
def test_post(verifier: Verifier, device: Device, data: Any, service: str) -> None:
    if data == "a file":
        data = io.BytesIO(b"file")
    auth = aws_hmac.requests.Auth(Signer(ACCESS_KEY_ID, device), service=service, region="eu-west-1")
    answer = requests.post(f"{verifier.url}/x", data=data, headers={"X-Amz-Meta-A": "a  b"}, auth=auth, timeout=10)
    assert answer.status_code == 200, answer.text
    assert answer.json()["size"] > 0


def test_wrong_key_is_refused(verifier: Verifier) -> None:
    auth = aws_hmac.requests.Auth(Signer(ACCESS_KEY_ID, Device("wrong")), service="execute-api", region="eu-west-1")
    answer = requests.get(verifier.url, auth=auth, timeout=10)
    assert answer.status_code == 403
    assert len(verifier.seen) == 1, "an unchanged key is no reason to send twice"


def test_generator_needs_a_marker(verifier: Verifier, auth: aws_hmac.requests.Auth, device: Device) -> None:
    with pytest.raises(SigningError, match="body"):
        requests.put(f"{verifier.url}/x", data=iter([b"a", b"b"]), auth=auth, timeout=10)
    assert not verifier.seen
    unsigned = aws_hmac.requests.Auth(
        Signer(ACCESS_KEY_ID, device), service="s3", region="eu-west-1", payload=UNSIGNED_PAYLOAD
    )
    answer = requests.put(f"{verifier.url}/x", data=iter([b"a", b"b"]), auth=unsigned, timeout=10)
    assert answer.status_code == 200, answer.text
    assert verifier.seen[-1].body == b"ab"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirect_on_the_same_host_is_signed_anew(verifier: Verifier, auth: aws_hmac.requests.Auth, code: int) -> None:
    target = quote("/there/a%20b?x=%C3%BC", safe="")
    answer = requests.post(f"{verifier.url}/redirect?to={target}&code={code}", data=b"body", auth=auth, timeout=10)
    assert answer.status_code == 200, answer.text
    assert [seen.verified for seen in verifier.seen] == [True, True]
    assert verifier.seen[1].method == ("POST" if code in (307, 308) else "GET")
    assert verifier.seen[1].body == (b"body" if code in (307, 308) else b"")


def test_chain_of_redirects(verifier: Verifier, auth: aws_hmac.requests.Auth) -> None:
    once = f"/redirect?to={quote('/there', safe='')}"
    answer = requests.get(f"{verifier.url}/redirect?to={quote(once, safe='')}", auth=auth, timeout=10)
    assert answer.status_code == 200, answer.text
    assert [seen.verified for seen in verifier.seen] == [True] * 3


def test_redirect_elsewhere_takes_no_signature_along(verifier: Verifier, device: Device) -> None:
    signer = Signer(ACCESS_KEY_ID, device, session_token="the-token")
    auth = aws_hmac.requests.Auth(signer, service="execute-api", region="eu-west-1")
    with Verifier(SECRET) as other:
        answer = requests.get(f"{verifier.url}/redirect?to={quote(other.url, safe='')}", auth=auth, timeout=10)
        assert answer.status_code == 403
        (seen,) = other.seen
        names = {name.lower() for name in seen.headers}
        assert not names & {"authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"}
        assert "the-token" not in str(seen)


def test_another_host_that_complains_gets_no_signature(
    verifier: Verifier, auth: aws_hmac.requests.Auth, device: Device
) -> None:
    """After a redirect, not even where the key has really changed."""
    with Verifier(SECRET) as other:
        requests.get(verifier.url, auth=auth, timeout=10)
        asked = device.calls
        auth.signer.keys._checked = float("-inf")
        location = f"{verifier.url}/redirect?to={quote(other.url, safe='')}"
        prepared = requests.Request("GET", location, auth=auth).prepare()
        device.secret = "another"
        with requests.Session() as session:
            answer = session.send(prepared, timeout=10)
        assert "SignatureDoesNotMatch" in answer.text
        assert ["Authorization" in seen.headers for seen in other.seen] == [False]
        assert device.calls == asked


def test_rotated_key_is_noticed(verifier: Verifier, auth: aws_hmac.requests.Auth, device: Device) -> None:
    assert requests.get(verifier.url, auth=auth, timeout=10).status_code == 200
    verifier.secret = device.secret = "another"
    auth.signer.keys._checked = float("-inf")  # a minute has passed
    answer = requests.post(f"{verifier.url}/x", data=b"body", auth=auth, timeout=10)
    assert answer.status_code == 200, answer.text
    assert [seen.verified for seen in verifier.seen] == [True, False, True]
    assert [first.status_code for first in answer.history] == [403]


def test_a_hostile_server_makes_one_recheck_a_minute(verifier: Verifier, device: Device) -> None:
    auth = aws_hmac.requests.Auth(Signer(ACCESS_KEY_ID, device), service="execute-api", region="eu-west-1")
    verifier.secret = "never right"
    for _ in range(5):
        assert requests.get(verifier.url, auth=auth, timeout=10).status_code == 403
    assert device.calls == 2
    assert len(verifier.seen) == 5


def test_device_away(verifier: Verifier) -> None:
    auth = aws_hmac.requests.Auth(Signer(ACCESS_KEY_ID, Device("")), service="execute-api", region="eu-west-1")
    with pytest.raises(DeviceLostError):
        requests.get(verifier.url, auth=auth, timeout=10)
    assert not verifier.seen


def test_session_object_signs_each_request(verifier: Verifier, auth: aws_hmac.requests.Auth) -> None:
    with requests.Session() as session:
        session.auth = auth
        for number in range(3):
            assert session.get(f"{verifier.url}/{number}", params={"n": number}, timeout=10).status_code == 200
    assert SECRET not in repr(auth)
