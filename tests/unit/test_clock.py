"""What a server can, and cannot, make of our clock."""

from __future__ import annotations

import time
import warnings
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from botocore.compat import HTTPHeaders

from aws_hmac import ClockSkewWarning
from aws_hmac._clock import HostClocks

NOW = 1767323045  # 2026-01-02T03:04:05Z
SIGNED = "20260102T030405Z"
AWS = "https://s3.eu-west-1.amazonaws.com/bucket/key"


class Monotonic:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    clock = Monotonic()
    monkeypatch.setattr(
        "aws_hmac._clock.time", SimpleNamespace(**{**vars(time), "time": lambda: NOW, "monotonic": clock})
    )
    return clock


def _learn(clocks: HostClocks, seconds: int, url: str = AWS, *, verified: bool = True, signed: str = SIGNED) -> bool:
    return clocks.learn(url, formatdate(NOW + seconds, usegmt=True), signed, verified=verified)


@pytest.mark.parametrize("seconds", [3600, -3600, 86400, -86400, 300])
def test_a_difference_is_corrected_for_the_host(seconds: int) -> None:
    clocks = HostClocks()
    with pytest.warns(ClockSkewWarning, match=rf"^s3\.eu-west-1\.amazonaws\.com: .* differ by {seconds} s; requests"):
        assert _learn(clocks, seconds)
    assert clocks.differ
    assert clocks.seconds(AWS) == seconds
    assert clocks.seconds("https://S3.eu-west-1.amazonaws.com/other") == seconds
    assert clocks.seconds("https://s3.eu-west-1.amazonaws.com:8443/") == 0
    assert clocks.seconds("https://other.example/") == 0


@pytest.mark.parametrize("seconds", [0, 1, 239, -239])
def test_a_small_difference_is_no_reason(seconds: int) -> None:
    clocks = HostClocks()
    assert not _learn(clocks, seconds)
    assert not clocks.differ


@pytest.mark.parametrize("seconds", [86401, -86401, 10**9])
def test_more_than_a_day_is_not_believed(seconds: int) -> None:
    clocks = HostClocks()
    with pytest.warns(ClockSkewWarning, match="more than a day; not corrected"):
        assert not _learn(clocks, seconds)
    assert clocks.seconds(AWS) == 0


@pytest.mark.parametrize(
    ("url", "verified"),
    [
        (AWS, False),
        ("http://minio.example:9000/", True),
        ("http://127.0.0.1.example/", True),
        ("http://[fe80::1]/", True),
    ],
)
def test_without_a_verified_certificate_nothing_is_believed(url: str, verified: bool) -> None:
    clocks = HostClocks()
    with pytest.warns(ClockSkewWarning, match="not corrected, as without a verified certificate anyone could say so"):
        assert not _learn(clocks, 3600, url, verified=verified)
    assert clocks.seconds(url) == 0


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000/", "http://localhost/", "http://[::1]:9000/x", "http://127.9.9.9/"]
)
def test_this_machine_is_believed(url: str) -> None:
    clocks = HostClocks()
    with pytest.warns(ClockSkewWarning):
        assert _learn(clocks, 3600, url, verified=False)
    assert clocks.seconds(url) == 3600


@pytest.mark.parametrize("date", [None, "", "yesterday", "Fri, 02 Jan 99999 03:04:05 GMT", "0"])
def test_no_date(date: str | None) -> None:
    assert not HostClocks().learn(AWS, date, SIGNED, verified=True)


def test_other_hosts_join_without_another_warning() -> None:
    clocks = HostClocks()
    with pytest.warns(ClockSkewWarning):
        assert _learn(clocks, 3600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _learn(clocks, 3605, "https://sts.amazonaws.com/")
    assert clocks.seconds("https://sts.amazonaws.com/") == 3600


def test_a_hostile_server_cannot_choose_dates(monotonic: Monotonic) -> None:
    """At most one other difference a minute, and one at a time: two dates in use, as many as are kept."""
    clocks = HostClocks()
    with pytest.warns(ClockSkewWarning) as warned:
        accepted = 0
        for second in range(300):
            monotonic.now = 1000.0 + second
            for host in ("a", "b", "c"):
                seconds = (-80000, 80000)[(second + ord(host)) % 2]
                accepted += _learn(clocks, seconds, f"https://{host}.example/")
            dates = {clocks.seconds(f"https://{host}.example/") for host in ("a", "b", "c", "honest")}
            assert len(dates) <= 2
    changes = {str(warning.message) for warning in warned}
    assert len(warned) <= 6
    assert changes


def test_the_clock_was_set_right(monotonic: Monotonic) -> None:
    clocks = HostClocks()
    with pytest.warns(ClockSkewWarning):
        assert _learn(clocks, 3600)
    monotonic.now += 61
    # Signed with the corrected, now wrong, time:
    assert _learn(clocks, 2, signed="20260102T040405Z")
    assert not clocks.differ
    assert clocks.seconds(AWS) == 0


def _request(url: str, **headers: str) -> SimpleNamespace:
    made = HTTPHeaders()
    for name, value in headers.items():
        made[name.replace("_", "-")] = value
    return SimpleNamespace(url=url, headers=made, context={"timestamp": SIGNED})


def test_shift() -> None:
    clocks = HostClocks()
    with pytest.warns(ClockSkewWarning):
        _learn(clocks, -14400)
    request = _request(AWS, A="1", X_Amz_Date=SIGNED, B="2")
    clocks.shift(request)
    assert request.context["timestamp"] == "20260101T230405Z"
    assert request.headers.items() == [("A", "1"), ("X-Amz-Date", "20260101T230405Z"), ("B", "2")]

    request = _request(AWS, Date="Fri, 02 Jan 2026 03:04:05 GMT")
    clocks.shift(request)
    assert request.headers.items() == [("Date", "Thu, 01 Jan 2026 23:04:05 -0000")]

    credential = "X-Amz-Credential=AKIA%2F{}%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Date={}"
    parts = (f"{AWS}?prefix=a%2F20260102%2Fb&X-Amz-Algorithm=AWS4-HMAC-SHA256&", "&X-Amz-Expires=60")
    request = _request(credential.format("20260102", SIGNED).join(parts))
    clocks.shift(request)
    assert request.url == credential.format("20260101", "20260101T230405Z").join(parts)

    other = _request("https://other.example/", X_Amz_Date=SIGNED)
    clocks.shift(other)
    assert other.headers["X-Amz-Date"] == SIGNED
