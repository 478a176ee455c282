from __future__ import annotations

import copy
import hashlib
import hmac
import logging
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from aws_hmac import ConfigError, DeviceError, DeviceLostError, HmacBackend, Signer, SigningKeys
from aws_hmac.testing import EXAMPLE_KEY, in_fork

if TYPE_CHECKING:
    from aws_hmac.signing_keys import Mode

FINGERPRINT = b"aws-hmac key fingerprint v1"


class Device(HmacBackend):
    """A device whose calls are counted, whose key can be changed, and which can go away."""

    name = "device:test"

    def __init__(self, key: bytes = EXAMPLE_KEY) -> None:
        self.key = key
        self.asked: list[bytes] = []
        self.away = False
        self.pause = 0.0

    def hmac_sha256(self, message: bytes, /) -> bytes:
        self.asked.append(message)
        time.sleep(self.pause)
        if self.away:
            raise DeviceLostError("device:test: gone")
        return hmac.digest(self.key, message, "sha256")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("aws_hmac.signing_keys.monotonic", clock)
    return clock


def chain(key: bytes, date: str, region: str, service: str, message: bytes) -> str:
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, message, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("mode", ["date", "scope", "none"])
def test_derivation_is_that_of_hashlib(mode: Mode) -> None:
    keys = SigningKeys(Device(), mode=mode)
    for date, region, service in (("20260101", "eu-west-1", "s3"), ("20260102", "us-east-1", "sts")):
        for _ in range(2):
            assert keys.signing_key(date, region, service).sign(b"m") == chain(EXAMPLE_KEY, date, region, service, b"m")
        assert keys.signing_key(date, region, service).sign(b"n") != chain(EXAMPLE_KEY, date, region, service, b"m")


def test_aws_published_example() -> None:
    # "Examples of how to derive a signing key", AWS General Reference: the documentation's secret, 2015-08-30, iam.
    key = SigningKeys(Device(b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")).signing_key(
        "20150830", "us-east-1", "iam"
    )
    published = bytes.fromhex("c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9")
    assert key.digest(b"") == hmac.digest(published, b"", "sha256")


def test_one_call_a_day_for_many_threads_regions_and_services() -> None:
    device = Device()
    device.pause = 0.01
    keys = SigningKeys(device)
    start = threading.Barrier(64)

    def work(number: int) -> None:
        start.wait()
        for index in range(400):
            region, service = divmod((index + number) % 400, 20)
            keys.signing_key("20260101", f"region-{region}", f"service-{service}")

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(work, range(64)))
    assert sorted(device.asked) == [b"20260101", FINGERPRINT]


def test_scope_mode_keeps_no_date_key() -> None:
    device = Device()
    keys = SigningKeys(device, mode="scope")
    for _ in range(3):
        keys.signing_key("20260101", "eu-west-1", "s3")
        keys.signing_key("20260101", "eu-west-1", "sts")
    assert device.asked == [FINGERPRINT, b"20260101", b"20260101"]
    assert not keys._dates


def test_none_mode_asks_every_time_and_keeps_nothing() -> None:
    device = Device()
    keys = SigningKeys(device, mode="none")
    for _ in range(3):
        keys.signing_key("20260101", "eu-west-1", "s3")
    assert device.asked == [b"20260101"] * 3
    assert not keys._dates
    assert not keys._keys


def test_old_days_are_dropped_and_overwritten() -> None:
    keys = SigningKeys(Device())
    stream = keys.signing_key("20260101", "r", "s")
    (first,) = keys._dates.values()
    assert any(first)
    for date in ("20260102", "20260103"):
        keys.signing_key(date, "r", "s")
    assert set(keys._dates) == {"20260102", "20260103"}
    assert not any(first)
    assert all(scope[0] != "20260101" for scope in keys._keys)
    assert stream.sign(b"chunk") == chain(EXAMPLE_KEY, "20260101", "r", "s", b"chunk"), "a stream keeps its key"


def test_clear_overwrites() -> None:
    keys = SigningKeys(Device())
    keys.signing_key("20260101", "r", "s")
    (kept,) = keys._dates.values()
    keys.clear()
    assert not any(kept)
    assert not keys._dates
    assert not keys._keys


@pytest.mark.parametrize("mode", ["date", "scope"])
def test_max_age_asks_again(mode: Mode, clock: Clock) -> None:
    device = Device()
    keys = SigningKeys(device, mode=mode, max_age=10)
    keys.signing_key("20260101", "r", "s")
    clock.now += 9
    keys.signing_key("20260101", "r", "s")
    keys.signing_key("20260101", "r", "t")  # must not lengthen the life of the first
    calls = device.asked.count(b"20260101")
    clock.now += 2
    device.away = True
    with pytest.raises(DeviceLostError):
        keys.signing_key("20260101", "r", "s")
    device.away = False
    keys.signing_key("20260101", "r", "s")
    assert device.asked.count(b"20260101") == calls + 1


def test_device_away_a_kept_day_keeps_signing() -> None:
    device = Device()
    keys = SigningKeys(device)
    keys.signing_key("20260101", "eu-west-1", "s3")
    device.away = True
    key = keys.signing_key("20260101", "eu-west-1", "sts")
    assert key.sign(b"m") == chain(EXAMPLE_KEY, "20260101", "eu-west-1", "sts", b"m")
    with pytest.raises(DeviceLostError):
        keys.signing_key("20260102", "eu-west-1", "sts")


