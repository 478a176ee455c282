"""What passes on the TPM's bus: a relay between the TSS and swtpm records it, and can change it."""

from __future__ import annotations

import hmac
import select
import socket
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_PUBLIC

from aws_hmac import AuthenticationError, DeviceError, KeyMismatchError, open_backend
from aws_hmac._swtpm import _free_port_pair
from aws_hmac.backend import fingerprint, fingerprint_of
from aws_hmac.testing import EXAMPLE_KEY, import_into
from aws_hmac.uri import KeyURI
from aws_hmac_backends.tpm2 import _device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aws_hmac._swtpm import Swtpm

pytestmark = pytest.mark.device("tpm2")

PASSWORD = b"correct horse battery"
K_DATE = hmac.digest(EXAMPLE_KEY, b"20260101", "sha256")
READ_PUBLIC, START_AUTH_SESSION = 0x173, 0x176


class Relay:
    """Passes TPM commands on to swtpm; keeps both directions, and lets a function change the answers.

    Attributes:
        seen: every command and answer, in order.
        tamper: given a command and its answer, returns the answer to pass on.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = _free_port_pair()
        self.tcti = f"swtpm:host=127.0.0.1,port={self.port}"
        self.seen: list[bytes] = []
        self.tamper: Callable[[bytes, bytes], bytes] = lambda _, answer: answer
        self._stack = ExitStack()
        self._stop = threading.Event()
        self._listeners = [self._listen(self.port, port), self._listen(self.port + 1, port + 1)]

    def commands(self) -> list[int]:
        return [int.from_bytes(m[6:10], "big") for m in self.seen[::2]]

    def traffic(self) -> bytes:
        return b"".join(self.seen)

    def _listen(self, port: int, target: int) -> threading.Thread:
        server = socket.create_server(("127.0.0.1", port))
        thread = threading.Thread(target=self._accept, args=(server, target))
        thread.start()
        return thread

    def _accept(self, server: socket.socket, target: int) -> None:
        with server:
            while not self._stop.is_set():
                if select.select([server], [], [], 0.05)[0]:
                    client, _ = server.accept()
                    with client, suppress(OSError), socket.create_connection(("127.0.0.1", target)) as tpm:
                        self._pass_on(client, tpm, record=target == self.target)

    def _pass_on(self, client: socket.socket, tpm: socket.socket, *, record: bool) -> None:
        command = b""
        while not self._stop.is_set():
            ready, _, _ = select.select([client, tpm], [], [], 0.05)
            if client in ready:
                data = client.recv(8192)
                if not data:
                    return
                command = data
                tpm.sendall(data)
            if tpm in ready:
                data = tpm.recv(8192)
                if not data:
                    return
                if record:
                    self.seen += [command, data]  # commands are short and strictly answered one by one
                    data = self.tamper(command, data)
                client.sendall(data)

    def close(self) -> None:
        self._stop.set()
        for listener in self._listeners:
            listener.join()


@pytest.fixture
def relay(swtpm: Swtpm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    monkeypatch.setenv("TPM_AUTH", PASSWORD.decode())
    relay = Relay(swtpm.port)
    yield relay
    relay.close()


WAYS = {
    "handle": ("handle=0x81008001", ""),
    "handle, EK salts": ("handle=0x81008001", "&session-key=ek-ecc"),
    "file": ("file={dir}/key.pem", ""),
    "file, EK parent": ("file={dir}/key.pem", "&parent=ek-rsa"),
    "handle, PCR": ("handle=0x81008001", "&pcrs=sha256:7"),
    "file, PCR": ("file={dir}/key.pem", "&pcrs=sha256:7"),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_passes_in_the_clear(relay: Relay, tmp_path: Path, way: str) -> None:
    path, query = WAYS[way]
    uri = f"tpm2:{path.format(dir=tmp_path)}?tcti={relay.tcti}&auth-source=env:TPM_AUTH{query}"
    with open_backend(import_into(uri, EXAMPLE_KEY)) as backend:
        assert backend.hmac_sha256(b"20260101") == K_DATE
        assert fingerprint(backend) == fingerprint_of(EXAMPLE_KEY)
    traffic = relay.traffic()
    assert len(relay.seen) > 10
    for secret in (EXAMPLE_KEY, EXAMPLE_KEY[4:], PASSWORD, K_DATE, b"20260101"):
        assert secret not in traffic


def test_plain_session_shows_it_all(relay: Relay) -> None:
    """The control: the same relay finds what a plain session lets pass."""
    uri = f"tpm2:handle=0x81008001?tcti={relay.tcti}&auth-source=env:TPM_AUTH&session=plain"
    with open_backend(import_into(uri, EXAMPLE_KEY)) as backend:
        assert backend.hmac_sha256(b"20260101") == K_DATE
    for secret in (EXAMPLE_KEY, PASSWORD, K_DATE, b"20260101"):
        assert secret in relay.traffic()


@pytest.mark.parametrize("lie", ["public", "public and name"])
@pytest.mark.parametrize("pinned", [True, False])
def test_somebody_elses_session_key(swtpm: Swtpm, relay: Relay, lie: str, pinned: bool) -> None:
    """Who sits on the bus offers a key of his own to salt the session; the pinned name catches him."""
    template = TPM2B_PUBLIC(publicArea=_device.storage_template(rsa=False))
    with ESAPI(swtpm.tcti) as esys:
        tr, public, *_ = esys.create_primary(None, template)
        esys.evict_control(ESYS_TR.OWNER, tr, 0x81000001)
        esys.flush_context(tr)
    named = import_into(f"tpm2:handle=0x81008001?tcti={relay.tcti}", EXAMPLE_KEY)
    uri = KeyURI.parse(named)
    assert uri.get("session-key") == "0x81000001"
    if not pinned:
        uri = KeyURI("tpm2", uri.path, {k: v for k, v in uri.query.items() if k != "session-key-name"})
    mine = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    forged, _ = TPM2B_PUBLIC.unmarshal(public.marshal())
    changes = {bytes(public.publicArea.unique.ecc.x): mine.x.to_bytes(32, "big")}
    changes[bytes(public.publicArea.unique.ecc.y)] = mine.y.to_bytes(32, "big")
    forged.publicArea.unique.ecc.x, forged.publicArea.unique.ecc.y = changes.values()
    if lie == "public and name":
        changes[bytes(public.get_name())] = bytes(forged.get_name())

    def tamper(command: bytes, answer: bytes) -> bytes:
        if int.from_bytes(command[6:10], "big") == READ_PUBLIC:
            for old, new in changes.items():
                answer = answer.replace(old, new)
        return answer

    relay.tamper = tamper
    relay.seen.clear()
    if pinned:
        with pytest.raises(KeyMismatchError, match="somebody on its bus"), open_backend(uri) as backend:
            backend.hmac_sha256(b"20260101")
        assert START_AUTH_SESSION not in relay.commands()
    else:
        with pytest.raises((DeviceError, AuthenticationError)), open_backend(uri) as backend:
            backend.hmac_sha256(b"20260101")
        assert START_AUTH_SESSION in relay.commands()  # the salt went to him: hence the pin


def test_a_changed_answer_is_noticed(relay: Relay) -> None:
    """A salted session's answers are authenticated: one bit changed on the bus is an error, not a wrong MAC."""
    named = import_into(f"tpm2:handle=0x81008001?tcti={relay.tcti}", EXAMPLE_KEY)
    with open_backend(named) as backend:
        relay.tamper = lambda command, answer: (
            answer[:20] + bytes([answer[20] ^ 1]) + answer[21:] if command[6:10] == b"\0\0\1\x55" else answer
        )
        with pytest.raises(DeviceError, match="somebody may sit on its bus"):
            backend.hmac_sha256(b"20260101")
        relay.tamper = lambda _, answer: answer
        assert backend.hmac_sha256(b"20260101") == K_DATE
