"""What stands between this machine and a key: modules, tokens, permissions, PINs."""

from __future__ import annotations

import os
import re
import shlex
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pkcs11
from pkcs11 import TokenFlag

from aws_hmac.backend import Finding
from aws_hmac.errors import (
    AmbiguousKeyError,
    AuthenticationError,
    DeviceError,
    DeviceLostError,
    Error,
    KeyNotFoundError,
    KeyURIError,
    SecurityWarning,
)
from aws_hmac_backends.pkcs11 import _inspect, _modules, _tokens
from aws_hmac_backends.pkcs11._errors import map_exceptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aws_hmac.uri import KeyURI
    from aws_hmac_backends.pkcs11._modules import Module

LIBRARIES = {
    "softhsm2": ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"),
    "yubihsm": ("/usr/lib/x86_64-linux-gnu/pkcs11/yubihsm_pkcs11.so", "/usr/lib64/pkcs11/yubihsm_pkcs11.so"),
    "opencryptoki": ("/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so", "/usr/lib64/pkcs11/PKCS11_API.so"),
    "cloudhsm": ("/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",),
    "luna": ("/usr/safenet/lunaclient/lib/libCryptoki2_64.so",),
    "nfast": ("/opt/nfast/toolkits/pkcs11/libcknfast.so",),
}
"""Where the modules of tokens that can hold an HMAC key are installed, by the name to give p11-kit."""


def diagnose(uri: KeyURI | None) -> Iterator[Finding]:
    """Looks at modules, then, given a URI, at its module, token, PIN and key; stops where nothing lies beyond."""
    yield from _configurations()
    if uri is not None:
        try:
            _tokens.check(uri)
        except KeyURIError as exc:
            yield Finding("bad", "key URI", str(exc), "correct the URI")
            return
    try:
        with _modules.DEVICE, map_exceptions("module"):
            module = _modules.proxy() if uri is None else _modules.for_uri(uri, uri.identity)
            softhsm = _is_softhsm(module, uri)
    except Error as exc:
        faults = list(_softhsm()) if "softhsm" in str(exc) and not isinstance(exc, KeyURIError) else []
        yield from faults
        if not any(fault.level == "bad" for fault in faults):
            yield Finding("warning" if uri is None else "bad", "module", str(exc), _mend_of(exc))
        return
    yield Finding("good", "module", f"{module.name} is loaded")
    if softhsm:
        faults = list(_softhsm())
        yield from faults
        if any(fault.level == "bad" for fault in faults):
            return
    if uri is None:
        yield from _tokens_of(module)
    else:
        yield from _token(module, uri)


def _mend_of(exc: Exception) -> str:
    """The mend that a message of ours ends in."""
    text = str(exc)
    if "mend it with: " in text:
        return text.rpartition("mend it with: ")[2]
    if "p11-kit's proxy" in text:
        return "apt-get install p11-kit p11-kit-modules"
    return "install the module's package, or correct module-path or module-name"


def _configurations() -> Iterator[Finding]:
    """p11-kit's module configurations: libraries that are not there, and those that no configuration names."""
    known = _modules.configured()
    for name, path in known.items():
        if not path.exists():
            yield Finding(
                "warning",
                "p11-kit",
                f"{name}.module names {path}, which is not there",
                f"install the module's package, or remove {_file_of(name)}",
            )
    real = {path.resolve() for path in known.values() if path.exists()}
    for name, paths in LIBRARIES.items():
        for path in map(Path, paths):
            if path.exists() and path.resolve() not in real:
                real.add(path.resolve())
                file = _modules.CONFIGS[-1] / f"{name}.module"
                yield Finding(
                    "info",
                    "p11-kit",
                    f"{path} is installed, and p11-kit does not know it: only a module-path finds its tokens",
                    f"mkdir -p {file.parent} && echo 'module: {path}' > {file}",
                )


