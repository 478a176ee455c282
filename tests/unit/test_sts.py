from __future__ import annotations

import copy
import email.utils
import pickle
import socket
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import botocore.loaders
import botocore.model
import botocore.serialize
import pytest

import aws_hmac._transport
from aws_hmac import ClockSkewWarning, ConfigError, Signer, STSError, sts
from aws_hmac_backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import ScriptedSts

pytestmark = pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")

ROLE = "arn:aws:iam::111122223333:role/deploy"
MFA = "arn:aws:iam::111122223333:mfa/me"
VARIABLES = (
    "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_STS_REGIONAL_ENDPOINTS", "AWS_USE_FIPS_ENDPOINT", "AWS_CA_BUNDLE",
    "AWS_USE_DUALSTACK_ENDPOINT", "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy",
)  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds slept between attempts; nobody really sleeps."""
    slept: list[float] = []
    monkeypatch.setattr("aws_hmac.sts.sleep", slept.append)
    return slept


@pytest.fixture
def signer() -> Signer:
    return Signer("AKIAIOSFODNN7EXAMPLE", MemoryBackend(b"AWS4secret"))


@pytest.fixture
def chained() -> Signer:
    return Signer("ASIAIOSFODNN7EXAMPLE", MemoryBackend(b"AWS4secret"), session_token="the-session-token")


def serialized(operation: str, parameters: dict[str, Any]) -> dict[str, str]:
    """What botocore would send."""
    loader = botocore.loaders.create_loader()
    model = botocore.model.ServiceModel(loader.load_service_model("sts", "service-2"))
    serializer = botocore.serialize.create_serializer("query")
    return dict(serializer.serialize_to_request(parameters, model.operation_model(operation))["body"])


EVERYTHING: dict[str, Any] = {
    "role_session_name": "me@work",
    "duration_seconds": 900,
    "external_id": "id/1:2",
    "policy": '{"Version": "2012-10-17", "Statement": []}',
    "policy_arns": ["arn:aws:iam::aws:policy/ReadOnlyAccess", "arn:aws:iam::111122223333:policy/a,b"],
    "tags": {"team": "infra & ops", "stage": "prod=1", "ü": ""},
    "transitive_tag_keys": ["team", "ü"],
    "source_identity": "alice",
    "mfa_serial": MFA,
    "token_code": "012345",
}


def test_every_parameter_of_assume_role(signer: Signer, scripted_sts: ScriptedSts) -> None:
    sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url, **EVERYTHING)
    assert scripted_sts.requests[0].parameters == {
        k: str(v)
        for k, v in serialized(
            "AssumeRole",
            {
                "RoleArn": ROLE,
                "RoleSessionName": "me@work",
                "DurationSeconds": 900,
                "ExternalId": "id/1:2",
                "Policy": EVERYTHING["policy"],
                "PolicyArns": [{"arn": arn} for arn in EVERYTHING["policy_arns"]],
                "Tags": [{"Key": k, "Value": v} for k, v in EVERYTHING["tags"].items()],
                "TransitiveTagKeys": EVERYTHING["transitive_tag_keys"],
                "SourceIdentity": "alice",
                "SerialNumber": MFA,
                "TokenCode": "012345",
            },
        ).items()
    }


def test_every_parameter_of_get_session_token(signer: Signer, scripted_sts: ScriptedSts) -> None:
    sts.get_session_token(
        signer, duration_seconds=129600, mfa_serial=MFA, token_code="654321", endpoint_url=scripted_sts.url
    )
    expected = serialized("GetSessionToken", {"DurationSeconds": 129600, "SerialNumber": MFA, "TokenCode": "654321"})
    assert scripted_sts.requests[0].parameters == {k: str(v) for k, v in expected.items()}


def test_an_hour_unless_asked(signer: Signer, scripted_sts: ScriptedSts) -> None:
    sts.get_session_token(signer, endpoint_url=scripted_sts.url)
    sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    first, second = (r.parameters for r in scripted_sts.requests)
    assert first == {"Action": "GetSessionToken", "Version": "2011-06-15", "DurationSeconds": "3600"}
    assert second == {
        "Action": "AssumeRole",
        "Version": "2011-06-15",
        "RoleArn": ROLE,
        "RoleSessionName": "aws-hmac-AKIAIOSFODNN7EXAMPLE",
    }


def test_credentials(signer: Signer, scripted_sts: ScriptedSts) -> None:
    made = sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    assert (made.access_key_id, made.secret_access_key, made.session_token) == (
        "ASIAEXAMPLE000000001",
        "secret-1",
        "token-1",
    )
    assert made.account_id == "123456789012"
    assert timedelta(minutes=59) < made.expiration - datetime.now(timezone.utc) <= timedelta(hours=1)
    for shown in (repr(made), str(made), f"{made}"):
        assert "ASIAEXAMPLE000000001" in shown
        assert "secret-1" not in shown
        assert "token-1" not in shown
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="pickled"):
            duplicate(made)


def test_caller_identity(signer: Signer, scripted_sts: ScriptedSts) -> None:
    result = "<Arn>arn:aws:iam::1:user/me</Arn><UserId>AIDA</UserId><Account>1</Account>"
    scripted_sts.answers.append((200, {}, answer("GetCallerIdentity", result)))
    assert sts.get_caller_identity(signer, endpoint_url=scripted_sts.url) == ("1", "arn:aws:iam::1:user/me", "AIDA")


def answer(action: str, result: str) -> bytes:
    return f"<{action}Response><{action}Result>{result}</{action}Result></{action}Response>".encode()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"role_arn": "deploy"}, "role_arn: 'deploy' is no ARN"),
        ({"role_session_name": "x"}, "role_session_name: 'x' must have 2 to 64"),
        ({"role_session_name": "with blank"}, "role_session_name"),
        ({"duration_seconds": 899}, "899 is not between 900 and 43200"),
        ({"duration_seconds": 43201}, "43201 is not between"),
        ({"policy": "{"}, "policy: is not JSON"),
        ({"policy": "[]"}, "not a policy document"),
        ({"policy_arns": ["ReadOnly"]}, "policy_arns: 'ReadOnly' is no ARN"),
        ({"source_identity": "a/b"}, "source_identity"),
        ({"mfa_serial": MFA}, "go together"),
        ({"token_code": "123456"}, "go together"),
        ({"mfa_serial": MFA, "token_code": "12345"}, "six digits"),
        ({"region": "eu west"}, "region: 'eu west'"),
        ({"endpoint_url": "http://sts.example"}, "in the clear"),
        ({"endpoint_url": "ftp://localhost"}, "not the URL of a server"),
        ({"endpoint_url": "https://user:hunter2@sts.example"}, "refused"),
        ({"endpoint_url": "https://sts.example/?a=b"}, "must end with the path"),
        ({"endpoint_url": "https://sts.example:port"}, "not the URL of a server"),
        ({"use_fips_endpoint": True}, "use_fips_endpoint contradicts endpoint_url"),
        ({"use_dualstack_endpoint": True}, "use_dualstack_endpoint contradicts endpoint_url"),
        ({"sts_regional_endpoints": "global"}, "neither regional nor legacy"),
    ],
)
def test_refused_before_anything_is_sent(
    signer: Signer, scripted_sts: ScriptedSts, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        sts.assume_role(signer, **{"role_arn": ROLE, "endpoint_url": scripted_sts.url, **arguments})
    assert "hunter2" not in str(caught.value)
    assert scripted_sts.requests == []


def test_chained_roles(chained: Signer, scripted_sts: ScriptedSts) -> None:
    sts.assume_role(chained, role_arn=ROLE, duration_seconds=3600, endpoint_url=scripted_sts.url)
    assert scripted_sts.requests[0].headers["X-Amz-Security-Token"] == "the-session-token"
    with pytest.raises(ConfigError, match=r"3601 is not between 900 and 3600 .*by a role's session"):
        sts.assume_role(chained, role_arn=ROLE, duration_seconds=3601, endpoint_url=scripted_sts.url)
    with pytest.raises(ConfigError, match="takes a long-lived key"):
        sts.get_session_token(chained, endpoint_url=scripted_sts.url)
    assert len(scripted_sts.requests) == 1


def test_no_region(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(ConfigError, match="no region"):
        sts.resolve({})
    assert sts.resolve({"sts_regional_endpoints": "legacy"})["endpoint_url"] == "https://sts.amazonaws.com"


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def url(**where: Any) -> str | None:
        return sts.resolve(where)["endpoint_url"]  # type: ignore[arg-type] # as a caller would give them

    assert url() == "https://sts.eu-west-1.amazonaws.com"
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", "legacy")
    assert url() == "https://sts.amazonaws.com"
    assert url(sts_regional_endpoints="regional") == "https://sts.eu-west-1.amazonaws.com"
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    assert url(region="us-west-2") == "https://sts-fips.us-west-2.amazonaws.com"
    assert url(region="us-west-1", use_fips_endpoint=False) == "https://sts.amazonaws.com"
    monkeypatch.delenv("AWS_USE_FIPS_ENDPOINT")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://all.example")
    assert url() == "https://all.example"
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://sts.example")
    assert url() == "https://sts.example"
    assert url(endpoint_url="https://given.example") == "https://given.example"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert url() == "https://sts.amazonaws.com"


def test_refusal(chained: Signer, scripted_sts: ScriptedSts, naps: list[float]) -> None:
    scripted_sts.refuse("AccessDenied", "not\nallowed; the Canonical String was x-amz-security-token:the-session-token")
    with pytest.raises(STSError) as caught:
        sts.assume_role(chained, role_arn=ROLE, endpoint_url=scripted_sts.url)
    error = caught.value
    assert (error.code, error.request_id, error.status) == ("AccessDenied", "request-1", 400)
    assert error.message == "not allowed; the Canonical String was x-amz-security-token:…"
    assert f"AssumeRole of {ROLE}: STS refused: AccessDenied: not allowed" in str(error)
    assert "(request id request-1)" in str(error)
    assert "the-session-token" not in str(error)
    assert naps == []
    assert len(scripted_sts.requests) == 1


@pytest.mark.parametrize("failure", ["refused", "nobody"])
def test_no_frame_of_a_traceback_holds_the_token(
    chained: Signer, scripted_sts: ScriptedSts, naps: list[float], failure: str
) -> None:
    scripted_sts.refuse("AccessDenied")
    url = scripted_sts.url if failure == "refused" else "http://127.0.0.1:1"
    with pytest.raises(STSError) as caught:
        sts.assume_role(chained, role_arn=ROLE, endpoint_url=url)
    assert frames_that_hold(caught.value, "the-session-token") == []


def frames_that_hold(exc: BaseException | None, secret: str) -> list[str]:
    found, frames = [], 0
    while exc is not None:
        trace = exc.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:
                frames += 1
                if secret in repr(trace.tb_frame.f_locals):
                    found.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        exc = exc.__cause__
    assert frames >= 2
    return found


def test_hint_that_the_key_is_wrong(signer: Signer, scripted_sts: ScriptedSts) -> None:
    scripted_sts.refuse("SignatureDoesNotMatch", "no", status=403, times=2)
    with pytest.raises(STSError, match="the key in the device is not the secret of AKIAIOSFODNN7EXAMPLE"):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)


@pytest.mark.parametrize(("code", "status"), [("Throttling", 400), ("RequestLimitExceeded", 503), ("Internal", 500)])
def test_retries(signer: Signer, scripted_sts: ScriptedSts, naps: list[float], code: str, status: int) -> None:
    scripted_sts.refuse(code, status=status, times=2)
    assert sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url).access_key_id.startswith("ASIA")
    assert len(scripted_sts.requests) == 3
    assert 0 <= naps[0] <= 1
    assert 0 <= naps[1] <= 2


def test_gives_up(signer: Signer, scripted_sts: ScriptedSts, naps: list[float]) -> None:
    scripted_sts.refuse("Throttling", times=9)
    with pytest.raises(STSError, match="Throttling"):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    assert len(scripted_sts.requests) == sts.MAX_ATTEMPTS
    assert len(naps) == 2


def test_backoff_has_jitter(monkeypatch: pytest.MonkeyPatch, naps: list[float]) -> None:
    for attempt in range(1, 10):
        sts._back_off(attempt)
        sts._back_off(attempt)
    assert len(set(naps)) > 10
    assert max(naps) <= sts.MAX_BACKOFF


def dated(offset: float) -> dict[str, str]:
    return {"Date": email.utils.formatdate(time.time() + offset, usegmt=True)}


@pytest.mark.parametrize("offset", [600, -600, 23 * 3600])
@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "RequestExpired", "InvalidSignatureException"])
def test_clock_skew_is_corrected_once(signer: Signer, scripted_sts: ScriptedSts, offset: int, code: str) -> None:
    scripted_sts.refuse(code, "Signature expired", status=403, headers=dated(offset))
    side = "behind" if offset > 0 else "ahead of"
    with pytest.warns(ClockSkewWarning, match=rf"clock is \d+ s {side} AWS's; corrected for this call"):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    first, second = (
        datetime.strptime(r.headers["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z") for r in scripted_sts.requests
    )
    assert abs((second - first).total_seconds() - offset) < 5
    scripted_sts.requests.clear()
    sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)  # nothing was stored
    third = datetime.strptime(scripted_sts.requests[0].headers["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
    assert abs((third - first).total_seconds()) < 5


def test_clock_skew_is_corrected_only_once(signer: Signer, scripted_sts: ScriptedSts) -> None:
    scripted_sts.refuse("RequestExpired", status=403, headers=dated(600))
    scripted_sts.refuse("RequestExpired", status=403, headers=dated(7200), times=5)
    with pytest.warns(ClockSkewWarning), pytest.raises(STSError, match="RequestExpired"):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    assert len(scripted_sts.requests) == 2


@pytest.mark.parametrize("offset", [25 * 3600, -25 * 3600])
def test_no_server_chooses_dates_freely(signer: Signer, scripted_sts: ScriptedSts, offset: int) -> None:
    scripted_sts.refuse("RequestExpired", status=403, headers=dated(offset), times=5)
    with pytest.warns(ClockSkewWarning, match="too far"), pytest.raises(STSError, match="RequestExpired"):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    assert len(scripted_sts.requests) == 1


@pytest.mark.parametrize("headers", [{}, {"Date": "yesterday"}, None])
def test_no_skew_no_second_call(signer: Signer, scripted_sts: ScriptedSts, headers: dict[str, str] | None) -> None:
    # None for a date of now, not of when the tests were collected.
    scripted_sts.refuse("RequestExpired", status=403, headers=dated(60) if headers is None else headers, times=5)
    with pytest.raises(STSError, match="RequestExpired"):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    assert len(scripted_sts.requests) == 1


def test_access_denied_with_a_wrong_clock_is_not_a_skew(signer: Signer, scripted_sts: ScriptedSts) -> None:
    scripted_sts.refuse("AccessDenied", headers=dated(600), times=5)
    with pytest.raises(STSError, match="AccessDenied"):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    assert len(scripted_sts.requests) == 1


class _Replaced(MemoryBackend):
    """A device whose key is exchanged."""

    calls = 0

    def hmac_sha256(self, message: bytes, /) -> bytes:
        self.calls += 1
        return super().hmac_sha256(message)

    def replace(self, key: bytes) -> None:
        self._key = key


def test_rotated_key_is_noticed(scripted_sts: ScriptedSts, monkeypatch: pytest.MonkeyPatch) -> None:
    device = _Replaced(b"AWS4old")
    signer = Signer("AKIAIOSFODNN7EXAMPLE", device)
    sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    old = scripted_sts.requests[0].headers["Authorization"]
    device.replace(b"AWS4new")
    monkeypatch.setattr(signer.keys, "_checked", float("-inf"))  # a minute later
    scripted_sts.refuse("SignatureDoesNotMatch", status=403)
    sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    assert len(scripted_sts.requests) == 3
    assert scripted_sts.requests[2].headers["Authorization"] not in (old, scripted_sts.requests[1].headers)
    calls = device.calls
    scripted_sts.refuse("SignatureDoesNotMatch", status=403, times=20)
    for _ in range(5):
        with pytest.raises(STSError):
            sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    assert device.calls <= calls + 1  # a hostile server does not drive the device


BOMB = b"""<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><x>&b;</x>"""
CREDENTIALS = (
    "<Credentials><AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
    "<SessionToken>t</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration></Credentials>"
)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not STS's"),
        (b"<html>", "not STS's"),
        (b"{}", "not STS's"),
        (BOMB, "not STS's"),
        (b"<a>" * 1000, "not STS's"),
        (b"\xff\xfe", "not STS's"),
        (b"<html><body>Please log in</body></html>", "lacks AccessKeyId"),
        (answer("AssumeRole", ""), "lacks AccessKeyId"),
        (answer("GetSessionToken", CREDENTIALS), "lacks AccessKeyId"),
        (answer("AssumeRole", CREDENTIALS.replace("<SessionToken>t<", "<SessionToken><")), "lacks SessionToken"),
        (answer("AssumeRole", CREDENTIALS.replace(">s<", ">  <")), "lacks SecretAccessKey"),
        (answer("AssumeRole", CREDENTIALS.replace("2030-01-01T00:00:00Z", "soon")), "no time"),
        (answer("AssumeRole", CREDENTIALS) + b"x" * 300_000, "more than 262144 bytes"),
    ],
)
def test_strange_answers(signer: Signer, scripted_sts: ScriptedSts, body: bytes, said: str) -> None:
    scripted_sts.answers.append((200, {}, body))
    with pytest.raises(STSError, match=said):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)


@pytest.mark.parametrize(
    "body",
    [
        answer("AssumeRole", CREDENTIALS.replace("<SessionToken>t<", "<SessionToken><")).replace(b">s<", b">hunter2<"),
        answer("AssumeRole", CREDENTIALS.replace("2030-01-01T00:00:00Z", "soon")).replace(b">s<", b">hunter2<"),
        answer("AssumeRole", CREDENTIALS).replace(b">s<", b">hunter2<")[:-5],
        answer("AssumeRole", CREDENTIALS).replace(b">s<", b">hunter2<") + b" " * 300_000,
    ],
)
def test_no_frame_of_a_traceback_holds_half_an_answer(signer: Signer, scripted_sts: ScriptedSts, body: bytes) -> None:
    scripted_sts.answers.append((200, {}, body))
    with pytest.raises(STSError) as caught:
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    assert frames_that_hold(caught.value, "hunter2") == []


def test_the_answer_that_is_right(signer: Signer, scripted_sts: ScriptedSts) -> None:
    scripted_sts.answers.append((200, {}, answer("AssumeRole", CREDENTIALS)))
    made = sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    assert made.expiration == datetime(2030, 1, 1, tzinfo=timezone.utc)
    assert made.account_id is None


@pytest.mark.parametrize("status", [301, 302, 307, 404, 407])
def test_redirects_are_not_followed(signer: Signer, scripted_sts: ScriptedSts, naps: list[float], status: int) -> None:
    scripted_sts.answers.append((status, {"Location": scripted_sts.url}, b"<html></html>"))
    with pytest.raises(STSError, match=f"status {status} and no error of STS"):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    assert len(scripted_sts.requests) == 1


def test_nobody_listens(signer: Signer, naps: list[float]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(STSError, match="cannot be reached: Connection refused") as caught:
            sts.assume_role(signer, role_arn=ROLE, endpoint_url=url)
    assert (caught.value.code, caught.value.status) == (None, None)
    assert len(naps) == 2


def test_name_that_nobody_knows(signer: Signer, naps: list[float]) -> None:
    with pytest.raises(STSError, match=r"nowhere.invalid cannot be resolved"):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url="https://nowhere.invalid")


@pytest.fixture
def silent() -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that takes connections and says nothing, or breaks off."""
    taken: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.recv(100_000)
            taken.append(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", taken
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)
    for connection in taken:
        connection.close()


