"""Moving a keyset to another KEK: proven before anything is replaced, and killed at each step."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from aws_hmac import KeyMismatchError, KeyNotFoundError, KeyURIError, open_backend
from aws_hmac.backend import fingerprint, fingerprint_of
from aws_hmac.cli import main
from aws_hmac.errors import DeviceBusyError, Error
from aws_hmac.testing import EXAMPLE_KEY, import_into
from aws_hmac.uri import KeyURI
from aws_hmac_backends.tink import TinkBackend
from aws_hmac_backends.tink.keks import LocalKek

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MotoServer

pytestmark = pytest.mark.filterwarnings("ignore:insecure-local-kms:aws_hmac.SecurityWarning")


def works(uri: str | KeyURI) -> bool:
    try:
        with open_backend(uri) as backend:
            return fingerprint(backend) == fingerprint_of(EXAMPLE_KEY)
    except Error:
        return False


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return import_into(f"tink:file={tmp_path}/keyset.json;kek=insecure-local-kms://{tmp_path}/old.json", EXAMPLE_KEY)


def new_kek(folder: Path) -> str:
    return f"insecure-local-kms://{folder}/new.json"


def test_rewrap_and_confirm(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "rewrap", uri, "--kek", new_kek(tmp_path), "--json"]) == 0
    rewrapped = json.loads(capsys.readouterr().out)["uri"]
    assert rewrapped == f"tink:file={tmp_path}/keyset.json;kek={new_kek(tmp_path)}"
    assert works(rewrapped)
    assert not works(uri)
    before = tmp_path / "keyset.json.before-rewrap"
    assert works(uri.replace("keyset.json", before.name))
    with open_backend(rewrapped) as backend:
        assert isinstance(backend, TinkBackend)
        assert any("not confirmed" in finding.text for finding in backend.inspect())
    # A second move waits for the first to be confirmed.
    assert main(["key", "rewrap", rewrapped, "--kek", f"insecure-local-kms://{tmp_path}/third.json"]) == 1
    assert "earlier rewrap" in capsys.readouterr().err
    assert main(["key", "rewrap", rewrapped, "--confirm"]) == 0
    assert "works, wrapped by insecure-local-kms" in capsys.readouterr().out
    assert not before.exists()
    assert works(rewrapped)
    assert main(["key", "rewrap", rewrapped, "--confirm"]) == 1
    assert "no rewrap to confirm" in capsys.readouterr().err


def test_plan_first_and_miss_no_call(uri: str, tmp_path: Path) -> None:
    """A signer that runs on through the whole move, on one URI."""
    planned = KeyURI.parse(f"{uri}?planned-kek={new_kek(tmp_path)}")
    with pytest.raises(KeyNotFoundError), open_backend(uri.replace("old", "new")) as backend:
        fingerprint(backend)
    with open_backend(planned) as backend:
        assert fingerprint(backend) == fingerprint_of(EXAMPLE_KEY)
        rewrapped = TinkBackend.rewrap_key(planned)
        assert fingerprint(backend) == fingerprint_of(EXAMPLE_KEY)
    assert "planned" not in str(rewrapped)
    assert works(rewrapped)
    assert [f.subject for f in TinkBackend.confirm_rewrap(planned)] == ["rewrap", "old keyset", "old key"]


def test_binds_to_an_access_key_id(uri: str, tmp_path: Path) -> None:
    bound = TinkBackend.rewrap_key(KeyURI.parse(uri), label="AKIAIOSFODNN7EXAMPLE")
    assert str(bound) == f"{uri};associated-data=AKIAIOSFODNN7EXAMPLE"
    assert works(bound)
    assert not works(uri)
    assert not works(str(bound).replace("AKIAI", "AKIAJ"))
    TinkBackend.confirm_rewrap(bound)
    with pytest.raises(KeyURIError, match="cannot be bound"):
        TinkBackend.rewrap_key(bound, label="AKIAOTHEROTHEROTHER0")


def test_keeps_format_mode_and_key_id(tmp_path: Path) -> None:
    uri = import_into(
        f"tink:file={tmp_path}/keyset.bin;kek=insecure-local-kms://{tmp_path}/old.json?format=binary", EXAMPLE_KEY
    )
    (tmp_path / "keyset.bin").chmod(0o640)
    rewrapped = TinkBackend.rewrap_key(KeyURI.parse(uri), new_kek(tmp_path))
    assert (tmp_path / "keyset.bin").stat().st_mode & 0o777 == 0o640
    assert not (tmp_path / "keyset.bin").read_bytes().startswith(b"{")
    with pytest.warns(match="others can read"):
        assert works(rewrapped)


def test_through_a_link(uri: str, tmp_path: Path) -> None:
    """What a link points to is rewrapped; the link stays."""
    link = tmp_path / "links" / "k.json"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "keyset.json")
    rewrapped = TinkBackend.rewrap_key(KeyURI.parse(uri.replace("/keyset.json", "/links/k.json")), new_kek(tmp_path))
    assert link.is_symlink()
    assert works(rewrapped)
    assert (tmp_path / "keyset.json.before-rewrap").exists()
    import_into(str(rewrapped), EXAMPLE_KEY, overwrite=True)
    assert link.is_symlink()
    TinkBackend.confirm_rewrap(rewrapped)
    assert [p.name for p in link.parent.iterdir()] == ["k.json"]


def test_nothing_to_move_to(uri: str) -> None:
    with pytest.raises(KeyURIError, match="--kek"):
        TinkBackend.rewrap_key(KeyURI.parse(uri))


def test_a_new_kek_that_gives_back_another_key(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is made by a computation, so that it finds what a comparison of texts would not."""
    content = (tmp_path / "keyset.json").read_bytes()
    import_into(f"tink:file={tmp_path}/other.json;kek={new_kek(tmp_path)}", b"another key, also of use")
    other = TinkBackend.from_uri(KeyURI.parse(f"tink:file={tmp_path}/other.json;kek={new_kek(tmp_path)}"))
    monkeypatch.setattr(
        TinkBackend, "hmac_sha256", lambda self, message, original=TinkBackend.hmac_sha256: original(other, message)
    )
    with pytest.raises(KeyMismatchError, match="nothing was changed"):
        TinkBackend.rewrap_key(KeyURI.parse(uri), new_kek(tmp_path))
    monkeypatch.undo()
    assert (tmp_path / "keyset.json").read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keyset.json", "new.json", "old.json", "other.json"]


