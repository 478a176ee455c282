"""A throw-away SoftHSM token, for the demo and the tests: never for a key that matters."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from aws_hmac.errors import DeviceError
from aws_hmac.uri import KeyURI

_HERE = Path(__file__).resolve().parent
# In a wheel the folder lies inside the package, in the source tree beside it.
SCRIPT = next((p for p in (_HERE / "softhsm", _HERE.parent / "softhsm") if p.is_dir()), _HERE) / "make-token"
"""The script that makes the token: ``softhsm/make-token``."""


@dataclass(frozen=True)
class SoftHSMToken:
    """A SoftHSM token in a folder of its own.

    Attributes:
        directory: holds everything; remove it, and the token is gone.
        label: the token's name.
        module: the path of SoftHSM's library.
        conf: the configuration that `environment` names.
        pin_file: holds the user's PIN, readable by its owner alone.
        so_pin_file: likewise the security officer's.
    """

    directory: Path
    label: str
    module: str
    conf: Path
    pin_file: Path
    so_pin_file: Path = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """What a process that shall see the token needs in its environment."""
        return {"SOFTHSM2_CONF": str(self.conf)}

    @property
    def pin(self) -> str:
        """The user's PIN."""
        return self.pin_file.read_text()

    def uri(self, object: str | None = "prod", *, module_path: str | None = "") -> str:  # noqa: A002 - RFC 7512's name
        """Returns the URI of a key on this token.

        Args:
            object: the key's label; None leaves it out.
            module_path: another library than SoftHSM's own; None leaves it out, for p11-kit's proxy.
        """
        path = {"token": self.label} | ({} if object is None else {"object": object})
        query = {} if module_path is None else {"module-path": module_path or self.module}
        return str(KeyURI("pkcs11", path, query | {"pin-source": f"file:{self.pin_file}"}))


def make_token(directory: Path, label: str) -> SoftHSMToken:
    """Makes a token with random PINs in an absent or empty folder.

    Raises:
        DeviceError: SoftHSM or OpenSC's pkcs11-tool is not installed, or failed.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own script
            [str(SCRIPT), str(directory), label], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as exc:
        raise DeviceError(f"{SCRIPT}: cannot be run: {exc.strerror}") from exc
    if done.returncode:
        raise DeviceError(f"no SoftHSM token: {' '.join(done.stderr.split())}")
    words = (line.removeprefix("export ") for line in done.stdout.splitlines())
    said = dict(shlex.split(word)[0].split("=", 1) for word in words)
    directory = Path(said["SOFTHSM2_CONF"]).parent
    return SoftHSMToken(
        directory=directory,
        label=label,
        module=said["SOFTHSM2_MODULE"],
        conf=Path(said["SOFTHSM2_CONF"]),
        pin_file=Path(said["SOFTHSM2_PIN_FILE"]),
        so_pin_file=directory / "so-pin",
    )
