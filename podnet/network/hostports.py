"""Host ports: a port of the node that leads to one pod (the CNI capability portMappings).

From a packet's point of view: to a local address of the node -> the pair (protocol, port) is looked up in one map ->
destination NAT to the pod. Traffic of the node itself passes the same chain in `output`. A pod of the same node, or
the node's localhost, gets the node's address as source, because the answer would otherwise not come back the same way.

Leading 127.0.0.1 to a pod needs `route_localnet`, which alone would let pods reach what listens on the node's
localhost; `guard` forbids that, except to answers, which are on their way back through a translation. It stands in
`input`, off the way of forwarded packets, where hooks cost throughput.

The chains are static; publishing a port is one map element. UDP has no connection that ends, so stale conntrack
entries, which would keep leading to the former owner of the port, are forgotten exactly when the element changes.
"""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.pods import BRIDGE, host_ifname
from podnet.network.view import Attachment, NodeView, PortMapping, base_address, is_v6
from podnet.state.host import Action, ForgetFlows, Sysctl
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Plan
from podnet.state.resource import LINK_PREFIX, TABLE_PREFIX, Resource

TABLE = f"{TABLE_PREFIX}hostports"
UDP = 17
PROTOCOLS = {"tcp": 6, "udp": UDP, "sctp": 132}
"""By number in elements: nft knows names only where the machine has an /etc/protocols."""

_BODY = """\
  map ports-ip { type inet_proto . inet_service : ipv4_addr . inet_service; }
  map ports-ip6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
  map addressed-ip { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
  map addressed-ip6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
  set targets-ip { type ipv4_addr . inet_proto . inet_service; }
  set targets-ip6 { type ipv6_addr . inet_proto . inet_service; }
  chain hostports {
    meta l4proto != { tcp, udp, sctp } return
    meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @addressed-ip
    meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports-ip
    meta nfproto ipv6 dnat ip6 to ip6 daddr . meta l4proto . th dport map @addressed-ip6
    meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @ports-ip6
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "%s*" ip daddr 127.0.0.0/8 return
    fib daddr type local jump hostports
  }
  chain output {
    type nat hook output priority -100; policy accept;
    fib daddr type local jump hostports
  }
  chain guard {
    type filter hook input priority filter; policy accept;
    ct status dnat return
    iifname "%s*" ip daddr 127.0.0.0/8 drop
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
%s  }
"""


def table(view: NodeView) -> Iterator[Resource]:
    """The static chains, and the permission to lead 127.0.0.1 to a pod on the bridge (guarded against neighbours); as
    long as a pod has a port. A node without this, Services and masquerading tracks no connections, which is faster."""
    yield _localnet(BRIDGE, view.published)
    if not view.published:
        return
    sources = [*view.me.pod_cidrs, "127.0.0.0/8"]
    rules = "".join(f"    {_snat(source)}\n" for source in sources)
    yield NftTable("inet", TABLE, _BODY % (LINK_PREFIX, LINK_PREFIX, rules))


def publish(view: NodeView, attachment: Attachment) -> Iterator[Resource]:
    """The map elements of one pod's host ports."""
    for port in attachment.ports:
        for address in attachment.addresses:
            if port.host_ip and is_v6(port.host_ip) != is_v6(address):
                continue
            yield from _elements(port, base_address(address))
    if attachment.ports and attachment.mode == "ptp":
        yield _localnet(host_ifname(attachment))


def forget(view: NodeView, plan: Plan) -> Iterator[Action]:
    """The UDP flows that a change of these elements has made wrong; computed from the difference alone."""
    for step in plan.steps:
        for element in (step.old, step.resource):
            if isinstance(element, Element) and element.table == TABLE and element.value:
                yield from _stale(view, element, gone=element is step.old or step.verb == "delete")


def _elements(port: PortMapping, pod: str) -> Iterator[Resource]:
    ip = "ip6" if is_v6(pod) else "ip"
    protocol = PROTOCOLS[port.protocol]
    key, name = f"{protocol} . {port.host_port}", f"ports-{ip}"
    if port.host_ip:
        key, name = f"{port.host_ip} . {key}", f"addressed-{ip}"
    yield Element("inet", TABLE, name, key, f"{pod} . {port.container_port}")
    yield Element("inet", TABLE, f"targets-{ip}", f"{pod} . {protocol} . {port.container_port}")


def _stale(view: NodeView, element: Element, gone: bool) -> Iterator[Action]:
    """A port that went: the flows its pod answered. A port that came: those to the node that nobody translated."""
    *address, protocol, port = element.element.split(" . ")
    pod = element.value.split(" . ")[0]
    if protocol != str(UDP):
        return
    if gone:
        yield ForgetFlows(protocol=UDP, to_port=int(port), destination="".join(address), answered_by=pod)
        return
    for destination in address or (*view.me.addresses, "127.0.0.1"):
        if is_v6(destination) == is_v6(pod):
            yield ForgetFlows(protocol=UDP, to_port=int(port), destination=destination)


def _snat(source: str) -> str:
    ip = "ip6" if is_v6(source) else "ip"
    return f"ct status dnat {ip} saddr {source} {ip} daddr . meta l4proto . th dport @targets-{ip} masquerade"


def _localnet(dev: str, allowed: bool = True) -> Sysctl:
    return Sysctl(f"net/ipv4/conf/{dev}/route_localnet", str(int(allowed)), dev=dev)
