"""One kind followed through everything that a server can do to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from podnet.client.api import Api
from podnet.client.config import Credentials
from podnet.client.informer import Backoff, Informer, Pace, Watch
from podnet.client.store import Problem
from podnet.objects.kinds import NETWORKCONFIGS, NODES, PODS, Kind
from tests.client.fake_api import Document, FakeApi, Fault, expired
from tests.client.waiting import until

FAST = Pace(first=0.002, base=0.005, cap=0.03, confirm=0.01, brief=0.002, page=3)


@pytest.fixture
async def server() -> AsyncIterator[FakeApi]:
    async with FakeApi() as fake:
        yield fake


def node(name: str, cidr: str = "10.244.0.0/24", **more: Any) -> Document:
    return {"metadata": {"name": name}, "spec": {"podCIDR": cidr}} | more


class Followed:
    """An informer and what it told."""

    def __init__(self, server: FakeApi, informer: Informer, kind: Kind) -> None:
        self.server = server
        self.informer = informer
        self.kind = kind
        self.changes = 0
        self.problems: list[Problem] = []
        self.seen: set[str] = set()
        self.lost: set[str] = set()

    def changed(self) -> None:
        self.changes += 1
        names = {name for _, name in self.informer.store.objects}
        self.lost |= {name for name in self.seen if name not in names}
        self.seen = names

    @property
    def names(self) -> list[str]:
        return sorted(name for _, name in self.informer.store.objects)

    async def settled(self) -> None:
        """Wait until the informer knows what the server holds, and watches."""

        def agrees() -> bool:
            store, truth = self.informer.store, self.server.of(self.kind)
            return (
                self.informer.synced
                and not self.informer.trouble
                and self.server.watchers > 0
                and {key: each.metadata.uid for key, each in store.objects.items()}
                == {key: each["metadata"].get("uid", "") for key, each in truth.items()}
            )

        await until(agrees)


@asynccontextmanager
async def follow(server: FakeApi, kind: Kind = NODES, pace: Pace = FAST, **selectors: Any) -> AsyncIterator[Followed]:
    """A running informer; it must not have ended by itself."""
    async with Api(Credentials(server=server.url), timeout=2) as api:
        informer = Informer(
            api, Watch(kind, **selectors), lambda: followed.changed(), lambda p: followed.problems.append(p), pace
        )
        followed = Followed(server, informer, kind)
        task = asyncio.create_task(informer.run())
        try:
            yield followed
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_list_then_watch(server: FakeApi) -> None:
    for number in range(7):
        server.put(NODES, node(f"n{number}"))
    async with follow(server) as it:
        await it.settled()
        assert it.changes == 2, "one for the objects, one for being in sync"
        server.put(NODES, node("new"))
        await until(lambda: "new" in it.names)
        server.delete(NODES, "n3")
        await until(lambda: "n3" not in it.names)
    assert server.count("GET", "limit=3") == 3
    assert server.count("GET", "watch=true", "resourceVersion=7") == 1


async def test_an_empty_cluster_is_in_sync(server: FakeApi) -> None:
    async with follow(server) as it:
        await it.settled()
        assert it.changes == 1


async def test_selectors(server: FakeApi) -> None:
    for name, where in (("a", "n1"), ("b", "n2")):
        server.put(PODS, {"metadata": {"name": name, "namespace": "x"}, "spec": {"nodeName": where}})
    async with follow(server, PODS, field_selector="spec.nodeName=n1", namespace="x") as it:
        await until(lambda: it.names == ["a"])
        server.put(PODS, {"metadata": {"name": "c", "namespace": "x"}, "spec": {"nodeName": "n1"}})
        await until(lambda: it.names == ["a", "c"])
        server.put(PODS, {"metadata": {"name": "c", "namespace": "x"}, "spec": {"nodeName": "n2"}})
        await until(lambda: it.names == ["a"])
    assert {request.path for request in server.requests} == {"/api/v1/namespaces/x/pods"}


async def test_a_cut_watch_goes_on_where_it_was(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    async with follow(server) as it:
        await it.settled()
        server.cut()
        server.put(NODES, node("b"))
        await until(lambda: it.names == ["a", "b"])
        await it.settled()
    assert server.count("GET", "limit=") == 1, "no second list"
    assert it.lost == set()


async def test_a_restarted_server_is_found_at_once(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    async with follow(server, pace=Pace(confirm=0.01)) as it:
        await it.settled()
        await server.stop()
        await until(lambda: "no answer from" in it.informer.trouble)
        assert it.names == ["a"], "what was known stays known"
        await server.start()
        server.put(NODES, node("b"))
        began = asyncio.get_running_loop().time()
        await until(lambda: it.names == ["a", "b"])
        assert asyncio.get_running_loop().time() - began < 1.5


async def test_expiry_lists_again_no_older_than_before(server: FakeApi) -> None:
    for name in "abc":
        server.put(NODES, node(name))
    async with follow(server) as it:
        await it.settled()
        identities = dict(it.informer.store.objects)
        changes = it.changes
        server.expire()
        await until(lambda: server.count("GET", "resourceVersion=3&resourceVersionMatch=NotOlderThan") == 1)
        await it.settled()
        assert all(it.informer.store.objects[key] is each for key, each in identities.items())
        assert it.changes == changes, "nothing changed, nobody is woken"


async def test_later_pages_of_such_a_list_name_no_version(server: FakeApi) -> None:
    for number in range(7):
        server.put(NODES, node(f"n{number}"))
    async with follow(server) as it:
        await it.settled()
        server.expire()
        await until(lambda: server.count("GET", "continue=") == 4)
        await it.settled()
    assert server.count("GET", "NotOlderThan") == 1


async def test_expiry_again_and_again_loses_nothing(server: FakeApi) -> None:
    for name in "abcdefgh":
        server.put(NODES, node(name))
    async with follow(server) as it:
        await it.settled()
        for number in range(20):
            server.put(NODES, node(f"x{number}"))
            server.expire()
            if number % 3 == 0:
                server.list_faults.extend([None, expired()])  # in the middle of paging
            await asyncio.sleep(0.004)
        server.list_faults.clear()
        await it.settled()
    assert it.lost == set()


async def test_expiry_of_the_list_falls_back_to_a_consistent_one(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    async with follow(server) as it:
        await it.settled()
        server.list_faults.append(expired())
        server.expire()
        await it.settled()
        await until(lambda: server.count("GET", "limit=") == 3)
    lists = [dict(request.query) for request in server.requests if "watch" not in request.query]
    assert ["resourceVersion" in query for query in lists] == [False, True, False]


async def test_continue_tokens_that_expire_lead_to_one_big_list(server: FakeApi) -> None:
    for name in "abcdefgh":
        server.put(NODES, node(name))
    server.forget_tokens = True
    async with follow(server) as it:
        await it.settled()
        assert it.names == list("abcdefgh")


async def test_a_lost_event_is_repaired_by_the_next_list(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    server.put(NODES, node("b"))
    async with follow(server, pace=Pace(first=0.002, relist=0.1, grace=0.01, confirm=0.01)) as it:
        await it.settled()
        server.put(NODES, node("lost"), silent=True)
        server.delete(NODES, "a", silent=True)
        await until(lambda: it.names == ["b", "lost"])


async def test_a_watch_that_says_nothing_is_left_in_the_end(server: FakeApi) -> None:
    async with follow(server, pace=Pace(first=0.002, watch=0.05, grace=0.02, brief=0.001)) as it:
        await it.settled()
        server.deaf = True
        server.put(NODES, node("a"))
        server.deaf = False
        await until(lambda: it.names == ["a"])


async def test_a_restored_backup_is_believed_after_a_second_look(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    backup = server.backup()
    for name in "bcd":
        server.put(NODES, node(name))
    async with follow(server) as it:
        await it.settled()
        before = server.count("GET", "limit=")
        server.restore(backup)
        await it.settled()
        assert it.names == ["a"]
        assert server.count("GET", "limit=") - before == 2
        server.put(NODES, node("e"))
        await until(lambda: it.names == ["a", "e"])


async def test_a_stale_replica_is_not_believed(server: FakeApi) -> None:
    for name in "abcd":
        server.put(NODES, node(name))
    stale = [dict(document) for document in server.of(NODES).values()][:2]
    async with follow(server) as it:
        await it.settled()
        server.list_lies.append((2, stale))
        server.expire()
        await until(lambda: not server.list_lies)
        await it.settled()
    assert it.lost == set()


async def test_time_travel_in_a_watch_lists_again(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    server.put(NODES, node("b"))
    async with follow(server) as it:
        await it.settled()
        server.say(
            json.dumps({"type": "DELETED", "object": {"metadata": {"name": "a", "resourceVersion": "1"}}}).encode()
        )
        await until(lambda: server.count("GET", "limit=") == 2)
        await it.settled()
    assert it.lost == set()


async def test_an_empty_list_needs_a_second_one(server: FakeApi) -> None:
    for name in "abc":
        server.put(NODES, node(name))
    async with follow(server) as it:
        await it.settled()
        server.list_lies.append((50, []))
        server.expire()
        await until(lambda: not server.list_lies)
        await it.settled()
    assert it.lost == set()


async def test_two_empty_lists_are_believed(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    async with follow(server) as it:
        await it.settled()
        server.delete(NODES, "a", silent=True)
        server.expire()
        await until(lambda: it.names == [])


async def test_garbage_in_a_watch_lists_again(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    async with follow(server) as it:
        await it.settled()
        for line in (b"<html>", b'{"type":"NEW","object":{}}', b"null"):
            lists = server.count("GET", "limit=")
            server.say(line)
            await until(lambda lists=lists: server.count("GET", "limit=") > lists)  # type: ignore[misc]
            await it.settled()
    assert it.lost == set()


async def test_what_came_before_the_garbage_counts(server: FakeApi) -> None:
    async with follow(server) as it:
        await it.settled()
        changes = it.changes
        server.list_faults.extend([Fault(500, "InternalError")] * 1000)
        server.say(json.dumps({"type": "ADDED", "object": node("a")}).encode() + b"\n<html>")
        await until(lambda: "500" in it.informer.trouble)
        assert (it.names, it.changes) == (["a"], changes + 1)


async def test_bad_objects_are_reported_and_hide_no_other(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    server.put(NODES, {"metadata": {"name": "bad"}, "spec": {"podCIDRs": "x"}})
    async with follow(server) as it:
        await until(lambda: it.names == ["a"] and server.watchers > 0)
        good = it.informer.store.objects["", "a"]
        server.put(NODES, {"metadata": {"name": "a"}, "spec": {"podCIDR": 7}})
        server.put(NODES, node("c"))
        await until(lambda: it.names == ["a", "c"])
        assert it.informer.store.objects["", "a"] is good
        assert [problem.key[1] for problem in it.problems] == ["bad", "a"]
        server.expire()
        await until(lambda: server.count("GET", "limit=") == 2)
        server.put(NODES, node("bad"))
        server.put(NODES, node("a", "10.1.0.0/24"))
        await until(lambda: it.names == ["a", "bad", "c"] and it.informer.store.objects["", "a"] is not good)
        assert it.informer.store.problems == {}


async def test_heartbeats_wake_nobody(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    async with follow(server) as it:
        await it.settled()
        changes = it.changes
        for beat in range(10):
            server.put(NODES, node("a", status={"heartbeat": beat}))
        await until(lambda: it.informer.store.version == "11")
        assert it.changes == changes


async def test_a_burst_wakes_less_often_than_it_has_events(server: FakeApi) -> None:
    async with follow(server) as it:
        await it.settled()
        server.say(
            b"\n".join(json.dumps({"type": "ADDED", "object": node(f"n{number}")}).encode() for number in range(500))
        )
        await until(lambda: len(it.names) == 500)
        assert it.changes < 10


async def test_a_kind_the_server_does_not_know_is_empty_until_it_does(server: FakeApi) -> None:
    server.unknown.add("networkconfigs")
    async with follow(server, NETWORKCONFIGS) as it:
        await until(lambda: it.informer.synced)
        assert "404" in it.informer.trouble
        server.unknown.clear()
        server.put(NETWORKCONFIGS, {"metadata": {"name": "default"}})
        await until(lambda: it.names == ["default"])
        assert it.informer.trouble == ""


async def test_a_kind_that_vanishes_keeps_what_was_known(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    async with follow(server) as it:
        await it.settled()
        server.unknown.add("nodes")
        server.expire()
        await until(lambda: server.count("GET", "limit=") > 4)
        assert it.names == ["a"]


async def test_an_unready_server_is_waited_for(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    server.answers.extend([Fault(503, "ServiceUnavailable"), Fault(403, "Forbidden"), Fault(500, "InternalError")])
    async with follow(server) as it:
        await until(lambda: "503" in it.informer.trouble)
        assert not it.informer.synced
        await it.settled()


async def test_the_server_may_ask_for_patience(server: FakeApi) -> None:
    server.answers.append(Fault(429, "TooManyRequests", headers={"Retry-After": "1"}))
    async with follow(server, pace=Pace(first=0.001, base=0.001, cap=0.1)) as it:
        began = asyncio.get_running_loop().time()
        await it.settled()
        waited = asyncio.get_running_loop().time() - began
    assert 0.1 <= waited < 0.9, "as long as the server says, but no longer than our cap"


async def test_a_refused_watch_after_a_good_list_does_not_spin(server: FakeApi) -> None:
    server.put(NODES, node("a"))
    async with follow(server, pace=Pace(first=0.05, base=0.2, cap=1)) as it:
        await it.settled()
        server.answers.extend([expired()] * 100)
        server.cut()
        await asyncio.sleep(0.3)
        assert len(server.requests) < 12


async def test_a_watch_that_ends_at_once_does_not_spin(server: FakeApi) -> None:
    server.ends_watches = True
    async with follow(server, pace=Pace(first=0.05, base=0.2, cap=1)) as it:
        await until(lambda: "ended the watch at once" in it.informer.trouble)
        await asyncio.sleep(0.3)
        assert server.count("GET", "watch=true") < 6
        assert server.count("GET", "limit=") == 1, "what was listed stays good"


def test_backoff() -> None:
    backoff = Backoff(Pace())
    waits = [backoff.next(float(now)) for now in range(12)]
    limits = [0.1, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30, 30, 30]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))
    assert backoff.next(12 + 121) <= 0.1, "two healthy minutes and it starts over"
    assert backoff.next(12 + 122) > 0.1


def test_backoff_for_a_very_long_time() -> None:
    backoff = Backoff(Pace())
    assert max(backoff.next(float(now)) for now in range(5000)) <= 30


def test_a_thousand_agents_do_not_come_back_together() -> None:
    waits = [Backoff(Pace()).next(0.0) for _ in range(1000)]
    assert max(waits) - min(waits) > 0.04
