"""One TPM: a context under a lock that mends itself, and the work that is done in it.

Everything that a piece of work loads or starts is flushed at its end, also when it fails.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_ECC,
    TPM2_PT,
    TPM2_SE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMA_SESSION,
    TPMS_ECC_PARMS,
    TPMS_RSA_PARMS,
    TPMS_SENSITIVE_CREATE,
    TPMT_ECC_SCHEME,
    TPMT_KDF_SCHEME,
    TPMT_PUBLIC,
    TPMT_RSA_SCHEME,
    TPMT_SYM_DEF,
    TPMT_SYM_DEF_OBJECT,
    TPMU_PUBLIC_PARMS,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
    TSS2_Exception,
)

from aws_hmac.errors import DeviceError, KeyMismatchError, KeyNotFoundError, UnsupportedError

from . import _errors, _policy, _tcti
from ._options import SRK, Options, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tpm2_pytss import TPM2B_PRIVATE

    from ._policy import Command

T = TypeVar("T")

_PASSWORD = nullcontext(ESYS_TR.PASSWORD)

RECONNECT_SECONDS = 3.0
"""How long the one reconnect waits for a resource manager or TPM that is being restarted."""

BUSY_SECONDS = 3.0
"""How long to wait for a free slot in a TPM without a resource manager."""

FORK_SECONDS = 30.0
"""How long a fork waits for a TPM command under way."""

_STORAGE = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT
)

_HIERARCHIES = {
    "owner": ESYS_TR.OWNER,
    "endorsement": ESYS_TR.ENDORSEMENT,
    "ek": ESYS_TR.ENDORSEMENT,
    "null": ESYS_TR.NULL,
}
_AUTH_SOURCES = {
    ESYS_TR.OWNER: "owner-auth-source",
    ESYS_TR.ENDORSEMENT: "endorsement-auth-source",
}


EK_TYPES = {"ek-rsa": "EK-RSA2048", "ek-ecc": "EK-ECC256"}
"""The endorsement keys by the names of the EK Credential Profile (templates L-1 and L-2)."""


class Object(NamedTuple):
    """An object in the TPM.

    Attributes:
        tr: ESAPI's handle.
        public: its public area.
        name: the hash of that area, computed here.
    """

    tr: ESYS_TR
    public: TPMT_PUBLIC
    name: bytes

    def has(self, attribute: int) -> bool:
        """Tells whether an attribute is set."""
        return bool(int(self.public.objectAttributes) & attribute)


class Device:
    """A context of the TSS, opened when first needed and again in a forked child or after a loss.

    Args:
        tcti: the way to the TPM.
        what: the key or thing in question, for messages.
    """

    def __init__(self, tcti: str, what: str) -> None:
        self._tcti = tcti
        self._what = what
        self._lock = threading.RLock()
        self._held = False
        self._esys: ESAPI | None = None
        self._abandoned: list[ESAPI] = []
        self._closed = False
        with _listing:
            _devices.add(self)

    def run(self, action: Callable[[ESAPI], T], *, again: bool = True) -> T:
        """Runs `action` alone in the context; once more in a new one if the connection was lost.

        Args:
            action: what to do.
            again: it bears being done twice.

        Raises:
            Error: what the TPM or the way to it says.
        """
        with self._lock:
            if self._closed:
                raise DeviceError(f"{self._what}: closed")
            fresh = self._esys is None
            try:
                with _errors.map_exceptions(self._what):
                    try:
                        return self._patiently(action)
                    except TSS2_Exception as exc:
                        if fresh or not again or not _errors.is_lost(exc):
                            raise
                    self._drop()
                    self._reopen()
                    return self._patiently(action)
            except BaseException:
                # After a TPM2_StartAuthSession that failed, the TSS salts the next session with the old salt
                # (seen in tpm2-tss 3.2.1): whatever failed, the next call gets a new context.
                self._drop()
                raise

    def _patiently(self, action: Callable[[ESAPI], T]) -> T:
        """Runs `action`, again for a while where other programs fill the TPM's few slots."""
        end = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return action(self._open())
            except TSS2_Exception as exc:
                if not _errors.is_full(exc) or time.monotonic() > end:
                    raise
                self._drop()
            time.sleep(0.02)

    def close(self) -> None:
        """Lets go of the TPM."""
        with self._lock:
            self._closed = True
            self._drop()

    def _open(self) -> ESAPI:
        if self._esys is None:
            self._esys = _tcti.connect(self._tcti)
        return self._esys

    def _reopen(self) -> None:
        """Waits a little for what is being restarted; only the caller who saw the loss waits."""
        end = time.monotonic() + RECONNECT_SECONDS
        pause = 0.05
        while True:
            try:
                self._open().get_random(1)  # some transmission interfaces connect at the first command
            except (TSS2_Exception, DeviceError):
                self._drop()
                if time.monotonic() > end:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 0.5)  # tabrmd's writes a line to standard error each time
            else:
                return

    def _drop(self) -> None:
        esys, self._esys = self._esys, None
        if esys is not None:
            esys.close()

    def before_fork(self) -> None:
        """Waits for the command under way: a child that inherits its connection keeps it open for ever."""
        self._held = self._lock.acquire(timeout=FORK_SECONDS)

    def after_fork(self) -> None:
        """Lets the parent go on."""
        if self._held:
            self._held = False
            self._lock.release()

    def in_child(self) -> None:
        """Leaves the parent's context to the parent: closing it here could end what it has open."""
        self._lock = threading.RLock()
        self._held = False
        if self._esys is not None:
            self._abandoned.append(self._esys)
            self._esys = None


