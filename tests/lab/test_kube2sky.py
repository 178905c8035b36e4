"""kube2sky between podnet's own API server and Debian's etcd."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podnet.client.api import Api
from podnet.client.config import load
from podnet.client.etcd import Etcd
from podnet.client.etcd_dialects import ETCD, Etcd3
from podnet.client.informer import Pace
from podnet.client.manifest import apply
from podnet.client.reflector import Informers, Watch
from podnet.dns.kube2sky import KINDS, Writer
from podnet.network.dns.skydns_records import label, value
from podnet.objects.kinds import SERVICES
from tests.client.test_embedded import Server
from tests.lab.etcds import EtcdProcess

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not shutil.which("etcd"), reason="needs Debian's etcd-server"),
]
WAIT = 60.0
ROOT = "/skydns/local/cluster"
WEB = f"{ROOT}/svc/default/web"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default}
spec: {clusterIP: %s, ports: [{name: http, port: 80}]}
"""
SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: default, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.244.1.2], conditions: {ready: true}}]
ports: [{name: sql, port: 5432, protocol: TCP}]
"""


class World:
    """The API, etcd, and kube2sky between them."""

    def __init__(self, server: Server, process: EtcdProcess, api: Api, etcd: Etcd) -> None:
        self.server, self.process, self.api, self.etcd = server, process, api, etcd
        self.writer: Writer
        self._running: asyncio.Task[None] | None = None

    def begin(self) -> None:
        informers = Informers(self.api, map(Watch, KINDS), pace=Pace(confirm=0.05))
        self.writer = Writer(self.etcd, informers, "cluster.local.", resync=3600, patience=1)
        self._running = asyncio.create_task(self.writer.run())

    async def end(self) -> None:
        if self._running:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def held(self, root: str = f"{ROOT}/svc/default") -> dict[str, str]:
        return (await self.etcd.read(root)).values

    async def until_held(self, root: str, hosts: set[str]) -> None:
        """Wait until exactly these hosts stand below a key, what etcd 2 hides not counted."""
        async with asyncio.timeout(WAIT):
            while True:
                values = await self.held(root)
                if {json.loads(text)["host"] for key, text in values.items() if "/_" not in key[len(root) :]} == hosts:
                    return
                await asyncio.sleep(0.02)

    async def until_ready(self) -> None:
        async with asyncio.timeout(WAIT):
            while self.writer.not_ready():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.02)


@pytest.fixture(params=["2", "3"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    server, process = Server(tmp_path), EtcdProcess(tmp_path / "etcd")
    (tmp_path / "etcd").mkdir()
    await asyncio.gather(server.start(), process.start())
    async with Api(load(server.kubeconfig)) as api, ETCD[request.param]([process.url], timeout=5) as etcd:
        made = World(server, process, api, etcd)
        yield made
        await made.end()
    await asyncio.gather(server.end(signal.SIGKILL), process.end())


async def test_names_follow_the_api(world: World) -> None:
    await apply(world.api, SERVICE % ("web", "10.96.0.7") + "---" + SERVICE % ("db", "None") + "---" + SLICE)
    world.begin()
    assert world.writer.not_ready()
    await world.until_ready()
    await world.until_held(WEB, {"10.96.0.7"})
    await world.until_held(f"{ROOT}/svc/default/db", {"10.244.1.2"})
    web, db = label(value("10.96.0.7")), label(value("10.244.1.2"))
    assert await world.held(f"{WEB}/_tcp/_http") == {
        f"{WEB}/_tcp/_http/{web}": value("web.default.svc.cluster.local.", 80)
    }
    at = f"{ROOT}/svc/default/db/_tcp/_sql"
    assert await world.held(at) == {f"{at}/{db}": value(f"{db}.db.default.svc.cluster.local.", 5432)}
    await apply(world.api, SERVICE % ("late", "10.96.0.8"))
    await world.until_held(f"{ROOT}/svc/default/late", {"10.96.0.8"})
    await world.api.delete(SERVICES, "web", "default")
    await world.until_held(WEB, set())
    assert await world.held(f"{WEB}/_tcp/_http") == {}
    await world.until_held(f"{ROOT}/svc/default/late", {"10.96.0.8"})


async def test_only_its_own_is_touched_and_what_others_do_there_is_undone(world: World) -> None:
    theirs = {"/skydns/config": "{}", f"{ROOT}/dns/ns/a": '{"host":"192.0.2.1"}', "/skydns/local/other/svc/a/b/1": "x"}
    stale = {f"{ROOT}/svc/default/old/1": '{"host":"192.0.2.9"}', f"{ROOT}/svc/default/old/_tcp/_http/1": "{}"}
    await world.etcd.write({**theirs, **stale, f"{WEB}/2": "{}", f"{WEB}/_udp/_old/2": "{}"})
    await apply(world.api, SERVICE % ("web", "10.96.0.7"))
    world.begin()
    await world.until_held(f"{ROOT}/svc/default/old", set())
    await world.until_ready()
    assert await world.held(f"{ROOT}/svc/default/old/_tcp/_http") == await world.held(f"{WEB}/_udp/_old") == {}
    assert {key: (await world.held(key.rpartition("/")[0])).get(key) for key in theirs} == theirs
    await world.until_held(WEB, {"10.96.0.7"})
    await world.etcd.write({f"{WEB}/x": '{"host":"192.0.2.9"}'}, gone=[f"{WEB}/{label(value('10.96.0.7'))}"])
    await world.until_held(WEB, {"10.96.0.7"})


async def test_etcd_may_be_killed_and_come_back_empty(world: World) -> None:
    await apply(world.api, SERVICE % ("web", "10.96.0.7"))
    world.begin()
    await world.until_held(WEB, {"10.96.0.7"})
    await world.until_ready()
    await world.process.end()
    await apply(world.api, SERVICE % ("late", "10.96.0.8"))
    async with asyncio.timeout(WAIT):
        while not world.writer.not_ready():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)
    await world.process.start("empty")
    await world.until_held(WEB, {"10.96.0.7"})
    await world.until_held(f"{ROOT}/svc/default/late", {"10.96.0.8"})
    assert len(await world.held(f"{WEB}/_tcp/_http")) == 1
    await world.until_ready()


async def test_nothing_is_deleted_before_the_api_was_listed(world: World) -> None:
    await apply(world.api, SERVICE % ("web", "10.96.0.7"))
    world.begin()
    await world.until_held(WEB, {"10.96.0.7"})
    await world.end()
    revision = (await world.etcd.read(ROOT)).revision
    before = await world.held(ROOT)
    await world.server.end(signal.SIGKILL)
    world.begin()
    async with asyncio.timeout(WAIT):
        while not world.writer._mirror.synced:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)
    assert world.writer.not_ready()
    await world.server.start()
    await world.until_ready()
    assert await world.held(ROOT) == before
    if isinstance(world.etcd, Etcd3):
        assert (await world.etcd.read(ROOT)).revision == revision, "nothing had to be written"
