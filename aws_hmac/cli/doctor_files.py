"""What ``aws-hmac doctor`` sees in ~/.aws, in the environment and in the session cache's folder."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aws_hmac import profile
from aws_hmac.backend import Finding
from aws_hmac.cli import aws_files
from aws_hmac.cli.configure import FIRST, HELP
from aws_hmac.errors import ConfigError, Error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aws_hmac.profile import Options

PLAINTEXT = ("aws_access_key_id", "aws_secret_access_key")
"""What a profile must not hold any longer once the key is in a device."""


def profiles(only: str | None) -> tuple[dict[str, Options], list[Finding]]:
    """Reads every profile that has the block.

    Args:
        only: the one profile that matters; None for all.

    Returns:
        The profiles that can be read, and what was found.
    """
    config, credentials = Path(profile.config_path()), aws_files.credentials_path()
    found = [*_permissions(config, secret=False), *_permissions(credentials, secret=True)]
    try:
        sections = aws_files.sections(config, config=True)
    except ConfigError as exc:
        return {}, [*found, Finding("bad", str(config), str(exc), f"correct the line, in: {_edit(config)}")]
    try:
        plaintext: Mapping[str, Mapping[str, str]] = aws_files.sections(credentials, config=False)
    except ConfigError as exc:
        plaintext = {}
        found.append(Finding("bad", str(credentials), str(exc), f"correct the line, in: {_edit(credentials)}"))
    ours = [name for name, options in sections.items() if profile.BLOCK in options]
    if only is not None:
        ours = [name for name in ours if name == only]
    read: dict[str, Options] = {}
    for name in ours:
        try:
            read[name] = profile.load_profile(name)
        except Error as exc:
            found.append(Finding("bad", f"profile {name}", str(exc), f"correct it, in: {_edit(config)}"))
            continue
        found += _profile(name, read[name], sections[name], plaintext.get(name, {}), config, credentials)
    if only is not None and not ours:
        text = f"{config} has no such profile" if only not in sections else f"it has no {profile.BLOCK} block"
        mend = f"aws-hmac configure --profile {shlex.quote(only)} --key KEY_URI --access-key-id ID"
        found.append(Finding("bad", f"profile {only}", text, mend))
    elif not ours:
        mend = "aws-hmac configure --profile NAME --key KEY_URI --access-key-id ID"
        found.append(Finding("info", str(config), f"no profile has the {profile.BLOCK} block", mend))
    return read, found


def environment(only: str | None) -> list[Finding]:
    """What goes before every profile."""
    return list(_environment(only)) or [Finding("good", "environment", "nothing in it goes before the profiles")]


def _environment(only: str | None) -> Iterator[Finding]:
    environ = os.environ
    keys = [n for n in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN") if environ.get(n)]
    if keys:
        text = f"{' and '.join(keys)}: SDKs take it before the profile that AWS_PROFILE or nobody names"
        yield Finding("warning", "environment", text, f"unset {' '.join(keys)}")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        if environ.get(name) and not Path(os.path.expandvars(environ[name])).expanduser().exists():
            text = f"{name} names a file that is not there: {environ[name]}"
            yield Finding("warning", "environment", text, f"unset {name}")
    chosen = environ.get("AWS_DEFAULT_PROFILE") or environ.get("AWS_PROFILE")
    if chosen and only is None:
        try:
            known = {
                *aws_files.sections(Path(profile.config_path()), config=True),
                *aws_files.sections(aws_files.credentials_path(), config=False),
            }
        except ConfigError:
            return  # told of under files
        if chosen not in known:
            variable = "AWS_DEFAULT_PROFILE" if environ.get("AWS_DEFAULT_PROFILE") else "AWS_PROFILE"
            yield Finding("bad", "environment", f"{variable} names a profile that is not there", f"unset {variable}")


def session_cache() -> Iterator[Finding]:
    """The folder that holds temporary credentials: nobody else may look into it."""
    from aws_hmac import _session_files

    folder = Path(_session_files.folder())
    mend = ""
    try:
        _session_files.check_folder(str(folder))
        if os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            yield Finding("good", str(folder), "for its owner alone")
            return
        text, mend = "not writable: every process asks STS anew", f"chmod 700 {shlex.quote(str(folder))}"
    except FileNotFoundError:
        parent = next(p for p in folder.parents if p.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield Finding("good", str(folder), "not there yet; the first session makes it")
            return
        text = f"cannot be made: {parent} is not writable; every process asks STS anew"
        mend = f"chmod u+rwx {shlex.quote(str(parent))}, or set XDG_RUNTIME_DIR to a folder of your own"
    except OSError as exc:
        text = f"{exc.strerror}; it is not used, and every process asks STS anew"
        if folder.parent.stat().st_uid not in (0, os.geteuid()):
            mend = "set XDG_RUNTIME_DIR to a folder of your own"
        elif folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
            mend = f"rm -r {shlex.quote(str(folder))}"
        else:
            mend = f"chmod 700 {shlex.quote(str(folder))}"
    yield Finding("bad", str(folder), text, mend)


def _permissions(path: Path, *, secret: bool) -> Iterator[Finding]:
    """A file that others can write runs programs as you, by `credential_process`; one with secrets must not be read."""
    try:
        info = path.stat()
    except FileNotFoundError:
        return
    except OSError as exc:
        yield Finding("bad", str(path), f"cannot be looked at: {exc.strerror}", f"chmod u+x {path.parent}")
        return
    if os.name != "posix" or not stat.S_ISREG(info.st_mode):
        return
    name = shlex.quote(str(path))
    if not os.access(path, os.R_OK):
        yield Finding("bad", str(path), "cannot be read", f"chmod u+r {name}")
    elif info.st_uid not in (0, os.geteuid()):
        text = f"belongs to another user (uid {info.st_uid}), who can have programs run as you"
        yield Finding("bad", str(path), text, f"sudo chown {os.geteuid()} {name}")
    elif info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        text = "others can write it, and have programs run as you"
        yield Finding("bad", str(path), text, f"chmod go-w {name}")
    elif secret and info.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        yield Finding("bad", str(path), "others can read its secrets", f"chmod go-rwx {name}")


def _profile(
    name: str,
    options: Options,
    section: Mapping[str, str],
    plaintext: Mapping[str, str],
    config: Path,
    credentials: Path,
) -> Iterator[Finding]:
    """One profile that has the block: would an SDK come to us?"""
    subject = f"profile {name}"
    clean = True
    for path, held in ((credentials, plaintext), (config, section)):
        if any(option in held for option in PLAINTEXT):
            clean = False
            text = f"{path} still holds its plaintext key, which SDKs use instead of the device"
            mend = f"delete {' and '.join(PLAINTEXT)} of the profile, in: {_edit(path)}"
            yield Finding("bad", subject, text, mend)
    first = [option for option in FIRST if option in section]
    if first and options.mode == "session":
        clean = False
        text = f"{first[0]} stands outside the {profile.BLOCK} block: SDKs follow it and never come to the device"
        yield Finding("bad", subject, text, f"move it into the block, in: {_edit(config)}")
    process = section.get("credential_process")
    fault = _process_fault(process, options)
    if fault is not None:
        clean = False
        yield Finding(fault[0], subject, fault[1], _configure(name, section))
    if clean:
        way = "signs directly" if options.mode == "direct" else "SDKs come to the device by credential_process"
        yield Finding("good", subject, way)


def _process_fault(process: str | None, options: Options) -> tuple[Literal["bad", "warning", "info"], str] | None:
    """What is wrong with the line that SDKs run."""
    if options.mode == "direct":
        text = "mode = direct makes no credentials, yet there is a credential_process"
        return ("bad", text) if process is not None else None
    if process is None:
        return "info", "no credential_process: only aws_hmac.Session can use it, no other SDK"
    try:
        words = shlex.split(process, posix=os.name == "posix")
    except ValueError:
        words = []
    if not words:
        return "bad", "its credential_process cannot be read"
    program = words[0].strip('"')
    if shutil.which(program) is None:
        return "bad", f"its credential_process names {program}, which is not there or cannot be run"
    if not Path(program).is_absolute():
        return "warning", f"its credential_process names {program} without its path: other programs may not find it"
    return None


def _configure(name: str, section: Mapping[str, str]) -> str:
    """The command that writes the profile anew."""
    block = aws_files.nested(section[profile.BLOCK])
    words = ["aws-hmac", "configure", "--profile", name, "--overwrite"]
    for option in HELP:
        if option in block:
            words += [f"--{option.replace('_', '-')}", block[option]]
    return shlex.join(words)


def _edit(path: Path) -> str:
    return f"${{EDITOR:-vi}} {shlex.quote(str(path))}"
