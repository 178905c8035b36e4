"""One check of a network that was made by hand: it passes when healthy, and every fault is found and named."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from podnet.cli import matrix
from podnet.daemons.prober import Prober
from podnet.network.reach import Endpoint, Failure, Report
from tests.lab.handmade import Handmade, handmade

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("handmade")]

HOOKS = {"forward": "filter hook forward priority 0", "postrouting": "nat hook postrouting priority 100"}
TABLE = "table inet fault { chain c { type %s; policy accept; %s; }; }"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handmade]:
    with handmade(tmp_path_factory.mktemp("net")) as made:
        yield made


@pytest.fixture(autouse=True)
def healed(net: Handmade) -> Iterator[None]:
    yield
    for name in ("node1", "node2", "a1", "a2", "b1"):
        net.nft(name, "flush ruleset")
        net.run(name, "ip", "-6", "route", "flush", "cache")  # routers too remember a path's MTU, for ten minutes


def check(net: Handmade, *without: str) -> Report:
    async def once() -> Report:
        with Prober() as prober:
            return await prober.check([each for each in net.endpoints if each.name not in without])

    return asyncio.run(once())


def fault(net: Handmade, node: str, hook: str, rule: str) -> None:
    net.nft(node, TABLE % (HOOKS.get(hook, hook), rule))


def pairs(found: Report) -> set[tuple[str, str, str]]:
    return {(failure.source, failure.target, failure.address) for failure in found.failed}


def only(found: Report, source: str, target: str) -> list[Failure]:
    return [failure for failure in found.failed if (failure.source, failure.target) == (source, target)]


def test_a_healthy_network_passes_quickly(net: Handmade) -> None:
    found = check(net)
    assert found.failed == ()
    # 3 pods and 2 nodes, both families: 18 ordered pairs of names, 3 probes each, and 3 localhosts.
    assert found.probes == 18 * 2 * 3 + 3
    assert len(found.cells) == 18 + 3
    assert found.seconds < 1.0


def test_nothing_of_ours_stays_in_a_pod(net: Handmade) -> None:
    check(net)
    assert net.run("a1", "ss", "-Htuna") == ""


def test_the_callers_own_namespace_is_where_it_was(net: Handmade) -> None:
    before = os.readlink("/proc/self/ns/net")
    check(net)
    assert os.readlink("/proc/self/ns/net") == before


def test_masquerade(net: Handmade) -> None:
    fault(net, "node1", "postrouting", "ip saddr 10.1.1.2 ip daddr 10.1.2.0/24 masquerade")
    found = check(net)
    assert pairs(found) == {("default/a1", "default/b1", "10.1.2.2")}
    assert {failure.probe for failure in found.failed} == {"tcp", "udp", "mtu"}
    assert all("arrives as 10.9.0.1" in failure.reason for failure in found.failed)
    assert all(failure.look.startswith("nft list ruleset and iptables-save on node1") for failure in found.failed)


def test_masquerade_of_a_node(net: Handmade) -> None:
    """A node may use any address of its own, but not another's, and not another port."""
    fault(net, "node2", "postrouting", "ip saddr 10.9.0.1 oifname b1 masquerade")
    found = check(net)
    assert pairs(found) == {("node1", "default/b1", "10.1.2.2")}


def test_destination_translated(net: Handmade) -> None:
    fault(net, "node1", "nat hook prerouting priority -100", "ip saddr 10.1.1.2 ip daddr 10.1.1.3 dnat ip to 10.1.2.2")
    found = check(net)
    assert pairs(found) == {("default/a1", "default/a2", "10.1.1.3")}


def test_dropped_connections(net: Handmade) -> None:
    fault(net, "node1", "forward", "ip saddr 10.1.1.2 ip daddr 10.1.2.2 meta l4proto tcp drop")
    found = check(net)
    assert {(failure.source, failure.probe, failure.reason) for failure in found.failed} == {
        ("default/a1", "tcp", "no answer within 1 s from 10.1.2.2"),
        ("default/b1", "tcp", "no answer within 1 s from 10.1.1.2"),
    }
    assert found.seconds < 1.5


def test_lost_answers_are_told_from_lost_requests(net: Handmade) -> None:
    fault(net, "node2", "forward", "ip saddr 10.1.2.2 ip daddr 10.1.1.2 meta l4proto udp drop")
    found = check(net)
    there, back = only(found, "default/a1", "default/b1"), only(found, "default/b1", "default/a1")
    assert [failure.reason for failure in there] == ["the request arrived, its answer did not"]
    assert [failure.reason for failure in back] == ["no answer within 1 s from 10.1.1.2"]
    assert len(found.failed) == 2


def test_rejected(net: Handmade) -> None:
    fault(net, "node2", "forward", "ip6 daddr fd00:1:2::2 ct state new meta l4proto tcp reject with tcp reset")
    found = check(net)
    assert {failure.reason for failure in found.failed} == {"connection refused on the way to fd00:1:2::2"}
    assert {failure.source for failure in found.failed} == {"default/a1", "default/a2", "node1"}


def test_forbidden_by_the_pods_own_firewall(net: Handmade) -> None:
    fault(net, "a1", "filter hook output priority 0", "ip daddr 10.1.1.3 drop")
    reasons = {failure.probe: failure.reason for failure in only(check(net), "default/a1", "default/a2")}
    assert reasons["udp"] == "forbidden by a local firewall on the way to 10.1.1.3"


