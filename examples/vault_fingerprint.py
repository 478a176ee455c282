"""Opens the key that the first argument names and prints its fingerprint, which is no secret.

Two machines that print the same fingerprint sign with the same secret access key::

    python examples/vault_fingerprint.py 'vault:key=aws-prod;version=1?addr=https://vault:8200'
"""

from __future__ import annotations

import sys

import aws_hmac
from aws_hmac.backend import fingerprint


def main() -> None:
    with aws_hmac.open_backend(sys.argv[1]) as key:
        print(key.name, fingerprint(key).hex())


if __name__ == "__main__":
    main()
