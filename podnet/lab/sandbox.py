"""A pod's sandbox: its folder, its network namespace, and the addresses that CNI gave it.

    PODS/UID/
        pod.json         the pod as the API gave it
        sandbox.json     what this module knows, written before anything is made
        netns            the mounted namespace; a pod with hostNetwork has the node's instead
        hosts resolv.conf
        containers/CONTAINER/N/
                         the N-th run of a container (containers.py)

The folder is the record: a kubelet that was killed finds from it what to adopt and what to undo.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from podnet.kernel import netns
from podnet.lab import process
from podnet.lab.libcni import INTERNAL, TRY_AGAIN, Cni, Network, PluginError, Runtime
from podnet.lab.registry import write
from podnet.objects.codec import InvalidObject, decode, encode
from podnet.objects.core import Pod
from podnet.objects.meta import ObjectMeta

RATES = {"kubernetes.io/ingress-bandwidth": "ingress", "kubernetes.io/egress-bandwidth": "egress"}
BURST = 2**31 - 1
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class Sandbox(msgspec.Struct, frozen=True):
    """A pod's place on its node; `id` is what CNI calls the container.

    `ips` is empty until CNI gave addresses; when they were given back `netns` is empty too.
    """

    id: str
    uid: str
    namespace: str
    name: str
    folder: str
    netns: str
    host_network: bool = False
    ips: tuple[str, ...] = ()
    made_at: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether containers can be started in it: it has addresses and its namespace still exists."""
        return bool(self.ips) and process.identity(self.netns) is not None

    @property
    def runtime(self) -> Runtime:
        """What DEL and CHECK need of it."""
        return Runtime(self.id, self.netns, args=cni_args(self))


def cni_args(sandbox: Sandbox) -> tuple[tuple[str, str], ...]:
    """CNI_ARGS as containerd gives them."""
    return (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", sandbox.namespace),
        ("K8S_POD_NAME", sandbox.name),
        ("K8S_POD_INFRA_CONTAINER_ID", sandbox.id),
        ("K8S_POD_UID", sandbox.uid),
    )


def capabilities(pod: Pod) -> dict[str, Any]:
    """What a pod asks of the plugins: host ports, and bandwidth from its annotations in bits/s."""
    ports = [
        {
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": port.protocol.lower(),
            "hostIP": port.host_ip,
        }
        for container in pod.spec.containers
        for port in container.ports
        if port.host_port
    ]
    bandwidth: dict[str, int] = {}
    for annotation, direction in RATES.items():
        if rate := quantity(pod.metadata.annotations.get(annotation, "")):
            bandwidth |= {f"{direction}Rate": rate, f"{direction}Burst": BURST}
    return ({"portMappings": ports} if ports else {}) | ({"bandwidth": bandwidth} if bandwidth else {})


def quantity(text: str) -> int:
    """A whole Kubernetes quantity such as 10M or 1Gi; 0 for what is none."""
    number = text.rstrip("kKMGTi")
    factor = SUFFIXES.get(text[len(number) :], 1 if text == number else 0)
    try:
        return int(float(number) * factor)
    except ValueError:
        return 0


def read(folder: str) -> Sandbox | None:
    """The sandbox of a pod's folder, or None. A file that was cut off by a crash counts as none."""
    try:
        with open(f"{folder}/sandbox.json", "rb") as file:
            return msgspec.json.decode(file.read(), type=Sandbox)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def read_all(pods_dir: str) -> list[Sandbox]:
    """Every sandbox of a node."""
    names = sorted(os.listdir(pods_dir)) if os.path.isdir(pods_dir) else []
    return [found for name in names if (found := read(f"{pods_dir}/{name}"))]


def read_pod(sandbox: Sandbox) -> Pod:
    """The pod as it was when its sandbox was made, for the case that the API no longer has it."""
    try:
        with open(f"{sandbox.folder}/pod.json", "rb") as file:
            return decode(file.read(), Pod)
    except (FileNotFoundError, InvalidObject):
        return Pod(metadata=ObjectMeta(name=sandbox.name, namespace=sandbox.namespace, uid=sandbox.uid))


