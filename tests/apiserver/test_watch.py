"""Watches over HTTP: where they begin, what they say, how they end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from podnet.apiserver import store, stream
from podnet.objects.kinds import CONFIGMAPS, PODS
from tests.apiserver import documents as make
from tests.apiserver.conftest import TABLE, Api, serving, until
from tests.apiserver.documents import at

MAPS = CONFIGMAPS.path("default")
SETTINGS = CONFIGMAPS.path("default", "settings")


def told(event: Any) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"]["name"]


async def version(api: Api) -> str:
    return str((await api.get(MAPS))[1]["metadata"]["resourceVersion"])


async def test_a_watch_from_a_revision_tells_what_came_after(api: Api) -> None:
    await api.create(CONFIGMAPS, make.config_map("before"))
    async with api.watch(MAPS, resourceVersion=await version(api)) as watch:
        assert watch.answer.headers["Transfer-Encoding"] == "chunked"
        created = await api.create(CONFIGMAPS, make.config_map())
        assert await watch.next() == {"type": "ADDED", "object": created}
        _code, changed = await api.patch(SETTINGS, {"data": {"a": "b"}})
        assert await watch.next() == {"type": "MODIFIED", "object": changed}
        await api.ask("DELETE", SETTINGS)
        gone = await watch.next()
        assert told(gone) == ("DELETED", "settings")
        assert gone["object"]["data"] == {"a": "b"}
        assert int(gone["object"]["metadata"]["resourceVersion"]) > int(changed["metadata"]["resourceVersion"])


@pytest.mark.parametrize("query", [{}, {"resourceVersion": ""}, {"resourceVersion": "0"}])
async def test_a_watch_from_nowhere_tells_everything_first(api: Api, query: dict[str, str]) -> None:
    for name in "ab":
        await api.create(CONFIGMAPS, make.config_map(name))
    async with api.watch(MAPS, **query) as watch:
        assert [told(await watch.next()) for _ in range(2)] == [("ADDED", "a"), ("ADDED", "b")]
        await api.create(CONFIGMAPS, make.config_map("c"))
        assert told(await watch.next()) == ("ADDED", "c")


async def test_one_object_by_its_path_or_by_a_field(api: Api) -> None:
    await api.create(CONFIGMAPS, make.config_map())
    await api.create(CONFIGMAPS, make.config_map("other"))
    for path, query in ((SETTINGS, {}), (MAPS, {"fieldSelector": "metadata.name=settings"})):
        async with api.watch(path, resourceVersion="0", timeoutSeconds=1, **query) as watch:
            assert told(await watch.next()) == ("ADDED", "settings")


async def test_objects_come_and_go_with_their_labels(api: Api) -> None:
    async with api.watch(MAPS, labelSelector="app=x", resourceVersion=await version(api)) as watch:
        await api.create(CONFIGMAPS, make.config_map())
        await api.patch(SETTINGS, {"metadata": {"labels": {"app": "x"}}})
        assert told(await watch.next()) == ("ADDED", "settings")
        await api.patch(SETTINGS, {"metadata": {"labels": {"app": "y"}}})
        gone = await watch.next()
        assert told(gone) == ("DELETED", "settings")
        assert gone["object"]["metadata"]["labels"] == {"app": "x"}


async def test_a_watch_ends_when_asked_to(api: Api) -> None:
    async with api.watch(MAPS, timeoutSeconds=1, resourceVersion=await version(api)) as watch:
        assert await watch.rest() == []


async def test_bookmarks(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BOOKMARK_SECONDS", 0.05)
    start = await version(api)
    async with api.watch(MAPS, allowWatchBookmarks="true", resourceVersion=start) as watch:
        mark = await watch.next()
        assert (mark["type"], mark["object"]["kind"]) == ("BOOKMARK", "ConfigMap")
        assert mark["object"]["metadata"] == {"resourceVersion": start, "creationTimestamp": None}
        pod = await api.create(PODS, make.pod(nodeName="n1"))

        async def later() -> bool:
            mark = await watch.next()
            return bool(mark["object"]["metadata"]["resourceVersion"] == pod["metadata"]["resourceVersion"])

        await until(later)
    async with api.watch(MAPS, resourceVersion=start, timeoutSeconds=1) as watch:
        assert await watch.rest() == [], "no bookmarks for who did not ask"


async def test_the_last_word_is_a_bookmark(api: Api) -> None:
    async with api.watch(
        MAPS, allowWatchBookmarks="true", timeoutSeconds=1, resourceVersion=await version(api)
    ) as watch:
        assert [event["type"] for event in await watch.rest()] == ["BOOKMARK"]


async def test_initial_events_and_their_end(api: Api) -> None:
    await api.create(CONFIGMAPS, make.config_map())
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with api.watch(MAPS, **query) as watch:
        assert told(await watch.next()) == ("ADDED", "settings")
        mark = await watch.next()
        assert (mark["type"], mark["object"]["metadata"]["annotations"]) == (
            "BOOKMARK",
            {"k8s.io/initial-events-end": "true"},
        )
        await api.create(CONFIGMAPS, make.config_map("late"))
        assert told(await watch.next()) == ("ADDED", "late")
    async with api.watch(CONFIGMAPS.path("kube-system"), **query) as watch:
        assert (await watch.next())["type"] == "BOOKMARK", "even when there are none"
    assert (await api.get(MAPS, watch="true", sendInitialEvents="true"))[0] == 422


async def test_too_old_is_an_event_too_new_is_an_answer(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "HISTORY_CHANGES", 10)
    await api.create(CONFIGMAPS, make.config_map())
    for number in range(30):
        await api.patch(SETTINGS, {"data": {"n": str(number)}})
    async with api.watch(MAPS, resourceVersion=2) as watch:
        assert watch.answer.status == 200
        (error,) = await watch.rest()
        assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")
        assert error["object"]["message"].startswith("too old resource version: 2 (")
    code, listed = await api.get(MAPS, limit=1, resourceVersion=2, resourceVersionMatch="Exact")
    assert (code, listed["reason"]) == (410, "Expired")
    assert (await api.get(MAPS, watch="true", resourceVersion=10**9))[0] == 504


async def test_an_expired_continue_token_says_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "HISTORY_CHANGES", 10)
    for name in "ab":
        await api.create(CONFIGMAPS, make.config_map(name))
    code, first = await api.get(MAPS, limit=1)
    for number in range(30):
        await api.patch(MAPS + "/a", {"data": {"n": str(number)}})
    code, status = await api.get(MAPS, limit=1, **{"continue": first["metadata"]["continue"]})
    assert (code, status["reason"]) == (410, "Expired")
    assert status["message"].startswith("The provided continue parameter is too old")


async def test_table_watches(api: Api) -> None:
    pod = await api.create(PODS, make.pod(nodeName="n1"))
    async with api.watch(PODS.path("default"), accept=TABLE) as watch:
        first = (await watch.next())["object"]
        assert (first["kind"], first["rows"][0]["cells"][0]) == ("Table", "web")
        assert first["columnDefinitions"][0]["name"] == "Name"
        assert first["rows"][0]["object"]["metadata"]["uid"] == pod["metadata"]["uid"]
        await api.patch(PODS.path("default", "web", "status"), {"status": {"phase": "Running"}})
        second = await watch.next()
        assert (second["type"], second["object"]["columnDefinitions"]) == ("MODIFIED", None)
        assert second["object"]["rows"][0]["cells"][2] == "Running"


async def test_table_bookmarks(api: Api) -> None:
    query = {"allowWatchBookmarks": "true", "timeoutSeconds": "1", "resourceVersion": await version(api)}
    async with api.watch(MAPS, accept=TABLE, **query) as watch:
        (mark,) = await watch.rest()
        assert (mark["type"], mark["object"]["kind"], mark["object"]["rows"]) == ("BOOKMARK", "Table", [])


async def test_many_watchers_see_the_same_events_in_the_same_order(api: Api) -> None:
    start = await version(api)

    async def follow() -> list[tuple[str, str, str]]:
        async with api.watch(MAPS, resourceVersion=start) as watch:
            events = [await watch.next() for _ in range(60)]
        return [(*told(event), event["object"]["metadata"]["resourceVersion"]) for event in events]

    watchers = [asyncio.create_task(follow()) for _ in range(20)]
    await asyncio.gather(*(api.create(CONFIGMAPS, make.config_map(f"m{n}")) for n in range(30)))
    await asyncio.gather(*(api.patch(f"{MAPS}/m{n}", {"data": {"a": "b"}}) for n in range(30)))
    stories = await asyncio.gather(*watchers)
    assert all(story == stories[0] for story in stories)
    revisions = [int(revision) for _, _, revision in stories[0]]
    assert revisions == sorted(revisions)


def watchers(api: Api) -> int:
    """How many watches of ConfigMaps the server serves."""
    return len(api.registry.store._watchers.get("configmaps", ()))


async def test_a_client_that_goes_away_is_noticed_though_nothing_happens(api: Api) -> None:
    async with api.watch(MAPS, resourceVersion=await version(api)) as watch:
        assert watchers(api) == 1
        watch.answer.close()

        async def forgotten() -> bool:
            return watchers(api) == 0

        await until(forgotten)


async def test_a_client_that_does_not_read_is_cut_off_and_harms_nobody(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "QUEUE", 5)
    async with api.watch(MAPS, resourceVersion=await version(api)):
        async with asyncio.timeout(10):
            number = 0
            while watchers(api):
                await api.create(CONFIGMAPS, make.config_map(f"m{number}", big="x" * 500_000))
                number += 1


async def test_a_revision_from_before_a_restart_still_works(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        start = await version(api)
        await api.create(CONFIGMAPS, make.config_map())
        await api.ask("DELETE", SETTINGS)
    async with serving(tmp_path) as api, api.watch(MAPS, resourceVersion=start) as watch:
        assert [told(await watch.next()) for _ in range(2)] == [("ADDED", "settings"), ("DELETED", "settings")]


async def test_the_end_of_the_server_is_the_end_of_its_watches(api: Api) -> None:
    async with api.watch(MAPS, resourceVersion=await version(api), allowWatchBookmarks="true") as watch:
        api.registry.store.close_watchers()
        assert [event["type"] for event in await watch.rest()] == ["BOOKMARK"]


async def test_field_selectors_of_a_kubelet(api: Api) -> None:
    async with api.watch(PODS.path(), fieldSelector="spec.nodeName=n1", resourceVersion=await version(api)) as watch:
        await api.create(PODS, make.pod("mine", nodeName="n1"))
        await api.create(PODS, make.pod("theirs", nodeName="n2"))
        await api.create(PODS, at(make.pod("also", nodeName="n1"), "metadata.labels", {"a": "b"}))
        assert [told(await watch.next()) for _ in range(2)] == [("ADDED", "mine"), ("ADDED", "also")]
