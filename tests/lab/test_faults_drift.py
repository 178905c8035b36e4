"""Somebody changes a node's kernel under a running agent: within a second it is as before, and his own things stay.

Each line of a table is one disturbance, a line for the shell in the node's namespace. What is compared is everything
(dumps.py), read with other programs than ours, on the node and in a pod; that the agent met it, and not chance, is told
by its count of drift events.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from podnet.network.bandwidth import ifb_name
from podnet.network.pods import host_ifname
from tests.lab import foreign
from tests.lab.dumps import difference
from tests.lab.labs import LiveLab, live_lab, needs_root, until

pytestmark = [pytest.mark.lab, needs_root]

SECONDS = 1.0
STILL = "STILL "
LIMITS = {"kubernetes.io/ingress-bandwidth": "100M", "kubernetes.io/egress-bandwidth": "100M"}
PORTS = [{"containerPort": 8080, "hostPort": 30080, "protocol": "UDP"}]

BOTH = """\
route deleted: ip route del {peer}
route replaced without our mark: ip route replace {peer} via 192.168.77.1
route led to another next hop: ip route change {peer} via 192.168.77.1 proto 112
route made a dead end: ip route replace unreachable {peer}
route made a dead end of ours: ip route replace blackhole {peer} proto 112
route with our mark added: ip route add 10.99.0.0/24 via 192.168.77.1 proto 112
route of IPv6 deleted: ip -6 route del {peer6}
route of IPv6 led to another next hop: ip -6 route change {peer6} via fd77::1 proto 112
bridge set down: ip link set podnet0 down
bridge deleted: ip link del podnet0
bridge MTU: ip link set podnet0 mtu 1400
bridge MAC: ip link set podnet0 address 02:00:00:00:00:02
gateway deleted: ip addr del {gateway} dev podnet0
gateway of IPv6 deleted: ip addr del {gateway6} dev podnet0
addresses flushed: ip addr flush dev podnet0 scope global || test $? = 255
address added: ip addr add 10.55.0.1/24 dev podnet0
veth set down: ip link set {veth} down
veth deleted: ip link del {veth}
veth MTU: ip link set {veth} mtu 1400
veth alias: ip link set {veth} alias nonsense
link with our name added: ip link add podnetbogus type bridge
ip_forward: sysctl -qw net.ipv4.ip_forward=0
forwarding of IPv6: sysctl -qw net.ipv6.conf.all.forwarding=0
nft table deleted: nft delete table inet podnet-masquerade
nft host ports deleted: nft delete table inet podnet-hostports
nft ruleset flushed: nft flush ruleset
nft rule deleted: nft delete rule inet podnet-masquerade postrouting handle\
 $(nft -a list table inet podnet-masquerade | sed -n 's/.*fully-random # handle //p' | head -1)
nft rule added: nft add rule inet podnet-masquerade postrouting accept
nft chain flushed: nft flush chain inet podnet-hostports prerouting
nft chain added: nft add chain inet podnet-hostports more
nft element deleted: nft delete element inet podnet-masquerade nodes-ip {{ 192.168.77.12 }}
nft element added: nft add element inet podnet-masquerade nodes-ip {{ 192.168.77.99 }}
nft set flushed: nft flush set inet podnet-masquerade nodes-ip
nft port deleted: nft delete element inet podnet-hostports ports-ip {{ 17 . 30080 }}
nft port led elsewhere: STILL nft delete element inet podnet-hostports ports-ip {{ 17 . 30080 }};\
 nft add element inet podnet-hostports ports-ip {{ 17 . 30080 : 10.9.9.9 . 1 }}
