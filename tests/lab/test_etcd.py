"""The client against Debian's etcd, in both languages."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podnet.client.etcd import Change, EtcdError, Mirror, apply
from podnet.client.etcd_dialects import ETCD, Etcd2, Etcd3
from tests.client.waiting import until
from tests.lab.etcds import EtcdProcess, free_port

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not shutil.which("etcd"), reason="needs Debian's etcd-server"),
]
WAIT = 30.0


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[EtcdProcess]:
    made = EtcdProcess(tmp_path / "etcd")
    await made.start()
    yield made
    await made.end()


@pytest.mark.parametrize("api", ["2", "3"])
async def test_values_are_put_and_taken_away(process: EtcdProcess, api: str) -> None:
    async with ETCD[api]([process.url]) as etcd:
        assert (await etcd.read("/skydns")).values == {}
        first = await etcd.write({"/skydns/a/b/x": "1", "/skydns/a/c": "2", "/skydnsless": "not below"})
        held = await etcd.read("/skydns")
        assert held.values == {"/skydns/a/b/x": "1", "/skydns/a/c": "2"}
        assert held.revision >= first > 0
        await etcd.write({"/skydns/d": "é"}, gone=["/skydns/a/c", "/skydns/never"], trees=["/skydns/a/b", "/skydns/no"])
        assert (await etcd.read("/skydns")).values == {"/skydns/d": "é"}
        many = {f"/skydns/many/{number:03}": str(number) for number in range(250)}
        await etcd.write(many)
        assert (await etcd.read("/skydns/many")).values == many


@pytest.mark.parametrize("api", ["2", "3"])
async def test_a_watch_tells_what_came_after_a_revision(process: EtcdProcess, api: str) -> None:
    async with ETCD[api]([process.url]) as etcd:
        await etcd.write({"/skydns/a/1": "one", "/skydns/a/2": "two"})
        held = await etcd.read("/skydns")
        values = dict(held.values)
        await etcd.write({"/skydns/b": "new"}, gone=["/skydns/a/1"])
        await etcd.write({}, trees=["/skydns/a"])
        async with asyncio.timeout(WAIT):
            async for _, changes in etcd.watch("/skydns", held.revision):
                apply(values, changes)
                if values == {"/skydns/b": "new"}:
                    break


async def test_what_is_compacted_ends_the_watch(process: EtcdProcess) -> None:
    async with Etcd3([process.url]) as etcd:
        for number in range(3):
            await etcd.write({"/skydns/a": str(number)})
        await etcd._post("kv/compaction", {"revision": (await etcd.read("/skydns")).revision})
        with pytest.raises(EtcdError, match="only what happened since"):
            async for _ in etcd.watch("/skydns", 1):
                pass


async def test_a_watch_from_the_future_ends(process: EtcdProcess) -> None:
    """As after a restore: else it would be silent for a long time."""
    async with Etcd3([process.url]) as etcd:
        with pytest.raises(EtcdError, match="is before 1000"):
            async for _ in etcd.watch("/skydns", 1000):
                pass


async def test_etcd_2_hides_what_begins_with_an_underscore(process: EtcdProcess) -> None:
    async with Etcd2([process.url]) as etcd:
        await etcd.write({"/skydns/web/_tcp/_http/1": "srv", "/skydns/web/2": "a"})
        assert (await etcd.read("/skydns")).values == {"/skydns/web/2": "a"}
        assert (await etcd.read("/skydns/web/_tcp/_http")).values == {"/skydns/web/_tcp/_http/1": "srv"}


async def test_what_etcd_2_refuses_keeps_nothing_else_from_being_done(process: EtcdProcess) -> None:
    async with Etcd2([process.url]) as etcd:
        await etcd.write({"/skydns/a": "a value", "/skydns/b/c": "in a directory"})
        with pytest.raises(EtcdError, match="Not a directory"):
            await etcd.write({"/skydns/a/1": "new", "/skydns/x": "other"}, gone=["/skydns/a"])
        assert (await etcd.read("/skydns")).values == {"/skydns/x": "other", "/skydns/b/c": "in a directory"}
        await etcd.write({"/skydns/a/1": "new"})
        assert (await etcd.read("/skydns/a")).values == {"/skydns/a/1": "new"}


async def test_the_next_endpoint_is_asked_when_one_is_silent(process: EtcdProcess) -> None:
    async with Etcd3([f"http://127.0.0.1:{free_port()}", process.url], timeout=2) as etcd:
        await etcd.write({"/skydns/a": "1"})
        assert (await etcd.read("/skydns")).values == {"/skydns/a": "1"}
    async with Etcd3([f"http://127.0.0.1:{free_port()}"], timeout=2) as nobody:
        with pytest.raises(EtcdError, match="Connection refused"):
            await nobody.read("/skydns")


@pytest.mark.parametrize("api", ["2", "3"])
@pytest.mark.parametrize("again", ["data", "empty"])
async def test_a_mirror_survives_a_restart(process: EtcdProcess, api: str, again: str) -> None:
    told: list[tuple[Change, ...]] = []
    async with ETCD[api]([process.url], timeout=5) as etcd:
        for number in range(5):
            await etcd.write({"/skydns/a": f"first {number}"})
        mirror = Mirror(etcd, "/skydns", resync=3600, changed=told.append)
        running = asyncio.create_task(mirror.run())
        await until(lambda: mirror.values == {"/skydns/a": "first 4"}, WAIT)
        await etcd.write({"/skydns/b": "second"})
        await until(lambda: mirror.values == {"/skydns/a": "first 4", "/skydns/b": "second"}, WAIT)
        await process.end()
        await until(lambda: mirror.trouble, WAIT)
        assert mirror.synced
        assert mirror.values["/skydns/b"] == "second", "an old copy is better than none"
        await process.start(again)
        await etcd.write({"/skydns/c": "third"})
        kept = {"/skydns/a": "first 4", "/skydns/b": "second"} if again == "data" else {}
        await until(lambda: mirror.values == {**kept, "/skydns/c": "third"} and not mirror.trouble, WAIT)
        copy: dict[str, str] = {}
        for changes in told:
            apply(copy, changes)
        assert copy == mirror.values
        running.cancel()
