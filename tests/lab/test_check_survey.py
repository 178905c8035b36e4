"""What the surveyor sees in a namespace that is known: links, routes, firewalls, ports, parameters, files."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from podnet.daemons import surveyor
from podnet.daemons.surveyor import Site
from podnet.kernel import netns
from podnet.network.checkup import examine
from podnet.network.checkup.survey import Agent, ClusterFacts, Port, Route, Survey
from tests.lab.handmade import Handmade

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("handmade")]

AGENT = Agent(backend={"type": "vxlan"}, mtu=1450, uplink="up0", pod_cidrs=("10.244.1.0/24",))


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Handmade]:
    """A node with an uplink, a tunnel of podnet's, and nothing else."""
    made = Handmade(tmp_path)
    made.folder.joinpath("conf").mkdir()
    made.folder.joinpath("conf/10-podnet.conflist").write_text('{"plugins": [{"type": "podnet-cni"}]}')
    made.add("node")
    made.ip(
        "node",
        "link add up0 type veth peer name far",
        "link set up0 up mtu 1500",
        "link set far up",
        "addr add 10.0.0.1/24 dev up0",
        "link add podnet.1 type vxlan id 1 local 10.0.0.1 dev up0 dstport 8472 nolearning",
        "link set podnet.1 up mtu 1450",
        "route add 10.244.2.0/24 dev podnet.1 proto 112",
        "route add 10.50.0.0/16 via 10.0.0.9",
    )
    made.sysctl("node", "net/ipv4/ip_forward", "1")
    try:
        yield made
    finally:
        netns.remove(made.path("node"))


def look(net: Handmade, agent: Agent = AGENT) -> Survey:
    site = Site("node1", net.path("node"), str(net.folder / "conf"))
    return surveyor.survey(site, agent, ClusterFacts(pod_cidrs=("10.244.0.0/16",)), (), 0)


def errors(found: Survey) -> dict[str, str]:
    return {each.check: each.what for each in examine(found) if each.severity in ("error", "warning")}


def test_a_healthy_node(net: Handmade) -> None:
    found = look(net)
    assert errors(found) == {}
    assert found.uplink is not None
    assert (found.uplink.mtu, found.uplink.addresses[0], found.uplink.kind) == (1500, "10.0.0.1/24", "veth")
    tunnel = found.link("podnet.1")
    assert tunnel is not None
    assert (tunnel.kind, tunnel.vni, tunnel.port, tunnel.mtu, tunnel.checksum_offload) == ("vxlan", 1, 8472, 1450, True)
    assert Route("10.244.2.0/24", "podnet.1", ours=True) in found.routes
    assert Route("10.50.0.0/16", "up0") in found.routes
    assert found.ports == (Port(8472),), "the kernel's own socket of the tunnel"
    assert found.sysctls["net/ipv4/ip_forward"] == "1"
    assert found.number("net/ipv4/conf/up0/rp_filter") is not None
    assert found.conflists[0].types == ("podnet-cni",)
    assert found.missing == {}
    assert found.kernel > (3, 0)
    assert found.chains == ()


def test_the_survey_changes_nothing(net: Handmade) -> None:
    commands = (["ip", "-d", "addr"], ["ip", "route", "show", "table", "all"], ["nft", "list", "ruleset"])
    before = [net.run("node", *command) for command in commands]
    here = os.readlink("/proc/self/ns/net")
    look(net)
    assert [net.run("node", *command) for command in commands] == before
    assert net.run("node", "cat", "/proc/net/ip_tables_names") == "", "asking iptables-legacy would have made its table"
    assert os.readlink("/proc/self/ns/net") == here


def test_forwarding_and_reverse_path_filter(net: Handmade) -> None:
    net.sysctl("node", "net/ipv4/ip_forward", "0")
    net.sysctl("node", "net/ipv4/conf/up0/rp_filter", "1")
    found = errors(look(net))
    assert found["forwarding"] == "net/ipv4/ip_forward is 0"
    assert found["reverse path filter"].startswith("rp_filter is strict on up0")


def test_a_firewall_of_iptables_legacy(net: Handmade) -> None:
    net.run("node", "iptables-legacy", "-P", "FORWARD", "DROP")
    assert "iptables-legacy chain ip filter FORWARD" in errors(look(net))["forward firewall"]
    net.run("node", "iptables-legacy", "-I", "FORWARD", "-s", "10.244.0.0/16", "-j", "ACCEPT")
    assert errors(look(net)) == {}


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_another_proxy_by_iptables(net: Handmade, variant: str) -> None:
    for words in ("-N KUBE-SERVICES", "-A KUBE-SERVICES -d 10.96.0.1 -j RETURN", "-A PREROUTING -j KUBE-SERVICES"):
        net.run("node", f"iptables-{variant}", "-t", "nat", *words.split())
    (finding,) = (each for each in examine(look(net)) if each.check == "other proxies")
    assert finding.severity == "warning"
    assert f"the iptables-{variant} chain ip nat KUBE-SERVICES has 1 rules" in finding.what
    net.run("node", f"iptables-{variant}", "-t", "nat", "-N", "PODNET-PROXY")
    (finding,) = (each for each in examine(look(net)) if each.check == "other proxies")
    assert finding.severity == "ok"


