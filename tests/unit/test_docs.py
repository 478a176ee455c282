"""What README and docs/ name is there: links, headings, commands with their options, make's targets, Python's names."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

import aws_hmac
from aws_hmac import cli

HOME = Path(__file__).parents[2]
PAGES = sorted([*HOME.glob("*.md"), *HOME.glob("docs/**/*.md"), *HOME.glob("tests/**/README.md")])
FENCE = re.compile(r"^( *)(```+)[^\n]*\n(.*?)^\1\2\s*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NO_MODULES = frozenset(["audit", "backends"])
"""A logger, and the group of entry points."""

ENDS = frozenset(["|", ";", "&&", ">", "<", ">>", "2>", "||"])


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def headings(text: str) -> set[str]:
    """The anchors that GitHub makes."""
    found = re.findall(r"^#+ +(.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in found}


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / unquote(path) if path else page
        if not there.exists() or (
            anchor and there.suffix == ".md" and anchor not in headings(text if there == page else text_of(there))
        ):
            broken.append(target)
    return broken


def commands(text: str) -> list[str]:
    """The lines of code that call aws-hmac, without a prompt, and with the lines that go on."""
    lines = re.sub(r"[ \t]*\\\n\s*", " ", text).splitlines()
    return [
        line.strip().removeprefix("$ ") for line in lines if re.match(r"(    |\s*\$ |\s*)(?:.*\| *)?aws-hmac ", line)
    ]


def fault(line: str) -> str | None:
    """What is wrong with a command; None if it can be typed so."""
    words = [word.replace("\0", "") for word in shlex.split(line.replace("…", "x"), comments=True)]
    words = words[words.index("aws-hmac") + 1 :]
    words = words[: next((number for number, word in enumerate(words) if word in ENDS), None)]
    if words[-1:] == ["--help"] or words == ["--version"] or "COMMAND" in words:
        return None
    name = next((n for n in (" ".join(words[:2]), " ".join(words[:1])) if n in cli.COMMANDS), None)
    if name is None:
        return "there is no such command"
    try:
        args, unknown = cli.command(name)[0].parse_known_args(words[name.count(" ") + 1 :])
    except SystemExit:
        return "its arguments are not taken"
    if unknown:
        return f"it does not know {unknown}"
    if name == "key check" and args.sts and not (args.access_key_id or args.profile):
        return "--sts needs --access-key-id"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOME)))
def test_links(page: Path) -> None:
    assert broken_links(page, text_of(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOME)))
def test_commands(page: Path) -> None:
    assert {line: said for line in commands(text_of(page)) if (said := fault(line)) is not None} == {}


def test_every_page_of_docs_is_linked_from_readme() -> None:
    linked = set(LINK.findall(text_of(HOME / "README.md")))
    assert [page.name for page in HOME.glob("docs/*.md") if f"docs/{page.name}" not in linked] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOME)))
def test_make_targets(page: Path) -> None:
    there = set(re.findall(r"^([a-z-]+):", text_of(HOME / "Makefile"), re.MULTILINE))
    blocks = "".join(block for _, _, block in FENCE.findall(text_of(page)))
    named = set(re.findall(r"(?:^\$? *|`)(?:[A-Z]+=\S+ )*make ([a-z-]+)", blocks, re.MULTILINE))
    assert named | set(re.findall(r"`make ([a-z-]+)`", text_of(page))) <= there


def test_names_of_the_library() -> None:
    for page in PAGES:
        for _, _, block in FENCE.findall(text_of(page)):
            for name in re.findall(r"\baws_hmac\.([A-Za-z_]\w*)", block):
                home = HOME / "aws_hmac" / name
                there = name in (*aws_hmac.__all__, *NO_MODULES) or home.is_dir() or home.with_suffix(".py").exists()
                assert there, f"{page.name}: aws_hmac.{name}"


def test_what_is_wrong_is_found() -> None:
    page = HOME / "README.md"
    wrong = "# A b\n[a](docs/none.md) [b](#none) [c](docs/cli.md#none) [d](#a-b) [e](https://x.example) [f](LICENSE)\n"
    assert broken_links(page, wrong) == ["docs/none.md", "#none", "docs/cli.md#none"]
    assert commands(
        "    aws-hmac key list x\n$ aws-hmac sign \\\n    --a b\nuse aws-hmac now\ncat x | aws-hmac doctor\n"
    ) == [
        "aws-hmac key list x",
        "aws-hmac sign --a b",
        "cat x | aws-hmac doctor",
    ]
    assert fault("aws-hmac key list 'pkcs11:token=…' | less") is None
    assert fault("x | aws-hmac key lsit pkcs11:") == "there is no such command"
    assert fault("aws-hmac key list pkcs11: --jsno") == "it does not know ['--jsno']"
    assert fault("aws-hmac key list") == "its arguments are not taken"
    assert fault("aws-hmac key check memory:env=X --sts") == "--sts needs --access-key-id"
