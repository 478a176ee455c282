"""docs/cli.md shows each command's --help as it is. ``python tests/unit/test_cli_docs.py`` brings it up to date."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from aws_hmac import cli

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
WIDTH = "100"
BLOCK = re.compile(r"```console\n\$ aws-hmac ?([a-z -]*?) --help\n(.*?)```", re.DOTALL)

THERE = [name for name in cli.COMMANDS if find_spec(cli._module(name)) is not None]


def help_of(name: str) -> str:
    """Returns what ``aws-hmac NAME --help`` prints on a terminal of 100 columns."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        return cli.command(name)[0].format_help()
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def plain(text: str) -> str:
    """The words alone: from Python 3.13 on argparse wraps otherwise, and names a metavar once."""
    return " ".join(re.sub(r"(-\w) (?:'[^']*'|\S+), (--\S+)", r"\1, \2", text).split())


def blocks() -> dict[str, str]:
    return dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", THERE)
def test_the_page_shows_the_help(name: str) -> None:
    assert plain(blocks().get(name, "")) == plain(help_of(name)), f"run: python {Path(__file__).name}"


def test_the_page_shows_no_other_command() -> None:
    assert set(blocks()) <= {"", *cli.COMMANDS}


def test_the_page_shows_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert blocks()[""] == capsys.readouterr().out


def test_a_difference_is_found() -> None:
    shown = help_of("key list")
    assert plain(shown) != plain(shown.replace("--json", "--jsno"))
    assert plain("-o FILE, --output FILE  where") == plain("-o, --output FILE\n   where")


def update() -> None:
    """Writes the page's blocks anew, and a section for each command that has none."""
    import contextlib
    import io

    text = PAGE.read_text(encoding="utf-8")
    for name in THERE:
        if name not in blocks():
            text += f"\n## {name}\n\n```console\n$ aws-hmac {name} --help\n```\n"
    overview = io.StringIO()
    with contextlib.redirect_stdout(overview):
        cli.main(["--help"])

    def fresh(match: re.Match[str]) -> str:
        name = match[1]
        if name and name not in THERE:
            return match[0]
        words = f"{name} --help" if name else "--help"
        return f"```console\n$ aws-hmac {words}\n{help_of(name) if name else overview.getvalue()}```"

    PAGE.write_text(BLOCK.sub(fresh, text), encoding="utf-8")


if __name__ == "__main__":
    update()
