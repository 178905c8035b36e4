"""The store: random histories against a model, failures of the disk, watchers that sleep."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.apiserver import store as module
from podnet.apiserver.database import Database
from podnet.apiserver.records import Event, Key, Record, Selection, Verdict
from podnet.apiserver.status import ApiError
from podnet.apiserver.store import Store

PODS = Selection("pods")


@contextmanager
def opened(path: Path) -> Iterator[Store]:
    store = Store(Database(str(path / "test.db")))
    try:
        yield store
    finally:
        store.close()


def key(name: str, namespace: str = "default", resource: str = "pods") -> Key:
    return Key(resource, namespace, name)


def document(name: str, value: Any = "", **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}, "value": value}


async def put(store: Store, name: str, value: Any = "", namespace: str = "default", **labels: str) -> Record:
    return await store.change(key(name, namespace), lambda _: document(name, value, **labels))


async def remove(store: Store, name: str) -> Record:
    return await store.change(key(name), lambda _: Verdict.DELETE)


def told(events: list[Event]) -> list[tuple[str, str, int]]:
    return [(event.type, event.record.key.name, event.record.revision) for event in events]


async def test_writes_are_read_and_counted(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert store.get(key("a")) is None
        one = await put(store, "a", 1)
        two = await put(store, "a", 2)
        assert (one.revision, two.revision, store.revision) == (1, 2, 2)
        assert store.get(key("a")) == two
        assert two.document()["metadata"]["resourceVersion"] == "2"


async def test_a_writer_sees_what_is_not_committed_yet_and_a_reader_does_not(tmp_path: Path) -> None:
    seen: list[int] = []

    def increment(old: Record | None) -> dict[str, Any]:
        value = old.document()["value"] if old else 0
        seen.append(value)
        return document("a", value + 1)

    with opened(tmp_path) as store:
        jobs = [asyncio.create_task(store.change(key("a"), increment)) for _ in range(20)]
        await asyncio.sleep(0)
        assert store.get(key("a")) is None
        newest = store.newest(key("a"))
        assert newest is not None
        assert newest.document()["value"] == 20
        await asyncio.gather(*jobs)
        assert seen == list(range(20))
        assert store.get(key("a")) == newest


async def test_keep_waits_for_what_it_keeps(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        first = asyncio.create_task(put(store, "a"))
        await asyncio.sleep(0)
        kept = await store.change(key("a"), lambda _: Verdict.KEEP)
        assert first.done()
        assert store.get(key("a")) == kept
        assert store.revision == 1


async def test_a_dry_run_leaves_no_trace(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        await put(store, "a", 1)
        watcher = store.watch(PODS, store.revision)
        record = await store.change(key("a"), lambda _: document("a", 2), dry_run=True)
        assert record.document()["value"] == 2
        await store.change(key("a"), lambda _: Verdict.DELETE, dry_run=True)
        await store.change(key("b"), lambda _: document("b"), dry_run=True)
        found = store.get(key("a"))
        assert found is not None
        assert found.document()["value"] == 1
        assert (store.revision, await watcher.events(0.0)) == (1, [])


async def test_what_an_edit_raises_is_raised_and_writes_nothing(tmp_path: Path) -> None:
    def refuse(_: Record | None) -> dict[str, Any]:
        raise ApiError(409, "Conflict", "no")

    with opened(tmp_path) as store:
        with pytest.raises(ApiError, match="no"):
            await store.change(key("a"), refuse)
        assert store.revision == 0


async def test_lists_are_ordered_by_namespace_and_name(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for namespace, name in (("b", "1"), ("a", "2"), ("a", "1"), ("a-b", "1")):
            await put(store, name, namespace=namespace)
        assert [record.key[1:] for record in store.records(PODS)] == [("a", "1"), ("a", "2"), ("a-b", "1"), ("b", "1")]
        assert [record.key[1:] for record in store.records(Selection("pods", "a"))] == [("a", "1"), ("a", "2")]
        assert store.records(Selection("nodes")) == []


async def test_a_watch_from_now_a_watch_from_then_and_a_watch_of_everything(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        await put(store, "a")
        await put(store, "b")
        now, then, everything = store.watch(PODS, 2), store.watch(PODS, 1), store.watch(PODS)
        await remove(store, "a")
        assert told(await now.events()) == [("DELETED", "a", 3)]
        assert told(await then.events()) == [("ADDED", "b", 2), ("DELETED", "a", 3)]
        assert told(await everything.events()) == [("ADDED", "a", 1), ("ADDED", "b", 2), ("DELETED", "a", 3)]


async def test_watchers_see_only_their_resource_namespace_and_labels(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        narrow = store.watch(Selection.parse("pods", "default", "app=x", ""), 0)
        await put(store, "a", app="x")
        await put(store, "b", app="y")
        await put(store, "c", namespace="other", app="x")
        await store.change(key("d", resource="services"), lambda _: document("d", app="x"))
        await put(store, "a", app="y")
        assert told(await narrow.events()) == [("ADDED", "a", 1), ("DELETED", "a", 5)]


async def test_a_sleeping_watcher_wakes_waits_and_ends(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        watcher = store.watch(PODS, 0)
        assert await watcher.events(0.01) == []
        waiting = asyncio.create_task(watcher.events())
        await asyncio.sleep(0)
        await put(store, "a")
        assert len(await waiting) == 1
        waiting = asyncio.create_task(watcher.events())
        await asyncio.sleep(0)
        store.close_watchers()
        assert await waiting == []
        assert watcher.closed
        store.unwatch(watcher)


async def test_a_watcher_that_does_not_read_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE", 3)
    with opened(tmp_path) as store:
        watcher = store.watch(PODS, 0)
        for number in range(5):
            await put(store, "a", number)
        assert watcher.closed


async def test_history_is_compacted_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HISTORY_CHANGES", 10)
    with opened(tmp_path) as store:
        for number in range(30):
            await put(store, "a", number)
        with pytest.raises(ApiError, match=r"too old resource version: 3 \(\d+\)") as caught:
            store.watch(PODS, 3)
        assert (caught.value.code, caught.value.reason) == (410, "Expired")
        assert len(await store.watch(PODS, 28).events()) == 2
        with pytest.raises(ApiError, match="too old"):
            store.records(PODS, 3)
    with opened(tmp_path) as store:
        assert len(await store.watch(PODS, 28).events()) == 2, "the history survives a restart"
        with pytest.raises(ApiError, match="too old"):
            store.watch(PODS, 3)


async def test_history_is_bounded_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HISTORY_BYTES", 100_000)
    with opened(tmp_path) as store:
        for _ in range(20):
            await put(store, "a", "x" * 20_000)
        assert store._bytes <= 100_000
        with pytest.raises(ApiError, match="too old"):
            store.watch(PODS, 1)


async def test_a_revision_of_the_future(tmp_path: Path) -> None:
    with (
        opened(tmp_path) as store,
        pytest.raises(ApiError, match="Too large resource version: 9, current: 0") as caught,
    ):
        store.watch(PODS, 9)
    assert (caught.value.code, caught.value.reason) == (504, "Timeout")


class Flaky(Database):
    """A disk that fails when told to."""

    broken = False

    def commit(self, changes: Any) -> None:
        if self.broken:
            raise sqlite3.OperationalError("database or disk is full")
        super().commit(changes)


async def test_a_failing_disk_refuses_writes_keeps_reads_and_recovers(tmp_path: Path) -> None:
    database = Flaky(str(tmp_path / "test.db"))
    store = Store(database)
    await put(store, "a", 1)
    database.broken = True
    results = await asyncio.gather(*(put(store, "a", number) for number in range(5)), return_exceptions=True)
    assert {str(result) for result in results} == {"the write could not be stored: database or disk is full"}
    found = store.get(key("a"))
    assert found is not None
    assert (found.document()["value"], store.newest(key("a"))) == (1, found)
    database.broken = False
    record = await put(store, "a", 9)
    assert record.revision > 1
    store.close()
    assert Database(str(tmp_path / "test.db")).load()[1][key("a")] == record


async def test_commits_reach_the_disk_soon_and_an_idle_store_leaves_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(module, "SYNC_SECONDS", 0.05)
    monkeypatch.setattr(Database, "sync", lambda self: synced.append(1))
    with opened(tmp_path) as store:
        for number in range(20):
            await put(store, "a", number)
        await asyncio.sleep(0.2)
        assert 1 <= len(synced) <= 10, "not once a commit"
        before = len(synced)
        await asyncio.sleep(0.2)
        assert len(synced) == before


async def test_a_disk_that_does_not_keep_what_it_is_given_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Database) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "SYNC_SECONDS", 0.01)
    with opened(tmp_path) as store:
        monkeypatch.setattr(Database, "sync", fail)
        await put(store, "a")
        await asyncio.sleep(0.1)
        with pytest.raises(ApiError, match="Input/output error: the disk does not keep"):
            await put(store, "b")
        monkeypatch.undo()
        await put(store, "c")


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove", "restart", "burst"]), st.sampled_from("abc"), st.sampled_from(["x", "y"])
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(OPERATIONS)
def test_every_past_moment_can_be_listed_and_watched_from(operations: list[tuple[str, str, str]]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder), operations))


async def play(path: Path, operations: list[tuple[str, str, str]]) -> None:
    """Run a history; after it, list every revision and watch from every revision, and compare with the model."""
    states: dict[int, dict[str, str]] = {0: {}}
    store = Store(Database(str(path / "test.db")))
    for verb, name, label in operations:
        if verb == "restart":
            store.close()
            store = Store(Database(str(path / "test.db")))
        elif verb == "put" or (verb == "remove" and store.get(key(name))):
            record = await (put(store, name, app=label) if verb == "put" else remove(store, name))
            state = dict(states[max(states)])
            state.pop(name, None)
            states[store.revision] = state | ({name: label} if verb == "put" else {})
            assert verb == "remove" or record.revision == store.revision
        elif verb == "burst":
            await asyncio.gather(*(put(store, each, app=label) for each in "abc"))
            for offset, each in enumerate("abc"):
                states[store.revision - 2 + offset] = {**states[max(states)], each: label}
    narrow = Selection.parse("pods", "", "app=x", "")
    for revision, state in states.items():
        assert {record.key.name: record.labels["app"] for record in store.records(PODS, revision)} == state
        for selection in (PODS, narrow):
            wanted = {name for name, label in state.items() if selection is PODS or label == "x"}
            for event in await store.watch(selection, revision).events(0.0):
                (wanted.discard if event.type == "DELETED" else wanted.add)(event.record.key.name)
            assert wanted == {record.key.name for record in store.records(selection)}
    store.close()
