"""What the controllers see of the store, and in which order Services get their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from podnet.apiserver.backers import SOME, Backers
from podnet.apiserver.database import Database
from podnet.apiserver.hands import Hands
from podnet.apiserver.lifecycle import DeleteOptions
from podnet.apiserver.mirrors import Mirrors
from podnet.apiserver.registry import Registry
from podnet.apiserver.store import Store
from podnet.objects.cluster import Key
from podnet.objects.kinds import CONFIGMAPS, NAMESPACES, NODES
from podnet.objects.meta import Object
from tests.apiserver import documents as make
from tests.apiserver.conftest import until


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    store = Store(Database(str(tmp_path / "db"), "normal", "boot"))
    yield Registry(store)
    store.close()


class Listener:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, bool]] = []
        self.settled: list[str] = []

    def tell(self, kind: str, key: Key, new: Object | None) -> None:
        self.told.append((kind, key[1], new is not None))

    async def hears(self, *expected: tuple[str, str, bool]) -> None:
        async def heard() -> bool:
            return len(self.told) >= len(expected)

        await until(heard)
        assert sorted(self.told) == sorted(expected)
        self.told.clear()


@asynccontextmanager
async def mirroring(registry: Registry) -> AsyncIterator[tuple[Mirrors, Listener]]:
    mirrors, listener = Mirrors(registry, [NODES, NAMESPACES]), Listener()
    mirrors.listen(listener.tell, listener.settled.append)
    task = asyncio.create_task(mirrors.run())
    try:
        yield mirrors, listener
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_everything_is_told_first_and_then_each_change(registry: Registry) -> None:
    await registry.create(NODES, "", make.node("n1"))
    await registry.create(NAMESPACES, "", make.namespace("team"))
    async with mirroring(registry) as (mirrors, listener):
        assert not mirrors.complete.is_set()
        await mirrors.complete.wait()
        await listener.hears(("nodes", "n1", True), ("namespaces", "team", True))
        assert set(mirrors.objects["nodes"]) == {("", "n1")}
        await registry.create(NODES, "", make.node("n2"))
        await registry.delete(NODES, "", "n1", DeleteOptions())
        await listener.hears(("nodes", "n2", True), ("nodes", "n1", False))
        assert set(mirrors.objects["nodes"]) == {("", "n2")}


async def test_changes_that_come_together_are_settled_once(registry: Registry) -> None:
    async with mirroring(registry) as (mirrors, listener):
        await mirrors.complete.wait()
        listener.settled.clear()
        await asyncio.gather(*(registry.create(NODES, "", make.node(f"n{n}")) for n in range(20)))
        await listener.hears(*(("nodes", f"n{n}", True) for n in range(20)))
        await registry.create(NAMESPACES, "", make.namespace("team"))
        await listener.hears(("namespaces", "team", True))
        assert listener.settled[-1] == "namespaces"
        assert listener.settled.count("nodes") <= 3, "not for each"


async def test_what_went_while_the_watch_was_cut_is_told(registry: Registry) -> None:
    await registry.create(NODES, "", make.node("stays"))
    async with mirroring(registry) as (mirrors, listener):
        await mirrors.complete.wait()
        await listener.hears(("nodes", "stays", True))
        mirrors.objects["nodes"]["", "gone"] = mirrors.objects["nodes"]["", "stays"]
        registry.store.close_watchers()
        await listener.hears(("nodes", "gone", False), ("nodes", "stays", True))
        assert set(mirrors.objects["nodes"]) == {("", "stays")}


async def test_other_kinds_are_none_of_its_business(registry: Registry) -> None:
    await registry.create(NAMESPACES, "", make.namespace("team"))
    async with mirroring(registry) as (mirrors, listener):
        await mirrors.complete.wait()
        await registry.create(CONFIGMAPS, "team", make.config_map(namespace="team"))
        await listener.hears(("namespaces", "team", True))
        assert set(mirrors.objects) == {"nodes", "namespaces"}


async def test_the_newest_and_the_oldest_have_their_turn(registry: Registry) -> None:
    backers = Backers(Mirrors(registry, []), Hands(registry))
    changed = backers._backings.changed
    changed.update({("default", f"s{n:03}"): None for n in range(100)})
    turn = [name for _, name in backers._next()]
    assert turn[0] == "s099"
    assert sorted(turn) == [f"s{n:03}" for n in (*range(SOME), *range(100 - SOME, 100))]
    changed.clear()
    changed["default", "only"] = None
    assert backers._next() == [("default", "only")]
