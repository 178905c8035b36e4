"""The index gives the same answers whatever it was told first, and names no more Services than it must."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.controllers.backing import Backing, Backings, Site, site, target
from podnet.objects.meta import Object, ObjectMeta
from podnet.objects.services import Endpoints, EndpointSlice
from tests.network.controllers.backed import handmade, node, pod, service

KINDS = {"Pod": "pods", "Service": "services", "Node": "nodes", "EndpointSlice": "endpointslices"}


def kind(of: Object) -> str:
    return KINDS.get(type(of).__name__, "endpoints")


def names(backing: Backing) -> list[str]:
    return [each.name for each in backing.targets]


def told(*objects: Object) -> Backings:
    index = Backings()
    for each in objects:
        index.put(kind(each), each.key, each)
    return index


def slice_of(name: str, of: str) -> EndpointSlice:
    return EndpointSlice(ObjectMeta(name, "default", labels={"kubernetes.io/service-name": of}), "IPv4")


def test_a_selector_asks_for_all_its_labels() -> None:
    exact = replace(pod("exact"), metadata=replace(pod("exact").metadata, labels={"app": "web", "tier": "a", "x": "y"}))
    index = told(service(selector={"app": "web", "tier": "a"}), pod("half"), exact, pod("far", namespace="other"))
    assert names(index.backing(("default", "web"))) == ["exact"]


def test_only_services_that_depend_on_it_are_named() -> None:
    index = told(node(), service(), service("db", selector={"app": "db"}), service("all", selector={"app": "web"}))
    index.changed.clear()
    index.put("pods", ("default", "p1"), pod())
    assert set(index.changed) == {("default", "web"), ("default", "all")}
    index.changed.clear()
    index.put("pods", ("default", "p1"), pod(app="db"))
    assert set(index.changed) == {("default", "web"), ("default", "all"), ("default", "db")}
    index.changed.clear()
    index.put("pods", ("default", "p1"), None)
    assert set(index.changed) == {("default", "db")}
    assert names(index.backing(("default", "web"))) == names(index.backing(("default", "db"))) == []


def test_a_node_concerns_the_services_of_its_pods_when_its_zone_changes() -> None:
    auto = service("auto", notes={"service.kubernetes.io/topology-mode": "Auto"}, selector={"app": "auto"})
    index = told(node(), service(), service("db", selector={"app": "db"}), auto, pod(), pod("p2", on="n2", app="db"))
    index.changed.clear()
    index.put("nodes", ("", "n1"), node(zone="z1"))
    assert set(index.changed) == {("default", "web"), ("default", "auto")}
    index.changed.clear()
    index.put("nodes", ("", "n1"), node(zone="z1", ready="False"))
    assert set(index.changed) == {("default", "auto")}, "readiness concerns only those who count CPUs"
    index.changed.clear()
    index.put("nodes", ("", "n1"), node(zone="z1", ready="False", other="label"))
    assert not index.changed


def test_slices_and_endpoints_concern_the_service_that_they_name() -> None:
    index = told(service())
    index.changed.clear()
    index.put("endpointslices", ("default", "s"), slice_of("s", "web"))
    index.put("endpointslices", ("default", "t"), EndpointSlice(ObjectMeta("t", "default"), "IPv4"))
    assert set(index.changed) == {("default", "web")}
    assert [each.metadata.name for each in index.backing(("default", "web")).slices] == ["s"]
    index.put("endpointslices", ("default", "s"), slice_of("s", "db"))
    assert set(index.changed) == {("default", "web"), ("default", "db")}
    assert index.backing(("default", "web")).slices == ()
    index.put("endpoints", ("default", "db"), handmade("10.0.0.1", name="db"))
    assert isinstance(index.backing(("default", "db")).endpoints, Endpoints)


def test_a_deletion_is_told_once_and_only_while_it_lasts() -> None:
    index = told(service())
    index.put("services", ("default", "web"), None)
    assert index.backing(("default", "web")).withdrawn
    assert not index.backing(("default", "web")).withdrawn
    index.put("services", ("default", "web"), service())
    index.put("services", ("default", "web"), None)
    index.put("services", ("default", "web"), service())
    assert not index.backing(("default", "web")).withdrawn


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (node(zone="z", cpu="2"), Site("z", 2000)),
        (node(cpu="250m"), Site("", 250)),
        (node(cpu="0.5"), Site("", 500)),
        (node(cpu="many"), Site()),
        (node(ready="Unknown"), Site(counts=False)),
        (replace(node(), metadata=ObjectMeta("n1", labels={"node-role.kubernetes.io/master": ""})), Site(counts=False)),
    ],
)
def test_sites(spec: Any, expected: Site) -> None:
    assert site(spec) == expected


def test_a_pod_with_one_old_fashioned_address() -> None:
    old = replace(pod(), status=replace(pod().status, pod_ips=()))
    assert target(old).ips == ("10.0.0.1",)
    assert target(old).ip("IPv4") == "10.0.0.1"
    assert target(old).ip("IPv6") == ""


WORLDS = st.lists(
    st.one_of(
        st.builds(
            lambda n, app, on, ns: pod(f"p{n}", f"10.0.0.{n}", app=app, on=on, namespace=ns),
            st.integers(1, 4), st.sampled_from(["web", "db"]), st.sampled_from(["n1", "n2", ""]),
            st.sampled_from(["default", "other"]),
        ),
        st.builds(
            lambda name, selector, kind: service(name, selector=selector, type=kind),
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from([{}, {"app": "web"}, {"app": "db"}, {"app": "web", "x": "y"}]),
            st.sampled_from(["ClusterIP", "ExternalName"]),
        ),
        st.builds(node, st.sampled_from(["n1", "n2"]), st.sampled_from(["", "z1", "z2"])),
        st.builds(slice_of, st.sampled_from(["s", "t"]), st.sampled_from(["a", "b"])),
        st.builds(lambda name: handmade("10.9.9.9", name=name), st.sampled_from(["a", "b"])),
    ),
    max_size=25,
)  # fmt: skip


def view(index: Backings, key: tuple[str, str]) -> Backing:
    """What is known of a Service; `withdrawn` is news and not knowledge."""
    return replace(index.backing(key), withdrawn=False, taken=(), sites=dict(index.backing(key).sites))


@settings(max_examples=80, deadline=None)
@given(WORLDS, st.data())
def test_the_way_does_not_matter(history: list[Object], data: st.DataObject) -> None:
    index = Backings()
    last: dict[tuple[str, tuple[str, str]], Object] = {}
    for each in history:
        place = (kind(each), each.key)
        if data.draw(st.booleans()) and place in last:
            index.put(*place, None)
            del last[place]
        index.put(*place, each)
        last[place] = each
        if data.draw(st.integers(0, 3)) == 0:
            index.put(*place, None)
            del last[place]
    fresh = told(*data.draw(st.permutations(list(last.values()))))
    for name in ("a", "b", "c"):
        assert view(index, ("default", name)) == view(fresh, ("default", name))


@settings(max_examples=100, deadline=None)
@given(WORLDS, WORLDS)
def test_what_is_not_named_did_not_change(before: list[Object], after: list[Object]) -> None:
    index = told(*before)
    keys = [("default", name) for name in "abc"]
    seen = {key: view(index, key) for key in keys}
    for each in after:
        index.put(kind(each), each.key, each)
    for key in keys:
        if key not in index.changed:
            now = view(index, key)
            assert replace(now, sites={}) == replace(seen[key], sites={})
            assert all(now.sites.get(one.node) == seen[key].sites.get(one.node) for one in now.targets)
