"""Bringing a lab up, and giving or taking nodes: what the commands of podnet/cli/lab.py do.

`up` is a list of steps that each look first and make only what is missing; whatever was killed or half done, the same
list repairs it. (podnet/lab/teardown.py is the way back.)
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import aiohttp
import msgspec

from podnet.apiserver import pki
from podnet.client.api import Api
from podnet.client.errors import ApiError, Unreachable
from podnet.errors import UserError
from podnet.lab import cluster_dns, entering, fabric, process, registry, sandbox, supervisor, teardown, workload
from podnet.lab.node import LEASE_NAMESPACE
from podnet.lab.pod import FINAL
from podnet.lab.registry import Lab, LabNode
from podnet.objects.core import Node, Pod
from podnet.objects.kinds import LEASES, NETWORKCONFIGS, NODES, PODS
from podnet.objects.network import NETWORK_NAME, NetworkConfig

READY_SECONDS = 60.0
API_SECONDS = 5.0
LOOK_SECONDS = 0.05
T = TypeVar("T")

Progress = Callable[[str], None]


class Options(msgspec.Struct, frozen=True):
    """What `up` was asked for; None means: as it is, or the default for a new lab."""

    name: str = registry.DEFAULT_NAME
    nodes: int | None = None
    backend: str | None = None
    dual_stack: bool | None = None
    attachment: str | None = None
    demo: bool = True
    dns: bool = True


# -- up


async def up(options: Options, say: Progress) -> bool:
    """Bring a lab up, or repair it; True when anything was missing. Raises UserError."""
    lab, new = plan(options)
    made = [*_make(lab)]
    say(f"{counted(len(lab.nodes), 'node')} on a fabric of their own" + ("" if new or not made else ", repaired"))
    async with api_of(lab) as api:
        await until(lambda: answers(api), "the API server", lab)
        say(f"API server at {lab.api_url}")
        config = workload.network(options.backend or "vxlan", lab.dual_stack, options.attachment or "")
        made += await workload.ensure(api, [(NETWORKCONFIGS, config)])
        if options.dns:
            made += await workload.ensure(api, cluster_dns.front(lab))
        await compare_network(api, options)
        await until(lambda: nodes_ready(api, lab), "the nodes", lab)
        say("nodes ready: agents run, CNI is configured")
        if options.demo:
            made += await workload.ensure(api, workload.demo())
        if options.dns:
            made += await workload.ensure(api, cluster_dns.servers(lab))
        count = await until(lambda: pods_ready(api, lab), "the pods", lab)
        say(f"{counted(count, 'pod')} ready")
    return bool(made)


def plan(options: Options) -> tuple[Lab, bool]:
    """The lab as it should be, and whether it is a new one. Raises UserError when that can't be."""
    folder = registry.folder(options.name)
    if found := registry.find(options.name):
        _compare(found, options)
        return found, False
    if os.path.exists(folder):
        remedy = f"podnet lab down --name {options.name} removes it"
        raise UserError(f"the name {options.name} is taken: {folder} holds something that is no lab; {remedy}")
    nodes = 3 if options.nodes is None else options.nodes
    dual_stack = bool(options.dual_stack)
    return (
        Lab(
            name=options.name,
            folder=folder,
            port=_free_port(),
            nodes=tuple(registry.make_node(folder, number, dual_stack) for number in range(1, nodes + 1)),
            dual_stack=dual_stack,
        ),
        True,
    )


def counted(number: int, what: str) -> str:
    """1 node, 2 nodes."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _compare(lab: Lab, options: Options) -> None:
    """A lab that exists is not changed by `up`."""
    again = f"podnet lab down --name {lab.name} first, or use another --name"
    if options.nodes not in (None, len(lab.nodes)):
        raise UserError(f"lab {lab.name} has {len(lab.nodes)} nodes: use podnet lab add-node or remove-node, {again}")
    if options.dual_stack not in (None, lab.dual_stack):
        have = "dual-stack" if lab.dual_stack else "IPv4 only"
        raise UserError(f"lab {lab.name} is {have}: {again}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make(lab: Lab) -> Iterator[str]:
    """Folder, keys, namespaces, supervisor: the names of what was missing. lab.json comes first: `down` needs it."""
    for folder in ("api", "kubeconfigs", "netns", "programs", "nodes"):
        os.makedirs(f"{lab.folder}/{folder}", mode=0o700, exist_ok=True)
    os.makedirs(lab.scratch, exist_ok=True)
    registry.save(lab)
    yield from _make_keys(lab)
    if fabric.make_fabric(lab):
        yield "fabric"
    for node in lab.nodes:
        for folder in (node.state_dir, node.run_dir, node.conf_dir, node.pods_dir):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        if fabric.make_node(lab, node):
            yield node.name
    if supervisor.start(lab):
        yield "supervisor"


def _make_keys(lab: Lab) -> Iterator[str]:
    """The kubeconfigs that are missing: for people, for the DNS servers, one per node for its agent and its kubelet."""
    wanted: list[tuple[str, str, str, tuple[str, ...], tuple[str, ...]]] = [
        (lab.kubeconfig, lab.api_url, "admin", ("system:masters",), ()),
        (lab.dns_kubeconfig, lab.fabric_url, cluster_dns.USER, cluster_dns.GROUPS, ()),
    ]
    for node in lab.nodes:
        user, names = f"system:node:{node.name}", (node.name, *node.addresses)
        wanted.append((node.kubeconfig, lab.fabric_url, user, ("system:nodes",), names))
    missing = [each for each in wanted if not os.path.exists(each[0])]
    if not missing:
        return
    authority = pki.load_authority(f"{lab.folder}/api")
    for path, url, user, groups, names in missing:
        pki.write_kubeconfig(path, url, authority, user, pki.issue(authority, user, groups, names))
    yield "keys"


def api_of(lab: Lab) -> Api:
    """A client of a lab's API server, from the machine."""
    from podnet.client.config import load

    return Api(load(lab.kubeconfig), timeout=API_SECONDS)


