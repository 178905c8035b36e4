"""`podnet plan`: the kernel state a node should hold, as text; with --diff, how its kernel differs from that.

Both are asked of the node's agent. With -f nothing is asked: the plan is computed from the objects in a file, as the
agent would, so it needs neither an agent nor root nor the node itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import click
import msgspec

from podnet.cli.output import emit, output_option
from podnet.cli.target import AgentAway, Target, node_option, target_options
from podnet.errors import UserError
from podnet.network.desired import desired, node_state
from podnet.network.view import LocalFacts, is_v6
from podnet.network.viewing import mistakes, node_info, problems, view
from podnet.objects.cluster import Cluster
from podnet.objects.codec import InvalidObject, convert
from podnet.objects.core import Node
from podnet.objects.kinds import NETWORKCONFIGS, NODES
from podnet.objects.meta import Object
from podnet.state.text import describe, listing

EXAMPLES = """\b
Examples:
  podnet plan --node node1                          what its kernel should hold
  podnet plan --diff                                what the kernel of any node lacks or has too much
  podnet plan -f cluster.yaml --node a --mtu 9000   without a cluster: from Nodes and a NetworkConfig
Exit codes: 0 done, with --diff: no difference; 1 --diff found one; 2 wrong input.
"""

PREFIX = {False: 24, True: 64}
"""Length of the subnet that -f assumes around a node's own address."""

Shown = dict[str, Any]


@click.command(epilog=EXAMPLES)
@node_option("This node only.")
@click.option("--diff", is_flag=True, help="Show how the kernel differs: + add, ~ change, ! replace, - delete.")
@click.option("-f", "--file", type=click.File(lazy=True), default=None, help="Compute from a YAML file; - for stdin.")
@click.option("--uplink", default=None, metavar="LINK", help="With -f: the nodes' uplink [eth0].")
@click.option("--mtu", type=click.IntRange(576, 65535), default=None, help="With -f: its MTU [1500].")
@output_option
@target_options
def command(
    target: Callable[[], Target],
    node: str | None,
    diff: bool,
    file: TextIO | None,
    uplink: str | None,
    mtu: int | None,
    output: str,
) -> int:
    """Show the kernel state that nodes should hold, or how the kernel differs from it."""
    if file and diff:
        raise UserError("--diff compares with a real kernel, which -f has not: leave one of them out")
    if not file and (uplink or mtu):
        raise UserError("--uplink and --mtu belong to -f; an agent reads them from its node")
    shown = list(_computed(file, node, uplink or "eth0", mtu or 1500) if file else _asked(target().only(node), diff))
    emit({"nodes": shown}, output, lambda: _text(shown, diff))
    return 1 if diff and any(each["steps"] for each in shown) else 0


def _asked(target: Target, diff: bool) -> Iterator[Shown]:
    """What the agents answer. Raises UserError."""
    for node in target.nodes:
        try:
            name = node.name or str(node.ask("status")["node"])
            yield {"node": name, **node.ask("plan" if diff else "desired")}
        except AgentAway as away:
            raise UserError(f"{away}: start it, or compute from a file with -f") from None


def _text(shown: list[Shown], diff: bool) -> str:
    if len(shown) == 1:
        return str(shown[0]["text"]).rstrip("\n") or ("no difference" if diff else "nothing")
    none = "no difference\n" if diff else "nothing\n"
    return "\n".join(f"# {each['node']}\n{each['text'] or none}" for each in shown).rstrip("\n")


def _computed(file: TextIO, name: str | None, uplink: str, mtu: int) -> Iterator[Shown]:
    """The plan of each node in a file, or of the one named. Raises UserError."""
    cluster = _cluster(file)
    for problem in problems(cluster):
        click.echo(f"{problem.object}: {problem.message}", err=True)
    nodes = {node.metadata.name: node for node in cluster.nodes.values()}
    if name is not None and name not in nodes:
        raise UserError(f"{file.name} has no Node {name}: it has {', '.join(nodes) or 'none'}")
    for each in [name] if name is not None else nodes:
        seen = view(cluster, _facts(nodes[each], uplink, mtu))
        if seen is None or not seen.me.pod_cidrs:
            raise UserError(f"Node {each} in {file.name} has no spec.podCIDRs: give it a range")
        units = desired(seen)
        made = {"/".join(unit): [describe(resource) for resource in resources] for unit, resources in units.items()}
        yield {"node": each, "units": made, "text": listing(node_state(units))}


def _facts(node: Node, uplink: str, mtu: int) -> LocalFacts:
    addresses = node_info(node).addresses
    return LocalFacts(node.metadata.name, uplink, mtu, tuple(f"{one}/{PREFIX[is_v6(one)]}" for one in addresses))


def _cluster(file: TextIO) -> Cluster:
    """The Nodes and the NetworkConfig of a YAML text; other kinds are left out. Raises UserError."""
    from podnet.client.manifest import documents

    found: Mapping[str, dict[tuple[str, str], Object]] = {NODES.plural: {}, NETWORKCONFIGS.plural: {}}
    try:
        for kind, document in documents(file.read()):
            if kind.plural in found:
                each = convert(document, kind.type)
                found[kind.plural][each.key] = each
    except (InvalidObject, UnicodeDecodeError) as error:
        raise UserError(f"{file.name}: {error}") from None
    cluster = msgspec.structs.replace(Cluster(), **found)
    if cluster.network is None:
        raise UserError(f"{file.name} has no NetworkConfig named default: add one, its spec may be empty")
    for field, message in mistakes(cluster.network.spec):
        raise UserError(f"{file.name}: NetworkConfig: {field}: {message}")
    return cluster
