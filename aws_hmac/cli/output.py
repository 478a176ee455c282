"""What commands print: a person's on a terminal, JSON with ``--json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from aws_hmac.backend import Finding

MARKS = {"good": ("✓", "green"), "info": ("·", "dim"), "warning": ("!", "yellow"), "bad": ("✗", "bold red")}
"""How each level of a `Finding` looks."""


def clean(text: str) -> str:
    """Returns text that a terminal shows and does not obey: labels come from devices, values from files."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def console(*, stderr: bool = False) -> Console:
    """Returns a console with colour on a terminal and plain text when piped; markup and guessing are off."""
    from rich.console import Console  # JSON needs none

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Prints one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints rows under headings, aligned; nothing is cut off when piped."""
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=not out.is_terminal)
    for row in rows:
        table.add_row(*map(clean, row))
    out.print(table, soft_wrap=False, width=None if out.is_terminal else 10_000)


def print_findings(findings: Iterable[Finding]) -> None:
    """Prints what was seen, one line each, the mend beneath it."""
    from rich.text import Text

    out = console()
    for finding in findings:
        mark, style = MARKS[finding.level]
        out.print(Text.assemble((mark, style), " ", (clean(finding.subject), "bold"), f": {clean(finding.text)}"))
        if finding.mend:
            out.print(Text.assemble("    mend: ", (clean(finding.mend), "cyan")))


def findings_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Returns findings as JSON objects."""
    return [finding._asdict() for finding in findings]
