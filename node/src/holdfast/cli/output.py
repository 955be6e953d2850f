# SPDX-License-Identifier: Apache-2.0
"""Tables and JSON, laid out as bao prints them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click


def show_json(body: Any) -> None:
    """Indented JSON on stdout."""
    click.echo(json.dumps(body, indent=2))


def text_of(value: Any) -> str:
    """A cell: booleans as true/false, None as n/a."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "n/a" if value is None else str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns four blanks apart, with a line of dashes below the header."""
    cells = [list(header), ["-" * len(name) for name in header], *([text_of(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    padded = ("    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join(padded)


def key_value(pairs: Iterable[tuple[str, Any]]) -> str:
    """The two-column table of `bao status`."""
    return table(("Key", "Value"), list(pairs))
