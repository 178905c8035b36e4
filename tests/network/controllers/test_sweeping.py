"""Namespaces are emptied; orphans, surplus pods and silent nodes are found."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from podnet.network.controllers.actions import Delete, Finalize, Patch, Report
from podnet.network.controllers.namespaces import Content, drain
from podnet.network.controllers.sweeping import NODE_NOT_READY, orphans, silent, stranded, surplus
from podnet.objects.core import Condition, Namespace, Node, NodeStatus, Pod, PodSpec, PodStatus
from podnet.objects.kinds import CONFIGMAPS, PODS
from podnet.objects.meta import ObjectMeta

GOING = Namespace(metadata=ObjectMeta(name="team", deletion_timestamp="2026-01-01T00:00:00Z"))


def pod(name: str, on: str = "", phase: str = "Running", born: str = "2026-01-01T00:00:00Z") -> Pod:
    meta = ObjectMeta(name=name, namespace="default", uid=f"u-{name}", creation_timestamp=born)
    return Pod(metadata=meta, spec=PodSpec(node_name=on), status=PodStatus(phase=phase))


def node(name: str, ready: str | None) -> Node:
    conditions = (Condition(type="Ready", status=ready),) if ready else ()
    return Node(metadata=ObjectMeta(name=name, uid=f"u-{name}"), status=NodeStatus(conditions=conditions))


def test_a_namespace_that_stays_is_left_alone() -> None:
    assert list(drain(Namespace(metadata=ObjectMeta(name="team")), [Content(PODS, "a", "1")])) == []


def test_everything_goes_once_and_then_the_namespace() -> None:
    contents = [Content(PODS, "a", "1"), Content(PODS, "b", "2", leaving=True), Content(CONFIGMAPS, "c", "3")]
    assert list(drain(GOING, contents)) == [Delete(PODS, "team", "a", "1"), Delete(CONFIGMAPS, "team", "c", "3")]
    assert list(drain(GOING, contents[1:2])) == [], "wait for what goes gracefully"
    assert list(drain(GOING, [])) == [Finalize("team")]


def test_pods_of_a_node_that_is_gone_for_good() -> None:
    pods = [pod("a", on="n1"), pod("b", on="gone"), pod("c", on="just-gone"), pod("d")]
    assert list(orphans(pods, {"gone": 40.0, "just-gone": 39.0})) == [Delete(PODS, "default", "b", "u-b", 0)]


def test_the_oldest_ended_pods_make_room() -> None:
    pods = [
        pod(f"p{n}", phase="Succeeded" if n % 2 else "Failed", born=f"2026-01-01T00:00:0{9 - n}Z") for n in range(5)
    ]
    pods.append(pod("running", born="2020-01-01T00:00:00Z"))
    assert [action.name for action in surplus(pods, 3) if isinstance(action, Delete)] == ["p4", "p3"]
    assert list(surplus(pods, 5)) == []


@pytest.mark.parametrize(
    ("ready", "age", "stale"),
    [
        ("True", 41.0, True),
        ("False", 41.0, True),
        ("True", 40.0, False),
        ("Unknown", 99.0, False),
        (None, 99.0, False),
        ("True", None, False),
    ],
)
def test_a_silent_node_is_no_longer_known_to_be_ready(ready: str | None, age: float | None, stale: bool) -> None:
    actions = list(silent([node("n1", ready)], {} if age is None else {"n1": age}))
    assert bool(actions) is stale
    if stale:
        patch, report = actions
        assert isinstance(patch, Patch)
        assert (patch.name, patch.subresource) == ("n1", "status")
        assert patch.document["status"]["conditions"][0]["status"] == "Unknown"
        assert isinstance(report, Report)
        assert report.reason == "NodeNotReady"


@pytest.mark.parametrize(
    ("on", "ready", "lost"), [("silent", "True", True), ("silent", "False", False), ("n1", "True", False)]
)
def test_pods_of_a_silent_node_are_no_endpoints(on: str, ready: str, lost: bool) -> None:
    status = PodStatus(phase="Running", conditions=(Condition(type="Ready", status=ready), Condition(type="Else")))
    pods = [replace(pod("a", on=on), status=status), pod("b", on=on)]
    actions = list(stranded(pods, {"silent": 41.0, "n1": 40.0}))
    assert [action.name for action in actions if isinstance(action, Patch)] == (["a"] if lost else [])
    for action in actions:
        assert isinstance(action, Patch)
        (condition,) = action.document["status"]["conditions"]
        assert (condition["type"], condition["status"], condition["reason"]) == ("Ready", "False", NODE_NOT_READY)
        assert action.subresource == "status"
