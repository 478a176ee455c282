"""The commands sign, presign, curl and explain against a server that verifies."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests

from aws_hmac.cli import main
from tests.integration.test_requests import SECRET
from tests.verifier import ACCESS_KEY_ID, Verifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import MotoServer

KEY = ["--key", "memory:env=TEST_SECRET", "--access-key-id", ACCESS_KEY_ID]
SCOPE = ["--service", "execute-api", "--region", "eu-west-1"]


@pytest.fixture
def verifier() -> Iterator[Verifier]:
    with Verifier(SECRET) as verifier:
        yield verifier


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEST_SECRET", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr("aws_hmac_backends.memory._warned", True)  # it warns once a process, whichever test is first


def test_sign(verifier: Verifier, capfd: pytest.CaptureFixture[str]) -> None:
    url = f"{verifier.url}/a?b=c"
    assert main(["sign", *KEY, *SCOPE, "-X", "PUT", "-H", "X-Amz-A: 1", "-d", "body", "--json", url]) == 0
    headers = json.loads(capfd.readouterr().out)
    assert requests.put(url, headers=headers, data=b"body", timeout=10).status_code == 200
    assert requests.put(url, headers=headers, data=b"bodY", timeout=10).status_code == 403
    assert main(["sign", *KEY, *SCOPE, url]) == 0
    lines = dict(line.split(": ", 1) for line in capfd.readouterr().out.splitlines())
    assert requests.get(url, headers=lines, timeout=10).status_code == 200


def test_sign_by_a_profile(verifier: Verifier, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    block = f"aws_hmac =\n  key = memory:env=TEST_SECRET\n  access_key_id = {ACCESS_KEY_ID}\n"
    (tmp_path / "config").write_text(f"[profile prod]\nregion = eu-west-1\n{block}")
    url = f"{verifier.url}/a"
    assert main(["sign", "--profile", "prod", "--service", "s3", "--json", url]) == 0
    out, err = capfd.readouterr()
    assert "region eu-west-1 (from the profile)" in err
    assert requests.get(url, headers=json.loads(out), timeout=10).status_code == 200


def test_service_and_region_are_guessed_and_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", *KEY, "https://bucket.s3.eu-west-1.amazonaws.com/key"]) == 0
    out, err = capfd.readouterr()
    assert "service s3, region eu-west-1 (from the host)" in err
    assert "/eu-west-1/s3/aws4_request" in out


def test_presign_is_botocores(capfd: pytest.CaptureFixture[str]) -> None:
    import botocore.auth
    import botocore.awsrequest
    import botocore.credentials

    url = "https://bucket.s3.eu-west-1.amazonaws.com/key"
    assert main(["presign", *KEY, "--expires", "60", "--at", "2026-01-31T12:00:00Z", url]) == 0
    ours = capfd.readouterr().out.strip()
    request = botocore.awsrequest.AWSRequest("GET", url)
    credentials = botocore.credentials.Credentials(ACCESS_KEY_ID, SECRET)
    auth: Any = botocore.auth.S3SigV4QueryAuth(credentials, "s3", "eu-west-1", 60)
    request.context["timestamp"] = "20260131T120000Z"
    auth._modify_request_before_signing(request)
    canonical = auth.canonical_request(request)
    signature = auth.signature(auth.string_to_sign(request, canonical), request)
    assert ours == f"{request.url}&X-Amz-Signature={signature}"


@pytest.mark.parametrize("arguments", [["--expires", "0"], ["--expires", "604801"], ["--at", "yesterday"]])
def test_presign_refuses(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["presign", *KEY, *arguments, "https://bucket.s3.amazonaws.com/key"]) == 1
    assert arguments[0].removeprefix("--") in capfd.readouterr().err


def test_curl(verifier: Verifier, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    assert main(["curl", *KEY, *SCOPE, f"{verifier.url}/a b?c=d e"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["method"] == "GET"
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    out = tmp_path / "out"
    assert main(["curl", *KEY, *SCOPE, "-T", str(tmp_path / "file"), "-o", str(out), f"{verifier.url}/up"]) == 0
    assert json.loads(out.read_bytes()) == {"method": "PUT", "path": "/up", "size": 100_000}
    assert main(["curl", *KEY, *SCOPE, "-d", f"@{tmp_path / 'file'}", "-i", f"{verifier.url}/post"]) == 0
    head, _, body = capfdbinary.readouterr().out.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(body)["method"] == "POST"
    assert verifier.seen[-1].headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert main(["curl", *KEY, *SCOPE, "-I", verifier.url]) == 0
    assert capfdbinary.readouterr().out.startswith(b"HTTP/1.1 200 OK\r\n")
    assert main(["curl", *KEY, *SCOPE, "--unsigned-payload", verifier.url]) == 0
    assert verifier.seen[-1].headers["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"
    assert all(seen.verified for seen in verifier.seen)


def test_curl_follows_redirects_when_asked(verifier: Verifier, capfd: pytest.CaptureFixture[str]) -> None:
    url = f"{verifier.url}/redirect?to={quote('/there', safe='')}"
    assert main(["curl", *KEY, *SCOPE, "-L", url]) == 0
    assert json.loads(capfd.readouterr().out)["path"] == "/there"
    assert main(["curl", *KEY, *SCOPE, "-i", url]) == 0
    assert "HTTP/1.1 307" in capfd.readouterr().out


def test_curl_wrong_key_is_refused(
    verifier: Verifier, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SECRET", "wrong")
    assert main(["curl", *KEY, *SCOPE, verifier.url]) == 0
    assert "SignatureDoesNotMatch" in capfd.readouterr().out
    assert main(["curl", *KEY, *SCOPE, "-f", verifier.url]) == 22
    out, err = capfd.readouterr()
    assert not out
    assert "403" in err


def test_curl_exit_statuses_are_curls(verifier: Verifier, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        cases = [
            (3, ["not-a-url"]),
            (6, ["http://no-such-host.invalid/"]),
            (7, [closed]),
            (23, ["-o", "/no/such/folder/file", verifier.url]),
            (47, ["-L", f"{verifier.url}/loop"]),
            (35, [verifier.url.replace("http:", "https:")]),
        ]
        for status, arguments in cases:
            assert main(["curl", *KEY, *SCOPE, *arguments]) == status, arguments
            err = capfd.readouterr().err
            assert err.startswith("aws-hmac: ")
            assert err.count("\n") == 1
        taken.listen()
        assert main(["curl", *KEY, *SCOPE, "-m", "0.2", closed]) == 28


def test_curl_reads_standard_input(verifier: Verifier) -> None:
    command = [sys.executable, "-c", "import sys; from aws_hmac.cli import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, "curl", *KEY, *SCOPE, "-d", "@-", verifier.url],
        input=b"a pipe",
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["size"] == 6


def test_explain(capfd: pytest.CaptureFixture[str]) -> None:
    url = "https://bucket.s3.eu-west-1.amazonaws.com/key"
    assert main(["explain", *KEY, "--at", "20260131T120000Z", url]) == 0
    out = capfd.readouterr().out
    for text in ("canonical request", "  GET\n", "string to sign", "20260131/eu-west-1/s3/aws4_request", "kDate"):
        assert text in out
    assert SECRET not in out
    assert main(["explain", *KEY, "--presign", "60", "--json", url]) == 0
    assert "X-Amz-Expires=60" in json.loads(capfd.readouterr().out)["canonical_request"]


def test_explain_against(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    url = "https://bucket.s3.eu-west-1.amazonaws.com/key"
    arguments = ["explain", *KEY, "--at", "20260131T120000Z", "--json", url]
    assert main(arguments) == 0
    ours = json.loads(capfd.readouterr().out)
    saw = ours["canonical_request"].replace("host:bucket.s3.eu-west-1.amazonaws.com", "host:internal:8080")
    answer = tmp_path / "answer.xml"
    answer.write_text(
        "HTTP/1.1 403 Forbidden\r\nServer: x\r\n\r\n<Error><Code>SignatureDoesNotMatch</Code><Message>m</Message>"
        f"<CanonicalRequest>{saw}</CanonicalRequest><StringToSign>{ours['string_to_sign']}</StringToSign></Error>"
    )
    assert main(["explain", *KEY, "--against", str(answer), url]) == 1
    out = capfd.readouterr().out
    assert "header host: ours bucket.s3.eu-west-1.amazonaws.com, the server's internal:8080" in out
    assert "time:" not in out, "the request is explained for the time at which the server saw it signed"
    # A server's words are shown, not obeyed.
    message = f"\x1b]0;x\x07\x9b31m\nThe Canonical String for this request should have been\n'{saw}\x1b[2J'\n"
    answer.write_text(json.dumps({"__type": "InvalidSignatureException\x1b[31m", "message": message}))
    assert main(["explain", *KEY, "--against", str(answer), url]) == 1
    out = capfd.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert r"\x1b]0;x\x07\x9b31m" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sign", "--key", "memory:env=TEST_SECRET", "https://iam.amazonaws.com/"], "--access-key-id"),
        (["sign", *KEY, "--profile", "x", "https://iam.amazonaws.com/"], "not both"),
        (["sign", *KEY, "https://example.com/"], "--service"),
        (["sign", *KEY, "--service", "s3", "https://example.com/"], "--region"),
        (["sign", *KEY, *SCOPE, "-H", "no colon", "https://example.com/"], "-H"),
        (["sign", *KEY, *SCOPE, "-H", "A: b\r\nC: d", "https://example.com/"], "line end"),
        (["sign", *KEY, *SCOPE, "-X", "G T", "https://example.com/"], "method"),
        (["sign", *KEY, *SCOPE, "-d", "@/no/such/file", "https://example.com/"], "/no/such/file"),
        (["sign", "--profile", "none", *SCOPE, "https://example.com/"], "aws-hmac configure"),
        (["explain", *KEY, *SCOPE, "--against", "/dev/null", "https://example.com/"], "no error answer"),
    ],
)
def test_wrong_use(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    err = capfd.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_curl_by_a_profile_with_a_role_is_signed_by_the_role(
    moto_server: MotoServer, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = moto_server.create_user(["sts:*"])
    monkeypatch.setenv("TEST_SECRET", user.secret_access_key)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    block = (
        f"key = memory:env=TEST_SECRET\n  access_key_id = {user.access_key_id}\n  endpoint_url = {moto_server.url}\n"
    )
    role = f"  role_arn = {moto_server.create_role()}\n  role_session_name = me\n"
    (tmp_path / "config").write_text(
        f"[profile user]\nregion = us-east-1\naws_hmac =\n  {block}"
        f"[profile role]\nregion = us-east-1\naws_hmac =\n  {block}{role}"
    )
    url = f"{moto_server.url}/?Action=GetCallerIdentity&Version=2011-06-15"
    # moto takes the query for the body's hash, unless a header says what that is.
    content = f"x-amz-content-sha256: {hashlib.sha256(b'').hexdigest()}"
    for profile, arn in (("user", f":user/{user.user_name}<"), ("role", "/me<")):
        assert main(["curl", "--profile", profile, "--service", "sts", "-f", "-H", content, url]) == 0
        assert arn in capfd.readouterr().out
