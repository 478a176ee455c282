"""CPU of a client call, signed by the device, against stock botocore; the transport is mocked.

Both take turns, and the best of many rounds counts, so that what else the machine does falls on both.
"""

from __future__ import annotations

import gc
import hmac
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
CALLS = 10
ROUNDS = 250


def _put_item(client: Any) -> None:
    client.put_item(TableName="t", Item={"id": {"S": "1"}, "data": {"S": "x" * 100}})


def _get_object(client: Any) -> None:
    client.get_object(Bucket="bucket-name", Key="some/key.txt")


CALLED: dict[str, tuple[str, Callable[[Any], None]]] = {
    "dynamodb PutItem": ("dynamodb", _put_item),
    "s3 GetObject": ("s3", _get_object),
}


def measure(name: str) -> tuple[float, float, int]:
    """Returns CPU seconds of one call, stock and direct; and how often the device was asked."""
    service, call = CALLED[name]
    stock, direct, asked = _clients(service)
    for client in (stock, direct):
        _seconds(call, client)
    times: list[tuple[float, float]] = []
    gc.disable()  # its pauses would fall on one of the two
    for number in range(ROUNDS):
        order = (stock, direct) if number % 2 else (direct, stock)
        taken = {id(client): _seconds(call, client) for client in order}
        times.append((taken[id(stock)], taken[id(direct)]))
        if not number % 50:
            gc.collect()
    gc.enable()
    return min(pair[0] for pair in times), min(pair[1] for pair in times), len(asked)


def main() -> bool:
    """Prints a line for each call, without and with awscrt; returns whether one missed the goal."""
    missed = False
    for crt in ("without", "with"):
        for name in CALLED:
            code = f"from tests.bench.direct import measure; print(*measure({name!r}))"
            environment = {"PATH": "/usr/bin:/bin", "BOTO_DISABLE_CRT": str(crt == "without").lower()}
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
            )
            stock, direct, asked = (float(word) for word in done.stdout.split())
            missed |= direct > stock
            print(
                f"{name}, botocore {crt} awscrt: stock {stock * 1e6:.0f} µs, direct {direct * 1e6:.0f} µs CPU:"
                f" {direct / stock:.2f} (goal ≤ 1.0); {asked:.0f} device calls for {CALLS * (ROUNDS + 1)} requests"
            )
    return missed


def _clients(service: str) -> tuple[Any, Any, list[bytes]]:
    import botocore.session
    from botocore.awsrequest import AWSResponse
    from botocore.compat import HTTPHeaders

    from aws_hmac import HmacBackend, Signer
    from aws_hmac.botocore import install

    asked: list[bytes] = []

    class Key(HmacBackend):
        def hmac_sha256(self, message: bytes, /) -> bytes:
            asked.append(message)
            return hmac.digest(b"AWS4" + SECRET.encode(), message, "sha256")

    class Raw:
        def stream(self, *_: object, **__: object) -> Any:
            return iter([b"{}"])

    def answer(request: Any, **_: object) -> Any:
        return AWSResponse(request.url, 200, HTTPHeaders(), Raw())

    clients = []
    for direct in (False, True):
        session = botocore.session.Session()
        if direct:
            install(session, signer=Signer("AKIAIOSFODNN7EXAMPLE", Key()), mode="direct")
        else:
            session.set_credentials("AKIAIOSFODNN7EXAMPLE", SECRET)
        client = session.create_client(service, "eu-west-1")
        client.meta.events.register("before-send", answer)
        clients.append(client)
    return clients[0], clients[1], asked


def _seconds(call: Callable[[Any], None], client: Any) -> float:
    start = time.process_time()
    for _ in range(CALLS):
        call(client)
    return (time.process_time() - start) / CALLS


if __name__ == "__main__":
    sys.exit(main())
