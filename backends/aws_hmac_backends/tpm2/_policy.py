"""PCR selections and policies: what must be true before the TPM uses a key."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2_CC, TPM2B_DIGEST, TPML_DIGEST, TPML_PCR_SELECTION

from aws_hmac.errors import KeyPolicyError, KeyURIError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DIGEST_SIZE = 32
"""Bytes of a policy digest of our keys, whose name algorithm is SHA-256."""

_BANKS = {
    "sha1": int(TPM2_ALG.SHA1),
    "sha256": int(TPM2_ALG.SHA256),
    "sha384": int(TPM2_ALG.SHA384),
    "sha512": int(TPM2_ALG.SHA512),
}
BANK_NAMES = {number: name for name, number in _BANKS.items()}
_RECORD_MIN = 8


class Command(NamedTuple):
    """One TPM2_Policy… command.

    Attributes:
        code: its TPM_CC.
        body: its parameters, as the key file format holds them.
    """

    code: int
    body: bytes = b""


class Pcrs(NamedTuple):
    """PCRs of one or more banks.

    Attributes:
        banks: (bank, PCR numbers in rising order), in the order in which they are hashed.
    """

    banks: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def parse(cls, text: str) -> Pcrs:
        """Reads tpm2-tools' notation, ``sha256:0,7+sha1:4``.

        Raises:
            KeyURIError: it is none.
        """
        banks = []
        for part in text.split("+"):
            bank, colon, numbers = part.partition(":")
            if bank not in _BANKS or not colon or not re.fullmatch(r"[0-9]{1,2}(,[0-9]{1,2})*", numbers):
                raise KeyURIError(f"tpm2: URI: pcrs={text} is not a list of PCRs, as in pcrs=sha256:0,7")
            found = tuple(sorted({int(n) for n in numbers.split(",")}))
            if found[-1] > 23:
                raise KeyURIError(f"tpm2: URI: pcrs={text}: a TPM has the PCRs 0 to 23")
            banks.append((bank, found))
        if len({b for b, _ in banks}) != len(banks):
            raise KeyURIError(f"tpm2: URI: pcrs={text} names a bank twice")
        return cls(tuple(banks))

    @classmethod
    def of(cls, selection: TPML_PCR_SELECTION) -> Pcrs:
        """Returns what a TPML_PCR_SELECTION holds."""
        banks = []
        for entry in selection:
            mask = int.from_bytes(bytes(entry.pcrSelect[0 : entry.sizeofSelect]), "little")
            number = int(entry.hash)
            if number not in BANK_NAMES:
                raise UnsupportedError(
                    f"the key's policy names a PCR bank (algorithm 0x{number:x}) that is unknown here"
                )
            banks.append((BANK_NAMES[number], tuple(n for n in range(24) if mask >> n & 1)))
        return cls(tuple(banks))

    def __str__(self) -> str:
        return "+".join(f"{bank}:{','.join(map(str, numbers))}" for bank, numbers in self.banks)

    def selection(self) -> TPML_PCR_SELECTION:
        """Returns the TPM's form."""
        return TPML_PCR_SELECTION.parse(str(self))

    def read(self, esys: ESAPI) -> dict[tuple[str, int], bytes]:
        """Returns the PCRs' values now, in the order in which they are hashed.

        Raises:
            KeyPolicyError: the TPM has no such bank.
        """
        values = {}
        for bank, numbers in self.banks:
            left = list(numbers)
            while left:  # TPM2_PCR_Read answers at most eight
                _, chosen, digests = esys.pcr_read(f"{bank}:{','.join(map(str, left))}")
                got = [n for _, some in Pcrs.of(chosen).banks for n in some]
                if not got:
                    raise KeyPolicyError(f"the TPM has no PCR bank {bank} (tpm2_getcap pcrs lists its banks)")
                values.update({(bank, n): bytes(d) for n, d in zip(got, digests, strict=False)})
                left = [n for n in left if n not in got]
        return {(bank, n): values[bank, n] for bank, numbers in self.banks for n in numbers}


def pcr_digest(values: Mapping[tuple[str, int], bytes]) -> bytes:
    """Returns the hash of PCR values in order (TPM 2.0, Part 3, TPM2_PolicyPCR)."""
    return hashlib.sha256(b"".join(values.values())).digest()


def record(values: Mapping[tuple[str, int], bytes], *, digits: int = 64) -> str:
    """Returns PCR values as text, ``sha256:7=1a2b…,14=…+sha1:…``; shortened, they still tell which one changed."""
    banks: dict[str, list[str]] = {}
    for (bank, number), value in values.items():
        banks.setdefault(bank, []).append(f"{number}={value.hex()[:digits]}")
    return "+".join(f"{bank}:{','.join(entries)}" for bank, entries in banks.items())


def parse_record(text: str) -> dict[tuple[str, int], str]:
    """Reads what `record` wrote.

    Raises:
        KeyURIError: it is none.
    """
    values = {}
    for part in text.split("+"):
        bank, _, entries = part.partition(":")
        for entry in entries.split(","):
            match = re.fullmatch(rf"([0-9]{{1,2}})=([0-9a-f]{{{_RECORD_MIN},128}})", entry)
            if bank not in _BANKS or not match:
                raise KeyURIError("tpm2: pcr-record is not a list as in sha256:7=1a2b3c4d5e6f7a8b")
            values[bank, int(match[1])] = match[2]
    return values


