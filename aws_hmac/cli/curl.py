r"""Send a request signed by the device, as curl would send it.

  aws-hmac curl --profile prod https://sts.eu-west-1.amazonaws.com/?Action=GetCallerIdentity\&Version=2011-06-15

The exit status is curl's: 0 an answer came, 3 malformed URL, 6 unknown host, 7 no connection, 22 an error answer
with --fail, 23 the answer could not be written, 26 a file could not be read, 28 out of time, 35 TLS failed,
47 too many redirects, 60 the certificate is not trusted; and 1 when the request could not be signed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from aws_hmac.cli.request_arguments import add_request_arguments, open_signer, read_request
from aws_hmac.errors import SigningError

if TYPE_CHECKING:
    import argparse

    import requests

CHUNK = 1 << 16
"""Bytes that are written at once."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    add_request_arguments(parser)
    curl = parser.add_argument_group("as curl has them")
    curl.add_argument("-i", "--include", action="store_true", help="print the answer's status and headers too")
    curl.add_argument("-I", "--head", action="store_true", help="ask with HEAD and print status and headers")
    curl.add_argument("-o", "--output", metavar="FILE", help="write the answer's body here")
    curl.add_argument("-f", "--fail", action="store_true", help="print no error answer; end with status 22")
    curl.add_argument("-L", "--location", action="store_true", help="follow redirects; signed on the same host only")
    curl.add_argument(
        "-m", "--max-time", type=float, metavar="SECONDS", help="for the server to answer; 300 if left out"
    )
    curl.add_argument("--cacert", metavar="FILE", help="trust these certificate authorities")


def run(args: argparse.Namespace) -> int:
    """Sends the request and prints the answer."""
    from aws_hmac.requests import Auth  # says what to install where it is missing
    from aws_hmac.sigv4 import PayloadHash
    from aws_hmac.sigv4.canonical import split_url
    import requests  # isort: skip

    try:
        split_url(args.url)
    except SigningError as exc:
        return _say(3, str(exc))
    with read_request(args) as request, open_signer(args) as signer:
        method = "HEAD" if args.head else request.method
        marker = request.body if isinstance(request.body, PayloadHash) else None
        body: Any = None if marker else request.body
        try:
            with requests.Session() as session:
                session.headers.clear()
                session.headers.update({"User-Agent": "aws-hmac", "Accept": "*/*"})
                answer = session.request(
                    method,
                    request.url,
                    headers=dict(request.headers),
                    data=body,
                    auth=Auth(signer, service=request.service, region=request.region, payload=marker),
                    stream=True,
                    timeout=args.max_time or 300,
                    allow_redirects=args.location,
                    verify=args.cacert or True,
                )
                return _print(answer, args, method)
        except requests.exceptions.RequestException as exc:
            return _say(*_status(exc))


def _print(answer: requests.Response, args: argparse.Namespace, method: str) -> int:
    if args.fail and answer.status_code >= 400:
        return _say(22, f"the server answered {answer.status_code} {answer.reason}")
    try:
        if args.output is None:
            _write(answer, args, method, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            with Path(args.output).open("wb") as file:
                _write(answer, args, method, file)
    except BrokenPipeError:
        raise
    except OSError as exc:
        import requests

        if isinstance(exc, requests.exceptions.RequestException):
            raise
        return _say(23, f"{args.output or 'standard output'}: cannot be written: {exc.strerror}")
    return 0


def _write(answer: requests.Response, args: argparse.Namespace, method: str, file: BinaryIO) -> None:
    if args.include or args.head:
        version = {10: "1.0", 11: "1.1", 20: "2"}.get(answer.raw.version, "1.1")
        lines = [f"HTTP/{version} {answer.status_code} {answer.reason}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        file.write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
    if method != "HEAD":
        for chunk in answer.iter_content(CHUNK):
            file.write(chunk)


def _status(exc: requests.exceptions.RequestException) -> tuple[int, str]:
    """Returns curl's exit status for what went wrong, and words for it."""
    import requests

    host = ""
    if exc.request is not None and exc.request.url:
        from aws_hmac.sigv4.canonical import split_url

        host = split_url(exc.request.url).host
    errors = requests.exceptions
    cause = str(exc)
    if isinstance(exc, errors.TooManyRedirects):
        return 47, "too many redirects"
    if isinstance(exc, (errors.ConnectTimeout, errors.ReadTimeout)):
        return 28, f"{host} did not answer in time"
    if isinstance(exc, errors.SSLError):
        return (60 if "CERTIFICATE_VERIFY_FAILED" in cause else 35), f"{host}: TLS failed: {_reason(exc)}"
    if isinstance(exc, (errors.InvalidURL, errors.MissingSchema, errors.InvalidSchema)):
        return 3, "the URL is malformed"
    if isinstance(exc, errors.ConnectionError):
        if "Name or service not known" in cause or "NameResolutionError" in cause or "getaddrinfo" in cause:
            return 6, f"{host}: there is no such host"
        return 7, f"{host}: no connection: {_reason(exc)}"
    if isinstance(exc, errors.ChunkedEncodingError):
        return 18, f"{host}: the answer broke off"
    return 1, f"{host}: {type(exc).__name__}"


def _reason(exc: BaseException) -> str:
    """Returns what the operating system or OpenSSL said; the exception's own text repeats the whole URL."""
    seen: BaseException | None = exc
    while seen is not None:
        reason = getattr(seen, "reason", None)
        inner = seen.args[0] if seen.args and isinstance(seen.args[0], BaseException) else None
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = reason if isinstance(reason, BaseException) else inner or seen.__cause__ or seen.__context__
    return type(exc).__name__


def _say(status: int, text: str) -> int:
    print(f"aws-hmac: {text}", file=sys.stderr)
    return status
