"""Which endpoint has which slot: the shares, what a change moves, and how connections become weights."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.proxy import nft_chains
from podnet.network.proxy.algorithms import (
    ALGORITHMS,
    COUNTERS,
    HASHED,
    HEAVIEST,
    LEAST,
    ROUND_ROBIN,
    SOURCE_HASH,
    TURNS,
    USUAL,
    hashed,
    loads,
    turns,
    way,
    weighed,
    weights,
)
from podnet.network.proxy.faults import of_service
from podnet.network.proxy.feature import least_loaded
from podnet.network.proxy.nft_chains import Settings
from podnet.network.proxy.nftables import elements
from podnet.network.proxy.service_ports import ALGORITHM_ANNOTATION, algorithm, service_ports
from podnet.network.service_port import Endpoint, Place, Segment, ServicePort
from podnet.network.viewing import view
from podnet.objects.network import ProxySpec
from podnet.state.nft import Element
from tests.worlds import backend, cluster, config, endpoint_slice, facts, node, service


def some(count: int, *weights: int) -> tuple[Endpoint, ...]:
    shares = weights or (1,) * count
    return tuple(Endpoint(f"10.244.0.{n}", 80, weight=w) for n, w in enumerate(shares, 1))


def port(algorithm: str, *endpoints: Endpoint, **more: object) -> ServicePort:
    plain = ServicePort(
        "default", "web", "", "tcp", False, "10.96.0.1", 80, algorithm=algorithm,
        internal=endpoints, external=endpoints, cluster=endpoints, anywhere=bool(endpoints),
    )  # fmt: skip
    return replace(plain, **more)


# -- source-hash


@given(st.integers(1, 12), st.data())
def test_a_change_of_one_endpoint_moves_its_share_only(count: int, data: st.DataObject) -> None:
    whole = some(count + 1)
    gone = data.draw(st.sampled_from(whole))
    before, after = hashed(whole), hashed(tuple(each for each in whole if each != gone))
    assert len(before) == len(after) == HASHED
    assert all(old == new for old, new in zip(before, after, strict=True) if old != gone)
    assert gone not in after


def test_shares_are_near_even_and_follow_weights() -> None:
    even = Counter(hashed(some(4)))
    assert all(abs(count - HASHED / 4) < 60 for count in even.values()), even
    lean = Counter(hashed(some(2, 3, 1)))
    assert abs(lean[some(2, 3, 1)[0]] - HASHED * 3 / 4) < 60, lean
    assert set(hashed(some(1))) == set(some(1))


def test_a_weight_that_changes_moves_no_more_than_it_must() -> None:
    before, after = (hashed(some(3, *w)) for w in ((1, 1, 1), (1, 1, 2)))
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old.address != new.address]
    assert moved
    assert {new.address for _, new in moved} == {"10.244.0.3"}


def test_the_order_of_endpoints_does_not_matter() -> None:
    three = some(3)
    assert hashed(three) == hashed(three[::-1])


# -- round-robin


@pytest.mark.parametrize("count", range(1, 9))
def test_rounds_are_whole(count: int) -> None:
    found = turns(some(count))
    assert len(found) == TURNS
    rounds = [found[start : start + count] for start in range(0, TURNS, count)]
    assert set(rounds) == {some(count)}


def test_turns_by_weight_are_spread() -> None:
    found = turns(some(2, 3, 1))
    assert Counter(found) == {some(2, 3, 1)[0]: TURNS * 3 // 4, some(2, 3, 1)[1]: TURNS // 4}
    light = [place for place, each in enumerate(found) if each.weight == 1]
    assert {b - a for a, b in pairwise(light)} == {4}
    many = Counter(turns(some(100)))
    assert set(many.values()) == {8, 9}


# -- least-connections


def test_weights_pull_towards_the_mean() -> None:
    assert weights({}) == weights({"a": 0}) == weights({"a": 7, "b": 7}) == {}
    assert weights({"a": 100, "b": 0}) == {"a": 2, "b": HEAVIEST}
    three = weights({"a": 10, "b": 20, "c": 30})
    assert three["a"] > three["b"] > three["c"] >= 1
    assert weights({"a": 10**6, **{f"b{n}": 0 for n in range(9)}})["a"] == 1
    assert weights({"a": 1000, "b": 1010}) == {}, "noise moves nothing"


def test_loads_count_what_came_through_the_services_own_frontends() -> None:
    both = some(2)
    mine = port(LEAST, *both)
    flows = {
        (6, "10.96.0.1", 80, "10.244.0.1"): 50,
        (17, "10.96.0.1", 80, "10.244.0.2"): 500,
        (6, "10.96.0.9", 80, "10.244.0.2"): 500,
        (6, "10.96.0.1", 80, "10.244.0.99"): 500,
    }
    found = loads([(mine, (6, "10.96.0.1", 80))], flows)
    assert found == {("default", "web"): weights({"10.244.0.1": 50, "10.244.0.2": 0})}
    assert loads([], flows) == {}


def test_weights_are_on_top_of_those_of_a_route() -> None:
    both = some(2, 3, 1)
    mine = port(LEAST, *both, segments=(Segment(("10.0.0.0/8",), both, both, both),))
    found = weighed(mine, {"10.244.0.1": 2})
    assert [each.weight for each in found.internal] == [6, USUAL]
    assert found.segments[0].external == found.external == found.cluster == found.internal
    assert weighed(mine, {}) is mine
    other = port(SOURCE_HASH, *both)
    assert weighed(other, {"10.244.0.1": 2}) is other


# -- as elements and chains


def said(of: ServicePort) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in elements(of, ("192.168.77.11",)):
        assert isinstance(each, Element)
        found.setdefault(each.set, []).append(each.value)
    return found


def test_elements_lead_to_the_chains_of_the_algorithm() -> None:
    two = some(2)
    counter = way(port(ROUND_ROBIN), 1)
    for name, verdict, slots in (
        ("random", "goto n2", 2), (SOURCE_HASH, "goto n-hash", HASHED), (ROUND_ROBIN, f"goto n{counter}", TURNS),
        (LEAST, "goto n2", 2),
    ):  # fmt: skip
        found = said(port(name, *two))
        assert found["services"] == [verdict]
        assert len(found["endpoints"]) == slots
    lanes = said(port(SOURCE_HASH, *two, node_port=30001, external_local=True))
    assert lanes["lanes"] == ["goto r-hash"]
    assert len(lanes["routed"]) == HASHED


def test_with_affinity_the_first_pick_is_the_algorithms() -> None:
    assert said(port(SOURCE_HASH, *some(2), affinity=60))["picks"] == ["jump k-hash"]
    assert said(port(ROUND_ROBIN, *some(2), retry=True))["picks"] == [f"jump k{way(port(ROUND_ROBIN), 1)}"]
    assert said(port(SOURCE_HASH, *some(2), retry=True))["picks"] == ["jump k2"], "a retry has to go elsewhere"


def test_chains_that_elements_lead_to_exist_when_they_are_asked_for_only() -> None:
    for v6 in (False, True):
        plain = nft_chains.table(Settings(v6, ("fd00::/16",) if v6 else ("10.0.0.0/8",), ())).body
        assert "jhash" not in plain
        assert "numgen inc" not in plain
        whole = nft_chains.table(Settings(v6, (), (), algorithms=(ROUND_ROBIN, SOURCE_HASH))).body if v6 else plain
        for letter in "nrk":
            assert (f"chain {letter}-hash {{" in whole) is v6
            assert whole.count(f"chain {letter}-turn-") == (COUNTERS if v6 else 0)


# -- from the Service to the node


def test_services_say_what_they_want() -> None:
    for name in ALGORITHMS:
        asking = service(annotations={ALGORITHM_ANNOTATION: name})
        assert algorithm(asking) == name
        assert [each.algorithm for each in service_ports(asking, (), Place("n1"))] == [name]
        assert list(of_service(asking, {False})) == []
    wrong = service(annotations={ALGORITHM_ANNOTATION: "best"})
    assert algorithm(wrong) == "random"
    (problem,) = of_service(wrong, {False})
    assert (problem.reason, "least-connections" in problem.message) == ("NoSuchAlgorithm", True)


def test_a_node_has_the_chains_and_takes_the_weights() -> None:
    asking = service(annotations={ALGORITHM_ANNOTATION: LEAST})
    slices = endpoint_slice("web", backend("10.244.1.2", "n1"), backend("10.244.2.2", "n2"))
    world = cluster([node(1), node(2)], config(proxy=ProxySpec()), services=[asking], slices=[slices])
    seen = view(world, facts(1))
    assert seen is not None
    assert seen.algorithms == (LEAST,)
    found = least_loaded(seen, {(6, "10.96.0.1", 80, "10.244.1.2"): 40})
    memo: dict[object, object] = {}
    again = view(world, facts(1), memo=memo, loads=found)  # type: ignore[arg-type]
    assert again is not None
    first, second = again.services["default", "web"][0].internal
    assert first.weight < second.weight
    relieved = view(world, facts(1), memo=memo)  # type: ignore[arg-type]
    assert relieved is not None
    assert [each.weight for each in relieved.services["default", "web"][0].internal] == [1, 1]
