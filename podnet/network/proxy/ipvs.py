"""Mode ipvs: the kernel's own load balancer shares out connections, nftables says who may come and with whose address.

From a packet's point of view, the first of a connection: (address, protocol, port) is looked up in `services`, which
lets it pass, refuses or drops it, and may mark it for the node's address -> the Service's address is on a dummy link,
so routing takes the packet for the node's own -> there the virtual server of that address and port picks a real server,
and the packet goes on to that. Each frontend is a virtual server of its own, a node port one at each of the node's
addresses. Where kube-proxy has ipsets and iptables chains, here are a few static chains and set elements.

A virtual server has one list of real servers for everybody. So under externalTrafficPolicy Local the node's own pods
get its own endpoints too, and those of the cluster only when it has none. Source: kubernetes pkg/proxy/ipvs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network

from podnet.network.proxy import localhost
from podnet.network.proxy.algorithms import LEAST, SOURCE_HASH
from podnet.network.proxy.nft_chains import FAMILIES, MASQUERADE
from podnet.network.proxy.nftables import PROTOCOLS, frontends, sources
from podnet.network.service_port import Endpoint, Frontend, ServicePort
from podnet.network.value import Value
from podnet.network.view import is_v6
from podnet.state.host import ForgetFlows, Sysctl
from podnet.state.ipvs import LINK, RealServer, VirtualServer
from podnet.state.links import Dummy
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Plan
from podnet.state.resource import TABLE_PREFIX, Resource
from podnet.state.routes import Address

TABLE = f"{TABLE_PREFIX}ipvs"
UDP = PROTOCOLS["udp"]

SCHEDULERS: Mapping[str, tuple[str, str]] = {SOURCE_HASH: ("sh", "sh"), LEAST: ("lc", "wlc")}
"""By algorithm, for real servers of equal weight and of several; all others take turns."""

TURNS = ("rr", "wrr")

SYSCTLS = {
    "net/ipv4/vs/conntrack": "1",  # nftables sees the connections
    "net/ipv4/vs/expire_nodest_conn": "1",  # a client of a real server that went gets another one
    "net/ipv4/vs/expire_quiescent_template": "1",  # and does so in spite of affinity
    "net/ipv4/conf/all/arp_ignore": "1",  # one node alone answers for a load balancer's address, see announce.py
    "net/ipv4/conf/all/arp_announce": "2",
}

_TYPES = {False: "ipv4_addr", True: "ipv6_addr"}
_CHAINS = """\
  map services { typeof %(key)s : verdict; }
  set addresses { type %(type)s; }
  set cluster-ips { type %(type)s; }
  set masqueraded { typeof %(key)s; }
  set guarded { typeof %(key)s; }
  set allowed { typeof %(key)s . %(ip)s saddr; flags interval; }
  set hairpins { typeof %(ip)s saddr . %(ip)s daddr; }
  chain none {
    meta l4proto tcp reject with tcp reset
    reject
  }
  chain lost {
    drop
  }
  chain local {
    fib saddr type local meta mark set meta mark | %(mark)#x
    accept
  }
  chain inside {
%(inside)s    fib saddr type local meta mark set meta mark | %(mark)#x accept
    goto lost
  }
  chain services {
    %(key)s @guarded %(key)s . %(ip)s saddr != @allowed goto lost
    %(key)s @masqueraded meta mark set meta mark | %(mark)#x
    %(key)s vmap @services
    %(ip)s daddr @addresses goto none
    %(ip)s daddr @cluster-ips goto none
%(unused)s  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }
  chain output {
    type nat hook output priority -100; policy accept;
    ct direction reply return
    jump services
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    %(ip)s saddr . %(ip)s daddr @hairpins masquerade fully-random
    meta mark & %(mark)#x == %(mark)#x meta mark set meta mark & %(others)#x masquerade fully-random
    %(ip)s saddr != { %(pods)s } ct original %(ip)s daddr @cluster-ips masquerade fully-random
  }
