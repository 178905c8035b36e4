"""`podnet check`: prove the network with real packets, once or for as long as something is done to it.

The endpoints are those the agents know on this machine: in a lab every node's, else this node and its pods. When an
agent is away its records on disk say the same, so killing one is no reason not to check.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence

import click

from podnet.cli import matrix
from podnet.cli.output import Progress, emit, output_option
from podnet.cli.target import AgentAway, Node, Target, endpoints, endpoints_on_record, need_root, target_options
from podnet.errors import UserError
from podnet.network.reach import Endpoint, Report

EXAMPLES = """\b
Examples:
  podnet check                                every pair of pods and nodes, once
  podnet check --watch                        keep probing until Ctrl-C, say what was lost and when
  podnet check --watch --duration 30 -o json  the same for 30 s, for a script
Exit codes: 0 all probes passed, 1 some failed, 2 wrong input.
"""

FULL = """\
The kernel's neighbour table was full {} times meanwhile and dropped packets; all namespaces of a machine share it.
raise it  sysctl -w net.ipv4.neigh.default.gc_thresh3=16384 net.ipv6.neigh.default.gc_thresh3=16384
or need none  spec.attachment: ptp in NetworkConfig/default, for pods that are started from then on
"""


@click.command(epilog=EXAMPLES)
@click.option("--watch", is_flag=True, help="Keep probing; count what is lost.")
@click.option("--rate", type=click.IntRange(1, 20_000), default=None, help="Probes per second of --watch [1000].")
@click.option(
    "--duration", type=click.FloatRange(min=0.1), default=None, help="Seconds of --watch, if not until Ctrl-C."
)
@output_option
@target_options
def command(target: Callable[[], Target], watch: bool, rate: int | None, duration: float | None, output: str) -> int:
    """Prove the network model with real packets.

    Every pod to every pod, every node to every pod, every pod to every node, in every address family: a TCP connection,
    a datagram, and one of the full MTU that may not be fragmented; the server must see the client's own address. And
    the containers of a pod share its localhost. Packets leave from inside the pods' own network namespaces.
    """
    if not watch and (rate or duration):
        raise UserError("--rate and --duration belong to --watch: add it, or leave them out")
    need_root("opening sockets inside pods")
    if watch:
        return asyncio.run(_watch(target(), rate or 1000, duration, output))
    found = run(target())
    emit(matrix.document(found), output, lambda: matrix.render(found))
    return 0 if found.ok else 1


def run(target: Target) -> Report:
    """Check a target once. Raises UserError when there is nothing to check."""
    from podnet.daemons.prober import Prober
    from podnet.kernel.facts import neighbours_refused

    there = [endpoint for node in target.nodes for endpoint in _known(node)]
    _enough(there)
    before = neighbours_refused()
    with Prober(Progress("pairs checked").tell) as prober:
        found = asyncio.run(prober.check(there))
    if not found.ok and (refused := neighbours_refused() - before) > 0:
        click.echo(FULL.format(refused), err=True)
    return found


def _known(node: Node) -> list[Endpoint]:
    """From the agent, else from its records. Raises UserError."""
    try:
        return endpoints(node)
    except AgentAway as away:
        try:
            return endpoints_on_record(node)
        except UserError:
            raise UserError(f"{away}: start it, or bring up a lab with podnet lab up") from None


def _enough(there: Sequence[Endpoint]) -> None:
    if not any(endpoint.kind == "pod" for endpoint in there):
        raise UserError("there are no pods to check the network between: run some first")


async def _watch(target: Target, rate: int, duration: float | None, output: str) -> int:
    from podnet.daemons.watch import Interval, Watch

    latest = {node.run_dir: _known(node) for node in target.nodes}
    _enough([endpoint for known in latest.values() for endpoint in known])

    def refresh() -> list[Endpoint]:
        for node in target.nodes:
            try:
                latest[node.run_dir] = endpoints(node)
            except AgentAway:
                continue  # nothing comes or goes without its agent
        return [endpoint for known in latest.values() for endpoint in known]

    def tell(interval: Interval) -> None:
        if output == "table":
            click.echo(matrix.interval(interval, started))

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    started = time.time()
    watched = await Watch(rate, lambda: asyncio.to_thread(refresh), tell).run(duration, stop)
    emit(matrix.watched_document(watched, started), output, lambda: matrix.render_watched(watched))
    return 1 if watched.failed else 0
