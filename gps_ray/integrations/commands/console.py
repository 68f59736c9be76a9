"""What the commands share: arguments that are lists, tables on stdout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

__all__ = ["config_arguments", "name_list", "number_list", "print_table"]


def config_arguments(description: str) -> argparse.ArgumentParser:
    """A parser with ``--config FILE key=value ... --dry-run``, the convention of all jobs that take a config."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, default=None, help="YAML file; defaults hold for what it leaves out")
    parser.add_argument("--dry-run", action="store_true", help="show what would run, start nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for instance run.num_steps=5")
    return parser


def name_list(text: str) -> tuple[str, ...]:
    """An argument of names with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def number_list(text: str) -> tuple[int, ...]:
    """An argument of whole numbers with commas between."""
    return tuple(int(part) for part in text.split(","))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows of text on stdout, the first column to the left."""
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    # Without a terminal rich assumes 80 columns and folds figures.
    Console(width=None if sys.stdout.isatty() else 160).print(table)
