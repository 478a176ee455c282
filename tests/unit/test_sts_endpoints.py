"""Endpoints against botocore's own rules, for every region that it knows."""

from __future__ import annotations

from itertools import product
from typing import Any

import botocore.loaders
import pytest
from botocore.endpoint_provider import EndpointProvider

from aws_hmac import ConfigError
from aws_hmac._endpoints import sts_endpoint

LOADER = botocore.loaders.create_loader()
PARTITIONS = LOADER.load_data("partitions")
PROVIDER = EndpointProvider(LOADER.load_service_model("sts", "endpoint-rule-set-1"), PARTITIONS)
REGIONS = sorted({region for partition in PARTITIONS["partitions"] for region in partition["regions"]})
UNBORN = ["eu-north-7", "cn-east-1", "us-gov-south-9", "us-iso-mid-3", "eusc-de-west-2", "xx-new-1", "RegionOne"]


def botocore_endpoint(region: str, *, fips: bool, dualstack: bool, legacy: bool) -> tuple[str, str]:
    found: Any = PROVIDER.resolve_endpoint(
        Region=region, UseFIPS=fips, UseDualStack=dualstack, UseGlobalEndpoint=legacy
    )
    schemes = found.properties.get("authSchemes", [{}])
    return found.url, schemes[0].get("signingRegion", region)


def test_partitions_are_all_there() -> None:
    assert {p["id"] for p in PARTITIONS["partitions"]} >= {"aws", "aws-cn", "aws-us-gov", "aws-iso", "aws-eusc"}
    assert len(REGIONS) >= 50


@pytest.mark.parametrize("region", REGIONS + UNBORN)
def test_same_as_botocore(region: str) -> None:
    for fips, dualstack, legacy in product((False, True), repeat=3):
        ours = sts_endpoint(
            region,
            use_fips_endpoint=fips,
            use_dualstack_endpoint=dualstack,
            sts_regional_endpoints="legacy" if legacy else "regional",
        )
        assert ours == botocore_endpoint(region, fips=fips, dualstack=dualstack, legacy=legacy), (fips, dualstack)


@pytest.mark.parametrize("region", ["fips-us-east-2", "us-east-2-fips"])
def test_pseudo_regions_mean_fips(region: str) -> None:
    assert sts_endpoint(region) == ("https://sts-fips.us-east-2.amazonaws.com", "us-east-2")


@pytest.mark.parametrize("region", ["", "eu west", "evil.example/", "a@b", "eu-west-1.evil", "-x", "x" * 64, "é"])
def test_what_is_no_region(region: str) -> None:
    with pytest.raises(ConfigError, match="region"):
        sts_endpoint(region)


def test_neither_regional_nor_legacy() -> None:
    with pytest.raises(ConfigError, match="neither regional nor legacy"):
        sts_endpoint("eu-west-1", sts_regional_endpoints="global")
