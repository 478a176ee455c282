"""The command ``aws-hmac``: one module per command, each imported only when it runs.

A command's module has ``add_arguments(parser)`` and ``run(args) -> int | None`` (the exit status), and its
docstring is its ``--help``.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # type checkers take it for typing's, whose import would double the time of a start
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

COMMANDS = {
    "key import": "put a secret access key into a device",
    "key check": "find a key, use it, and tell how well it is protected",
    "key list": "list the keys that a device holds",
    "key delete": "delete a key from a device",
    "key rewrap": "move a KMS-wrapped keyset to another key-encryption key",
    "key transfer": "wrap a key for a device on another machine",
    "key policy": "print the least policy that a signer or an importer needs",
    "configure": "write a profile into ~/.aws/config",
    "credential-process": "print temporary credentials for an SDK or the AWS CLI",
    "sign": "sign a request and print its headers",
    "presign": "print a presigned URL",
    "curl": "send a signed request",
    "explain": "show how a request is signed, or what differs from a server's view",
    "doctor": "look for what stands in the way on this machine",
    "demo": "show the whole of it on a throw-away token and a local AWS",
}
"""Each command with its line in ``aws-hmac --help``; ``key import`` lives in ``aws_hmac/cli/key_import.py``."""

_OPTION = r"--[a-z][a-z0-9-]*(=|$)|-[A-Za-z]$"


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after ``aws-hmac``; those of the process if None.

    Returns:
        The exit status: 0, 1 for an error (one line on standard error), 2 for wrong usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["credential-process"]:
        from aws_hmac.cli import credential_process  # SDKs wait for it: no argparse, and little else if it can be

        simple = credential_process.simple_arguments(words[1:])
        if simple is not None:
            document = credential_process.from_cache(simple)
            return run(credential_process.run, simple) if document is None else _print(document)
    name = next((n for n in (" ".join(words[:2]), " ".join(words[:1])) if n in COMMANDS), None)
    if name is None:
        return _usage(words)
    try:
        parser, module = command(name)
    except ModuleNotFoundError as exc:
        if exc.name != _module(name):
            raise
        print(f"aws-hmac: {name!r} is not part of this version", file=sys.stderr)
        return 2
    # Words that nobody asked for are counted, not shown: one of them may be a pasted secret.
    args, unknown = parser.parse_known_args(words[name.count(" ") + 1 :])
    if unknown:
        import re

        options = [w.partition("=")[0] for w in unknown if re.match(_OPTION, w)]
        if len(options) < len(unknown):
            options.append(f"{len(unknown) - len(options)} more word(s), not shown as they may hold a secret")
        parser.error("unknown: " + ", ".join(options))
    return run(module.run, args)


def command(name: str) -> tuple[ArgumentParser, ModuleType]:
    """Returns the parser and the module of a command, as ``key import``."""
    import argparse  # each import costs every start
    from importlib import import_module

    module = import_module(_module(name))
    parser = argparse.ArgumentParser(
        prog=f"aws-hmac {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    module.add_arguments(parser)
    return parser, module


def run(function: Callable[[Any], int | None], args: Any) -> int:
    """Runs a command's ``run``, turns what it raises into one line and an exit status, warnings into lines."""
    import warnings  # always loaded by the interpreter

    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            for category in _shown_warnings():
                warnings.simplefilter("default", category)
            status = function(args) or 0
            sys.stdout.flush()
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            # Whoever read our output has gone: nothing to say, and nothing to flush at exit.
            sys.stdout = None  # Python's own advice: library/signal, "Note on SIGPIPE"
            return 141
        except Exception as exc:
            if args.debug:
                from aws_hmac.errors import forget_locals

                forget_locals(exc)  # whoever shows the traceback may show what its frames hold
                raise
            print(f"aws-hmac: {_line(exc)}", file=sys.stderr)
            if isinstance(exc, OSError):
                _drop_output()
            return 1
        return status


def _drop_output() -> None:
    """Sees to it that what standard output did not take is not tried once more, and complained of, at exit."""
    import os

    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # library/signal, "Note on SIGPIPE"


def _print(line: str) -> int:
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = None  # as in `run`
        return 141
    except OSError as exc:
        sys.stdout = None
        print(f"aws-hmac: standard output: {exc.strerror}", file=sys.stderr)
        return 1
    return 0


def _usage(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        from aws_hmac import __version__

        print(f"aws-hmac {__version__}")
        return 0
    from importlib.util import find_spec

    there = [name for name in COMMANDS if find_spec(_module(name)) is not None]
    width = max(map(len, there))
    group = [n for n in there if words and n.startswith(f"{words[0]} ")]
    lines = ["usage: aws-hmac COMMAND [option …]", ""]
    lines += [f"  {n:{width}}  {COMMANDS[n]}" for n in group or there]
    lines += ["", "aws-hmac COMMAND --help tells more; aws-hmac --version prints the version."]
    asked = words[-1:] in (["--help"], ["-h"], ["help"])
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    if asked:
        return 0
    import re

    unknown = next((w for w in words[1 if group else 0 :] if not w.startswith("-")), None)
    if unknown is not None and re.fullmatch("[a-z-]{1,24}", unknown):  # nothing that may be a pasted secret
        import difflib

        given = f"{words[0]} {unknown}" if group else unknown
        near = difflib.get_close_matches(given, there, n=1)
        print(
            f"aws-hmac: there is no command {given!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            file=sys.stderr,
        )
    return 2


def _line(exc: Exception) -> str:
    """What went wrong in one line; of a fault of our own only where it is, as nobody knows what its text holds."""
    from aws_hmac.cli.output import clean
    from aws_hmac.errors import Error

    if isinstance(exc, Error):
        return clean(" ".join(str(exc).split()))
    if isinstance(exc, OSError) and exc.strerror:
        return clean(f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror)
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(exc).__name__}{where}: a fault of this program; --debug shows more"


def _module(name: str) -> str:
    return f"aws_hmac.cli.{name.replace(' ', '_').replace('-', '_')}"


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, _shown_warnings()):
        from aws_hmac.cli.output import clean

        print(f"aws-hmac: warning: {clean(' '.join(str(message).split()))}", file=sys.stderr)


def _shown_warnings() -> tuple[type[Warning], ...]:
    from aws_hmac.errors import ClockSkewWarning, SecurityWarning, SessionWarning

    return ClockSkewWarning, SecurityWarning, SessionWarning
