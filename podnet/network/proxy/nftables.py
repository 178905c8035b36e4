"""Mode nftables: a few static chains for each number of endpoints, and everything else set and map elements.

From a packet's point of view, only the first of a connection: (address, protocol, port) is looked up in `services` ->
`goto n4`, the chain for four endpoints -> `endpoints` is asked for that key and a random number below 4 -> destination
NAT. Nothing found, but the address is a Service's: refused. So an endpoint that changes costs its elements, never what
else exists, and a lookup costs the same with one Service as with ten thousand.

Where a client's place matters (externalTrafficPolicy Local), `services` leads to `local`, which asks `inside` for pods
and the node itself, and `outside` for everybody else. With affinity, `s<seconds>` looks for the client's endpoint by
its id in `affinity-<seconds>`; an id that leads nowhere any more is forgotten and another one picked, so an endpoint
that goes releases its clients by itself. Node ports are frontends at the node's own addresses.

All of this stands in chains of type nat, refusals included, so packets of established connections pass none of it.
The one scratch register is the packet's mark, of which the bit MASQUERADE is ours until postrouting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from zlib import crc32

from podnet.network.proxy.model import Endpoint, Frontend, ServicePort
from podnet.network.value import Value
from podnet.state.nft import Element, NftTable
from podnet.state.resource import TABLE_PREFIX, Resource

TABLE = f"{TABLE_PREFIX}services"
FAMILIES = {False: "ip", True: "ip6"}
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
"""By number in elements: nft knows names only where the machine has an /etc/protocols."""

MASQUERADE = 0x8000
"""The mark's bit that says: leave with the node's own address. kube-proxy's 0x4000 stays free."""

_ID_BITS = 0x3FFF
"""What an endpoint's id may use of the mark, clear of 0x4000 and MASQUERADE."""

EXACT = 128
"""Up to so many endpoints each has one slot; beyond, slots are the next power of two of EVEN times as many."""

EVEN = 8
MOST_SLOTS = 1 << 16
SIZES = (*range(1, EXACT + 1), *(1 << bits for bits in range((EXACT * EVEN).bit_length(), MOST_SLOTS.bit_length())))


class Settings(Value, frozen=True):
    """What the static part depends on, for one family.

    `pods` are the cluster's ranges, `timeouts` the affinities in use (seconds), `service_cidrs` where an address that
    no Service has is refused.
    """

    v6: bool
    pods: tuple[str, ...]
    timeouts: tuple[int, ...] = ()
    service_cidrs: tuple[str, ...] = ()


def table(settings: Settings) -> NftTable:
    """The chains and the declarations of sets and maps."""
    ip = FAMILIES[settings.v6]
    return NftTable(ip, TABLE, "".join(_body(settings, ip)))


def _body(settings: Settings, ip: str) -> Iterator[str]:
    key = f"{ip} daddr . meta l4proto . th dport"
    target = f"{ip} daddr . th dport"
    for name in ("services", "inside", "outside", "picks", "outside-picks"):
        yield f"  map {name} {{ typeof {key} : verdict; }}\n"
    for name in ("endpoints", "outside-endpoints"):
        yield f"  map {name} {{ typeof {key} . numgen random mod 2 : {target}; }}\n"
    for name in ("ids", "outside-ids"):
        yield f"  map {name} {{ typeof {key} . numgen random mod 2 : meta mark; }}\n"
    yield f"  map sticky {{ typeof {key} . meta mark : {target}; }}\n"
    yield f"  set cluster-ips {{ type {_TYPES[settings.v6]}; }}\n"
    for name in ("masqueraded", "guarded"):
        yield f"  set {name} {{ typeof {key}; }}\n"
    yield f"  set allowed {{ typeof {key} . {ip} saddr; flags interval; }}\n"
    yield f"  set hairpins {{ typeof {ip} saddr . {ip} daddr; }}\n"
    yield "  chain none {\n    reject\n  }\n  chain lost {\n    drop\n  }\n"
    for size in SIZES:
        yield from _picking(ip, key, size)
    for seconds in settings.timeouts:
        yield f"  map affinity-{seconds} {{ typeof {_client(ip, key)} : meta mark; flags dynamic,timeout; "
        yield f"timeout {seconds}s; size 1048576; }}\n"
        yield from _sticky(ip, key, seconds, "s", "picks")
        yield from _sticky(ip, key, seconds, "t", "outside-picks")
    yield from _chains(settings, ip, key)


