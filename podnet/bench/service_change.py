"""One endpoint that changes among many: what that costs in this process, and from the API to the kernel.

The first is the CPU of the pure core and the kernel edge, with a fresh snapshot for each change as the informers make
it. The second is a real API server and a real agent: a slice is written over HTTPS, and the clock stands still when
the kernel tells its listeners of an element with the new address. What the agent needs for it is the CPU of its
threads, less what it needs in the same time without a change.
"""

from __future__ import annotations

import asyncio
import gc
import math
import socket
import time
from collections.abc import Iterator, Sequence

from podnet.bench.cluster import Cluster
from podnet.bench.figures import Figure, at_most, figure, say
from podnet.bench.programs import cpu_seconds
from podnet.bench.service_node import Node
from podnet.bench.service_objects import NAMESPACE, changed, cluster, endpoint_slice, pods, service
from podnet.bench.writing import body, create
from podnet.client.api import Api
from podnet.client.config import load
from podnet.kernel import netns
from podnet.kernel.netlink import NETFILTER, listen
from podnet.objects.kinds import ENDPOINTSLICES, SERVICES, Kind
from podnet.objects.meta import Object
from podnet.state.difference import replaced

SIZES = (250, 12_500)
"""Services in the cluster, in this order: the second comes about by adding to the first."""

EACH = 4
TURNS, CHANGES = 3, 100
PACE = 0.05
IDLE = 2.0
PATIENCE = 30.0
_NFTABLES = 7
_READ = 1 << 16


class Unheard(Exception):
    """The kernel did not get a change in PATIENCE."""


def size(services: int) -> str:
    """How figures name it."""
    return f"among {services * EACH:,} endpoints"


def worst(samples: Sequence[float]) -> float:
    """The 99th percentile: the smallest sample that 99 of 100 do not exceed."""
    return sorted(samples)[math.ceil(len(samples) * 0.99) - 1]


# -- in this process


def in_process(name: str) -> Iterator[Figure]:
    """CPU of view, desired state and reconciliation."""
    for services in SIZES:
        say(f"one endpoint {size(services)}, in this process")
        churn = _Churn(services)
        turns = [[churn.change() for _ in range(CHANGES)] for _ in range(TURNS)]
        every = [milliseconds for turn in turns for milliseconds in turn]
        yield figure(name, f"one endpoint {size(services)}, core and kernel edge, CPU", "ms", every, at_most(5))
        slow = [worst(turn) for turn in turns]
        yield figure(name, f"p99 of that, core and kernel edge, {size(services)}", "ms", slow, at_most(5))
        yield figure(name, f"a whole reading, {size(services)}", "s", [churn.resync() for _ in range(TURNS)])


class _Churn:
    """A node that takes changes of a cluster with so many Services."""

    def __init__(self, services: int) -> None:
        self._cluster, self._node = cluster(services, EACH), Node(f"change{services}")
        self._services, self._number = services, 0
        self._node.take(self._cluster)

    def change(self) -> float:
        """Milliseconds of CPU for one endpoint."""
        self._number += 1
        new = changed(self._number * 37 % self._services, EACH, self._number)
        start = time.process_time()
        slices = replaced(self._cluster.endpointslices, {new.key: new})
        self._cluster = self._cluster.with_objects("endpointslices", slices)
        done = self._node.take(self._cluster)
        milliseconds = (time.process_time() - start) * 1e3
        assert done.plan, "a change has steps"
        return milliseconds

    def resync(self) -> float:
        """Seconds to read the whole kernel and to find that nothing is to be done."""
        start = time.perf_counter()
        self._node.reconciler.distrust()
        done = self._node.take(self._cluster)
        assert not done.plan, "nothing drifted"
        return time.perf_counter() - start


# -- from the API to the kernel


