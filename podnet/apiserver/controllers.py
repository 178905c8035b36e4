"""The controllers' heartbeat: what they look at is mirrored, and a change starts a pass of those whom it concerns.

Decisions are in network/controllers/ and know nothing of this. A pass is cheap to repeat and harmless (hands.py).
Endpoints have a pass of their own (backers.py): it looks at single Services, and in milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from podnet.apiserver.allocation import Allocation
from podnet.apiserver.backers import Backers
from podnet.apiserver.hands import Hands
from podnet.apiserver.mirrors import Mirrors
from podnet.apiserver.records import Record, Selection
from podnet.apiserver.registry import Registry
from podnet.apiserver.status import resource
from podnet.network.controllers import (
    debug_ports,
    external_pods,
    load_balancers,
    namespaces,
    pod_cidrs,
    scheduler,
    service_repair,
    sweeping,
)
from podnet.network.controllers.actions import Action, Delete
from podnet.network.controllers.load_balancers import Pool
from podnet.network.controllers.service_repair import Unknown
from podnet.objects.cluster import Key
from podnet.objects.core import Namespace, Node, Pod
from podnet.objects.kinds import (
    DEBUGPORTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    EVENTS,
    EXTERNALPODS,
    KINDS,
    LEASES,
    NAMESPACES,
    NETWORKCONFIGS,
    NODES,
    PODS,
    SERVICES,
)
from podnet.objects.meta import Object
from podnet.objects.network import NETWORK_NAME, NetworkConfig, NetworkSpec
from podnet.objects.services import Service

MIRRORED = (NAMESPACES, NODES, PODS, NETWORKCONFIGS, SERVICES, ENDPOINTSLICES, ENDPOINTS, EXTERNALPODS, DEBUGPORTS)
LEASE_NAMESPACE = "kube-node-lease"
BURST_SECONDS = 0.01  # changes this close together share a pass
SHARE = 9  # deciding takes at most a tenth of the time: requests go on while ten thousand pods are created
SWEEP_SECONDS = 5.0
REPAIR_SECONDS = 180.0


class Controllers:
    """Runs every decision when its inputs change.

    `cidrs`: the cluster's ranges when no NetworkConfig names any. `pools`: addresses for load balancers.
    """

    def __init__(
        self,
        registry: Registry,
        cidrs: Sequence[str] = (),
        report: Callable[[str], None] = print,
        pools: Sequence[Pool] = (),
    ) -> None:
        self._registry = registry
        self._cidrs = tuple(cidrs)
        self._pools = tuple(pools)
        self._mirrors = Mirrors(registry, MIRRORED, report)
        self._objects = self._mirrors.objects
        self._hands = Hands(registry, report)
        self._backers = Backers(self._mirrors, self._hands)
        self._dirty = {kind.plural for kind in MIRRORED}
        self._wake = asyncio.Event()
        self._unplaced: set[Key] = set()
        self._missing: dict[str, datetime] = {}
        self._mirrors.listen(self._told, self._settled)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self._mirrors, self._backers):
                tasks.create_task(work.run())
            for each in (self._react, self._sweep, self._repair):
                tasks.create_task(each())

    def _told(self, kind: str, key: Key, new: Object | None) -> None:
        """Know the pods without a node: most of the time there are none, and then there is nothing to schedule."""
        if kind == "pods":
            unplaced = isinstance(new, Pod) and not new.spec.node_name
            (self._unplaced.add if unplaced else self._unplaced.discard)(key)

    def _settled(self, kind: str) -> None:
        self._dirty.add(kind)
        self._wake.set()

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
            await self._hands.carry_out(actions)

    def _decide(self, dirty: set[str]) -> Iterator[Action]:
        nodes: list[Node] = list(self._objects["nodes"].values())
        if dirty & {"nodes", "networkconfigs"}:
            spec = self._network()
            yield from pod_cidrs.allocate(nodes, spec.pod_cidrs, spec.node_mask)
        if dirty & {"nodes", "pods"} and self._unplaced:
            yield from scheduler.schedule(self._objects["pods"].values(), nodes)
        if dirty & {"namespaces", "pods"}:
            yield from self._drain()
        if "services" in dirty:
            yield from load_balancers.assign(self._objects["services"].values(), self._pools)
        yield from self._lease(dirty)

    def _lease(self, dirty: set[str]) -> Iterator[Action]:
        """Ports of nodes that lead to one pod."""
        pods, nodes = self._objects["pods"], self._objects["nodes"]
        externals, leases = self._objects["externalpods"], self._objects["debugports"]
        around = bool(dirty & {"pods", "nodes"})
        if "externalpods" in dirty or (around and externals):
            yield from external_pods.reconcile(externals.values(), pods.values(), nodes)
        if "debugports" in dirty or around:
            yield from debug_ports.reconcile(leases.values(), pods, nodes)

    def _network(self) -> NetworkSpec:
        config: NetworkConfig | None = self._objects["networkconfigs"].get(("", NETWORK_NAME))
        return config.spec if config is not None else NetworkSpec(pod_cidrs=self._cidrs)

    def _drain(self) -> Iterator[Action]:
        spaces: Iterable[Namespace] = self._objects["namespaces"].values()
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
            pods: list[Pod] = list(self._objects["pods"].values())
            heartbeats = self._heartbeats(now)
            actions = [
                *sweeping.orphans(pods, self._gone(pods, now)),
                *sweeping.surplus(pods),
                *sweeping.silent(self._objects["nodes"].values(), heartbeats),
                *sweeping.stranded(pods, heartbeats),
                *self._old_events(now),
                *debug_ports.over(self._objects["debugports"].values(), self._objects["pods"], now),
                *self._drain(),
            ]
            await self._hands.carry_out(actions)

    async def _repair(self) -> None:
        """Addresses and node ports of Services, looked at again and again, while requests go on."""
        allocation = self._registry.allocation
        while allocation is not None:
            unknown = {(key.namespace, key.name): tokens async for key, tokens in allocation.repair()}
            records = self._registry.list(Selection(resource(SERVICES))).records
            await self._hands.carry_out(await asyncio.to_thread(self._findings, allocation, records, unknown))
            await asyncio.sleep(REPAIR_SECONDS)

    def _findings(self, allocation: Allocation, records: Iterable[Record], unknown: Unknown) -> list[Action]:
        read = (self._mirrors.decode(SERVICES, record.key[1:], record.value) for record in records)
        services: list[Service] = list(filter(None, read))
        return list(service_repair.check(services, allocation.ranges, allocation.ports, unknown))

    def _gone(self, pods: Iterable[Pod], now: datetime) -> Mapping[str, float]:
        """Nodes that pods name and that are not there, and for how long."""
        known = {name for _, name in self._objects["nodes"]}
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


def _age(time: str, now: datetime) -> float:
    """Seconds since an RFC 3339 time; 0 when it is none."""
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return 0.0
    return (now - moment.replace(tzinfo=moment.tzinfo or UTC)).total_seconds()
