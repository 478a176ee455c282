"""The ``aws_hmac`` block of a profile in ``~/.aws/config``, and the options that it holds.

::

    [profile prod]
    region = eu-west-1
    credential_process = aws-hmac credential-process --profile prod
    aws_hmac =
      key = pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin
      access_key_id = AKIAIOSFODNN7EXAMPLE
      role_arn = arn:aws:iam::111122223333:role/deploy

The same names are arguments of `aws_hmac.Session`; ``docs/profiles.md`` has the table.
"""

from __future__ import annotations

import configparser
import os
import re
from typing import TYPE_CHECKING, Literal, cast

from aws_hmac._session_files import chosen_profile, config_path
from aws_hmac.errors import ConfigError, KeyURIError
from aws_hmac.uri import KeyURI

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aws_hmac.signer import Signer
    from aws_hmac.sts import Where

__all__ = ["BLOCK", "OPTIONS", "Options", "chosen_profile", "config_path", "load_profile", "sdk_settings"]

BLOCK = "aws_hmac"
"""The name of the nested block."""

_SECRETS = frozenset(["aws_secret_access_key", "aws_session_token", "aws_security_token"])

_NEEDS_ROLE = (
    "role_session_name", "external_id", "policy", "policy_arns", "tags", "transitive_tag_keys", "source_identity",
)  # fmt: skip
_SESSIONS_ONLY = (
    "role_arn", *_NEEDS_ROLE, "duration_seconds", "mfa_serial", "source_profile", "sts_regional_endpoints",
    "endpoint_url", "session_cache",
)  # fmt: skip


