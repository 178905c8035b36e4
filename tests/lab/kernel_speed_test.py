"""The marks for the kernel edge, in CPU time of this process, best of a few: other load must not fail them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podnet.state.nft import Element, NftTable
from podnet.state.plan import plan
from podnet.state.resource import Resource, state
from podnet.state.routes import Route
from tests.kernel.contract import UPLINK, adding, deleting, links, pod
from tests.lab.hands import KernelNode, kernel_node, needs_root

pytestmark = [pytest.mark.lab, needs_root]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[KernelNode]:
    with kernel_node(tmp_path) as made:
        yield made


def best(work: Callable[[], object], times: int = 5) -> float:
    """Seconds of CPU of the fastest try."""
    tries = []
    for _ in range(times):
        start = time.process_time()
        work()
        tries.append(time.process_time() - start)
    return min(tries)


def test_ten_thousand_routes(node: KernelNode) -> None:
    desired = state(Route(f"10.{64 + n // 256}.{n % 256}.0/24", via="10.0.0.2", dev=UPLINK) for n in range(10_000))
    steps = plan(desired, {})
    assert best(lambda: node.plane.apply(steps), 3) <= 0.3
    found = node.plane.read(desired, frozenset({"Route"}))
    assert found == desired
    assert best(lambda: node.plane.read(desired, frozenset({"Route"}))) <= 0.1


def test_a_pod(node: KernelNode) -> None:
    node.plane.apply(plan(state(links()), {}))
    plain = ("Veth", "PodLink", "Address", "Route")

    def made() -> float:
        path = node.pod()
        desired = state(
            r for r in pod(path) if type(r).__name__ in plain and "fd44" not in str(r) and r.key[-1] != "lo"
        )
        start = time.process_time()
        outcome = node.plane.apply(plan(desired, {}))
        taken = time.process_time() - start
        assert (outcome.held, outcome.failed) == ((), ())
        node.plane.apply(deleting(*(r for r in desired.values() if r.kind == "Link")))
        return taken

    assert min(made() for _ in range(10)) <= 0.004


def test_one_of_many_elements(node: KernelNode) -> None:
    table = NftTable("inet", "podnet-many", "map m { type ipv4_addr . inet_service : verdict; }")
    many: list[Resource] = [
        Element("inet", "podnet-many", "m", f"10.96.{n // 256}.{n % 256} . 80", "drop") for n in range(20_000)
    ]
    assert node.plane.apply(adding(table, *many)).failed == ()
    one = Element("inet", "podnet-many", "m", "10.97.0.1 . 80", "drop")

    def in_and_out() -> None:
        assert len(node.plane.apply(adding(one)).done) == 1
        assert len(node.plane.apply(deleting(one)).done) == 1

    assert best(in_and_out) <= 0.01
    assert len(node.plane.read({})) == 20_001
