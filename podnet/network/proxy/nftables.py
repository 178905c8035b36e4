"""Mode nftables: a few static chains for each number of endpoints, and everything else set and map elements.

From a packet's point of view, only the first of a connection: (address, protocol, port) is looked up in `services` ->
`goto n4`, the chain for four endpoints -> `endpoints` is asked for that key and a random number below 4 -> destination
NAT. Nothing found, but the address is a Service's: refused. So an endpoint that changes costs its elements, never what
else exists, and a lookup costs the same with one Service as with ten thousand. Node ports are frontends at the node's
own addresses. The chains themselves are in nft_chains.py; this module says which elements a ServicePort has.

Clients that have endpoints of their own go by a *lane*, a number that becomes part of the key: those outside under
externalTrafficPolicy Local, and each segment of a ServiceRoute. With affinity or retries an endpoint's *id* is picked
instead, which stays the same while endpoints come and go, and `targets` leads from it to the endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from math import gcd
from zlib import crc32

import msgspec

from podnet.network.proxy.algorithms import RANDOM, ROUND_ROBIN, SOURCE_HASH, hashed, turns, way
from podnet.network.proxy.nft_chains import FAMILIES, SIZES, TABLE
from podnet.network.service_port import Endpoint, Frontend, ServicePort
from podnet.state.nft import Element
from podnet.state.resource import Resource

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
"""By number in elements: nft knows names only where the machine has an /etc/protocols."""

EXACT = 128
"""Up to so many slots each endpoint has exactly its share of them; see spread."""

EVEN = 8
"""Beyond, there are at least so many slots for each endpoint."""

LANES = 0x8000
OUTER = 0x4000
"""Added to a lane's number: that of clients outside under policy Local. Segments count from 1."""


def hairpin(address: str, v6: bool) -> Element:
    """A pod of this node that may be led to itself."""
    return _member(FAMILIES[v6], "hairpins", f"{address} . {address}")


def elements(
    port: ServicePort, node_addresses: Iterable[str], everywhere: bool = False, all_ranges: bool = False
) -> Iterator[Resource]:
    """What one ServicePort puts into the sets and maps.

    `node_addresses` serve its node port; `everywhere`: cluster addresses masquerade too (masqueradeAll); `all_ranges`:
    source ranges hold for all external frontends.
    """
    ip = FAMILIES[port.v6]
    yield _member(ip, "cluster-ips", port.cluster_ip)
    for frontend in frontends(port, node_addresses):
        key = f"{frontend.address} . {PROTOCOLS[port.protocol]} . {frontend.port}"
        inner = frontend.scope == "cluster"
        if everywhere if inner else not port.external_local:
            yield _member(ip, "masqueraded", key)
        if port.affinity:
            yield Element(ip, TABLE, "numbers", key, f"{crc32(port.affinity_of.encode()):#010x}")
        if inner or not port.external_local:
            yield from _lead(ip, port, key, "services", "internal" if inner else "external")
        else:
            yield Element(ip, TABLE, "services", key, "goto local")
            yield from _lead(ip, port, key, "inside", "cluster")
            yield from _outside(ip, port, key)
        if port.source_ranges is not None and (frontend.scope == "balancer" or (all_ranges and not inner)):
            yield _member(ip, "guarded", key)
            yield from (_member(ip, "allowed", f"{key} . {source}") for source in sources(port.source_ranges))


def frontends(port: ServicePort, node_addresses: Iterable[str]) -> Iterator[Frontend]:
    """With the node port's addresses in full."""
    for frontend in port.frontends:
        if frontend.scope == "node":
            yield from (Frontend("node", address, frontend.port) for address in node_addresses)
        else:
            yield frontend


