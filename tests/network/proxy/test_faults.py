"""What is said of wishes that can't be honoured, while everything else is."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from podnet.network.proxy.service_ports import RETRY_ANNOTATION
from podnet.network.view import Problem
from podnet.network.viewing import problems, view
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import ProxySpec, RouteBackend, RouteSegment, ServiceRoute, ServiceRouteSpec
from podnet.objects.services import Service, ServicePort
from tests.worlds import backend, cluster, config, endpoint_slice, facts, node, service

RETRY = {RETRY_ANNOTATION: "true"}
SEGMENT = RouteSegment(("10.1.0.0/16",), (RouteBackend({"app": "a"}),))


def found(*services: Service, routes: tuple[ServiceRoute, ...] = (), mode: str = "nftables") -> list[Problem]:
    world = cluster([node(1)], config(proxy=ProxySpec(mode=mode)), services=services)
    world = replace(world, serviceroutes={each.key: each for each in routes})
    return [each for each in problems(world, facts=facts(1)) if each.object.split("/")[0] != "Node"]


def route(
    name: str = "r", day: int = 1, of: str = "web", segments: tuple[RouteSegment, ...] = (SEGMENT,)
) -> ServiceRoute:
    meta = ObjectMeta(name=name, namespace="default", creation_timestamp=f"2024-01-{day:02}T00:00:00Z")
    return ServiceRoute(metadata=meta, spec=ServiceRouteSpec(of, segments))


def test_nothing_to_say() -> None:
    assert found(service(annotations=RETRY), routes=(route(),)) == []


@pytest.mark.parametrize("mode", ["nftables", "iptables", "userspace", "ipvs", "none"])
def test_known_modes(mode: str) -> None:
    assert found(mode=mode) == []


def test_an_unknown_mode_is_said_and_the_rest_of_the_network_works() -> None:
    (problem,) = found(mode="magic")
    assert (problem.object, problem.reason) == ("NetworkConfig/default", "UnknownProxyMode")
    assert "'magic' is no mode" in problem.message
    world = cluster([node(1), node(2)], config(proxy=ProxySpec(mode="magic")))
    seen = view(world, facts(1))
    assert seen is not None
    assert seen.peers


def test_what_of_routes_a_mode_does_not_do() -> None:
    (problem,) = found(service(), routes=(route(),), mode="iptables")
    assert (problem.object, problem.reason) == ("ServiceRoute/default/r", "UnsupportedByMode")
    assert problem.message.startswith("mode iptables knows no segments: ")
    assert found(service(), routes=(route(),), mode="userspace") == []
    one, two = RouteBackend({"app": "a"}), RouteBackend({"app": "b"}, 19)
    plain, shared = (
        replace(route(segments=()), spec=ServiceRouteSpec("web", (), some)) for some in ((one,), (one, two))
    )
    assert found(service(), routes=(plain,), mode="iptables") == [], "all that it asks for is done"
    (problem,) = found(service(), routes=(shared,), mode="iptables")
    assert problem.message.startswith("mode iptables knows no weights: ")
    both = replace(shared, spec=replace(shared.spec, segments=(SEGMENT,)))
    assert "no segments and no weights: " in found(service(), routes=(both,), mode="iptables")[0].message


def test_a_family_that_the_cluster_has_not() -> None:
    one = service(cluster_ips=("10.96.0.1", "fd00:10:96::1"), external_ips=("2001:db8::1",))
    assert [(each.object, each.reason, each.field) for each in found(one)] == [
        ("Service/default/web", "NoSuchFamily", "spec.clusterIPs"),
        ("Service/default/web", "NoSuchFamily", "spec"),
    ]
    assert found(replace(one, spec=replace(one.spec, cluster_ips=("None",)))) == []


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"session_affinity": "ClientIP"}, "sessionAffinity"),
        ({"ports": (ServicePort(port=53, protocol="UDP"), ServicePort("t", port=53))}, "ports of UDP"),
    ],
)
def test_retries_that_can_not_be(more: dict[str, Any], word: str) -> None:
    ports = more.pop("ports", ())
    (problem,) = found(service("web", *ports, annotations=RETRY, **more))
    assert (problem.object, problem.reason) == ("Service/default/web", "NoRetry")
    assert word in problem.message


def test_routes_that_can_not_be() -> None:
    twice = route("twice", segments=(SEGMENT, SEGMENT))
    said = {each.object: (each.reason, each.field) for each in found(service(), routes=(twice, route("lone", of="x")))}
    assert said == {
        "ServiceRoute/default/twice": ("InvalidServiceRoute", "spec.segments[1].from[0]"),
        "ServiceRoute/default/lone": ("NoSuchService", "spec.service"),
    }


def test_of_two_routes_the_older_holds() -> None:
    several = (route("young", 2), route("old", 1), route("broken", 1, segments=(RouteSegment(),)))
    (problem,) = (each for each in found(service(), routes=several) if each.reason == "AnotherRouteHolds")
    assert problem.object == "ServiceRoute/default/young"
    assert "ServiceRoute old is older" in problem.message


def test_a_broken_service_leaves_the_others_as_they_were() -> None:
    good = service("good", cluster_ip="10.96.0.2")
    bad = service("bad", cluster_ip="fd00::1", annotations=RETRY, session_affinity="ClientIP")
    slices = [endpoint_slice("good", backend("10.244.1.9"))]
    network = config(proxy=ProxySpec())
    with_bad = view(cluster([node(1)], network, services=[good, bad], slices=slices), facts(1))
    without = view(cluster([node(1)], network, services=[good], slices=slices), facts(1))
    assert with_bad is not None
    assert without is not None
    assert with_bad.services[good.key] == without.services[good.key]


def test_a_protocol_that_the_mode_does_not_have_is_said() -> None:
    wish = service("web", ServicePort("s", protocol="SCTP", port=80))
    (problem,) = found(wish, mode="userspace")
    assert (problem.object, problem.reason) == ("Service/default/web", "UnsupportedProtocol")
    assert "SCTP" in problem.message
    assert found(wish, mode="nftables") == found(service(), mode="userspace") == []
