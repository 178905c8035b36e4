"""What kube-proxy's chains say nothing about: cluster addresses at ports that no Service has, beside mode iptables.

From a packet's point of view: kube-proxy's chains had their turn, and its destination is still a cluster address. There
nobody has that address, so it would go out of the uplink and be lost. Here it is refused as in the other modes; one to
an address of the Services' ranges that no Service has is dropped. What was translated, and what kube-proxy's table
`filter` refuses or drops itself, does not come here. Nor does what a client sends again that asked before the Service
was there: the flow table has confirmed that flow, and podnet is about to forget it, so that the next SYN is served.
"""

from __future__ import annotations

from podnet.network.proxy.nft_chains import FAMILIES
from podnet.network.view import is_v6
from podnet.state.nft import Element, NftTable
from podnet.state.resource import TABLE_PREFIX

TABLE = f"{TABLE_PREFIX}unserved"
SET = "cluster-ips"

_TYPES = {False: "ipv4_addr", True: "ipv6_addr"}
_CHAINS = """\
  set %(set)s { type %(type)s; }
  chain refuse {
    %(ip)s daddr @%(set)s meta l4proto tcp reject with tcp reset
    %(ip)s daddr @%(set)s reject
%(unused)s  }
  chain forward {
    type filter hook forward priority filter + 10; policy accept;
    ct state new ct status & confirmed == 0 jump refuse
  }
  chain output {
    type filter hook output priority filter + 10; policy accept;
    ct state new ct status & confirmed == 0 jump refuse
  }
"""


def table(v6: bool, service_cidrs: tuple[str, ...]) -> NftTable:
    """The chains of one family, whose ranges for Services these are."""
    ip = FAMILIES[v6]
    unused = f"    {ip} daddr {{ {', '.join(service_cidrs)} }} drop\n" if service_cidrs else ""
    return NftTable(ip, TABLE, _CHAINS % {"ip": ip, "set": SET, "type": _TYPES[v6], "unused": unused})


def address(cluster_ip: str) -> Element:
    """A Service has this one."""
    return Element(FAMILIES[is_v6(cluster_ip)], TABLE, SET, cluster_ip)
