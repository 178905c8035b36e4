"""What flannel and Calico leave in a kernel, fact by fact, asserted of what podnet wants there.

The golden worlds show everything; these tests say why it is right, and stay readable when a text changes. Node A is
n1 with pods 10.244.1.0/24, node B is n2 with 10.244.2.0/24.
"""

from __future__ import annotations

import pytest

from podnet.network.backends.vxlan import vtep_mac
from podnet.network.pods import host_ifname
from podnet.state.host import Sysctl
from podnet.state.links import Bridge, Link, PodLink, Veth, Vxlan
from podnet.state.resource import Key, Resource
from podnet.state.routes import Address, FdbEntry, Neighbour, Route
from tests.worlds import attachment, cluster, config, node, state_of

PAIR = [node(1, dual=True), node(2, dual=True)]
VXLAN = cluster(PAIR, config(dual=True))
HOST_GW = cluster(PAIR, config({"type": "host-gw"}, dual=True))
B = vtep_mac("n2")


def on(state: dict[Key, Resource], dev: str) -> set[Resource]:
    """What stands on a link of the node, except its kernel parameters."""
    return {each for each in state.values() if each.on == ("", dev) and not isinstance(each, Sysctl)}


def test_flannel_vxlan() -> None:
    """Device with id 1, port 8472, no learning, MTU -50, base address /32; neighbour, FDB entry and onlink route."""
    state = state_of(VXLAN, 1)
    device = state["Link", "", "podnet.1"]
    assert isinstance(device, Vxlan)
    assert (device.vni, device.port, device.local, device.dev) == (1, 8472, "192.168.77.11", "eth0")
    assert (device.learning, device.mtu, device.mac, device.up) == (False, 1450, vtep_mac("n1"), True)
    assert on(state, "podnet.1") == {
        Address("podnet.1", "10.244.1.0/32"),
        Neighbour("podnet.1", "10.244.2.0", B),
        FdbEntry("podnet.1", B, "192.168.77.12"),
        Route("10.244.2.0/24", via="10.244.2.0", dev="podnet.1", onlink=True),
    }


def test_flannel_vxlan_over_ipv6() -> None:
    """The same on a device of its own, 70 bytes smaller: flannel's -50 makes pods' packets too large by 20."""
    state = state_of(VXLAN, 1)
    device = state["Link", "", "podnet-v6.1"]
    assert isinstance(device, Vxlan)
    assert (device.vni, device.port, device.local, device.mtu) == (1, 8472, "fd77::11", 1430)
    assert on(state, "podnet-v6.1") == {
        Address("podnet-v6.1", "fd00:10:244:1::/128"),
        Neighbour("podnet-v6.1", "fd00:10:244:2::", B),
        FdbEntry("podnet-v6.1", B, "fd77::12"),
        Route("fd00:10:244:2::/64", via="fd00:10:244:2::", dev="podnet-v6.1", onlink=True),
    }
    assert Sysctl("net/ipv6/conf/podnet-v6.1/accept_ra", "0", dev="podnet-v6.1") in state.values()


def test_both_ends_of_a_tunnel_agree() -> None:
    """What A puts into its FDB and neighbours is what B's device is."""
    ours, theirs = state_of(VXLAN, 1), state_of(VXLAN, 2)
    for name in ("podnet.1", "podnet-v6.1"):
        a, b = ours["Link", "", name], theirs["Link", "", name]
        assert isinstance(a, Vxlan)
        assert isinstance(b, Vxlan)
        assert (a.vni, a.port) == (b.vni, b.port)
        assert b.mac is not None
        assert FdbEntry(name, b.mac, b.local) in ours.values()


def test_flannel_host_gw() -> None:
    """The peer's ranges via the peer, on the uplink, and nothing else; the MTU stays the uplink's."""
    state = state_of(HOST_GW, 1)
    assert {each for each in state.values() if isinstance(each, Route)} == {
        Route("10.244.2.0/24", via="192.168.77.12", dev="eth0"),
        Route("fd00:10:244:2::/64", via="fd77::12", dev="eth0"),
    }
    assert not [each for each in state.values() if isinstance(each, Vxlan | FdbEntry | Neighbour)]
    bridge = state["Link", "", "podnet0"]
    assert isinstance(bridge, Bridge)
    assert bridge.mtu == 1500


