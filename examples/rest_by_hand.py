"""Signs requests to S3 by hand and sends them with urllib3: an upload in signed chunks, a download, a deletion.

    python examples/rest_by_hand.py KEY_URI ACCESS_KEY_ID BUCKET_URL REGION FILE
    python examples/rest_by_hand.py 'pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin' \
        AKIAIOSFODNN7EXAMPLE https://examplebucket.s3.eu-west-1.amazonaws.com eu-west-1 photo.jpg

The IAM user needs on the bucket's objects:

    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
      "Action": ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"], "Resource": "arn:aws:s3:::examplebucket/*"}]}
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from urllib.parse import quote

import urllib3

import aws_hmac


def main(key: str, access_key_id: str, bucket_url: str, region: str, file: str) -> int:
    url = f"{bucket_url}/{quote(Path(file).name)}"
    with aws_hmac.open_backend(key) as backend, urllib3.PoolManager(retries=False) as pool:
        signer = aws_hmac.Signer(access_key_id, backend)

        # What is sent: every header that sign() returns, and the URL that was signed.
        with Path(file).open("rb") as body:
            headers, chunks = signer.sign_stream("PUT", url, region=region, body=body)
            answer = pool.request("PUT", url, headers=headers, body=chunks)
        print("PUT", answer.status)
        if answer.status != 200:
            print(answer.data.decode(errors="replace"), file=sys.stderr)
            return 1

        headers = signer.sign("GET", url, service="s3", region=region, headers={"Accept": "*/*"})
        answer = pool.request("GET", url, headers=headers, preload_content=False)
        digest = hashlib.sha256()
        for chunk in answer.stream(1 << 16):
            digest.update(chunk)
        print("GET", answer.status, digest.hexdigest())

        headers = signer.sign("DELETE", url, service="s3", region=region)
        print("DELETE", pool.request("DELETE", url, headers=headers).status)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
