from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from aws_hmac import (
    ConfigError,
    DeviceError,
    SessionExpiredError,
    SessionWarning,
    Signer,
    STSError,
    _session_files,
    sessions,
)
from aws_hmac.profile import Options
from aws_hmac.sessions import SessionCredentials, renewal_window
from aws_hmac.testing import in_fork
from aws_hmac_backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import ScriptedSts

pytestmark = pytest.mark.filterwarnings(
    "ignore:the memory backend:aws_hmac.SecurityWarning", "ignore:.*SDKs renew 15 minutes:aws_hmac.SessionWarning"
)

ROLE = "arn:aws:iam::111122223333:role/deploy"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("SECRET", "secret")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setattr(sessions, "FIRST_RETRY", 5.0)
    monkeypatch.setattr("aws_hmac.sts.sleep", lambda _: None)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "run" / "aws-hmac"


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(scripted_sts: ScriptedSts, clock: Clock) -> Callable[..., SessionCredentials]:
    """Makes a session of the key in SECRET against the scripted STS."""

    def make(*, signer: Signer | None = None, token_code: Any = None, **values: Any) -> SessionCredentials:
        values = {"endpoint_url": scripted_sts.url, **values}
        if signer is None:
            values = {"key": "memory:env=SECRET", "access_key_id": "AKIAIOSFODNN7EXAMPLE", **values}
        options = Options(values, what="test", signer_given=signer is not None)
        return SessionCredentials(options, signer=signer, token_code=token_code, clock=clock)

    return make


# When it is renewed.


@pytest.mark.parametrize(
    ("lifetime", "window"),
    [(900, 225), (1700, 425), (1799, 900), (1800, 900), (3600, 900), (43200, 900), (129600, 900)],
)
def test_window_scales_with_the_lifetime(lifetime: int, window: float) -> None:
    assert renewal_window(lifetime) == window


@pytest.mark.parametrize("lifetime", [900, 1800, 3600, 43200])
def test_one_call_until_the_window(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, clock: Clock, lifetime: int
) -> None:
    scripted_sts.lifetime = lifetime
    session = make(duration_seconds=lifetime)
    begin = clock.now
    for _ in range(100):
        assert session.get().access_key_id == "ASIAEXAMPLE000000001"
    clock.now = begin + lifetime - renewal_window(lifetime) - 5
    assert session.get().access_key_id == "ASIAEXAMPLE000000001"
    clock.now += 10
    assert session.get().access_key_id == "ASIAEXAMPLE000000002"
    assert len(scripted_sts.requests) == 2


def test_in_the_window_one_renews_while_the_others_go_on(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, clock: Clock
) -> None:
    session = make()
    session.get()
    clock.now += 3600 - 800
    scripted_sts.lifetime = 7200
    scripted_sts.delay = 0.5
    renewing = threading.Thread(target=session.get)
    renewing.start()
    while len(scripted_sts.requests) < 2:
        time.sleep(0.005)
    start = time.perf_counter()
    assert session.get().access_key_id == "ASIAEXAMPLE000000001"
    assert time.perf_counter() - start < 0.3
    renewing.join()
    assert session.get().access_key_id == "ASIAEXAMPLE000000002"
    assert len(scripted_sts.requests) == 2


