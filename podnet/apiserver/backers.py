"""The endpoints of Services, written as pods come, go and change their readiness.

Every event goes into the index (network/controllers/backing.py), which names the Services it concerns. They are looked
at a few at a time, the newest news first, so that a pod that becomes ready need not wait for the ten thousand Services
of a server that just started; and some of the oldest each time, so that none waits for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import chain, islice

from podnet.apiserver.hands import Hands
from podnet.apiserver.mirrors import Mirrors
from podnet.network.controllers import endpoints, endpointslices, mirroring
from podnet.network.controllers.actions import Action
from podnet.network.controllers.backing import Backings
from podnet.objects.cluster import Key

BURST_SECONDS = 0.004  # the pods of one Service often become ready together
SHARE = 9  # deciding takes at most a tenth of the time
SOME = 8  # so many of the newest and so many of the oldest are looked at together
RETRY_SECONDS = 5.0


class Backers:
    """Keeps EndpointSlices and Endpoints as the mirrors say."""

    def __init__(self, mirrors: Mirrors, hands: Hands) -> None:
        self._backings = Backings()
        self._complete = mirrors.complete
        self._hands = hands
        self._wake = asyncio.Event()
        mirrors.listen(self._backings.put, self._settled)

    def _settled(self, _kind: str) -> None:
        if self._backings.changed:
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        await self._complete.wait()
        while True:
            await self._wake.wait()
            await asyncio.sleep(BURST_SECONDS)
            self._wake.clear()
            while self._backings.changed:
                begin = time.perf_counter()
                work = [(key, list(self._decide(key))) for key in self._next()]
                pause = SHARE * (time.perf_counter() - begin)
                await asyncio.gather(*(self._write(key, actions) for key, actions in work if actions))
                await asyncio.sleep(pause)

    def _next(self) -> list[Key]:
        changed = self._backings.changed
        return list(dict.fromkeys(chain(islice(reversed(changed), SOME), islice(changed, SOME))))

    def _decide(self, key: Key) -> Iterator[Action]:
        backing = self._backings.backing(key)
        yield from endpointslices.reconcile(backing)
        yield from endpoints.reconcile(backing)
        yield from mirroring.reconcile(backing)

    async def _write(self, key: Key, actions: list[Action]) -> None:
        if not await self._hands.carry_out(actions):
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._again, key)

    def _again(self, key: Key) -> None:
        self._backings.changed[key] = None
        self._wake.set()
