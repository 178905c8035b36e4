"""The parts of the kernel edge by themselves: namespaces, sockets, what is not ours, parameters, facts, shapers."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from podnet.kernel import facts, netns
from podnet.kernel.netlink import ROUTE, Netlink, NetlinkError
from podnet.kernel.netns import NoNamespace
from podnet.state.host import Sysctl
from podnet.state.links import Bridge, Ifb, Link, Shaper, Vxlan
from podnet.state.plan import Plan, Step, plan
from podnet.state.resource import state
from podnet.state.routes import Address, Neighbour, Route
from podnet.wire import links
from podnet.wire.links import LinkMessage
from tests.kernel.contract import UPLINK, adding, pod, rules, settle
from tests.kernel.contract import links as our_links
from tests.lab.hands import KernelNode, kernel_node, needs_root, wait_for

pytestmark = [pytest.mark.lab, needs_root]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[KernelNode]:
    with kernel_node(tmp_path) as made:
        yield made


def here() -> int:
    return os.stat(netns.HERE).st_ino


class TestNamespaces:
    def test_a_thread_goes_in_and_comes_back(self, node: KernelNode) -> None:
        home = here()
        with netns.inside(node.netns):
            assert here() == os.stat(node.netns).st_ino != home
        assert here() == home

    def test_other_threads_stay_where_they_are(self, node: KernelNode) -> None:
        home, seen = here(), []

        def visit() -> None:
            with netns.inside(node.netns):
                seen.append(here())
                entered.set()
                leave.wait(5)

        entered, leave = threading.Event(), threading.Event()
        thread = threading.Thread(target=visit)
        thread.start()
        entered.wait(5)
        assert here() == home
        leave.set()
        thread.join()
        assert seen == [os.stat(node.netns).st_ino]

    def test_it_comes_back_from_an_error(self, node: KernelNode) -> None:
        home = here()
        with pytest.raises(ZeroDivisionError), netns.inside(node.netns):
            raise ZeroDivisionError
        assert here() == home

    def test_nowhere_is_where_it_is(self) -> None:
        home = here()
        with netns.inside(""):
            assert here() == home

    def test_a_socket_stays_where_it_was_made(self, node: KernelNode) -> None:
        with netns.socket_in(node.netns, socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.bind(("10.0.0.1", 0))
        with netns.socket_in("", socket.AF_INET, socket.SOCK_DGRAM) as made, pytest.raises(OSError):
            made.bind(("10.0.0.1", 0))

    @pytest.mark.parametrize("what", ["missing", "ordinary file", "below a file"])
    def test_there_is_no_such_namespace(self, tmp_path: Path, what: str) -> None:
        path = tmp_path / "ns"
        if what != "missing":
            path.touch()
        if what == "below a file":
            path /= "ns"
        with pytest.raises(NoNamespace, match=str(path)), netns.inside(str(path)):
            pass

    def test_a_name_is_taken_once(self, node: KernelNode) -> None:
        with pytest.raises(FileExistsError):
            netns.create(node.netns)

    def test_a_name_can_be_removed_again_and_again(self, tmp_path: Path) -> None:
        path = tmp_path / "ns"
        netns.create(str(path))
        netns.remove(str(path))
        netns.remove(str(path))
        assert not path.exists()

    def test_a_fresh_namespace_has_no_name(self) -> None:
        home = here()
        with netns.fresh():
            assert here() != home
            with Netlink(ROUTE) as netlink:
                assert {links.decode(body).name for body in netlink.dump(links.dump())} & {UPLINK, "podnet0"} == set()
        assert here() == home

    def test_no_descriptor_is_left_open(self, node: KernelNode) -> None:
        def descriptors() -> int:
            return len(os.listdir("/proc/self/fd"))

        path = node.pod()
        desired = state(iter([*our_links(), *pod(path)]))
        settle(node.plane, desired)
        before = descriptors()
        for _ in range(3):
            settle(node.plane, desired)
            settle(node.plane, {})
            settle(node.plane, desired)
        wait_for(lambda: descriptors() <= before)  # links are removed by other threads


class TestNetlink:
    def test_errors_find_their_request(self, node: KernelNode) -> None:
        requests = [
            links.create(LinkMessage(name="podnet1", kind="ifb")),
            links.create(LinkMessage(name="podnet1", kind="ifb")),
            links.create(LinkMessage(name="podnet2", kind="no-such-kind")),
            links.create(LinkMessage(name="podnet3", kind="ifb")),
            links.delete("podnet4"),
        ]
        with Netlink(ROUTE, node.netns) as netlink:
            failures = netlink.write(requests)
        assert {place: why.errno for place, why in failures.items()} == {
            1: errno.EEXIST,
            2: errno.EOPNOTSUPP,
            4: errno.ENODEV,
        }
        assert failures[2].text == "Unknown device type"
        assert node.plane.read({}).keys() == {("Link", "", "podnet1"), ("Link", "", "podnet3")}

    def test_one_link_is_asked_for_by_name(self, node: KernelNode) -> None:
        with Netlink(ROUTE, node.netns) as netlink:
            assert links.decode(netlink.get(links.get(UPLINK))).kind == "veth"
            with pytest.raises(NetlinkError) as caught:
                netlink.get(links.get("nothing"))
        assert caught.value.errno == errno.ENODEV


class TestForeign:
    """What bears no mark is neither seen nor touched."""

    COMMANDS = (
        "ip link add other type bridge",
        "ip link set other addrgenmode none",
        "ip link set other up",
        "ip addr add 172.31.0.1/24 dev other",
        "ip route add 10.99.0.0/16 via 10.0.0.9",
        "ip route add 10.98.0.0/16 via 10.0.0.9 protocol 112 table 100",
        "ip neigh add 10.0.0.9 lladdr 0a:00:00:00:00:09 dev eth0 nud permanent",
        "tc qdisc add dev eth0 root tbf rate 1mbit burst 10kb latency 25ms",
        "nft add table inet other",
        "nft add set inet other s { type ipv4_addr; }",
        "nft add element inet other s { 10.0.0.1 }",
    )

    def snapshot(self, node: KernelNode) -> str:
        shown = (
            "ip link show other",
            "ip route show table all",
            "ip addr show other",
            "ip neigh show nud permanent dev eth0",
        )
        return "".join(node.run(each) for each in (*shown, "tc qdisc show dev eth0", "nft list ruleset"))

    def test_everything_of_others_stays(self, node: KernelNode) -> None:
        for command in self.COMMANDS:
            node.run(command)
        before = self.snapshot(node)
        path = node.pod()
        desired = state(iter([*our_links(), *rules(), *pod(path)]))
        assert node.plane.read({}) == {}
        settle(node.plane, desired)
        assert node.plane.read(desired).keys() == desired.keys()
        settle(node.plane, {})
        assert self.snapshot(node) == before

    def test_a_pod_may_add_to_its_own_link(self, node: KernelNode) -> None:
        path = node.pod()
        desired = state(iter([*our_links(), *pod(path)]))
        settle(node.plane, desired)
        node.run("ip addr add 10.244.1.200/24 dev eth0", path)
        node.run("ip route add 10.77.0.0/16 via 10.244.1.1", path)
        node.run("ip neigh add 10.244.1.3 lladdr 0a:00:00:00:00:03 dev eth0 nud permanent", path)
        node.run("ip link add inner type bridge", path)
        assert plan(desired, node.plane.read(desired)).steps == ()

    def test_a_wish_takes_what_has_no_mark_yet(self, node: KernelNode) -> None:
        settle(node.plane, state(our_links()))
        node.run(f"ip addr add 10.0.0.77/32 dev {UPLINK}")
        node.run(f"ip neigh add 10.0.0.78 lladdr 0a:00:00:00:00:78 dev {UPLINK} nud permanent")
        wanted = state(iter([Address(UPLINK, "10.0.0.77/32"), Neighbour(UPLINK, "10.0.0.78", "0a:00:00:00:00:78")]))
        assert node.plane.read(wanted).items() >= wanted.items()
        assert not node.plane.read({}).keys() & wanted.keys()

    def test_a_link_with_our_prefix_of_another_kind_is_replaced(self, node: KernelNode) -> None:
        node.run("ip link add podnet0 type ifb")
        bridge = Bridge(name="podnet0", mtu=1450)
        [step] = plan({bridge.key: bridge}, node.plane.read({})).steps
        assert step.verb == "replace"
        settle(node.plane, {bridge.key: bridge})

    def test_what_we_can_not_remove_does_not_keep_others_from_going(self, node: KernelNode) -> None:
        """A group with one link that can't be deleted is not deleted as a whole; one by one, the others go."""
        ifbs = [Ifb(name=f"podnet{n}") for n in range(3)]
        node.plane.apply(adding(*ifbs))
        lo = Link(name="lo")
        steps = tuple(Step("delete", link) for link in (*ifbs, lo))
        outcome = node.plane.apply(Plan(steps))
        assert [error.resource for error in outcome.failed] == [lo]
        assert node.plane.read({}) == {}
        node.run("ip link set lo group default")


