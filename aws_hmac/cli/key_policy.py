"""Print the least policy that a signer or an importer needs, in the language of the key's service.

Asks nobody: the key need not exist yet. Give the text to whoever administers Vault, OpenBao or AWS:

  aws-hmac key policy 'vault:key=aws-prod' | vault policy write aws-prod-signer -
  aws-hmac key policy 'vault:key=aws-prod' --role importer | vault policy write aws-prod-importer -
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import argparse

    from aws_hmac.backend import PolicyPrinter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("uri", metavar="KEY_URI", help="which key, as in vault:key=aws-prod")
    parser.add_argument(
        "--role",
        choices=("signer", "importer"),
        default="signer",
        help="signer asks for HMACs and looks at the key; importer puts it in and rotates it (default: signer)",
    )


def run(args: argparse.Namespace) -> None:
    """Prints the policy."""
    from aws_hmac import backend
    from aws_hmac.errors import UnsupportedError
    from aws_hmac.registry import backend_class
    from aws_hmac.uri import KeyURI

    uri = KeyURI.parse(args.uri)
    found = backend_class(uri.scheme)
    if not issubclass(found, backend.PolicyPrinter):
        raise UnsupportedError(
            f"{uri.scheme}: no policy language guards these keys; the backend's page tells what access a signer needs"
        )
    print(cast("type[PolicyPrinter]", found).policy(uri, args.role).rstrip("\n"))
