"""Tests and fixtures for those who write a backend, or test against a device.

`BackendContract` holds the tests that every backend passes; a third party's backend is five lines of test::

    from aws_hmac.testing import BackendContract

    class TestMyBackend(BackendContract):
        @pytest.fixture
        def backend(self, key: bytes) -> Iterator[HmacBackend]:
            with MyBackend(key) as backend:
                yield backend

The pytest fixtures here (``softhsm_token``, ``swtpm``) come with
``pytest_plugins = ["aws_hmac.testing"]`` in a ``conftest.py``.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import os
import pickle
import signal
import sys
import threading
import traceback
import uuid
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from aws_hmac._softhsm import SoftHSMToken as SoftHSMToken  # the type of a fixture: a public name
from aws_hmac._softhsm import make_token
from aws_hmac._swtpm import Swtpm as Swtpm  # likewise
from aws_hmac.backend import HmacBackend, KeyDeleter, KeyImporter, KeyLister, fingerprint, fingerprint_of
from aws_hmac.errors import DeviceError, Error, KeyExistsError, KeyNotFoundError, KeyURIError
from aws_hmac.registry import backend_class, open_backend
from aws_hmac.uri import KeyURI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EXAMPLE_KEY = b"AWS4wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
"""The key of AWS's documentation, 44 bytes."""


def in_fork(child: Callable[[], bytes], *, timeout: float = 30) -> bytes:
    """Runs a function in a forked child and returns what it returned.

    Args:
        child: what to run.
        timeout: seconds until the child is ended.

    Raises:
        AssertionError: it raised, crashed or hung; says which.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            os.write(writer, b"+" + child())
            status = 0
        except BaseException:  # noqa: BLE001 - reported to the parent
            os.write(writer, b"-" + traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(status)
    os.close(writer)
    timer = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
    timer.start()
    try:
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(pid, 0)
    finally:
        timer.cancel()
    assert os.WIFEXITED(status), f"the forked child was ended by signal {os.WTERMSIG(status)} (9: it hung)"
    assert answer[:1] == b"+", f"the forked child failed: {answer[1:].decode(errors='replace')}"
    return answer[1:]


class BackendContract:
    """What every `HmacBackend` does. Override the fixture ``backend``."""

    threads = 16
    """Threads of the concurrency test."""

    calls_per_thread = 40
    """HMACs that each of them asks for."""

    @pytest.fixture
    def key(self) -> bytes:
        """The key in the device under test."""
        return EXAMPLE_KEY

    @pytest.fixture
    def backend(self, key: bytes) -> Iterator[HmacBackend]:
        """The backend under test, holding ``key``."""
        raise NotImplementedError("override the fixture 'backend'")

    @pytest.mark.parametrize("message", [b"20260101", b"", b"\0", b"x" * 64, bytes(range(256)) * 4])
    def test_is_hmac_sha256(self, backend: HmacBackend, key: bytes, message: bytes) -> None:
        """It computes what hashlib computes, every time."""
        expected = hmac.digest(key, message, "sha256")
        assert [backend.hmac_sha256(message) for _ in range(3)] == [expected] * 3

    def test_fingerprint(self, backend: HmacBackend, key: bytes) -> None:
        """It has the fingerprint of its key."""
        assert fingerprint(backend) == fingerprint_of(key)

    def test_many_threads(self, backend: HmacBackend, key: bytes) -> None:
        """Threads get right answers, each its own."""
        failures: list[str] = []
        start = threading.Barrier(self.threads)

        def work(number: int) -> None:
            start.wait()
            for call in range(self.calls_per_thread):
                message = b"%d/%d" % (number, call)
                try:
                    if backend.hmac_sha256(message) != hmac.digest(key, message, "sha256"):
                        failures.append(f"wrong answer for {message!r}")
                except Exception as exc:  # noqa: BLE001 - counted and shown
                    failures.append(repr(exc))

        workers = [threading.Thread(target=work, args=(n,)) for n in range(self.threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert failures == []

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_fork(self, backend: HmacBackend, key: bytes) -> None:
        """A forked child gets a right answer or an error, and the parent goes on."""
        backend.hmac_sha256(b"before")

        def child() -> bytes:
            try:
                return backend.hmac_sha256(b"child")
            except Error:
                return b"an error"

        assert in_fork(child) in (hmac.digest(key, b"child", "sha256"), b"an error")
        assert backend.hmac_sha256(b"after") == hmac.digest(key, b"after", "sha256")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_fork_while_another_thread_asks(self, backend: HmacBackend, key: bytes) -> None:
        """A lock held by another thread at the fork hangs nobody."""
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                backend.hmac_sha256(b"busy")

        asker = threading.Thread(target=ask)
        asker.start()
        try:
            for number in range(5):
                message = b"child %d" % number

                def child(message: bytes = message) -> bytes:
                    try:
                        return backend.hmac_sha256(message)
                    except Error:
                        return b"an error"

                assert in_fork(child) in (hmac.digest(key, message, "sha256"), b"an error")
        finally:
            stop.set()
            asker.join()

    def test_close(self, backend: HmacBackend) -> None:
        """Closing twice does nothing; a closed backend says so."""
        backend.close()
        backend.close()
        with pytest.raises(DeviceError):
            backend.hmac_sha256(b"20260101")

    def test_context_manager(self, backend: HmacBackend) -> None:
        """It closes at the end of a with block."""
        with backend as entered:
            assert entered is backend
        with pytest.raises(DeviceError):
            backend.hmac_sha256(b"20260101")

    def test_shows_no_key(self, backend: HmacBackend, key: bytes) -> None:
        """Neither repr, nor str, nor name holds the key; it cannot be pickled or copied with the key in it."""
        for shown in (repr(backend), str(backend), backend.name, f"{backend}"):
            for secret in (key, key[4:], key.hex().encode()):
                assert secret.decode(errors="replace") not in shown
        for duplicate in (pickle.dumps, copy.deepcopy):
            with pytest.raises((TypeError, AttributeError, Error, pickle.PicklingError)):
                duplicate(backend)


class ImporterContract(BackendContract):
    """What every backend that takes keys in does besides. Override the fixture ``uri``."""

    key_sizes: tuple[int, ...] = (1, 32, 44, 64, 68, 132)
    """Sizes of keys, in bytes, that the device takes."""

    @pytest.fixture
    def uri(self) -> str:
        """A key URI at which there is no key yet."""
        raise NotImplementedError("override the fixture 'uri'")

    @pytest.fixture
    def backend(self, key: bytes, uri: str) -> Iterator[HmacBackend]:
        """The backend under test, with ``key`` imported."""
        with open_backend(import_into(uri, key)) as backend:
            yield backend

    def test_every_size(self, uri: str) -> None:
        """Keys of every length compute what hashlib computes."""
        for size in self.key_sizes:
            key = hashlib.shake_256(b"%d" % size).digest(size).replace(b"\0", b"\1")
            with open_backend(import_into(uri, key, overwrite=size != self.key_sizes[0])) as backend:
                assert backend.hmac_sha256(b"20260101") == hmac.digest(key, b"20260101", "sha256"), size

    def test_does_not_overwrite(self, uri: str, key: bytes) -> None:
        """A second import is refused, and the first key still there; unless it is asked for."""
        named = import_into(uri, key)
        with pytest.raises(KeyExistsError):
            import_into(uri, b"another key")
        with open_backend(named) as backend:
            assert fingerprint(backend) == fingerprint_of(key)
        with open_backend(import_into(uri, b"another key", overwrite=True)) as backend:
            assert fingerprint(backend) == fingerprint_of(b"another key")

    def test_missing_key(self, uri: str) -> None:
        """Before the import there is no key, and that is said."""
        with pytest.raises(KeyNotFoundError), open_backend(uri) as backend:
            backend.hmac_sha256(b"20260101")

    def test_unknown_attribute(self, uri: str) -> None:
        """An attribute that nobody knows is refused by name."""
        with pytest.raises(KeyURIError, match="no-such-attribute"):
            open_backend(f"{uri}{'&' if '?' in uri else '?'}no-such-attribute=1").close()

    def test_list_and_delete(self, uri: str, key: bytes) -> None:
        """What was imported is listed, and gone once deleted."""
        backend = backend_class(KeyURI.parse(uri).scheme)
        named = KeyURI.parse(import_into(uri, key))
        if issubclass(backend, KeyLister):
            listed = backend.list_keys(named)
            assert len(listed) == 1
            with open_backend(listed[0].uri) as found:
                assert fingerprint(found) == fingerprint_of(key)
        if issubclass(backend, KeyDeleter):
            backend.delete_key(named)
            with pytest.raises(KeyNotFoundError):
                backend.delete_key(named)
            with pytest.raises(KeyNotFoundError), open_backend(named) as gone:
                gone.hmac_sha256(b"20260101")


def import_into(uri: str, key: bytes, *, overwrite: bool = False, label: str | None = None) -> str:
    """Imports a bare HMAC key by its backend's `KeyImporter`; returns the URI that names it."""
    parsed = KeyURI.parse(uri)
    backend = backend_class(parsed.scheme)
    assert issubclass(backend, KeyImporter), f"{parsed.scheme} takes no keys"
    return str(backend.import_key(parsed, key, overwrite=overwrite, label=label))


