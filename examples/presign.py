"""Makes a URL that anyone can use for five minutes, without a key, to fetch or to put one object.

    python examples/presign.py KEY_URI ACCESS_KEY_ID GET|PUT OBJECT_URL REGION
    python examples/presign.py 'tpm2:file=/etc/aws-hmac/prod.pem' AKIAIOSFODNN7EXAMPLE \
        GET https://examplebucket.s3.eu-west-1.amazonaws.com/photo.jpg eu-west-1

The IAM user needs s3:GetObject or s3:PutObject on the object: whoever uses the URL acts as that user. The URL
prints alone, so that ``curl "$(python examples/presign.py …)"`` works; it is as good as a key until it expires.
"""

from __future__ import annotations

import sys

import aws_hmac


def main(key: str, access_key_id: str, method: str, url: str, region: str) -> None:
    with aws_hmac.open_backend(key) as backend:
        signer = aws_hmac.Signer(access_key_id, backend)
        print(signer.presign(method, url, service="s3", region=region, expires=300))


if __name__ == "__main__":
    main(*sys.argv[1:])
