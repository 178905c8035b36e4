"""Which endpoint the userspace proxy tries next: round robin, a client's own endpoint, and another after a failure.

An attempt to connect that fails takes the next endpoint, not the same again, and the client's affinity moves with it.
Time is an argument in seconds; what is remembered here is only turns and affinities, so losing it costs fairness,
never a connection. Source: kubernetes pkg/proxy/userspace/{proxysocket,roundrobin}.go (up to 1.25).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from podnet.network.proxy.model import Endpoint, Scope, ServicePort

TIMEOUTS = (0.25, 0.5, 1.0, 2.0)
"""Seconds that each attempt to connect may take."""

Identity = tuple[str, str, str, str, int, bool]
Frontend = tuple[str, str, int]
"""protocol, address ("": any of the node's), port"""


class Ring:
    """The turns and affinities of one ServicePort."""

    def __init__(self) -> None:
        self._turn = 0
        self._kept: dict[str, tuple[Endpoint, float]] = {}

    @property
    def affinities(self) -> dict[str, Endpoint]:
        """The endpoint of each client that has one."""
        return {client: endpoint for client, (endpoint, _) in self._kept.items()}

    def pick(
        self, among: tuple[Endpoint, ...], client: str, now: float, affinity: int = 0, tried: Collection[Endpoint] = ()
    ) -> Endpoint | None:
        """The endpoint for a client's new connection, None when there is none. `affinity` in seconds, 0: none;
        `tried` have failed this connection already, and are taken again only when nothing else is left."""
        if not among:
            return None
        chosen = None if tried else self._own(among, client, now, affinity)
        if chosen is None:
            chosen = self._next(among, tried)
        if affinity:
            self._kept[client] = (chosen, now)
        return chosen

    def _own(self, among: tuple[Endpoint, ...], client: str, now: float, affinity: int) -> Endpoint | None:
        endpoint, used = self._kept.get(client, (None, 0.0))
        return endpoint if endpoint in among and now - used < affinity else None

    def _next(self, among: tuple[Endpoint, ...], tried: Collection[Endpoint]) -> Endpoint:
        start = self._turn % len(among)
        order = (*range(start, len(among)), *range(start))
        place = next((place for place in order if among[place] not in tried), start)
        self._turn = place + 1
        return among[place]

    def expire(self, among: Collection[Endpoint], now: float, affinity: int) -> None:
        """Forget affinities that are over, and those to endpoints that are gone."""
        over = [client for client, (end, used) in self._kept.items() if now - used >= affinity or end not in among]
        for client in over:
            del self._kept[client]


class Entry:
    """One ServicePort, which changes, and its ring, which stays."""

    def __init__(self, port: ServicePort) -> None:
        self.port = port
        self.ring = Ring()

    def among(self, scope: Scope, inside: bool) -> tuple[Endpoint, ...]:
        """The endpoints for a client that came to an address of this scope; `inside`: a pod's or the node's own."""
        if scope == "cluster":
            return self.port.internal
        return self.port.cluster if inside else self.port.external


class Table:
    """From what a client meant to reach to the ServicePort that it belongs to."""

    def __init__(self) -> None:
        self._entries: dict[Identity, Entry] = {}
        self._frontends: dict[Frontend, tuple[Entry, Scope]] = {}
        self._inside: tuple[IPv4Network | IPv6Network, ...] = ()

    @property
    def entries(self) -> Iterator[Entry]:
        """All there are."""
        return iter(self._entries.values())

    def update(self, ports: Iterable[ServicePort], inside: Iterable[str], now: float) -> None:
        """What there is from now on, all of it; `inside` are the CIDRs of clients that count as the cluster's own."""
        before, self._entries, self._frontends = self._entries, {}, {}
        self._inside = tuple(map(ip_network, inside))
        for port in ports:
            entry = before.get(identity(port)) or Entry(port)
            entry.port = port
            entry.ring.expire(port.endpoints, now, port.affinity)
            self._entries[identity(port)] = entry
            for frontend in port.frontends:
                key = (port.protocol, frontend.address, frontend.port)
                self._frontends.setdefault(key, (entry, frontend.scope))

    def expire(self, now: float) -> None:
        """Forget affinities that are over."""
        for entry in self._entries.values():
            entry.ring.expire(entry.port.endpoints, now, entry.port.affinity)

    def find(self, protocol: str, address: str, port: int) -> tuple[Entry, Scope] | None:
        """Whom an address and port belong to; any address at which a packet was led here is one of the node's."""
        return self._frontends.get((protocol, address, port)) or self._frontends.get((protocol, "", port))

    def is_inside(self, client: str) -> bool:
        """Whether a client is of the cluster."""
        address = ip_address(client)
        return any(address in network for network in self._inside if network.version == address.version)


def identity(port: ServicePort) -> Identity:
    """What makes it the same ServicePort after a change."""
    return (port.namespace, port.service, port.name, port.protocol, port.port, port.v6)
