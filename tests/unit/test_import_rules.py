"""The house's rules: who may import whom. Read from the source, so that no import hides in a function."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "aws_hmac"
BACKENDS = ROOT / "backends" / "aws_hmac_backends"

LAYERS = (
    ("errors",),
    ("uri", "sources", "sigv4"),
    ("backend",),
    ("registry", "keys", "signing_keys"),
    ("signer",),
    ("sts", "sessions", "profile"),
    ("botocore", "aiobotocore", "awscli", "requests", "httpx"),
    ("cli", "serve"),
)
"""Arrows point down, or stay within a layer. `testing` stands beside them: nothing imports it."""

LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}

OURS_FOR_A_BACKEND = {"aws_hmac.backend", "aws_hmac.uri", "aws_hmac.sources", "aws_hmac.errors"}
"""`sources` is the part of `uri` that is loaded only where a file or a secret is fetched."""


class Import(NamedTuple):
    """One import: the module that is loaded, and whether only a type checker sees it."""

    module: str
    line: int
    for_types: bool


def module_name(path: Path, root: Path) -> str:
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, name: str, *, package: bool) -> Iterator[Import]:
    """Yields each module that a source text imports, wherever it stands."""
    tree = ast.parse(source)
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")
            base = base[: len(base) - node.level + package] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # "from aws_hmac import x" loads aws_hmac.x where that is a module
            found = [f"{stem}.{a.name}" if is_module(f"{stem}.{a.name}") else stem for a in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                found = [argument.value]
        for module in found:
            yield Import(module, getattr(node, "lineno", 0), id(node) in typed)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    backend = BACKENDS.parent.joinpath(*name.split("."))
    return any(p.with_suffix(".py").exists() or (p / "__init__.py").exists() for p in (path, backend))


def all_imports(root: Path) -> list[tuple[str, str, Import]]:
    """Each import below a folder, with its module's name and where it stands."""
    return [
        (name, f"{path.relative_to(ROOT)}:{found.line}: {found.module}", found)
        for path in sorted(root.rglob("*.py"))
        for name in [module_name(path, root)]
        for found in imports(path.read_text(encoding="utf-8"), name, package=path.name == "__init__.py")
    ]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer(name: str, above: tuple[str, ...] = ()) -> int:
    """The layer of a module of the library; one that stands in no layer lies as high as what it imports."""
    if name in LAYER or name in above:
        return LAYER.get(name, 0)
    path = LIBRARY / name
    sources = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    found = [f for p in sources for f in imports(p.read_text(encoding="utf-8"), f"aws_hmac.{name}", package=False)]
    below = {f.module.split(".")[1] for f in found if f.module.startswith("aws_hmac.")} - {name}
    return max((layer(other, (*above, name)) for other in below), default=0)


def layer_faults(imported: list[tuple[str, str, Import]]) -> list[str]:
    faults = []
    for name, where, found in imported:
        if not within(found.module, "aws_hmac") or name in ("aws_hmac", "aws_hmac.testing"):
            continue  # the package's own names are loaded on use; testing may use everything
        home = name.split(".")[1]
        target = found.module.split(".")[1] if "." in found.module else None
        if target is None:
            if found.for_types or home in ("cli", "serve"):
                continue
            faults.append(f"{where} (import the module itself)")
        elif target == "testing" or layer(target) > layer(home):
            faults.append(where)
    return faults


def backend_faults(imported: list[tuple[str, str, Import]]) -> list[str]:
    faults = []
    for name, where, found in imported:
        if within(found.module, "aws_hmac") and found.module not in OURS_FOR_A_BACKEND:
            faults.append(where)
        elif within(found.module, "aws_hmac_backends"):
            # its own folder, or a private module that several share
            other = (found.module.split(".")[1:2] or ["_"])[0]
            if other != name.split(".")[1] and not other.startswith("_"):
                faults.append(where)
    return faults


def test_every_layer_is_there() -> None:
    missing = {name for name in LAYER if not is_module(f"aws_hmac.{name}")}
    assert missing <= {"sessions", "botocore", "aiobotocore", "awscli"}


def test_arrows_point_down() -> None:
    assert layer_faults(all_imports(LIBRARY)) == []


def test_the_library_knows_no_device() -> None:
    assert [where for _, where, found in all_imports(LIBRARY) if within(found.module, "aws_hmac_backends")] == []


def test_a_backend_knows_interface_uri_and_errors_only() -> None:
    assert backend_faults(all_imports(BACKENDS)) == []


def test_sigv4_knows_errors_only() -> None:
    ours = {
        found.module
        for name, _, found in all_imports(LIBRARY)
        if within(name, "aws_hmac.sigv4") and within(found.module, "aws_hmac")
    }
    assert {m for m in ours if not within(m, "aws_hmac.sigv4")} <= {"aws_hmac.errors"}


def test_sigv4_is_pure() -> None:
    """No clock, no files, no network; a body that is handed in may be wrapped, so io is fine."""
    impure = {"time", "os", "socket", "pathlib", "subprocess", "threading", "logging", "urllib.request"}
    assert [
        where
        for name, where, found in all_imports(LIBRARY)
        if within(name, "aws_hmac.sigv4") and found.module in impure and not found.for_types
    ] == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("aws_hmac.signer", "import aws_hmac.cli"),
        ("aws_hmac.signer", "from aws_hmac import sts"),
        ("aws_hmac.backend", "def f():\n    from aws_hmac.signer import Signer"),
        ("aws_hmac.errors", "from .uri import KeyURI"),
        ("aws_hmac.signing_keys", "from . import signer"),
        ("aws_hmac.sts", "from aws_hmac import Signer"),
        ("aws_hmac.cli.demo", "import aws_hmac.testing"),
    ],
)
def test_an_arrow_that_points_up_is_found(name: str, source: str) -> None:
    imported = [(name, "here", found) for found in imports(source, name, package=False)]
    assert layer_faults(imported) != []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import hvac", False),
        ("from aws_hmac.backend import HmacBackend", False),
        ("from aws_hmac.signing_keys import SigningKeys", True),
        ("from aws_hmac import registry", True),
        ("import importlib\nimportlib.import_module('aws_hmac.keys')", True),
        ("from aws_hmac_backends.memory import MemoryBackend", True),
        ("from aws_hmac_backends import _wrap", False),
    ],
)
def test_what_a_backend_may_not_is_found(source: str, fault: bool) -> None:
    name = "aws_hmac_backends.vault"
    imported = [(name, "here", found) for found in imports(source, name, package=False)]
    assert bool(backend_faults(imported)) is fault


DEVICES = (
    "pkcs11",
    "tpm2_pytss",
    "tink",
    "boto3",
    "botocore",
    "aiobotocore",
    "hvac",
    "cryptography",
    "rich",
    "requests",
)


def loaded_by(code: str) -> set[str]:
    """Returns the modules that a fresh process has loaded after a line of code."""
    program = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import aws_hmac",
        "import aws_hmac; aws_hmac.schemes()",
        "import aws_hmac; aws_hmac.KeyURI.parse('pkcs11:token=a')",
        "import aws_hmac.cli",
    ],
)
def test_importing_loads_no_device_library(code: str) -> None:
    loaded = loaded_by(code)
    assert [m for m in DEVICES if m in loaded] == []
    assert not any(within(m, "aws_hmac_backends") for m in loaded)


def test_the_search_for_loaded_modules_finds_one() -> None:
    assert "cryptography" in loaded_by("import cryptography")