class Options:
    """What a block, or the arguments of a Session, say; checked, and free of contradictions.

    Args:
        values: option names with text as in a file, or with Python's values.
        what: where they come from, for messages.
        profile: the profile's name, if they come from one.
        signer_given: whether a signer was given besides, so that no key is needed.

    Attributes:
        what, profile: as given.
        key: the key URI.
        access_key_id: whose key it is.
        mode: ``session`` or ``direct``.
        role_arn, role_session_name, external_id, duration_seconds, mfa_serial, policy, policy_arns, tags,
            transitive_tag_keys, source_identity: as in `aws_hmac.sts.assume_role`.
        source_profile: the profile whose session assumes the role.
        region, sts_regional_endpoints, endpoint_url, use_fips_endpoint, use_dualstack_endpoint, ca_bundle: as in
            `aws_hmac.sts.Where`.
        session_cache: whether sessions are kept in a file.
        cache: what of the day's keys is kept, as in `aws_hmac.SigningKeys`.
        max_age: seconds that a kept key signs without asking the device.

    Raises:
        ConfigError: an option is unknown, impossible, missing, or contradicts another.
        KeyURIError: the key is no key URI.
    """

    def __init__(
        self,
        values: Mapping[str, object],
        *,
        what: str,
        profile: str | None = None,
        signer_given: bool = False,
    ) -> None:
        self.what = what
        self.profile = profile
        self.key: KeyURI | None = None
        self.access_key_id: str | None = None
        self.mode: Literal["session", "direct"] = "session"
        self.role_arn: str | None = None
        self.role_session_name: str | None = None
        self.external_id: str | None = None
        self.duration_seconds: int | None = None
        self.mfa_serial: str | None = None
        self.policy: str | None = None
        self.policy_arns: tuple[str, ...] = ()
        self.tags: dict[str, str] = {}
        self.transitive_tag_keys: tuple[str, ...] = ()
        self.source_identity: str | None = None
        self.source_profile: str | None = None
        self.region: str | None = None
        self.sts_regional_endpoints: str | None = None
        self.endpoint_url: str | None = None
        self.session_cache = True
        self.cache: Literal["date", "scope", "none"] = "date"
        self.max_age: float | None = None
        # These belong to the profile itself, where the SDKs read them too.
        self.use_fips_endpoint: bool | None = None
        self.use_dualstack_endpoint: bool | None = None
        self.ca_bundle: str | None = None
        self.given = frozenset(name for name, value in values.items() if value is not None)
        for name, value in values.items():
            if name not in OPTIONS:
                raise ConfigError(f"{what}: there is no option {name!r}; {_nearest(name, OPTIONS)}")
            if value is not None:
                setattr(self, name, self._parsed(name, value))
        self._check(signer_given=signer_given)

    def where(self) -> Where:
        """Returns which STS is asked, for the functions of `aws_hmac.sts`."""
        return {
            "region": self.region,
            "sts_regional_endpoints": self.sts_regional_endpoints,
            "use_fips_endpoint": self.use_fips_endpoint,
            "use_dualstack_endpoint": self.use_dualstack_endpoint,
            "endpoint_url": self.endpoint_url,
            "ca_bundle": self.ca_bundle,
        }

    def open_signer(self) -> Signer:
        """Opens the key.

        Raises:
            ConfigError: the options name none.
            Error: whatever the device answers.
        """
        if self.key is None or self.access_key_id is None:
            raise ConfigError(f"{self.what}: no key: give key and access_key_id")
        from aws_hmac.registry import open_backend
        from aws_hmac.signer import Signer

        return Signer(self.access_key_id, open_backend(self.key), cache=self.cache, max_age=self.max_age)

    def _parsed(self, name: str, value: object) -> object:
        try:
            return OPTIONS[name](value)
        except KeyURIError as exc:
            raise KeyURIError(f"{self.what}: {name}: {exc}") from exc
        except (TypeError, ValueError) as exc:
            raise ConfigError(f"{self.what}: {name}: {exc}") from exc

    def _check(self, *, signer_given: bool) -> None:
        given = self.given
        if signer_given:
            self._refuse(given & {"key", "access_key_id", "source_profile", "cache", "max_age"}, "a signer is given")
        elif self.source_profile is not None:
            self._refuse(given & {"key", "access_key_id", "cache", "max_age"}, "source_profile signs")
            if self.role_arn is None:
                raise ConfigError(f"{self.what}: source_profile needs the role_arn to assume")
        else:
            for name in ("key", "access_key_id"):
                if name not in given:
                    raise ConfigError(f"{self.what}: {name} is missing")
        if (self.access_key_id or "").startswith("ASIA"):
            raise ConfigError(
                f"{self.what}: access_key_id: {self.access_key_id} belongs to temporary credentials; it must be that of"
                " the long-lived key (AKIA…)"
            )
        if self.mode == "direct":
            self._refuse(given & set(_SESSIONS_ONLY), "mode = direct makes no session")
        elif self.role_arn is None:
            self._refuse(given & set(_NEEDS_ROLE), "there is no role_arn")
        if self.max_age is not None and self.cache == "none":
            raise ConfigError(f"{self.what}: max_age contradicts cache = none, which keeps nothing")

    def _refuse(self, names: frozenset[str], because: str) -> None:
        if names:
            raise ConfigError(f"{self.what}: {', '.join(sorted(names))} cannot be set where {because}")


def load_profile(name: str | None = None, **overrides: object) -> Options:
    """Reads a profile's block.

    Args:
        name: the profile; `chosen_profile` if None.
        overrides: options that replace the block's.

    Raises:
        ConfigError: the file, the profile or the block is missing or wrong.
        KeyURIError: the key is no key URI.
    """
    name = chosen_profile(name)
    path = config_path()
    sections = _read(path)
    profiles = _profiles(sections)
    what = f"profile {name!r} in {path}"
    settings = profiles.get(name)
    if settings is None:
        raise ConfigError(
            f"there is no profile {name!r} in {path}; {_nearest(name, profiles)} (a new one begins with the line"
            f" [{name if name == 'default' else f'profile {name}'}])"
        )
    if BLOCK not in settings:
        raise ConfigError(
            f"{what} has no aws_hmac block: add the line 'aws_hmac =' and beneath it, indented, the lines"
            f" 'key = <key URI>' and 'access_key_id = <AKIA…>' (aws-hmac configure --profile {name} writes them)"
        )
    values: dict[str, object] = dict(_nested(settings[BLOCK], what))
    values.update({key: value for key, value in overrides.items() if value is not None})
    for key, value in _outer(settings, sections).items():
        values.setdefault(key, value)
    if values.get("mode") == "direct":
        for key in ("endpoint_url", "sts_regional_endpoints"):  # of the profile itself: not for us then
            if key not in overrides and key not in _nested(settings[BLOCK], what):
                values.pop(key, None)
    return Options(values, what=what, profile=name)


