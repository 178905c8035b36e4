"""What should become of a client of a Service, and whether the rendered table makes it so.

A small cluster of each family; every client at every frontend of a ServicePort; and the sentences of kube-proxy's
behaviour as code: which endpoints, in which shares, with which source address, or what instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from msgspec.structs import replace

from podnet.network.proxy.nft_chains import Settings, table
from podnet.network.proxy.nftables import PROTOCOLS, elements, frontends, hairpin
from podnet.network.service_port import Endpoint, Frontend, Segment, ServicePort
from podnet.state.resource import Resource
from tests.network.proxy.nft_machine import Machine, Packet, Seen

AFFINITY = 7


class Family(NamedTuple):
    """The addresses of a small cluster: this node has pods in `own`."""

    pods: str
    own: str
    cidr: str
    node: str
    cluster_ip: str
    external: str
    balancer: str
    ranges: tuple[str, ...]
    pod: str
    far_pod: str
    outside: str
    stranger: str
    localhost: str
    endpoint: str


FOUR = Family(
    "10.244.0.0/16", "10.244.1.0/24", "10.96.0.0/12", "192.168.77.11", "10.96.0.1", "203.0.113.1", "203.0.113.2",
    ("198.51.100.0/24", "198.51.100.7/32", "192.0.2.9/32", "10.244.0.0/16"),
    "10.244.1.9", "10.244.2.9", "198.51.100.7", "192.0.2.1", "127.0.0.1", "10.244.{}.{}",
)  # fmt: skip
SIX = Family(
    "fd00:10:244::/48", "fd00:10:244:1::/64", "fd00:10:96::/112", "fd77::11", "fd00:10:96::1", "2001:db8:1::1",
    "2001:db8:1::2", ("2001:db8:2::/48", "2001:db8:2::7/128", "2001:db8:3::9/128", "fd00:10:244::/48"),
    "fd00:10:244:1::9", "fd00:10:244:2::9", "2001:db8:2::7", "2001:db8:4::1", "", "fd00:10:244:{}::1:{:x}",
)  # fmt: skip
STATIC = {
    v6: table(
        Settings(v6, pods=(net.pods,), own=(net.own,), timeouts=(AFFINITY,), service_cidrs=(net.cidr,), retries=True)
    )
    for v6, net in ((False, FOUR), (True, SIX))
}


def family(port: ServicePort) -> Family:
    return SIX if port.v6 else FOUR


def node_addresses(net: Family) -> tuple[str, ...]:
    return tuple(filter(None, (net.node, net.localhost)))


def endpoints(net: Family, here: int, there: int) -> tuple[Endpoint, ...]:
    made = [Endpoint(net.endpoint.format(1, k), 8080, True) for k in range(10, 10 + here)]
    return (*made, *(Endpoint(net.endpoint.format(2, k), 8080) for k in range(10, 10 + there)))


def service_port(
    v6: bool = False,
    here: int = 1,
    there: int = 1,
    local: tuple[bool, bool] = (False, False),
    affinity: int = 0,
    guarded: bool = False,
    split: bool = False,
    **more: Any,
) -> ServicePort:
    """A ServicePort with every kind of frontend; `local`: internal and external policy; `split`: pods of this node have
    the first endpoint, those outside the last."""
    net = SIX if v6 else FOUR
    every = endpoints(net, here, there)
    chosen = [tuple(each for each in every if each.local) if only else every for only in local]
    segments = tuple(
        Segment((source,), *(some[part] for some in (chosen[0], chosen[1], every)))
        for source, part in ((net.own, slice(1)), (net.outside, slice(-1, None)))
    )
    made = ServicePort(
        "default", "web", "", "tcp", v6, net.cluster_ip, 80, 30080, (net.external,), (net.balancer,),
        net.ranges if guarded else None, affinity, internal_local=local[0], external_local=local[1],
        internal=chosen[0], external=chosen[1], cluster=every, anywhere=bool(every),
        segments=segments if split else (),
    )  # fmt: skip
    return replace(made, **more) if more else made


def machine(*ports: ServicePort, everywhere: bool = False, all_ranges: bool = False) -> Machine:
    net = family(ports[0])
    found: list[Resource] = [STATIC[ports[0].v6], hairpin(net.pod, ports[0].v6)]
    found += [hairpin(each.address, ports[0].v6) for each in ports[0].endpoints if each.local]
    for port in ports:
        found += elements(port, node_addresses(net), everywhere, all_ranges)
    return Machine(found, node_addresses(net))


# -- what should be


class Client(NamedTuple):
    """Who connects; `host`: this node itself."""

    address: str
    host: bool = False


def clients(net: Family, port: ServicePort) -> Iterator[Client]:
    yield from (Client(each) for each in (net.pod, net.far_pod, net.outside, net.stranger))
    yield Client(net.node, True)
    yield from (Client(each.address) for each in port.endpoints[:1] if each.local)


def expected(port: ServicePort, where: Frontend, who: Client, all_ranges: bool) -> Seen | tuple[Endpoint, ...]:
    """The endpoints, or what happens instead."""
    inner = where.scope == "cluster"
    guarded = port.source_ranges is not None and (where.scope == "balancer" or (all_ranges and not inner))
    if guarded and not among(who.address, port.source_ranges or ()):
        return Seen("dropped")
    inside = who.host or among(who.address, (family(port).own,))
    part = next((each for each in port.segments if among(who.address, each.sources)), port)
    found = part.internal if inner else part.cluster if inside else part.external
    return found or Seen("dropped" if port.anywhere else "refused")


def hides(port: ServicePort, where: Frontend, who: Client, everywhere: bool) -> bool:
    """Whether the endpoint sees the node's address instead of the client's. This node's own is that already."""
    if where.scope == "cluster":
        return everywhere or not among(who.address, (family(port).pods,))
    return not port.external_local or who.host


