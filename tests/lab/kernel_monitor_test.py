"""The monitor: what others do is told, what we do is not told or agrees with what was read."""

from __future__ import annotations

import itertools
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from podnet.kernel.monitor import Event, Monitor
from podnet.kernel.netns import NoNamespace
from podnet.state.links import Bridge, Ifb, Veth, VethPeer
from podnet.state.plan import plan
from podnet.state.resource import NodeState, state
from podnet.state.routes import Address, Route
from tests.kernel.contract import UPLINK, adding, deleting, everything, links, node_parts, pod, settle, veth
from tests.lab.hands import KernelNode, kernel_node, needs_root

pytestmark = [pytest.mark.lab, needs_root]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[KernelNode]:
    with kernel_node(tmp_path) as made:
        yield made


def disagreements(events: list[Event], actual: NodeState) -> list[Event]:
    """Events that would make the reconciler read again."""
    last = {subject if isinstance(subject, str) else subject.key: (verb, subject) for verb, subject in events}
    found: list[Event] = []
    for verb, subject in last.values():
        if isinstance(subject, str):
            agrees = False
        else:
            known = actual.get(subject.key)
            agrees = known is None if verb != "new" else known is not None and not known.changes(subject)
        if not agrees:
            found.append((verb, subject))
    return found


def test_what_we_do_agrees_with_what_is_read(node: KernelNode) -> None:
    desired = everything(node.pod())
    settle(node.plane, desired)
    assert disagreements(node.events(), node.plane.read(desired)) == [("dirty", "Sysctl")]
    settle(node.plane, state(node_parts()))
    assert disagreements(node.events(), node.plane.read(state(node_parts()))) == []


def test_removing_many_pods_makes_nothing_suspect(node: KernelNode) -> None:
    bridge = state(links())
    settle(node.plane, bridge)
    pods = [veth(node.pod(), number) for number in range(2, 6)]
    settle(node.plane, bridge | state(iter(pods)))
    node.events()
    settle(node.plane, bridge)
    assert disagreements(node.events(), node.plane.read(bridge)) == []


def test_many_routes_of_ours_are_not_told_one_by_one(node: KernelNode) -> None:
    routes = [
        Route(f"10.{n // 256}.{n % 256}.0/24", via="10.0.0.2", dev=UPLINK) for n in range(64 * 256, 64 * 256 + 3000)
    ]
    node.plane.apply(adding(*routes))
    assert node.events() == []


def test_it_wakes_up_within_a_moment(node: KernelNode) -> None:
    settle(node.plane, state(node_parts()))
    node.events()
    assert select.select(node.monitor.filenos, [], [], 0)[0] == []
    node.run("ip route del 10.244.2.0/24")
    assert select.select(node.monitor.filenos, [], [], 1)[0] != []
    node.events()
    node.nft("delete table inet podnet-test")
    assert select.select(node.monitor.filenos, [], [], 1)[0] != []
    assert ("dirty", "NftTable") in node.events()


@pytest.mark.parametrize(
    "command",
    [
        f"ip link set {UPLINK} mtu 1400",
        f"ip link set {UPLINK} address 0a:00:00:00:00:77",
        f"ip link set {UPLINK} down",
        f"ip addr add 10.0.0.9/24 dev {UPLINK}",
        f"ip addr del 10.0.0.1/24 dev {UPLINK}",
        f"ip link del {UPLINK}",
        "ip link add other type bridge",
    ],
)
def test_a_change_of_the_nodes_own_links_is_about_the_facts(node: KernelNode, command: str) -> None:
    node.events()
    node.run(command)
    assert ("dirty", "facts") in node.events()


def test_a_link_that_is_as_before_says_nothing(node: KernelNode) -> None:
    node.events()
    node.run(f"ip link set {UPLINK} mtu 1500")
    node.run(f"ip link set {UPLINK} alias hello")
    assert ("dirty", "facts") not in node.events()


def test_an_uplink_that_goes_down_makes_its_routes_suspect(node: KernelNode) -> None:
    settle(node.plane, state(node_parts()))
    node.events()
    node.run(f"ip link set {UPLINK} down")
    events = node.events()
    assert {("dirty", kind) for kind in ("Route", "Neighbour", "FdbEntry", "Address", "facts")} <= set(events)


