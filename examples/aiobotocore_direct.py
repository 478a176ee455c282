"""aiobotocore signed by the device: twenty uploads at once, and the event loop never waits for the device.

    python examples/aiobotocore_direct.py KEY_URI ACCESS_KEY_ID BUCKET

AWS_ENDPOINT_URL may name another S3. The IAM user needs s3:PutObject on arn:aws:s3:::BUCKET/*, and no role:

    {"Version": "2012-10-17", "Statement": [
      {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::BUCKET/*"}]}
"""

from __future__ import annotations

import asyncio
import sys

import aws_hmac


async def upload(key: aws_hmac.HmacBackend, access_key_id: str, bucket: str) -> None:
    signer = aws_hmac.Signer(access_key_id, key)
    session = aws_hmac.aiobotocore.get_session(signer=signer, mode="direct", region_name="us-east-1")
    async with session.create_client("s3") as s3:
        await asyncio.gather(*(s3.put_object(Bucket=bucket, Key=f"note-{n}", Body=b"text") for n in range(20)))
    print("20 objects")


def main(key_uri: str, access_key_id: str, bucket: str) -> None:
    with aws_hmac.open_backend(key_uri) as key:
        asyncio.run(upload(key, access_key_id, bucket))


if __name__ == "__main__":
    main(*sys.argv[1:])
