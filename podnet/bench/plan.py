"""Suite plan: how the pure core and the kernel edge grow.

The core: everything from a Cluster to a plan, with nothing remembered from before, for a node with 110 pods on vxlan
(the scheme with the most resources per peer), as after a start of the agent; and one Node's change, as in daily life.
The edge: 10,000 routes into a kernel and back. The whole: the memory of a real agent in a cluster of 1,000 nodes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import msgspec

from podnet.bench import agent_memory
from podnet.bench.figures import Figure, at_most, figure, in_turns, ratios, say
from podnet.bench.synthetic import cluster, facts, pods
from podnet.kernel.dataplane import KernelDataplane
from podnet.lab import fabric
from podnet.network.desired import desired, node_state
from podnet.network.memo import Memo
from podnet.network.viewing import view
from podnet.objects.cluster import Cluster
from podnet.state.plan import plan
from podnet.state.resource import NodeState, state
from podnet.state.routes import Route

NAME = "plan"
TURNS = 9
NODES, LARGE = 1000, 5000
ROUTES = 10_000
HERE = "/proc/self/ns/net"
STATE = "/run/routes"


def suite() -> Iterator[Figure]:
    """Every figure of the suite; runs in the arena."""
    yield from _core()
    yield from _routes()
    yield from _memory()


def _core() -> Iterator[Figure]:
    small, large = cluster(NODES), cluster(LARGE)
    turns = in_turns(
        lambda: _cold(large), lambda: _cold(small), TURNS, f"desired state and diff, {LARGE:,} and {NODES:,} nodes"
    )
    yield figure(
        NAME, f"desired and diff, {NODES:,} nodes", "ms", [seconds * 1e3 for _, seconds in turns], at_most(100)
    )
    yield figure(NAME, f"desired and diff, {LARGE:,} nodes to {NODES:,}", "ratio", ratios(turns), at_most(5))
    yield figure(NAME, f"one Node of {NODES:,} changed", "ms", [seconds * 1e3 for seconds in _changes(small)])


def _cold(nodes: Cluster) -> float:
    """Seconds from a cluster to a plan without any memo; the kernel lacks one route, so that the plan has one step."""
    actual = dict(_state(nodes, {}))
    lost = next(key for key in actual if key[0] == "Route")
    del actual[lost]
    start = time.perf_counter()
    steps = plan(_state(nodes, {}), actual).steps
    seconds = time.perf_counter() - start
    assert [step.resource.key for step in steps] == [lost]
    return seconds


def _changes(nodes: Cluster) -> Iterator[float]:
    """Seconds for the same with a memo, when one Node got a new address."""
    memo: Memo = {}
    actual = _state(nodes, memo)
    for number in range(TURNS):
        nodes = _moved(nodes, f"node-{number + 2}")
        start = time.perf_counter()
        wanted = _state(nodes, memo)
        assert plan(wanted, actual)
        yield time.perf_counter() - start
        actual = wanted


def _moved(nodes: Cluster, name: str) -> Cluster:
    node = nodes.nodes["", name]
    address = msgspec.structs.replace(node.status.addresses[0], address="172.31.0.1")
    status = msgspec.structs.replace(node.status, addresses=(address,))
    return nodes.with_objects("nodes", {**nodes.nodes, ("", name): msgspec.structs.replace(node, status=status)})


def _state(nodes: Cluster, memo: Memo) -> NodeState:
    seen = view(nodes, facts(), pods(110), memo)
    assert seen is not None
    return node_state(desired(seen, memo))


def _routes() -> Iterator[Figure]:
    fabric.configure(HERE, ["link add routes0 type veth peer name routes1"])
    fabric.configure(HERE, ["link set routes1 up", "link set routes0 up", "address add 192.168.77.11/24 dev routes0"])
    wanted = state(
        Route(f"10.{n >> 8}.{n & 255}.0/24", via=f"192.168.77.{n % 200 + 20}", dev="routes0") for n in range(ROUTES)
    )
    os.mkdir(STATE)
    dataplane = KernelDataplane(STATE)
    turns = []
    for turn in range(TURNS):
        say(f"{ROUTES:,} routes: turn {turn + 1} of {TURNS}", again=turn + 1 < TURNS)
        turns.append(_there_and_back(dataplane, wanted))
    yield figure(NAME, f"{ROUTES:,} routes programmed", "s", [made for made, _ in turns], at_most(0.3))
    yield figure(NAME, f"{ROUTES:,} routes read back", "s", [read for _, read in turns], at_most(0.1))


def _there_and_back(dataplane: KernelDataplane, wanted: NodeState) -> tuple[float, float]:
    """Seconds to program and to read; then the routes are removed again."""
    steps = plan(wanted, {})
    start = time.perf_counter()
    outcome = dataplane.apply(steps)
    made = time.perf_counter()
    found = dataplane.read(wanted, frozenset({"Route"}))
    done = time.perf_counter()
    assert not outcome.failed
    assert found == wanted
    dataplane.apply(plan({}, found))
    return made - start, done - made


def _memory() -> Iterator[Figure]:
    samples = agent_memory.at(NODES)
    yield figure(NAME, f"resident memory of an agent, {NODES:,} nodes", "MB", samples, at_most(80))
