"""The watch over the DNS cache: when it has fallen, when it is killed, what is purged; pods that ask too much."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.agent import dns_cache, metrics
from podnet.agent.agent import Agent
from podnet.agent.dns_cache import HUNG, LEAVE, MISSES, RISES, DnsCache, State
from podnet.agent.dns_limits import DnsLimits
from podnet.kernel.fake import FakeDataplane
from podnet.kernel.reconciler import Reconciler
from podnet.network.dns.node_cache import LINK, NAME, TABLE
from podnet.network.view import Problem
from podnet.objects.cluster import Cluster
from podnet.objects.network import DnsSpec
from podnet.objects.services import Service
from podnet.state.host import SignalDaemon
from podnet.wire import dns
from tests import worlds
from tests.network.dns.test_node_cache import world as dns_world

ADDRESS = dns.record(dns.A, 30, bytes((10, 96, 0, 1)))


class Cache:
    """What would be at the address: it answers or not, and has names or not."""

    def __init__(self) -> None:
        self.answers = True
        self.names: set[str] = set()
        self.remembered: set[str] = set()
        self.asked: list[str] = []

    async def exchange(self, address: str, query: bytes, seconds: float) -> dns.Message | None:
        found = dns.read_query(query)
        self.asked.append(dns.text(found.name))
        if not self.answers:
            return None
        if found.cls == dns.CHAOS:
            return dns.read(dns.answer(found, dns.piece([dns.record(dns.TXT, 0, dns.txt("7"), cls=dns.CHAOS)])))
        name = dns.text(found.name)
        if name in self.names and name not in self.remembered:
            made = dns.record(dns.PTR, 30, dns.name("web")) if found.type == dns.PTR else ADDRESS
            return dns.read(dns.answer(found, dns.piece([made])))
        return dns.read(dns.answer(found, dns.NONE, dns.NXDOMAIN))


class Desk:
    def __init__(self) -> None:
        self.world = dns_world(dual=False)
        self.plane = FakeDataplane({"eth0": ("192.168.77.11/24",)})
        self.told: list[Problem] = []
        self.time = 0.0
        self.cache = DnsCache("n1", self.told.append, lambda: self.time)
        self.agent = Agent(
            "n1",
            Reconciler(self.plane),
            ThreadPoolExecutor(1),
            cluster=lambda: self.world,
            facts=lambda _: worlds.facts(1),
            attachments=(worlds.attachment(1, 1),),
            cached=self.cache.answers,
        )
        self.cache.agent = self.agent
        self.there = Cache()
        self.limits = DnsLimits(self.agent, self.told.append)

    def fallen(self) -> bool:
        """What the kernel was told."""
        return ("Element", "", "inet", TABLE, "fallen-ip", "10.96.0.10") in self.plane.holds

    def signals(self) -> list[int]:
        return [each.number for each in self.plane.acted if each == SignalDaemon(NAME, getattr(each, "number", 0))]

    async def settled(self) -> None:
        """Signals that are under way arrive."""
        for task in tuple(self.cache._signals):
            await task

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.cache.look()
        await self.agent._pass()


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    made = Desk()
    monkeypatch.setattr(dns_cache, "exchange", made.there.exchange)
    yield made
    await made.settled()


async def test_one_that_answers_already_is_used_from_the_first_pass_on(desk: Desk) -> None:
    await desk.agent._pass()
    await desk.settled()
    assert not desk.fallen()
    assert ("Daemon", "", NAME) in desk.plane.holds
    assert desk.told == []
    assert desk.signals() == [signal.SIGHUP], "names may have come to be since it was asked for them"


async def test_one_that_does_not_answer_yet_is_waited_for(desk: Desk) -> None:
    desk.there.answers = False
    await desk.agent._pass()
    assert desk.fallen()
    desk.there.answers = True
    await desk.look(RISES)
    assert not desk.fallen()
    assert desk.told == []


async def test_a_fall_is_told_once_and_led_around(desk: Desk) -> None:
    await desk.agent._pass()
    falls = metrics.REGISTRY.get_sample_value("podnet_dns_cache_falls_total") or 0
    desk.there.answers = False
    await desk.look(MISSES - 1)
    assert not desk.fallen()
    await desk.look(2)
    assert desk.fallen()
    assert [(told.object, told.reason) for told in desk.told] == [("Node/n1", "DnsCacheFell")]
    assert metrics.REGISTRY.get_sample_value("podnet_dns_cache_falls_total") == falls + 1
    assert metrics.REGISTRY.get_sample_value("podnet_dns_cache_up") == 0
    desk.there.answers = True
    await desk.look(RISES)
    assert not desk.fallen()
    assert metrics.REGISTRY.get_sample_value("podnet_dns_cache_hits") == 7


async def test_one_that_hangs_is_killed_once_in_a_while(desk: Desk) -> None:
    await desk.agent._pass()
    desk.there.answers = False
    await desk.look(MISSES)
    await desk.settled()
    assert signal.SIGKILL not in desk.signals()
    desk.time += HUNG + 1
    await desk.look(3)
    await desk.settled()
    assert desk.signals().count(signal.SIGKILL) == 1


async def test_a_name_that_comes_to_be_is_purged(desk: Desk) -> None:
    """Also if it is in the first snapshot that comes after the cache was turned on."""
    desk.cache.follow(desk.world)
    await desk.agent._pass()
    await desk.settled()
    before = desk.signals()
    name = "web.default.svc.cluster.local"
    desk.there.remembered.add(name)
    desk.cache.follow(_with(desk.world, worlds.service()))
    await desk.cache.purging.step()
    await desk.settled()
    assert desk.signals() == [*before, signal.SIGHUP]
    assert name in desk.there.asked
    desk.there.remembered.clear()
    desk.there.names |= {name, "1.0.96.10.in-addr.arpa"}
    desk.time += 1
    await desk.cache.purging.step()
    assert len(desk.cache.purging) == 0
    assert desk.signals() == [*before, signal.SIGHUP]


async def test_an_old_address_is_purged(desk: Desk) -> None:
    """A Service that changed its address, and one that is gone, which the cache answers as before."""
    await desk.agent._pass()
    desk.cache.follow(_with(desk.world, worlds.service()))
    await desk.settled()
    before = desk.signals()
    desk.there.names |= {"web.default.svc.cluster.local", "2.0.96.10.in-addr.arpa"}
    for world in (_with(desk.world, worlds.service(cluster_ip="10.96.0.2")), desk.world):
        desk.time += 100
        await desk.cache.purging.step()  # what was said before is given up
        desk.cache.follow(world)
        await desk.cache.purging.step()
        await desk.settled()
        before.append(signal.SIGHUP)
        assert desk.signals() == before
    desk.there.names.clear()
    desk.time += 1
    assert await desk.cache.purging.step() is None
    assert desk.signals() == before


async def test_one_that_is_no_longer_wanted_stays_a_moment(desk: Desk) -> None:
    await desk.agent._pass()
    desk.world = dns_world(DnsSpec(), dual=False)
    await desk.look()
    assert desk.fallen()
    assert ("Daemon", "", NAME) in desk.plane.holds
    desk.time += LEAVE
    await desk.look()
    assert ("Daemon", "", NAME) not in desk.plane.holds
    assert desk.plane.holds.keys() & {("Link", "", LINK)} == set()


async def test_without_a_cache_nothing_is_asked(desk: Desk) -> None:
    desk.world = dns_world(DnsSpec(), dual=False)
    await desk.look(3)
    desk.cache.follow(desk.world)
    desk.cache.follow(_with(desk.world, worlds.service()))
    await desk.cache.purging.step()
    assert desk.there.asked == []
    assert desk.cache.state is None
    assert not desk.fallen()


async def test_pods_that_ask_too_much_are_told_of_once(desk: Desk) -> None:
    await desk.agent._pass()
    desk.plane.memory["inet", TABLE, "set limited-ip"] = ("10.244.1.2 counter", "10.244.1.77")
    await desk.limits.look()
    await desk.limits.look()
    assert desk.limits.now == {"default/p1-1", "10.244.1.77"}
    assert [(told.object, told.reason) for told in desk.told] == [("Pod/default/p1-1", "DnsRateLimited")]
    assert "2000 DNS queries a second" in desk.told[0].message
    assert metrics.REGISTRY.get_sample_value("podnet_dns_limited_pods") == 2
    desk.plane.memory.clear()
    await desk.limits.look()
    assert desk.limits.now == frozenset()


def _with(world: Cluster, made: Service) -> Cluster:
    return replace(world, services={**world.services, made.key: made})


@given(st.lists(st.booleans(), max_size=12))
def test_a_state_changes_after_so_many_answers_to_the_contrary_in_a_row(heard: list[bool]) -> None:
    state = State()
    for number, answered in enumerate(heard):
        before, state = state, state.heard(answered)
        needed = RISES if answered else MISSES
        run = heard[max(0, number + 1 - needed) : number + 1]
        if state.answers != before.answers:
            assert run == [answered] * needed
        elif len(run) == needed and set(run) == {answered}:
            assert state.answers == answered
