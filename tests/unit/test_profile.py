from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest

from aws_hmac import ConfigError, KeyURIError
from aws_hmac.profile import OPTIONS, Options, load_profile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[..., Path]

KEY = "pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin"
ROLE = "arn:aws:iam::111122223333:role/deploy"
WHOLE = f"""
    # all of it
    [default]
    region = us-east-1

    [profile prod]
    region = eu-west-1
    credential_process = aws-hmac credential-process --profile prod
    aws_hmac =
      key = {KEY}
      access_key_id = AKIAIOSFODNN7EXAMPLE
      # a comment within the block
      mode = session
      role_arn = {ROLE}
      role_session_name = me
      external_id = x = y
      duration_seconds = 1800
      mfa_serial = arn:aws:iam::111122223333:mfa/me
      policy = {{"Version": "2012-10-17", "Statement": []}}
      policy_arns = arn:aws:iam::aws:policy/A arn:aws:iam::1:policy/b,c, arn:aws:iam::1:policy/D,arn:aws:iam::1:policy/e
      tags = team=infra & ops, stage=prod=1
      transitive_tag_keys = team, stage
      source_identity = alice
      region = eu-central-1
      sts_regional_endpoints = legacy
      endpoint_url = https://sts.example
      session_cache = off
      cache = scope
      max_age = 60

    [profile "with blank"]
    aws_hmac =
      key = memory:env=SECRET
      access_key_id = AKIAIOSFODNN7EXAMPLE

    [profile plain]
    region = eu-west-1
    """


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a configuration file, which AWS_CONFIG_FILE names."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    path = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))

    def write(text: str | bytes) -> Path:
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return path

    return write


def block(write: Write, lines: str, settings: str = "") -> None:
    indented = "\n".join(f"  {line.strip()}" for line in lines.strip().splitlines())
    write(f"[profile p]\n{settings}\naws_hmac =\n{indented}\n")


def test_every_option(write: Write) -> None:
    write(WHOLE)
    options = load_profile("prod")
    assert str(options.key) == KEY
    assert (options.access_key_id, options.mode, options.role_arn) == ("AKIAIOSFODNN7EXAMPLE", "session", ROLE)
    assert (options.role_session_name, options.external_id, options.duration_seconds) == ("me", "x = y", 1800)
    assert options.mfa_serial == "arn:aws:iam::111122223333:mfa/me"
    assert options.policy == '{"Version": "2012-10-17", "Statement": []}'
    assert options.policy_arns == (
        "arn:aws:iam::aws:policy/A",
        "arn:aws:iam::1:policy/b,c",
        "arn:aws:iam::1:policy/D",
        "arn:aws:iam::1:policy/e",
    )
    assert options.tags == {"team": "infra & ops", "stage": "prod=1"}
    assert options.transitive_tag_keys == ("team", "stage")
    assert (options.source_identity, options.region) == ("alice", "eu-central-1")
    assert (options.sts_regional_endpoints, options.endpoint_url) == ("legacy", "https://sts.example")
    assert (options.session_cache, options.cache, options.max_age) == (False, "scope", 60)


def test_botocore_still_reads_the_file(write: Write) -> None:
    write(WHOLE)
    settings = botocore.session.Session(profile="prod").get_scoped_config()
    assert settings["aws_hmac"]["key"] == KEY
    assert settings["region"] == "eu-west-1"


