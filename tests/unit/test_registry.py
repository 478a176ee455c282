from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from aws_hmac import BackendUnavailableError, KeyURIError, UnknownSchemeError, open_backend, registry
from aws_hmac_backends.memory import MemoryBackend

if TYPE_CHECKING:
    from pathlib import Path

SCHEMES = ["awskms", "memory", "pkcs11", "tink", "tpm2", "vault"]


def entry(value: str, name: str = "x") -> EntryPoint:
    return EntryPoint(name=name, value=value, group=registry.GROUP)


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """The entry points that claim any scheme."""
    claims: list[EntryPoint] = []
    monkeypatch.setattr(registry, "_claims", lambda scheme: claims)
    return claims


def test_schemes() -> None:
    assert [scheme for scheme in registry.schemes() if scheme in SCHEMES] == SCHEMES
    assert list(registry.schemes()) == sorted(registry.schemes())


def test_listing_imports_no_backend() -> None:
    code = "import sys, aws_hmac.registry as r; r.schemes(); print([m for m in sys.modules if 'backends' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_loads() -> None:
    assert registry.backend_class("memory") is MemoryBackend


@pytest.mark.parametrize("scheme", ["none", "", "memory ", "Memory"])
def test_unknown(scheme: str) -> None:
    with pytest.raises(UnknownSchemeError, match="there are awskms, memory, pkcs11"):
        registry.backend_class(scheme)


def test_unknown_by_uri() -> None:
    with pytest.raises(UnknownSchemeError, match="'none'"):
        open_backend("none:a=b")
    with pytest.raises(KeyURIError, match="not a key URI"):
        open_backend("s3cr3t")


def test_two_claimants(claims: list[EntryPoint]) -> None:
    claims += [entry("aws_hmac_backends.memory:MemoryBackend"), entry("other.module:Backend")]
    with pytest.raises(
        UnknownSchemeError, match=r"two backends claim the scheme 'x': aws_hmac_backends.*other\.module"
    ):
        registry.backend_class("x")


@pytest.mark.parametrize("first", [True, False])
def test_two_claimants_that_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    """A distribution that takes one of our schemes for its own is told of, wherever on the path it lies."""
    about = tmp_path / "stranger-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[aws_hmac.backends]\nmemory = stranger:Backend\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path] if first else [*sys.path, str(tmp_path)])
    with pytest.raises(UnknownSchemeError, match=r"two backends claim the scheme 'memory': .*\(stranger\)"):
        registry.open_backend("memory:env=X")


def test_found_twice_is_one(claims: list[EntryPoint]) -> None:
    claims += [entry("aws_hmac_backends.memory:MemoryBackend")] * 2
    assert registry.backend_class("x") is MemoryBackend


def test_no_backend(claims: list[EntryPoint]) -> None:
    claims.append(entry("aws_hmac.uri:KeyURI"))
    with pytest.raises(UnknownSchemeError, match=r"aws_hmac\.uri:KeyURI, .* is not an HmacBackend"):
        registry.backend_class("x")


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s not in ("memory", "awskms", "vault")])
def test_missing_extra(scheme: str) -> None:
    """A Python without the backend's dependency says what to install."""
    vendor = {"pkcs11": "pkcs11", "tpm2": "tpm2_pytss", "tink": "tink"}[scheme]
    code = f"""
import sys
sys.modules[{vendor!r}] = None
from aws_hmac import BackendUnavailableError, open_backend
try:
    open_backend("{scheme}:x=y")
except BackendUnavailableError as exc:
    print(exc.name, "|", exc)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith(f"{vendor} | {scheme}: keys need a Python package that is missing")
    assert f"pip install 'aws-hmac[{scheme}]'" in done.stdout


class TestBrokenImports:
    """A backend's dependency that is missing is not the same as a fault of the backend's own."""

    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "a_backend", raising=False)
        return tmp_path / "a_backend.py"

    @pytest.mark.parametrize(
        ("text", "missing"),
        [
            ("import no_such_vendor", "no_such_vendor"),
            ("import no_such_vendor.part", "no_such_vendor"),
            ("from hashlib import no_such_name", "no_such_name"),
        ],
    )
    def test_of_a_dependency(self, claims: list[EntryPoint], module: Path, text: str, missing: str) -> None:
        module.write_text(text)
        claims.append(entry("a_backend:Backend"))
        with pytest.raises(BackendUnavailableError, match=rf"{missing}.*pip install 'aws-hmac\[x\]'") as caught:
            registry.backend_class("x")
        assert isinstance(caught.value.__cause__, ImportError)

    @pytest.mark.parametrize(
        "text", ["from aws_hmac.uri import NoSuchName", "import aws_hmac.no_such_module", "import a_backend.x"]
    )
    def test_of_its_own(self, claims: list[EntryPoint], module: Path, text: str) -> None:
        module.write_text(text)
        claims.append(entry("a_backend:Backend"))
        with pytest.raises(ImportError) as caught:
            registry.backend_class("x")
        assert not isinstance(caught.value, BackendUnavailableError)

    def test_no_such_class(self, claims: list[EntryPoint], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "a_backend", ModuleType("a_backend"))
        claims.append(entry("a_backend:Backend"))
        with pytest.raises(AttributeError):
            registry.backend_class("x")
