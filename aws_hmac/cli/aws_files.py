"""~/.aws/config and ~/.aws/credentials: read as SDKs read them, changed without disturbing the rest."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aws_hmac.errors import ConfigError
from aws_hmac.profile import BLOCK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")
_HEADER = re.compile(r"\[(.+)\]")


def credentials_path() -> Path:
    """Returns where the credentials file is: ``AWS_SHARED_CREDENTIALS_FILE`` or ~/.aws/credentials."""
    return Path(os.path.expandvars(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")).expanduser()


def read(path: Path) -> bytes:
    """Returns what a file holds; nothing where it is not there.

    Raises:
        ConfigError: it is there and cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc


def decode(data: bytes, path: Path) -> str:
    """Returns a file's text.

    Raises:
        ConfigError: it is not UTF-8; names the line.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        # "from None": the exception holds the whole file, in which there may be secrets.
        raise ConfigError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from None


def parse(text: str, path: Path) -> dict[str, dict[str, str]]:
    """Returns the sections of a file as botocore reads them, by their headings.

    Raises:
        ConfigError: it cannot be read so; names the line.
    """
    parser = configparser.RawConfigParser(default_section="")
    try:
        parser.read_string(text)
    except configparser.Error as exc:
        line = getattr(exc, "lineno", None) or next((n for n, _ in getattr(exc, "errors", [])), None)
        what = {"DuplicateSectionError": "a section", "DuplicateOptionError": "an option"}.get(type(exc).__name__)
        said = f"{what} is there twice" if what else "neither [section] nor name = value"
        # "from None": the exception shows the line, which may hold a secret.
        raise ConfigError(f"{path}: line {line}: {said}; no SDK can read it") from None
    found = {name: dict(parser[name]) for name in parser.sections()}
    for heading, options in found.items():
        for option, value in options.items():
            if value.startswith("\n") and not all("=" in line for line in value.splitlines() if line.strip()):
                raise ConfigError(
                    f"{path}: [{heading}]: a line beneath {option} is not name = value; botocore reads none"
                )
    return found


def profile_name(heading: str, *, config: bool) -> str | None:
    """Returns the profile that a heading of the config file (else of the credentials file) begins, or None."""
    if not config:
        return heading
    if heading == "default":
        return heading
    if not heading.startswith("profile"):
        return None
    try:
        words = shlex.split(heading)
    except ValueError:
        return None
    return words[1] if len(words) == 2 and words[0] == "profile" else None


def sections(path: Path, *, config: bool) -> dict[str, dict[str, str]]:
    """Returns the profiles of a file.

    Args:
        path: the file; none there is as good as an empty one.
        config: whether it is written as ~/.aws/config is (``[profile NAME]``), not as ~/.aws/credentials.

    Raises:
        ConfigError: it cannot be read.
    """
    profiles: dict[str, dict[str, str]] = {}
    for heading, options in parse(decode(read(path), path), path).items():
        name = profile_name(heading, config=config)
        if name is not None:
            profiles.setdefault(name, {}).update(options)
    return profiles


def nested(value: str) -> dict[str, str]:
    """Returns the pairs of a nested block, as botocore reads them."""
    pairs = (line.partition("=") for line in value.splitlines() if line.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


class _Option(NamedTuple):
    """Where an option stands: lines ``start`` to ``end``, the last not included."""

    name: str
    indent: str
    start: int
    end: int


def edit(text: str, path: Path, profile: str, *, options: Mapping[str, str | None], block: Mapping[str, str]) -> str:
    """Returns a config file's text with one profile changed; every other line stays as it is.

    Args:
        text: the file's text.
        path: its name, for messages.
        profile: which profile; made at the end where there is none.
        options: new values of plain options; None removes one.
        block: the nested ``aws_hmac`` block.

    Raises:
        ConfigError: the file cannot be read by SDKs, or not be changed so that they read what was meant.
    """
    before = parse(text, path)
    headings = [h for h in before if profile_name(h, config=True) == profile]
    if len(headings) > 1:
        raise ConfigError(f"{path}: profile {profile!r} has two sections, {' and '.join(f'[{h}]' for h in headings)}")
    lines = _LINES.findall(text)
    newline = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    if not headings:
        heading = profile if profile == "default" else f"profile {_quoted(profile)}"
        if lines and not lines[-1].endswith(("\n", "\r")):
            lines[-1] += newline
        if lines and lines[-1].strip():
            lines.append(newline)
        lines.append(f"[{heading}]{newline}")
        headings = [heading]
    for name, value in options.items():
        _put(lines, headings[0], name, None if value is None else [f"{name} = {value}{newline}"], newline)
    _put(lines, headings[0], BLOCK, _merged(lines, headings[0], block, newline), newline)
    changed = "".join(lines)
    _verify(before, changed, path, headings[0], options, block)
    return changed


def _put(lines: list[str], heading: str, name: str, new: Sequence[str] | None, newline: str) -> None:
    """Replaces, adds (after the section's last option) or removes one option, in place; comments in it stay."""
    first, found = _find(lines, heading)
    old = next((o for o in found if o.name == name), None)
    # Where options are indented, one that is not would swallow those below it.
    indent = found[0].indent if found else ""
    put = [line if _says_nothing(line) else indent + line for line in new or ()]
    if old is not None:
        comments = [] if name == BLOCK and new else list(filter(_says_nothing, lines[old.start : old.end]))
        lines[old.start : old.end] = put + comments
    elif put:
        at = found[-1].end if found else first + 1
        if not lines[at - 1].endswith(("\n", "\r")):
            lines[at - 1] += newline
        lines[at:at] = put


def _merged(lines: list[str], heading: str, block: Mapping[str, str], newline: str) -> list[str]:
    """The lines of the new block, in the old one's order, with its comments."""
    old = next((o for o in _find(lines, heading)[1] if o.name == BLOCK), None)
    todo = dict(block)
    merged = [f"{BLOCK} ={newline}"]
    for line in lines[old.start + 1 : old.end] if old else ():
        name = line.partition("=")[0].strip()
        if _says_nothing(line):
            merged.append(line)
        elif name in todo:
            merged.append(f"  {name} = {todo.pop(name)}{newline}")
    return merged + [f"  {name} = {value}{newline}" for name, value in todo.items()]


def _says_nothing(line: str) -> bool:
    """Whether a line is a comment or blank."""
    return line.strip()[:1] in ("", "#", ";")


def _find(lines: Sequence[str], heading: str) -> tuple[int, list[_Option]]:
    """Returns a section's first line and its options, told apart by indentation as `configparser` does."""
    start = -1
    found: list[_Option] = []
    indent = 0
    in_option = False
    for number, line in enumerate(lines):
        if _says_nothing(line):
            continue
        text = line.strip()
        this = len(line) - len(line.lstrip())
        if in_option and this > indent:
            if found:
                found[-1] = found[-1]._replace(end=number + 1)
            continue
        indent = this
        match = _HEADER.match(text)
        in_option = match is None
        if match is not None:
            if start >= 0:
                break
            if match[1] == heading:
                start = number
        elif start >= 0:
            name = re.split("[:=]", text, maxsplit=1)[0].strip().lower()
            found.append(_Option(name, line[:this], number, number + 1))
    return start, found


def _quoted(profile: str) -> str:
    return f'"{profile}"' if re.search(r"\s", profile) else profile


def _verify(
    before: dict[str, dict[str, str]],
    text: str,
    path: Path,
    heading: str,
    options: Mapping[str, str | None],
    block: Mapping[str, str],
) -> None:
    """Reads the changed text as an SDK would; nothing is written that would be read otherwise than meant."""
    expected = {**before, heading: dict(before.get(heading, {}))}
    expected[heading].update({k: v for k, v in options.items() if v is not None})
    for name, value in options.items():
        if value is None:
            expected[heading].pop(name, None)
    after = parse(text, path)
    written = nested(after.get(heading, {}).pop(BLOCK, ""))
    expected[heading].pop(BLOCK, None)
    if after != expected or written != dict(block):
        raise ConfigError(f"{path}: too unusual to change safely; add the block to the profile by hand (docs/cli.md)")


def write(path: Path, data: bytes, before: bytes) -> None:
    """Replaces a file at once, keeping its mode, its owner and a symlink to it; makes it (0600) where there is none.

    Args:
        path: the file, or a symlink to it.
        data: what it shall hold.
        before: what it held when it was read, so that another program's change is not lost.

    Raises:
        ConfigError: it cannot be written; it is as it was.
    """
    # Not path itself: a symlink (to a dotfiles folder, say) stays one.
    target = Path(os.path.realpath(path))
    made: Path | None = None
    temporary: str | None = None
    try:
        if not target.parent.exists():
            target.parent.mkdir(mode=0o700)
            made = target.parent
        info = _regular(target)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if info is not None and os.name == "posix":
                if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), info.st_uid, info.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(info.st_mode))
        if read(target) != before:
            raise ConfigError(f"{path}: another program has just changed it; nothing was changed, try again")
        Path(temporary).replace(target)
        temporary = made = None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}; nothing was changed") from exc
    finally:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()
        if made is not None:
            with suppress(OSError):
                made.rmdir()


def _regular(target: Path) -> os.stat_result | None:
    try:
        info = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError(f"{target}: not a regular file; nothing was changed")
    if not os.access(target, os.W_OK):
        raise ConfigError(f"{target}: read-only; nothing was changed")
    if info.st_nlink > 1:
        raise ConfigError(f"{target}: has a second name (hard link), which replacing it would cut off; nothing changed")
    return info
