"""What `podnet lab status` shows: which programs of a lab run, which nodes are ready, how many pods each has."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec

from podnet.client.api import Api
from podnet.client.config import load
from podnet.client.errors import ApiError
from podnet.lab import process
from podnet.lab.process import Ended, Running
from podnet.lab.registry import Lab
from podnet.lab.status import rfc3339
from podnet.lab.supervisor import programs
from podnet.objects.core import Node, Pod
from podnet.objects.kinds import NODES, PODS


class ProgramReport(msgspec.Struct, frozen=True):
    """One program: running, ended (with its code) or missing; `since` is the start or the end."""

    name: str
    state: str
    pid: int | None = None
    since: str = ""


class NodeReport(msgspec.Struct, frozen=True):
    """One node; `ready` and `pods` are None while the API does not answer."""

    name: str
    addresses: tuple[str, ...]
    ready: bool | None = None
    pods: int | None = None


class Report(msgspec.Struct, frozen=True):
    """A whole lab; `ok` when all programs run and all nodes are ready."""

    name: str
    ok: bool
    summary: str
    kubeconfig: str
    programs: tuple[ProgramReport, ...]
    nodes: tuple[NodeReport, ...]


def report(lab: Lab) -> Report:
    """Look at everything."""
    running = tuple(program(lab, name) for name in ("supervisor", *programs(lab)))
    try:
        nodes = asyncio.run(_nodes(lab))
        trouble = ""
    except (ApiError, ValueError) as error:
        nodes, trouble = tuple(NodeReport(node.name, node.addresses) for node in lab.nodes), str(error)
    away = [each.name for each in running if each.state != "running"]
    unready = [each.name for each in nodes if not each.ready]
    reasons = [f"not running: {', '.join(away)}"] if away else []
    reasons += [trouble] if trouble else [f"not ready: {', '.join(unready)}"] if unready else []
    return Report(lab.name, not reasons, "; ".join(reasons) or "all is well", lab.kubeconfig, running, nodes)


def program(lab: Lab, name: str) -> ProgramReport:
    """Look at one program."""
    folder = lab.program(name)
    match process.look(folder):
        case Running(pid):
            return ProgramReport(name, "running", pid, rfc3339(process.started_at(folder)))
        case Ended(code, at):
            return ProgramReport(name, f"ended ({code})", None, rfc3339(at))
    return ProgramReport(name, "missing")


async def _nodes(lab: Lab) -> tuple[NodeReport, ...]:
    """Raises ApiError, ValueError (no kubeconfig)."""
    async with Api(load(lab.kubeconfig), timeout=3.0) as api:
        ready = {node.metadata.name: _ready(node) for node in await api.list(NODES, into=Node)}
        pods = Counter(pod.spec.node_name for pod in await api.list(PODS, into=Pod))
    return tuple(
        NodeReport(each.name, each.addresses, ready.get(each.name, False), pods[each.name]) for each in lab.nodes
    )


def _ready(node: Node) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in node.status.conditions)
