"""What the agent tells the cluster: which schemes its kernel accepts and sends, and which mistakes it met.

Only the newest word counts: while one write is under way, later ones replace each other. An API server that is away
delays these words and nothing else; the others keep using what this node said last (network/migration.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping

from podnet.agent import events
from podnet.client.api import Api
from podnet.client.errors import ApiError
from podnet.network.memo import Memo, recall
from podnet.network.migration import published
from podnet.network.view import NodeView, Problem
from podnet.objects.kinds import NODES
from podnet.objects.network import ACCEPTS_ANNOTATION, NETWORK_NAME, SENDS_ANNOTATION

log = logging.getLogger(__name__)
RETRY = 1.0

NETWORK = f"NetworkConfig/{NETWORK_NAME}"
OF_SERVICES = ("Service/", "ServiceRoute/")

GRACE = 10.0
"""Seconds that a problem must last before it is reported: a node that joins has no range for a moment."""

STALE = 2.0
"""Seconds after which what the Node object shows is no longer a snapshot from before our write."""

MOST_INCIDENTS = 100
"""So many wait for an API server that is away."""

Words = tuple[tuple[str, ...], tuple[str, ...]]


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


class Publisher:
    """Keeps Node annotations as the last applied view implies, and writes one Event for each new problem."""

    def __init__(self, api: Api, node: str) -> None:
        self._api = api
        self._node = node
        self.tried: Words | None = None
        """The newest words that this agent meant to say, whether or not the API has them (`said` of viewing.view)."""
        self._memo: Memo = {}
        self._words: Words | None = None
        self._written: Words | None = None
        self._shown: Words | None = None
        self._since: dict[Problem, float] = {}
        self._reported: set[Problem] = set()
        self._incidents: deque[Problem] = deque(maxlen=MOST_INCIDENTS)
        self._wake = asyncio.Event()

    def publish(
        self, applied: NodeView | None, problems: tuple[Problem, ...], shown: Mapping[str, str] | None = None
    ) -> None:
        """Take note of a pass; `applied` is None when it left something undone, which is then not announced. `shown`
        are the annotations of the Node object: what somebody else wrote there is put right."""
        if applied is not None:
            parts = (applied.me, applied.peers, applied.network)
            self._words = recall(self._memo, "published", parts, lambda: published(applied))
            if self.tried is None and self._words == (applied.me.accepts, applied.me.sends):
                self._written = self._words  # as they were before this agent started
            elif self._words != self._written:
                self.tried = self._words
        loop = asyncio.get_running_loop()
        mine = [problem for problem in problems if self._concerns(problem)]
        for problem in mine:
            if problem not in self._since:
                loop.call_later(GRACE + 0.1, self._wake.set)
        self._since = {problem: self._since.get(problem, loop.time()) for problem in mine}
        self._reported &= self._since.keys()
        if self._words not in (None, self._written):
            self._wake.set()
        if shown is not None:
            self._shown = _split(shown.get(ACCEPTS_ANNOTATION, "")), _split(shown.get(SENDS_ANNOTATION, ""))
            if self._written not in (None, self._shown):
                loop.call_later(STALE, self._put_right)

    def _put_right(self) -> None:
        if self._written not in (None, self._shown):
            self._written = None
            self._wake.set()

    def _concerns(self, problem: Problem) -> bool:
        return problem.object in (f"Node/{self._node}", NETWORK) or problem.object.startswith(OF_SERVICES)

    def tell(self, incident: Problem) -> None:
        """Something happened that may happen again; each time counts in its Event."""
        self._incidents.append(incident)
        self._wake.set()

    def withhold(self) -> None:
        """The agent looks anew: what it decided before may be wrong by now and must not be said any more."""
        self._words = None

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._write()
            except ApiError as error:
                log.warning("could not publish: %s", error)
                asyncio.get_running_loop().call_later(RETRY, self._wake.set)

    async def _write(self) -> None:
        words = self._words
        if words and words != self._written:
            accepts, sends = words
            annotations = {ACCEPTS_ANNOTATION: ",".join(accepts), SENDS_ANNOTATION: ",".join(sends)}
            await self._api.patch(NODES, self._node, {"metadata": {"annotations": annotations}})
            self._written = words
            log.info("this node accepts %s and sends %s", *annotations.values())
        due = asyncio.get_running_loop().time() - GRACE
        await self._report(problem for problem, since in self._since.items() if since <= due)

    async def _report(self, problems: Iterable[Problem]) -> None:
        for problem in set(problems) - self._reported:
            log.warning("%s: %s: %s", problem.object, problem.reason, problem.message)
            await events.write(self._api, problem, self._node)
            self._reported.add(problem)
        while self._incidents:
            incident = self._incidents.popleft()
            try:
                await events.write(self._api, incident, self._node, again=True)
            except ApiError:
                self._incidents.appendleft(incident)
                raise
