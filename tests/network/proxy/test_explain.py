"""What is said about a Service is what a packet meets in the chains and elements that are rendered for it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.proxy.algorithms import ALGORITHMS, SOURCE_HASH
from podnet.network.proxy.explain import Meeting, client_at, explain
from podnet.network.proxy.manners import Client, Surroundings
from podnet.network.proxy.nftables import PROTOCOLS, elements, ids_of, number
from podnet.network.service_port import Endpoint, Segment, ServicePort
from podnet.state.nft import Element
from tests.network.proxy.meeting import (
    AFFINITY,
    FOUR,
    SIX,
    Family,
    endpoints,
    family,
    machine,
    node_addresses,
    service_port,
)
from tests.network.proxy.nft_machine import Machine, Packet, Seen
from tests.network.proxy.test_nftables import PORTS


def around(net: Family, everywhere: bool = False, all_ranges: bool = False) -> Surroundings:
    return Surroundings(node_addresses(net), (net.own,), (net.pods,), everywhere, all_ranges)


def meetings(port: ServicePort, who: Client, everywhere: bool = False, all_ranges: bool = False) -> list[Meeting]:
    return list(explain((port,), who, around(family(port), everywhere, all_ranges)))


def walked(made: Machine, port: ServicePort, where: Meeting, who: Client) -> Counter[Seen]:
    """What the chains do with every slot; affinity is forgotten between them."""
    packet = Packet(who.address, where.address, where.number, PROTOCOLS[port.protocol], who.kind == "node")
    if not where.affinity:
        return made.all(packet)
    memory = made.held[f"affinity-{AFFINITY}"]
    seen: Counter[Seen] = Counter()
    for slot in range(len(where.shares)):
        memory.clear()
        seen[made.one(packet, slot)] += 1
    return seen


def said(where: Meeting, slots: int) -> Counter[Seen]:
    """The same from the explanation."""
    if where.outcome != "to":
        return Counter({Seen(where.outcome): 1})
    found: Counter[Seen] = Counter()
    for share in where.shares:
        target = f"{share.endpoint.address} . {share.endpoint.port}"
        found[Seen("to", target, share.hidden, where.retry)] += round(share.percent * slots / 100)
    return found


@settings(max_examples=30, deadline=None)
@given(PORTS, st.booleans(), st.booleans())
def test_explanation_and_chains_agree(port: ServicePort, everywhere: bool, all_ranges: bool) -> None:
    net, made = family(port), machine(port, everywhere=everywhere, all_ranges=all_ranges)
    addresses = [net.pod, net.far_pod, net.outside, net.stranger, *(each.address for each in port.endpoints)]
    for who in [client_at(address, around(net)) for address in addresses]:
        found = meetings(port, who, everywhere, all_ranges)
        assert {(each.scope, each.address) for each in found} >= {("cluster", net.cluster_ip), ("node", net.node)}
        for where in found:
            seen = walked(made, port, where, who)
            assert said(where, seen.total()) == seen


@settings(max_examples=25, deadline=None)
@given(PORTS, st.booleans())
def test_of_the_node_itself(port: ServicePort, all_ranges: bool) -> None:
    """It has its own address anyhow, so masquerading makes no difference that is seen."""
    net, made = family(port), machine(port, all_ranges=all_ranges)
    who = client_at(net.node, around(net))
    assert who.kind == "node"
    for where in meetings(port, who, all_ranges=all_ranges):
        seen = walked(made, port, where, who)
        found = said(where, seen.total())
        assert _unmasked(found) == _unmasked(seen)
        assert all(share.hidden for share in where.shares)


def _unmasked(seen: Counter[Seen]) -> Counter[Seen]:
    result: Counter[Seen] = Counter()
    for each, times in seen.items():
        result[Seen(each.what, each.target)] += times
    return result


def one(port: ServicePort, who: Client, scope: str = "cluster") -> Meeting:
    return next(each for each in meetings(port, who) if each.scope == scope)


def test_who_has_an_address() -> None:
    known = around(FOUR)
    kinds = [client_at(address, known).kind for address in (FOUR.pod, FOUR.node, FOUR.far_pod, FOUR.outside, "::1")]
    assert kinds == ["pod", "node", "outside", "outside", "node"]


def test_weights_in_percent() -> None:
    canary = (Endpoint("10.244.1.1", 80, weight=95), Endpoint("10.244.1.2", 80, weight=5))
    found = one(service_port(internal=canary), Client("pod"))
    assert [round(share.percent, 1) for share in found.shares] == [95.0, 5.0]


@pytest.mark.parametrize(
    ("port", "who", "scope", "outcome", "word"),
    [
        (service_port(here=0, there=0), Client("pod"), "cluster", "refused", "no endpoint is ready"),
        (service_port(here=0, local=(True, False)), Client("pod"), "cluster", "dropped", "internalTrafficPolicy"),
        (service_port(here=0, local=(False, True)), Client("outside"), "node", "dropped", "externalTrafficPolicy"),
        (service_port(here=0, local=(False, True)), Client("pod"), "node", "to", ""),
        (service_port(guarded=True), Client("outside", FOUR.stranger), "balancer", "dropped", "SourceRanges"),
        (service_port(guarded=True), Client("outside"), "balancer", "to", ""),
        (service_port(guarded=True), Client("outside", FOUR.stranger), "external", "to", ""),
    ],
)  # fmt: skip
def test_why_there_is_no_endpoint(port: ServicePort, who: Client, scope: str, outcome: str, word: str) -> None:
    found = one(port, who, scope)
    assert found.outcome == outcome
    assert word in found.why
    assert bool(found.shares) == (outcome == "to")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("retry", [False, True])
def test_other_ways_to_pick_than_chance(algorithm: str, retry: bool) -> None:
    """Their shares are those of the slots that are rendered."""
    weighed = tuple(replace(each, weight=1 + n) for n, each in enumerate(endpoints(FOUR, 1, 3)))
    port = service_port(internal=weighed, algorithm=algorithm, retry=retry, split=True)
    made = list(elements(port, node_addresses(FOUR)))
    for where in (each for each in meetings(port, Client("pod")) if each.scope == "cluster"):
        lane = number(port, port.segments.index(_segment(port, where)) + 1 if where.segment else 0)
        held = "routed" if where.segment else "ids" if retry else "endpoints"
        start = f"{FOUR.cluster_ip} . 6 . 80 . " if held == "endpoints" else f"{FOUR.cluster_ip} . 80 . {lane} . "
        slots = Counter(
            each.value
            for each in made
            if isinstance(each, Element) and each.set == held and each.element.startswith(start)
        )
        known = ids_of(port)
        for share in where.shares:
            target = known[share.endpoint] if held == "ids" else f"{share.endpoint.address} . {share.endpoint.port}"
            assert share.percent == 100 * slots[target] / slots.total()
        assert len(slots) == len(where.shares)
        assert where.algorithm == ("random" if held == "ids" and algorithm == SOURCE_HASH else algorithm)


def _segment(port: ServicePort, where: Meeting) -> Segment:
    return next(each for each in port.segments if each.sources == where.segment)


def test_pods_of_one_bridge_without_br_netfilter() -> None:
    known = replace(around(FOUR), apart=True)
    for who, hidden in ((Client("pod", FOUR.pod), [True, False]), (Client("outside", FOUR.far_pod), [False, False])):
        found = next(explain((service_port(),), who, known))
        assert [share.hidden for share in found.shares] == hidden


def test_an_empty_segment() -> None:
    port = service_port(split=True)
    empty = replace(port, segments=tuple(replace(each, internal=()) for each in port.segments))
    found = one(empty, Client("pod", FOUR.pod))
    assert (found.outcome, found.why) == ("dropped", "no endpoint of the segment is ready")
    assert found.segment == (FOUR.own,)


def test_without_an_address_every_segment_is_told_beside_the_rest() -> None:
    found = [each for each in meetings(service_port(split=True), Client("outside")) if each.scope == "cluster"]
    assert [each.segment for each in found] == [(), (FOUR.own,), (FOUR.outside,)]


def test_affinity_and_retries_are_of_those_that_no_segment_names() -> None:
    port = service_port(split=True, affinity=AFFINITY)
    assert [each.affinity for each in meetings(port, Client("pod")) if each.scope == "cluster"] == [AFFINITY, 0, 0]
    retried = service_port(split=True, retry=True)
    assert [each.retry for each in meetings(retried, Client("pod")) if each.scope == "cluster"] == [True, False, False]


def test_only_frontends_of_the_clients_family() -> None:
    both = (service_port(), service_port(True))
    assert {each.address for each in explain(both, Client("outside", SIX.outside), around(SIX))} >= {SIX.cluster_ip}
    assert FOUR.cluster_ip not in {each.address for each in explain(both, Client("outside", SIX.outside), around(SIX))}
