"""Which range of addresses each node gives to its pods.

The cluster's ranges (at most one per family) are cut into node ranges; a node without one gets the lowest free one of
every family, or none at all. A range once given stays: pods have addresses of it. Ranges of nodes that are gone are
free again, and ranges given by hand or under an earlier mask are never overlapped.
Source: kube-controller-manager's RangeAllocator (pkg/controller/nodeipam/ipam).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from podnet.network.controllers.actions import Action, Patch, Report
from podnet.objects.core import Node
from podnet.objects.kinds import NODES
from podnet.objects.network import NodeMask

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def allocate(nodes: Iterable[Node], cluster: Sequence[str], masks: NodeMask) -> Iterator[Action]:
    """A patch for every node that lacks its ranges, or a report when there is none left."""
    everyone = sorted(nodes, key=lambda node: (node.metadata.creation_timestamp or "", node.metadata.name))
    waiting = [node for node in everyone if not node.spec.pod_cidrs and node.metadata.deletion_timestamp is None]
    if not waiting or not cluster:
        return
    used = [network for node in everyone for network in _networks(node.spec.pod_cidrs)]
    supplies = [_free(network, masks, used) for network in _networks(cluster)]
    for node in waiting:
        ranges = [next(supply, None) for supply in supplies]
        given = [str(network) for network in ranges if network is not None]
        if len(given) == len(supplies):
            yield Patch(NODES, "", node.metadata.name, {"spec": {"podCIDR": given[0], "podCIDRs": given}})
        else:
            short = ", ".join(name for name, network in zip(cluster, ranges, strict=True) if network is None)
            message = f"Node {node.metadata.name} status is now: CIDRNotAvailable: no free range is left in {short}"
            yield Report(NODES, node, "CIDRNotAvailable", message)


def stranded(nodes: Iterable[Node], old: Sequence[str], new: Sequence[str]) -> str:
    """Whose ranges the cluster's would leave with a change from `old` to `new`, in a sentence; "" when nobody's.

    Their pods would go on with addresses that the others take for ones outside the cluster.
    """
    left = [
        f"{node.metadata.name} has {range_}"
        for node in nodes
        for range_ in _networks(node.spec.pod_cidrs)
        if _inside(range_, old) and not _inside(range_, new)
    ]
    if not left:
        return ""
    more = f" and {len(left) - 1} more are like that" if len(left) > 1 else ""
    return f"must hold the ranges that nodes have: Node {left[0]}{more}; widen a range, or remove them first"


def _inside(network: Network, ranges: Iterable[str]) -> bool:
    return any(network.version == each.version and network.subnet_of(each) for each in _networks(ranges))  # type: ignore[arg-type]


def _networks(texts: Iterable[str]) -> Iterator[Network]:
    return (ipaddress.ip_network(text, strict=False) for text in texts)


def _free(cluster: Network, masks: NodeMask, used: Iterable[Network]) -> Iterator[Network]:
    """The node ranges of `cluster` that overlap nothing in use, lowest first."""
    prefix = masks.ipv4 if cluster.version == 4 else masks.ipv6
    if prefix < cluster.prefixlen:
        return
    step = 1 << (cluster.max_prefixlen - prefix)
    taken = sorted((int(net[0]), int(net[-1]) + 1) for net in used if net.version == cluster.version)
    candidate, end = int(cluster[0]), int(cluster[-1]) + 1
    for start, stop in [*taken, (end, end)]:
        while candidate + step <= min(start, end):
            yield ipaddress.ip_network((type(cluster[0])(candidate), prefix))
            candidate += step
        if stop > candidate:
            candidate = -(-stop // step) * step
