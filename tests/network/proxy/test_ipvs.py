"""Mode ipvs: which virtual servers there are, what the few rules beside them know, and how one mode follows another."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from podnet.network.proxy import ipvs
from podnet.network.proxy.feature import MODES
from podnet.network.proxy.ipvs import TABLE, Serving
from podnet.network.service_port import Endpoint, ServicePort
from podnet.objects.network import ProxySpec
from podnet.state.host import ForgetFlows, Sysctl
from podnet.state.ipvs import LINK, RealServer, VirtualServer
from podnet.state.links import Dummy
from podnet.state.nft import Element
from podnet.state.plan import Plan, Step, plan
from podnet.state.resource import Resource, state
from podnet.state.routes import Address
from tests.worlds import attachment, cluster, config, node, seen, state_of

HERE, THERE = Endpoint("10.244.1.5", 8080, local=True), Endpoint("10.244.2.5", 8080)
BOTH = (HERE, THERE)
WEB = ServicePort(
    "default", "web", "", "tcp", False, "10.96.0.1", 80, 30080, external_ips=("1.2.3.4",), balancer_ips=("1.2.3.5",),
    internal=BOTH, external=BOTH, cluster=BOTH, anywhere=True,
)  # fmt: skip
SETTINGS = Serving(("10.0.0.1", "10.9.0.1"), ("10.0.0.1",))


def made(settings: Serving = SETTINGS, **fields: object) -> list[Resource]:
    found = list(ipvs.serve(msgspec.structs.replace(WEB, **fields), settings))
    state(iter(found))  # no two are one kernel object
    return found


def elements(resources: list[Resource]) -> dict[tuple[str, str], str]:
    own = [each for each in resources if isinstance(each, Element)]
    assert {each.table for each in own} == {TABLE}
    return {(each.set, each.element): each.value for each in own}


def servers(resources: list[Resource]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {f"{v.address}:{v.port}": [] for v in resources if isinstance(v, VirtualServer)}
    for each in resources:
        if isinstance(each, RealServer):
            found[f"{each.address}:{each.port}"].append(each.to)
    return found


def test_every_frontend_is_a_virtual_server() -> None:
    found = made()
    places = ("10.96.0.1:80", "1.2.3.4:80", "1.2.3.5:80", "10.0.0.1:30080")
    assert servers(found) == {place: [HERE.address, THERE.address] for place in places}
    assert [each for each in found if isinstance(each, Address)] == [Address(LINK, "10.96.0.1/32")]
    assert elements(found) == {
        ("cluster-ips", "10.96.0.1"): "",
        **{("services", place.replace(":", " . 6 . ")): "accept" for place in places},
        **{("masqueraded", place.replace(":", " . 6 . ")): "" for place in places[1:]},
    }


@pytest.mark.parametrize(
    ("fields", "cluster_address", "others", "led"),
    [
        ({"internal": (), "external": (), "cluster": (), "anywhere": False}, "goto none", "goto none", []),
        ({"internal": (), "internal_local": True}, "goto lost", "accept", [HERE.address, THERE.address]),
        ({"external": (HERE,), "external_local": True}, "accept", "goto local", [HERE.address]),
        ({"external": (), "external_local": True}, "accept", "goto inside", [HERE.address, THERE.address]),
    ],
    ids=["nobody", "nobody here for pods", "some here for outsiders", "nobody here for outsiders"],
)
def test_who_finds_no_endpoint_or_only_some(
    fields: dict[str, object], cluster_address: str, others: str, led: list[str]
) -> None:
    found = made(SETTINGS, **fields)
    verdicts = elements(found)
    assert verdicts["services", "10.96.0.1 . 6 . 80"] == cluster_address
    assert {verdicts["services", f"{at} . 6 . {port}"] for at, port in (("1.2.3.4", 80), ("10.0.0.1", 30080))} == {
        others
    }
    assert servers(found).get("1.2.3.4:80", []) == led
    assert (("masqueraded", "1.2.3.4 . 6 . 80") in verdicts) is not fields.get("external_local", False)


@pytest.mark.parametrize(
    ("algorithm", "weights", "scheduler"),
    [
        *(("random", (1, 1), "rr"), ("round-robin", (5, 95), "wrr"), ("source-hash", (1, 1), "sh")),
        *(("source-hash", (1, 2), "sh"), ("least-connections", (1, 1), "lc"), ("least-connections", (1, 3), "wlc")),
    ],
)
def test_schedulers(algorithm: str, weights: tuple[int, int], scheduler: str) -> None:
    chosen = tuple(msgspec.structs.replace(each, weight=weight) for each, weight in zip(BOTH, weights, strict=True))
    found = made(algorithm=algorithm, internal=chosen, affinity=60)
    (virtual,) = (each for each in found if isinstance(each, VirtualServer) and each.address == "10.96.0.1")
    assert (virtual.scheduler, virtual.affinity) == (scheduler, 60)
    real = [each.weight for each in found if isinstance(each, RealServer) and each.address == "10.96.0.1"]
    assert real == [*weights]


@pytest.mark.parametrize(
    ("ranges", "itself"), [(("10.9.0.0/16", "10.9.9.9/32"), True), (("203.0.113.0/24",), False), ((), False)]
)
def test_source_ranges(ranges: tuple[str, ...], itself: bool) -> None:
    """A node that is in a range comes with the very address that it asks for."""
    found = elements(made(source_ranges=ranges))
    assert [key for name, key in found if name == "guarded"] == ["1.2.3.5 . 6 . 80"]
    allowed = {key.rpartition(" . ")[2] for name, key in found if name == "allowed"}
    assert allowed == {*ranges[:1], *(["1.2.3.5"] if itself else [])}


def world(mode: str, *services: ServicePort) -> dict[tuple[str, ...], Resource]:
    return dict(state_of(cluster([node(1, dual=True)], config(dual=True, proxy=ProxySpec(mode=mode))), 1))


def test_the_frame_has_a_table_for_each_family_the_link_and_parameters() -> None:
    found = world("ipvs")
    assert {key[2] for key in found if key[0] == "NftTable" and key[-1] == TABLE} == {"ip", "ip6"}
    assert found["Link", "", LINK] == Dummy(name=LINK, alias="podnet Services")
    assert found["Sysctl", "", "net/ipv4/vs/conntrack"] == Sysctl("net/ipv4/vs/conntrack", "1")
    assert not {key for key in world("nftables") if TABLE in key or LINK in key or "vs" in key[-1].split("/")}


def test_pods_may_be_led_to_themselves() -> None:
    seen_by = cluster([node(1)], config(proxy=ProxySpec(mode="ipvs")))
    pod = attachment(1, 1)
    address = pod.addresses[0].partition("/")[0]
    assert ("Element", "", "ip", TABLE, "hairpins", f"{address} . {address}") in state_of(seen_by, 1, [pod])


def test_an_address_of_several_services_stays_while_one_has_it() -> None:
    view = seen(cluster([node(1)], config(proxy=ProxySpec(mode="ipvs"))), 1)
    other = msgspec.structs.replace(WEB, service="other", cluster_ip="10.96.0.2", port=81, balancer_ips=("10.96.0.1",))
    both = {("default", "web"): (WEB,), ("default", "other"): (other,)}

    def addresses(services: Mapping[tuple[str, str], tuple[ServicePort, ...]]) -> set[str]:
        return {each.address for each in MODES["ipvs"].together(view, services, {}) if isinstance(each, Address)}

    assert addresses(both) == {"1.2.3.4/32", "1.2.3.5/32"}  # what is a cluster address too, its own Service has
    assert addresses({("default", "other"): (other,)}) == {"1.2.3.4/32", "10.96.0.1/32"}


def test_udp_flows_begin_and_end_with_their_virtual_server() -> None:
    before = state(iter(made(protocol="udp", external_ips=(), balancer_ips=(), node_port=0)))
    forgotten = [ForgetFlows(17, 80, destination="10.96.0.1")]
    assert list(ipvs.forget(plan(before, {}))) == forgotten
    assert list(ipvs.forget(plan({}, before))) == forgotten
    fewer = state(iter(made(protocol="udp", external_ips=(), balancer_ips=(), node_port=0, internal=(HERE,))))
    assert list(ipvs.forget(plan(fewer, before))) == []  # the kernel leads them elsewhere
    assert list(ipvs.forget(Plan((Step("add", VirtualServer("tcp", "10.96.0.1", 80)),)))) == []