_devices: weakref.WeakSet[Device] = weakref.WeakSet()
_listing = threading.Lock()


def _before_fork() -> None:
    _listing.acquire()
    for device in _devices:
        device.before_fork()


def _after_fork(act: Callable[[Device], None]) -> None:
    try:
        for device in _devices:
            act(device)
    finally:
        _listing.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(Device.after_fork),
        after_in_child=lambda: _after_fork(Device.in_child),
    )


class Work(ExitStack):
    """One piece of work in a context; what it loads and starts ends with it.

    Args:
        esys: the context.
        options: the URI, which names parents, session key and passwords.
    """

    def __init__(self, esys: ESAPI, options: Options) -> None:
        super().__init__()
        self.esys = esys
        self.options = options
        self._salt: Object | None = None

    # -- objects -------------------------------------------------------------------------------------------

    def persistent(self, handle: int) -> Object | None:
        """Returns the object at a persistent handle; None if there is none."""
        try:
            tr = self.esys.tr_from_tpmpublic(handle)
        except TSS2_Exception as exc:
            if exc.error == _errors.RC_HANDLE:
                return None
            raise
        self.callback(self._quietly, self.esys.tr_close, tr)
        return self._object(tr)

    def key(self, which: int | str) -> Object:
        """Returns a parent or session key: at a persistent handle, or made from its template.

        Raises:
            KeyNotFoundError: there is nothing at the handle.
        """
        if isinstance(which, int):
            found = self.persistent(which)
            if found is None:
                raise KeyNotFoundError(
                    f"{self.options.what}: there is no key at 0x{which:x}, which should be its parent or session key;"
                    " parent=owner makes one from the standard template"
                )
            return found
        hierarchy = _HIERARCHIES[which.partition("-")[0]]
        source = _AUTH_SOURCES.get(hierarchy)
        self._set_auth(hierarchy, self.options.secret(source) if source else None)
        # Esys_CreatePrimary asks for the hierarchy's password; a session cannot be salted before there is a key.
        with self._session(TPM2_SE.HMAC, None) if self.options.salted else _PASSWORD as session:
            tr, *_ = self.esys.create_primary(
                TPM2B_SENSITIVE_CREATE(), TPM2B_PUBLIC(publicArea=self._template(which)), hierarchy, session1=session
            )
        self.callback(self._quietly, self.esys.flush_context, tr)
        return self._object(tr)

    def load(self, parent: Object, private: TPM2B_PRIVATE, public: TPM2B_PUBLIC) -> Object:
        """Loads a key under its parent."""
        with self.parent_session(parent) as session:
            tr = self.esys.load(parent.tr, private, public, session1=session)
        self.callback(self._quietly, self.esys.flush_context, tr)
        return self._object(tr)

    def default_parent(self) -> int | str:
        """Returns the storage root key where there is one, and the owner's standard primary where not."""
        found = self.persistent(SRK)
        return SRK if found is not None and is_parent(found) else "owner"

    def _object(self, tr: ESYS_TR) -> Object:
        # The salt of a session is encrypted to the public area that ESAPI holds for this handle. It came over
        # the bus, so its name is computed from that very copy and not believed: after handle, name and type
        # (IESYS_RESOURCE) comes the TPM2B_PUBLIC.
        blob = self.esys.tr_serialize(tr)
        offset = 4 + 2 + int.from_bytes(blob[4:6], "big") + 4
        public, _ = TPM2B_PUBLIC.unmarshal(blob[offset:])
        return Object(tr, public.publicArea, bytes(public.get_name()))

    def _template(self, which: str) -> TPMT_PUBLIC:
        if which.startswith("ek-"):
            from tpm2_pytss.utils import NVReadEK, create_ek_template

            try:
                _, template = create_ek_template(EK_TYPES[which], NVReadEK(self.esys))
            except ValueError as exc:
                raise UnsupportedError(f"{self.options.what}: this TPM has no {which}") from exc
            return template.publicArea
        return storage_template(rsa=which.endswith("-rsa"))

    # -- sessions ------------------------------------------------------------------------------------------

    def salt(self) -> Object | None:
        """Returns the key that salts sessions, its name checked; None for ``session=plain``.

        Raises:
            KeyMismatchError: it is not the key whose name is pinned.
        """
        if not self.options.salted:
            return None
        if self._salt is None:
            which = self.options.session_key
            self.set_salt(self.key(self.default_parent() if which is None else which))
        return self._salt

    def set_salt(self, key: Object, pinned: bytes | None = None) -> None:
        """Makes a key the one that salts sessions, if its name is the pinned one."""
        if not self.options.salted:
            return
        expected = self.options.session_key_name or pinned
        if expected and key.name != expected:
            raise KeyMismatchError(
                f"{self.options.what}: the key that is to protect the session has the name {key.name.hex()},"
                f" not {expected.hex()}: another TPM, a cleared one, or somebody on its bus"
            )
        if not is_parent(key):
            raise UnsupportedError(f"{self.options.what}: the session key is no decryption key, so it cannot salt")
        self._salt = key

    @contextmanager
    def user_session(self, password: Secret | None, policy: Iterable[Command], target: Object) -> Iterator[ESYS_TR]:
        """A session that lets a key be used; a policy session is made for this one use.

        Args:
            password: the key's; None if it has none.
            policy: what to run first; empty for the password alone.
            target: the key.
        """
        commands = tuple(policy)
        self._set_auth(target.tr, password)
        if not commands:
            with self._password_session() as session:
                yield session
            return
        with self._session(TPM2_SE.POLICY, self.salt()) as session:
            _policy.run(self.esys, session, commands)
            yield session

    @contextmanager
    def parent_session(self, parent: Object) -> Iterator[ESYS_TR]:
        """A session that lets a parent be used: by its password, or by an EK's policy."""
        if parent.has(TPMA_OBJECT.USERWITHAUTH):
            with self.user_session(self.options.secret("parent-auth-source"), (), parent) as session:
                yield session
            return
        self._set_auth(ESYS_TR.ENDORSEMENT, self.options.secret("endorsement-auth-source"))
        with self._session(TPM2_SE.POLICY, self.salt()) as session:
            # TCG EK Credential Profile, section 2.1.1: policyA is TPM2_PolicySecret(TPM_RH_ENDORSEMENT).
            with self._password_session() as hierarchy:
                self.esys.policy_secret(ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0, session1=hierarchy)
            yield session

    @contextmanager
    def owner_session(self) -> Iterator[ESYS_TR]:
        """A session with the owner's password."""
        self._set_auth(ESYS_TR.OWNER, self.options.secret("owner-auth-source"))
        with self._password_session() as session:
            yield session

    def _password_session(self) -> AbstractContextManager[ESYS_TR]:
        """A session that proves a password: without showing it if salted, by sending it if plain."""
        return self._session(TPM2_SE.HMAC, self.salt()) if self.options.salted else _PASSWORD

    @contextmanager
    def _session(self, kind: int, salt: Object | None) -> Iterator[ESYS_TR]:
        session = self.esys.start_auth_session(
            tpm_key=ESYS_TR.NONE if salt is None else salt.tr,
            bind=ESYS_TR.NONE,
            session_type=kind,
            symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL) if salt is None else TPMT_SYM_DEF.parse("aes128cfb"),
            auth_hash=TPM2_ALG.SHA256,
        )
        try:
            if salt is not None:
                self.esys.trsess_set_attributes(
                    session, TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT
                )
            yield session
        finally:
            self._quietly(self.esys.flush_context, session)

    # -- properties ----------------------------------------------------------------------------------------

    def properties(self, first: int, count: int) -> dict[int, int]:
        """Returns some of the TPM's properties (TPM_PT), by number."""
        _, data = self.esys.get_capability(TPM2_CAP.TPM_PROPERTIES, first, count)
        return {int(p.property): int(p.value) for p in data.data.tpmProperties}

    def lockout(self) -> tuple[int, int, int]:
        """Returns wrong passwords counted, how many lock the TPM, and seconds until one is forgiven."""
        found = self.properties(TPM2_PT.LOCKOUT_COUNTER, 3)
        return (
            found.get(TPM2_PT.LOCKOUT_COUNTER, 0),
            found.get(TPM2_PT.MAX_AUTH_FAIL, 0),
            found.get(TPM2_PT.LOCKOUT_INTERVAL, 0),
        )

    def _set_auth(self, handle: ESYS_TR, password: Secret | None) -> None:
        self.esys.tr_set_auth(handle, None if password is None else password.value)

    def _quietly(self, close: Callable[[ESYS_TR], None], handle: ESYS_TR) -> None:
        """Ends a handle; a connection that is gone has ended it already, and the next call will notice."""
        try:
            close(handle)
        except TSS2_Exception as exc:
            if not _errors.is_lost(exc):
                raise


