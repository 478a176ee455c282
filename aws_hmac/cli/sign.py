r"""Sign a request and print every header to send, one a line.

aws-hmac sign --profile prod https://sts.eu-west-1.amazonaws.com/?Action=GetCallerIdentity\&Version=2011-06-15
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_hmac.cli.output import print_json
from aws_hmac.cli.request_arguments import add_request_arguments, open_signer, read_request

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    add_request_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> None:
    """Prints the headers."""
    with read_request(args) as request, open_signer(args) as signer:
        headers = signer.sign(
            request.method, request.url, service=request.service, region=request.region,
            headers=request.headers, body=request.body, at=request.at,
        )  # fmt: skip
    if args.json:
        print_json(headers)
    else:
        for name, value in headers.items():
            print(f"{name}: {value}")
