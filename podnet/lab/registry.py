"""Which labs exist, and where everything of each is: one folder a lab, described by its lab.json.

    /run/podnet/labs/NAME/
        lab.json            what this module reads and writes; replaced atomically
        netns/              one mounted namespace per node, and `fabric`, the link between them
        api/                the API server's data
        kubeconfigs/        one for people, one for the DNS servers, one for each node
        tmp/                temporary files of containers, which share the machine's file system
        programs/PROGRAM/   pid, log and exit of the supervisor, the API server, each agent and kubelet (process.py)
        nodes/NODE/         state (durable), run (sockets), conf (the CNI conflist) and pods (a folder a pod)

The folder is the whole truth about a lab. Nothing is kept in a process, so whatever is killed, the folder suffices to
repair the lab or to remove it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_network

import msgspec

ROOT = "/run/podnet/labs"
DEFAULT_NAME = "default"
NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,28}[a-z0-9])?")
SUBNET4, SUBNET6 = "192.168.77", "fd77:"
POOL4, POOL6 = f"{SUBNET4}.200-{SUBNET4}.250", f"{SUBNET6}:200-{SUBNET6}:250"
"""Addresses on the fabric for Services of type LoadBalancer; nodes have the numbers below."""

SERVICE_CIDR4, SERVICE_CIDR6 = "10.96.0.0/16", "fd00:10:96::/112"
API_PORT = 6443
AGENT_PORT = 10258
KUBELET_PORT = 10250
MAX_NODES = 99


class Value(msgspec.Struct, frozen=True):
    """Base of what lab.json holds."""


class LabNode(Value, frozen=True):
    """One node. `number` makes its addresses; `folder` holds state, run, conf and pods; paths are absolute."""

    name: str
    number: int
    folder: str
    netns: str
    addresses: tuple[str, ...]
    kubeconfig: str

    @property
    def programs(self) -> list[str]:
        """The names of its programs."""
        return [f"{what}-{self.name}" for what in ("agent", "kubelet", "proxy")]

    @property
    def state_dir(self) -> str:
        """What the agent keeps over restarts."""
        return f"{self.folder}/state"

    @property
    def run_dir(self) -> str:
        """The agent's sockets: cni.sock and agent.sock."""
        return f"{self.folder}/run"

    @property
    def conf_dir(self) -> str:
        """Where the agent writes the CNI conflist and the kubelet finds it."""
        return f"{self.folder}/conf"

    @property
    def pods_dir(self) -> str:
        """One folder per pod, named by its UID (sandbox.py)."""
        return f"{self.folder}/pods"

    @property
    def agent_url(self) -> str:
        """Where, inside the fabric, the agent serves /metrics, /healthz and /readyz."""
        return f"http://{self.addresses[0]}:{AGENT_PORT}"


class Lab(Value, frozen=True):
    """A whole lab. `port` is the API server's on the machine's loopback; `kubeconfig` is for people and uses it."""

    name: str
    folder: str
    port: int
    nodes: tuple[LabNode, ...] = ()
    dual_stack: bool = False

    @property
    def fabric_netns(self) -> str:
        """The namespace of the bridge that joins the nodes; the API server runs there."""
        return f"{self.folder}/netns/fabric"

    @property
    def kubeconfig(self) -> str:
        """For kubectl on this machine: admin's client certificate, the server on loopback."""
        return f"{self.folder}/kubeconfigs/admin"

    @property
    def dns_kubeconfig(self) -> str:
        """For the cluster's DNS servers: a user of their own, the server as pods reach it."""
        return f"{self.folder}/kubeconfigs/dns"

    @property
    def scratch(self) -> str:
        """For temporary files of containers: what a kill -9 leaves is gone with the lab."""
        return f"{self.folder}/tmp"

    @property
    def api_url(self) -> str:
        """The API server as this machine reaches it."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def fabric_url(self) -> str:
        """The API server as the nodes reach it."""
        return f"https://{SUBNET4}.1:{API_PORT}"

    @property
    def pools(self) -> tuple[str, ...]:
        """The addresses for load balancers, one range per family."""
        return (POOL4, *((POOL6,) if self.dual_stack else ()))

    def node(self, name: str) -> LabNode:
        """The node of this name. Raises ValueError that names those there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        have = ", ".join(node.name for node in self.nodes)
        raise ValueError(f"lab {self.name} has no node {name!r}; its nodes: {have or 'none'}")

    def program(self, name: str) -> str:
        """The folder of a program: supervisor, api, or one of a node's."""
        return f"{self.folder}/programs/{name}"


