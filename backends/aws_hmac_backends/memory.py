"""``memory``: a key in this process's memory. **For development only: it protects nothing.**

Attributes of the URI (exactly one of the first two):

========== ============================================================================================
``env``    the environment variable that holds the secret
``file``   the file that holds it, which nobody else may read or write (mode 0600); ``-`` is standard input
``prefix`` what goes before the secret: ``AWS4`` if left out; ``AWS4A`` for SigV4A; empty for a bare HMAC key
========== ============================================================================================

Example: ``memory:env=AWS_SECRET_ACCESS_KEY``. Permissions needed: none.
"""

from __future__ import annotations

import hmac
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from aws_hmac.backend import Finding, HmacBackend, KeyInspector
from aws_hmac.errors import AuthenticationError, DeviceError, KeyNotFoundError, KeyURIError, SecurityWarning

if TYPE_CHECKING:
    from typing_extensions import Self

    from aws_hmac.uri import KeyURI

_warned = False


class MemoryBackend(HmacBackend, KeyInspector):
    """Holds a key in memory: whoever reads this process, or where the key came from, has it.

    Args:
        key: the HMAC key.
        name: what it is called in logs and messages.
    """

    def __init__(self, key: bytes, *, name: str = "memory:") -> None:
        if not key:
            raise KeyURIError(f"{name}: the key is empty")
        self._key: bytes | None = bytes(key)
        self.name = name
        global _warned
        if not _warned:
            _warned = True
            warnings.warn(
                "the memory backend holds the key in this process and protects nothing: for development only",
                SecurityWarning,
                stacklevel=2,
            )

    @classmethod
    def from_uri(cls, uri: KeyURI, /) -> Self:
        """Reads the secret from where the URI says.

        Raises:
            KeyURIError: not exactly one of ``env`` and ``file``.
            KeyNotFoundError: the variable is not set, the file is not there, or it is empty.
            AuthenticationError: others can read or write the file.
        """
        uri.check(path=("env", "file", "prefix"))
        variable, file = uri.get("env"), uri.get("file")
        if (variable is None) == (file is None):
            raise KeyURIError("memory: URI: give exactly one of 'env' and 'file'")
        if variable is not None:
            value = os.environ.get(variable)
            if value is None:
                raise KeyNotFoundError(f"{uri.identity}: the environment variable is not set")
            secret = os.fsencode(value)
        elif file == "-":
            secret = sys.stdin.buffer.read()
        else:
            secret = _read(Path(file or ""), uri.identity)
        secret = secret.rstrip(b"\r\n")
        if not secret:
            raise KeyNotFoundError(f"{uri.identity}: it is empty")
        prefix = uri.raw("prefix")
        return cls((b"AWS4" if prefix is None else prefix) + secret, name=uri.identity)

    def hmac_sha256(self, message: bytes, /) -> bytes:
        """Returns HMAC-SHA256(key, message)."""
        if self._key is None:
            raise DeviceError(f"{self.name}: closed")
        return hmac.digest(self._key, message, "sha256")

    def close(self) -> None:
        """Forgets the key (best effort: Python may hold copies)."""
        self._key = None

    def inspect(self) -> list[Finding]:
        """Says that nothing protects this key."""
        return [
            Finding(
                "bad",
                "memory",
                "the key is in this process's memory and where it came from: for development only",
                "aws-hmac key import puts it into a token, a TPM, a KMS or Vault",
            )
        ]


def _read(path: Path, name: str) -> bytes:
    from aws_hmac.sources import check_file

    try:
        with path.open("rb") as file:
            check_file(path, os.fstat(file.fileno()), name, readable="refuse")
            return file.read()
    except AuthenticationError:
        raise
    except FileNotFoundError as exc:
        raise KeyNotFoundError(f"{name}: there is no such file") from exc
    except OSError as exc:
        raise DeviceError(f"{name}: cannot be read: {exc.strerror}") from exc
