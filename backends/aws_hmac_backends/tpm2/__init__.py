"""``tpm2``: a key in the machine's own Trusted Platform Module (TPM 2.0), by tpm2-pytss.

Attributes of the URI before ``?``, exactly one of the first three:

====================== ==================================================================================
``handle``             a persistent handle, ``0x81008001``
``file``               a TSS2 PRIVATE KEY file (PEM): loaded for each use and flushed after it
``public``,``private`` the two files that ``tpm2_create -u … -r …`` writes
====================== ==================================================================================

After it, all optional:

============================= ===========================================================================
``tcti``                      the way to the TPM: ``device:/dev/tpmrm0`` (default), ``tabrmd``,
                              ``swtpm:host=…,port=…``, ``mssim:host=…,port=…``
``auth-source``               where the key's password is
``pcrs``                      PCRs of the key's policy, ``sha256:0,7``; with ``auth-source`` both are needed
``pcr-record``                their values at import, which tell which one changed (import adds it)
``policy-or``                 the digests of the branches of the policy's TPM2_PolicyOR, in order
``session``                   ``salted`` (default) encrypts what passes on the bus; ``plain`` does not
``session-key``               what salts the session: ``srk``, a handle, ``owner``, ``owner-rsa``, ``ek-ecc``,
                              ``ek-rsa``; the parent of a file, else the SRK, else ``owner``
``session-key-name``          the name that it must have, hexadecimal (import adds it)
``parent``                    the parent at import and of a raw pair, written as ``session-key``
``owner-auth-source``         the owner's password; ``endorsement-auth-source``, ``parent-auth-source`` likewise
``no-da``                     at import: ``yes`` keeps wrong passwords from locking the TPM; ``no`` is the
                              default for a key with a password
============================= ===========================================================================

Example: ``tpm2:handle=0x81008001?auth-source=file:/run/credentials/tpm-auth``. Permissions needed: to open
``/dev/tpmrm0`` (the group ``tss`` on Debian and Fedora).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# Before the library is loaded: it would write to standard error by itself.
os.environ.setdefault("TSS2_LOG", "all+none")

from tpm2_pytss import ESAPI, TPM2_ALG, TPMA_OBJECT, TSS2_Exception

from aws_hmac.backend import (
    MAC_SIZE,
    Diagnosable,
    Finding,
    HmacBackend,
    KeyDeleter,
    KeyEntry,
    KeyImporter,
    KeyInspector,
    KeyLister,
    KeyTransfer,
    shorten,
)
from aws_hmac.errors import (
    AuthenticationError,
    DeviceError,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
    UnsupportedError,
)
from aws_hmac.uri import KeyURI

from . import _device, _errors, _keyfile, _options, _policy
from ._device import Device, Object, Work
from ._keyfile import KeyFile
from ._options import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from ._options import Options
    from ._policy import Command

MAX_MESSAGE = 1024
"""Bytes that TPM2_HMAC takes in one command (MAX_DIGEST_BUFFER of the reference implementation)."""


class Tpm2Backend(HmacBackend, KeyImporter, KeyInspector, KeyLister, KeyDeleter, KeyTransfer, Diagnosable):
    """Asks a TPM for HMACs; the key stays inside it, or outside encrypted by it.

    Args:
        options: the parsed URI.
    """

    def __init__(self, options: Options) -> None:
        self.name = options.what
        self._options = options
        self._file = read_file(options)
        self._password = options.secret("auth-source")
        self._key_name: bytes | None = None
        self._device = Device(options.tcti, self.name)
        if self._file is not None and not self._file.empty_auth and options.file and self._password is None:
            raise AuthenticationError(f"{self.name}: the file says that the key has a password; add auth-source=…")
        try:
            self._device.run(self._look)
        except BaseException:
            self._device.close()
            raise

    @classmethod
    def from_uri(cls, uri: KeyURI, /) -> Self:
        """Connects to the TPM and finds the key.

        Raises:
            KeyURIError: an attribute is unknown, missing or impossible, or the file is none of a TPM key.
            KeyNotFoundError: there is nothing at the handle, or no file.
            KeyMismatchError: the file is of another TPM, or the session key has another name than the pinned one.
            UnsupportedError: there is a key of another kind.
            AuthenticationError, DeviceError: as their names say.
        """
        return cls(_options.parse(uri))

    def hmac_sha256(self, message: bytes, /) -> bytes:
        """Returns HMAC-SHA256(key, message), by one TPM2_HMAC.

        Raises:
            UnsupportedError: the message is longer than 1024 bytes.
            AuthenticationError: wrong password; says how many tries are left.
            KeyPolicyError: the policy is not met; says which PCR changed where that was recorded.
            DeviceError: as its name says.
        """
        if len(message) > MAX_MESSAGE:
            raise UnsupportedError(f"{self.name}: a TPM takes messages of up to {MAX_MESSAGE} bytes")
        mac = self._device.run(lambda esys: self._mac(esys, message))
        if len(mac) != MAC_SIZE:
            raise DeviceError(f"{self.name}: the TPM answered {len(mac)} bytes, an HMAC-SHA256 has {MAC_SIZE}")
        return mac

    def close(self) -> None:
        """Lets go of the TPM and forgets the passwords (best effort)."""
        self._device.close()
        self._options.forget()
        self._password = None

    def inspect(self) -> list[Finding]:
        """Looks at attributes, policy, PCRs, lockout, session and speed."""
        from ._inspect import inspect  # signing needs none of it

        return self._device.run(lambda esys: inspect(esys, self._options, self._file, self._find, self._mac))

    @classmethod
    def import_key(cls, uri: KeyURI, key: bytes, *, overwrite: bool = False, label: str | None = None) -> KeyURI:
        """Makes the key by TPM2_Create with fixedTPM and fixedParent; persists it, or writes its file.

        Raises:
            KeyExistsError: there is a key, and `overwrite` was not asked for; or something that is no HMAC key.
            UnsupportedError: the URI names a raw pair of files.
            AuthenticationError, KeyPolicyError, DeviceError: as their names say.
        """
        from ._import import import_key

        held = Secret(shorten(key))
        del key  # tracebacks show what frames hold
        return import_key(_options.parse(uri), held, overwrite=overwrite, label=label)

    @classmethod
    def list_keys(cls, uri: KeyURI) -> list[KeyEntry]:
        """Lists the persistent HMAC-SHA256 keys, or the one key that the URI names."""
        from ._manage import list_keys

        return list_keys(_options.parse(uri, need_key=False))

    @classmethod
    def delete_key(cls, uri: KeyURI) -> None:
        """Evicts the key at a persistent handle (TPM2_EvictControl), or removes its file.

        Raises:
            KeyNotFoundError: there is none.
            UnsupportedError: what is at the handle is no HMAC-SHA256 key.
            AuthenticationError: the owner's password is wrong.
        """
        from ._manage import delete_key

        delete_key(_options.parse(uri))

    @classmethod
    def transfer_offer(cls, uri: KeyURI) -> dict[str, str]:
        """Returns the public area of the parent that the URI names (``parent=ek-ecc``, the SRK, …), and its name."""
        from ._transfer import offer

        return offer(_options.parse(uri))

    @classmethod
    def transfer_wrap(
        cls, offer: Mapping[str, str], key: bytes, *, expect_name: str, password: bytes | None = None
    ) -> str:
        """Wraps a key to a parent's public area, as an importable TSS2 PRIVATE KEY; needs the TSS, but no TPM."""
        from ._transfer import wrap_key

        held, auth = Secret(shorten(key)), None if password is None else Secret(password)
        del key, password  # tracebacks show what frames hold
        return wrap_key(offer, held, expect_name=expect_name, password=auth)

    @classmethod
    def transfer_receive(
        cls, uri: KeyURI, wrapped: str, *, overwrite: bool = False, label: str | None = None
    ) -> KeyURI:
        """Takes a wrapped key in by TPM2_Import; it cannot be fixedTPM, but no policy lets it out."""
        from ._transfer import receive

        return receive(_options.parse(uri), wrapped, overwrite=overwrite, label=label)

    @classmethod
    def diagnose(cls, uri: KeyURI | None) -> list[Finding]:
        """Looks for a TPM, the way to it, its state, and the key."""
        from ._inspect import diagnose

        return diagnose(cls, uri)

    # -- what is done in the TPM -----------------------------------------------------------------------------

    def _look(self, esys: ESAPI) -> None:
        with Work(esys, self._options) as work:
            self._find(work)
            work.salt()

    def _mac(self, esys: ESAPI, message: bytes) -> bytes:
        with Work(esys, self._options) as work:
            key, policy = self._find(work)
            try:
                with work.user_session(self._password, policy, key) as session:
                    return bytes(esys.hmac(key.tr, message, TPM2_ALG.SHA256, session1=session))
            except TSS2_Exception as exc:
                self._explain(work, key, policy, exc)
                raise

    def _find(self, work: Work) -> tuple[Object, tuple[Command, ...]]:
        """Returns the key in the TPM and the policy to run before its use."""
        if self._file is not None:
            key = load_file(work, self._file)
        else:
            assert self._options.handle is not None
            key = at_handle(work, self._options.handle)
        if self._key_name is None:
            self._key_name = key.name
        if key.name != self._key_name:
            raise KeyMismatchError(f"{self.name}: there is another key now; open it again to use it")
        policy = self._file.policy if self._file is not None else ()
        policy = policy or uri_policy(work, key, self._password is not None)
        if not policy and not key.has(TPMA_OBJECT.USERWITHAUTH):
            raise KeyPolicyError(
                f"{self.name}: the key may be used by its policy only, and the URI does not say which:"
                " add pcrs=…, policy-or=… or auth-source=…"
            )
        return key, policy

    def _explain(self, work: Work, key: Object, policy: tuple[Command, ...], exc: TSS2_Exception) -> None:
        """Raises an error that tells more than the return code; does nothing where there is no more to tell."""
        said = _errors.words(exc)
        if exc.error in (_errors.RC_AUTH_FAIL, _errors.RC_BAD_AUTH):
            given = "wrong password" if self._password else "it has a password, and no auth-source is given"
            if key.has(TPMA_OBJECT.NODA):
                raise AuthenticationError(f"{self.name}: {given}; it has noDA, so this is not counted: {said}") from exc
            wrong, most, _ = work.lockout()
            raise AuthenticationError(
                f"{self.name}: {given}; {max(most - wrong, 0)} of {most} tries are left before the TPM locks: {said}"
            ) from exc
        if policy and exc.error in (_errors.RC_POLICY_FAIL, _errors.RC_VALUE):
            raise KeyPolicyError(f"{self.name}: {_why_not(work, self._options, self._file, policy)}: {said}") from exc


