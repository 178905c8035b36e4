"""Answers leave a cache when they become wrong, not when their time is over.

Who knows that a name came to be, means something else or is gone says so, and what the answer has to be (`add`). The
cache is asked for it, as a pod would ask: if it still says otherwise, it is cleared and asked again, 20 ms later, then
after twice as long each time, for 30 s; by then what it remembers is over anyway. Clearing concerns the whole cache, so
one serves all names that need it at the moment, and a cache that never heard of a name, or is right already, is left
alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from podnet.network.dns.records import Expected

Name = tuple[str, str]
"""A fully qualified name and the type of a record, as ("web.demo.svc.cluster.local", "A")."""

Ask = Callable[[str, str, Expected], Awaitable[bool | None]]
"""Whether the cache answers just that for the name and the type; None when it didn't say."""

FIRST, PATIENCE = 0.02, 30.0
"""Seconds: between clearing the cache and asking it again at first, and after which a name is given up."""

ANSWER = 0.25
"""Seconds for an answer, lest one that does not come holds up the others."""

AT_ONCE = 64
"""Questions under way at a time."""

MOST = 20_000
"""Names at a time; if there are more, the cache is cleared without asking."""


class _Pending:
    def __init__(self, expected: Expected, now: float) -> None:
        self.expected = expected
        self.since = self.due = now
        self.wait = FIRST


class Purging:
    """See the module.

    ask     must not raise; is cancelled when it takes long
    clear   empties the cache
    now     the time in seconds, monotonic
    """

    def __init__(self, ask: Ask, clear: Callable[[], None], now: Callable[[], float]) -> None:
        self.purged = self.cleared = self.given_up = 0
        """Names that the cache answers as it should since; how often it was cleared; names given up."""
        self._ask = ask
        self._clear = clear
        self._now = now
        self._pending: dict[Name, _Pending] = {}
        self._woken = asyncio.Event()

    def __len__(self) -> int:
        """Names that are seen to."""
        return len(self._pending)

    def add(self, words: Iterable[tuple[str, str, Expected]]) -> None:
        """Of these names and types the answer is now this; of each the last word counts."""
        now = self._now()
        self._pending.update(((name, type_), _Pending(expected, now)) for name, type_, expected in words)
        if len(self._pending) > MOST:
            self._pending.clear()
            self._clear_now()
        self._woken.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            wait = await self.step()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            self._woken.clear()

    async def step(self) -> float | None:
        """See to what is due; returns in how many seconds something is again, None when nothing is left."""
        now = self._now()
        asked = {name: pending for name, pending in self._pending.items() if pending.due <= now}
        limit = asyncio.Semaphore(AT_ONCE)

        async def ask(name: Name, expected: Expected) -> bool | None:
            async with limit:
                with suppress(TimeoutError):
                    async with asyncio.timeout(ANSWER):
                        return await self._ask(*name, expected)
                return None

        answers = await asyncio.gather(*(ask(name, pending.expected) for name, pending in asked.items()))
        wrong = False
        for (name, pending), right in zip(asked.items(), answers, strict=True):
            if self._pending.get(name) is pending:  # else there was another word of it meanwhile
                wrong |= self._take(name, pending, right)
        if wrong:
            self._clear_now()
        return min((max(each.due - self._now(), 0.0) for each in self._pending.values()), default=None)

    def _take(self, name: Name, pending: _Pending, right: bool | None) -> bool:
        """Whether the cache has to be cleared because of this answer."""
        now = self._now()
        if right or now - pending.since >= PATIENCE:
            self.purged += bool(right)
            self.given_up += not right
            del self._pending[name]
            return False
        pending.due = now + pending.wait
        pending.wait *= 2
        return right is False

    def _clear_now(self) -> None:
        self.cleared += 1
        self._clear()
