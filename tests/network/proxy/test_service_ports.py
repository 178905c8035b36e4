"""From Services and slices as users and controllers write them to ServicePorts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from podnet.network.proxy.service_ports import (
    AFFINITY_ANNOTATION,
    FALLBACK_ANNOTATION,
    PROXY_NAME,
    RANGES_ANNOTATION,
    owner,
    service_ports,
)
from podnet.network.service_port import Endpoint, Frontend, Place
from podnet.network.service_port import ServicePort as Made
from podnet.objects.meta import ObjectMeta
from podnet.objects.services import (
    HEADLESS,
    ClientIPConfig,
    EndpointConditions,
    EndpointSlice,
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServicePort,
    ServiceStatus,
    SessionAffinityConfig,
    SliceEndpoint,
    SlicePort,
)
from tests.worlds import backend, endpoint_slice, service

HERE = Place("n1", "a")
LOCAL, REMOTE = backend("10.244.1.2", "n1"), backend("10.244.2.2", "n2")
SLICE = endpoint_slice("web", LOCAL, REMOTE)
TWO = (Endpoint("10.244.1.2", 8080, True), Endpoint("10.244.2.2", 8080))
DUAL = ("10.96.0.1", "fd00:10:96::1")


def ports(of: Service, *slices: EndpointSlice) -> tuple[Made, ...]:
    return service_ports(of, slices or (SLICE,), HERE)


def one(of: Service, *slices: EndpointSlice) -> Made:
    (found,) = ports(of, *slices)
    return found


def balancer(*ips: str, mode: str = "VIP", **more: Any) -> Service:
    entries = tuple(LoadBalancerIngress(ip, ip_mode=mode) for ip in ips)
    return service(type="LoadBalancer", status=ServiceStatus(LoadBalancerStatus(entries)), **more)


def test_a_plain_service() -> None:
    found = one(service())
    assert replace(found, affinity_of="") == Made(
        "default", "web", "", "tcp", False, "10.96.0.1", 80,
        internal=TWO, external=TWO, cluster=TWO, anywhere=True,
    )  # fmt: skip
    assert list(found.frontends) == [Frontend("cluster", "10.96.0.1", 80)]
    assert found.endpoints == TWO
    assert found.label == "default/web"
    assert one(service("web", ServicePort("p", port=80))).label == "default/web:p"


@pytest.mark.parametrize(
    "ignored",
    [
        service(cluster_ip="None"),
        service(cluster_ip="None", cluster_ips=("None",)),
        service(cluster_ip=""),
        service(type="ExternalName", external_name="example.org", cluster_ip=""),
        service(type="ExternalName", external_name="example.org"),
        service(labels={PROXY_NAME: "other"}),
        service(labels={PROXY_NAME: ""}),
        service(cluster_ip="10.96.0.256"),
        service(cluster_ip="fe80::1%eth0"),
    ],
)
def test_what_is_not_for_this_proxy(ignored: Service) -> None:
    assert ports(ignored) == ()


def test_slices_of_headless_services_are_not_used() -> None:
    assert not one(service(), endpoint_slice("web", LOCAL, labels={HEADLESS: ""})).anywhere


def test_no_slices_no_endpoints() -> None:
    (found,) = service_ports(service(), (), HERE)
    assert (found.internal, found.external, found.cluster, found.anywhere) == ((), (), (), False)


def test_who_owns_a_slice() -> None:
    assert owner(SLICE) == ("default", "web")
    assert owner(EndpointSlice(metadata=ObjectMeta(name="web", namespace="default"))) is None
    assert owner(endpoint_slice("")) is None


class TestPorts:
    NAMED = (ServicePort("http", port=80), ServicePort("dns", "UDP", 53), ServicePort("dns-tcp", "TCP", 53))

    def test_by_name_and_protocol(self) -> None:
        pieces = (
            endpoint_slice("web", LOCAL, ports=(SlicePort("http", port=8080), SlicePort("dns", "UDP", 5353))),
            endpoint_slice("web", REMOTE, name="b", ports=(SlicePort("http", port=9090), SlicePort("dns", "TCP", 1))),
            endpoint_slice("web", LOCAL, name="c", ports=(SlicePort("", port=7),)),
        )
        http, dns, tcp = ports(service("web", *self.NAMED), *pieces)
        assert (http.name, dns.name, tcp.name) == ("http", "dns", "dns-tcp")
        assert (http.protocol, dns.protocol) == ("tcp", "udp")
        assert [(each.address, each.port) for each in http.internal] == [("10.244.1.2", 8080), ("10.244.2.2", 9090)]
        assert [(each.address, each.port) for each in dns.internal] == [("10.244.1.2", 5353)]
        assert not tcp.anywhere

    @pytest.mark.parametrize("number", [None, 0])
    def test_a_slice_that_names_no_number_is_ignored(self, number: int | None) -> None:
        assert not one(service(), endpoint_slice("web", LOCAL, ports=(SlicePort(port=number),))).anywhere

    def test_sctp(self) -> None:
        sctp = endpoint_slice("web", LOCAL, ports=(SlicePort(protocol="SCTP", port=8080),))
        found = one(service("web", ServicePort(protocol="SCTP", port=80)), sctp)
        assert found.protocol == "sctp"
        assert found.anywhere


class TestFamilies:
    SIX = endpoint_slice("web", backend("fd00:10:244:1::2", "n1"), v6=True)

    def test_each_cluster_address_has_the_endpoints_of_its_family(self) -> None:
        four, six = ports(service(cluster_ips=DUAL), SLICE, self.SIX)
        assert (four.v6, four.cluster_ip, four.internal) == (False, "10.96.0.1", TWO)
        assert (six.v6, six.cluster_ip) == (True, "fd00:10:96::1")
        assert six.internal == (Endpoint("fd00:10:244:1::2", 8080, True),)

    def test_addresses_go_to_their_family_in_one_spelling(self) -> None:
        made = balancer("203.0.113.1", "2001:DB8:0::1", cluster_ips=DUAL, external_ips=("2001:db8::0:2", "203.0.113.2"))
        four, six = ports(made)
        assert (four.external_ips, four.balancer_ips) == (("203.0.113.2",), ("203.0.113.1",))
        assert (six.external_ips, six.balancer_ips) == (("2001:db8::2",), ("2001:db8::1",))

    def test_a_single_stack_service_has_no_addresses_of_the_other_family(self) -> None:
        assert one(service(external_ips=("2001:db8::2",))).external_ips == ()

    def test_other_types_of_slices(self) -> None:
        assert not one(service(), replace(SLICE, address_type="FQDN"), self.SIX).anywhere

    def test_an_endpoint_of_the_wrong_family_is_ignored(self) -> None:
        assert one(service(), endpoint_slice("web", backend("fd00::1"), LOCAL)).internal == TWO[:1]


class TestConditions:
    @pytest.mark.parametrize(
        ("conditions", "used"),
        [
            ({}, True),
            ({"ready": True}, True),
            ({"ready": False}, False),
            ({"ready": False, "serving": True}, False),
            ({"ready": False, "serving": True, "terminating": True}, True),
            ({"ready": False, "terminating": True}, True),  # None: serving
            ({"ready": False, "serving": False, "terminating": True}, False),
            ({"ready": None, "serving": False, "terminating": True}, True),  # None: ready; publishNotReadyAddresses
            ({"ready": True, "serving": False, "terminating": True}, True),
        ],
    )
    def test_alone(self, conditions: dict[str, Any], used: bool) -> None:
        found = one(
            service(internal_traffic_policy="Local"), endpoint_slice("web", backend("10.244.1.2", "n1", **conditions))
        )
        assert (bool(found.internal), bool(found.cluster), found.anywhere) == (used, used, used)

    def test_not_beside_a_ready_one(self) -> None:
        leaving = backend("10.244.1.3", ready=False, serving=True, terminating=True)
        assert one(service(), endpoint_slice("web", leaving, LOCAL)).internal == TWO[:1]

    def test_hints_reach_the_choice(self) -> None:
        piece = endpoint_slice("web", backend("10.244.1.2", zones="a"), backend("10.244.1.3", zones="b"))
        assert [each.address for each in one(service(), piece).internal] == ["10.244.1.2"]
        piece = endpoint_slice("web", backend("10.244.1.2", nodes="n2"), backend("10.244.1.3", nodes="n1 n2"))
        assert [each.address for each in one(service(), piece).internal] == ["10.244.1.3"]

    @pytest.mark.parametrize("addresses", [(), ("",), ("10.244.1",), ("web.example.org",), ("fe80::1%eth0",)])
    def test_an_endpoint_that_is_no_address_is_ignored(self, addresses: tuple[str, ...]) -> None:
        wrong = SliceEndpoint(addresses, EndpointConditions())
        assert one(service(), endpoint_slice("web", wrong, LOCAL)).internal == TWO[:1]


class TestPolicies:
    def test_the_two_are_separate(self) -> None:
        both = {"type": "NodePort"}
        found = one(service(**both, internal_traffic_policy="Local"))
        assert (found.internal, found.external, found.internal_local) == (TWO[:1], TWO, True)
        found = one(service(**both, external_traffic_policy="Local"))
        assert (found.internal, found.external, found.external_local) == (TWO, TWO[:1], True)
        assert (found.cluster, found.endpoints) == (TWO, TWO)

    @pytest.mark.parametrize(
        ("made", "local"),
        [
            (service(external_traffic_policy="Local"), False),  # nobody outside reaches it
            (service(external_traffic_policy="Local", external_ips=("203.0.113.1",)), True),
            (service(external_traffic_policy="Local", type="NodePort"), True),
            (balancer(external_traffic_policy="Local"), True),
        ],
    )
    def test_external_policy_is_for_what_is_reached_from_outside(self, made: Service, local: bool) -> None:
        assert one(made).external_local is local

    def test_local_without_a_local_endpoint_knows_of_the_others(self) -> None:
        found = one(service(type="NodePort", external_traffic_policy="Local"), endpoint_slice("web", REMOTE))
        assert (found.external, found.cluster, found.anywhere) == ((), TWO[1:], True)

    def test_the_health_check_port_is_for_load_balancers_with_policy_local(self) -> None:
        port: dict[str, Any] = {"health_check_node_port": 32000}
        assert one(balancer(external_traffic_policy="Local", **port)).health_check_node_port == 32000
        assert one(balancer(**port)).health_check_node_port == 0
        assert one(service(type="NodePort", external_traffic_policy="Local", **port)).health_check_node_port == 0


class TestAffinity:
    @pytest.mark.parametrize(
        ("kind", "config", "seconds"),
        [
            ("None", None, 0),
            ("None", SessionAffinityConfig(ClientIPConfig(7)), 0),
            ("ClientIP", None, 10800),
            ("ClientIP", SessionAffinityConfig(), 10800),
            ("ClientIP", SessionAffinityConfig(ClientIPConfig()), 10800),
            ("ClientIP", SessionAffinityConfig(ClientIPConfig(1)), 1),
            ("ClientIP", SessionAffinityConfig(ClientIPConfig(86400)), 86400),
            ("ClientIP", SessionAffinityConfig(ClientIPConfig(0)), 0),
        ],
    )
    def test_seconds(self, kind: str, config: SessionAffinityConfig | None, seconds: int) -> None:
        assert one(service(session_affinity=kind, session_affinity_config=config)).affinity == seconds

    def test_a_client_stays_with_a_port_or_with_the_whole_service(self) -> None:
        two = (ServicePort("web", port=80), ServicePort("admin", port=81))
        stays = service("web", *two, session_affinity="ClientIP")
        whole = service("web", *two, session_affinity="ClientIP", annotations={AFFINITY_ANNOTATION: "Service"})
        assert len({found.affinity_of for found in ports(stays)}) == 2
        assert {found.affinity_of for found in ports(whole)} == {"default/web"}


class TestOutside:
    def test_frontends(self) -> None:
        made = balancer("203.0.113.1", external_ips=("203.0.113.2",))
        made = replace(made, spec=replace(made.spec, ports=(ServicePort(port=80, node_port=30080),)))
        assert list(one(made).frontends) == [
            Frontend("cluster", "10.96.0.1", 80),
            Frontend("external", "203.0.113.2", 80),
            Frontend("balancer", "203.0.113.1", 80),
            Frontend("node", "", 30080),
        ]

    def test_a_balancer_that_forwards_by_itself_is_not_ours(self) -> None:
        assert one(balancer("203.0.113.1", mode="Proxy")).balancer_ips == ()

    def test_a_balancer_known_by_name_only(self) -> None:
        status = ServiceStatus(LoadBalancerStatus((LoadBalancerIngress(hostname="lb.example.org"),)))
        assert one(service(type="LoadBalancer", status=status)).balancer_ips == ()

    @pytest.mark.parametrize("wrong", ["", "203.0.113", "lb.example.org", "203.0.113.1/32", "fe80::1%eth0"])
    def test_what_is_no_address_is_ignored(self, wrong: str) -> None:
        assert one(balancer(wrong, external_ips=(wrong, "203.0.113.2"))).external_ips == ("203.0.113.2",)
        assert one(balancer(wrong, "203.0.113.1")).balancer_ips == ("203.0.113.1",)

    def test_an_address_inside_ipv6_is_ipv4(self) -> None:
        """Go's parser says so, and nft spells ::ffff:a.b.c.d otherwise than Python does."""
        assert one(service(external_ips=("::ffff:203.0.113.2",))).external_ips == ("203.0.113.2",)

    @pytest.mark.parametrize(
        ("ranges", "four", "six"),
        [
            ((), None, None),
            (("198.51.100.7/24", " 192.0.2.1/32 "), ("192.0.2.1/32", "198.51.100.0/24"), ()),
            (("2001:DB8::/32",), (), ("2001:db8::/32",)),
            (("198.51.100.0/24", "2001:db8::/32"), ("198.51.100.0/24",), ("2001:db8::/32",)),
            (("everybody",), (), ()),
            (("everybody", "198.51.100.0/24", "198.51.100.0/24"), ("198.51.100.0/24",), ()),
        ],
    )
    def test_source_ranges(self, ranges: Iterable[str], four: Any, six: Any) -> None:
        """Nothing said lets everybody in; something said that names nobody of a family lets nobody of it in."""
        found = ports(balancer(cluster_ips=DUAL, load_balancer_source_ranges=tuple(ranges)))
        assert tuple(each.source_ranges for each in found) == (four, six)
        text = {RANGES_ANNOTATION: ",".join(ranges)}
        assert ports(balancer(cluster_ips=DUAL, annotations=text)) == found

    def test_source_ranges_are_for_load_balancers(self) -> None:
        assert one(service(type="NodePort", load_balancer_source_ranges=("192.0.2.0/24",))).source_ranges is None


