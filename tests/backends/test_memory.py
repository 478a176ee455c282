from __future__ import annotations

import io
import sys
import warnings
from typing import TYPE_CHECKING

import pytest

from aws_hmac import AuthenticationError, KeyNotFoundError, KeyURIError, SecurityWarning, open_backend
from aws_hmac.backend import fingerprint, fingerprint_of
from aws_hmac.testing import BackendContract
from aws_hmac_backends import memory
from aws_hmac_backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aws_hmac import HmacBackend

pytestmark = pytest.mark.filterwarnings("ignore:the memory backend:aws_hmac.SecurityWarning")


class TestMemory(BackendContract):
    @pytest.fixture
    def backend(self, key: bytes) -> Iterator[HmacBackend]:
        with MemoryBackend(key) as backend:
            yield backend


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "secret")
    with open_backend("memory:env=SECRET") as backend:
        assert fingerprint(backend) == fingerprint_of(b"AWS4secret")
    with open_backend("memory:env=SECRET;prefix=") as backend:
        assert fingerprint(backend) == fingerprint_of(b"secret")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"secret\n")))
    with open_backend("memory:file=-") as backend:
        assert fingerprint(backend) == fingerprint_of(b"AWS4secret")


def test_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"secret\n")
    file.chmod(0o600)
    with open_backend(f"memory:file={file}") as backend:
        assert fingerprint(backend) == fingerprint_of(b"AWS4secret")


@pytest.mark.parametrize(("mode", "said"), [(0o640, "read"), (0o604, "read"), (0o620, "write"), (0o602, "write")])
def test_file_of_others_is_refused(tmp_path: Path, mode: int, said: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"secret")
    file.chmod(mode)
    with pytest.raises(AuthenticationError, match=f"others can {said} .*chmod"):
        open_backend(f"memory:file={file}")


@pytest.mark.parametrize("uri", ["memory:", "memory:env=A;file=/b"])
def test_one_place(uri: str) -> None:
    with pytest.raises(KeyURIError, match="exactly one"):
        open_backend(uri)


def test_nothing_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SECRET", raising=False)
    with pytest.raises(KeyNotFoundError, match="not set"):
        open_backend("memory:env=SECRET")
    monkeypatch.setenv("SECRET", "\n")
    with pytest.raises(KeyNotFoundError, match="empty"):
        open_backend("memory:env=SECRET")
    with pytest.raises(KeyNotFoundError, match="no such file"):
        open_backend(f"memory:file={tmp_path}/none")


def test_says_once_that_it_protects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_warned", False)
    with pytest.warns(SecurityWarning, match="development only") as caught:
        MemoryBackend(b"k")
        MemoryBackend(b"k")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [f.level for f in MemoryBackend(b"k").inspect()] == ["bad"]