def save(sandbox: Sandbox) -> Sandbox:
    """Write the record."""
    write(f"{sandbox.folder}/sandbox.json", msgspec.json.encode(sandbox))
    return sandbox


def raise_loopback(path: str) -> None:
    """Set lo up, which is the runtime's business: CNI plugins make the other interfaces (netdevice(7))."""
    with netns.socket_in(path, socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


class Sandboxes:
    """Makes and removes the sandboxes of one node.

    `network()` gives the conflist of the moment, or None; `host_netns` and `host_ips` are the node's own.
    """

    def __init__(
        self, pods_dir: str, cni: Cni, network: Callable[[], Network | None], host_netns: str, host_ips: tuple[str, ...]
    ) -> None:
        self.pods_dir = pods_dir
        self.cni = cni
        self.network = network
        self.host_netns = host_netns
        self.host_ips = host_ips

    def folder(self, pod: Pod) -> str:
        """Where everything of a pod is."""
        return f"{self.pods_dir}/{pod.metadata.uid}"

    def ready(self, pod: Pod) -> bool:
        """Whether `make` has nothing to do."""
        found = read(self.folder(pod))
        return found is not None and found.ready

    async def make(self, pod: Pod) -> Sandbox:
        """A ready sandbox: the one there is, or a new one. Raises PluginError; calling again goes on."""
        folder = self.folder(pod)
        found = read(folder)
        if found and found.ready:
            return found
        if found:
            await self._undo(found)
        os.makedirs(folder, exist_ok=True)
        write(f"{folder}/pod.json", encode(pod))
        sandbox = save(self._plan(pod, folder))
        if pod.spec.host_network:
            return sandbox
        network = self.network()
        assert network is not None, "the caller waits for a network"
        netns.create(sandbox.netns)
        raise_loopback(sandbox.netns)
        runtime = msgspec.structs.replace(sandbox.runtime, capabilities=capabilities(pod))
        result = await self.cni.add(network, runtime)
        ips = tuple(entry["address"].partition("/")[0] for entry in result.get("ips", ()))
        if not ips:
            raise PluginError(network.name, "ADD", INTERNAL, "the result has no addresses")
        return save(msgspec.structs.replace(sandbox, ips=ips))

    def _plan(self, pod: Pod, folder: str) -> Sandbox:
        host = pod.spec.host_network
        return Sandbox(
            id=uuid.uuid4().hex,
            uid=pod.metadata.uid,
            namespace=pod.metadata.namespace,
            name=pod.metadata.name,
            folder=folder,
            netns=self.host_netns if host else f"{folder}/netns",
            host_network=host,
            ips=self.host_ips if host else (),
            made_at=time.time(),
        )

    async def _undo(self, sandbox: Sandbox) -> None:
        """Give back addresses and namespace. Raises PluginError, and is then to be called again."""
        if sandbox.host_network or not sandbox.netns:
            return
        network = self.network()
        if network is None and self.cni.cached(sandbox.runtime) is None:
            raise PluginError("cni", "DEL", TRY_AGAIN, "there is no configuration that says what an ADD may have left")
        await self.cni.delete(network, sandbox.runtime)
        netns.remove(sandbox.netns)

    async def release(self, sandbox: Sandbox) -> None:
        """Give back what a pod that ended no longer needs; its folder with the logs stays. Raises PluginError."""
        await self._undo(sandbox)
        save(msgspec.structs.replace(sandbox, ips=(), netns=""))

    async def remove(self, sandbox: Sandbox) -> None:
        """Undo a sandbox and forget it with all its files. Raises PluginError, and is then to be called again."""
        await self._undo(sandbox)
        shutil.rmtree(sandbox.folder, ignore_errors=True)
