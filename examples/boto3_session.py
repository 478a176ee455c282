"""boto3 with a role's temporary credentials, made by a key that stays in its device.

    python examples/boto3_session.py KEY_URI ACCESS_KEY_ID ROLE_ARN BUCKET

The KEY_URI is as ``pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin``; AWS_REGION names the region.
What AWS must know:

The IAM user whose access key is in the device may do one thing only::

    {"Version": "2012-10-17", "Statement": [
      {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "arn:aws:iam::111122223333:role/deploy"}]}

The role trusts that user::

    {"Version": "2012-10-17", "Statement": [
      {"Effect": "Allow", "Action": "sts:AssumeRole",
       "Principal": {"AWS": "arn:aws:iam::111122223333:user/device"}}]}

and may do the work::

    {"Version": "2012-10-17", "Statement": [
      {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": "arn:aws:s3:::my-bucket/*"}]}
"""

from __future__ import annotations

import os
import sys

import aws_hmac


def main(key_uri: str, access_key_id: str, role_arn: str, bucket: str) -> None:
    with aws_hmac.open_backend(key_uri) as key:
        signer = aws_hmac.Signer(access_key_id, key)
        session = aws_hmac.Session(signer=signer, role_arn=role_arn, region_name=os.environ["AWS_REGION"])

        print("we are", session.client("sts").get_caller_identity()["Arn"])

        s3 = session.client("s3")
        s3.put_object(Bucket=bucket, Key="greeting.txt", Body=b"signed by a role, which a device assumed")
        print("read back:", s3.get_object(Bucket=bucket, Key="greeting.txt")["Body"].read().decode())


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except aws_hmac.Error as exc:
        sys.exit(f"{sys.argv[0]}: {exc}")
