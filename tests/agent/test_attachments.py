"""The durable store: what is acknowledged stays, what fails changes nothing, and nobody gets what another has."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from podnet.agent import attachments_file as file
from podnet.agent.attachments import Attachments, StoreFailed, Taken
from podnet.errors import UserError
from podnet.network.ipam import ranges
from podnet.network.ipam.ranges import AddressTaken, Exhausted
from podnet.network.view import Attachment, PortMapping

SETS = ranges.of_node(["10.244.1.0/24", "fd00:1::/64"])
SMALL = ranges.of_node(["10.244.1.0/29"])  # five addresses


def draft(name: str, **more: object) -> Attachment:
    return msgspec.structs.replace(Attachment(name, "eth0", f"/run/netns/{name}", pod=f"default/{name}"), **more)


async def reopened(store: Attachments, path: Path, boot: str = "boot", alive: bool = True) -> Attachments:
    await store.close()
    return await Attachments.open(str(path), boot, lambda netns: alive)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Attachments]:
    opened = await Attachments.open(str(tmp_path), "boot")
    yield opened
    with suppress(OSError):  # a test may have closed it
        await opened.close()


# -- giving and taking


async def test_an_attachment_gets_addresses_and_a_mac_made_of_them(store: Attachments) -> None:
    given = await store.add(draft("a"), SETS)
    assert given.addresses == ("10.244.1.2/24", "fd00:1::2/64")
    assert given.mac == "0a:58:0a:f4:01:02"
    assert given.boot_id == "boot"
    assert store.all() == (given,)
    assert store.get(("a", "eth0")) is given
    assert store.holder("/run/netns/a", "eth0") is given
    assert store.get(("a", "eth1")) is None


async def test_a_mac_asked_for_is_kept(store: Attachments) -> None:
    assert (await store.add(draft("a", mac="02:00:00:00:00:01"), SETS)).mac == "02:00:00:00:00:01"


async def test_all_is_the_identical_tuple_until_something_changes(store: Attachments) -> None:
    first = await store.add(draft("a"), SETS)
    before = store.all()
    assert store.all() is before
    await store.remove(first)
    await store.remove(first)  # absent already
    assert store.all() == ()


async def test_a_released_address_rests(store: Attachments) -> None:
    given = await store.add(draft("a"), SMALL)
    await store.remove(given)
    later = [(await store.add(draft(f"b{n}"), SMALL)).addresses[0] for n in range(5)]
    assert later == ["10.244.1.3/29", "10.244.1.4/29", "10.244.1.5/29", "10.244.1.6/29", "10.244.1.2/29"]


async def test_exhaustion_ends_with_a_release(store: Attachments) -> None:
    given = [await store.add(draft(f"a{n}"), SMALL) for n in range(5)]
    with pytest.raises(Exhausted, match="5 of 5 are used"):
        await store.add(draft("b"), SMALL)
    with pytest.raises(Exhausted):
        store.has_room(SMALL)
    await store.remove(given[3])
    store.has_room(SMALL)
    assert (await store.add(draft("b"), SMALL)).addresses == given[3].addresses


async def test_requested_addresses(store: Attachments) -> None:
    given = await store.add(draft("a"), SETS, ["10.244.1.50", "fd00:1::50"])
    assert given.addresses == ("10.244.1.50/24", "fd00:1::50/64")
    with pytest.raises(AddressTaken):
        await store.add(draft("b"), SETS, ["10.244.1.50"])
    # A wish does not move the round on.
    assert (await store.add(draft("b"), SETS)).addresses == ("10.244.1.2/24", "fd00:1::2/64")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (draft("a"), "attachment a eth0 belongs to default/a"),
        (draft("a", netns="/run/netns/other"), "attachment a eth0 belongs to default/a"),
        (draft("b", netns="/run/netns/a"), "interface /run/netns/a eth0 belongs to default/a"),
        (draft("b", ports=(PortMapping(80, 1),)), "host port tcp 80 belongs to default/a"),
        (draft("b", ports=(PortMapping(53, 1, "udp", "192.0.2.1"),)), "host port udp 53 192.0.2.1 belongs to"),
    ],
)
async def test_what_one_attachment_has_alone(store: Attachments, second: Attachment, message: str) -> None:
    first = await store.add(draft("a", ports=(PortMapping(80, 8080), PortMapping(53, 53, "udp", "192.0.2.1"))), SETS)
    with pytest.raises(Taken) as error:
        await store.add(second, SETS)
    assert str(error.value).startswith(message)
    assert error.value.holder is first
    # The refusal reserved nothing.
    assert (await store.add(draft("c"), SETS)).addresses[0] in ("10.244.1.3/24", "10.244.1.4/24")
    await store.remove(first)
    await store.add(second, SETS)


async def test_different_ports_and_interfaces_live_together(store: Attachments) -> None:
    await store.add(draft("a", ports=(PortMapping(80, 8080),)), SETS)
    await store.add(draft("a", ifname="net1"), SETS)
    await store.add(draft("b", ports=(PortMapping(80, 1, "udp"), PortMapping(80, 1, "tcp", "192.0.2.1"))), SETS)
    assert len(store.all()) == 3


async def test_a_hundred_at_once_get_a_hundred_addresses_in_few_transactions(
    store: Attachments, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    real = file.transact

    def counted(db: sqlite3.Connection, statements: list[file.Statement]) -> None:
        commits.append(len(statements))
        real(db, statements)

    monkeypatch.setattr(file, "transact", counted)
    given = await asyncio.gather(*(store.add(draft(f"a{n}"), SETS) for n in range(100)))
    assert len({address for each in given for address in each.addresses}) == 200
    assert len(commits) <= 3
    await asyncio.gather(*map(store.remove, given))
    assert store.all() == ()
    assert len(commits) <= 6


async def test_nobody_sees_a_record_before_it_is_written(store: Attachments) -> None:
    adding = asyncio.create_task(store.add(draft("a"), SETS))
    await asyncio.sleep(0)
    assert store.get(("a", "eth0")) is None
    assert store.all() == ()
    assert store.holder("/run/netns/a", "eth0")
    assert (await adding) is store.get(("a", "eth0"))


async def test_an_address_is_held_until_its_release_is_written(store: Attachments) -> None:
    given = [await store.add(draft(f"a{n}"), SMALL) for n in range(5)]
    removing = asyncio.create_task(store.remove(given[0]))
    await asyncio.sleep(0)
    with pytest.raises(Exhausted):
        await store.add(draft("b"), SMALL)
    await removing
    await store.add(draft("b"), SMALL)


async def test_cancelling_the_caller_leaves_memory_and_file_equal(store: Attachments, tmp_path: Path) -> None:
    kept = await store.add(draft("kept"), SETS)
    adding, removing = asyncio.create_task(store.add(draft("a"), SETS)), asyncio.create_task(store.remove(kept))
    await asyncio.sleep(0)
    adding.cancel()
    removing.cancel()
    await asyncio.wait([adding, removing])
    await store.add(draft("c"), SETS)
    before = store.all()
    assert [record.container_id for record in before] == ["a", "c"]
    store = await reopened(store, tmp_path)
    assert sorted(store.all(), key=lambda record: record.id) == list(before)
    await store.close()


# -- the file


async def test_everything_is_there_after_a_restart(store: Attachments, tmp_path: Path) -> None:
    ports = (PortMapping(80, 8080),)
    given = [await store.add(draft(f"a{n}", ports=ports if n == 0 else ()), SETS) for n in range(3)]
    await store.remove(given[1])
    store = await reopened(store, tmp_path)
    assert store.all() == (given[0], given[2])
    # The round goes on where it was, and what is held is held.
    assert (await store.add(draft("b"), SETS)).addresses == ("10.244.1.5/24", "fd00:1::5/64")
    with pytest.raises(Taken):
        await store.add(draft("c", ports=ports), SETS)
    assert store.report == ()
    await store.close()


async def test_every_commit_reaches_the_disk(store: Attachments) -> None:
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_files_are_private(store: Attachments, tmp_path: Path) -> None:
    await store.add(draft("a"), SETS)
    assert len(os.listdir(tmp_path)) == 4
    assert [name for name in os.listdir(tmp_path) if os.stat(tmp_path / name).st_mode & 0o077] == []


async def test_a_full_disk_fails_one_add_and_changes_nothing(store: Attachments) -> None:
    first = await store.add(draft("a"), SETS)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    big = draft("b", ports=tuple(PortMapping(port, port) for port in range(1, 300)))
    with pytest.raises(StoreFailed, match="full"):
        await store.add(big, SETS)
    assert store.all() == (first,)
    assert store.holder("/run/netns/b", "eth0") is None
    # Removing still works, and with room the same ADD does.
    await store.remove(first)
    store._db.execute("PRAGMA max_page_count = 100000")
    await store.add(big, SETS)


async def test_one_failure_in_a_batch_is_nobody_elses(store: Attachments) -> None:
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    big = draft("big", ports=tuple(PortMapping(port, port) for port in range(1, 300)))
    outcomes = await asyncio.gather(
        *(store.add(each, SETS) for each in (draft("a"), big, draft("b"))), return_exceptions=True
    )
    assert [type(each) for each in outcomes] == [Attachment, StoreFailed, Attachment]
    assert len(store.all()) == 2


async def test_the_schema_itself_refuses_an_address_twice(store: Attachments) -> None:
    given = await store.add(draft("a"), SETS)
    twin = msgspec.structs.replace(given, container_id="b")
    with pytest.raises(sqlite3.IntegrityError):
        file.transact(store._db, file.insert(twin, SETS, []))
    assert not store._db.in_transaction


async def test_records_of_an_earlier_boot(store: Attachments, tmp_path: Path) -> None:
    for netns in ("/run/netns/a", "/proc/1/ns/net"):
        await store.add(draft(netns.replace("/", "-").strip("-"), netns=netns), SETS)
    # The namespaces exist, but no process lives through a boot.
    store = await reopened(store, tmp_path, boot="next")
    assert [record.netns for record in store.all()] == ["/run/netns/a"]
    assert store.report == ("1 attachments of an earlier boot are gone; their addresses are free again",)
    store = await reopened(store, tmp_path, boot="next", alive=False)
    assert store.all() == ()
    store = await reopened(store, tmp_path, boot="next")
    assert store.report == ()
    await store.close()


async def test_records_of_this_boot_wait_for_their_del(store: Attachments, tmp_path: Path) -> None:
    await store.add(draft("a"), SETS)
    store = await reopened(store, tmp_path, alive=False)
    assert len(store.all()) == 1
    await store.close()


async def test_two_agents_can_not_share_a_directory(store: Attachments, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another podnet agent uses"):
        await Attachments.open(str(tmp_path), "boot")
    await (await reopened(store, tmp_path)).close()


async def test_a_file_of_a_newer_podnet_is_left_alone(store: Attachments, tmp_path: Path) -> None:
    store._db.execute("PRAGMA user_version = 99")
    await store.close()
    with pytest.raises(UserError, match="newer podnet"):
        await Attachments.open(str(tmp_path), "boot")
    assert [name for name in os.listdir(tmp_path) if "damaged" in name] == []


async def test_a_directory_that_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be opened"):
        await Attachments.open(str(tmp_path / "file"), "boot")


# -- damage


async def filled(path: Path, count: int = 60) -> list[Attachment]:
    store = await Attachments.open(str(path), "boot")
    given = list(await asyncio.gather(*(store.add(draft(f"a{n:03}"), SETS) for n in range(count))))
    await store.close()
    return given


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / file.NAME).write_bytes(content)
    store = await Attachments.open(str(tmp_path), "boot")
    assert store.all() == ()
    (sentence,) = store.report
    assert "was damaged: it is now" in sentence
    assert (tmp_path / f"{file.NAME}.damaged-1").read_bytes() == content
    await store.add(draft("a"), SETS)
    await store.close()


async def test_what_is_readable_of_a_damaged_file_is_kept(tmp_path: Path) -> None:
    given = {record.id: record for record in await filled(tmp_path)}
    path = tmp_path / file.NAME
    data = bytearray(path.read_bytes())
    data[-4096:] = b"\xa5" * 4096  # the last page
    path.write_bytes(data)
    store = await Attachments.open(str(tmp_path), "boot")
    assert store.report
    assert all(given[record.id] == record for record in store.all())
    fresh = await store.add(draft("new"), SETS)
    assert all(set(fresh.addresses).isdisjoint(record.addresses) for record in store.all() if record is not fresh)
    store = await reopened(store, tmp_path)
    assert store.report == ()
    await store.close()


async def test_a_record_that_is_not_what_was_written(tmp_path: Path) -> None:
    given = await filled(tmp_path, 3)
    with sqlite3.connect(tmp_path / file.NAME) as db:
        changed = "CAST(replace(record, '10.244', '10.245') AS BLOB)"
        db.execute(f"UPDATE attachment SET record = {changed} WHERE container_id = 'a001'")
    db.close()
    store = await Attachments.open(str(tmp_path), "boot")
    assert store.all() == (given[0], given[2])
    assert "2 readable attachments of it were kept" in store.report[0]
    await store.close()


async def test_damage_at_random_places_never_stops_the_start(tmp_path: Path) -> None:
    given = {record.id: record for record in await filled(tmp_path, 40)}
    whole = (tmp_path / file.NAME).read_bytes()
    chance = random.Random(7)
    for round_ in range(40):
        folder = tmp_path / str(round_)
        folder.mkdir()
        data = bytearray(whole)
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(64, len(data))] = chance.randrange(256)  # not the version number
        (folder / file.NAME).write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
        store = await Attachments.open(str(folder), "boot")
        assert all(given[record.id] == record for record in store.all())
        await store.add(draft("new"), SETS)
        await store.close()


async def test_a_torn_log_loses_only_its_end(tmp_path: Path) -> None:
    """What a power cut leaves: the log ends anywhere. Whole transactions before that are there, others not at all."""
    origin = tmp_path / "origin"
    store = await Attachments.open(str(origin), "boot")
    order = [await store.add(draft(f"a{n:03}"), SETS) for n in range(15)]
    files = {name: (origin / name).read_bytes() for name in os.listdir(origin)}
    await store.close()
    log = f"{file.NAME}-wal"
    assert len(files[log]) > 15 * 4096
    for cut in range(0, len(files[log]), 9973):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / file.NAME).write_bytes(files[file.NAME])
        (folder / log).write_bytes(files[log][:cut])
        store = await Attachments.open(str(folder), "boot")
        assert store.report == ()
        assert list(store.all()) == order[: len(store.all())]
        await store.close()


# -- reading beside the agent


async def test_reading_while_the_agent_runs(store: Attachments, tmp_path: Path) -> None:
    given = [await store.add(draft(f"a{n}"), SETS) for n in range(3)]
    await store.remove(given[0])
    await store.add(draft("b"), SMALL, ["10.244.1.6"])
    records, uses = file.read(str(tmp_path))
    assert records == tuple(sorted(store.all(), key=lambda record: record.id))
    assert uses == (
        file.RangeUse("10.244.1.0/24", 2, 253, "10.244.1.4"),
        file.RangeUse("10.244.1.0/29", 1, 5, ""),
        file.RangeUse("fd00:1::/64", 2, 2**64 - 2, "fd00:1::4"),
    )


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no agent has run"):
        file.read(str(tmp_path))
    (tmp_path / file.NAME).write_bytes(b"x" * 10000)
    with pytest.raises(UserError, match="can't be read"):
        file.read(str(tmp_path))
    assert os.listdir(tmp_path) == [file.NAME]
