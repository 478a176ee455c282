"""An S3-compatible store that has no STS: Cloudflare R2, Backblaze B2, Hetzner, MinIO, Ceph, rclone.

    python examples/s3_compatible.py KEY_URI ACCESS_KEY_ID ENDPOINT_URL REGION BUCKET

REGION is what the store calls it (docs/s3-compatible.md): "auto" for R2, "us-west-004" for B2, "us-east-1" for MinIO.
The store's key needs reading and writing of one bucket; IAM and roles are AWS's and not needed here.
"""

from __future__ import annotations

import sys

from botocore.config import Config

import aws_hmac


def main(key_uri: str, access_key_id: str, endpoint_url: str, region: str, bucket: str) -> None:
    with aws_hmac.open_backend(key_uri) as key:
        signer = aws_hmac.Signer(access_key_id, key)
        session = aws_hmac.Session(signer=signer, mode="direct", region_name=region)
        config = Config(
            s3={"addressing_style": "path"},  # the bucket in the path: no DNS name per bucket is needed
            request_checksum_calculation="when_required",  # older stores refuse the newer checksums
            response_checksum_validation="when_required",
        )
        s3 = session.client("s3", endpoint_url=endpoint_url, config=config)
        s3.put_object(Bucket=bucket, Key="hello.txt", Body=b"signed by the device")
        print(s3.get_object(Bucket=bucket, Key="hello.txt")["Body"].read().decode())
        for found in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket).search("Contents[].Key"):
            print(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
