"""What one node sees of the cluster, and what is said about objects that can't be honoured."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from podnet.network.memo import Memo
from podnet.network.view import NodeInfo, Problem, base_address, first_address, is_v6, on_link
from podnet.network.viewing import node_info, problems, view
from podnet.objects.core import Condition, Node, NodeAddress, NodeSpec, NodeStatus
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import ProxySpec
from tests.worlds import attachment, cluster, config, facts, node, seen


def made(name: str = "n9", cidrs: tuple[str, ...] = (), addresses: tuple[str, ...] = (), **annotations: str) -> Node:
    return Node(
        metadata=ObjectMeta(name=name, annotations={f"podnet.dev/{key}": text for key, text in annotations.items()}),
        spec=NodeSpec(pod_cidrs=cidrs),
        status=NodeStatus(addresses=tuple(NodeAddress("InternalIP", address) for address in addresses)),
    )


def test_words_about_addresses() -> None:
    assert [is_v6(text) for text in ("10.0.0.0/8", "fd00::/64", "::1")] == [False, True, True]
    assert (base_address("10.244.1.0/24"), base_address("10.0.0.1")) == ("10.244.1.0", "10.0.0.1")
    assert (first_address("10.244.1.0/24"), first_address("fd00:1::/64")) == ("10.244.1.1", "fd00:1::1")
    assert on_link(facts(1), "192.168.77.200")
    assert on_link(facts(1), "fd77::9")
    assert not on_link(facts(1), "192.168.78.1")
    assert on_link(facts(1, prefixes=("192.168.78.5/24",)), "192.168.78.1"), "an address with its prefix will do"


def test_a_node_reduced() -> None:
    info = node_info(
        made("n9", ("10.244.9.0/24", "FD00:9:0::/64"), ("10.0.0.9", "FD77::09"), accepts="a, b,,", sends="a")
    )
    assert info == NodeInfo("n9", ("10.0.0.9", "fd77::9"), ("10.244.9.0/24", "fd00:9::/64"), ("a", "b"), ("a",))
    assert (info.address("10.1.0.0/16"), info.address("fd00::/64")) == ("10.0.0.9", "fd77::9")
    assert NodeInfo("x", ("10.0.0.9",)).address("fd00::/64") is None


def test_the_first_of_each_family_counts_and_only_internal_addresses() -> None:
    addresses = (
        NodeAddress("Hostname", "n9"),
        NodeAddress("ExternalIP", "1.2.3.4"),
        NodeAddress("InternalIP", "10.0.0.9"),
        NodeAddress("InternalIP", "10.0.0.10"),
    )
    info = node_info(replace(made("n9", ("10.1.0.0/24", "10.2.0.0/24")), status=NodeStatus(addresses=addresses)))
    assert (info.addresses, info.pod_cidrs) == (("10.0.0.9",), ("10.1.0.0/24",))


def test_the_old_field_counts_while_the_new_one_is_empty() -> None:
    assert node_info(Node(spec=NodeSpec(pod_cidr="10.1.0.0/24"))).pod_cidrs == ("10.1.0.0/24",)
    both = Node(spec=NodeSpec(pod_cidr="10.1.0.0/24", pod_cidrs=("10.2.0.0/24",)))
    assert node_info(both).pod_cidrs == ("10.2.0.0/24",)


BAD_RANGES = [
    "", "x", "10.244.1.0", "10.244.1.1/24", "10.244.1.0/33", "10.244.1.0/31", "10.244.1.1/32", "0.0.0.0/0", "::/0",
    "fd00::/127", "127.0.0.0/8", "224.0.0.0/4", "169.254.0.0/16", "fe80::/64", "ff00::/8", "::/64", "::ffff:0:0/96",
]  # fmt: skip
BAD_ADDRESSES = [
    "", "x", "10.0.0.0/8", "10.0.0", "010.0.0.1", "0.0.0.0", "127.0.0.1", "224.0.0.1", "169.254.1.1", "::", "::1",
    "fe80::1", "fe80::1%eth0", "fd00::1%eth0", "ff02::1", "::ffff:10.0.0.1", "10.0.0.1 ", "n1",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_RANGES)
def test_a_range_that_can_t_work_is_left_out_and_named(text: str) -> None:
    bad = made("n9", ("10.244.9.0/24", text), ("192.168.77.19",))
    assert node_info(bad).pod_cidrs == ("10.244.9.0/24",)
    (problem,) = problems(cluster([bad], config()))
    assert (problem.object, problem.reason, problem.field) == ("Node/n9", "InvalidPodCIDR", "spec.podCIDRs[1]")
    assert repr(text) in problem.message


@pytest.mark.parametrize("text", BAD_ADDRESSES)
def test_an_address_that_nobody_can_reach_is_left_out_and_named(text: str) -> None:
    bad = made("n9", ("10.244.9.0/24",), (text, "192.168.77.19"))
    assert node_info(bad).addresses == ("192.168.77.19",)
    (problem,) = problems(cluster([bad], config()))
    assert (problem.reason, problem.field) == ("InvalidAddress", "status.addresses[0].address")
    assert repr(text) in problem.message


@pytest.mark.parametrize("text", ["10.244.9.0/24", "10.244.9.0/30", "fd00:10:244:9::/64", "fd00:10:244:9::/126"])
def test_ranges_that_work(text: str) -> None:
    assert node_info(made("n9", (text,))).pod_cidrs == (text,)
    assert problems(cluster([made("n9", (text,), ("192.168.77.19",))], config(dual=True))) == ()


def test_a_view_needs_the_node_and_a_configuration() -> None:
    assert view(cluster([node(1)]), facts(1)) is None
    assert view(cluster([node(2)], config()), facts(1)) is None
    found = view(cluster([node(1)], config()), facts(1))
    assert found is not None
    assert (found.me.name, found.peers, found.network) == ("n1", (), config().spec)


def test_peers_are_the_others_that_can_be_reached_in_order_of_their_names() -> None:
    lone = made("n0", (), ("192.168.77.10",))
    mute = made("n4", ("10.244.4.0/24",), ())
    found = seen(cluster([node(3), lone, mute, node(2), node(1)], config()), 1)
    assert [peer.name for peer in found.peers] == ["n2", "n3"]


@pytest.mark.parametrize(
    ("other", "left"),
    [
        (made("n2", ("10.244.1.0/24",), ("192.168.77.12",)), None),  # my range
        (made("n2", ("10.244.1.128/25",), ("192.168.77.12",)), None),  # inside it
        (made("n2", ("10.244.0.0/16",), ("192.168.77.12",)), None),  # around it
        (made("n2", ("10.244.2.0/24",), ("192.168.77.11",)), None),  # my address
        (made("n2", ("10.244.1.0/24", "fd00:10:244:2::/64"), ("192.168.77.12",)), ("fd00:10:244:2::/64",)),
    ],
)
def test_what_is_mine_stays_mine(other: Node, left: tuple[str, ...] | None) -> None:
    peers = seen(cluster([node(1), other], config(dual=True)), 1).peers
    assert [peer.pod_cidrs for peer in peers] == ([left] if left else [])


def test_a_range_belongs_to_the_first_who_has_it() -> None:
    twice = made("n3", ("10.244.2.0/24",), ("192.168.77.13",))
    smaller = made("n4", ("10.244.2.0/25",), ("192.168.77.14",))
    found = seen(cluster([smaller, twice, node(2), node(1)], config()), 1)
    assert [peer.name for peer in found.peers] == ["n2"]


def test_what_the_agent_said_last_counts_before_the_object_shows_it() -> None:
    world = cluster([node(1, accepts=["vxlan"], sends=["vxlan"])], config())
    found = view(world, facts(1), said=(("host-gw@1", "vxlan"), ("vxlan",)))
    assert found is not None
    assert (found.me.accepts, found.me.sends) == (("host-gw@1", "vxlan"), ("vxlan",))
    assert found.me.pod_cidrs == ("10.244.1.0/24",)


def test_narrowed() -> None:
    found = seen(cluster([node(1), node(2)], config()), 1, [attachment(1, 1)])
    narrow = found.narrowed({"type": "host-gw"}, [])
    assert (narrow.network.backend, narrow.peers) == ({"type": "host-gw"}, ())
    assert (narrow.me, narrow.facts, narrow.attachments) == (found.me, found.facts, found.attachments)


# -- identity


def heartbeat(beating: Node, version: str) -> Node:
    """The same node, some seconds later."""
    ready = Condition(type="Ready", status="True", last_transition_time=version)
    meta = replace(beating.metadata, resource_version=version)
    return replace(beating, metadata=meta, status=replace(beating.status, conditions=(ready,)))


def test_heartbeats_change_nothing_that_is_seen() -> None:
    memo: Memo = {}
    nodes = [node(i, dual=True) for i in (1, 2, 3)]
    network = config()
    before = view(cluster(nodes, network), facts(1), memo=memo)
    renamed = replace(network, metadata=replace(network.metadata, resource_version="9"))
    after = view(cluster([heartbeat(each, "7") for each in nodes], renamed), facts(1), memo=memo)
    assert before is not None
    assert after is not None
    assert after.peers is before.peers
    assert (after.me is before.me, after.network is before.network) == (True, True)


def test_reading_the_facts_first_does_not_cost_the_identity() -> None:
    """The agent looks once without facts and words, and then with them."""
    memo: Memo = {}
    world = cluster([node(1), node(2)], config())
    words = (("vxlan",), ("vxlan",))
    first = view(world, facts(1), memo=memo, said=words)
    assert view(world, facts(1, uplink="", prefixes=()), memo=memo) is not None
    second = view(cluster(world.nodes.values(), world.network), facts(1), memo=memo, said=(("vxlan",), ("vxlan",)))
    assert first is not None
    assert second is not None
    assert (second.me is first.me, second.peers is first.peers) == (True, True)


def test_a_node_that_left_is_forgotten() -> None:
    memo: Memo = {}
    both = cluster([node(1), node(2)], config())
    view(both, facts(1), memo=memo)
    problems(both, memo)
    assert {("node", "n2"), ("faults", "n2")} <= set(memo)
    alone = cluster([node(1)], config())
    view(alone, facts(1), memo=memo)
    problems(alone, memo)
    assert not {("node", "n2"), ("faults", "n2")} & set(memo)


# -- problems


def found(*nodes: Node, **spec: Any) -> list[tuple[str, str, str]]:
    return [(each.object, each.reason, each.field) for each in problems(cluster(nodes, config(**spec)))]


def test_no_problem() -> None:
    assert found(node(1, dual=True), node(2, dual=True), dual=True) == []
    assert problems(cluster([])) == ()


def test_missing_pieces() -> None:
    assert found(made("n9")) == [("Node/n9", "NoInternalIP", ""), ("Node/n9", "NoPodCIDR", "")]


def test_every_overlap_is_found_in_both_families() -> None:
    wide = made("n1", ("10.244.0.0/16", "fd00::/16"), ("10.0.0.1",))
    inner = made("n2", ("10.244.1.0/24", "fd00:10:244:2::/64"), ("10.0.0.2",))
    another = made("n3", ("10.244.7.0/24",), ("10.0.0.3",))
    apart = made("n4", ("10.245.0.0/24",), ("10.0.0.4",))
    texts = [each.message for each in problems(cluster([another, wide, apart, inner]))]
    assert texts == [
        "podCIDR 10.244.1.0/24 overlaps 10.244.0.0/16 of node n1",
        "podCIDR 10.244.7.0/24 overlaps 10.244.0.0/16 of node n1",
        "podCIDR fd00:10:244:2::/64 overlaps fd00::/16 of node n1",
    ]


def test_of_two_with_one_range_the_older_has_it_whatever_their_names() -> None:
    """Somebody's slip with a new node costs the pods of a running one nothing."""
    first, last = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    here, running = node(1, creation_timestamp=first), node(3, creation_timestamp=first)
    late = replace(node(2, creation_timestamp=last), spec=running.spec)
    world = cluster([late, running, here], config())
    assert [each.name for each in seen(world, 1).peers] == ["n3"]
    assert [each.object for each in problems(world)] == ["Node/n2"]


