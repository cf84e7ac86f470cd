"""Tables for people."""

from collections.abc import Sequence
from typing import Final

import click
from rich.console import Console
from rich.table import Table

__all__ = ["print_table"]

_BORDERS: Final = 3


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: by rich on a terminal that is wide enough, else in plain columns that are never cut."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    console = Console()
    if console.is_terminal and console.width > sum(widths) + _BORDERS * len(widths):
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    for row in (header, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  " + "  ".join(cells).rstrip())
