"""What differs between a request as we sign it and as a server saw it, in words."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from aws_hmac.backend import Finding

if TYPE_CHECKING:
    from aws_hmac.answers import ErrorAnswer
    from aws_hmac.signer import Explanation

_CODES = {
    "RequestTimeTooSkewed": "the server's clock and ours differ by more than it allows (15 minutes)",
    "RequestExpired": "the signature or the presigned URL is too old for the server",
    "InvalidAccessKeyId": "the server knows no such access key id",
    "InvalidClientTokenId": "the server knows no such access key id, or it is inactive",
    "UnrecognizedClientException": "the server knows no such access key id, or the session token is wrong",
    "ExpiredToken": "the session token has expired",
    "ExpiredTokenException": "the session token has expired",
    "AuthorizationHeaderMalformed": "the credential scope names another region or service than the server wants",
    "IncompleteSignature": "the Authorization header lost a part on the way",
    "IncompleteSignatureException": "the Authorization header lost a part on the way",
    "MissingAuthenticationToken": "the request arrived without a signature, or at a path that does not exist",
    "AccessDenied": "the signature was right; the policy does not allow the request",
    "AccessDeniedException": "the signature was right; the policy does not allow the request",
}
_MEND_CLOCK = "set the clock: timedatectl set-ntp true"


def amz_date_of(error: ErrorAnswer) -> datetime | None:
    """Returns when the server saw the request signed, by its string to sign."""
    lines = (error.string_to_sign or "").split("\n")
    try:
        return datetime.strptime(lines[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    except (IndexError, ValueError):
        return None


def differences(ours: Explanation, access_key_id: str, error: ErrorAnswer) -> list[Finding]:
    """Compares what we sign with what a server says that it saw.

    Args:
        ours: of `Signer.explain`, for the time of `amz_date_of` where that is known.
        access_key_id: who signs.
        error: the server's answer.

    Returns:
        What differs, part by part in the order of the stages; the last word where nothing does.
    """
    findings: list[Finding] = []
    if error.code in _CODES:
        mend = _MEND_CLOCK if error.code in ("RequestTimeTooSkewed", "RequestExpired") else ""
        findings.append(Finding("bad", error.code, _CODES[error.code], mend))
    if error.access_key_id and error.access_key_id != access_key_id:
        findings.append(
            Finding("bad", "access key id", f"the server saw {error.access_key_id}, this request is of {access_key_id}")
        )
    if error.canonical_request is not None:
        findings += _compare_requests(ours.canonical_request, error.canonical_request)
    if error.string_to_sign is not None:
        findings += _compare_strings(ours.string_to_sign, error.string_to_sign)
    if error.canonical_request is None and error.string_to_sign is None:
        findings.append(
            Finding("info", "answer", "holds neither canonical request nor string to sign: ours is shown, to compare")
        )
    elif not findings:
        if error.signature and error.signature == ours.signature:
            text = "request and signature are ours, and the server still refuses it: its secret is another"
        else:
            text = "the server saw the very request that we sign: only the key can differ"
        findings.append(
            Finding(
                "bad",
                "key",
                f"{text}; the device does not hold the secret of {access_key_id}, or it was rotated",
                "aws-hmac key check --sts tells; aws-hmac key import --overwrite puts the right secret in",
            )
        )
    return findings


def _compare_requests(ours: str, theirs: str) -> list[Finding]:
    our, their = _parts(ours), _parts(theirs)
    if our is None or their is None:
        return [Finding("warning", "canonical request", "the server's cannot be read: shown as it is")]
    findings = []
    if our.method != their.method:
        findings.append(Finding("bad", "method", f"ours {our.method}, the server's {their.method}"))
    if our.uri != their.uri:
        findings.append(Finding("bad", "path", _path(our.uri, their.uri)))
    if our.query != their.query:
        findings.append(Finding("bad", "query", _query(our.query, their.query)))
    findings += _headers(our, their)
    if our.payload != their.payload:
        findings.append(Finding("bad", "payload hash", _payload(our.payload, their.payload)))
    if not findings and ours != theirs:
        findings.append(Finding("bad", "canonical request", "differs in white space only"))
    return findings


class _Parts:
    """A canonical request taken apart again."""

    def __init__(self, lines: list[str]) -> None:
        self.method, self.uri, self.query = lines[:3]
        self.payload, self.signed = lines[-1], lines[-2].split(";")
        self.headers: dict[str, str] = {}
        for line in lines[3:-2]:
            if line:
                name, _, value = line.partition(":")
                self.headers[name] = value


def _parts(text: str) -> _Parts | None:
    lines = text.replace("\r\n", "\n").split("\n")
    return _Parts(lines) if len(lines) >= 6 else None


def _path(ours: str, theirs: str) -> str:
    shown = f"ours {ours}, the server's {theirs}"
    if quote(ours, safe="/-._~") == theirs:
        return f"{shown}: the server encodes the path once more than we did (or the client encoded it twice)"
    if ours == quote(theirs, safe="/-._~"):
        return f"{shown}: we encode the path once more than the server does: is this S3 or its kin? (--service s3)"
    if unquote(ours) == unquote(theirs):
        return f"{shown}: the same path, encoded otherwise on the way"
    if [s for s in ours.split("/") if s] == [s for s in theirs.split("/") if s]:
        return f"{shown}: repeated or trailing slashes were changed on the way"
    if theirs.endswith(ours) or ours.endswith(theirs):
        return f"{shown}: a proxy adds or strips a prefix"
    return shown


def _query(ours: str, theirs: str) -> str:
    our, their = set(filter(None, ours.split("&"))), set(filter(None, theirs.split("&")))
    said = []
    if gone := sorted(our - their):
        said.append(f"the server lacks {' '.join(gone)}")
    if more := sorted(their - our):
        said.append(f"the server has {' '.join(more)}")
    if not said:
        return f"the same parameters, in another order or number: ours {ours}, the server's {theirs}"
    if sorted(map(unquote, our)) == sorted(map(unquote, their)):
        said.append("the same parameters, encoded otherwise on the way")
    return "; ".join(said)


def _headers(our: _Parts, their: _Parts) -> list[Finding]:
    findings = []
    for name in sorted({*our.headers, *their.headers}):
        ours, theirs = our.headers.get(name), their.headers.get(name)
        if ours == theirs:
            continue
        subject = f"header {name}"
        if name == "x-amz-security-token" and ours is not None and theirs is not None:
            findings.append(Finding("bad", subject, "is another at the server (not shown: it is a secret)"))
        elif name == "x-amz-date":
            findings.append(
                Finding(
                    "bad", subject, f"ours {ours}, the server's {theirs}: signed at another time; give --at {theirs}"
                )
            )
        elif theirs is None:
            findings.append(Finding("bad", subject, "we sign it, and the server's signature does not cover it"))
        elif ours is None:
            findings.append(
                Finding("bad", subject, "the server's signature covers it, and we do not sign it: give it with -H")
            )
        elif not theirs:
            findings.append(
                Finding("bad", subject, f"ours {ours}, and it did not reach the server: a proxy dropped it")
            )
        else:
            why = "a proxy or load balancer forwards under another name" if name == "host" else "changed on the way"
            findings.append(Finding("bad", subject, f"ours {ours}, the server's {theirs}: {why}"))
    if our.signed != their.signed and not findings:
        findings.append(
            Finding("bad", "signed headers", f"ours {';'.join(our.signed)}, the server's {';'.join(their.signed)}")
        )
    return findings


def _payload(ours: str, theirs: str) -> str:
    shown = f"ours {ours}, the server's {theirs}"
    if ours == "UNSIGNED-PAYLOAD" or theirs == "UNSIGNED-PAYLOAD":
        return f"{shown}: one side does not sign the body; give x-amz-content-sha256, or --unsigned-payload"
    if theirs.startswith("STREAMING-") or ours.startswith("STREAMING-"):
        return f"{shown}: one side sends the body in chunks"
    return f"{shown}: the body was changed on the way, or is not the one given here"


def _compare_strings(ours: str, theirs: str) -> list[Finding]:
    our, their = ours.split("\n"), theirs.replace("\r\n", "\n").split("\n")
    if len(our) != 4 or len(their) != 4:
        return [Finding("warning", "string to sign", "the server's cannot be read: shown as it is")]
    findings = []
    if our[0] != their[0]:
        findings.append(Finding("bad", "algorithm", f"ours {our[0]}, the server's {their[0]}"))
    if our[1] != their[1]:
        findings.append(
            Finding("bad", "time", f"ours {our[1]}, the server's {their[1]}: give --at {their[1]}, or set the clock")
        )
    names = ("date", "region", "service", "terminator")
    for name, mine, other in zip(names, our[2].split("/"), their[2].split("/"), strict=False):
        if mine != other:
            findings.append(Finding("bad", f"scope: {name}", f"ours {mine}, the server's {other}"))
    return findings