def storage_template(*, rsa: bool) -> TPMT_PUBLIC:
    """Returns the template of a hierarchy's storage primary: ECC NIST P-256, or RSA 2048, with AES-128-CFB.

    The draft on TPM key files makes it the parent where a file names a hierarchy.
    """
    symmetric = TPMT_SYM_DEF_OBJECT(
        algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(aes=128), mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB)
    )
    if rsa:
        return TPMT_PUBLIC(
            type=TPM2_ALG.RSA,
            nameAlg=TPM2_ALG.SHA256,
            objectAttributes=_STORAGE,
            parameters=TPMU_PUBLIC_PARMS(
                rsaDetail=TPMS_RSA_PARMS(
                    symmetric=symmetric, scheme=TPMT_RSA_SCHEME(scheme=TPM2_ALG.NULL), keyBits=2048, exponent=0
                )
            ),
        )
    return TPMT_PUBLIC(
        type=TPM2_ALG.ECC,
        nameAlg=TPM2_ALG.SHA256,
        objectAttributes=_STORAGE,
        parameters=TPMU_PUBLIC_PARMS(
            eccDetail=TPMS_ECC_PARMS(
                symmetric=symmetric,
                scheme=TPMT_ECC_SCHEME(scheme=TPM2_ALG.NULL),
                curveID=TPM2_ECC.NIST_P256,
                kdf=TPMT_KDF_SCHEME(scheme=TPM2_ALG.NULL),
            )
        ),
    )


