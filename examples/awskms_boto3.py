"""boto3 for an S3-compatible store that has no STS: each request is signed by a key in AWS KMS.

    python examples/awskms_boto3.py KEY_URI ACCESS_KEY_ID ENDPOINT_URL
    python examples/awskms_boto3.py 'awskms:key-id=arn:aws:kms:eu-west-1:111122223333:key/…?profile=kms' \
        STOREACCESSKEYID https://objects.example.com

Whoever runs it needs kms:GenerateMac on that KMS key, as ``aws-hmac key policy KEY_URI`` prints it. KMS is asked once a
day and fingerprint, and not for each request.
"""

from __future__ import annotations

import sys

import aws_hmac


def main(key: str, access_key_id: str, endpoint_url: str) -> None:
    with aws_hmac.open_backend(key) as backend:
        signer = aws_hmac.Signer(access_key_id, backend)
        session = aws_hmac.Session(signer=signer, mode="direct", region_name="us-east-1")
        store = session.client("s3", endpoint_url=endpoint_url)
        for bucket in store.list_buckets()["Buckets"]:
            print(bucket["Name"])


if __name__ == "__main__":
    main(*sys.argv[1:])