def test_no_route(net: Handmade) -> None:
    net.ip("a2", "route del default")
    try:
        found = check(net)
    finally:
        net.ip("a2", "route add default via 169.254.1.1 dev eth0")
    outbound = only(found, "default/a2", "default/b1")
    assert {failure.reason for failure in outbound} == {"network unreachable from node1 to 10.1.2.2"}
    assert {failure.look for failure in outbound} == {"podnet plan --node node1 --diff"}


def test_mtu_black_hole(net: Handmade) -> None:
    """The veth to b1 takes less than both ends believe, and nobody says so."""
    net.ip("node2", "link set b1 mtu 1400")
    fault(net, "node2", "filter hook output priority 0", "icmp type destination-unreachable drop; icmpv6 type 2 drop")
    try:
        found = check(net)
    finally:
        net.ip("node2", "link set b1 mtu 1500")
    assert {failure.probe for failure in found.failed} == {"mtu"}
    remote = only(found, "default/a1", "default/b1")
    assert [failure.address for failure in remote] == ["10.1.2.2", "fd00:1:2::2"]
    assert all(failure.reason.startswith("MTU black hole: 1500 bytes") for failure in remote)


def test_too_big_with_word_of_it(net: Handmade) -> None:
    net.ip("node2", "link set b1 mtu 1400")
    try:
        found = check(net)
    finally:
        net.ip("node2", "link set b1 mtu 1500")
    remote = only(found, "default/a1", "default/b1")
    assert {failure.reason for failure in remote} == {
        "a packet of 1500 bytes, the MTU of both ends, is too big, the path takes 1400"
    }


def test_unequal_ends_are_no_fault(net: Handmade) -> None:
    """A pod with a smaller MTU than its peers is asked for no more than it takes."""
    net.ip("b1", "link set eth0 mtu 1280")
    net.ip("node2", "link set b1 mtu 1280")
    try:
        assert check(net).failed == ()
    finally:
        net.ip("node2", "link set b1 mtu 1500")
        net.ip("b1", "link set eth0 mtu 1500")


def test_localhost_down(net: Handmade) -> None:
    net.ip("a1", "link set lo down")
    try:
        found = check(net)
    finally:
        net.ip("a1", "link set lo up")
    assert "localhost" in {failure.probe for failure in only(found, "default/a1", "default/a1")}


def test_a_container_in_another_namespace_than_its_pod(net: Handmade) -> None:
    """Its localhost is not that of the pod, which a container runtime must never do."""
    stray = subprocess.Popen(["nsenter", f"--net={net.path('a2')}", "sleep", "60"])
    own = subprocess.Popen(["nsenter", f"--net={net.path('a1')}", "sleep", "60"])
    try:
        for process, name in ((stray, "a2"), (own, "a1")):
            wait_until_inside(process.pid, net.path(name))
        good, bad = (f"/proc/{process.pid}/ns/net" for process in (own, stray))
        a1 = next(each for each in net.endpoints if each.name == "default/a1")
        assert localhost(net, a1, good, good) == []
        assert [failure.reason for failure in localhost(net, a1, good, bad)] == [
            "connection refused at the pod's own localhost"
        ]
    finally:
        for process in (stray, own):
            process.kill()
            process.wait()


def wait_until_inside(pid: int, path: str) -> None:
    """Until nsenter has entered; pytest's timeout ends it otherwise."""
    while os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat(path).st_ino:
        pass


def localhost(net: Handmade, pod: Endpoint, *netns: str) -> list[Failure]:
    containers = tuple((f"c{number}", path) for number, path in enumerate(netns))

    async def once() -> Report:
        with Prober() as prober:
            return await prober.check([msgspec.structs.replace(pod, containers=containers)])

    return list(asyncio.run(once()).failed)


def test_a_pod_without_its_address(net: Handmade) -> None:
    net.ip("b1", "addr del 10.1.2.2/32 dev eth0")
    try:
        found = check(net)
    finally:
        net.ip(
            "b1",
            "addr add 10.1.2.2/32 dev eth0",
            "route add 169.254.1.1 dev eth0 scope link",
            "route add default via 169.254.1.1 dev eth0",
        )
    assert [failure.reason for failure in found.failed] == [
        "pod default/b1 does not carry its address 10.1.2.2 fd00:1:2::2"
    ]
    assert ("a1/eth0", "b1/eth0") not in found.cells


def test_the_matrix_shows_where(net: Handmade) -> None:
    fault(net, "node1", "forward", "ip saddr 10.1.1.2 ip daddr 10.1.2.2 drop")
    text = matrix.render(check(net))
    (row,) = (line for line in text.splitlines() if "default/a1 |" in line)
    assert row.split("|")[1:] == ["   ok   ok   ok ", "   ok FAIL"]
    assert "FAIL  default/a1 -> default/b1 10.1.2.2 (tcp, udp): no answer within 1 s" in text
    assert text.splitlines()[-1].startswith("check FAILED: 4 of "), text


def test_without_processes_in_the_pods(net: Handmade, tmp_path: Path) -> None:
    """No program of ours ever runs in a pod's namespace."""
    here = {os.stat(net.path(name)).st_ino for name in ("a1", "a2", "b1")}

    async def once() -> set[int]:
        with Prober() as prober:
            checking = asyncio.create_task(prober.check(net.endpoints))
            seen = set[int]()
            while not checking.done():
                seen |= {_namespace(pid) for pid in os.listdir("/proc") if pid.isdecimal()}
                await asyncio.sleep(0)
            return seen

    assert not here & asyncio.run(once())


def _namespace(pid: str) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0
