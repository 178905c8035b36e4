"""From messages to resources: which are ours, and how they are spelt."""

from __future__ import annotations

from typing import Any

import pytest

from podnet.kernel import decode
from podnet.state.links import Bridge, Dummy, Ifb, Link, PodLink, Shaper, Veth, Vxlan
from podnet.state.routes import Address, FdbEntry, Neighbour, Route
from podnet.wire.links import LinkMessage, VxlanData
from podnet.wire.routes import LINK, AddressMessage, FdbMessage, NeighbourMessage, RouteMessage
from podnet.wire.tc import ROOT, QdiscMessage, bucket

NAMES = {2: "eth0", 10: "podnet0", 11: "podnet.1"}
COMMON: dict[str, Any] = {"mtu": 1450, "mac": "ee:ee:ee:ee:ee:01", "alias": "x", "up": True}


@pytest.mark.parametrize(
    ("message", "link"),
    [
        (LinkMessage(name="podnet0", kind="bridge", master=0, **COMMON), Bridge(name="podnet0", **COMMON)),
        (
            LinkMessage(name="podnetv", kind="veth", master=10, hairpin=False, **COMMON),
            Veth(name="podnetv", master="podnet0", hairpin=False, **COMMON),
        ),
        (LinkMessage(name="podneti", kind="ifb", master=99, **COMMON), Ifb(name="podneti", master="#99", **COMMON)),
        (
            LinkMessage(name="podnet.1", kind="vxlan", vxlan=VxlanData(1, 8472, "10.0.0.1", 2, False), **COMMON),
            Vxlan(name="podnet.1", vni=1, port=8472, local="10.0.0.1", dev="eth0", **COMMON),
        ),
        (
            LinkMessage(name="podnet.1", kind="vxlan", vxlan=VxlanData(1, 8472), **COMMON),
            Vxlan(name="podnet.1", vni=1, port=8472, local="", learning=True, **COMMON),
        ),
        (LinkMessage(name="podnetd", kind="dummy", **COMMON), Dummy(name="podnetd", **COMMON)),
        (LinkMessage(name="podnetx", kind="gre", **COMMON), Link(name="podnetx", **COMMON)),
    ],
)
def test_links(message: LinkMessage, link: Link) -> None:
    assert decode.link(message, NAMES) == link


def test_a_pods_link() -> None:
    message = LinkMessage(name="eth0", mtu=1450, mac="0a:58:0a:f4:01:05", up=False, kind="veth")
    assert decode.pod_link(message, "/pod") == PodLink(
        netns="/pod", name="eth0", mtu=1450, mac="0a:58:0a:f4:01:05", up=False
    )


@pytest.mark.parametrize(
    ("message", "dev", "netns", "ours"),
    [
        (AddressMessage(10, "10.244.1.1", 24), "podnet0", "", True),
        (AddressMessage(10, "fd00::1", 64), "podnet0", "", True),
        (AddressMessage(10, "fe80::1", 64, LINK), "podnet0", "", False),
        (AddressMessage(10, "fe80::1", 64, LINK, protocol=112), "podnet0", "", True),
        (AddressMessage(10, "169.254.1.1", 32, LINK), "podnet0", "", True),
        (AddressMessage(10, "fd00::2", 64, permanent=False), "podnet0", "", False),
        (AddressMessage(2, "10.0.0.1", 24), "eth0", "", False),
        (AddressMessage(2, "10.0.0.7", 32, protocol=112), "eth0", "", True),
        (AddressMessage(2, "10.244.1.5", 24, protocol=112), "eth0", "/pod", True),
        (AddressMessage(2, "10.99.0.1", 24), "eth0", "/pod", False),
        (AddressMessage(2, "10.99.0.1", 24), "podnet0", "/pod", False),
    ],
)
def test_whose_address(message: AddressMessage, dev: str, netns: str, ours: bool) -> None:
    assert decode.our_address(message, dev, netns) == ours


def test_an_address() -> None:
    assert decode.address(AddressMessage(2, "fd00::1", 64), NAMES, "/pod") == Address("eth0", "fd00::1/64", "/pod")
    borne = AddressMessage(2, "fd00::2", 128, deprecated=True)
    assert decode.address(borne, NAMES, "") == Address("eth0", "fd00::2/128", deprecated=True)