def _why_not(work: Work, options: Options, file: KeyFile | None, policy: tuple[Command, ...]) -> str:
    pcrs = _policy.pcrs_of(policy)
    if pcrs is None:
        return "its policy is not met; is this the policy that it was made with?"
    recorded = pcr_record(options, file)
    if not recorded:
        return f"its policy is not met: one of the PCRs {pcrs} changed (which one was not recorded at import)"
    gone = _policy.changed(recorded, pcrs.read(work.esys))
    if gone:
        return (
            f"its policy is not met: PCR {', '.join(gone)} changed since the import;"
            " if that was wanted (an update of firmware or boot loader), import the key again"
        )
    return f"its policy is not met, though the PCRs {pcrs} are those of the import; is this the key's policy?"


def pcr_record(options: Options, file: KeyFile | None) -> dict[tuple[str, int], str] | None:
    """Returns the PCR values seen at import, from the URI or the file; None if neither has them."""
    if options.pcr_record:
        return options.pcr_record
    text = file.notes.get("PCR-Record") if file is not None else None
    return _policy.parse_record(text) if text else None


def read_file(options: Options) -> KeyFile | None:
    """Reads the key's file or files; None for a handle.

    Raises:
        KeyURIError, KeyNotFoundError, AuthenticationError, DeviceError: see `_keyfile.read`.
    """
    if options.file is not None:
        file = _keyfile.read(options.file, options.what)
    elif options.pair is not None:
        file = _keyfile.read_pair(*options.pair, parent=0, what=options.what)
    else:
        return None
    if not _device.is_hmac_sha256(file.public.publicArea):
        kind = _device.kind_of(file.public.publicArea)
        raise UnsupportedError(f"{options.what}: holds {kind}, not a key for HMAC-SHA256")
    return file