def test_a_firewall_of_iptables_nft_and_its_fix(net: Handmade) -> None:
    net.run("node", "iptables-nft", "-P", "FORWARD", "DROP")
    (finding,) = (each for each in examine(look(net)) if each.check == "forward firewall")
    assert finding.severity == "error"
    for command in finding.fix.split(" && "):
        net.run("node", *command.split())
    assert errors(look(net)) == {}


def test_a_firewall_of_nft_and_its_fix(net: Handmade) -> None:
    net.nft("node", "table inet mine { chain f { type filter hook forward priority 0; policy drop; }; }")
    (finding,) = (each for each in examine(look(net)) if each.check == "forward firewall")
    for command in finding.fix.split(" && "):
        net.run("node", *command.split())
    assert errors(look(net)) == {}


def test_tunnel_port_taken_by_a_program(net: Handmade) -> None:
    net.ip("node", "link del podnet.1")
    with netns.socket_in(net.path("node"), socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 8472))
        found = errors(look(net))
    assert found["tunnel port"] == f"UDP port 8472 is taken by {Path('/proc/self/comm').read_text().strip()}"


def test_a_vxlan_device_of_somebody_else(net: Handmade) -> None:
    net.ip(
        "node", "link del podnet.1", "link add flannel.1 type vxlan id 1 dev up0 dstport 8472", "link set flannel.1 up"
    )
    assert "flannel.1 is a VXLAN device of somebody else" in errors(look(net))["tunnel port"]


def test_mtu(net: Handmade) -> None:
    net.ip("node", "link set up0 mtu 1400")
    assert "up0 takes 1400" in errors(look(net))["MTU"]


def test_a_route_inside_the_pods_range(net: Handmade) -> None:
    net.ip("node", "route add 10.244.7.0/24 via 10.0.0.9")
    assert errors(look(net))["address ranges"].startswith("the route 10.244.7.0/24 dev up0")


def test_conflists(net: Handmade) -> None:
    conf = net.folder / "conf"
    conf.joinpath("05-bridge.conf").write_text('{"type": "bridge"}')
    conf.joinpath("README").write_text("not a configuration")
    assert errors(look(net))["CNI configuration"] == "05-bridge.conf (bridge) comes before 10-podnet.conflist"
    conf.joinpath("05-bridge.conf").write_text("{")
    assert "05-bridge.conf can't be read" in errors(look(net))["CNI configuration"]
    conf.joinpath("05-bridge.conf").unlink()
    conf.joinpath("10-podnet.conflist").unlink()
    assert errors(look(net))["CNI configuration"] == "there is no CNI configuration of podnet"


def test_a_namespace_that_is_gone(net: Handmade) -> None:
    with pytest.raises(netns.NoNamespace):
        surveyor.survey(Site("x", "/nowhere", "/nowhere"), AGENT, ClusterFacts(), (), 0)


def test_missing_tools_leave_gaps_only(net: Handmade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = look(net)
    assert (found.links, found.routes, found.chains) == ((), (), ())
    assert errors(found) == {}


def test_side_by_side(net: Handmade) -> None:
    """Threads look into different namespaces at the same time."""

    async def both() -> tuple[Survey, Survey]:
        other = asyncio.to_thread(surveyor.survey, Site("here", "", "/nowhere"), Agent(), ClusterFacts(), (), 0)
        return await asyncio.gather(asyncio.to_thread(look, net), other)

    one, other = asyncio.run(both())
    assert one.link("podnet.1") is not None
    assert other.link("podnet.1") is None


# -- texts


@pytest.mark.parametrize(
    ("release", "kernel"), [("6.1.0-18-amd64", (6, 1)), ("5.4", (5, 4)), ("odd", (0, 0)), ("6.x", (0, 0))]
)
def test_kernel_release(release: str, kernel: tuple[int, int]) -> None:
    assert surveyor._kernel(release) == kernel


def test_resolvers() -> None:
    text = "# x\nsearch a.b\nnameserver 10.0.0.53\nnameserver\nnameserver fe80::1%eth0\n"
    assert list(surveyor._resolvers(text)) == ["10.0.0.53", "fe80::1%eth0"]