def _picking(ip: str, key: str, size: int) -> Iterator[str]:
    """n and o lead to an endpoint, k and l only choose its id."""
    for chain, name in (("n", "endpoints"), ("o", "outside-endpoints")):
        pick = f"{key} . numgen random mod {size} map @{name}"
        yield f"  chain {chain}{size} {{\n    {_TRANSPORT} dnat {ip} to {pick}\n  }}\n"
    for chain, name in (("k", "ids"), ("l", "outside-ids")):
        yield f"  chain {chain}{size} {{\n    meta mark set {key} . numgen random mod {size} map @{name}\n  }}\n"


def _sticky(ip: str, key: str, seconds: int, chain: str, picks: str) -> Iterator[str]:
    """A known client goes where it went, if that is still there; else it is forgotten and gets an endpoint anew."""
    memory = f"@affinity-{seconds} {{ {_client(ip, key)} : meta mark }}"
    known = f"meta mark set {_client(ip, key)} map @affinity-{seconds}"
    lead = f"{_TRANSPORT} dnat {ip} to {key} . meta mark map @sticky"
    yield f"  chain {chain}{seconds} {{\n    {known} update {memory} {lead}\n    delete {memory}\n"
    yield f"    {key} vmap @{picks}\n    update {memory}\n    {lead}\n  }}\n"


def _client(ip: str, key: str) -> str:
    """Who meets which frontend. nft 1.0.6 aborts on a map statement with two IPv6 addresses in its key, so one is
    hashed: should two frontends of a client ever hash alike, the ids of the one lead nowhere at the other."""
    return f"{ip} saddr . {key}" if ip == "ip" else f"jhash {key} mod 4294967295 seed 0x1 . {ip} saddr"


def _chains(settings: Settings, ip: str, key: str) -> Iterator[str]:
    pods = f"{{ {', '.join(settings.pods)} }}"
    mark = f"meta mark set meta mark | {MASQUERADE:#x}"
    yield f"  chain local {{\n    {ip} saddr {pods} {key} vmap @inside\n"
    yield f"    fib saddr type local {mark} {key} vmap @inside\n    {key} vmap @outside\n  }}\n"
    yield f"  chain services {{\n    {key} @guarded {key} . {ip} saddr != @allowed goto lost\n"
    yield f"    {key} @masqueraded {mark}\n    {key} vmap @services\n    {ip} daddr @cluster-ips reject\n"
    if settings.service_cidrs:
        yield f"    {ip} daddr {{ {', '.join(settings.service_cidrs)} }} drop\n"
    yield "  }\n"
    # 127.0.0.1 is for the node itself; `guard` below keeps others from it once route_localnet is on.
    stranger = "" if settings.v6 else '    iifname != "lo" ip daddr 127.0.0.0/8 return\n'
    yield "  chain prerouting {\n    type nat hook prerouting priority dstnat; policy accept;\n"
    yield f"{stranger}    jump services\n  }}\n"
    yield "  chain output {\n    type nat hook output priority -100; policy accept;\n    jump services\n  }\n"
    yield "  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n"
    yield f"    ct status dnat {ip} saddr . {ip} daddr @hairpins masquerade fully-random\n"
    if not settings.v6:
        yield "    ct status dnat ip saddr 127.0.0.0/8 masquerade fully-random\n"
    clear = f"meta mark set meta mark & {0xFFFFFFFF ^ MASQUERADE:#x}"
    yield f"    meta mark & {MASQUERADE:#x} == {MASQUERADE:#x} {clear} masquerade fully-random\n"
    yield f"    ct status dnat {ip} saddr != {pods} ct original {ip} daddr @cluster-ips masquerade fully-random\n  }}\n"
    if not settings.v6:
        yield "  chain guard {\n    type filter hook input priority filter; policy accept;\n"
        yield '    iifname != "lo" ip daddr 127.0.0.0/8 ct direction original drop\n  }\n'


