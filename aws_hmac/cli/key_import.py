"""Put a secret access key into a device, where it signs and can no longer be read.

The secret comes from a prompt (asked twice, not shown), from standard input when that is no terminal, from
the accessKeys.csv of the IAM console, or from a profile of ~/.aws/credentials. It is never an argument:
every process of the machine can read those.

  aws-hmac key import 'pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin' --csv accessKeys.csv
  pass show aws/prod | aws-hmac key import 'tpm2:handle=0x81008001' --access-key-id AKIAIOSFODNN7EXAMPLE
"""

from __future__ import annotations

import os
import re
import stat
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aws_hmac.errors import ConfigError, KeyExistsError, SecurityWarning, UnsupportedError

if TYPE_CHECKING:
    import argparse

MAX_SIZE = 64 * 1024
"""Bytes that standard input or a CSV file may hold; more is neither."""

CSV_COLUMNS = ("access key id", "secret access key")
"""The columns of the IAM console's accessKeys.csv, in lower case."""

_AWS_ID = re.compile(r"A[A-Z]{3}[A-Z0-9]{16}", re.ASCII)
_AWS_SECRET_LENGTH = 40


class AccessKey(NamedTuple):
    """A secret and where it was.

    Attributes:
        access_key_id: whose secret it is; None where nobody said.
        secret_access_key: the secret.
        plaintext: where it still is, and how that is removed; None where it was typed.
    """

    access_key_id: str | None
    secret_access_key: str
    plaintext: str | None = None

    def __repr__(self) -> str:
        return f"AccessKey({self.access_key_id!r}, …)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("uri", metavar="KEY_URI", help="where the key goes, such as pkcs11:token=aws;object=prod")
    add_secret_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the key that is there")
    parser.add_argument(
        "--sigv4a",
        action="store_true",
        help="import for SigV4A (multi-region): this key knows no date, whoever may use it once can sign for good",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_secret_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say where the secret access key is."""
    parser.add_argument("--access-key-id", metavar="ID", help="whose secret it is; a CSV file or a profile knows it")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--csv", metavar="FILE", type=Path, help="the accessKeys.csv of the IAM console")
    source.add_argument("--from-profile", metavar="NAME", help="a profile of ~/.aws/credentials or ~/.aws/config")


def run(args: argparse.Namespace) -> int:
    """Imports the key and says what to do next."""
    from aws_hmac.backend import KeyImporter, fingerprint_of
    from aws_hmac.keys import import_key
    from aws_hmac.registry import backend_class
    from aws_hmac.uri import KeyURI

    # Nobody should type a secret for a URI that cannot be.
    scheme = KeyURI.parse(args.uri).scheme
    if not issubclass(backend_class(scheme), KeyImporter):
        raise UnsupportedError(f"{scheme}: keys cannot be imported by aws-hmac")
    key = read_access_key(args)
    try:
        uri = import_key(
            args.uri,
            key.secret_access_key,
            overwrite=args.overwrite,
            access_key_id=key.access_key_id,
            sigv4a=args.sigv4a,
        )
    except KeyExistsError as exc:
        raise KeyExistsError(str(exc) if args.overwrite else f"{exc}; --overwrite replaces it") from exc
    # import_key has seen that the device computes with this very key: opening it once more might prompt once more.
    secret = key.secret_access_key.rstrip("\r\n").encode()
    fingerprint = fingerprint_of((b"AWS4A" if args.sigv4a else b"AWS4") + secret).hex()
    if args.json:
        from aws_hmac.cli.output import print_json

        print_json(
            {"uri": uri, "access_key_id": key.access_key_id, "fingerprint": fingerprint, "plaintext": key.plaintext}
        )
    else:
        _tell(uri, key, fingerprint, sigv4a=args.sigv4a)
    return 0


def read_access_key(args: argparse.Namespace) -> AccessKey:
    """Reads the secret from where the arguments of `add_secret_arguments` say: file, profile, prompt or pipe.

    Raises:
        ConfigError: there is none, or it is somebody else's.
    """
    if args.access_key_id is not None and not args.access_key_id.strip():
        raise ConfigError("--access-key-id is empty")
    if args.csv is not None:
        key = from_csv(args.csv, args.access_key_id)
    elif args.from_profile is not None:
        key = from_profile(args.from_profile)
    elif sys.stdin is not None and sys.stdin.isatty():
        key = AccessKey(args.access_key_id, _from_prompt())
    else:
        key = AccessKey(args.access_key_id, _from_standard_input())
    if args.access_key_id not in (None, key.access_key_id):
        raise ConfigError(f"--access-key-id is not that of the secret, which is {key.access_key_id}'s")
    _warn_of_form(key)
    return key


def _tell(uri: str, key: AccessKey, fingerprint: str, *, sigv4a: bool) -> None:
    from shlex import quote

    from rich.text import Text

    from aws_hmac.cli.output import clean, console

    out = console()
    out.print(Text.assemble(("✓", "green"), " the key is in the device, which computes with it as it should"))
    out.print(Text.assemble("  key URI:      ", (clean(uri), "bold")))
    out.print(f"  fingerprint:  {fingerprint}")
    steps = []
    if key.plaintext is not None:
        steps.append(f"remove the plaintext: {key.plaintext}")
    key_id = quote(key.access_key_id) if key.access_key_id is not None else "AKIA…"
    if not sigv4a:
        steps += [
            f"see that AWS accepts it: aws-hmac key check {quote(uri)} --sts --access-key-id {key_id}",
            f"write a profile: aws-hmac configure --profile NAME --key {quote(uri)} --access-key-id {key_id}",
        ]
    if steps:
        out.print("Next:")
    for number, step in enumerate(steps, 1):
        what, _, how = step.partition(": ")
        out.print(Text.assemble(f"  {number}. {what}: ", (clean(how), "cyan")))


def _warn_of_form(key: AccessKey) -> None:
    """Warns where id or secret do not look like AWS's; S3-compatible stores have forms of their own."""
    if key.access_key_id is None:
        return
    if not _AWS_ID.fullmatch(key.access_key_id):
        # Not shown: whoever mixed the two up has put the secret here.
        warnings.warn(
            "the access key id does not have the form of AWS's (AKIA and 16 capitals or digits); right for an"
            " S3-compatible store, for AWS see that id and secret were not mixed up",
            SecurityWarning,
            stacklevel=2,
        )
    elif len(key.secret_access_key.rstrip("\r\n")) not in (0, _AWS_SECRET_LENGTH):
        warnings.warn(
            f"the secret does not have {_AWS_SECRET_LENGTH} characters as AWS's have; see that it was copied whole",
            SecurityWarning,
            stacklevel=2,
        )


def _from_prompt() -> str:
    import getpass

    with warnings.catch_warnings():
        # getpass would warn and then show what is typed.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            first = getpass.getpass("Secret access key: ")
            again = getpass.getpass("Once more: ")
        except getpass.GetPassWarning as exc:
            raise ConfigError("this terminal would show the secret; give it on standard input") from exc
        except EOFError as exc:
            raise ConfigError("the prompt was not answered; nothing was imported") from exc
    if first != again:
        raise ConfigError("the two entries differ; nothing was imported")
    return first


def _from_standard_input() -> str:
    data = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_SIZE + 1)
    if not data:
        raise ConfigError(
            "standard input is empty and no terminal; give the secret there, or by --csv or --from-profile"
        )
    if len(data) > MAX_SIZE:
        raise ConfigError(f"standard input holds more than {MAX_SIZE} bytes: no secret access key")
    if b"secret access key" in data.lower():
        raise ConfigError("standard input is a CSV file, not a secret; give the file by --csv")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        # "from None": the exception holds the secret.
        raise ConfigError("standard input is not ASCII: no secret access key") from None


