"""From steps to requests: which are sent, in which order, and which answers mean that it was done already."""

from __future__ import annotations

import errno

import pytest

from podnet.kernel.encode import NoLink, Write, remove_together, writes
from podnet.kernel.netns import NoNamespace
from podnet.state.links import Bridge, Ifb, PodLink, Redirect, Shaper, Veth, VethPeer, Vxlan
from podnet.state.plan import Step
from podnet.state.resource import Resource
from podnet.state.routes import Address, FdbEntry, Neighbour, Route
from podnet.wire import links, routes, tc
from podnet.wire.links import LinkMessage, VxlanData
from podnet.wire.routes import AddressMessage, FdbMessage, NeighbourMessage, RouteMessage

INDEXES = {"podnet0": 10, "podnet.1": 11, "podnetv": 12, "podneti": 13, "eth0": 2}


class Table:
    """Links by name; one namespace."""

    def index(self, name: str) -> int:
        if name not in INDEXES:
            raise NoLink(name)
        return INDEXES[name]

    def namespace(self, path: str) -> int:
        if path != "/pod":
            raise NoNamespace(path)
        return 9


def requests(step: Step) -> list[Write]:
    return list(writes(step, Table()))


def add(resource: Resource) -> list[Write]:
    return requests(Step("add", resource))


def test_a_bridge_is_made_and_then_named_for_people() -> None:
    make, alias = add(Bridge(name="podnet0", mtu=1450, mac="ee:ee:ee:ee:ee:01", alias="hello"))
    assert links.decode(make.request.body) == LinkMessage(
        name="podnet0", kind="bridge", mtu=1449, mac="ee:ee:ee:ee:ee:01", up=True, master=0
    )
    assert alias.request == links.change(LinkMessage(name="podnet0", alias="hello", mtu=1450))
    [instead] = make.instead
    assert links.decode(instead.body).alias == "hello"
    assert links.decode(instead.body).mtu == 1450


def test_a_tunnel_knows_its_underlay() -> None:
    [make] = add(Vxlan(name="podnet.1", vni=1, port=8472, local="10.0.0.1", dev="eth0"))
    assert links.decode(make.request.body).vxlan == VxlanData(1, 8472, "10.0.0.1", 2, learning=False)


def test_a_pair_is_one_message_with_the_other_end_in_the_pod() -> None:
    peer = VethPeer("/pod", "eth0", "0a:58:0a:f4:01:05", 1450)
    make, port = add(Veth(name="podnetv", master="podnet0", hairpin=True, peer=peer))
    link = links.decode(make.request.body)
    assert (link.kind, link.master, link.up) == ("veth", 10, True)
    assert link.peer is not None
    assert (link.peer.name, link.peer.mac, link.peer.mtu, link.peer.up) == ("eth0", "0a:58:0a:f4:01:05", 1450, False)
    assert links.decode(port.request.body).hairpin is True
    shape, hairpin = make.instead
    assert links.decode(shape.body).master == 10
    assert links.decode(hairpin.body).hairpin is True


def test_a_pair_needs_its_other_end() -> None:
    with pytest.raises(ValueError, match="podnetv"):
        add(Veth(name="podnetv"))
    with pytest.raises(NoNamespace):
        add(Veth(name="podnetv", peer=VethPeer("/gone", "eth0", "0a:58:0a:f4:01:05", 1450)))


def test_a_change_says_only_what_differs() -> None:
    link = Veth(name="podnetv", mtu=1450, mac="ee:ee:ee:ee:ee:ee", alias="x", master="podnet0", hairpin=True)
    [mtu] = requests(Step("change", link, link, ("mtu",)))
    assert mtu.request == links.change(LinkMessage(name="podnetv", mtu=1450, up=True))
    master, hairpin = requests(Step("change", link, link, ("master", "hairpin")))
    assert master.request == links.change(LinkMessage(name="podnetv", master=10, up=True))
    assert hairpin.request == links.change(LinkMessage(name="podnetv", hairpin=True))
    inner = PodLink(netns="/pod", name="eth0", mtu=1450, mac="0a:58:0a:f4:01:05")
    [pod] = requests(Step("change", inner, inner, ("mtu",)))
    assert pod.request == links.change(LinkMessage(name="eth0", mtu=1450, up=True))


def test_another_tunnel_is_a_removal_and_a_making() -> None:
    old, new = (Vxlan(name="podnet.1", vni=vni, port=8472, local="10.0.0.1") for vni in (1, 2))
    remove, make = requests(Step("replace", new, old, ("vni",)))
    assert remove.request == links.delete("podnet.1")
    assert links.decode(make.request.body).kind == "vxlan"


