"""Turns, affinities and the next endpoint after a failure."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from podnet.network.proxy.balancing import Identity, Ring, Table, identity
from podnet.network.service_port import Endpoint, Segment, ServicePort

A, B, C = (Endpoint(f"10.1.0.{number}", 80) for number in (1, 2, 3))
PLAIN = ServicePort("default", "web", "", "tcp", False, "10.96.0.1", 80, internal=(A,), external=(B,), cluster=(A, B))


def test_everybody_gets_a_turn():
    ring = Ring()
    assert [ring.pick((A, B, C), "x", 0) for _ in range(7)] == [A, B, C, A, B, C, A]


def test_services_that_are_seldom_asked_do_not_all_begin_with_the_same_endpoint():
    ports = [msgspec.structs.replace(PLAIN, port=number, internal=(A, B)) for number in range(80, 112)]
    first = Counter(entry.pick("cluster", True, "x", 0) for entry in table(*ports).entries)
    assert min(first[A], first[B]) >= 8


def test_nobody_to_pick():
    assert Ring().pick((), "x", 0, affinity=10) is None


@given(st.integers(1, 6), st.integers(1, 20))
def test_turns_are_fair(size: int, rounds: int):
    among = tuple(Endpoint(f"10.1.0.{number}", 80) for number in range(size))
    ring = Ring()
    counts = Counter(ring.pick(among, "x", 0) for _ in range(size * rounds))
    assert set(counts.values()) == {rounds}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30))
def test_turns_survive_that_endpoints_come_and_go(sizes: list[int]):
    ring = Ring()
    for size in sizes:
        among = tuple(Endpoint(f"10.1.0.{number}", 80) for number in range(size))
        assert {ring.pick(among, "x", 0) for _ in range(size)} == set(among)


def test_a_failed_endpoint_is_not_tried_again_while_there_is_another():
    ring = Ring()
    first = ring.pick((A, B, C), "x", 0)
    assert first == A
    second = ring.pick((A, B, C), "x", 0, tried=(A,))
    assert second == B
    ring.pick((A, B, C), "y", 0)  # others take turns meanwhile
    assert ring.pick((A, B, C), "x", 0, tried=(A, B)) == C
    assert ring.pick((A, B, C), "x", 0, tried=(A, B, C)) in (A, B, C)
    assert ring.pick((A,), "x", 0, tried=(A,)) == A


def test_a_client_keeps_its_endpoint_for_its_time_since_it_last_came():
    ring = Ring()
    first = ring.pick((A, B), "x", 0, affinity=10)
    assert ring.pick((A, B), "x", 9, affinity=10) == first
    assert ring.pick((A, B), "x", 18, affinity=10) == first
    assert ring.pick((A, B), "x", 28, affinity=10) != first


def test_affinity_moves_with_a_failure_and_when_the_endpoint_goes():
    ring = Ring()
    assert ring.pick((A, B), "x", 0, affinity=10) == A
    assert ring.pick((A, B), "x", 1, affinity=10, tried=(A,)) == B
    assert ring.pick((A, B), "x", 2, affinity=10) == B
    assert ring.pick((A, C), "x", 3, affinity=10) in (A, C)
    assert ring.keep.endpoints == {"x": ring.pick((A, C), "x", 4, affinity=10)}


def test_without_affinity_nothing_is_kept():
    ring = Ring()
    ring.pick((A, B), "x", 0)
    assert ring.keep.endpoints == {}


def test_what_is_over_is_forgotten():
    ring = Ring()
    ring.pick((A,), "old", 0, affinity=10)
    ring.pick((A,), "new", 5, affinity=10)
    ring.keep.expire({A.address, B.address}, 10, 10)
    assert ring.keep.endpoints == {"new": A}
    ring.keep.expire({B.address}, 10, 10)
    assert ring.keep.endpoints == {}


def table(*ports: ServicePort) -> Table:
    made = Table()
    made.change(ports, (), ("10.1.0.0/16", "127.0.0.0/8", "fd00::/64"))
    return made


def test_frontends_are_found_by_what_the_client_meant():
    port = msgspec.structs.replace(PLAIN, node_port=30080, external_ips=("1.2.3.4",), balancer_ips=("1.2.3.5",))
    found = table(port)
    scopes = {
        ("tcp", "10.96.0.1", 80): "cluster",
        ("tcp", "1.2.3.4", 80): "external",
        ("tcp", "1.2.3.5", 80): "balancer",
        ("tcp", "192.168.77.2", 30080): "node",
    }
    for key, scope in scopes.items():
        entry = found.find(*key)
        assert entry
        assert entry[1] == scope
    for key in (("udp", "10.96.0.1", 80), ("tcp", "10.96.0.1", 81), ("tcp", "10.96.0.2", 80)):
        assert found.find(*key) is None


def test_node_ports_are_those_of_the_family_they_are_met_in():
    four = msgspec.structs.replace(PLAIN, node_port=30080)
    six = msgspec.structs.replace(four, v6=True, cluster_ip="fd96::1")
    made = table(four, six)
    for address, port in (("192.168.77.2", four), ("127.0.0.1", four), ("fd77::2", six), ("::1", six)):
        found = made.find("tcp", address, 30080)
        assert found
        assert found[0].port == port
    made.change((), [identity(four)], ())
    assert made.find("tcp", "192.168.77.2", 30080) is None
    assert made.find("tcp", "fd77::2", 30080)


def test_who_comes_from_where_gets_which_endpoints():
    (entry,) = table(PLAIN).entries
    assert entry.among("cluster", True, "10.1.9.9") == (A,)
    assert entry.among("node", True, "10.1.9.9") == (A, B)
    assert entry.among("node", False, "1.1.1.1") == (B,)


def test_who_is_inside():
    found = table()
    assert [found.is_inside(client) for client in ("10.1.2.3", "127.0.0.1", "fd00::1")] == [True] * 3
    assert [found.is_inside(client) for client in ("10.2.0.1", "fd01::1")] == [False] * 2


def test_a_change_keeps_turns_and_affinities_of_what_stays():
    port = msgspec.structs.replace(PLAIN, affinity=10)
    made = table(port)
    (entry,) = made.entries
    entry.ring.pick((A,), "x", 0, 10)
    made.change([msgspec.structs.replace(port, internal=(A, C), cluster=(A, C))], (), ())
    made.expire(1)
    assert list(made.entries) == [entry]
    assert entry.ring.keep.endpoints == {"x": A}
    made.change([msgspec.structs.replace(port, internal=(C,), cluster=(C,), external=(C,))], (), ())
    made.expire(2)
    assert entry.ring.keep.endpoints == {}
    made.change((), [identity(port)], ())
    assert entry.gone
    assert made.find("tcp", "10.96.0.1", 80) is None


def test_affinities_end_by_themselves():
    made = table(msgspec.structs.replace(PLAIN, affinity=10))
    (entry,) = made.entries
    entry.ring.pick((A,), "x", 0, 10)
    made.expire(10)
    assert entry.ring.keep.endpoints == {}


def test_an_address_of_two_services_stays_with_the_first_until_that_goes():
    one = msgspec.structs.replace(PLAIN, external_ips=("1.2.3.4",))
    two = msgspec.structs.replace(one, service="zwei", cluster_ip="10.96.0.2")
    made = table(one, two)
    assert holder(made) == identity(one)
    made.change((), [identity(one)], ())
    assert holder(made) == identity(two)
    made.change((), [identity(two)], ())
    assert made.find("tcp", "1.2.3.4", 80) is None


def holder(made: Table) -> Identity:
    found = made.find("tcp", "1.2.3.4", 80)
    assert found
    return identity(found[0].port)


def test_an_address_that_a_service_gives_up_leads_nowhere():
    made = table(msgspec.structs.replace(PLAIN, external_ips=("1.2.3.4",)))
    made.change([PLAIN], (), ())
    assert made.find("tcp", "1.2.3.4", 80) is None
    assert made.find("tcp", "10.96.0.1", 80)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6))
def test_weights_are_kept_exactly_over_a_whole_turn(weights: list[int]):
    among = tuple(Endpoint(f"10.1.0.{place}", 80, weight=weight) for place, weight in enumerate(weights))
    ring = Ring()
    counts = Counter(ring.pick(among, "x", 0) for _ in range(sum(weights)))
    assert counts == {each: each.weight for each in among}


def test_weights_are_mixed_and_a_failure_goes_elsewhere():
    much, little = Endpoint("10.1.0.1", 80, weight=3), Endpoint("10.1.0.2", 80)
    ring = Ring()
    assert [ring.pick((much, little), "x", 0) for _ in range(4)] == [much, much, little, much]
    assert ring.pick((much, little), "x", 0, tried=(much,)) == little


def test_a_new_weight_does_not_move_those_who_stay():
    ring = Ring()
    ring.pick((B, C), "x", 0, affinity=10)
    heavier = msgspec.structs.replace(B, weight=5)
    assert ring.pick((A, heavier, C), "x", 1, affinity=10) == heavier


def test_a_client_stays_with_its_pod_across_the_ports_of_a_service():
    ends = tuple(Endpoint(each.address, 443) for each in (A, B, C))
    plain = msgspec.structs.replace(PLAIN, internal=(A, B, C), affinity=10, affinity_of="default/web")
    other = msgspec.structs.replace(plain, name="https", port=443, internal=ends, external=ends, cluster=ends)
    made = table(plain, other)
    first, second = made.entries
    for client in ("x", "y", "z"):
        one = first.ring.pick(plain.internal, client, 0, 10)
        two = second.ring.pick(ends, client, 1, 10)
        assert one
        assert two
        assert one.address == two.address
    made.change((), [identity(other)], ())
    made.expire(2)
    assert len(first.ring.keep.endpoints) == 3


def test_clients_that_a_segment_names_have_no_affinity():
    segment = Segment(("10.1.7.0/24",), internal=(A, B, C))
    (entry,) = table(msgspec.structs.replace(PLAIN, internal=(A, B), affinity=10, segments=(segment,))).entries
    assert {entry.pick("cluster", True, "10.1.7.9", 0) for _ in range(3)} == {A, B, C}
    assert not entry.ring.keep
    assert len({entry.pick("cluster", True, "10.1.8.9", 0) for _ in range(3)}) == 1


def test_segments_have_endpoints_of_their_own():
    segment = Segment(("10.1.7.0/24", "fd07::/64"), internal=(C,), external=(B, C), cluster=(A, C))
    (entry,) = table(msgspec.structs.replace(PLAIN, segments=(segment,))).entries
    assert entry.among("cluster", True, "10.1.7.9") == (C,)
    assert entry.among("node", False, "10.1.7.9") == (B, C)
    assert entry.among("node", True, "fd07::9") == (A, C)
    assert entry.among("cluster", True, "10.1.8.9") == (A,)
