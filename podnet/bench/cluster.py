"""A cluster to measure on: an API server, and nodes that run nothing but the real agent.

The nodes are wired like a lab's; the one thing that is missing of a kubelet, the Node object with its address, is
written here. Pods are attached as a runtime does it, through the conflist that the agent wrote.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

import msgspec

from podnet.bench.chain import Chain
from podnet.bench.synthetic import POD_CIDR
from podnet.client.api import Api
from podnet.client.config import load
from podnet.kernel import netns
from podnet.lab import fabric, libcni, registry
from podnet.lab.registry import Lab, LabNode
from podnet.objects.core import Node, NodeAddress, NodeSpec, NodeStatus
from podnet.objects.kinds import NETWORKCONFIGS, NODES
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import NETWORK_NAME, NetworkConfig, NetworkSpec, ProxySpec

BIN = os.path.dirname(sys.executable)
PATIENCE = 20.0


class NotReady(Exception):
    """Something did not come up in time; the text has the last lines of its log."""


class Cluster:
    """Starts everything; it lives as long as the arena. `others` are Node objects of machines that do not exist;
    without `nat` there are no Services and nothing is masqueraded."""

    def __init__(
        self, name: str, nodes: int, backend: str = "vxlan", others: Iterable[Node] = (), nat: bool = True
    ) -> None:
        folder = registry.folder(name)
        made = tuple(registry.make_node(folder, number, dual_stack=False) for number in range(1, nodes + 1))
        self.lab = Lab(name=name, folder=folder, port=0, nodes=made)
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        os.makedirs(os.path.dirname(self.lab.fabric_netns))
        fabric.make_fabric(self.lab)
        self._api_server()
        spec = NetworkSpec(pod_cidrs=(POD_CIDR,), backend={"type": backend})
        if not nat:
            spec = msgspec.structs.replace(spec, masquerade=False, proxy=ProxySpec(mode="none"))
        network = NetworkConfig(metadata=ObjectMeta(name=NETWORK_NAME), spec=spec)
        with netns.inside(self.lab.fabric_netns):
            asyncio.run(self._describe(network, [*map(_object, made), *others]))
        for node in made:
            self._agent(node)
        for node in made:
            self._await(lambda node=node: os.listdir(node.conf_dir), f"agent-{node.name}")  # type: ignore[misc]

    def chain(self, node: LabNode) -> Chain:
        """What attaches pods to a node."""
        network = libcni.load(node.conf_dir)
        assert network is not None, "the constructor waited for the conflist"
        return Chain(node.netns, network, BIN)

    def _api_server(self) -> None:
        data = f"{self.lab.folder}/api"
        listen = self.lab.fabric_url.removeprefix("https://")
        words = ["apiserver", "--data-dir", data, "--listen", listen, "--pod-cidr", POD_CIDR]
        self._start("api", self.lab.fabric_netns, words)
        self.kubeconfig = f"{data}/admin.kubeconfig"
        self._await(lambda: b"is ready" in _tail(self._log("api")), "api")

    def _agent(self, node: LabNode) -> None:
        words = ["agent", "--node", node.name, "--kubeconfig", self.kubeconfig, "--state-dir", node.state_dir]
        words += ["--run-dir", node.run_dir, "--conf-dir", node.conf_dir]
        fabric.make_node(self.lab, node)
        os.makedirs(node.conf_dir)
        self.agents[node.name] = self._start(f"agent-{node.name}", node.netns, words)

    def _start(self, program: str, place: str, words: list[str]) -> subprocess.Popen[bytes]:
        with open(self._log(program), "wb") as log:
            command = ["nsenter", f"--net={place}", f"{BIN}/podnet", *words]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _log(self, program: str) -> str:
        return f"{self.lab.folder}/{program}.log"

    def _await(self, ready: Callable[[], object], program: str) -> None:
        end = time.monotonic() + PATIENCE
        while not ready():
            if time.monotonic() > end:
                raise NotReady(f"{program} did not come up:\n{_tail(self._log(program)).decode(errors='replace')}")
            time.sleep(0.02)

    async def _describe(self, network: NetworkConfig, nodes: Iterable[Node]) -> None:
        async with Api(load(self.kubeconfig)) as api:
            await api.create(NETWORKCONFIGS, network)
            for node in nodes:
                await api.create(NODES, node)
                await api.status(NODES, node.metadata.name, {"addresses": msgspec.to_builtins(node.status.addresses)})


def _object(node: LabNode) -> Node:
    cidr = f"10.0.{node.number}.0/24"
    return Node(
        metadata=ObjectMeta(name=node.name),
        spec=NodeSpec(pod_cidr=cidr, pod_cidrs=(cidr,)),
        status=NodeStatus(addresses=tuple(NodeAddress("InternalIP", address) for address in node.addresses)),
    )


def _tail(path: str) -> bytes:
    with open(path, "rb") as file:
        return b"".join(file.readlines()[-15:])
