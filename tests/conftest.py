"""Fixtures for all tests; those of devices come with the package, as a user gets them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

import pytest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Sequence

pytest_plugins = ["aws_hmac.testing", "tests.transit_server.fixtures"]

ACCOUNT = "123456789012"
"""The account that moto plays."""


class AccessKey(NamedTuple):
    """An IAM user's long-lived access key."""

    access_key_id: str
    secret_access_key: str
    user_name: str


class MotoServer:
    """A moto server in a process of its own, which verifies every signature and IAM policy action.

    What it cannot do: GetSessionToken answers hard-coded credentials that nothing accepts; presigned URLs and
    POSTs are not checked; dates are not looked at.

    Attributes:
        url: where it listens, as ``http://127.0.0.1:40123``.
        admin: the key of a user who may do everything.
        ca_bundle: for https the certificate to trust, else None.
    """

    def __init__(self, url: str, admin: AccessKey, ca_bundle: str | None = None) -> None:
        self.url = url
        self.admin = admin
        self.ca_bundle = ca_bundle

    def client(
        self,
        service: str,
        key: AccessKey | None = None,
        *,
        session_token: str | None = None,
        region: str = "us-east-1",
        **options: Any,
    ) -> Any:
        """Returns a stock boto3 client, signed with ``key`` (the administrator's if None)."""
        import boto3

        key = key or self.admin
        return boto3.session.Session().client(
            service,  # type: ignore[call-overload] # boto3-stubs wants a literal service name
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id=key.access_key_id,
            aws_secret_access_key=key.secret_access_key,
            aws_session_token=session_token,
            verify=self.ca_bundle,
            **options,
        )

    def create_user(self, actions: Sequence[str] = ("*",), *, name: str | None = None) -> AccessKey:
        """Creates an IAM user who may do ``actions``, with a key that the server made."""
        iam = self.client("iam")
        name = name or f"user-{uuid.uuid4().hex[:12]}"
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="test", PolicyDocument=_policy(actions))
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return AccessKey(made["AccessKeyId"], made["SecretAccessKey"], name)

    def create_role(self, actions: Sequence[str] = ("*",), *, name: str | None = None) -> str:
        """Creates a role that every identity of the account may assume, and which may do ``actions``; its ARN."""
        iam = self.client("iam")
        name = name or f"role-{uuid.uuid4().hex[:12]}"
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession"], "Principal": {"AWS": "*"}}
            ],
        }
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
        iam.put_role_policy(RoleName=name, PolicyName="test", PolicyDocument=_policy(actions))
        return str(role["Arn"])


def _policy(actions: Sequence[str]) -> str:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _start_moto(arguments: Sequence[str] = (), ca_bundle: str | None = None) -> Iterator[MotoServer]:
    # The administrator is made by the first three calls, the only ones that go unverified.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MOTO_"))}
    environment["INITIAL_NO_AUTH_ACTION_COUNT"] = "3"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    drain = None
    try:
        said = b""
        for line in process.stderr:
            said += line
            if found := re.search(rb"Running on (https?://127\.0\.0\.1:\d+)", line):
                break
        else:
            raise AssertionError(f"moto did not start: {said.decode(errors='replace')[-2000:]}")
        # Its log must be read, or the pipe fills and the server stops.
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        server = MotoServer(found[1].decode(), AccessKey("AKIAINITIALEXAMPLE00", "initial", "admin"), ca_bundle)
        iam = server.client("iam")
        for _ in range(100):
            try:
                iam.create_user(UserName="admin")
                break
            except iam.exceptions.EntityAlreadyExistsException:
                break
            except Exception as exc:
                if "Could not connect" not in str(exc):
                    raise
                time.sleep(0.05)
        iam.put_user_policy(UserName="admin", PolicyName="admin", PolicyDocument=_policy(["*"]))
        made = iam.create_access_key(UserName="admin")["AccessKey"]
        server.admin = AccessKey(made["AccessKeyId"], made["SecretAccessKey"], "admin")
        yield server
    finally:
        process.terminate()
        process.wait(10)
        if drain is not None:
            drain.join(10)
        process.stderr.close()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    """A local AWS over http that verifies signatures; one for all tests of a process."""
    yield from _start_moto()


@pytest.fixture(scope="session")
def moto_server_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    """The same over https; its ``ca_bundle`` must be trusted."""
    import trustme

    folder: Path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    (folder / "server.pem").write_bytes(chain)
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    yield from _start_moto(
        ["-s", "-c", str(folder / "server.pem"), "-k", str(folder / "server.key")], str(folder / "ca.pem")
    )


