"""How well a key is protected, and what stands between this machine and its TPM."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tpm2_pytss import TPM2_CC, TPM2_PT, TPMA_OBJECT

from aws_hmac.backend import Finding
from aws_hmac.errors import Error

from . import _errors, _options, _policy, _tcti, pcr_record
from ._device import Device, Object, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpm2_pytss import ESAPI

    from aws_hmac.backend import HmacBackend
    from aws_hmac.uri import KeyURI

    from ._keyfile import KeyFile
    from ._options import Options
    from ._policy import Command

IN_LOCKOUT = 0x200
"""TPMA_PERMANENT.inLockout (TPM 2.0, Part 2, section 8.6)."""


def inspect(
    esys: ESAPI,
    options: Options,
    file: KeyFile | None,
    find: Callable[[Work], tuple[Object, tuple[Command, ...]]],
    mac: Callable[[ESAPI, bytes], bytes],
) -> list[Finding]:
    """Returns what protects a key; see `Tpm2Backend.inspect`.

    Args:
        esys: the context.
        options: the URI.
        file: the key's file, if it has one.
        find: returns the key in the TPM and its policy.
        mac: computes one HMAC.
    """
    with Work(esys, options) as work:
        key, policy = find(work)
        findings = [_leaves(work, key, policy), *_use(options, key, policy), _session(work, file)]
        findings += _pcrs(work, options, file, policy)
        findings += [_where(options, file), _counter(work, key)]
    findings.append(_speed(esys, mac))
    return findings


def _leaves(work: Work, key: Object, policy: tuple[Command, ...]) -> Finding:
    """Tells whether TPM2_Duplicate could let the key out, and by what."""
    if key.has(TPMA_OBJECT.FIXEDTPM):
        return Finding("good", "fixedTPM", "the key cannot leave this TPM (fixedTPM, fixedParent)")
    if key.has(TPMA_OBJECT.FIXEDPARENT):
        return Finding("warning", "fixedTPM", "the key cannot leave its parent, but the parent may leave this TPM")
    branches = any(c.code == TPM2_CC.PolicyOR for c in policy)
    if branches:
        return Finding(
            "bad",
            "fixedTPM",
            "not set, and a branch of the policy (TPM2_PolicyOR) may let the key out (TPM2_PolicyDuplicationSelect)",
            "import the key anew with aws-hmac key import",
        )
    pcrs = _policy.pcrs_of(policy)
    now = _policy.pcr_digest(pcrs.read(work.esys)) if pcrs is not None else b""
    known = policy and _policy.digest_of(policy, now) == bytes(key.public.authPolicy)
    if known or not bytes(key.public.authPolicy):
        return Finding(
            "info",
            "fixedTPM",
            "not set, as for every key that came wrapped; but no policy allows TPM2_Duplicate, so it cannot leave",
        )
    return Finding(
        "warning",
        "fixedTPM",
        "not set, and the key's policy is not the one described (or a PCR changed): it may let the key out",
    )


def _use(options: Options, key: Object, policy: tuple[Command, ...]) -> list[Finding]:
    findings = []
    password = options.uri.get("auth-source") is not None
    pcrs = _policy.pcrs_of(policy)
    if policy and not key.has(TPMA_OBJECT.USERWITHAUTH):
        needs = [f"PCR {pcrs}"] if pcrs else []
        needs += ["its password"] if _policy.needs_password(policy) else []
        findings.append(Finding("good", "policy", f"used only with {' and '.join(needs) or 'its policy met'}"))
    elif password:
        findings.append(Finding("good", "userWithAuth", "used with its password"))
    else:
        findings.append(
            Finding(
                "warning",
                "userWithAuth",
                "used without a password: whoever may open the TPM may use the key",
                "import it with auth-source=… or pcrs=…",
            )
        )
    if key.has(TPMA_OBJECT.NODA) and password:
        findings.append(
            Finding("warning", "noDA", "wrong passwords are not counted", "use a random password of 16 bytes or more")
        )
    elif key.has(TPMA_OBJECT.NODA):
        findings.append(Finding("info", "noDA", "wrong passwords are not counted, and a locked TPM still uses the key"))
    else:
        findings.append(Finding("info", "noDA", "not set: wrong passwords are counted, and too many lock the TPM"))
    return findings


def _session(work: Work, file: KeyFile | None) -> Finding:
    options, salt = work.options, work.salt()
    if salt is None:
        return Finding(
            "warning",
            "session",
            "plain: password and derived keys can be read on the TPM's bus",
            "leave session=plain out",
        )
    pinned = options.session_key_name is not None or (
        file is not None and options.session_key is None and {"Session-Key-Name", "Parent-Name"} & set(file.notes)
    )
    if pinned:
        return Finding("good", "session", "salted and encrypted to a key whose name is pinned and checked")
    return Finding(
        "warning",
        "session",
        "salted and encrypted, but to whatever key answers: who can replace the TPM's answers can read along",
        f"if this is the machine's own TPM, add session-key-name={salt.name.hex()}",
    )


def _pcrs(work: Work, options: Options, file: KeyFile | None, policy: tuple[Command, ...]) -> list[Finding]:
    pcrs = _policy.pcrs_of(policy)
    if pcrs is None:
        return []
    now = pcrs.read(work.esys)
    recorded = pcr_record(options, file)
    if not recorded:
        wanted = next((_policy.parse_pcr_body(c.body)[2] for c in policy if c.code == TPM2_CC.PolicyPCR), b"")
        if wanted and wanted != _policy.pcr_digest(now):
            return [Finding("bad", "PCR", f"one of {pcrs} changed; which one was not recorded", "import the key again")]
        return [Finding("info", "PCR", f"bound to {pcrs}; their values at import were not recorded")]
    gone = _policy.changed(recorded, now)
    if gone:
        return [
            Finding(
                "bad",
                "PCR",
                f"{', '.join(gone)} changed since the import: the key cannot be used",
                "if that was wanted, import the key again",
            )
        ]
    return [Finding("good", "PCR", f"{pcrs} are as they were at the import")]


def _where(options: Options, file: KeyFile | None) -> Finding:
    if options.handle is not None:
        hierarchy = "owner" if options.handle in _options.OWNER_PERSISTENT else "platform"
        return Finding("info", "hierarchy", f"persistent, in the {hierarchy}'s range: gone after tpm2_clear")
    parent = (file.notes.get("Parent") or f"0x{file.parent:x}") if file is not None else "unknown"
    return Finding("info", "hierarchy", f"loaded under its parent {parent} for each use and flushed after it")


def _counter(work: Work, key: Object) -> Finding:
    wrong, most, interval = work.lockout()
    permanent = work.properties(TPM2_PT.PERMANENT, 1).get(int(TPM2_PT.PERMANENT), 0)
    if permanent & IN_LOCKOUT:
        return Finding(
            "info" if key.has(TPMA_OBJECT.NODA) else "bad",
            "lockout",
            f"the TPM is locked after {wrong} wrong passwords",
            f"wait {interval} s for each, or its owner runs: tpm2_dictionarylockout --clear-lockout",
        )
    text = f"{wrong} wrong passwords counted of the {most} that lock the TPM; one is forgiven each {interval} s"
    return Finding("warning" if wrong else "info", "lockout", text)


def _speed(esys: ESAPI, mac: Callable[[ESAPI, bytes], bytes]) -> Finding:
    times = []
    try:
        for _ in range(5):
            start = time.perf_counter()
            with _errors.map_exceptions("one HMAC"):
                mac(esys, b"aws-hmac speed")
            times.append(time.perf_counter() - start)
    except Error as exc:
        return Finding("bad", "use", str(exc))
    return Finding("info", "speed", f"{statistics.median(times) * 1e3:.1f} ms for one HMAC (median of {len(times)})")


def diagnose(backend: type[HmacBackend], uri: KeyURI | None) -> list[Finding]:
    """Looks for a TPM and the way to it; see `Tpm2Backend.diagnose`."""
    tcti = _tcti.DEFAULT
    options = None
    try:
        if uri is not None:
            options = _options.parse(uri, need_key=False)
            tcti = options.tcti
    except Error as exc:
        return [Finding("bad", "URI", str(exc))]
    kind, _, rest = tcti.partition(":")
    if kind == "device":
        fault = _tcti.device_fault(Path(rest or "/dev/tpmrm0"))
        if fault is not None:
            return [Finding("info" if uri is None else "bad", "TPM", str(fault))]
    device = Device(tcti, f"tcti={tcti}")
    try:
        findings = device.run(_state)
    except Error as exc:
        return [Finding("bad", "TPM", str(exc))]
    finally:
        device.close()
    findings.insert(0, Finding("good", "TPM", f"answers at {tcti}"))
    if options is not None and options.named and uri is not None:
        try:
            backend.from_uri(uri).close()
        except Error as exc:
            findings.append(Finding("bad", "key", str(exc)))
        else:
            findings.append(Finding("good", "key", f"{options.what} is there"))
    return findings


def _state(esys: ESAPI) -> list[Finding]:
    from aws_hmac.uri import KeyURI

    with Work(esys, _options.parse(KeyURI("tpm2", {}), need_key=False)) as work:
        permanent = work.properties(TPM2_PT.PERMANENT, 1).get(int(TPM2_PT.PERMANENT), 0)
        wrong, most, interval = work.lockout()
        srk = work.default_parent() == _options.SRK
    findings = [
        Finding("bad", "lockout", "the TPM is locked", "its owner runs: tpm2_dictionarylockout --clear-lockout")
        if permanent & IN_LOCKOUT
        else Finding("info", "lockout", f"{wrong} of {most} wrong passwords counted, one forgiven each {interval} s")
    ]
    if not srk:
        findings.append(
            Finding("info", "SRK", "none at 0x81000001: parents and session keys are made from the standard template")
        )
    return findings
