"""``vault``: an HMAC key in the Transit engine of HashiCorp Vault or OpenBao.

Attributes of the URI; the first three say which key and stand before ``?``, the others say how to reach it:

===================== =====================================================================================
``key``               the name of a Transit key of type ``hmac``; required
``mount``             where Transit is mounted: ``transit`` if left out
``version``           the key's version, which stays pinned; the latest at opening if left out
``addr``              Vault's address, or several with commas, tried in turn; ``VAULT_ADDR``, ``BAO_ADDR``
``namespace``         Vault Enterprise's or OpenBao's namespace; ``VAULT_NAMESPACE``
``ca-file``           the authority of Vault's certificate, a file or directory; ``VAULT_CACERT``, ``VAULT_CAPATH``
``cert-file``         this client's certificate; ``VAULT_CLIENT_CERT``
``key-file``          its key; ``VAULT_CLIENT_KEY``
``proxy``             a proxy's URL, or ``none``; ``VAULT_PROXY_ADDR``, ``HTTPS_PROXY``, ``NO_PROXY``
``timeout``           seconds for one answer: 10 if left out; ``VAULT_CLIENT_TIMEOUT``
``patience``          seconds that one HMAC goes on asking while Vault fails over or is busy: 30 if left out
``auth``              ``token`` (if left out), ``approle``, ``kubernetes``, ``jwt``, ``cert``, ``userpass``, or
                      ``none`` for the address of a Vault Agent that adds its own token
``auth-mount``        where that method is mounted: its name if left out
``token-source``      token: where the token is; else ``VAULT_TOKEN``, ``BAO_TOKEN``, ``~/.vault-token``,
                      ``~/.bao-token``
``role-id``           approle: the role_id
``secret-id-source``  approle: where the secret_id is
``secret-id-wrapped`` approle: ``true`` if that is a response-wrapping token, unwrapped once
``role``              kubernetes, jwt: the role; cert: the certificate role, if there are several
``jwt-source``        jwt, kubernetes: where the JWT is; in a pod, its service account's token if left out
``username``          userpass: the user
``password-source``   userpass: where the password is
``old-versions``      only for an import over a key: ``refuse`` (if left out) or ``keep`` the versions before it
===================== =====================================================================================

Example: ``vault:key=aws-prod;version=1?addr=https://vault:8200&token-source=file:/run/secrets/token``.
Permissions needed: update on ``transit/hmac/KEY/sha2-256`` and read on ``transit/keys/KEY``; the whole policy is
printed by ``aws-hmac key policy``.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from aws_hmac.backend import (
    MAC_SIZE,
    Diagnosable,
    Finding,
    HmacBackend,
    KeyDeleter,
    KeyEntry,
    KeyImporter,
    KeyInspector,
    KeyLister,
    PolicyPrinter,
    shorten,
)
from aws_hmac.errors import (
    DeviceError,
    Error,
    KeyExistsError,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPolicyError,
    UnsupportedError,
)
from aws_hmac.uri import KeyURI
from aws_hmac_backends.vault import _connection, _policy
from aws_hmac_backends.vault._cluster import NoEngineError
from aws_hmac_backends.vault._connection import Connection, data_of

if TYPE_CHECKING:
    from typing_extensions import Self

MIN_KEY_SIZE = 32
"""Bytes that Transit wants at least of an HMAC key (its API documentation, "Create key", key_size)."""

WRAPPING_KEY_BITS = 4096
"""Transit's wrapping key (its API documentation, "Get wrapping key")."""

_MAC = re.compile(r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]+={0,2})", re.ASCII)
_SHOWN = 10
_SETTLING = 5.0
"""Seconds within which every node of a cluster should know of an import."""

_IMPORT_CHECK = b"aws-hmac import check"