def test_duplicate_addresses() -> None:
    twin = replace(node(2), status=node(1).status)
    assert found(node(1), twin) == [("Node/n2", "DuplicateAddress", "status.addresses")]


def test_a_range_outside_the_cluster_s() -> None:
    stray = replace(node(2), spec=NodeSpec(pod_cidrs=("10.9.2.0/24",)))
    assert found(node(1), stray) == [("Node/n2", "PodCIDROutside", "spec.podCIDRs[0]")]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"pod_cidrs": ()}, "spec.podCIDRs"),
    ({"pod_cidrs": ("10.244.0.0/16", "10.245.0.0/16")}, "spec.podCIDRs"),
    ({"pod_cidrs": ("10.244.0.0/16", "fd00::/48", "fd01::/48")}, "spec.podCIDRs"),
    ({"pod_cidrs": ("10.244.0.0/16", "nonsense:")}, "spec.podCIDRs[1]"),
    ({"pod_cidrs": ("10.244.0.1/16",)}, "spec.podCIDRs[0]"),
    ({"pod_cidrs": ("10.244.0.0/16 } accept",)}, "spec.podCIDRs[0]"),
    ({"attachment": "wormhole"}, "spec.attachment"),
    ({"attachment": ""}, "spec.attachment"),
    ({"mtu": -1}, "spec.mtu"),
    ({"mtu": 575}, "spec.mtu"),
    ({"mtu": 65536}, "spec.mtu"),
    ({"mtu": 1279, "dual": True}, "spec.mtu"),
    ({"backend": {"type": "carrier-pigeon"}}, "spec.backend.type"),
    ({"backend": {"type": 7}}, "spec.backend.type"),
    ({"backend": {"type": "vxlan", "vni": 0}}, "spec.backend.vni"),
    ({"backend": {"type": "vxlan", "vni": 1 << 24}}, "spec.backend.vni"),
    ({"backend": {"type": "vxlan", "port": "x"}}, "spec.backend.port"),
    ({"backend": {"type": "vxlan", "port": True}}, "spec.backend.port"),
    ({"backend": {"type": "vxlan", "colour": "red"}}, "spec.backend.colour"),
    ({"backend": {"type": "host-gw", "vni": 1}}, "spec.backend.vni"),
    ({"backend": {"vni": "x"}}, "spec.backend.vni"),
    ({"proxy": ProxySpec(service_cidrs=("10.96.0.0/16", "nonsense:"))}, "spec.proxy.serviceCIDRs[1]"),
    ({"proxy": ProxySpec(service_cidrs=("10.96.0.1/16",))}, "spec.proxy.serviceCIDRs[0]"),
    ({"proxy": ProxySpec(service_cidrs=("10.96.0.0/16 } accept",))}, "spec.proxy.serviceCIDRs[0]"),
    ({"proxy": ProxySpec(node_port_addresses=("primary", "10.0.0.1"))}, "spec.proxy.nodePortAddresses[1]"),
]


