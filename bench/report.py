"""How a bench tells its results: a table for people, then one line of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_report(title: str, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Print `rows`, which all have the same columns, as a table, and `summary` as the last line."""
    table = Table(title=title, title_justify="left")
    columns = list(rows[0]) if rows else []
    for column in columns:
        numeric = isinstance(rows[0][column], int | float)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(_shown(row[column]) for column in columns))
    Console().print(table)
    print(json.dumps(summary), flush=True)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