def from_csv(path: Path, access_key_id: str | None) -> AccessKey:
    """Reads the accessKeys.csv of the IAM console.

    Args:
        path: the file.
        access_key_id: which row, where there are several.

    Raises:
        ConfigError: it cannot be read, is no such file, or holds several keys and none was chosen. Its text
            is never shown: a file without a heading begins with a secret.
    """
    import csv

    text = _read(path)
    rows = list(csv.reader(text.splitlines(), skipinitialspace=True))
    heading = [name.strip().lower() for name in rows[0]] if rows else []
    if [heading.count(name) for name in CSV_COLUMNS] != [1, 1]:
        raise ConfigError(
            f"{path}: the first line does not name the columns 'Access key ID' and 'Secret access key', as the"
            " accessKeys.csv of the IAM console does"
        )
    id_column, secret_column = map(heading.index, CSV_COLUMNS)
    found = {}
    for number, row in enumerate(rows[1:], 2):
        if not any(map(str.strip, row)):
            continue
        if len(row) != len(heading):
            raise ConfigError(f"{path}: line {number} has {len(row)} columns, the heading {len(heading)}")
        found[row[id_column].strip()] = row[secret_column].strip()
    if access_key_id is None and len(found) == 1:
        (access_key_id,) = found
    if not found:
        raise ConfigError(f"{path}: holds a heading and no key")
    if access_key_id is None:
        raise ConfigError(f"{path}: holds {len(found)} keys ({', '.join(found)}); choose one by --access-key-id")
    if access_key_id not in found:
        raise ConfigError(f"{path}: holds no key {access_key_id}, but {', '.join(found)}")
    remove = "shred -u" if sys.platform == "linux" else "rm"
    from shlex import quote

    return AccessKey(access_key_id, found[access_key_id], f"{remove} {quote(str(path))}")


def from_profile(name: str) -> AccessKey:
    """Reads the access key of an AWS profile, as SDKs do: the credentials file first.

    Raises:
        ConfigError: there is no such profile, or it holds no long-lived key.
    """
    from aws_hmac.cli.aws_files import credentials_path, sections
    from aws_hmac.profile import config_path

    seen = False
    for path, is_config in ((credentials_path(), False), (Path(config_path()), True)):
        section = sections(path, config=is_config).get(name)
        if section is None:
            continue
        seen = True
        key_id, secret = section.get("aws_access_key_id"), section.get("aws_secret_access_key")
        if not key_id and not secret:
            continue
        if not key_id or not secret:
            raise ConfigError(f"{path}: profile {name!r} holds an access key id or a secret without the other")
        if section.get("aws_session_token") or section.get("aws_security_token"):
            raise ConfigError(
                f"{path}: profile {name!r} holds temporary credentials (aws_session_token), which expire within"
                " hours; import the long-lived key of an IAM user"
            )
        return AccessKey(key_id, secret, f"delete aws_access_key_id and aws_secret_access_key of {name!r} in {path}")
    if not seen:
        raise ConfigError(f"neither {credentials_path()} nor {config_path()} has a profile {name!r}")
    raise ConfigError(f"profile {name!r} holds no aws_access_key_id and aws_secret_access_key")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            data = file.read(MAX_SIZE + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    if os.name == "posix" and info.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        warnings.warn(
            f"others on this machine can read {path}: who knows who did; consider a new access key",
            SecurityWarning,
            stacklevel=3,
        )
    if len(data) > MAX_SIZE:
        raise ConfigError(f"{path}: larger than {MAX_SIZE} bytes: no accessKeys.csv")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # "from None": the exception holds the file.
        raise ConfigError(f"{path}: not UTF-8: no accessKeys.csv") from None
