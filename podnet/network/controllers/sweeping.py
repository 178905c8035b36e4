"""What is left behind: pods of nodes that are gone, ended pods beyond a number, old events, nodes gone silent.

Ages are given in seconds; whoever calls knows what time it is.
Source: kube-controller-manager's podgc and nodelifecycle (MarkPodsNotReady), and the API server's event TTL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from podnet.network.controllers.actions import Action, Delete, Patch, Report
from podnet.network.controllers.scheduler import ENDED
from podnet.objects.core import Node, Pod
from podnet.objects.kinds import NODES, PODS

ENDED_LIMIT = 12_500  # ended pods kept for people to look at
MISSING_SECONDS = 40.0  # a node that is gone this long is not being re-registered
SILENT_SECONDS = 40.0  # a heartbeat this old is no sign of life
EVENT_SECONDS = 3600.0
NODE_NOT_READY = "NodeNotReady"
"""Why a pod is not ready that its own kubelet, could it speak, might call ready."""


def orphans(pods: Iterable[Pod], missing: Mapping[str, float]) -> Iterator[Action]:
    """Pods whose node is `missing` (name -> for how long): no kubelet will ever end them."""
    for pod in pods:
        if missing.get(pod.spec.node_name, 0.0) >= MISSING_SECONDS:
            yield Delete(PODS, *pod.key, pod.metadata.uid, grace=0)


def surplus(pods: Iterable[Pod], limit: int = ENDED_LIMIT) -> Iterator[Action]:
    """The oldest ended pods beyond `limit`."""
    ended = [pod for pod in pods if pod.status.phase in ENDED]
    ended.sort(key=lambda pod: (pod.metadata.creation_timestamp or "", pod.key))
    for pod in ended[: max(len(ended) - limit, 0)]:
        yield Delete(PODS, *pod.key, pod.metadata.uid, grace=0)


def silent(nodes: Iterable[Node], heartbeats: Mapping[str, float]) -> Iterator[Action]:
    """Nodes whose last heartbeat (name -> age) is too old are no longer known to be ready."""
    for node in nodes:
        ready = next((item for item in node.status.conditions if item.type == "Ready"), None)
        stale = heartbeats.get(node.metadata.name, 0.0) > SILENT_SECONDS
        if not stale or ready is None or ready.status == "Unknown":
            continue
        message = "Kubelet stopped posting node status."
        condition = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": message}
        yield Patch(NODES, "", node.metadata.name, {"status": {"conditions": [condition]}}, "status")
        yield Report(NODES, node, "NodeNotReady", f"Node {node.metadata.name} status is now: NodeNotReady")


def stranded(pods: Iterable[Pod], heartbeats: Mapping[str, float]) -> Iterator[Action]:
    """Pods of nodes gone silent are no longer known to be ready: no Service shall lead to them.

    Their kubelet says otherwise as soon as it is back.
    """
    for pod in pods:
        lost = heartbeats.get(pod.spec.node_name, 0.0) > SILENT_SECONDS
        if lost and any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions):
            condition = {"type": "Ready", "status": "False", "reason": NODE_NOT_READY, "message": "Node is not ready"}
            yield Patch(PODS, *pod.key, {"status": {"conditions": [condition]}}, "status")
