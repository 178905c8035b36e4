"""Userspace mode: every new connection to a Service is led to one local proxy, which connects to an endpoint itself.

From a packet's point of view: pod -> Service address -> one lookup in a map -> destination NAT to the node's address at
the proxy's port. The proxy asks connection tracking where the packet was going, so one port serves every Service. The
endpoint sees a connection from the client or the node, just as in mode nftables (origins.py). What has no endpoint is
refused, and what only others may use is dropped, before the proxy hears of it. Slower than the kernel by itself, but a
pod that does not answer costs a client a quarter of a second instead of its connection (daemons/userspace_proxy.py).

The chains are static; a Service is one map element for each of its frontends, and one for each CIDR of its segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

import msgspec

from podnet.network.proxy import localhost
from podnet.network.proxy.balancing import Identity, identity
from podnet.network.proxy.origins import Origins, origins
from podnet.network.service_port import Frontend, Segment, ServicePort
from podnet.network.value import Value
from podnet.network.view import Attachment, NodeView, is_v6
from podnet.state.host import Action, ForgetFlows
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Plan
from podnet.state.resource import TABLE_PREFIX, Resource
from podnet.state.routes import Route

TABLE = f"{TABLE_PREFIX}userspace"
PORT = 10265
"""Where the proxy listens, TCP and UDP, at the node's addresses."""

UDP = 17
PROTOCOLS = {"tcp": 6, "udp": UDP}
"""By number in elements: nft knows names only where the machine has an /etc/protocols."""

SEGMENTS = {"services": "segments", "node-ports": "segment-ports"}
"""Which map is asked before which: clients that a segment names have endpoints of their own."""

LOCALHOST = {False: "127.0.0.0/8", True: "::1/128"}
ADDRESS_TYPE = {False: "ipv4_addr", True: "ipv6_addr"}

_BODY = """\
  map services { type %(type)s . inet_proto . inet_service : verdict; }
  map node-ports { type inet_proto . inet_service : verdict; }
  map segments { type %(type)s . inet_proto . inet_service . %(type)s : verdict; flags interval; }
  map segment-ports { type inet_proto . inet_service . %(type)s : verdict; flags interval; }
  set cluster-ips { type %(type)s; }
  set guarded { type %(type)s . inet_proto . inet_service; }
  set allowed { type %(type)s . inet_proto . inet_service . %(type)s; flags interval; }
  set guarded-ports { type inet_proto . inet_service; }
  set allowed-ports { type inet_proto . inet_service . %(type)s; flags interval; }
  chain led {
    meta l4proto { tcp, udp } dnat to %(proxy)s
  }
  chain inside {
    %(ip)s saddr != { %(inside)s } drop
    goto led
  }
  chain refuse {
    meta l4proto tcp reject with tcp reset
    reject
  }
  chain node-ports {
    meta l4proto . th dport @guarded-ports meta l4proto . th dport . %(ip)s saddr != @allowed-ports drop
    meta l4proto . th dport . %(ip)s saddr vmap @segment-ports
    meta l4proto . th dport vmap @node-ports
  }
  chain services {
    %(ip)s daddr . meta l4proto . th dport @guarded jump guard
    %(ip)s daddr . meta l4proto . th dport . %(ip)s saddr vmap @segments
    %(ip)s daddr . meta l4proto . th dport vmap @services
    %(node)s goto node-ports
    %(ip)s daddr @cluster-ips goto refuse
%(unused)s  }
  chain guard {
    %(ip)s daddr . meta l4proto . th dport . %(ip)s saddr != @allowed drop
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
%(stranger)s    goto services
  }
  chain output {
    type nat hook output priority -100; policy accept;
    goto services
  }
  chain input {
    type filter hook input priority filter; policy accept;
    meta l4proto { tcp, udp } th dport %(port)s ct status & dnat != dnat goto refuse
  }
%(guard)s"""


class Orders(Value, frozen=True):
    """What the proxy is to do: where to listen, which clients' CIDRs are the cluster's own, the Services.

    `whole`: there are no other ServicePorts than `ports`; otherwise the others stay, except those in `gone`.
    `origins` None: as before.
    """

    addresses: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    port: int = PORT
    whole: bool = True
    gone: tuple[Identity, ...] = ()
    origins: Origins | None = None


def since(before: Orders, now: Orders) -> Orders:
    """What is to be told to a proxy that follows the orders of before. Both are whole; equal ports that are the same
    objects are found without a look into them."""
    old, new = set(map(id, before.ports)), set(map(id, now.ports))
    changed = tuple(port for port in now.ports if id(port) not in old)
    again = set(map(identity, changed))
    gone = {identity(port) for port in before.ports if id(port) not in new} - again
    same = before.origins == now.origins
    origins = None if same else now.origins
    return msgspec.structs.replace(now, ports=changed, whole=False, gone=tuple(sorted(gone)), origins=origins)


def orders(view: NodeView, ports: Iterable[ServicePort]) -> Orders:
    """What this node's proxy has to be told."""
    inside = (*_inside(view, False), *_inside(view, True))
    served = tuple(port for port in ports if port.protocol in PROTOCOLS)
    return Orders(view.me.addresses, inside, served, origins=origins(view))