async def answers(api: Api) -> bool | None:
    """True when the API server is ready."""
    with suppress(ApiError):
        await api.request("GET", "/readyz")
        return True
    return None


async def compare_network(api: Api, options: Options) -> None:
    """Raises UserError when the cluster's network is not what was asked for."""
    found = (await api.get(NETWORKCONFIGS, NETWORK_NAME, into=NetworkConfig)).spec
    for field, asked, have in (
        ("backend", options.backend, str(found.backend.get("type"))),
        ("attachment", options.attachment, found.attachment),
    ):
        if asked not in (None, have):
            command = f"kubectl edit networkconfig {NETWORK_NAME}"
            raise UserError(f"the cluster's {field} is {have}: {command} changes it while the cluster runs")


async def nodes_ready(api: Api, lab: Lab) -> int | None:
    """How many nodes the lab has, once all of them are ready in the words of their agents and of the API."""
    if not all([await agent_ready(node) for node in lab.nodes]):
        return None
    ready = {node.metadata.name for node in await api.list(NODES, into=Node) if _ready(node)}
    return len(lab.nodes) if ready >= {node.name for node in lab.nodes} else None


async def agent_ready(node: LabNode) -> bool:
    """Ask the agent itself: what the API says of a node can be older than what happened to it."""
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(f"{node.run_dir}/agent.sock")) as session,
            session.get("http://agent/readyz", timeout=aiohttp.ClientTimeout(API_SECONDS)) as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, OSError):
        return False


async def pods_ready(api: Api, lab: Lab) -> int | None:
    """How many pods there are, once each is ready or ended in the words of the API, and runs on its node."""
    found = await api.list(PODS, into=Pod)
    going = [pod for pod in found if pod.status.phase not in FINAL]
    return len(found) if all(_ready(pod) and runs(lab, pod) for pod in going) else None


def runs(lab: Lab, pod: Pod) -> bool:
    """Whether a pod of this lab runs now: what the API says of it can be older than what happened to it."""
    folders = [f"{node.pods_dir}/{pod.metadata.uid}" for node in lab.nodes if node.name == pod.spec.node_name]
    place = sandbox.read(folders[0]) if folders else None
    wanted = {container.name for container in pod.spec.containers}
    return place is not None and place.ready and wanted <= dict(entering.containers(place)).keys()


def _ready(of: Node | Pod) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in of.status.conditions)


async def until(look: Callable[[], Awaitable[T | None]], what: str, lab: Lab) -> T:
    """Look until there is an answer. Raises UserError after READY_SECONDS."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with suppress(Unreachable):
            if (found := await look()) is not None:
                return found
        await asyncio.sleep(LOOK_SECONDS)
    command = "podnet lab status" + ("" if lab.name == registry.DEFAULT_NAME else f" --name {lab.name}")
    raise UserError(f"waited {READY_SECONDS:.0f} s for {what} in vain: {command} says what is missing")


# -- nodes


async def add_node(lab: Lab, say: Progress) -> LabNode:
    """One more node, with the next number. Raises UserError."""
    number = max((node.number for node in lab.nodes), default=0) + 1
    if number > registry.MAX_NODES:
        raise UserError(f"lab {lab.name} has had {registry.MAX_NODES} nodes, the most that its fabric numbers")
    node = registry.make_node(lab.folder, number, lab.dual_stack)
    lab = msgspec.structs.replace(lab, nodes=(*lab.nodes, node))
    for _ in _make(lab):
        pass
    say(f"{node.name} is plugged in at {node.addresses[0]}")
    async with api_of(lab) as api:
        await until(lambda: nodes_ready(api, lab), node.name, lab)
    say(f"{node.name} is ready")
    return node


async def remove_node(lab: Lab, name: str, say: Progress) -> None:
    """Drain a node, stop its programs, unplug it. Raises UserError, ApiError."""
    node = lab.node(name)
    async with api_of(lab) as api:
        drained = await _drain(api, lab, node)
        say(f"{counted(drained, 'pod')} of {name} ended")
        lab = msgspec.structs.replace(lab, nodes=tuple(each for each in lab.nodes if each != node))
        registry.save(lab)
        supervisor.start(lab)
        for program in node.programs:
            await process.ended(lab.program(program))
            shutil.rmtree(lab.program(program), ignore_errors=True)
        for kind, namespace in ((NODES, ""), (LEASES, LEASE_NAMESPACE)):  # its kubelet would register it again
            with suppress(ApiError):
                await api.delete(kind, name, namespace)
    teardown.unplug(lab, node)
    say(f"{name} is gone")


async def _drain(api: Api, lab: Lab, node: LabNode) -> int:
    """End the pods of a node, and keep new ones away; how many there were."""
    selector = f"spec.nodeName={node.name}"
    with suppress(ApiError):
        await api.patch(NODES, node.name, {"spec": {"unschedulable": True}}, into=dict)
    pods = await api.list(PODS, into=Pod, field_selector=selector)
    for pod in pods:
        with suppress(ApiError):
            await api.delete(PODS, pod.metadata.name, pod.metadata.namespace, uid=pod.metadata.uid)

    async def none_left() -> bool | None:
        return None if await api.list(PODS, into=Pod, field_selector=selector) else True

    await until(none_left, f"the end of the pods of {node.name}", lab)
    return len(pods)
