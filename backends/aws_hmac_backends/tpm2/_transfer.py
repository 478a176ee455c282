"""A key for this TPM, wrapped on a machine that needs none (TPM 2.0, Part 1, section 23: Protected Storage)."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from typing import TYPE_CHECKING

from tpm2_pytss import (
    TPM2_ALG,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE,
    TPMT_KEYEDHASH_SCHEME,
)
from tpm2_pytss.utils import NVReadEK, create_ek_template, wrap

from aws_hmac.errors import ConfigError, KeyMismatchError, KeyURIError, UnsupportedError

from . import _device, _import, _keyfile, _policy, parent_of
from ._device import Device, Object, Work
from ._keyfile import KeyFile
from ._options import MAX_AUTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tpm2_pytss import ESAPI

    from aws_hmac.uri import KeyURI

    from ._options import Options, Secret


def offer(options: Options) -> dict[str, str]:
    """Returns the public area that keys are wrapped to; see `Tpm2Backend.transfer_offer`."""
    if options.pair is not None:
        raise UnsupportedError(f"{options.what}: a raw pair of files can be used, not made; transfer to file=… instead")
    device = Device(options.tcti, options.what)
    try:
        return device.run(lambda esys: _offer(esys, options))
    finally:
        device.close()


def _offer(esys: ESAPI, options: Options) -> dict[str, str]:
    with Work(esys, options) as work:
        which = work.default_parent() if options.parent is None else options.parent
        parent = work.key(which)
        if not _device.is_parent(parent):
            raise UnsupportedError(f"{options.what}: the parent is {_device.kind_of(parent.public)}, no storage key")
        password = options.uri.get("auth-source") is not None
        found = {
            "name": parent.name.hex(),
            "policy": "",
            "parent": _import.text(which),
            "public": base64.b64encode(TPM2B_PUBLIC(publicArea=parent.public).marshal()).decode(),
            "password": "yes" if password else "no",
            "no-da": "yes" if (options.no_da if options.no_da is not None else not password) else "no",
        }
        policy, seen = _import.policy_for(work, password)
        if policy:
            found["pcrs"] = str(options.pcrs)
            found["pcr-record"] = seen
        found["policy"] = _in_words(found)
        if which in _device.EK_TYPES:
            certificate, _ = create_ek_template(_device.EK_TYPES[str(which)], NVReadEK(esys))
            if certificate:
                found["certificate"] = base64.b64encode(certificate).decode()
    return found


def _in_words(given: Mapping[str, str]) -> str:
    """Returns what a key that is wrapped to an offer will ask for."""
    needs = [f"PCRs {given['pcr-record']}"] if "pcrs" in given else []
    needs += ["its password"] if given.get("password") == "yes" else []
    return f"used with {' and '.join(needs)}" if needs else "used by whoever may open the TPM"


def wrap_key(given: Mapping[str, str], key: Secret, *, expect_name: str, password: Secret | None) -> str:
    """Wraps a key to an offered parent, in the form that TPM2_Import takes; see `Tpm2Backend.transfer_wrap`."""
    if not key.value:
        raise ConfigError("the key is empty")
    parent = _public(given)
    name = bytes(parent.get_name()).hex()
    if expect_name.lower().removeprefix("0x") != name:
        raise KeyMismatchError(
            f"the offered key has the name {name}, not the expected one; ask the target's owner what its TPM is called"
        )
    _check_certificate(given, parent)
    if (given.get("password") == "yes") != (password is not None):
        wanted = "asks for a password: give --auth-source" if password is None else "asks for no password"
        raise ConfigError(f"the offer {wanted}")
    if password is not None and len(password.value) > MAX_AUTH:
        raise ConfigError(f"the password is longer than {MAX_AUTH} bytes, the most that a TPM takes")
    policy = _policy_of(given)
    if given.get("policy") != _in_words(given):
        raise ConfigError("the offer is damaged: it says in words another policy than it asks for")
    area = _import.public_area(policy, no_da=given.get("no-da") == "yes", fixed=False).publicArea
    scheme = TPMT_KEYEDHASH_SCHEME(scheme=TPM2_ALG.HMAC)
    scheme.details.hmac.hashAlg = TPM2_ALG.SHA256
    secret, public = TPM2B_SENSITIVE.keyedhash_from_secret(
        key.value, objectAttributes=int(area.objectAttributes), scheme=scheme
    )
    public.publicArea.authPolicy = bytes(area.authPolicy)
    if password is not None:
        secret.sensitiveArea.authValue = password.value
    _, duplicate, seed = wrap(parent.publicArea, public, secret)
    notes = {"Parent": given.get("parent", ""), "Parent-Name": name}
    if policy:
        notes["PCR-Record"] = given["pcr-record"]
    handle = int(notes["Parent"], 0) if notes["Parent"].startswith("0x") else _import.hierarchy_of(notes["Parent"])
    file = KeyFile(
        public=public,
        private=duplicate,
        parent=handle,
        empty_auth=password is None,
        policy=policy,
        secret=seed.marshal(),
        notes=notes,
    )
    return file.to_pem().decode()


def receive(options: Options, wrapped: str, *, overwrite: bool, label: str | None) -> KeyURI:
    """Takes a wrapped key in; see `Tpm2Backend.transfer_receive`."""
    file = _keyfile.parse(wrapped.encode(), "the wrapped key")
    if file.secret is None:
        raise KeyURIError("the wrapped key: is no importable key, it belongs to a TPM already")
    if not _device.is_hmac_sha256(file.public.publicArea):
        raise UnsupportedError(f"the wrapped key: is {_device.kind_of(file.public.publicArea)}, not for HMAC-SHA256")
    # A policy that the file does not spell out could let the key out again.
    expected = _policy.digest_of(file.policy) if file.policy else b""
    if bytes(file.public.publicArea.authPolicy) != expected or any(
        c.code not in (_policy.POLICY_AUTH_VALUE.code, _policy.POLICY_PCR) for c in file.policy
    ):
        raise UnsupportedError("the wrapped key: has a policy that it does not spell out, and which may let it out")
    if (options.uri.get("auth-source") is None) != file.empty_auth:
        raise ConfigError(
            "the wrapped key: has a password; add auth-source=…"
            if not file.empty_auth
            else "the wrapped key: has no password; leave auth-source out"
        )
    if options.pcrs is not None and _policy.pcrs_of(file.policy) != options.pcrs:
        raise ConfigError(f"the wrapped key: is not bound to the PCRs {options.pcrs} that the URI names")

    def make(work: Work, parent: Object) -> KeyFile:
        if file.notes.get("Parent-Name") not in (None, parent.name.hex()):
            raise KeyMismatchError(
                f"the wrapped key: is for a TPM key named {file.notes['Parent-Name']};"
                f" this one is {parent.name.hex()}: another TPM, or another parent=…"
            )
        private: TPM2B_PRIVATE = _import.take_in(work, parent, file)
        notes = {k: v for k, v in file.notes.items() if k == "PCR-Record"}
        return dataclasses.replace(file, private=private, secret=None, notes=notes)

    if options.parent is None:
        device = Device(options.tcti, options.what)
        try:
            with_parent = device.run(lambda esys: _parent(esys, options, file))
        finally:
            device.close()
        options = dataclasses.replace(options, parent=with_parent)
    return _import.place(options, make, overwrite=overwrite, label=label)


def _parent(esys: ESAPI, options: Options, file: KeyFile) -> int | str:
    with Work(esys, options) as work:
        return parent_of(work, file)


def _public(given: Mapping[str, str]) -> TPM2B_PUBLIC:
    try:
        data = base64.b64decode(given["public"], validate=True)
        public, used = TPM2B_PUBLIC.unmarshal(data)
    except (KeyError, binascii.Error, ValueError, RuntimeError) as exc:
        raise ConfigError("the offer is damaged: it holds no public area of a TPM key") from exc
    if used != len(data) or int(public.publicArea.nameAlg) != TPM2_ALG.SHA256:
        raise ConfigError("the offer is damaged: it holds no public area of a TPM key with a SHA-256 name")
    if int(public.publicArea.type) not in (TPM2_ALG.RSA, TPM2_ALG.ECC):
        raise ConfigError("the offered key is no asymmetric key, so nothing can be wrapped to it")
    return public


def _policy_of(given: Mapping[str, str]) -> tuple[_policy.Command, ...]:
    if "pcrs" not in given:
        return ()
    try:
        pcrs = _policy.Pcrs.parse(given["pcrs"])
        seen = {k: bytes.fromhex(v) for k, v in _policy.parse_record(given["pcr-record"]).items()}
        values = {(bank, n): seen[bank, n] for bank, numbers in pcrs.banks for n in numbers}
    except (KeyURIError, KeyError, ValueError) as exc:
        raise ConfigError("the offer is damaged: its PCR values cannot be read") from exc
    commands = [_policy.policy_pcr(pcrs, _policy.pcr_digest(values))]
    if given.get("password") == "yes":
        commands.append(_policy.POLICY_AUTH_VALUE)
    return tuple(commands)


def _check_certificate(given: Mapping[str, str], public: TPM2B_PUBLIC) -> None:
    """Compares the key in the TPM maker's certificate with the offered one; who signed it is for people to check."""
    if "certificate" not in given:
        return
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_der_x509_certificate

    try:
        certificate = load_der_x509_certificate(_one_der(base64.b64decode(given["certificate"], validate=True)))
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (binascii.Error, ValueError) as exc:
        raise ConfigError("the offer is damaged: its EK certificate cannot be read") from exc
    if spki != public.to_der():
        raise KeyMismatchError("the offer's EK certificate is for another key than the offered one")


def _one_der(data: bytes) -> bytes:
    """Returns the first DER value: makers fill the NV index that holds the certificate."""
    from asn1crypto.parser import parse

    _, _, _, header, content, trailer = parse(data)
    return bytes(header + content + trailer)
