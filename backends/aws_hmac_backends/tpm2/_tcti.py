"""The way to a TPM: the transmission interface (TCTI) that ``tcti=`` names, and what may stand in it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tpm2_pytss import ESAPI, TCTILdr, TSS2_Exception

from aws_hmac.errors import BackendUnavailableError, DeviceBusyError, DeviceError, DeviceLostError, KeyURIError

from . import _errors

DEFAULT = "device:/dev/tpmrm0"
KINDS = ("device", "tabrmd", "swtpm", "mssim")


RAW_DEVICE = Path("/dev/tpm0")
"""The TPM without the kernel's resource manager."""


_glib_pid: int | None = None


def check(tcti: str) -> str:
    """Returns the TCTI's text.

    Raises:
        KeyURIError: it is none of the four that are known not to run programs or load what nobody named.
    """
    if tcti.partition(":")[0] not in KINDS:
        raise KeyURIError(f"tpm2: URI: tcti must be one of {', '.join(KINDS)}, as in tcti={DEFAULT}")
    return tcti


def connect(tcti: str) -> ESAPI:
    """Opens a context of the Enhanced System API.

    Raises:
        DeviceError, DeviceBusyError, DeviceLostError, BackendUnavailableError: one sentence on what is in the way.
    """
    global _glib_pid
    if tcti.partition(":")[0] == "tabrmd":
        if _glib_pid not in (None, os.getpid()):
            # GLib keeps one D-Bus connection for the process, served by a thread that a fork leaves behind.
            raise DeviceError(
                f"tcti={tcti}: D-Bus does not survive a fork, so the TPM cannot be used in this child;"
                " use tcti=device:/dev/tpmrm0, or start processes by spawn"
            )
        _glib_pid = os.getpid()
    try:
        return ESAPI(tcti)
    except TSS2_Exception as exc:
        raise _why(tcti, exc) from exc


def _why(tcti: str, exc: TSS2_Exception) -> Exception:
    kind, _, rest = tcti.partition(":")
    said = _errors.words(exc)
    if not TCTILdr.is_available(kind):
        return BackendUnavailableError(
            f"tpm2: the TSS has no TCTI {kind!r} on this machine; install it, on Debian: libtss2-tcti-{kind}0"
        )
    if kind == "device":
        return device_fault(Path(rest or "/dev/tpmrm0")) or DeviceError(f"tcti={tcti}: cannot be opened: {said}")
    if kind == "tabrmd":
        return DeviceLostError(
            f"tcti={tcti}: the resource manager does not answer: {said};"
            " start it with: systemctl start tpm2-abrmd, and be in the group tss"
        )
    return DeviceLostError(f"tcti={tcti}: no TPM emulator answers there: {said}")


def device_fault(device: Path) -> Exception | None:
    """Looks for what keeps this user from a TPM's device file; None if it opens."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        if exc.errno == errno.ENOENT:
            return DeviceError(_missing(device))
        if exc.errno in (errno.EACCES, errno.EPERM):
            return DeviceError(_forbidden(device))
        if exc.errno == errno.EBUSY:
            return DeviceBusyError(
                f"{device}: another program holds the TPM; use the kernel's resource manager: tcti=device:/dev/tpmrm0"
            )
        return DeviceError(f"{device}: cannot be opened: {exc.strerror}")
    return None


def _missing(device: Path) -> str:
    if device.name.startswith("tpmrm") and RAW_DEVICE.exists():
        return (
            f"{device}: the kernel shows a TPM ({RAW_DEVICE}) but no resource manager for it:"
            " it is a TPM 1.2, or the kernel is older than 4.12"
        )
    return (
        f"{device}: there is no TPM here; switch it on in the firmware (also called PTT or fTPM), or name another tcti"
    )


def _forbidden(device: Path) -> str:
    try:
        info = device.stat()
    except OSError:
        return f"{device}: this user may not open it"
    if info.st_mode & stat.S_IRGRP and info.st_mode & stat.S_IWGRP:
        name = _group(info.st_gid)
        return (
            f"{device}: only root and the group {name} may open it; add this user with: usermod -aG {name} USER,"
            f" or give the service SupplementaryGroups={name}"
        )
    return (
        f"{device}: no group may open it; install the udev rule of tpm2-tss"
        ' (KERNEL=="tpmrm[0-9]*", MODE="0660", GROUP="tss") and join the group tss'
    )


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