@pytest.fixture(scope="session", autouse=True)
def own_files_untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test may change ~/.aws or the session cache of whoever runs it: `aws_home` gives it a home of its own."""

    def state() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in sorted((Path.home() / ".aws").glob("c*"))}

    before = state()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
            folder = tmp_path_factory.mktemp(name.lower())
            folder.chmod(0o700)
            patch.setenv(name, str(folder))
        yield
    assert state() == before, "a test has changed ~/.aws; it lacks the fixture aws_home"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Installs the backend of tests/toy, here and for child processes; returns a folder for its keys."""
    folder = tmp_path / "toys"
    folder.mkdir()
    home = str(Path(__file__).parent / "toy")
    monkeypatch.syspath_prepend(home)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("TOY_FOLDER", str(folder))
    return folder


@pytest.fixture
def aws_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home, no AWS_ variable set; returns its .aws folder, which is not there yet."""
    for name in [n for n in os.environ if n.startswith("AWS_") and n != "AWS_HMAC_REQUIRE"]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))
    return home / ".aws"


class StsRequest(NamedTuple):
    """What a `ScriptedSts` was sent."""

    headers: dict[str, str]
    parameters: dict[str, str]


class ScriptedSts:
    """An STS on loopback that verifies nothing and answers what a test wants: for errors, clocks and counts.

    Attributes:
        url: where it listens.
        requests: what came.
        answers: what the next calls get, in order: (status, headers, body); after that new credentials.
        lifetime: seconds that these live.
        delay: seconds that each answer takes.
    """

    def __init__(self) -> None:
        self.requests: list[StsRequest] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.lifetime = 3600
        self.delay = 0.0
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or each answer over TLS waits 40 ms for an acknowledgement

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                parameters = dict(parse_qsl(body, keep_blank_values=True))
                scripted.requests.append(StsRequest(dict(self.headers.items()), parameters))
                time.sleep(scripted.delay)
                status, headers, answer = scripted.answers.pop(0) if scripted.answers else scripted.credentials()
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def use_tls(self, context: ssl.SSLContext) -> None:
        """Speaks TLS from now on; ``url`` then begins with https."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def credentials(self, *, lifetime: int | None = None) -> tuple[int, dict[str, str], bytes]:
        """Returns an answer with credentials of their own, for whatever the last request asked."""
        number = len(self.requests)
        action = self.requests[-1].parameters["Action"] if self.requests else "AssumeRole"
        moment = time.gmtime(time.time() + (self.lifetime if lifetime is None else lifetime))
        user = "<AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/r/s</Arn></AssumedRoleUser>"
        return 200, {}, (
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>{user}<Credentials>'
            f"<AccessKeyId>ASIAEXAMPLE{number:09}</AccessKeyId><SecretAccessKey>secret-{number}</SecretAccessKey>"
            f"<SessionToken>token-{number}</SessionToken>"
            f"<Expiration>{time.strftime('%Y-%m-%dT%H:%M:%SZ', moment)}</Expiration>"
            f"</Credentials></{action}Result></{action}Response>"
        ).encode()  # fmt: skip

    def refuse(
        self, code: str, message: str = "", *, status: int = 400, times: int = 1, headers: dict[str, str] | None = None
    ) -> None:
        """Makes the next calls fail as STS would."""
        body = (
            '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
            f"<Code>{code}</Code><Message>{message}</Message></Error><RequestId>request-1</RequestId></ErrorResponse>"
        )
        self.answers += [(status, headers or {}, body.encode())] * times

    def stop(self) -> None:
        """Ends it; its port then refuses connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def scripted_sts() -> Iterator[ScriptedSts]:
    """An STS that answers what the test wants."""
    server = ScriptedSts()
    yield server
    server.stop()


class S3Store:
    """An S3-compatible store without STS: rclone's S3 server, which verifies signatures by code of its own.

    Attributes:
        url: where it listens.
        access_key_id: of the one key that it knows.
        secret_access_key: longer than those of AWS.
    """

    def __init__(self, url: str, access_key_id: str, secret_access_key: str) -> None:
        self.url = url
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    """An S3-compatible store; one for all tests of a process."""
    folder: Path = tmp_path_factory.mktemp("rclone")
    access_key_id, secret = "store-key", "long/secret+" + "0123456789abcdef" * 6  # 108 characters
    process = subprocess.Popen(
        [os.path.join(os.path.dirname(sys.executable), "rclone"), "serve", "s3", "--addr", "127.0.0.1:0",  # noqa: PTH118, PTH120
         "--config", os.devnull, str(folder)],
        env={**os.environ, "RCLONE_AUTH_KEY": f'"{access_key_id},{secret}"'},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    drain = None
    try:
        said = b""
        for line in process.stderr:
            said += line
            if found := re.search(rb"Starting s3 server on \[(http://127\.0\.0\.1:\d+)/\]", line):
                break
        else:
            raise AssertionError(f"rclone did not start: {said.decode(errors='replace')[-2000:]}")
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        yield S3Store(found[1].decode(), access_key_id, secret)
    finally:
        process.terminate()
        process.wait(10)
        if drain is not None:
            drain.join(10)
        process.stderr.close()
