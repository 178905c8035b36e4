"""Long-lived TCP connections of a watch: established flows, which a change may cut while new ones already pass.

Each carries a small message and its echo once a second. A stream that is reset, or silent for SILENCE seconds, is
broken; it counts once a later listing shows that both its ends still exist, and is then opened anew.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence

from podnet.daemons.stations import HEADER, Address, errno_name
from podnet.network.reach import Failure, Pair, failure, path

AT_MOST = 64
EVERY = 1.0
SILENCE = 15.0

Dial = Callable[[Pair], Awaitable[tuple[socket.socket, Address]]]


class Streams:
    """At most AT_MOST streams, spread evenly over the pairs. `dial` makes a client socket in the source's namespace."""

    def __init__(self, dial: Dial, nonce: bytes, clock: Callable[[], float]) -> None:
        self.broken: list[Failure] = []
        self._longest = 0.0
        self._asked: dict[tuple[str, str, str], float] = {}
        self._dial = dial
        self._message = HEADER.pack(nonce, 0)
        self._clock = clock
        self._tasks: dict[tuple[str, str, str], asyncio.Task[None]] = {}
        self._suspects: list[tuple[float, Pair, str]] = []

    @property
    def longest(self) -> float:
        """Seconds of the slowest echo, or of one that is still to come: a silence that outlasts the watch counts."""
        waiting = (self._clock() - began for key, began in self._asked.items() if key in self._tasks)
        return max(self._longest, *waiting, 0.0)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._tasks)

    def expect(self, pairs: Sequence[Pair], listed: float) -> None:
        """These pairs exist in a listing that began at `listed`."""
        present = {pair.key for pair in pairs}
        wanted = {pair.key: pair for pair in _spread(pairs)}
        for key in [key for key in self._tasks if key not in present]:
            self._tasks.pop(key).cancel()
        self._judge(present, listed)
        for key, pair in wanted.items():
            if key not in self._tasks and len(self._tasks) < AT_MOST:
                self._tasks[key] = asyncio.create_task(self._run(pair))

    def _judge(self, present: set[tuple[str, str, str]], listed: float) -> None:
        waiting, self._suspects = self._suspects, []
        for when, pair, why in waiting:
            if pair.key not in present:
                continue
            if when >= listed:
                self._suspects.append((when, pair, why))
                continue
            look = path(pair.source.node, pair.target.node)
            self.broken.append(failure(pair, "stream", why, look))
            self._tasks.pop(pair.key, None)

    async def close(self) -> None:
        """End all of them."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _run(self, pair: Pair) -> None:
        try:
            client, address = await self._dial(pair)
            with client:
                await self._exchange(pair, client, address)
        except OSError as error:
            why = f"a TCP connection was cut: {errno_name(error)}"
            self._suspects.append((self._clock(), pair, why))
        finally:
            self._asked.pop(pair.key, None)

    async def _exchange(self, pair: Pair, client: socket.socket, address: Address) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(SILENCE):
            await loop.sock_connect(client, address)
        while True:
            began = self._asked[pair.key] = self._clock()
            await loop.sock_sendall(client, self._message)
            async with asyncio.timeout(SILENCE):
                if not await loop.sock_recv(client, len(self._message)):
                    raise ConnectionResetError(104, "closed")
            del self._asked[pair.key]
            self._longest = max(self._longest, self._clock() - began)
            await asyncio.sleep(EVERY)


def _spread(pairs: Sequence[Pair]) -> Iterable[Pair]:
    step = -(-len(pairs) // AT_MOST) or 1
    return pairs[::step]
