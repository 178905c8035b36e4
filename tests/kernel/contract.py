"""What every Dataplane does, whether it is the kernel's or the one in memory.

A test class of each implementation inherits from Contract and has a fixture `node`: a node's namespace with an uplink
and nothing else, its dataplane, and the hands of someone else.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec
import pytest

from podnet.kernel.dataplane import Dataplane, Outcome
from podnet.kernel.monitor import Event
from podnet.state.host import Daemon, Sysctl
from podnet.state.links import Bridge, Ifb, PodLink, Redirect, Shaper, Veth, VethPeer, Vxlan
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Plan, Step, plan
from podnet.state.resource import Key, NodeState, Resource, state
from podnet.state.routes import Address, FdbEntry, Neighbour, Proxied, Route
from podnet.state.text import difference

UPLINK = "eth0"
UPLINK_ADDRESSES = ("10.0.0.1/24", "fd00::1/64")


class Node(Protocol):
    """A node under test."""

    @property
    def plane(self) -> Dataplane: ...
    def pod(self) -> str:
        """A new namespace, by its path."""

    def end(self, pod: str) -> None:
        """That namespace goes away."""

    def lose(self, resource: Resource) -> None:
        """Someone else removes this."""

    def spoil(self, resource: Resource) -> None:
        """Someone else makes this so."""

    def events(self) -> list[Event]:
        """What a monitor saw since the last call."""


def links(backend: int = 1) -> Iterator[Resource]:
    yield Bridge(name="podnet0", mtu=1450, mac="ee:ee:ee:ee:ee:01", alias="the bridge")
    yield Address("podnet0", "10.244.1.1/24")
    yield Address("podnet0", "fd44:1::1/64")
    yield Vxlan(
        name="podnet.1", mtu=1450, mac="0a:00:00:00:00:01", vni=backend, port=8472, local="10.0.0.1", dev=UPLINK
    )
    yield Vxlan(name="podnet.6", mtu=1430, mac="0a:00:00:00:00:06", vni=backend, port=8473, local="fd00::1")
    yield Address("podnet.1", "10.244.1.0/32")
    yield Address("podnet.6", "fd44:1::/128")


def peer(number: int) -> Iterator[Resource]:
    """Another node, through both tunnels."""
    mac = f"0a:00:00:00:01:{number:02x}"
    yield Route(f"10.244.{number}.0/24", via=f"10.244.{number}.0", dev="podnet.1", onlink=True)
    yield Neighbour("podnet.1", f"10.244.{number}.0", mac)
    yield FdbEntry("podnet.1", mac, f"10.0.0.{number}")
    yield Route(f"fd44:{number}::/64", via=f"fd44:{number}::", dev="podnet.6", onlink=True)
    yield Neighbour("podnet.6", f"fd44:{number}::", mac)
    yield FdbEntry("podnet.6", mac, f"fd00::{number}")


def veth(path: str, number: int = 5, **more: object) -> Veth:
    made = Veth(
        name=f"podnet{number:08x}",
        mtu=1450,
        alias="default/web",
        master="podnet0",
        hairpin=True,
        peer=VethPeer(path, "eth0", f"0a:58:0a:f4:01:{number:02x}", 1450),
    )
    return msgspec.structs.replace(made, **more)


def pod(path: str, number: int = 5) -> Iterator[Resource]:
    """A pod on the bridge, both families, with limits, and a host route as in point-to-point mode."""
    ours = veth(path, number)
    yield ours
    yield PodLink(netns=path, name="lo")
    yield PodLink(netns=path, name="eth0", mtu=1450, mac=f"0a:58:0a:f4:01:{number:02x}")
    yield Address("eth0", f"10.244.1.{number}/24", path)
    yield Address("eth0", f"fd44:1::{number:x}/64", path)
    yield Route("0.0.0.0/0", via="10.244.1.1", dev="eth0", netns=path)
    yield Route("10.244.0.0/16", via="10.244.1.1", dev="eth0", src=f"10.244.1.{number}", netns=path)
    yield Route("::/0", via="fd44:1::1", dev="eth0", netns=path)
    yield Neighbour("eth0", "10.244.1.1", "ee:ee:ee:ee:ee:01", path)
    yield Sysctl("net/ipv6/conf/eth0/accept_ra", "0", path, "eth0")
    yield Sysctl(f"net/ipv4/conf/{ours.name}/proxy_arp", "1", dev=ours.name)
    yield Route(f"10.244.9.{number}/32", dev=ours.name, scope_link=True)
    yield Route(f"fd44:9::{number:x}/128", dev=ours.name, scope_link=True)
    yield Proxied("podnet0", f"fd44:1::1:{number:x}")
    yield Ifb(name=f"podneti{number:07x}", mtu=1450)
    yield Shaper(ours.name, 10_000_000, 800_000)
    yield Redirect(ours.name, f"podneti{number:07x}")
    yield Shaper(f"podneti{number:07x}", 8_000_000_007, 1_234_567)


TABLE = NftTable(
    "inet",
    "podnet-test",
    """
    set nets { type ipv4_addr; flags interval; }
    map verdicts { type ipv4_addr . inet_proto . inet_service : verdict; }
    set names { type ifname; }
    chain web { tcp dport { 80, 443 } accept; }
    chain enforce {
        type filter hook forward priority filter; policy accept;
        ct state established,related accept;
        ip saddr @nets drop;
        iifname @names accept;
        ip daddr . meta l4proto . th dport vmap @verdicts;
    }""",
)


def rules() -> Iterator[Resource]:
    yield TABLE
    yield element("nets", "10.1.0.0/16")
    yield element("nets", "192.168.0.1-192.168.0.9")
    yield element("verdicts", "10.96.0.1 . 6 . 80", "goto web")
    yield element("verdicts", "10.96.0.2 . 17 . 53", "drop")
    yield element("names", '"podnet0"')


def element(name: str, key: str, value: str = "") -> Element:
    return Element("inet", "podnet-test", name, key, value)


def node_parts() -> Iterator[Resource]:
    yield from links()
    yield from peer(2)
    yield from peer(3)
    yield from rules()
    yield Route("10.250.0.0/16", via="10.0.0.2", dev=UPLINK)
    yield Route("10.251.0.0/16", via="10.0.0.2")
    yield Route("fd50::/32", via="fd00::2", dev=UPLINK)
    yield Sysctl("net/ipv4/ip_forward", "1")
    yield SLEEPER


SLEEPER = Daemon("sleeper", ("sleep", "1000"), files=(("sleeper.conf", "deeply\n"),))


def everything(path: str) -> dict[Key, Resource]:
    return state(itertools.chain(node_parts(), pod(path)))


def settle(plane: Dataplane, desired: NodeState) -> Outcome:
    """One pass: read, diff, apply; and the next pass has nothing to do."""
    outcome = plane.apply(plan(desired, plane.read(desired)))
    assert not outcome.failed, [str(error) for error in outcome.failed]
    assert not outcome.held, outcome.held
    left = difference(plan(desired, plane.read(desired)))
    assert not left, left
    return outcome


def adding(*resources: Resource) -> Plan:
    return Plan(tuple(Step("add", resource) for resource in resources))


def deleting(*resources: Resource) -> Plan:
    return Plan(tuple(Step("delete", resource) for resource in resources))


SPOILED: dict[str, Callable[[str], Resource]] = {
    "Link": lambda _: Bridge(name="podnet0", mtu=1300, mac="ee:ee:ee:ee:ee:01", alias="the bridge"),
    "PodLink": lambda path: PodLink(netns=path, name="eth0", mtu=1300),
    "Route": lambda _: Route("10.250.0.0/16", via="10.0.0.3", dev=UPLINK),
    "Neighbour": lambda _: Neighbour("podnet.1", "10.244.2.0", "0a:00:00:00:00:99"),
    "FdbEntry": lambda _: FdbEntry("podnet.1", "0a:00:00:00:01:02", "10.0.0.99"),
    "Shaper": lambda _: Shaper("podnet00000005", 20_000_000, 800_000),
    "Element": lambda _: element("verdicts", "10.96.0.2 . 17 . 53", "accept"),
    "NftTable": lambda _: msgspec.structs.replace(TABLE, body=f"{TABLE.body}\nchain more {{ }}"),
    "Sysctl": lambda _: Sysctl("net/ipv4/ip_forward", "0"),
}
"""Something of `everything` in each kind that can be changed in place, as it should not be."""

LOST: dict[str, Callable[[str], Resource]] = {
    "Bridge": lambda _: Bridge(name="podnet0"),
    "Vxlan": lambda _: Vxlan(name="podnet.1", vni=1, port=8472, local="10.0.0.1"),
    "Veth": veth,
    "Address": lambda _: Address("podnet0", "10.244.1.1/24"),
    "Address in the pod": lambda path: Address("eth0", "10.244.1.5/24", path),
    "IPv6 address": lambda _: Address("podnet0", "fd44:1::1/64"),
    "Route": lambda _: Route("10.244.2.0/24"),
    "IPv6 route": lambda _: Route("fd44:2::/64"),
    "Route in the pod": lambda path: Route("10.244.0.0/16", netns=path),
    "Neighbour": lambda _: Neighbour("podnet.1", "10.244.2.0", ""),
    "IPv6 neighbour": lambda _: Neighbour("podnet.6", "fd44:2::", ""),
    "FdbEntry": lambda _: FdbEntry("podnet.1", "0a:00:00:00:01:02", "10.0.0.2"),
    "Shaper": lambda _: Shaper("podnet00000005", 0, 0),
    "Redirect": lambda _: Redirect("podnet00000005", ""),
    "NftTable": lambda _: TABLE,
    "Element": lambda _: element("nets", "10.1.0.0/16"),
    "Daemon": lambda _: SLEEPER,
}
"""Something of `everything` in each kind that can be taken away."""


class Contract:
    """Inherited by a test class of each implementation."""

    def test_what_is_applied_is_read_back(self, node: Node) -> None:
        desired = everything(node.pod())
        outcome = settle(node.plane, desired)
        assert {step.resource.key for step in outcome.done} == desired.keys()
        actual = node.plane.read(desired)
        assert actual.keys() == desired.keys()
        assert {key: desired[key].changes(actual[key]) for key in desired} == dict.fromkeys(desired, ())

    def test_adding_what_exists_is_done_and_changes_nothing(self, node: Node) -> None:
        desired = everything(node.pod())
        settle(node.plane, desired)
        outcome = node.plane.apply(plan(desired, {}))
        assert outcome.failed == ()
        assert len(outcome.done) == len(desired)
        assert plan(desired, node.plane.read(desired)).steps == ()

    def test_adding_brings_what_exists_into_shape(self, node: Node) -> None:
        path = node.pod()
        desired = everything(path)
        settle(node.plane, desired)
        for make in SPOILED.values():
            node.spoil(make(path))
        outcome = node.plane.apply(plan(desired, {}))
        assert [str(error) for error in outcome.failed] == []
        assert plan(desired, node.plane.read(desired)).steps == ()

    def test_everything_off_means_everything_gone(self, node: Node) -> None:
        desired = everything(node.pod())
        settle(node.plane, desired)
        settle(node.plane, {})
        assert node.plane.read({}) == {}
        left = node.plane.read(desired)
        assert all(resource.key[1] or isinstance(resource, Sysctl) for resource in left.values())

    def test_deleting_what_is_missing_is_done(self, node: Node) -> None:
        desired = everything(node.pod())
        settle(node.plane, desired)
        mine = {key: resource for key, resource in desired.items() if not key[1]}
        removal = plan({}, mine)
        assert len(node.plane.apply(removal).done) == len(removal.steps)
        again = node.plane.apply(deleting(*mine.values()))
        assert again.failed == ()
        assert len(again.done) == len(mine)

    @pytest.mark.parametrize("kind", SPOILED)
    def test_a_change_by_someone_is_seen_and_undone(self, node: Node, kind: str) -> None:
        path = node.pod()
        desired = everything(path)
        settle(node.plane, desired)
        node.events()
        wrong = SPOILED[kind](path)
        node.spoil(wrong)
        changes = plan(desired, node.plane.read(desired))
        assert [step.resource.key for step in changes.steps] == [wrong.key]
        if not wrong.key[1]:
            assert _told(node.events(), wrong.key)
        settle(node.plane, desired)

    @pytest.mark.parametrize("kind", LOST)
    def test_a_loss_is_seen_and_made_good(self, node: Node, kind: str) -> None:
        path = node.pod()
        desired = everything(path)
        settle(node.plane, desired)
        node.events()
        lost = LOST[kind](path)
        node.lose(lost)
        missing = {step.resource.key for step in plan(desired, node.plane.read(desired)).steps if step.verb == "add"}
        assert lost.key in missing
        if not lost.key[1]:
            assert _told(node.events(), lost.key)
        settle(node.plane, desired)

    def test_a_link_takes_along_what_is_on_it(self, node: Node) -> None:
        path = node.pod()
        desired = everything(path)
        settle(node.plane, desired)
        ours = veth(path)
        node.lose(ours)
        gone = desired.keys() - node.plane.read(desired).keys()
        lo = ("PodLink", path, "lo")
        on = {("", ours.name), (path, "eth0")}
        expected = {key for key, resource in desired.items() if resource.on in on} | {
            ours.key,
            ("PodLink", path, "eth0"),
        }
        assert gone == expected
        assert lo not in gone

    def test_a_bridge_that_goes_frees_its_ports(self, node: Node) -> None:
        path = node.pod()
        desired = state(itertools.chain(links(), pod(path)))
        settle(node.plane, desired)
        node.lose(Bridge(name="podnet0"))
        port = node.plane.read(desired)[veth(path).key]
        assert isinstance(port, Veth)
        assert (port.master, port.hairpin) == (None, None)
        settle(node.plane, desired)

    def test_a_link_that_goes_down_loses_its_routes(self, node: Node) -> None:
        desired = state(node_parts())
        settle(node.plane, desired)
        node.events()
        down = next(resource for resource in links() if isinstance(resource, Vxlan))
        node.spoil(msgspec.structs.replace(down, up=False))
        assert Route("10.244.2.0/24").key not in node.plane.read(desired)
        assert _told(node.events(), ("Route", "", "10.244.2.0/24"))
        settle(node.plane, desired)

    def test_another_tunnel_replaces_the_tunnel_and_what_is_on_it(self, node: Node) -> None:
        before, after = (state(itertools.chain(links(vni), peer(2))) for vni in (1, 7))
        settle(node.plane, before)
        steps = plan(after, node.plane.read(after)).steps
        assert {step.resource.key for step in steps if step.verb == "replace"} == {
            ("Link", "", "podnet.1"),
            ("Link", "", "podnet.6"),
        }
        settle(node.plane, after)

    def test_a_missing_namespace_holds_what_is_inside(self, node: Node) -> None:
        path, gone = node.pod(), node.pod()
        desired = state(itertools.chain(links(), pod(path, 5), pod(gone, 6)))
        node.end(gone)
        outcome = node.plane.apply(plan(desired, node.plane.read(desired)))
        assert outcome.failed == ()
        assert {step.resource.key[1] for step in outcome.held} == {"", gone}
        assert {step.resource.key for step in outcome.done} >= {resource.key for resource in pod(path)}
        assert {step.resource.key for step in outcome.done}.isdisjoint(
            resource.key for resource in pod(gone, 6) if not isinstance(resource, Ifb | Proxied | Shaper)
        )
        assert not any(key[1] == gone for key in node.plane.read(desired))

    def test_a_namespace_that_goes_takes_both_ends_along(self, node: Node) -> None:
        path = node.pod()
        desired = everything(path)
        settle(node.plane, desired)
        node.end(path)
        actual = node.plane.read(desired)
        assert not any(key[1] == path for key in actual)
        assert veth(path).key not in actual
        inside = [resource for resource in desired.values() if resource.key[1] == path]
        assert len(node.plane.apply(deleting(*inside)).done) == len(inside)

    @pytest.mark.parametrize(
        "resource",
        [
            Route("10.250.0.0/16", via="10.0.0.2", dev="eth9"),
            Address("podnet9", "10.9.9.9/24"),
            Neighbour("podnet9", "10.9.9.9", "0a:00:00:00:00:01"),
            FdbEntry("podnet9", "0a:00:00:00:00:01", "10.0.0.2"),
            Shaper("podnet9", 1_000_000, 1_000_000),
            Redirect("podnet0", "podnet9"),
            Vxlan(name="podnet.9", vni=9, port=8472, local="10.0.0.1", dev="eth9"),
            Ifb(name="podnet8", master="podnet9"),
            Sysctl("net/ipv4/conf/podnet9/proxy_arp", "1", dev="podnet9"),
        ],
        ids=lambda resource: resource.kind,
    )
    def test_a_missing_link_holds_what_needs_it(self, node: Node, resource: Resource) -> None:
        bridge = Bridge(name="podnet0")
        outcome = node.plane.apply(adding(resource, bridge))
        assert outcome.failed == ()
        assert [step.resource for step in outcome.held] == [resource]
        assert [step.resource for step in outcome.done] == [bridge]
        assert node.plane.apply(deleting(resource)).done == (Step("delete", resource),)

    @pytest.mark.parametrize(
        ("resource", "number"),
        [
            (Route("10.250.0.0/16", via="192.0.2.1", dev=UPLINK), errno.ENETUNREACH),
            (Veth(name="podnet1"), errno.EINVAL),
            (Element("inet", "podnet-none", "s", "10.0.0.1"), errno.ENOENT),
        ],
        ids=lambda value: getattr(value, "kind", ""),
    )
    def test_a_refusal_is_told_and_stops_nothing_else(self, node: Node, resource: Resource, number: int) -> None:
        good = state(itertools.chain(links(), rules()))
        outcome = node.plane.apply(adding(resource, *good.values()))
        [error] = outcome.failed
        assert (error.resource, error.verb, error.errno) == (resource, "add", number)
        assert str(error).startswith(f"cannot add {type(resource).__name__.lower()} ")
        assert len(outcome.done) == len(good)
        assert plan(good, node.plane.read(good)).steps == ()

    def test_a_new_next_hop_takes_the_place_of_the_old(self, node: Node) -> None:
        for hop in ("10.0.0.2", "10.0.0.3", "10.0.0.2"):
            settle(node.plane, state(iter([Route("10.250.0.0/16", via=hop, dev=UPLINK)])))
        for hop in ("fd00::2", "fd00::3"):
            settle(node.plane, state(iter([Route("fd50::/32", via=hop, dev=UPLINK)])))

    def test_a_table_is_replaced_with_the_elements_it_held(self, node: Node) -> None:
        settle(node.plane, state(rules()))
        more = msgspec.structs.replace(TABLE, body=TABLE.body.replace("{ 80, 443 }", "{ 80, 443, 8080 }"))
        outcome = node.plane.apply(Plan((Step("change", more, TABLE, ("body",)),)))
        assert len(outcome.done) == 1
        desired = state(iter([more, *(r for r in rules() if isinstance(r, Element))]))
        assert plan(desired, node.plane.read(desired)).steps == ()

    def test_another_command_line_is_a_change_of_the_daemon(self, node: Node) -> None:
        settle(node.plane, state(iter([SLEEPER])))
        longer = msgspec.structs.replace(SLEEPER, argv=("sleep", "2000"))
        steps = plan(state(iter([longer])), node.plane.read({})).steps
        assert [(step.verb, step.fields) for step in steps] == [("change", ("argv",))]
        settle(node.plane, state(iter([longer])))

    def test_elements_change_together_with_their_table(self, node: Node) -> None:
        settle(node.plane, state(rules()))
        body = TABLE.body.replace("chain web", "chain shop").replace("set names { type ifname; }", "")
        body = body.replace("iifname @names accept;", "")
        desired = state(
            iter(
                [
                    msgspec.structs.replace(TABLE, body=body),
                    element("verdicts", "10.96.0.1 . 6 . 80", "goto shop"),
                    element("verdicts", "10.96.0.3 . 6 . 80", "goto shop"),
                    element("nets", "10.1.0.0/16"),
                ]
            )
        )
        settle(node.plane, desired)

    def test_an_interval_may_take_the_place_of_a_smaller_one(self, node: Node) -> None:
        settle(node.plane, state(rules()))
        desired = state(rules())
        del desired[element("nets", "10.1.0.0/16").key]
        settle(node.plane, desired | state(iter([element("nets", "10.0.0.0/8")])))

    def test_an_element_changes_its_value(self, node: Node) -> None:
        settle(node.plane, state(rules()))
        changed = element("verdicts", "10.96.0.2 . 17 . 53", "accept")
        desired = state(rules()) | {changed.key: changed}
        outcome = settle(node.plane, desired)
        assert [step.verb for step in outcome.done] == ["change"]

    def test_only_the_kinds_asked_for_are_read(self, node: Node) -> None:
        desired = everything(node.pod())
        settle(node.plane, desired)
        for kind in sorted({key[0] for key in desired}):
            found = node.plane.read(desired, frozenset({kind}))
            assert found.keys() == {key for key in desired if key[0] == kind}

    def test_a_pod_that_nobody_asks_about_is_not_read(self, node: Node) -> None:
        path = node.pod()
        settle(node.plane, everything(path))
        assert not any(key[1] for key in node.plane.read(state(node_parts())))

    def test_a_parameter_gets_back_its_value(self, node: Node) -> None:
        forward = Sysctl("net/ipv4/ip_forward", "0")
        before = node.plane.read({forward.key: forward})[forward.key]
        assert before == forward
        settle(node.plane, state(iter([Sysctl("net/ipv4/ip_forward", "1")])))
        settle(node.plane, {})
        assert node.plane.read({forward.key: forward})[forward.key] == before

    def test_any_state_is_reached_from_any_other(self, node: Node) -> None:
        first, second, third = node.pod(), node.pod(), node.pod()
        states = [
            everything(first),
            state(itertools.chain(links(7), peer(2), pod(first, 5), pod(second, 6))),
            state(itertools.chain(links(), peer(4), rules(), pod(third, 7))),
            {},
        ]
        for before, after in itertools.permutations(states, 2):
            settle(node.plane, before)
            settle(node.plane, after)


def _told(events: list[Event], key: Key) -> bool:
    """Whether one of these events would make the reconciler look at that key's kind."""
    return any(subject in (key[0], "all") if isinstance(subject, str) else subject.key == key for _, subject in events)