nft table with our name added: nft add table ip podnet-bogus
limit to the pod deleted: tc qdisc del dev {veth} root
limit to the pod changed: tc qdisc replace dev {veth} root tbf rate 1mbit burst 10kb latency 50ms
limit from the pod deleted: tc qdisc del dev {ifb} root
redirect deleted: tc qdisc del dev {veth} ingress
redirect's filter deleted: tc filter del dev {veth} ingress
ifb set down: ip link set {ifb} down
ifb deleted: ip link del {ifb}
"""

BRIDGE = """\
veth taken from the bridge: ip link set {veth} nomaster
a link of another kind for the bridge: STILL ip link del podnet0; ip link add podnet0 type vxlan id 9 dstport 1
veth on another bridge: STILL ip link add other type bridge; ip link set {veth} master other; ip link del other
hairpin: bridge link set dev {veth} hairpin off
pod's neighbour deleted: ip neigh del {ip} dev podnet0
pod's neighbour changed: ip neigh replace {ip} lladdr 02:00:00:00:00:01 dev podnet0 nud permanent
pod's neighbour of IPv6 deleted: ip neigh del {ip6} dev podnet0
route_localnet: sysctl -qw net.ipv4.conf.podnet0.route_localnet=0
proxy_arp: sysctl -qw net.ipv4.conf.podnet0.proxy_arp=0
tunnel set down: ip link set podnet.1 down
tunnel deleted: ip link del podnet.1
tunnel MTU: ip link set podnet.1 mtu 1400
tunnel MAC: ip link set podnet.1 address 02:00:00:00:00:02
tunnel learns: ip link set podnet.1 type vxlan learning
tunnel made anew with another VNI: STILL ip link del podnet.1; ip link add podnet.1 type vxlan id 7 dstport 4789
tunnel of IPv6 deleted: ip link del podnet-v6.1
tunnel address deleted: ip addr del {own} dev podnet.1
neighbour deleted: ip neigh del {vtep} dev podnet.1
neighbour changed: ip neigh replace {vtep} lladdr 02:00:00:00:00:01 dev podnet.1 nud permanent
neighbour made to expire: ip neigh replace {vtep} lladdr 02:00:00:00:00:01 dev podnet.1 nud reachable
neighbour added: ip neigh add 10.55.0.1 lladdr 02:00:00:00:00:09 dev podnet.1 nud permanent
neighbour of IPv6 deleted: ip neigh del {vtep6} dev podnet-v6.1
FDB entry deleted: bridge fdb del {vtep_mac} dev podnet.1
FDB entry changed: bridge fdb replace {vtep_mac} dev podnet.1 dst 192.168.77.99
FDB entry added: bridge fdb add 02:00:00:00:00:09 dev podnet.1 dst 192.168.77.99
"""

PTP = """\
uplink down and up: STILL ip link set eth0 down; ip link set eth0 up; ip addr add fd77::11/64 dev eth0 nodad
proxy_arp: sysctl -qw net.ipv4.conf.{veth}.proxy_arp=0
route_localnet: sysctl -qw net.ipv4.conf.{veth}.route_localnet=0
pod's route deleted: ip route del {ip}/32
pod's route of IPv6 deleted: ip -6 route del {ip6}/128
pod's neighbour deleted: ip neigh del {ip} dev {veth}
pod's neighbour changed: ip neigh replace {ip} lladdr 02:00:00:00:00:01 dev {veth} nud permanent
node end's MAC: ip link set {veth} address 02:00:00:00:00:02
"""


class Site(NamedTuple):
    """A lab with the pod `victim` on node1; `words` stand in the tables' braces."""

    live: LiveLab
    words: dict[str, str]


@contextmanager
def site(name: str, *options: str) -> Iterator[Site]:
    with live_lab(name, "--nodes", "2", "--no-demo", "--dual-stack", *options) as live:
        live.pod("victim", "node1", ports=PORTS, annotations=LIMITS)
        live.pod("other", "node2")
        until(lambda: live.settled("node1"), "the kernel is as it should be")
        yield Site(live, dict(words(live)))


@pytest.fixture(scope="module")
def bridge() -> Iterator[Site]:
    with site("bridge", "--backend", "vxlan", "--attachment", "bridge") as made:
        yield made


