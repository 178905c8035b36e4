"""What commonly breaks a pod network, as functions from the facts of a node to findings.

Each check looks at one thing and yields what it finds wrong, with the reason why that matters and what to do. A check
that finds nothing is reported as passed, so that one sees what was looked at. `examine` runs them for one node,
`compare` those that need all nodes. Nothing here does I/O; the faults are those that users of flannel, Calico, Weave,
k3s and their like report most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from podnet.network.checkup import addresses, firewall, host, paths, programs, proxies
from podnet.network.checkup.finding import Finding
from podnet.network.checkup.survey import Survey

Check = Callable[[Survey], Iterator[Finding]]

CHECKS: Mapping[str, Check] = {
    "agent": programs.agent,
    "API": programs.api,
    "CNI configuration": programs.conflists,
    "other network managers": programs.managers,
    "kernel features": host.features,
    "forwarding": host.forwarding,
    "reverse path filter": host.reverse_path,
    "connection tracking": host.conntrack,
    "neighbour table": host.neighbours,
    "router advertisements": host.router_advertisements,
    "tunnel port": paths.port,
    "MTU": paths.mtu,
    "checksum offload": paths.offloads,
    "forward firewall": firewall.forward,
    "bridge filter": firewall.bridged,
    "input firewall": firewall.tunnel_input,
    "mixed iptables": firewall.mixed,
    "other proxies": proxies.others,
    "address ranges": addresses.overlaps,
    "name servers": addresses.resolvers,
}

COMPARISONS: Mapping[str, Callable[[Sequence[Survey]], Iterator[Finding]]] = {
    "cluster objects": addresses.mistakes,
    "node ranges": addresses.strays,
    "equal MTU": paths.unequal_mtu,
}


def examine(survey: Survey) -> tuple[Finding, ...]:
    """Every finding about one node; a check without any is one of severity ok."""
    return tuple(
        finding
        for name, check in CHECKS.items()
        for finding in (tuple(check(survey)) or (Finding("ok", "nothing found"),))
        for finding in [_placed(finding, name, survey.node)]
    )


def compare(surveys: Sequence[Survey]) -> tuple[Finding, ...]:
    """Findings about the nodes together; their node is ""."""
    return tuple(
        _placed(finding, name, "")
        for name, check in COMPARISONS.items()
        for finding in (tuple(check(surveys)) or (Finding("ok", "nothing found"),))
    )


def _placed(finding: Finding, check: str, node: str) -> Finding:
    return finding.at(check, node)
