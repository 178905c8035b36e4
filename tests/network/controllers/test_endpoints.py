"""Endpoints for clients from before slices."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from podnet.network.controllers.actions import Action, Create, Delete, Replace
from podnet.network.controllers.endpoints import CAPACITY, LEADER, OVER_CAPACITY, repacked
from podnet.objects.kinds import ENDPOINTS
from podnet.objects.services import (
    CHANGE_TIME,
    EndpointAddress,
    EndpointSubset,
    ObjectReference,
    ServicePort,
    SlicePort,
)
from tests.network.controllers.backed import HTTP, LATER, NOON, World, handmade, pod, service

OURS = {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}
A, B = SlicePort("a", port=1), SlicePort("b", port=2)


def writes(actions: list[Action]) -> list[str]:
    kinds = (Create, Replace, Delete)
    return [type(each).__name__ for each in actions if isinstance(each, kinds) and each.kind is ENDPOINTS]


def ips(addresses: tuple[EndpointAddress, ...]) -> list[str]:
    return [each.ip for each in addresses]


def test_ready_and_not_ready_ones_side_by_side() -> None:
    world = World(
        service(labels={"team": "a"}),
        pod("p2", "10.0.0.2"),
        pod("p1", "10.0.0.1", hostname="h", subdomain="web"),
        pod("p3", "10.0.0.3", ready=False),
        pod("leaves", "10.0.0.4", going=True),
        pod("done", "10.0.0.5", phase="Failed"),
        pod("six", "fd00::6"),
    )
    assert writes(world.settle()) == ["Create"]
    (subset,) = world.old().subsets
    first = EndpointAddress("10.0.0.1", "h", "n1", ObjectReference("Pod", "default", "p1", "uid-p1"))
    assert subset.addresses[0] == first
    assert ips(subset.addresses) == ["10.0.0.1", "10.0.0.2"]
    assert ips(subset.not_ready_addresses) == ["10.0.0.3"]
    assert subset.ports == (SlicePort("http", "TCP", 8080),)
    assert world.old().metadata.labels == {**OURS, "team": "a"}
    assert world.old().metadata.annotations == {CHANGE_TIME: NOON}


def test_the_first_family_only() -> None:
    world = World(service(ip_families=("IPv6", "IPv4")), pod(ip="10.0.0.1,fd00::1"))
    world.settle()
    assert ips(world.old().subsets[0].addresses) == ["fd00::1"]


def test_publishing_the_unready_makes_all_ready() -> None:
    world = World(
        service(publish_not_ready_addresses=True), pod(ready=False), pod("p2", "10.0.0.2", going=True, ready=False)
    )
    world.settle()
    assert ips(world.old().subsets[0].addresses) == ["10.0.0.1", "10.0.0.2"]


def test_headless_with_and_without_ports() -> None:
    world = World(service(cluster_ip="None", ports=()), pod())
    world.settle()
    assert world.old().metadata.labels == {**OURS, "service.kubernetes.io/headless": ""}
    (subset,) = world.old().subsets
    assert (ips(subset.addresses), subset.ports) == (["10.0.0.1"], ())


def test_named_ports_make_subsets() -> None:
    named = ServicePort("http", port=80, target_port="web")
    world = World(
        service(ports=(named, ServicePort("x", port=5, target_port=5))),
        pod("a", "10.0.0.1", ports={"web": 80}),
        pod("b", "10.0.0.2", ports={"web": 81}),
        pod("c", "10.0.0.3"),
    )
    world.settle()
    x = SlicePort("x", port=5)
    assert [(ips(each.addresses), each.ports) for each in world.old().subsets] == [
        (["10.0.0.1"], (SlicePort("http", port=80), x)),
        (["10.0.0.2"], (SlicePort("http", port=81), x)),
        (["10.0.0.3"], (x,)),
    ]
    world.put(service(ports=(named,)))
    world.settle()
    assert [ips(each.addresses) for each in world.old().subsets] == [["10.0.0.1"], ["10.0.0.2"]]


def test_only_changes_are_written() -> None:
    world = World(service(), pod())
    world.settle()
    world.index.changed[("default", "web")] = None
    assert world.settle() == []
    world.put(pod(ready=False, since=LATER))
    assert writes(world.settle()) == ["Replace"]
    assert world.old().metadata.annotations == {CHANGE_TIME: LATER}
    world.put(pod(ready=False, since=LATER, going=True))
    world.settle()
    assert world.old().metadata.annotations == {}


def test_ports_of_the_document_are_complete() -> None:
    created = next(
        each for each in World(service(), pod()).decide() if isinstance(each, Create) and each.kind is ENDPOINTS
    )
    (subset,) = created.document["subsets"]
    assert subset["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]


@pytest.mark.parametrize("other", [service(selector={}), service(type="ExternalName")])
def test_others_are_left_alone(other: object) -> None:
    world = World(other, pod(), handmade("10.7.7.7"))  # type: ignore[arg-type]
    assert writes(world.settle()) == []


def test_a_selector_takes_over_what_was_made_by_hand() -> None:
    world = World(service(), pod(), handmade("10.7.7.7", annotations={"note": "mine"}))
    assert writes(world.settle()) == ["Replace"]
    assert ips(world.old().subsets[0].addresses) == ["10.0.0.1"]
    assert world.old().metadata.annotations["note"] == "mine"


def test_endpoints_go_with_their_service() -> None:
    world = World(service(selector={}), handmade("10.7.7.7"))
    world.settle()
    world.drop("services", "web")
    assert writes(world.settle()) == ["Delete"]


def test_endpoints_without_a_service_stay_unless_they_are_ours() -> None:
    world = World(handmade("10.7.7.7"), handmade("10.7.7.7", name="ours", labels=OURS))
    assert writes(world.settle()) == ["Delete"]
    assert world.old().subsets


def test_a_lock_is_not_touched() -> None:
    world = World(service(selector={}), handmade(annotations={LEADER: "{}"}))
    world.settle()
    world.drop("services", "web")
    assert writes(world.settle()) == []


def test_nothing_new_for_a_service_that_is_being_deleted() -> None:
    leaving = replace(service(), metadata=replace(service().metadata, deletion_timestamp=NOON))
    assert writes(World(leaving, pod()).settle()) == []


# A thousand ----------------------------------------------------------------------------------------------------------


def counted(world: World) -> tuple[int, int]:
    subsets = world.old().subsets
    return sum(len(each.addresses) for each in subsets), sum(len(each.not_ready_addresses) for each in subsets)


def test_too_many_are_cut_ready_ones_first() -> None:
    world = World(service())
    world.pods(900)
    world.pods(200, first=2000, ready=False)
    world.settle()
    assert counted(world) == (900, 100)
    assert world.old().metadata.annotations[OVER_CAPACITY] == "truncated"
    world.pods(200, first=4000)
    world.settle()
    assert counted(world) == (1000, 0)
    world.index.changed[("default", "web")] = None
    assert world.settle() == []
    for n in range(200):
        world.drop("pods", f"p{4000 + n}")
        world.drop("pods", f"p{2000 + n}")
    world.settle()
    assert counted(world) == (900, 0)
    assert OVER_CAPACITY not in world.old().metadata.annotations


def test_subsets_are_cut_in_proportion() -> None:
    world = World(service(ports=(replace(HTTP, target_port="web"),)))
    world.pods(900, ports={"web": 80})
    world.pods(600, first=2000, ports={"web": 81})
    world.settle()
    assert [len(each.addresses) for each in world.old().subsets] == [600, CAPACITY - 600]


def test_repacking() -> None:
    one, two, three = (EndpointAddress(f"10.0.0.{n}") for n in (1, 2, 3))
    assert repacked([
        EndpointSubset((two, one), (three,), (B,)),
        EndpointSubset((one,), (), (A,)),
    ]) == (EndpointSubset((one,), (), (A, B)), EndpointSubset((two,), (three,), (B,)))  # fmt: skip
