"""Each check of `podnet doctor`: silent about a healthy node, and about each fault one finding with a way out."""

from __future__ import annotations

from typing import Any

import pytest

from podnet.network.checkup import CHECKS, COMPARISONS, compare, examine
from podnet.network.checkup.finding import RANK
from podnet.network.checkup.survey import ClusterFacts, CniFile, Link, Port, Route, Survey
from podnet.network.view import NodeInfo
from tests.network.checkup.healthy import AGENT, HEALTHY, LINKS, NODES, agent, change, found, one, sysctl


@pytest.mark.parametrize("check", list(CHECKS))
def test_a_healthy_node_has_no_findings(check: str) -> None:
    assert found(HEALTHY, check) == []


def test_an_empty_survey_accuses_nobody() -> None:
    """What could not be gathered is no fault; that nobody uses podnet as CNI is."""
    findings = {finding.check: finding.severity for finding in examine(Survey("a")) if finding.severity != "ok"}
    assert findings == {"CNI configuration": "error"}


def test_findings_say_where_they_are_from() -> None:
    findings = examine(HEALTHY)
    assert [finding.check for finding in findings] == list(CHECKS)
    assert {(finding.severity, finding.node) for finding in findings} == {("ok", "a")}
    assert [finding.check for finding in compare([HEALTHY])] == list(COMPARISONS)
    assert {finding.severity for finding in compare([HEALTHY])} == {"ok"}
    assert sorted(RANK, key=RANK.__getitem__) == ["error", "warning", "info", "ok"]


# -- programs


def test_agent_away() -> None:
    one(agent(away="no agent runs at /run/podnet/agent.sock"), "agent", "error", "no agent runs", "podnet agent")


def test_agent_not_ready() -> None:
    one(agent(reason="Node/a has no podCIDR yet"), "agent", "error", "not ready: Node/a has no podCIDR yet")


def test_agent_with_work_undone() -> None:
    one(agent(undone=("cannot add route x",)), "agent", "error", "cannot add route x", "podnet plan --diff")


def test_api_away() -> None:
    survey = change(HEALTHY, cluster=ClusterFacts(away="connection refused"))
    one(survey, "API", "warning", "connection refused", "kubeconfig")


def test_no_conflist_though_ready() -> None:
    one(change(HEALTHY, conflists=()), "CNI configuration", "error", "no CNI configuration of podnet", "--conf-dir")


def test_no_conflist_while_not_ready_is_right() -> None:
    assert found(change(agent(reason="starting"), conflists=()), "CNI configuration") == []


def test_conflist_without_agent() -> None:
    one(agent(away="none"), "CNI configuration", "warning", "no agent answers", "error 11", "podnet clean")


def test_another_conflist_before_ours() -> None:
    files = (*HEALTHY.conflists, CniFile("05-cilium.conflist", ("cilium-cni",)))
    one(change(HEALTHY, conflists=files), "CNI configuration", "error", "05-cilium.conflist (cilium-cni) comes before")


def test_a_broken_conflist() -> None:
    files = (*HEALTHY.conflists, CniFile("00-x.conf", fault="not JSON"))
    one(change(HEALTHY, conflists=files), "CNI configuration", "warning", "00-x.conf can't be read: not JSON")


def test_network_manager_took_our_links() -> None:
    links = (*LINKS, Link("podnet5", "veth", managed=True), Link("eth1", managed=True))
    finding = one(
        change(HEALTHY, links=links), "other network managers", "error", "manages podnet5", "unmanaged-devices"
    )
    assert "eth1" not in finding.what


def test_network_manager_nearby() -> None:
    survey = change(HEALTHY, programs=frozenset({"NetworkManager"}))
    one(survey, "other network managers", "warning", "NetworkManager runs here")


def test_networkd_that_removes_routes() -> None:
    survey = change(HEALTHY, programs=frozenset({"systemd-networkd"}), keeps_foreign_routes=False)
    one(survey, "other network managers", "warning", "ManageForeignRoutes=no")
    assert found(change(survey, keeps_foreign_routes=True), "other network managers") == []


# -- host


def test_missing_feature() -> None:
    survey = change(HEALTHY, missing={"vxlan": "Operation not supported"})
    one(survey, "kernel features", "error", "lacks vxlan: Operation not supported")


