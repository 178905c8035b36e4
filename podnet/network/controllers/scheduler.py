"""Which node runs a pod: the least loaded one that is ready and that the pod may use.

Small on purpose: node selectors, taints and tolerations, cordons, and the number of pods as the load. A pod that fits
nowhere is told so in its PodScheduled condition and in an event, and is looked at again whenever something changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from podnet.network.controllers.actions import Action, Bind, Patch, Report
from podnet.objects.core import Node, Pod, Taint, Toleration
from podnet.objects.kinds import PODS

ENDED = ("Succeeded", "Failed")


def schedule(pods: Iterable[Pod], nodes: Sequence[Node]) -> Iterator[Action]:
    """A binding for every pending pod that fits somewhere; for the others, why not."""
    everyone = list(pods)
    load = Counter(pod.spec.node_name for pod in everyone if pod.spec.node_name and pod.status.phase not in ENDED)
    choices: dict[object, tuple[list[Node], str]] = {}
    for pod in sorted(filter(_pending, everyone), key=lambda pod: (pod.metadata.creation_timestamp or "", pod.key)):
        wish = (frozenset(pod.spec.node_selector.items()), pod.spec.tolerations)
        if wish not in choices:
            choices[wish] = _choices(pod, nodes)
        fitting, why = choices[wish]
        if fitting:
            node = min(fitting, key=lambda node: (_avoid(node, wish[1]), load[node.metadata.name], node.metadata.name))
            load[node.metadata.name] += 1
            yield Bind(*pod.key, node.metadata.name)
        else:
            yield from _unschedulable(pod, why)


def _pending(pod: Pod) -> bool:
    return not pod.spec.node_name and pod.metadata.deletion_timestamp is None and pod.status.phase not in ENDED


def _choices(pod: Pod, nodes: Sequence[Node]) -> tuple[list[Node], str]:
    """(nodes the pod may use, why it may not use the others)."""
    reasons = {node.metadata.name: _obstacle(pod, node) for node in nodes}
    counted = Counter(filter(None, reasons.values()))
    listed = ", ".join(f"{number} node(s) {reason}" for reason, number in sorted(counted.items()))
    why = f"0/{len(nodes)} nodes are available: {listed}." if nodes else "no nodes available to schedule pods"
    return [node for node in nodes if not reasons[node.metadata.name]], why


def _obstacle(pod: Pod, node: Node) -> str:
    if not ready(node):
        return "were not ready"
    if node.spec.unschedulable:
        return "were unschedulable"
    if not _selected(pod.spec.node_selector, node.metadata.labels):
        return "didn't match Pod's node affinity/selector"
    for taint in node.spec.taints:
        if taint.effect != "PreferNoSchedule" and not _tolerated(taint, pod.spec.tolerations):
            return f"had untolerated taint {{{taint.key}: {taint.value}}}"
    return ""


def ready(node: Node) -> bool:
    """Whether the node says so, and is not on its way out."""
    fine = any(item.type == "Ready" and item.status == "True" for item in node.status.conditions)
    return fine and node.metadata.deletion_timestamp is None


def _selected(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    return any(_tolerates(toleration, taint) for toleration in tolerations)


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect not in ("", taint.effect) or toleration.key not in ("", taint.key):
        return False
    return toleration.operator == "Exists" or (bool(toleration.key) and toleration.value == taint.value)


def _avoid(node: Node, tolerations: Iterable[Toleration]) -> int:
    return sum(taint.effect == "PreferNoSchedule" and not _tolerated(taint, tolerations) for taint in node.spec.taints)


def _unschedulable(pod: Pod, why: str) -> Iterator[Action]:
    known = any(item.type == "PodScheduled" and item.message == why for item in pod.status.conditions)
    if not known:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
        yield Patch(PODS, *pod.key, {"status": {"conditions": [condition]}}, "status")
        yield Report(PODS, pod, "FailedScheduling", why)
