"""Fixtures for all tests; those of devices come with the package, as a user gets them."""

from __future__ import annotations

pytest_plugins = ["aws_hmac.testing"]
