"""How long ``aws-hmac credential-process`` takes, cached and cold, beside Python itself and boto3.

Whole processes, in turns, medians. Cold is one AssumeRole against an STS on loopback, over http and over verified
TLS; boto3 makes the same call with a secret in its environment.
"""

from __future__ import annotations

import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import ScriptedSts

ROUNDS = 31
ROLE = "arn:aws:iam::111122223333:role/deploy"
COMMAND = str(Path(sys.executable).parent / "aws-hmac")
BOTO3 = (
    "import boto3, json, sys; c = boto3.client('sts', region_name='eu-west-1', endpoint_url=sys.argv[1]).assume_role("
    f"RoleArn='{ROLE}', RoleSessionName='bench')['Credentials'];"
    " json.dump({'Version': 1, **{k: str(v) for k, v in c.items()}}, sys.stdout)"
)


def main() -> bool:
    """Measures and prints a table; true if a goal was missed."""
    with tempfile.TemporaryDirectory() as folder:
        plain, secure = ScriptedSts(), ScriptedSts()
        bundle = _with_tls(secure, Path(folder))
        try:
            medians = _measure(Path(folder), plain.url, secure.url, bundle)
        finally:
            plain.stop()
            secure.stop()
    floor = medians["python -c pass"]
    print(f"credential-process, median of {ROUNDS} in turns, ms (Python {sys.version.split()[0]})")
    for name, value in medians.items():
        print(f"  {name:42} {value:7.1f}  {value / floor:5.1f} × python -c pass")
    cached = medians["aws-hmac, session cached"] / floor
    print(f"  cached: {cached:.2f} × python -c pass (goal ≤ 3.0)")
    missed = cached > 3.0
    for scheme in ("http", "https"):
        cold = medians[f"aws-hmac, cold, one call over {scheme}"] / medians[f"boto3 assume_role over {scheme}"]
        print(f"  cold over {scheme}: {cold:.2f} × boto3 (goal ≤ 0.33)")
        missed |= cold > 1 / 3
    return missed


def _measure(folder: Path, plain: str, secure: str, bundle: str) -> dict[str, float]:
    # As an installed program: without PYTHONDONTWRITEBYTECODE, which would compile an editable install each time.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "COV", "PYTHON"))}
    environment |= {
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CA_BUNDLE": bundle,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    (folder / "run").mkdir(mode=0o700)
    (folder / "config").write_text(
        "".join(
            f"[profile {name}]\nregion = eu-west-1\naws_hmac =\n  key = memory:env=AWS_SECRET_ACCESS_KEY\n"
            f"  access_key_id = AKIAIOSFODNN7EXAMPLE\n  role_arn = {ROLE}\n  endpoint_url = {url}\n"
            f"  role_session_name = {name}\n"
            for name, url in (("cached", plain), ("http", plain), ("https", secure))
        )
    )
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "aws-hmac, session cached": [COMMAND, "credential-process", "--profile", "cached"],
        "aws-hmac, cold, one call over http": [COMMAND, "credential-process", "--profile", "http"],
        "boto3 assume_role over http": [sys.executable, "-c", BOTO3, plain],
        "aws-hmac, cold, one call over https": [COMMAND, "credential-process", "--profile", "https"],
        "boto3 assume_role over https": [sys.executable, "-c", BOTO3, secure],
    }
    time.sleep(2.1)  # a configuration file must be that old to be indexed
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(ROUNDS + 2):
        for name, command in commands.items():
            home = environment | {"XDG_RUNTIME_DIR": str(folder / "run")}
            if "cold" in name:  # a cache that is empty each time
                home["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(dir=folder)
            start = time.perf_counter()
            subprocess.run(command, env=home, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
            if turn >= 2:  # the first ones fill caches
                taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in taken.items()}


def _with_tls(server: ScriptedSts, folder: Path) -> str:
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server.use_tls(context)
    return str(folder / "ca.pem")


if __name__ == "__main__":
    main()
