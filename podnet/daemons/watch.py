"""Keeps probing: numbered UDP echoes over all pairs in turn, at a steady total rate, and some long-lived TCP streams.

What is measured is the network, not this program: the clock stands still while the loop does, so a probe is given up
only after a second in which its answer could have been read. Source ports change every ROTATE seconds, so both old
flows and new ones are seen. The pods are listed anew twice a second: new ones are taken in, vanished ones left out.
The counting itself is network/losses.py.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

from podnet.daemons.stations import (
    HEADER,
    Address,
    Spaces,
    Station,
    allow_many_files,
    bound,
    errno_name,
    make_socket,
    nonce,
    open_station,
)
from podnet.daemons.streams import Streams
from podnet.kernel.netns import NoNamespace
from podnet.network.losses import PATIENCE, Burst, Losses
from podnet.network.reach import Endpoint, Failure, Pair, pairs, unopened
from podnet.network.value import Value
from podnet.network.view import is_v6

TICK = 0.005
"""Seconds between two lots of probes."""

STALL = 0.05
"""The most that the clock advances at once: what is beyond was spent by this program or the machine."""

LISTING = 0.5
ROTATE = 10.0
OPENING = 3.0
"""Seconds a listed endpoint may take until its addresses are there."""

List = Callable[[], Awaitable[Sequence[Endpoint]]]
ANY = {False: "0.0.0.0", True: "::"}


class Interval(Value, frozen=True):
    """What became known in the last second of a watch; times of bursts are seconds since its start."""

    sent: int
    lost: int
    endpoints: int
    bursts: tuple[Burst, ...]


class Watched(Value, frozen=True):
    """A whole watch; `longest_gap` and `longest_stall` (of a TCP echo) in seconds."""

    sent: int
    lost: int
    longest_gap: float
    longest_stall: float
    streams: int
    failed: tuple[Failure, ...]
    bursts: tuple[Burst, ...]


class Lane:
    """The sending end of one endpoint for one family, at a port of its own."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.port: int = opened.getsockname()[1]


