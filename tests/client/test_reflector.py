"""Snapshots: complete, shared where nothing changed, one copy a burst."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from podnet.client.api import Api
from podnet.client.config import Credentials
from podnet.client.informer import Pace
from podnet.client.reflector import Informers, Watch
from podnet.client.store import Problem
from podnet.objects.kinds import EVENTS, NETWORKCONFIGS, NODES, PODS
from tests.client.fake_api import FakeApi, expired
from tests.client.waiting import until

FAST = Pace(first=0.002, base=0.005, cap=0.03, confirm=0.01, brief=0.002)
WATCHES = (Watch(NODES), Watch(PODS, field_selector="spec.nodeName=n1"), Watch(NETWORKCONFIGS))


@pytest.fixture
async def server() -> AsyncIterator[FakeApi]:
    async with FakeApi() as fake:
        fake.put(NODES, {"metadata": {"name": "n1"}})
        fake.put(NETWORKCONFIGS, {"metadata": {"name": "default"}})
        for where in ("n1", "n2"):
            fake.put(PODS, {"metadata": {"name": f"on-{where}", "namespace": "x"}, "spec": {"nodeName": where}})
        yield fake


@asynccontextmanager
async def running(server: FakeApi, **options: object) -> AsyncIterator[Informers]:
    async with Api(Credentials(server=server.url), timeout=2) as api:
        informers = Informers(api, WATCHES, pace=FAST, **options)  # type: ignore[arg-type]
        task = asyncio.create_task(informers.run())
        async with asyncio.timeout(10):
            yield informers
            informers.stop()
            await task


async def test_the_first_complete_snapshot(server: FakeApi) -> None:
    async with running(server) as informers:
        assert (informers.synced, informers.cluster.revision) == (False, 0)
        cluster = await informers.until_synced()
        assert list(cluster.nodes) == [("", "n1")]
        assert list(cluster.pods) == [("x", "on-n1")]
        assert cluster.network is not None
        assert informers.trouble == {}


async def test_what_did_not_change_is_the_same_object(server: FakeApi) -> None:
    async with running(server) as informers:
        first = await informers.until_synced()
        assert informers.cluster is first
        server.put(NODES, {"metadata": {"name": "n2"}})
        second = await informers.changed()
        assert second.revision > first.revision
        assert second.pods is first.pods
        assert second.networkconfigs is first.networkconfigs
        assert second.nodes["", "n1"] is first.nodes["", "n1"]
        assert list(first.nodes) == [("", "n1")], "a snapshot never changes"


async def test_a_burst_is_one_snapshot(server: FakeApi) -> None:
    async with running(server) as informers:
        before = await informers.until_synced()
        for number in range(300):
            server.put(NODES, {"metadata": {"name": f"b{number}"}})
        snapshots = 0
        cluster = before
        while len(cluster.nodes) < 301:
            cluster = await informers.changed()
            snapshots += 1
            await asyncio.sleep(0.02)  # a reader that works for a while
        assert snapshots < 15


async def test_several_readers_each_miss_nothing(server: FakeApi) -> None:
    async with running(server) as informers:
        await informers.until_synced()

        async def reader(pause: float) -> int:
            cluster = informers.cluster
            while ("", "last") not in cluster.nodes:
                cluster = await informers.changed(after=cluster)
                await asyncio.sleep(pause)
            return len(cluster.nodes)

        readers = [asyncio.create_task(reader(pause)) for pause in (0, 0.003, 0.01)]
        for number in range(20):
            server.put(NODES, {"metadata": {"name": f"b{number}"}})
            await asyncio.sleep(0.002)
        server.put(NODES, {"metadata": {"name": "last"}})
        assert await asyncio.gather(*readers) == [22, 22, 22]


async def test_changed_returns_at_once_when_it_is_late(server: FakeApi) -> None:
    async with running(server) as informers:
        first = await informers.until_synced()
        server.put(NODES, {"metadata": {"name": "n2"}})
        await informers.changed(first)
        async with asyncio.timeout(0.1):
            assert (await informers.changed(first)).revision > first.revision
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await informers.changed()


async def test_a_quiet_kind_wakes_the_reader_when_it_comes_in_sync(server: FakeApi) -> None:
    server.delete(NETWORKCONFIGS, "default")
    server.unknown.add("networkconfigs")
    async with running(server) as informers:
        cluster = await informers.until_synced()
        assert cluster.network is None
        assert list(informers.trouble) == ["networkconfigs"]


async def test_nothing_is_lost_while_the_server_is_away(server: FakeApi) -> None:
    async with running(server) as informers:
        first = await informers.until_synced()
        await server.stop()
        await until(lambda: len(informers.trouble) == 3)
        assert informers.cluster is first
        assert informers.synced
        await server.start()
        server.expire()
        server.put(NODES, {"metadata": {"name": "n2"}})
        while len((await informers.changed()).nodes) < 2:
            pass
        await until(lambda: not informers.trouble)


async def test_problems(server: FakeApi) -> None:
    told: list[Problem] = []
    server.put(NODES, {"metadata": {"name": "bad"}, "spec": {"podCIDR": 1}})
    async with running(server, report=told.append) as informers:
        cluster = await informers.until_synced()
        assert ("", "bad") not in cluster.nodes
        assert [str(problem) for problem in informers.problems] == ["Node bad: spec.podCIDR: Expected `str`, got `int`"]
        assert tuple(told) == informers.problems


async def test_stop_leaves_the_last_snapshot(server: FakeApi) -> None:
    async with running(server) as informers:
        cluster = await informers.until_synced()
    assert informers.cluster is cluster
    await until(lambda: server.watchers == 0)


async def test_cancelling_ends_every_task(server: FakeApi) -> None:
    async with Api(Credentials(server=server.url)) as api:
        informers = Informers(api, WATCHES, pace=FAST)
        task = asyncio.create_task(informers.run())
        await informers.until_synced()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [each.get_name() for each in asyncio.all_tasks() if each.get_name() in ("nodes", "pods")] == []


async def test_a_mistake_of_ours_ends_run(server: FakeApi) -> None:
    def faulty(problem: Problem) -> None:
        raise RuntimeError(str(problem))

    server.put(NODES, {"metadata": {"name": "bad"}, "spec": {"podCIDR": 1}})
    async with Api(Credentials(server=server.url)) as api:
        with pytest.raises(ExceptionGroup) as caught:
            await Informers(api, WATCHES, pace=FAST, report=faulty).run()
    assert "Node bad" in str(caught.value.exceptions[0])


async def test_unfit_watches() -> None:
    async with Api(Credentials(server="http://127.0.0.1:1")) as api:
        with pytest.raises(ValueError, match="nodes is watched twice"):
            Informers(api, [Watch(NODES), Watch(NODES)])
        with pytest.raises(ValueError, match="no mapping for events"):
            Informers(api, [Watch(EVENTS)])


async def test_listing_trouble_is_named_by_kind(server: FakeApi) -> None:
    server.list_faults.extend([expired()] * 100)
    async with running(server) as informers:
        await until(lambda: len(informers.trouble) == 3)
        assert "410 Expired" in informers.trouble["nodes"]
        server.list_faults.clear()
        await informers.until_synced()