def test_silence(
    signer: Signer,
    silent: tuple[str, list[socket.socket]],
    naps: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aws_hmac._transport, "READ_TIMEOUT", 0.05)
    with pytest.raises(STSError, match="did not answer in time"):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=silent[0])
    assert len(silent[1]) == sts.MAX_ATTEMPTS


def test_a_spent_code_is_not_sent_again(
    signer: Signer,
    silent: tuple[str, list[socket.socket]],
    naps: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aws_hmac._transport, "READ_TIMEOUT", 0.05)
    with pytest.raises(STSError, match="did not answer in time") as caught:
        sts.get_session_token(signer, mfa_serial=MFA, token_code="123456", endpoint_url=silent[0])
    assert len(silent[1]) == 1
    assert "123456" not in str(caught.value)


class _Proxy:
    """An HTTP proxy that knows CONNECT, and remembers what it was asked."""

    def __init__(self, *, status: bytes = b"200 OK") -> None:
        self.heads: list[bytes] = []
        self.status = status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.target: tuple[str, int] | None = None
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._sockets = [self._listener]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            self.heads.append(head)
            client.sendall(b"HTTP/1.1 " + self.status + b"\r\n\r\n")
            if not self.status.startswith(b"200") or self.target is None:
                client.close()
                continue
            server = socket.create_connection(self.target)
            self._sockets.append(server)
            for source, sink in ((client, server), (server, client)):
                thread = threading.Thread(target=self._pump, args=(source, sink), daemon=True)
                self._threads.append(thread)
                thread.start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for opened in self._sockets:
            opened.close()


