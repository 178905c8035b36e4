"""The file: what was committed comes back, with its history; a power cut is noticed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from podnet.apiserver.database import Database
from podnet.apiserver.records import Change, Key, Record


def key(name: str) -> Key:
    return Key("pods", "default", name)


def record(name: str, revision: int, value: str = "") -> Record:
    return Record.write(key(name), revision, {"metadata": {"name": name}, "value": value})


def history() -> list[Change]:
    first, second, other = record("a", 1, "one"), record("a", 2, "two"), record("b", 3)
    return [
        Change(1, key("a"), None, first),
        Change(2, key("a"), first, second),
        Change(3, key("b"), None, other),
        Change(4, key("a"), second, None),
        Change(5, key("a"), None, record("a", 5, "again")),
    ]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "test.db")


def test_everything_comes_back(path: str) -> None:
    changes = history()
    database = Database(path)
    database.commit(changes[:2])
    database.commit(changes[2:])
    database.close()
    revision, objects, loaded = Database(path).load()
    assert revision == 5
    assert objects == {key("a"): changes[4].after, key("b"): changes[2].after}
    assert loaded == changes


def test_without_closing_too(path: str) -> None:
    Database(path).commit(history())
    assert Database(path).load()[2] == history()


def test_compaction_forgets_the_past_and_keeps_the_present(path: str) -> None:
    database = Database(path)
    database.commit(history())
    database.compact(3)
    revision, objects, changes = database.load()
    assert revision == 5
    assert set(objects) == {key("a"), key("b")}
    assert changes == history()[3:]


def test_the_revision_survives_a_log_without_entries(path: str) -> None:
    database = Database(path)
    database.commit(history())
    database.compact(5)
    database.close()
    assert Database(path).load()[0] == 5


def test_a_commit_is_all_or_nothing(path: str) -> None:
    database = Database(path)
    changes = history()
    with pytest.raises(sqlite3.IntegrityError):
        database.commit([changes[0], changes[1], changes[1]])
    assert database.load() == (0, {}, [])
    database.commit(changes)
    assert database.load()[0] == 5


@pytest.mark.parametrize(
    ("durability", "boot", "closed", "lost"),
    [
        ("normal", "boot-1", False, False),  # killed: the kernel kept what was written
        ("normal", "boot-2", True, False),  # shut down in order
        ("normal", "boot-2", False, True),  # the power went: the last commits may be gone
        ("full", "boot-2", False, False),  # every commit was on the disk
    ],
)
def test_a_power_cut_ends_the_history(path: str, durability: str, boot: str, closed: bool, lost: bool) -> None:
    database = Database(path, durability, "boot-1")
    database.commit(history())
    if closed:
        database.close()
    again = Database(path, durability, boot)
    assert again.lost_power is lost
    revision, objects, changes = again.load()
    assert set(objects) == {key("a"), key("b")}
    assert (revision > 1000, changes == []) == (lost, lost)


def test_after_a_power_cut_revisions_go_on_where_nobody_has_been(path: str) -> None:
    Database(path, boot_id="boot-1").commit(history())
    base = Database(path, boot_id="boot-2").load()[0]
    database = Database(path, boot_id="boot-2")
    assert database.lost_power is False
    assert database.load()[0] == base


def test_sync_reaches_the_wal_unless_every_commit_does(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fdatasync", synced.append)
    for durability, count in (("full", 0), ("normal", 1)):
        database = Database(path, durability)
        database.commit(history() if durability == "full" else [])
        database.sync()
        assert len(synced) == count
    assert Database(path).load()[2] == history(), "opening the WAL a second time has broken no lock"


def test_durability_is_what_sqlite_is_told(path: str) -> None:
    for name, number in (("normal", 1), ("full", 2)):
        database = Database(path, name)
        assert database._db.execute("PRAGMA synchronous").fetchone() == (number,)
        assert database._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
