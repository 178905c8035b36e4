"""A node towards the API: its Node object, its conditions and its lease.

The kubelet creates the Node when there is none, keeps `status` up to date, and renews a Lease so that others notice its
death. Ready is true only while the container runtime's network is, as kubelet does it.
Source: k8s.io/kubernetes pkg/kubelet/{kubelet_node_status.go,nodestatus/setters.go}; k8s.io/component-helpers lease.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import podnet
from podnet.client.api import Api
from podnet.client.errors import ApiError
from podnet.lab.registry import KUBELET_PORT, LabNode
from podnet.lab.status import rfc3339
from podnet.objects.core import Node
from podnet.objects.kinds import LEASES, NODES

log = logging.getLogger(__name__)

Json = dict[str, Any]

LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
RENEW_SECONDS = 10.0
RETRY_SECONDS = 0.3
REPLACE = {"$patch": "replace"}
"""In a strategic merge patch: the list as a whole. Its merge key, type, would let one InternalIP hide the other."""

MAX_PODS = 250
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def document(node: LabNode) -> Json:
    """The Node object as it is first created."""
    architecture = MACHINES.get(platform.machine(), platform.machine())
    labels = {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture}
    return {"metadata": {"name": node.name, "labels": labels}, "spec": {}}


def status(node: LabNode, trouble: str, now: float, ready_since: str) -> Json:
    """The status: addresses, capacity, conditions. `ready_since` is the Ready condition's last transition."""
    at = rfc3339(now)
    capacity = {"cpu": str(os.cpu_count() or 1), "memory": f"{_memory_kib()}Ki", "pods": str(MAX_PODS)}
    calm = [
        _condition("MemoryPressure", False, "KubeletHasSufficientMemory", "kubelet has sufficient memory", at),
        _condition("DiskPressure", False, "KubeletHasNoDiskPressure", "kubelet has no disk pressure", at),
        _condition("PIDPressure", False, "KubeletHasSufficientPID", "kubelet has sufficient PID available", at),
    ]
    return {
        "addresses": [
            *({"type": "InternalIP", "address": address} for address in node.addresses),
            {"type": "Hostname", "address": node.name},
            REPLACE,
        ],
        "capacity": capacity,
        "allocatable": capacity,
        "conditions": [*calm, ready(trouble, at) | {"lastTransitionTime": ready_since}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
        "nodeInfo": _node_info(),
    }


def ready(trouble: str, at: str) -> Json:
    """The Ready condition."""
    if not trouble:
        return _condition("Ready", True, "KubeletReady", "kubelet is posting ready status", at)
    message = f"container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{trouble}"
    return _condition("Ready", False, "KubeletNotReady", message, at)


def _condition(type_: str, true: bool, reason: str, message: str, at: str) -> Json:
    times = {"lastHeartbeatTime": at, "lastTransitionTime": at}
    return {"type": type_, "status": str(true), "reason": reason, "message": message, **times}


def _memory_kib() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024


def _node_info() -> Json:
    machine = MACHINES.get(platform.machine(), platform.machine())
    return {
        "kubeletVersion": f"v1.32.0-podnet.{podnet.__version__}",
        "kubeProxyVersion": "",
        "containerRuntimeVersion": f"podnet://{podnet.__version__}",
        "kernelVersion": platform.release(),
        "osImage": "podnet lab",
        "operatingSystem": "linux",
        "architecture": machine,
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
    }


class Registration:
    """Keeps the API's picture of the node."""

    def __init__(self, node: LabNode, api: Api) -> None:
        self._node = node
        self._api = api
        self._trouble: str | None = None
        self._since = ""
        self._changed = asyncio.Event()

    def network_trouble(self, trouble: str) -> None:
        """Say why pods can't have a network now; "" when they can."""
        if trouble != self._trouble:
            if self._trouble is None or bool(trouble) != bool(self._trouble):
                self._since = ""
            self._trouble = trouble
            self._changed.set()

    async def run(self) -> None:
        """Register, then report for ever."""
        await self._insist(self._register)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report())
            group.create_task(self._renew())

    async def _register(self) -> None:
        try:
            await self._api.create(NODES, document(self._node), into=dict)
        except ApiError as error:
            if error.code != 409:
                raise

    async def _report(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._insist(self._send)

    async def _send(self) -> None:
        now = datetime.now(UTC).timestamp()
        self._since = self._since or rfc3339(now)
        body = status(self._node, self._trouble or "", now, self._since)
        await self._api.status(NODES, self._node.name, body, strategy="strategic", into=dict)

    async def _renew(self) -> None:
        while True:
            await self._insist(self._renew_once)
            await self._insist(self._compare)
            await asyncio.sleep(RENEW_SECONDS)

    async def _compare(self) -> None:
        """Report again when the API has another opinion: someone took us for dead, or deleted the Node."""
        found = await self._api.get(NODES, self._node.name, into=Node)
        said = [condition.status for condition in found.status.conditions if condition.type == "Ready"]
        if self._trouble is not None and said != [str(not self._trouble)]:
            self._changed.set()

    async def _renew_once(self) -> None:
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self._node.name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": at}
        try:
            await self._api.patch(LEASES, self._node.name, {"spec": spec}, LEASE_NAMESPACE, into=dict)
        except ApiError as error:
            if error.code != 404:
                raise
            lease = {"metadata": {"name": self._node.name, "namespace": LEASE_NAMESPACE}, "spec": spec}
            await self._api.create(LEASES, lease, LEASE_NAMESPACE, into=dict)

    async def _insist(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it until the API takes it. A Node that someone deleted is registered again."""
        while True:
            try:
                return await step()
            except ApiError as error:
                log.warning("node %s: %s", self._node.name, error)
                if error.code == 404 and step in (self._send, self._compare):
                    with suppress(ApiError):
                        await self._register()
            await asyncio.sleep(RETRY_SECONDS)