def folder(name: str) -> str:
    """Where the lab of this name is, whether or not it exists. Raises ValueError for what can't be a name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't name a lab: use 1 to 30 of a-z, 0-9 and -, no - at the ends")
    return f"{ROOT}/{name}"


def names() -> tuple[str, ...]:
    """Every lab on this machine, also a broken one."""
    try:
        return tuple(sorted(name for name in os.listdir(ROOT) if NAME.fullmatch(name)))
    except FileNotFoundError:
        return ()


def find(name: str = DEFAULT_NAME) -> Lab | None:
    """The lab of this name, or None. Raises ValueError when its lab.json is not one of ours."""
    try:
        with open(f"{folder(name)}/lab.json", "rb") as file:
            return msgspec.json.decode(file.read(), type=Lab)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        remedy = f"podnet lab down --name {name} removes it"
        raise ValueError(f"{folder(name)}/lab.json is damaged ({error}): {remedy}") from None


def load(name: str = DEFAULT_NAME) -> Lab:
    """The lab of this name. Raises ValueError that names the labs there are."""
    if lab := find(name):
        return lab
    have = ", ".join(names())
    raise ValueError(f"no lab is named {name!r}; " + (f"there are: {have}" if have else "podnet lab up makes one"))


def save(lab: Lab) -> None:
    """Write lab.json so that a reader sees the old or the new one, never a part."""
    write(f"{lab.folder}/lab.json", msgspec.json.format(msgspec.json.encode(lab)))


def write(path: str, data: bytes) -> None:
    """Replace a file atomically."""
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """The right to change a lab; waits for whoever has it. Leaves nothing behind, not even ROOT when it is empty.

    Raises ValueError for what can't be a name.
    """
    path = f"{ROOT}/.{os.path.basename(folder(name))}.lock"
    fd = _lock(path)
    try:
        yield
    finally:
        os.unlink(path)
        os.close(fd)
        with suppress(OSError):
            os.removedirs(ROOT)


def _lock(path: str) -> int:
    while True:
        with suppress(FileNotFoundError, FileExistsError):  # the last one to leave removes the folders
            os.makedirs(ROOT, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_open(fd, path):
                return fd
            os.close(fd)


def _is_open(fd: int, path: str) -> bool:
    """Whether the locked file is still the one at the path: its last owner removed it."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def service_cidrs(dual_stack: bool) -> list[str]:
    """Where a lab's Services have their addresses."""
    return [SERVICE_CIDR4, SERVICE_CIDR6] if dual_stack else [SERVICE_CIDR4]


def dns_addresses(dual_stack: bool) -> list[str]:
    """Where a lab's pods ask for names: the tenth address of each range of Services, as is usual."""
    return [str(ip_network(cidr)[10]) for cidr in service_cidrs(dual_stack)]


def make_node(lab_folder: str, number: int, dual_stack: bool) -> LabNode:
    """The node of this number: node3 is 192.168.77.13, with fd77::13 in a dual-stack lab."""
    name = f"node{number}"
    addresses = (f"{SUBNET4}.{number + 10}", *((f"{SUBNET6}:{number + 10}",) if dual_stack else ()))
    return LabNode(
        name=name,
        number=number,
        folder=f"{lab_folder}/nodes/{name}",
        netns=f"{lab_folder}/netns/{name}",
        addresses=addresses,
        kubeconfig=f"{lab_folder}/kubeconfigs/{name}",
    )
