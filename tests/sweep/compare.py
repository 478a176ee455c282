"""Every operation of every service, by stock botocore and by direct signing: the requests must be the same bytes.

``make sweep`` runs the whole, `tests/integration/test_direct_sweep.py` a part. At a frozen clock, with the same
generated parameters, two clients make their requests; what would go over the wire is compared: method, URL,
headers in their order, body. Each operation is made with its required parameters and with all of them, and
presigned. Known differences are in ``exceptions.txt``, each with its reason.
"""

from __future__ import annotations

import datetime
import fnmatch
import hashlib
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import botocore.session
import time_machine
from botocore.config import Config

from aws_hmac import Signer
from aws_hmac.botocore import METHOD, install
from aws_hmac.errors import SecurityWarning
from aws_hmac_backends.memory import MemoryBackend
from tests.sweep.parameters import parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sweep.parameters import Style

ACCESS_KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SECRET_OF_DIRECT = SECRET
"""Another one makes every signature differ."""
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
REGION = "us-west-2"
_UUIDS = [str(uuid.UUID(int=number)) for number in range(1, 50)]
EXCEPTIONS = Path(__file__).with_name("exceptions.txt")
CASES: tuple[tuple[str, Style], ...] = (
    ("required", "required"),
    ("everything", "everything"),
    ("presigned", "required"),
)


class Request(NamedTuple):
    """What goes over the wire."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def digest(self) -> str:
        """Returns a hash of all but the User-Agent, which names what is installed."""
        headers = [pair for pair in self.headers if pair[0].lower() != "user-agent"]
        return hashlib.sha256(repr((self.method, self.url, headers, self.body)).encode()).hexdigest()


class Result(NamedTuple):
    """One comparison.

    Attributes:
        name: ``service.Operation.case``.
        verdict: ``same``; ``different``; ``refused`` if only direct signing raised; ``unmade`` if stock botocore
            could not make a request of the parameters, and direct signing raised the same.
        detail: what differs, or was raised.
        digest: of the direct request.
    """

    name: str
    verdict: str
    detail: str = ""
    digest: str = ""


class _Captured(Exception):  # noqa: N818 - no error
    def __init__(self, request: Request) -> None:
        self.request = request


def services() -> list[str]:
    """Returns every service that botocore has a model of."""
    names: list[str] = botocore.session.Session().get_available_services()
    return sorted(names)


def sweep(service: str) -> Iterator[Result]:
    """Compares every operation of one service."""
    with warnings.catch_warnings(), time_machine.travel(NOW, tick=False):
        warnings.simplefilter("ignore", SecurityWarning)
        # The S3 of stock botocore presigns by Signature Version 2 unless told otherwise.
        config = Config(signature_version="s3v4" if service == "s3" else None, retries={"total_max_attempts": 1})
        stock, direct = (_client(service, config, direct=direct) for direct in (False, True))
        model = stock.meta.service_model
        for method, operation_name in sorted(stock.meta.method_to_api_mapping.items()):
            operation = model.operation_model(operation_name)
            for case, style in CASES:
                yield _compare(f"{service}.{operation_name}.{case}", stock, direct, method, operation, case, style)


def sweep_whole(service: str) -> list[Result]:
    """Returns what `sweep` yields."""
    return list(sweep(service))


def exceptions() -> dict[str, tuple[str, str]]:
    """Returns the known differences: pattern of the name to verdict and reason."""
    known = {}
    for line in EXCEPTIONS.read_text().splitlines():
        if line and not line.startswith("#"):
            pattern, verdict, reason = line.split(None, 2)
            known[pattern] = (verdict, reason)
    return known


def unexpected(results: list[Result]) -> list[Result]:
    """Returns the results that are neither the same nor a known difference."""
    known = exceptions()
    return [
        result
        for result in results
        if result.verdict not in ("same", "unmade")
        and not any(
            result.verdict == verdict and fnmatch.fnmatchcase(result.name, pattern)
            for pattern, (verdict, _) in known.items()
        )
    ]


def _client(service: str, config: Config, *, direct: bool) -> Any:
    session = botocore.session.Session()
    if direct:
        install(
            session, signer=Signer(ACCESS_KEY_ID, MemoryBackend(b"AWS4" + SECRET_OF_DIRECT.encode())), mode="direct"
        )
    else:
        session.set_credentials(ACCESS_KEY_ID, SECRET)
        credentials = session.get_credentials()
        assert credentials is not None
        credentials.method = METHOD  # the User-Agent tells it
    client = session.create_client(service, REGION, config=config)

    def capture(request: Any, **_: object) -> None:
        body = request.body
        if hasattr(body, "read"):
            body = body.read()
        raise _Captured(Request(request.method, request.url, _headers(request), _bytes(body)))

    client.meta.events.register_first("before-send", capture)
    return client


def _headers(request: Any) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, value.decode() if isinstance(value, bytes) else value) for name, value in request.headers.items()
    )


def _bytes(body: str | bytes | bytearray | None) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body or b"")


def _compare(name: str, stock: Any, direct: Any, method: str, operation: Any, case: str, style: Style) -> Result:
    for wild in (True, False):  # not every text passes botocore's own checks
        expected, seen = (
            _make(client, method, parameters(operation, style, wild=wild), presigned=case == "presigned")
            for client in (stock, direct)
        )
        if isinstance(expected, Request) or isinstance(seen, Request):
            break
    if isinstance(expected, Request) and isinstance(seen, Request):
        if expected == seen:
            return Result(name, "same", digest=seen.digest())
        parts = [part for part, a, b in zip(Request._fields, expected, seen, strict=True) if a != b]
        return Result(name, "different", f"{', '.join(parts)}: stock {expected}, direct {seen}", seen.digest())
    if isinstance(expected, Request):
        return Result(name, "refused", f"{type(seen).__name__}: {seen}")
    if isinstance(seen, Request):
        return Result(name, "different", f"only stock raised {type(expected).__name__}: {expected}", seen.digest())
    same = type(expected) is type(seen) and str(expected) == str(seen)
    return Result(name, "unmade" if same else "different", f"{type(expected).__name__}: {expected}")


def _make(client: Any, method: str, given: dict[str, Any], *, presigned: bool) -> Request | Exception:
    with mock.patch.object(uuid, "uuid4", side_effect=map(uuid.UUID, _UUIDS)):
        try:
            if presigned:
                url = client.generate_presigned_url(method, Params=given)
                return Request("presigned", url, (), b"")
            getattr(client, method)(**given)
        except _Captured as captured:
            return captured.request
        except Exception as exc:  # noqa: BLE001 - compared
            return exc
    return AssertionError("nothing was sent")