class VaultBackend(HmacBackend, KeyImporter, KeyInspector, KeyLister, KeyDeleter, PolicyPrinter, Diagnosable):
    """One version of a Transit key of type ``hmac``.

    Args:
        connection: an open way to Vault, which the backend closes.
        key: the key's name.
        version: the version to pin, or None for the latest there is now.

    Raises:
        KeyNotFoundError: there is no such key or version.
        KeyPolicyError: the token may not look at the key, or the version is below its minimum.
        UnsupportedError: the key is of another type.
        AuthenticationError, DeviceError: as their names say.
    """

    def __init__(self, connection: Connection, key: str, version: int | None) -> None:
        self._connection = connection
        self._key = key
        self.name = connection.name
        self._closed = False
        try:
            facts = connection.key(key)
        except NoEngineError:
            raise
        except KeyNotFoundError as exc:
            raise KeyNotFoundError(f"{exc}{_others(connection)}") from exc
        _hmac_only(self.name, facts)
        latest = _number(facts, "latest_version")
        self._version = latest if version is None else version
        if self._version > latest:
            raise KeyNotFoundError(f"{self.name}: there is no version {self._version}; the latest is {latest}")
        lowest = max(_number(facts, "min_decryption_version"), _number(facts, "min_encryption_version"))
        if self._version < lowest:
            raise KeyPolicyError(
                f"{self.name}: version {self._version} is below the key's minimum of {lowest}: it was rotated; use the"
                " URI that the last import printed"
            )

    @classmethod
    def from_uri(cls, uri: KeyURI, /) -> Self:
        """Opens the key that a URI names."""
        connection = Connection(uri)
        try:
            return cls(connection, uri.require("key"), _connection.version(uri))
        except BaseException:
            connection.close()
            raise

    def hmac_sha256(self, message: bytes, /) -> bytes:
        """Returns HMAC-SHA256(key, message), by ``transit/hmac/KEY/sha2-256``.

        Raises:
            AuthenticationError: the token is gone and no other can be had.
            KeyPolicyError: the token may not, or the version is below the key's minimum.
            KeyNotFoundError: the key is gone.
            KeyMismatchError: another version answered.
            DeviceError: Vault is sealed, away, or answered what is no HMAC.
        """
        if self._closed:
            raise DeviceError(f"{self.name}: closed")
        return _hmac(self._connection, self._key, self._version, message)

    def close(self) -> None:
        """Gives back the token, if it came from a login, and the connections."""
        if not self._closed:
            self._closed = True
            self._connection.close()

    # -- what Vault can do besides -------------------------------------------------------------------------------

    @classmethod
    def import_key(
        cls,
        uri: KeyURI,
        key: bytes,
        *,
        overwrite: bool = False,
        label: str | None = None,  # noqa: ARG003 - Transit keys carry no labels
    ) -> KeyURI:
        """Wraps a key for Transit's wrapping key and imports it; over a key, as its next version.

        Args:
            uri: where the key goes; its version is ignored, as Vault numbers them.
            key: the HMAC key.
            overwrite: adds a version to a key that is there, and refuses the versions before it once it is proven
                (unless ``old-versions=keep``).
            label: not kept.

        Returns:
            The URI with the version that was imported.
        """
        name = uri.require("key")
        connection = Connection(uri)
        try:
            try:
                facts: dict[str, Any] | None = connection.key(name)
            except NoEngineError:
                raise
            except KeyNotFoundError:
                facts = None
            if facts is not None:
                if not overwrite:
                    raise KeyExistsError(
                        f"{connection.name}: there is a key (version {facts.get('latest_version')}); --overwrite"
                        " imports the next version"
                    )
                _hmac_only(connection.name, facts)
                _refuse_unsafe(connection.name, facts)
            version = _import(connection, name, key, facts)
        finally:
            connection.close()
        return _named(uri, name, version)

    @classmethod
    def list_keys(cls, uri: KeyURI) -> list[KeyEntry]:
        """Returns the keys of type ``hmac`` in a mount, or the one that is named."""
        connection = Connection(uri)
        try:
            named = uri.get("key")
            names = [named] if named else _names(connection)
            entries = []
            for name in names:
                facts = connection.key(name)
                if facts["type"] != "hmac":
                    continue
                latest = _number(facts, "latest_version")
                pinned = _connection.version(uri) if named else None
                description = f"hmac, {'imported' if facts.get('imported_key') else 'made by Vault'}, latest {latest}"
                entries.append(KeyEntry(str(_named(uri, name, pinned or latest)), description))
            return entries
        finally:
            connection.close()

    @classmethod
    def delete_key(cls, uri: KeyURI) -> None:
        """Deletes a key with its only version; a signer's or importer's policy does not allow it."""
        name = uri.require("key")
        connection = Connection(uri)
        try:
            latest = _number(connection.key(name), "latest_version")
            if _connection.version(uri) is not None and latest > 1:
                raise UnsupportedError(
                    f"{connection.name}: Vault deletes all {latest} versions of a key at once; leave version out if"
                    " that is meant"
                )
            path = f"/v1/{connection.mount}/keys/{name}"
            connection.ask(
                f"allow the key to be deleted (update on {path[4:]}/config)",
                lambda: connection.cluster.post(f"{path}/config", json={"deletion_allowed": True}),
            )
            connection.ask(
                f"delete the key (delete on {path[4:]})",
                lambda: connection.client.secrets.transit.delete_key(name, mount_point=connection.mount),
            )
        finally:
            connection.close()

    @classmethod
    def policy(cls, uri: KeyURI, role: Literal["signer", "importer"]) -> str:
        """Returns the least policy of Vault for a key."""
        _connection.check(uri)
        text = _policy.signer if role == "signer" else _policy.importer
        return text(_connection.mount(uri), uri.require("key"))

    def inspect(self) -> list[Finding]:
        """Returns what Vault tells of the key's flags and versions, and of what this token could do."""
        connection, mount = self._connection, self._connection.mount
        if self._closed:
            raise DeviceError(f"{self.name}: closed")
        found = _flags(connection.key(self._key), f"{mount}/keys/{self._key}", self._version)
        paths = [power.path for power in _policy.powers(mount, self._key)]
        try:
            answer = connection.ask(
                "ask what it may do (update on sys/capabilities-self)",
                lambda: connection.client.sys.get_capabilities(paths),
            )
        except KeyPolicyError:
            found.append(Finding("info", "token", "it may not ask what it may do (update on sys/capabilities-self)"))
        else:
            granted = {p: c for p, c in data_of(answer).items() if isinstance(c, list)}
            if not granted.keys() >= set(paths):
                raise DeviceError(f"{self.name}: Vault's answer does not say what the token may do")
            found += _policy.judge(granted, mount, self._key)
        for address in connection.cluster.addresses:
            if _connection.in_clear(address):
                found.append(
                    Finding("bad", "address", f"{address} is not encrypted: token and HMACs can be read", "use https")
                )
        rank = {"bad": 0, "warning": 1, "good": 2, "info": 3}
        return sorted(found, key=lambda finding: rank[finding.level])

    @classmethod
    def diagnose(cls, uri: KeyURI | None) -> list[Finding]:
        """Asks each address for its health, then tries the login and the key."""
        from aws_hmac_backends.vault._health import diagnose

        return diagnose(cls, uri)


