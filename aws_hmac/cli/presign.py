"""Print a presigned URL: whoever has it can make this one request until it expires.

aws-hmac presign --profile prod --expires 300 https://bucket.s3.eu-west-1.amazonaws.com/key
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_hmac.cli.request_arguments import add_request_arguments, open_signer, read_request

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    add_request_arguments(parser)
    parser.add_argument(
        "--expires", type=int, default=3600, metavar="SECONDS", help="validity, 1 to 604800; 3600 if left out"
    )


def run(args: argparse.Namespace) -> None:
    """Prints the URL."""
    with read_request(args) as request, open_signer(args) as signer:
        print(
            signer.presign(
                request.method, request.url, service=request.service, region=request.region, expires=args.expires,
                headers=request.headers, body=request.body, at=request.at,
            )
        )  # fmt: skip
