"""A boto3 session that assumes a role with a key on a PKCS#11 token, and lists the buckets.

    python examples/pkcs11_boto3.py KEY_URI ACCESS_KEY_ID ROLE_ARN
    python examples/pkcs11_boto3.py 'pkcs11:token=aws;object=prod?pin-source=prompt' \
        AKIAIOSFODNN7EXAMPLE arn:aws:iam::111122223333:role/lister

The token is asked for one HMAC a day; the credentials are renewed before they expire. The IAM user's policy, who may
do nothing but assume the role::

    {"Version": "2012-10-17",
     "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",
                    "Resource": "arn:aws:iam::111122223333:role/lister"}]}

The role's trust policy, and what it allows::

    {"Version": "2012-10-17",
     "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",
                    "Principal": {"AWS": "arn:aws:iam::111122223333:user/signer"}}]}
    {"Version": "2012-10-17",
     "Statement": [{"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"}]}
"""

from __future__ import annotations

import sys

import aws_hmac


def main(key: str, access_key_id: str, role_arn: str) -> None:
    with aws_hmac.open_backend(key) as backend:
        signer = aws_hmac.Signer(access_key_id, backend)
        session = aws_hmac.Session(signer=signer, role_arn=role_arn)
        for bucket in session.client("s3").list_buckets()["Buckets"]:
            print(bucket["Name"])


if __name__ == "__main__":
    main(*sys.argv[1:])
