"""What direct signing sends, against stock botocore at a frozen clock; who signs what; what is refused."""

from __future__ import annotations

import copy
import datetime
import hmac
import io
import json
import pickle
import time
import warnings
from typing import TYPE_CHECKING, Any

import boto3
import botocore.auth
import botocore.compat
import botocore.session
import pytest
import time_machine
from botocore import UNSIGNED
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError, UnsupportedSignatureVersionError
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from packaging.version import Version

import aws_hmac
from aws_hmac import ConfigError, DeviceError, UnsupportedError
from aws_hmac._direct import resend
from aws_hmac.sigv4 import canonical_query_string, string_to_sign
from aws_hmac.sigv4.sigv4a import derive_private_key
from tests.integration.direct_support import CountingBackend, Wire, direct_session, memory_signer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ACCESS_KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
V4 = Config(signature_version="s3v4")
XML = {"Content-Type": "application/xml"}


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clock stands, and stock botocore signs in Python, which can be compared byte for byte."""
    for version, name in (
        ("v4", "SigV4"),
        ("v4-query", "SigV4Query"),
        ("s3v4", "S3SigV4"),
        ("s3v4-query", "S3SigV4Query"),
    ):
        monkeypatch.setitem(botocore.auth.AUTH_TYPE_MAPS, version, getattr(botocore.auth, f"{name}Auth"))
    with time_machine.travel(datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc), tick=False):
        yield


def _needs(*services: str) -> pytest.MarkDecorator:
    known = botocore.session.Session().get_available_services()
    missing = [service for service in services if service not in known]
    return pytest.mark.skipif(bool(missing), reason=f"botocore {botocore.__version__} knows no {', '.join(missing)}")


def _stock(region: str) -> boto3.Session:
    return boto3.Session(aws_access_key_id=ACCESS_KEY_ID, aws_secret_access_key=SECRET, region_name=region)


def _direct(region: str = "us-east-1") -> boto3.Session:
    return direct_session(memory_signer(ACCESS_KEY_ID, SECRET), region)


def _both(region: str, make: Callable[[Any], Any]) -> tuple[Any, Any]:
    return make(_stock(region)), make(_direct(region))


# Presigned


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "us-gov-west-1", "cn-north-1"])
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("get_object", {"Bucket": "bucket-name", "Key": "a b/ü+~.txt", "VersionId": "1"}),
        ("get_object", {"Bucket": "dotted.bucket", "Key": "k", "ResponseContentDisposition": 'attachment; a="b c"'}),
        ("put_object", {"Bucket": "bucket-name", "Key": "k", "ContentType": "text/plain", "Metadata": {"a": "b  c"}}),
        ("upload_part", {"Bucket": "bucket-name", "Key": "k", "PartNumber": 1, "UploadId": "x/y=="}),
        ("list_objects_v2", {"Bucket": "bucket-name", "Prefix": "ü/"}),
    ],
)
def test_presigned_s3(region: str, method: str, params: dict[str, Any]) -> None:
    def make(session: Any) -> Any:
        return session.client("s3", config=V4).generate_presigned_url(method, Params=params, ExpiresIn=77)

    stock, direct = _both(region, make)
    assert stock == direct
    # botocore's default would be Signature Version 2 in us-east-1:
    assert _direct(region).client("s3").generate_presigned_url(method, Params=params, ExpiresIn=77) == stock


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize(
    "make",
    [
        lambda s: s.client("polly").generate_presigned_url(
            "synthesize_speech", {"OutputFormat": "mp3", "Text": "hallo ü", "VoiceId": "Hans"}
        ),
        lambda s: s.client("sts").generate_presigned_url("get_caller_identity"),
        lambda s: s.client("rds").generate_db_auth_token("db.example.com", 3306, "user"),
        lambda s: s.client("rds").generate_db_auth_token("db.example.com", 3306, "user", Region="eu-west-3"),
        pytest.param(lambda s: s.client("dsql").generate_db_connect_auth_token("db.example.com"), marks=_needs("dsql")),
        pytest.param(
            lambda s: s.client("dsql").generate_db_connect_admin_auth_token("db.example.com", ExpiresIn=60),
            marks=_needs("dsql"),
        ),
    ],
    ids=["polly", "sts", "rds", "rds-region", "dsql", "dsql-admin"],
)
def test_presigned_others(make: Callable[[Any], str]) -> None:
    stock, direct = _both("eu-west-1", make)
    assert stock == direct
    assert "X-Amz-Signature=" in direct


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("config", [V4, None], ids=["s3v4", "default"])
def test_presigned_post(config: Config | None) -> None:
    def make(session: Any, config: Config | None = V4) -> Any:
        return session.client("s3", config=config).generate_presigned_post(
            "bucket-name", "up/${filename}", Fields={"acl": "private"}, Conditions=[["content-length-range", 1, 9]]
        )

    stock = make(_stock("eu-west-1"))
    assert make(_direct("eu-west-1"), config) == stock
    assert stock["fields"]["x-amz-algorithm"] == "AWS4-HMAC-SHA256"


@pytest.mark.usefixtures("frozen")
def test_presigned_inside_a_request() -> None:
    def make(session: Any) -> Any:
        client = session.client("ec2")
        wire = Wire(client)
        client.copy_snapshot(SourceRegion="eu-west-2", SourceSnapshotId="snap-1")
        return wire.sent[0].body

    stock, direct = _both("eu-west-1", make)
    assert stock == direct
    assert b"PresignedUrl=https%3A%2F%2Fec2.eu-west-2" in direct


@pytest.mark.usefixtures("frozen")
def test_a_rotation_is_noticed_when_presigning(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = memory_signer(ACCESS_KEY_ID, "old")
    backend = signer.keys.backend
    assert isinstance(backend, CountingBackend)
    client = direct_session(signer).client("s3")
    params = {"Bucket": "bucket-name", "Key": "k"}
    before = client.generate_presigned_url("get_object", params)
    backend.key = b"AWS4" + SECRET.encode()
    assert client.generate_presigned_url("get_object", params) == before
    later = time.monotonic() + 301
    monkeypatch.setattr("aws_hmac.signing_keys.monotonic", lambda: later)
    expected = _stock("us-east-1").client("s3", config=V4).generate_presigned_url("get_object", params)
    assert client.generate_presigned_url("get_object", params) == expected


# S3 beyond buckets


def _scope(headers: dict[str, str]) -> str:
    return headers["Authorization"].partition("Credential=")[2].partition(",")[0]


@pytest.mark.parametrize(
    ("bucket", "scope"),
    [
        ("arn:aws:s3:us-west-2:123456789012:accesspoint/ap", "us-west-2/s3"),
        ("arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/ap", "us-west-2/s3-object-lambda"),
        # These prefer Version 4A, and take Version 4:
        ("arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-01234567890123456/accesspoint/ap",
         "us-west-2/s3-outposts"),
    ],
)  # fmt: skip
def test_access_points(bucket: str, scope: str) -> None:
    client = _direct().client("s3")
    wire = Wire(client)
    client.get_object(Bucket=bucket, Key="k")
    assert _scope(wire.sent[0].headers).endswith(f"/{scope}/aws4_request")
    assert wire.sent[0].headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")


@pytest.mark.skipif(not botocore.compat.HAS_CRT, reason="without awscrt botocore itself says that it is missing")
def test_multi_region_access_point_needs_v4a() -> None:
    client = _direct().client("s3")
    wire = Wire(client)
    arn = "arn:aws:s3::123456789012:accesspoint:mfzwi23gnjvgw.mrap"
    with pytest.raises(UnsupportedError, match="Signature Version 4A"):
        client.get_object(Bucket=arn, Key="k")
    with pytest.raises(UnsupportedError, match="Signature Version 4A"):
        client.generate_presigned_url("get_object", {"Bucket": arn, "Key": "k"})
    assert wire.sent == []


@pytest.mark.parametrize(
    "service",
    [
        "sts",
        *(
            pytest.param(name, marks=_needs(name))
            for name in ("sustainability", "partnercentral-channel", "marketplace-discovery")
        ),
    ],
)
def test_services_that_also_take_v4a(service: Any) -> None:
    client = _direct("us-west-2").client(service)
    wire = Wire(client)
    if service == "sts":
        client.get_caller_identity()
    else:
        method, operation = sorted(client.meta.method_to_api_mapping.items())[0]
        from tests.sweep.parameters import parameters

        model = client.meta.service_model.operation_model(operation)
        getattr(client, method)(**parameters(model, "required", wild=False))
    assert wire.sent[0].headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")
    assert "*" not in _scope(wire.sent[0].headers)


def _verify_v4a(signer: aws_hmac.Signer, string_to_sign: str, signature: str) -> None:
    """Verifies with the public half of the key pair that is derived from the secret."""
    number = derive_private_key(
        lambda message: hmac.digest(b"AWS4A" + SECRET.encode(), message, "sha256"), ACCESS_KEY_ID
    )
    public = ec.derive_private_key(number, ec.SECP256R1()).public_key()
    public.verify(bytes.fromhex(signature), string_to_sign.encode(), ec.ECDSA(hashes.SHA256()))


@pytest.mark.usefixtures("frozen")
@pytest.mark.skipif(not botocore.compat.HAS_CRT, reason="botocore chooses Version 4A only where awscrt is")
def test_multi_region_access_point_with_a_v4a_key() -> None:
    second = CountingBackend(b"AWS4A" + SECRET.encode())
    signer = memory_signer(ACCESS_KEY_ID, SECRET, sigv4a_backend=second)
    client = direct_session(signer).client("s3")
    wire = Wire(client)
    arn = "arn:aws:s3::123456789012:accesspoint:mfzwi23gnjvgw.mrap"
    client.get_object(Bucket=arn, Key="a b/ü", Range="bytes=0-1")
    sent = wire.sent[0]
    host = "mfzwi23gnjvgw.mrap.accesspoint.s3-global.amazonaws.com"
    assert sent.url == f"https://{host}/a%20b/%C3%BC"
    algorithm, _, rest = sent.headers["Authorization"].partition(" ")
    assert algorithm == "AWS4-ECDSA-P256-SHA256"
    fields = dict(part.split("=", 1) for part in rest.split(", "))
    assert fields["Credential"] == f"{ACCESS_KEY_ID}/20260102/s3/aws4_request"
    assert sent.headers["X-Amz-Region-Set"] == "*"
    signed = {k: v for k, v in sent.headers.items() if k.lower() in fields["SignedHeaders"].split(";")}
    assert "x-amz-region-set" in fields["SignedHeaders"].split(";")
    expected = signer.explain(
        "GET", sent.url, service="s3", region_set="*", headers=signed, at=datetime.datetime.now(datetime.timezone.utc)
    )
    assert expected.signed_headers == fields["SignedHeaders"]
    _verify_v4a(signer, expected.string_to_sign, fields["Signature"])
    with pytest.raises(InvalidSignature):
        _verify_v4a(signer, expected.string_to_sign + "x", fields["Signature"])

    url = client.generate_presigned_url("get_object", {"Bucket": arn, "Key": "k"}, ExpiresIn=60)
    bare, _, signature = url.partition("&X-Amz-Signature=")
    query = canonical_query_string(bare.partition("?")[2])
    assert "X-Amz-Region-Set=%2A&" in query
    request = f"GET\n/k\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    scope = "20260102/s3/aws4_request"
    _verify_v4a(signer, string_to_sign("20260102T030405Z", scope, request, "AWS4-ECDSA-P256-SHA256"), signature)
    assert len(second.asked) == 1  # the key pair knows no date


CREATED = b"""<CreateSessionResult><Credentials><AccessKeyId>ASIAEXPRESS</AccessKeyId>
<SecretAccessKey>express</SecretAccessKey><SessionToken>token</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></CreateSessionResult>"""


def test_s3_express() -> None:
    client = _direct("us-west-2").client("s3")
    wire = Wire(client, (200, XML, CREATED))
    client.put_object(Bucket="name--usw2-az1--x-s3", Key="k", Body=b"x")
    create, put = wire.sent
    assert create.url.endswith("?session")
    assert _scope(create.headers).startswith(f"{ACCESS_KEY_ID}/")
    assert _scope(create.headers).endswith("/us-west-2/s3express/aws4_request")
    assert _scope(put.headers).startswith("ASIAEXPRESS/")
    assert {k.lower(): v for k, v in put.headers.items()}["x-amz-s3session-token"] == "token"


@pytest.mark.usefixtures("frozen")
def test_streams_with_trailing_checksum() -> None:
    def make(session: Any) -> Any:
        client = session.client("s3")
        wire = Wire(client)
        client.put_object(Bucket="bucket-name", Key="k", Body=io.BytesIO(b"stream"), ChecksumAlgorithm="SHA256")
        return wire.sent[0]

    stock, direct = _both("eu-west-1", make)
    assert direct.headers["X-Amz-Content-SHA256"] == "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    assert direct.body == stock.body
    assert direct.headers["Authorization"] == stock.headers["Authorization"]


# Who signs what


def test_anonymous_and_bearer_are_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = memory_signer(ACCESS_KEY_ID, SECRET)
    backend = signer.keys.backend
    assert isinstance(backend, CountingBackend)
    session = direct_session(signer)

    anonymous = session.client("s3", config=Config(signature_version=UNSIGNED))
    wire = Wire(anonymous)
    anonymous.get_object(Bucket="bucket-name", Key="k")
    assert "Authorization" not in wire.sent[0].headers

    identity = session.client("cognito-identity")
    wire = Wire(identity, (200, {}, b"{}"))
    identity.get_id(IdentityPoolId="us-east-1:x")
    assert "Authorization" not in wire.sent[0].headers

    if Version(botocore.__version__) >= Version("1.39"):  # which knows the variable
        monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bearer-token")
        bedrock = session.client("bedrock")
        wire = Wire(bedrock, (200, {}, b"{}"))
        bedrock.list_foundation_models()
        assert wire.sent[0].headers["Authorization"] == "Bearer bearer-token"
    assert backend.asked == []


def test_credentials_of_one_client_go_first() -> None:
    session = _direct()
    client = session.client("sts", aws_access_key_id="AKIAOTHER", aws_secret_access_key="x")
    wire = Wire(client)
    client.get_caller_identity()
    assert _scope(wire.sent[0].headers).startswith("AKIAOTHER/")
    client = session.client("sts")
    wire = Wire(client)
    client.get_caller_identity()
    assert _scope(wire.sent[0].headers).startswith(f"{ACCESS_KEY_ID}/")


def test_a_client_made_before_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFROMENVIRONMENT0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    session = botocore.session.Session()
    client: Any = session.create_client("sts", "us-east-1")
    wire = Wire(client)
    with pytest.raises(ConfigError, match=r"has credentials already \(env\)"):
        aws_hmac.botocore.install(session, signer=memory_signer(ACCESS_KEY_ID, SECRET), mode="direct")
    client.get_caller_identity()
    assert _scope(wire.sent[0].headers).startswith("AKIAFROMENVIRONMENT0/")


def test_a_session_that_was_given_credentials_is_refused() -> None:
    session = botocore.session.Session()
    session.set_credentials("AKIAOTHER", "x")
    with pytest.raises(ConfigError, match=r"has credentials already \(explicit\)"):
        aws_hmac.botocore.install(session, signer=memory_signer(ACCESS_KEY_ID, SECRET), mode="direct")


def test_installed_twice_the_last_signs() -> None:
    session = botocore.session.Session()
    aws_hmac.botocore.install(session, signer=memory_signer("AKIAFIRST", SECRET), mode="direct")
    with pytest.raises(ConfigError, match="has credentials already"):
        aws_hmac.botocore.install(session, signer=memory_signer("AKIASECOND", SECRET), mode="direct")


def test_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", SECRET)
    (tmp_path / "config").write_text(
        "[profile device]\nregion = eu-west-1\naws_hmac =\n  key = memory:env=THE_SECRET\n"
        f"  access_key_id = {ACCESS_KEY_ID}\n  mode = direct\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", aws_hmac.SecurityWarning)
        session = aws_hmac.Session(profile_name="device")
    client = session.client("dynamodb")
    wire = Wire(client)
    client.list_tables()
    assert _scope(wire.sent[0].headers).startswith(f"{ACCESS_KEY_ID}/")
    assert "/eu-west-1/" in _scope(wire.sent[0].headers)


def test_region_redirect() -> None:
    client = _direct("us-east-1").client("s3")
    error = b"<Error><Code>PermanentRedirect</Code><Bucket>bucket-name</Bucket></Error>"
    wire = Wire(client, (301, {**XML, "x-amz-bucket-region": "eu-central-1"}, error))
    client.get_object(Bucket="bucket-name", Key="k")
    assert [_scope(sent.headers).split("/")[2] for sent in wire.sent] == ["us-east-1", "eu-central-1"]
    assert wire.sent[1].url.startswith("https://bucket-name.s3.eu-central-1.")


def test_retry_over_midnight() -> None:
    signer = memory_signer(ACCESS_KEY_ID, SECRET)
    client = direct_session(signer).client("sts")
    with time_machine.travel(datetime.datetime(2026, 1, 2, 23, 59, 59, tzinfo=datetime.timezone.utc)) as clock:

        def next_day(**_: object) -> None:
            clock.shift(2)

        client.meta.events.register("needs-retry", next_day)
        wire = Wire(client, (500, XML, b""))
        client.get_caller_identity()
    assert [_scope(sent.headers).split("/")[1] for sent in wire.sent] == ["20260102", "20260103"]


# What is refused


def test_the_secret_cannot_be_had() -> None:
    credentials: Any = _direct().get_credentials()
    for asked in (credentials, credentials.get_frozen_credentials()):
        for error in (AttributeError, aws_hmac.Error, UnsupportedError, NoCredentialsError):
            with pytest.raises(error, match=f"secret of {ACCESS_KEY_ID} .* cannot be read: sign with"):
                _ = asked.secret_key
    assert not hasattr(credentials, "secret_key")
    assert credentials.access_key == ACCESS_KEY_ID
    assert credentials.token is None
    for copied in (copy.copy(credentials), copy.deepcopy(credentials), copy.copy(credentials.get_frozen_credentials())):
        assert copied.signer is credentials.signer
        assert not hasattr(copied, "secret_key")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(credentials)
    for shown in (repr(credentials), str(credentials), json.dumps(vars(credentials), default=repr)):
        assert SECRET not in shown
    with pytest.raises(AttributeError):
        credentials.secret_key = "x"


def test_code_that_signs_by_itself_gets_the_error() -> None:
    credentials: Any = _direct().get_credentials()
    request = AWSRequest("GET", "https://example.com/")
    with pytest.raises(AttributeError, match="sign with"):
        SigV4Auth(credentials.get_frozen_credentials(), "es", "us-east-1").add_auth(request)
    assert "Authorization" not in request.headers


def test_credentials_in_a_session_that_has_no_signer() -> None:
    credentials: Any = _direct().get_credentials()
    from botocore.credentials import CredentialProvider

    class Provider(CredentialProvider):
        METHOD = "other"

        def load(self) -> Any:
            return credentials

    session = botocore.session.Session()
    session.get_component("credential_provider").insert_before("env", Provider())
    client: Any = session.create_client("sts", "us-east-1")
    wire = Wire(client)
    with pytest.raises(UnsupportedError, match="sign with"):
        client.get_caller_identity()
    assert wire.sent == []


@pytest.mark.parametrize(("service", "version"), [("sdb", None), ("dynamodb", "v2"), ("dynamodb", "v3")])
def test_signature_versions_that_need_the_secret(service: str, version: str | None) -> None:
    client = _direct().client(service, config=Config(signature_version=version))  # type: ignore[call-overload]
    wire = Wire(client)
    with pytest.raises(UnsupportedError, match=f"signature version '{version or 'v2'}' needs the secret"):
        client.list_domains() if service == "sdb" else client.list_tables()
    assert wire.sent == []


def test_an_unknown_signature_version_stays_botocores() -> None:
    with pytest.raises(UnsupportedSignatureVersionError):
        _direct().client("sdb").generate_presigned_url("list_domains")


def test_a_device_error_comes_out() -> None:
    signer = memory_signer(ACCESS_KEY_ID, SECRET)

    def fail(message: bytes) -> bytes:
        raise DeviceError("the device is away")

    signer.keys.backend.hmac_sha256 = fail  # type: ignore[method-assign]
    client = direct_session(signer).client("sts")
    wire = Wire(client)
    for error in (DeviceError, CredentialRetrievalError):
        with pytest.raises(error, match="the device is away"):
            client.get_caller_identity()
    assert wire.sent == []


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"x", 0),
        (bytearray(b"x"), 0),
        ("x", 0),
        ({"Action": "x"}, 0),
        (None, 0),
        (io.BytesIO(b"x"), 0),
        (iter([b"x"]), None),
    ],
)
def test_which_bodies_are_sent_again(body: Any, answer: int | None) -> None:
    assert resend({"body": body, "context": {}}, corrected=True) == answer
    assert resend({"body": body, "context": {}}, corrected=False) is None


@pytest.mark.parametrize("mode", ["direct", "session"])
@pytest.mark.parametrize("signer", ["AKIAIOSFODNN7EXAMPLE", CountingBackend(b"x")], ids=["text", "backend"])
def test_what_is_no_signer_is_refused_at_once(signer: Any, mode: str) -> None:
    for attempt in (
        lambda: aws_hmac.Session(signer=signer, mode=mode),
        lambda: aws_hmac.botocore.install(botocore.session.Session(), signer=signer, mode=mode),
        lambda: aws_hmac.botocore.install_default(signer=signer, mode=mode),
    ):
        with pytest.raises(ConfigError, match=r"must be an aws_hmac\.Signer, .* and is of type (str|CountingBackend)"):
            attempt()
