"""Which service and region an AWS host belongs to: a guess that callers say aloud.

Sources: "Service endpoints and quotas" (AWS General Reference) for the forms of hosts; botocore's service models
(``endpointPrefix`` against ``signingName``) for the names that differ.
"""

from __future__ import annotations

import re

SIGNING_NAMES = {
    "api.ecr": "ecr",
    "api.elastic-inference": "elastic-inference",
    "api.iot": "iot",
    "api.pricing": "pricing",
    "api.sagemaker": "sagemaker",
    "bedrock-agent": "bedrock",
    "bedrock-agent-runtime": "bedrock",
    "bedrock-runtime": "bedrock",
    "data-ats.iot": "iotdata",
    "data.iot": "iotdata",
    "data.jobs.iot": "iot-jobs-data",
    "email": "ses",
    "runtime.lex": "lex",
    "runtime.sagemaker": "sagemaker",
    "s3-control": "s3",
    "s3-accesspoint": "s3",
    "streams.dynamodb": "dynamodb",
}
"""Host prefix to signing name, where they differ."""

GLOBAL_SERVICES = {
    "budgets": "us-east-1",
    "ce": "us-east-1",
    "cloudfront": "us-east-1",
    "globalaccelerator": "us-west-2",
    "iam": "us-east-1",
    "organizations": "us-east-1",
    "route53": "us-east-1",
    "s3": "us-east-1",
    "sts": "us-east-1",
    "support": "us-east-1",
    "waf": "us-east-1",
}
"""Services with a host that names no region, and the region they sign for."""

_REGION = r"[a-z]{2,}(?:-[a-z]+)+-\d"
_DOMAIN = r"\.(?:amazonaws\.com(?:\.cn)?|api\.aws|api\.amazonwebservices\.com\.cn|aws\.dev)"
_FORMS = (
    # S3, virtual-hosted or path style: [bucket.]s3[-fips][.dualstack].region
    rf"(?:.+\.)?(?P<service>s3|s3-control|s3-accesspoint|s3-outposts|s3-object-lambda)(?:-fips)?(?:\.dualstack)?"
    rf"[.-](?P<region>{_REGION}){_DOMAIN}",
    rf"(?:.+\.)?(?P<service>s3express)-(?:control|[a-z0-9-]+)\.(?P<region>{_REGION}){_DOMAIN}",
    rf"(?:.+\.)?(?P<service>s3){_DOMAIN}",
    # The region first: domains of OpenSearch and its kin
    rf".+\.(?P<region>{_REGION})\.(?P<service>es|aoss|cloudsearch){_DOMAIN}",
    # A name of the customer's before the service
    rf"[a-z0-9-]+\.(?P<service>execute-api|appsync-api|iot|neptune|memorydb|mediastore)\.(?P<region>{_REGION}){_DOMAIN}",
    r"[a-z0-9-]+\.(?P<service>lambda)-url\.(?P<region>[a-z0-9-]+)\.on\.aws",
    r".+\.(?P<service>vpc-lattice-svcs)\.(?P<region>[a-z0-9-]+)\.on\.aws",
    # The common form
    rf"(?P<service>[a-z0-9-]+(?:\.(?:ecr|iot|sagemaker|lex|pricing|dynamodb|jobs\.iot))?)\.(?P<region>{_REGION}){_DOMAIN}",
    rf"(?P<service>[a-z0-9-]+){_DOMAIN}",
)


def guess(host: str) -> tuple[str | None, str | None]:
    """Guesses the signing name and region of a host.

    Args:
        host: as in a URL, a port allowed.

    Returns:
        Both, or None for what the host does not tell.
    """
    name = host.partition(":")[0].lower().rstrip(".")
    for form in _FORMS:
        match = re.fullmatch(form, name)
        if match is None:
            continue
        prefix = match["service"].removesuffix("-fips")
        service = SIGNING_NAMES.get(prefix, prefix)
        region = match.groupdict().get("region")
        if region is None:
            region = GLOBAL_SERVICES.get(service)
            if region is None:
                continue
            if name.endswith(".cn"):
                region = "cn-north-1"
        return service, region
    return None, None