def at_handle(work: Work, handle: int) -> Object:
    """Returns the HMAC-SHA256 key at a persistent handle.

    Raises:
        KeyNotFoundError: there is nothing; the message lists what is.
        UnsupportedError: there is something else.
    """
    what = work.options.what
    key = work.persistent(handle)
    if key is None:
        there = ", ".join(f"0x{h:x}" for h in _device.persistent_handles(work.esys)) or "none"
        raise KeyNotFoundError(f"{what}: the TPM holds nothing at this handle; persistent handles: {there}")
    if not _device.is_hmac_sha256(key.public):
        raise UnsupportedError(f"{what}: at this handle is {_device.kind_of(key.public)}, not a key for HMAC-SHA256")
    return key


def parent_of(work: Work, file: KeyFile) -> int | str:
    """Returns which key is the parent of a file's key.

    Raises:
        KeyURIError: the file names none that can be.
    """
    options = work.options
    if options.parent is not None:
        return options.parent
    noted = file.notes.get("Parent")
    if noted in _options.PRIMARIES:
        return noted
    if file.parent == 0:  # a raw pair does not say
        return work.default_parent()
    suffix = "-rsa" if file.rsa_parent else ""
    hierarchies = {0x40000001: "owner", 0x4000000B: "endorsement", 0x40000007: "null"}
    if file.parent in hierarchies:
        return hierarchies[file.parent] + suffix
    if file.parent in _options.PERSISTENT:
        return file.parent
    if file.parent >> 24 == 0x80:
        return "owner" + suffix  # aws_hmac for Go writes the passing handle of the owner's primary
    raise KeyURIError(f"{options.what}: names the parent 0x{file.parent:x}, which is no key; add parent=…")


