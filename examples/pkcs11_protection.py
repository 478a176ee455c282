"""Refuses to start where the key could leave its token: a check for the start of a service, or for CI.

    python examples/pkcs11_protection.py KEY_URI
    python examples/pkcs11_protection.py 'pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin'

Needs the token's user PIN; asks AWS nothing.
"""

from __future__ import annotations

import sys

import aws_hmac
from aws_hmac.backend import KeyInspector


def main(key: str) -> int:
    with aws_hmac.open_backend(key) as backend:
        if not isinstance(backend, KeyInspector):
            print("this device does not tell how it protects its keys")
            return 1
        findings = backend.inspect()
    for finding in findings:
        print(f"{finding.level:8} {finding.subject:24} {finding.text}")
    return 1 if any(finding.level == "bad" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
