"""What a pod gets of its ExternalPods, what it keeps, and who is told."""

from __future__ import annotations

import copy
import json
from typing import Any
from unittest import mock

import msgspec

from podnet.network.controllers.actions import Patch, Report
from podnet.network.controllers.external_pods import reconcile, settle, tokens
from podnet.network.controllers.node_ports import Numbers, PortRange
from podnet.objects.codec import convert
from podnet.objects.core import Node, NodeAddress, NodeStatus, Pod
from podnet.objects.kinds import EXTERNALPODS, PODS
from podnet.objects.leases import (
    EXTERNAL_ANNOTATION,
    ExternalPods,
    ExternalPodsSpec,
    ExternalPodsStatus,
    ExternalPort,
    published,
)
from podnet.objects.meta import ObjectMeta

RPC = ExternalPort("rpc", 20880)
RANGE = PortRange(30000, 30010)
NODE = Node(
    ObjectMeta(name="n1"),
    status=NodeStatus(addresses=(NodeAddress("InternalIP", "10.0.0.1"), NodeAddress("ExternalIP", "203.0.113.1"))),
)


def external(name: str = "registry", *ports: ExternalPort, address: str = "node", **selector: str) -> ExternalPods:
    spec = ExternalPodsSpec(selector or {"app": "web"}, ports or (RPC,), address)
    return ExternalPods(ObjectMeta(name=name, namespace="default"), spec)


def pod(node: str = "n1", annotation: str = "", phase: str = "Pending", **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "p", "namespace": "default", "labels": {"app": "web"}}
    if annotation:
        metadata["annotations"] = {EXTERNAL_ANNOTATION: annotation}
    return {"metadata": metadata, "spec": {"nodeName": node, **spec}, "status": {"phase": phase}}


def given(
    document: dict[str, Any],
    *of: ExternalPods,
    before: dict[str, Any] | None = None,
    node: Node | None = NODE,
    taken: tuple[int, ...] = (),
    of_range: PortRange = RANGE,
) -> list[tuple[str, str, int]]:
    """(name, address, port) of all that it gets; the dice always fall on 0."""
    old = convert(before, Pod) if before else None
    mine = {token.number for token in tokens(old)} if old else set()
    free = Numbers(of_range, lambda token: token.number in taken, lambda _: 0, mine)
    settle(document, convert(document, Pod), old, of, node, free)
    return [(each.name, each.address, each.port) for each in published(convert(document, Pod).metadata)]


def test_a_pod_with_a_node_gets_a_number_for_each_port() -> None:
    of = external("registry", RPC, ExternalPort("jmx", 9999, "UDP"))
    assert given(pod(), of, taken=(30000,)) == [("rpc", "10.0.0.1", 30001), ("jmx", "10.0.0.1", 30002)]
    document = pod()
    given(document, external())
    (written,) = json.loads(document["metadata"]["annotations"][EXTERNAL_ANNOTATION])
    assert written == {"name": "rpc", "address": "10.0.0.1", "port": 30000, "containerPort": 20880, "protocol": "TCP"}


def test_who_gets_nothing() -> None:
    assert given(pod(node=""), external()) == []
    assert given(pod(), external(app="other")) == []
    assert given(pod(), ExternalPods(ObjectMeta(name="x", namespace="elsewhere"), external().spec)) == []
    assert given(pod(), external(), node=None) == []
    assert given(pod(), external(), of_range=PortRange(30000, 30000), taken=(30000,)) == []
    untouched = pod()
    given(untouched)
    assert untouched == pod(), "no empty annotations"


def test_a_number_stays_whatever_is_written() -> None:
    before = pod()
    first = given(before, external())
    assert given(pod(), external(), before=before, taken=(30000,)) == first, "a replaced pod without the annotation"
    forged = pod(annotation='[{"name":"rpc","address":"10.0.0.9","port":22,"containerPort":20880}]')
    assert given(forged, external(), before=before) == first
    assert given(pod(annotation=forged["metadata"]["annotations"][EXTERNAL_ANNOTATION])) == [], "nor at creation"
    more = external("registry", ExternalPort("new", 1), RPC)
    assert given(pod(), more, before=before) == [("new", "10.0.0.1", 30001), *first]
    assert given(pod(), external(), before=before, node=None) == first, "its Node object is gone"
    assert given(pod(), before=before) == [], "no longer selected"
    assert given(pod(), external("registry", ExternalPort("rpc", 1)), before=before) == [("rpc", "10.0.0.1", 30001)]


def test_an_ended_pod_keeps_what_it_says_and_holds_nothing() -> None:
    before = pod()
    first = given(before, external())
    ended = pod(phase="Succeeded")
    assert given(ended, before=before) == first
    assert list(tokens(convert(ended, Pod))) == []
    assert [token.number for token in tokens(convert(before, Pod))] == [30000]