@pytest.mark.parametrize("name", ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"])
def test_forwarding_off(name: str) -> None:
    one(sysctl(name, "0"), "forwarding", "error", f"{name} is 0")


def test_forwarding_of_a_family_without_pods_does_not_matter() -> None:
    survey = sysctl("net/ipv6/conf/all/forwarding", "0")
    assert found(change(survey, agent=change(AGENT, pod_cidrs=("10.244.1.0/24",))), "forwarding") == []


@pytest.mark.parametrize(
    ("name", "strict"),
    [("all", ["podnet.1"]), ("eth0", ["eth0"]), ("podnet.1", ["podnet.1"]), ("podnet0", []), ("lo", [])],
)
def test_strict_reverse_path_filter(name: str, strict: list[str]) -> None:
    """The larger of `all` and the link's own: eth0 has 2 of its own, which is loose."""
    found_on = found(sysctl(f"net/ipv4/conf/{name}/rp_filter", "1"), "reverse path filter")
    assert [finding.what.split()[4] for finding in found_on] == strict
    assert all(finding.severity == "error" and "sysctl -w" in finding.fix for finding in found_on)


def test_strict_reverse_path_filter_does_not_matter_without_a_tunnel() -> None:
    survey = sysctl("net/ipv4/conf/all/rp_filter", "1")
    assert found(change(survey, agent=change(AGENT, backend={"type": "host-gw"})), "reverse path filter") == []


@pytest.mark.parametrize(("flows", "severity"), [(749, None), (750, "warning"), (900, "error"), (1000, "error")])
def test_connection_table(flows: int, severity: str | None) -> None:
    findings = found(change(HEALTHY, flows=flows), "connection tracking")
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    assert all("nf_conntrack_max=2000" in finding.fix for finding in findings)


@pytest.mark.parametrize(("present", "pods", "severity"), [(768, 0, None), (769, 0, "warning"), (0, 512, "error")])
def test_neighbour_table(present: int, pods: int, severity: str | None) -> None:
    findings = found(change(HEALTHY, neighbours=present, attachments=pods), "neighbour table")
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_router_advertisements() -> None:
    by_route = change(HEALTHY, routes=(Route("::/0", "eth0", advertised=True),))
    by_address = change(HEALTHY, links=(change(LINKS[1], advertised=True),))
    for survey in (by_route, by_address):
        one(survey, "router advertisements", "warning", "eth0 lives on router advertisements", "accept_ra=2")
        for name, value in (("net/ipv6/conf/eth0/accept_ra", "2"), ("net/ipv6/conf/all/forwarding", "0")):
            silent = change(survey, sysctls={**survey.sysctls, name: value})
            assert found(silent, "router advertisements") == []
    elsewhere = change(HEALTHY, routes=(Route("::/0", "eth9", advertised=True),))
    assert found(elsewhere, "router advertisements") == []


# -- paths


def test_tunnel_port_taken_by_a_program() -> None:
    survey = change(HEALTHY, ports=(Port(8472, "dnsmasq"),))
    one(survey, "tunnel port", "error", "UDP port 8472 is taken by dnsmasq", "spec.backend.port")


def test_tunnel_port_of_ones_own_choice() -> None:
    survey = change(agent(backend={"type": "vxlan", "port": 4789}), ports=(Port(4789, "x"), Port(8472, "y")))
    one(survey, "tunnel port", "error", "UDP port 4789 is taken by x")


@pytest.mark.parametrize(("vni", "severity"), [(1, "error"), (4096, "info")])
def test_another_vxlan_device(vni: int, severity: str) -> None:
    survey = change(HEALTHY, links=(*LINKS, Link("flannel.1", "vxlan", vni=vni, port=8472)))
    one(survey, "tunnel port", severity, f"flannel.1 is a VXLAN device of somebody else on UDP port 8472, VNI {vni}")


def test_tunnel_port_does_not_matter_without_a_tunnel() -> None:
    survey = change(agent(backend={"type": "host-gw"}), ports=(Port(8472, "dnsmasq"),))
    assert found(survey, "tunnel port") == []


def test_pods_send_too_much() -> None:
    survey = agent(mtu=1500)
    finding = one(survey, "MTU", "error", "vxlan adds 70, eth0 takes 1520", "at most 1450")
    assert "pods may send 1500 bytes" in finding.what


def test_pods_could_send_more() -> None:
    one(agent(mtu=1400), "MTU", "info", "pods may send 1400 bytes where 1450 would fit")


def test_too_little_for_ipv6() -> None:
    survey = change(agent(mtu=1230), links=(change(LINKS[1], mtu=1300),))
    one(survey, "MTU", "error", "only 1230 bytes are left", "1280")


def test_an_unknown_backend_or_option_is_not_judged() -> None:
    for backend in ({"type": "wireguard"}, {"type": "vxlan", "port": "x"}, {}):
        survey = agent(backend=backend, mtu=9000)
        assert found(survey, "MTU") == found(survey, "tunnel port") == []


@pytest.mark.parametrize(
    ("kernel", "driver", "word"),
    [((5, 4), "virtio_net", "Linux 5.4"), ((6, 1), "vmxnet3", "eth0 is a vmxnet3"), ((6, 1), "virtio_net", None)],
)
def test_checksum_offload(kernel: tuple[int, int], driver: str, word: str | None) -> None:
    survey = change(HEALTHY, kernel=kernel, links=(change(LINKS[1], driver=driver), LINKS[2]))
    if word is None:
        assert found(survey, "checksum offload") == []
        return
    one(survey, "checksum offload", "warning", word, "ethtool -K podnet.1 tx-checksum-ip-generic off")


def test_checksum_offload_that_is_off() -> None:
    survey = change(HEALTHY, links=(change(LINKS[2], checksum_offload=False),))
    one(survey, "checksum offload", "info", "podnet.1 is off")


def test_unequal_mtu() -> None:
    other = change(HEALTHY, node="b", links=(change(LINKS[1], mtu=1400),))
    (finding,) = COMPARISONS["equal MTU"]([HEALTHY, other])
    assert finding.severity == "warning"
    assert finding.what == "uplinks differ in MTU: a 1520, b 1400"
    assert "smallest: 1400" in finding.fix
    assert list(COMPARISONS["equal MTU"]([HEALTHY, HEALTHY])) == []


# -- addresses


@pytest.mark.parametrize(
    ("cluster", "what"),
    [
        ({"pod_cidrs": ("10.0.0.0/16",)}, "the subnet on eth0 10.0.0.0/24"),
        ({"pod_cidrs": ("10.100.0.0/16",)}, "the Services' range 10.96.0.0/12"),
    ],
)
def test_overlapping_ranges(cluster: dict[str, Any], what: str) -> None:
    survey = change(HEALTHY, cluster=change(HEALTHY.cluster, **cluster))
    one(survey, "address ranges", "error", f"the pods' range {cluster['pod_cidrs'][0]} overlaps {what}")


def test_a_route_of_somebody_else_inside_the_pods_range() -> None:
    survey = change(HEALTHY, routes=(*HEALTHY.routes, Route("10.244.3.0/24", "tun0")))
    one(survey, "address ranges", "error", "the route 10.244.3.0/24 dev tun0", "ip route del 10.244.3.0/24 dev tun0")


def test_a_node_s_own_subnet_is_not_to_be_deleted() -> None:
    """The overlap is the finding; the route of the subnet belongs to it, and the node needs it."""
    routes = (*HEALTHY.routes, Route("10.0.0.0/24", "eth0"))
    survey = change(HEALTHY, cluster=change(HEALTHY.cluster, pod_cidrs=("10.0.0.0/16",)), routes=routes)
    assert "spec.podCIDRs" in one(survey, "address ranges", "error", "the subnet on eth0 10.0.0.0/24").fix


def test_a_name_server_inside_the_pods_range() -> None:
    survey = change(HEALTHY, resolvers=("10.244.0.10",))
    one(survey, "name servers", "warning", "10.244.0.10 lies in the pods' range 10.244.0.0/16")


def test_mistakes_in_the_cluster_are_told_once() -> None:
    survey = change(HEALTHY, problems=("Node/b: address 10.0.0.1 is that of node a too",))
    (finding,) = COMPARISONS["cluster objects"]([survey, survey])
    assert (finding.severity, finding.what) == ("error", "Node/b: address 10.0.0.1 is that of node a too")


def test_a_node_range_outside_of_the_clusters() -> None:
    nodes = (*NODES, NodeInfo("c", ("10.0.0.3",), ("172.20.1.0/24",)))
    survey = change(HEALTHY, cluster=change(HEALTHY.cluster, nodes=nodes))
    (finding,) = COMPARISONS["node ranges"]([survey])
    assert finding.what == "172.20.1.0/24 of c lies outside of the pods' range"
