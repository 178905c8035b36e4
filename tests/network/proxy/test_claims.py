"""Several Services ask for one frontend: the oldest has it, the others keep all else, and no kernel object is wanted
twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.desired import desired, node_state
from podnet.network.memo import Memo
from podnet.network.proxy import claims
from podnet.network.proxy.claims import Claim, Lost
from podnet.network.service_port import ServicePort as Made
from podnet.network.viewing import problems, view
from podnet.objects.cluster import Cluster
from podnet.objects.network import ProxySpec
from podnet.objects.services import LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceStatus
from tests.worlds import backend, cluster, config, endpoint_slice, facts, node, service

OWN = ("192.168.77.11", "127.0.0.1")
"""Of node 1 (tests/worlds.py)."""


def made(name: str, day: int, cluster_ip: str = "", ips: tuple[str, ...] = (), **more: Any) -> Service:
    found = service(
        name,
        *more.pop("ports", (ServicePort(port=80),)),
        cluster_ip=cluster_ip or f"10.96.0.{day}",
        type="LoadBalancer",
        status=ServiceStatus(LoadBalancerStatus(tuple(map(LoadBalancerIngress, ips)))),
        **more,
    )
    return replace(found, metadata=replace(found.metadata, creation_timestamp=f"2024-01-{day:02}T00:00:00Z"))


def world(*services: Service) -> Cluster:
    slices = [endpoint_slice(each.metadata.name, backend(f"10.244.1.{9 + n}")) for n, each in enumerate(services)]
    return cluster([node(1), node(2)], config(proxy=ProxySpec()), services=services, slices=slices)


def seen(*services: Service) -> dict[str, tuple[Made, ...]]:
    found = view(world(*services), facts(1))
    assert found is not None
    node_state(desired(found))  # raises Conflict when two want the same
    return {name: ports for (_, name), ports in found.services.items()}


def said(*services: Service) -> dict[str, str]:
    found = [each for each in problems(world(*services), facts=facts(1)) if each.reason == "FrontendTaken"]
    return {each.object.removeprefix("Service/default/"): each.message for each in found}


def test_nothing_contested_changes_nothing() -> None:
    two = (made("a", 1, ips=("203.0.113.1",)), made("b", 2, ips=("203.0.113.2",)))
    assert said(*two) == {}
    assert {name: ports[0].balancer_ips for name, ports in seen(*two).items()} == {
        "a": ("203.0.113.1",),
        "b": ("203.0.113.2",),
    }


def test_the_older_keeps_an_external_address_and_the_younger_the_rest() -> None:
    young, old = made("a", 2, external_ips=("203.0.113.1", "203.0.113.9")), made("b", 1, ips=("203.0.113.1",))
    found = seen(young, old)
    assert found["a"][0].external_ips == ("203.0.113.9",)
    assert found["a"][0].cluster_ip == "10.96.0.2"
    assert found["b"][0].balancer_ips == ("203.0.113.1",)
    assert said(young, old) == {"a": "tcp port 80 at 203.0.113.1 is that of Service default/b, which is older"}


def checked(name: str, day: int, port: int, **more: Any) -> Service:
    """A Service whose health check is asked at this node port."""
    return made(name, day, external_traffic_policy="Local", health_check_node_port=port, **more)


def asked_at(*services: Service) -> dict[str, int]:
    found = view(world(*services), facts(1))
    assert found is not None
    return {each.service: each.port for each in found.checks}


def test_of_two_health_checks_at_one_port_the_older_is_asked_there() -> None:
    young, old, other = checked("a", 2, 30555), checked("b", 1, 30555), checked("c", 3, 30556)
    assert asked_at(young, old, other) == {"b": 30555, "c": 30556}
    assert said(young, old, other) == {"a": "tcp node port 30555 is that of Service default/b, which is older"}
    assert seen(young, old)["a"][0].cluster_ip == "10.96.0.2"


def test_a_health_check_and_a_node_port_are_rivals_too() -> None:
    ports = (ServicePort(port=80, node_port=30555),)
    assert asked_at(checked("a", 2, 30555), made("b", 1, ports=ports)) == {}
    young, old = made("b", 2, ports=ports), checked("a", 1, 30555)
    assert asked_at(young, old) == {"a": 30555}
    assert seen(young, old)["b"][0].node_port == 0
    alone = checked("a", 1, 30555, ports=ports)
    assert asked_at(alone) == {}
    assert seen(alone)["a"][0].node_port == 30555
    assert said(alone) == {"a": "tcp node port 30555 is asked for twice"}


def test_without_a_proxy_nothing_is_asked_here() -> None:
    found = view(replace(world(checked("a", 1, 30555)), networkconfigs={("", "default"): config()}), facts(1))
    assert found is not None
    assert found.checks == ()


def test_of_the_same_age_the_name_decides() -> None:
    first, second = made("a", 1, "10.96.0.1", ips=("203.0.113.1",)), made("b", 1, "10.96.0.2", ips=("203.0.113.1",))
    assert list(said(second, first)) == ["b"]


def test_other_ports_and_protocols_at_the_same_address_are_no_conflict() -> None:
    one = made("a", 1, ips=("203.0.113.1",))
    assert said(one, made("b", 2, ips=("203.0.113.1",), ports=(ServicePort(port=81),))) == {}
    assert said(one, made("b", 2, ips=("203.0.113.1",), ports=(ServicePort(port=80, protocol="UDP"),))) == {}


def test_a_node_port_of_two() -> None:
    two = [made(name, day, ports=(ServicePort(port=80, node_port=30080),)) for name, day in (("a", 1), ("b", 2))]
    assert {name: ports[0].node_port for name, ports in seen(*two).items()} == {"a": 30080, "b": 0}
    assert said(*two) == {"b": "tcp node port 30080 is that of Service default/a, which is older"}


@pytest.mark.parametrize("older", ["external", "node"])
def test_an_external_address_of_the_node_and_a_node_port(older: str) -> None:
    external = made("external", 1 + (older == "node"), external_ips=(OWN[0],), ports=(ServicePort(port=30080),))
    at_node = made("node", 1 + (older == "external"), ports=(ServicePort(port=80, node_port=30080),))
    found = seen(external, at_node)
    assert found["external"][0].external_ips == ((OWN[0],) if older == "external" else ())
    assert found["node"][0].node_port == (30080 if older == "node" else 0)
    assert len(said(external, at_node)) == 1


def test_a_port_that_is_also_a_node_port_is_no_conflict() -> None:
    both = made("a", 1, ports=(ServicePort("x", port=30080), ServicePort("y", port=81, node_port=30080)))
    assert [port.node_port for port in seen(both)["a"]] == [0, 30080]
    assert said(both) == {}


def test_a_cluster_address_that_another_has_takes_its_port_along() -> None:
    two = made("a", 1, "10.96.0.1"), made("b", 2, "10.96.0.1", ips=("203.0.113.2",))
    assert seen(*two)["b"] == ()
    assert "10.96.0.1" in said(*two)["b"]


def test_a_service_in_conflict_with_itself() -> None:
    one = made("a", 1, external_ips=("10.96.0.1", "203.0.113.1"), ips=("203.0.113.1",))
    (port,) = seen(one)["a"]
    assert port.external_ips == port.balancer_ips == ("203.0.113.1",)
    assert said(one) == {"a": "tcp port 80 at 10.96.0.1 is asked for twice"}


def test_the_same_port_twice() -> None:
    one = made("a", 1, ports=(ServicePort("x", port=80, node_port=30080), ServicePort("y", port=81, node_port=30080)))
    assert [port.node_port for port in seen(one)["a"]] == [30080, 0]


def test_services_that_are_not_ours_claim_nothing() -> None:
    one = made("a", 2, ips=("203.0.113.1",))
    for ignored in (
        service("b", type="ExternalName", external_ips=("203.0.113.1",)),
        service("b", cluster_ip="None", external_ips=("203.0.113.1",)),
        service("b", external_ips=("203.0.113.1",), labels={"service.kubernetes.io/service-proxy-name": "x"}),
        service("b", external_ips=("2001:db8::1",)),
    ):
        assert said(one, ignored) == {}


NAMES = ["a", "b", "c", "d"]
ADDRESSES = ["10.96.0.1", "10.96.0.2", "203.0.113.1", OWN[0]]
PORTS = st.builds(
    lambda name, port, protocol, at: ServicePort(name, protocol, port, node_port=at),
    st.sampled_from(["", "x"]),
    st.sampled_from([80, 30080]),
    st.sampled_from(["TCP", "UDP"]),
    st.sampled_from([0, 30080, 30081]),
)
SERVICES = st.builds(
    lambda name, day, cluster_ip, ips, external, ports: made(
        name, day, cluster_ip, tuple(ips), external_ips=tuple(external), ports=tuple(ports)
    ),
    st.sampled_from(NAMES),
    st.integers(1, 3),
    st.sampled_from(ADDRESSES),
    st.lists(st.sampled_from(ADDRESSES), max_size=2),
    st.lists(st.sampled_from(ADDRESSES), max_size=2),
    st.lists(PORTS, min_size=1, max_size=2, unique_by=lambda port: (port.protocol, port.port)),
)
HISTORIES = st.lists(SERVICES | st.sampled_from(NAMES), max_size=8)
"""A Service comes or changes, or the one of a name goes."""


@settings(max_examples=40, deadline=None)
@given(HISTORIES)
def test_whatever_is_asked_for_nothing_conflicts_and_memory_changes_nothing(history: list[Service | str]) -> None:
    memo: Memo = {}
    services: dict[tuple[str, str], Service] = {}
    for event in history:
        key = ("default", event) if isinstance(event, str) else event.key
        services = {name: each for name, each in services.items() if name != key}
        if isinstance(event, Service):
            services[key] = event
        now = world(*services.values())
        remembered, fresh = view(now, facts(1), memo=memo), view(now, facts(1))
        assert remembered is not None
        assert fresh is not None
        assert remembered.services == fresh.services
        assert problems(now, memo, facts(1)) == problems(now, facts=facts(1))
        node_state(desired(fresh))


def test_only_what_changed_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    services = {each.key: each for each in (made(f"s{n}", 1, f"10.97.{n}.1") for n in range(50))}
    memo: Memo = {}
    claims.lost(memo, services, OWN)
    asked: list[Service] = []

    def ask(service: Service, own: object) -> Iterator[Claim]:
        asked.append(service)
        return iter(())

    monkeypatch.setattr(claims, "_asked", ask)
    key = ("default", "s7")
    assert claims.lost(memo, {**services, key: replace(services[key])}, OWN) == {}
    assert [each.metadata.name for each in asked] == ["s7"]


def test_an_old_claim_that_goes_gives_the_frontend_back() -> None:
    memo: Memo = {}
    two = {each.key: each for each in (made("a", 1, ips=("203.0.113.1",)), made("b", 2, ips=("203.0.113.1",)))}
    found: Lost = claims.lost(memo, two, OWN)
    assert found == {("default", "b"): {("tcp", "203.0.113.1", 80): ("default", "a")}}
    assert claims.lost(memo, {key: each for key, each in two.items() if key[1] == "b"}, OWN) == {}
