"""What the agent tells the cluster: which schemes its kernel accepts and sends, and which mistakes it met.

Only the newest word counts: while one write is under way, later ones replace each other. An API server that is away
delays these words and nothing else; the others keep using what this node said last (network/migration.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha1

from podnet.client.api import Api
from podnet.client.errors import ApiError
from podnet.network.memo import Memo, recall
from podnet.network.migration import published
from podnet.network.view import NodeView, Problem
from podnet.objects.kinds import EVENTS, NODES
from podnet.objects.network import ACCEPTS_ANNOTATION, NETWORK_NAME, SENDS_ANNOTATION

log = logging.getLogger(__name__)
RETRY = 1.0

NETWORK = f"NetworkConfig/{NETWORK_NAME}"

GRACE = 10.0
"""Seconds that a problem must last before it is reported: a node that joins has no range for a moment."""

Words = tuple[tuple[str, ...], tuple[str, ...]]


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
        self._since: dict[Problem, float] = {}
        self._reported: set[Problem] = set()
        self._wake = asyncio.Event()

    def publish(self, applied: NodeView | None, problems: tuple[Problem, ...]) -> None:
        """Take note of a pass; `applied` is None when it left something undone, which is then not announced."""
        if applied is not None:
            parts = (applied.me, applied.peers, applied.network)
            self._words = recall(self._memo, "published", parts, lambda: published(applied))
            if self.tried is None and self._words == (applied.me.accepts, applied.me.sends):
                self._written = self._words  # as they were before this agent started
            elif self._words != self._written:
                self.tried = self._words
        loop = asyncio.get_running_loop()
        mine = [problem for problem in problems if problem.object in (f"Node/{self._node}", NETWORK)]
        for problem in mine:
            if problem not in self._since:
                loop.call_later(GRACE + 0.1, self._wake.set)
        self._since = {problem: self._since.get(problem, loop.time()) for problem in mine}
        self._reported &= self._since.keys()
        if self._words not in (None, self._written):
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
            try:
                await self._api.create(EVENTS, _event(problem, self._node))
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
            self._reported.add(problem)


def _event(problem: Problem, node: str) -> dict[str, object]:
    """An Event with which a second report of the same problem, by whichever node, collides."""
    kind, _, name = problem.object.partition("/")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = sha1(f"{problem}".encode(), usedforsecurity=False).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{digest}", "namespace": "default"},
        "involvedObject": {"kind": kind, "name": name, "fieldPath": problem.field},
        "type": "Warning",
        "reason": problem.reason,
        "message": problem.message,
        "source": {"component": "podnet", "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
