"""Services between two pods of one bridge, where an answer could pass by whoever has to translate it back.

From a packet's point of view: pod -> bridge -> the node, which leads it to a pod on the same bridge. That pod has the
client on its own link and answers it directly: bridge -> client, which knows nobody of that address. So what the bridge
forwards has to pass the node's IP hooks too, which is what the kernel's br_netfilter does. Where there is none, such a
connection leaves with the bridge's own address and is answered to it; then endpoints do not see which pod it was.
"""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.pods import BRIDGE, bridges
from podnet.network.view import NodeView, Problem, is_v6
from podnet.state.host import Sysctl
from podnet.state.nft import NftTable
from podnet.state.resource import TABLE_PREFIX, Resource

TABLE = f"{TABLE_PREFIX}bridged"
MODULE = "br_netfilter"
FILTERED = {False: "net/bridge/bridge-nf-call-iptables", True: "net/bridge/bridge-nf-call-ip6tables"}


def pass_the_node(view: NodeView) -> Iterator[Resource]:
    """What every mode needs as long as there are bridged pods."""
    for cidr in view.me.pod_cidrs if view.bridged else ():
        v6 = is_v6(cidr)
        if MODULE not in view.facts.missing:
            yield Sysctl(FILTERED[v6], "1")
            continue
        ip = "ip6" if v6 else "ip"
        rule = f'{ip} saddr {cidr} oifname "{BRIDGE}" ct original {ip} daddr != {cidr} masquerade fully-random'
        body = "  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n"
        yield NftTable(ip, TABLE, f"{body}    {rule}\n  }}\n")


def unfiltered(view: NodeView) -> Problem | None:
    """Said while it matters."""
    if MODULE not in view.facts.missing or view.network.proxy.mode == "none" or not bridges(view):
        return None
    message = (
        f"kernel module {MODULE}: {view.facts.missing[MODULE]}; so bridged pods that reach pods of their own node "
        f"through a Service come with the bridge's address: load it (modprobe {MODULE}), or use spec.attachment ptp"
    )
    return Problem(f"Node/{view.me.name}", "BridgeNotFiltered", message)