%(guard)s"""


class Settings(Value, frozen=True):
    """Of one family: the cluster's ranges for pods, this node's own, and those for Services (a packet to an address
    there that no Service has is dropped)."""

    v6: bool
    pods: tuple[str, ...]
    own: tuple[str, ...]
    service_cidrs: tuple[str, ...] = ()


class Serving(Value, frozen=True):
    """What a ServicePort's part depends on besides itself, in its family: the node's `addresses`, and those `served` at
    node ports; `everywhere`: cluster addresses masquerade too (masqueradeAll); `all_ranges`: source ranges hold for all
    external frontends."""

    addresses: tuple[str, ...] = ()
    served: tuple[str, ...] = ()
    everywhere: bool = False
    all_ranges: bool = False


def table(settings: Settings) -> NftTable:
    """The static part in one family."""
    ip = FAMILIES[settings.v6]
    inside = f"    {ip} saddr {{ {', '.join(settings.own)} }} accept\n" if settings.own else ""
    unused = f"    {ip} daddr {{ {', '.join(settings.service_cidrs)} }} drop\n" if settings.service_cidrs else ""
    words = {
        "ip": ip,
        "type": _TYPES[settings.v6],
        "key": f"{ip} daddr . meta l4proto . th dport",
        "mark": MASQUERADE,
        "others": 0xFFFFFFFF ^ MASQUERADE,
        "pods": ", ".join(settings.pods),
        "inside": inside,
        "unused": unused,
        "guard": "" if settings.v6 else localhost.GUARD_CHAIN,
    }
    return NftTable(ip, TABLE, _CHAINS % words)


def link() -> Iterator[Resource]:
    """What has the addresses, and the kernel parameters."""
    yield Dummy(name=LINK, alias="podnet Services")
    yield from (Sysctl(name, value) for name, value in SYSCTLS.items())
    yield localhost.ALLOWED


def hairpin(address: str, v6: bool) -> Element:
    """A pod of this node that may be led to itself."""
    return Element(FAMILIES[v6], TABLE, "hairpins", f"{address} . {address}")


def address(at: str, cluster: bool) -> Iterator[Resource]:
    """An address of a Service; those that are not the cluster's may be of several."""
    v6 = is_v6(at)
    yield Element(FAMILIES[v6], TABLE, "cluster-ips" if cluster else "addresses", at)
    yield Address(LINK, f"{at}/{128 if v6 else 32}")


def serve(port: ServicePort, settings: Serving) -> Iterator[Resource]:
    """One ServicePort, without its external addresses."""
    ip = FAMILIES[port.v6]
    yield from address(port.cluster_ip, cluster=True)
    for frontend in frontends(port, settings.served):
        inner = frontend.scope == "cluster"
        key = f"{frontend.address} . {PROTOCOLS[port.protocol]} . {frontend.port}"
        chosen = _chosen(port, inner)
        yield Element(ip, TABLE, "services", key, _verdict(port, inner, chosen))
        if settings.everywhere if inner else not port.external_local:
            yield Element(ip, TABLE, "masqueraded", key)
        if port.source_ranges is not None and (frontend.scope == "balancer" or (settings.all_ranges and not inner)):
            yield Element(ip, TABLE, "guarded", key)
            allowed = sources(_with_itself(port.source_ranges, frontend.address, settings.addresses))
            yield from (Element(ip, TABLE, "allowed", f"{key} . {each}") for each in allowed)
        if chosen:
            yield from _servers(port, frontend, chosen)


def _with_itself(ranges: tuple[str, ...], at: str, own: tuple[str, ...]) -> tuple[str, ...]:
    """A node that asks for an address which it has itself comes with that very address."""
    networks = [ip_network(each) for each in ranges]
    node = any(ip_address(each) in network for each in own for network in networks)
    return (*ranges, str(ip_network(at))) if node else ranges


def _chosen(port: ServicePort, inner: bool) -> tuple[Endpoint, ...]:
    if inner:
        return port.internal
    return port.external or (port.cluster if port.external_local else ())


def _verdict(port: ServicePort, inner: bool, chosen: tuple[Endpoint, ...]) -> str:
    """What a new connection meets before it comes to the virtual server."""
    if not chosen:
        return "goto lost" if port.anywhere else "goto none"
    if inner or not port.external_local:
        return "accept"
    return "goto local" if port.external else "goto inside"


def _servers(port: ServicePort, frontend: Frontend, chosen: tuple[Endpoint, ...]) -> Iterator[Resource]:
    equal, several = SCHEDULERS.get(port.algorithm, TURNS)
    weighed = len({each.weight for each in chosen}) > 1
    place = (port.protocol, frontend.address, frontend.port)
    yield VirtualServer(*place, several if weighed else equal, port.affinity)
    for each in chosen:
        yield RealServer(*place, each.address, each.port, each.weight if weighed else 1)


def forget(plan: Plan) -> Iterator[ForgetFlows]:
    """UDP flows that began before their virtual server, and those of one that goes; the kernel does the rest."""
    for step in plan.steps:
        server = step.resource
        if isinstance(server, VirtualServer) and server.protocol == "udp" and step.verb in ("add", "delete"):
            yield ForgetFlows(UDP, server.port, destination=server.address)
