"""Which UDP flows a change of Services makes wrong: exactly those, and no others.

A flow is (frontend's address, port, who answers); a client's own flow to nobody is answered by the frontend itself.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.proxy.flows import forget
from podnet.network.proxy.nftables import elements, frontends
from podnet.network.service_port import Endpoint, ServicePort
from podnet.state.host import ForgetFlows
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Plan, Step, plan
from podnet.state.resource import NodeState, Resource, state
from tests.network.proxy.meeting import AFFINITY, FOUR, node_addresses, service_port

NODE = node_addresses(FOUR)
Flow = tuple[str, int, str, int]
TO = 8080


def dns(*numbers: int, **more: Any) -> ServicePort:
    """A UDP ServicePort whose endpoints are these pods of another node."""
    found = tuple(Endpoint(f"10.244.2.{number}", TO) for number in numbers)
    said: dict[str, Any] = {"internal": found, "external": found, "cluster": found, "anywhere": bool(found)}
    return service_port(**({"protocol": "udp"} | said | more))


def held(*ports: ServicePort) -> NodeState:
    return state(each for port in ports for each in elements(port, NODE))


def reachable(*ports: ServicePort) -> set[Flow]:
    return {
        (where.address, where.port, each.address, each.port)
        for port in ports
        if port.protocol == "udp"
        for where in frontends(port, NODE)
        for each in port.endpoints
    }


def forgotten(before: tuple[ServicePort, ...], then: tuple[ServicePort, ...]) -> set[Flow]:
    """The flows that are forgotten when the kernel goes from one to the other."""
    found = list(forget(plan(held(*then), held(*before)), reachable(*then)))
    assert {each.protocol for each in found} <= {17}
    assert len(set(found)) == len(found)
    return {(each.destination, each.to_port, each.answered_by, each.reply_port) for each in found}


def places(port: ServicePort) -> set[tuple[str, int]]:
    return {(where.address, where.port) for where in frontends(port, NODE)}


def test_an_endpoint_that_goes_takes_its_flows_and_those_in_shifted_slots_stay() -> None:
    before, then = dns(1, 2, 3), dns(2, 3)
    assert forgotten((before,), (then,)) == {(*place, "10.244.2.1", TO) for place in places(then)}


def test_an_endpoint_at_another_port_is_another_one() -> None:
    """And those of the same pod that stay are known by their port."""
    moved = (Endpoint("10.244.2.1", 9090), Endpoint("10.244.2.2", TO))
    before, then = dns(1, 2), dns(internal=moved, external=moved, cluster=moved, anywhere=True)
    assert forgotten((before,), (then,)) == {(*place, "10.244.2.1", TO) for place in places(then)}


def test_an_endpoint_that_comes_forgets_nothing() -> None:
    assert forgotten((dns(2, 3),), (dns(1, 2, 3),)) == set()


def test_nothing_changes_nothing_is_forgotten() -> None:
    """A restart of the agent is this."""
    assert forgotten((dns(1, 2),), (dns(1, 2),)) == set()


def test_a_new_service_forgets_what_went_to_its_addresses_untranslated() -> None:
    then = dns(1)
    assert forgotten((), (then,)) == {(*place, place[0], 0) for place in places(then)}


def test_a_new_frontend_forgets_what_went_there_untranslated() -> None:
    before = dns(1)
    then = replace(before, external_ips=(*before.external_ips, "203.0.113.9"))
    assert forgotten((before,), (then,)) == {("203.0.113.9", 80, "203.0.113.9", 0)}


def test_a_service_that_goes_takes_all_its_flows() -> None:
    before = dns(1, 2)
    assert forgotten((before,), ()) == reachable(before)


def test_a_frontend_that_goes_takes_its_flows() -> None:
    before = dns(1, 2)
    assert forgotten((before,), (replace(before, external_ips=()),)) == {
        (FOUR.external, 80, each.address, TO) for each in before.endpoints
    }


def test_from_nothing_to_something_and_back() -> None:
    """With no endpoint packets are refused, which leaves no flow behind; those of the last endpoint must go."""
    none, some = dns(), dns(1)
    assert forgotten((none,), (some,)) == set()
    assert forgotten((some,), (none,)) == reachable(some)


def test_tcp_has_connections_that_end_by_themselves() -> None:
    tcp = replace(dns(1, 2), protocol="tcp")
    assert forgotten((tcp,), (replace(tcp, internal=(), external=(), cluster=()),)) == set()
    assert forgotten((), (tcp,)) == forgotten((tcp,), ()) == set()


def test_the_same_number_of_tcp() -> None:
    """TCP's endpoints at the same address and port neither keep nor take UDP's flows."""
    tcp = replace(dns(1), protocol="tcp")
    assert forgotten((dns(1), tcp), (dns(2), tcp)) == {(*place, "10.244.2.1", TO) for place in places(tcp)}
    assert forgotten((dns(1), tcp), (dns(1), replace(tcp, internal=(), external=(), cluster=()))) == set()


def test_policy_local_keeps_what_pods_of_the_node_still_reach() -> None:
    before = dns(1, 2)
    then = replace(before, external_local=True, external=())
    assert forgotten((before,), (then,)) == set()


def test_an_endpoint_that_only_those_outside_reach() -> None:
    only = Endpoint("10.244.1.9", 8080, True)
    before = replace(dns(1), external_local=True, external=(only,))
    then = replace(before, external=())
    outer = {place for place in places(before) if place[0] != FOUR.cluster_ip}
    assert forgotten((before,), (then,)) == {(*place, only.address, TO) for place in outer}


def test_other_tables_and_other_sets_are_not_asked() -> None:
    key = "192.0.2.1 . 17 . 53"
    found: list[Resource] = [
        NftTable("ip", "podnet-services", "body"),
        Element("ip", "podnet-other", "endpoints", f"{key} . 0", "10.244.2.1 . 53"),
        Element("ip", "podnet-services", "masqueraded", key),
        Element("ip", "podnet-services", "cluster-ips", "192.0.2.1"),
    ]
    steps = [Step(verb, each) for each in found for verb in ("add", "delete")]
    assert list(forget(Plan(tuple(steps)), ())) == []


def test_what_is_reachable_is_asked_only_when_something_of_udp_went() -> None:
    def refuse() -> Any:
        yield from [1 // 0]

    for change in (plan(held(dns(1)), {}), plan({}, held(replace(dns(1), protocol="tcp")))):
        assert all(isinstance(each, ForgetFlows) for each in forget(change, refuse()))


PORTS = st.builds(
    lambda numbers, **more: dns(*sorted(numbers), **more),
    st.sets(st.integers(1, 6)),
    affinity=st.sampled_from([0, AFFINITY]),
    split=st.booleans(),
    node_port=st.sampled_from([0, 30080]),
    protocol=st.sampled_from(["udp", "udp", "udp", "tcp"]),
)


@settings(max_examples=60, deadline=None)
@given(PORTS, PORTS)
def test_what_is_still_reached_stays_and_what_is_not_goes(before: ServicePort, then: ServicePort) -> None:
    found = forgotten((before,), (then,))
    untranslated = {flow for flow in found if flow[0] == flow[2]}
    assert not reachable(then) & found
    assert found - untranslated == reachable(before) - reachable(then)
    fresh = places(then) - (places(before) if before.protocol == "udp" else set())
    assert {flow[:2] for flow in untranslated} == (fresh if then.protocol == "udp" else set())
