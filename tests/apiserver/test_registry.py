"""The in-process interface that controllers use, and the races that HTTP tests cannot arrange."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podnet.apiserver import controllers
from podnet.apiserver.controllers import Controllers
from podnet.apiserver.database import Database
from podnet.apiserver.hands import Hands
from podnet.apiserver.lifecycle import DeleteOptions, Preconditions
from podnet.apiserver.mirrors import Mirrors
from podnet.apiserver.records import Change, Key, Record, Selection
from podnet.apiserver.registry import Registry
from podnet.apiserver.status import ApiError
from podnet.apiserver.store import Store
from podnet.network.controllers.actions import Bind, Delete, Finalize, Patch
from podnet.objects.kinds import CONFIGMAPS, NAMESPACES, NODES, PODS
from tests.apiserver import documents as make

MAPS = Selection("configmaps", "default")


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    opened = Store(Database(str(tmp_path / "test.db")))
    registry = Registry(opened, lambda: make.NOW)
    await registry.create(NAMESPACES, "", make.namespace("default"))
    yield registry
    opened.close()


async def test_a_name_that_is_taken_is_made_up_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["aaaaa", "aaaaa", "bbbbb"])
    monkeypatch.setattr(random, "choices", lambda *_, **__: next(drawn))
    for expected in ("m-aaaaa", "m-bbbbb"):
        record = await registry.create(CONFIGMAPS, "default", {"metadata": {"generateName": "m-"}})
        assert record.key.name == expected


async def test_names_run_out_in_the_end(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "choices", lambda *_, **__: "aaaaa")
    await registry.create(CONFIGMAPS, "default", {"metadata": {"generateName": "m-"}})
    with pytest.raises(ApiError) as caught:
        await registry.create(CONFIGMAPS, "default", {"metadata": {"generateName": "m-"}})
    assert caught.value.reason == "AlreadyExists"


async def test_a_wrong_object_is_refused_at_the_first_name(registry: Registry) -> None:
    with pytest.raises(ApiError) as caught:
        await registry.create(CONFIGMAPS, "default", {"metadata": {"generateName": "m-"}, "data": {"a": 1}})
    assert caught.value.reason == "Invalid"


async def test_a_collection_that_two_delete_at_once(registry: Registry) -> None:
    for name in "abc":
        await registry.create(CONFIGMAPS, "default", make.config_map(name))
    pages = await asyncio.gather(*(registry.delete_collection(CONFIGMAPS, MAPS) for _ in range(2)))
    assert [len(page.records) for page in pages] == [3, 3]
    assert registry.list(MAPS).records == []


async def test_a_collection_stops_at_what_may_not_go(registry: Registry) -> None:
    await registry.create(CONFIGMAPS, "default", make.config_map("a"))
    options = DeleteOptions(preconditions=Preconditions(uid="another"))
    with pytest.raises(ApiError) as caught:
        await registry.delete_collection(CONFIGMAPS, MAPS, options)
    assert caught.value.reason == "Conflict"


async def test_a_commit_holds_all_that_came_together(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    commit = Database.commit

    def counted(self: Database, changes: list[Change]) -> None:
        sizes.append(len(changes))
        commit(self, changes)

    monkeypatch.setattr(Database, "commit", counted)
    await asyncio.gather(*(registry.create(CONFIGMAPS, "default", make.config_map(f"m{n}")) for n in range(50)))
    assert sum(sizes) == 50
    assert len(sizes) <= 2
    revisions = [record.revision for record in registry.list(MAPS).records]
    assert sorted(revisions) == list(range(min(revisions), min(revisions) + 50))


async def test_lost_races_are_forgotten_and_real_failures_told(registry: Registry) -> None:
    said: list[str] = []
    hands = Hands(registry, said.append)
    await registry.create(PODS, "default", make.pod(nodeName="n1"))
    assert await hands.carry_out([
        Bind("default", "nobody", "n1"),
        Bind("default", "web", "n2"),
        Delete(PODS, "default", "web", "another-uid"),
        Patch(NODES, "", "nobody", {"spec": {}}),
        Finalize("nowhere"),
    ])  # fmt: skip
    assert said == []
    assert not await hands.carry_out([Patch(PODS, "default", "web", {"spec": {"restartPolicy": "Sometimes"}})])
    assert len(said) == 1
    assert said[0].startswith('controller: Patch failed: Pod "web" is invalid')


async def test_an_object_that_no_longer_fits_is_told_of_and_left_out(registry: Registry) -> None:
    said: list[str] = []
    mirrors = Mirrors(registry, [NODES], said.append)
    key = Key("nodes", "", "odd")
    odd = Record.write(key, 1, {"metadata": {"name": "odd"}, "spec": {"podCIDRs": 5}})
    mirrors.place(NODES, ("", "odd"), odd.value)
    assert mirrors.objects["nodes"] == {}
    assert said == ["nodes odd is ignored: spec.podCIDRs: Expected `array`, got `int`"]


async def test_deciding_leaves_the_loop_to_requests(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100, 2))
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("podnet.apiserver.controllers.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("podnet.apiserver.controllers.asyncio.sleep", slept)
    hands = Controllers(registry)
    task = asyncio.create_task(hands._react())
    for _ in range(2):
        hands._wake.set()
        while hands._wake.is_set():
            await sleep(0)
        await sleep(0.01)
    task.cancel()
    assert pauses == [controllers.BURST_SECONDS, controllers.BURST_SECONDS + controllers.SHARE * 2]
