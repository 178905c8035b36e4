"""The one diff: which steps, in which order, and what a kernel holds after them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from podnet.state.host import Sysctl
from podnet.state.links import Bridge, Ifb, PodLink, Redirect, Shaper, Veth, VethPeer, Vxlan
from podnet.state.nft import Element, NftTable
from podnet.state.plan import ORDER, Plan, Step, carry, place, plan, restrict
from podnet.state.resource import Key, Resource, state
from podnet.state.routes import Address, FdbEntry, Neighbour, Route
from tests import kernel_stub

BRIDGE = Bridge(name="podnet0", mtu=1450)
VETH = Veth(name="podnet1", mtu=1450, master="podnet0", hairpin=True, peer=VethPeer("/ns", "eth0", "0a:00", 1450))
IFB = Ifb(name="podneti1")
VXLAN = Vxlan(name="podnet.1", vni=1, port=8472, local="10.0.0.1", dev="eth0")
POD = (
    VETH,
    PodLink(netns="/ns", name="eth0", mtu=1450, mac="0a:00"),
    Address("eth0", "10.244.1.2/24", "/ns"),
    Route("0.0.0.0/0", via="10.244.1.1", dev="eth0", netns="/ns"),
    Neighbour("podnet0", "10.244.1.2", "0a:00"),
    Sysctl("net/ipv4/conf/podnet1/proxy_arp", "1", dev="podnet1"),
    Shaper("podnet1", 1000, 100),
    Redirect("podnet1", "podneti1"),
    IFB,
    Shaper("podneti1", 1000, 100),
)
TUNNEL = (
    VXLAN,
    Address("podnet.1", "10.244.1.0/32"),
    Neighbour("podnet.1", "10.244.2.0", "02:02"),
    FdbEntry("podnet.1", "02:02", "10.0.0.2"),
    Route("10.244.2.0/24", via="10.244.2.0", dev="podnet.1", onlink=True),
)
NODE = (BRIDGE, Address("podnet0", "10.244.1.1/24"), Sysctl("net/ipv4/ip_forward", "1"))
TABLE = (NftTable("inet", "podnet-x", "a"), Element("inet", "podnet-x", "s", "1"))


def held(*resources: Resource) -> dict[Key, Resource]:
    return state(iter(resources))


ALL = held(*NODE, *TABLE, *TUNNEL, *POD)


def verbs(steps: Plan) -> list[tuple[str, Key]]:
    return [(step.verb, step.resource.key) for step in steps.steps]


def test_nothing_to_do() -> None:
    assert plan(ALL, ALL) == Plan()
    assert not plan(ALL, ALL)
    assert not plan({}, {})


def test_adds_follow_the_order_and_deletes_go_the_other_way() -> None:
    adds = [step.resource.key for step in plan(ALL, {}).steps]
    assert adds == [resource.key for resource in sorted(ALL.values(), key=place)]
    assert [ORDER.index(key[0]) for key in adds] == sorted(ORDER.index(key[0]) for key in adds)
    loose = held(*TABLE, NODE[2], Route("10.1.0.0/16", via="10.0.0.9"), Route("10.0.0.9/32", dev="eth0"))
    steps = plan({}, loose)
    assert {step.verb for step in steps.steps} == {"delete"}
    assert [step.resource.key for step in reversed(steps.steps)] == [
        each.key for each in sorted(loose.values(), key=place)
    ]


def test_adds_come_before_deletes() -> None:
    before, after = held(Route("10.1.0.0/16", via="10.0.0.1")), held(Route("10.2.0.0/16", via="10.0.0.1"))
    assert verbs(plan(after, before)) == [
        ("add", ("Route", "", "10.2.0.0/16")),
        ("delete", ("Route", "", "10.1.0.0/16")),
    ]


def test_a_step_says_what_differs() -> None:
    (step,) = plan(held(replace(BRIDGE, mtu=1400, mac="02:00")), held(BRIDGE)).steps
    assert (step.verb, step.fields, step.old) == ("change", ("mtu", "mac"), BRIDGE)
    (step,) = plan(held(replace(VXLAN, vni=2)), held(VXLAN)).steps
    assert (step.verb, step.fields, step.old) == ("replace", ("vni",), VXLAN)


def test_a_link_that_goes_takes_along_what_is_on_it() -> None:
    assert verbs(plan(held(*NODE), held(*NODE, *TUNNEL))) == [("delete", VXLAN.key)]


def test_a_veth_that_goes_takes_along_the_pod_s_side() -> None:
    assert verbs(plan(held(*NODE), held(*NODE, *POD))) == [
        ("delete", ("Neighbour", "", "podnet0", "10.244.1.2")),
        ("delete", VETH.key),
        ("delete", IFB.key),
    ]


def test_after_a_reading_the_other_end_is_not_known_and_is_deleted_step_by_step() -> None:
    read = held(*NODE, replace(VETH, peer=None), *POD[1:4])
    steps = plan(held(*NODE), read)
    assert verbs(steps) == [
        ("delete", ("Route", "/ns", "0.0.0.0/0")),
        ("delete", ("Address", "/ns", "eth0", "10.244.1.2/24")),
        ("delete", ("PodLink", "/ns", "eth0")),
        ("delete", VETH.key),
    ]


def test_a_link_made_anew_gets_back_all_that_was_on_it() -> None:
    steps = plan(held(replace(VXLAN, local="10.0.0.9"), *TUNNEL[1:]), held(*TUNNEL))
    assert verbs(steps) == [("replace", VXLAN.key), *(("add", each.key) for each in TUNNEL[1:])]


def test_of_a_link_that_is_missing_nothing_is_believed() -> None:
    """Link events re-read links, addresses, routes and neighbours; pod ends, shapers and sysctls are from before."""
    stale = {key: each for key, each in ALL.items() if key != VETH.key}
    lost = {VETH.key, *(each.key for each in POD if each.on in (("", "podnet1"), ("/ns", "eth0")))}
    assert set(verbs(plan(ALL, stale))) == {("add", key) for key in lost}


def test_a_redirect_needs_where_it_leads() -> None:
    stale = {key: each for key, each in ALL.items() if key != IFB.key}
    assert verbs(plan(ALL, stale)) == [
        ("add", IFB.key),
        ("add", ("Shaper", "", "podneti1")),
        ("add", ("Redirect", "", "podnet1")),
    ]


def test_a_redirect_that_nobody_wants_goes_before_its_target() -> None:
    without = {key: each for key, each in ALL.items() if key != ("Redirect", "", "podnet1") and "podneti1" not in key}
    assert verbs(plan(without, ALL)) == [("delete", ("Redirect", "", "podnet1")), ("delete", IFB.key)]


@pytest.mark.parametrize("key", ALL, ids="/".join)
def test_taking_away_any_one_thing_is_repaired_and_nothing_else_is_touched(key: Key) -> None:
    actual = dict(ALL)
    kernel_stub.remove(actual, key)
    steps = plan(ALL, actual)
    touched = {step.resource.key for step in steps.steps}
    assert touched == {each for each in ALL if ALL[each] != actual.get(each)}
    assert kernel_stub.apply(steps, actual) == ALL


@pytest.mark.parametrize("key", ALL, ids="/".join)
def test_whatever_is_too_much_goes_and_nothing_else(key: Key) -> None:
    wanted = dict(ALL)
    if key == BRIDGE.key:  # a port without its bridge, a redirect without its target: nobody wants that
        kernel_stub.remove(wanted, VETH.key)
    if key == IFB.key:
        kernel_stub.remove(wanted, ("Redirect", "", "podnet1"))
    kernel_stub.remove(wanted, key)
    assert kernel_stub.apply(plan(wanted, ALL), ALL) == wanted


def test_restrict() -> None:
    assert restrict(ALL, [VETH.key, ("Link", "", "nowhere")]) == {VETH.key: VETH}


CHANGES: list[Callable[[dict[Key, Resource]], None]] = [
    lambda wanted: kernel_stub.remove(wanted, VETH.key),
    lambda wanted: kernel_stub.remove(wanted, VXLAN.key),
    lambda wanted: wanted.update(held(replace(VXLAN, port=4789))),
    lambda wanted: wanted.update(held(replace(VETH, mtu=1400), Route("10.244.2.0/24", via="10.0.0.2", dev="eth0"))),
    lambda wanted: wanted.clear(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_carrying_steps_along_is_what_a_kernel_does(change: Callable[[dict[Key, Resource]], None]) -> None:
    wanted, carried = dict(ALL), dict(ALL)
    change(wanted)
    steps = plan(wanted, ALL)
    for step in steps.steps:
        carry(carried, step)
    assert carried == kernel_stub.apply(steps, ALL) == wanted


def test_carrying_a_delete_of_what_is_not_known() -> None:
    known: dict[Key, Resource] = {}
    carry(known, Step("delete", VETH))
    assert known == {}
