"""What a client of a Service meets in mode nftables, read off the chains and elements by a tiny machine.

The reference says what it should be: which endpoints, in even shares, whether the source address is kept, and whether
there is a refusal or silence instead.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.proxy.nft_chains import SIZES, TABLE, Settings, table
from podnet.network.proxy.nftables import PROTOCOLS, elements, frontends, hairpin, ids, spread
from podnet.network.service_port import Endpoint, Frontend, ServicePort
from podnet.state.nft import Element, NftTable
from podnet.state.resource import state
from tests.network.proxy.meeting import (
    AFFINITY,
    FOUR,
    STATIC,
    check,
    even,
    family,
    machine,
    node_addresses,
    service_port,
)
from tests.network.proxy.nft_machine import Packet, Seen

POLICIES = st.tuples(st.booleans(), st.booleans())
PORTS = st.builds(
    service_port,
    v6=st.booleans(),
    here=st.integers(0, 3),
    there=st.integers(0, 3),
    local=POLICIES,
    affinity=st.sampled_from([0, AFFINITY]),
    guarded=st.booleans(),
    split=st.booleans(),
    retry=st.booleans(),
    protocol=st.sampled_from(["tcp", "udp", "sctp"]),
)


@settings(max_examples=40, deadline=None)
@given(PORTS, st.booleans(), st.booleans())
def test_every_client_meets_what_the_model_says(port: ServicePort, everywhere: bool, all_ranges: bool) -> None:
    check(machine(port, everywhere=everywhere, all_ranges=all_ranges), port, everywhere, all_ranges)


@pytest.mark.parametrize("number", [1, 2, 100, 128, 129, 200])
def test_shares_are_even_for_any_number_of_endpoints(number: int) -> None:
    port = service_port(here=0, there=number, node_port=0, external_ips=(), balancer_ips=())
    even(
        Counter({k.target: n for k, n in machine(port).all(Packet(FOUR.pod, FOUR.cluster_ip, 80)).items()}),
        port.cluster,
    )


@given(st.integers(1, 9000))
@settings(max_examples=30, deadline=None)
def test_slots(number: int) -> None:
    found = tuple(Endpoint(f"10.{n >> 8}.{n & 255}.1", 80) for n in range(number))
    slots = Counter(spread(found))
    assert set(slots) == set(found)
    assert slots.total() in SIZES
    assert max(slots.values()) <= min(slots.values()) * 9 / 8 or number > 8192


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_shares_follow_weights(weights: list[int]) -> None:
    """To the slot; and exactly, while that takes few of them."""
    found = tuple(Endpoint(f"10.244.1.{n}", 80, weight=weight) for n, weight in enumerate(weights))
    slots = Counter(spread(found))
    for each in found:
        assert abs(slots[each] - slots.total() * each.weight / sum(weights)) < 1
    assert slots.total() in SIZES


def test_a_canary() -> None:
    old, new = Endpoint("10.244.1.1", 80, weight=95), Endpoint("10.244.1.2", 80, weight=5)
    assert Counter(spread((old, new))) == {old: 19, new: 1}


def test_the_lightest_of_many_is_picked_too() -> None:
    """95 to 5 over 3 and 100 endpoints."""
    heavy = tuple(Endpoint(f"10.244.1.{n}", 80, weight=95 * 100) for n in range(3))
    light = tuple(Endpoint(f"10.244.2.{n}", 80, weight=5 * 3) for n in range(100))
    slots = Counter(spread((*heavy, *light)))
    assert min(slots.values()) >= 1
    assert sum(slots[each] for each in light) / sum(slots.values()) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("affinity", [0, AFFINITY])
def test_there_is_a_chain_for_whatever_elements_lead_to(affinity: int) -> None:
    chains = set(re.findall(r"chain (\S+) ", STATIC[False].body))
    for number in (*range(4), 127, 128, 129, 300):
        port = service_port(here=1, there=number, local=(True, True), affinity=affinity, split=True, retry=True)
        for each in elements(port, ("192.0.2.1",)):
            if isinstance(each, Element) and each.value.startswith(("goto", "jump")):
                assert each.value.split()[1] in chains


# -- affinity


@pytest.mark.parametrize("v6", [False, True])
def test_a_client_whose_endpoint_went_gets_another_one_and_only_that_client(v6: bool) -> None:
    before = service_port(v6, here=1, there=2, affinity=AFFINITY)
    gone, *rest = before.cluster
    after = replace(before, internal=tuple(rest), external=tuple(rest), cluster=tuple(rest))
    net, made, then = family(before), machine(before), machine(after)
    packets = [Packet(source, net.cluster_ip, 80) for source in (net.pod, net.far_pod, net.outside)]
    was = [made.one(packet, slot) for slot, packet in enumerate(packets)]
    then.held[f"affinity-{AFFINITY}"] = made.held[f"affinity-{AFFINITY}"]
    now = [then.one(packet, 1) for packet in packets]
    assert was[0].target == f"{gone.address} . {gone.port}" != now[0].target
    assert now[1:] == was[1:]
    assert then.one(packets[0], 0) == now[0]


def test_affinity_is_of_one_port_or_of_the_whole_service() -> None:
    """kube-proxy's is of the port, through whatever address a client comes."""
    web = service_port(affinity=AFFINITY, affinity_of="default/web:web")
    for other, same in (("default/web:admin", False), ("default/web:web", True)):
        made = machine(web, replace(web, name="admin", port=81, node_port=30081, affinity_of=other))
        first = made.one(Packet(FOUR.pod, FOUR.cluster_ip, 80), 0)
        assert made.one(Packet(FOUR.pod, FOUR.external, 80), 1).target == first.target
        assert (made.one(Packet(FOUR.pod, FOUR.cluster_ip, 81), 1).target == first.target) == same


