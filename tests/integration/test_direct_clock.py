"""A server whose clock is not ours, over http and https, honest and hostile."""

from __future__ import annotations

import asyncio
import calendar
import ssl
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from botocore.config import Config
from botocore.exceptions import ClientError

import aws_hmac.aiobotocore
from aws_hmac import ClockSkewWarning, SigningError
from tests.integration.direct_support import CountingBackend, direct_session, memory_signer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH_STYLE = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
BUCKETS = b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>"


class Server(ThreadingHTTPServer):
    """Refuses what was not signed within 15 minutes of its clock, as S3 does; or, hostile, everything."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ahead = 3 * 3600
        self.code = b"RequestTimeTooSkewed"
        self.hostile = False
        self.gives_up_after = 1000
        self.seen: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server, date = self.server, self.headers["X-Amz-Date"]
        server.seen.append(date)
        if server.hostile:
            server.ahead = 80000 if len(server.seen) % 2 else -80000
        now = time.time() + server.ahead
        right = abs(calendar.timegm(time.strptime(date, "%Y%m%dT%H%M%SZ")) - now) < 900 and not server.hostile
        right |= len(server.seen) > server.gives_up_after
        body = BUCKETS if right else b"<Error><Code>" + server.code + b"</Code><Message>m</Message></Error>"
        self.send_response_only(200 if right else 403)
        self.send_header("Date", formatdate(now, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        pass


def _serve(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from _serve(Server())


@pytest.fixture
def tls_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = Server()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    # So that only the certificate counts:
    monkeypatch.setattr("aws_hmac._clock._is_loopback", lambda url: False)
    yield from _serve(server)


def _client(url: str, **options: Any) -> tuple[Any, CountingBackend]:
    signer = memory_signer("AKIAIOSFODNN7EXAMPLE", "secret")
    backend = signer.keys.backend
    assert isinstance(backend, CountingBackend)
    return direct_session(signer).client("s3", endpoint_url=url, config=PATH_STYLE, **options), backend


@pytest.mark.parametrize("code", [b"RequestTimeTooSkewed", b"SignatureDoesNotMatch", b"InvalidSignatureException"])
def test_corrected(server: Server, code: bytes) -> None:
    server.code = code
    client, backend = _client(f"http://127.0.0.1:{server.server_port}")
    with pytest.warns(ClockSkewWarning, match=f"127.0.0.1:{server.server_port}: its clock and ours differ by 10[78]"):
        assert client.list_buckets()["Buckets"] == []
    assert client.list_buckets()["Buckets"] == []
    assert len(server.seen) == 3
    assert len(backend.asked) <= 4  # two days at most, each with the fingerprint


def test_the_answer_to_head_tells_no_code(server: Server) -> None:
    client, _ = _client(f"http://127.0.0.1:{server.server_port}")
    with pytest.warns(ClockSkewWarning):
        client.head_object(Bucket="bucket-name", Key="k")
    assert len(server.seen) == 2


def test_another_refusal_is_left_alone(server: Server) -> None:
    server.code = b"AccessDenied"
    client, _ = _client(f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.list_buckets()
    assert len(server.seen) == 1


def test_hostile(server: Server) -> None:
    server.hostile = True
    client, backend = _client(f"http://127.0.0.1:{server.server_port}")
    with pytest.warns(ClockSkewWarning):
        for _ in range(10):
            with pytest.raises(ClientError, match="RequestTimeTooSkewed"):
                client.list_buckets()
    assert len(server.seen) <= 11  # one request was sent a second time
    assert len(backend.asked) <= 4  # two days, each with the fingerprint
    days = {date[:8] for date in server.seen}
    assert len(days) <= 2


def test_a_request_is_sent_twice_at_most(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aws_hmac._clock.CHANGE_SECONDS", -1.0)  # every answer of the hostile server is believed
    server.hostile = True
    server.gives_up_after = 5
    client, _ = _client(f"http://127.0.0.1:{server.server_port}")
    with pytest.warns(ClockSkewWarning), pytest.raises(ClientError, match="RequestTimeTooSkewed"):
        client.list_buckets()
    assert len(server.seen) == 2


def test_https(tls_server: Server, tmp_path: Path) -> None:
    url = f"https://127.0.0.1:{tls_server.server_port}"
    client, _ = _client(url, verify=str(tmp_path / "ca.pem"))
    with pytest.warns(ClockSkewWarning, match="requests to it are signed with its time"):
        client.list_buckets()


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_https_unverified(tls_server: Server) -> None:
    client, _ = _client(f"https://127.0.0.1:{tls_server.server_port}", verify=False)
    with (
        pytest.warns(ClockSkewWarning, match="not corrected, as without a verified certificate"),
        pytest.raises(ClientError, match="RequestTimeTooSkewed"),
    ):
        client.list_buckets()
    assert len(tls_server.seen) == 1


@pytest.mark.parametrize("verified", [True, False])
def test_https_aiobotocore(tls_server: Server, tmp_path: Path, verified: bool) -> None:
    async def call() -> None:
        session = aws_hmac.aiobotocore.get_session(
            signer=memory_signer("AKIAIOSFODNN7EXAMPLE", "secret"), mode="direct", region_name="us-east-1"
        )
        url = f"https://127.0.0.1:{tls_server.server_port}"
        verify = str(tmp_path / "ca.pem") if verified else False
        async with session.create_client("s3", endpoint_url=url, verify=verify) as s3:
            await s3.list_buckets()

    if verified:
        with pytest.warns(ClockSkewWarning, match="requests to it are signed with its time"):
            asyncio.run(call())
    else:
        with pytest.warns(ClockSkewWarning, match="not corrected"), pytest.raises(ClientError, match="TooSkewed"):
            asyncio.run(call())


def test_a_region_with_a_slash() -> None:
    client, _ = _client("http://127.0.0.1:9")
    with pytest.raises(SigningError, match="region or service hold a slash"):
        client.meta.events.register("before-sign", lambda request, **_: request.context["signing"].update(region="a/b"))
        client.list_buckets()
