"""A load balancer's address on a real link: an outside host finds it at exactly one node, and at another when it moves.

outside 10.8.0.9 ---+--- node1 10.8.0.1
                    +--- node2 10.8.0.2         one bridge in a namespace of its own; and the same in fd08::
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from podnet.kernel import netns
from podnet.kernel.dataplane import KernelDataplane
from podnet.kernel.facts import uplink
from podnet.network.proxy.announce import bear, tell
from podnet.network.view import LocalFacts, NodeInfo, NodeView
from podnet.objects.network import NetworkSpec
from podnet.state.plan import plan
from podnet.state.resource import state
from tests.lab.hands import needs_root, wait_for

pytestmark = [pytest.mark.lab, needs_root]

VIP = {False: "10.8.0.200", True: "fd08::200"}
HOSTS = {"node1": 1, "node2": 2, "outside": 9}
SUBNETS = ("10.8.0.0/24", "fd08::/64")
FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])


def address(name: str, v6: bool) -> str:
    return f"fd08::{HOSTS[name]}" if v6 else f"10.8.0.{HOSTS[name]}"


class Link:
    """The namespaces and each node's dataplane."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.planes: dict[str, KernelDataplane] = {}
        for name in ("switch", *HOSTS):
            netns.create(self.path(name))
            self.ip(name, "link set lo up")
        self.ip("switch", "link add br0 type bridge mcast_snooping 0", "link set br0 up")
        for name in HOSTS:
            self.ip("switch", f"link add {name} type veth peer name eth0 netns {self.path(name)}")
            self.ip("switch", f"link set {name} master br0 up")
            self.ip(
                name,
                f"addr add {address(name, False)}/24 dev eth0",
                f"addr add {address(name, True)}/64 dev eth0 nodad",
                "link set eth0 up",
            )
        for name in ("node1", "node2"):
            with netns.inside(self.path(name)):
                Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
            (folder / f"state-{name}").mkdir()
            self.planes[name] = KernelDataplane(str(folder / f"state-{name}"), self.path(name))

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def ip(self, name: str, *lines: str) -> str:
        command = ["nsenter", f"--net={self.path(name)}", "ip", "-batch", "-"]
        done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def bear(self, name: str, *addresses: str) -> None:
        """Bring a node to answer for these, as its reconciler would."""
        info = NodeInfo(name, (address(name, False), address(name, True)))
        view = NodeView(info, (), NetworkSpec(), LocalFacts(name, "eth0", prefixes=SUBNETS))
        wanted, plane = state(bear(view, addresses)), self.planes[name]
        steps = plan(wanted, plane.read(wanted, frozenset({"Address"})))
        assert not plane.apply(steps).failed
        plane.act(tell(steps))
        assert not plan(wanted, plane.read(wanted, frozenset({"Address"})))

    def connect(self, to: str) -> None:
        """Make the outside host look for an address: somebody is there, and refuses."""
        with netns.socket_in(
            self.path("outside"), socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_STREAM
        ) as made:
            made.settimeout(3)
            with pytest.raises(ConnectionRefusedError):
                made.connect((to, 9))

    def mac(self, name: str) -> str:
        return self.ip(name, "link show dev eth0").split("link/ether ")[1].split()[0]

    def known(self, to: str) -> str:
        """The MAC at which the outside host believes an address to be."""
        return self.ip("outside", f"neigh show {to}").split("lladdr ")[1].split()[0]

    def close(self) -> None:
        for plane in self.planes.values():
            plane.close()
        for name in ("switch", *HOSTS):
            netns.remove(self.path(name))


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    made = Link(tmp_path)
    try:
        yield made
    finally:
        made.close()


@FAMILIES
def test_an_outside_host_finds_the_node_that_bears_it(link: Link, v6: bool):
    link.bear("node2", VIP[v6])
    link.connect(VIP[v6])
    assert link.known(VIP[v6]) == link.mac("node2")


@FAMILIES
def test_who_knew_another_node_is_told_at_once(link: Link, v6: bool):
    link.bear("node1", VIP[v6])
    link.connect(VIP[v6])
    assert link.known(VIP[v6]) == link.mac("node1")
    link.ip("switch", "link set node1 down")  # it dies, and takes nothing back
    began = time.monotonic()
    link.bear("node2", VIP[v6])
    wait_for(lambda: link.known(VIP[v6]) == link.mac("node2"))
    link.connect(VIP[v6])
    assert time.monotonic() - began < 2


@FAMILIES
def test_a_node_that_gives_it_up_answers_no_more(link: Link, v6: bool):
    link.bear("node1", VIP[v6])
    link.bear("node1")
    assert VIP[v6] not in link.ip("node1", "addr show dev eth0")


@FAMILIES
def test_the_node_itself_never_speaks_from_it(link: Link, v6: bool):
    """Though its address is nearer to the other's, by the rules of RFC 6724 and by prefix."""
    link.bear("node1", VIP[v6], "fd08::8" if v6 else "10.8.0.8")
    family = socket.AF_INET6 if v6 else socket.AF_INET
    with netns.socket_in(link.path("node1"), family, socket.SOCK_DGRAM) as made:
        made.connect((address("outside", v6), 9))
        assert made.getsockname()[0] == address("node1", v6)


def test_it_is_no_part_of_what_is_read_of_the_node(link: Link):
    own = (address("node1", False), address("node1", True))
    before = uplink(own, link.path("node1"))
    link.bear("node1", *VIP.values())
    assert uplink(own, link.path("node1")) == before
