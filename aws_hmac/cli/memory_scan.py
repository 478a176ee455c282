"""Looks through the memory of another process for a secret (Linux: /proc/PID/mem)."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aws_hmac.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

CHUNK = 8 * 1024 * 1024
"""Bytes that are read at once."""

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ \S+\s*(.*)")


class Scan(NamedTuple):
    """What was found.

    Attributes:
        hits: how often each text was there, by its name.
        size: bytes that were looked through.
    """

    hits: Mapping[str, int]
    size: int


def forms(secret_access_key: str) -> dict[str, bytes]:
    """Returns what a search for a secret looks for: itself, its base64, the HMAC key and that one's base64."""
    secret = secret_access_key.encode()
    key = b"AWS4" + secret
    return {
        "the secret": secret,
        "its base64": base64.b64encode(secret),
        '"AWS4" + secret': key,
        "that one's base64": base64.b64encode(key),
    }


def scan(pid: int, texts: Mapping[str, bytes]) -> Scan:
    """Looks through all memory of a process that can be read.

    Args:
        pid: a process of the same user, best one that waits.
        texts: what to look for, by name.

    Raises:
        UnsupportedError: this system does not show a process's memory, or not to us.
    """
    hits = dict.fromkeys(texts, 0)
    size = 0
    overlap = max(map(len, texts.values())) - 1
    try:
        mappings = Path(f"/proc/{pid}/maps").read_text().splitlines()
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for match in filter(None, map(_MAPPING.match, mappings)):
                if match[3] in ("[vvar]", "[vvar_vclock]", "[vsyscall]"):
                    continue  # the kernel's own pages, which cannot be read so
                start, end = int(match[1], 16), int(match[2], 16)
                tail = b""
                while start < end:
                    memory.seek(start)
                    try:
                        chunk = memory.read(min(CHUNK, end - start))
                    except OSError:
                        break  # a device's memory, or a file that was cut short
                    if not chunk:
                        break
                    window = tail + chunk
                    for name, text in texts.items():
                        # what lies in the tail alone was counted before
                        hits[name] += window.count(text) - tail.count(text)
                    tail = window[-overlap:] if overlap else b""
                    start += len(chunk)
                    size += len(chunk)
    except OSError as exc:
        raise UnsupportedError(f"the memory of process {pid} cannot be read: {exc.strerror}") from exc
    return Scan(hits, size)
