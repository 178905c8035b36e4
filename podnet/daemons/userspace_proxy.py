"""The userspace proxy: accepts what network/proxy/userspace.py leads here, and connects it to an endpoint.

A process of its own, `podnet userspace-proxy`, so that an agent may be restarted or upgraded without cutting a
connection; it holds nothing but what it is told (proxy_feed.py) and the connections themselves. Each attempt to connect
goes to the next endpoint and waits longer: 250 ms, 500 ms, 1 s, 2 s; whom it seems to come from is in dialling.py. A
change of endpoints or Services only concerns connections that begin later. A client whose four attempts failed, or that
was not led here, gets a reset.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from contextlib import suppress

import msgspec

from podnet.daemons.dialling import dial
from podnet.daemons.listening import bound
from podnet.daemons.splicing import Pipes, Relay, reset
from podnet.daemons.stations import allow_many_files
from podnet.daemons.userspace_udp import Datagrams
from podnet.kernel.netlink import NETFILTER, Netlink
from podnet.kernel.original import of_stream
from podnet.network.proxy.balancing import TIMEOUTS, Entry, Table, identity
from podnet.network.proxy.origins import Keeping
from podnet.network.proxy.userspace import Orders
from podnet.network.service_port import Endpoint, Scope
from podnet.wire.conntrack import Place

log = logging.getLogger(__name__)

BACKLOG = 4096
TURNS = 64
"""Connections accepted at a time."""

SWEEP = 2.0
"""Seconds between looks for what is idle or over."""

PAUSE = 0.1
"""Seconds without accepting when there are no more descriptors."""


class ServiceStatus(msgspec.Struct, frozen=True):
    """What one ServicePort's connections are doing: how many lead to each endpoint, and who keeps to which."""

    label: str
    protocol: str
    v6: bool
    connections: dict[str, int]
    affinities: dict[str, str]


class Status(msgspec.Struct, frozen=True):
    """`attempts` counts failed ones; `given_up` connections for which all failed; `trouble` why it can't listen."""

    ports: int = 0
    connections: int = 0
    flows: int = 0
    accepted: int = 0
    attempts: int = 0
    given_up: int = 0
    refused: int = 0
    trouble: str = ""
    services: tuple[ServiceStatus, ...] = ()


