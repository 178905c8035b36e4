"""Proves the network model with real packets, once: every pair of endpoints, every address family.

For each pair, at the same time, from sockets in the source's namespace to sockets in the target's (stations.py):
tcp connects and exchanges bytes; udp sends one small packet and then one as big as both ends' links take, which may not
be fragmented on its way. And every pod's 127.0.0.1 must be one and the same for all its containers. What both ends saw
goes to network/reach.py, which knows what it should have been. `watch.py` keeps probing.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Self

import msgspec

from podnet.daemons.stations import (
    HEADER,
    Spaces,
    Station,
    allow_many_files,
    errno_name,
    make_socket,
    nonce,
    open_station,
    path_mtu,
)
from podnet.kernel.netns import NoNamespace
from podnet.network.reach import (
    Endpoint,
    Failure,
    Measured,
    Pair,
    Report,
    Seen,
    judge,
    localhosts,
    pairs,
    report,
    unopened,
)
from podnet.network.view import is_v6

Judged = tuple[Pair, Failure | None]

TIMEOUT = 1.0
"""Seconds an answer may take."""

BATCH, AT_ONCE = 32, 4
"""Pairs whose sockets are opened in one visit, and such batches under way at the same time."""

BIGGEST = 65535
"""Bytes of an IP packet, whatever a link like lo takes."""

LOCALHOST = "127.0.0.1"
_SMALL = 64
_IP_AND_UDP = {False: 28, True: 48}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # leaves no TIME_WAIT behind in a pod


class Prober:
    """One run of probes. Use as a context: leaving it closes every socket."""

    def __init__(self, tell: Callable[[int, int], None] = lambda done, of: None) -> None:
        """`tell` hears how many pairs are done of how many, now and then."""
        allow_many_files()
        self._tell = tell
        self._spaces = Spaces()
        self._nonce = nonce()
        self._numbers = itertools.count(1)
        self._stations: dict[str, Station] = {}
        self._arrived: dict[int, Seen] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for station in self._stations.values():
            station.close()
        self._spaces.close()

    async def check(self, endpoints: Sequence[Endpoint]) -> Report:
        """Probe every pair once."""
        start = time.monotonic()
        errors = {each.key: await self._open(each) for each in endpoints}
        judged: list[Judged] = [_unopened(each, errors[each.key]) for each in endpoints if errors[each.key]]
        answering = [each for each in endpoints if not errors[each.key]]
        slots = asyncio.Semaphore(AT_ONCE)
        batches = list(_batches(pairs(answering)))
        self._done, self._all = 0, sum(len(batch) for _, batch in batches)
        jobs = [self._from(source, batch, slots) for source, batch in batches]
        jobs += [self._localhost(each, slots) for each in answering if each.kind == "pod"]
        for done in await asyncio.gather(*jobs):
            judged += done
        return report(endpoints, judged, time.monotonic() - start)

    async def _open(self, endpoint: Endpoint) -> str:
        """Make the endpoint answer; returns why it can't, or ""."""
        try:
            self._stations[endpoint.key] = await open_station(self._spaces, endpoint, self._nonce, self._note)
        except (OSError, NoNamespace) as error:
            return errno_name(error)
        return ""

    def _note(self, number: int, seen: Seen) -> None:
        self._arrived[number] = seen

    async def _from(self, source: Endpoint, batch: Sequence[Pair], slots: asyncio.Semaphore) -> list[Judged]:
        """Probe some pairs of one source."""
        async with slots:
            sockets = await self._spaces.visit(source.netns, lambda: [_clients(pair.address) for pair in batch])
            jobs = [self._pair(pair, *opened) for pair, opened in zip(batch, sockets, strict=True)]
            found = [judged for done in await asyncio.gather(*jobs) for judged in done]
        self._done += len(batch)
        self._tell(self._done, self._all)
        return found

    async def _pair(self, pair: Pair, tcp: socket.socket, udp: socket.socket) -> list[Judged]:
        with tcp, udp:
            station = self._stations[pair.target.key]
            both = await asyncio.gather(self._tcp(pair, tcp, station), self._datagrams(pair, udp, station))
            return [(pair, judge(pair, measured)) for measured in (both[0], *both[1])]

    async def _localhost(self, pod: Endpoint, slots: asyncio.Semaphore) -> list[Judged]:
        """From each container of a pod to a listener at its localhost; a container that just ended is none."""
        alone, pair = msgspec.structs.replace(pod, addresses=(LOCALHOST,)), Pair(pod, pod, LOCALHOST)
        judged: list[Judged] = []
        async with slots:
            try:
                station = await open_station(self._spaces, alone, self._nonce, self._note)
            except (OSError, NoNamespace) as error:
                return [(pair, judge(pair, Measured("localhost", error=errno_name(error))))]
            for _, netns in localhosts(pod):
                with suppress(NoNamespace):
                    judged.append(await self._from_container(pair, netns, station))
            station.close()
        return judged

    async def _from_container(self, pair: Pair, netns: str, station: Station) -> Judged:
        with await self._spaces.visit(netns, lambda: make_socket(LOCALHOST, socket.SOCK_STREAM)) as client:
            measured = await self._tcp(pair, client, station)
        return pair, judge(pair, msgspec.structs.replace(measured, probe="localhost"))

    async def _tcp(self, pair: Pair, client: socket.socket, station: Station) -> Measured:
        async def exchange(data: bytes) -> None:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, station.tcp[pair.address])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            await loop.sock_sendall(client, data)
            if not await loop.sock_recv(client, len(data)):
                raise ConnectionResetError(errno.ECONNRESET, "closed")

        return await self._measure("tcp", client, _SMALL, exchange)

    async def _datagrams(self, pair: Pair, client: socket.socket, station: Station) -> list[Measured]:
        """A small one, and if that comes back, one as big as both ends can take."""

        async def exchange(data: bytes) -> None:
            client.connect(station.udp[pair.address])
            client.send(data)
            while (await asyncio.get_running_loop().sock_recv(client, 65536))[: HEADER.size] != data[: HEADER.size]:
                pass  # a late answer to the one before

        small = await self._measure("udp", client, _SMALL, exchange)
        if small.error:
            return [small]
        ends = (self._stations[pair.source.key].mtu, station.mtu)
        mtu = min(min(filter(None, ends), default=0) or path_mtu(client), BIGGEST)
        big = await self._measure("mtu", client, mtu - _IP_AND_UDP[is_v6(pair.address)], exchange)
        return [small, msgspec.structs.replace(big, size=mtu, path_mtu=path_mtu(client))]

    async def _measure(
        self, probe: str, client: socket.socket, size: int, exchange: Callable[[bytes], Awaitable[None]]
    ) -> Measured:
        number, error = next(self._numbers), ""
        try:
            async with asyncio.timeout(TIMEOUT):
                await exchange(HEADER.pack(self._nonce, number).ljust(size, b"."))
        except TimeoutError:
            error = "timeout"
        except OSError as failed:
            error = errno_name(failed)
        host, port, *_ = client.getsockname()
        return Measured(probe, (host, port), self._arrived.pop(number, None), error)


def _clients(address: str) -> tuple[socket.socket, socket.socket]:
    return make_socket(address, socket.SOCK_STREAM), make_socket(address, socket.SOCK_DGRAM)


def _unopened(endpoint: Endpoint, error: str) -> Judged:
    return Pair(endpoint, endpoint, ""), unopened(endpoint, error)


def _batches(every: Iterable[Pair]) -> Iterator[tuple[Endpoint, list[Pair]]]:
    """Pairs of one source, at most BATCH together."""
    for _, same in itertools.groupby(every, key=lambda pair: pair.source.key):
        while batch := list(itertools.islice(same, BATCH)):
            yield batch[0].source, batch
