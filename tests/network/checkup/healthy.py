"""A node with which nothing is wrong, to be put out of order by tests, and what the checks then find."""

from __future__ import annotations

from typing import Any

import msgspec

from podnet.network.checkup import CHECKS
from podnet.network.checkup.finding import Finding
from podnet.network.checkup.survey import Agent, ClusterFacts, CniFile, Link, Port, Route, Survey
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


def sysctl(name: str, value: str) -> Survey:
    return change(HEALTHY, sysctls={**HEALTHY.sysctls, name: value})


def agent(**more: Any) -> Survey:
    return change(HEALTHY, agent=change(AGENT, **more))