def load_file(work: Work, file: KeyFile) -> Object:
    """Loads a file's key under its parent.

    Raises:
        KeyMismatchError: it belongs to another parent or TPM.
    """
    options = work.options
    parent = work.key(parent_of(work, file))
    noted = file.notes.get("Parent-Name")
    if noted is not None and noted != parent.name.hex():
        raise KeyMismatchError(
            f"{options.what}: was made for a parent named {noted}; this TPM's is {parent.name.hex()}:"
            " another TPM, or a cleared one"
        )
    if options.session_key is None:
        pin = file.notes.get("Session-Key-Name")
        if file.notes.get("Session-Key") is None:
            work.set_salt(parent, bytes.fromhex(pin) if pin else None)
        elif options.salted:
            work.set_salt(work.key(_noted_key(file.notes["Session-Key"], options.what)), bytes.fromhex(pin or ""))
    private = file.private
    if file.secret is not None:
        from ._import import take_in

        private = take_in(work, parent, file)
    return work.load(parent, private, file.public)


def _noted_key(text: str, what: str) -> int | str:
    if text in _options.PRIMARIES:
        return text
    try:
        return int(text, 0)
    except ValueError as exc:
        raise KeyURIError(f"{what}: the file's Session-Key {text!r} names no key") from exc


def uri_policy(work: Work, key: Object, has_password: bool) -> tuple[Command, ...]:
    """Returns the policy that a URI describes, in the order that gives the key's policy digest; () if none."""
    options = work.options
    if options.pcrs is None and not options.policy_or:
        if has_password and not key.has(TPMA_OBJECT.USERWITHAUTH):
            return (_policy.POLICY_AUTH_VALUE,)
        return ()
    parts = [_policy.policy_pcr(options.pcrs)] if options.pcrs is not None else []
    if has_password:
        parts.append(_policy.POLICY_AUTH_VALUE)
    wanted = options.policy_or or (bytes(key.public.authPolicy),)
    now = _policy.pcr_digest(options.pcrs.read(work.esys)) if options.pcrs is not None else b""
    turned = parts[::-1]
    branch = turned if _policy.digest_of(turned, now) in wanted else parts
    return (*branch, _policy.policy_or(options.policy_or)) if options.policy_or else tuple(branch)