def sdk_settings(name: str) -> dict[str, object]:
    """Returns what a profile, with or without a block, and the environment leave to say of STS; for a given key.

    Args:
        name: the profile; it need not exist.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = config_path()
    if not os.path.exists(path):  # noqa: PTH110 - a text path, as botocore makes it
        return {}
    sections = _read(path)
    return _outer(_profiles(sections).get(name, {}), sections)


def _profiles(sections: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    profiles = _named(sections, "profile")
    if "default" in sections:
        profiles.setdefault("default", sections["default"])
    return profiles


def _outer(settings: Mapping[str, str], sections: Mapping[str, dict[str, str]]) -> dict[str, object]:
    """What the SDKs' own settings of the profile say of STS, after the environment, which goes first."""
    values: dict[str, object] = {}
    environ = os.environ
    if not (environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")):
        values["region"] = settings.get("region")
    for name, variable in (
        ("sts_regional_endpoints", "AWS_STS_REGIONAL_ENDPOINTS"),
        ("ca_bundle", "AWS_CA_BUNDLE"),
    ):
        if not environ.get(variable):
            values[name] = settings.get(name)
    for name in ("use_fips_endpoint", "use_dualstack_endpoint"):
        if f"AWS_{name.upper()}" not in environ and name in settings:
            values[name] = settings[name].lower() == "true"
    ignored = environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") or settings.get("ignore_configured_endpoint_urls", "")
    if ignored.lower() != "true" and not (environ.get("AWS_ENDPOINT_URL_STS") or environ.get("AWS_ENDPOINT_URL")):
        services = _named(sections, "services").get(settings.get("services", ""), {})
        sts = _nested(services["sts"], "services") if "sts" in services else {}
        values["endpoint_url"] = sts.get("endpoint_url") or settings.get("endpoint_url")
    return {key: value for key, value in values.items() if value}


def _read(path: str) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser()
    try:
        with open(path, encoding="utf-8-sig") as file:  # noqa: PTH123 - a text path, as botocore makes it
            parser.read_file(file, path)
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} does not exist; aws-hmac configure writes it") from exc
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        with open(path, "rb") as binary:  # noqa: PTH123
            line = binary.read()[: exc.start].count(b"\n") + 1
        # "from None": the exception holds the whole file, in which there may be secrets.
        raise ConfigError(f"{path} is not UTF-8 (line {line}); save it as UTF-8") from None
    except configparser.Error as exc:
        # Its text may quote the line, which may hold another profile's secret.
        line_number = getattr(exc, "lineno", None) or next((n for n, _ in getattr(exc, "errors", [])), None)
        where = f" (line {line_number})" if line_number else ""
        raise ConfigError(f"{path} cannot be read: {_kind(exc)}{where}") from None
    # The secrets of other profiles are not kept: tracebacks show what frames hold.
    return {
        section: {name: value for name, value in parser.items(section) if name not in _SECRETS}
        for section in parser.sections()
    }


def _kind(exc: configparser.Error) -> str:
    match exc:
        case configparser.DuplicateSectionError():
            return f"section [{exc.section}] is there twice"
        case configparser.DuplicateOptionError():
            return f"[{exc.section}] has {exc.option} twice"
        case configparser.MissingSectionHeaderError():
            return "it does not begin with a [section]"
        case _:
            return "a line is neither a [section] nor name = value"