def _named(uri: KeyURI, key: str, version: int) -> KeyURI:
    """The URI of one version of a key, in the order that people read best."""
    mount = {k: v for k, v in uri.path.items() if k == "mount"}
    query = {k: v for k, v in uri.query.items() if k != "old-versions"}
    return KeyURI(uri.scheme, {"key": key, **mount, "version": str(version)}, query)


def _hmac(connection: Connection, key: str, version: int, message: bytes) -> bytes:
    path = f"{connection.mount}/hmac/{key}/sha2-256"
    body = {"input": base64.b64encode(message).decode(), "key_version": version}
    answer = connection.ask(
        f"make an HMAC (update on {path})", lambda: connection.cluster.post(f"/v1/{path}", json=body)
    )
    match = _MAC.fullmatch(str(data_of(answer).get("hmac")))
    if match is None:
        raise DeviceError(f"{connection.name}: Vault's answer is no HMAC of the form vault:v{version}:…")
    if int(match[1]) != version:
        raise KeyMismatchError(f"{connection.name}: version {match[1]} answered where version {version} was asked")
    try:
        mac = base64.b64decode(match[2], validate=True)
    except binascii.Error as exc:
        raise DeviceError(f"{connection.name}: Vault's HMAC is not base64") from exc
    if len(mac) != MAC_SIZE:
        raise DeviceError(f"{connection.name}: Vault answered {len(mac)} bytes, an HMAC-SHA256 has {MAC_SIZE}")
    return mac