@pytest.mark.parametrize("variable", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_environment_names_the_profile(write: Write, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    write(WHOLE)
    with pytest.raises(ConfigError, match=r"profile 'default' in .* has no aws_hmac block"):
        load_profile()
    monkeypatch.setenv(variable, "with blank")
    assert str(load_profile().key) == "memory:env=SECRET"
    assert str(load_profile("prod").key) == KEY


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_CONFIG_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"/\.aws/config does not exist"):
        load_profile("p")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(
        "[default]\naws_hmac =\n  key = memory:env=S\n  access_key_id = AKIAIOSFODNN7EXAMPLE\n"
    )
    assert str(load_profile("default").key) == "memory:env=S"
    monkeypatch.setenv("AWS_CONFIG_FILE", "~/.aws/config")
    assert str(load_profile("default").key) == "memory:env=S"


def test_profile_without_the_block_says_which_line_to_add(write: Write) -> None:
    write(WHOLE)
    with pytest.raises(ConfigError, match=r"add the line 'aws_hmac =' .*'key = .*'access_key_id = .*--profile plain"):
        load_profile("plain")


def test_missing_profile_offers_the_nearest(write: Write) -> None:
    write(WHOLE)
    with pytest.raises(ConfigError, match=r"no profile 'prdo' in .*; did you mean 'prod'\? .*\[profile prdo\]"):
        load_profile("prdo")


GOOD = f"key = {KEY}\naccess_key_id = AKIAIOSFODNN7EXAMPLE\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("access_key_id = AKIAIOSFODNN7EXAMPLE", "key is missing"),
        (f"key = {KEY}", "access_key_id is missing"),
        (GOOD + "rol_arn = x", r"there is no option 'rol_arn'; did you mean 'role_arn'\?"),
        (GOOD + "Role_Arn = x", r"no option 'Role_Arn'; did you mean 'role_arn'\?"),
        (GOOD + "xyzzy = x", "no option 'xyzzy'; there are access_key_id, "),
        (GOOD + f"key = {KEY}", "key is there twice"),
        (GOOD + "role_arn", "a line that is not name = value"),
        (GOOD + "role_arn =", "role_arn: is empty"),
        (GOOD + "mode = both", "mode: 'both' is none of session, direct"),
        (GOOD + "duration_seconds = an hour", "duration_seconds: 'an hour' is not a whole number"),
        (GOOD + "duration_seconds = 60", "duration_seconds: 60 is not between 900"),
        (GOOD + "max_age = 0", "max_age: '0' is not a number of seconds above 0"),
        (GOOD + "session_cache = maybe", "session_cache: 'maybe' is neither on nor off"),
        (GOOD + "cache = week", "cache: 'week' is none of date, scope, none"),
        (GOOD + "cache = none\nmax_age = 60", "max_age contradicts cache = none"),
        (GOOD + "sts_regional_endpoints = global", "sts_regional_endpoints: 'global'"),
        (GOOD + f"role_arn = {ROLE}\ntags = team", "tags: tags are written as"),
        (GOOD + f"role_arn = {ROLE}\ntags = a=1, a=2", "tags: a tag is there twice"),
        (GOOD + "external_id = x", "external_id cannot be set where there is no role_arn"),
        (GOOD + "tags = a=1\npolicy = {}", "policy, tags cannot be set where there is no role_arn"),
        (GOOD + "source_identity = x", "source_identity cannot be set where"),
        (GOOD + f"mode = direct\nrole_arn = {ROLE}", "role_arn cannot be set where mode = direct"),
        (GOOD + "mode = direct\nduration_seconds = 900", "duration_seconds cannot be set where mode = direct"),
        (GOOD + "mode = direct\nsession_cache = on", "session_cache cannot be set where mode = direct"),
        (GOOD + "mode = direct\nendpoint_url = https://x", "endpoint_url cannot be set where mode = direct"),
        (GOOD + f"source_profile = q\nrole_arn = {ROLE}", "access_key_id, key cannot be set where source_profile"),
        ("source_profile = q", "source_profile needs the role_arn"),
        (f"key = {KEY}\naccess_key_id = ASIAIOSFODNN7EXAMPLE", "belongs to temporary credentials"),
    ],
)  # fmt: skip
def test_what_is_refused(write: Write, lines: str, said: str) -> None:
    block(write, lines)
    with pytest.raises(ConfigError, match=rf"^profile 'p' in .*/config: .*{said}"):
        load_profile("p")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("pkcs11:token=aws?pin-value=1234", "'pin-value' would put a secret"),
        ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "not a key URI"),
    ],
)
def test_key_that_is_no_uri(write: Write, key: str, said: str) -> None:
    block(write, f"key = {key}\naccess_key_id = AKIAIOSFODNN7EXAMPLE")
    with pytest.raises(KeyURIError, match=f"profile 'p' .*: key: .*{said}") as caught:
        load_profile("p")
    assert key[-8:] not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[profile p]\nregion = \xff\xfe\n", r"config is not UTF-8 \(line 2\)"),
        (b"region = x\n", r"does not begin with a \[section\] \(line 1\)"),
        (b"[profile p]\nnonsense\n", r"neither a \[section\] nor name = value \(line 2\)"),
        (b"[profile p]\n[profile p]\n", r"section \[profile p\] is there twice \(line 2\)"),
        (b"[profile p]\nregion = x\nregion = y\n", r"has region twice \(line 3\)"),
        (b"[profile p]\naws_hmac = on\n", "must begin on the line after 'aws_hmac =', indented"),
    ],
)
def test_file_that_cannot_be_read(write: Write, content: bytes, said: str) -> None:
    write(content)
    with pytest.raises(ConfigError, match=said):
        load_profile("p")


