"""A stranger's backend, installed by being on the path: keys in files. It can do everything that a device can."""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aws_hmac.backend import (
    Diagnosable,
    Finding,
    HmacBackend,
    KeyDeleter,
    KeyEntry,
    KeyImporter,
    KeyInspector,
    KeyLister,
)
from aws_hmac.errors import DeviceError, KeyExistsError, KeyNotFoundError
from aws_hmac.uri import KeyURI

if TYPE_CHECKING:
    from typing_extensions import Self


class ToyBackend(HmacBackend, KeyImporter, KeyInspector, KeyLister, KeyDeleter, Diagnosable):
    """Keys as files of a folder; TOY_LIES=1 makes it compute with another key."""

    def __init__(self, key: bytes, name: str) -> None:
        self._key: bytes | None = key
        self.name = name

    @classmethod
    def from_uri(cls, uri: KeyURI, /) -> Self:
        uri.check(path=("file",))
        try:
            key = Path(uri.require("file")).read_bytes()
        except FileNotFoundError as exc:
            raise KeyNotFoundError(f"{uri.identity}: there is no such key") from exc
        return cls(key, uri.identity)

    def hmac_sha256(self, message: bytes, /) -> bytes:
        if self._key is None:
            raise DeviceError(f"{self.name}: closed")
        return hmac.digest(self._key + os.environ.get("TOY_LIES", "").encode(), message, "sha256")

    def close(self) -> None:
        self._key = None

    def inspect(self) -> list[Finding]:
        return [Finding("good", "CKA_SENSITIVE", "true"), Finding("warning", "CKA_COPYABLE", "true", "import again")]

    @classmethod
    def import_key(cls, uri: KeyURI, key: bytes, *, overwrite: bool = False, label: str | None = None) -> KeyURI:
        path = Path(uri.require("file"))
        if path.exists() and not overwrite:
            raise KeyExistsError(f"{uri.identity}: there is a key already")
        try:
            path.write_bytes(key)
        except OSError as exc:
            raise DeviceError(f"{uri.identity}: {exc.strerror}") from exc
        return uri

    @classmethod
    def list_keys(cls, uri: KeyURI) -> list[KeyEntry]:
        file = uri.get("file")
        if file is not None:
            return [KeyEntry(f"toy:file={file}", "a toy key")] if Path(file).exists() else []
        folder = Path(os.environ["TOY_FOLDER"])
        return [KeyEntry(f"toy:file={path}", "a \x1b[31mtoy key") for path in sorted(folder.iterdir())]

    @classmethod
    def delete_key(cls, uri: KeyURI) -> None:
        try:
            Path(uri.require("file")).unlink()
        except FileNotFoundError as exc:
            raise KeyNotFoundError(f"{uri.identity}: there is no such key") from exc

    @classmethod
    def diagnose(cls, uri: KeyURI | None) -> list[Finding]:
        folder = os.environ.get("TOY_FOLDER")
        if folder is None or Path(folder).is_dir():
            return [Finding("good", "toy box", "is there")]
        return [Finding("bad", "toy box", f"{folder} is missing", f"mkdir {folder}")]
