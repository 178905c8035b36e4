"""A pod's resolv.conf for each dnsPolicy: what upstream's kubelet would write."""

from __future__ import annotations

from typing import Any

import pytest

from podnet.network.dns.resolv_conf import ClusterDns, ResolvConf, cluster_dns, fitted, read, resolv_conf
from podnet.objects.codec import convert
from podnet.objects.core import Pod
from podnet.objects.network import DnsSpec, NetworkSpec, ProxySpec
from podnet.objects.services import Service

NODE = """\
# a comment
nameserver 9.9.9.9 # with a comment
nameserver 8.8.8.8
search gone.example
search home.example. .
options timeout:3 rotate
options timeout:1
; an older comment
"""
HOME = ResolvConf(("9.9.9.9", "8.8.8.8"), ("home.example", "."), ("timeout:1", "rotate"))
DNS4, DNS6 = "10.96.0.10", "fd00:10:96::a"
CLUSTER = ClusterDns((DNS4, DNS6))
OWN = ("demo.svc.cluster.local", "svc.cluster.local", "cluster.local")
BOTH = ("10.244.1.2", "fd00:10:244::2")
SERVICE = convert({"spec": {"clusterIPs": [DNS4, DNS6]}}, Service)


def pod(**spec: Any) -> Pod:
    return convert({"metadata": {"name": "web-1", "namespace": "demo"}, "spec": spec}, Pod)


def made(spec: dict[str, Any], node: ResolvConf = HOME, ips: tuple[str, ...] = BOTH) -> ResolvConf:
    return resolv_conf(pod(**spec), ips, CLUSTER, node)


def test_what_a_node_has() -> None:
    assert read(NODE) == HOME
    assert read("") == ResolvConf()


@pytest.mark.parametrize("spec", [{}, {"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True}])
def test_cluster_first(spec: dict[str, Any]) -> None:
    assert made(spec) == ResolvConf((DNS4, DNS6), (*OWN, "home.example", "."), ("ndots:5",))
    assert made(spec, ResolvConf(searches=("cluster.local",))).searches == OWN


@pytest.mark.parametrize(("ips", "servers"), [((BOTH[0],), (DNS4,)), ((BOTH[1],), (DNS6,)), ((), (DNS4, DNS6))])
def test_servers_are_asked_where_the_pod_has_an_address(ips: tuple[str, ...], servers: tuple[str, ...]) -> None:
    assert made({}, ips=ips).servers == servers


@pytest.mark.parametrize("spec", [{"dnsPolicy": "Default"}, {"dnsPolicy": "ClusterFirst", "hostNetwork": True}])
def test_default_is_the_nodes(spec: dict[str, Any]) -> None:
    assert made(spec) == HOME


def test_cluster_first_without_a_cluster_dns_is_the_nodes() -> None:
    assert resolv_conf(pod(), BOTH, ClusterDns(), HOME) == HOME


CONFIG = {
    "nameservers": ["1.1.1.1", DNS4],
    "searches": ["cluster.local", "x.example"],
    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}, {"name": "rotate", "value": ""}],
}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("None", ResolvConf(("1.1.1.1", DNS4), ("cluster.local", "x.example"), ("ndots:2", "edns0", "rotate"))),
        ("ClusterFirst", ResolvConf((DNS4, DNS6, "1.1.1.1"), (*OWN, "home.example", ".", "x.example"),
                                    ("ndots:2", "edns0", "rotate"))),
        ("Default", ResolvConf(("9.9.9.9", "8.8.8.8", "1.1.1.1", DNS4),
                               ("home.example", ".", "cluster.local", "x.example"),
                               ("timeout:1", "rotate", "ndots:2", "edns0"))),
    ],
)  # fmt: skip
def test_dns_config_is_merged_in(policy: str, expected: ResolvConf) -> None:
    assert made({"dnsPolicy": policy, "dnsConfig": CONFIG}) == expected


def test_none_has_nothing() -> None:
    assert made({"dnsPolicy": "None"}) == ResolvConf()
    assert made({"dnsPolicy": "None"}).text == ""


def test_the_text() -> None:
    assert made({}, ResolvConf(), (BOTH[0],)).text == (
        "nameserver 10.96.0.10\n"
        "search demo.svc.cluster.local svc.cluster.local cluster.local\n"
        "options ndots:5\n"
    )  # fmt: skip


# -- limits


def test_what_fits_stays() -> None:
    assert fitted(HOME) == (HOME, ())


def test_three_servers() -> None:
    found, said = fitted(ResolvConf(("1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4")))
    assert found.servers == ("1.1.1.1", "2.2.2.2", "3.3.3.3")
    (line,) = said
    assert line == (
        "Nameserver limits were exceeded, some nameservers have been omitted, "
        "the applied nameserver line is: 1.1.1.1 2.2.2.2 3.3.3.3"
    )


@pytest.mark.parametrize(
    ("searches", "kept"),
    [
        (tuple(f"{number}.example" for number in range(33)), 32),
        (("a" * 253, "b" * 254, "c"), 2),
        (tuple(f"{number:0200d}" for number in range(10)), 10),
        (tuple(f"{number:0200d}" for number in range(11)), 10),
        (tuple(f"{number:0204d}" for number in range(10)), 9),
    ],
    ids=["33 domains", "no name", "2009 characters", "2210 characters", "2049 characters"],
)
def test_searches_that_resolvers_take(searches: tuple[str, ...], kept: int) -> None:
    found, said = fitted(ResolvConf(searches=searches))
    assert found.searches == tuple(search for search in searches if len(search) < 254)[:kept]
    assert len(" ".join(found.searches)) <= 2048
    assert [line[:18] for line in said] == ["Search Line limits"] * (kept < len(searches))


# -- where the cluster's servers are


def test_the_services_own_addresses_or_the_usual() -> None:
    network = NetworkSpec(dns=DnsSpec(domain="example.org"))
    assert cluster_dns(network, SERVICE, ("10.0.0.10",)) == ClusterDns((DNS4, DNS6), "example.org")
    assert cluster_dns(network, None, ("10.0.0.10",)).servers == ("10.0.0.10",)
    headless = convert({"spec": {"clusterIPs": ["None"]}}, Service)
    assert cluster_dns(network, headless, ("10.0.0.10",)).servers == ("10.0.0.10",)


@pytest.mark.parametrize("mode", ["nftables", "iptables", "userspace", "ipvs"])
def test_pods_are_told_of_the_nodes_cache_only_where_it_has_not_the_services_address(mode: str) -> None:
    found = cluster_dns(NetworkSpec(dns=DnsSpec(node_local=True), proxy=ProxySpec(mode)), SERVICE, ())
    assert found.servers == ((*DnsSpec().local_addresses, DNS4) if mode == "ipvs" else (DNS4, DNS6))
    assert fitted(resolv_conf(pod(), BOTH, found, HOME))[1] == (), "nothing is left out"
