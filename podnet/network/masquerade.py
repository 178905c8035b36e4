"""Pods leave the cluster with their node's address, since nobody outside has a route back to a pod.

Inside the cluster nothing is translated: not between pods, and not between a pod and any node, so that a server always
sees the client's own address. Node addresses are elements of a set; the chain itself never changes.
"""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.view import NodeView, is_v6
from podnet.state.nft import Element, NftTable
from podnet.state.resource import TABLE_PREFIX, Resource

TABLE = f"{TABLE_PREFIX}masquerade"
MULTICAST = {False: "224.0.0.0/4", True: "ff00::/8"}


def masquerade(view: NodeView) -> Iterator[Resource]:
    """One static chain; one set element per node address."""
    if not view.network.masquerade:
        return
    rules = "".join(f"    {rule}\n" for cidr in view.me.pod_cidrs if (rule := _rule(view, cidr)))
    yield NftTable(
        "inet",
        TABLE,
        "  set nodes-ip { type ipv4_addr; }\n"
        "  set nodes-ip6 { type ipv6_addr; }\n"
        "  chain postrouting {\n"
        "    type nat hook postrouting priority srcnat; policy accept;\n"
        f"{rules}"
        "  }\n",
    )
    addresses = sorted({address for node in (view.me, *view.peers) for address in node.addresses})
    for address in addresses:
        yield Element("inet", TABLE, f"nodes-{_family(address)}", address)


def _rule(view: NodeView, cidr: str) -> str:
    ip = _family(cidr)
    inside = [cluster for cluster in view.network.pod_cidrs if is_v6(cluster) == is_v6(cidr)]
    inside = [*(inside or [cidr]), MULTICAST[is_v6(cidr)]]
    return (
        f"{ip} saddr {cidr} {ip} daddr != {{ {', '.join(inside)} }} {ip} daddr != @nodes-{ip} masquerade fully-random"
    )


def _family(address: str) -> str:
    return "ip6" if is_v6(address) else "ip"
