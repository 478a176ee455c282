"""The arguments that ``sign``, ``presign``, ``curl`` and ``explain`` share: a request, and the key that signs it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from aws_hmac.errors import ConfigError, SigningError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from aws_hmac.profile import Options
    from aws_hmac.signer import Signer
    from aws_hmac.sigv4.payload import Body


class Request(NamedTuple):
    """What was asked for on the command line.

    Attributes:
        method: in upper case.
        url: as given.
        headers: pairs of name and value.
        body: bytes, an open file, a payload marker, or nothing.
        service: the signing name.
        region: the region.
        at: when it is signed; None for now.
    """

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: Body
    service: str
    region: str
    at: datetime | None


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what names a request and the key that signs it."""
    parser.add_argument("url", metavar="URL")
    request = parser.add_argument_group("request")
    request.add_argument("-X", "--request", metavar="METHOD", help="GET if left out; POST with -d, PUT with -T")
    request.add_argument(
        "-H", "--header", action="append", default=[], metavar="'NAME: VALUE'", help="may be given many times"
    )
    data = request.add_mutually_exclusive_group()
    data.add_argument("-d", "--data", metavar="TEXT|@FILE", help="body; @FILE reads a file, @- standard input")
    data.add_argument("-T", "--upload-file", metavar="FILE", help="body read from a file as it is sent")
    data.add_argument("--unsigned-payload", action="store_true", help="sign without the body's hash")
    request.add_argument("--service", help="signing name; guessed from an AWS host if left out")
    request.add_argument("--region", help="guessed from an AWS host, or the profile's, if left out")
    request.add_argument("--at", metavar="TIME", help="sign for this time, as 2026-01-31T12:00:00Z; now if left out")
    key = parser.add_argument_group("key")
    key.add_argument("--profile", help="the profile whose aws_hmac block names the key")
    key.add_argument("--key", metavar="URI", help="key URI, in place of a profile")
    key.add_argument("--access-key-id", metavar="ID", help="whose key it is; with --key")


@contextmanager
def read_request(args: argparse.Namespace) -> Iterator[Request]:
    """Yields the request that was asked for; says on standard error what it had to guess.

    Raises:
        SigningError, ConfigError: names the argument.
    """
    from aws_hmac.sigv4.canonical import split_url
    from aws_hmac.sigv4.payload import UNSIGNED_PAYLOAD

    headers = [_header(line) for line in args.header]
    body: Body = None
    method = "GET"
    if args.data is not None:
        method = "POST"
        body = _data(args.data)
        if not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("Content-Type", "application/x-www-form-urlencoded"))
    elif args.upload_file is not None:
        method = "PUT"
        body = _open(args.upload_file)
    elif args.unsigned_payload:
        body = UNSIGNED_PAYLOAD
    try:
        service, region = _scope(args, split_url(args.url).host)
        yield Request((args.request or method).upper(), args.url, headers, body, service, region, _at(args.at))
    finally:
        if args.upload_file is not None:
            cast("BinaryIO", body).close()


@contextmanager
def open_signer(args: argparse.Namespace) -> Iterator[Signer]:
    """Opens the key that was asked for, and yields its signer.

    Raises:
        ConfigError: no key was named, or two.
        Error: what the device answers.
    """
    from aws_hmac.registry import open_backend
    from aws_hmac.signer import Signer

    if args.key is not None:
        if args.profile is not None:
            raise ConfigError("give --profile or --key, not both")
        if args.access_key_id is None:
            raise ConfigError("--key needs --access-key-id: whose key it is")
        signer = Signer(args.access_key_id, open_backend(args.key))
    else:
        signer = _signer_of(_options(args))
    with signer.keys.backend:
        yield signer


def _signer_of(options: Options) -> Signer:
    """The device's key itself; for a profile with a role, the role's temporary credentials."""
    if options.mode == "direct" or (options.role_arn is None and options.source_profile is None):
        return options.open_signer()
    from aws_hmac.sessions import SessionCredentials, session_signer

    session = SessionCredentials(options)
    try:
        return session_signer(session.get())
    finally:
        session.close()


def _options(args: argparse.Namespace) -> Options:
    from aws_hmac.profile import load_profile

    try:
        return load_profile(args.profile)
    except ConfigError as exc:
        raise ConfigError(f"{exc} (or give --key and --access-key-id)") from exc


def _scope(args: argparse.Namespace, host: str) -> tuple[str, str]:
    from aws_hmac.hosts import guess

    guessed_service, guessed_region = guess(host)
    service, region = args.service or guessed_service, args.region or guessed_region
    if service is None:
        raise ConfigError(f"{host} is no AWS host that is known here: give --service (and --region)")
    source = "the host"
    if region is None:
        if args.key is None:
            region, source = _options(args).region, "the profile"
        if region is None:
            raise ConfigError(f"{host} names no region: give --region")
    if not (args.service and args.region):
        print(f"aws-hmac: service {service}, region {region} (from {source})", file=sys.stderr)
    return service, region


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise SigningError("-H: a header is written 'Name: value'")
    return name, value.strip(" \t")


def _data(value: str) -> bytes:
    if not value.startswith("@"):
        return value.encode()
    if value == "@-":
        return sys.stdin.buffer.read()
    with _open(value[1:]) as file:
        return file.read()


def _open(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except OSError as exc:
        raise ConfigError(f"{name}: cannot be read: {exc.strerror}") from exc


def _at(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        try:
            at = datetime.strptime(value, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        except ValueError as exc:
            raise ConfigError("--at: not a time, as 2026-01-31T12:00:00Z or 20260131T120000Z") from exc
    return at
