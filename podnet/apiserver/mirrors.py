"""Typed objects for the controllers: each kind they look at is watched and decoded once, for all of them.

Who wants to know of every change listens; everybody else reads `objects`, which always is the last committed state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from podnet.apiserver.records import Selection
from podnet.apiserver.registry import Registry
from podnet.apiserver.status import resource
from podnet.objects.cluster import Key
from podnet.objects.codec import InvalidObject, decode
from podnet.objects.kinds import Kind
from podnet.objects.meta import Object

Told = Callable[[str, Key, Object | None], None]
"""One object of a kind (its plural) is this now; None: it is gone."""


class Mirrors:
    """See the module's story. `complete` is set once every kind was listed: before that nothing may be concluded."""

    def __init__(self, registry: Registry, kinds: Sequence[Kind], report: Callable[[str], None] = print) -> None:
        self.objects: dict[str, dict[Key, Any]] = {kind.plural: {} for kind in kinds}
        self.complete = asyncio.Event()
        self._registry = registry
        self._kinds = kinds
        self._report = report
        self._listed: set[str] = set()
        self._told: list[Told] = []
        self._settled: list[Callable[[str], None]] = []

    def listen(self, told: Told, settled: Callable[[str], None]) -> None:
        """Call `told` for every change from now on, and `settled` after all changes of a kind that came together."""
        self._told.append(told)
        self._settled.append(settled)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for kind in self._kinds:
                tasks.create_task(self._follow(kind))

    async def _follow(self, kind: Kind) -> None:
        """Keep one kind; list it anew when the watch was cut."""
        while True:
            watcher = self._registry.watch(Selection(resource(kind)))
            try:
                self._forget(kind)
                while not watcher.closed:
                    for event in await watcher.events():
                        key = (event.record.key.namespace, event.record.key.name)
                        self.place(kind, key, None if event.type == "DELETED" else event.record.value)
                    for settled in self._settled:
                        settled(kind.plural)
            finally:
                self._registry.unwatch(watcher)

    def _forget(self, kind: Kind) -> None:
        """Drop what went while nobody watched. What is there comes as the watch's first events, without a pause."""
        records = self._registry.list(Selection(resource(kind))).records
        present = {(record.key.namespace, record.key.name) for record in records}
        for key in self.objects[kind.plural].keys() - present:
            self.place(kind, key, None)
        self._listed.add(kind.plural)
        if len(self._listed) == len(self._kinds):
            self.complete.set()

    def place(self, kind: Kind, key: Key, value: bytes | None) -> None:
        """Take the newest bytes of an object, None when it is gone; tell those who listen."""
        mirror = self.objects[kind.plural]
        new = self.decode(kind, key, value) if value is not None else None
        if new is not None:
            mirror[key] = new
        elif mirror.pop(key, None) is None:
            return
        for told in self._told:
            told(kind.plural, key, new)

    def decode(self, kind: Kind, key: Key, value: bytes) -> Any:
        """The object that bytes of the store are; None, with a word about it, when they no longer fit."""
        try:
            return decode(value, kind.type)
        except InvalidObject as error:  # stored by a version that judged otherwise
            self._report(f"{kind.plural} {'/'.join(filter(None, key))} is ignored: {error}")
            return None
