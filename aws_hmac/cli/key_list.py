"""List the HMAC keys that a token, TPM, KMS or Vault mount holds.

A URI with few attributes, or none, fits many keys.

  aws-hmac key list 'pkcs11:token=aws?pin-source=file:/run/secrets/pin'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aws_hmac.errors import UnsupportedError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("uri", metavar="KEY_URI", help="where to look, such as pkcs11:token=aws, or only pkcs11:")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Prints one line for each key."""
    from aws_hmac.backend import KeyLister
    from aws_hmac.cli import output
    from aws_hmac.registry import backend_class
    from aws_hmac.uri import KeyURI

    uri = KeyURI.parse(args.uri)
    backend = backend_class(uri.scheme)
    if not issubclass(backend, KeyLister):
        raise UnsupportedError(f"{uri.scheme}: this kind of key cannot be listed")
    entries = cast("type[KeyLister]", backend).list_keys(uri)
    if args.json:
        output.print_json([entry._asdict() for entry in entries])
    elif entries:
        output.print_table(["KEY URI", "DESCRIPTION"], entries)
    else:
        print(f"{output.clean(uri.identity)} fits no key")
