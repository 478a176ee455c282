from __future__ import annotations

import ctypes
import hmac
import os
import re
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag

from aws_hmac import (
    AmbiguousKeyError,
    AuthenticationError,
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    KeyNotFoundError,
    KeyPolicyError,
    KeyURIError,
    UnsupportedError,
    open_backend,
)
from aws_hmac.testing import EXAMPLE_KEY, ImporterContract, finalize_pkcs11_modules, import_into, in_fork
from aws_hmac.uri import KeyURI
from aws_hmac_backends.pkcs11 import Pkcs11Backend, _import, _modules, _tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aws_hmac._softhsm import SoftHSMToken

pytestmark = pytest.mark.device("pkcs11")

OTHER_KEY = b"AWS4another secret, which has forty characters !"


@pytest.fixture(autouse=True)
def impatience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No other process uses a test's token, but for those tests that start some: what is missing stays so."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # its lock is none of other tests' business
    if request.cls is not TestOtherProcesses:
        monkeypatch.setattr(_tokens, "PATIENCE", 0.01)
        monkeypatch.setattr(_tokens, "PATIENCE_AGAIN", 0.01)


class TestModulePath(ImporterContract):
    threads = 64
    calls_per_thread = 160

    @pytest.fixture
    def uri(self, softhsm_token: SoftHSMToken) -> str:
        return softhsm_token.uri()


class TestProxy(ImporterContract):
    threads = 64
    calls_per_thread = 160

    @pytest.fixture
    def uri(self, softhsm_token: SoftHSMToken) -> str:
        return softhsm_token.uri(module_path=None)


@pytest.fixture(params=["module-path", "p11-kit-proxy"])
def uri(request: pytest.FixtureRequest, softhsm_token: SoftHSMToken) -> str:
    """The URI of an imported key, by each way to the module."""
    uri = softhsm_token.uri(module_path="" if request.param == "module-path" else None)
    return import_into(uri, EXAMPLE_KEY)


def mac_of(message: bytes, key: bytes = EXAMPLE_KEY) -> bytes:
    return hmac.digest(key, message, "sha256")


def another_part(token: SoftHSMToken, *, pin: bool = True, rw: bool = False) -> Any:
    """A session that another part of this process opens."""
    (found,) = [t for t in pkcs11.lib(token.module).get_tokens() if t.label == token.label]
    return found.open(rw=rw, user_pin=token.pin if pin else None)


def make_object(session: Any, label: str, **changes: object) -> Any:
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
        Attribute.TOKEN: True,
        Attribute.LABEL: label,
        Attribute.VALUE: EXAMPLE_KEY,
        Attribute.SIGN: True,
    }
    return session.create_object(template | {Attribute[name]: value for name, value in changes.items()})