def _lead(ip: str, port: ServicePort, key: str, where: str, choice: str) -> Iterator[Resource]:
    """Where a key leads clients inside; `choice` names the field of ServicePort and Segment that holds for them."""
    endpoints: tuple[Endpoint, ...] = getattr(port, choice)
    if port.segments:
        yield Element(ip, TABLE, where, key, "goto lanes")
        where = "defaults"
        yield from _segments(ip, port, key, "segments", 0, choice)
    if not endpoints:
        yield Element(ip, TABLE, where, key, _nowhere(port))
    elif by_id(port):
        yield Element(ip, TABLE, where, key, _by_id(port, "inner"))
        yield Element(ip, TABLE, "inner-lanes", key, number(port, 0))
        yield from _ids(ip, port, key, 0, endpoints)
    else:
        each_slot = slots(port, endpoints)
        yield Element(ip, TABLE, where, key, f"goto n{way(port, len(each_slot))}")
        for slot, endpoint in enumerate(each_slot):
            yield Element(ip, TABLE, "endpoints", f"{key} . {slot}", _target(endpoint))


def _outside(ip: str, port: ServicePort, key: str) -> Iterator[Resource]:
    """Clients outside, where they have other endpoints than those inside."""
    yield from _segments(ip, port, key, "outer-segments", OUTER, "external")
    yield Element(ip, TABLE, "outer-lanes", key, number(port, OUTER))
    if port.external and by_id(port):
        yield Element(ip, TABLE, "lanes", _place(port, key, OUTER), _by_id(port, "outer"))
        yield from _ids(ip, port, key, OUTER, port.external)
    else:
        yield from _lane(ip, port, key, OUTER, port.external)


def _segments(ip: str, port: ServicePort, key: str, name: str, first: int, choice: str) -> Iterator[Resource]:
    for lane, segment in enumerate(port.segments, first + 1):
        for source in sources(segment.sources):
            yield Element(ip, TABLE, name, f"{key} . {source}", number(port, lane))
        yield from _lane(ip, port, key, lane, getattr(segment, choice))


def _lane(ip: str, port: ServicePort, key: str, lane: int, endpoints: tuple[Endpoint, ...]) -> Iterator[Resource]:
    place = _place(port, key, lane)
    if not endpoints:
        yield Element(ip, TABLE, "lanes", place, _nowhere(port))
        return
    each_slot = slots(port, endpoints)
    yield Element(ip, TABLE, "lanes", place, f"goto r{way(port, len(each_slot))}")
    for slot, endpoint in enumerate(each_slot):
        yield Element(ip, TABLE, "routed", f"{place} . {slot}", _target(endpoint))


def _nowhere(port: ServicePort) -> str:
    """Refused when there is nothing at all, dropped when there is nothing here (as kube-proxy does)."""
    return "goto lost" if port.anywhere else "goto none"


def by_id(port: ServicePort) -> bool:
    """Whether an id is picked first."""
    return bool(port.affinity) or retries(port)


def retries(port: ServicePort) -> bool:
    """Whether a connection may go to another endpoint; one with affinity stays where it is."""
    return port.retry and port.protocol == "tcp" and not port.affinity


def _by_id(port: ServicePort, side: str) -> str:
    return f"goto sticky-{side}-{port.affinity}" if port.affinity else f"goto retry-{side}"


def _ids(ip: str, port: ServicePort, key: str, lane: int, endpoints: tuple[Endpoint, ...]) -> Iterator[Resource]:
    port = picked_by_id(port)
    each_slot, known, place = slots(port, endpoints), ids_of(port), _place(port, key, lane)
    yield Element(ip, TABLE, "picks", place, f"jump k{way(port, len(each_slot))}")
    for slot, endpoint in enumerate(each_slot):
        yield Element(ip, TABLE, "ids", f"{place} . {slot}", known[endpoint])
    for endpoint in endpoints:
        yield Element(ip, TABLE, "targets", f"{key} . {known[endpoint]}", _target(endpoint))


