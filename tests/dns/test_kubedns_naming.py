"""From the API's watch to the next answer, and to the cache in front."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web

from podnet.client.api import Api
from podnet.client.config import Credentials
from podnet.client.informer import Pace
from podnet.client.reflector import Informers, Watch
from podnet.daemons.dns_client import DnsClient
from podnet.dns import naming
from podnet.dns.answering import Answers, Servers
from podnet.dns.kubedns import _heed
from podnet.dns.naming import Naming
from podnet.network.dns import named
from podnet.network.dns.settings import Server, Settings
from podnet.network.dns.zone import Options
from podnet.objects.kinds import ENDPOINTSLICES, NAMESPACES, PODS, SERVICES
from podnet.wire import dns
from podnet.wire.dns import NOERROR, NXDOMAIN, SERVFAIL, A
from tests.client.fake_api import FakeApi
from tests.client.waiting import until
from tests.daemons.test_asking import address, served
from tests.daemons.test_dns_client import at

FAST = Pace(first=0.002, base=0.005, cap=0.03, confirm=0.01, brief=0.002)
SVC = "demo.svc.cluster.local"
WATCHES = [Watch(named.SERVICES), Watch(named.ENDPOINTSLICES), Watch(named.NAMESPACES), Watch(named.PODS)]


def service(name: str, ip: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "demo"}, "spec": {"clusterIP": ip, "clusterIPs": [ip]}}


def pod(name: str, ip: str, search: str = "") -> dict[str, Any]:
    marks = {"podnet.dev/dns-search": search} if search else {}
    status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
    return {"metadata": {"name": name, "namespace": "demo", "annotations": marks}, "status": status}


class World:
    def __init__(self, api: FakeApi, answers: Answers) -> None:
        self.api, self.answers = api, answers

    def said(self, name: str, client: str = "10.9.9.9") -> int | list[str]:
        """The addresses, or the RCODE."""
        said = self.answers.datagram(dns.question(7, dns.name(name), A), client)
        assert isinstance(said, bytes)
        heard = dns.read(said)
        return [dns.shown(each) for each in heard.answers] or heard.rcode


@asynccontextmanager
async def world(completing: str = "off", purge: str = "", unlisted: bool = False) -> AsyncIterator[World]:
    async with FakeApi() as fake, Api(Credentials(server=fake.url), timeout=2) as api:
        fake.put(NAMESPACES, {"metadata": {"name": "demo"}})
        fake.put(SERVICES, service("web", "10.96.0.7"))
        answers = Answers(DnsClient(0.3))
        informers = Informers(api, WATCHES, pace=FAST)
        follower = Naming(answers, informers, Options(), completing, purge)
        tasks = [asyncio.create_task(informers.run()), asyncio.create_task(follower.follow())]
        tasks += [asyncio.create_task(follower.tell())] if purge else []
        try:
            if not unlisted:
                await until(lambda: answers.zone)
            yield World(fake, answers)
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def test_nothing_is_known_before_everything_is() -> None:
    async with world(unlisted=True) as here:
        assert here.said(f"web.{SVC}") == SERVFAIL
        await until(lambda: here.answers.zone)
        assert here.said(f"web.{SVC}") == ["10.96.0.7"]


async def test_what_the_watch_brings_is_in_the_next_answer() -> None:
    async with world() as here:
        assert here.said(f"db.{SVC}") == NXDOMAIN
        here.api.put(SERVICES, service("db", "None"))
        piece = {
            "metadata": {"name": "db-1", "namespace": "demo", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "hostname": "db-0"}],
        }
        here.api.put(ENDPOINTSLICES, piece)
        await until(lambda: here.said(f"db.{SVC}") == ["10.0.0.1"])
        assert here.said(f"db-0.db.{SVC}") == ["10.0.0.1"]
        here.api.put(ENDPOINTSLICES, piece | {"endpoints": None})
        await until(lambda: here.said(f"db.{SVC}") == NXDOMAIN)
        here.api.put(PODS, pod("a", "10.0.0.2"))
        await until(lambda: here.said("10-0-0-2.demo.pod.cluster.local") == ["10.0.0.2"])
        here.api.delete(SERVICES, "web", "demo")
        await until(lambda: here.said(f"web.{SVC}") == NXDOMAIN)
        assert here.said(SVC) == NOERROR


@pytest.mark.parametrize(("completing", "completed"), [("off", set()), ("annotated", {"b"}), ("all", {"a", "b"})])
async def test_whose_searches_are_completed(completing: str, completed: set[str]) -> None:
    async with world(completing) as here:
        clients = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
        here.api.put(PODS, pod("a", clients["a"]))
        here.api.put(PODS, pod("b", clients["b"], search="server"))
        here.api.put(PODS, pod("c", clients["c"], search="client"))
        await until(lambda: here.said("10-0-0-3.demo.pod.cluster.local") == ["10.0.0.3"])
        wanted = f"web.demo.svc.{SVC}"  # the first step of a search for web.demo.svc
        found = {name for name, ip in clients.items() if here.said(wanted, ip) == [f"web.{SVC}", "10.96.0.7"]}
        assert found == completed
        assert here.said(wanted) == NXDOMAIN, "nobody's pod"


class Cache:
    """Hears of names; fails at first."""

    def __init__(self) -> None:
        self.failures = 1
        self.heard: list[dict[str, Any]] = []

    async def purge(self, request: web.Request) -> web.Response:
        if self.failures:
            self.failures -= 1
            return web.Response(status=500)
        self.heard += await request.json()
        return web.Response()


async def test_the_cache_hears_what_it_may_be_wrong_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "PURGE_SECONDS", 0.05)
    cache, app = Cache(), web.Application()
    app.router.add_post("/purge", cache.purge)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with world(purge=f"http://127.0.0.1:{runner.addresses[0][1]}/purge") as here:
        here.api.put(SERVICES, service("new", "10.96.0.8"))
        await until(lambda: cache.heard)
        told = [*cache.heard]
        assert told == [
            {"name": f"new.{SVC}", "type": "A", "answers": ["10.96.0.8"]},
            {"name": "8.0.96.10.in-addr.arpa", "type": "PTR", "answers": [f"new.{SVC}"]},
        ]
        here.api.put(SERVICES, service("new", "10.96.0.9"))
        await until(lambda: len(cache.heard) > len(told))
        assert cache.heard[len(told) :] == [
            {"name": f"new.{SVC}", "type": "A", "answers": ["10.96.0.9"]},
            {"name": "9.0.96.10.in-addr.arpa", "type": "PTR", "answers": [f"new.{SVC}"]},
        ]
        told = [*cache.heard]
        cache.failures = 1
        here.api.delete(SERVICES, "new", "demo")
        await until(lambda: not cache.failures)
        here.api.put(SERVICES, service("new", "10.96.0.10"))
        await until(lambda: len(cache.heard) > len(told))
        last = {each["name"]: each["answers"] for each in cache.heard[len(told) :]}
        assert last[f"new.{SVC}"] == ["10.96.0.10"], "the last word counts"
    await runner.cleanup()


async def test_whom_the_administrator_names_is_asked_from_then_on() -> None:
    async def said(*each: Settings) -> AsyncIterator[Settings]:
        for settings in each:
            yield settings

    async with served(lambda message: [address(message)]) as (up, _):
        one, own = Server(*at(up)), Server("127.0.0.1", 1)
        answers = Answers(DnsClient(0.2))
        await _heed(said(Settings()), answers, (own,), ())
        assert answers.servers.upstreams == (("127.0.0.1", 1),)
        await _heed(said(Settings({"Corp.test": (one,)}, (one,))), answers, (own,), ())
        servers: Servers = answers.servers
        assert servers.stubs == {dns.name("corp.test"): (at(up),)}
        assert servers.upstreams == (at(up),)
