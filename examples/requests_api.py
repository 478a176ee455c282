"""Calls an API with the library requests; every request is signed by the device.

    python examples/requests_api.py KEY_URI ACCESS_KEY_ID URL SERVICE REGION
    python examples/requests_api.py 'pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin' \
        AKIAIOSFODNN7EXAMPLE https://abc123.execute-api.eu-west-1.amazonaws.com/prod/items execute-api eu-west-1

The IAM user needs what the API asks for, as execute-api:Invoke on arn:aws:execute-api:eu-west-1:*:abc123/prod/*.
"""

from __future__ import annotations

import sys

import requests

import aws_hmac


def main(key: str, access_key_id: str, url: str, service: str, region: str) -> int:
    with aws_hmac.open_backend(key) as backend, requests.Session() as session:
        signer = aws_hmac.Signer(access_key_id, backend)
        session.auth = aws_hmac.requests.Auth(signer, service=service, region=region)
        answer = session.get(url, timeout=30)
        print(answer.status_code, answer.text)
        answer = session.post(url, json={"name": "value"}, timeout=30)
        print(answer.status_code, answer.text)
        return 0 if answer.ok else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