@pytest.mark.parametrize(
    ("resource", "request_"),
    [
        (
            PodLink(netns="/pod", name="eth0", mtu=1450, mac="0a:58:0a:f4:01:05"),
            links.change(LinkMessage(name="eth0", mtu=1450, mac="0a:58:0a:f4:01:05", up=True)),
        ),
        (Address("podnet0", "10.244.1.1/24"), routes.add_address(AddressMessage(10, "10.244.1.1", 24, protocol=112))),
        (
            Address("podnet0", "fd77::200/128", deprecated=True),
            routes.add_address(AddressMessage(10, "fd77::200", 128, protocol=112, deprecated=True)),
        ),
        (
            Route("10.244.2.0/24", via="10.244.2.0", dev="podnet.1", onlink=True, src="10.244.1.1"),
            routes.replace_route(RouteMessage("10.244.2.0", 24, "10.244.2.0", 11, "10.244.1.1", 0, True, 112)),
        ),
        (
            Route("10.244.1.5/32", dev="podnetv", scope_link=True),
            routes.replace_route(RouteMessage("10.244.1.5", 32, "", 12, "", 253, False, 112)),
        ),
        (Route("::/0", via="fd00::1"), routes.replace_route(RouteMessage("::", 0, "fd00::1", protocol=112))),
        (
            Neighbour("podnet.1", "10.244.2.0", "0a:00:00:00:00:02"),
            routes.replace_neighbour(NeighbourMessage(11, "10.244.2.0", "0a:00:00:00:00:02", protocol=112)),
        ),
        (
            FdbEntry("podnet.1", "0a:00:00:00:00:02", "10.0.0.2"),
            routes.replace_fdb(FdbMessage(11, "0a:00:00:00:00:02", "10.0.0.2")),
        ),
        (Shaper("podnetv", 10_000_000, 800_000), tc.shape(12, 10_000_000, 800_000)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_simple_resources_are_one_request_that_may_be_repeated(resource: Resource, request_: object) -> None:
    assert add(resource) == [Write(request_)]  # type: ignore[arg-type]
    assert requests(Step("change", resource, resource, ("mtu", "mac")))[0].request == request_


def test_a_next_hop_of_ipv6_on_the_link_can_be_made_acceptable() -> None:
    [write] = add(Route("fd00:2::/64", via="fd00:2::", dev="podnet.1", onlink=True))
    first, wanted, last = write.instead
    hop = RouteMessage("fd00:2::", 128, link=11, protocol=112)
    assert (first, wanted, last) == (routes.replace_route(hop), write.request, routes.delete_route(hop))
    [write] = add(Route("10.2.0.0/24", via="10.2.0.0", dev="podnet.1", onlink=True))
    assert write.instead == ()


def test_a_redirect_is_made_anew() -> None:
    remove, queue, redirect = add(Redirect("podnetv", "podneti"))
    assert remove.request == tc.delete_qdisc(12, tc.INGRESS)
    assert {errno.ENOENT, errno.EINVAL} <= remove.forgive
    assert (queue.request, redirect.request) == (tc.ingress(12), tc.redirect(12, 13))


@pytest.mark.parametrize(
    ("resource", "request_", "gone"),
    [
        (Ifb(name="podneti"), links.delete("podneti"), errno.ENODEV),
        (PodLink(netns="/pod", name="eth0"), links.delete("eth0"), errno.ENODEV),
        (
            Address("podnet0", "10.244.1.1/24"),
            routes.delete_address(AddressMessage(10, "10.244.1.1", 24, protocol=112)),
            errno.EADDRNOTAVAIL,
        ),
        (
            Route("10.244.2.0/24", via="10.0.0.2", dev="gone"),
            routes.delete_route(RouteMessage("10.244.2.0", 24, scope=255, protocol=112)),
            errno.ESRCH,
        ),
        (
            Neighbour("podnet.1", "10.244.2.0", "0a:00:00:00:00:02"),
            routes.delete_neighbour(NeighbourMessage(11, "10.244.2.0", "0a:00:00:00:00:02", protocol=112)),
            errno.ENOENT,
        ),
        (
            FdbEntry("podnet.1", "0a:00:00:00:00:02", "10.0.0.2"),
            routes.delete_fdb(FdbMessage(11, "0a:00:00:00:00:02", "10.0.0.2")),
            errno.ENOENT,
        ),
        (Shaper("podnetv", 1, 1), tc.delete_qdisc(12, tc.ROOT), errno.ENOENT),
        (Redirect("podnetv", "podneti"), tc.delete_qdisc(12, tc.INGRESS), errno.EINVAL),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_what_is_gone_is_deleted(resource: Resource, request_: object, gone: int) -> None:
    [write] = requests(Step("delete", resource))
    assert write.request == request_
    assert gone in write.forgive
    assert errno.EPERM not in write.forgive


def test_many_links_are_removed_together_first() -> None:
    first, second, all_of_them = remove_together([Ifb(name="podnet1"), Ifb(name="podnet2")])
    group = 0x706F646E
    assert [write.request for write in (first, second)] == [
        links.enlist(name, group) for name in ("podnet1", "podnet2")
    ]
    assert all_of_them.request == links.delete_group(group)
    assert errno.ENODEV in all_of_them.forgive


@pytest.mark.parametrize(
    "resource",
    [
        Address("eth9", "10.0.0.1/24"),
        Route("10.0.0.0/8", dev="eth9"),
        Redirect("podnetv", "eth9"),
        Ifb(name="a", master="eth9"),
    ],
)
def test_a_link_that_is_missing_is_named(resource: Resource) -> None:
    with pytest.raises(NoLink, match="eth9"):
        add(resource)


@pytest.mark.parametrize("resource", [Address("eth0", "10.0.0/24"), Route("10.0.0.0/8", via="x"), Route("10.0.0.0")])
def test_an_address_that_is_none_is_a_value_error(resource: Resource) -> None:
    with pytest.raises(ValueError):
        add(resource)
