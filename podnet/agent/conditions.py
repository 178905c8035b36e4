"""The conditions of Services and ServiceRoutes, written by one agent for all (election.py).

What they ought to be is decided in network/conditions.py; here it is compared with what the API has at that moment, and
only a difference is written, over that very version of the object. Who else writes meanwhile is read and written
after. A write that fails, or that does not show (an API server that drops the field), is tried again ever more seldom.
Each agent tells on its own Node what it alone meets.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from podnet.agent.election import Election
from podnet.agent.events import NAMESPACED
from podnet.client.api import Api
from podnet.client.errors import ApiError, Unreachable
from podnet.network.conditions import TYPES, About, amended, due, report
from podnet.network.memo import Memo
from podnet.network.proxy.announce import fit
from podnet.network.view import Problem
from podnet.objects.cluster import Cluster
from podnet.objects.core import Condition
from podnet.objects.kinds import NODES
from podnet.objects.network import PROBLEMS_ANNOTATION

log = logging.getLogger(__name__)

LEASE = "podnet-conditions"
SETTLE = 1.0
"""Seconds between a change and a look, so that what comes together is told together."""

BACKOFF = (2.0, 300.0)
"""First and longest wait in seconds before the same write is tried again."""

PERIOD = 10.0
"""Seconds between looks at what this node alone meets."""

RACES = 5


class Try(NamedTuple):
    """What was last tried to write, when it may be tried again, and how long to wait after that."""

    wanted: Condition | None
    again: float
    wait: float


class Conditions:
    """`cluster()` gives the newest snapshot, None before there is one; `unusable()` tells of documents that could not
    be read, `local()` of what can't be honoured on this node."""

    def __init__(
        self,
        api: Api,
        node: str,
        cluster: Callable[[], Cluster | None],
        unusable: Callable[[], tuple[Problem, ...]] = lambda: (),
        local: Callable[[], tuple[Problem, ...]] = lambda: (),
    ) -> None:
        self.election = Election(api, LEASE, node, self._rank, self.wake)
        self._api = api
        self._node = node
        self._cluster = cluster
        self._unusable = unusable
        self._local = local
        self._memo: Memo = {}
        self._tries: dict[About, Try] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something changed."""
        self._wake.set()

    async def run(self) -> None:
        """For ever; cancel it to stop."""
        await self._wake.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.election.run())
            tasks.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rest()):
                    await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(SETTLE)
            await self.report()
            if self.election.leading:
                await self.write()
            else:
                self._tries.clear()

    def _rest(self) -> float:
        """Seconds until something has to be looked at again."""
        now = asyncio.get_running_loop().time()
        return max(0.0, min((PERIOD, *(each.again - now for each in self._tries.values()))))

    async def report(self) -> None:
        """Have this node's Node tell what it alone meets."""
        cluster = self._cluster()
        node, said = cluster.nodes.get(("", self._node)) if cluster else None, report(self._local())
        if node is None or node.metadata.annotations.get(PROBLEMS_ANNOTATION, "") == said:
            return
        try:
            patch = {"metadata": {"annotations": {PROBLEMS_ANNOTATION: said or None}}}
            await self._api.patch(NODES, self._node, patch, into=dict)
        except ApiError as error:
            log.warning("Node/%s does not tell what can't be honoured here: %s", self._node, error)

    async def write(self) -> None:
        """All that differs, one after the other, while this agent leads."""
        cluster, now = self._cluster(), asyncio.get_running_loop().time
        if cluster is None:
            return
        wanted = due(cluster, self._memo, self._unusable())
        self._tries = {at: each for at, each in self._tries.items() if at in wanted and wanted[at] == each.wanted}
        for about, condition in wanted.items():
            tried = self._tries.get(about)
            if tried and tried.again > now():
                continue
            if not self.election.leading:
                return
            wait = tried.wait if tried else BACKOFF[0]
            self._tries[about] = Try(condition, now() + wait, min(2 * wait, BACKOFF[1]))
            try:
                await self._amend(about, condition)
            except ApiError as error:
                log.warning("%s: its condition could not be written: %s", "/".join(about), error)
                if isinstance(error, Unreachable):
                    return

    async def _amend(self, about: About, wanted: Condition | None) -> None:
        """Raises ApiError; an object that is gone needs no condition."""
        for race in range(RACES):
            try:
                await self._attempt(about, wanted)
            except ApiError as error:
                if error.code == 409 and race < RACES - 1:
                    continue
                if error.code != 404:
                    raise
            return

    async def _attempt(self, about: About, wanted: Condition | None) -> None:
        kind, namespace, name = NAMESPACED[about[0]], *about[1:]
        found = await self._api.get(kind, name, namespace, into=dict)
        present = found.get("status", {}).get("conditions") or []
        conditions = amended(present, TYPES[kind.kind], wanted, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        if conditions == present:
            return
        version = found["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "status": {"conditions": conditions or None}}
        await self._api.patch(kind, name, patch, namespace, into=dict, subresource="status")
        log.info("%s: %s", "/".join(about), f"{wanted.status}: {wanted.message}" if wanted else "has no condition now")

    def _rank(self) -> int:
        """This node's place among those that are Ready."""
        cluster = self._cluster()
        names = fit(cluster.nodes.values()) if cluster else ()
        return names.index(self._node) if self._node in names else len(names)
