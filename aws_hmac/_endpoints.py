"""Where STS is: AWS's endpoint rules for one service, without the 1.2 MB of botocore's tables.

Source: botocore's ``data/sts/2011-06-15/endpoint-rule-set-1.json`` and ``data/partitions.json``; a test compares
the two for every region, FIPS, dual-stack and legacy setting.
"""

from __future__ import annotations

import re

from aws_hmac.errors import ConfigError

_PARTITIONS = (
    ("aws-cn", "cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    ("aws-eusc", "eusc-de-", "amazonaws.eu", "api.amazonwebservices.eu"),
    ("aws-iso", "us-iso-", "c2s.ic.gov", "api.aws.ic.gov"),
    ("aws-iso-b", "us-isob-", "sc2s.sgov.gov", "api.aws.scloud"),
    ("aws-iso-e", "eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    ("aws-iso-f", "us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    ("aws-us-gov", "us-gov-", "amazonaws.com", "api.aws"),
)
"""Partition, what its regions begin with (``\\w+-\\d+`` follows), DNS suffix, dual-stack DNS suffix."""

_AWS = ("aws", "", "amazonaws.com", "api.aws")  # also for regions that nobody knows yet, as botocore does

_LEGACY_GLOBAL = frozenset({
    "ap-northeast-1", "ap-south-1", "ap-southeast-1", "ap-southeast-2", "aws-global", "ca-central-1", "eu-central-1",
    "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3", "sa-east-1", "us-east-1", "us-east-2", "us-west-1",
    "us-west-2",
})  # fmt: skip
"""Regions that ``sts_regional_endpoints = legacy`` sends to the one global endpoint, in us-east-1."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


def sts_endpoint(
    region: str,
    *,
    use_fips_endpoint: bool = False,
    use_dualstack_endpoint: bool = False,
    sts_regional_endpoints: str = "regional",
) -> tuple[str, str]:
    """Returns the URL of STS for a region, and the region to sign for.

    Args:
        region: as ``eu-west-1``; ``aws-global`` is the one global endpoint; the old pseudo-regions
            ``fips-us-east-1`` and ``us-east-1-fips`` mean FIPS.
        use_fips_endpoint: the FIPS 140 validated endpoint.
        use_dualstack_endpoint: the one that also has an IPv6 address.
        sts_regional_endpoints: ``regional``, or ``legacy`` for the global endpoint where the older SDKs used it.

    Raises:
        ConfigError: the region is no host label, or ``sts_regional_endpoints`` is neither.
    """
    if sts_regional_endpoints not in ("regional", "legacy"):
        raise ConfigError(f"sts_regional_endpoints: {sts_regional_endpoints!r} is neither regional nor legacy")
    if not re.fullmatch(_LABEL, region, re.ASCII):
        raise ConfigError(f"region: {region!r} is no AWS region, as eu-west-1")
    if region.startswith("fips-") or region.endswith("-fips"):
        region = region.removeprefix("fips-").removesuffix("-fips")
        use_fips_endpoint = True
    partition, _, suffix, dualstack_suffix = next((p for p in _PARTITIONS if _is_in(p[0], p[1], region)), _AWS)
    if not use_fips_endpoint and not use_dualstack_endpoint:
        if region == "aws-global" or (sts_regional_endpoints == "legacy" and region in _LEGACY_GLOBAL):
            return "https://sts.amazonaws.com", "us-east-1"
        return f"https://sts.{region}.{suffix}", region
    # GovCloud's ordinary endpoints are the validated ones, except on dual-stack.
    fips = "-fips" if use_fips_endpoint and (use_dualstack_endpoint or partition != "aws-us-gov") else ""
    return f"https://sts{fips}.{region}.{dualstack_suffix if use_dualstack_endpoint else suffix}", region


def _is_in(partition: str, prefix: str, region: str) -> bool:
    if region == f"{partition}-global":
        return True
    return region.startswith(prefix) and re.fullmatch(r"\w+-\d+", region[len(prefix) :]) is not None
