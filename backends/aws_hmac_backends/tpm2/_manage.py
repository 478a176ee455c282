"""Which keys a TPM holds, and how one goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpm2_pytss import ESYS_TR, TPMA_OBJECT

from aws_hmac.backend import KeyEntry
from aws_hmac.errors import DeviceError, KeyNotFoundError
from aws_hmac.uri import KeyURI

from . import _device, at_handle, read_file
from ._device import Device, Object, Work

if TYPE_CHECKING:
    from tpm2_pytss import ESAPI

    from ._options import Options


def list_keys(options: Options) -> list[KeyEntry]:
    """Returns the persistent HMAC-SHA256 keys that fit, or the key of a file; see `Tpm2Backend.list_keys`."""
    if options.file is not None or options.pair is not None:
        try:
            file = read_file(options)
        except KeyNotFoundError:
            return []
        assert file is not None
        label = file.notes.get("Label", "")
        return [KeyEntry(str(options.uri), f"key file{f' {label}' if label else ''}")]
    device = Device(options.tcti, options.what)
    try:
        return device.run(lambda esys: _persistent_keys(esys, options))
    finally:
        device.close()


def _persistent_keys(esys: ESAPI, options: Options) -> list[KeyEntry]:
    found = []
    for handle in _device.persistent_handles(esys):
        if options.handle not in (None, handle):
            continue
        with Work(esys, options) as work:
            key = work.persistent(handle)
            if key is not None and _device.is_hmac_sha256(key.public):
                path = options.uri.path or {"handle": b"0x%x" % handle}
                found.append(KeyEntry(str(KeyURI("tpm2", path, options.uri.query)), _describe(key)))
    return found


def _describe(key: Object) -> str:
    leaves = "cannot leave this TPM" if key.has(TPMA_OBJECT.FIXEDTPM) else "not fixedTPM"
    used = "by password" if key.has(TPMA_OBJECT.USERWITHAUTH) else "by policy"
    return f"HMAC-SHA256, {leaves}, used {used}, name {key.name.hex()[:20]}…"


def delete_key(options: Options) -> None:
    """Evicts a persistent key or removes a key file; see `Tpm2Backend.delete_key`."""
    if options.handle is None:
        read_file(options)  # raises if there is none, or it is no HMAC key
        for path in (options.file, *(options.pair or ())):
            if path is not None:
                try:
                    path.unlink()
                except OSError as exc:
                    raise DeviceError(f"{options.what}: {path} cannot be removed: {exc.strerror}") from exc
        return
    device = Device(options.tcti, options.what)
    try:
        device.run(lambda esys: _evict(esys, options), again=False)
    finally:
        device.close()


def _evict(esys: ESAPI, options: Options) -> None:
    assert options.handle is not None
    with Work(esys, options) as work:
        key = at_handle(work, options.handle)
        # Esys_EvictControl invalidates the handle of what it evicts, so Work must not close it again.
        with work.owner_session() as session:
            esys.evict_control(ESYS_TR.OWNER, key.tr, options.handle, session1=session)
