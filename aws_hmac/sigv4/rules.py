"""What differs between services when a request is signed, in one table.

Sources: [sig] "Create a signed AWS API request" (IAM User Guide); [s3] "Authenticating Requests" (Amazon S3 API
Reference); [iot] "MQTT over WSS" (AWS IoT Core Developer Guide); [aoss] "Signing HTTP requests" (Amazon
OpenSearch Serverless); [lattice] "SIGv4 authenticated requests" (VPC Lattice User Guide); botocore's service
models for the signing names.
"""

from __future__ import annotations

from typing import NamedTuple


class ServiceRules(NamedTuple):
    """How a service's requests are signed.

    Attributes:
        normalize_path: dot segments and repeated slashes of the path are resolved first ([sig], step 1).
        double_encode: the path, already encoded on the wire, is encoded once more ([sig], step 1).
        content_sha256_header: the payload's hash is also sent, and signed, as ``x-amz-content-sha256``.
        sign_session_token: the session token is signed; else it is added after signing.
        unsigned_payload: the payload is not signed unless its hash is given.
        presign_unsigned_payload: likewise, for presigned URLs only.
    """

    normalize_path: bool = True
    double_encode: bool = True
    content_sha256_header: bool = False
    sign_session_token: bool = True
    unsigned_payload: bool = False
    presign_unsigned_payload: bool = False


DEFAULT_RULES = ServiceRules()
"""The rules of a service that the table does not name."""

_S3 = ServiceRules(normalize_path=False, double_encode=False, content_sha256_header=True, presign_unsigned_payload=True)

SERVICE_RULES: dict[str, ServiceRules] = {
    "s3": _S3,  # [s3]
    "s3-object-lambda": _S3,  # [s3]
    "s3-outposts": _S3,  # [s3]
    "s3express": _S3,  # [s3]
    "aoss": ServiceRules(content_sha256_header=True),  # [aoss]
    "vpc-lattice-svcs": ServiceRules(content_sha256_header=True, unsigned_payload=True),  # [lattice]
    "iotdevicegateway": ServiceRules(sign_session_token=False),  # [iot]
}
"""Signing name to rules."""


def rules_for(service: str) -> ServiceRules:
    """Returns the rules of a service by its signing name."""
    return SERVICE_RULES.get(service, DEFAULT_RULES)
