"""A file system of 64 KiB that is full, mounted in a namespace of the test's own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aws_hmac._softhsm import SCRIPT
from aws_hmac.testing import require_device

FOLDER = Path(sys.executable).parent
ID = "AKIAIOSFODNN7EXAMPLE"


def on_a_small_disk(folder: Path, script: str) -> str:
    """Runs a script in a folder where 64 KiB fit; ``fill`` and ``free`` are commands of it."""
    prelude = f"""
set -eu
PATH={FOLDER}:$PATH
mount -t tmpfs -o size=64k none {folder}
cd {folder}
fill() {{ dd if=/dev/zero of=fill bs=4k 2>/dev/null || true; }}
free() {{ rm fill; }}
"""
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", prelude + script]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_configure(tmp_path: Path) -> None:
    words = f"configure --profile prod --key memory:env=X --access-key-id {ID}"
    out = on_a_small_disk(
        tmp_path,
        f"""
export AWS_CONFIG_FILE=$PWD/config
echo '[default]' >config
fill
aws-hmac {words} 2>&1 && exit 1
cat config
ls -A | grep -v '^fill$'
free
aws-hmac {words} >/dev/null
grep -c aws_hmac config
""",
    )
    assert out == (
        f"aws-hmac: {tmp_path}/config: cannot be written: No space left on device; nothing was changed\n"
        "[default]\nconfig\n1\n"
    )


def test_key_import(tmp_path: Path) -> None:
    """Nothing half-made is left on the token: no key is listed, and the next import succeeds."""
    if shutil.which("softhsm2-util") is None:
        require_device("pkcs11", "SoftHSM is not installed")
    out = on_a_small_disk(
        tmp_path,
        f"""
eval "$({SCRIPT} $PWD/token aws)"
where="module-path=$SOFTHSM2_MODULE&pin-source=file:$SOFTHSM2_PIN_FILE"
key="pkcs11:token=aws;object=prod?$where"
fill
printf secret | aws-hmac key import "$key" 2>&1 && exit 1
aws-hmac key list "pkcs11:token=aws?$where"
free
aws-hmac key list "pkcs11:token=aws?$where"
printf secret | aws-hmac key import "$key" >/dev/null
aws-hmac key check "$key" | grep -c fingerprint
""",
    )
    error, *rest = out.splitlines()
    assert error.startswith("aws-hmac: pkcs11:token=aws;object=prod: ")
    assert rest == ["pkcs11:token=aws fits no key", "pkcs11:token=aws fits no key", "1"]