@pytest.mark.parametrize(("world", "mtu"), [(VXLAN, 1430), (HOST_GW, 1500)])
def test_flannel_pod_side(world: object, mtu: int) -> None:
    """A bridge with the range's first address and prefix; hairpin ports; default routes via that address.

    And, unlike flannel's, with the address that a tunnel's device has, so that the node keeps it without a tunnel.
    """
    pod = attachment(1, 1, dual=True)
    state = state_of(VXLAN if world is VXLAN else HOST_GW, 1, [pod])
    port = state["Link", "", host_ifname(pod)]
    assert isinstance(port, Veth)
    assert (port.master, port.hairpin, port.mtu) == ("podnet0", True, mtu)
    assert {each.address for each in state.values() if isinstance(each, Address) and each.dev == "podnet0"} == {
        "10.244.1.1/24",
        "10.244.1.0/32",
        "fd00:10:244:1::1/64",
    }
    assert inside(state, pod.netns) == {
        PodLink(netns=pod.netns, name="eth0", mtu=mtu, mac="0a:58:0a:f4:01:02"),
        Address("eth0", "10.244.1.2/24", pod.netns),
        Address("eth0", "fd00:10:244:1::2/64", pod.netns),
        Route("0.0.0.0/0", via="10.244.1.1", dev="eth0", netns=pod.netns),
        Route("::/0", via="fd00:10:244:1::1", dev="eth0", netns=pod.netns),
    }


def inside(state: dict[Key, Resource], netns: str) -> set[Resource]:
    return {each for each in state.values() if each.key[1] == netns}


def test_calico_pod_side() -> None:
    """ee:ee:ee:ee:ee:ee and proxy ARP outside; a /32, 169.254.1.1 and a default route through it inside."""
    pod = attachment(1, 1, dual=True, mode="ptp")
    state, name = state_of(HOST_GW, 1, [pod]), host_ifname(pod)
    end = state["Link", "", name]
    assert isinstance(end, Link)
    assert (end.mac, end.master) == ("ee:ee:ee:ee:ee:ee", None)
    assert Sysctl(f"net/ipv4/conf/{name}/proxy_arp", "1", dev=name) in state.values()
    assert on(state, name) == {
        Route("10.244.1.2/32", dev=name, scope_link=True),
        Route("fd00:10:244:1::2/128", dev=name),
        Neighbour(name, "10.244.1.2", "0a:58:0a:f4:01:02"),
        Neighbour(name, "fd00:10:244:1::2", "0a:58:0a:f4:01:02"),
    }
    link_local = "fe80::ecee:eeff:feee:eeee"  # what ee:ee:ee:ee:ee:ee makes of itself (RFC 4291, appendix A)
    assert inside(state, pod.netns) == {
        PodLink(netns=pod.netns, name="eth0", mtu=1500, mac="0a:58:0a:f4:01:02"),
        Address("eth0", "10.244.1.2/32", pod.netns),
        Address("eth0", "fd00:10:244:1::2/128", pod.netns),
        Neighbour("eth0", "169.254.1.1", "ee:ee:ee:ee:ee:ee", pod.netns),
        Neighbour("eth0", link_local, "ee:ee:ee:ee:ee:ee", pod.netns),
        Route("169.254.1.1/32", dev="eth0", scope_link=True, netns=pod.netns),
        Route("0.0.0.0/0", via="169.254.1.1", dev="eth0", netns=pod.netns),
        Route("::/0", via=link_local, dev="eth0", netns=pod.netns),
    }


def test_direct_routing() -> None:
    """A peer on the same link is routed to, one behind a router goes through the tunnel; all can receive both."""
    world = cluster(PAIR, config({"type": "vxlan", "directRouting": True}, dual=True))
    near = state_of(world, 1)
    assert Route("10.244.2.0/24", via="192.168.77.12", dev="eth0") in near.values()
    assert not [each for each in near.values() if isinstance(each, FdbEntry)]
    assert ("Link", "", "podnet.1") in near
    far = state_of(world, 1, prefixes=("192.168.77.0/30", "fd77::/127"))
    assert Route("10.244.2.0/24", via="10.244.2.0", dev="podnet.1", onlink=True) in far.values()
    assert Route("fd00:10:244:2::/64", via="fd00:10:244:2::", dev="podnet-v6.1", onlink=True) in far.values()


def test_every_mark() -> None:
    """All of ours in the node's namespace bears it: links their prefix, tables theirs."""
    pods = [attachment(1, 1, dual=True), attachment(1, 2, dual=True, mode="ptp")]
    for each in state_of(VXLAN, 1, pods).values():
        if isinstance(each, Link):
            assert each.name.startswith("podnet")
            assert len(each.name) <= 15
        if each.kind in ("NftTable", "Element"):
            assert each.key[3].startswith("podnet-")
