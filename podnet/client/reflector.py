"""Several informers, one `Cluster`: the snapshot from which everything else is computed.

Informers change their own mappings in place, one event at a time, in constant time. A snapshot is made only when
someone asks for it, and copies only the mappings of the kinds that changed since the last one; so a burst of a thousand
events costs one copy. Nobody may change a snapshot's mappings: they are plain dicts for speed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from podnet.client.api import Api
from podnet.client.informer import PACE, Informer, Pace, Watch
from podnet.client.store import Problem
from podnet.objects.cluster import Cluster

__all__ = ["Informers", "Watch"]


def _ignore(problem: Problem) -> None:
    """Reports nothing: informers keep their problems in `problems` anyway."""


class Informers:
    """Follows some kinds of one API server and gives snapshots of them.

    watches  at most one for each kind; the kind must have a mapping in `Cluster`
    report   called once for every document that cannot be used, and again when the complaint changes
    Raises ValueError for watches that do not fit.
    """

    def __init__(
        self, api: Api, watches: Iterable[Watch], *, pace: Pace = PACE, report: Callable[[Problem], None] = _ignore
    ) -> None:
        self._informers: dict[str, Informer] = {}
        self._stale: set[str] = set()
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()
        self._cluster = Cluster()
        for watch in watches:
            plural = watch.kind.plural
            if plural in self._informers:
                raise ValueError(f"{plural} is watched twice")
            if plural not in Cluster.__struct_fields__:
                raise ValueError(f"Cluster has no mapping for {plural}")
            self._informers[plural] = Informer(api, watch, self._marker(plural), report, pace)

    def _marker(self, plural: str) -> Callable[[], None]:
        def mark() -> None:
            self._stale.add(plural)
            self._wake.set()

        return mark

    @property
    def cluster(self) -> Cluster:
        """The newest snapshot; the same object as before if nothing changed."""
        for plural in self._stale:
            self._cluster = self._cluster.with_objects(plural, self._informers[plural].store.snapshot())
        self._stale.clear()
        return self._cluster

    @property
    def synced(self) -> bool:
        """Whether every kind was listed once; before that the snapshot is incomplete and must delete nothing."""
        return all(informer.synced for informer in self._informers.values())

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The documents that cannot be used at present."""
        return tuple(problem for informer in self._informers.values() for problem in informer.store.problems.values())

    @property
    def trouble(self) -> dict[str, str]:
        """What keeps which kind from being up to date; empty when all are connected."""
        return {plural: informer.trouble for plural, informer in self._informers.items() if informer.trouble}

    async def changed(self, after: Cluster | None = None) -> Cluster:
        """Wait for a snapshot newer than `after` and return it; one wake-up for all that came meanwhile.

        Without `after`: newer than the last one that anybody got. Several readers must each say what they have.
        """
        revision = self._cluster.revision if after is None else after.revision
        while self.cluster.revision <= revision:
            self._wake.clear()
            await self._wake.wait()
        return self.cluster

    async def until_synced(self) -> Cluster:
        """Wait until every kind was listed once; returns the first complete snapshot."""
        while not self.synced:
            self._wake.clear()
            await self._wake.wait()
        return self.cluster

    async def run(self) -> None:
        """Follow until `stop` or cancellation; failures of the server end nothing (see `trouble`)."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(informer.run(), name=name) for name, informer in self._informers.items()]
            await self._stopped.wait()
            for task in tasks:
                task.cancel()

    def stop(self) -> None:
        """Make `run` return; the last snapshot stays readable."""
        self._stopped.set()
