"""What kube-proxy's chains leave undone beside mode iptables: Service addresses where nobody answers.

From a packet's point of view, the first of a connection. Is its destination one that kube-proxy's table `filter` is
about to refuse, since the Service has no endpoints? TCP is reset here, a moment before: that table answers by an ICMP
error, which Linux forgets while connect() is at work and sends each client but one a second, so it is heard only at the
next SYN. Each hook knows what kube-proxy refuses there, so what its chains let pass still passes; UDP and SCTP go on to
them.

Those chains had their turn, and the destination is still a cluster address: there nobody has it, so the packet would go
out of the uplink and be lost. Here it is refused as in the other modes; one to an address of the Services' ranges that
no Service has is dropped. What was translated, and what kube-proxy's table `filter` drops itself, does not come here.
Nor does what a client sends again that asked before the Service was there: the flow table has confirmed that flow, and
podnet is about to forget it, so that the next SYN is served.
"""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.proxy.nft_chains import FAMILIES
from podnet.network.service_port import ServicePort
from podnet.state.nft import Element, NftTable
from podnet.state.resource import TABLE_PREFIX

TABLE = f"{TABLE_PREFIX}unserved"

_TYPES = {False: "ipv4_addr", True: "ipv6_addr"}
_CHAINS = """\
  set cluster-ips { type %(type)s; }
  set refused { type %(type)s . inet_service; }
  set refused-outside { type %(type)s . inet_service; }
  set refused-ports { type inet_service; }
  chain early-input {
    type filter hook input priority filter - 10; policy accept;
    ct state new %(ip)s daddr . tcp dport @refused-outside reject with tcp reset
    ct state new fib daddr type local tcp dport @refused-ports reject with tcp reset
  }
  chain early-forward {
    type filter hook forward priority filter - 10; policy accept;
    ct state new %(ip)s daddr . tcp dport @refused reject with tcp reset
    ct state new %(ip)s daddr . tcp dport @refused-outside reject with tcp reset
  }
  chain early-output {
    type filter hook output priority filter - 10; policy accept;
    ct state new %(ip)s daddr . tcp dport @refused reject with tcp reset
  }
  chain refuse {
    %(ip)s daddr @cluster-ips meta l4proto tcp reject with tcp reset
    %(ip)s daddr @cluster-ips reject
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
    return NftTable(ip, TABLE, _CHAINS % {"ip": ip, "type": _TYPES[v6], "unused": unused})


def serve(port: ServicePort) -> Iterator[Element]:
    """One ServicePort: its cluster address, and for TCP every frontend that kube-proxy's chains REJECT."""
    yield _member(port, "cluster-ips", port.cluster_ip)
    if port.anywhere or port.protocol != "tcp":
        return
    yield _member(port, "refused", f"{port.cluster_ip} . {port.port}")
    for address in dict.fromkeys((*port.external_ips, *port.balancer_ips)):
        yield _member(port, "refused-outside", f"{address} . {port.port}")
    if port.node_port:
        yield _member(port, "refused-ports", str(port.node_port))


def _member(port: ServicePort, name: str, element: str) -> Element:
    return Element(FAMILIES[port.v6], TABLE, name, element)
