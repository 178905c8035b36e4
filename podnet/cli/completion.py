"""`podnet completion SHELL`: the script that makes a shell ask podnet what may come next."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}

EXAMPLES = """\b
Examples:
  source <(podnet completion bash)                                     this shell
  podnet completion bash > /etc/bash_completion.d/podnet               every bash
  podnet completion fish > ~/.config/fish/completions/podnet.fish      every fish
"""


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    click.echo(SHELLS[shell](ctx.find_root().command, {}, "podnet", "_PODNET_COMPLETE").source())
