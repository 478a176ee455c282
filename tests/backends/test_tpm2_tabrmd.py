"""The resource manager tpm2-abrmd, a real one, on a D-Bus of its own; in a process of its own, as GLib stays in one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from aws_hmac.testing import require_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aws_hmac._swtpm import Swtpm

pytestmark = pytest.mark.device("tpm2")

SCENARIO = """
import hmac, os, subprocess, sys, threading, time
import aws_hmac
from aws_hmac.testing import in_fork, import_into

def manager():
    root = ["--allow-root"] if os.geteuid() == 0 else []
    words = ["tpm2-abrmd", "--session", *root, "--tcti=" + sys.argv[1]]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

def expected(message):
    return hmac.digest(b"key", message, "sha256")

def child():
    try:
        return backend.hmac_sha256(b"child")
    except aws_hmac.DeviceError as exc:
        return str(exc).encode()

running = manager()
try:
    for _ in range(100):
        try:
            named = import_into("tpm2:handle=0x81008001?tcti=tabrmd:bus_type=session", b"key")
            break
        except aws_hmac.DeviceLostError:
            time.sleep(0.1)
    with aws_hmac.open_backend(named) as backend:
        assert backend.hmac_sha256(b"a") == expected(b"a")
        running.kill()
        running.wait()
        running = manager()
        assert backend.hmac_sha256(b"restarted") == expected(b"restarted")
        assert b"D-Bus does not survive a fork" in in_fork(child, timeout=20)
        assert backend.hmac_sha256(b"parent") == expected(b"parent")
        right = []
        def work(number):
            for call in range(10):
                message = b"%d/%d" % (number, call)
                right.append(backend.hmac_sha256(message) == expected(message))
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert right == [True] * 80
        running.kill()
        running.wait()
        try:
            backend.hmac_sha256(b"gone")
            raise AssertionError("no resource manager, and an HMAC")
        except aws_hmac.DeviceLostError as exc:
            assert "systemctl start tpm2-abrmd" in str(exc)
finally:
    running.kill()
    running.wait()
print("passed")
"""


@pytest.fixture
def bus() -> Iterator[str]:
    """The address of a D-Bus daemon of the test's own."""
    for program in ("tpm2-abrmd", "dbus-daemon"):
        if shutil.which(program) is None:
            require_device("tpm2", f"{program} is not installed")
    words = ["dbus-daemon", "--session", "--nofork", "--print-address=1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            yield daemon.stdout.readline().strip()
        finally:
            daemon.kill()


def test_resource_manager(swtpm: Swtpm, bus: str) -> None:
    """Import, use, restart of the resource manager, fork, threads, and the resource manager gone."""
    done = subprocess.run(
        [sys.executable, "-c", SCENARIO, swtpm.tcti],
        env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": bus},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "passed\n"), done.stderr[-3000:]
