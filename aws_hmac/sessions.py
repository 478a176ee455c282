"""Temporary credentials that stay fresh: when to renew, what to do when that fails, and one STS call for many.

`SessionCredentials.get` is all that an adapter needs. Credentials are renewed some time before they expire, by one
thread of one process; the last good ones are given out until they really expire, whatever fails meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import warnings
import weakref
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from aws_hmac import _session_files as files
from aws_hmac import sts
from aws_hmac.backend import HmacBackend, profile_under_way
from aws_hmac.errors import ConfigError, DeviceError, Error, SessionExpiredError, SessionWarning
from aws_hmac.uri import KeyURI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from filelock import FileLock

    from aws_hmac.profile import Options
    from aws_hmac.signer import Signer

DEFAULT_DURATION = 3600
"""Seconds that a session lasts unless asked otherwise."""

SHORT_DURATION = 1800
"""Seconds; SDKs renew 15 minutes ahead, so that a shorter session is renewed more often than it needs to be."""

SDK_WINDOW = 900.0
"""Seconds before the end at which SDKs ask again (botocore's advisory window); ours, for sessions that allow it."""

LOCK_TIMEOUT = 120.0
"""Seconds to wait while another process asks STS: long enough for a person to find the MFA device."""

FIRST_RETRY = 5.0
"""Seconds until a failed renewal is tried again while the last credentials are good; doubles up to `LAST_RETRY`."""

LAST_RETRY = 60.0
"""Seconds; see `FIRST_RETRY`."""


def renewal_window(lifetime: float) -> float:
    """Returns how long before its end a session is renewed, in seconds.

    15 minutes as the SDKs do, but a quarter of a session below half an hour: one of 15 minutes would else be
    renewed for every request.

    Args:
        lifetime: seconds that the session lasts, as it was when the answer came; half a minute is granted for that.
    """
    return SDK_WINDOW if lifetime >= SHORT_DURATION - 30 else lifetime / 4


class _State(NamedTuple):
    """Credentials, and when (Unix time) what is due.

    From ``renew`` on one caller renews while the others go on with these; from ``must`` on all wait for it.
    """

    credentials: sts.TemporaryCredentials
    renew: float
    must: float
    expires: float


class SessionCredentials:
    """Temporary credentials of one key and one set of options, renewed as needed. Safe for threads and forks.

    Args:
        options: which key, role and STS; `aws_hmac.profile.load_profile` reads them from a profile.
        signer: signs instead of the options' key.
        token_code: returns an MFA code when one is needed; asked for on the terminal if None.
        export: tells the processes that this one starts which profile is under way, as
            `aws_hmac.backend.profile_under_way` says; for a process that makes credentials once.
        clock: the time, in seconds since 1970.

    Attributes:
        options: as given.
        path: the file that other processes share the session through; None if there is none.

    Raises:
        ConfigError: the options are for direct signing, or their chain of profiles is wrong.
    """

    def __init__(
        self,
        options: Options,
        *,
        signer: Signer | None = None,
        token_code: Callable[[], str] | None = None,
        export: bool = False,
        clock: Callable[[], float] = time.time,
        _chain: tuple[str, ...] = (),
    ) -> None:
        if options.mode != "session":
            raise ConfigError(f"{options.what}: mode = direct makes no session; the device signs every request")
        self.options = options
        self._signer = signer
        self._owns_signer = signer is None
        self._token_code = token_code
        self._export = export
        self._clock = clock
        self._source = self._source_of(options, _chain) if options.source_profile is not None else None
        try:
            self._where = sts.resolve(options.where())
        except ConfigError as exc:
            raise ConfigError(f"{options.what}: {exc}") from exc
        self._state: _State | None = None
        self._failures = 0
        self._lock = threading.Lock()
        digest = self._digest()
        self.path = None if digest is None or not options.session_cache else f"{files.folder()}/{digest}.session"
        duration = options.duration_seconds
        if duration is not None and duration < SHORT_DURATION:
            warnings.warn(
                f"{options.what}: duration_seconds = {duration}: SDKs renew 15 minutes ahead, and so ask for such a"
                f" session at nearly every request; {SHORT_DURATION} or more is better",
                SessionWarning,
                stacklevel=2,
            )
        _instances.add(self)

    def get(self) -> sts.TemporaryCredentials:
        """Returns credentials that are good now.

        Raises:
            SessionExpiredError: the last ones have expired, and no new ones could be had.
            STSError: STS refused the first ones, or could not be reached.
            Error: whatever the device answers, where it had to be asked.
        """
        state = self._state
        now = self._clock()
        if state is not None and now < state.renew:
            return state.credentials
        if not self._lock.acquire(blocking=state is None or now >= state.must):
            assert state is not None
            return state.credentials
        try:
            state = self._state
            now = self._clock()
            if state is None or now >= state.renew:
                state = self._state = self._renewed(state, now)
            return state.credentials
        finally:
            self._lock.release()

    def document(self) -> str:
        """Returns the JSON that ``credential_process`` prints (AWS SDKs and Tools Reference Guide, version 1).

        Raises:
            Error: as for `get`.
        """
        return _document(self.get())

    def close(self) -> None:
        """Closes the device, if it was opened here."""
        if self._source is not None:
            self._source.close()
        if self._owns_signer and self._signer is not None:
            self._signer.keys.backend.close()
            self._signer = None

    def __repr__(self) -> str:
        return f"<SessionCredentials of {self.options.what}>"

    def __reduce_ex__(self, protocol: object, /) -> str:
        raise TypeError("sessions cannot be pickled or copied; make one in each process")

    def _renewed(self, state: _State | None, now: float) -> _State:
        """What to use from now on. Called with the thread's lock held."""
        if (shared := self._shared(now)) is not None and now < shared.renew:
            return shared
        good = max((s for s in (state, shared) if s is not None and now < s.expires), key=_expires, default=None)
        with self._across_processes(wait=good is None or now >= good.must) as locked:
            if not locked and good is not None:
                return good  # another process is at it
            if (shared := self._shared(self._clock())) is not None and self._clock() < shared.renew:
                return shared
            try:
                with (
                    nullcontext()
                    if (profile := self.options.profile) is None
                    else profile_under_way(profile, export=self._export)
                ):
                    credentials = self._call()
            except Error as exc:
                return self._failed(exc, state, good)
            self._failures = 0
            made = self._state_of(credentials)
            self._share(made)
        return made

    def _failed(self, exc: Error, state: _State | None, good: _State | None) -> _State:
        now = self._clock()
        if good is not None and now < good.expires:
            import random  # few renewals fail

            delay = min(LAST_RETRY, FIRST_RETRY * 2**self._failures) * random.uniform(0.5, 1)  # noqa: S311 - jitter
            self._failures += 1
            _warn("%s: the session could not be renewed, the last one goes on: %s", self.options.what, exc)
            again = min(now + delay, good.expires)
            good = good._replace(renew=again, must=again)
            self._share(good)
            return good
        if state is None:
            raise exc
        ended = datetime.fromtimestamp(state.expires, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
        raise SessionExpiredError(
            f"{self.options.what}: the session expired at {ended} UTC and could not be renewed: {exc}"
        ) from exc

    def _call(self) -> sts.TemporaryCredentials:
        options = self.options
        signer = self._open()
        code = None
        if options.mfa_serial is not None:
            code = _prompt(options.mfa_serial) if self._token_code is None else self._token_code()
        if options.role_arn is None:
            return sts.get_session_token(
                signer,
                duration_seconds=options.duration_seconds or DEFAULT_DURATION,
                mfa_serial=options.mfa_serial,
                token_code=code,
                **self._where,
            )
        return sts.assume_role(
            signer,
            role_arn=options.role_arn,
            role_session_name=self._session_name(),
            duration_seconds=options.duration_seconds or DEFAULT_DURATION,
            external_id=options.external_id,
            policy=options.policy,
            policy_arns=options.policy_arns,
            tags=options.tags,
            transitive_tag_keys=options.transitive_tag_keys,
            source_identity=options.source_identity,
            mfa_serial=options.mfa_serial,
            token_code=code,
            **self._where,
        )

    def _open(self) -> Signer:
        if self._source is not None:
            return session_signer(self._source.get())
        if self._signer is None:
            self._signer = self.options.open_signer()
        return self._signer

    def _session_name(self) -> str:
        return self.options.role_session_name or sts.default_session_name(self._access_key_id())

    def _access_key_id(self) -> str:
        if self._source is not None:
            return self._source._access_key_id()
        return self._signer.access_key_id if self._signer is not None else self.options.access_key_id or ""

    def _source_of(self, options: Options, chain: tuple[str, ...]) -> SessionCredentials:
        from aws_hmac.profile import load_profile

        name = options.source_profile or ""
        if name in chain:
            raise ConfigError(f"{options.what}: source_profile: a circle: {' → '.join((*chain, name))}")
        try:
            source = load_profile(name)
        except ConfigError as exc:
            raise ConfigError(f"{options.what}: source_profile: {exc}") from exc
        return SessionCredentials(
            source,
            token_code=self._token_code,
            export=self._export,
            clock=self._clock,
            _chain=(*chain, name),
        )

    def _state_of(self, credentials: sts.TemporaryCredentials) -> _State:
        now, expires = self._clock(), credentials.expiration.timestamp()
        if expires <= now:
            raise SessionExpiredError(
                f"{self.options.what}: by this machine's clock the new session has expired already: set the clock"
            )
        # By a clock that is behind, the session would seem to outlast what was asked for.
        expires = min(expires, now + (self.options.duration_seconds or DEFAULT_DURATION))
        return _state(credentials, expires - renewal_window(expires - now), expires)

    # The cache that processes share.

    def _digest(self) -> str | None:
        """What names the session: all that it was made of, each part with its length; None if that is not known."""
        options = self.options
        if self._source is not None:
            origin = self._source._digest()
        elif self._signer is not None:
            origin = _identity(self._signer)
        else:
            origin = options.key.identity if options.key is not None else None
        if origin is None:
            return None
        parts = [
            "session 1", origin, self._access_key_id(), self._where["endpoint_url"] or "", self._where["region"] or "",
            options.role_arn or "", self._session_name() if options.role_arn else "", options.external_id or "",
            str(options.duration_seconds or DEFAULT_DURATION), options.mfa_serial or "", options.policy or "",
            options.source_identity or "",
            str(len(options.policy_arns)), *options.policy_arns,
            str(len(options.transitive_tag_keys)), *options.transitive_tag_keys,
            *(part for tag in options.tags.items() for part in tag),
        ]  # fmt: skip
        message = b"".join(b"%d:%b" % (len(part), part) for part in (text.encode() for text in parts))
        return hashlib.sha256(message).hexdigest()

    def _shared(self, now: float) -> _State | None:
        """What another process, or this one earlier, left; None if there is nothing that has not expired."""
        if self.path is None:
            return None
        try:
            files.check_folder(os.path.dirname(self.path))  # noqa: PTH120 - one notation for the whole cache
            renew, expires, fingerprint, account_id, text = files.decode_session(files.read_text(self.path))
            fields = json.loads(text)
            credentials = sts.TemporaryCredentials(
                fields["AccessKeyId"],
                fields["SecretAccessKey"],
                fields["SessionToken"],
                sts.parse_time(fields["Expiration"]),
                account_id or None,
            )
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._without_cache(exc)
            return None
        except (ValueError, KeyError, TypeError):
            return None  # damaged, or of another version: it is written anew
        known = self._known_fingerprint()
        if now >= expires or (known and fingerprint and known != fingerprint):
            return None
        return _state(credentials, renew, expires)

    def _share(self, state: _State) -> None:
        if self.path is None:
            return
        text = files.encode_session(
            (state.renew, state.expires, self._known_fingerprint(), state.credentials.account_id or "",
             _document(state.credentials))
        )  # fmt: skip
        try:
            files.write_text(self.path, text)
            files.sweep(os.path.dirname(self.path), time.time())  # noqa: PTH120
        except OSError as exc:
            self._without_cache(exc)

    def _known_fingerprint(self) -> str:
        """The fingerprint of the device's key, if the device was used; it is never asked for this."""
        if self._source is not None:
            return self._source._known_fingerprint()
        known = self._signer.keys.known_fingerprint if self._signer is not None else None
        return known.hex() if known is not None else ""

    @contextmanager
    def _across_processes(self, *, wait: bool) -> Iterator[bool]:
        """Holds the lock of this session among all processes; yields whether that worked."""
        if self.path is None:
            yield True
            return
        lock: FileLock | None = None
        handle: int | None = None
        locked = True
        try:
            files.check_folder(os.path.dirname(self.path), create=True)  # noqa: PTH120
            path = f"{self.path.removesuffix('.session')}.lock"
            handle = files.try_lock(path)
            if handle is None:
                lock, locked = self._waited(path, wait=wait)
        except (OSError, NotImplementedError) as exc:
            self._without_cache(exc)
        try:
            yield locked
        finally:
            if handle is not None:
                files.unlock(handle)
            if lock is not None:
                lock.release()

    def _waited(self, path: str, *, wait: bool) -> tuple[FileLock | None, bool]:
        """Waits for another process; the lock if it could be had, and whether to go on as if it were held."""
        import filelock  # only those who find the lock taken, or are on a system without flock

        lock = filelock.FileLock(path, mode=0o600)
        try:
            lock.acquire(timeout=LOCK_TIMEOUT if wait else 0)
        except filelock.Timeout:
            if wait:
                _warn("%s: another process has held the lock for %.0f s", self.options.what, LOCK_TIMEOUT)
            return None, wait
        return lock, True

    def _without_cache(self, exc: OSError | NotImplementedError) -> None:
        """Goes on without the file, and says so once."""
        folder = os.path.dirname(self.path or "")  # noqa: PTH120
        self.path = None
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "the file system has no locks"
        warnings.warn(
            f"the session cache {folder} cannot be used ({reason}): every process makes its own session;"
            " session_cache = off silences this",
            SessionWarning,
            stacklevel=8,
        )


class _SessionKey(HmacBackend):
    """The secret of a session that signs for the next role; it is in this process anyway."""

    def __init__(self, credentials: sts.TemporaryCredentials) -> None:
        self.name = f"session {credentials.access_key_id}"
        self._key: bytes | None = b"AWS4" + credentials.secret_access_key.encode()

    def hmac_sha256(self, message: bytes, /) -> bytes:
        import hmac

        if self._key is None:
            raise DeviceError(f"{self.name}: closed")
        return hmac.digest(self._key, message, "sha256")

    def close(self) -> None:
        self._key = None


def session_signer(credentials: sts.TemporaryCredentials) -> Signer:
    """Returns a signer for temporary credentials, whose secret is in this process."""
    from aws_hmac.signer import Signer

    return Signer(credentials.access_key_id, _SessionKey(credentials), session_token=credentials.session_token)


def _identity(signer: Signer) -> str | None:
    """The URI of a given signer's key; None if its name is none, or names no certain key."""
    if signer.session_token is not None:
        return None
    try:
        uri = KeyURI.parse(signer.keys.backend.name)
    except Error:
        return None
    return uri.identity if uri.path else None


def _state(credentials: sts.TemporaryCredentials, renew: float, expires: float) -> _State:
    return _State(credentials, renew, renew + (expires - renew) / 3, expires)


def _expires(state: _State) -> float:
    return state.expires


def _document(credentials: sts.TemporaryCredentials) -> str:
    return json.dumps(
        {
            "Version": 1,
            "AccessKeyId": credentials.access_key_id,
            "SecretAccessKey": credentials.secret_access_key,
            "SessionToken": credentials.session_token,
            "Expiration": credentials.expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )


def _warn(message: str, *arguments: object) -> None:
    import logging  # most processes have nothing to say

    logging.getLogger(__name__).warning(message, *arguments)


def _prompt(serial: str) -> str:
    from aws_hmac.sources import read_source

    return read_source("prompt", f"MFA code of {serial}").decode(errors="replace").strip()


_instances: weakref.WeakSet[SessionCredentials] = weakref.WeakSet()


def _renew_locks() -> None:
    # A thread of the parent may have held a lock at the fork; in the child nobody would ever release it.
    files.forget_locks()
    for instance in _instances:
        instance._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
