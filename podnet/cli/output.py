"""What commands print: a table for people, the same value as JSON or YAML for programs.

A command takes `@output_option`, builds one plain value (dicts, lists, msgspec Structs) and hands it to `emit` together
with the text that people see. The value is the contract; the text may change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import click

Decorated = TypeVar("Decorated", bound=Callable[..., object])

PATIENCE = 2.0
"""Seconds without a word that people take for work, and not for a hang."""


def output_option(command: Decorated) -> Decorated:
    """Adds `-o table|json|yaml`; the command gets it as the parameter `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="Format of what is printed.",
    )(command)


def emit(value: object, output: str, text: Callable[[], str]) -> None:
    """Prints `value` as `output` says; `text` makes the form for people and is called only when that is wanted."""
    click.echo(text() if output == "table" else encode(value, output))


def encode(value: object, output: str) -> str:
    """`value` as JSON (indented) or YAML, keys in their own order; Structs become objects."""
    import msgspec  # here, as a table needs none of it

    if output == "json":
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return msgspec.yaml.encode(value).decode().rstrip("\n")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns, two spaces apart: numbers to the right, all else to the left; None is shown as `-`."""
    body = list(rows)
    shown = [list(headers), *([cell(value) for value in row] for row in body)]
    numeric = [bool(body) and all(is_number(row[i]) for row in body) for i in range(len(headers))]
    widths = [max(len(line[i]) for line in shown) for i in range(len(headers))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in shown
    )


def cell(value: object) -> str:
    """One value as a table shows it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


class Progress:
    """A line on stderr each two seconds, for what takes longer; nothing for what is quick."""

    def __init__(self, what: str) -> None:
        """`what`, such as "pairs checked", follows the numbers."""
        self._what = what
        self._next = time.monotonic() + PATIENCE

    def tell(self, done: int, of: int) -> None:
        """So far `done` of `of`."""
        if time.monotonic() >= self._next and done < of:
            self._next = time.monotonic() + PATIENCE
            click.echo(f"  {done:,} of {of:,} {self._what}", err=True)