class TestParameters:
    def test_a_parameter_of_the_node_and_one_of_a_pod(self, node: KernelNode) -> None:
        path = node.pod()
        settle(node.plane, state(iter([*our_links(), *pod(path)])))
        name = "net/ipv4/conf/eth0/rp_filter"
        settle(
            node.plane,
            state(iter([*our_links(), *pod(path), Sysctl(name, "2", dev=UPLINK), Sysctl(name, "1", path, "eth0")])),
        )
        assert node.run("sysctl -n net.ipv4.conf.eth0.rp_filter").strip() == "2"
        assert node.run("sysctl -n net.ipv4.conf.eth0.rp_filter", path).strip() == "1"
        settle(node.plane, {})
        assert node.run("sysctl -n net.ipv4.conf.eth0.rp_filter").strip() == "0"

    def test_a_parameter_that_does_not_exist(self, node: KernelNode) -> None:
        missing, refused = Sysctl("net/ipv4/nothing", "1"), Sysctl("net/ipv4/ip_forward", "many")
        outcome = node.plane.apply(adding(missing, refused))
        assert [(error.resource, error.errno) for error in outcome.failed] == [
            (missing, errno.ENOENT),
            (refused, errno.EINVAL),
        ]
        assert "this kernel has no such parameter" in str(outcome.failed[0])

    def test_the_machines_own_parameters_stay(self, node: KernelNode) -> None:
        before = Path("/proc/sys/net/ipv4/ip_forward").read_text()
        for value in ("0", "1"):
            settle(node.plane, state(iter([Sysctl("net/ipv4/ip_forward", value)])))
            assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == before


