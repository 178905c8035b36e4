"""Which address comes next: the rules of the reference IPAM plugin host-local, as functions of what is taken.

A pod gets one address from each range set. Within a set the search goes round robin from the address given last, so a
released address rests as long as possible. The network, gateway and broadcast addresses are never given. Each step of
the search passes an address that is taken or reserved, so its cost depends on the pods of the node, never on the size
of the range: a /64 is as cheap as a /24.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import chain, combinations

import msgspec

Network = IPv4Network | IPv6Network
SMALLEST = {4: 30, 6: 126}
"""The longest prefix in which, besides network, gateway and broadcast, an address is left."""


class RangeError(ValueError):
    """A range, or an address asked for, that can't work; one sentence that names it."""


class Exhausted(RangeError):
    """Every address of a range set is taken."""


class AddressTaken(RangeError):
    """The address asked for belongs to another attachment."""


class Range(msgspec.Struct, frozen=True, gc=False):
    """Part of a subnet from which addresses are given: `first` to `last` without `reserved`, addresses as integers.

    `name` is the subnet, with the bounds when they are narrower; `prefix` the prefix length on the pod's interface;
    `gateway` is "" unless the configuration names one.
    """

    name: str
    subnet: str
    first: int
    last: int
    reserved: frozenset[int]
    prefix: int
    gateway: str = ""

    @property
    def v6(self) -> bool:
        """The family."""
        return ":" in self.subnet

    @property
    def total(self) -> int:
        """How many addresses can be given."""
        return self.last - self.first + 1 - sum(self.first <= address <= self.last for address in self.reserved)

    def __contains__(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether the address is between first and last."""
        return (address.version == 6) == self.v6 and self.first <= int(address) <= self.last

    def address(self, number: int) -> str:
        """The spelling of one of its addresses."""
        return str(IPv6Address(number) if self.v6 else IPv4Address(number))

    def __str__(self) -> str:
        """Its name."""
        return self.name


RangeSet = tuple[Range, ...]


def parse(subnet: str, start: str = "", end: str = "", gateway: str = "") -> Range:
    """One range as host-local's configuration gives it; raises RangeError.

    Without `start` and `end` it is the whole subnet; without `gateway` the first address of the subnet is kept for it.
    """
    network = _network(subnet)
    lowest, highest = _bounds(network)
    first = _inside(network, "rangeStart", start) if start else lowest
    last = _inside(network, "rangeEnd", end) if end else highest
    if first > last:
        raise RangeError(f"rangeStart {start} is after rangeEnd {end or 'of the subnet'} in {subnet}")
    kept = _inside(network, "gateway", gateway) if gateway else lowest
    found = Range(
        _name(network, first, last), str(network), first, last, _edges(network) | {kept}, network.prefixlen, gateway
    )
    if not found.total:
        raise RangeError(f"range {found} holds no address that can be given to a pod; make it larger")
    return found


def _name(network: Network, first: int, last: int) -> str:
    if (first, last) == _bounds(network):
        return str(network)
    base = int(network[0])
    return f"{network}[{network[first - base]}-{network[last - base]}]"


def _network(subnet: str) -> Network:
    try:
        network = ip_network(subnet)
    except ValueError as error:
        raise RangeError(f"{subnet!r} is not a subnet: {error}") from None
    if network.prefixlen > SMALLEST[network.version]:
        raise RangeError(
            f"subnet {subnet} is too small to give addresses from; use /{SMALLEST[network.version]} or larger"
        )
    return network


def _inside(network: Network, field: str, text: str) -> int:
    try:
        address = ip_address(text)
    except ValueError:
        raise RangeError(f"{field} {text!r} is not an IP address") from None
    if address not in network:
        raise RangeError(f"{field} {text} is outside subnet {network}")
    return int(address)


def _bounds(network: Network) -> tuple[int, int]:
    """The first and the last address to give; IPv6 has no broadcast."""
    return int(network[1]), int(network[-1 if network.version == 6 else -2])


def _edges(network: Network) -> frozenset[int]:
    """The addresses that name the network itself, and everyone in it."""
    return frozenset([int(network[0])] if network.version == 6 else [int(network[0]), int(network[-1])])


def check(sets: Iterable[RangeSet]) -> tuple[RangeSet, ...]:
    """The sets, if they go together: each of one family, at most one a family, no overlap; raises RangeError."""
    result = tuple(sets)
    for ranges in result:
        if len({each.v6 for each in ranges}) != 1:
            raise RangeError(f"the range set {label(ranges)} must hold ranges of one address family")
    if len({ranges[0].v6 for ranges in result}) != len(result):
        raise RangeError("a pod gets one address per family; put ranges of the same family into one range set")
    for one, other in combinations(chain.from_iterable(result), 2):
        if one.v6 == other.v6 and one.first <= other.last and other.first <= one.last:
            raise RangeError(f"ranges {one} and {other} overlap")
    return result


def confine(sets: Iterable[RangeSet], pod_cidrs: Sequence[str]) -> tuple[RangeSet, ...]:
    """The sets as part of this node's own ranges, outside of which no other node could reach a pod; raises RangeError.

    The node's network, gateway and broadcast addresses are reserved too, and pods get the prefix length of the node.
    """
    node = [ip_network(cidr) for cidr in pod_cidrs]
    return tuple(tuple(_confined(each, node) for each in ranges) for ranges in sets)


def _confined(part: Range, node: Sequence[Network]) -> Range:
    subnet = ip_network(part.subnet)
    for network in node:
        if subnet.version == network.version and subnet.subnet_of(network):  # type: ignore[arg-type]
            break
    else:
        ranges = " and ".join(map(str, node)) or "none"
        raise RangeError(f"subnet {part.subnet} is not part of this node's own pod range ({ranges})")
    if part.gateway and ip_address(part.gateway) != network[1]:
        raise RangeError(f"gateway {part.gateway} can't be: the pods of this node have {network[1]}")
    reserved = part.reserved | _edges(network) | {int(network[1])}
    return msgspec.structs.replace(part, reserved=reserved, prefix=network.prefixlen)


def of_node(pod_cidrs: Iterable[str]) -> tuple[RangeSet, ...]:
    """The range sets of a node without further configuration: each of its podCIDRs whole. Raises RangeError."""
    return _whole(tuple(pod_cidrs))


@lru_cache(maxsize=16)
def _whole(pod_cidrs: tuple[str, ...]) -> tuple[RangeSet, ...]:
    return check((parse(cidr),) for cidr in pod_cidrs)


def label(ranges: RangeSet) -> str:
    """A range set as text: for people, and as the name under which the address given last is remembered."""
    return ",".join([each.name for each in ranges])


def allocate(
    sets: Sequence[RangeSet], taken: Container[str], last: Mapping[str, str], requested: Iterable[str] = ()
) -> tuple[str, ...]:
    """One address, as ip/prefix, from each set: the requested one that is in it, else the next free one.

    `taken` holds addresses without prefix; `last` maps the label of a set to the address it gave last. Raises
    AddressTaken, Exhausted, and RangeError when a requested address is in no set or can't be given.
    """
    wanted = list(dict.fromkeys(ip_address(address) for address in requested))
    result = []
    for ranges in sets:
        inside = [address for address in wanted if any(address in each for each in ranges)]
        if len(inside) > 1:
            raise RangeError(f"{inside[0]} and {inside[1]} are both of {label(ranges)}, which gives one address")
        wanted = [address for address in wanted if address not in inside]
        result.append(_asked_for(ranges, taken, inside[0]) if inside else following(ranges, taken, last))
    if wanted:
        raise RangeError(f"{wanted[0]} is in none of the ranges {' and '.join(map(label, sets))}")
    return tuple(result)


def _asked_for(ranges: RangeSet, taken: Container[str], address: IPv4Address | IPv6Address) -> str:
    part = next(each for each in ranges if address in each)
    if int(address) in part.reserved:
        raise RangeError(f"{address} is reserved in {part} (network, gateway or broadcast address)")
    if str(address) in taken:
        raise AddressTaken(f"{address} belongs to another pod")
    return f"{address}/{part.prefix}"


def following(ranges: RangeSet, taken: Container[str], last: Mapping[str, str]) -> str:
    """The next free address of one set as ip/prefix; raises Exhausted."""
    for part, numbers in _round(ranges, last.get(label(ranges))):
        for number in numbers:
            if number not in part.reserved and (address := part.address(number)) not in taken:
                return f"{address}/{part.prefix}"
    total = sum(each.total for each in ranges)
    raise Exhausted(f"no free address in {label(ranges)}: {total} of {total} are used")


def _round(ranges: RangeSet, last: str | None) -> Iterator[tuple[Range, range]]:
    """Every address of a set once, from the one after `last` on, as pieces."""
    start = ip_address(last) if last else None
    at = next((i for i, each in enumerate(ranges) if start is not None and start in each), None)
    if at is None or start is None:
        yield from ((each, range(each.first, each.last + 1)) for each in ranges)
        return
    middle, split = ranges[at], int(start) + 1
    yield middle, range(split, middle.last + 1)
    yield from ((each, range(each.first, each.last + 1)) for each in (*ranges[at + 1 :], *ranges[:at]))
    yield middle, range(middle.first, split)