def test_secret_of_another_profile_is_not_quoted(write: Write) -> None:
    write("[profile p]\nregion = x\n[profile q]\naws_secret_access_key wJalrXUtnFEMI\n")
    with pytest.raises(ConfigError) as caught:
        load_profile("p")
    assert "wJalrXUtnFEMI" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_byte_order_mark(write: Write) -> None:
    write(b"\xef\xbb\xbf[profile p]\naws_hmac =\n  key = memory:env=S\n  access_key_id = AKIAIOSFODNN7EXAMPLE\n")
    assert str(load_profile("p").key) == "memory:env=S"


def test_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_profile("p")


def test_settings_of_the_profile_itself(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = "region = eu-west-1\nuse_fips_endpoint = true\nca_bundle = /ca.pem\nendpoint_url = https://all.example"
    block(write, GOOD, settings)
    options = load_profile("p")
    assert options.where() == {
        "region": "eu-west-1",
        "sts_regional_endpoints": None,
        "use_fips_endpoint": True,
        "use_dualstack_endpoint": None,
        "endpoint_url": "https://all.example",
        "ca_bundle": "/ca.pem",
    }
    # The environment goes before them, and the block before the environment.
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "false")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://sts.example")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/other.pem")
    options = load_profile("p")
    assert (options.region, options.use_fips_endpoint, options.endpoint_url, options.ca_bundle) == (None,) * 4
    block(write, GOOD + "region = eu-north-1\nendpoint_url = https://mine.example", settings)
    options = load_profile("p")
    assert (options.region, options.endpoint_url) == ("eu-north-1", "https://mine.example")


def test_endpoint_of_a_services_section(write: Write) -> None:
    write(
        "[profile p]\nservices = local\nendpoint_url = https://all.example\n"
        "aws_hmac =\n  key = memory:env=S\n  access_key_id = AKIAIOSFODNN7EXAMPLE\n"
        "[services local]\nsts =\n  endpoint_url = https://sts.example\n"
    )
    assert load_profile("p").endpoint_url == "https://sts.example"


def test_endpoint_for_other_services_does_no_harm_in_direct_mode(write: Write) -> None:
    block(write, GOOD + "mode = direct", "endpoint_url = https://minio.example\nsts_regional_endpoints = legacy")
    assert load_profile("p").mode == "direct"


def test_overrides(write: Write) -> None:
    write(WHOLE)
    options = load_profile("prod", duration_seconds=900, tags={"a": "b"}, external_id=None, session_cache=True)
    assert (options.duration_seconds, options.tags, options.external_id) == (900, {"a": "b"}, "x = y")
    assert options.session_cache
    with pytest.raises(ConfigError, match="no option 'duration'; did you mean 'duration_seconds'"):
        load_profile("prod", duration=900)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("role_arn", 5),
        ("role_arn", "a\nb"),
        ("duration_seconds", True),
        ("duration_seconds", 900.5),
        ("policy_arns", 5),
        ("tags", ["a"]),
        ("tags", {"a": 1}),
        ("tags", {"": "x"}),
        ("max_age", -1),
        ("max_age", True),
        ("session_cache", 1),
    ],
)
def test_arguments_of_the_wrong_kind(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"Session: {name}: "):
        Options({"key": KEY, "access_key_id": "AKIAIOSFODNN7EXAMPLE", "role_arn": ROLE, name: value}, what="Session")


def test_a_given_signer_and_a_key_contradict() -> None:
    with pytest.raises(ConfigError, match="access_key_id, key cannot be set where a signer is given"):
        Options({"key": KEY, "access_key_id": "AKIAIOSFODNN7EXAMPLE"}, what="Session", signer_given=True)


def test_every_option_is_in_the_table() -> None:
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text()
    rows = {line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")}
    own = set(OPTIONS) - {"use_fips_endpoint", "use_dualstack_endpoint", "ca_bundle"}
    assert own <= rows
    assert rows <= set(OPTIONS)
