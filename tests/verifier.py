"""A server on loopback that verifies signatures of what really came over the wire.

The oracle is botocore: the request is rebuilt from the bytes that arrived and signed by botocore's classes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

if TYPE_CHECKING:
    from types import TracebackType

ACCESS_KEY_ID = "AKIAIOSFODNN7EXAMPLE"


@dataclass
class Seen:
    """A request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    verified: bool


@dataclass
class Verifier:
    """Runs in a thread; ``/redirect?to=URL&code=307`` redirects, ``/loop`` for ever; any other path echoes."""

    secret: str
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> Verifier:
        verifier = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def _handle(self) -> None:
                verifier.answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _handle  # noqa: N815 - http.server's names

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: object) -> None:
                """Clients may go away before they have the whole answer: that is tested, not told."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = _read_body(handler)
        headers = dict(handler.headers.items())
        problem = self.verify(handler.command, handler.path, headers, body)
        self.seen.append(Seen(handler.command, handler.path, headers, body, problem is None))
        status, reply, extra = 200, b"", {}
        query = parse_qs(urlsplit(handler.path).query)
        if problem is not None:
            status = 403
            reply = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{problem}</Message></Error>".encode()
            extra = {"Content-Type": "application/xml"}
        elif urlsplit(handler.path).path == "/loop":
            status, extra = 307, {"Location": "/loop"}
        elif urlsplit(handler.path).path == "/redirect" and "to" in query:
            status, extra = int(query.get("code", ["307"])[0]), {"Location": query["to"][0]}
        else:
            reply = json.dumps({"method": handler.command, "path": handler.path, "size": len(body)}).encode()
        handler.send_response(status)
        for name, value in {**extra, "Content-Length": str(len(reply))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(reply)

    def verify(self, method: str, path: str, headers: dict[str, str], body: bytes) -> str | None:
        """Returns what is wrong with a signature; None if it is right."""
        given = {name.lower(): value for name, value in headers.items()}
        authorization = given.get("authorization", "")
        if not authorization.startswith("AWS4-HMAC-SHA256 "):
            return "not signed"
        parts = dict(part.strip().split("=", 1) for part in authorization.partition(" ")[2].split(","))
        access_key_id, date, region, service, _ = parts["Credential"].split("/")
        names = parts["SignedHeaders"].split(";")
        if access_key_id != ACCESS_KEY_ID or "host" not in names or any(name not in given for name in names):
            return "wrong access key id or headers"
        if any(name.startswith("x-amz-") and name not in names for name in given):
            return "an x-amz header is not signed"
        sent = datetime.strptime(given["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        if abs((datetime.now(timezone.utc) - sent).total_seconds()) > 900 or not given["x-amz-date"].startswith(date):
            return "wrong time"
        content = given.get("x-amz-content-sha256")
        if content not in (None, "UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
            return "the payload has another hash"
        # Servers decode what arrives and encode it once (the query always, the path for S3); botocore's classes
        # take both as they stand.
        path, _, query = path.partition("?")
        query = urlencode(parse_qsl(query, keep_blank_values=True), quote_via=quote, safe="-_.~")
        if service == "s3":
            path = quote(unquote(path), safe="/-_.~")
        url = f"http://{given['host']}{path}?{query}"
        request: Any = AWSRequest(method, url, {name: given[name] for name in names}, body)
        request.context["timestamp"] = given["x-amz-date"]
        kind = S3SigV4Auth if service == "s3" else SigV4Auth
        auth: Any = kind(Credentials(access_key_id, self.secret), service, region)
        to_sign = auth.string_to_sign(request, auth.canonical_request(request))
        right = hmac.compare_digest(auth.signature(to_sign, request), parts["Signature"])
        return None if right else "another signature"


def _read_body(handler: BaseHTTPRequestHandler) -> bytes:
    if "chunked" in handler.headers.get("Transfer-Encoding", ""):
        body = b""
        while size := int(handler.rfile.readline().partition(b";")[0], 16):
            body += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
        return body
    return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
