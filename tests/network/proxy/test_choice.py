"""Which endpoints a client gets: upstream's CategorizeEndpoints as a table, and what must hold for any endpoints."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.network.proxy.choice import Candidate, under_cluster, under_local
from podnet.network.service_port import Endpoint, Place

HERE = Place("n1", "zone-a")


def at(number: int, zones: str = "", nodes: str = "", **more: Any) -> Candidate:
    """10.1.2.<number>:80 with hints as words."""
    return Candidate(f"10.1.2.{number}", 80, zones=tuple(zones.split()), nodes=tuple(nodes.split()), **more)


LOCAL, OTHER = {"node": "n1"}, {"node": "n2"}
LEAVING: dict[str, Any] = {"ready": False, "serving": True, "terminating": True}
UNREADY: dict[str, Any] = {"ready": False, "serving": False}
DEAD: dict[str, Any] = {"ready": False, "serving": False, "terminating": True}

A, B, C = "zone-a", "zone-b", "zone-c"
SPREAD = [at(3, A), at(4, B), at(5, C), at(6, A)]
BOTH = [at(3, A, **LOCAL), at(4, B, **LOCAL), at(5, A, **OTHER), at(6, B, **OTHER)]

CASES: dict[str, tuple[Place, list[Candidate], list[int], list[int]]] = {
    # name: place, candidates, policy Cluster, policy Local
    "nothing": (HERE, [], [], []),
    "hints": (HERE, SPREAD, [3, 6], []),
    "node without a zone": (Place("n1"), [at(3, A)], [3], []),
    "node in a zone nobody is for": (Place("n1", B), [at(3, A), at(4, C)], [3, 4], []),
    "an unready endpoint of the zone is left out": (HERE, [*SPREAD[:3], at(6, A, **UNREADY)], [3], []),
    "only unready ones in the zone": (HERE, [at(3, A, **UNREADY), *SPREAD[1:3], at(6, A, **UNREADY)], [4, 5], []),
    "one without a hint": (HERE, [*SPREAD[:2], at(5), SPREAD[3]], [3, 4, 5, 6], []),
    "an unready one without a hint does not count": (HERE, [*SPREAD[:2], at(5, **UNREADY), SPREAD[3]], [3, 6], []),
    "several zones each": (
        Place("n1", C),
        [at(3, "zone-a zone-b zone-c"), at(4, "zone-b zone-c"), at(5, B)],
        [3, 4],
        [],
    ),
    "Local ignores hints": (HERE, BOTH, [3, 5], [3, 4]),
    "all remote": (HERE, [at(3, **OTHER), at(4, **OTHER)], [3, 4], []),
    "all local": (HERE, [at(3, **LOCAL), at(4, **LOCAL)], [3, 4], [3, 4]),
    "some local": (HERE, [at(3, **LOCAL), at(4, **OTHER)], [3, 4], [3]),
    "no node is named": (HERE, [at(3)], [3], []),
    "terminating ones are not used while others are ready": (HERE, [at(3), at(4, **LEAVING)], [3], []),
    "none ready: those that serve while they terminate": (
        HERE,
        [at(3, **LEAVING), at(4, **DEAD), at(5, **UNREADY)],
        [3],
        [],
    ),
    "not ready, but serving and not terminating": (HERE, [at(3, ready=False)], [], []),
    "the last local one terminates": (HERE, [at(3, **LEAVING, **LOCAL), at(4, **OTHER)], [4], [3]),
    "the only ones terminate elsewhere": (HERE, [at(3, **LEAVING, **OTHER)], [3], []),
    "falling back ignores hints": (HERE, [at(3, A, **LEAVING), at(4, B, **LEAVING)], [3, 4], []),
    "publishNotReadyAddresses: ready while it terminates": (
        HERE,
        [at(3, ready=True, serving=False, terminating=True, **LOCAL)],
        [3],
        [3],
    ),
    "nodes before zones": (HERE, [at(3, A, "n2"), at(4, B, "n1"), at(5, B, "n1")], [4, 5], []),
    "no endpoint for this node: zones": (HERE, [at(3, A, "n2"), at(4, B, "n3")], [3], []),
    "no endpoint for this node, and no zones": (HERE, [at(3, "", "n2"), at(4, "", "n3")], [3, 4], []),
    "some have no hint for nodes: zones": (HERE, [at(3, A), at(4, B, "n1")], [3], []),
    "some have no hint for nodes, others none for zones": (HERE, [at(3, A), at(4, "", "n1")], [3, 4], []),
    "an unready one is for this node": (HERE, [at(3, A, "n1", **UNREADY), at(4, A, "n2"), at(5, B, "n2")], [4], []),
    "twice the same": (HERE, [at(3, **LOCAL), at(3, **LOCAL), at(4)], [3, 4], [3]),
    "twice, once local": (HERE, [at(3, **OTHER), at(3, **LOCAL), at(3)], [3], [3]),
    "twice, once ready": (HERE, [at(3, **UNREADY), at(3)], [3], []),
}


@pytest.mark.parametrize("case", CASES)
def test_upstream_cases(case: str) -> None:
    place, candidates, cluster, local = CASES[case]
    assert [each.address for each in under_cluster(candidates, place)] == [f"10.1.2.{each}" for each in cluster]
    assert [each.address for each in under_local(candidates, place)] == [f"10.1.2.{each}" for each in local]


def test_an_endpoint_says_whether_it_is_here() -> None:
    found = under_cluster([at(3, **LOCAL), at(4, **OTHER), at(5)], HERE)
    assert found == (Endpoint("10.1.2.3", 80, True), Endpoint("10.1.2.4", 80), Endpoint("10.1.2.5", 80))


def test_one_address_with_two_ports_is_two_endpoints() -> None:
    found = under_cluster([Candidate("10.1.2.3", 81), Candidate("10.1.2.3", 80)], HERE)
    assert found == (Endpoint("10.1.2.3", 80), Endpoint("10.1.2.3", 81))


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.sampled_from(["10.1.2.3", "10.1.2.4", "10.1.2.5"]),
        st.sampled_from([80, 81]),
        st.sampled_from(["", "n1", "n2"]),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.sampled_from([(), ("zone-a",), ("zone-b",)]),
        st.sampled_from([(), ("n1",), ("n2",)]),
    ),
    max_size=6,
)


@given(CANDIDATES, st.randoms(use_true_random=False))
def test_the_order_of_slices_does_not_matter_and_no_endpoint_is_there_twice(
    found: list[Candidate], random: Any
) -> None:
    shuffled = random.sample(found, len(found))
    for choose in (under_cluster, under_local):
        chosen = choose(found, HERE)
        assert chosen == choose(shuffled, HERE)
        places = [(each.address, each.port) for each in chosen]
        assert places == sorted(set(places))


@given(CANDIDATES)
def test_what_is_ready_is_never_passed_over_for_what_leaves(found: list[Candidate]) -> None:
    ready = {(each.address, each.port) for each in found if each.ready}
    local = {(each.address, each.port) for each in found if each.ready and each.node == "n1"}
    cluster = {(each.address, each.port) for each in under_cluster(found, HERE)}
    leaving = {(each.address, each.port) for each in found if each.serving and each.terminating}
    assert (bool(cluster) and cluster <= ready) if ready else cluster == leaving
    if local:
        assert {(each.address, each.port) for each in under_local(found, HERE)} == local
    assert all(each.local for each in under_local(found, HERE))
