"""Node ranges: never overlapping, never changing, lowest first, all families or none."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.network.controllers.actions import Patch, Report
from podnet.network.controllers.pod_cidrs import allocate, stranded
from podnet.objects.core import Node, NodeSpec
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import NodeMask

MASKS = NodeMask()


def node(name: str, *cidrs: str, going: bool = False) -> Node:
    meta = ObjectMeta(name=name, creation_timestamp="2026-01-01T00:00:00Z", deletion_timestamp="x" if going else None)
    return Node(metadata=meta, spec=NodeSpec(pod_cidrs=cidrs))


def given_to(nodes: list[Node], cluster: list[str], masks: NodeMask = MASKS) -> dict[str, list[str] | None]:
    """What each waiting node gets; None: a report."""
    found: dict[str, list[str] | None] = {}
    for action in allocate(nodes, cluster, masks):
        if isinstance(action, Patch):
            assert action.document["spec"]["podCIDR"] == action.document["spec"]["podCIDRs"][0]
            found[action.name] = action.document["spec"]["podCIDRs"]
        else:
            assert isinstance(action, Report)
            assert action.reason == "CIDRNotAvailable"
            found[action.about.metadata.name] = None
    return found


def test_the_lowest_free_range() -> None:
    nodes = [node("a"), node("b", "10.244.0.0/24"), node("c", "10.244.2.0/24"), node("d")]
    assert given_to(nodes, ["10.244.0.0/16"]) == {"a": ["10.244.1.0/24"], "d": ["10.244.3.0/24"]}


def test_both_families_in_the_clusters_order() -> None:
    assert given_to([node("a"), node("b")], ["fd00:10::/48", "10.244.0.0/16"]) == {
        "a": ["fd00:10::/64", "10.244.0.0/24"],
        "b": ["fd00:10:0:1::/64", "10.244.1.0/24"],
    }


def test_a_range_of_an_earlier_mask_is_not_overlapped() -> None:
    nodes = [node("a", "10.244.0.128/25"), node("b", "10.244.4.0/22"), node("c"), node("d")]
    cluster = ["10.244.0.0/16"]
    assert given_to(nodes, cluster) == {"c": ["10.244.1.0/24"], "d": ["10.244.2.0/24"]}
    assert given_to(nodes, cluster, NodeMask(ipv4=22)) == {"c": ["10.244.8.0/22"], "d": ["10.244.12.0/22"]}


def test_ranges_outside_the_cluster_do_not_matter() -> None:
    assert given_to([node("a", "192.168.0.0/24"), node("b")], ["10.244.0.0/16"]) == {"b": ["10.244.0.0/24"]}


def test_the_range_of_a_node_that_is_gone_is_free_again() -> None:
    assert given_to([node("new")], ["10.244.0.0/24"]) == {"new": ["10.244.0.0/24"]}


def test_no_range_left() -> None:
    nodes = [node("a", "10.244.0.0/24"), node("b"), node("c")]
    assert given_to(nodes, ["10.244.0.0/23"]) == {"b": ["10.244.1.0/24"], "c": None}
    (report,) = allocate(nodes[:2], ["10.244.0.0/24"], MASKS)
    assert isinstance(report, Report)
    assert "10.244.0.0/24" in report.message


def test_one_family_is_not_enough() -> None:
    assert given_to([node("a"), node("b")], ["10.244.0.0/24", "fd00::/48"]) == {
        "a": ["10.244.0.0/24", "fd00::/64"],
        "b": None,
    }


@pytest.mark.parametrize(
    ("nodes", "cluster"),
    [
        ([], ["10.244.0.0/16"]),
        ([node("a")], []),
        ([node("a", going=True)], ["10.244.0.0/16"]),
        ([node("a", "10.244.0.0/24")], ["10.0.0.0/8"]),
    ],
)
def test_nothing_to_do(nodes: list[Node], cluster: list[str]) -> None:
    assert given_to(nodes, cluster) == {}


def test_a_mask_that_is_wider_than_the_cluster_gives_nothing() -> None:
    assert given_to([node("a")], ["10.244.0.0/25"]) == {"a": None}


def test_older_nodes_first() -> None:
    old = msgspec.structs.replace(node("z"), metadata=ObjectMeta(name="z", creation_timestamp="2025-01-01T00:00:00Z"))
    assert given_to([node("a"), old], ["10.244.0.0/24"]) == {"z": ["10.244.0.0/24"], "a": None}


CLUSTERS = st.sampled_from([["10.0.0.0/26"], ["10.0.0.0/26", "fd00::/122"], ["fd00::/122"], ["10.0.0.64/27"]])
TAKEN = st.lists(
    st.tuples(st.integers(0, 127), st.integers(25, 31)).map(
        lambda pair: str(ipaddress.ip_network((f"10.0.0.{pair[0]}", pair[1]), strict=False))
    ),
    max_size=5,
)


@given(CLUSTERS, TAKEN, st.integers(0, 12), st.integers(27, 30), st.integers(123, 126))
def test_ranges_never_overlap_are_inside_and_run_out_only_when_they_must(
    cluster: list[str], taken: list[str], waiting: int, mask4: int, mask6: int
) -> None:
    nodes = [node(f"t{n}", cidr) for n, cidr in enumerate(taken)] + [node(f"w{n:02}") for n in range(waiting)]
    result = given_to(nodes, cluster, NodeMask(ipv4=mask4, ipv6=mask6))
    assert set(result) == {f"w{n:02}" for n in range(waiting)}
    used = [ipaddress.ip_network(cidr) for cidr in taken]
    fresh = [ipaddress.ip_network(cidr) for cidrs in result.values() for cidr in cidrs or ()]
    for index, one in enumerate(fresh):
        assert one.prefixlen == (mask4 if one.version == 4 else mask6)
        assert any(one.version == home.version and one.subnet_of(home) for home in map(ipaddress.ip_network, cluster))  # type: ignore[arg-type]
        assert not any(one.version == other.version and one.overlaps(other) for other in (*used, *fresh[:index]))
    if None in result.values():
        for home in map(ipaddress.ip_network, cluster):
            mask = mask4 if home.version == 4 else mask6
            pieces = home.subnets(new_prefix=mask) if mask >= home.prefixlen else ()
            if all(
                any(piece.version == other.version and piece.overlaps(other) for other in (*used, *fresh))
                for piece in pieces
            ):
                break
        else:
            raise AssertionError("a range was free in every family")


def test_a_change_strands_no_node() -> None:
    nodes = [
        node("n1", "10.244.0.0/24", "fd00:10::/64"),
        node("n2", "10.244.1.0/24"),
        node("n3", "172.31.0.0/24"),
        node("n4"),
    ]
    old = ("10.244.0.0/16", "fd00:10::/48")
    assert stranded(nodes, old, ("10.240.0.0/12", "fd00:10::/40")) == ""
    assert "Node n1 has fd00:10::/64; widen" in stranded(nodes, old, ("10.244.0.0/16",))
    assert "Node n1 has 10.244.0.0/24 and 1 more are like that" in stranded(nodes, old, ("10.9.0.0/16", "fd00:10::/48"))