def frame(view: NodeView) -> Iterator[Resource]:
    """The static chains in each family of the node's addresses, and routes: a packet of the node itself is routed
    before it is translated, and without a default route it would not leave."""
    for address in view.me.addresses:
        v6 = is_v6(address)
        yield NftTable(_ip(v6), TABLE, _body(view, address))
        if not v6:
            yield localhost.ALLOWED
        for cidr in _of(view.network.proxy.service_cidrs, v6):
            yield Route(cidr, dev=view.facts.uplink, scope_link=not v6)


def serve(view: NodeView, ports: tuple[ServicePort, ...]) -> Iterator[Resource]:
    """One Service's part; all its ports together, since they share its address."""
    for port in ports:
        yield from elements(view, port)


def hairpin(view: NodeView, attachment: Attachment) -> Iterator[Resource]:
    """Nothing: a pod that reaches itself through the proxy sees the node."""
    return iter(())


def elements(view: NodeView, port: ServicePort) -> Iterator[Resource]:
    """What one ServicePort adds."""
    if port.protocol not in PROTOCOLS or not view.me.address(port.cluster_ip):
        return
    ip = _ip(port.v6)
    yield Element(ip, TABLE, "cluster-ips", port.cluster_ip)
    for frontend in port.frontends:
        key = f"{PROTOCOLS[port.protocol]} . {frontend.port}"
        name = "node-ports" if frontend.scope == "node" else "services"
        at = f"{frontend.address} . {key}" if frontend.address else key
        yield Element(ip, TABLE, name, at, verdict(port, frontend, port))
        for segment in port.segments:
            led = verdict(port, frontend, segment)
            for cidr in _of(segment.sources, port.v6):
                yield Element(ip, TABLE, SEGMENTS[name], f"{at} . {cidr}", led)
        if port.source_ranges is not None and _guarded(view, frontend):
            yield from _guard(ip, "-ports" if frontend.scope == "node" else "", at, port.source_ranges)


def verdict(port: ServicePort, frontend: Frontend, whose: ServicePort | Segment) -> str:
    """What a new connection to one of its frontends meets; `whose` endpoints they are: a segment's, or the port's own
    for clients that no segment names."""
    inner = frontend.scope == "cluster"
    if whose.internal if inner else whose.external:
        return "goto led"
    if whose.cluster and not inner:
        return "goto inside"
    return "drop" if port.anywhere else "goto refuse"


def forget(view: NodeView, plan: Plan) -> Iterator[Action]:
    """The UDP flows that a change of frontends has made wrong; computed from the difference alone."""
    for step in plan.steps:
        element = step.resource
        if isinstance(element, Element) and element.table == TABLE and element.set in ("services", "node-ports"):
            yield from _stale(view, element, came=step.verb == "add")


def _stale(view: NodeView, element: Element, came: bool) -> Iterator[Action]:
    """A frontend that came: the flows to it that nobody translated. Another: those that the proxy answers."""
    *address, protocol, port = element.element.split(" . ")
    if protocol != str(UDP):
        return
    own = (*view.local(False), *view.local(True), "127.0.0.1", "::1")
    for destination in address or (text for text in own if _ip(is_v6(text)) == element.family):
        answered_by = destination if came else view.me.address(destination)
        yield ForgetFlows(UDP, int(port), destination=destination, answered_by=answered_by or "")


def _body(view: NodeView, address: str) -> str:
    v6 = is_v6(address)
    ip, proxy = _ip(v6), view.network.proxy
    unused = _of(proxy.service_cidrs, v6)
    served = _of(view.node_ports_at(v6), v6)
    limited = f" {ip} daddr {{ {', '.join(served)} }}" if served else ""
    return _BODY % {
        "type": ADDRESS_TYPE[v6],
        "ip": ip,
        "port": PORT,
        "proxy": f"[{address}]:{PORT}" if v6 else f"{address}:{PORT}",
        "inside": ", ".join(_inside(view, v6)),
        "node": f"fib daddr type local{limited}",
        "unused": f"    {ip} daddr {{ {', '.join(unused)} }} drop\n" if unused else "",
        "stranger": "" if v6 else f"    {localhost.STRANGER} return\n",
        "guard": "" if v6 else localhost.GUARD_CHAIN,
    }


def _inside(view: NodeView, v6: bool) -> list[str]:
    """Its own pods, and the node itself: for them an external address is only another name of the cluster's own."""
    return _of((*view.me.pod_cidrs, *view.local(v6), LOCALHOST[v6]), v6)


def _guarded(view: NodeView, frontend: Frontend) -> bool:
    widened = view.network.proxy.source_ranges_for_all and frontend.scope != "cluster"
    return frontend.scope == "balancer" or widened


def _guard(ip: str, suffix: str, key: str, ranges: Iterable[str]) -> Iterator[Resource]:
    yield Element(ip, TABLE, f"guarded{suffix}", key)
    for cidr in _of(ranges, ip == "ip6"):
        yield Element(ip, TABLE, f"allowed{suffix}", f"{key} . {cidr}")


def _of(cidrs: Iterable[str], v6: bool) -> list[str]:
    """Those of one family, none within another (a set of intervals refuses that), spelt as nft lists them."""
    if v6:
        six = [IPv6Network(cidr, strict=False) for cidr in cidrs if is_v6(cidr)]
        return [_spelt(network) for network in collapse_addresses(six)]
    four = [IPv4Network(cidr, strict=False) for cidr in cidrs if not is_v6(cidr)]
    return [_spelt(network) for network in collapse_addresses(four)]


def _spelt(network: IPv4Network | IPv6Network) -> str:
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)


def _ip(v6: bool) -> str:
    return "ip6" if v6 else "ip"
