"""The derivation chain and its cache: the only caller of a backend on the signing path."""

from __future__ import annotations

import os
import threading
import weakref
from time import gmtime, monotonic, strftime, time
from typing import TYPE_CHECKING, Literal, get_args

from aws_hmac.backend import device_hmac, fingerprint
from aws_hmac.errors import ConfigError, Error
from aws_hmac.sigv4.signature import SigningKey, derive_signing_key

if TYPE_CHECKING:
    from aws_hmac.backend import HmacBackend

Mode = Literal["date", "scope", "none"]
"""What is kept: the day's kDate, only kSigning of each scope, or nothing."""

KEPT_DATES = 2
"""Days whose keys are kept: around midnight UTC two are in use."""

RECHECK_SECONDS = 60.0
"""A server that says "wrong signature" can make the device work once in this time."""

PREFETCH_SECONDS = 300
"""So long before midnight UTC `SigningKeys.prefetch` also fetches tomorrow's key."""


class SigningKeys:
    """Derives signing keys from a device's key, and keeps them as long as it may.

    Safe for many threads: each kDate is fetched once, however many ask. The keys are bound to the fingerprint
    of the device's key, which is asked once with each day's first key; when it turns out to have changed,
    everything is dropped.

    Args:
        backend: the device's key.
        mode: ``date`` keeps the day's kDate (1 device call a day and 1 for the fingerprint); ``scope`` keeps
            only kSigning (1 call per day, region and service); ``none`` asks the device for every signature.
        max_age: seconds for which a kept key signs without asking the device again; None for as long as its
            day lasts.
    """

    def __init__(self, backend: HmacBackend, *, mode: Mode = "date", max_age: float | None = None) -> None:
        if mode not in get_args(Mode):
            raise ConfigError(f"cache: {mode!r} is no mode; there are {', '.join(get_args(Mode))}")
        if max_age is not None and max_age <= 0:
            raise ConfigError(f"max_age: must be a number of seconds above 0, or left out, and is {max_age}")
        self.backend = backend
        self.mode = mode
        self.max_age = max_age
        self.generation = 0
        """Rises by one whenever the device's key turns out to be another than before."""
        self._lock = threading.Lock()
        self._dates: dict[str, bytearray] = {}  # kDate; in order of last fetch
        self._keys: dict[tuple[str, str, str], SigningKey] = {}
        self._fetched: dict[str, float] = {}  # date -> monotonic time
        self._fingerprint: bytes | None = None
        self._checked = float("-inf")
        _instances.add(self)

    def signing_key(self, date: str, region: str, service: str) -> SigningKey:
        """Returns kSigning for a credential scope.

        A stream that signs many chunks keeps what it got here until it ends.

        Args:
            date: ``yyyymmdd``, UTC.
            region: as ``eu-west-1``.
            service: the service's signing name.

        Raises:
            Error: whatever the backend raises; a kept key never does.
        """
        if (key := self.kept_key(date, region, service)) is not None:
            return key
        if self.mode == "none":
            return SigningKey(derive_signing_key(self._ask(date), region, service))
        with self._lock:
            self._drop_old(date)
            key = self._keys.get((date, region, service))
            if key is None:
                date_key = self._date_key(date)
                key = self._keys[date, region, service] = SigningKey(
                    derive_signing_key(bytes(date_key), region, service)
                )
                if self.mode == "scope":
                    _wipe(date_key)
        return key

    def kept_key(self, date: str, region: str, service: str) -> SigningKey | None:
        """Returns kSigning if it is kept and may sign; never asks the device, so that it never waits."""
        key = self._keys.get((date, region, service))
        return key if self.max_age is None or self._is_young(date) else None

    def prefetch(self, now: float | None = None) -> None:
        """Fetches today's kDate, and tomorrow's from 5 minutes before midnight UTC on; for servers.

        Args:
            now: Unix time; the clock's if None.

        Raises:
            Error: whatever the backend raises.
        """
        if self.mode != "date":
            return
        seconds = time() if now is None else now
        for moment in (seconds, seconds + PREFETCH_SECONDS):
            date = strftime("%Y%m%d", gmtime(moment))
            if date not in self._dates:
                with self._lock:
                    self._drop_old(date)
                    self._date_key(date)

    def fingerprint(self) -> bytes:
        """Returns the fingerprint of the device's key, 16 bytes; asks the device the first time only.

        Raises:
            Error: whatever the backend raises.
        """
        known = self._fingerprint
        if known is not None:
            return known
        with self._lock:
            self._check_fingerprint()
            assert self._fingerprint is not None
            return self._fingerprint

    @property
    def known_fingerprint(self) -> bytes | None:
        """The fingerprint of the device's key as it was last asked for, else None. Never asks the device."""
        return self._fingerprint

    def recheck(self, generation: int | None = None, *, interval: float = RECHECK_SECONDS) -> bool:
        """Asks the device whether its key is still the same, and drops what was kept if it is not.

        Called when a server says that a signature is wrong: the key may have been rotated under the same
        access key id. The device is asked at most once in `interval`, whatever servers answer.

        Args:
            generation: `generation` as it was when the request was signed; that of now if None.
            interval: seconds that must have passed since the device was last asked.

        Returns:
            Whether the key is another than it was then, so that signing once more is worthwhile. False also
            if the device cannot be asked.
        """
        before = self.generation if generation is None else generation
        if self.mode == "none":
            return False  # every signature is the device's answer of that moment
        with self._lock:
            if self.generation == before and monotonic() - self._checked >= interval:
                self._checked = monotonic()  # also if it fails: the device is not asked again at once
                try:
                    self._check_fingerprint()
                except Error as exc:
                    _warn("%s: cannot tell whether the key was changed: %s", self.backend.name, exc)
            return self.generation != before

    def clear(self) -> None:
        """Forgets every key (best effort: Python may hold copies)."""
        with self._lock:
            self._drop_all()

    def __repr__(self) -> str:
        return f"<SigningKeys of {self.backend.name}, cache={self.mode!r}>"

    def __reduce_ex__(self, protocol: object, /) -> str:
        raise TypeError("signing keys cannot be pickled or copied")

    # What follows is called with the lock held.

    def _date_key(self, date: str) -> bytearray:
        """Returns kDate from the cache or the device."""
        if (kept := self._dates.get(date)) is not None:
            return kept
        if date not in self._fetched:
            # The fingerprint first: if the key is changed in between, a later look at it must tell.
            self._check_fingerprint()
            asked = monotonic()
            date_key = bytearray(self._ask(date))
            self._fetched[date] = asked
        else:
            date_key = bytearray(self._ask(date))
        if self.mode == "date":
            self._dates[date] = date_key
        return date_key

    def _ask(self, date: str) -> bytes:
        return device_hmac(self.backend, date.encode(), purpose=date)

    def _check_fingerprint(self) -> None:
        seen = fingerprint(self.backend)
        self._checked = monotonic()
        if self._fingerprint is not None and seen != self._fingerprint:
            _warn("%s: the key is another than before; what was derived from the old one is dropped",
                         self.backend.name)  # fmt: skip
            self.generation += 1
            self._drop_all()
        self._fingerprint = seen

    def _is_young(self, date: str) -> bool:
        return self.max_age is None or monotonic() - self._fetched.get(date, float("-inf")) < self.max_age

    def _drop_old(self, date: str) -> None:
        """Makes room for a date, and drops it if it is too old to sign without asking the device."""
        if date in self._fetched:
            if self._is_young(date):
                return
            self._drop(date)
        while len(self._fetched) >= KEPT_DATES:
            self._drop(next(iter(self._fetched)))

    def _drop(self, date: str) -> None:
        self._fetched.pop(date, None)
        if (date_key := self._dates.pop(date, None)) is not None:
            _wipe(date_key)
        for scope in [scope for scope in self._keys if scope[0] == date]:
            del self._keys[scope]

    def _drop_all(self) -> None:
        for date in list(self._fetched):
            self._drop(date)


def _warn(message: str, *arguments: object) -> None:
    import logging  # most processes have nothing to say

    logging.getLogger(__name__).warning(message, *arguments)


def _wipe(key: bytearray) -> None:
    key[:] = bytes(len(key))


_instances: weakref.WeakSet[SigningKeys] = weakref.WeakSet()


def _renew_locks() -> None:
    # A thread of the parent may have held a lock at the fork; in the child nobody would ever release it.
    for keys in _instances:
        keys._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
