"""The secret is in no process that signs with a TPM, nor in one that takes a wrapped key in."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from aws_hmac import KeyURI, import_key
from aws_hmac.cli.memory_scan import forms, scan
from aws_hmac_backends.tpm2 import Tpm2Backend

if TYPE_CHECKING:
    from pathlib import Path

    from aws_hmac._swtpm import Swtpm

pytestmark = [
    pytest.mark.device("tpm2"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows a process's memory"),
]

SECRET = hashlib.sha256(b"the secret of this test").hexdigest()[:40]

SIGN = """
import sys, aws_hmac
backend = aws_hmac.open_backend(sys.argv[1])
print(backend.hmac_sha256(b"20260101").hex(), flush=True)
sys.stdin.read()
"""
RECEIVE = """
import sys, aws_hmac
from aws_hmac_backends.tpm2 import Tpm2Backend
uri = Tpm2Backend.transfer_receive(aws_hmac.KeyURI.parse(sys.argv[1]), open(sys.argv[2]).read())
backend = aws_hmac.open_backend(uri)
print(backend.hmac_sha256(b"20260101").hex(), flush=True)
sys.stdin.read()
"""


def hits(program: str, *arguments: str) -> int:
    """Runs a program that prints kDate and waits; returns how often a form of the secret is in its memory."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        k_date = hmac.digest(b"AWS4" + SECRET.encode(), b"20260101", "sha256").hex()
        assert child.stdout.readline().strip() == k_date
        found = scan(child.pid, forms(SECRET))
        child.communicate("")
    assert found.size > 1_000_000
    return sum(found.hits.values())


@pytest.mark.parametrize("place", ["handle=0x81008001", "file={dir}/key.pem"])
def test_signing(swtpm: Swtpm, tmp_path: Path, place: str) -> None:
    named = import_key(f"tpm2:{place.format(dir=tmp_path)}?tcti={swtpm.tcti}", SECRET)
    assert hits(SIGN, named) == 0


def test_receiving(swtpm: Swtpm, tmp_path: Path) -> None:
    uri = KeyURI.parse(f"tpm2:handle=0x81008001?tcti={swtpm.tcti}&parent=ek-ecc")
    offer = Tpm2Backend.transfer_offer(uri)
    wrapped = Tpm2Backend.transfer_wrap(offer, b"AWS4" + SECRET.encode(), expect_name=offer["name"])
    (tmp_path / "wrapped").write_text(wrapped)
    assert hits(RECEIVE, str(uri), str(tmp_path / "wrapped")) == 0


def test_control(tmp_path: Path) -> None:
    """A process that does hold the secret is found."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    assert hits(SIGN, f"memory:file={file}") > 0