class TestFacts:
    def test_the_uplink_carries_the_nodes_address(self, node: KernelNode) -> None:
        node.run(f"ip link set {UPLINK} mtu 1400")
        node.run(f"ip addr add 10.7.0.1/16 dev {UPLINK}")
        node.run("ip addr add 10.99.0.1/32 dev lo")
        for name in ("podnet0", "kube-ipvs0"):
            node.run(f"ip link add {name} type bridge")
            node.run(f"ip addr add 10.96.0.1/32 dev {name}")
        found = facts.uplink(["192.0.2.1", "10.0.0.1", "fd00::1"], node.netns)
        assert found is not None
        assert (found.name, found.mtu) == (UPLINK, 1400)
        assert found.addresses == ("10.0.0.1/24", "10.7.0.1/16", "fd00::1/64")
        assert found.prefixes == ("10.0.0.0/24", "10.7.0.0/16", "fd00::/64")
        assert found.local == ("10.0.0.1", "10.7.0.1", "10.99.0.1", "fd00::1")

    def test_an_address_that_nobody_has(self, node: KernelNode) -> None:
        assert facts.uplink(["192.0.2.1"], node.netns) is None
        assert facts.uplink([], node.netns) is None

    def test_this_kernel_can_do_it_all_and_nothing_is_left(self) -> None:
        home, before = here(), len(os.listdir("/proc/self/fd"))
        assert facts.features() == dict.fromkeys(facts._TRIALS)
        assert (here(), len(os.listdir("/proc/self/fd"))) == (home, before)

    def test_why_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = {
            "kind": lambda netlink: facts._do(netlink, links.create(LinkMessage(name="a", kind="no-such-kind"))),
            "nft": lambda _: facts._run_nft("add rule inet nothing nowhere accept"),
            "file": lambda _: os.stat("/nowhere"),
        }
        monkeypatch.setattr(facts, "_TRIALS", broken)
        found = facts.features()
        assert found["kind"] == "Unknown device type"
        assert "No such file or directory" in (found["nft"] or "")
        assert "/nowhere" in (found["file"] or "")