_TRANSPORT = "meta l4proto { 6, 17, 132 }"
_TYPES = {False: "ipv4_addr", True: "ipv6_addr"}


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
        bit = MASQUERADE if (everywhere if inner else not port.external_local) else 0
        if bit:
            yield _member(ip, "masqueraded", key)
        if inner or not port.external_local:
            yield from _lead(ip, port, key, "services", port.internal if inner else port.external, bit)
        else:
            yield Element(ip, TABLE, "services", key, "goto local")
            yield from _lead(ip, port, key, "inside", port.cluster)
            yield from _lead(ip, port, key, "outside", port.external)
        if port.source_ranges is not None and (frontend.scope == "balancer" or (all_ranges and not inner)):
            yield _member(ip, "guarded", key)
            yield from (_member(ip, "allowed", f"{key} . {source}") for source in _sources(port.source_ranges))


def frontends(port: ServicePort, node_addresses: Iterable[str]) -> Iterator[Frontend]:
    """With the node port's addresses in full."""
    for frontend in port.frontends:
        if frontend.scope == "node":
            yield from (Frontend("node", address, frontend.port) for address in node_addresses)
        else:
            yield frontend


def _lead(
    ip: str, port: ServicePort, key: str, where: str, endpoints: tuple[Endpoint, ...], bit: int = 0
) -> Iterator[Resource]:
    """Where a key leads, and the endpoints behind it. With affinity the mark is the id, and `bit` stays in it."""
    outer = where == "outside"
    if not endpoints:
        yield Element(ip, TABLE, where, key, "goto lost" if port.anywhere else "goto none")
        return
    slots = tuple(spread(endpoints))
    if not port.affinity:
        yield Element(ip, TABLE, where, key, f"goto {'o' if outer else 'n'}{len(slots)}")
        name = "outside-endpoints" if outer else "endpoints"
        for slot, endpoint in enumerate(slots):
            yield Element(ip, TABLE, name, f"{key} . {slot}", _target(endpoint))
        return
    yield Element(ip, TABLE, where, key, f"goto {'t' if outer else 's'}{port.affinity}")
    yield Element(ip, TABLE, "outside-picks" if outer else "picks", key, f"jump {'l' if outer else 'k'}{len(slots)}")
    marks = {endpoint: _mark(number | bit) for endpoint, number in ids(port.endpoints).items()}
    for slot, endpoint in enumerate(slots):
        yield Element(ip, TABLE, "outside-ids" if outer else "ids", f"{key} . {slot}", marks[endpoint])
    for endpoint in endpoints:
        yield Element(ip, TABLE, "sticky", f"{key} . {marks[endpoint]}", _target(endpoint))


def spread(endpoints: tuple[Endpoint, ...]) -> Iterator[Endpoint]:
    """The endpoint of each slot. Beyond EXACT endpoints some have one slot in EVEN more than others."""
    wanted = len(endpoints) * (1 if len(endpoints) <= EXACT else EVEN)
    size = next((size for size in SIZES if size >= wanted), SIZES[-1])
    return (endpoints[slot % len(endpoints)] for slot in range(size))


def ids(endpoints: Iterable[Endpoint]) -> dict[Endpoint, int]:
    """A number for each endpoint that stays when others come and go, but for the rare two that hash alike."""
    taken: dict[int, Endpoint] = {}
    for endpoint in endpoints:
        number = crc32(f"{endpoint.address} {endpoint.port}".encode()) & _ID_BITS
        while number in taken:
            number = number + 1 & _ID_BITS
        taken[number] = endpoint
    return {endpoint: number for number, endpoint in taken.items()}


def _mark(number: int) -> str:
    return f"{number:#010x}"


def _target(endpoint: Endpoint) -> str:
    return f"{endpoint.address} . {endpoint.port}"


def _member(ip: str, name: str, element: str) -> Element:
    return Element(ip, TABLE, name, element)


def _sources(ranges: Iterable[str]) -> Iterator[str]:
    """As nft spells them: one address without its prefix, and what overlaps another range left out."""
    networks = sorted(map(ip_network, ranges), key=lambda network: network.prefixlen)
    kept: list[object] = []
    for network in networks:
        if not any(network.subnet_of(wider) for wider in kept):  # type: ignore[arg-type]
            kept.append(network)
            yield str(network[0]) if network.prefixlen == network.max_prefixlen else str(network)
