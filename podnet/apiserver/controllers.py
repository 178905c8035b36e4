"""The controllers' hands: mirrors of what they look at, a pass when something changed, and their actions carried out.

Decisions are in network/controllers/ and know nothing of this. A pass is cheap to repeat and harmless: an action that
lost a race (Conflict, NotFound, AlreadyExists) is forgotten, for the change that beat it starts the next pass.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from podnet.apiserver.lifecycle import DeleteOptions, Preconditions, timestamp
from podnet.apiserver.records import Selection
from podnet.apiserver.registry import Registry
from podnet.apiserver.status import ApiError, Document, resource
from podnet.apiserver.strategic import strategic_merge
from podnet.network.controllers import namespaces, pod_cidrs, scheduler, sweeping
from podnet.network.controllers.actions import Action, Bind, Delete, Finalize, Patch, Report
from podnet.objects.cluster import Key
from podnet.objects.codec import InvalidObject, decode
from podnet.objects.core import Namespace, Node, Pod
from podnet.objects.kinds import EVENTS, KINDS, LEASES, NAMESPACES, NETWORKCONFIGS, NODES, PODS, Kind
from podnet.objects.network import NETWORK_NAME, NetworkConfig, NetworkSpec

MIRRORED = (NAMESPACES, NODES, PODS, NETWORKCONFIGS)
LEASE_NAMESPACE = "kube-node-lease"
BURST_SECONDS = 0.01  # changes this close together share a pass
SHARE = 9  # deciding takes at most a tenth of the time: requests go on while ten thousand pods are created
SWEEP_SECONDS = 5.0
_COMPONENT = "podnet-apiserver"
_LOST_RACES = ("Conflict", "NotFound", "AlreadyExists", "Forbidden")


class Controllers:
    """Runs every decision when its inputs change. `cidrs`: the cluster's ranges when no NetworkConfig names any."""

    def __init__(self, registry: Registry, cidrs: Sequence[str] = (), report: Callable[[str], None] = print) -> None:
        self._registry = registry
        self._cidrs = tuple(cidrs)
        self._report = report
        self._mirrors: dict[str, dict[Key, Any]] = {kind.plural: {} for kind in MIRRORED}
        self._dirty = {kind.plural for kind in MIRRORED}
        self._wake = asyncio.Event()
        self._missing: dict[str, datetime] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for kind in MIRRORED:
                tasks.create_task(self._mirror(kind))
            tasks.create_task(self._react())
            tasks.create_task(self._sweep())

    async def _mirror(self, kind: Kind) -> None:
        """Keep the typed objects of one kind; begin anew when the watch was cut."""
        mirror = self._mirrors[kind.plural]
        while True:
            mirror.clear()
            watcher = self._registry.watch(Selection(resource(kind)))
            try:
                while not watcher.closed:
                    for event in await watcher.events():
                        key = (event.record.key.namespace, event.record.key.name)
                        if event.type == "DELETED":
                            mirror.pop(key, None)
                        else:
                            self._place(mirror, key, kind, event.record.value)
                    self._dirty.add(kind.plural)
                    self._wake.set()
            finally:
                self._registry.unwatch(watcher)

    def _place(self, mirror: dict[Key, Any], key: Key, kind: Kind, value: bytes) -> None:
        try:
            mirror[key] = decode(value, kind.type)
        except InvalidObject as error:  # stored by a version that judged otherwise
            self._report(f"{kind.plural} {'/'.join(filter(None, key))} is ignored: {error}")
            mirror.pop(key, None)

    async def _react(self) -> None:
        pause = BURST_SECONDS
        while True:
            await self._wake.wait()
            await asyncio.sleep(pause)
            self._wake.clear()
            dirty, self._dirty = self._dirty, set()
            begin = time.perf_counter()
            actions = list(self._decide(dirty))
            pause = BURST_SECONDS + SHARE * (time.perf_counter() - begin)
            await self._carry_out(actions)

    def _decide(self, dirty: set[str]) -> Iterator[Action]:
        nodes: list[Node] = list(self._mirrors["nodes"].values())
        if dirty & {"nodes", "networkconfigs"}:
            spec = self._network()
            yield from pod_cidrs.allocate(nodes, spec.pod_cidrs, spec.node_mask)
        if dirty & {"nodes", "pods"}:
            yield from scheduler.schedule(self._mirrors["pods"].values(), nodes)
        if dirty & {"namespaces", "pods"}:
            yield from self._drain()

    def _network(self) -> NetworkSpec:
        config: NetworkConfig | None = self._mirrors["networkconfigs"].get(("", NETWORK_NAME))
        return config.spec if config is not None else NetworkSpec(pod_cidrs=self._cidrs)

    def _drain(self) -> Iterator[Action]:
        spaces: Iterable[Namespace] = self._mirrors["namespaces"].values()
        for namespace in spaces:
            if namespace.metadata.deletion_timestamp is not None:
                yield from namespaces.drain(namespace, list(self._contents(namespace.metadata.name)))

    def _contents(self, namespace: str) -> Iterator[namespaces.Content]:
        for kind in filter(lambda kind: kind.namespaced, KINDS):
            for record in self._registry.list(Selection(resource(kind), namespace)).records:
                metadata = record.document()["metadata"]
                leaving = "deletionTimestamp" in metadata
                yield namespaces.Content(kind, metadata["name"], metadata["uid"], leaving)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self._registry.now()
            pods: list[Pod] = list(self._mirrors["pods"].values())
            actions = [
                *sweeping.orphans(pods, self._gone(pods, now)),
                *sweeping.surplus(pods),
                *sweeping.silent(self._mirrors["nodes"].values(), self._heartbeats(now)),
                *self._old_events(now),
                *self._drain(),
            ]
            await self._carry_out(actions)

    def _gone(self, pods: Iterable[Pod], now: datetime) -> Mapping[str, float]:
        """Nodes that pods name and that are not there, and for how long."""
        known = {name for _, name in self._mirrors["nodes"]}
        missing = {pod.spec.node_name for pod in pods if pod.spec.node_name} - known
        self._missing = {name: self._missing.get(name, now) for name in missing}
        return {name: (now - since).total_seconds() for name, since in self._missing.items()}

    def _heartbeats(self, now: datetime) -> Mapping[str, float]:
        leases = self._registry.list(Selection(resource(LEASES), LEASE_NAMESPACE)).records
        renewed = {lease.key.name: lease.document().get("spec", {}).get("renewTime") for lease in leases}
        return {name: _age(time, now) for name, time in renewed.items() if time}

    def _old_events(self, now: datetime) -> Iterator[Action]:
        for record in self._registry.list(Selection(resource(EVENTS))).records:
            metadata = record.document()["metadata"]
            if _age(metadata["creationTimestamp"], now) > sweeping.EVENT_SECONDS:
                yield Delete(EVENTS, metadata["namespace"], metadata["name"], metadata["uid"])

    # Actions ---------------------------------------------------------------------------------------------------------

    async def _carry_out(self, actions: Sequence[Action]) -> None:
        await asyncio.gather(*map(self._do, actions))

    async def _do(self, action: Action) -> None:
        try:
            await self._attempt(action)
        except ApiError as error:
            if error.reason not in _LOST_RACES:
                self._report(f"controller: {type(action).__name__} failed: {error}")

    async def _attempt(self, action: Action) -> None:
        registry = self._registry
        match action:
            case Patch(kind, namespace, name, document, subresource):
                change = _stamped(document, self._registry.now())
                await registry.patch(kind, namespace, name, lambda old: strategic_merge(old, change), subresource)
            case Delete(kind, namespace, name, uid, grace):
                options = DeleteOptions(grace_period_seconds=grace, preconditions=Preconditions(uid=uid))
                await registry.delete(kind, namespace, name, options)
            case Bind(namespace, name, node):
                await registry.bind(namespace, name, node)
            case Finalize(name):
                empty = {"metadata": {"name": name}, "spec": {"finalizers": []}}
                await registry.replace(NAMESPACES, "", name, empty, "finalize")
            case Report():
                await registry.create(EVENTS, *_event(action, self._registry.now()))


