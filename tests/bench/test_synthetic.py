"""The synthetic clusters: what the agent would see, of any size."""

from __future__ import annotations

import pytest

from podnet.bench.synthetic import cluster, facts, node, pods
from podnet.network.desired import desired, node_state
from podnet.network.viewing import problems, view


def test_a_node() -> None:
    made = node(258)
    assert made.metadata.name == "node-258"
    assert made.spec.pod_cidrs == ("10.1.2.0/24",)
    assert made.status.addresses[0].address == "172.16.1.2"


def test_node_addresses_do_not_repeat() -> None:
    addresses = {node(number).status.addresses[0].address for number in range(1, 65_536, 7)}
    assert len(addresses) == len(range(1, 65_536, 7))


@pytest.mark.parametrize("size", [3, 300])
def test_a_cluster_has_no_problems_and_a_route_to_every_peer(size: int) -> None:
    made = cluster(size)
    assert problems(made) == ()
    seen = view(made, facts(), pods(2))
    assert seen is not None
    assert len(seen.peers) == size - 1
    state = node_state(desired(seen))
    routes = [key for key in state if key[:2] == ("Route", "")]
    assert len(routes) == size - 1
    assert len([key for key in state if key[0] == "FdbEntry"]) == size - 1


def test_pods_share_nothing() -> None:
    made = pods(250)
    for unique in ({pod.addresses for pod in made}, {pod.mac for pod in made}, {pod.id for pod in made}):
        assert len(unique) == 250
    assert all(pod.addresses[0].startswith("10.0.1.") for pod in made)
