"""Which node runs a pod, and what is said when none can."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.network.controllers.actions import Action, Bind, Patch, Report
from podnet.network.controllers.scheduler import schedule
from podnet.objects.core import Condition, Node, NodeSpec, NodeStatus, Pod, PodSpec, PodStatus, Taint, Toleration
from podnet.objects.meta import ObjectMeta

TAINT = Taint("dedicated", "db", "NoSchedule")


def node(
    name: str, *taints: Taint, ready: str = "True", cordoned: bool = False, going: bool = False, **labels: str
) -> Node:
    meta = ObjectMeta(name=name, labels=labels, deletion_timestamp="x" if going else None)
    status = NodeStatus(conditions=(Condition(type="Ready", status=ready),))
    return Node(metadata=meta, spec=NodeSpec(taints=taints, unschedulable=cordoned), status=status)


def pod(name: str, on: str = "", phase: str = "Pending", going: bool = False, said: str = "", **spec: Any) -> Pod:
    meta = ObjectMeta(name=name, namespace="default", uid=name, deletion_timestamp="x" if going else None)
    conditions = (Condition(type="PodScheduled", status="False", message=said),) if said else ()
    return Pod(metadata=meta, spec=PodSpec(node_name=on, **spec), status=PodStatus(phase=phase, conditions=conditions))


def bound(actions: list[Action]) -> dict[str, str]:
    return {action.name: action.node for action in actions if isinstance(action, Bind)}


def why(pods: list[Pod], nodes: list[Node]) -> str:
    patch, report = schedule(pods, nodes)
    assert isinstance(patch, Patch)
    assert isinstance(report, Report)
    (condition,) = patch.document["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("PodScheduled", "False", "Unschedulable")
    assert (report.reason, report.type, report.message) == ("FailedScheduling", "Warning", condition["message"])
    return report.message


def test_pods_spread_over_the_nodes() -> None:
    nodes = [node("n1"), node("n2"), node("n3")]
    pods = [pod("old", on="n1"), *(pod(f"p{n}") for n in range(5))]
    assert bound(list(schedule(pods, nodes))) == {"p0": "n2", "p1": "n3", "p2": "n1", "p3": "n2", "p4": "n3"}


def test_ended_pods_are_no_load() -> None:
    pods = [
        pod("done", on="n1", phase="Succeeded"),
        pod("failed", on="n1", phase="Failed"),
        pod("runs", on="n2"),
        pod("new"),
    ]
    assert bound(list(schedule(pods, [node("n1"), node("n2")]))) == {"new": "n1"}


@pytest.mark.parametrize(
    "settled", [pod("p", on="n1"), pod("p", going=True), pod("p", phase="Failed"), pod("p", phase="Succeeded")]
)
def test_pods_that_need_no_node(settled: Pod) -> None:
    assert list(schedule([settled], [node("n1")])) == []


@pytest.mark.parametrize(
    ("unfit", "reason"),
    [
        (node("n1", ready="False"), "were not ready"),
        (node("n1", ready="Unknown"), "were not ready"),
        (node("n1", going=True), "were not ready"),
        (Node(metadata=ObjectMeta(name="n1")), "were not ready"),
        (node("n1", cordoned=True), "were unschedulable"),
        (node("n1", TAINT), "had untolerated taint {dedicated: db}"),
        (node("n1", Taint("x", "", "NoExecute")), "had untolerated taint {x: }"),
    ],
)
def test_nodes_that_cannot_take_a_pod(unfit: Node, reason: str) -> None:
    assert why([pod("p")], [unfit]) == f"0/1 nodes are available: 1 node(s) {reason}."
    assert bound(list(schedule([pod("p")], [unfit, node("n2")]))) == {"p": "n2"}


def test_reasons_are_counted() -> None:
    nodes = [node("a", cordoned=True), node("b", cordoned=True), node("c", TAINT)]
    expected = "0/3 nodes are available: 1 node(s) had untolerated taint {dedicated: db}, 2 node(s) were unschedulable."
    assert why([pod("p")], nodes) == expected


def test_no_nodes_at_all() -> None:
    assert why([pod("p")], []) == "no nodes available to schedule pods"


def test_what_was_said_is_not_said_again() -> None:
    assert list(schedule([pod("p", said="no nodes available to schedule pods")], [])) == []
    assert len(list(schedule([pod("p", said="no nodes available to schedule pods")], [node("n", cordoned=True)]))) == 2


def test_node_selectors() -> None:
    nodes = [node("n1", disk="hdd"), node("n2", disk="ssd", zone="a"), node("n3", disk="ssd")]
    assert bound(list(schedule([pod("p", node_selector={"disk": "ssd", "zone": "a"})], nodes))) == {"p": "n2"}
    assert "didn't match Pod's node affinity/selector" in why([pod("p", node_selector={"disk": "tape"})], nodes)


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        (Toleration(key="dedicated", value="db"), True),
        (Toleration(key="dedicated", value="db", effect="NoSchedule"), True),
        (Toleration(key="dedicated", operator="Exists"), True),
        (Toleration(operator="Exists"), True),
        (Toleration(key="dedicated", value="web"), False),
        (Toleration(key="other", value="db"), False),
        (Toleration(key="dedicated", value="db", effect="NoExecute"), False),
        (Toleration(key="other", operator="Exists"), False),
    ],
)
def test_tolerations(toleration: Toleration, fits: bool) -> None:
    actions = list(schedule([pod("p", tolerations=(toleration,))], [node("n1", TAINT)]))
    assert bound(actions) == ({"p": "n1"} if fits else {})


def test_a_node_that_prefers_to_be_left_alone_comes_last() -> None:
    shy = Taint("a", "b", "PreferNoSchedule")
    nodes = [node("n1", shy), node("n2")]
    crowd = [pod(f"x{n}", on="n2") for n in range(9)]
    assert bound(list(schedule([*crowd, pod("p")], nodes))) == {"p": "n2"}
    assert bound(list(schedule([pod("p")], nodes[:1]))) == {"p": "n1"}
    tolerant = pod("p", tolerations=(Toleration(operator="Exists"),))
    assert bound(list(schedule([*crowd, tolerant], nodes))) == {"p": "n1"}


NODES = st.lists(
    st.builds(node, st.just("n"), cordoned=st.booleans(), ready=st.sampled_from(["True", "False"])), max_size=5
)


@given(NODES, st.integers(0, 12), st.lists(st.integers(0, 4), max_size=8))
def test_every_pod_is_bound_once_or_told_why_and_loads_stay_even(
    drawn: list[Node], waiting: int, running: list[int]
) -> None:
    nodes = [
        node(f"n{n}", cordoned=each.spec.unschedulable, ready=each.status.conditions[0].status)
        for n, each in enumerate(drawn)
    ]
    pods = [pod(f"r{n}", on=f"n{where}") for n, where in enumerate(running)] + [pod(f"w{n}") for n in range(waiting)]
    actions = list(schedule(pods, nodes))
    usable = {
        each.metadata.name
        for each in nodes
        if not each.spec.unschedulable and each.status.conditions[0].status == "True"
    }
    binds = bound(actions)
    assert set(binds) == ({f"w{n}" for n in range(waiting)} if usable else set())
    assert len([action for action in actions if isinstance(action, Report)]) == (0 if usable else waiting)
    before = {name: running.count(int(name[1:])) for name in usable}
    after = {name: before[name] + list(binds.values()).count(name) for name in usable}
    taken = {name for name in usable if after[name] > before[name]}
    assert all(after[name] <= min(after.values()) + 1 for name in taken)