@pytest.mark.parametrize(
    ("message", "route"),
    [
        (RouteMessage("10.244.2.0", 24, "10.0.0.2", 2), Route("10.244.2.0/24", via="10.0.0.2", dev="eth0")),
        (RouteMessage("10.1.0.5", 32, "", 10, "", LINK), Route("10.1.0.5/32", dev="podnet0", scope_link=True)),
        (RouteMessage("10.1.0.5", 32, "", 10), Route("10.1.0.5/32", dev="podnet0")),
        (RouteMessage("fd01::", 64, "", 10), Route("fd01::/64", dev="podnet0", scope_link=True)),
        (RouteMessage("fd01::", 64, "fd00::2", 2), Route("fd01::/64", via="fd00::2", dev="eth0")),
        (RouteMessage("10.2.0.0", 16, "10.2.0.0", 11, "10.1.0.1", 0, True),
         Route("10.2.0.0/16", via="10.2.0.0", dev="podnet.1", src="10.1.0.1", onlink=True)),
        (RouteMessage("0.0.0.0", 0), Route("0.0.0.0/0")),
        (RouteMessage("0.0.0.0", 0, link=77), Route("0.0.0.0/0", dev="#77")),
    ],
)  # fmt: skip
def test_routes(message: RouteMessage, route: Route) -> None:
    assert decode.route(message, NAMES, "") == route


@pytest.mark.parametrize(
    ("protocol", "table", "ours"), [(112, 254, True), (2, 254, False), (112, 255, False), (112, 100, False)]
)
def test_whose_route(protocol: int, table: int, ours: bool) -> None:
    assert decode.our_route(RouteMessage("10.0.0.0", 8, protocol=protocol, table=table)) == ours


@pytest.mark.parametrize(
    ("message", "dev", "netns", "ours"),
    [
        (NeighbourMessage(11, "10.0.0.1", "", True, 0), "podnet.1", "", True),
        (NeighbourMessage(11, "10.0.0.1", "", False, 0), "podnet.1", "", False),
        (NeighbourMessage(11, "10.0.0.1", "", False, 112), "podnet.1", "", False),
        (NeighbourMessage(2, "10.0.0.1", "", True, 0), "eth0", "", False),
        (NeighbourMessage(2, "10.0.0.1", "", True, 112), "eth0", "", True),
        (NeighbourMessage(2, "10.0.0.1", "", True, 0), "eth0", "/pod", False),
        (NeighbourMessage(2, "10.0.0.1", "", True, 112), "eth0", "/pod", True),
    ],
)
def test_whose_neighbour(message: NeighbourMessage, dev: str, netns: str, ours: bool) -> None:
    assert decode.our_neighbour(message, dev, netns) == ours


def test_neighbours_and_forwarding_entries() -> None:
    neighbour = NeighbourMessage(11, "10.244.2.0", "0a:00:00:00:00:02")
    entry = FdbMessage(11, "0a:00:00:00:00:02", "10.0.0.2")
    assert decode.neighbour(neighbour, NAMES, "") == Neighbour("podnet.1", "10.244.2.0", "0a:00:00:00:00:02")
    assert decode.fdb_entry(entry, NAMES) == FdbEntry("podnet.1", "0a:00:00:00:00:02", "10.0.0.2")
    assert decode.our_fdb_entry(entry, "podnet.1")
    assert not decode.our_fdb_entry(entry, "eth0")
    assert not decode.our_fdb_entry(FdbMessage(11, "", "10.0.0.2", permanent=False), "podnet.1")


@pytest.mark.parametrize(("rate", "burst"), [(10_000_000, 800_000), (1_000, 8_000), (1_000_000_000, 80_000_000)])
def test_a_shaper_is_read_about_as_it_was_written(rate: int, burst: int) -> None:
    per_second, ticks = bucket(rate, burst)
    found = decode.shaper(QdiscMessage(10, ROOT, "tbf", per_second, ticks), NAMES)
    assert (found.dev, found.rate) == ("podnet0", rate)
    assert abs(found.burst - burst) <= max(64, burst // 1000)
    assert isinstance(found, Shaper)