def test_late_in_the_window_all_wait(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, clock: Clock
) -> None:
    session = make(session_cache=False)
    session.get()
    clock.now += 3600 - 100
    scripted_sts.lifetime = 7200
    scripted_sts.delay = 0.2
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(session.get().access_key_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["ASIAEXAMPLE000000002"] * 8
    assert len(scripted_sts.requests) == 2


# When it cannot be renewed.


@pytest.mark.parametrize("session_cache", [True, False])
def test_last_good_ones_until_they_expire(
    make: Callable[..., SessionCredentials],
    scripted_sts: ScriptedSts,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    session_cache: bool,
) -> None:
    session = make(session_cache=session_cache)
    begin = clock.now
    session.get()
    scripted_sts.refuse("AccessDenied", "no more", times=1000)
    with caplog.at_level(logging.WARNING):
        for left in (890, 300, 30, 2):
            clock.now = begin + 3600 - left
            assert session.get().access_key_id == "ASIAEXAMPLE000000001", left
    assert "the last one goes on" in caplog.text
    assert "secret-1" not in caplog.text
    assert "token-1" not in caplog.text
    clock.now = begin + 3601
    with pytest.raises(SessionExpiredError, match=r"test: the session expired at .* UTC and .*AccessDenied: no more"):
        session.get()
    scripted_sts.answers.clear()
    scripted_sts.lifetime = 7200
    assert session.get().access_key_id.startswith("ASIA")


def test_failed_renewals_back_off(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, clock: Clock
) -> None:
    session = make()
    session.get()
    scripted_sts.refuse("AccessDenied", times=1000)
    clock.now += 3600 - 850
    for _ in range(1000):  # signatures in quick succession
        session.get()
    assert len(scripted_sts.requests) == 2
    for _ in range(800):  # one a second
        clock.now += 1
        session.get()
    assert 10 <= len(scripted_sts.requests) <= 40


def test_other_processes_back_off_too(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, clock: Clock
) -> None:
    make().get()
    scripted_sts.refuse("AccessDenied", times=1000)
    clock.now += 3600 - 850
    for _ in range(10):  # each as a process that starts
        assert make().get().access_key_id == "ASIAEXAMPLE000000001"
    assert len(scripted_sts.requests) == 2


def test_new_process_takes_the_last_good_ones(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, clock: Clock
) -> None:
    make().get()
    clock.now += 3600 - 10
    scripted_sts.refuse("AccessDenied", times=1000)
    assert make().get().access_key_id == "ASIAEXAMPLE000000001"
    clock.now += 20
    with pytest.raises(STSError, match="AccessDenied"):
        make().get()


def test_device_that_is_away_is_no_matter_while_the_session_lasts(
    make: Callable[..., SessionCredentials], clock: Clock, scripted_sts: ScriptedSts
) -> None:
    backend = MemoryBackend(b"AWS4secret", name="memory:env=SECRET")
    session = make(signer=Signer("AKIAIOSFODNN7EXAMPLE", backend, cache="none"))
    session.get()
    backend.close()
    clock.now += 3600 - 60
    assert session.get().access_key_id == "ASIAEXAMPLE000000001"
    clock.now += 61
    with pytest.raises(SessionExpiredError, match="closed") as caught:
        session.get()
    assert isinstance(caught.value.__cause__, DeviceError)


def test_first_failure_is_told_as_it_is(make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts) -> None:
    scripted_sts.refuse("AccessDenied")
    with pytest.raises(STSError, match="AccessDenied"):
        make().get()


def test_session_that_has_expired_at_birth(make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts) -> None:
    scripted_sts.lifetime = -5
    with pytest.raises(SessionExpiredError, match="expired already: set the clock"):
        make().get()


@pytest.mark.parametrize("duration", [None, 7200])
def test_slow_clock_does_not_prolong_it(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, clock: Clock, duration: int | None
) -> None:
    """STS corrects a clock that is hours behind; what it gives out would by that clock live hours too long."""
    clock.now -= 10 * 3600
    scripted_sts.lifetime = duration or 3600
    session = make(duration_seconds=duration)
    session.get()
    clock.now += (duration or 3600) - 890  # the window has begun
    assert session.get().access_key_id == "ASIAEXAMPLE000000002"
    scripted_sts.refuse("Throttling", times=99)
    clock.now += (duration or 3600) + 1
    with pytest.raises(SessionExpiredError):
        session.get()
    with pytest.raises(STSError):
        make(duration_seconds=duration).get()  # nor does the file give it out


def test_short_session_warns(make: Callable[..., SessionCredentials]) -> None:
    with pytest.warns(SessionWarning, match=r"duration_seconds = 900: SDKs renew 15 minutes ahead"):
        make(duration_seconds=900)


def test_direct_makes_no_session() -> None:
    options = Options({"key": "memory:env=S", "access_key_id": "AKIAX", "mode": "direct"}, what="test")
    with pytest.raises(ConfigError, match="direct makes no session"):
        SessionCredentials(options)


def test_mfa_code_is_asked_for_only_when_needed(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts
) -> None:
    asked = []

    def code() -> str:
        asked.append(1)
        return "123456"

    for _ in range(3):
        make(mfa_serial="arn:aws:iam::1:mfa/me", token_code=code).get()
    assert len(asked) == len(scripted_sts.requests) == 1
    assert scripted_sts.requests[0].parameters["TokenCode"] == "123456"
    assert scripted_sts.requests[0].parameters["SerialNumber"] == "arn:aws:iam::1:mfa/me"


# Threads and forks.


def test_fork_while_another_thread_renews(make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts) -> None:
    scripted_sts.delay = 0.5
    session = make()
    renewing = threading.Thread(target=session.get)
    renewing.start()
    while not scripted_sts.requests:
        time.sleep(0.005)
    assert in_fork(lambda: session.get().access_key_id.encode(), timeout=20).startswith(b"ASIAEXAMPLE")
    renewing.join()


def test_nothing_leaks(make: Callable[..., SessionCredentials]) -> None:
    session = make()
    session.get()
    for shown in (repr(session), str(session), repr(session.options), repr(vars(session))):
        assert "secret-1" not in shown
        assert "token-1" not in shown
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            duplicate(session)


# The file.


def files_of(cache: Path, suffix: str = ".session") -> list[Path]:
    return sorted(cache.glob(f"*{suffix}"))


def test_file_is_its_owners_alone(make: Callable[..., SessionCredentials], cache: Path) -> None:
    umask = os.umask(0)
    try:
        make().get()
    finally:
        os.umask(umask)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in cache.iterdir()] == [0o600] * 2  # the session and its lock
    assert len(files_of(cache)) == 1