def changed(recorded: Mapping[tuple[str, int], str], now: Mapping[tuple[str, int], bytes]) -> list[str]:
    """Returns the PCRs whose value is no longer the one recorded, as ``sha256:7``."""
    return [
        f"{bank}:{n}"
        for (bank, n), value in recorded.items()
        if (bank, n) in now and not now[bank, n].hex().startswith(value)
    ]


def policy_pcr(pcrs: Pcrs, digest: bytes = b"") -> Command:
    """Returns TPM2_PolicyPCR; with an empty digest whatever the PCRs hold when it runs.

    The body is selection then digest, as the OpenSSL engine and the kernel's trusted keys write it into key
    files, and as the policy digest is computed.
    """
    return Command(int(TPM2_CC.PolicyPCR), pcrs.selection().marshal() + digest)


def policy_or(branches: Sequence[bytes]) -> Command:
    """Returns TPM2_PolicyOR of two to eight policy digests."""
    return Command(int(TPM2_CC.PolicyOR), TPML_DIGEST([TPM2B_DIGEST(b) for b in branches]).marshal())


POLICY_PCR = int(TPM2_CC.PolicyPCR)
"""The code of TPM2_PolicyPCR."""

POLICY_AUTH_VALUE = Command(int(TPM2_CC.PolicyAuthValue))


def parse_pcr_body(body: bytes) -> tuple[Pcrs, TPML_PCR_SELECTION, bytes]:
    """Reads a TPM2_PolicyPCR of a key file: selection then digest, or TPM order (sized digest, selection).

    Raises:
        KeyURIError: it is neither.
    """
    size = int.from_bytes(body[:2], "big")
    for digest, rest in ((None, body), (body[2 : 2 + size], body[2 + size :])):
        try:
            selection, used = TPML_PCR_SELECTION.unmarshal(rest)
            pcrs = Pcrs.of(selection)
        except (RuntimeError, ValueError):
            continue
        tail = rest[used:]
        if digest is None and len(tail) in (0, DIGEST_SIZE) and pcrs.banks:
            return pcrs, selection, tail
        if digest is not None and not tail and len(digest) in (0, DIGEST_SIZE) and pcrs.banks:
            return pcrs, selection, digest
    raise KeyURIError("the key file's PCR policy cannot be read")


def pcrs_of(commands: Iterable[Command]) -> Pcrs | None:
    """Returns the PCRs that a policy looks at; None if it looks at none."""
    for command in commands:
        if command.code == TPM2_CC.PolicyPCR:
            return parse_pcr_body(command.body)[0]
    return None


def needs_password(commands: Iterable[Command]) -> bool:
    """Tells whether a policy asks for the key's password."""
    return any(c.code in (TPM2_CC.PolicyAuthValue, TPM2_CC.PolicyPassword) for c in commands)


def digest_of(commands: Iterable[Command], pcr_now: bytes = b"") -> bytes:
    """Computes the policy digest that a sequence of commands reaches (TPM 2.0, Part 3, section 23).

    Args:
        commands: what runs, in order.
        pcr_now: the hash of the PCRs, for a TPM2_PolicyPCR that names none.

    Raises:
        UnsupportedError: a command is none of those that `run` runs.
    """
    digest = bytes(DIGEST_SIZE)
    for command in commands:
        code = command.code.to_bytes(4, "big")
        if command.code == TPM2_CC.PolicyPCR:
            _, selection, expected = parse_pcr_body(command.body)
            tail = code + selection.marshal() + (expected or pcr_now)
        elif command.code in (TPM2_CC.PolicyAuthValue, TPM2_CC.PolicyPassword):
            tail = int(TPM2_CC.PolicyAuthValue).to_bytes(4, "big")
        elif command.code == TPM2_CC.PolicyOR:
            branches, _ = TPML_DIGEST.unmarshal(command.body)
            digest, tail = bytes(DIGEST_SIZE), code + b"".join(bytes(b) for b in branches)
        elif command.code == TPM2_CC.PolicyCommandCode:
            tail = code + command.body
        else:
            raise _unknown(command)
        digest = hashlib.sha256(digest + tail).digest()
    return digest


def run(esys: ESAPI, session: ESYS_TR, commands: Iterable[Command]) -> None:
    """Runs a policy in a fresh policy session.

    Raises:
        UnsupportedError: a command is unknown here.
        TSS2_Exception: the TPM says no.
    """
    for command in commands:
        if command.code == TPM2_CC.PolicyPCR:
            _, selection, digest = parse_pcr_body(command.body)
            esys.policy_pcr(session, digest, selection)
        elif command.code in (TPM2_CC.PolicyAuthValue, TPM2_CC.PolicyPassword):
            esys.policy_auth_value(session)  # never the password itself: the digest is the same
        elif command.code == TPM2_CC.PolicyOR:
            branches, _ = TPML_DIGEST.unmarshal(command.body)
            esys.policy_or(session, branches)
        elif command.code == TPM2_CC.PolicyCommandCode:
            esys.policy_command_code(session, TPM2_CC(int.from_bytes(command.body, "big")))
        else:
            raise _unknown(command)


def _unknown(command: Command) -> UnsupportedError:
    try:
        name = TPM2_CC.to_string(command.code)
    except ValueError:
        name = f"0x{command.code:x}"
    return UnsupportedError(f"the key's policy asks for {name}, which aws-hmac cannot meet")
