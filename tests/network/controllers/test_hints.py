"""Where endpoints should be used: their own place, or in proportion to the zones."""

from __future__ import annotations

from collections import Counter

import pytest

from podnet.network.controllers.actions import Report
from podnet.objects.services import EndpointHints, EndpointSlice, Hint
from tests.network.controllers.backed import World, node, pod, service
from tests.network.controllers.test_endpointslices import writes

AUTO = {"service.kubernetes.io/topology-mode": "Auto"}
OVERLOAD = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold"
UNKNOWN = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"


def hinted(slices: list[EndpointSlice]) -> dict[str, EndpointHints | None]:
    return {each.target_ref.name: each.hints for one in slices for each in one.endpoints if each.target_ref}


def zones(world: World) -> Counter[str]:
    """How many ready endpoints are hinted for each zone; "" for none."""
    every = [each for one in world.slices() for each in one.endpoints if each.conditions.ready]
    return Counter(each.hints.for_zones[0].name if each.hints else "" for each in every)


def zoned(*per_zone: int, cpus: tuple[str, ...] = ("", "", "")) -> World:
    """Zones z0, z1, ... of one node each, with so many pods."""
    world = World(service(notes=AUTO))
    world.drop("nodes", "n1", "")
    for zone, number in enumerate(per_zone):
        world.put(node(f"n{zone}", f"z{zone}", cpus[zone]))
        world.pods(number, first=1000 * zone, on=f"n{zone}")
    world.settle()
    return world


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (None, None),
        ("PreferSomething", None),
        ("PreferClose", EndpointHints((Hint("z1"),))),
        ("PreferSameZone", EndpointHints((Hint("z1"),))),
        ("PreferSameNode", EndpointHints((Hint("z1"),), (Hint("n1"),))),
    ],
)
def test_traffic_distribution(wish: str | None, expected: EndpointHints | None) -> None:
    world = World(
        node(zone="z1"),
        node("n2"),
        service(traffic_distribution=wish),
        pod("here"),
        pod("unready", "10.0.0.2", ready=False),
    )
    world.settle()
    assert hinted(world.slices()) == {"here": expected, "unready": None}


def test_without_a_zone_there_is_only_the_node() -> None:
    world = World(service(traffic_distribution="PreferSameNode"), pod())
    world.settle()
    assert hinted(world.slices()) == {"p1": EndpointHints((), (Hint("n1"),))}
    world.put(service(traffic_distribution="PreferClose"))
    world.settle()
    assert hinted(world.slices()) == {"p1": None}


def test_changing_the_wish_changes_every_slice() -> None:
    world = World(node(zone="z1"), service())
    world.pods(150)
    world.settle()
    world.put(service(traffic_distribution="PreferClose"))
    assert writes(world.settle()) == ["Replace", "Replace"]
    assert zones(world) == {"z1": 150}
    world.put(service())
    world.settle()
    assert zones(world) == {"": 150}


@pytest.mark.parametrize(
    ("per_zone", "cpus", "expected"),
    [
        ((4, 4, 4), ("", "", ""), {"z0": 4, "z1": 4, "z2": 4}),
        ((8, 2, 2), ("", "", ""), {"z0": 4, "z1": 4, "z2": 4}),
        ((6, 6, 0), ("4", "4", "4"), {"z0": 4, "z1": 4, "z2": 4}),
        ((6, 6), ("8", "4"), {"z0": 8, "z1": 4}),
        ((5, 4), ("", ""), {"z0": 5, "z1": 4}),  # half an endpoint is not worth it
        ((1, 1, 0), ("", "", ""), {"": 2}),  # fewer endpoints than zones
        ((2, 2), ("100", "1"), {"": 4}),  # its smallest share would overload the other
        ((3,), ("",), {"": 3}),  # one zone
        ((3, 3), ("4", ""), {"": 6}),  # one node does not say how big it is
    ],
)
def test_shares_in_proportion(per_zone: tuple[int, ...], cpus: tuple[str, ...], expected: dict[str, int]) -> None:
    assert zones(zoned(*per_zone, cpus=cpus)) == expected


def test_a_node_without_a_zone_ends_it() -> None:
    world = zoned(3, 3)
    assert zones(world) == {"z0": 3, "z1": 3}
    world.put(node("n7"))
    world.settle()
    assert zones(world) == {"": 6}
    world.put(node("n7", ready="False"))
    world.settle()
    assert zones(world) == {"z0": 3, "z1": 3}, "one that is not ready does not count"


def test_the_unready_get_no_hint_and_no_share() -> None:
    world = zoned(3, 3)
    world.put(pod("late", "10.8.0.1", on="n0", ready=False))
    world.settle()
    assert hinted(world.slices())["late"] is None
    assert zones(world) == {"z0": 3, "z1": 3}


def test_slices_that_can_stay_do() -> None:
    world = zoned(120, 120)
    assert zones(world) == {"z0": 120, "z1": 120}
    world.put(pod("new", "10.9.0.1", on="n0"))
    assert writes(world.settle()) == ["Replace"]
    assert zones(world) == {"z0": 121, "z1": 120}


def test_endpoints_of_a_zone_without_a_share_keep_to_it() -> None:
    world = zoned(6, 6, 6)
    world.put(node("n2", "z2", ready="False"))
    assert writes(world.settle()) == [], "it is looked at again each time, and never written"
    assert zones(world) == {"z0": 6, "z1": 6, "z2": 6}


def test_the_annotation_is_stronger_than_the_field() -> None:
    world = World(node(zone="z1"), service(notes=AUTO, traffic_distribution="PreferClose"), pod())
    world.settle()
    assert hinted(world.slices()) == {"p1": None}, "one zone is too few"


@pytest.mark.parametrize(
    ("per_zone", "cpus", "why"),
    [
        ((4, 4), ("", ""), []),
        ((0, 0), ("", ""), []),
        ((3,), ("",), ["Nodes only ready in one zone"]),
        ((1, 1, 0), ("", "", ""), ["Insufficient number of endpoints (2 endpoints, 3 zones)"]),
        ((2, 2), ("100", "1"), [f"{OVERLOAD} (4 endpoints, 2 zones)"]),
        ((3, 3), ("4", ""), [UNKNOWN]),
    ],
)
def test_the_service_is_told_why_there_are_no_hints(
    per_zone: tuple[int, ...], cpus: tuple[str, ...], why: list[str]
) -> None:
    told = [each for each in zoned(*per_zone, cpus=cpus).decide() if isinstance(each, Report)]
    assert [each.message for each in told] == [f"{each}, addressType: IPv4" for each in why]
    assert {each.reason for each in told} <= {"TopologyAwareHintsDisabled"}
