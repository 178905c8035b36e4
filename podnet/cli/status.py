"""`podnet status`: what each node's agent says about itself; of nodes elsewhere, what they told the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import click

from podnet.cli.output import emit, output_option, table
from podnet.cli.target import AgentAway, Node, Target, target_options
from podnet.errors import UserError

EXAMPLES = """\b
Examples:
  podnet status
  podnet status --lab two -o json
Exit codes: 0 every agent is ready, 1 some are not, 2 wrong input.
"""

HEADERS = ("NODE", "READY", "BACKEND", "ACCEPTS", "SENDS", "POD CIDRS", "PODS", "MTU", "UPLINK", "PASSES")


@click.command(epilog=EXAMPLES)
@output_option
@target_options
def command(target: Callable[[], Target], output: str) -> int:
    """Show the state of each node's agent.

    ACCEPTS and SENDS are the schemes a node's kernel can receive and those its routes use: while a change of the
    backend is under way they tell how far it is. Nodes of other machines are known through the API only.
    """
    chosen = target()
    nodes = [_ask(node) for node in chosen.nodes]
    if not chosen.lab:
        if not nodes[0]["agent"]:
            raise UserError(f"{nodes[0]['reason']}: start it, or bring up a lab with podnet lab up")
        nodes += asyncio.run(_elsewhere(chosen.kubeconfig, {str(node["node"]) for node in nodes}))
    emit({"lab": chosen.lab, "nodes": nodes}, output, lambda: _text(nodes))
    return 0 if all(node["ready"] in (True, None) for node in nodes) else 1


def _ask(node: Node) -> dict[str, Any]:
    """The agent's own words, and whether it spoke at all."""
    try:
        return {"agent": True, **node.ask("status")}
    except AgentAway as away:
        return {"agent": False, "node": node.name, "ready": False, "reason": str(away)}


async def _elsewhere(kubeconfig: str | None, known: set[str]) -> list[dict[str, Any]]:
    """The other nodes of the cluster as their Node objects have them; none when the API can't be asked."""
    from podnet.client.api import Api, ApiError
    from podnet.client.config import ConfigError, load
    from podnet.network.viewing import node_info
    from podnet.objects import core
    from podnet.objects.codec import InvalidObject
    from podnet.objects.kinds import NODES

    try:
        async with Api(load(kubeconfig), timeout=5.0) as api:
            items = await api.list(NODES, into=core.Node)
    except (ApiError, ConfigError, InvalidObject) as error:
        click.echo(f"podnet: only this node is shown, the API could not be asked: {error}", err=True)
        return []
    others = sorted((node_info(item) for item in items), key=lambda info: info.name)
    return [
        {
            "agent": None,
            "node": it.name,
            "ready": None,
            "accepts": it.accepts,
            "sends": it.sends,
            "podCIDRs": it.pod_cidrs,
        }
        for it in others
        if it.name not in known
    ]


def _text(nodes: list[dict[str, Any]]) -> str:
    return "\n".join([table(HEADERS, map(_row, nodes)), *_remarks(nodes)])


def _row(node: dict[str, Any]) -> list[object]:
    backend = node.get("backend") or {}
    lists = (" ".join(node.get(key) or ()) for key in ("accepts", "sends", "podCIDRs"))
    numbers = (node.get(key) for key in ("attachments", "mtu", "uplink", "passes"))
    return [node["node"], node["ready"], backend.get("type"), *lists, *numbers]


def _remarks(nodes: list[dict[str, Any]]) -> Iterator[str]:
    """Sentences below the table: why a node is not ready, what its last pass left undone, endpoints that it passes over
    because they did not answer, a DNS cache that fell, pods that ask too much, mistakes in the cluster."""
    for node in nodes:
        last = node.get("lastPass") or {}
        if node.get("reason"):
            yield f"{node['node']}: {node['reason']}"
        yield from (f"{node['node']}: failed: {each}" for each in last.get("failed", ()))
        yield from (f"{node['node']}: waits for its link or namespace: {each}" for each in last.get("held", ()))
        for service, ejected in (node.get("ejected") or {}).items():
            yield f"{node['node']}: ejected from Service {service}: {' '.join(ejected)}"
        if node.get("dnsCache") is False:
            yield f"{node['node']}: its DNS cache does not answer; queries go to the DNS Service until it does"
        for pod in node.get("dnsLimited") or ():
            yield f"{node['node']}: DNS queries of {pod} are limited"
    found = (f"{each['object']}: {each['message']}" for node in nodes for each in node.get("problems", ()))
    yield from dict.fromkeys(found)