def test_a_file_that_changes_meanwhile(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keyset.json"
    original = LocalKek.encrypt

    def encrypt(self: LocalKek, plaintext: bytes, associated_data: bytes) -> bytes:
        file.write_bytes(file.read_bytes() + b"\n")
        return original(self, plaintext, associated_data)

    monkeypatch.setattr(LocalKek, "encrypt", encrypt)
    with pytest.raises(DeviceBusyError, match="changed meanwhile"):
        TinkBackend.rewrap_key(KeyURI.parse(uri), new_kek(tmp_path))
    assert works(uri)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keyset.json", "new.json", "old.json"]


def test_two_at_once(uri: str, tmp_path: Path) -> None:
    from aws_hmac_backends.tink.files import lock_folder

    with lock_folder(tmp_path, "x"), pytest.raises(DeviceBusyError, match="another rewrap"):
        TinkBackend.rewrap_key(KeyURI.parse(uri), new_kek(tmp_path))
    assert works(uri)


def test_confirm_wants_the_same_key(uri: str, tmp_path: Path) -> None:
    rewrapped = TinkBackend.rewrap_key(KeyURI.parse(uri), new_kek(tmp_path))
    import_into(str(rewrapped), b"another key, also of use", overwrite=True)
    with pytest.raises(KeyMismatchError, match="another key"):
        TinkBackend.confirm_rewrap(
            KeyURI(rewrapped.scheme, {**rewrapped.path}, {"planned-kek": KeyURI.parse(uri).path["kek"]})
        )
    assert works(uri.replace("keyset.json", "keyset.json.before-rewrap"))


KILLED_AT = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
from aws_hmac.uri import KeyURI
from aws_hmac_backends.tink import TinkBackend
import aws_hmac_backends.tink.rewrap, botocore.session, botocore.endpoint
folder, step, uri, kek = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
seen = []

def hook(event, arguments):
    "Each touch of the folder's files, and each connection to a KMS."
    mine = event == "socket.connect" or any(isinstance(a, (str, os.PathLike)) and os.fspath(a).startswith(folder)
        for a in arguments)
    if mine and event.split(".")[0] in ("open", "os", "socket"):
        seen.append(event)
        if len(seen) == step:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
print(TinkBackend.rewrap_key(KeyURI.parse(uri), kek))
"""


def rewrap_killed_at(step: int, folder: Path, uri: str, kek: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(folder), str(step), uri, kek], capture_output=True, text=True, check=False
    )


def test_killed_at_each_step(tmp_path: Path) -> None:
    """Before each touch of a file: one keyset works where the URI says, and a second run ends well."""
    states = []
    for step in range(1, 100):
        folder = tmp_path / str(step)
        folder.mkdir()
        uri = import_into(f"tink:file={folder}/keyset.json;kek=insecure-local-kms://{folder}/old.json", EXAMPLE_KEY)
        done = rewrap_killed_at(step, folder, uri, new_kek(folder))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        rewrapped = uri.replace("old.json", "new.json")
        old, new = works(uri), works(rewrapped)
        assert old != new, f"step {step}"
        if new:
            assert works(uri.replace("keyset.json", "keyset.json.before-rewrap"))
        states.append("new" if new else "old")
        assert str(TinkBackend.rewrap_key(KeyURI.parse(uri), new_kek(folder))) == rewrapped
        assert works(rewrapped)
        assert not list(folder.glob(".keyset.json.*.new"))
        TinkBackend.confirm_rewrap(KeyURI.parse(rewrapped))
        assert works(rewrapped)
    else:
        pytest.fail("it never ended")
    # It was killed on both sides of the one step that counts.
    assert states.count("old") > 10
    assert states.count("new") >= 1
    assert states == sorted(states, reverse=True)


def test_killed_with_aws_kms(moto_kms: MotoServer, tmp_path: Path) -> None:
    kms = moto_kms.client("kms", region="eu-west-1")
    old, new = (f"aws-kms://{kms.create_key()['KeyMetadata']['Arn']}" for _ in range(2))
    killed = 0
    for step in (3, 6, 9, 12, 15, 18, 99):
        folder = tmp_path / str(step)
        folder.mkdir()
        uri = import_into(f"tink:file={folder}/keyset.json;kek={old}", EXAMPLE_KEY, label="AKIAIOSFODNN7EXAMPLE")
        killed += rewrap_killed_at(step, folder, uri, new).returncode == -signal.SIGKILL
        rewrapped = uri.replace(old, new)
        assert works(uri) != works(rewrapped)
        assert str(TinkBackend.rewrap_key(KeyURI.parse(uri), new)) == rewrapped
        findings = TinkBackend.confirm_rewrap(KeyURI.parse(rewrapped))
        assert f"needs {old} no more" in findings[-1].text
        assert f"aws kms disable-key --key-id {old.removeprefix('aws-kms://')}" in findings[-1].mend
        assert works(rewrapped)
    assert killed >= 4