def among(address: str, ranges: Iterable[str]) -> bool:
    return any(ip_address(address) in ip_network(each) for each in ranges)


def check(made: Machine, port: ServicePort, everywhere: bool = False, all_ranges: bool = False) -> None:
    """Every client at every frontend."""
    net = family(port)
    for where in frontends(port, node_addresses(net)):
        lo = where.address == net.localhost
        for who in [Client(net.localhost, True)] if lo else clients(net, port):
            packet = Packet(who.address, where.address, where.port, PROTOCOLS[port.protocol], who.host)
            wanted = expected(port, where, who, all_ranges)
            if isinstance(wanted, Seen):
                assert made.one(packet) == wanted
            elif not port.affinity or any(among(who.address, each.sources) for each in port.segments):
                seen = made.all(packet)
                even(Counter({each.target: times for each, times in seen.items()}), wanted)
                for each in seen:
                    source_is_right(each, port, where, who, everywhere)
            else:
                check_affinity(made, packet, wanted)
                source_is_right(made.one(packet), port, where, who, everywhere)


def source_is_right(seen: Seen, port: ServicePort, where: Frontend, who: Client, everywhere: bool) -> None:
    hidden = hides(port, where, who, everywhere)
    if who.host and who.address == family(port).node:
        return
    assert seen.masqueraded == (hidden or seen.target.split()[0] == who.address)


def even(found: Counter[str], wanted: Iterable[Endpoint]) -> None:
    assert set(found) == {f"{each.address} . {each.port}" for each in wanted}
    assert max(found.values()) <= min(found.values()) * 9 / 8


def check_affinity(made: Machine, packet: Packet, wanted: tuple[Endpoint, ...]) -> None:
    """Each slot leads a new client to its endpoint, where it stays whatever the dice say."""
    memory = made.held[f"affinity-{AFFINITY}"]
    found = Counter[str]()
    for slot in range(len(wanted)):
        memory.clear()
        first = made.one(packet, slot)
        found[first.target] += 1
        assert {made.one(packet, other) for other in range(len(wanted))} == {first}
        assert len(memory) == 1
    even(found, wanted)