def _import(connection: Connection, name: str, key: bytes, facts: dict[str, Any] | None) -> int:
    base = f"{connection.mount}/keys/{name}"
    target = base + ("/import" if facts is None else "/import_version")
    # Zero bytes up to the block size change no HMAC (RFC 2104, section 2), and Transit wants 32.
    material = bytearray(shorten(key).ljust(MIN_KEY_SIZE, b"\0"))
    body = {"ciphertext": _wrapped(connection, material), "hash_function": "SHA256"}
    if facts is None:
        # Everything else is false by default, and the importer's policy lets nothing else through.
        body["type"] = "hmac"
    before = 0 if facts is None else _number(facts, "latest_version")
    try:
        try:
            connection.ask(
                f"import (update on {target})", lambda: connection.cluster.post(f"/v1/{target}", json=body, once=True)
            )
        except DeviceError:
            # The answer was lost, and perhaps it alone. Never sent twice; what is there now tells.
            if not _arrived(connection, name, before):
                raise
        now, mac = _first_use(connection, name, before)
        version = _number(now, "latest_version")
        _refuse_another(connection.name, version, mac, hmac.digest(material, _IMPORT_CHECK, "sha256"))
        _refuse_unsafe(connection.name, now)
    except (KeyMismatchError, KeyPolicyError):
        if facts is None:
            with suppress(Error):  # an importer may not delete; then the error alone must tell
                VaultBackend.delete_key(connection.uri)
        raise
    finally:
        material[:] = bytes(len(material))
    if facts is not None and connection.uri.get("old-versions", "refuse") == "refuse":
        minimum = {"min_decryption_version": version, "min_encryption_version": version}
        connection.ask(
            f"refuse old versions (update on {base}/config)",
            lambda: connection.cluster.post(f"/v1/{base}/config", json=minimum),
        )
    return version


def _arrived(connection: Connection, name: str, before: int) -> bool:
    with suppress(Error):
        return _number(connection.key(name), "latest_version") > before
    return False


def _first_use(connection: Connection, name: str, before: int) -> tuple[dict[str, Any], bytes]:
    """Looks at a version that was just imported, and has it make one HMAC.

    A performance standby of Vault Enterprise may know of it a little later than the node that took it.
    """
    until = time.monotonic() + _SETTLING
    while True:
        try:
            facts = connection.key(name)
            version = _number(facts, "latest_version")
            if version > before:
                return facts, _hmac(connection, name, version, _IMPORT_CHECK)
        except KeyNotFoundError:
            if time.monotonic() > until:
                raise
        if time.monotonic() > until:
            raise DeviceError(f"{connection.name}: Vault took the import, but shows no version after {before}")
        time.sleep(0.1)


def _wrapped(connection: Connection, material: bytearray) -> str:
    """RSA-OAEP-SHA256(ephemeral AES key), then AES-KWP(key) (Transit's API documentation, "Import key")."""
    path = f"{connection.mount}/wrapping_key"
    answer = connection.ask(f"fetch the wrapping key (read on {path})", lambda: connection.cluster.get(f"/v1/{path}"))
    try:
        public = serialization.load_pem_public_key(str(data_of(answer).get("public_key")).encode())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise DeviceError(f"{connection.name}: Vault's wrapping key cannot be read") from exc
    if not isinstance(public, rsa.RSAPublicKey) or public.key_size != WRAPPING_KEY_BITS:
        raise DeviceError(f"{connection.name}: Vault's wrapping key is not RSA with {WRAPPING_KEY_BITS} bits")
    ephemeral = os.urandom(32)
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    blob = public.encrypt(ephemeral, oaep) + keywrap.aes_key_wrap_with_padding(ephemeral, bytes(material))
    return base64.b64encode(blob).decode()


