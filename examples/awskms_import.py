"""Imports a secret access key into AWS KMS as an HMAC key, and prints the key URI to sign with.

    python examples/awskms_import.py ALIAS REGION SIGNER_ARN ACCESS_KEY_ID < secret
    python examples/awskms_import.py aws-hmac/store eu-west-1 arn:aws:iam::111122223333:role/web AKIAIOSFODNN7EXAMPLE

The secret is wrapped here for KMS's HSMs. The importer's IAM policy; the key policy that is made with the key allows
the rest, to the importer and to the signer alone::

    {"Version": "2012-10-17",
     "Statement": [{"Effect": "Allow", "Action": ["kms:CreateKey", "kms:CreateAlias"], "Resource": "*"}]}
"""

from __future__ import annotations

import sys

import aws_hmac


def main(alias: str, region: str, signer_arn: str, access_key_id: str) -> None:
    key = aws_hmac.import_key(
        f"awskms:alias={alias}?region={region}&signer={signer_arn}",
        sys.stdin.readline().rstrip("\n"),
        access_key_id=access_key_id,
    )
    print(key)


if __name__ == "__main__":
    main(*sys.argv[1:])
