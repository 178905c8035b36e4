"""Endpoints that the kernel passes over because they did not answer: told once each time it begins to.

The kernel does it all by itself (network/proxy/nft_chains.py), but it does not count them. So here it is looked at once
a second, while some Service asks for retries: no more than half of a Service's endpoints stay ejected, the others are
let back at once; and those that stay show in Events, metrics and `podnet status`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

from podnet.agent import metrics
from podnet.agent.agent import Agent
from podnet.network.memo import Memo, recall
from podnet.network.proxy.feature import families
from podnet.network.proxy.live import Ejected, Place, ejected, ejections, excess, retried
from podnet.network.view import NodeView, Problem
from podnet.objects.cluster import Key

log = logging.getLogger(__name__)

PERIOD = 1.0
QUIET = 60.0
"""Seconds for which the same endpoint makes no further Event."""


def by_service(found: Iterable[tuple[Key, str]]) -> dict[str, list[str]]:
    """The addresses by namespace/name."""
    names: dict[str, list[str]] = {}
    for key, address in sorted(found):
        names.setdefault("/".join(key), []).append(address)
    return names


class Ejections:
    """`tell` is given each new ejection, as an incident on its Service."""

    def __init__(
        self, agent: Agent, tell: Callable[[Problem], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.now: Ejected = frozenset()
        """Those that are passed over."""
        self._agent = agent
        self._tell = tell
        self._clock = clock
        self._told: dict[tuple[tuple[str, str], str], float] = {}
        self._memo: Memo = {}

    async def run(self) -> None:
        """For ever; cancel it to stop."""
        while True:
            await asyncio.sleep(PERIOD)
            await self.look()

    async def look(self) -> None:
        """One look; a kernel that can't be asked says nothing."""
        seen = self._agent.view
        try:
            found = await self._ejected(seen) if seen is not None and seen.retries else frozenset()
        except OSError as error:
            log.warning("the kernel does not say which endpoints are ejected, or keeps too many: %s", error)
            return
        if found != self.now:
            self._note(found)

    async def _ejected(self, seen: NodeView) -> Ejected:
        services = recall(self._memo, "retried", (seen.services,), lambda: retried(seen.services))
        plane, places = self._agent.reconciler.dataplane, [ejections(v6) for v6 in families(seen)]

        def capped() -> dict[Place, frozenset[str]]:
            sets = {place: frozenset(plane.remembered(*place)) for place in places}
            beyond = excess(services, sets, self.now)
            for place, elements in beyond.items():
                plane.forget(*place, sorted(elements))
            return {place: elements - beyond.get(place, frozenset()) for place, elements in sets.items()}

        return ejected(services, await self._agent.in_kernel(capped))

    def _note(self, found: Ejected) -> None:
        before, self.now = self.now, found
        now = self._clock()
        self._told = {about: when for about, when in self._told.items() if now - when < QUIET}
        for about in sorted(found - before):
            (namespace, name), address = about
            metrics.EJECTIONS.labels(f"{namespace}/{name}").inc()
            if about not in self._told:
                self._told[about] = now
                message = f"endpoint {address} refused connections or did not answer, and is passed over for a while"
                self._tell(Problem(f"Service/{namespace}/{name}", "EndpointEjected", message))
        counts = Counter(service for service, _ in found)
        for service in {service for service, _ in before | found}:
            if self._agent.view is not None and service in self._agent.view.services:
                metrics.EJECTED.labels("/".join(service)).set(counts[service])
            else:
                metrics.EJECTED.remove("/".join(service))