@pytest.mark.parametrize(("spec", "field"), MISTAKES, ids=str)
def test_a_configuration_that_can_t_work_is_absent_and_named(spec: dict[str, Any], field: str) -> None:
    world = cluster([node(1)], config(**spec))
    assert view(world, facts(1)) is None
    (problem,) = problems(world)
    assert problem == Problem("NetworkConfig/default", "InvalidNetworkConfig", problem.message, field)
    assert problem.message.startswith(f"{field}: ")


GOOD: list[dict[str, Any]] = [
    {"mtu": 576},
    {"mtu": 65535, "dual": True},
    {"mtu": 1280, "dual": True},
    {"pod_cidrs": ("fd00:10:244::/48",)},
    {"pod_cidrs": ("fd00:10:244::/48", "10.244.0.0/16")},
    {"backend": {}},
    {"backend": {"vni": 9}},
    {"backend": {"type": "vxlan", "vni": (1 << 24) - 1, "port": 65535, "directRouting": True}},
    {"attachment": "ptp"},
]


@pytest.mark.parametrize("spec", GOOD, ids=str)
def test_configurations_that_work(spec: dict[str, Any]) -> None:
    world = cluster([replace(node(1), spec=NodeSpec(pod_cidrs=()))], config(**spec))
    assert view(world, facts(1)) is not None
    assert [each.reason for each in problems(world)] == ["NoPodCIDR"]


def test_a_wrong_configuration_says_nothing_about_the_nodes() -> None:
    assert found(node(1), pod_cidrs=("x",)) == [("NetworkConfig/default", "InvalidNetworkConfig", "spec.podCIDRs[0]")]


def test_the_memo_changes_no_problem() -> None:
    memo: Memo = {}
    worlds = [
        cluster([node(1), node(2)], config()),
        cluster([node(1), made("n2")], config()),
        cluster([made("n2")], config(mtu=1)),
        cluster([node(1), replace(node(2), status=node(1).status)]),
    ]
    for world in (*worlds, *reversed(worlds)):
        assert problems(world, memo) == problems(world)
        assert problems(world, memo) is problems(world, memo)
