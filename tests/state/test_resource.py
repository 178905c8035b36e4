"""What makes two values the same kernel object, and which differences count."""

from __future__ import annotations

import msgspec
import pytest

from podnet.state.host import Daemon, Sysctl
from podnet.state.iptables import IptablesChain, IptablesJump
from podnet.state.ipvs import RealServer, VirtualServer
from podnet.state.links import Bridge, Ifb, Link, PodLink, Redirect, Shaper, Veth, VethPeer, Vxlan
from podnet.state.nft import Element, NftTable
from podnet.state.plan import ORDER
from podnet.state.resource import Conflict, Key, Resource, state
from podnet.state.routes import Address, FdbEntry, Neighbour, Route

VXLAN = Vxlan(name="podnet.1", vni=1, port=8472, local="10.0.0.1", dev="eth0", mtu=1450, mac="02:00:00:00:00:01")
VETH = Veth(name="podnet1", mtu=1450, master="podnet0", hairpin=True, peer=VethPeer("/ns", "eth0", "0a:00", 1450))
ROUTE = Route("10.244.2.0/24", via="10.244.2.0", dev="podnet.1", onlink=True)

KEYS: list[tuple[Resource, Key, tuple[str, str] | None]] = [
    (VXLAN, ("Link", "", "podnet.1"), None),
    (Bridge(name="podnet0"), ("Link", "", "podnet0"), None),
    (Ifb(name="podneti1"), ("Link", "", "podneti1"), None),
    (VETH, ("Link", "", "podnet1"), None),
    (PodLink(netns="/ns", name="eth0"), ("PodLink", "/ns", "eth0"), ("/ns", "eth0")),
    (Shaper("podnet1", 1000, 10), ("Shaper", "", "podnet1"), ("", "podnet1")),
    (Redirect("podnet1", "podneti1"), ("Redirect", "", "podnet1"), ("", "podnet1")),
    (Address("eth0", "10.0.0.2/24", "/ns"), ("Address", "/ns", "eth0", "10.0.0.2/24"), ("/ns", "eth0")),
    (ROUTE, ("Route", "", "10.244.2.0/24"), ("", "podnet.1")),
    (Route("10.0.0.0/8", via="10.1.1.1"), ("Route", "", "10.0.0.0/8"), None),
    (Neighbour("eth0", "10.0.0.1", "02:00", "/ns"), ("Neighbour", "/ns", "eth0", "10.0.0.1"), ("/ns", "eth0")),
    (FdbEntry("podnet.1", "02:00", "10.0.0.2"), ("FdbEntry", "", "podnet.1", "02:00"), ("", "podnet.1")),
    (Sysctl("net/ipv4/ip_forward", "1"), ("Sysctl", "", "net/ipv4/ip_forward"), None),
    (Sysctl("net/a", "1", dev="podnet1"), ("Sysctl", "", "net/a"), ("", "podnet1")),
    (NftTable("inet", "podnet-x", ""), ("NftTable", "", "inet", "podnet-x"), None),
    (IptablesChain("ip", "nat", "KUBE-A", ()), ("IptablesChain", "", "ip", "nat", "KUBE-A"), None),
    (IptablesJump("ip", "nat", "OUTPUT", "-j A"), ("IptablesJump", "", "ip", "nat", "OUTPUT", "-j A"), None),
    (VirtualServer("udp", "10.96.0.1", 53), ("VirtualServer", "", "udp", "10.96.0.1", "53"), None),
    (
        RealServer("udp", "10.96.0.1", 53, "10.244.1.5", 5353),
        ("RealServer", "", "udp", "10.96.0.1", "53", "10.244.1.5", "5353"),
        None,
    ),
    (Daemon("cache", ("dnsmasq",)), ("Daemon", "", "cache"), None),
    (Element("inet", "podnet-x", "s", "1 . 2", "3"), ("Element", "", "inet", "podnet-x", "s", "1 . 2"), None),
]


@pytest.mark.parametrize(("resource", "key", "on"), KEYS, ids=lambda value: type(value).__name__)
def test_identity(resource: Resource, key: Key, on: tuple[str, str] | None) -> None:
    assert (resource.key, resource.on, resource.kind) == (key, on, key[0])


def test_every_kind_has_a_place_in_the_order() -> None:
    assert {resource.kind for resource, _, _ in KEYS} == set(ORDER)


def test_the_base_has_no_key() -> None:
    with pytest.raises(NotImplementedError):
        _ = Resource().key


@pytest.mark.parametrize("resource", [resource for resource, _, _ in KEYS], ids=lambda each: type(each).__name__)
def test_nothing_differs_from_itself(resource: Resource) -> None:
    assert resource.changes(resource) == ()
    assert not resource.replaces(resource)


@pytest.mark.parametrize(
    ("field", "value", "replaced"),
    [
        ("mtu", 1400, False),
        ("mac", "02:00:00:00:00:02", False),
        ("up", False, False),
        ("vni", 2, True),
        ("port", 4789, True),
        ("local", "10.0.0.9", True),
        ("dev", "eth1", True),
        ("learning", True, True),
    ],
)
def test_what_a_living_vxlan_device_can_change(field: str, value: object, replaced: bool) -> None:
    actual = msgspec.structs.replace(VXLAN, **{field: value})
    assert VXLAN.changes(actual) == (field,)
    assert VXLAN.replaces(actual) == replaced


def test_what_is_not_managed_is_not_compared() -> None:
    actual = msgspec.structs.replace(VETH, mac="02:ff", alias="someone's", up=True)
    assert VETH.changes(actual) == ()
    assert actual.changes(VETH) == ("mac", "alias")


def test_the_other_end_only_matters_when_a_pair_is_made() -> None:
    assert VETH.changes(msgspec.structs.replace(VETH, peer=None)) == ()


def test_another_kind_of_link_of_the_same_name_is_in_the_way() -> None:
    assert Bridge(name="podnet.1").changes(VXLAN) == ("type",)
    assert Bridge(name="podnet.1").replaces(VXLAN)


@pytest.mark.parametrize("field", ["via", "dev", "onlink", "src", "scope_link"])
def test_a_route_differs_in_whatever_it_does_not_say_too(field: str) -> None:
    """A next hop that nobody wants is a difference, although the wish says nothing of next hops."""
    plain = Route("10.244.2.0/24")
    actual = msgspec.structs.replace(plain, **{field: True if field in ("onlink", "scope_link") else "x"})
    assert plain.changes(actual) == ("route",)
    assert actual.changes(plain) == ("route",)
    assert not plain.replaces(actual)


def test_ports_need_their_bridge() -> None:
    assert (VETH.needs, VXLAN.needs) == (("podnet0",), ())


def test_a_state_has_one_value_a_key() -> None:
    assert state(iter([ROUTE, VXLAN, ROUTE])) == {ROUTE.key: ROUTE, VXLAN.key: VXLAN}
    with pytest.raises(Conflict, match=r"10\.244\.2\.0/24"):
        state(iter([ROUTE, Route("10.244.2.0/24", via="10.0.0.2")]))


def test_resources_are_values() -> None:
    assert hash(VETH) == hash(msgspec.structs.replace(VETH))
    with pytest.raises(AttributeError):
        VETH.mtu = 1  # type: ignore[misc]


@pytest.mark.parametrize("kind", [Bridge, Vxlan, Veth, Ifb])
def test_fields_with_a_special_role_exist(kind: type[Link]) -> None:
    assert set(kind.__struct_fields__) >= kind.fixed | kind.created_with
