"""``python -m tests.transit_server``: the nodes' HTTP listeners and the double's own control address."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import secrets
import ssl
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.transit_server.core import Core, Request
from tests.transit_server.transit import RefusedError, use_wrapping_key

HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in</body></html>"
NO_LEADER = "local node not active but active cluster node not found"


@dataclass
class Node:
    number: int
    address: str = ""
    port: int = 0
    server: asyncio.Server | None = None
    sealed: bool = False
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    requests: int = 0


class DroppedError(Exception):
    """The connection is to be closed without an answer."""


class Cluster:
    """Nodes that share one core; one of them is active."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.root_token = "hvs.root" + secrets.token_urlsafe(16)
        self.core = Core(self.root_token)
        self.nodes = [Node(n) for n in range(options.nodes)]
        self.active: Node | None = self.nodes[0]
        self.forwarding = True
        self.product = options.product
        self.faults: list[dict[str, Any]] = []
        self.tls: ssl.SSLContext | None = None
        if options.cert:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(options.cert, options.key)
            if options.client_ca:
                self.tls.load_verify_locations(options.client_ca)
                self.tls.verify_mode = ssl.CERT_REQUIRED if options.require_client else ssl.CERT_OPTIONAL

    # -- nodes -------------------------------------------------------------------------------------------------

    async def start(self, node: Node) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            node.writers.add(writer)
            try:
                await self.connection(node, reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, DroppedError, TimeoutError):
                pass
            finally:
                node.writers.discard(writer)
                with contextlib.suppress(Exception):
                    writer.transport.abort()

        node.server = await asyncio.start_server(serve, "127.0.0.1", node.port, ssl=self.tls, backlog=512)
        node.port = node.server.sockets[0].getsockname()[1]
        node.address = f"{'https' if self.tls else 'http'}://127.0.0.1:{node.port}"

    def kill(self, node: Node) -> None:
        """As ``kill -9``: the listener and every connection are gone, whatever they were doing."""
        if node.server is not None:
            node.server.close()
            node.server = None
        for writer in list(node.writers):
            writer.transport.abort()

    def elect(self, delay: float) -> None:
        """The active node is lost; another takes over after a while."""
        lost, self.active = self.active, None

        def choose() -> None:
            up = [n for n in self.nodes if n.server is not None and not n.sealed]
            if self.active is None and up:
                self.active = next((n for n in up if n is not lost), up[0])

        asyncio.get_running_loop().call_later(delay, choose)

    # -- requests ----------------------------------------------------------------------------------------------

    async def connection(self, node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = None
        if self.tls is not None:
            peer = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        while True:
            first = await reader.readexactly(1)
            if first == b"\x16":  # a TLS handshake on a listener without TLS; so does Go's server answer
                writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n")
                await writer.drain()
                return
            head = first + await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ", 2)
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:]) if k}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            node.requests += 1
            status, extra, answer = await self.answer(node, method, target, headers, body, peer)
            if node.server is None:
                raise DroppedError
            extra = {"Content-Type": "application/json", "Cache-Control": "no-store", **extra}
            text = "".join(f"{k}: {v}\r\n" for k, v in extra.items())
            writer.write(
                f"HTTP/1.1 {status} -\r\n{text}Content-Length: {len(answer)}\r\n\r\n".encode()
                + (b"" if method == "HEAD" else answer)
            )
            await writer.drain()

    async def answer(
        self, node: Node, method: str, target: str, headers: dict[str, str], raw: bytes, peer: bytes | None
    ) -> tuple[int, dict[str, str], bytes]:
        url = urlsplit(target)
        query = parse_qs(url.query)
        path = unquote(url.path).removeprefix("/v1/").strip("/")
        fault = self.fault(node, path, method)
        kind = fault.get("kind")
        if kind == "html":
            return int(fault.get("status", 200)), {"Content-Type": "text/html"}, HTML
        if kind == "status":
            return int(fault["status"]), fault.get("headers", {}), json.dumps({"errors": fault["errors"]}).encode()
        if kind == "raw":
            return int(fault.get("status", 200)), fault.get("headers", {}), fault["body"].encode()
        if kind == "hang":
            await asyncio.sleep(float(fault["seconds"]))
        if path in ("sys/health", "sys/seal-status", "sys/leader"):
            return self.local(node, path)
        if node.sealed:
            return self.error(503, f"{self.product} is sealed")
        if node is not self.active:
            if self.active is None:
                return self.error(500, NO_LEADER)
            if not self.forwarding:
                return 307, {"Location": self.active.address + target}, b""
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            return self.error(400, "failed to parse JSON input: invalid character")
        if method == "GET" and query.get("list") == ["true"]:
            method = "LIST"
        request = Request(
            method,
            path,
            body,
            headers.get("x-vault-token", ""),
            headers.get("x-vault-namespace", "").strip("/"),
            int(headers.get("x-vault-wrap-ttl", "0").rstrip("s")),
            peer,
        )
        try:
            answer = self.core.handle(request)
        except RefusedError as exc:
            extra = {"Retry-After": "1"} if exc.status == 429 else {}
            return exc.status, extra, json.dumps({"errors": [exc.text] if exc.text else []}).encode()
        if kind == "drop":
            raise DroppedError
        if answer is None:
            return 204, {}, b""
        if kind == "mac":
            answer["data"]["hmac"] = self.spoil(answer["data"]["hmac"], fault["how"])
        return 200, {}, json.dumps(answer).encode()

    def fault(self, node: Node, path: str, method: str) -> dict[str, Any]:
        for fault in self.faults:
            if (
                path.startswith(fault.get("path", ""))
                and fault.get("node", node.number) == node.number
                and fault.get("method", method) == method
            ):
                if fault.get("skip", 0):
                    fault["skip"] -= 1
                    continue
                fault["times"] = fault.get("times", 1) - 1
                if fault["times"] <= 0:
                    self.faults.remove(fault)
                return fault
        return {}

    @staticmethod
    def spoil(text: str, how: str) -> str:
        prefix, version, mac = text.split(":")
        return {
            "version": f"{prefix}:v{int(version[1:]) + 1}:{mac}",
            "prefix": f"other:{version}:{mac}",
            "base64": f"{prefix}:{version}:!{mac[1:]}",
            "short": f"{prefix}:{version}:{base64.b64encode(base64.b64decode(mac)[:31]).decode()}",
            "fields": mac,
            "padding": f"{prefix}:{version}:{mac.rstrip('=')}",
            "flip": f"{prefix}:{version}:{base64.b64encode(bytes(b ^ 1 for b in base64.b64decode(mac))).decode()}",
        }[how]

    @staticmethod
    def error(status: int, text: str) -> tuple[int, dict[str, str], bytes]:
        return status, {}, json.dumps({"errors": [text]}).encode()

    def local(self, node: Node, path: str) -> tuple[int, dict[str, str], bytes]:
        standby = node is not self.active
        if path == "sys/leader":
            leader = self.active.address if self.active else ""
            answer: dict[str, Any] = {
                "ha_enabled": len(self.nodes) > 1,
                "is_self": not standby,
                "leader_address": leader,
            }
            return 200, {}, json.dumps(answer).encode()
        if path == "sys/seal-status":
            return 200, {}, json.dumps({"type": "shamir", "initialized": True, "sealed": node.sealed}).encode()
        answer = {
            "initialized": True,
            "sealed": node.sealed,
            "standby": standby,
            "performance_standby": False,
            "server_time_utc": int(time.time()),
            "version": "1.0.0-double",
        }
        return 503 if node.sealed else 429 if standby else 200, {}, json.dumps(answer).encode()

    # -- control, the double's own -----------------------------------------------------------------------------

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One JSON line in, one out, as often as asked."""
        while line := await reader.readline():
            order = json.loads(line)
            answer: Any = None
            match order.pop("do"):
                case "kill":
                    node = self.nodes[order["node"]]
                    self.kill(node)
                    if node is self.active:
                        self.elect(order.get("election", 0.5))
                case "start":
                    node = self.nodes[order["node"]]
                    if node.server is None:
                        await self.start(node)
                    if self.active is None:
                        self.elect(0)
                case "seal":
                    node = self.nodes[order["node"]]
                    node.sealed = bool(order.get("sealed", True))
                    if node is self.active:
                        self.elect(order.get("election", 0.0))
                    elif self.active is None:
                        self.elect(0)
                case "leaderless":
                    self.active = None
                case "elect":
                    self.active = self.nodes[order["node"]]
                case "forwarding":
                    self.forwarding = bool(order["on"])
                case "product":
                    self.product = order["name"]
                case "fault":
                    self.faults.append(order)
                case "heal":
                    self.faults.clear()
                case "expire":
                    self.core.tokens.pop(order["token"], None)
                case "status":
                    answer = {
                        "active": self.active.number if self.active else None,
                        "requests": [n.requests for n in self.nodes],
                        "logins": self.core.logins,
                    }
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()


async def main() -> None:
    """Runs until standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m tests.transit_server", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--product", default="Vault")
    parser.add_argument("--cert", help="serve HTTPS with this certificate")
    parser.add_argument("--key", help="its key")
    parser.add_argument("--client-ca", help="accept client certificates of this authority")
    parser.add_argument(
        "--wrapping-key", action="store_true", help="the first line of standard input is one, in base64"
    )
    parser.add_argument("--require-client", action="store_true", help="refuse connections without one")
    cluster = Cluster(parser.parse_args())
    if cluster.options.wrapping_key:
        use_wrapping_key(base64.b64decode(sys.stdin.readline()))
    for node in cluster.nodes:
        await cluster.start(node)
    control = await asyncio.start_server(cluster.control, "127.0.0.1", 0)
    ready = {
        "addresses": [n.address for n in cluster.nodes],
        "root_token": cluster.root_token,
        "control": control.sockets[0].getsockname()[1],
    }
    print(json.dumps(ready), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)  # connections and timers need no farewell


if __name__ == "__main__":
    asyncio.run(main())
