"""Calls an API many times at once with httpx; the device is asked once for all of them.

    python examples/httpx_async.py KEY_URI ACCESS_KEY_ID URL SERVICE REGION

The IAM user needs what the API asks for, as execute-api:Invoke on arn:aws:execute-api:eu-west-1:*:abc123/prod/*.
"""

from __future__ import annotations

import asyncio
import sys

import httpx

import aws_hmac


async def main(key: str, access_key_id: str, url: str, service: str, region: str) -> int:
    with aws_hmac.open_backend(key) as backend:
        signer = aws_hmac.Signer(access_key_id, backend)
        auth = aws_hmac.httpx.Auth(signer, service=service, region=region)
        async with httpx.AsyncClient(auth=auth, timeout=30) as client:
            answers = await asyncio.gather(*(client.get(url, params={"page": page}) for page in range(20)))
    print([answer.status_code for answer in answers])
    return 0 if all(answer.is_success for answer in answers) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
