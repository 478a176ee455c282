"""Who may do what: the least policies, and what a token could do that a signer should not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from aws_hmac.backend import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OWN_LINES = """\
# The token itself. Vault's "default" policy has these too; here they serve a token made without it.
path "auth/token/lookup-self"  { capabilities = ["read"] }
path "auth/token/renew-self"   { capabilities = ["update"] }
path "auth/token/revoke-self"  { capabilities = ["update"] }
path "sys/capabilities-self"   { capabilities = ["update"] }
"""


def signer(mount: str, key: str) -> str:
    """Returns the policy of those who sign."""
    return f"""\
# aws-hmac: sign with {mount}/{key}, and nothing else.
path "{mount}/hmac/{key}/sha2-256" {{ capabilities = ["update"] }}
path "{mount}/keys/{key}"          {{ capabilities = ["read"] }}  # type, versions, flags; not the key

{_OWN_LINES}
# Denied outright, so that a broader policy on the same token does not give them.
{_denials(mount, key)}"""


def importer(mount: str, key: str) -> str:
    """Returns the policy of those who put the key in and rotate it."""
    return f"""\
# aws-hmac: import {mount}/{key}, prove that it arrived, rotate it. It cannot be made exportable by this.
path "{mount}/wrapping_key" {{ capabilities = ["read"] }}
path "{mount}/keys/{key}" {{ capabilities = ["read"] }}
path "{mount}/keys/{key}/import" {{
  capabilities       = ["update"]
  allowed_parameters = {{
    "type"          = ["hmac"]
    "hash_function" = ["SHA256"]
    "ciphertext"    = []
  }}
}}
path "{mount}/keys/{key}/import_version" {{
  capabilities       = ["update"]
  allowed_parameters = {{
    "hash_function" = ["SHA256"]
    "ciphertext"    = []
  }}
}}
path "{mount}/keys/{key}/config" {{
  capabilities       = ["update"]
  allowed_parameters = {{
    "min_decryption_version" = []
    "min_encryption_version" = []
  }}
}}
path "{mount}/hmac/{key}/sha2-256" {{ capabilities = ["update"] }}

{_OWN_LINES}"""


class Power(NamedTuple):
    """Something that a signer's token should not be able to do."""

    path: str
    capabilities: frozenset[str]
    meaning: str
    level: Literal["warning", "bad"]


_ANY = frozenset({"create", "update", "patch", "delete", "sudo", "read"})
_WRITE = frozenset({"create", "update", "patch", "sudo"})


def powers(mount: str, key: str) -> list[Power]:
    """Returns what a signer should not be able to do, the worst first."""
    return [
        Power(f"{mount}/export/hmac-key/{key}", _ANY, "export the key, were it ever exportable", "bad"),
        Power(f"{mount}/backup/{key}", _ANY, "back the key up in plaintext, were that ever allowed", "bad"),
        Power(f"{mount}/byok-export/any/{key}", _ANY, "export the key wrapped for another", "bad"),
        Power(f"{mount}/keys/{key}/config", _WRITE, "make the key exportable or deletable", "bad"),
        Power("sys/raw/logical", _ANY, "read Vault's storage", "bad"),
        Power("sys/policies/acl/any", _WRITE, "write policies, and so give itself any right", "bad"),
        Power(f"sys/mounts/{mount}", _WRITE | {"delete"}, "unmount or tune the engine", "bad"),
        Power(
            f"{mount}/keys/{key}", frozenset({"delete", "sudo"}), "delete the key, were that ever allowed", "warning"
        ),
        Power(f"{mount}/keys/{key}/import_version", _WRITE, "replace the key", "warning"),
        Power(f"{mount}/keys/{key}/rotate", _WRITE, "replace the key by a random one, were that allowed", "warning"),
        Power(f"{mount}/keys/{key}/trim", _WRITE, "remove old versions", "warning"),
        Power(f"{mount}/restore/{key}", _WRITE, "replace the key from a backup", "warning"),
        Power(f"{mount}/hmac/any-other-key/sha2-256", _WRITE, "make HMACs with other keys of this mount", "warning"),
    ]


def _denials(mount: str, key: str) -> str:
    paths = [
        f"{mount}/keys/{key}/config",
        f"{mount}/keys/{key}/rotate",
        f"{mount}/keys/{key}/trim",
        f"{mount}/keys/{key}/import",
        f"{mount}/keys/{key}/import_version",
        f"{mount}/export/+/{key}",
        f"{mount}/export/+/{key}/*",
        f"{mount}/backup/{key}",
        f"{mount}/restore/{key}",
        f"{mount}/byok-export/+/{key}",
        f"{mount}/byok-export/+/{key}/*",
        "sys/raw/*",
    ]
    width = max(map(len, paths)) + 2
    return "".join(f'path {quoted:{width}} {{ capabilities = ["deny"] }}\n' for quoted in (f'"{p}"' for p in paths))


def judge(granted: Mapping[str, Sequence[str]], mount: str, key: str) -> list[Finding]:
    """Returns what the answer of ``sys/capabilities-self`` means for a signer."""
    if any("root" in capabilities for capabilities in granted.values()):
        return [
            Finding(
                "bad",
                "token",
                "it is a root token: it can do everything, also make the key readable by policy and configuration",
                "aws-hmac key policy prints the policy of a signer; make a token with that and revoke this one",
            )
        ]
    found = []
    for power in powers(mount, key):
        has = sorted(power.capabilities & set(granted.get(power.path, ())))
        if has:
            text = f"the token could {power.meaning} ({', '.join(has)} on {power.path})"
            found.append(Finding(power.level, "token", text, "give the signer only what aws-hmac key policy prints"))
    if not found:
        found.append(Finding("good", "token", "it can do nothing with this key but ask for HMACs and look at it"))
    return found
