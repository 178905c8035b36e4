"""`podnet bench`: measures, and says where the goals of the documentation are met (docs/bench.md)."""

from __future__ import annotations

import click

from podnet.bench import arena
from podnet.bench.figures import Figure, say
from podnet.bench.suites import SUITES, load
from podnet.cli.output import emit, output_option, table

EXAMPLES = """\b
Examples:
  podnet bench cni
  podnet bench cni path plan -o json > figures.json
  podnet bench --list
"""


@click.command(epilog=EXAMPLES)
@click.argument("suites", nargs=-1, metavar="SUITE...", type=click.Choice(list(SUITES)))
@click.option("--list", "listed", is_flag=True, help="Say which suites there are.")
@output_option
def command(suites: tuple[str, ...], listed: bool, output: str) -> None:
    """Measure podnet against what it is compared with, in one run on this machine.

    Everything happens in namespaces that vanish with the command, also when it is killed. What has a goal is mostly a
    median of ratios; LOW and HIGH are its quartiles. A goal that is missed is a figure, not an error: exit code 0.
    """
    if listed:
        rows = [{"suite": name, "measures": text} for name, (_, text) in SUITES.items()]
        emit({"suites": rows}, output, lambda: table(("SUITE", "MEASURES"), [tuple(row.values()) for row in rows]))
        return
    if not suites:
        raise click.UsageError(f"which suite? One or more of {', '.join(SUITES)}", click.get_current_context())
    arena.enter()
    figures: list[Figure] = []
    for name in dict.fromkeys(suites):
        say(f"suite {name}: {SUITES[name][1]}")
        figures += load(name)()
    emit({"figures": figures}, output, lambda: _table(figures))


def _table(figures: list[Figure]) -> str:
    headers = ("SUITE", "FIGURE", "VALUE", "UNIT", "LOW", "HIGH", "GOAL", "MET")
    return table(headers, [(f.suite, f.name, f.value, f.unit, f.low, f.high, _goal(f), f.met) for f in figures])


def _goal(figure: Figure) -> str | None:
    if figure.goal is None:
        return None
    below = (figure.value <= figure.goal) == figure.met
    return f"{'at most' if below else 'at least'} {figure.goal:g}"
