"""Which UDP flows a change of Services makes wrong in mode iptables: read off chains, exactly those, and no others."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from podnet.network.proxy.flows import forget_chains
from podnet.network.proxy.iptables import Settings, code, frame, own, shared
from podnet.network.service_port import Endpoint, ServicePort
from podnet.state.plan import plan
from podnet.state.resource import NodeState, state

NODE = "192.168.0.2"
SETTINGS = Settings(cluster_cidr="10.244.1.0/24", node_addresses=(NODE,))
Flow = tuple[str, int, str, int]
TO = 8080


def dns(
    *numbers: int, name: str = "dns", address: str = "10.96.0.10", node_port: int = 30053, to: int = TO
) -> ServicePort:
    """Endpoints are these pods of another node."""
    found = tuple(Endpoint(f"10.244.2.{number}", to) for number in numbers)
    return ServicePort(
        "default", name, "p", "udp", False, address, 53, node_port=node_port,
        internal=found, external=found, cluster=found, anywhere=bool(found),
    )  # fmt: skip


OTHER = dns(2, 3, name="other", address="10.96.0.11", node_port=30054)


def held(*ports: ServicePort, settings: Settings = SETTINGS) -> NodeState:
    chains = [chain for port in ports for chain in own(port, settings)]
    return state(iter([*chains, *frame((line for port in ports for line in shared(port, settings)), settings)]))


def reachable(*ports: ServicePort) -> list[tuple[str, str, int, str, int]]:
    return [
        (code(port), where.address or NODE, where.port, each.address, each.port)
        for port in ports
        for where in port.frontends
        for each in port.endpoints
    ]


def forgotten(before: NodeState, then: NodeState, *now: ServicePort) -> set[Flow]:
    found = list(forget_chains(plan(then, before), reachable(*now), (NODE, "fd00::2")))
    assert len(set(found)) == len(found)
    assert {each.protocol for each in found} <= {17}
    return {(each.destination, each.to_port, each.answered_by, each.reply_port) for each in found}


def at(port: ServicePort, *answering: str) -> set[Flow]:
    places = ((port.cluster_ip, 53), (NODE, port.node_port))
    return {(*place, each, TO if each else 0) for place in places for each in answering}


@pytest.mark.parametrize("large", [False, True])
def test_an_endpoint_that_goes_takes_its_flows_through_its_own_service(large: bool) -> None:
    """Another Service leads to the same pod; names are all that tells, since a large cluster has no comments."""
    settings = replace(SETTINGS, large=large)
    before, then = held(dns(2, 3), OTHER, settings=settings), held(dns(3), OTHER, settings=settings)
    assert forgotten(before, then, dns(3), OTHER) == at(dns(), "10.244.2.2")


def test_an_endpoint_at_another_port_is_another_one() -> None:
    before, then = dns(2), dns(2, to=9090)
    assert forgotten(held(before, OTHER), held(then, OTHER), then, OTHER) == at(dns(), "10.244.2.2")


def test_an_endpoint_that_comes_takes_nothing() -> None:
    assert forgotten(held(dns(2), OTHER), held(dns(2, 3), OTHER), dns(2, 3), OTHER) == set()


def test_the_first_endpoint_answers_who_was_refused() -> None:
    """They are remembered as answered by the Service's address itself."""
    wanted = {("10.96.0.10", 53, "10.96.0.10", 0), (NODE, 30053, NODE, 0)}
    assert forgotten(held(dns(), OTHER), held(dns(2), OTHER), dns(2), OTHER) == wanted
    assert forgotten(held(OTHER), held(dns(2), OTHER), dns(2), OTHER) == wanted


def test_a_service_that_goes_takes_all_its_flows() -> None:
    assert forgotten(held(dns(2, 3), OTHER), held(OTHER), OTHER) == at(dns(), "")
    assert forgotten(held(dns(2), OTHER), held(dns(), OTHER), dns(), OTHER) == at(dns(), "")


def test_tcp_has_no_part_in_it() -> None:
    made, fewer = replace(dns(2, 3), protocol="tcp"), replace(dns(2), protocol="tcp")
    assert forgotten(held(made), held(fewer)) == set()
    assert forgotten(held(made), held()) == set()


def test_another_mode_takes_nothing_that_it_serves_as_well() -> None:
    assert forgotten(held(dns(2, 3), OTHER), {}, dns(2, 3), OTHER) == set()