def is_parent(key: Object) -> bool:
    """Tells whether a key is a storage key: an asymmetric, restricted decryption key."""
    asymmetric = int(key.public.type) in (TPM2_ALG.RSA, TPM2_ALG.ECC)
    return asymmetric and key.has(TPMA_OBJECT.DECRYPT) and key.has(TPMA_OBJECT.RESTRICTED)


def is_hmac_sha256(public: TPMT_PUBLIC) -> bool:
    """Tells whether a public area is that of a key for HMAC-SHA256."""
    if int(public.type) != TPM2_ALG.KEYEDHASH or not int(public.objectAttributes) & TPMA_OBJECT.SIGN_ENCRYPT:
        return False
    scheme = public.parameters.keyedHashDetail.scheme
    if int(scheme.scheme) == TPM2_ALG.NULL:
        return not int(public.objectAttributes) & TPMA_OBJECT.RESTRICTED  # the caller names the hash
    return (int(scheme.scheme), int(scheme.details.hmac.hashAlg)) == (TPM2_ALG.HMAC, TPM2_ALG.SHA256)


def kind_of(public: TPMT_PUBLIC) -> str:
    """Returns what kind of object a public area belongs to, in words."""
    kind = int(public.type)
    if kind == TPM2_ALG.RSA:
        return "an RSA key"
    if kind == TPM2_ALG.ECC:
        return "an elliptic curve key"
    if kind == TPM2_ALG.SYMCIPHER:
        return "a symmetric cipher key"
    if kind == TPM2_ALG.KEYEDHASH:
        if not int(public.objectAttributes) & TPMA_OBJECT.SIGN_ENCRYPT:
            return "sealed data"
        scheme = public.parameters.keyedHashDetail.scheme
        if int(scheme.scheme) == TPM2_ALG.HMAC:
            hashing = int(scheme.details.hmac.hashAlg)
            return f"an HMAC key for {_policy.BANK_NAMES.get(hashing, f'algorithm 0x{hashing:x}').upper()}"
        return "a keyed-hash key that is none for HMAC"
    return "an object of an unknown kind"


def persistent_handles(esys: ESAPI) -> Sequence[int]:
    """Returns the handles of everything persistent."""
    handles: list[int] = []
    more = True
    while more:
        first = handles[-1] + 1 if handles else 0x81000000
        more, data = esys.get_capability(TPM2_CAP.HANDLES, first, 64)
        some = [int(h) for h in data.data.handles]
        if not some:
            break
        handles += some
    return handles


def sensitive(password: Secret | None, key: Secret) -> TPM2B_SENSITIVE_CREATE:
    """Returns what TPM2_Create takes: a password and the key's bytes."""
    auth = b"" if password is None else password.value
    return TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=auth, data=key.value))
