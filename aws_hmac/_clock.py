"""Hosts whose clock differs from ours: found out from an answer, corrected within bounds, said in a warning."""

from __future__ import annotations

import calendar
import ipaddress
import threading
import time
import warnings
from email.utils import formatdate, parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from aws_hmac.errors import ClockSkewWarning

MAX_SKEW = 86400
"""Seconds that a host's clock may differ from ours at most; more is not believed."""

MIN_SKEW = 240
"""Seconds that are no reason for a refusal: the strictest servers allow 5 minutes."""

CHANGE_SECONDS = 60.0
"""Another difference than the one known is taken over once in this time."""

_AMZ_DATE = "%Y%m%dT%H%M%SZ"


class HostClocks:
    """The one difference between our clock and the true time, and the hosts that have told us.

    The clocks of honest hosts agree, so there is one difference at a time, used only for hosts that refused a
    request because of it. A hostile server can move the date of what it gets by a day, not choose it, and make
    the device compute another day's key once a minute.

    Attributes:
        differ: whether any host's does.
        difference: seconds to be added to our clock for these hosts.
    """

    def __init__(self) -> None:
        self.differ = False
        self.difference = 0
        self._hosts: frozenset[str] = frozenset()
        self._changed = float("-inf")
        self._lock = threading.Lock()

    def seconds(self, url: str) -> int:
        """Returns what to add to our clock for a host, in seconds."""
        with self._lock:
            return self.difference if _authority(url) in self._hosts else 0

    def learn(self, url: str, date: str | None, signed: str, *, verified: bool) -> bool:
        """Takes note of an answer that refuses a request for its time.

        Args:
            url: of the request.
            date: the answer's Date header.
            signed: when the request said that it was made, ``yyyymmddThhmmssZ``.
            verified: whether the server's certificate was checked.

        Returns:
            Whether signing again will give another, better time.
        """
        theirs = _timestamp(date)
        if theirs is None or abs(theirs - _parsed(signed)) < MIN_SKEW:
            return False
        host = _authority(url)
        seconds = theirs - int(time.time())
        if not (verified and url.lower().startswith("https:")) and not _is_loopback(url):
            _warn(
                f"{host}: its clock and ours differ by {seconds} s; not corrected, as without a verified certificate"
                " anyone could say so; set the clock of this machine"
            )
            return False
        if abs(seconds) > MAX_SKEW:
            _warn(
                f"{host}: its clock and ours differ by {seconds} s, more than a day; not corrected: set the clock of"
                " this machine"
            )
            return False
        with self._lock:
            if abs(seconds - self.difference) < MIN_SKEW and self._hosts:
                self._hosts |= {host}
                return True
            if time.monotonic() - self._changed < CHANGE_SECONDS:
                return False
            self._changed = time.monotonic()
            right_now = abs(seconds) < MIN_SKEW  # our clock has been set
            self.difference, self._hosts = (0, frozenset()) if right_now else (seconds, frozenset({host}))
            self.differ = not right_now
        if right_now:
            return True
        _warn(
            f"{host}: its clock and ours differ by {seconds} s; requests to it are signed with its time: set the clock"
            " of this machine"
        )
        return True

    def shift(self, request: Any) -> None:
        """Gives a botocore request that is about to be signed the time of its host."""
        seconds = self.seconds(request.url)
        if not seconds:
            return
        old = request.context["timestamp"]
        moment = _parsed(old) + seconds
        new = request.context["timestamp"] = time.strftime(_AMZ_DATE, time.gmtime(moment))
        if "X-Amz-Date" in request.headers:
            request.headers.replace_header("X-Amz-Date", new)
        elif "Date" in request.headers:
            request.headers.replace_header("Date", formatdate(moment))
        head, marker, tail = request.url.rpartition("X-Amz-Algorithm=")
        if marker:  # a presigned URL
            tail = tail.replace(f"%2F{old[:8]}%2F", f"%2F{new[:8]}%2F", 1)
            request.url = head + marker + tail.replace(f"X-Amz-Date={old}", f"X-Amz-Date={new}", 1)


def _warn(text: str) -> None:
    warnings.warn(text, ClockSkewWarning, stacklevel=4)


def _authority(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parsed(amz_date: str) -> int:
    return calendar.timegm(time.strptime(amz_date, _AMZ_DATE))


def _timestamp(date: str | None) -> int | None:
    try:
        return int(parsedate_to_datetime(date or "").timestamp())
    except (TypeError, ValueError, OverflowError):
        return None