def test_rotation_is_noticed_on_recheck() -> None:
    device = Device()
    keys = SigningKeys(device)
    keys.signing_key("20260101", "r", "s")
    generation = keys.generation
    device.key = b"AWS4another"
    assert keys.recheck(generation, interval=0)
    assert keys.signing_key("20260101", "r", "s").sign(b"m") == chain(b"AWS4another", "20260101", "r", "s", b"m")
    asked = len(device.asked)
    assert keys.recheck(generation), "a request signed before the change is worth signing again, without a call"
    assert len(device.asked) == asked


def test_recheck_of_an_unchanged_key_keeps_the_cache() -> None:
    device = Device()
    keys = SigningKeys(device)
    keys.signing_key("20260101", "r", "s")
    assert not keys.recheck(interval=0)
    keys.signing_key("20260101", "r", "s")
    assert device.asked.count(b"20260101") == 1


def test_a_hostile_server_does_not_drive_the_device(clock: Clock) -> None:
    device = Device()
    keys = SigningKeys(device)
    keys.signing_key("20260101", "r", "s")
    device.asked.clear()
    clock.now += 61
    for _ in range(1000):
        assert not keys.recheck()
    assert device.asked == [FINGERPRINT]
    clock.now += 61
    device.away = True
    assert not keys.recheck(), "the server's error is raised as it is"
    assert not keys.recheck()
    assert device.asked == [FINGERPRINT] * 2


def test_rotation_between_days_drops_the_old_days() -> None:
    device = Device()
    keys = SigningKeys(device)
    keys.signing_key("20260101", "r", "s")
    device.key = b"AWS4another"
    key = keys.signing_key("20260102", "r", "s")
    assert key.sign(b"m") == chain(b"AWS4another", "20260102", "r", "s", b"m")
    assert keys.generation == 1
    key = keys.signing_key("20260101", "r", "s")
    assert key.sign(b"m") == chain(b"AWS4another", "20260101", "r", "s", b"m")


def test_prefetch_before_midnight() -> None:
    device = Device()
    keys = SigningKeys(device)
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone.utc).timestamp()
    keys.prefetch(noon)
    assert device.asked == [FINGERPRINT, b"20260101"]
    keys.prefetch(noon + 12 * 3600 - 301)
    assert len(device.asked) == 2
    keys.prefetch(noon + 12 * 3600 - 299)
    keys.prefetch(noon + 12 * 3600 - 298)
    assert [date for date in device.asked if date != FINGERPRINT] == [b"20260101", b"20260102"]


def test_fork_while_another_thread_holds_the_lock() -> None:
    device = Device()
    keys = SigningKeys(device)
    device.pause = 0.5
    asker = threading.Thread(target=keys.signing_key, args=("20260101", "r", "s"))
    asker.start()
    while not device.asked:
        time.sleep(0.001)

    def child() -> bytes:
        device.pause = 0
        return keys.signing_key("20260101", "r", "s").sign(b"m").encode()

    answer = in_fork(child, timeout=20)
    asker.join()
    assert answer.decode() == chain(EXAMPLE_KEY, "20260101", "r", "s", b"m")


def test_key_changed_between_fingerprint_and_date_is_noticed() -> None:
    class Rotating(Device):
        def hmac_sha256(self, message: bytes, /) -> bytes:
            mac = super().hmac_sha256(message)
            if len(self.asked) == 1:
                self.key = b"AWS4another"
            return mac

    keys = SigningKeys(Rotating())
    keys.signing_key("20260101", "r", "s")
    assert keys.recheck(interval=0)


def test_a_wrong_length_is_refused() -> None:
    class Short(Device):
        def hmac_sha256(self, message: bytes, /) -> bytes:
            return super().hmac_sha256(message)[:20]

    with pytest.raises(DeviceError, match="20 bytes"):
        SigningKeys(Short()).signing_key("20260101", "r", "s")


@pytest.mark.parametrize("options", [{"mode": "day"}, {"max_age": 0}, {"max_age": -1}])
def test_options(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SigningKeys(Device(), **options)  # type: ignore[arg-type] # wrong on purpose


def test_each_call_is_audited_without_keys(caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    with caplog.at_level(logging.DEBUG):
        SigningKeys(device).signing_key("20260101", "r", "s")
        device.away = True
        with pytest.raises(DeviceLostError):
            SigningKeys(device).signing_key("20260102", "r", "s")
    lines = [record.getMessage() for record in caplog.records if record.name == "aws_hmac.audit"]
    assert [line.partition(" in ")[0].partition(" after ")[0] for line in lines] == [
        "device:test: HMAC for fingerprint",
        "device:test: HMAC for 20260101",
        "device:test: no HMAC for fingerprint: DeviceLostError",
    ]
    assert hmac.digest(EXAMPLE_KEY, b"20260101", "sha256").hex() not in caplog.text


def test_shows_and_copies_no_key() -> None:
    signer = Signer("AKIAIOSFODNN7EXAMPLE", Device(), session_token="the-token")
    key = signer.keys.signing_key("20260101", "r", "s")
    for thing in (signer, signer.keys, key):
        assert "the-token" not in repr(thing)
        assert EXAMPLE_KEY.decode() not in repr(thing)
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                duplicate(thing)
