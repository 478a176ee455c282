"""The least policies for those who use a KEK: an IAM policy for AWS, IAM bindings of the key for Google."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from aws_hmac.errors import KeyURIError, UnsupportedError
from aws_hmac_backends._aws_kms import parse_arn

from .keks import AWS, GCP

if TYPE_CHECKING:
    from aws_hmac.uri import KeyURI


def policy(uri: KeyURI, role: Literal["signer", "importer"]) -> str:
    """Returns the policy; see `TinkBackend.policy`."""
    keks = [kek for kek in (uri.require("kek"), uri.get("planned-kek")) if kek]
    kinds = {kek.partition("://")[0] for kek in keks}
    if len(kinds) > 1:
        raise UnsupportedError(f"{uri.identity}: kek and planned-kek are of two clouds; ask for each by itself")
    if keks[0].startswith(AWS):
        return json.dumps(_aws(uri, [kek.removeprefix(AWS) for kek in keks], role), indent=2)
    if keks[0].startswith(GCP):
        return json.dumps(_google(keks[0].removeprefix(GCP), role), indent=2)
    raise UnsupportedError(f"{uri.identity}: a KEK in a local file has no policy but the file's mode")


def _aws(uri: KeyURI, arns: list[str], role: str) -> dict[str, Any]:
    for arn in arns:
        if parse_arn(arn) is None:
            raise KeyURIError(f"{uri.identity}: a policy needs the KEK's full ARN, and not {arn}")
    resource = arns[0] if len(arns) == 1 else arns
    use: dict[str, Any] = {
        "Sid": "Unwrap" if role == "signer" else "WrapAndUnwrap",
        "Effect": "Allow",
        "Action": "kms:Decrypt" if role == "signer" else ["kms:Encrypt", "kms:Decrypt"],
        "Resource": resource,
    }
    bound = uri.raw("associated-data")
    if bound:
        # What the keyset is bound to, KMS sees as encryption context: so it can hold the caller to it, too.
        use["Condition"] = {"StringEquals": {"kms:EncryptionContext:associatedData": bound.hex()}}
    look = {
        "Sid": "Look",
        "Effect": "Allow",
        "Action": ["kms:DescribeKey", "kms:GetKeyRotationStatus"],
        "Resource": resource,
    }
    return {"Version": "2012-10-17", "Statement": [use, look]}


def _google(key: str, role: str) -> dict[str, Any]:
    project = key.split("/")[1]
    member = f"serviceAccount:aws-hmac-{role}@{project}.iam.gserviceaccount.com"
    use = "roles/cloudkms.cryptoKeyDecrypter" if role == "signer" else "roles/cloudkms.cryptoKeyEncrypterDecrypter"
    return {"bindings": [{"role": name, "members": [member]} for name in (use, "roles/cloudkms.viewer")]}
