"""What is known of Services while they are used: who stays with which endpoint, which endpoints are passed over because
they did not answer, and how many connections each one has.

Whom to ask depends on the mode. In mode nftables the kernel's words are those of nftables.py, read the other way: an id
for an endpoint, a number for whom a client stays with. Mode iptables has a list of recent clients for each endpoint,
the userspace proxy tells of its own, and ipvs of its virtual servers. Connections are otherwise those that connection
tracking leads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple
from zlib import crc32

from msgspec.structs import replace

from podnet.network.proxy.explain import Meeting
from podnet.network.proxy.iptables import code
from podnet.network.proxy.nft_chains import FAMILIES, TABLE
from podnet.network.proxy.nftables import PROTOCOLS, frontends, ids_of, retries
from podnet.network.service_port import Endpoint, ServicePort, order
from podnet.network.value import Value
from podnet.network.view import is_v6
from podnet.objects.cluster import Key
from podnet.state.iptables import RECENT
from podnet.state.ipvs import Balanced

Place = tuple[str, str, str]
"""family, table and name (with its sort) of a set that the kernel fills."""

NFTABLES = "nftables"
Services = Mapping[Key, tuple[ServicePort, ...]]
Ejected = frozenset[tuple[Key, str]]
"""(Service, endpoint's address)"""

Flows = Mapping[tuple[int, str, int, str], int]
"""How many connections, by protocol, address and port they were meant for, and the address that answers."""


class Live(Value, frozen=True):
    """Of one ServicePort: client -> address it stays with, addresses passed over, address -> connections.

    In IPv6 mode nftables knows a client by a hash only (nft_chains.py), which stands here instead; and of two Services
    with the same endpoints and the same time, both show it. In mode ipvs a client stays at one frontend: `affinity_at`
    has the same by address:port of that, `tables` say where a client's hash leads (state/ipvs.py), and `inactive` are
    TCP connections that begin or end.
    """

    affinity: Mapping[str, str] = {}
    ejected: tuple[str, ...] = ()
    connections: Mapping[str, int] = {}
    affinity_at: Mapping[str, Mapping[str, str]] = {}
    inactive: Mapping[str, int] = {}
    tables: Mapping[str, tuple[str, ...]] = {}


class Proxied(NamedTuple):
    """What the userspace proxy tells of one ServicePort, with endpoints as address:port: connections of each, and which
    one each client stays with."""

    connections: Mapping[str, int]
    affinities: Mapping[str, str]


class Memory(NamedTuple):
    """What was read: elements by set, flows, what the userspace proxy says by label, protocol and whether IPv6, and
    what ipvs says."""

    sets: Mapping[Place, tuple[str, ...]]
    flows: Flows
    proxied: Mapping[tuple[str, str, bool], Proxied] = {}
    balanced: Balanced = Balanced()


def ejections(v6: bool) -> Place:
    """The set of endpoints that are passed over."""
    return (FAMILIES[v6], TABLE, "set ejected")


def affinities(v6: bool, seconds: int) -> Place:
    """The map from clients to endpoints."""
    return (FAMILIES[v6], TABLE, f"map affinity-{seconds}")


def recent(port: ServicePort, endpoint: Endpoint) -> Place:
    """The list of an endpoint's clients in mode iptables."""
    return (FAMILIES[port.v6], RECENT, f"KUBE-SEP-{code(port, place(endpoint.address, endpoint.port))}")


def place(address: str, port: int) -> str:
    """As people write it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def places(ports: Iterable[ServicePort], mode: str = NFTABLES) -> frozenset[Place]:
    """The sets that tell something of these."""
    return frozenset(place for port in ports for place in _places(port, mode))


def _places(port: ServicePort, mode: str) -> Iterator[Place]:
    if mode == "iptables" and port.affinity:
        yield from (recent(port, endpoint) for endpoint in port.endpoints)
    if mode != NFTABLES:
        return
    if port.affinity:
        yield affinities(port.v6, port.affinity)
    if retries(port):
        yield ejections(port.v6)


def live(port: ServicePort, memory: Memory, node_addresses: Collection[str], mode: str = NFTABLES) -> Live:
    """`node_addresses`: where its node port is."""
    flows = _connections(port, memory.flows, node_addresses)
    match mode:
        case "iptables":
            return Live(_recent(port, memory), (), flows)
        case "userspace":
            return _proxied(port, memory, {each: many for each, many in flows.items() if each not in node_addresses})
        case "ipvs":
            return _balanced(port, memory.balanced, node_addresses)
    named = {_numbers(text): endpoint.address for endpoint, text in ids_of(port).items()}
    return Live(
        dict(sorted(_affinity(port, memory, named))) if port.affinity else {},
        tuple(sorted(_ejected(memory.sets.get(ejections(port.v6), ()), named))) if retries(port) else (),
        flows,
    )


def _recent(port: ServicePort, memory: Memory) -> dict[str, str]:
    """The rules ask the lists in the order of the endpoints."""
    found: dict[str, str] = {}
    for endpoint in port.endpoints if port.affinity else ():
        for element in memory.sets.get(recent(port, endpoint), ()):
            client, _, seconds = element.partition(" : ")
            if float(seconds) <= port.affinity:
                found.setdefault(client, endpoint.address)
    return dict(sorted(found.items()))


def _proxied(port: ServicePort, memory: Memory, flows: Mapping[str, int]) -> Live:
    """`flows` are those of a mode before this one; the proxy's own lead to it, at an address of the node."""
    connections, affinities = memory.proxied.get((port.label, port.protocol, port.v6), Proxied({}, {}))
    addresses = {each.address for each in port.endpoints}
    counts = Counter(flows)
    for endpoint, many in connections.items():
        counts[_host(endpoint)] += many
    kept = {client: _host(endpoint) for client, endpoint in affinities.items() if port.affinity}
    return Live(
        {client: address for client, address in sorted(kept.items()) if address in addresses},
        (),
        _counted({address: many for address, many in counts.items() if address in addresses}),
    )


def _balanced(port: ServicePort, balanced: Balanced, node_addresses: Collection[str]) -> Live:
    """TCP's established connections, and all others of UDP and SCTP, which ipvs never takes for established."""
    own = [address for address in node_addresses if is_v6(address) == port.v6]
    met = {(port.protocol, each.address, each.port): place(each.address, each.port) for each in frontends(port, own)}
    active, inactive = Counter[str](), Counter[str]()
    for (*at, address), (established, others) in balanced.connections.items():
        if tuple(at) in met:
            active[address] += established + (others if port.protocol != "tcp" else 0)
            inactive[address] += others if port.protocol == "tcp" else 0
    kept: dict[str, dict[str, str]] = {}
    for stay in balanced.stays if port.affinity else ():
        if (stay.protocol, stay.address, stay.port) in met:
            kept.setdefault(place(stay.address, stay.port), {})[stay.client] = stay.to
    tables = {met[at]: slots for at, slots in balanced.tables.items() if at in met}
    return Live({}, (), _counted(active), dict(sorted(kept.items())), _counted(inactive), tables)


def _counted(counts: Mapping[str, int]) -> dict[str, int]:
    return {address: many for address, many in sorted(counts.items()) if many}


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].strip("[]")


