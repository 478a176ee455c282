r"""Write a profile into ~/.aws/config (AWS_CONFIG_FILE), so that SDKs and the AWS CLI sign with the device.

Everything else in the file stays byte for byte, comments and order too. The profile gets `credential_process`
with this command's absolute path, which every SDK and CLI understands; with --mode direct it gets none, as
only aws_hmac.Session signs directly. Every name is botocore's own where it has one.

  aws-hmac configure --profile prod --key 'pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin' \
      --access-key-id AKIAIOSFODNN7EXAMPLE --role-arn arn:aws:iam::111122223333:role/deploy --region eu-west-1
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from aws_hmac.cli import aws_files
from aws_hmac.errors import ConfigError, SecurityWarning
from aws_hmac.profile import BLOCK, config_path

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

HELP = {
    "key": ("KEY_URI", "the key's URI, as key import printed it"),
    "access_key_id": ("ID", "whose key it is, AKIA…"),
    "mode": ("MODE", "session: temporary credentials, for every SDK; direct: each request signed by the device"),
    "role_arn": ("ARN", "the role to assume"),
    "role_session_name": ("NAME", "the session's name in CloudTrail"),
    "external_id": ("ID", "the external id that the role's trust policy asks for"),
    "duration_seconds": ("SECONDS", "how long a session lasts; 3600 if left out"),
    "mfa_serial": ("SERIAL", "the MFA device that is asked for a code"),
    "policy": ("JSON", "a session policy, on one line"),
    "policy_arns": ("ARNS", "managed session policies, separated by commas"),
    "tags": ("TAGS", "session tags, as team=web,cost=42"),
    "transitive_tag_keys": ("KEYS", "tags that chained roles keep, separated by commas"),
    "source_identity": ("NAME", "the source identity in CloudTrail"),
    "source_profile": ("NAME", "the profile whose session assumes the role, in place of a key"),
    "sts_regional_endpoints": ("WHICH", "regional or legacy"),
    "endpoint_url": ("URL", "another STS endpoint"),
    "session_cache": ("WHICH", "on: a file that all processes share; off"),
    "cache": ("MODE", "which derived keys are kept in memory: date, scope or none"),
    "max_age": ("SECONDS", "how long one of them signs without asking the device"),
}
"""The options of the block with metavar and help; `region` goes into the profile itself, where SDKs read it too."""

FIRST = ("role_arn", "sso_session", "sso_start_url", "web_identity_token_file")
"""Options of a profile that SDKs follow before `credential_process`."""

_NAME = re.compile(r"[^\x00-\x1f\x7f\"'\\\[\]$`%!]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("--profile", metavar="NAME", default="default", help='which profile; "default" if left out')
    parser.add_argument("--region", metavar="REGION", help="the profile's region, also that of STS")
    for name, (metavar, text) in HELP.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace what the profile says about this")


def run(args: argparse.Namespace) -> int:
    """Writes the profile."""
    from shlex import quote

    block = _block(args)
    path = Path(config_path())
    before = aws_files.read(path)
    text = aws_files.decode(before, path)
    profile = args.profile
    if not _NAME.fullmatch(profile) or profile != profile.strip():
        raise ConfigError("--profile: a name has no quotes, brackets, backslashes, $, %, !, ` or control characters")
    direct = args.mode == "direct"
    process = None if direct else credential_process(profile)
    existing = next(
        (
            options
            for heading, options in aws_files.parse(text, path).items()
            if aws_files.profile_name(heading, config=True) == profile
        ),
        {},
    )
    _refuse_to_overwrite(existing, profile, path, process, overwrite=args.overwrite)
    options: dict[str, str | None] = {"credential_process": process}
    if args.region is not None:
        options["region"] = args.region
    changed = aws_files.edit(text, path, profile, options=options, block=block).encode()
    if changed != before:
        aws_files.write(path, changed, before)
    _warn_of_what_comes_first(profile, existing, path)
    print(f"{path}: profile {profile!r} {'written' if changed != before else 'is already so'}")
    if direct:
        print(f"Next: aws_hmac.Session(profile_name={profile!r}) in Python signs with it")
    else:
        print(f"Next: aws sts get-caller-identity --profile {quote(profile)}")
    return 0


def _block(args: argparse.Namespace) -> Mapping[str, str]:
    """The block's text, read once as it will be read from the file."""
    from aws_hmac.profile import Options
    from aws_hmac.registry import backend_class, schemes

    block = {name: getattr(args, name) for name in HELP if getattr(args, name) is not None}
    for name, value in {**block, "region": args.region or "-"}.items():
        if not value or value != value.strip() or not value.isprintable():
            raise ConfigError(f"--{name.replace('_', '-')} is empty, or holds a line end or control character")
    if "source_profile" not in block and not {"key", "access_key_id"} <= block.keys():
        raise ConfigError("give --key KEY_URI and --access-key-id ID, or --source-profile NAME and --role-arn ARN")
    options = Options(block, what="options")
    if options.key is not None:
        if options.key.scheme not in schemes():
            backend_class(options.key.scheme)  # says what there is
        block["key"] = str(options.key)
    return block