def _age(time: str, now: datetime) -> float:
    """Seconds since an RFC 3339 time; 0 when it is none."""
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return 0.0
    return (now - moment.replace(tzinfo=moment.tzinfo or UTC)).total_seconds()


def _stamped(document: Mapping[str, Any], now: datetime) -> Document:
    """Conditions change now; the pure part does not know when that is."""
    status = dict(document.get("status", {}))
    if "conditions" in status:
        status["conditions"] = [{**item, "lastTransitionTime": timestamp(now)} for item in status["conditions"]]
    return {**document, **({"status": status} if status else {})}


def _event(report: Report, now: datetime) -> tuple[str, Document]:
    """(namespace, Event). Its name follows from what it says, so the same report is stored once."""
    meta = report.about.metadata
    digest = hashlib.sha256(f"{meta.uid}{report.reason}{report.message}".encode()).hexdigest()[:16]
    about = {
        "kind": report.kind.kind, "apiVersion": report.kind.api_version, "name": meta.name, "uid": meta.uid,
        **({"namespace": meta.namespace} if meta.namespace else {}),
    }  # fmt: skip
    namespace, time = meta.namespace or "default", timestamp(now)
    return namespace, {
        "metadata": {"name": f"{meta.name[:200]}.{digest}"}, "involvedObject": about, "reason": report.reason,
        "message": report.message, "type": report.type, "firstTimestamp": time, "lastTimestamp": time, "count": 1,
        "source": {"component": _COMPONENT}, "reportingComponent": _COMPONENT, "reportingInstance": "",
    }  # fmt: skip
