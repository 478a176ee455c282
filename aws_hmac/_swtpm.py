"""A throw-away TPM 2.0: the emulator swtpm as a process of its own, on loopback; for tests, examples and the demo."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from aws_hmac.errors import DeviceError

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self


class Swtpm:
    """A TPM emulator; a context manager.

    Args:
        state: the folder of its non-volatile memory, which outlives the process as a TPM's does.

    Attributes:
        port: of its commands; the next one is its control port, where the TSS looks for it.
        tcti: how the TSS reaches it.

    Raises:
        DeviceError: swtpm is not installed or does not start.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        state.mkdir(parents=True, exist_ok=True)
        self.port = _free_port_pair()
        self.tcti = f"swtpm:host=127.0.0.1,port={self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it listens; on the same port after a `kill`."""
        program = shutil.which("swtpm")
        if program is None:
            raise DeviceError("swtpm is not installed; on Debian: apt-get install swtpm libtss2-tcti-swtpm0")
        address = "bindaddr=127.0.0.1"
        self._process = subprocess.Popen(  # noqa: S603 - no shell, no input from outside
            [
                *(program, "socket", "--tpm2", "--tpmstate", f"dir={self.state}"),
                *("--server", f"type=tcp,port={self.port},{address}"),
                *("--ctrl", f"type=tcp,port={self.port + 1},{address}"),
                *("--flags", "not-need-init,startup-clear"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(1000):
            if self._process.poll() is not None:
                raise DeviceError(f"swtpm ended with status {self._process.returncode} at once")
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.01)
        self.kill()
        raise DeviceError("swtpm does not answer")

    def kill(self) -> None:
        """Ends it at once, as a power failure would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()


def _free_port_pair() -> int:
    """Returns a port of loopback that is free together with the next one."""
    for _ in range(1000):
        # Below the range from which systems pick ports for connections: in it the next one is seldom free.
        port = random.randrange(15000, 32000)  # noqa: S311 - not a secret
        with socket.socket() as first, socket.socket() as second, suppress(OSError):
            for one, number in ((first, port), (second, port + 1)):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(("127.0.0.1", number))
            return port
    raise DeviceError("there are no two free ports side by side")
