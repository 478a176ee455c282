"""Show how a request is signed, stage by stage; or, with --against, what differs from what a server saw.

  aws-hmac explain --profile prod https://bucket.s3.eu-west-1.amazonaws.com/key
  aws-hmac explain --profile prod --against answer.xml https://bucket.s3.eu-west-1.amazonaws.com/key

FILE is the answer that refused the request (S3's XML, the query protocol's XML, or JSON), as curl saved it; the
request is then explained for the time at which the server saw it signed. The exit status is 1 where something
differs. No key of the derivation is ever shown.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aws_hmac.cli.output import clean, console, findings_json, print_findings, print_json
from aws_hmac.cli.request_arguments import add_request_arguments, open_signer, read_request
from aws_hmac.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from aws_hmac.answers import ErrorAnswer
    from aws_hmac.signer import Explanation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    add_request_arguments(parser)
    parser.add_argument("--presign", type=int, metavar="SECONDS", help="explain a presigned URL of this validity")
    parser.add_argument("--against", metavar="FILE", help="the answer that refused the request; - is standard input")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the stages, and what differs."""
    from aws_hmac.compare import amz_date_of, differences

    error = _read(args.against) if args.against else None
    with read_request(args) as request, open_signer(args) as signer:
        at = request.at or (amz_date_of(error) if error else None)
        ours = signer.explain(
            request.method, request.url, service=request.service, region=request.region,
            headers=request.headers, body=request.body, at=at, presign=args.presign,
        )  # fmt: skip
    findings = differences(ours, signer.access_key_id, error) if error else []
    if args.json:
        document = ours._asdict()
        if error:
            document["server"] = error._asdict()
            document["differences"] = findings_json(findings)
        print_json(document)
    else:
        _print(ours, signer.keys.backend.name)
        if error:
            _print_answer(error)
            print_findings(findings)
    return 1 if any(finding.level == "bad" for finding in findings) else 0


def _read(name: str) -> ErrorAnswer:
    from aws_hmac.answers import read_error

    try:
        body = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as exc:
        raise ConfigError(f"--against: {name} cannot be read: {exc.strerror}") from exc
    # Saved with curl -i: the headers come first.
    head, blank, rest = body.replace(b"\r\n", b"\n").partition(b"\n\n")
    error = read_error(rest if blank and head.startswith(b"HTTP/") else body)
    if error is None:
        raise ConfigError(f"--against: {name} is no error answer of AWS (XML or JSON)")
    return error


def _print(ours: Explanation, device: str) -> None:
    from rich.text import Text

    out = console()
    _, region, service, terminator = ours.credential_scope.split("/")

    def section(title: str, text: str, colours: tuple[str, ...] = ()) -> None:
        out.print(Text(title, style="bold"))
        for number, line in enumerate(text.split("\n")):
            out.print(Text(f"  {clean(line)}", style=colours[number] if number < len(colours) else ""))

    section("canonical request", ours.canonical_request, ("green", "cyan", "magenta"))
    section("string to sign", ours.string_to_sign, ("green", "cyan", "magenta"))
    section("credential scope", ours.credential_scope)
    section("signed headers", ours.signed_headers)
    date = ours.credential_scope.partition("/")[0]
    section(
        "derivation",
        f'kDate    = HMAC("AWS4" + secret, "{date}")   by {device}\n'
        f'kRegion  = HMAC(kDate, "{region}")\n'
        f'kService = HMAC(kRegion, "{service}")\n'
        f'kSigning = HMAC(kService, "{terminator}")',
        ("yellow",),
    )
    section("signature", ours.signature)


def _print_answer(error: ErrorAnswer) -> None:
    from rich.text import Text

    out = console()
    code = error.code or "no code"
    first = (error.message or "").strip().partition("\n")[0]
    out.print(Text.assemble(("the server's answer", "bold"), f": {clean(code)}: {clean(first)}"))
    for title, text in (
        ("its canonical request", error.canonical_request),
        ("its string to sign", error.string_to_sign),
    ):
        if text:
            out.print(Text(title, style="bold"))
            for line in _without_token(text).split("\n"):
                out.print(Text(f"  {clean(line)}"))
    out.print(Text("what differs", style="bold"))


def _without_token(text: str) -> str:
    return "\n".join(
        "x-amz-security-token:(not shown)" if line.startswith("x-amz-security-token:") else line
        for line in text.split("\n")
    )
