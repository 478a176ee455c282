"""Find a key, compute with it, and tell how well it is protected.

With --sts also ask AWS whose key it is (GetCallerIdentity, which needs no permission). Exit status 1 if the
key cannot be used or something about it must be mended.

  aws-hmac key check 'pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin'
  aws-hmac key check --profile prod --sts
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from aws_hmac.errors import ConfigError, Error, KeyMismatchError, KeyNotFoundError, KeyPolicyError, UnsupportedError

if TYPE_CHECKING:
    import argparse

    from aws_hmac.backend import Finding, HmacBackend
    from aws_hmac.sts import Where


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("uri", metavar="KEY_URI", nargs="?", help="the key; left out, the one of --profile")
    parser.add_argument("--profile", metavar="NAME", help="take key and access key id from this profile")
    parser.add_argument("--expect-fingerprint", metavar="HEX", help="fail unless the key has this fingerprint")
    parser.add_argument("--sts", action="store_true", help="also call GetCallerIdentity with the key")
    parser.add_argument("--access-key-id", metavar="ID", help="whose key it is, for --sts")
    parser.add_argument(
        "--region", metavar="REGION", help="the region of STS, for --sts; if nothing names one, the global endpoint"
    )
    parser.add_argument("--endpoint-url", metavar="URL", help="another STS endpoint, for --sts")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Checks the key; the exit status is 1 if a finding is bad."""
    from aws_hmac.backend import KeyInspector, fingerprint
    from aws_hmac.registry import open_backend

    uri, access_key_id, where = _key(args)
    with open_backend(uri) as backend:
        try:
            value = fingerprint(backend).hex()  # the first call may open, log in and search
        except (KeyPolicyError, KeyMismatchError, KeyNotFoundError, UnsupportedError) as exc:
            return _unusable(str(uri), backend, exc, as_json=args.json)
        seconds = _time_again(backend, value)
        if args.expect_fingerprint is not None and args.expect_fingerprint.strip().lower() != value:
            raise KeyMismatchError(f"{backend.name}: its fingerprint is {value}, not the one expected")
        findings = backend.inspect() if isinstance(backend, KeyInspector) else []
        identity = _identity(backend, access_key_id, where) if args.sts and access_key_id else None
        name = backend.name
    if args.json:
        _print_json(str(uri), value, seconds, findings, identity)
    else:
        _print(name, value, seconds, findings, identity)
    return 1 if any(finding.level == "bad" for finding in findings) else 0


def _key(args: argparse.Namespace) -> tuple[str, str | None, Where]:
    """The key's URI, whose it is, and which STS: each argument, else what the profile says."""
    if (args.uri is None) == (args.profile is None):
        raise ConfigError("give either a key's URI or --profile")
    where: Where = {"region": args.region, "endpoint_url": args.endpoint_url}
    uri, access_key_id = args.uri, args.access_key_id
    if args.profile is not None:
        from aws_hmac.profile import load_profile

        options = load_profile(args.profile)
        if options.key is None:
            raise ConfigError(f"{options.what}: it has no key of its own; check that of {options.source_profile!r}")
        uri, access_key_id = str(options.key), access_key_id or options.access_key_id
        where = options.where()
        where.update({"region": args.region} if args.region else {})
        where.update({"endpoint_url": args.endpoint_url} if args.endpoint_url else {})
    if args.sts and not access_key_id:
        raise ConfigError("--sts needs --access-key-id: AWS must be told whose key signs")
    return uri, access_key_id, where


def _time_again(backend: HmacBackend, value: str) -> float:
    from aws_hmac.backend import fingerprint

    start = time.perf_counter()
    again = fingerprint(backend).hex()
    seconds = time.perf_counter() - start
    if again != value:
        raise KeyMismatchError(f"{backend.name}: two answers differ for one message: this device cannot be used")
    return seconds


def _identity(backend: HmacBackend, access_key_id: str, where: Where) -> dict[str, str]:
    from aws_hmac.signer import Signer
    from aws_hmac.sts import get_caller_identity

    if not (where.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        where["region"] = "aws-global"  # whoever has just imported a key has told nobody of a region yet
    return get_caller_identity(Signer(access_key_id, backend), **where)._asdict()


def _unusable(uri: str, backend: HmacBackend, exc: Error, *, as_json: bool) -> int:
    """Tells what a device says of a key that it does not compute with: disabled, wrapped by another key, …"""
    from aws_hmac.backend import Finding, KeyInspector
    from aws_hmac.cli.output import findings_json, print_findings, print_json

    if not isinstance(backend, KeyInspector):
        raise exc
    try:
        findings = backend.inspect()
    except Error:
        raise exc from None  # that one says no more
    findings = [Finding("bad", "computes", f"no: {str(exc).removeprefix(f'{backend.name}: ')}"), *findings]
    if as_json:
        print_json({"uri": uri, "fingerprint": None, "milliseconds": None, "findings": findings_json(findings)})
    else:
        print_findings(findings)
    return 1


def _print(
    name: str, fingerprint: str, seconds: float, findings: list[Finding], identity: dict[str, str] | None
) -> None:
    from aws_hmac.backend import Finding
    from aws_hmac.cli.output import print_findings

    said = [
        Finding("good", "key", f"{name} is there"),
        Finding("good", "computes", f"one HMAC takes {seconds * 1e3:.3g} ms; fingerprint {fingerprint}"),
    ]
    if identity is not None:
        said.append(Finding("good", "AWS", f"accepts its signatures: {identity['arn']}"))
    print_findings([*said, *findings])


def _print_json(
    uri: str, fingerprint: str, seconds: float, findings: list[Finding], identity: dict[str, str] | None
) -> None:
    from aws_hmac.cli.output import findings_json, print_json

    document: dict[str, Any] = {
        "uri": uri,
        "fingerprint": fingerprint,
        "milliseconds": round(seconds * 1e3, 3),
        "findings": findings_json(findings),
    }
    if identity is not None:
        document["identity"] = identity
    print_json(document)
