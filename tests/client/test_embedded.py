"""The client against podnet's own API server, a process of its own with TLS and a file; it gets no special path."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podnet.client.api import Api, ApiError
from podnet.client.config import load
from podnet.client.informer import Pace
from podnet.client.manifest import apply
from podnet.client.reflector import Informers, Watch
from podnet.objects.cluster import Cluster
from podnet.objects.core import ConfigMap, Node
from podnet.objects.kinds import CONFIGMAPS, NAMESPACES, NETWORKCONFIGS, NODES, PODS
from tests.client.waiting import until

RUN = "from podnet.apiserver.main import command; command()"
NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: %s, labels: {zone: z}}\n"
POD = """
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default}
spec: {nodeName: %s, containers: [{name: main, image: none, command: [sleep]}]}
"""


class Server:
    """The process, its port kept over restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listen = "127.0.0.1:0"
        self.process: asyncio.subprocess.Process | None = None

    @property
    def kubeconfig(self) -> str:
        return str(self.folder / "admin.kubeconfig")

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", RUN, "--data-dir", str(self.folder), "--listen", self.listen,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout
        async with asyncio.timeout(20):
            ready = (await self.process.stdout.readline()).decode()
        self.listen = ready.strip().rpartition("https://")[2]
        assert self.listen.startswith("127.0.0.1:")

    async def end(self, how: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(how)
        await self.process.communicate()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path)
    await made.start()
    yield made
    await made.end(signal.SIGKILL)


async def until_nodes(informers: Informers, names: set[str]) -> Cluster:
    """Wait for exactly these nodes."""
    cluster = informers.cluster
    async with asyncio.timeout(10):
        while {name for _, name in cluster.nodes} != names:
            cluster = await informers.changed(cluster)
    return cluster


async def test_verbs(server: Server) -> None:
    async with Api(load(server.kubeconfig)) as api:
        assert {str(each) for each in await apply(api, NODE % "n1" + "---" + POD % ("p", "n1"))} == {
            "node/n1 created",
            "pod/p created",
        }
        assert [each.outcome for each in await apply(api, NODE % "n1")] == ["unchanged"]
        assert (await api.get(NODES, "n1", into=Node)).metadata.labels == {"zone": "z"}
        assert [pod.key for pod in await api.list(PODS, field_selector="spec.nodeName=n1")] == [("default", "p")]
        assert await api.list(NODES, label_selector="zone!=z") == ()
        await api.status(NODES, "n1", {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]})
        assert (await api.get(NODES, "n1", into=Node)).status.addresses[0].address == "192.0.2.1"
        for number in range(7):
            await api.create(CONFIGMAPS, {"metadata": {"name": f"c{number}"}, "data": {"n": str(number)}})
        listed = await api.list(CONFIGMAPS, "default", into=ConfigMap)
        assert {each.data["n"] for each in listed} >= set("0123456")
        document = await api.get(CONFIGMAPS, "c1", into=dict)
        await api.patch(CONFIGMAPS, "c1", {"data": {"n": None}})
        with pytest.raises(ApiError) as caught:
            await api.replace(CONFIGMAPS, document)
        assert caught.value.reason == "Conflict"
        await api.delete(CONFIGMAPS, "c1")
        with pytest.raises(ApiError) as caught:
            await api.create(NODES, {"metadata": {"name": "UPPER"}})
        assert (caught.value.code, caught.value.details.causes[0].field) == (422, "metadata.name")


async def test_informers_survive_a_kill_and_lose_nothing(server: Server) -> None:
    watches = [Watch(NODES), Watch(NAMESPACES), Watch(NETWORKCONFIGS), Watch(PODS, field_selector="spec.nodeName=n1")]
    async with Api(load(server.kubeconfig), timeout=10) as api:
        informers = Informers(api, watches, pace=Pace(page=2, confirm=0.05))
        task = asyncio.create_task(informers.run())
        first = await informers.until_synced()
        assert ("", "default") in first.namespaces
        for number in range(5):
            await apply(api, NODE % f"n{number}")
        await apply(api, POD % ("mine", "n1") + "---" + POD % ("other", "n2"))
        before = await until_nodes(informers, {f"n{number}" for number in range(5)})
        await server.end(signal.SIGKILL)
        await until(lambda: informers.trouble)
        await server.start()
        await apply(api, NODE % "late")
        after = await until_nodes(informers, {*(f"n{number}" for number in range(5)), "late"})
        await until(lambda: list(informers.cluster.pods) == [("default", "mine")] and not informers.trouble, 10)
        assert [key for key in before.nodes if key not in after.nodes] == []
        await api.delete(NODES, "late")
        await until_nodes(informers, {f"n{number}" for number in range(5)})
        informers.stop()
        await task


async def test_pages_of_a_real_list(server: Server) -> None:
    async with Api(load(server.kubeconfig)) as api:
        for number in range(5):
            await apply(api, NODE % f"n{number}")
        pages = [page async for page in api.pages(NODES, query={"limit": 2})]
        assert [len(page.items or ()) for page in pages] == [2, 2, 1]
        assert {page.metadata.resource_version for page in pages[1:]} == {pages[0].metadata.resource_version}
