"""`podnet doctor`: gather the facts of each node, judge them (network/checkup), say what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from podnet.cli.output import emit, output_option
from podnet.cli.target import AgentAway, Node, Target, need_root, node_option, target_options
from podnet.errors import UserError
from podnet.network.checkup import compare, examine
from podnet.network.checkup.finding import RANK, Finding
from podnet.network.checkup.survey import Agent, ClusterFacts, Survey

EXAMPLES = """\b
Examples:
  podnet doctor
  podnet doctor --node node2 -o json
Exit codes: 0 no errors, 1 errors were found, 2 wrong input.
"""


@click.command(epilog=EXAMPLES)
@node_option("This node only.")
@output_option
@target_options
def command(target: Callable[[], Target], node: str | None, output: str) -> int:
    """Look for what commonly breaks a pod network, and say what to do about it.

    Looks at the agent, the API, CNI configurations, kernel features and parameters, firewalls, MTU, offloads, tunnel
    ports, address ranges and other programs that manage networks. Changes nothing and sends nothing to other nodes.
    """
    need_root("looking into the nodes' network namespaces")
    chosen = target().only(node)
    surveys = gather(chosen)
    findings = [*compare(surveys), *(finding for survey in surveys for finding in examine(survey))]
    findings.sort(key=lambda finding: (RANK[finding.severity], finding.node))
    errors = any(finding.severity == "error" for finding in findings)
    emit({"ok": not errors, "findings": findings}, output, lambda: _text(findings))
    return 1 if errors else 0


def gather(target: Target) -> list[Survey]:
    """Survey every node of a target. Raises UserError when a node has no namespace any more."""
    from podnet.daemons.surveyor import Site, survey
    from podnet.kernel.netns import NoNamespace

    cluster, problems = asyncio.run(_ask_api(target.kubeconfig))

    def look(node: Node) -> Survey:
        status, said = _ask_agent(node)
        name = node.name or str(status.get("node", "this node"))
        mistakes = problems if not cluster.away else _problems(status)
        return survey(Site(name, node.netns, node.conf_dir), said, cluster, mistakes, status.get("attachments", 0))

    try:
        with ThreadPoolExecutor(max_workers=4) as threads:
            return list(threads.map(look, target.nodes))
    except NoNamespace as error:
        raise UserError(f"the namespace {error} does not exist: podnet lab up repairs a lab") from None


def _ask_agent(node: Node) -> tuple[dict[str, Any], Agent]:
    try:
        status = node.ask("status")
    except AgentAway as away:
        return {}, Agent(away=str(away))
    last = status.get("lastPass") or {}
    return status, Agent(
        reason=status.get("reason") or "",
        undone=tuple(last.get("failed", ())),
        backend=status.get("backend") or {},
        mtu=status.get("mtu") or 0,
        uplink=status.get("uplink", ""),
        pod_cidrs=tuple(status.get("podCIDRs", ())),
        proxy=status.get("proxy", ""),
    )


def _problems(status: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{each['object']}: {each['message']}" for each in status.get("problems", ()))


async def _ask_api(kubeconfig: str | None) -> tuple[ClusterFacts, tuple[str, ...]]:
    """What the API knows, and the mistakes in it."""
    from podnet.client.api import Api, ApiError
    from podnet.client.config import ConfigError, load
    from podnet.network.viewing import node_info, problems
    from podnet.objects.cluster import Cluster
    from podnet.objects.codec import InvalidObject
    from podnet.objects.core import Node as NodeObject
    from podnet.objects.kinds import NETWORKCONFIGS, NODES
    from podnet.objects.network import NetworkConfig

    try:
        async with Api(load(kubeconfig), timeout=5.0) as api:
            nodes = await api.list(NODES, into=NodeObject)
            configs = await api.list(NETWORKCONFIGS, into=NetworkConfig)
    except (ApiError, ConfigError, InvalidObject) as error:
        return ClusterFacts(away=str(error)), ()
    cluster = Cluster(nodes={each.key: each for each in nodes}, networkconfigs={each.key: each for each in configs})
    spec = cluster.network.spec if cluster.network else None
    facts = ClusterFacts(pod_cidrs=spec.pod_cidrs if spec else (), nodes=tuple(map(node_info, nodes)))
    return facts, tuple(f"{each.object}: {each.message}" for each in problems(cluster))


def _text(findings: Sequence[Finding]) -> str:
    """What is wrong, one block each, and what was looked at without finding anything."""
    wrong = [finding for finding in findings if finding.severity != "ok"]
    fine = list(dict.fromkeys(finding.check for finding in findings if finding.severity == "ok"))
    fine = [check for check in fine if not any(finding.check == check for finding in wrong)]
    blocks = [_block(finding) for finding in wrong]
    verdict = ", ".join(_count(wrong, severity) for severity in ("error", "warning", "info"))
    return "\n".join([*blocks, f"nothing wrong with: {', '.join(fine)}", verdict if wrong else "healthy"])


def _count(findings: Sequence[Finding], severity: str) -> str:
    number = sum(finding.severity == severity for finding in findings)
    return f"{number} {severity if severity != 'info' else 'note'}{'' if number == 1 else 's'}"


def _block(finding: Finding) -> str:
    where = f" ({finding.node})" if finding.node else ""
    head = f"{finding.severity.upper():7}  {finding.check}{where}: {finding.what}"
    return f"{head}\n         why  {finding.why}\n         fix  {finding.fix}\n"
