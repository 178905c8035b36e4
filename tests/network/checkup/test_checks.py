"""Each check of `podnet doctor`: silent about a healthy node, and about each fault one finding with a way out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from podnet.network.checkup import CHECKS, COMPARISONS, compare, examine
from podnet.network.checkup.finding import RANK, Finding
from podnet.network.checkup.firewall import parse_legacy, parse_nft
from podnet.network.checkup.survey import Agent, Chain, ClusterFacts, CniFile, Link, Port, Route, Survey
from podnet.network.view import NodeInfo

change = msgspec.structs.replace

AGENT = Agent(backend={"type": "vxlan"}, mtu=1450, uplink="eth0", pod_cidrs=("10.244.1.0/24", "fd44:1::/64"))
NODES = (NodeInfo("a", ("10.0.0.1",), ("10.244.1.0/24",)), NodeInfo("b", ("10.0.0.2",), ("10.244.2.0/24",)))
LINKS = (
    Link("lo", mtu=65536, addresses=("127.0.0.1/8", "::1/128")),
    Link("eth0", mtu=1520, addresses=("10.0.0.1/24", "fe80::1/64"), driver="virtio_net"),
    Link("podnet.1", "vxlan", mtu=1450, addresses=("10.244.1.0/32",), vni=1, port=8472, checksum_offload=True),
    Link("podnet0", "bridge", mtu=1450, addresses=("10.244.1.1/24",)),
)
HEALTHY = Survey(
    node="a",
    agent=AGENT,
    cluster=ClusterFacts(pod_cidrs=("10.244.0.0/16", "fd44::/48"), service_cidrs=("10.96.0.0/12",), nodes=NODES),
    kernel=(6, 1),
    links=LINKS,
    routes=(
        Route("0.0.0.0/0", "eth0"),
        Route("::/0", "eth0"),
        Route("10.244.2.0/24", "podnet.1", ours=True),
        Route("10.244.1.0/24", "podnet0"),
        Route("10.0.0.0/8", "tun0"),
    ),
    ports=(Port(8472), Port(68, "dhclient")),
    sysctls={
        "net/ipv4/ip_forward": "1",
        "net/ipv6/conf/all/forwarding": "1",
        "net/ipv4/conf/all/rp_filter": "0",
        "net/ipv4/conf/eth0/rp_filter": "2",
        "net/ipv6/conf/eth0/accept_ra": "1",
        "net/netfilter/nf_conntrack_max": "1000",
        "net/ipv4/neigh/default/gc_thresh3": "1024",
    },
    flows=100,
    neighbours=10,
    resolvers=("10.0.0.53", "fe80::1%eth0"),
    conflists=(CniFile("10-podnet.conflist", ("podnet-cni",)), CniFile("20-other.conf", ("bridge",))),
)


def found(survey: Survey, check: str) -> list[Finding]:
    return list(CHECKS[check](survey))


def one(survey: Survey, check: str, severity: str, *words: str) -> Finding:
    """The check finds exactly this, and no other check of a healthy node changes its mind."""
    (finding,) = found(survey, check)
    assert finding.severity == severity
    for word in words:
        assert word in f"{finding.what} | {finding.why} | {finding.fix}"
    assert finding.why
    assert finding.fix
    return finding


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


def agent(**more: Any) -> Survey:
    return change(HEALTHY, agent=change(AGENT, **more))


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


def sysctl(name: str, value: str) -> Survey:
    return change(HEALTHY, sysctls={**HEALTHY.sysctls, name: value})


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


DROP = Chain("ip", "filter", "FORWARD", "forward", "drop")


def test_bridge_filter() -> None:
    survey = change(sysctl("net/bridge/bridge-nf-call-iptables", "1"), chains=(DROP,))
    one(survey, "bridge filter", "info", "dropped by the nft chain ip filter FORWARD")
    assert found(sysctl("net/bridge/bridge-nf-call-iptables", "1"), "bridge filter") == []
    open_ = change(DROP, rules=("ip saddr 10.244.0.0/16 accept",))
    assert found(change(survey, chains=(open_,)), "bridge filter") == []


def test_bridged_pods_without_a_bridge_filter() -> None:
    bridged = change(HEALTHY, links=(*HEALTHY.links, Link("podnet12", master="podnet0")))
    for proxy, expected in (("nftables", 1), ("none", 0)):
        survey = change(bridged, agent=change(bridged.agent, proxy=proxy))
        assert len(found(survey, "bridge filter")) == expected
        assert (
            found(
                change(survey, sysctls={**survey.sysctls, "net/bridge/bridge-nf-call-iptables": "1"}), "bridge filter"
            )
            == []
        )


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


# -- firewalls

DOCKER = """\
# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter {
	chain DOCKER-USER {
		counter packets 1 bytes 2 return
	}

	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		counter packets 5 bytes 300 jump DOCKER-USER
		oifname "docker0" ct state related,established counter packets 0 bytes 0 accept
		iifname "docker0" oifname != "docker0" counter packets 0 bytes 0 accept
	}
}
table inet podnet-masquerade {
	set nodes-ip {
		type ipv4_addr
		elements = { 10.0.0.1, 10.0.0.2 }
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.244.1.0/24 masquerade
	}
}
"""
FIREWALLD = """\
table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		jump filter_FORWARD_POLICIES
		reject with icmpx admin-prohibited
	}

	chain filter_FORWARD_POLICIES {
		iifname "eth0" goto filter_FWD_public
		ip saddr { 192.168.0.0/16,
			172.16.0.0/12 } accept
	}

	chain filter_FWD_public {
		reject with icmpx admin-prohibited
	}
}
"""
LEGACY = """\
# Generated by iptables-save v1.8.9
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [3:180]
:ufw-before-forward - [0:0]
-A FORWARD -m comment --comment "who knows" -j ufw-before-forward
-A ufw-before-forward -s 10.0.0.0/8 -p tcp -m comment --comment x -j ACCEPT
COMMIT
"""


def test_text_of_nft() -> None:
    assert parse_nft(DOCKER) == (
        Chain("ip", "filter", "DOCKER-USER", "", "", ("return",)),
        Chain(
            "ip",
            "filter",
            "FORWARD",
            "forward",
            "drop",
            (
                "jump DOCKER-USER",
                'oifname "docker0" ct state related,established accept',
                'iifname "docker0" oifname != "docker0" accept',
            ),
        ),
    )
    names = [(chain.name, chain.hook, chain.policy, len(chain.rules)) for chain in parse_nft(FIREWALLD)]
    assert names == [
        ("filter_FORWARD", "forward", "accept", 3),
        ("filter_FORWARD_POLICIES", "", "", 2),
        ("filter_FWD_public", "", "", 1),
    ]
    assert parse_nft("") == ()


KUBE = """\
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/k cluster IP" -j KUBE-SVC-NPX46M4PTMTKRN6Y
"""
NFT_KUBE = """\
table ip kube-proxy {
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
	}
	chain nat-output {
		type nat hook output priority -100; policy accept;
		jump services
	}
}
"""


@pytest.mark.parametrize(
    ("chains", "what"),
    [
        (parse_legacy(KUBE, "ip", "nat"), "the iptables-legacy chain ip nat KUBE-SERVICES has 1 rules"),
        (
            (Chain("ip6", "nat", "KUBE-SERVICES", rules=("jump KUBE-SVC-A", "jump KUBE-SVC-B")),),
            "the iptables-nft chain ip6 nat KUBE-SERVICES has 2 rules",
        ),
        (parse_nft(NFT_KUBE), "the nft table ip kube-proxy"),
    ],
    ids=["legacy", "iptables", "nftables"],
)
def test_another_proxy(chains: tuple[Chain, ...], what: str) -> None:
    survey = change(HEALTHY, chains=chains)
    one(survey, "other proxies", "warning", "another proxy is at work", what, "podnet does not fight it", "--cleanup")
    assert found(change(survey, agent=change(AGENT, proxy="none")), "other proxies") == []


def test_kube_proxys_chains_that_are_ours_or_empty() -> None:
    ours = (*parse_legacy(KUBE, "ip", "nat"), Chain("ip", "nat", "PODNET-PROXY", legacy=True))
    assert found(change(HEALTHY, chains=ours), "other proxies") == []
    assert found(change(HEALTHY, chains=(Chain("ip", "nat", "KUBE-SERVICES"),)), "other proxies") == []
    beside = change(HEALTHY, chains=(*ours, Chain("ip", "nat", "KUBE-SERVICES", rules=("jump KUBE-SVC-A",))))
    one(beside, "other proxies", "warning", "the iptables-nft chain ip nat KUBE-SERVICES")


def test_text_of_legacy_iptables() -> None:
    assert parse_legacy(LEGACY, "ip") == (
        Chain("ip", "filter", "INPUT", "input", "accept", (), legacy=True),
        Chain("ip", "filter", "FORWARD", "forward", "drop", ("jump ufw-before-forward",), legacy=True),
        Chain("ip", "filter", "ufw-before-forward", "", "", ("-s 10.0.0.0/8 -p tcp accept",), legacy=True),
    )


@pytest.mark.parametrize(
    ("chains", "where", "fix"),
    [
        (parse_nft(DOCKER), "nft chain ip filter FORWARD", "iptables -I DOCKER-USER -s 10.244.0.0/16 -j ACCEPT"),
        (parse_nft(FIREWALLD), "nft chain inet firewalld filter_FORWARD", "firewall-cmd --permanent --zone=trusted"),
        (parse_legacy(LEGACY, "ip"), "iptables-legacy chain ip filter FORWARD", "ufw route allow from 10.244.0.0/16"),
        (
            parse_legacy(":FORWARD DROP [0:0]", "ip6"),
            "iptables-legacy chain ip6 filter FORWARD",
            "ip6tables-legacy -I FORWARD -s fd44::/48 -j ACCEPT",
        ),
        (
            parse_nft("table ip6 mine {\nchain f {\ntype filter hook forward priority 0; policy drop;\n}\n}"),
            "nft chain ip6 mine f",
            "nft insert rule ip6 mine f ip6 saddr fd44::/48 accept",
        ),
    ],
    ids=["docker", "firewalld", "ufw", "legacy", "nft"],
)
def test_foreign_firewalls(chains: tuple[Chain, ...], where: str, fix: str) -> None:
    one(change(HEALTHY, chains=chains), "forward firewall", "error", where, fix)


@pytest.mark.parametrize(
    "rule",
    [
        "ip saddr 10.244.0.0/16 counter packets 0 bytes 0 accept",
        'iifname "podnet*" accept',
        "ip daddr 10.244.1.0/24 accept",
        "counter packets 7 bytes 8 accept",
        "jump DOCKER-USER",
    ],
)
def test_a_firewall_that_lets_pods_through(rule: str) -> None:
    text = DOCKER.replace(
        "counter packets 1 bytes 2 return", "ip saddr 10.244.0.0/16 accept" if "jump" in rule else "return"
    )
    text = text.replace("counter packets 5 bytes 300 jump DOCKER-USER", rule)
    assert found(change(HEALTHY, chains=parse_nft(text)), "forward firewall") == []


def test_chains_that_jump_in_circles() -> None:
    text = (
        "table ip x {\nchain f {\ntype filter hook forward priority 0; policy drop;\njump a\n}\nchain a {\njump f\n}\n}"
    )
    one(change(HEALTHY, chains=parse_nft(text)), "forward firewall", "error", "nft chain ip x f")


INPUT = "table inet filter {\nchain input {\ntype filter hook input priority filter; policy drop;\n%s\n}\n}"


def test_tunnel_packets_are_dropped() -> None:
    survey = change(HEALTHY, chains=parse_nft(INPUT % "tcp dport 22 accept"))
    one(survey, "input firewall", "warning", "UDP port 8472", "nft insert rule inet filter input udp dport 8472 accept")
    assert found(agent(backend={"type": "host-gw"}), "input firewall") == []
    legacy = change(HEALTHY, chains=parse_legacy(":INPUT DROP [0:0]", "ip"))
    one(legacy, "input firewall", "warning", "iptables-legacy -I INPUT -p udp --dport 8472 -j ACCEPT")


@pytest.mark.parametrize("rule", ["udp dport 8472 accept", "udp dport { 53, 8472 } accept", "accept"])
def test_tunnel_packets_are_accepted(rule: str) -> None:
    assert found(change(HEALTHY, chains=parse_nft(INPUT % rule)), "input firewall") == []


def test_both_variants_of_iptables() -> None:
    survey = change(HEALTHY, chains=(*parse_legacy(LEGACY, "ip"), Chain("ip", "nat", "X", rules=("return",))))
    one(survey, "mixed iptables", "warning", "legacy variant and in the nft variant")
    assert found(change(HEALTHY, chains=parse_legacy(LEGACY, "ip")), "mixed iptables") == []
