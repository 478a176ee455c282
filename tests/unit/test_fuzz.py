"""A small fixed sample of ``make fuzz``, and that it finds what is broken."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

import pytest

from aws_hmac.sigv4 import canonical
from tests.fuzz.__main__ import Failure, run


def test_sample() -> None:
    counts = run(20150830, 1500)
    assert counts["requests"] == 1500
    for name in ("in headers", "presigned", "agree on the canonical spelling", "with a free spelling"):
        assert counts[name] > 300, name
    assert any("query spelling" in name for name in counts)
    assert any("path spelling" in name for name in counts)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("UNSIGNED_HEADERS", canonical.UNSIGNED_HEADERS - {"te"}),
        ("_without_dot_segments", lambda path: path),
        ("_recode", lambda text: quote(unquote_to_bytes(text), safe="-._~")),  # + is not a blank
        ("_BLANKS", re.compile(r" +")),  # tabs do not fold
    ],
)
def test_finds_what_is_broken(monkeypatch: pytest.MonkeyPatch, name: str, broken: object) -> None:
    from aws_hmac import signer

    caches = (canonical.header_plan, signer._plan, signer._kept_query_string)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(canonical, name, broken)
    try:
        with pytest.raises(Failure):
            run(20150830, 3000)
    finally:
        monkeypatch.undo()
        for cache in caches:
            cache.cache_clear()