def picked_by_id(port: ServicePort) -> ServicePort:
    """As ids are picked: a hash would pick the same again, so with retries it is chance."""
    again = retries(port) and port.algorithm == SOURCE_HASH
    return msgspec.structs.replace(port, algorithm=RANDOM) if again else port


def slots(port: ServicePort, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """The endpoint of each slot."""
    return {SOURCE_HASH: hashed, ROUND_ROBIN: turns}.get(port.algorithm, spread)(endpoints)


def spread(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """The endpoint of each slot, by weight: exactly while that takes at most EXACT slots, else to the nearest of so
    many that there are EVEN for each endpoint, and one for the lightest."""
    common = gcd(*(endpoint.weight for endpoint in endpoints))
    exact = sum(endpoint.weight // common for endpoint in endpoints)
    if exact <= EXACT:
        return tuple(endpoint for endpoint in endpoints for _ in range(endpoint.weight // common))
    whole, passed, slots = sum(endpoint.weight for endpoint in endpoints), 0, list[Endpoint]()
    wanted = max(EXACT * EVEN, len(endpoints) * EVEN, -(-whole // min(endpoint.weight for endpoint in endpoints)))
    size = next((size for size in SIZES if size >= wanted), SIZES[-1])
    for endpoint in endpoints:
        passed += endpoint.weight
        slots += [endpoint] * (passed * size // whole - len(slots))
    return tuple(slots)


def ids_of(port: ServicePort) -> dict[Endpoint, str]:
    """The ids of its endpoints; with retries a pod has another one in each port of its own, of which one may refuse
    while the others answer."""
    return ids(port.endpoints, apart=retries(port))


def ids(endpoints: Iterable[Endpoint], apart: bool = False) -> dict[Endpoint, str]:
    """An id for each endpoint that stays when others come and go, but for the rare two that hash alike. It is that of
    its address, so a pod has the same one in every port of its Service, and in every list; `apart`: of address and
    port."""
    taken: dict[int, tuple[str, int]] = {}
    made = {}
    for endpoint in endpoints:
        place, text = (endpoint.address, endpoint.port), f"{endpoint.address} {endpoint.port}"
        hashed = crc32((text if apart else endpoint.address).encode()) % _NUMBERS
        while taken.setdefault(hashed, place) != place:
            hashed = (hashed + 1) % _NUMBERS
        made[endpoint] = _spelt(hashed)
    return made


_HALF = 0xFFFE
_NUMBERS = _HALF * _HALF


def number(port: ServicePort, lane: int) -> str:
    """A lane as nft spells it. It tells the protocol too, of which two may have the same address and port."""
    return _spelt(lane + LANES * tuple(PROTOCOLS).index(port.protocol))


def protocol_of(lane: str) -> int:
    """What number() made part of it."""
    high, low = (int(half, 16) - 1 for half in lane.split(":"))
    return tuple(PROTOCOLS.values())[(high * _HALF + low) // LANES]


def _place(port: ServicePort, key: str, lane: int) -> str:
    address, _, there = key.split(" . ")
    return f"{address} . {there} . {number(port, lane)}"


def _spelt(value: int) -> str:
    """Lanes and ids are in the packet's priority, which nft writes like a tc handle; neither half of it is 0."""
    return f"{value // _HALF + 1:x}:{value % _HALF + 1:x}"


def _target(endpoint: Endpoint) -> str:
    return f"{endpoint.address} . {endpoint.port}"


def _member(ip: str, name: str, element: str) -> Element:
    return Element(ip, TABLE, name, element)


def sources(ranges: Iterable[str]) -> Iterator[str]:
    """As nft spells them: one address without its prefix, and what overlaps another range left out."""
    networks = sorted(map(ip_network, ranges), key=lambda network: network.prefixlen)
    kept: list[object] = []
    for network in networks:
        if not any(network.subnet_of(wider) for wider in kept):  # type: ignore[arg-type]
            kept.append(network)
            yield str(network[0]) if network.prefixlen == network.max_prefixlen else str(network)
