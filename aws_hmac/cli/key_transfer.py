"""Wrap a key, on a machine you trust, for a device on another machine, where it is never in clear.

  1. on the target:   aws-hmac key transfer target KEY_URI > offer.json
     It shows the name of the device's key. Tell it to the sender by another way than the file takes.
  2. on the sender:   aws-hmac key transfer wrap offer.json --expect-name NAME --csv accessKeys.csv > wrapped.json
     The sender needs no device. It refuses an offer whose key has another name.
  3. on the target:   aws-hmac key transfer import KEY_URI wrapped.json

Both files may pass over any wire. Devices that can: tpm2 (TPM2_Import), pkcs11 (RSA-OAEP and AES-KWP, unwrapped in
the token).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import argparse

    from aws_hmac.backend import KeyTransfer

FORMAT = 1
"""Version of both files."""

MAX_SIZE = 256 * 1024
"""Bytes that either file may have at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments: a step each."""
    from aws_hmac.cli.key_import import add_secret_arguments

    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    target = steps.add_parser("target", help="on the target: print an offer, and the name to compare")
    target.add_argument("uri", metavar="KEY_URI", help="where the key will go, with its policy (auth-source, pcrs)")
    wrap = steps.add_parser("wrap", help="on the sender: wrap the key to an offer")
    wrap.add_argument("offer", metavar="OFFER", type=Path, help="the offer's file")
    wrap.add_argument("--expect-name", metavar="NAME", required=True, help="the name that the target showed")
    wrap.add_argument("--auth-source", metavar="SOURCE", help="the key's password, where the offer asks for one")
    add_secret_arguments(wrap)
    take = steps.add_parser("import", help="on the target: take the wrapped key in")
    take.add_argument("uri", metavar="KEY_URI", help="where the key goes, as for the offer")
    take.add_argument("wrapped", metavar="WRAPPED", type=Path, help="the wrapped key's file")
    take.add_argument("--overwrite", action="store_true", help="replace the key that is there")
    take.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Runs one step."""
    {"target": _target, "wrap": _wrap, "import": _import}[args.step](args)


def _target(args: argparse.Namespace) -> None:
    from aws_hmac.cli import output
    from aws_hmac.uri import KeyURI

    uri = KeyURI.parse(args.uri)
    offer = _backend(uri.scheme).transfer_offer(uri)
    output.print_json({"aws-hmac key transfer": FORMAT, "what": "offer", "scheme": uri.scheme, **offer})
    _say(f"name of the device's key: {offer['name']}")
    _say(f"the key will be {offer['policy']}")
    _say("tell the sender this name by another way than the offer takes")


def _wrap(args: argparse.Namespace) -> None:
    from aws_hmac.backend import fingerprint_of
    from aws_hmac.cli import output
    from aws_hmac.cli.key_import import read_access_key
    from aws_hmac.keys import check_secret
    from aws_hmac.sources import read_source

    offer = _read(args.offer, "offer")
    scheme = str(offer.pop("scheme", ""))
    backend = _backend(scheme)
    texts = {str(k): v for k, v in offer.items() if isinstance(v, str)}
    password = None if args.auth_source is None else read_source(args.auth_source, "--auth-source")
    # Nobody should type a secret for an offer that is refused.
    backend.transfer_wrap(texts, b"aws-hmac rehearsal", expect_name=args.expect_name, password=password)
    access_key = read_access_key(args)
    key = b"AWS4" + check_secret(access_key.secret_access_key, access_key.access_key_id)
    wrapped = backend.transfer_wrap(texts, key, expect_name=args.expect_name, password=password)
    found = {
        "aws-hmac key transfer": FORMAT,
        "what": "wrapped key",
        "scheme": scheme,
        "access_key_id": access_key.access_key_id,
        "fingerprint": fingerprint_of(key).hex(),
        "wrapped": wrapped,
    }
    output.print_json(found)
    _say(f"the key is wrapped for {texts['name']} alone; there it will be {texts.get('policy', '')}")
    if access_key.plaintext is not None:
        _say(f"remove the plaintext: {access_key.plaintext}")


def _import(args: argparse.Namespace) -> None:
    from aws_hmac.backend import HmacBackend, KeyDeleter, fingerprint
    from aws_hmac.cli import output
    from aws_hmac.errors import ConfigError, KeyMismatchError
    from aws_hmac.registry import backend_class, open_backend
    from aws_hmac.uri import KeyURI

    uri = KeyURI.parse(args.uri)
    backend = _backend(uri.scheme)
    file = _read(args.wrapped, "wrapped key")
    if file.get("scheme") != uri.scheme:
        raise ConfigError(f"{args.wrapped}: is for {file.get('scheme')}: keys, not for {uri.scheme}:")
    wrapped, expected, label = file.get("wrapped"), file.get("fingerprint"), file.get("access_key_id")
    if not isinstance(wrapped, str) or not isinstance(expected, str) or not isinstance(label, (str, type(None))):
        raise ConfigError(f"{args.wrapped}: is damaged")
    named = backend.transfer_receive(uri, wrapped, overwrite=args.overwrite, label=label)
    opened: HmacBackend
    with open_backend(named) as opened:
        found = fingerprint(opened).hex()
    if found != expected:
        loaded = backend_class(uri.scheme)
        if issubclass(loaded, KeyDeleter):
            cast("type[KeyDeleter]", loaded).delete_key(named)
        raise KeyMismatchError(f"{named.identity}: computes with another key than the sender wrapped; removed")
    if args.json:
        output.print_json({"uri": str(named), "access_key_id": label, "fingerprint": found})
        return
    print("The key is in the device, and computes as the sender's does. Its URI from now on:\n")
    print(f"  {output.clean(str(named))}\n")
    print(f"access key id: {output.clean(label or 'not said')}\nfingerprint:   {found}")


def _backend(scheme: str) -> type[KeyTransfer]:
    from aws_hmac import backend
    from aws_hmac.errors import UnsupportedError
    from aws_hmac.registry import backend_class

    found = backend_class(scheme)
    if not issubclass(found, backend.KeyTransfer):
        raise UnsupportedError(
            f"{scheme}: this kind of device takes no key that was wrapped elsewhere; use aws-hmac key import"
        )
    return cast("type[KeyTransfer]", found)


def _read(path: Path, what: str) -> dict[str, Any]:
    from aws_hmac.errors import ConfigError

    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
        found = json.loads(data) if len(data) <= MAX_SIZE else None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path}: is no {what} of aws-hmac key transfer: it is not JSON") from exc
    if not isinstance(found, dict) or found.get("what") != what:
        raise ConfigError(f"{path}: is no {what} of aws-hmac key transfer")
    if found.get("aws-hmac key transfer") != FORMAT:
        raise ConfigError(f"{path}: was written by another version of aws-hmac, whose files this one cannot read")
    return found


def _say(text: str) -> None:
    from aws_hmac.cli import output

    print(f"aws-hmac: {output.clean(text)}", file=sys.stderr)  # an offer comes from elsewhere
