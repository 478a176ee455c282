"""Signs a REST call with the key in this machine's TPM, and sends it with the standard library.

    python examples/tpm2_sign.py KEY_URI ACCESS_KEY_ID URL SERVICE REGION
    python examples/tpm2_sign.py 'tpm2:file=/etc/aws-hmac/prod.pem?auth-source=file:/run/credentials/tpm-auth' \
        AKIAIOSFODNN7EXAMPLE 'https://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15' sts us-east-1

This user must be able to open /dev/tpmrm0 (group tss). The IAM user needs no policy for this call
(GetCallerIdentity); to list buckets (URL https://s3.eu-west-1.amazonaws.com/, service s3)::

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