def _names(connection: Connection) -> list[str]:
    try:
        answer = connection.ask(
            f"list keys (list on {connection.mount}/keys)",
            lambda: connection.client.secrets.transit.list_keys(mount_point=connection.mount),
        )
    except NoEngineError:
        raise
    except KeyNotFoundError:
        return []  # Vault's way to say that there are none
    keys = data_of(answer).get("keys")
    return [k for k in keys if isinstance(k, str) and not k.endswith("/")] if isinstance(keys, list) else []


def _others(connection: Connection) -> str:
    """The keys that are there, for a message; nothing if the token may not list them."""
    try:
        names = _names(connection)
    except Error:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"; there are {', '.join(names[:_SHOWN])}{more}" if names else "; there are none"


def _number(facts: dict[str, Any], name: str) -> int:
    value = facts.get(name, 0)
    if not isinstance(value, int):
        raise DeviceError(f"Vault's answer has no number for {name}")
    return value


def _hmac_only(name: str, facts: dict[str, Any]) -> None:
    if facts["type"] != "hmac":
        raise UnsupportedError(
            f"{name}: the key is of type {facts['type']}, which makes HMACs with another, random key; only keys of"
            " type hmac can sign"
        )


def _refuse_another(name: str, version: int, mac: bytes, expected: bytes) -> None:
    if not hmac.compare_digest(mac, expected):
        raise KeyMismatchError(
            f"{name}: version {version} is not the key that was imported; somebody else imported at the same time, or"
            " this is not Vault"
        )


def _refuse_unsafe(name: str, facts: dict[str, Any]) -> None:
    for flag in ("exportable", "allow_plaintext_backup"):
        if facts.get(flag):
            raise KeyPolicyError(
                f"{name}: the key is {flag}, for good: what is imported here could be read; choose another name"
            )
    if facts.get("imported_key") is False:
        raise UnsupportedError(
            f"{name}: the key was made by Vault, or rotated by it: it takes no imports; choose another"
        )


def _flags(facts: dict[str, Any], path: str, version: int) -> list[Finding]:
    found = []

    def flag(name: str, level: Literal["warning", "bad"], bad: str, good: str, mend: str) -> None:
        if facts.get(name):
            found.append(Finding(level, name, bad, mend))
        else:
            found.append(Finding("good", name, good))

    again = "import the key under another name, rotate the access key, delete this one"
    flag(
        "exportable", "bad", "the key can be read by whoever may export; for good", "the key cannot be exported", again
    )
    flag(
        "allow_plaintext_backup",
        "bad",
        "the key can be backed up in plaintext; for good",
        "no plaintext backup",
        again,
    )
    flag(
        "deletion_allowed",
        "warning",
        "the key can be deleted",
        "the key cannot be deleted",
        f"vault write {path}/config deletion_allowed=false",
    )
    flag(
        "imported_key_allow_rotation",
        "warning",
        "Vault may rotate it, to a random key that AWS does not know",
        "Vault does not rotate it",
        "deny rotate by policy, or import anew",
    )
    flag(
        "auto_rotate_period",
        "bad",
        "Vault will rotate it by itself, to a random key that AWS does not know",
        "no automatic rotation",
        f"vault write {path}/config auto_rotate_period=0",
    )
    if facts.get("imported_key") is False:
        found.append(Finding("warning", "imported_key", "Vault made this key, so AWS does not know it", again))
    latest, lowest = _number(facts, "latest_version"), _number(facts, "min_decryption_version")
    lowest = max(lowest, _number(facts, "min_encryption_version"))
    if version < latest:
        found.append(
            Finding("warning", "version", f"version {version} is used, {latest} is the latest", "use the latest URI")
        )
    elif lowest < version:
        found.append(
            Finding(
                "warning",
                "version",
                f"versions from {lowest} on can still be used; {version} is the latest",
                f"vault write {path}/config min_decryption_version={version} min_encryption_version={version}",
            )
        )
    else:
        found.append(Finding("good", "version", f"version {version} is the only one that can be used"))
    return found
