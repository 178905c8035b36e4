"""Hand-made Endpoints, seen as slices."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from podnet.network.controllers.actions import Report
from podnet.network.controllers.endpoints import LEADER
from podnet.network.controllers.mirroring import SKIP
from podnet.objects.meta import OwnerReference
from podnet.objects.services import (
    CHANGE_TIME,
    EndpointAddress,
    EndpointConditions,
    Endpoints,
    EndpointSubset,
    ObjectReference,
    SliceEndpoint,
    SlicePort,
)
from tests.network.controllers.backed import World, addresses, handmade, service
from tests.network.controllers.test_endpointslices import writes

PLAIN = service(selector={})


def mirrored(endpoints: Endpoints, *more: object) -> World:
    world = World(PLAIN, endpoints, *more)  # type: ignore[arg-type]
    world.settle()
    return world


def test_a_mirrored_slice() -> None:
    reference = ObjectReference("Pod", "default", "p", "u")
    ready = EndpointAddress("10.7.0.1", "h", "n9", reference)
    endpoints = replace(
        handmade(labels={"a": "1"}, annotations={"b": "2", CHANGE_TIME: "x", **APPLIED}),
        subsets=(EndpointSubset((ready,), (EndpointAddress("10.7.0.2"),), (SlicePort("http", port=80),)),),
    )
    world = mirrored(endpoints)
    found = world.slice()
    assert (found.address_type, found.ports) == ("IPv4", (SlicePort("http", port=80),))
    assert found.endpoints == (
        SliceEndpoint(("10.7.0.1",), EndpointConditions(ready=True), "h", "n9", None, reference),
        SliceEndpoint(("10.7.0.2",), EndpointConditions(ready=False)),
    )
    assert found.metadata.labels == {
        "a": "1",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }
    assert found.metadata.annotations == {"b": "2"}
    assert found.metadata.owner_references == (OwnerReference("v1", "Endpoints", "web", "uid-of-web", True, True),)


APPLIED = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}


def test_each_family_and_each_set_of_ports_has_a_slice() -> None:
    both = handmade("10.7.0.1", "fd00::1").subsets[0]
    other = EndpointSubset((EndpointAddress("10.7.0.2"),), (), (SlicePort("dns", "UDP", 53),))
    world = mirrored(replace(handmade(), subsets=(both, other)))
    found = {(each.address_type, each.ports[0].name): addresses(each) for each in world.slices()}
    assert found == {
        ("IPv4", "http"): ["10.7.0.1"], ("IPv6", "http"): ["fd00::1"], ("IPv4", "dns"): ["10.7.0.2"],
    }  # fmt: skip


def test_a_change_is_one_write_and_none_costs_nothing() -> None:
    world = mirrored(handmade("10.7.0.1", "10.7.0.2"))
    world.put(handmade("10.7.0.2", "10.7.0.1"))
    assert world.settle() == [], "the order says nothing"
    world.put(handmade("10.7.0.1", unready=["10.7.0.2"]))
    assert writes(world.settle()) == ["Replace"]
    world.put(handmade("10.7.0.1", unready=["10.7.0.2"], labels={"new": "label"}))
    assert writes(world.settle()) == ["Replace"]
    assert world.slice().metadata.labels["new"] == "label"


def test_a_new_set_of_ports_writes_over_the_old_slice() -> None:
    world = mirrored(handmade("10.7.0.1"))
    moved = replace(handmade().subsets[0], addresses=(EndpointAddress("10.7.0.1"),), ports=(SlicePort(port=81),))
    world.put(replace(handmade(), subsets=(moved,)))
    assert writes(world.settle()) == ["Replace"]
    assert world.slice().ports == (SlicePort(port=81),)


def test_no_addresses_no_slice() -> None:
    world = mirrored(handmade("10.7.0.1"))
    world.put(handmade())
    assert writes(world.settle()) == ["Delete"]
    assert world.slices() == []


@pytest.mark.parametrize(
    "meta", [{"labels": {SKIP: "true"}}, {"annotations": {LEADER: "{}"}}], ids=["skipped", "a lock"]
)
def test_what_is_not_mirrored(meta: dict[str, Any]) -> None:
    world = mirrored(handmade("10.7.0.1", **meta))
    assert world.slices() == []
    world.put(handmade("10.7.0.1"))
    world.settle()
    assert len(world.slices()) == 1
    world.put(handmade("10.7.0.1", **meta))
    world.settle()
    assert world.slices() == []


def test_the_mirror_goes_with_endpoints_service_or_their_independence() -> None:
    world = mirrored(handmade("10.7.0.1"))
    world.drop("endpoints", "web")
    assert writes(world.settle()) == ["Delete"]
    world.put(handmade("10.7.0.1"))
    world.settle()
    world.put(service())
    world.settle()
    assert [each.metadata.labels["endpointslice.kubernetes.io/managed-by"] for each in world.slices()] == [
        "endpointslice-controller.k8s.io"
    ]
    alone = World(handmade("10.7.0.1"))
    assert alone.settle() == []


def test_what_cannot_be_mirrored_is_told() -> None:
    many = [f"10.7.{n // 250}.{n % 250 + 1}" for n in range(1200)]
    world = World(PLAIN, handmade(*many, "nonsense"))
    told = [action.message for action in world.settle() if isinstance(action, Report)]
    assert "Skipped 1 invalid IP addresses when mirroring to EndpointSlices" in told
    assert any("200 addresses were skipped" in message for message in told)
    assert len(world.slice().endpoints) == 1000
