from __future__ import annotations

import botocore.session
import pytest

from aws_hmac.hosts import guess


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("sts.amazonaws.com", ("sts", "us-east-1")),
        ("sts.eu-west-1.amazonaws.com:443", ("sts", "eu-west-1")),
        ("STS.EU-WEST-1.amazonaws.com", ("sts", "eu-west-1")),
        ("iam.amazonaws.com", ("iam", "us-east-1")),
        ("bucket.s3.amazonaws.com", ("s3", "us-east-1")),
        ("my.bucket.s3.eu-west-1.amazonaws.com", ("s3", "eu-west-1")),
        ("bucket.s3-eu-west-1.amazonaws.com", ("s3", "eu-west-1")),
        ("s3.dualstack.eu-west-1.amazonaws.com", ("s3", "eu-west-1")),
        ("bucket.s3-fips.us-gov-west-1.amazonaws.com", ("s3", "us-gov-west-1")),
        ("bucket.s3.cn-north-1.amazonaws.com.cn", ("s3", "cn-north-1")),
        ("ap-111122223333.s3-accesspoint.eu-west-1.amazonaws.com", ("s3", "eu-west-1")),
        ("b--euw1-az1--x-s3.s3express-euw1-az1.eu-west-1.amazonaws.com", ("s3express", "eu-west-1")),
        ("abc123.execute-api.eu-west-1.amazonaws.com", ("execute-api", "eu-west-1")),
        ("search-x-abc.eu-west-1.es.amazonaws.com", ("es", "eu-west-1")),
        ("abc.us-east-1.aoss.amazonaws.com", ("aoss", "us-east-1")),
        ("abc.lambda-url.eu-west-1.on.aws", ("lambda", "eu-west-1")),
        ("x-1.y.vpc-lattice-svcs.eu-west-1.on.aws", ("vpc-lattice-svcs", "eu-west-1")),
        ("bedrock-runtime.us-west-2.amazonaws.com", ("bedrock", "us-west-2")),
        ("email.eu-west-1.amazonaws.com", ("ses", "eu-west-1")),
        ("dynamodb-fips.us-east-1.amazonaws.com", ("dynamodb", "us-east-1")),
        ("lambda.eu-west-1.api.aws", ("lambda", "eu-west-1")),
        ("api.ecr.eu-west-1.amazonaws.com", ("ecr", "eu-west-1")),
        ("example.com", (None, None)),
        ("amazonaws.com", (None, None)),
        ("sts.eu-west-1.amazonaws.com.example.com", (None, None)),
        ("127.0.0.1:9000", (None, None)),
    ],
)
def test_guess(host: str, scope: tuple[str | None, str | None]) -> None:
    assert guess(host) == scope


@pytest.mark.parametrize("service", ["sts", "dynamodb", "sqs", "sns", "ec2", "kms", "lambda", "logs", "ssm", "kinesis"])
def test_guess_is_what_botocore_signs_for(service: str) -> None:
    session = botocore.session.get_session()
    for region in ("eu-west-1", "us-gov-west-1", "cn-north-1"):
        client = session.create_client(service, region_name=region, aws_access_key_id="a", aws_secret_access_key="b")
        host = client.meta.endpoint_url.partition("://")[2]
        signing_name = client.meta.service_model.signing_name
        assert guess(host) == (signing_name, region), host