def require_device(name: str, missing: str) -> None:
    """Skips the test for want of a device; fails it where ``AWS_HMAC_REQUIRE`` (a comma list) names the device."""
    message = f"{name}: {missing}"
    if name in os.environ.get("AWS_HMAC_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"{message} (AWS_HMAC_REQUIRE names it)", pytrace=False)
    pytest.skip(message)


@pytest.fixture
def softhsm_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftHSMToken]:
    """A throw-away SoftHSM token with a label of its own, in a folder of its own.

    ``SOFTHSM2_CONF`` is set for this process and its children. The fixture's ``uri("prod")`` is the key URI of an
    object; import a key with `import_into` or ``aws_hmac.import_key``.
    """
    try:
        token = make_token(tmp_path / "softhsm", f"test-{uuid.uuid4().hex[:12]}")
    except DeviceError as exc:
        require_device("pkcs11", str(exc))
        raise
    for name, value in token.environment.items():
        monkeypatch.setenv(name, value)
    finalize_pkcs11_modules()  # SoftHSM reads its configuration when it is initialised
    yield token
    finalize_pkcs11_modules()


def finalize_pkcs11_modules() -> None:
    """Calls C_Finalize of each PKCS#11 module that python-pkcs11 has loaded; each is initialised again on use."""
    if "pkcs11" in sys.modules:
        vendor = sys.modules["pkcs11"]
        for module in list(vendor._loaded.values()):  # the only list there is of what is loaded
            if module.initialized:
                with suppress(vendor.PKCS11Error):
                    module.finalize()


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[Swtpm]:
    """A fresh TPM of the test's own; ``swtpm.tcti`` goes into the key URI, ``kill`` and ``start`` do as they say."""
    tpm = Swtpm(tmp_path / "swtpm")
    try:
        tpm.start()
    except DeviceError as exc:
        require_device("tpm2", str(exc))
        raise
    try:
        yield tpm
    finally:
        tpm.kill()