@given(st.sets(st.integers(0, 400), min_size=1, max_size=60), st.data())
def test_ids_stay_when_endpoints_come_and_go(numbers: set[int], data: st.DataObject) -> None:
    """None of these hash alike, and no two are the same."""
    every = [Endpoint(f"10.244.{n >> 8}.{n & 255}", 80) for n in sorted(numbers)]
    some = [each for each in every if data.draw(st.booleans())]
    assert ids(some).items() <= ids(every).items()
    assert len(set(ids(every).values())) == len(every) == len(ids(every))


def test_an_endpoint_has_one_id_whatever_its_weight() -> None:
    light, heavy, other = (Endpoint("10.244.1.1", port, weight=weight) for port, weight in ((80, 1), (80, 9), (81, 1)))
    found = ids((light, heavy, other))
    assert found[light] == found[heavy] != found[other]


def test_a_pod_has_one_id_in_every_port() -> None:
    assert ids([Endpoint("10.244.1.2", 80)]).popitem()[1] == ids([Endpoint("10.244.1.2", 81)]).popitem()[1]
    assert len(set(ids([Endpoint("10.244.1.2", 80), Endpoint("10.244.1.2", 81)]).values())) == 2


# -- beside Services


def test_what_is_no_frontend() -> None:
    made, pod = machine(service_port()), FOUR.pod
    assert made.one(Packet(pod, FOUR.cluster_ip, 81)) == Seen("refused")
    assert made.one(Packet(pod, FOUR.cluster_ip, 80, 17)) == Seen("refused")
    assert made.one(Packet(pod, "10.96.0.9", 80)) == Seen("dropped")
    for address, port in (("192.0.2.200", 80), (FOUR.external, 81), (FOUR.node, 22), (FOUR.far_pod, 8080)):
        assert made.one(Packet(pod, address, port)) == Seen("through")
        assert made.one(Packet(FOUR.node, address, port, host=True)) == Seen("through")


def test_localhost_is_for_the_node_itself() -> None:
    assert machine(service_port()).one(Packet(FOUR.outside, "127.0.0.1", 30080)) == Seen("through")


def test_one_number_for_tcp_and_udp() -> None:
    tcp, udp = service_port(here=1, there=0), service_port(here=0, there=1, protocol="udp")
    made = machine(tcp, udp)
    check(made, tcp)
    check(made, udp)


# -- elements


def keys_of(where: Frontend, port: ServicePort) -> tuple[str, str]:
    """A frontend as elements name it; a lane tells the protocol itself."""
    return f"{where.address} . {PROTOCOLS[port.protocol]} . {where.port}", f"{where.address} . {where.port}"


