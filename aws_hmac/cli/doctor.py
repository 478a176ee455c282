"""Look for what stands in the way on this machine, and tell how to mend it.

Looks at the installation, ~/.aws/config and ~/.aws/credentials, the environment, the folder of the session
cache, this machine's clock beside that of STS, and the keys: modules, tokens, permissions, PINs. With --profile
or a key URI only that one's key is looked at. It changes nothing. Exit status 1 if something must be mended.

  aws-hmac doctor
  aws-hmac doctor --profile prod
"""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from aws_hmac.backend import Finding
from aws_hmac.errors import BackendUnavailableError, ConfigError, Error, SecurityWarning

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from aws_hmac.backend import HmacBackend
    from aws_hmac.profile import Options
    from aws_hmac.uri import KeyURI

ADAPTERS = {
    "boto3": "boto3",
    "aiobotocore": "aiobotocore",
    "requests": "requests",
    "httpx": "httpx",
    "sigv4a": "cryptography",
}
"""Extras that are no backend, with the package that each needs."""

MAX_SKEW = 300
"""Seconds: AWS refuses a signature that is older or younger."""

WARN_SKEW = 30
"""Seconds by which no clock that is kept is wrong."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("uri", metavar="KEY_URI", nargs="?", help="look at this key only")
    which.add_argument("--profile", metavar="NAME", help="look at this profile's key only")
    parser.add_argument("--offline", action="store_true", help="do not ask STS what time it is")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Looks at everything; the exit status is 1 if a finding is bad."""
    from aws_hmac.cli import doctor_files
    from aws_hmac.cli.output import console, findings_json, print_findings, print_json

    profiles, of_files = doctor_files.profiles(args.profile)
    areas: dict[str, list[Finding]] = {"installation": list(_installation(args, profiles))}
    areas["files"] = of_files
    areas["environment"] = doctor_files.environment(args.profile)
    areas["session cache"] = list(doctor_files.session_cache())
    if not args.offline:
        areas["clock"] = list(_clock(profiles))
    areas["keys"] = list(_keys(args, profiles))
    faults = sum(finding.level == "bad" for found in areas.values() for finding in found)
    if args.json:
        print_json([{"area": area} | finding for area, found in areas.items() for finding in findings_json(found)])
        return 1 if faults else 0
    out = console()
    for area, found in areas.items():
        out.print(f"{area.capitalize()}", style="bold")
        print_findings(found)
    out.print(f"{faults} to be mended" if faults else "Nothing stands in the way.", style="bold")
    return 1 if faults else 0