FALLBACK: dict[str, Any] = {"annotations": {FALLBACK_ANNOTATION: "true"}, "external_traffic_policy": "Local"}


def test_local_without_a_hole() -> None:
    only_there = endpoint_slice("web", REMOTE)
    found = one(balancer("198.51.100.1", health_check_node_port=30999, **FALLBACK), only_there)
    assert (found.external, found.external_local) == (TWO[1:], False), "as under policy Cluster"
    assert found.health_check_node_port == 30999, "which goes on telling that nothing is here"
    kept = one(balancer("198.51.100.1", **FALLBACK))
    assert (kept.external, kept.external_local) == (TWO[:1], True), "while something is here nothing is otherwise"
    leaving = backend("10.244.1.2", "n1", ready=False, serving=True, terminating=True)
    last = one(balancer("198.51.100.1", **FALLBACK), endpoint_slice("web", leaving, REMOTE))
    assert (last.external, last.external_local) == (TWO[1:], False), "who leaves may be gone before it is known"
    alone = one(balancer("198.51.100.1", **FALLBACK), endpoint_slice("web", leaving))
    assert alone.external == TWO[:1], "if nobody is ready anywhere, who still serves"
    dead = backend("10.244.1.2", "n1", ready=False, serving=False, terminating=True)
    gone = one(balancer("198.51.100.1", **FALLBACK), endpoint_slice("web", dead, REMOTE))
    assert (gone.external, gone.external_local) == (TWO[1:], False)


@pytest.mark.parametrize("value", ["", "false", "True"])
def test_who_does_not_ask_for_a_fallback_has_the_hole(value: str) -> None:
    asked = {**FALLBACK, "annotations": {FALLBACK_ANNOTATION: value}}
    found = one(balancer("198.51.100.1", **asked), endpoint_slice("web", REMOTE))
    assert (found.external, found.external_local, found.anywhere) == ((), True, True)


def test_a_fallback_with_nothing_anywhere_is_refused_as_ever() -> None:
    found = one(balancer("198.51.100.1", **FALLBACK), endpoint_slice("web"))
    assert (found.external, found.anywhere) == ((), False)
