"""Groups of commands of which only the one that is called is imported.

Start-up is what a user waits for on every completion and every `podnet status`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click
from click.shell_completion import CompletionItem

from podnet.errors import UserError

Table = Mapping[str, tuple[str, str]]
"""By a command's name: where it lives (module:attribute), and what it does."""


def group(table: Table) -> type[click.Group]:
    """The class of a group with these subcommands."""

    class Commands(click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(table)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            return _load(table[cmd_name][0], cmd_name) if cmd_name in table else None

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(name, text) for name, (_, text) in table.items()])

        def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
            names = [
                CompletionItem(name, help=text) for name, (_, text) in table.items() if name.startswith(incomplete)
            ]
            return names + click.Command.shell_complete(self, ctx, incomplete)

    return Commands


def _load(place: str, name: str) -> click.Command:
    module, attribute = place.split(":")
    try:
        command: click.Command = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"this podnet has no command {name}: install one that has") from error
    return command
