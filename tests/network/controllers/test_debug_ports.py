"""Leases of debug ports: what a new one gets, where it is, when it is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from podnet.network.controllers.actions import Delete, Patch
from podnet.network.controllers.debug_ports import expires, over, reconcile, settle, tokens
from podnet.network.controllers.node_ports import Numbers, PortRange
from podnet.objects.core import Node, NodeAddress, NodeStatus, Pod, PodSpec
from podnet.objects.kinds import DEBUGPORTS
from podnet.objects.leases import DebugPort, DebugPortSpec, DebugPortStatus
from podnet.objects.meta import ObjectMeta, OwnerReference

MADE = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
POD = Pod(ObjectMeta(name="web", namespace="default", uid="u1"), PodSpec(node_name="n1"))
NODE = Node(ObjectMeta(name="n1"), status=NodeStatus(addresses=(NodeAddress("InternalIP", "10.0.0.1"),)))
PLACES = {("default", "web"): POD}, {("", "n1"): NODE}


def lease(uid: str = "u1", seconds: int = 60, created: str | None = "2026-11-22T10:00:00Z", **status: str) -> DebugPort:
    owners = (OwnerReference("v1", "Pod", "web", uid),)
    metadata = ObjectMeta("l", "default", "x", creation_timestamp=created, owner_references=owners)
    return DebugPort(metadata, DebugPortSpec("web", 80, "TCP", seconds, 30001), DebugPortStatus(**status))


def settled(
    pod: Pod | None = POD, old: dict[str, Any] | None = None, taken: tuple[int, ...] = (), **spec: Any
) -> tuple[dict[str, Any], list[str]]:
    document: dict[str, Any] = {"metadata": {"name": "l"}, "spec": {"pod": "web", "port": 80, **spec}}
    free = Numbers(PortRange(30000, 30002), lambda token: token.number in taken, lambda _: 0, set())
    return document, [refusal.why for refusal in settle(document, old, pod, free)]


def test_a_new_lease_gets_a_free_number_and_its_pod_as_owner() -> None:
    document, refused = settled(taken=(30000,))
    assert refused == []
    assert document["spec"]["nodePort"] == 30001
    assert document["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u1"}]
    assert settled(nodePort=30002)[0]["spec"]["nodePort"] == 30002


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"pod": None}, "no such pod"),
        ({"pod": Pod(POD.metadata, PodSpec(host_network=True))}, "node's own network"),
        ({"nodePort": 30000, "taken": (30000,)}, "already allocated"),
        ({"nodePort": 80}, "not in the valid range"),
        ({"taken": (30000, 30001, 30002)}, "range is full"),
    ],
)
def test_what_is_refused(asked: dict[str, Any], why: str) -> None:
    assert why in settled(**asked)[1][0]


def test_a_change_keeps_the_number_even_without_the_pod() -> None:
    old, _ = settled()
    document, refused = settled(None, old, seconds=5)
    assert (refused, document["spec"]["nodePort"]) == ([], 30000)
    assert "ownerReferences" not in document["metadata"]


def test_what_it_holds() -> None:
    assert [token.number for token in tokens(lease())] == [30001]
    assert list(tokens(DebugPort())) == []


def test_the_status_tells_where_and_until_when() -> None:
    where: Any = {"node": "n1", "address": "10.0.0.1", "expires": "2026-11-22T10:01:00Z"}
    assert list(reconcile([lease()], *PLACES)) == [Patch(DEBUGPORTS, "default", "l", {"status": where}, "status")]
    assert list(reconcile([lease(**where)], *PLACES)) == []
    (gone,) = reconcile([lease(**where)], {}, {})
    assert isinstance(gone, Patch)
    assert gone.document["status"]["address"] == ""
    assert expires(lease(created=None)) == expires(lease(created="soon")) == ""


def test_when_it_is_over() -> None:
    end = [Delete(DEBUGPORTS, "default", "l", "x")]
    almost, late = MADE + timedelta(seconds=59), MADE + timedelta(seconds=60)
    assert list(over([lease()], PLACES[0], almost)) == []
    assert list(over([lease()], PLACES[0], late)) == end
    assert list(over([lease(seconds=90)], PLACES[0], late)) == []
    assert list(over([lease()], {}, almost)) == end
    assert list(over([lease(uid="u0")], PLACES[0], almost)) == end, "another pod of its name"
