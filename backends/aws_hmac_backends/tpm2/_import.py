"""Bringing a key in: made in the TPM from its bytes, or unwrapped from what was wrapped to this TPM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2B_DATA,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPML_PCR_SELECTION,
    TPMT_SYM_DEF_OBJECT,
)

from aws_hmac.errors import KeyExistsError, KeyURIError, UnsupportedError
from aws_hmac.uri import KeyURI

from . import _device, _keyfile, _options, _policy
from ._device import Device, Object, Work
from ._keyfile import KeyFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpm2_pytss import ESAPI

    from ._options import Options, Secret

RECORD_DIGITS = 16
"""Hexadecimal digits of each PCR value that go into a URI: enough to see that it changed."""


def import_key(options: Options, key: Secret, *, overwrite: bool, label: str | None) -> KeyURI:
    """Makes a key in the TPM; see `Tpm2Backend.import_key`."""
    if not key.value:
        raise KeyURIError(f"{options.what}: the key is empty")
    password = options.secret("auth-source")
    no_da = options.no_da if options.no_da is not None else password is None

    def make(work: Work, parent: Object) -> KeyFile:
        policy, seen = policy_for(work, password is not None)
        with work.parent_session(parent) as session:
            private, public, *_ = work.esys.create(
                parent.tr,
                _device.sensitive(password, key),
                public_area(policy, no_da=no_da, fixed=True),
                TPM2B_DATA(),
                TPML_PCR_SELECTION(),
                session1=session,
            )
        notes = {"PCR-Record": seen} if seen else {}
        return KeyFile(public, private, 0, empty_auth=password is None, policy=policy, notes=notes)

    return place(options, make, overwrite=overwrite, label=label)


def policy_for(work: Work, has_password: bool) -> tuple[tuple[_policy.Command, ...], str]:
    """Returns the policy for a new key, bound to the PCRs as they are, and the record of their values."""
    options = work.options
    if options.policy_or:
        raise UnsupportedError(
            f"{options.what}: policy-or is for keys that were made elsewhere; such a policy can let the key out"
        )
    if options.pcrs is None:
        return (), ""
    now = options.pcrs.read(work.esys)
    commands = [_policy.policy_pcr(options.pcrs, _policy.pcr_digest(now))]
    if has_password:
        commands.append(_policy.POLICY_AUTH_VALUE)
    return tuple(commands), _policy.record(now)


def public_area(policy: tuple[_policy.Command, ...], *, no_da: bool, fixed: bool) -> TPM2B_PUBLIC:
    """Returns the public area of a new key.

    Args:
        policy: what must be run before its use; () for the password alone.
        no_da: wrong passwords do not count.
        fixed: sets fixedTPM and fixedParent, which an imported duplicate cannot have.
    """
    attributes = TPMA_OBJECT.SIGN_ENCRYPT
    if fixed:
        attributes |= TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT
    # With a policy, the password alone must do nothing, neither as user nor as administrator.
    attributes |= TPMA_OBJECT.ADMINWITHPOLICY if policy else TPMA_OBJECT.USERWITHAUTH
    if no_da:
        attributes |= TPMA_OBJECT.NODA
    return TPM2B_PUBLIC.parse(
        "hmac:sha256", objectAttributes=attributes, authPolicy=_policy.digest_of(policy) if policy else None
    )


def take_in(work: Work, parent: Object, file: KeyFile) -> TPM2B_PRIVATE:
    """Runs TPM2_Import on an importable key; returns what TPM2_Load takes."""
    seed, _ = TPM2B_ENCRYPTED_SECRET.unmarshal(file.secret)
    with work.parent_session(parent) as session:
        return work.esys.import_(
            parent.tr,
            TPM2B_DATA(),
            file.public,
            file.private,
            seed,
            TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL),
            session1=session,
        )


def place(options: Options, make: Callable[[Work, Object], KeyFile], *, overwrite: bool, label: str | None) -> KeyURI:
    """Makes a key under its parent and puts it where the URI says.

    Args:
        options: the URI.
        make: returns the key, given the parent.
        overwrite: replaces the HMAC key that is there.
        label: what the key is for.

    Returns:
        The URI with what was learnt.
    """
    if options.pair is not None:
        raise UnsupportedError(f"{options.what}: a raw pair of files can be used, not made; import to file=… instead")
    if options.handle is not None and options.handle not in _options.OWNER_PERSISTENT:
        raise KeyURIError(f"{options.what}: the owner's persistent handles run from 0x81000000 to 0x817fffff")
    if options.file is not None and options.file.exists() and not overwrite:
        raise KeyExistsError(f"{options.what}: there is such a file already")
    device = Device(options.tcti, options.what)
    try:
        return device.run(lambda esys: _place(esys, options, make, overwrite=overwrite, label=label), again=False)
    finally:
        device.close()


def _place(
    esys: ESAPI, options: Options, make: Callable[[Work, Object], KeyFile], *, overwrite: bool, label: str | None
) -> KeyURI:
    with Work(esys, options) as work:
        old = None if options.handle is None else work.persistent(options.handle)
        if old is not None and not _device.is_hmac_sha256(old.public):
            raise KeyExistsError(
                f"{options.what}: at this handle is {_device.kind_of(old.public)}, which is not replaced; name another"
            )
        if old is not None and not overwrite:
            raise KeyExistsError(f"{options.what}: there is a key at this handle already")
        which = work.default_parent() if options.parent is None else options.parent
        parent = work.key(which)
        if not _device.is_parent(parent):
            raise UnsupportedError(f"{options.what}: the parent is {_device.kind_of(parent.public)}, no storage key")
        salt_which = which
        if options.session_key is None:
            work.set_salt(parent)
        else:
            salt_which = options.session_key
        salt = work.salt()
        made = make(work, parent)
        query = dict(options.uri.query)
        for name in ("parent", "no-da"):
            query.pop(name, None)
        if options.handle is not None:
            key = work.load(parent, made.private, made.public)
            with work.owner_session() as session:
                if old is not None:
                    esys.evict_control(ESYS_TR.OWNER, old.tr, options.handle, session1=session)
                esys.tr_close(esys.evict_control(ESYS_TR.OWNER, key.tr, options.handle, session1=session))
            if salt is not None:
                query |= {"session-key": text(salt_which).encode(), "session-key-name": salt.name.hex().encode()}
            pcrs = _policy.pcrs_of(made.policy)
            if pcrs is not None:
                query["pcrs"] = str(pcrs).encode()
            if "PCR-Record" in made.notes:
                seen = _policy.parse_record(made.notes["PCR-Record"])
                short = {pcr: bytes.fromhex(value) for pcr, value in seen.items()}
                query["pcr-record"] = _policy.record(short, digits=RECORD_DIGITS).encode()
        else:
            assert options.file is not None
            _keyfile.write(
                options.file, _as_file(made, which, parent, salt_which, salt, label), options.what, overwrite=overwrite
            )
            for name in ("session-key", "session-key-name", "pcrs", "pcr-record"):
                query.pop(name, None)
        return KeyURI(options.uri.scheme, options.uri.path, query)


def _as_file(
    made: KeyFile, which: int | str, parent: Object, salt_which: int | str, salt: Object | None, label: str | None
) -> KeyFile:
    """Returns a key with all that its file is to say."""
    handle = which if isinstance(which, int) else hierarchy_of(which)
    notes = {"Label": " ".join(label.split())} if label else {}
    notes |= {"Parent": text(which), "Parent-Name": parent.name.hex()}
    if salt is not None:
        if salt_which != which:
            notes["Session-Key"] = text(salt_which)
        notes["Session-Key-Name"] = salt.name.hex()
    notes |= made.notes
    return KeyFile(
        public=made.public,
        private=made.private,
        parent=handle,
        empty_auth=made.empty_auth,
        policy=made.policy,
        rsa_parent=isinstance(which, str) and which.endswith("-rsa") and not which.startswith("ek"),
        notes=notes,
    )


def hierarchy_of(primary: str) -> int:
    """Returns the handle of the hierarchy that a primary key belongs to.

    Raises:
        KeyURIError: there is no such primary.
    """
    handles = {"owner": 0x40000001, "endorsement": 0x4000000B, "ek": 0x4000000B, "null": 0x40000007}
    if primary not in _options.PRIMARIES:
        raise KeyURIError(f"the parent {primary!r} is unknown")
    return handles[primary.partition("-")[0]]


def text(which: int | str) -> str:
    """Returns a parent or session key as URIs and files write it."""
    return f"0x{which:x}" if isinstance(which, int) else which
