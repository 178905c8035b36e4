"""The slices of a Service: what is in them, and that no more is written than must be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.controllers import endpointslices
from podnet.network.controllers.actions import Action, Create, Delete, Replace
from podnet.network.controllers.endpointslices import FULL
from podnet.objects.kinds import ENDPOINTSLICES
from podnet.objects.meta import ObjectMeta, OwnerReference
from podnet.objects.services import (
    CHANGE_TIME,
    EndpointConditions,
    EndpointSlice,
    ObjectReference,
    ServicePort,
    SlicePort,
)
from tests.network.controllers.backed import HTTP, LATER, NOON, World, addresses, node, pod, service

OURS = {
    "kubernetes.io/service-name": "web",
    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
}


def writes(actions: list[Action]) -> list[str]:
    """What happens to slices."""
    kinds = (Create, Replace, Delete)
    return [type(each).__name__ for each in actions if isinstance(each, kinds) and each.kind is ENDPOINTSLICES]


def test_a_slice_says_everything_about_a_pod() -> None:
    world = World(node(zone="z1"), service(labels={"team": "a"}), pod(hostname="h", subdomain="web"))
    world.settle()
    found = world.slice()
    assert found.address_type == "IPv4"
    assert found.ports == (SlicePort("http", "TCP", 8080),)
    endpoint = world.endpoint()
    assert endpoint.addresses == ("10.0.0.1",)
    assert endpoint.conditions == EndpointConditions(ready=True, serving=True, terminating=False)
    assert (endpoint.node_name, endpoint.zone, endpoint.hostname) == ("n1", "z1", "h")
    assert endpoint.target_ref == ObjectReference("Pod", "default", "p1", "uid-p1")
    assert endpoint.hints is None
    meta = found.metadata
    assert meta.labels == {**OURS, "team": "a"}
    assert meta.owner_references == (OwnerReference("v1", "Service", "web", "uid-web", True, True),)
    assert meta.annotations == {CHANGE_TIME: NOON}
    assert meta.name.startswith("web-")
    assert len(meta.name) == 9


@pytest.mark.parametrize(
    ("ready", "going", "publish", "expected"),
    [
        (True, False, False, (True, True, False)),
        (False, False, False, (False, False, False)),
        (True, True, False, (False, True, True)),
        (False, True, False, (False, False, True)),
        (False, False, True, (True, False, False)),
        (True, True, True, (True, True, True)),
    ],
)
def test_conditions(ready: bool, going: bool, publish: bool, expected: tuple[bool, bool, bool]) -> None:
    world = World(service(publish_not_ready_addresses=publish), pod(ready=ready, going=going))
    world.settle()
    assert world.endpoint().conditions == EndpointConditions(*expected)


@pytest.mark.parametrize(
    "left_out",
    [
        pod(phase="Succeeded"), pod(phase="Failed"), pod(ip=""), pod(ip="fd00::1"), pod(app="db"),
        pod(namespace="other"), pod(on="nowhere"),
    ],
)  # fmt: skip
def test_who_is_no_endpoint(left_out: object) -> None:
    world = World(service(), left_out)  # type: ignore[arg-type]
    world.settle()
    assert world.slice().endpoints == ()


def test_a_pod_whose_node_is_not_there_yet_comes_with_it() -> None:
    world = World(service(), pod(on="n2"))
    world.settle()
    world.put(node("n2", zone="z2"))
    world.settle()
    assert world.endpoint().zone == "z2"
    world.put(node("n2", zone="z3"))
    world.settle()
    assert world.endpoint().zone == "z3"
    world.drop("nodes", "n2", "")
    world.settle()
    assert world.slice().endpoints == ()


def test_publishing_the_unready_asks_for_no_node() -> None:
    world = World(service(publish_not_ready_addresses=True), pod(on="nowhere"))
    world.settle()
    assert addresses(world.slice()) == ["10.0.0.1"]


@pytest.mark.parametrize(
    "other",
    [service(selector={}), service(type="ExternalName"), service(selector={}, cluster_ip="None")],
    ids=["selectorless", "external name", "headless"],
)
def test_services_whose_slices_are_not_ours(other: object) -> None:
    mine = EndpointSlice(ObjectMeta("by-hand", "default", labels={"kubernetes.io/service-name": "web"}), "IPv4")
    world = World(other, pod(), mine)  # type: ignore[arg-type]
    assert writes(world.settle()) == []


def test_one_slice_for_each_family() -> None:
    world = World(service(ip_families=("IPv6", "IPv4")), pod(ip="10.0.0.1,fd00::1"), pod("p2", "10.0.0.2"))
    world.settle()
    assert addresses(*world.slices("IPv4")) == ["10.0.0.1", "10.0.0.2"]
    assert addresses(*world.slices("IPv6")) == ["fd00::1"]
    world.put(service(ip_families=("IPv4",)))
    world.settle()
    assert [each.address_type for each in world.slices()] == ["IPv4"]


@pytest.mark.parametrize(
    ("ip", "expected"), [("10.96.0.1", ("IPv4",)), ("fd00::1", ("IPv6",)), ("", ("IPv4",)), ("None", ("IPv4", "IPv6"))]
)
def test_families_of_a_service_that_names_none(ip: str, expected: tuple[str, ...]) -> None:
    assert endpointslices.families(service(ip_families=(), cluster_ip=ip)) == expected


def test_headless_services_are_labelled_and_need_no_ports() -> None:
    world = World(service(cluster_ip="None", ports=()), pod())
    world.settle()
    assert world.slice().metadata.labels == {**OURS, "service.kubernetes.io/headless": ""}
    assert world.slice().ports == ()
    assert addresses(world.slice()) == ["10.0.0.1"]
    world.put(pod(phase="Succeeded"))
    world.settle()
    assert world.slice().endpoints == ()
    world.put(pod())
    assert writes(world.settle()) == ["Replace"]
    assert addresses(world.slice()) == ["10.0.0.1"]


def test_named_ports_are_looked_up_in_each_pod() -> None:
    named = ServicePort("http", port=80, target_port="web")
    other = ServicePort("dns", "UDP", 53, 53, app_protocol="dns")
    world = World(
        service(ports=(named, other)),
        *(pod(f"a{n}", f"10.0.1.{n}", ports={"web": 8080}) for n in (1, 2)),
        pod("b", "10.0.2.1", ports={"web": 9090}),
        pod("c", "10.0.3.1", ports={"else": 1}),
    )
    world.settle()
    dns = SlicePort("dns", "UDP", 53, "dns")
    assert {each.ports: addresses(each) for each in world.slices()} == {
        (dns, SlicePort("http", "TCP", 8080)): ["10.0.1.1", "10.0.1.2"],
        (dns, SlicePort("http", "TCP", 9090)): ["10.0.2.1"],
        (dns,): ["10.0.3.1"],
    }


def test_a_named_port_is_of_one_protocol() -> None:
    world = World(service(ports=(ServicePort("x", "UDP", 1, "web"),)), pod(ports={"web": 80}))
    world.settle()
    assert world.slice().ports == ()


def test_a_placeholder_says_that_there_is_nothing() -> None:
    world = World(service())
    assert writes(world.settle()) == ["Create"]
    assert (world.slice().ports, world.slice().endpoints) == ((), ())
    world.put(pod())
    assert writes(world.settle()) == ["Replace"], "it is written over"
    world.drop("pods", "p1")
    assert writes(world.settle()) == ["Replace"]
    assert (world.slice().ports, world.slice().endpoints) == ((), ())
    world.put(service(labels={"new": "label"}))
    assert writes(world.settle()) == ["Replace"]
    assert world.slice().metadata.labels == {**OURS, "new": "label"}


def test_labels_follow_the_service_but_for_the_reserved_ones() -> None:
    world = World(service(labels={"a": "1", "kubernetes.io/service-name": "not me"}), pod())
    world.settle()
    assert world.slice().metadata.labels == {**OURS, "a": "1"}
    world.put(service(labels={"b": "2"}))
    assert writes(world.settle()) == ["Replace"]
    assert world.slice().metadata.labels == {**OURS, "b": "2"}


# Few writes ----------------------------------------------------------------------------------------------------------


def test_a_hundred_in_each() -> None:
    world = World(service())
    world.pods(250)
    world.settle()
    assert sorted(len(each.endpoints) for each in world.slices()) == [50, 100, 100]


def test_one_change_is_one_write() -> None:
    world = World(service())
    world.pods(250)
    world.settle()
    before = {each.key: each for each in world.slices()}
    world.put(pod("p0120", "10.1.0.121", ready=False))
    assert writes(world.settle()) == ["Replace"]
    changed = [each for each in world.slices() if each is not before[each.key]]
    assert [len(each.endpoints) for each in changed] == [100]


def test_what_endpoints_do_not_show_is_no_reason_to_write() -> None:
    world = World(service(), pod())
    world.settle()
    world.put(replace(pod(), metadata=replace(pod().metadata, annotations={"seen": "yes"})))
    assert not world.index.changed
    world.put(node(kernel="6.1"))
    assert not world.index.changed


def test_a_new_pod_goes_into_the_fullest_slice_with_room() -> None:
    world = World(service())
    world.pods(250)
    world.settle()
    for n in range(30):
        world.drop("pods", f"p{n:04}")  # of the first slice
    world.settle()
    world.put(pod("new", "10.9.0.1"))
    assert writes(world.settle()) == ["Replace"]
    assert sorted(len(each.endpoints) for each in world.slices()) == [50, 71, 100]
    world.pods(40, first=1000)
    assert writes(world.settle()) == ["Replace"], "all go into one that takes them all"
    assert sorted(len(each.endpoints) for each in world.slices()) == [71, 90, 100]


def test_slices_written_anyway_are_filled_first() -> None:
    world = World(service())
    world.pods(150)
    world.settle()
    world.drop("pods", "p0000")
    world.put(pod("new", "10.9.0.1"))
    assert writes(world.settle()) == ["Replace"]
    assert sorted(len(each.endpoints) for each in world.slices()) == [50, 100]


def test_an_empty_slice_goes() -> None:
    world = World(service())
    world.pods(101)
    world.settle()
    (single,) = [each for each in world.slices() if len(each.endpoints) == 1]
    assert single.endpoints[0].target_ref is not None
    world.drop("pods", single.endpoints[0].target_ref.name)
    assert writes(world.settle()) == ["Delete"]
    assert [len(each.endpoints) for each in world.slices()] == [100]


def test_a_change_of_ports_writes_over_slices() -> None:
    world = World(service())
    world.pods(150)
    world.settle()
    names = {each.key for each in world.slices()}
    world.put(service(ports=(replace(HTTP, target_port=9090),)))
    assert writes(world.settle()) == ["Replace", "Replace"]
    assert {each.key for each in world.slices()} == names
    assert {port.port for each in world.slices() for port in each.ports} == {9090}


def test_an_endpoint_that_is_in_two_slices_stays_in_one() -> None:
    world = World(service(), pod())
    world.settle()
    twin = world.slice()
    world.put(replace(twin, metadata=replace(twin.metadata, name="web-twin", uid="twin")))
    world.settle()
    assert addresses(*world.slices()) == ["10.0.0.1"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 320), st.sampled_from(["up", "down", "gone"])), max_size=40), st.data())
def test_whatever_happens_each_pod_is_there_once(changes: list[tuple[int, str]], data: st.DataObject) -> None:
    world = World(service())
    world.pods(data.draw(st.sampled_from([0, 3, 99, 100, 101, 230])))
    world.settle()
    for number, what in changes:
        name, ip = f"p{number:04}", f"10.1.{number // 250}.{number % 250 + 1}"
        if what != "gone":
            world.put(pod(name, ip, ready=what == "up"))
        elif ("pods", ("default", name)) in world.objects:
            world.drop("pods", name)
        if data.draw(st.booleans()):
            world.settle()
    world.settle()
    stored = world.slices()
    names = sorted(each.target_ref.name for one in stored for each in one.endpoints if each.target_ref)
    assert names == sorted(key[1] for kind, key in world.objects if kind == "pods")
    assert all(0 < len(each.endpoints) <= FULL for each in stored) or (len(stored) == 1 and not names)
    world.index.changed[("default", "web")] = None
    assert world.settle() == []


# Whose slices --------------------------------------------------------------------------------------------------------


def test_slices_go_with_their_service_and_are_made_anew_for_the_next() -> None:
    world = World(service(), pod())
    world.settle()
    first = world.slice()
    another = replace(service(), metadata=replace(service().metadata, uid="another"))
    world.put(another)
    assert writes(world.settle()) == ["Create", "Delete"]
    assert world.slice().metadata.name != first.metadata.name
    world.drop("services", "web")
    assert writes(world.settle()) == ["Delete"]
    assert world.slices() == []


def test_slices_made_by_hand_go_only_if_the_service_owns_them() -> None:
    labels = {"kubernetes.io/service-name": "web"}
    owners = (OwnerReference("v1", "Service", "web", "uid-web"),)
    owned = EndpointSlice(ObjectMeta("owned", "default", "1", labels=labels, owner_references=owners), "IPv4")
    free = EndpointSlice(ObjectMeta("free", "default", "2", labels=labels), "IPv4")
    world = World(service(selector={}), owned, free)
    assert world.settle() == []
    world.drop("services", "web")
    world.settle()
    assert [each.metadata.name for each in world.slices()] == ["free"]


def test_nothing_new_for_a_service_that_is_being_deleted() -> None:
    leaving = replace(service(), metadata=replace(service().metadata, deletion_timestamp=NOON))
    world = World(leaving, pod())
    assert world.settle() == []


def test_creating_twice_creates_once() -> None:
    world = World(service())
    world.pods(150)
    first, again = world.decide(), world.decide()
    assert first == again
    world.carry_out(first)
    assert len(world.slices()) == 2


# When it happened ----------------------------------------------------------------------------------------------------


def test_the_time_of_the_change_is_noted() -> None:
    world = World(service(), pod(), pod("p2", "10.0.0.2"))
    world.settle()
    world.put(pod("p2", "10.0.0.2", ready=False, since=LATER))
    world.settle()
    assert world.slice().metadata.annotations == {CHANGE_TIME: LATER}
    world.put(pod("p2", "10.0.0.2", ready=False, since=LATER, going=True))
    world.settle()
    assert world.slice().metadata.annotations == {}, "when its deletion began is not known"
