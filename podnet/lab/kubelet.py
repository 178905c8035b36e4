"""`python -m podnet.lab.kubelet LAB NODE`: a small kubelet, in its node's network namespace.

It registers the node, says whether the node is ready, keeps its lease, and gives every pod that the API assigns to the
node a PodLife. It may be killed at any moment: containers, namespaces and records stay, and the next one adopts them.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Collection, Iterable

from podnet.client.api import Api
from podnet.client.config import Credentials
from podnet.client.config import load as load_credentials
from podnet.client.reflector import Informers, Watch
from podnet.errors import UserError
from podnet.lab import libcni, registry
from podnet.lab.containers import Backoff, Host
from podnet.lab.kubelet_server import serve
from podnet.lab.libcni import Cni, Network
from podnet.lab.node import Registration
from podnet.lab.pod import PodLife
from podnet.lab.process import BIN, watch_children
from podnet.lab.registry import LabNode
from podnet.lab.sandbox import Sandboxes, read_all, read_pod
from podnet.network.dns.resolv_conf import ClusterDns, cluster_dns
from podnet.objects.core import Pod
from podnet.objects.kinds import NETWORKCONFIGS, PODS, SERVICES
from podnet.objects.network import NetworkConfig
from podnet.objects.services import Service

log = logging.getLogger(__name__)

PLUGIN_DIRS = (BIN, "/opt/cni/bin", "/usr/lib/cni")
LOOK_SECONDS = 0.1
RETRY_SECONDS = 5.0


class Kubelet:
    """The pods of one node."""

    def __init__(self, node: LabNode, api: Api, backoff: Backoff | None = None) -> None:
        self.lives: dict[str, PodLife] = {}
        self.known = asyncio.Event()
        """Set when every pod of the node has its life."""
        self._node = node
        self._api = api
        self._network: Network | None = None
        self._network_ready = asyncio.Event()
        self._cluster = Informers(api, [Watch(SERVICES), Watch(NETWORKCONFIGS)])
        self._host = Host(node.name, node.addresses, backoff or Backoff(), self._known_services, self._dns)
        self._cni = Cni(PLUGIN_DIRS, f"{node.folder}/cni")
        self._sandboxes = Sandboxes(node.pods_dir, self._cni, lambda: self._network, node.netns, node.addresses)
        self._registration = Registration(node, api)
        self._pods = Informers(api, [Watch(PODS, field_selector=f"spec.nodeName={node.name}")])
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Be the node's kubelet until cancelled; the pods stay."""
        try:
            async with asyncio.TaskGroup() as group:
                for following in (self._registration, self._pods, self._cluster):
                    group.create_task(following.run())
                for work in (self._watch_network(), self._follow_pods()):
                    group.create_task(work)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def find(self, namespace: str, name: str) -> PodLife | None:
        """The life of the newest pod of this name."""
        found = [life for life in self.lives.values() if life.pod.key == (namespace, name)]
        return found[-1] if found else None

    # -- pods

    async def _follow_pods(self) -> None:
        await self._cluster.until_synced()  # containers are told of them
        cluster = await self._pods.until_synced()
        for sandbox in read_all(self._node.pods_dir):
            if sandbox.uid not in {known.metadata.uid for known in cluster.pods.values()}:
                self._begin(read_pod(sandbox)).end()
        while True:
            self._assign_all()
            self.known.set()
            cluster = await self._pods.changed(cluster)

    def _assign_all(self) -> None:
        self._assign(self._pods.cluster.pods.values())

    def _assign(self, pods: Collection[Pod]) -> None:
        """Tell every life what its object says now, and begin those that are new."""
        present = {pod.metadata.uid: pod for pod in pods}
        for uid, pod in present.items():
            (self.lives.get(uid) or self._begin(pod)).update(pod)
        for uid in self.lives.keys() - present.keys():
            self.lives[uid].end()

    def _begin(self, pod: Pod) -> PodLife:
        life = PodLife(pod, self._api, self._sandboxes, self._host, self._network_ready)
        self.lives[pod.metadata.uid] = life
        task = asyncio.create_task(life.run(), name="/".join(pod.key))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(life, task))
        return life

    def _ended(self, life: PodLife, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.lives.pop(life.pod.metadata.uid, None)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s/%s", *life.pod.key, exc_info=error)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._assign_all)

    def _known_services(self) -> Iterable[Service]:
        return self._cluster.cluster.services.values()

    def _dns(self) -> ClusterDns:
        cluster = self._cluster.cluster
        spec = (cluster.network or NetworkConfig()).spec
        namespace, _, name = spec.dns.service.partition("/")
        service = cluster.services.get((namespace, name))
        return cluster_dns(spec, service, tuple(registry.dns_addresses(len(self._node.addresses) > 1)))

    # -- network

    async def _watch_network(self) -> None:
        """Follow the conflist: the node is ready for pods while there is one."""
        collected = False
        while True:
            trouble = self._look()
            if self._network and not collected:
                await self._collect(self._network)
                collected = True
            if self._network:
                self._network_ready.set()
            else:
                self._network_ready.clear()
            self._registration.network_trouble(trouble)
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> str:
        """Read the conflist; what is wrong with it, "" when nothing is."""
        try:
            self._network = libcni.load(self._node.conf_dir)
        except ValueError as error:
            self._network = None
            return f"{self._node.conf_dir}: {error}"
        return "" if self._network else "cni plugin not initialized"

    async def _collect(self, network: Network) -> None:
        """Once, before any ADD: what belongs to no finished sandbox is garbage."""
        valid = [(sandbox.id, "eth0") for sandbox in read_all(self._node.pods_dir) if sandbox.ready]
        for error in await self._cni.collect(network, valid):
            log.warning("%s", error)


async def serve_node(lab: str, name: str) -> None:
    """Everything a kubelet process does, until SIGTERM."""
    node = registry.load(lab).node(name)
    credentials = load_credentials(node.kubeconfig)
    async with Api(credentials) as api:
        running = asyncio.create_task(_run(Kubelet(node, api), node, credentials))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()


async def _run(kubelet: Kubelet, node: LabNode, credentials: Credentials) -> None:
    """The kubelet, and its server once it can answer for its pods."""
    async with asyncio.TaskGroup() as group:
        group.create_task(kubelet.run())
        await kubelet.known.wait()
        server = await serve(kubelet, node, credentials)
        try:
            await asyncio.Event().wait()
        finally:
            await server.cleanup()


def main(arguments: list[str]) -> None:
    """The process's entry."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    watch_children()
    try:
        lab, node = arguments
        asyncio.run(serve_node(lab, node))
    except (ValueError, UserError) as error:
        sys.exit(f"podnet.lab.kubelet: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
