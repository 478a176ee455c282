"""boto3 without STS and without a secret in the process: the device's key signs every request.

    python examples/boto3_direct.py KEY_URI ACCESS_KEY_ID BUCKET FILE

Uploads a file, reads it back and prints a link to it that is valid for 10 minutes. AWS_ENDPOINT_URL may name another
S3. The IAM user needs this policy, and no role:

    {"Version": "2012-10-17", "Statement": [
      {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::BUCKET"},
      {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::BUCKET/*"}]}
"""

from __future__ import annotations

import sys
from pathlib import Path

import aws_hmac


def main(key_uri: str, access_key_id: str, bucket: str, file: str) -> None:
    with aws_hmac.open_backend(key_uri) as key:
        signer = aws_hmac.Signer(access_key_id, key)
        session = aws_hmac.Session(signer=signer, mode="direct", region_name="us-east-1")
        s3 = session.client("s3")
        name = Path(file).name
        s3.upload_file(file, bucket, name)  # in parts, by several threads, if it is large
        size = s3.head_object(Bucket=bucket, Key=name)["ContentLength"]
        print(f"{name}: {size} bytes")
        print(s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": name}, ExpiresIn=600))


if __name__ == "__main__":
    main(*sys.argv[1:])