def _refuse_to_overwrite(
    existing: Mapping[str, str], profile: str, path: Path, process: str | None, *, overwrite: bool
) -> None:
    foreign = existing.get("credential_process") not in (None, process)
    if overwrite or not (foreign or BLOCK in existing):
        return
    what = "a credential_process" if BLOCK not in existing else "an aws_hmac block"
    raise ConfigError(f"{path}: profile {profile!r} already has {what}; --overwrite replaces it")


def _warn_of_what_comes_first(profile: str, existing: Mapping[str, str], path: Path) -> None:
    """SDKs look elsewhere before they run `credential_process`; what they find there would win in silence."""
    credentials = aws_files.credentials_path()
    try:
        plaintext = aws_files.sections(credentials, config=False).get(profile, {})
    except ConfigError as exc:
        warnings.warn(str(exc), SecurityWarning, stacklevel=2)
        plaintext = {}
    for where, options in ((credentials, plaintext), (path, existing)):
        if "aws_access_key_id" in options or "aws_secret_access_key" in options:
            warnings.warn(
                f"{where}: profile {profile!r} still holds a plaintext access key, which SDKs use instead of the"
                " device; delete its aws_access_key_id and aws_secret_access_key",
                SecurityWarning,
                stacklevel=2,
            )
    first = [name for name in FIRST if name in existing]
    if first:
        warnings.warn(
            f"{path}: profile {profile!r} has {first[0]}, which SDKs follow before credential_process; move it"
            " into the aws_hmac block (--role-arn) or use another profile",
            SecurityWarning,
            stacklevel=2,
        )


def credential_process(profile: str) -> str:
    """Returns the line that SDKs run: this command by its absolute path, as they look for no relative one.

    Raises:
        ConfigError: the command cannot be found, or its path cannot be quoted for every SDK.
    """
    command = command_path()
    if re.search(r"[\x00-\x1f\"'$`%!]", command) or (os.name == "posix" and "\\" in command):
        raise ConfigError(f"{command}: SDKs cannot be told a path with such characters; install aws-hmac elsewhere")
    return " ".join(_double_quoted(word) for word in (command, "credential-process", "--profile", profile))


def _double_quoted(word: str) -> str:
    return f'"{word}"' if re.search(r"[^A-Za-z0-9@+=:,./\\_-]", word) else word


def command_path() -> str:
    """Returns the absolute path of the command ``aws-hmac``.

    Raises:
        ConfigError: it is nowhere.
    """
    name = "aws-hmac.exe" if os.name == "nt" else "aws-hmac"
    started = shutil.which(sys.argv[0]) if Path(sys.argv[0]).name.startswith("aws-hmac") else None
    # A symlink (pipx's, say) is kept: it outlives what it points to today.
    beside = Path(sys.executable).parent / name
    for found in (started, beside, shutil.which(name)):
        if found is not None and Path(found).is_file():
            return str(Path(found).absolute())
    raise ConfigError("the command aws-hmac is not on PATH, so no SDK could run it; install it with pip or pipx")
