"""The userspace proxy's datagrams: one socket towards the endpoint for each client.

A client's datagrams arrive all at one socket; the first one of a client asks connection tracking where it was going,
picks the endpoint and is sent on in the same moment, so nothing is lost while a flow begins. A flow ends after IDLE
seconds without a datagram: sooner than the kernel forgets it, since afterwards the same address and port could mean
another Service. A flow whose endpoint is gone, or refuses, begins anew with the next datagram.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from podnet.daemons.dialling import dial
from podnet.daemons.listening import bound
from podnet.kernel.netlink import NETFILTER, Netlink, NetlinkError, enlarge
from podnet.kernel.original import of_datagram
from podnet.network.proxy.balancing import Entry, Table
from podnet.network.service_port import Endpoint, Scope

IDLE = 20.0
"""Seconds; at most two thirds of what the kernel keeps a UDP flow for."""

TURNS = 64
"""Datagrams taken at a time."""

_BUFFER = 4 << 20
_TIMEOUT = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"

Peer = tuple[str, int] | tuple[str, int, int, int]


class Flow:
    """One client's datagrams to one frontend; `made` is the socket towards the endpoint."""

    def __init__(
        self, entry: Entry, scope: Scope, inside: bool, client: Peer, endpoint: Endpoint, made: socket.socket
    ) -> None:
        self.entry, self.scope, self.inside, self.client, self.endpoint = entry, scope, inside, client, endpoint
        self.used = 0.0
        self.socket = made

    @property
    def holds(self) -> bool:
        """Whether the endpoint is still one for this client, whatever its share is now."""
        there, mine = self.entry.among(self.scope, self.inside, self.client[0]), self.endpoint
        return not self.entry.gone and any((each.address, each.port) == (mine.address, mine.port) for each in there)


class Datagrams:
    """What one local address receives."""

    def __init__(self, table: Table, address: str, port: int, clock: Callable[[], float]) -> None:
        """Raises OSError when the port is taken."""
        self.flows: dict[Peer, Flow] = {}
        self._table = table
        self._local = (address, port)
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(65536)
        self._failed: dict[Peer, set[Endpoint]] = {}
        self._socket = bound(address, port, socket.SOCK_DGRAM)
        enlarge(self._socket, _BUFFER)
        self._netlink = Netlink(NETFILTER)
        self._loop.add_reader(self._socket, self._receive)

    def _receive(self) -> None:
        for _ in range(TURNS):
            try:
                size, client = self._socket.recvfrom_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error about an earlier answer: the client is gone
                continue
            self._forward(client, memoryview(self._buffer)[:size])

    def _forward(self, client: Peer, data: memoryview) -> None:
        flow = self.flows.get(client) or self._begin(client)
        if flow is None:
            return
        flow.used = self._clock()
        try:
            flow.socket.send(data)
        except BlockingIOError:
            return
        except OSError:
            self._fail(flow)
            again = self._begin(client)  # an ICMP error about an earlier datagram: this one was not sent
            if again is not None:
                with suppress(OSError):
                    again.socket.send(data)

    def _begin(self, client: Peer) -> Flow | None:
        meant = self._meant(client)
        found = self._table.find("udp", *meant) if meant else None
        if found is None:
            return None
        entry, scope = found
        inside, now = self._table.is_inside(client[0]), self._clock()
        tried = self._failed.get(client, set())
        endpoint = entry.pick(scope, inside, client[0], now, tried)
        if endpoint is None:
            return None
        keeps = self._table.keeping.keeps(entry.port, scope, client[0], endpoint)
        try:
            made = dial(self._netlink, socket.SOCK_DGRAM, endpoint, self._local[0], client[:2] if keeps else None)
        except OSError:
            return None
        flow = Flow(entry, scope, inside, client, endpoint, made)
        flow.used = now
        self.flows[client] = flow
        self._loop.add_reader(flow.socket, self._answer, flow)
        return flow

    def _meant(self, client: Peer) -> tuple[str, int] | None:
        with suppress(NetlinkError):
            return of_datagram(self._netlink, self._local, client[:2])
        return None

    def _answer(self, flow: Flow) -> None:
        for _ in range(TURNS):
            try:
                size = flow.socket.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                self._fail(flow)
                return
            flow.used = self._clock()
            self._failed.pop(flow.client, None)
            with suppress(OSError):
                self._socket.sendto(memoryview(self._buffer)[:size], flow.client)

    def _fail(self, flow: Flow) -> None:
        """The endpoint refuses: the client's next datagram goes to another."""
        self._failed.setdefault(flow.client, set()).add(flow.endpoint)
        self._end(flow)

    def _end(self, flow: Flow) -> None:
        if self.flows.get(flow.client) is flow:
            del self.flows[flow.client]
        self._loop.remove_reader(flow.socket)
        flow.socket.close()

    def sweep(self) -> None:
        """End flows that are idle, or lead to what is gone."""
        oldest = self._clock() - idle()
        for flow in list(self.flows.values()):
            if flow.used < oldest or not flow.holds:
                self._end(flow)
        self._failed = {client: ends for client, ends in self._failed.items() if client in self.flows}

    def close(self) -> None:
        """End all."""
        for flow in list(self.flows.values()):
            self._end(flow)
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._netlink.close()


def idle() -> float:
    """Seconds after which a flow ends here, before it does in the kernel."""
    try:
        with open(_TIMEOUT, encoding="ascii") as file:
            return min(IDLE, int(file.read()) * 2 / 3)
    except (OSError, ValueError):
        return IDLE