def test_what_the_reference_says_of_vxlan_and_of_a_pod(node: KernelNode) -> None:
    """The same kernel state that flannel and the CNI plugins leave, seen through the usual tools."""
    path = node.pod()
    tunnel = Vxlan(name="podnet.1", mtu=1450, vni=1, port=8472, local="10.0.0.1", dev=UPLINK)
    peer = (
        Address("podnet.1", "10.244.1.0/32"),
        Route("10.244.2.0/24", via="10.244.2.0", dev="podnet.1", onlink=True),
        Neighbour("podnet.1", "10.244.2.0", "0a:00:00:00:00:02"),
    )
    settle(
        node.plane,
        state(iter([tunnel, *peer, Bridge(name="podnet0"), Address("podnet0", "10.244.1.1/24"), *pod(path)])),
    )
    shown = node.run("ip -d link show podnet.1")
    assert "vxlan id 1 local 10.0.0.1 dev eth0 srcport 0 0 dstport 8472 nolearning" in shown
    assert "mtu 1450" in shown
    assert "10.244.2.0/24 via 10.244.2.0 dev podnet.1 proto 112 onlink" in node.run("ip route")
    assert "10.244.2.0 dev podnet.1 lladdr 0a:00:00:00:00:02 PERMANENT" in node.run("ip neigh")
    assert "inet 10.244.1.1/24 brd 10.244.1.255 scope global podnet0" in node.run("ip addr show podnet0")
    assert "default via 10.244.1.1 dev eth0 proto 112" in node.run("ip route", path)
    assert "inet6 fd44:1::5/64 scope global nodad" in node.run("ip -6 addr show eth0", path)


def test_a_shaper_of_any_handle_is_removed(node: KernelNode) -> None:
    settle(node.plane, state(iter([Ifb(name="podnet1")])))
    node.run("tc qdisc add dev podnet1 root handle 77: tbf rate 1mbit burst 10kb latency 50ms")
    settle(node.plane, state(iter([Ifb(name="podnet1")])))
    assert "tbf" not in node.run("tc qdisc show dev podnet1")


def test_a_shaper_is_what_tc_makes_of_the_same_words(node: KernelNode) -> None:
    settle(node.plane, state(iter([Ifb(name="podnet1"), Shaper("podnet1", 10_000_000, 800_000)])))
    ours = node.run("tc qdisc show dev podnet1")
    node.run("ip link add other type ifb")
    node.run("tc qdisc add dev other root handle 1: tbf rate 10mbit burst 100000b latency 25ms")
    theirs = node.run("tc qdisc show dev other")
    assert ours.split("root")[1] == theirs.split("root")[1]
