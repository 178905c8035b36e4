"""Names, MACs and MTUs of pods."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from podnet.network import pods
from podnet.network.bandwidth import ifb_name
from podnet.network.view import Attachment
from podnet.state.links import Bridge, PodLink, Veth
from podnet.state.routes import Address, Proxied, Route
from tests.worlds import attachment, cluster, config, node, state_of

WORLD = cluster([node(1, dual=True)], config(dual=True))
PTP = cluster([node(1, dual=True)], config(dual=True, attachment="ptp"))


def test_names_are_derived_and_differ() -> None:
    ids = [(f"c{i}", f"eth{j}") for i in range(40) for j in range(5)]
    names = [pods.host_ifname(Attachment(cid, ifname, "/ns")) for cid, ifname in ids]
    names += [ifb_name(Attachment(cid, ifname, "/ns")) for cid, ifname in ids]
    assert len(set(names)) == len(names)
    assert {len(name) for name in names} == {15}
    assert pods.host_ifname(Attachment("c1", "eth0", "/elsewhere")) == pods.host_ifname(Attachment("c1", "eth0", "/ns"))


def test_a_pod_s_mac_follows_from_its_address() -> None:
    assert pods.pod_mac(("10.244.1.2/24", "fd00::2/64"), ("c", "eth0")) == "0a:58:0a:f4:01:02"
    assert pods.pod_mac(("fd00::2/64", "10.244.1.2/24"), ("other", "eth1")) == "0a:58:0a:f4:01:02"
    only_v6 = pods.pod_mac(("fd00::2/64",), ("c", "eth0"))
    assert only_v6 == pods.pod_mac((), ("c", "eth0")) != pods.pod_mac((), ("c", "eth1"))


@pytest.mark.parametrize("name", ["", "n1", "vtep/n1", "x" * 300])
def test_derived_macs_are_local_unicast(name: str) -> None:
    first = int(pods.derived_mac(name).split(":")[0], 16)
    assert (first & 1, first & 2) == (0, 2)
    assert len(pods.derived_mac(name)) == 17


@pytest.mark.parametrize(("asked", "given"), [(0, 1430), (1300, 1300), (9000, 1430)])
def test_an_attachment_may_ask_for_a_smaller_mtu(asked: int, given: int) -> None:
    pod = attachment(1, 1, mtu=asked)
    state = state_of(WORLD, 1, [pod])
    veth, end = state["Link", "", pods.host_ifname(pod)], state["PodLink", pod.netns, "eth0"]
    assert isinstance(veth, Veth)
    assert isinstance(end, PodLink)
    assert veth.peer is not None
    assert (veth.mtu, veth.peer.mtu, end.mtu) == (given, given, given)


@pytest.mark.parametrize("mode", ["bridge", "ptp"])
def test_a_second_interface_has_an_address_and_no_default_route(mode: str) -> None:
    first = attachment(1, 1, dual=True, mode=mode)
    second = replace(attachment(1, 2, mode=mode), ifname="net1", netns=first.netns, default_route=False)
    state = state_of(WORLD, 1, [first, second])
    routes = [each for each in state.values() if isinstance(each, Route) and each.netns]
    assert {each.dev for each in routes} == {"eth0"}
    assert [each.dev for each in state.values() if isinstance(each, Address) and each.netns] == ["eth0", "eth0", "net1"]


def test_an_alias_says_whose_it_is_and_fits_the_kernel() -> None:
    for pod, start in ((attachment(1, 1, pod=""), "c1-1 eth0"), (attachment(1, 1, pod="ns/" + "x" * 300), "ns/xxx")):
        veth = state_of(WORLD, 1, [pod])["Link", "", pods.host_ifname(pod)]
        assert isinstance(veth, Veth)
        assert veth.alias is not None
        assert veth.alias.startswith(start)
        assert len(veth.alias) <= 255


def test_no_gateway_of_a_family_that_the_node_does_not_have() -> None:
    world = cluster([node(1)], config())
    state = state_of(world, 1, [attachment(1, 1, dual=True)])
    assert ("Route", "/run/netns/p1-1", "::/0") not in state
    assert ("Address", "/run/netns/p1-1", "eth0", "fd00:10:244:1::2/64") in state


def test_no_addresses_is_a_link_and_no_more() -> None:
    """What a network without IPAM asks for."""
    state = state_of(WORLD, 1, [attachment(1, 1, addresses=())])
    assert [key for key in state if key[1] == "/run/netns/p1-1"] == [("PodLink", "/run/netns/p1-1", "eth0")]


def test_bridges_have_a_mac_of_their_own() -> None:
    """A fixed one, since a bridge otherwise takes its ports' and changes it as pods come and go."""
    world = cluster([node(1), node(2)], config())
    bridges = [state_of(world, i)["Link", "", "podnet0"] for i in (1, 2)]
    macs = {each.mac for each in bridges if isinstance(each, Bridge)}
    assert len(macs - {None}) == 2


def test_the_bridge_answers_for_ipv6_pods_beside_it_while_there_are_bridged_ones() -> None:
    beside, bridged = attachment(1, 1, dual=True, mode="ptp"), attachment(1, 2, dual=True)
    both = state_of(PTP, 1, [beside, bridged])
    assert [each for each in both.values() if isinstance(each, Proxied)] == [Proxied(pods.BRIDGE, "fd00:10:244:1::2")]
    assert ("Sysctl", "", f"net/ipv6/conf/{pods.BRIDGE}/proxy_ndp") in both
    alone = state_of(PTP, 1, [beside])
    assert not [key for key in alone if key[-1] == "proxied" or "proxy_ndp" in key[2]]
