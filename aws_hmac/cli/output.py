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
    """Prints one JSON document; what a terminal could obey is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints rows under headings, aligned; nothing is cut off when piped."""
    cells = [list(map(clean, row)) for row in rows]
    out = console()
    if not out.is_terminal:
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in (columns, *cells):
            print("  ".join(map(str.ljust, row, widths)).rstrip())
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*row)
    out.print(table, soft_wrap=False)


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
