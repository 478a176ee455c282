"""Print temporary credentials, as the AWS SDKs and the AWS CLI read them from credential_process.

The profile's block aws_hmac in ~/.aws/config says which key in which device makes them. They are kept in a file
of your own until 15 minutes before they expire, so that the device is asked about once an hour, however many
processes run. The output holds secrets: it is for SDKs, not for eyes.

  [profile prod]
  credential_process = /usr/local/bin/aws-hmac credential-process --profile prod
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing is not loaded when the session is cached
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("--profile", metavar="NAME", help="the profile; AWS_PROFILE, else default, if left out")


class Arguments:
    """What `run` needs of an ``argparse.Namespace``, which takes longer to make than a cached session to read."""

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self.debug = False


def simple_arguments(words: list[str]) -> Arguments | None:
    """Reads the words after ``credential-process`` where they are but a profile, as SDKs have it; else None."""
    if len(words) == 2 and words[0] == "--profile":
        return Arguments(words[1])
    if len(words) == 1 and words[0].startswith("--profile="):
        return Arguments(words[0][len("--profile=") :])
    return None if words else Arguments("")


def from_cache(args: Arguments) -> str | None:
    """Returns what to print if a session that needs no renewal is cached; loads next to nothing."""
    import time

    from aws_hmac import __version__
    from aws_hmac._session_files import cached_document, chosen_profile, config_path

    return cached_document(chosen_profile(args.profile), config_path(), __version__, time.time())


def run(args: argparse.Namespace | Arguments) -> None:
    """Prints the credentials."""
    import time

    from aws_hmac import __version__, _session_files
    from aws_hmac.errors import ConfigError
    from aws_hmac.profile import chosen_profile, config_path, load_profile
    from aws_hmac.sessions import SessionCredentials

    path, name = config_path(), chosen_profile(args.profile)
    try:
        identity = _session_files.identity(name, path, __version__)  # before it is read
    except OSError:
        identity = None  # reading it tells why
    options = load_profile(name)
    if options.mode == "direct":
        raise ConfigError(
            f"{options.what}: mode = direct makes no credentials that could be handed out; drop the line, or use"
            " aws_hmac.Session in Python"
        )
    session = SessionCredentials(options, export=True)
    try:
        document = session.document()
    finally:
        session.close()
    sys.stdout.write(f"{document}\n")
    sys.stdout.flush()
    if session.path is not None and identity is not None:
        try:
            _session_files.write_index(identity, path, session.path, time.time_ns())
        except OSError:
            return  # the session's own file tells, if the folder is at fault