def with_ejections(meeting: Meeting, live: Live | None) -> Meeting:
    """With the shares there are meanwhile: none for an ejected endpoint, the more for the others; as ever with all of
    them ejected, and for clients without retries."""
    out = frozenset(live.ejected) if live and meeting.retry else frozenset()
    left = sum(share.percent for share in meeting.shares if share.endpoint.address not in out)
    if not out or not left:
        return meeting
    shares = (
        replace(share, percent=0.0 if share.endpoint.address in out else 100 * share.percent / left)
        for share in meeting.shares
    )
    return replace(meeting, shares=tuple(shares))


def _affinity(port: ServicePort, memory: Memory, named: Mapping[tuple[int, int], str]) -> Iterator[tuple[str, str]]:
    mine = crc32(port.affinity_of.encode())
    for element in memory.sets.get(affinities(port.v6, port.affinity), ()):
        key, _, value = element.partition(" : ")
        mark, _, client = key.partition(" . ")
        endpoint = named.get(_numbers(value))
        if endpoint is not None and (not client or int(mark, 16) == mine):
            yield client or mark, endpoint


def _ejected(elements: Iterable[str], named: Mapping[tuple[int, int], str]) -> Iterator[str]:
    return (named[number] for number in map(_numbers, elements) if number in named)


def _connections(port: ServicePort, flows: Flows, node_addresses: Iterable[str]) -> dict[str, int]:
    own = [address for address in node_addresses if is_v6(address) == port.v6]
    met = [(PROTOCOLS[port.protocol], each.address, each.port) for each in frontends(port, own)]
    counts = {
        address: sum(flows.get((*frontend, address), 0) for frontend in met)
        for address in {endpoint.address for endpoint in port.endpoints}
    }
    return _counted(counts)


def retried(services: Services) -> Mapping[Key, tuple[ServicePort, ...]]:
    """The ports from which endpoints can be ejected."""
    found = {key: tuple(filter(retries, ports)) for key, ports in services.items()}
    return {key: ports for key, ports in found.items() if ports}


def excess(
    services: Services, sets: Mapping[Place, Collection[str]], before: Ejected
) -> Mapping[Place, frozenset[str]]:
    """What to take out of the sets, so that of all endpoints that a client of a Service may get at most half, rounded
    down, are passed over. Those that were so `before` stay rather than others, then the first by address."""
    found: dict[Place, frozenset[str]] = {}
    for key, ports in services.items():
        stayed = {address for about, address in before if about == key}
        for port in ports:
            place = ejections(port.v6)
            found[place] = found.get(place, frozenset()) | _excess(port, sets.get(place, ()), stayed)
    return {place: beyond for place, beyond in found.items() if beyond}


def _excess(port: ServicePort, elements: Collection[str], stayed: Collection[str]) -> frozenset[str]:
    held = {_numbers(text): text for text in elements}
    known = ((endpoint, _numbers(text)) for endpoint, text in ids_of(port).items()) if held else ()
    out = {endpoint: held[numbers] for endpoint, numbers in known if numbers in held}

    def first(endpoint: Endpoint) -> tuple[bool, str, int]:
        return (endpoint.address not in stayed, *order(endpoint))

    choices = {port.internal, port.external, port.cluster}
    return frozenset(
        out[each] for some in choices for each in sorted(out.keys() & {*some}, key=first)[len(some) // 2 :]
    )


def ejected(services: Services, sets: Mapping[Place, Collection[str]]) -> Ejected:
    """Every Service's endpoints that are passed over now."""
    return frozenset(
        (key, address)
        for key, ports in services.items()
        for port in ports
        for elements in [sets.get(ejections(port.v6), ())]
        if elements
        for address in _ejected(elements, {_numbers(text): endpoint.address for endpoint, text in ids_of(port).items()})
    )


def _numbers(text: str) -> tuple[int, int]:
    """An id or lane, which nft may spell with leading zeros; (0, 0) for what is none."""
    high, colon, low = text.partition(":")
    return (int(high or "0", 16), int(low or "0", 16)) if colon else (0, 0)