def objects_of(token: SoftHSMToken) -> int:
    """How many objects are on the token, as another program counts them."""
    done = subprocess.run(
        ["pkcs11-tool", "--module", token.module, "--token-label", token.label, "-l", "--pin", "env:PIN", "-O"],
        env=os.environ | {"PIN": token.pin},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.count(" Key Object;")


def pin_is_low(token: SoftHSMToken) -> bool:
    """Whether a wrong PIN was sent since the last login, as another program sees it."""
    done = subprocess.run(["pkcs11-tool", "--module", token.module, "-L"], capture_output=True, text=True, check=True)
    (flags,) = [part for part in done.stdout.split("Slot ")[1:] if token.label in part]
    return "user PIN count low" in flags


class TestThreads:
    def test_a_backend_in_each_thread(self, uri: str) -> None:
        failures: list[str] = []

        def work(number: int) -> None:
            try:
                for round_ in range(5):
                    with open_backend(uri) as backend:
                        for call in range(10):
                            message = b"%d %d %d" % (number, round_, call)
                            if backend.hmac_sha256(message) != mac_of(message):
                                failures.append("wrong")
            except Exception:  # noqa: BLE001 - counted and shown
                failures.append(traceback.format_exc())

        workers = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert failures == []

    def test_all_lose_the_session_at_once(self, uri: str) -> None:
        """64 threads meet a finalized module; all get right answers, and one reconnection serves them all."""
        stop = threading.Event()
        failures: list[str] = []

        def work(number: int) -> None:
            call = 0
            while not stop.is_set():
                message = b"%d %d" % (number, call)
                call += 1
                try:
                    if backend.hmac_sha256(message) != mac_of(message):
                        failures.append("wrong")
                except Exception:  # noqa: BLE001 - counted and shown
                    failures.append(traceback.format_exc())
                    return

        with open_backend(uri) as backend:
            workers = [threading.Thread(target=work, args=(n,)) for n in range(64)]
            for worker in workers:
                worker.start()
            for _ in range(3):
                stop.wait(0.2)
                with _modules.DEVICE:  # between two calls: a module that is finalized during one crashes by its nature
                    finalize_pkcs11_modules()
            stop.wait(0.2)
            stop.set()
            for worker in workers:
                worker.join()
        assert failures == []


class TestFork:
    def test_child_signs_and_parent_goes_on(self, uri: str) -> None:
        with open_backend(uri) as backend:
            for number in range(3):
                message = b"%d" % number
                assert in_fork(lambda m=message: backend.hmac_sha256(m)) == mac_of(message)  # type: ignore[misc] # a default binds the loop's value
                assert backend.hmac_sha256(message) == mac_of(message)

    def test_child_of_child(self, uri: str) -> None:
        with open_backend(uri) as backend:
            assert in_fork(lambda: in_fork(lambda: backend.hmac_sha256(b"x"))) == mac_of(b"x")

    def test_child_that_closes_leaves_the_parent_logged_in(self, uri: str) -> None:
        def child() -> bytes:
            backend.close()
            return b"closed"

        with open_backend(uri) as backend:
            before = backend._key  # type: ignore[attr-defined] # whether it reconnects is not to be seen from outside
            assert in_fork(child) == b"closed"
            assert backend.hmac_sha256(b"x") == mac_of(b"x")
            assert backend._key is before  # type: ignore[attr-defined] # as above

    def test_child_opens_its_own(self, uri: str) -> None:
        def child() -> bytes:
            with open_backend(uri) as own:
                return own.hmac_sha256(b"x")

        with open_backend(uri) as backend:
            assert in_fork(child) == mac_of(b"x")
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_while_a_call_hangs(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A fork does not wait for ever for a device that does not answer; the child says what is the matter."""
        monkeypatch.setattr(_modules, "FORK_PATIENCE", 0.1)
        holding, done = threading.Event(), threading.Event()

        def hang() -> None:
            with _modules.DEVICE:
                holding.set()
                done.wait(30)

        def child() -> bytes:
            with pytest.raises(DeviceError, match="forked while a call into the module hung"):
                backend.hmac_sha256(b"x")
            return b"said so"

        with open_backend(uri) as backend:
            thread = threading.Thread(target=hang)
            thread.start()
            holding.wait()
            try:
                assert in_fork(child) == b"said so"
            finally:
                done.set()
                thread.join()
            assert backend.hmac_sha256(b"x") == mac_of(b"x")


class TestLost:
    def test_token_removed_and_back(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        tokens, away = softhsm_token.directory / "tokens", softhsm_token.directory / "away"
        with open_backend(uri) as backend:
            assert backend.hmac_sha256(b"x") == mac_of(b"x")
            tokens.rename(away)
            tokens.mkdir()
            for _ in range(3):
                with pytest.raises(DeviceLostError, match="no such token; there are"):
                    backend.hmac_sha256(b"x")
            tokens.rmdir()
            away.rename(tokens)
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_key_deleted_and_back(self, uri: str) -> None:
        with open_backend(uri) as backend:
            Pkcs11Backend.delete_key(KeyURI.parse(uri))
            for _ in range(3):
                with pytest.raises(KeyNotFoundError):
                    backend.hmac_sha256(b"x")
            import_into(uri, EXAMPLE_KEY)
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_another_part_finalizes(self, uri: str) -> None:
        with open_backend(uri) as backend:
            for _ in range(3):
                finalize_pkcs11_modules()
                assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_another_part_closes_all_sessions(self, softhsm_token: SoftHSMToken) -> None:
        uri = import_into(softhsm_token.uri(), EXAMPLE_KEY)
        with open_backend(uri) as backend:
            (slot,) = [t.slot.slot_id for t in pkcs11.lib(softhsm_token.module).get_tokens() if t.label]
            assert ctypes.CDLL(softhsm_token.module).C_CloseAllSessions(ctypes.c_ulong(slot)) == 0
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_another_part_logs_out(self, softhsm_token: SoftHSMToken) -> None:
        """Who logged in first closes its session, which logs everybody out."""
        uri = import_into(softhsm_token.uri(), EXAMPLE_KEY)
        other = another_part(softhsm_token)
        with open_backend(uri) as backend:
            assert backend.hmac_sha256(b"x") == mac_of(b"x")
            other.close()
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_another_part_is_logged_in_and_stays(self, softhsm_token: SoftHSMToken) -> None:
        uri = import_into(softhsm_token.uri(), EXAMPLE_KEY)
        other = another_part(softhsm_token)
        open_backend(uri).close()
        assert list(other.get_objects({Attribute.LABEL: "prod"}))  # our farewell did not log it out
        other.close()

    def test_a_wrong_uri_leaves_other_parts_sessions_alone(self, softhsm_token: SoftHSMToken) -> None:
        """A module that another part of the process has initialised is not restarted to look for a token."""
        uri = import_into(softhsm_token.uri(), EXAMPLE_KEY)
        code = f"""
import pkcs11, aws_hmac
(token,) = [t for t in pkcs11.lib({softhsm_token.module!r}).get_tokens() if t.label]
session = token.open(user_pin={softhsm_token.pin!r})
try:
    aws_hmac.open_backend({uri.replace("token=test", "token=none")!r})
except aws_hmac.DeviceLostError:
    print(len(list(session.get_objects())))
with aws_hmac.open_backend({uri!r}) as backend:
    print(backend.hmac_sha256(b"x").hex())
print(len(list(session.get_objects())))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.stderr, done.stdout.split()) == ("", ["1", mac_of(b"x").hex(), "1"])

    def test_one_of_two_closes(self, uri: str) -> None:
        first, second = open_backend(uri), open_backend(uri)
        first.close()
        key = second._key  # type: ignore[attr-defined] # whether it reconnects is not to be seen from outside
        assert second.hmac_sha256(b"x") == mac_of(b"x")
        assert second._key is key  # type: ignore[attr-defined] # as above
        second.close()

    def test_the_last_one_logs_out(self, softhsm_token: SoftHSMToken) -> None:
        uri = import_into(softhsm_token.uri(), EXAMPLE_KEY)
        open_backend(uri).close()
        other = another_part(softhsm_token, pin=False)
        assert not list(other.get_objects({Attribute.LABEL: "prod"}))
        other.close()

    def test_never_another_key_by_the_same_handle(self, softhsm_token: SoftHSMToken) -> None:
        """Another part resets the module and opens keys in another order: our numbers now mean another key."""
        uri = import_into(softhsm_token.uri("prod"), EXAMPLE_KEY)
        import_into(softhsm_token.uri("other"), OTHER_KEY)
        finalize_pkcs11_modules()  # SoftHSM counts sessions and objects from 1 again
        with open_backend(uri) as backend:
            stale = backend._key.object  # type: ignore[attr-defined] # to show that the trap is there
            pkcs11.lib(next(name for name in pkcs11._loaded if "softhsm" in name)).reinitialize()
            other = another_part(softhsm_token)
            for label in ("prod", "other"):
                list(other.get_objects({Attribute.LABEL: label}))
            tricked = stale.sign(b"x", mechanism=Mechanism.SHA256_HMAC)
            assert tricked == mac_of(b"x", OTHER_KEY), "the trap is not set"
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_initialised_by_other_means(self, softhsm_token: SoftHSMToken) -> None:
        """A C library of this process uses the same module: it can be used, and is not finalized under its feet."""
        import_into(softhsm_token.uri(), EXAMPLE_KEY)
        code = f"""
import ctypes, aws_hmac
library = ctypes.CDLL({softhsm_token.module!r})
assert library.C_Initialize(None) == 0
with aws_hmac.open_backend({softhsm_token.uri()!r}) as backend:
    print(backend.hmac_sha256(b"x").hex())
count = ctypes.c_ulong()
assert library.C_GetSlotList(1, None, ctypes.byref(count)) == 0
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.stderr, done.stdout.strip()) == ("", mac_of(b"x").hex())


class TestPin:
    def test_wrong_pin_is_sent_once(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        right = softhsm_token.pin
        softhsm_token.pin_file.write_text("wrong PIN")
        with pytest.raises(AuthenticationError, match=r"refuses the PIN .* not tried again"):
            open_backend(uri)
        assert pin_is_low(softhsm_token), "the token noticed nothing"
        softhsm_token.pin_file.write_text(right)
        open_backend(uri).close()
        assert not pin_is_low(softhsm_token)
        softhsm_token.pin_file.write_text("wrong PIN")
        for _ in range(3):
            with pytest.raises(AuthenticationError, match="refused this PIN before"):
                open_backend(uri)
        assert not pin_is_low(softhsm_token), "the wrong PIN was sent again"

    def test_wrong_pin_on_reconnect(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        right = softhsm_token.pin
        with open_backend(uri) as backend:
            softhsm_token.pin_file.write_text("wrong PIN")
            finalize_pkcs11_modules()
            with pytest.raises(AuthenticationError, match="refuses the PIN"):
                backend.hmac_sha256(b"x")
            for _ in range(3):
                with pytest.raises(AuthenticationError, match="refused this PIN before"):
                    backend.hmac_sha256(b"x")
            softhsm_token.pin_file.write_text(right)
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_shown_nowhere(self, uri: str, softhsm_token: SoftHSMToken, caplog: pytest.LogCaptureFixture) -> None:
        softhsm_token.pin_file.write_text("wrong PIN")
        try:
            open_backend(uri)
        except AuthenticationError as exc:
            shown = "".join(traceback.format_exception(exc)) + caplog.text + repr(exc)
            seen = list(locals_of(exc))
        assert "wrong PIN" not in shown
        assert seen
        assert not [value for value in seen if value in ("wrong PIN", b"wrong PIN")]

    def test_no_pin_source(self, uri: str) -> None:
        with pytest.raises(AuthenticationError, match=r"only after login; add .pin-source="):
            open_backend(uri.replace("&pin-source", "?pin-source").partition("?pin-source")[0])

    def test_not_text(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        softhsm_token.pin_file.write_bytes(b"\xff\xfe12")
        with pytest.raises(AuthenticationError, match="not UTF-8") as caught:
            open_backend(uri)
        assert caught.value.__cause__ is None

    def test_pin_pad(self) -> None:
        """A token with a keypad of its own asks for the PIN itself; a double, as SoftHSM has none."""

        class Pad:
            label, serial, manufacturer_id, model = "t", b"1", "m", "m"
            flags = TokenFlag.LOGIN_REQUIRED | TokenFlag.PROTECTED_AUTHENTICATION_PATH
            pins: list[object] = []  # noqa: RUF012 - a double for one test

            def open(self, *, user_pin: object) -> str:
                self.pins.append(user_pin)
                return "session"

        connection = object.__new__(_tokens.Connection)
        connection.token = Pad()
        assert connection.log_in(KeyURI.parse("pkcs11:object=prod"), "name")
        assert Pad.pins == [pkcs11.PROTECTED_AUTH]

    @pytest.mark.parametrize(
        ("flag", "said"),
        [
            (TokenFlag.USER_PIN_LOCKED, "is locked after too many"),
            (TokenFlag.USER_PIN_FINAL_TRY, "one more wrong PIN locks"),
        ],
    )
    def test_nothing_is_sent_to_a_token_about_to_lock(self, softhsm_token: SoftHSMToken, flag: int, said: str) -> None:
        """SoftHSM never locks: its flags are changed on the way."""

        class Locked:
            label, serial, manufacturer_id, model = "t", b"1", "m", "m"
            flags = TokenFlag.LOGIN_REQUIRED | TokenFlag.USER_PIN_INITIALIZED | TokenFlag(flag)

            def open(self, **_: object) -> None:
                raise AssertionError("a PIN was sent")

        connection = object.__new__(_tokens.Connection)
        connection.token = Locked()
        with pytest.raises(AuthenticationError, match=said):
            connection.log_in(KeyURI.parse(softhsm_token.uri()), "name")


def locals_of(exc: BaseException | None) -> Iterator[object]:
    """Every local variable in every frame of an exception's traceback and of its causes', below pytest's."""
    while exc is not None:
        for frame, _ in traceback.walk_tb(exc.__traceback__):
            if frame.f_code.co_filename != __file__:
                for value in frame.f_locals.values():
                    yield value
                    if isinstance(value, dict):
                        yield from value.values()
        exc = exc.__cause__ or exc.__context__


class TestOtherProcesses:
    def test_many_log_in_at_once(self, uri: str) -> None:
        """SoftHSM shows no token to a process that starts while another logs in."""
        code = f"""
from aws_hmac import open_backend
from aws_hmac.testing import finalize_pkcs11_modules
for _ in range(15):
    with open_backend({uri!r}) as backend:
        print(backend.hmac_sha256(b"x").hex())
    finalize_pkcs11_modules()  # as a process that starts anew
"""
        start = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes = [subprocess.Popen([sys.executable, "-c", code], **start) for _ in range(4)]  # type: ignore[call-overload] # options by name
        for process in processes:
            assert process.communicate()[0] == f"{mac_of(b'x').hex()}\n" * 15

    def test_another_process_replaces_the_key_all_the_time(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each moment of an overwriting import is met, also the one with two keys of one name."""
        for patience in ("PATIENCE", "PATIENCE_AGAIN"):
            monkeypatch.setattr(_tokens, patience, 30.0)  # on a busy machine an import can stand still half-way
        code = f"""
from aws_hmac.testing import EXAMPLE_KEY, import_into
for _ in range(20):
    import_into({uri!r}, EXAMPLE_KEY, overwrite=True)
"""
        other = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        opened = 0
        with other, open_backend(uri) as long_lived:
            while other.poll() is None:
                with open_backend(uri) as backend:
                    assert backend.hmac_sha256(b"x") == mac_of(b"x")
                assert long_lived.hmac_sha256(b"y") == mac_of(b"y")
                opened += 1
        assert other.returncode == 0
        assert opened > 5

    def test_two_import_at_once(self, softhsm_token: SoftHSMToken) -> None:
        """At most one wins, and of the others' keys nothing stays."""
        code = """
import sys
from aws_hmac import KeyExistsError
from aws_hmac.testing import EXAMPLE_KEY, import_into
for uri in sys.argv[1:]:
    try:
        import_into(uri, EXAMPLE_KEY)
        print("imported")
    except KeyExistsError:
        print("exists")
"""
        uris = [softhsm_token.uri(f"key {number}") for number in range(8)]
        start = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes = [subprocess.Popen([sys.executable, "-c", code, *uris], **start) for _ in range(2)]  # type: ignore[call-overload] # options by name
        answers = [process.communicate()[0].split() for process in processes]
        finalize_pkcs11_modules()
        for uri, *said in zip(uris, *answers, strict=True):
            assert set(said) <= {"imported", "exists"}
            keys = Pkcs11Backend.list_keys(KeyURI.parse(uri))
            assert len(keys) == said.count("imported") <= 1


class TestWhichKey:
    def test_two_keys_of_one_name(self, softhsm_token: SoftHSMToken) -> None:
        session = another_part(softhsm_token, rw=True)
        make_object(session, "prod", ID=b"\x01")
        make_object(session, "prod", ID=b"\x02", KEY_TYPE=KeyType.SHA256_HMAC)
        session.close()
        uri = softhsm_token.uri()
        expected = r"2 keys fit: 'prod' \(id=%0\d, \w+\), 'prod' \(id=%0\d, \w+\); tell them apart by id="
        with pytest.raises(AmbiguousKeyError, match=expected):
            open_backend(uri)
        with pytest.raises(AmbiguousKeyError, match=expected):
            Pkcs11Backend.delete_key(KeyURI.parse(uri))
        with pytest.raises(AmbiguousKeyError, match="2 keys fit"):
            import_into(uri, OTHER_KEY, overwrite=True)
        assert objects_of(softhsm_token) == 2
        listed = Pkcs11Backend.list_keys(KeyURI.parse(uri))
        assert sorted(KeyURI.parse(entry.uri).raw("id") or b"" for entry in listed) == [b"\x01", b"\x02"]
        for entry in listed:
            open_backend(entry.uri).close()
        open_backend(uri.replace("object=prod", "object=prod;id=%02")).close()
        open_backend(uri.replace("object=prod", "id=%01")).close()

    @pytest.mark.parametrize("key_type", [KeyType.GENERIC_SECRET, KeyType.SHA256_HMAC])
    def test_either_key_type(self, softhsm_token: SoftHSMToken, key_type: KeyType) -> None:
        session = another_part(softhsm_token, rw=True)
        make_object(session, "prod", KEY_TYPE=key_type)
        session.close()
        with open_backend(softhsm_token.uri()) as backend:
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_no_such_key_lists_what_is_there(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        wrong = uri.replace("object=prod", "object=none")
        with pytest.raises(KeyNotFoundError, match=r"HMAC keys are: 'prod' \(id=aws-hmac-\w+, SHA256_HMAC\)"):
            open_backend(wrong)

    def test_other_objects_are_no_keys(self, softhsm_token: SoftHSMToken) -> None:
        session = another_part(softhsm_token, rw=True)
        make_object(session, "prod", KEY_TYPE=KeyType.AES, VALUE=b"k" * 32)
        session.close()
        with pytest.raises(KeyNotFoundError, match="HMAC keys are: none"):
            open_backend(softhsm_token.uri())

    def test_a_key_that_may_not_sign(self, softhsm_token: SoftHSMToken) -> None:
        session = another_part(softhsm_token, rw=True)
        make_object(session, "prod", SIGN=False)
        session.close()
        with pytest.raises(KeyPolicyError, match="CKA_SIGN is false"):
            open_backend(softhsm_token.uri())
        Pkcs11Backend.delete_key(KeyURI.parse(softhsm_token.uri()))
        assert objects_of(softhsm_token) == 0

    def test_no_such_token_lists_what_is_there(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        wrong = uri.replace(f"token={softhsm_token.label}", "token=none")
        listed = (
            rf"no such token; there are token '{softhsm_token.label}' \(serial [0-9a-f]+, SoftHSM project, SoftHSM v2\)"
        )
        with pytest.raises(DeviceLostError, match=listed):
            open_backend(wrong)

    def test_two_tokens(self, softhsm_token: SoftHSMToken) -> None:
        tool = ["softhsm2-util", "--init-token", "--free", "--label", "second", "--pin", "1234", "--so-pin", "1234"]
        subprocess.run(tool, check=True, stdout=subprocess.DEVNULL)
        uri = softhsm_token.uri()
        import_into(uri, EXAMPLE_KEY)
        with pytest.raises(AmbiguousKeyError, match=r"several tokens fit: .*serial.*; name one by token= or serial="):
            open_backend(uri.replace(f"token={softhsm_token.label};", ""))
        open_backend(uri).close()
        assert len(Pkcs11Backend.list_keys(KeyURI.parse(uri.replace(f"token={softhsm_token.label};", "")))) == 0
        assert len(Pkcs11Backend.list_keys(KeyURI.parse(uri))) == 1

    def test_a_token_that_came_later(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        """A daemon that has loaded the module long ago sees a token that was made since."""
        open_backend(uri).close()
        tool = ["softhsm2-util", "--init-token", "--free", "--label", "later", "--pin", "1234", "--so-pin", "1234"]
        subprocess.run(tool, check=True, stdout=subprocess.DEVNULL)
        pin = softhsm_token.directory / "pin of later"
        pin.write_text("1234")
        pin.chmod(0o600)
        later = uri.replace(softhsm_token.label, "later").replace(
            f"{softhsm_token.pin_file}", f"{pin}".replace(" ", "%20")
        )
        with open_backend(import_into(later, OTHER_KEY)) as backend:
            assert backend.hmac_sha256(b"x") == mac_of(b"x", OTHER_KEY)


@pytest.fixture
def facts(softhsm_token: SoftHSMToken) -> dict[str, str]:
    """What the token, slot and library say of themselves, by RFC 7512's names."""
    lib = pkcs11.lib(softhsm_token.module)
    (token,) = [t for t in lib.get_tokens() if t.label == softhsm_token.label]
    return {
        "token": token.label,
        "manufacturer": token.manufacturer_id,
        "serial": token.serial.decode(),
        "model": token.model,
        "slot-id": str(token.slot.slot_id),
        "slot-manufacturer": token.slot.manufacturer_id,
        "slot-description": token.slot.slot_description,
        "library-manufacturer": lib.manufacturer_id,
        "library-description": lib.library_description,
        "library-version": "2.6",
    }


class TestRfc7512:
    """Each attribute of RFC 7512, section 2.3, selects, and rejects what it does not fit."""

    NAMES = (
        "token",
        "manufacturer",
        "serial",
        "model",
        "slot-id",
        "slot-manufacturer",
        "slot-description",
        "library-manufacturer",
        "library-description",
        "library-version",
    )

    @staticmethod
    def uri(token: SoftHSMToken, attributes: dict[str, str]) -> KeyURI:
        query = {"module-path": token.module, "pin-source": f"file:{token.pin_file}"}
        return KeyURI("pkcs11", {"token": token.label, **attributes, "object": "prod"}, query)

    @pytest.mark.parametrize("name", NAMES)
    def test_fits(self, softhsm_token: SoftHSMToken, facts: dict[str, str], name: str) -> None:
        import_into(softhsm_token.uri(), EXAMPLE_KEY)
        with open_backend(self.uri(softhsm_token, {name: facts[name]})) as backend:
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    @pytest.mark.parametrize("name", NAMES)
    def test_does_not_fit(self, softhsm_token: SoftHSMToken, facts: dict[str, str], name: str) -> None:
        import_into(softhsm_token.uri(), EXAMPLE_KEY)
        wrong = "77" if facts[name].isdigit() else "7.7" if name == "library-version" else facts[name] + "x"
        with pytest.raises(DeviceError, match=r"no such token|no PKCS#11 module fits"):
            open_backend(self.uri(softhsm_token, {name: wrong}))

    def test_blanks_at_the_end_do_not_count(self, softhsm_token: SoftHSMToken) -> None:
        import_into(softhsm_token.uri(), EXAMPLE_KEY)
        open_backend(self.uri(softhsm_token, {"token": f"{softhsm_token.label}   "})).close()

    def test_percent_encoded_id(self, softhsm_token: SoftHSMToken) -> None:
        session = another_part(softhsm_token, rw=True)
        make_object(session, "prod", ID=bytes(range(256)))
        make_object(session, "prod", ID=b"other")
        session.close()
        id_ = "".join(f"%{n:02x}" for n in range(256))
        open_backend(softhsm_token.uri().replace("object=prod", f"id={id_};type=secret-key")).close()

    def test_an_empty_value_fits_an_empty_attribute(self, softhsm_token: SoftHSMToken) -> None:
        session = another_part(softhsm_token, rw=True)
        make_object(session, "", ID=b"1")
        make_object(session, "prod", ID=b"2")
        session.close()
        with open_backend(softhsm_token.uri("")) as backend:
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    @pytest.mark.parametrize(
        ("attribute", "said"),
        [
            ("type=private", "holds no HMAC key"),
            ("type=data", "holds no HMAC key"),
            ("type=hmac", "unknown; there are public, private"),
            ("slot-id=first", "slot-id is not a decimal number"),
            ("slot-id=", "slot-id is not a decimal number"),
            ("slot-id=%D9%A1", "slot-id is not a decimal number"),
            ("library-version=two", "library-version is not a number"),
            ("objects=prod", "unknown attribute 'objects'; did you mean 'object'"),
            ("pin-source=prompt", "belongs after"),
        ],
    )
    def test_values_that_cannot_be(self, softhsm_token: SoftHSMToken, attribute: str, said: str) -> None:
        with pytest.raises(KeyURIError, match=said):
            open_backend(f"pkcs11:token={softhsm_token.label};{attribute}?module-path={softhsm_token.module}")

    def test_library_attributes_choose_the_module(self, softhsm_token: SoftHSMToken) -> None:
        """Without a module, they are asked of each module that p11-kit knows."""
        import_into(softhsm_token.uri(), EXAMPLE_KEY)
        path = f"token={softhsm_token.label};object=prod"
        pin = f"?pin-source=file:{softhsm_token.pin_file}"
        open_backend(f"pkcs11:{path};library-manufacturer=SoftHSM{pin}").close()
        open_backend(f"pkcs11:{path};library-description=Implementation%20of%20PKCS11;library-version=2.6{pin}").close()
        with pytest.raises(DeviceError, match=r"no PKCS#11 module fits; there are .*SoftHSM, .*version 2.6"):
            open_backend(f"pkcs11:{path};library-manufacturer=Nobody{pin}")
        with pytest.raises(DeviceError, match="no PKCS#11 module fits"):  # 2 means 2.0
            open_backend(f"pkcs11:{path};library-manufacturer=SoftHSM;library-version=2{pin}")

    @pytest.mark.parametrize("name", ["softhsm2", "SoftHSM2", "libsofthsm2.so", "libsofthsm2"])
    def test_module_name(self, softhsm_token: SoftHSMToken, name: str) -> None:
        uri = import_into(softhsm_token.uri(), EXAMPLE_KEY)
        pin = f"pin-source=file:{softhsm_token.pin_file}"
        path = uri.partition("?")[0]
        open_backend(f"{path}?module-name={name}&{pin}").close()
        folder = softhsm_token.module.rpartition("/")[0]
        open_backend(f"{path}?module-name={name}&module-path={folder}&{pin}").close()
        open_backend(f"{path}?module-name={name}&module-path={softhsm_token.module}&{pin}").close()


class TestModules:
    def test_missing_name(self, softhsm_token: SoftHSMToken) -> None:
        with pytest.raises(DeviceError, match=r"no PKCS#11 module 'nohsm'; p11-kit knows .*softhsm2 \(/"):
            open_backend("pkcs11:object=prod?module-name=nohsm")
        with pytest.raises(DeviceError, match="no PKCS#11 module 'nohsm' in /usr/lib"):
            open_backend("pkcs11:object=prod?module-name=nohsm&module-path=/usr/lib")

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("module-path=libsofthsm2.so", "must be an absolute path"),
            ("module-path=../libsofthsm2.so", "must be an absolute path"),
            ("module-path=", "must be an absolute path"),
            ("module-path=/usr/lib", "is a folder; give a file, or module-name"),
            ("module-name=/usr/lib/libsofthsm2.so", "module-name is a name"),
        ],
    )
    def test_malformed(self, query: str, said: str) -> None:
        with pytest.raises(KeyURIError, match=said):
            open_backend(f"pkcs11:object=prod?{query}")

    def test_path_and_name_contradict(self, softhsm_token: SoftHSMToken) -> None:
        with pytest.raises(KeyURIError, match="is not the module 'opensc'"):
            open_backend(f"pkcs11:object=prod?module-path={softhsm_token.module}&module-name=opensc")

    def test_missing(self) -> None:
        with pytest.raises(DeviceError, match=r"there is no PKCS#11 module /usr/lib/nohsm.so; p11-kit knows"):
            open_backend("pkcs11:object=prod?module-path=/usr/lib/nohsm.so")

    def test_no_library(self, tmp_path: Path) -> None:
        file = tmp_path / "module.so"
        file.write_text("no library")
        with pytest.raises(
            DeviceError,
            match=rf"{file} cannot be loaded as a PKCS#11 module: (file too short|invalid ELF header); p11-kit knows",
        ):
            open_backend(f"pkcs11:object=prod?module-path={file}")

    def test_another_library(self) -> None:
        lines = Path("/proc/self/maps").read_text().splitlines()
        libc = next(line.split()[-1] for line in lines if "/libc.so" in line or "/libc-" in line)
        with pytest.raises(DeviceError, match="cannot be loaded as a PKCS#11 module"):
            open_backend(f"pkcs11:object=prod?module-path={libc}")

    def test_no_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_modules, "PROXY", ("no-such-proxy.so",))
        with pytest.raises(DeviceError, match="p11-kit's proxy module cannot be loaded; install it"):
            open_backend("pkcs11:object=prod")

    def test_others_can_write(self, softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
        """The library, its folder, and a folder above: each lets another user exchange it."""
        folder = tmp_path / "above" / "folder"
        folder.mkdir(parents=True)
        module = folder / "libsofthsm2.so"
        module.write_bytes(Path(softhsm_token.module).read_bytes())
        uri = f"pkcs11:token=none?module-path={module}"
        with pytest.raises(DeviceLostError, match="no such token"):
            open_backend(uri)
        for part in (module, folder, tmp_path / "above"):
            mode = part.stat().st_mode
            for bit in (0o020, 0o002):
                part.chmod(mode | bit)
                with pytest.raises(KeyURIError, match=f"others can write {part}; mend it with: chmod go-w {part}$"):
                    open_backend(uri)
                part.chmod(mode)
        link = tmp_path / "open" / "link.so"
        link.parent.mkdir()
        link.symlink_to(module)
        link.parent.chmod(0o777)
        with pytest.raises(KeyURIError, match="others can write"):
            open_backend(f"pkcs11:token=none?module-path={link}")


class TestImport:
    def test_protections(self, uri: str) -> None:
        with open_backend(uri) as backend:
            assert isinstance(backend, Pkcs11Backend)
            findings = {finding.subject: finding for finding in backend.inspect()}
        assert {s for s, f in findings.items() if f.level == "good"} == {
            "CKA_VALUE",
            "CKA_SENSITIVE",
            "CKA_EXTRACTABLE",
            "CKA_SIGN",
            "CKA_ALLOWED_MECHANISMS",
            "CKA_PRIVATE",
            "CKA_MODIFIABLE",
            "CKA_COPYABLE",
        }
        assert {s: f.level for s, f in findings.items() if f.level in ("warning", "bad")} == {"token": "warning"}
        assert "software" in findings["token"].text
        assert "CKA_NEVER_EXTRACTABLE is false" in findings["CKA_LOCAL"].text

    def test_the_token_enforces_them(self, softhsm_token: SoftHSMToken) -> None:
        """What the inspector believes, tried on the token by hand."""
        import_into(softhsm_token.uri(), EXAMPLE_KEY)
        session = another_part(softhsm_token, rw=True)
        (key,) = session.get_objects({Attribute.LABEL: "prod"})
        with pytest.raises(pkcs11.AttributeSensitive):
            key[Attribute.VALUE]
        for attribute in (Attribute.DERIVE, Attribute.VERIFY, Attribute.EXTRACTABLE):
            with pytest.raises(pkcs11.PKCS11Error):
                key[attribute] = True
        with pytest.raises(pkcs11.PKCS11Error):
            key.copy({Attribute.LABEL: "copy"})
        with pytest.raises(pkcs11.MechanismInvalid):
            key.sign(b"x", mechanism=Mechanism.SHA512_HMAC)
        assert key.sign(b"x", mechanism=Mechanism.SHA256_HMAC) == mac_of(b"x")
        session.close()

    def test_a_careless_key(self, softhsm_token: SoftHSMToken) -> None:
        session = another_part(softhsm_token, rw=True)
        make_object(session, "prod", EXTRACTABLE=True, SENSITIVE=False, PRIVATE=False, DERIVE=True, WRAP=True)
        session.close()
        with open_backend(softhsm_token.uri()) as backend:
            assert isinstance(backend, Pkcs11Backend)
            findings = backend.inspect()
        levels = {finding.subject: finding.level for finding in findings}
        assert [f.subject for f in findings if f.level == "bad"] == ["CKA_VALUE", "CKA_SENSITIVE", "CKA_EXTRACTABLE"]
        for subject in ("CKA_DERIVE", "CKA_WRAP", "CKA_PRIVATE", "CKA_MODIFIABLE", "CKA_ALLOWED_MECHANISMS", "token"):
            assert levels[subject] == "warning", subject
        assert all(finding.mend for finding in findings if finding.level in ("bad", "warning"))
        assert EXAMPLE_KEY.decode() not in repr(findings)

    def test_id(self, softhsm_token: SoftHSMToken) -> None:
        uri = softhsm_token.uri()
        import_into(uri, EXAMPLE_KEY, label="AKIAIOSFODNN7EXAMPLE")
        (entry,) = Pkcs11Backend.list_keys(KeyURI.parse(uri))
        assert re.search(r"id=AKIAIOSFODNN7EXAMPLE-[0-9a-f]{8},", entry.description)
        assert KeyURI.parse(entry.uri).raw("id") is None  # its label is enough
        import_into(uri.replace("object=prod", "object=b;id=%00%ff"), EXAMPLE_KEY)
        with open_backend(uri.replace("object=prod", "id=%00%ff")) as backend:
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_another_import_does_not_end(
        self, softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        monkeypatch.setattr(_import, "IMPORT_PATIENCE", 0.1)
        with _import._alone("the other"), pytest.raises(DeviceBusyError, match="another import has not ended"):
            import_into(softhsm_token.uri(), EXAMPLE_KEY)
        import_into(softhsm_token.uri(), EXAMPLE_KEY)

    def test_nowhere_for_a_lock(
        self, softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "aws-hmac").write_text("a file, where the folder should be")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        import_into(softhsm_token.uri(), EXAMPLE_KEY)
        assert objects_of(softhsm_token) == 1

    def test_without_a_name(self, softhsm_token: SoftHSMToken) -> None:
        with pytest.raises(KeyURIError, match="add object="):
            import_into(softhsm_token.uri(None), EXAMPLE_KEY)

    def test_empty_key(self, softhsm_token: SoftHSMToken) -> None:
        with pytest.raises(UnsupportedError, match="empty"):
            import_into(softhsm_token.uri(), b"")

    @pytest.fixture
    def unproven(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
        """The URI of a key, where from now on no token computes what is expected of it."""
        monkeypatch.setattr(_import, "_PROBE", b"")
        monkeypatch.setattr(_import, "hmac", SimpleNamespace(digest=lambda *_: b"something else"))
        return uri

    def test_half_made_is_removed(self, unproven: str, softhsm_token: SoftHSMToken) -> None:
        with pytest.raises(UnsupportedError, match=r"takes no HMAC-SHA256 key from outside; .* a wrong HMAC"):
            import_into(unproven.replace("object=prod", "object=new"), EXAMPLE_KEY)
        assert objects_of(softhsm_token) == 1

    def test_overwrite_keeps_the_old_until_the_new_is_proven(self, unproven: str, softhsm_token: SoftHSMToken) -> None:
        with pytest.raises(UnsupportedError):
            import_into(unproven, OTHER_KEY, overwrite=True)
        assert objects_of(softhsm_token) == 1
        with open_backend(unproven) as backend:
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_overwrite_leaves_one(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        import_into(uri, OTHER_KEY, overwrite=True)
        assert objects_of(softhsm_token) == 1

    def test_a_key_that_does_not_go(self, softhsm_token: SoftHSMToken) -> None:
        """An old key that the token keeps: the new one is taken back, so that there are not two of one name."""
        session = another_part(softhsm_token, rw=True)
        make_object(session, "prod", DESTROYABLE=False)
        session.close()
        with pytest.raises(KeyPolicyError, match="does not let go of 'prod'"):
            import_into(softhsm_token.uri(), OTHER_KEY, overwrite=True)
        with pytest.raises(KeyPolicyError, match="does not let go of 'prod'"):
            Pkcs11Backend.delete_key(KeyURI.parse(softhsm_token.uri()))
        with open_backend(softhsm_token.uri()) as backend:
            assert backend.hmac_sha256(b"x") == mac_of(b"x")

    def test_shown_nowhere(self, unproven: str, caplog: pytest.LogCaptureFixture) -> None:
        secret = b"AWS4" + b"S3cr3tS3cr3t" * 3 + b"1234"
        try:
            import_into(unproven.replace("object=prod", "object=new"), secret)
        except UnsupportedError as exc:
            shown = "".join(traceback.format_exception(exc)) + caplog.text
            ours = [value for value in locals_of(exc) if isinstance(value, bytes) and secret in value]
            seen = list(locals_of(exc))
        assert seen
        assert "S3cr3t" not in shown
        assert len(ours) <= 1  # import_into of the test kit itself keeps its argument


class TestOtherTokens:
    """Tokens that differ from SoftHSM in what they take: doubles of their C_CreateObject, after their manuals."""

    class Session:
        def __init__(self, refuse: Any, *, lies: bool = False, readable: bool = False) -> None:
            self.refuse, self.lies, self.readable = refuse, lies, readable
            self.objects: list[TestOtherTokens.Key] = []

        def create_object(self, template: dict[Attribute, Any]) -> TestOtherTokens.Key:
            refusal = self.refuse(template)
            if refusal:
                raise refusal
            self.objects.append(TestOtherTokens.Key(self, dict(template)))
            return self.objects[-1]

    class Key:
        handle = 1

        def __init__(self, session: TestOtherTokens.Session, template: dict[Attribute, Any]) -> None:
            self.session, self.template = session, template

        def __getitem__(self, attribute: Attribute) -> Any:
            if attribute == Attribute.EXTRACTABLE and self.session.readable:
                return True
            return self.template[attribute]

        def sign(self, message: bytes, *, mechanism: Mechanism) -> bytes:
            assert mechanism == Mechanism.SHA256_HMAC
            return mac_of(message, b"another" if self.session.lies else self.template[Attribute.VALUE])

        def destroy(self) -> None:
            self.session.objects.remove(self)

    @staticmethod
    def create(session: Session, key: bytes = EXAMPLE_KEY, uri: str = "pkcs11:object=prod") -> Any:
        return _import._create(session, KeyURI.parse(uri), key, None, "name")

    def test_sha256_hmac_only_short_id_no_optional_attribute(self) -> None:
        """YubiHSM 2: its own key type, an id of two bytes, and none of the newer attributes."""

        def refuse(template: dict[Attribute, Any]) -> Exception | None:
            if template[Attribute.KEY_TYPE] != KeyType.SHA256_HMAC:
                return pkcs11.TemplateInconsistent()
            if {Attribute.ALLOWED_MECHANISMS, Attribute.COPYABLE} & template.keys():
                return pkcs11.AttributeTypeInvalid()
            return pkcs11.AttributeValueInvalid() if len(template.get(Attribute.ID, b"")) > 2 else None

        session = self.Session(refuse)
        key = self.create(session)
        assert session.objects == [key]
        assert Attribute.ID not in key.template
        assert key.template[Attribute.LABEL] == "prod"
        assert self.create(session, uri="pkcs11:object=prod;id=%12%34").template[Attribute.ID] == b"4"

    def test_generic_secret_only(self) -> None:
        """opencryptoki's soft token; the first template with it keeps every protection."""
        session = self.Session(
            lambda t: pkcs11.AttributeValueInvalid() if t[Attribute.KEY_TYPE] == KeyType.SHA256_HMAC else None
        )
        template = self.create(session).template
        assert template.keys() >= _import.MUST.keys() | _import.MAY.keys()

    def test_keys_of_the_block_size_only(self) -> None:
        session = self.Session(lambda t: pkcs11.KeySizeRange() if len(t[Attribute.VALUE]) != 64 else None)
        assert self.create(session).template[Attribute.VALUE] == EXAMPLE_KEY.ljust(64, b"\0")

    def test_no_import_at_all(self) -> None:
        """tpm2-pkcs11 and AWS CloudHSM create no secret keys from outside."""
        session = self.Session(lambda t: pkcs11.FunctionNotSupported())
        with pytest.raises(UnsupportedError, match=r"takes no HMAC-SHA256 key from outside; .* FunctionNotSupported"):
            self.create(session)

    def test_one_that_computes_something_else(self) -> None:
        session = self.Session(lambda t: None, lies=True)
        with pytest.raises(UnsupportedError, match="a wrong HMAC"):
            self.create(session)
        assert session.objects == []

    def test_one_that_keeps_the_key_readable(self) -> None:
        session = self.Session(lambda t: None, readable=True)
        with pytest.raises(UnsupportedError, match="a key that can be read"):
            self.create(session)
        assert session.objects == []

    def test_an_error_that_is_no_refusal_ends_it(self) -> None:
        session = self.Session(lambda t: pkcs11.DeviceRemoved())
        with pytest.raises(pkcs11.DeviceRemoved):
            self.create(session)
