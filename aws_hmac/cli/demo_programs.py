"""The programs that ``aws-hmac demo`` runs, each in a Python process of its own."""

from __future__ import annotations

ADMINISTRATOR = """
import boto3, botocore.exceptions, json
def client(name):
    return boto3.client(name, aws_access_key_id="AKIANOBODYNOBODYNOBO", aws_secret_access_key="nobody")
iam = client("iam")
allow = lambda *actions: json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": actions, "Resource": "*"}]})
iam.create_user(UserName="demo")
iam.put_user_policy(UserName="demo", PolicyName="demo", PolicyDocument=allow("sts:*"))
trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}
role = iam.create_role(RoleName="deploy", AssumeRolePolicyDocument=json.dumps(
    {"Version": "2012-10-17", "Statement": [trust]}))["Role"]["Arn"]
iam.put_role_policy(RoleName="deploy", PolicyName="deploy", PolicyDocument=allow("s3:*"))
key = iam.create_access_key(UserName="demo")["AccessKey"]
try:
    client("sts").get_caller_identity()
    refused = None
except botocore.exceptions.ClientError as exc:
    refused = exc.response["Error"]["Code"]
print(json.dumps([key["AccessKeyId"], key["SecretAccessKey"], role, refused]))
"""
"""Makes user, role and key. These five calls go unverified, as the account is empty; the sixth must be refused."""

IDENTITY = """
import hashlib, sys, urllib.error, urllib.request
import aws_hmac
uri, access_key_id, endpoint = sys.argv[1:]
signer = aws_hmac.Signer(access_key_id, aws_hmac.open_backend(uri))
url = endpoint + "/?Action=GetCallerIdentity&Version=2011-06-15"
# moto takes the query for the body's hash, unless a header says what that is.
headers = {"x-amz-content-sha256": hashlib.sha256(b"").hexdigest()}
headers = signer.sign("GET", url, service="sts", region="us-east-1", headers=headers)
try:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        print(answer.status, answer.read().decode().replace("\\n", " "), flush=True)
except urllib.error.HTTPError as answer:
    print(answer.code, answer.read().decode().replace("\\n", " "), flush=True)
sys.stdin.read()
"""
"""Signs a GET by itself, and lives on until its standard input is closed, so that its memory can be looked at."""

ASSUME_ROLE = """
import sys
import aws_hmac
uri, access_key_id, endpoint, role = sys.argv[1:]
signer = aws_hmac.Signer(access_key_id, aws_hmac.open_backend(uri))
credentials = aws_hmac.sts.assume_role(signer, role_arn=role, region="us-east-1", endpoint_url=endpoint)
print(credentials.access_key_id, credentials.expiration.isoformat())
"""

STOCK_BOTO3 = """
import sys
import boto3
session = boto3.Session(profile_name="demo")
print(session.client("sts").get_caller_identity()["Arn"])
s3 = session.client("s3")
s3.create_bucket(Bucket="demo")
s3.put_object(Bucket="demo", Key="greeting", Body=sys.argv[1].encode())
print(s3.get_object(Bucket="demo", Key="greeting")["Body"].read().decode())
print("aws_hmac" in sys.modules)
"""

CONTROL = """
import base64, sys
secret = sys.stdin.readline().strip().encode()
held = [secret, base64.b64encode(secret), b"AWS4" + secret, base64.b64encode(b"AWS4" + secret)]
print("holds it", flush=True)
sys.stdin.read()
"""