class Watch:
    """One watch. `listing` gives the endpoints there are now, `told` hears once a second what happened."""

    def __init__(self, rate: float, listing: List, told: Callable[[Interval], None]) -> None:
        allow_many_files()
        self.now = 0.0
        """Seconds during which this program was awake."""
        self._until = math.inf
        self._rate = rate
        self._listing = listing
        self._told = told
        self._spaces = Spaces()
        self._nonce = nonce()
        self._numbers = itertools.count(1)
        self._losses = Losses()
        self._streams = Streams(self._dial, self._nonce, lambda: self.now)
        self._stations: dict[str, Station] = {}
        self._lanes: dict[tuple[str, bool], Lane] = {}
        self._retired: list[Lane] = []
        self._late: dict[str, tuple[float, Failure]] = {}
        self._pairs: list[Pair] = []
        self._turns: Iterator[Pair] = iter(())
        self._bursts: list[Burst] = []

    async def run(self, duration: float | None, stop: asyncio.Event) -> Watched:
        """Watch for so many seconds (None: for ever), or until `stop` is set."""
        try:
            await self._list()
            async with asyncio.TaskGroup() as group:
                clock = group.create_task(self._tick())
                others = [group.create_task(job) for job in (self._list_often(), self._rotate(), self._tell())]
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), duration)
                ended, self._turns = self.now, iter(())
                for each in others:
                    each.cancel()
                self._until = ended + PATIENCE
                await clock
                await self._list()
            return self._outcome(ended)
        finally:
            await self._streams.close()
            for key in list(self._stations):
                self._leave(key)
            while self._retired:
                self._bury()
            self._spaces.close()

    def _outcome(self, ended: float) -> Watched:
        losses, streams = self._losses, self._streams
        self._bursts += losses.finish(ended)
        late = [failure for since, failure in self._late.values() if self.now - since >= OPENING]
        return Watched(
            sent=losses.sent,
            lost=losses.lost,
            longest_gap=losses.longest,
            longest_stall=streams.longest,
            streams=streams.count,
            failed=(*late, *losses.failures(), *streams.broken),
            bursts=tuple(self._bursts),
        )

    # -- sending and receiving

    async def _tick(self) -> None:
        loop, count = asyncio.get_running_loop(), 0
        before = loop.time()
        while self.now < self._until:
            await asyncio.sleep(TICK)
            after = loop.time()
            self.now += min(after - before, STALL)
            before = after
            due = int(self.now * self._rate)
            for pair in itertools.islice(self._turns, due - count):
                self._send(pair)
            count = due

    def _send(self, pair: Pair) -> None:
        lane, number, error = self._lanes[pair.source.key, is_v6(pair.address)], next(self._numbers), ""
        try:
            to = self._stations[pair.target.key].udp[pair.address]
            lane.socket.sendto(HEADER.pack(self._nonce, number), to)
        except OSError as failed:
            error = errno_name(failed)
        self._losses.send(number, pair, lane.port, self.now, error)

    def _receive(self, opened: socket.socket) -> None:
        with suppress(OSError):
            while True:
                nonce_, number = HEADER.unpack_from(opened.recv(65536).ljust(HEADER.size))
                if nonce_ == self._nonce:
                    self._losses.answered(number)

    async def _dial(self, pair: Pair) -> tuple[socket.socket, Address]:
        client = await self._visit(pair.source.netns, lambda: make_socket(pair.address, socket.SOCK_STREAM))
        return client, self._stations[pair.target.key].tcp[pair.address]

    # -- who there is

    async def _list_often(self) -> None:
        while True:
            await asyncio.sleep(LISTING)
            await self._list()

    async def _list(self) -> None:
        """Take in what is new, leave out what is gone, and settle what that decides."""
        began, first = self.now, not self._stations
        present = {endpoint.key: endpoint for endpoint in await self._listing()}
        for key in [key for key, made in self._stations.items() if not _same(made.endpoint, present.get(key))]:
            self._leave(key)
        self._expect(proven=False)
        for endpoint in [endpoint for key, endpoint in present.items() if key not in self._stations]:
            await self._join(endpoint)
        self._late = {key: value for key, value in self._late.items() if key in present}
        self._expect(proven=first)
        self._streams.expect(self._pairs, began)
        self._bursts += self._losses.settle(self.now, began)

    def _expect(self, proven: bool) -> None:
        now = list(pairs([station.endpoint for station in self._stations.values()]))
        if now != self._pairs:
            self._pairs, self._turns = now, itertools.cycle(now)
            self._losses.expect(now, self.now, proven)

    async def _join(self, endpoint: Endpoint) -> None:
        try:
            station = await open_station(self._spaces, endpoint, self._nonce, self._losses.arrived)
            for v6 in {is_v6(address) for address in endpoint.addresses}:
                await self._open_lane(endpoint, v6)
        except (OSError, NoNamespace) as error:
            since = self._late.get(endpoint.key, (self.now,))[0]
            self._late[endpoint.key] = since, unopened(endpoint, errno_name(error))
            return
        self._late.pop(endpoint.key, None)
        self._stations[endpoint.key] = station

    def _leave(self, key: str) -> None:
        self._stations.pop(key).close()
        for v6 in (False, True):
            if lane := self._lanes.pop((key, v6), None):
                _close(lane)

    async def _open_lane(self, endpoint: Endpoint, v6: bool) -> None:
        lane = Lane(await self._visit(endpoint.netns, lambda: bound(ANY[v6], socket.SOCK_DGRAM)))
        asyncio.get_running_loop().add_reader(lane.socket, self._receive, lane.socket)
        self._lanes[endpoint.key, v6] = lane

    async def _rotate(self) -> None:
        """Exchange the sending sockets; the old ones stay open for the answers still under way."""
        while True:
            await asyncio.sleep(ROTATE)
            for (key, v6), old in list(self._lanes.items()):
                if station := self._stations.get(key):
                    with suppress(NoNamespace):
                        await self._open_lane(station.endpoint, v6)
                        self._retired.append(old)
                        asyncio.get_running_loop().call_later(2 * PATIENCE, self._bury)

    def _bury(self) -> None:
        """Close the sending socket that was exchanged first."""
        if self._retired:
            _close(self._retired.pop(0))

    async def _visit(self, netns: str, make: Callable[[], socket.socket]) -> socket.socket:
        return await self._spaces.visit(netns, make)

    async def _tell(self) -> None:
        sent = lost = told = 0
        while True:
            await asyncio.sleep(1.0)
            losses, bursts = self._losses, tuple(self._bursts[told:])
            self._told(Interval(losses.sent - sent, losses.lost - lost, len(self._stations), bursts))
            sent, lost, told = losses.sent, losses.lost, len(self._bursts)


def _close(lane: Lane) -> None:
    asyncio.get_running_loop().remove_reader(lane.socket)
    lane.socket.close()


def _same(one: Endpoint, other: Endpoint | None) -> bool:
    return other is not None and (one.netns, one.addresses) == (other.netns, other.addresses)
