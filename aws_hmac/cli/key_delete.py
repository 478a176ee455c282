"""Delete a key from a device. It cannot be had back: nobody can read it out first.

aws-hmac key delete 'pkcs11:token=aws;object=old?pin-source=file:/run/secrets/pin'
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from aws_hmac.errors import AmbiguousKeyError, ConfigError, KeyNotFoundError, UnsupportedError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("uri", metavar="KEY_URI", help="the key, such as pkcs11:token=aws;object=old")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Deletes the key once that was confirmed."""
    from aws_hmac.sources import prompted_once

    with prompted_once():
        return _delete(args)


def _delete(args: argparse.Namespace) -> int:
    from aws_hmac.backend import KeyDeleter, KeyLister
    from aws_hmac.cli.output import clean
    from aws_hmac.registry import backend_class
    from aws_hmac.uri import KeyURI

    uri = KeyURI.parse(args.uri)
    backend = backend_class(uri.scheme)
    if not issubclass(backend, KeyDeleter):
        raise UnsupportedError(f"{uri.scheme}: aws-hmac cannot delete this kind of key")
    shown = uri.identity
    if issubclass(backend, KeyLister):
        entries = cast("type[KeyLister]", backend).list_keys(uri)
        if not entries:
            raise KeyNotFoundError(f"{uri.identity}: there is no such key; nothing was deleted")
        if len(entries) > 1:
            which = ", ".join(entry.uri for entry in entries)
            raise AmbiguousKeyError(
                f"{uri.identity}: fits {len(entries)} keys; nothing was deleted; choose one: {which}"
            )
        shown = f"{entries[0].uri} ({entries[0].description})"
    if not args.yes and not _confirmed(clean(shown)):
        print("nothing was deleted")
        return 1
    cast("type[KeyDeleter]", backend).delete_key(uri)
    print(f"deleted: {clean(shown)}")
    return 0


def _confirmed(shown: str) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask on; give --yes to delete without asking")
    print(f"This deletes for good: {shown}", file=sys.stderr)
    try:
        return input("Type yes to go on: ").strip().lower() == "yes"
    except EOFError:
        return False