@settings(max_examples=40, deadline=None)
@given(PORTS, st.booleans())
def test_elements_are_about_the_own_frontends_so_services_do_not_meet(port: ServicePort, all_ranges: bool) -> None:
    net = family(port)
    keys = {key for where in frontends(port, node_addresses(net)) for key in keys_of(where, port)}
    found = list(elements(port, node_addresses(net), all_ranges=all_ranges))
    state(iter(found))
    for each in found:
        assert isinstance(each, Element)
        assert (each.family, each.table) == ("ip6" if port.v6 else "ip", TABLE)
        if each.set != "cluster-ips":
            assert any(each.element == key or each.element.startswith(f"{key} . ") for key in keys)


ADDRESS = r"(?:[0-9.]+|[0-9a-f:]+)"
FRONTEND = rf"{ADDRESS}(?: \. \d+){{1,2}}"  # the protocol may be told by a lane
ID = r"(?!0+:)[0-9a-f]{1,4}:(?!0+$)[0-9a-f]{1,4}"
SPELT = {
    "cluster-ips": (ADDRESS, ""),
    "services inside defaults": (FRONTEND, r"goto [\w-]+"),
    "inner-lanes outer-lanes": (FRONTEND, ID),
    "lanes picks": (rf"{FRONTEND} \. {ID}", r"(goto|jump) [\w-]+"),
    "endpoints": (rf"{FRONTEND} \. \d+", rf"{ADDRESS} \. \d+"),
    "routed": (rf"{FRONTEND} \. {ID} \. \d+", rf"{ADDRESS} \. \d+"),
    "ids": (rf"{FRONTEND} \. {ID} \. \d+", ID),
    "targets": (rf"{FRONTEND} \. {ID}", rf"{ADDRESS} \. \d+"),
    "numbers": (FRONTEND, r"0x[0-9a-f]{8}"),
    "segments outer-segments": (rf"{FRONTEND} \. {ADDRESS}(?:/\d+)?", ID),
    "masqueraded guarded": (FRONTEND, ""),
    "allowed": (rf"{FRONTEND} \. {ADDRESS}(?:/\d+)?", ""),
    "hairpins": (rf"{ADDRESS} \. {ADDRESS}", ""),
}


@settings(max_examples=40, deadline=None)
@given(PORTS)
def test_elements_are_spelt_as_a_numeric_listing_prints_them(port: ServicePort) -> None:
    for each in (hairpin(family(port).pod, port.v6), *elements(port, node_addresses(family(port)))):
        assert isinstance(each, Element)
        key, value = next(spelt for names, spelt in SPELT.items() if each.set in names.split())
        assert re.fullmatch(key, each.element), each
        assert re.fullmatch(value, each.value), each


def test_ranges_do_not_overlap_and_one_address_has_no_prefix() -> None:
    port = service_port(guarded=True, source_ranges=("10.1.0.0/16", "10.1.2.0/24", "10.2.0.1/32", "10.1.2.3/32"))
    found = [
        each.element.split(" . ")[-1]
        for each in elements(port, ())
        if isinstance(each, Element) and each.set == "allowed"
    ]
    assert found == ["10.1.0.0/16", "10.2.0.1"]


def test_nobody_is_allowed_when_no_range_is_left() -> None:
    made = machine(service_port(guarded=True, source_ranges=()))
    assert made.one(Packet(FOUR.outside, FOUR.balancer, 80)) == Seen("dropped")
    assert made.one(Packet(FOUR.outside, FOUR.external, 80)).what == "to"


def test_a_changed_endpoint_costs_its_slots_and_nothing_else() -> None:
    before = service_port(here=0, there=4)
    moved = (*before.cluster[:3], Endpoint("10.244.9.9", 8080))
    after = replace(before, internal=moved, external=moved, cluster=moved)
    one, other = ({each.key: each for each in elements(port, ("192.0.2.1",))} for port in (before, after))
    assert one.keys() == other.keys()
    changed = [one[key] for key in one if one[key] != other[key]]
    assert {each.key[4] for each in changed} == {"endpoints"}
    assert len(changed) == 4, "one for each frontend"


# -- the table


def test_the_table_depends_on_its_settings_only_and_bears_our_mark() -> None:
    four = STATIC[False]
    assert isinstance(four, NftTable)
    assert (four.family, four.name, STATIC[True].family) == ("ip", "podnet-services", "ip6")
    assert "0x4000" not in four.body
    assert not re.search(r"ct mark|iif ", four.body), "no index, and connection marks are others'"
    bare = table(Settings(False, pods=(FOUR.pods,), own=()))
    assert "affinity" not in bare.body
    assert "10.96" not in bare.body
    assert "{  }" not in bare.body, "nft knows no empty set"
