from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_requests import SECRET
from tests.verifier import ACCESS_KEY_ID, Verifier

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("example", "requests"), [("requests_api.py", 2), ("httpx_async.py", 20)])
@pytest.mark.parametrize("secret", [SECRET, "wrong"])
def test_example(example: str, requests: int, secret: str) -> None:
    with Verifier(SECRET) as verifier:
        done = subprocess.run(
            [sys.executable, EXAMPLES / example, "memory:env=TEST_SECRET", ACCESS_KEY_ID, verifier.url, "s3", "r-1"],
            env={**os.environ, "TEST_SECRET": secret},
            capture_output=True,
            check=False,
        )
        assert len(verifier.seen) == requests
        assert all(seen.verified == (secret == SECRET) for seen in verifier.seen)
    assert done.returncode == (0 if secret == SECRET else 1), done.stderr