def _named(sections: Mapping[str, dict[str, str]], kind: str) -> dict[str, dict[str, str]]:
    """The sections ``[kind name]`` by name, which may stand in quotation marks."""
    found = {}
    for title, settings in sections.items():
        if title.startswith(kind):
            import shlex  # only sections with a name come here

            try:
                words = shlex.split(title)
            except ValueError:
                continue
            if len(words) == 2 and words[0] == kind:
                found[words[1]] = settings
    return found


def _nested(text: str, what: str) -> dict[str, str]:
    """The lines ``name = value`` beneath a setting, as botocore reads them."""
    if not text.startswith("\n"):
        raise ConfigError(f"{what}: the block must begin on the line after 'aws_hmac =', indented")
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise ConfigError(f"{what}: the aws_hmac block has a line that is not name = value")
        if name in found:
            raise ConfigError(f"{what}: {name} is there twice")
        found[name] = value
    return found


def _nearest(name: str, known: Mapping[str, object]) -> str:
    import difflib  # only for the error

    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known)) or 'none'}"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"must be text, not {type(value).__name__}")
    if not value.strip() or not value.isprintable():
        raise ValueError("is empty" if not value.strip() else "holds a control character")
    return value.strip()


def _key(value: object) -> KeyURI:
    return value if isinstance(value, KeyURI) else KeyURI.parse(_text(value))


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(choices)}")
        return str(value)

    return parse


def _integer(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip(), re.ASCII):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is not a whole number of seconds")


def _duration(value: object) -> int:
    seconds = _integer(value)
    if not 900 <= seconds <= 129600:
        raise ValueError(f"{seconds} is not between 900 and 129600 (43200 for roles)")
    return seconds


def _seconds(value: object) -> float:
    seconds = float(_integer(value)) if isinstance(value, str) else value
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or seconds <= 0:
        raise ValueError(f"{value!r} is not a number of seconds above 0")
    return seconds


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in ("on", "off", "true", "false"):
        raise ValueError(f"{value!r} is neither on nor off")
    return word in ("on", "true")


def _arns(value: object) -> tuple[str, ...]:
    # A policy's name may hold a comma.
    return _several(re.split(r",?\s+|,(?=arn:)", value.strip()) if isinstance(value, str) else value)


def _words(value: object) -> tuple[str, ...]:
    return _several(value.split(",") if isinstance(value, str) else value)


def _several(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise TypeError("must be a list of texts")
    return tuple(_text(item) for item in value)


def _tags(value: object) -> dict[str, str]:
    """``team=infra, stage=prod``: a tag holds no comma (AWS's character set), so a comma ends it."""
    if isinstance(value, str):
        pairs = [tag.partition("=") for tag in value.split(",")]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError("tags are written as team=infra, stage=prod")
        value = {key.strip(): text.strip() for key, _, text in pairs}
        if len(value) != len(pairs):
            raise ValueError("a tag is there twice")
    if not hasattr(value, "items"):
        raise TypeError("must be a mapping of texts")
    mapping = cast("Mapping[object, object]", value)
    if not all(isinstance(k, str) and k and isinstance(v, str) for k, v in mapping.items()):
        raise ValueError("a tag's key and value are texts, and the key is not empty")
    return cast("dict[str, str]", dict(mapping))


OPTIONS: dict[str, Callable[[object], object]] = {
    "key": _key,
    "access_key_id": _text,
    "mode": _one_of("session", "direct"),
    "role_arn": _text,
    "role_session_name": _text,
    "external_id": _text,
    "duration_seconds": _duration,
    "mfa_serial": _text,
    "policy": _text,
    "policy_arns": _arns,
    "tags": _tags,
    "transitive_tag_keys": _words,
    "source_identity": _text,
    "source_profile": _text,
    "region": _text,
    "sts_regional_endpoints": _one_of("regional", "legacy"),
    "endpoint_url": _text,
    "session_cache": _switch,
    "cache": _one_of("date", "scope", "none"),
    "max_age": _seconds,
    "use_fips_endpoint": _switch,
    "use_dualstack_endpoint": _switch,
    "ca_bundle": _text,
}
"""Every option with what reads it."""
