"""Move a keyset to another key-encryption key (KEK), without a moment in which it could be lost.

The keyset is unwrapped, wrapped by the new KEK, read back through it and compared; only then the file is
replaced, at once, and the old one kept beside it. Killed at any point, one working keyset is there; run again,
the command goes on. Then write the printed URI where the old one was, see that all signers work, and confirm:

  aws-hmac key rewrap 'tink:file=/etc/aws-hmac/prod.json;kek=aws-kms://OLD…' --kek aws-kms://NEW…
  aws-hmac key rewrap 'tink:file=/etc/aws-hmac/prod.json;kek=aws-kms://NEW…' --confirm

Signers that must not miss a call meanwhile get planned-kek=aws-kms://NEW… into their URI first: they take either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import argparse

    from aws_hmac.backend import KeyRewrapper


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("uri", metavar="KEY_URI", help="the keyset as it is wrapped now; with --confirm, from now on")
    parser.add_argument("--kek", metavar="KEK", help="the new KEK; left out, planned-kek of the URI")
    parser.add_argument("--access-key-id", metavar="ID", help="bind a keyset that is not bound yet to this access key")
    parser.add_argument("--confirm", action="store_true", help="prove the new wrapping once more and delete the old")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Rewraps, or confirms."""
    from aws_hmac import backend
    from aws_hmac.cli import output
    from aws_hmac.errors import ConfigError, UnsupportedError
    from aws_hmac.registry import backend_class
    from aws_hmac.uri import KeyURI

    uri = KeyURI.parse(args.uri)
    found = backend_class(uri.scheme)
    if not issubclass(found, backend.KeyRewrapper):
        raise UnsupportedError(f"{uri.scheme}: these keys are not wrapped by another one that could be exchanged")
    rewrapper = cast("type[KeyRewrapper]", found)
    if args.confirm:
        if args.kek or args.access_key_id:
            raise ConfigError("--confirm takes the URI that the rewrap printed, and neither --kek nor --access-key-id")
        findings = rewrapper.confirm_rewrap(uri)
        if args.json:
            output.print_json({"uri": str(uri), "findings": output.findings_json(findings)})
        else:
            output.print_findings(findings)
        return
    rewrapped = str(rewrapper.rewrap_key(uri, args.kek, label=args.access_key_id))
    confirm = f"aws-hmac key rewrap '{rewrapped}' --confirm"
    if args.json:
        output.print_json({"uri": rewrapped, "confirm": confirm})
        return
    print(f"The keyset is wrapped anew, and proven. Its URI from now on:\n\n  {rewrapped}\n")
    print(f"The old keyset is kept beside it. When everything signs with the new URI, confirm:\n\n  {confirm}")
