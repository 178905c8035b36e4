"""A cluster to measure on: an API server, and nodes that run nothing but the real agent.

The nodes are wired like a lab's; the one thing that is missing of a kubelet, the Node object with its address, is
written here. Pods are attached as a runtime does it, through the conflist that the agent wrote.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterable

import msgspec

from podnet.bench.chain import Chain
from podnet.bench.programs import BIN, Programs
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


class Cluster:
    """Starts everything; it lives as long as the arena. `others` are Node objects of machines that do not exist;
    without `nat` there are no Services and nothing is masqueraded."""

    def __init__(
        self, name: str, nodes: int, backend: str = "vxlan", others: Iterable[Node] = (), nat: bool = True
    ) -> None:
        folder = registry.folder(name)
        made = tuple(registry.make_node(folder, number, dual_stack=False) for number in range(1, nodes + 1))
        self.lab = Lab(name=name, folder=folder, port=0, nodes=made)
        self._programs = Programs(folder)
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
            self._programs.until(lambda node=node: os.listdir(node.conf_dir), f"agent-{node.name}")  # type: ignore[misc]

    def chain(self, node: LabNode) -> Chain:
        """What attaches pods to a node."""
        network = libcni.load(node.conf_dir)
        assert network is not None, "the constructor waited for the conflist"
        return Chain(node.netns, network, BIN)

    def _api_server(self) -> None:
        data = f"{self.lab.folder}/api"
        listen = self.lab.fabric_url.removeprefix("https://")
        words = ["apiserver", "--data-dir", data, "--listen", listen, "--pod-cidr", POD_CIDR]
        self._programs.start("api", [f"{BIN}/podnet", *words], self.lab.fabric_netns)
        self.kubeconfig = f"{data}/admin.kubeconfig"
        self._programs.until(lambda: b"is ready" in self._programs.said("api"), "api")

    def _agent(self, node: LabNode) -> None:
        words = ["agent", "--node", node.name, "--kubeconfig", self.kubeconfig, "--state-dir", node.state_dir]
        words += ["--run-dir", node.run_dir, "--conf-dir", node.conf_dir]
        fabric.make_node(self.lab, node)
        os.makedirs(node.conf_dir)
        self.agents[node.name] = self._programs.start(f"agent-{node.name}", [f"{BIN}/podnet", *words], node.netns)

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
