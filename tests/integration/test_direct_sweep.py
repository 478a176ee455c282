"""A part of the sweep: stock botocore against direct signing, byte for byte. ``make sweep`` runs the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# One at least of each protocol and signature version, and what botocore treats in its own way.
SERVICES = [
    "apigateway", "bedrock", "cloudfront-keyvaluestore", "cognito-idp", "dynamodb", "glacier", "iam", "kinesis",
    "lambda", "partnercentral-channel", "polly", "rds", "route53", "s3", "s3control", "sdb", "sqs", "sts",
    "sustainability", "timestream-query",
]  # fmt: skip
FEW = ["cognito-idp", "partnercentral-channel", "s3", "sdb", "sts", "sustainability"]


def _sweep(*arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweep", "--jobs", "1", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    return done.stdout


def test_a_part(tmp_path: Path) -> None:
    digests = str(tmp_path / "digests.json")
    said = _sweep("--every", "30", "--digests", digests, *SERVICES)
    assert " 0 different" in said
    assert int(said.partition(" requests: ")[2].partition(" same")[0]) > 3000
    # With awscrt, which signs for stock botocore and prefers Version 4A where it can, the requests are the same.
    assert " 0 differ;" in _sweep("--crt", "--against", digests, *FEW)


def test_a_wrong_signature_would_be_seen() -> None:
    """The twin: a signer with another key differs everywhere."""
    code = (
        "import tests.sweep.compare as c\n"
        "c.SECRET_OF_DIRECT = c.SECRET[:-1] + '~'\n"
        "found = list(c.sweep('sts'))\n"
        "print(sorted({r.verdict for r in found if r.verdict != 'unmade'}), c.unexpected(found)[0].verdict)"
    )
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("AWS_")}, "BOTO_DISABLE_CRT": "true"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "['different', 'same'] different\n", done.stderr  # "same": those that nobody signs
