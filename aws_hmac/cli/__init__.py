"""The command ``aws-hmac``: one module per command, each imported only when it runs.

A command's module has ``add_arguments(parser)`` and ``run(args) -> int | None`` (the exit status), and its
docstring is its ``--help``.
"""

from __future__ import annotations

import sys
from importlib import import_module

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


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after ``aws-hmac``; those of the process if None.

    Returns:
        The exit status: 0, 1 for an error (one line on standard error), 2 for wrong usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = next((n for n in (" ".join(words[:2]), " ".join(words[:1])) if n in COMMANDS), None)
    if name is None:
        return _usage(words)
    import argparse  # each import here costs every start

    module = import_module(f"aws_hmac.cli.{name.replace(' ', '_').replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"aws-hmac {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    module.add_arguments(parser)
    args = parser.parse_args(words[name.count(" ") + 1 :])
    _show_warnings_as_lines()
    try:
        return module.run(args) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone: nothing to say, and nothing to flush at exit.
        sys.stdout = None  # Python's own advice (library/signal, "Note on SIGPIPE")
        return 141
    except Exception as exc:
        from aws_hmac.errors import Error

        if args.debug or not isinstance(exc, Error):
            raise
        print(f"aws-hmac: {_line(exc)}", file=sys.stderr)
        return 1


def _usage(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        from aws_hmac import __version__

        print(f"aws-hmac {__version__}")
        return 0
    width = max(map(len, COMMANDS))
    group = [n for n in COMMANDS if words and n.startswith(f"{words[0]} ")]
    lines = ["usage: aws-hmac COMMAND [option …]", ""]
    lines += [f"  {n:{width}}  {COMMANDS[n]}" for n in group or COMMANDS]
    lines += ["", "aws-hmac COMMAND --help tells more; aws-hmac --version prints the version."]
    asked = words[-1:] in (["--help"], ["-h"], ["help"])
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    if asked:
        return 0
    unknown = next((w for w in words[1 if group else 0 :] if not w.startswith("-")), None)
    if unknown is not None:
        import difflib

        given = f"{words[0]} {unknown}" if group else unknown
        near = difflib.get_close_matches(given, COMMANDS, n=1)
        print(
            f"aws-hmac: there is no command {given!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            file=sys.stderr,
        )
    return 2


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())


def _show_warnings_as_lines() -> None:
    import warnings  # always loaded by the interpreter

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        from aws_hmac.errors import SecurityWarning

        if issubclass(category, SecurityWarning):
            print(f"aws-hmac: warning: {message}", file=sys.stderr)

    warnings.showwarning = show
