"""What the status of Services and routes ought to say, and nothing where it says so already."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.conditions import About, amended, due, report
from podnet.network.memo import Memo
from podnet.network.view import Problem
from podnet.objects.cluster import Cluster
from podnet.objects.core import Condition, Node
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import (
    PROBLEMS_ANNOTATION,
    ProxySpec,
    RouteBackend,
    RouteSegment,
    ServiceRoute,
    ServiceRouteSpec,
    ServiceRouteStatus,
)
from podnet.objects.services import Service, ServicePort, ServiceStatus
from tests.worlds import cluster, config, node, service

OURS, ACCEPTED = "podnet.dev/Accepted", "Accepted"
OTHERS = Condition("example.com/Shiny", "True", "Polished", "shines", "2024-01-01T00:00:00Z")
SPLIT: About = ("ServiceRoute", "default", "split")


def aged(name: str, day: int, **more: Any) -> Service:
    made = service(name, *more.pop("ports", ()), cluster_ip=more.pop("ip", f"10.96.0.{day}"), **more)
    return replace(made, metadata=replace(made.metadata, creation_timestamp=f"2024-01-{day:02}T00:00:00Z"))


def route(name: str = "split", *sources: str, of: str = "web", day: int = 1) -> ServiceRoute:
    segments = tuple(RouteSegment((each,), (RouteBackend({"app": "a"}),)) for each in sources)
    meta = ObjectMeta(name=name, namespace="default", generation=3, creation_timestamp=f"2024-01-{day:02}T00:00:00Z")
    return ServiceRoute(metadata=meta, spec=ServiceRouteSpec(of, segments))


def world(*objects: Service | ServiceRoute, mode: str = "nftables", nodes: int = 2) -> Cluster:
    services = [each for each in objects if isinstance(each, Service)]
    made = cluster([node(i + 1) for i in range(nodes)], config(proxy=ProxySpec(mode=mode)), services=services)
    return replace(made, serviceroutes={each.key: each for each in objects if isinstance(each, ServiceRoute)})


def said(*objects: Service | ServiceRoute, **more: Any) -> dict[str, str | None]:
    """name -> what is to be written."""
    found = due(world(*objects, **more), {})
    return {about[2]: f"{each.type}={each.status}: {each.reason}" if each else None for about, each in found.items()}


def written(of: Service, *conditions: Condition | None) -> Service:
    return replace(of, status=ServiceStatus(conditions=tuple(filter(None, (OTHERS, *conditions)))))


def test_services_with_which_all_is_well_bear_nothing() -> None:
    assert said(aged("a", 1), aged("b", 2)) == {}


def test_of_two_that_want_one_address_the_younger_is_told_until_it_is_mended() -> None:
    old, young = aged("a", 1, external_ips=("203.0.113.1",)), aged("b", 2, external_ips=("203.0.113.1",))
    ((about, wanted),) = due(world(old, young), {}).items()
    assert about == ("Service", "default", "b")
    assert wanted == Condition(
        OURS, "False", "FrontendTaken", "tcp port 80 at 203.0.113.1 is that of Service default/a, which is older"
    )
    told = written(young, replace(wanted, last_transition_time="2024-02-02T00:00:00Z"))
    assert said(old, told) == {}, "it is written"
    assert said(told) == {"b": None}, "the other one is gone"
    assert said(written(young)) == {}


def test_all_that_is_wrong_stands_in_one_message() -> None:
    wrong = aged("a", 1, external_ips=("2001:db8::1",), annotations={"podnet.dev/algorithm": "magic"})
    ((_, wanted),) = due(world(wrong), {}).items()
    assert wanted is not None
    assert wanted.reason == "NoSuchFamily"
    assert wanted.message.count("; ") == 1
    assert "'magic' is none of" in wanted.message


def test_two_health_checks_at_one_port() -> None:
    local = {"type": "LoadBalancer", "external_traffic_policy": "Local", "health_check_node_port": 30555}
    assert said(aged("a", 1, **local), aged("b", 2, **local)) == {"b": f"{OURS}=False: FrontendTaken"}


@pytest.mark.parametrize(("address", "clash"), [("192.168.77.12", True), ("127.0.0.1", True), ("192.168.77.99", False)])
def test_a_node_port_and_a_nodes_own_address_clash_whichever_node_it_is(address: str, clash: bool) -> None:
    here = aged("a", 1, external_ips=(address,), ports=(ServicePort(port=30080),))
    port = aged("b", 2, type="NodePort", ports=(ServicePort(port=80, node_port=30080),))
    assert said(here, port) == ({"b": f"{OURS}=False: FrontendTaken"} if clash else {})


def test_a_route_always_says_so() -> None:
    ((about, wanted),) = due(world(service(), route()), {}).items()
    assert about == SPLIT
    assert wanted == Condition(ACCEPTED, "True", "Accepted", "nothing stands against it", None, 3)
    known = replace(route(), status=ServiceRouteStatus((wanted,)))
    assert said(service(), known) == {}
    newer = replace(known, metadata=replace(known.metadata, generation=4))
    assert said(service(), newer) == {"split": "Accepted=True: Accepted"}, "the spec it speaks of is an older one"


@pytest.mark.parametrize(
    ("objects", "mode", "reason"),
    [
        ((route(of="none"),), "nftables", "NoSuchService"),
        ((service(), route("split", "10.1.0.0/16", "10.1.2.0/24")), "nftables", "InvalidServiceRoute"),
        ((service(), route("split", "10.1.0.0/16")), "iptables", "UnsupportedByMode"),
    ],
)
def test_a_route_that_cannot_be(objects: tuple[Any, ...], mode: str, reason: str) -> None:
    assert said(*objects, mode=mode) == {"split": f"Accepted=False: {reason}"}


def test_the_second_route_of_a_service() -> None:
    assert said(service(), route("a", day=2), route("b", day=1)) == {
        "a": "Accepted=False: AnotherRouteHolds",
        "b": "Accepted=True: Accepted",
    }


def test_where_another_proxy_serves_podnet_says_nothing() -> None:
    mark = Condition(OURS, "False", "FrontendTaken", "taken")
    known = replace(route(of="none"), status=ServiceRouteStatus((Condition(ACCEPTED, "True", "Accepted"),)))
    assert said(written(service(), mark), route("new"), known, mode="none") == {"web": None, "split": None}


def test_what_single_nodes_meet_names_them() -> None:
    problem = Problem("Service/default/web", "HealthCheckPortTaken", "port 30555 is taken", "spec.healthCheckNodePort")
    other = Problem("ServiceRoute/default/gone", "HealthCheckPortTaken", "port 30556 is taken")
    said = report([problem, other, Problem("Node/n1", "NoUserspaceProxy", "it is not there")])
    assert "NoUserspaceProxy" not in said
    assert report([]) == report([Problem("Node/n1", "NoUserspaceProxy", "it is not there")]) == ""
    made = world(service(), nodes=5)
    nodes = {
        key: annotated(each, said if each.metadata.name != "n4" else "no list") for key, each in made.nodes.items()
    }
    ((about, wanted),) = due(replace(made, nodes=nodes), {}).items()
    assert about == ("Service", "default", "web")
    assert wanted == Condition(OURS, "False", "HealthCheckPortTaken", "n1, n2, n3 and 1 more: port 30555 is taken")
    assert due(replace(made, nodes=nodes, networkconfigs={}), {}) == {}


def annotated(of: Node, said: str) -> Node:
    return replace(of, metadata=replace(of.metadata, annotations={PROBLEMS_ANNOTATION: said}))


def test_a_document_that_cannot_be_read() -> None:
    found = due(world(), {}, [Problem("ServiceRoute/default/split", "Invalid", "spec.segments: expected array")])
    assert found == {SPLIT: Condition(ACCEPTED, "False", "Invalid", "spec.segments: expected array")}


def test_amending_leaves_others_alone_and_keeps_the_time_while_the_status_stays() -> None:
    other = {"type": "x", "status": "True", "unheard": ["of"]}
    refused = Condition(ACCEPTED, "False", "NoSuchService", "none", None, 2)
    first = amended([other], ACCEPTED, refused, "t1")
    mine = {"type": ACCEPTED, "status": "False", "reason": "NoSuchService", "message": "none"}
    assert first == [other, {**mine, "lastTransitionTime": "t1", "observedGeneration": 2}]
    second = amended([*reversed(first)], ACCEPTED, replace(refused, message="two"), "t2")
    assert second == [{**mine, "message": "two", "lastTransitionTime": "t1", "observedGeneration": 2}, other]
    third = amended(second, ACCEPTED, replace(refused, status="True"), "t3")
    assert third[0]["lastTransitionTime"] == "t3"
    assert amended(third, ACCEPTED, None, "t4") == [other]
    assert amended([], ACCEPTED, None, "t5") == []


SERVICES = st.builds(
    lambda name, day, ip: aged(name, day, external_ips=(ip,), ports=(ServicePort(port=80, node_port=30080),)),
    st.sampled_from("ab"),
    st.integers(1, 2),
    st.sampled_from(["203.0.113.1", "192.168.77.11"]),
)
OBJECTS = SERVICES | st.builds(route, st.sampled_from("rs"), of=st.sampled_from("ab"), day=st.integers(1, 2))


@settings(max_examples=15, deadline=None)
@given(st.lists(OBJECTS | st.sampled_from("abrs"), max_size=8), st.booleans())
def test_memory_changes_nothing_and_what_is_written_is_no_longer_due(history: list[Any], write: bool) -> None:
    memo: Memo = {}
    objects: dict[str, Any] = {}
    for event in history:
        if isinstance(event, str):
            objects.pop(event, None)
        else:
            objects[event.metadata.name] = event
        found = due(world(*objects.values()), memo)
        assert found == due(world(*objects.values()), {})
        for about, condition in found.items() if write else ():
            of = objects[about[2]]
            status = type(of.status)(conditions=(condition,) if condition else ())
            objects[about[2]] = replace(of, status=status)
        assert not write or due(world(*objects.values()), memo) == {}