@pytest.fixture
def proxy() -> Iterator[_Proxy]:
    proxy = _Proxy()
    yield proxy
    proxy.stop()


@pytest.fixture
def tls_sts(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A server with TLS that answers one thing: its port and the file of its authority."""
    import ssl
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("sts.example", "127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = answer("AssumeRole", CREDENTIALS)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # refused handshakes are what is tested
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server.server_port, str(tmp_path / "ca.pem")
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_ca_bundle(signer: Signer, tls_sts: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    port, bundle = tls_sts
    where = {"endpoint_url": f"https://127.0.0.1:{port}"}
    with pytest.raises(STSError, match=r"certificate of 127.0.0.1:.* is not trusted.*AWS_CA_BUNDLE"):
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=where["endpoint_url"])
    sts.assume_role(signer, role_arn=ROLE, endpoint_url=where["endpoint_url"], ca_bundle=bundle)
    monkeypatch.setenv("AWS_CA_BUNDLE", bundle)
    sts.assume_role(signer, role_arn=ROLE, endpoint_url=where["endpoint_url"])
    with pytest.raises(STSError, match="not trusted"):  # the name counts
        sts.assume_role(signer, role_arn=ROLE, endpoint_url=f"https://localhost:{port}")


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_ca_bundle_that_cannot_be_read(signer: Signer, tmp_path: Path, content: bytes | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(ConfigError, match=r"ca.pem' cannot be read"):
        sts.assume_role(signer, role_arn=ROLE, ca_bundle=str(bundle))


def test_proxy(signer: Signer, tls_sts: tuple[int, str], proxy: _Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    port, bundle = tls_sts
    proxy.target = ("127.0.0.1", port)
    monkeypatch.setenv("HTTPS_PROXY", f"http://us%40er:pa%3Ass@{proxy.address}")
    sts.assume_role(signer, role_arn=ROLE, endpoint_url="https://sts.example", ca_bundle=bundle)
    assert proxy.heads[0].startswith(b"CONNECT sts.example:443 HTTP/1.")
    assert b"Proxy-Authorization: Basic dXNAZXI6cGE6c3M=" in proxy.heads[0]
    assert b"Authorization: AWS4" not in proxy.heads[0]


def test_proxy_that_refuses(signer: Signer, naps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = _Proxy(status=b"407 Proxy Authentication Required")
    monkeypatch.setenv("https_proxy", f"http://user:hunter2@{proxy.address}")
    with pytest.raises(STSError, match=f"through the proxy {proxy.address}.*407") as caught:
        sts.assume_role(signer, role_arn=ROLE, endpoint_url="https://sts.example")
    assert "hunter2" not in str(caught.value)
    proxy.stop()


def test_what_a_proxy_says_is_one_printable_line(
    signer: Signer, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = _Proxy(status=b"407 \x1b]0;no\x07\x9b31m" + b"long" * 1000)
    monkeypatch.setenv("https_proxy", f"http://{proxy.address}")
    with pytest.raises(STSError, match=r"407  +\]0;no +31mlong") as caught:
        sts.assume_role(signer, role_arn=ROLE, endpoint_url="https://sts.example")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    proxy.stop()


@pytest.mark.parametrize("url", ["https://proxy.example:3128", "socks5://proxy.example"])
def test_proxy_of_another_kind(signer: Signer, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(ConfigError, match="HTTPS_PROXY: a proxy is reached by http://"):
        sts.assume_role(signer, role_arn=ROLE)


@pytest.mark.parametrize("url", ["http://", "http://user:hunter2@proxy:port"])
def test_proxy_that_is_none(signer: Signer, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(ConfigError, match="not the URL of a proxy") as caught:
        sts.assume_role(signer, role_arn=ROLE)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("no_proxy", "bypassed"),
    [
        ("*", True), ("sts.example", True), (".example", True), ("example", True), ("*.example", True),
        ("other, STS.example", True), ("sts.example:443", True), ("sts.example:8443", False),
        ("ts.example", False), ("", False), ("other.example", False), ("sts.example.org", False),
    ],
)  # fmt: skip
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, no_proxy: str, bypassed: bool) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (aws_hmac._transport._proxy_for("sts.example", 443) is None) is bypassed


def test_this_machine_is_reached_without_a_proxy(
    signer: Signer, scripted_sts: ScriptedSts, tls_sts: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    sts.assume_role(signer, role_arn=ROLE, endpoint_url=scripted_sts.url)
    port, bundle = tls_sts
    sts.assume_role(signer, role_arn=ROLE, endpoint_url=f"https://127.0.0.1:{port}", ca_bundle=bundle)


def test_default_session_name_is_always_one() -> None:
    assert sts.default_session_name("AKIAIOSFODNN7EXAMPLE") == "aws-hmac-AKIAIOSFODNN7EXAMPLE"
    assert sts.default_session_name("key/with:odd" + "x" * 99).startswith("aws-hmac-key-with-oddxxx")
    assert len(sts.default_session_name("x" * 128)) == 64
