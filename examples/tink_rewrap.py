"""Moves a keyset to a new KMS key while a signer goes on signing, and confirms the move.

    python examples/tink_rewrap.py KEY_URI NEW_KEK
    python examples/tink_rewrap.py 'tink:file=/etc/aws-hmac/prod.json;kek=aws-kms://arn:…OLD;associated-data=AKIA…' \
        aws-kms://arn:…NEW

Needs kms:Decrypt on the old key and kms:Encrypt and kms:Decrypt on the new one. ``aws-hmac key rewrap`` does the same.
"""

from __future__ import annotations

import sys

import aws_hmac
from aws_hmac.backend import fingerprint
from aws_hmac_backends.tink import TinkBackend


def main(key: str, new_kek: str) -> None:
    uri = aws_hmac.KeyURI.parse(key)
    # A signer whose URI plans the new key takes the keyset under either: it misses no call.
    planned = aws_hmac.KeyURI(uri.scheme, uri.path, {**uri.query, "planned-kek": new_kek})
    with aws_hmac.open_backend(planned) as signing:
        before = fingerprint(signing)
        rewrapped = TinkBackend.rewrap_key(planned)
        assert fingerprint(signing) == before
    print("from now on:", rewrapped)
    for finding in TinkBackend.confirm_rewrap(rewrapped):
        print(f"{finding.subject}: {finding.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