@pytest.fixture(scope="module")
def ptp() -> Iterator[Site]:
    with site("ptp", "--backend", "host-gw", "--attachment", "ptp") as made:
        yield made


def words(live: LiveLab) -> Iterator[tuple[str, str]]:
    pod = live.record("victim")
    yield from (("veth", host_ifname(pod)), ("ifb", ifb_name(pod)))
    yield from zip(("ip", "ip6"), (each.partition("/")[0] for each in pod.addresses), strict=True)
    nodes = live.nodes()
    for name, cidr in zip(("peer", "peer6"), nodes["node2"]["spec"]["podCIDRs"], strict=True):
        yield name, cidr
        yield name.replace("peer", "vtep"), cidr.partition("/")[0]
    mine, mine6 = nodes["node1"]["spec"]["podCIDRs"]
    yield "own", mine.replace("/24", "/32")
    yield "gateway", mine.replace(".0/", ".1/")
    yield "gateway6", mine6.replace("::/", "::1/")
    fdb = live.run("node1", "bridge fdb show").splitlines()
    yield "vtep_mac", next((line.split()[0] for line in fdb if "podnet.1" in line and "192.168.77.12" in line), "")


def cases(*tables: str) -> list[object]:
    lines = (line.partition(": ") for table in tables for line in table.splitlines())
    return [pytest.param(command, id=name) for name, _, command in lines]


def disturb(live: LiveLab, command: str) -> None:
    """The agent may repair one half of a line while the other is still to come, unless it stands still meanwhile."""
    if not command.startswith(STILL):
        live.run("node1", ["sh", "-ec", command])
        return
    before = live.dump("node1")
    with live.frozen("agent-node1"):
        live.run("node1", ["sh", "-ec", command.removeprefix(STILL)])
        assert difference(before, live.dump("node1")), "nothing was changed"


def repairs(site: Site, command: str) -> None:
    live, pod = site.live, site.live.place("victim")
    inside, drifts = live.dump("default/victim"), live.metric("node1", "podnet_drift_events_total")
    with live.repaired("node1", SECONDS):
        disturb(live, command.format(**site.words))
    until(lambda: live.metric("node1", "podnet_drift_events_total") > drifts, "the agent counts a drift", 0.5)
    assert difference(inside, live.dump("default/victim")) == []
    assert live.place("victim") == pod
    until(lambda: live.settled("node1"), "the kernel is as it should be", 2)


@pytest.mark.xdist_group("bridge")
@pytest.mark.parametrize("command", cases(BOTH, BRIDGE))
def test_drift_on_a_node_with_a_bridge_and_tunnels(bridge: Site, command: str) -> None:
    repairs(bridge, command)


@pytest.mark.xdist_group("ptp")
@pytest.mark.parametrize("command", cases(BOTH, PTP))
def test_drift_on_a_node_with_direct_links_and_routes(ptp: Site, command: str) -> None:
    repairs(ptp, command)


@pytest.mark.xdist_group("bridge")
def test_what_is_not_ours_is_neither_seen_nor_touched(bridge: Site) -> None:
    """Not while the agent runs, nor when it is killed, ends or starts; and no difference is reported."""
    live, untouched = bridge.live, bridge.live.dump("node1")
    with foreign.things(live, "node1", bridge.words["peer"]):
        with_them = live.dump("node1")
        assert len(difference(untouched, with_them)) > 25
        for number in (signal.SIGKILL, signal.SIGTERM):
            live.back("agent-node1", live.kill("agent-node1", number))
            assert live.podnet("plan", "--diff", "--node", "node1") == "no difference\n"
        live.configure(mtu=1400)
        until(lambda: "mtu 1400" in live.run("node1", "ip link show podnet0"), "the MTU follows")
        live.configure(mtu=0)
        until(lambda: live.dump("node1") == with_them, "the kernel is as it was")
    assert difference(untouched, live.dump("node1")) == []