class Proxy:
    """All listeners and connections of a node."""

    def __init__(self) -> None:
        """Call inside the event loop."""
        allow_many_files()
        self._places: set[tuple[str, int]] = set()
        self._table = Table()
        self._loop = asyncio.get_running_loop()
        self._pipes = Pipes()
        self._netlink = Netlink(NETFILTER)
        self._relays: dict[Relay, tuple[Entry, Endpoint]] = {}
        self._dialling: set[asyncio.Task[None]] = set()
        self._listeners: dict[tuple[str, int], tuple[socket.socket, Datagrams]] = {}
        self._counts: Counter[str] = Counter()
        self._trouble = ""

    def update(self, orders: Orders) -> None:
        """Do this from now on."""
        gone = set(orders.gone)
        if orders.whole:
            gone = {identity(entry.port) for entry in self._table.entries} - set(map(identity, orders.ports))
        self._table.change(orders.ports, gone, orders.inside)
        if orders.origins is not None:
            self._table.keeping = Keeping(orders.origins)
        self._places = {(address, orders.port) for address in orders.addresses}
        self._listen_everywhere()
        self._sweep()

    def _listen_everywhere(self) -> None:
        wanted = self._places
        self._trouble = ""
        for place in self._listeners.keys() - wanted:
            self._close(place)
        for place in sorted(wanted - self._listeners.keys()):
            try:
                self._listen(*place)
            except OSError as error:
                self._trouble = f"can't listen on {place[0]} port {place[1]}: {error.strerror}"
                log.error("%s", self._trouble)

    async def run(self) -> None:
        """Look after what ends by itself, for ever."""
        while True:
            await asyncio.sleep(SWEEP)
            self._table.expire(self._loop.time())
            self._sweep()
            if self._trouble:
                self._listen_everywhere()

    def status(self, details: bool = False) -> Status:
        """What it is doing; `details`: for each ServicePort too."""
        flows = [flow for _, datagrams in self._listeners.values() for flow in datagrams.flows.values()]
        return Status(
            ports=len(self._table.entries),
            connections=len(self._relays),
            flows=len(flows),
            accepted=self._counts["accepted"],
            attempts=self._counts["attempts"],
            given_up=self._counts["given up"],
            refused=self._counts["refused"],
            trouble=self._trouble,
            services=self._details([*self._relays.values(), *((flow.entry, flow.endpoint) for flow in flows)])
            if details
            else (),
        )

    def _details(self, live: list[tuple[Entry, Endpoint]]) -> tuple[ServiceStatus, ...]:
        counts: dict[int, Counter[str]] = {}
        for entry, endpoint in live:
            counts.setdefault(id(entry), Counter())[_text(endpoint)] += 1
        return tuple(
            ServiceStatus(
                entry.port.label,
                entry.port.protocol,
                entry.port.v6,
                dict(counts.get(id(entry), {})),
                {client: _text(endpoint) for client, endpoint in entry.ring.keep.endpoints.items()},
            )
            for entry in self._table.entries
        )

    def close(self) -> None:
        """Stop: every connection ends."""
        for task in self._dialling:
            task.cancel()
        for place in list(self._listeners):
            self._close(place)
        for relay in list(self._relays):
            relay.abort()
        self._pipes.close()
        self._netlink.close()

    def _listen(self, address: str, port: int) -> None:
        listener = bound(address, port, socket.SOCK_STREAM)
        try:
            listener.listen(BACKLOG)
            datagrams = Datagrams(self._table, address, port, self._loop.time)
        except OSError:
            listener.close()
            raise
        self._listeners[address, port] = listener, datagrams
        self._loop.add_reader(listener, self._accept, listener)

    def _close(self, place: tuple[str, int]) -> None:
        listener, datagrams = self._listeners.pop(place)
        self._loop.remove_reader(listener)
        listener.close()
        datagrams.close()

    def _sweep(self) -> None:
        for _, datagrams in self._listeners.values():
            datagrams.sweep()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(TURNS):
            try:
                client, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._pause(listener)
                    return
                continue  # the client went away again
            client.setblocking(False)
            self._counts["accepted"] += 1
            self._take(client, peer[:2])

    def _pause(self, listener: socket.socket) -> None:
        log.error("there are no more file descriptors for connections: raise the limit of open files")
        self._loop.remove_reader(listener)
        self._loop.call_later(PAUSE, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._accept, listener)

    def _take(self, client: socket.socket, peer: Place) -> None:
        meant = of_stream(client)
        found = self._table.find("tcp", *meant) if meant else None
        if found is None:
            self._counts["refused"] += 1
            _refuse(client)
            return
        task = self._loop.create_task(self._connect(client, peer, *found))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _connect(self, client: socket.socket, peer: Place, entry: Entry, scope: Scope) -> None:
        relay = None
        try:
            found = await self._dial(client, peer, entry, scope)
            if found is None:
                self._counts["given up"] += 1
                return
            server, endpoint = found
            try:
                relay = Relay(self._pipes, client, server, self._ended)
                self._relays[relay] = entry, endpoint
            except OSError:  # the client reset it meanwhile
                server.close()
        finally:
            if relay is None:
                _refuse(client)

    def _ended(self, relay: Relay) -> None:
        self._relays.pop(relay, None)

    async def _dial(
        self, client: socket.socket, peer: Place, entry: Entry, scope: Scope
    ) -> tuple[socket.socket, Endpoint] | None:
        """A connection to the first endpoint that takes one."""
        inside, local = self._table.is_inside(peer[0]), client.getsockname()[0]
        tried: list[Endpoint] = []
        for seconds in TIMEOUTS:
            endpoint = entry.pick(scope, inside, peer[0], self._loop.time(), tried)
            if endpoint is None:
                return None
            keeps = self._table.keeping.keeps(entry.port, scope, peer[0], endpoint)
            with suppress(OSError):
                return await self._try(endpoint, seconds, local, peer if keeps else None), endpoint
            self._counts["attempts"] += 1
            tried.append(endpoint)
        return None

    async def _try(self, endpoint: Endpoint, seconds: float, local: str, shown: Place | None) -> socket.socket:
        server = dial(self._netlink, socket.SOCK_STREAM, endpoint, local, shown)
        try:
            async with asyncio.timeout(seconds):
                await self._loop.sock_connect(server, (endpoint.address, endpoint.port))
        except TimeoutError:
            if not _connected(server):  # it may be only we who were late to look
                server.close()
                raise
        except BaseException:
            server.close()
            raise
        return server


def _connected(made: socket.socket) -> bool:
    try:
        made.getpeername()
    except OSError:
        return False
    return True


def _refuse(client: socket.socket) -> None:
    reset(client)
    client.close()


def _text(endpoint: Endpoint) -> str:
    return f"[{endpoint.address}]:{endpoint.port}" if ":" in endpoint.address else f"{endpoint.address}:{endpoint.port}"
