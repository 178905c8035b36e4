"""Which endpoint the userspace proxy tries next: in turn, by weight, a client's own, and another after a failure.

An attempt to connect that fails takes the next endpoint, not the same again, and the client's affinity moves with it.
Time is an argument in seconds; what is remembered here is only turns and affinities, so losing it costs fairness,
never a connection. Source: kubernetes pkg/proxy/userspace/{proxysocket,roundrobin}.go (up to 1.25).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from weakref import WeakValueDictionary
from zlib import crc32

from podnet.network.proxy.origins import Keeping, Origins
from podnet.network.service_port import Endpoint, Scope, Segment, ServicePort

TIMEOUTS = (0.25, 0.5, 1.0, 2.0)
"""Seconds that each attempt to connect may take."""

Network = IPv4Network | IPv6Network
Identity = tuple[str, str, str, str, int, bool]
Frontend = tuple[str, str, int]
"""protocol, address (ANY of a family: any of the node's), port"""

ANY = {False: "0.0.0.0", True: "::"}
"""By family: where a node port is. Those of a Service's two families are two ServicePorts."""


class Keep:
    """Which endpoint each client stays with: of one ServicePort, or of a Service across its ports."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Endpoint, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """By client."""
        return {client: endpoint for client, (endpoint, _) in self._kept.items()}

    def find(self, among: tuple[Endpoint, ...], client: str, now: float, affinity: int) -> Endpoint | None:
        """A client's endpoint if it is one still; at another port of the Service, the one of the same pod."""
        if client not in self._kept:
            return None
        kept, used = self._kept[client]
        if now - used >= affinity:
            return None
        same = [each for each in among if each.address == kept.address]
        return next((each for each in same if each.port == kept.port), same[0] if same else None)

    def put(self, client: str, endpoint: Endpoint, now: float) -> None:
        """The client stays with this one from now on."""
        self._kept[client] = (endpoint, now)

    def expire(self, addresses: Collection[str], now: float, affinity: int) -> None:
        """Forget what is over, and what leads to addresses that are gone."""
        gone = [
            client
            for client, (endpoint, used) in self._kept.items()
            if now - used >= affinity or endpoint.address not in addresses
        ]
        for client in gone:
            del self._kept[client]


class Ring:
    """The turns of one ServicePort. `start`: whose turn is first; if that were everywhere the first endpoint, it would
    get every connection of all Services that are asked only now and then."""

    def __init__(self, keep: Keep | None = None, start: int = 0) -> None:
        self.keep = Keep() if keep is None else keep
        self._turn = start
        self._owed: dict[tuple[Endpoint, ...], list[int]] = {}

    def pick(
        self, among: tuple[Endpoint, ...], client: str, now: float, affinity: int = 0, tried: Collection[Endpoint] = ()
    ) -> Endpoint | None:
        """The endpoint for a client's new connection, None when there is none. `affinity` in seconds, 0: none;
        `tried` have failed this connection already, and are taken again only when nothing else is left."""
        if not among:
            return None
        chosen = self.keep.find(among, client, now, affinity) if affinity and not tried else None
        if chosen is None:
            chosen = self._next(among, tried)
        if affinity:
            self.keep.put(client, chosen, now)
        return chosen

    def _next(self, among: tuple[Endpoint, ...], tried: Collection[Endpoint]) -> Endpoint:
        left = [place for place, each in enumerate(among) if each not in tried] or list(range(len(among)))
        if len({each.weight for each in among}) > 1:
            return among[self._weighed(among, left)]
        start = self._turn % len(among)
        place = next((place for place in left if place >= start), left[0])
        self._turn = place + 1
        return among[place]

    def _weighed(self, among: tuple[Endpoint, ...], left: list[int]) -> int:
        """Smooth weighted round robin: everybody is owed its weight a turn, and who is owed most pays for all."""
        owed = self._owed.setdefault(among, [0] * len(among))
        for place, each in enumerate(among):
            owed[place] += each.weight
        place = max(left, key=owed.__getitem__)
        owed[place] -= sum(each.weight for each in among)
        return place

    def forget(self) -> None:
        """The endpoints changed: what was owed to lists of before is void."""
        self._owed.clear()


class Entry:
    """One ServicePort, which changes, and its ring, which stays. `gone`: there is no such ServicePort any more."""

    def __init__(self, port: ServicePort, keep: Keep) -> None:
        self.port = port
        self.gone = False
        self.ring = Ring(keep, crc32(repr(identity(port)).encode()))
        self._segments: tuple[tuple[tuple[Network, ...], Segment], ...] = ()
        self.become(port)

    def become(self, port: ServicePort) -> None:
        """It is so from now on."""
        if port != self.port:
            self.ring.forget()
        self.port = port
        self._segments = tuple((tuple(map(ip_network, each.sources)), each) for each in port.segments)

    def pick(
        self, scope: Scope, inside: bool, client: str, now: float, tried: Collection[Endpoint] = ()
    ) -> Endpoint | None:
        """The endpoint for a client's new connection, see Ring.pick. A client that a segment names has no affinity."""
        affinity = self.port.affinity if self._whose(client) is self.port else 0
        return self.ring.pick(self.among(scope, inside, client), client, now, affinity, tried)

    def among(self, scope: Scope, inside: bool, client: str) -> tuple[Endpoint, ...]:
        """The endpoints for a client that came to an address of this scope; `inside`: a pod's or the node's own."""
        whose = self._whose(client)
        if scope == "cluster":
            return whose.internal
        return whose.cluster if inside else whose.external

    def _whose(self, client: str) -> ServicePort | Segment:
        if not self._segments:
            return self.port
        address = ip_address(client)
        return next((segment for networks, segment in self._segments if _within(address, networks)), self.port)


class Table:
    """From what a client meant to reach to the ServicePort that it belongs to; `keeping`: who is seen there."""

    def __init__(self) -> None:
        self.keeping = Keeping(Origins())
        self._entries: dict[Identity, Entry] = {}
        self._frontends: dict[Frontend, list[tuple[Entry, Scope]]] = {}
        self._keeps: WeakValueDictionary[str, Keep] = WeakValueDictionary()
        self._inside: tuple[Network, ...] = ()

    @property
    def entries(self) -> Collection[Entry]:
        """All there are."""
        return self._entries.values()

    def change(self, ports: Iterable[ServicePort], gone: Iterable[Identity], inside: Iterable[str]) -> None:
        """These are new or as they are now, those are gone; `inside` are the CIDRs of clients that count as the
        cluster's own."""
        self._inside = tuple(map(ip_network, inside))
        for name in gone:
            if entry := self._entries.pop(name, None):
                self._withdraw(entry)
                entry.gone = True
        for port in ports:
            self._put(port)

    def _put(self, port: ServicePort) -> None:
        name = identity(port)
        keep = self._keeps.setdefault(port.affinity_of or "/".join(map(str, name)), Keep())
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = Entry(port, keep)
        else:
            self._withdraw(entry)
            entry.become(port)
            entry.ring.keep = keep
        for key, scope in _frontends(port):
            self._frontends.setdefault(key, []).append((entry, scope))

    def _withdraw(self, entry: Entry) -> None:
        """Who else claims a frontend has it now."""
        for key, _ in _frontends(entry.port):
            left = [claim for claim in self._frontends.get(key, ()) if claim[0] is not entry]
            if left:
                self._frontends[key] = left
            else:
                self._frontends.pop(key, None)

    def expire(self, now: float) -> None:
        """Forget affinities that are over."""
        users: dict[int, list[Entry]] = {}
        for entry in self._entries.values():
            if entry.ring.keep:
                users.setdefault(id(entry.ring.keep), []).append(entry)
        for entries in users.values():
            addresses = {each.address for entry in entries for each in entry.port.endpoints}
            entries[0].ring.keep.expire(addresses, now, entries[0].port.affinity)

    def find(self, protocol: str, address: str, port: int) -> tuple[Entry, Scope] | None:
        """Whom an address and port belong to; any address at which a packet was led here is one of the node's."""
        at_node = (protocol, ANY[":" in address], port)
        claims = self._frontends.get((protocol, address, port)) or self._frontends.get(at_node)
        return claims[0] if claims else None

    def is_inside(self, client: str) -> bool:
        """Whether a client is of the cluster."""
        return _within(ip_address(client), self._inside)


def _frontends(port: ServicePort) -> Iterator[tuple[Frontend, Scope]]:
    for frontend in port.frontends:
        yield (port.protocol, frontend.address or ANY[port.v6], frontend.port), frontend.scope


def _within(address: IPv4Address | IPv6Address, networks: Iterable[Network]) -> bool:
    return any(network.version == address.version and address in network for network in networks)


def identity(port: ServicePort) -> Identity:
    """What makes it the same ServicePort after a change."""
    return (port.namespace, port.service, port.name, port.protocol, port.port, port.v6)
