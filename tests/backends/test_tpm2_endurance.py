"""A TPM that goes away and comes back, threads and forks, and slots that must not leak."""

from __future__ import annotations

import errno
import hmac
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2_SE, TPM2_SU, TPM2B_PUBLIC, TPMT_SYM_DEF, TCTILdr

from aws_hmac import (
    BackendUnavailableError,
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    KeyMismatchError,
    open_backend,
)
from aws_hmac._swtpm import Swtpm
from aws_hmac.testing import EXAMPLE_KEY, import_into
from aws_hmac_backends.tpm2 import _device, _tcti

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.device("tpm2")

HANDLE = "handle=0x81008001"


BRIDGE = """
import os, socket, sys
tpm = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while command := os.read(0, 4096):
    tpm.sendall(command)
    answer = tpm.recv(4096)
    if not answer:
        break
    os.write(1, answer)
"""


@pytest.fixture
def piped(swtpm: Swtpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A way to swtpm over one connection: the TSS's own makes one for each command, and ports run out."""
    monkeypatch.setattr(_tcti, "KINDS", (*_tcti.KINDS, "cmd"))
    bridge = tmp_path / "bridge.py"
    bridge.write_text(BRIDGE)
    return f"cmd:{sys.executable} -S -E {bridge} {swtpm.port}".replace(" ", "%20")


def expected(message: bytes) -> bytes:
    return hmac.digest(EXAMPLE_KEY, message, "sha256")


@pytest.mark.parametrize("session", ["salted", "plain"])
def test_kill_and_restart(swtpm: Swtpm, session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "RECONNECT_SECONDS", 1.0)
    with open_backend(import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&session={session}", EXAMPLE_KEY)) as backend:
        assert backend.hmac_sha256(b"before") == expected(b"before")
        swtpm.kill()
        swtpm.start()
        assert backend.hmac_sha256(b"after") == expected(b"after")  # transparently
        swtpm.kill()
        start = time.monotonic()
        with pytest.raises(DeviceLostError, match="no TPM emulator answers"):
            backend.hmac_sha256(b"away")
        assert time.monotonic() - start < _device.RECONNECT_SECONDS + 2
        start = time.monotonic()
        with pytest.raises(DeviceLostError):
            backend.hmac_sha256(b"away")
        assert time.monotonic() - start < 1  # only the one who saw it go waits
        swtpm.start()
        assert backend.hmac_sha256(b"back") == expected(b"back")


def test_file_survives_a_restart(swtpm: Swtpm, tmp_path: Path) -> None:
    with open_backend(import_into(f"tpm2:file={tmp_path}/k.pem?tcti={swtpm.tcti}", EXAMPLE_KEY)) as backend:
        swtpm.kill()
        swtpm.start()
        assert backend.hmac_sha256(b"after") == expected(b"after")


def test_reset(swtpm: Swtpm, tmp_path: Path) -> None:
    """The TPM resets under an open connection and forgets what was loaded; until its start it says so."""
    with open_backend(import_into(f"tpm2:file={tmp_path}/k.pem?tcti={swtpm.tcti}", EXAMPLE_KEY)) as backend:
        backend.hmac_sha256(b"before")
        with socket.create_connection(("127.0.0.1", swtpm.port + 1)) as control:
            control.sendall(bytes([0, 0, 0, 2, 0, 0, 0, 0]))  # CMD_INIT of swtpm's control channel
            assert control.recv(4) == bytes(4)
        with pytest.raises(DeviceError, match=r"has not been started.*0x100"):
            backend.hmac_sha256(b"reset")
        with ESAPI(swtpm.tcti) as esys:
            esys.startup(TPM2_SU.CLEAR)
        assert backend.hmac_sha256(b"after") == expected(b"after")


def test_another_tpm_in_its_place(swtpm: Swtpm, tmp_path: Path) -> None:
    """A key of the same handle in another TPM never signs for this one."""
    named = import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}&session=plain", EXAMPLE_KEY)
    with open_backend(named) as backend:
        backend.hmac_sha256(b"before")
        swtpm.kill()
        swtpm.state = tmp_path / "another"
        swtpm.state.mkdir()
        swtpm.start()
        import_into(named, b"another key")
        with pytest.raises(KeyMismatchError, match="another key now"):
            backend.hmac_sha256(b"20260101")


def test_sixty_four_threads_and_kills(swtpm: Swtpm, piped: str) -> None:
    """10,240 HMACs, each compared, while the TPM is killed and started again; never a wrong one."""
    named = import_into(f"tpm2:{HANDLE}?tcti={piped}&session=plain", EXAMPLE_KEY)
    wrong: list[str] = []
    right, lost = [0] * 64, [0] * 64

    with open_backend(named) as backend:

        def work(number: int) -> None:
            done = 0
            while done < 160:
                message = b"%d/%d" % (number, done)
                try:
                    mac = backend.hmac_sha256(message)
                except DeviceError:
                    lost[number] += 1
                    time.sleep(0.05)
                    continue
                except Exception as exc:  # noqa: BLE001 - counted and shown
                    wrong.append(repr(exc))
                    return
                if mac != expected(message):
                    wrong.append(f"wrong MAC for {message!r}")
                done += 1
            right[number] = done

        threads = [threading.Thread(target=work, args=(n,)) for n in range(64)]
        for thread in threads:
            thread.start()
        for _ in range(4):
            time.sleep(0.3)
            swtpm.kill()  # with calls in flight
            swtpm.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert sum(right) == 64 * 160


def test_a_thousand_uses_leak_nothing(piped: str, tmp_path: Path) -> None:
    """This TPM has three slots for objects and three for sessions; each use takes two and one."""
    uri = f"tpm2:file={tmp_path}/k.pem?tcti={piped}&pcrs=sha256:23&session=plain"
    with open_backend(import_into(uri, EXAMPLE_KEY)) as backend:
        for number in range(1000):
            message = b"%d" % number
            assert backend.hmac_sha256(message) == expected(message)


def test_slots_taken_by_others(swtpm: Swtpm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a resource manager: waits for a slot, then says that the TPM is full; never a leak of its own."""
    monkeypatch.setattr(_device, "BUSY_SECONDS", 0.3)
    named = import_into(f"tpm2:{HANDLE}?tcti={swtpm.tcti}", EXAMPLE_KEY)
    template = TPM2B_PUBLIC(publicArea=_device.storage_template(rsa=False))
    with ESAPI(swtpm.tcti) as esys:
        taken: list[ESYS_TR] = []
        for _ in range(3):
            tr, *_rest = esys.create_primary(None, template)
            taken.append(tr)
        with pytest.raises(DeviceBusyError, match=r"no free slot.*resource manager"):
            open_backend(named)
        monkeypatch.setattr(_device, "BUSY_SECONDS", 10.0)
        threading.Timer(0.2, lambda: [esys.flush_context(tr) for tr in taken]).start()
        with open_backend(named) as backend:
            assert backend.hmac_sha256(b"20260101") == expected(b"20260101")


def test_sessions_taken_by_others(swtpm: Swtpm, tmp_path: Path) -> None:
    """The TSS would salt the session after the one that failed with the old salt, and the TPM refuse it."""
    uri = f"tpm2:file={tmp_path}/k.pem?tcti={swtpm.tcti}&parent=ek-ecc"
    import_into(uri, EXAMPLE_KEY)
    with ESAPI(swtpm.tcti) as esys:
        null = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
        taken = [
            esys.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.HMAC, null, TPM2_ALG.SHA256) for _ in range(2)
        ]
        threading.Timer(0.5, lambda: [esys.flush_context(session) for session in taken]).start()
        with open_backend(uri) as backend:
            assert backend.hmac_sha256(b"20260101") == expected(b"20260101")


def test_standard_error_stays_silent(swtpm: Swtpm) -> None:
    """The TSS logs each failure to standard error; through us it does not."""
    program = f"""
import aws_hmac
for uri in ("tpm2:{HANDLE}?tcti={swtpm.tcti}", "tpm2:{HANDLE}?tcti=swtpm:host=127.0.0.1,port=1"):
    try:
        aws_hmac.open_backend(uri)
    except (aws_hmac.KeyNotFoundError, aws_hmac.DeviceLostError) as exc:
        print("error:", exc)
"""
    environment = {k: v for k, v in os.environ.items() if k != "TSS2_LOG"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("error:") == 2


def test_no_tpm_here(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="there is no TPM here; switch it on in the firmware"):
        open_backend(f"tpm2:{HANDLE}?tcti=device:{tmp_path}/tpmrm0")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can ask as another user")
@pytest.mark.parametrize(("mode", "said"), [(0o660, "usermod -aG root"), (0o600, "udev rule")])
def test_device_without_permission(mode: int, said: str) -> None:
    """The message names the group to join, or the rule to install."""
    program = f"""
import grp, os, tempfile
from pathlib import Path
from aws_hmac_backends.tpm2 import _tcti
with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    device = Path(folder, "tpmrm0")
    device.touch()
    device.chmod({mode})
    os.setegid(65534)
    os.setgroups([])
    os.seteuid(65534)
    print(_tcti.device_fault(device))
    os.seteuid(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said in done.stdout


def test_busy_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """/dev/tpm0 is one program's at a time; the message names the way around."""

    def busy(*_: object) -> int:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(os, "open", busy)
    fault = _tcti.device_fault(tmp_path / "tpm0")
    assert isinstance(fault, DeviceBusyError)
    assert "use the kernel's resource manager: tcti=device:/dev/tpmrm0" in str(fault)


def test_no_resource_manager_in_the_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_tcti, "RAW_DEVICE", tmp_path / "tpm0")
    (tmp_path / "tpm0").touch()
    assert "no resource manager for it" in str(_tcti.device_fault(tmp_path / "tpmrm0"))
    assert "there is no TPM here" in str(_tcti.device_fault(tmp_path / "tpm1"))


def test_missing_tcti(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TCTILdr, "is_available", lambda _: False)
    with pytest.raises(BackendUnavailableError, match="install it, on Debian: libtss2-tcti-tabrmd0"):
        open_backend(f"tpm2:{HANDLE}?tcti=tabrmd")


def test_missing_resource_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceLostError, match=r"systemctl start tpm2-abrmd|libtss2-tcti-tabrmd") as caught:
        monkeypatch.setattr(TCTILdr, "is_available", lambda _: True)
        open_backend(f"tpm2:{HANDLE}?tcti=tabrmd")
    assert "group tss" in str(caught.value)