def _file_of(name: str) -> Path:
    files = [folder / f"{name}.module" for folder in reversed(_modules.CONFIGS)]
    return next((file for file in files if file.exists()), files[0])


def _is_softhsm(module: Module, uri: KeyURI | None) -> bool:
    if module.lib.manufacturer_id == "SoftHSM" or "softhsm" in module.name:
        return True
    # Behind the proxy it is one of several: it matters where the token in question is not there.
    if not any("softhsm" in str(path) for path in _modules.configured().values()):
        return False
    try:
        return uri is None or not _tokens.find_tokens(module, uri, "")
    except DeviceLostError:
        return True


def _softhsm() -> Iterator[Finding]:
    """SoftHSM's configuration and the permissions of its tokens' folder."""
    if os.name != "posix":
        return
    conf, user = _softhsm_conf(), _user()
    obstacle = _obstacle(conf, os.R_OK)
    if obstacle is not None and not os.access(obstacle, os.F_OK):
        text = f"its configuration {conf} is not there"
        yield Finding("bad", "SoftHSM", text, "set SOFTHSM2_CONF to the file that is meant, or write that file")
        return
    if obstacle is not None:
        text = f"{user} cannot read its configuration {conf}: {obstacle} is closed to {user}"
        yield Finding("bad", "SoftHSM", text, _let(obstacle, user))
        return
    found = re.search(r"^\s*directories\.tokendir\s*=\s*(\S.*?)\s*$", conf.read_text(), re.MULTILINE)
    folder = Path(found[1]) if found else Path("/var/lib/softhsm/tokens")
    obstacle = _obstacle(folder, os.R_OK | os.X_OK)
    if obstacle is not None and not os.access(obstacle, os.F_OK):
        text = f"the tokens' folder {folder} (named by {conf}) is not there"
        yield Finding("bad", "SoftHSM", text, f"mkdir -p -m 700 {shlex.quote(str(folder))}")
        return
    closed = [obstacle] if obstacle is not None else []
    if not closed:
        closed = [path for path in sorted(folder.iterdir()) if path.is_dir() and not os.access(path, os.R_OK | os.X_OK)]
    for path in closed:
        text = f"{user} cannot read the tokens in {folder} (named by {conf}): {path} is closed to {user}"
        yield Finding("bad", "SoftHSM", text, _let(path, user))
    if not closed:
        yield Finding("good", "SoftHSM", f"{user} can read the tokens in {folder}")


def _obstacle(path: Path, mode: int) -> Path | None:
    """Returns the first part of a path that is not there or closed to this user; None if there is none."""
    for part in reversed((path, *path.parents)):
        if not os.access(part, mode if part == path else os.X_OK):
            return part
    return None


def _softhsm_conf() -> Path:
    """The configuration that SoftHSM reads (softhsm2.conf(5))."""
    named = os.environ.get("SOFTHSM2_CONF")
    if named:
        return Path(named)
    own = Path.home() / ".config/softhsm2/softhsm2.conf"
    return own if os.access(own, os.F_OK) else Path("/etc/softhsm/softhsm2.conf")


def _user() -> str:
    import pwd  # POSIX only

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def _group(gid: int) -> str:
    import grp  # POSIX only

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _let(path: Path, user: str) -> str:
    """How to let a user at a file: by its mode if it is the user's, by its group if the group may."""
    info = path.stat()
    if info.st_uid == os.geteuid():
        return f"chmod -R u+rwX {shlex.quote(str(path))}"
    own = f"give {user} tokens of its own by SOFTHSM2_CONF"
    group_may = stat.S_IRGRP | (stat.S_IXGRP if stat.S_ISDIR(info.st_mode) else 0)
    if info.st_gid and info.st_mode & group_may == group_may:
        return f"usermod -aG {_group(info.st_gid)} {user}, then log in again; or {own}"
    return own