def test_the_nodes_own_network_and_other_addresses() -> None:
    assert given(pod(hostNetwork=True), external()) == [("rpc", "10.0.0.1", 20880)]
    assert given(pod(), external(address="external")) == [("rpc", "203.0.113.1", 30000)]
    bare = Node(ObjectMeta(name="n1"), status=NodeStatus(addresses=NODE.status.addresses[:1]))
    assert given(pod(), external(address="external"), node=bare) == [("rpc", "10.0.0.1", 30000)]


def test_of_two_with_the_same_port_name_the_first_counts() -> None:
    assert given(pod(), external("b", ExternalPort("rpc", 2)), external("a", ExternalPort("rpc", 1))) == [
        ("rpc", "10.0.0.1", 30000)
    ]


def decided(document: dict[str, Any], *externals: ExternalPods) -> list[Any]:
    return list(reconcile(externals, [convert(document, Pod)], {("", "n1"): NODE}))


def test_pods_are_written_again_until_they_are_right() -> None:
    again = Patch(PODS, "default", "p", {})
    right = pod()
    given(right, external())
    assert again in decided(pod(), external())
    assert again not in decided(right, external())
    assert decided(right) == [again]
    assert again in decided(right, external("registry", RPC, ExternalPort("new", 1)))
    moved = pod()
    given(moved, external(address="external"))
    assert again in decided(moved, external())
    assert again not in decided(pod(node=""), external())
    assert again not in decided(pod(phase="Failed"), external())


def test_the_status_tells_who_has_what_and_who_waits() -> None:
    right = pod()
    given(right, external())
    (patch,) = decided(right, external())
    where = {"name": "rpc", "address": "10.0.0.1", "port": 30000, "containerPort": 20880, "protocol": "TCP"}
    assert patch.kind is EXTERNALPODS
    assert patch.document["status"]["pods"] == [{"pod": "p", "node": "n1", "published": [where]}]
    assert decided(right, told(external(), patch)) == [], "once"
    waiting = decided(pod(), external())
    assert [each.reason for each in waiting if isinstance(each, Report)] == ["Waiting"]
    row = {"pod": "p", "node": "n1", "waiting": ["rpc"]}
    assert row in status(waiting, "registry")["pods"]


def told(external: ExternalPods, patch: Patch) -> ExternalPods:
    """As it is once its status is written, at the time "then"."""
    stamped = copy.deepcopy(dict(patch.document["status"]))
    stamped["conditions"] = [{"lastTransitionTime": "then", **each} for each in stamped["conditions"]]
    return msgspec.structs.replace(external, status=msgspec.convert(stamped, ExternalPodsStatus))


def status(decisions: list[Any], name: str) -> dict[str, Any]:
    (found,) = (each for each in decisions if isinstance(each, Patch) and each.name == name)
    return dict(found.document["status"])


def test_the_condition_tells_whether_all_have_what_they_should_and_since_when() -> None:
    (*_, fine) = decided(pod(node=""), external())
    (condition,) = status([fine], "registry")["conditions"]
    assert condition == {"type": "Accepted", "status": "True", "reason": "Accepted", "message": mock.ANY}
    known = told(external(), fine)
    (waiting,) = status(decided(pod(), known), "registry")["conditions"]
    assert (waiting["status"], waiting["reason"]) == ("False", "Waiting")
    assert waiting["message"].startswith("pod p waits for rpc: ")
    assert "lastTransitionTime" not in waiting, "it changes now"
    newer = msgspec.structs.replace(known, metadata=msgspec.structs.replace(known.metadata, generation=2))
    (same,) = status(decided(pod(node=""), newer), "registry")["conditions"]
    assert (same["observedGeneration"], same["lastTransitionTime"]) == (2, "then")


def test_who_comes_second_with_a_port_name_is_told() -> None:
    one, two, alike = external("a", ExternalPort("rpc", 1)), external("b", ExternalPort("rpc", 2)), external("c")
    right = pod()
    given(right, one, two)
    found = decided(right, two, one)
    assert status(found, "a")["conditions"][0]["status"] == "True"
    (condition,) = status(found, "b")["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "NameTaken")
    assert condition["message"] == "port rpc of pod p is that of ExternalPods a"
    assert [(each.about.metadata.name, each.reason) for each in found if isinstance(each, Report)] == [
        ("b", "NameTaken")
    ]
    again = ExternalPods(ObjectMeta(name="d", namespace="default"), alike.spec)
    right = pod()
    given(right, alike, again)
    assert status(decided(right, alike, again), "d")["conditions"][0]["status"] == "True", "it is the same port"
