"""What the node cache adds to a node, when it falls, and what each pod may ask."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
from msgspec.structs import replace

from podnet.network.desired import desired, node_state
from podnet.network.dns import node_cache
from podnet.network.dns.named import SEARCH_ANNOTATION
from podnet.network.memo import Memo
from podnet.network.proxy.announce import tell
from podnet.network.view import LocalFacts, NodeView
from podnet.network.viewing import problems, view
from podnet.objects.cluster import Cluster
from podnet.objects.core import Pod, PodIP, PodSpec, PodStatus
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import DnsSpec, ProxySpec
from podnet.objects.services import Service, ServicePort
from podnet.state.host import Daemon
from podnet.state.links import Bridge
from podnet.state.nft import Element, NftTable
from podnet.state.plan import plan
from podnet.state.resource import Key, Resource
from podnet.state.routes import Address
from tests.worlds import cluster, config, facts, node, service

LOCAL = DnsSpec(node_local=True)
NFT, IPVS = ProxySpec(), ProxySpec("ipvs")
ADDRESSES = ("10.96.0.10", "fd00:10:96::a")


def dns_service(*ips: str) -> Service:
    ports = tuple(ServicePort(name=f"dns-{protocol}", port=53, protocol=protocol) for protocol in ("UDP", "TCP"))
    made = service("kube-dns", *ports, cluster_ip=ips[0], cluster_ips=ips)
    return replace(made, metadata=ObjectMeta(name="kube-dns", namespace="kube-system"))


def world(dns: DnsSpec = LOCAL, proxy: ProxySpec = NFT, dual: bool = True, **more: Any) -> Cluster:
    ips = ADDRESSES if dual else ADDRESSES[:1]
    given: dict[str, Any] = {"services": (dns_service(*ips),)} | more
    return cluster([node(1, dual)], config(dual=dual, dns=dns, proxy=proxy), **given)


def seen(made: Cluster, cached: bool = True, where: LocalFacts | None = None) -> NodeView:
    found = view(made, where or facts(1), cached=cached)
    assert found is not None
    return found


def kept(made: Cluster, cached: bool | None = None) -> dict[Key, Resource]:
    """What the feature alone adds; a cache that is wanted answers, unless told otherwise."""
    wanted = made.network is not None and made.network.spec.dns.node_local
    view = seen(made, wanted if cached is None else cached)
    return {each.key: each for each in desired(view)["dns-cache",]}


def elements(found: dict[Key, Resource], name: str) -> set[str]:
    return {each.element for each in found.values() if isinstance(each, Element) and each.set.startswith(f"{name}-")}


def test_a_cache_has_the_services_addresses_and_its_own() -> None:
    found = kept(world())
    asked = {*ADDRESSES, *LOCAL.local_addresses}
    assert elements(found, "caches") == elements(found, "resolvers") == asked
    assert elements(found, "fallen") == set()
    addresses = {each.address: each for each in found.values() if isinstance(each, Address)}
    assert set(addresses) == {
        "169.254.20.10/32", "169.254.20.11/32", "10.96.0.10/32",
        "fd00:169:254:20::10/128", "fd00:10:96::a/128",
    }  # fmt: skip
    assert all(each.dev == node_cache.LINK and each.deprecated for each in addresses.values())
    assert found["Link", "", node_cache.LINK] == Bridge(name="podnet-dns", alias="podnet DNS cache")
    daemon = found["Daemon", "", node_cache.NAME]
    assert isinstance(daemon, Daemon)
    assert set(daemon.sockets) == {f"{protocol}/{address}/53" for protocol in ("udp", "tcp") for address in asked}
    assert "--server=169.254.20.11" in daemon.argv
    assert {word.partition("=")[2] for word in daemon.argv if word.startswith("--listen-address=")} == asked
    assert tuple(tell(plan(found, {}))) == ()


def test_pods_whose_searches_the_server_completes_pass_by_the_cache() -> None:
    def one(name: str, where: str, *ips: str, asks: str = "server") -> Pod:
        meta = ObjectMeta(name=name, namespace="demo", annotations={SEARCH_ANNOTATION: asks})
        return Pod(meta, PodSpec(node_name=where), PodStatus(phase="Running", pod_ips=tuple(map(PodIP, ips))))

    there = (
        one("a", "n1", "10.244.1.5", "fd00:10:244:1::5"),
        one("b", "n2", "10.244.2.5"),
        one("c", "n1", "10.244.1.6", asks="client"),
        one("d", "n1"),
    )
    pods = {each.key: each for each in there}
    assert elements(kept(world().with_objects("pods", pods)), "known") == {"10.244.1.5", "fd00:10:244:1::5"}
    assert elements(kept(world(DnsSpec()).with_objects("pods", pods)), "known") == set()


def test_when_it_does_not_answer_its_addresses_have_fallen_and_nothing_else_changes() -> None:
    steps = plan(kept(world(), cached=False), kept(world())).steps
    assert {step.verb for step in steps} == {"add"}
    there = {step.resource.set: step.resource.element for step in steps if isinstance(step.resource, Element)}
    assert set(there) == {"fallen-ip", "fallen-ip6"}
    assert len(steps) == 4
    before, after = (node_state(desired(seen(world(), cached))) for cached in (True, False))
    assert {step.resource.key for step in plan(after, before).steps} == {step.resource.key for step in steps}


@pytest.mark.parametrize("mode", ["nftables", "iptables", "userspace"])
def test_the_service_has_the_local_addresses_on_every_node(mode: str) -> None:
    for cached in (True, False):
        ports = seen(world(proxy=ProxySpec(mode)), cached).services["kube-system", "kube-dns"]
        assert {(port.v6, port.external_ips) for port in ports} == {
            (False, ("169.254.20.10", "169.254.20.11")),
            (True, ("fd00:169:254:20::10", "fd00:169:254:20::11")),
        }


def test_ipvs_would_take_packets_away_from_the_cache() -> None:
    """So its virtual server at the link-local address comes only when the cache has fallen."""
    made = world(proxy=IPVS)
    assert elements(kept(made), "caches") == set(LOCAL.local_addresses)
    ports = {cached: seen(made, cached).services["kube-system", "kube-dns"][0] for cached in (True, False)}
    assert ports[True].external_ips == ("169.254.20.11",)
    assert ports[False].external_ips == ("169.254.20.10", "169.254.20.11")
    without = facts(1, missing={"ip_vs": "none"})
    assert seen(made, True, without).services["kube-system", "kube-dns"][0].external_ips[0] == "169.254.20.10"


def test_other_services_are_not_made_again_when_a_cache_falls() -> None:
    made = world(services=(dns_service("10.96.0.10"), service()))
    memo: Memo = {}
    first, second = (view(made, facts(1), memo=memo, cached=cached) for cached in (True, False))
    assert first is not None
    assert second is not None
    assert first.services is second.services
    units = desired(first, memo)
    again = desired(second, memo)
    assert {unit for unit in again if again[unit] is not units[unit]} == {("dns-cache",)}


def test_one_family_alone() -> None:
    found = kept(world(dual=False))
    assert elements(found, "caches") == {"10.96.0.10", "169.254.20.10"}
    six = cluster([node(1, True)], config(dual=True, dns=LOCAL, proxy=NFT), services=(dns_service(ADDRESSES[1]),))
    assert elements(kept(six), "caches") == {ADDRESSES[1], LOCAL.local_addresses[1]}
    assert any("--server=fd00:169:254:20::11" in each.argv for each in kept(six).values() if isinstance(each, Daemon))


def test_without_it_pods_are_limited_all_the_same() -> None:
    found = kept(world(DnsSpec(rate_limit=50)))
    assert {type(each) for each in found.values()} == {NftTable, Element}
    assert elements(found, "resolvers") == set(ADDRESSES)
    table = next(each for each in found.values() if isinstance(each, NftTable))
    assert "ip saddr { 10.244.1.0/24 }" in table.body
    assert table.body.count("limit rate over 50/second burst 12 packets") == 2


@pytest.mark.parametrize(
    "made",
    [world(DnsSpec(rate_limit=0)), world(LOCAL, services=()), world(DnsSpec(service="elsewhere/dns"))],
    ids=["off", "no Service", "another Service"],
)
def test_nothing_where_nothing_is_asked_for(made: Cluster) -> None:
    assert kept(made) == {}


def test_any_rate() -> None:
    found = kept(world(replace(LOCAL, rate_limit=0)))
    assert elements(found, "resolvers") == set()
    assert not any("limit rate" in each.body for each in found.values() if isinstance(each, NftTable))


@pytest.mark.parametrize("mode", ["nftables", "ipvs"])
def test_one_that_leaves_is_led_around_first(mode: str) -> None:
    made = {local: world(DnsSpec(node_local=local), ProxySpec(mode)) for local in (True, False)}
    steps = plan(kept(made[False], cached=True), kept(made[True])).steps
    assert {(step.verb, getattr(step.resource, "set", "")[:6]) for step in steps} == {("add", "fallen")}
    ports = seen(made[False]).services["kube-system", "kube-dns"]
    assert ports[0].external_ips == ("169.254.20.10", "169.254.20.11")
    assert not any(isinstance(each, Daemon | Address) for each in kept(made[False], cached=False).values())


def test_another_rate_has_other_buckets() -> None:
    """A bucket of before would go on at its own rate."""
    sets = [
        {word for word in each.body.split() if word.startswith("askers-")}
        for rate in (50, 60)
        for each in kept(world(DnsSpec(rate_limit=rate))).values()
        if isinstance(each, NftTable)
    ]
    assert sets[0]
    assert sets[0].isdisjoint(sets[1])


def test_it_needs_the_proxy() -> None:
    made = world(proxy=ProxySpec("none"))
    assert not any(isinstance(each, Daemon) for each in kept(made).values())
    assert [problem.reason for problem in problems(made)] == ["NodeCacheNeedsProxy"]
    assert problems(world()) == ()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (DnsSpec(domain="Cluster.local"), "domain"),
        (DnsSpec(domain="cluster.local."), "domain"),
        (DnsSpec(domain=""), "domain"),
        (DnsSpec(service="kube-dns"), "service"),
        (DnsSpec(service="/x"), "service"),
        (DnsSpec(rate_limit=-1), "rateLimit"),
        (DnsSpec(local_addresses=("here",)), "localAddresses[0]"),
        (DnsSpec(local_addresses=("fd00:0::1",)), "localAddresses[0]"),
        (DnsSpec(local_addresses=("169.254.20.10", "169.254.20.12")), "localAddresses"),
        (DnsSpec(local_addresses=()), "localAddresses"),
    ],
)
def test_mistakes(spec: DnsSpec, field: str) -> None:
    assert [where for where, _ in node_cache.mistakes(spec)] == [field]
    made = cluster([node(1)], config(dns=spec))
    assert view(made, facts(1)) is None
    assert [problem.field for problem in problems(made)] == [f"spec.dns.{field}"]


def test_the_defaults_are_no_mistake() -> None:
    assert list(node_cache.mistakes(DnsSpec())) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("dns", [LOCAL, replace(LOCAL, rate_limit=0), DnsSpec()])
def test_nft_takes_the_table(dns: DnsSpec) -> None:
    for each in kept(world(dns)).values():
        if isinstance(each, NftTable):
            text = f"table {each.family} {each.name} {{\n{each.body}}}\n"
            done = subprocess.run(
                ["unshare", "-n", "nft", "-f", "-"], input=text, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stderr) == (0, "")