def _tokens_of(module: Module) -> Iterator[Finding]:
    with _modules.DEVICE, map_exceptions(module.name):
        slots = module.lib.get_slots(token_present=True)
    for slot in slots:
        try:
            with _modules.DEVICE:
                token = slot.get_token()
        except pkcs11.PKCS11Error as exc:
            yield Finding("warning", "token", f"slot {slot.slot_id} does not answer ({type(exc).__name__})", "")
            continue
        if token.flags & TokenFlag.TOKEN_INITIALIZED:
            yield Finding("good", "token", f"{_tokens.describe_token(token)} is there")
            yield from _inspect.pin_state(token)
        else:
            yield Finding("info", "token", f"slot {slot.slot_id} ({slot.slot_description}) has room for a new token")


def _token(module: Module, uri: KeyURI) -> Iterator[Finding]:
    name = uri.identity
    try:
        with _modules.DEVICE, map_exceptions(name):
            try:
                token = _tokens.find_token(module, uri, name)
            except DeviceLostError:
                if not module.restart_if_alone():  # SoftHSM sees new tokens only then
                    raise
                token = _tokens.find_token(module, uri, name)
    except AmbiguousKeyError as exc:
        yield Finding("bad", "token", str(exc), "add token= or serial= to the URI")
        return
    except DeviceError as exc:
        label = uri.get("token") or "aws"
        yield Finding(
            "bad",
            "token",
            str(exc),
            "plug it in, correct the URI, or initialise it"
            f" (SoftHSM: softhsm2-util --init-token --free --label {shlex.quote(label)})",
        )
        return
    yield Finding("good", "token", f"{_tokens.describe_token(token)} is there")
    pins = list(_inspect.pin_state(token))
    yield from pins
    if token.flags & TokenFlag.LOGIN_REQUIRED:
        if pins:
            text = "not looked for: a PIN that is sent now could lock the token"
            yield Finding("info", "key", text, "mend the PIN's state first")
            return
        faults = list(_pin_source(token, uri))
        yield from faults
        if any(fault.level in ("bad", "info") for fault in faults):
            return
    yield _key(uri)


def _pin_source(token: Any, uri: KeyURI) -> Iterator[Finding]:
    source = uri.get("pin-source")
    if source is None:
        if not token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
            text = f"{_tokens.describe_token(token)} wants a login, and the URI says nothing of a PIN"
            yield Finding("bad", "pin-source", text, "add ?pin-source=file:/path, env:NAME, cmd:program or prompt")
        return
    if source == "prompt" or source.startswith("cmd:"):
        yield Finding("info", "pin-source", "not asked for now; aws-hmac key check asks")
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SecurityWarning)
        try:
            uri.secret("pin-source")
        except (AuthenticationError, KeyURIError) as exc:
            mend = str(exc).rpartition("mend it with: ")[2] if "mend it with: " in str(exc) else ""
            yield Finding("bad", "pin-source", str(exc), mend or "put the PIN there, or name another source")
    for warning in caught:
        text = str(warning.message)
        yield Finding("warning", "pin-source", text, text.rpartition("mend it with: ")[2])


def _key(uri: KeyURI) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # told already
            key = _tokens.open_key(uri, uri.identity)
    except KeyNotFoundError as exc:
        return Finding("bad", "key", str(exc), f"aws-hmac key import {shlex.quote(str(uri))}")
    except AmbiguousKeyError as exc:
        return Finding("bad", "key", str(exc), "add id=… to the URI, or delete one: aws-hmac key delete")
    except AuthenticationError as exc:
        return Finding("bad", "pin-source", str(exc), "put the right PIN where pin-source says")
    except Error as exc:
        return Finding("bad", "key", str(exc), "")
    try:
        with _modules.DEVICE, map_exceptions(uri.identity):
            key.sign(b"aws-hmac doctor", uri.identity)
            return Finding("good", "key", "the key is there and computes HMACs")
    except Error as exc:
        return Finding("bad", "key", str(exc), "")
    finally:
        with _modules.DEVICE:
            key.connection.release()