def _installation(args: argparse.Namespace, profiles: Mapping[str, Options]) -> Iterator[Finding]:
    """The version, the command, and which extras are installed; one that is missing matters if a key needs it."""
    import platform
    from importlib.util import find_spec

    from aws_hmac import __version__
    from aws_hmac.cli.configure import command_path
    from aws_hmac.registry import backend_class, schemes

    yield Finding("info", "aws-hmac", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    try:
        yield Finding("good", "command", command_path())
    except ConfigError as exc:
        yield Finding("bad", "command", str(exc), "pipx install aws-hmac")
    needed = {options.key.scheme for options in profiles.values() if options.key is not None}
    if args.uri is not None:
        needed.add(args.uri.partition(":")[0])
    for scheme in schemes():
        try:
            backend_class(scheme)
        except BackendUnavailableError as exc:
            yield Finding("bad" if scheme in needed else "info", f"backend {scheme}", str(exc), _install(str(exc)))
        except Error as exc:
            yield Finding("bad", f"backend {scheme}", str(exc), "uninstall the package that should not have it")
        except Exception as exc:  # noqa: BLE001 - a stranger's module can fail in any way
            text = f"{type(exc).__name__} when it is loaded: a fault of the package that has it"
            yield Finding("bad", f"backend {scheme}", text, "install another version of that package")
        else:
            yield Finding("good", f"backend {scheme}", "can be used")
    there = {extra: find_spec(package) is not None for extra, package in ADAPTERS.items()}
    for word, wanted in (("installed", True), ("not installed", False)):
        if names := [extra for extra, found in there.items() if found is wanted]:
            mend = "" if wanted else f"pip install 'aws-hmac[{','.join(names)}]', if you want them"
            yield Finding("info", "extras", f"{word}: {', '.join(names)}", mend)


def _install(text: str) -> str:
    return text.rpartition("install it with: ")[2]


def _clock(profiles: Mapping[str, Options]) -> Iterator[Finding]:
    """This machine's clock beside that of each STS in use: a wrong one makes AWS refuse every signature."""
    from aws_hmac.sts import resolve

    asked = {f"profile {name}": options.where() for name, options in profiles.items() if options.mode == "session"}
    if not profiles:
        asked["STS"] = {"region": "aws-global"}
    places: dict[str, str | None] = {}
    for subject, wanted in asked.items():
        try:
            where = resolve(wanted)
        except Error as exc:
            lacks_region = str(exc).startswith("no region")
            mend = "add a line as: region = eu-west-1" if lacks_region else "correct the option, or unset the variable"
            yield Finding("bad", subject, str(exc), mend)
            continue
        places[where["endpoint_url"] or ""] = where.get("ca_bundle")
    for url, ca_bundle in places.items():
        yield _skew(url, ca_bundle, needed=bool(profiles))


def _skew(url: str, ca_bundle: str | None, *, needed: bool) -> Finding:
    from email.utils import parsedate_to_datetime
    from urllib.parse import urlsplit

    from aws_hmac._transport import TransportError, post

    # Not signed: the refusal has a date too.
    body = b"Action=GetCallerIdentity&Version=2011-06-15"
    headers = {
        "Host": urlsplit(url).netloc,
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": str(len(body)),
    }
    try:
        answer = post(url, headers, body, ca_bundle=ca_bundle)
        there = parsedate_to_datetime(next(v for k, v in answer.headers.items() if k.lower() == "date"))
        behind = round((there - datetime.now(timezone.utc)).total_seconds())
    except TransportError as exc:
        mend = "see to network, firewall, HTTPS_PROXY and AWS_CA_BUNDLE; --offline leaves this out"
        return Finding("bad" if needed else "info", url, f"not reached, so its clock is not known: {exc}", mend)
    except ConfigError as exc:
        return Finding("bad", url, str(exc), "correct it, or unset the variable")
    except (StopIteration, TypeError, ValueError, OverflowError):
        return Finding("info", url, "its answer has no date, so its clock is not known")
    if abs(behind) < WARN_SKEW:
        return Finding("good", "clock", f"within {WARN_SKEW} s of {url}")
    text = f"this machine's is {abs(behind)} s {'behind' if behind > 0 else 'ahead of'} that of {url}"
    if abs(behind) >= MAX_SKEW:
        text += f"; AWS refuses signatures from {MAX_SKEW} s on"
    mend = "sudo timedatectl set-ntp true" if sys.platform == "linux" else "set the clock, by NTP best"
    return Finding("bad" if abs(behind) >= MAX_SKEW else "warning", "clock", text, mend)


def _keys(args: argparse.Namespace, profiles: Mapping[str, Options]) -> Iterator[Finding]:
    """Each key in question; without any, what the machine has."""
    from aws_hmac.registry import schemes
    from aws_hmac.uri import KeyURI

    if args.uri is not None:
        yield from _key(KeyURI.parse(args.uri), named=True)
        return
    keys = {options.key: name for name, options in profiles.items() if options.key is not None}
    for uri, name in keys.items():
        for finding in _key(uri, named=args.profile is not None):
            yield finding._replace(subject=f"profile {name}: {finding.subject}")
    if not keys and args.profile is None:
        for scheme in schemes():
            yield from _diagnosis(scheme, None)


def _key(uri: KeyURI, *, named: bool) -> Iterator[Finding]:
    if not named and (uri.raw("file") == b"-" or b"prompt" in uri.query.values()):
        text = f"{uri.identity} would ask for something; name it to have it looked at"
        yield Finding("info", "key", text, f"aws-hmac doctor '{uri}'")
        return
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SecurityWarning)
        found = _diagnosis(uri.scheme, uri)
        if not any(finding.level == "bad" for finding in found):
            found.append(_computes(uri))
    said = {str(w.message): None for w in caught if issubclass(w.category, SecurityWarning)}
    yield from (Finding("warning", "key", text, _mend(text)) for text in said)
    yield from found


def _computes(uri: KeyURI) -> Finding:
    from aws_hmac.backend import fingerprint
    from aws_hmac.registry import open_backend

    try:
        backend: HmacBackend
        with open_backend(uri) as backend:
            return Finding("good", "key", f"{backend.name} computes; fingerprint {fingerprint(backend).hex()}")
    except Error as exc:
        return Finding("bad", "key", str(exc), _mend(str(exc)))


def _diagnosis(scheme: str, uri: KeyURI | None) -> list[Finding]:
    from aws_hmac.backend import Diagnosable
    from aws_hmac.registry import backend_class

    try:
        backend: Any = backend_class(scheme)
    except Error as exc:
        return [] if uri is None else [Finding("bad", scheme, str(exc), _install(str(exc)))]
    except Exception:  # noqa: BLE001 - told of under installation
        return []
    if not issubclass(backend, Diagnosable):
        return []
    try:
        return list(backend.diagnose(uri))
    except Error as exc:
        return [Finding("bad", scheme, str(exc), _mend(str(exc)))]
    except Exception as exc:  # noqa: BLE001 - a doctor does not fall ill of what it finds
        text = f"{type(exc).__name__} while it was looked at: a fault of this backend"
        return [Finding("bad", scheme, text, "report it")]


def _mend(text: str) -> str:
    """The command that a message ends in; else the message has said it."""
    return text.rpartition("mend it with: ")[2] if "mend it with: " in text else "do as it says"