def end_to_end(name: str) -> Iterator[Figure]:
    """The time from the write to the kernel, and the agent's CPU."""
    gc.collect()
    gc.freeze()  # what other parts left is not to be walked while a clock runs
    world = _World(Cluster("services", nodes=1, backend="host-gw"))
    with netns.inside(world.cluster.lab.fabric_netns):
        results = asyncio.run(world.measure())
    for services, turns, cpu in results:
        milliseconds = [seconds * 1e3 for turn in turns for seconds in turn]
        yield figure(name, f"one endpoint {size(services)}, API write to kernel", "ms", milliseconds)
        slow = [worst(turn) * 1e3 for turn in turns]
        yield figure(name, f"p99 of that, API write to kernel, {size(services)}", "ms", slow, at_most(30))
        yield figure(name, f"the agent's CPU for each, {size(services)}", "ms", cpu, at_most(5))


Turns = list[list[float]]


class _World:
    """An API server, one agent, and an ear in the node's namespace."""

    def __init__(self, made: Cluster) -> None:
        self.cluster = made
        (node,) = made.lab.nodes
        self._pid = made.agents[node.name].pid
        self._ear = listen(node.netns, NETFILTER, (_NFTABLES,))
        self._number = 0

    async def measure(self) -> list[tuple[int, Turns, list[float]]]:
        """(Services, seconds of each change by turn, the agent's milliseconds of CPU for a change by turn)."""
        results, there = [], 0
        async with Api(load(self.cluster.kubeconfig)) as api:
            for services in SIZES:
                await create(api, _objects(range(there, services)), "objects")
                there = services
                await self._change(api, services)
                await self._rest()
                idle = await self._idle()
                turns, cpu = [], []
                for turn in range(TURNS):
                    say(f"one endpoint {size(services)}: turn {turn + 1} of {TURNS}", again=turn + 1 < TURNS)
                    seconds, spent = await self._turn(api, services, idle)
                    turns.append(seconds)
                    cpu.append(spent * 1e3)
                results.append((services, turns, cpu))
        return results

    async def _turn(self, api: Api, services: int, idle: float) -> tuple[list[float], float]:
        """The seconds of each change, and the agent's seconds of CPU for one."""
        began, before, taken = time.monotonic(), cpu_seconds(self._pid), []
        for _ in range(CHANGES):
            taken.append(await self._change(api, services))
            await asyncio.sleep(PACE)
        spent = cpu_seconds(self._pid) - before - idle * (time.monotonic() - began)
        return taken, spent / CHANGES

    async def _change(self, api: Api, services: int) -> float:
        """Seconds from the write of a slice until the kernel has its new element."""
        self._number += 1
        new = changed(self._number * 37 % services, EACH, self._number)
        address = socket.inet_aton(new.endpoints[0].addresses[0])
        path = ENDPOINTSLICES.path(NAMESPACE, new.metadata.name)
        document = body(ENDPOINTSLICES, new)
        self._drain()
        start = time.perf_counter()
        write = asyncio.create_task(api.request("PUT", path, body=document))
        try:
            async with asyncio.timeout(PATIENCE):
                heard = await self._heard(address)
        except TimeoutError:
            raise Unheard(f"the agent did not hear of {new.metadata.name} in {PATIENCE:g} s") from None
        await write
        return heard - start

    async def _heard(self, address: bytes) -> float:
        loop = asyncio.get_running_loop()
        while address not in await loop.sock_recv(self._ear, _READ):
            pass
        return time.perf_counter()

    def _drain(self) -> None:
        while True:
            try:
                self._ear.recv(_READ)
            except BlockingIOError:
                return
            except OSError:  # it was told more than it could hold
                continue

    async def _rest(self) -> None:
        """Until the agent has nothing more to do than always."""
        used = cpu_seconds(self._pid)
        while True:
            await asyncio.sleep(1)
            now = cpu_seconds(self._pid)
            if now - used < 0.1:
                return
            used = now

    async def _idle(self) -> float:
        """CPU seconds of the agent in each second in which nothing changes."""
        before = cpu_seconds(self._pid)
        await asyncio.sleep(IDLE)
        return (cpu_seconds(self._pid) - before) / IDLE


def _objects(numbers: range) -> Iterator[tuple[Kind, Object]]:
    """The Services of these numbers, with their slices."""
    for number in numbers:
        yield SERVICES, service(number)
        yield ENDPOINTSLICES, endpoint_slice(number, pods(number, EACH))
