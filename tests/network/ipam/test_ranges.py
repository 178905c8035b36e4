"""Address ranges: host-local's rules one by one, then everything at once against a model that lists every address."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.network.ipam import ranges
from podnet.network.ipam.ranges import AddressTaken, Exhausted, Range, RangeError, RangeSet, allocate, check, parse


def one(*args: str) -> tuple[RangeSet, ...]:
    """A single set of a single range."""
    return ((parse(*args),),)


def order(sets: tuple[RangeSet, ...], last: str = "") -> list[str]:
    """Every address, in the order in which they are given when none comes back."""
    taken: set[str] = set()
    where = {ranges.label(sets[0]): last} if last else {}
    given: list[str] = []
    while True:
        try:
            (address,) = allocate(sets, taken, where)
        except Exhausted:
            return given
        given.append(address.partition("/")[0])
        taken.add(given[-1])
        where = {ranges.label(sets[0]): given[-1]}


def test_a_subnet_gives_all_but_network_gateway_and_broadcast() -> None:
    assert order(one("10.1.2.0/29")) == ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]
    assert order(one("10.1.2.4/30")) == ["10.1.2.6"]


def test_ipv6_has_no_broadcast() -> None:
    assert order(one("fd00::/126")) == ["fd00::2", "fd00::3"]
    assert order(one("fd00::8/125")) == ["fd00::a", "fd00::b", "fd00::c", "fd00::d", "fd00::e", "fd00::f"]


def test_bounds_and_gateway() -> None:
    assert order(one("10.1.2.0/24", "10.1.2.9", "10.1.2.11")) == ["10.1.2.9", "10.1.2.10", "10.1.2.11"]
    assert order(one("10.1.2.0/24", "10.1.2.9", "10.1.2.11", "10.1.2.10")) == ["10.1.2.9", "10.1.2.11"]
    assert order(one("10.1.2.0/24", "", "10.1.2.3", "10.1.2.200")) == ["10.1.2.1", "10.1.2.2", "10.1.2.3"]
    assert order(one("10.1.2.0/24", "10.1.2.253")) == ["10.1.2.253", "10.1.2.254"]
    # Bounds may name the edges; they are not given all the same.
    assert order(one("10.1.2.0/30", "10.1.2.0", "10.1.2.3")) == ["10.1.2.2"]


def test_round_robin_goes_on_after_the_last_address() -> None:
    assert order(one("10.1.2.0/29"), last="10.1.2.4") == ["10.1.2.5", "10.1.2.6", "10.1.2.2", "10.1.2.3", "10.1.2.4"]
    # The end of the range, and an address that is in no range any more.
    assert order(one("10.1.2.0/29"), last="10.1.2.6")[0] == "10.1.2.2"
    assert order(one("10.1.2.0/29"), last="192.168.0.1")[0] == "10.1.2.2"


def test_round_robin_runs_through_every_range_of_a_set() -> None:
    two = ((parse("10.1.2.0/29", "10.1.2.4"), parse("10.9.0.0/30"), parse("10.1.3.0/24", "10.1.3.7", "10.1.3.8")),)
    everything = ["10.1.2.4", "10.1.2.5", "10.1.2.6", "10.9.0.2", "10.1.3.7", "10.1.3.8"]
    assert order(two) == everything
    for at, last in enumerate(everything):
        assert order(two, last) == everything[at + 1 :] + everything[: at + 1]


def test_one_address_from_each_set_with_the_prefix_of_the_subnet() -> None:
    dual = (*one("10.1.2.0/24"), *one("fd00:1::/64"))
    assert allocate(dual, set(), {}) == ("10.1.2.2/24", "fd00:1::2/64")
    last = {"10.1.2.0/24": "10.1.2.7", "fd00:1::/64": "fd00:1::ff"}
    assert allocate(dual, {"fd00:1::100"}, last) == ("10.1.2.8/24", "fd00:1::101/64")


def test_a_released_address_rests_until_the_round_is_over() -> None:
    sets = one("10.1.2.0/28")
    (first,) = allocate(sets, set(), {})
    last, later = first, []
    for _ in range(12):
        (last,) = allocate(sets, set(), {"10.1.2.0/28": last.partition("/")[0]})
        later.append(last)
    assert first not in later
    assert len(set(later)) == 12


def test_exhaustion_names_range_and_numbers() -> None:
    sets = one("10.1.2.0/29", "10.1.2.3")
    taken = {f"10.1.2.{n}" for n in range(3, 7)}
    with pytest.raises(Exhausted) as error:
        allocate(sets, taken, {})
    assert str(error.value) == "no free address in 10.1.2.0/29[10.1.2.3-10.1.2.6]: 4 of 4 are used"
    assert allocate(sets, taken - {"10.1.2.4"}, {}) == ("10.1.2.4/29",)


def test_requested_addresses() -> None:
    dual = (*one("10.1.2.0/24"), *one("fd00:1::/64"))
    assert allocate(dual, set(), {}, ["10.1.2.77"]) == ("10.1.2.77/24", "fd00:1::2/64")
    assert allocate(dual, set(), {}, ["fd00:1:0::5", "10.1.2.77", "10.1.2.77"]) == ("10.1.2.77/24", "fd00:1::5/64")


@pytest.mark.parametrize(
    ("requested", "kind", "message"),
    [
        (["10.1.2.5"], AddressTaken, "10.1.2.5 belongs to another pod"),
        (["10.1.2.0"], RangeError, "10.1.2.0 is in none of the ranges 10.1.2.0/24"),
        (["10.1.2.1"], RangeError, "10.1.2.1 is reserved in 10.1.2.0/24 (network, gateway or broadcast address)"),
        (["10.1.2.255"], RangeError, "10.1.2.255 is in none of the ranges 10.1.2.0/24"),
        (["10.1.3.7"], RangeError, "10.1.3.7 is in none of the ranges 10.1.2.0/24"),
        (["fd00::7"], RangeError, "fd00::7 is in none of the ranges 10.1.2.0/24"),
        (["10.1.2.7", "10.1.2.8"], RangeError, "10.1.2.7 and 10.1.2.8 are both of 10.1.2.0/24"),
    ],
)  # fmt: skip
def test_requests_that_can_not_be_met(requested: list[str], kind: type[RangeError], message: str) -> None:
    with pytest.raises(RangeError) as error:
        allocate(one("10.1.2.0/24"), {"10.1.2.5"}, {}, requested)
    assert type(error.value) is kind
    assert str(error.value).removesuffix(", which gives one address") == message


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("10.1.2.0/31",), "too small to give addresses from; use /30 or larger"),
        (("10.1.2.1/32",), "too small"),
        (("10.1.2.1",), "too small"),
        (("fd00::/127",), "too small to give addresses from; use /126 or larger"),
        (("10.1.2.1/24",), "has host bits set"),
        (("10.1.2.0/33",), "is not a subnet"),
        (("banana",), "'banana' is not a subnet"),
        (("",), "'' is not a subnet"),
        (("10.1.2.0/24", "10.1.3.1"), "rangeStart 10.1.3.1 is outside subnet 10.1.2.0/24"),
        (("10.1.2.0/24", "", "10.1.3.1"), "rangeEnd 10.1.3.1 is outside subnet 10.1.2.0/24"),
        (("10.1.2.0/24", "fd00::1"), "rangeStart fd00::1 is outside subnet"),
        (("10.1.2.0/24", "x"), "rangeStart 'x' is not an IP address"),
        (("10.1.2.0/24", "10.1.2.9", "10.1.2.8"), "rangeStart 10.1.2.9 is after rangeEnd 10.1.2.8"),
        (("10.1.2.0/24", "10.1.2.255"), "rangeStart 10.1.2.255 is after rangeEnd of the subnet"),
        (("10.1.2.0/24", "", "", "10.1.3.1"), "gateway 10.1.3.1 is outside subnet"),
        (("10.1.2.0/24", "10.1.2.1", "10.1.2.1"), "holds no address"),
        (("10.1.2.0/24", "10.1.2.0", "10.1.2.1"), "holds no address"),
    ],
)
def test_ranges_that_can_not_be(args: tuple[str, ...], part: str) -> None:
    with pytest.raises(RangeError) as error:
        parse(*args)
    assert part in str(error.value)


@pytest.mark.parametrize(
    ("sets", "part"),
    [
        ([["10.1.0.0/16", "10.1.2.0/24"]], "ranges 10.1.0.0/16 and 10.1.2.0/24 overlap"),
        ([["10.1.2.0/24", "10.1.2.0/24"]], "overlap"),
        ([["fd00::/64", "fd00::/112"]], "overlap"),
        ([["10.1.2.0/24", "fd00::/64"]], "must hold ranges of one address family"),
        ([["10.1.2.0/24"], ["10.2.2.0/24"]], "a pod gets one address per family"),
        ([["fd00::/64"], ["10.1.2.0/24"], ["fd01::/64"]], "a pod gets one address per family"),
    ],
)
def test_sets_that_do_not_go_together(sets: list[list[str]], part: str) -> None:
    with pytest.raises(RangeError) as error:
        check(tuple(map(parse, subnets)) for subnets in sets)
    assert part in str(error.value)


def test_disjoint_parts_of_one_subnet_go_together() -> None:
    parts = (parse("10.1.2.0/24", "", "10.1.2.99"), parse("10.1.2.0/24", "10.1.2.200"))
    assert check([parts]) == (parts,)
    assert ranges.label(parts) == "10.1.2.0/24[10.1.2.1-10.1.2.99],10.1.2.0/24[10.1.2.200-10.1.2.254]"


def test_a_nodes_ranges() -> None:
    sets = ranges.of_node(["10.244.3.0/24", "fd00:244:0:3::/64"])
    assert allocate(sets, set(), {}) == ("10.244.3.2/24", "fd00:244:0:3::2/64")
    assert [part.total for each in sets for part in each] == [253, 2**64 - 2]


def test_configured_ranges_become_part_of_the_node() -> None:
    (inside,) = ranges.confine(one("10.244.3.0/28"), ["fd00::/64", "10.244.3.0/24"])
    # The whole node's prefix, so that the node's gateway is on the pod's link; the part's own edges stay reserved.
    assert allocate((inside,), set(), {}) == ("10.244.3.2/24",)
    assert order((inside,))[-1] == "10.244.3.14"
    (upper,) = ranges.confine(one("10.244.3.128/25"), ["10.244.3.0/24"])
    assert {"10.244.3.128", "10.244.3.129", "10.244.3.255"}.isdisjoint(order((upper,)))


@pytest.mark.parametrize(
    ("args", "cidrs", "part"),
    [
        (("10.1.2.0/24",), ["10.244.3.0/24"], "is not part of this node's own pod range (10.244.3.0/24)"),
        (("10.244.0.0/16",), ["10.244.3.0/24"], "is not part of this node's own pod range"),
        (("fd00::/64",), ["10.244.3.0/24"], "is not part of this node's own pod range"),
        (("10.1.2.0/24",), [], "(none)"),
        (("10.244.3.128/25", "", "", "10.244.3.129"), ["10.244.3.0/24"], "the pods of this node have 10.244.3.1"),
    ],
)
def test_what_is_not_of_the_node(args: tuple[str, ...], cidrs: list[str], part: str) -> None:
    with pytest.raises(RangeError) as error:
        ranges.confine(one(*args), cidrs)
    assert part in str(error.value)


def test_the_nodes_gateway_may_be_named() -> None:
    (found,) = ranges.confine(one("10.244.3.0/24", "10.244.3.9", "", "10.244.3.1"), ["10.244.3.0/24"])
    assert order((found,))[0] == "10.244.3.9"


def test_the_size_of_a_range_costs_nothing() -> None:
    sets = one("fd00::/8")
    last = {"fd00::/8": "fd00::ffff:ffff:ffff"}
    start = process_time()
    for _ in range(1000):
        allocate(sets, set(), last)
        allocate(sets, set(), last, ["fdff:ffff::1"])
    assert process_time() - start < 1.0


# -- against a model


@st.composite
def range_sets(draw: st.DrawFn) -> RangeSet:
    """A set of one to three ranges of one family that do not overlap, some with bounds and gateways."""
    v6 = draw(st.booleans())
    third = draw(st.lists(st.integers(0, 255), min_size=1, max_size=3, unique=True))
    found: list[Range] = []
    for number in third:
        length = draw(st.integers(122, 126) if v6 else st.integers(26, 30))
        network = ip_network(f"fd00:{number:x}::/{length}" if v6 else f"10.1.{number}.0/{length}")
        low, high, gateway = draw(st.tuples(*[st.integers(0, network.num_addresses - 1)] * 3))
        names = [str(network[n]) if draw(st.booleans()) else "" for n in (min(low, high), max(low, high), gateway)]
        try:
            found.append(parse(str(network), names[0], names[1], names[2]))
        except RangeError:
            found.append(parse(str(network)))
    return check([tuple(found)])[0]


def model(ranges_: RangeSet) -> list[str]:
    """Every address that may be given, in order, found by looking at each address of each subnet."""
    listed = []
    for each in ranges_:
        network = ip_network(each.subnet)
        edges = {network[0]} if each.v6 else {network[0], network[-1]}
        gateway = ip_address(each.gateway) if each.gateway else network[1]
        listed += [
            str(address)
            for address in network
            if each.first <= int(address) <= each.last and address not in edges and address != gateway
        ]
    return listed


@settings(max_examples=100, deadline=None)
@given(range_sets(), st.data())
def test_allocation_is_what_the_model_says(chosen: RangeSet, data: st.DataObject) -> None:
    everything = model(chosen)
    assert sum(each.total for each in chosen) == len(everything)
    taken: set[str] = set()
    last: dict[str, str] = {}
    expected_last = -1
    for _ in range(data.draw(st.integers(1, 40))):
        back: bool = data.draw(st.booleans())
        if taken and back:
            released: str = data.draw(st.sampled_from(sorted(taken)))
            taken.remove(released)
            continue
        turn = everything[expected_last + 1 :] + everything[: expected_last + 1]
        free = [address for address in turn if address not in taken]
        if not free:
            with pytest.raises(Exhausted, match=f"{len(everything)} of {len(everything)} are used"):
                allocate([chosen], taken, last)
            continue
        given_address = allocate([chosen], taken, last)[0].partition("/")[0]
        assert given_address == free[0]
        taken.add(given_address)
        last[ranges.label(chosen)] = given_address
        expected_last = everything.index(given_address)


@settings(max_examples=100, deadline=None)
@given(range_sets(), st.sets(st.integers(0, 63)), st.integers(0, 70))
def test_a_request_is_met_exactly_when_the_model_has_it_free(chosen: RangeSet, used: set[int], pick: int) -> None:
    everything = model(chosen)
    taken = {everything[n] for n in used if n < len(everything)}
    network = ip_network(chosen[0].subnet)
    wish = str(network[pick % network.num_addresses])
    if wish in everything and wish not in taken:
        assert allocate([chosen], taken, {}, [wish]) == (f"{wish}/{network.prefixlen}",)
    else:
        with pytest.raises(RangeError):
            allocate([chosen], taken, {}, [wish])