def test_a_route_that_changes_hands_is_foreign(node: KernelNode) -> None:
    wanted = Route("10.250.0.0/16", via="10.0.0.2", dev=UPLINK)
    settle(node.plane, state(iter([wanted])))
    node.events()
    node.run(f"ip route replace 10.250.0.0/16 via 10.0.0.2 dev {UPLINK}")
    assert node.events() == [("foreign", wanted)]
    assert wanted.key not in node.plane.read({wanted.key: wanted})
    settle(node.plane, state(iter([wanted])))


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
@pytest.mark.parametrize("protocol", [112, 4])
@pytest.mark.parametrize(
    "wanted", [Route("10.250.0.0/16", via="10.0.0.2", dev=UPLINK), Route("fd50::/32", via="fd00::2")]
)
def test_a_dead_end_in_place_of_a_route_is_seen(node: KernelNode, wanted: Route, kind: str, protocol: int) -> None:
    settle(node.plane, state(iter([wanted])))
    node.events()
    node.run(f"ip route replace {kind} {wanted.dst} protocol {protocol} metric {1024 if ':' in wanted.dst else 0}")
    events = node.events()
    assert {subject.key for _, subject in events if isinstance(subject, Route)} == {wanted.key}
    assert disagreements(events, {wanted.key: wanted})
    settle(node.plane, state(iter([wanted])))
    node.run(f"ip route replace {kind} 10.66.0.0/16 protocol 112")
    settle(node.plane, {})
    assert kind not in node.run("ip route")


def test_a_foreign_address_is_foreign(node: KernelNode) -> None:
    node.events()
    node.run(f"ip addr add 10.9.9.9/32 dev {UPLINK}")
    assert ("foreign", Address(UPLINK, "10.9.9.9/32")) in node.events()


def test_a_hairpin_flag_is_told_by_the_bridge(node: KernelNode) -> None:
    pod = veth(node.pod())
    desired = state(iter([Bridge(name="podnet0"), pod]))
    settle(node.plane, desired)
    node.events()
    node.run(f"bridge link set dev {pod.name} hairpin off")
    assert [(verb, seen.hairpin) for verb, seen in node.events() if isinstance(seen, Veth)][-1] == ("new", False)
    settle(node.plane, desired)


def test_a_link_under_another_name_is_told_of_both(node: KernelNode) -> None:
    ifb = Ifb(name="podnet7", up=False)
    settle(node.plane, {ifb.key: ifb})
    node.events()
    node.run("ip link set podnet7 name podnet8")
    events = node.events()
    assert ("dirty", "Link") in events
    assert any(not isinstance(subject, str) and subject.key == ("Link", "", "podnet8") for _, subject in events)


def test_rules_of_others_are_not_told(node: KernelNode) -> None:
    node.events()
    node.nft("add table inet other { set s { type ipv4_addr; elements = { 10.0.0.1 }; }; chain c { }; }")
    assert node.events() == []


def test_an_element_is_not_its_table(node: KernelNode) -> None:
    settle(node.plane, state(node_parts()))
    node.events()
    node.nft("add element inet podnet-test nets { 172.16.0.0/12 }")
    assert [subject for verb, subject in node.events() if verb == "dirty"] == ["Element"]


def test_after_an_overrun_everything_is_suspect(node: KernelNode) -> None:
    node.events()
    node.monitor._route.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    routes = "\n".join(f"route add 10.200.{n}.0/24 dev {UPLINK}" for n in range(200))
    node.run("ip -batch -", text=routes)
    assert ("dirty", "all") in node.events()
    node.run("ip route del 10.200.0.0/24")
    assert ("foreign", Route("10.200.0.0/24", dev=UPLINK, scope_link=True)) in node.events()


def test_the_last_word_counts(node: KernelNode) -> None:
    """Something that comes, goes and comes again is there."""
    node.events()
    for verb in ("add", "del", "add"):
        node.run(f"ip route {verb} 10.200.0.0/24 dev {UPLINK} protocol 112")
    assert [verb for verb, _ in node.events()] == ["del", "new"]


