"""Signs a REST call with a key on a PKCS#11 token, and sends it with the standard library.

    python examples/pkcs11_sign.py KEY_URI ACCESS_KEY_ID URL SERVICE REGION
    python examples/pkcs11_sign.py 'pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin' \
        AKIAIOSFODNN7EXAMPLE https://s3.eu-west-1.amazonaws.com/ s3 eu-west-1

The token: an import (aws-hmac key import) needs the user's PIN and a token that can be written; signing needs the PIN.
The IAM user's policy, for this call (ListBuckets)::

    {"Version": "2012-10-17",
     "Statement": [{"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"}]}
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

import aws_hmac


def main(key: str, access_key_id: str, url: str, service: str, region: str) -> int:
    with aws_hmac.open_backend(key) as backend:
        signer = aws_hmac.Signer(access_key_id, backend)
        headers = signer.sign("GET", url, service=service, region=region)
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the caller names the service
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            print(answer.status, answer.read().decode())
    except urllib.error.HTTPError as exc:
        with exc:
            print(exc.code, exc.read().decode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