def test_document(make: Callable[..., SessionCredentials]) -> None:
    document = json.loads(make().document())
    assert set(document) == {"Version", "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"}
    assert document["Version"] == 1
    assert (document["AccessKeyId"], document["SecretAccessKey"]) == ("ASIAEXAMPLE000000001", "secret-1")
    assert time.strptime(document["Expiration"], "%Y-%m-%dT%H:%M:%SZ")


def test_second_process_takes_it_without_the_device(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(role_arn=ROLE).get()
    monkeypatch.delenv("SECRET")  # the key cannot be opened now
    second = make(role_arn=ROLE).get()
    assert first == second
    assert second.account_id == "123456789012"
    assert len(scripted_sts.requests) == 1


DIFFERENT: list[dict[str, Any]] = [
    {},
    {"key": "memory:env=SECRET;prefix=AWS4"},
    {"access_key_id": "AKIAOTHER"},
    {"duration_seconds": 3601},
    {"mfa_serial": "m"},
    {"region": "eu-north-1"},
    {"role_arn": ROLE},
    {"role_arn": ROLE + "2"},
    {"role_arn": ROLE, "role_session_name": "me"},
    {"role_arn": ROLE, "external_id": "ab"},
    {"role_arn": ROLE, "source_identity": "ab"},
    {"role_arn": ROLE, "policy": "{}"},
    {"role_arn": ROLE, "policy_arns": ["arn:a", "arn:b"]},
    {"role_arn": ROLE, "policy_arns": ["arn:a,arn:b"]},
    {"role_arn": ROLE, "policy_arns": ["arn:a"], "transitive_tag_keys": ["arn:b"]},
    {"role_arn": ROLE, "transitive_tag_keys": ["arn:a", "arn:b"]},
    {"role_arn": ROLE, "transitive_tag_keys": ["a"], "tags": {"b": "c"}},
    {"role_arn": ROLE, "tags": {"a": "b", "c": "d"}},
    {"role_arn": ROLE, "tags": {"ab": "", "c": "d"}},
    {"role_arn": ROLE, "tags": {"a": "b"}},
    {"role_arn": ROLE, "tags": {"ab": ""}},
]


def test_every_parameter_makes_another_session(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, cache: Path
) -> None:
    for values in DIFFERENT:
        session = make(token_code=lambda: "123456", **values)
        assert session.path is not None
    paths = {make(**values).path for values in DIFFERENT}
    paths.add(make(endpoint_url="https://sts.example").path)
    assert len(paths) == len(DIFFERENT) + 1
    # How the key is reached makes no other session.
    assert make(key="pkcs11:token=a;object=b?pin-source=env:A").path == make(key="pkcs11:token=a;object=b").path


def test_keys_without_a_certain_name_share_nothing(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, cache: Path
) -> None:
    for backend in (MemoryBackend(b"AWS4one"), MemoryBackend(b"AWS4two"), MemoryBackend(b"k", name="unnamed key")):
        session = make(signer=Signer("AKIAIOSFODNN7EXAMPLE", backend))
        session.get()
        assert session.path is None
    assert len(scripted_sts.requests) == 3
    assert not cache.exists()
    chained = make(signer=Signer("ASIA", MemoryBackend(b"k", name="memory:env=A"), session_token="t"), role_arn=ROLE)
    assert chained.path is None


def test_rotated_key_is_not_served_from_the_file(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts
) -> None:
    """The device was used anyway, so its fingerprint is known and compared."""

    def signer(key: bytes) -> Signer:
        return Signer("AKIAIOSFODNN7EXAMPLE", MemoryBackend(key, name="memory:env=SECRET"))

    make(signer=signer(b"AWS4old")).get()
    unused, same, new = signer(b"AWS4new"), signer(b"AWS4old"), signer(b"AWS4new")
    same.keys.fingerprint()
    new.keys.fingerprint()
    assert make(signer=unused).get().access_key_id == "ASIAEXAMPLE000000001"
    assert make(signer=same).get().access_key_id == "ASIAEXAMPLE000000001"
    assert make(signer=new).get().access_key_id == "ASIAEXAMPLE000000002"
    assert make(signer=signer(b"AWS4new")).get().access_key_id == "ASIAEXAMPLE000000002"
    assert len(scripted_sts.requests) == 2


def test_off(make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, cache: Path) -> None:
    for _ in range(2):
        make(session_cache=False).get()
    assert len(scripted_sts.requests) == 2
    assert not cache.exists()


def unusable(path: Path, how: str) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if how == "open":
        path.chmod(0o755)
    elif how == "link":
        path.rmdir()
        elsewhere = path.parent / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        path.symlink_to(elsewhere)
    elif how == "file":
        path.rmdir()
        path.touch(mode=0o600)


@pytest.mark.parametrize(
    ("how", "said"),
    [("open", "is open to others; mend it with: chmod 700"), ("link", "symbolic link"), ("file", "is no folder")],
)
def test_folder_that_is_refused(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, cache: Path, how: str, said: str
) -> None:
    unusable(cache, how)
    session = make()
    with pytest.warns(SessionWarning, match=rf"session cache .*aws-hmac cannot be used \(.*{said}") as caught:
        assert session.get().access_key_id == "ASIAEXAMPLE000000001"
    assert len(caught) == 1
    assert session.get().access_key_id == "ASIAEXAMPLE000000001"
    assert list((cache.parent / "elsewhere").iterdir() if how == "link" else []) == []


def of_another(monkeypatch: pytest.MonkeyPatch, look: str, owner: int) -> None:
    """Lets `os.stat` or `os.lstat` tell of another owner."""
    real = getattr(os, look)

    def another(path: Any, **kwargs: Any) -> os.stat_result:
        values = list(real(path, **kwargs))
        values[stat.ST_UID] = owner
        return os.stat_result(values)

    monkeypatch.setattr(os, look, another)


def test_folder_of_another(
    make: Callable[..., SessionCredentials], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unusable(cache, "as it should be")
    session = make()
    of_another(monkeypatch, "lstat", os.geteuid() + 1)
    with pytest.warns(SessionWarning, match="belongs to another user"):
        assert session.get().access_key_id == "ASIAEXAMPLE000000001"
    assert list(cache.iterdir()) == []


def test_folder_in_one_of_another(
    make: Callable[..., SessionCredentials], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner could exchange it between two looks. Root's is well: /tmp is sticky."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    with monkeypatch.context() as patch:
        of_another(patch, "stat", os.geteuid() + 1)
        with pytest.warns(SessionWarning, match="lies in a folder of another user"):
            assert make().get().access_key_id == "ASIAEXAMPLE000000001"
        assert not cache.exists()
    of_another(monkeypatch, "stat", 0)
    assert make().get().access_key_id == "ASIAEXAMPLE000000002"
    assert len(files_of(cache)) == 1


@pytest.mark.parametrize("error", [30, 28, 13])  # read-only file system, no space left, permission denied
def test_folder_that_cannot_be_written(
    make: Callable[..., SessionCredentials],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "write", refuse)
    session = make()
    with pytest.warns(SessionWarning, match=os.strerror(error)) as caught:
        assert session.get().access_key_id == "ASIAEXAMPLE000000001"
    assert len(caught) == 1
    assert [file.name for file in cache.iterdir() if not file.name.endswith(".lock")] == []  # nothing half-written


def test_home_that_is_read_only(
    make: Callable[..., SessionCredentials], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with pytest.warns(SessionWarning, match="cannot be used"):
        assert make().get().access_key_id == "ASIAEXAMPLE000000001"


@pytest.mark.parametrize(
    "how", ["link", "open", "another's", "damaged", "empty", "cut", "binary", "other version", "json"]
)
def test_file_that_is_not_taken(
    make: Callable[..., SessionCredentials],
    scripted_sts: ScriptedSts,
    cache: Path,
    tmp_path: Path,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make().get()
    (file,) = files_of(cache)
    text = file.read_text()
    if how == "link":
        elsewhere = tmp_path / "planted"
        elsewhere.write_text(text)
        elsewhere.chmod(0o600)
        file.unlink()
        file.symlink_to(elsewhere)
    elif how == "open":
        file.chmod(0o644)
    elif how == "another's":
        of_another(monkeypatch, "fstat", os.geteuid() + 1)
    else:
        file.write_bytes(
            {
                "damaged": text.replace("1", "x", 1),
                "empty": "",
                "cut": text[: len(text) // 2],
                "binary": "\xff\x00",
                "other version": text.replace("session 1", "session 2"),
                "json": text.replace('"SessionToken"', '"Other"'),
            }[how].encode("latin-1")
        )
    session = make()
    if how in ("link", "open", "another's"):
        with pytest.warns(SessionWarning):
            assert session.get().access_key_id == "ASIAEXAMPLE000000002"
    else:
        assert session.get().access_key_id == "ASIAEXAMPLE000000002"
        assert make().get().access_key_id == "ASIAEXAMPLE000000002"  # it was written anew


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"XDG_RUNTIME_DIR": "{tmp}", "XDG_CACHE_HOME": "/c", "HOME": "/h"}, "{tmp}/aws-hmac"),
        ({"XDG_RUNTIME_DIR": "{tmp}/none", "XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/aws-hmac"),
        ({"XDG_RUNTIME_DIR": "", "XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/aws-hmac"),
        ({"XDG_RUNTIME_DIR": "relative", "XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/aws-hmac"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's folders")
def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], folder: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    assert _session_files.folder() == folder.format(tmp=tmp_path)


def test_runtime_folder_of_another_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As it is left over after su."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert _session_files.folder() == "/c/aws-hmac"


def test_what_is_old_is_swept_away(make: Callable[..., SessionCredentials], cache: Path) -> None:
    unusable(cache, "as it should be")
    old = ["a" * 64 + ".session", "0" * 8 + ".index", "b.session.1.ff.part"]
    for name in [*old, "keep.txt", "c" * 64 + ".session"]:
        (cache / name).write_text("x")
    for name in [*old, "keep.txt"]:
        os.utime(cache / name, (1, 1))
    make().get()
    left = {file.name for file in cache.iterdir()}
    assert not left & set(old)
    assert {"keep.txt", "c" * 64 + ".session"} <= left


PROCESS = """
import sys
from aws_hmac.profile import Options
from aws_hmac.sessions import SessionCredentials
values = {"key": "memory:env=SECRET", "access_key_id": "AKIAIOSFODNN7EXAMPLE", "endpoint_url": sys.argv[1]}
options = Options(values, what="test")
session = SessionCredentials(options)
print("ready", flush=True)
sys.stdin.read(1)
print(session.get().access_key_id)
"""


def test_many_processes_make_one_call(scripted_sts: ScriptedSts) -> None:
    scripted_sts.delay = 0.2
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROCESS, scripted_sts.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go")
        process.stdin.flush()
    seen = {process.communicate()[0] for process in processes}
    assert seen == {b"ASIAEXAMPLE000000001\n"}
    assert [process.returncode for process in processes] == [0] * 8
    assert len(scripted_sts.requests) == 1


def test_process_that_died_with_the_lock_stops_nobody(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts
) -> None:
    scripted_sts.delay = 30
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", PROCESS, scripted_sts.url], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"go")
    process.stdin.close()
    while not scripted_sts.requests:
        time.sleep(0.01)
    process.kill()
    process.wait()
    scripted_sts.delay = 0
    start = time.perf_counter()
    assert make().get().access_key_id == "ASIAEXAMPLE000000002"
    assert time.perf_counter() - start < 5


def test_while_another_process_renews_the_last_good_ones_are_taken(
    make: Callable[..., SessionCredentials], scripted_sts: ScriptedSts, clock: Clock
) -> None:
    import filelock

    session = make()
    session.get()
    assert session.path is not None
    clock.now += 3600 - 800
    with filelock.FileLock(session.path.removesuffix(".session") + ".lock"):
        start = time.perf_counter()
        assert session.get().access_key_id == "ASIAEXAMPLE000000001"
        assert time.perf_counter() - start < 1
    assert len(scripted_sts.requests) == 1


def test_lock_that_is_held_for_ever(
    make: Callable[..., SessionCredentials], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    import filelock

    monkeypatch.setattr(sessions, "LOCK_TIMEOUT", 0.1)
    session = make()
    assert session.path is not None
    unusable(cache, "as it should be")
    with filelock.FileLock(session.path.removesuffix(".session") + ".lock"):
        assert session.get().access_key_id == "ASIAEXAMPLE000000001"