def test_a_monitor_without_a_dataplane_hears_everything(node: KernelNode) -> None:
    monitor = Monitor(node.netns)
    try:
        settle(node.plane, state(node_parts()))
        told = {subject.kind for _, subject in monitor.read() if not isinstance(subject, str)}
        assert told == {"Link", "Address", "Route", "Neighbour", "FdbEntry"}
    finally:
        monitor.close()


def test_there_is_no_such_namespace(tmp_path: Path) -> None:
    with pytest.raises(NoNamespace):
        Monitor(str(tmp_path / "none"))


IN_THE_POD = {
    "ip route del default": "Route",
    "ip -6 route del default": "Route",
    "ip route replace 10.244.0.0/16 dev eth0": "Route",
    "ip -6 route replace default dev eth0 metric 1024": "Route",
    "ip addr del 10.244.1.5/24 dev eth0": "Address",
    "ip addr del fd44:1::5/64 dev eth0": "Address",
    "ip addr flush dev eth0": "Address",
    "ip neigh del 10.244.1.1 dev eth0": "Neighbour",
    "ip neigh replace 10.244.1.1 lladdr 0a:00:00:00:00:99 dev eth0": "Neighbour",
    "ip link set eth0 mtu 1300": "PodLink",
    "ip link set eth0 address 0a:00:00:00:00:99": "PodLink",
    "ip link set eth0 down": "Route",
}


@pytest.mark.parametrize("command", IN_THE_POD)
def test_what_others_change_in_a_pod_is_heard(node: KernelNode, command: str) -> None:
    path = node.pod()
    desired = everything(path)
    settle(node.plane, desired)
    node.events()
    node.run(command, path)
    assert ("dirty", IN_THE_POD[command]) in node.events()
    inside = {step.resource.key[1] for step in plan(desired, node.plane.read(desired)).steps}
    assert inside == {path}
    settle(node.plane, desired)


def test_what_pods_do_for_themselves_is_not_told(node: KernelNode) -> None:
    path = node.pod()
    settle(node.plane, everything(path))
    node.run("ip link add inner type bridge", path)
    node.events()
    for command in (
        "ip addr add 10.244.1.77/32 dev eth0",
        "ip addr del 10.244.1.77/32 dev eth0",
        "ip route add 10.77.0.0/16 via 10.244.1.1",
        "ip route del 10.77.0.0/16",
        "ip neigh add 10.244.1.9 lladdr 0a:00:00:00:00:09 dev eth0",
        "ip neigh del 10.244.1.9 dev eth0",
        "ip link set inner up",
        "ip link set lo alias mine",
        "ip link del inner",
    ):
        node.run(command, path)
    assert [event for event in node.events() if event[0] == "dirty"] == []


def test_making_and_removing_pods_tells_nothing_of_their_inside(node: KernelNode) -> None:
    """Numbers of namespaces are given again, and the next pod's link is not taken for the last one's."""
    settle(node.plane, state(links()))
    node.events()
    for number in range(5, 9):
        path = node.pod()
        settle(node.plane, state(itertools.chain(links(), pod(path, number))))
        node.end(path)
        settle(node.plane, state(links()))
        kinds = {subject for verb, subject in node.events() if verb == "dirty"}
        assert not kinds & {"PodLink"}
    assert len(node.monitor._pods._shapes) <= 2


def test_a_pod_that_dies_makes_suspect_what_went_with_it(node: KernelNode) -> None:
    path = node.pod()
    desired = everything(path)
    settle(node.plane, desired)
    node.events()
    node.end(path)
    events = node.events()
    assert ("dirty", "Route") in events
    assert any(verb == "del" and not isinstance(s, str) and s.key == veth(path).key for verb, s in events)
    outcome = node.plane.apply(plan(desired, node.plane.read(desired)))
    assert outcome.failed == ()
    assert node.plane.apply(deleting(*(desired[key] for key in desired if key[1] == path))).failed == ()


def test_a_peer_is_named_only_when_it_is_made(node: KernelNode) -> None:
    pod = Veth(name="podnet9", peer=VethPeer(node.pod(), "eth0", "0a:00:00:00:00:09", 1400))
    node.plane.apply(adding(pod))
    seen = [subject for verb, subject in node.events() if verb == "new" and isinstance(subject, Veth)]
    assert seen
    assert all(veth.peer is None for veth in seen)
