"""Resources as lines: golden files, `podnet plan` and the log read the same."""

from __future__ import annotations

import pytest

from podnet.state.host import Daemon, Sysctl
from podnet.state.links import Bridge, Redirect, Shaper, Veth, VethPeer, Vxlan
from podnet.state.nft import Element, NftTable
from podnet.state.plan import plan
from podnet.state.resource import Resource, state
from podnet.state.routes import Address, FdbEntry, Neighbour, Route
from podnet.state.text import describe, difference, listing

LINES: list[tuple[Resource, str]] = [
    (Bridge(name="podnet0"), "bridge podnet0"),
    (Bridge(name="podnet0", up=False, mtu=1450), "bridge podnet0 mtu=1450 up=False"),
    (
        Vxlan(name="podnet.1", vni=1, port=8472, local="10.0.0.1", learning=True),
        "vxlan podnet.1 vni=1 port=8472 local=10.0.0.1 learning",
    ),
    (
        Veth(name="podnet1", master="podnet0", hairpin=False, peer=VethPeer("/ns", "eth0", "02:00", 1400)),
        "veth podnet1 master=podnet0 peer=(netns=/ns eth0 mac=02:00 mtu=1400) hairpin=False",
    ),
    (Address("eth0", "10.0.0.2/24", "/ns"), "address dev=eth0 address=10.0.0.2/24 netns=/ns"),
    (Neighbour("eth0", "10.0.0.1", "02:00"), "neighbour dev=eth0 address=10.0.0.1 mac=02:00"),
    (FdbEntry("podnet.1", "02:00", "10.0.0.2"), "fdbentry dev=podnet.1 mac=02:00 10.0.0.2"),
    (Route("10.1.0.0/16", via="10.0.0.2", dev="eth0", onlink=True), "route 10.1.0.0/16 via=10.0.0.2 dev=eth0 onlink"),
    (Route("10.1.0.2/32", dev="podnet1", scope_link=True), "route 10.1.0.2/32 dev=podnet1 scope_link"),
    (Sysctl("net/ipv4/ip_forward", "1"), "sysctl net/ipv4/ip_forward value=1"),
    (Daemon("cache", ("dnsmasq", "-k")), "daemon cache dnsmasq -k"),
    (Daemon("cache", ("dnsmasq", "-k"), current=False), "daemon cache dnsmasq -k (outdated)"),
    (Shaper("podnet1", 1000, 80), "shaper dev=podnet1 rate=1000 burst=80"),
    (Redirect("podnet1", "podneti1"), "redirect dev=podnet1 to=podneti1"),
    (Element("inet", "podnet-x", "ports", "1 . 2"), "element family=inet table=podnet-x set=ports element=1 . 2"),
    (
        Element("inet", "podnet-x", "ports", "tcp . 80", "10.0.0.2 . 8080"),
        "element family=inet table=podnet-x set=ports element=tcp . 80 value=10.0.0.2 . 8080",
    ),
    (NftTable("inet", "podnet-x", "  chain a { }\n"), "nfttable inet podnet-x {\n  chain a { }\n}"),
]


@pytest.mark.parametrize(("resource", "line"), LINES, ids=lambda value: type(value).__name__)
def test_one_line_says_all_that_is_managed(resource: Resource, line: str) -> None:
    assert describe(resource) == line


def test_a_listing_is_in_the_order_of_adding() -> None:
    bridge, port = Bridge(name="podnet9"), Veth(name="podnet1", master="podnet9")
    direct, through = Route("10.9.0.1/32", dev="podnet1"), Route("10.1.0.0/16", via="10.9.0.1")
    table = NftTable("inet", "podnet-x", "")
    text = listing([through, direct, port, bridge, table])
    assert text == "".join(f"{describe(each)}\n" for each in (table, bridge, port, direct, through))
    assert listing(state(iter([port, through, table, bridge, direct]))) == text
    assert listing({}) == ""


def test_a_difference_has_a_sign_for_each_verb() -> None:
    old = state(iter([Bridge(name="podnet0", mtu=1500), Vxlan(name="podnet.1", vni=1, port=1, local="a"), Route("d")]))
    new = state(
        iter([Bridge(name="podnet0", mtu=1450), Vxlan(name="podnet.1", vni=2, port=1, local="a"), Sysctl("s", "1")])
    )
    assert difference(plan(new, old)) == (
        "! vxlan podnet.1 vni=2 port=1 local=a\n~ bridge podnet0 mtu=1450\n+ sysctl s value=1\n- route d\n"
    )
    assert difference(plan(new, new)) == ""
