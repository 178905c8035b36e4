"""What a kubelet says about a pod: its containers' states, folded into phase and conditions.

Pure: the same states give the same PodStatus. Times are Unix seconds and become RFC 3339 here.
Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (getPhase), pkg/kubelet/status/generate.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from podnet.lab.containers import Live, State, Terminated, Waiting
from podnet.objects.core import Pod

Json = dict[str, Any]
POD_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready")


class ContainerReport(msgspec.Struct, frozen=True):
    """One container as its status is made from."""

    name: str
    image: str
    id: str
    state: State
    last: Terminated | None = None
    restarts: int = 0
    ready: bool = False
    started: bool = False


class PodReport(msgspec.Struct, frozen=True):
    """A pod as its status is made from. `over`: nothing will be restarted; `ips`: none before CNI's answer."""

    host_ips: tuple[str, ...]
    ips: tuple[str, ...] = ()
    since: float = 0.0
    inits: tuple[ContainerReport, ...] = ()
    mains: tuple[ContainerReport, ...] = ()
    over: bool = False
    trouble: str = ""


def rfc3339(seconds: float) -> str:
    """A Unix time as Kubernetes writes it, in whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix(text: str) -> float:
    """The Unix time of an RFC 3339 time. Raises ValueError."""
    return datetime.fromisoformat(text).timestamp()


def phase(pod: Pod, report: PodReport) -> str:
    """Pending, Running, Succeeded or Failed."""
    states = [container.state for container in report.mains]
    ended = [state for state in states if isinstance(state, Terminated)]
    if (report.over and len(ended) == len(states)) or _init_failed(pod, report):
        failed = [state for state in ended if state.code] or _init_failed(pod, report)
        return "Failed" if failed else "Succeeded"
    if not all(container.ready for container in report.inits):
        return "Pending"
    begun = [container for container in report.mains if not isinstance(container.state, Waiting) or container.last]
    return "Running" if begun and len(begun) == len(states) else "Pending"


def _init_failed(pod: Pod, report: PodReport) -> bool:
    """Whether an init container failed for good."""
    failed = [init for init in report.inits if isinstance(init.state, Terminated) and init.state.code]
    return bool(failed) and (report.over or pod.spec.restart_policy == "Never")


def pod_status(pod: Pod, report: PodReport, now: float, before: Mapping[str, Json]) -> Json:
    """The status document; `before` are the conditions sent last, by type, whose times stay when nothing changed."""
    at = phase(pod, report)
    status: Json = {
        "phase": at,
        "conditions": conditions(report, at, now, before),
        "hostIP": report.host_ips[0],
        "hostIPs": [{"ip": ip} for ip in report.host_ips],
        "startTime": rfc3339(report.since),
        "containerStatuses": [container_status(container) for container in report.mains],
    }
    if report.ips:
        status |= {"podIP": report.ips[0], "podIPs": [{"ip": ip} for ip in report.ips]}
    if report.inits:
        status["initContainerStatuses"] = [container_status(container) for container in report.inits]
    return status


def conditions(report: PodReport, at: str, now: float, before: Mapping[str, Json]) -> list[Json]:
    """The kubelet's four conditions; PodScheduled is the scheduler's."""
    done = at == "Succeeded"
    why = {"reason": "PodCompleted"} if done else {"reason": "PodFailed"} if at == "Failed" else {}
    unready = [] if done else [container.name for container in report.mains if not container.ready]
    waiting = [] if done else [container.name for container in report.inits if not container.ready]
    all_ready = not (unready or why or report.over)
    lacks = why or _lack("ContainersNotReady", "unready", unready)
    incomplete = _lack("ContainersNotInitialized", "incomplete", waiting)
    trouble = {"message": report.trouble} if report.trouble else {}
    made = [
        _condition("PodReadyToStartContainers", bool(report.ips), trouble),
        _condition("Initialized", not waiting, incomplete, why if done else {}),
        _condition("ContainersReady", all_ready, lacks),
        _condition("Ready", all_ready, lacks),
    ]
    return [_timed(condition, now, before.get(condition["type"], {})) for condition in made]


def _lack(reason: str, what: str, names: list[str]) -> dict[str, str]:
    return {"reason": reason, "message": f"containers with {what} status: [{' '.join(names)}]"}


def _condition(type_: str, true: bool, lacks: Mapping[str, str], has: Mapping[str, str] | None = None) -> Json:
    found = (has or {}) if true else lacks
    return {"type": type_, "status": str(true), "reason": found.get("reason"), "message": found.get("message")}


def _timed(condition: Json, now: float, before: Mapping[str, Any]) -> Json:
    same = before.get("status") == condition["status"]
    changed = before["lastTransitionTime"] if same else rfc3339(now)
    return condition | {"lastProbeTime": None, "lastTransitionTime": changed}


def container_status(container: ContainerReport) -> Json:
    """One element of containerStatuses."""
    return {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "containerID": "" if isinstance(container.state, Waiting) and not container.last else container.id,
        "restartCount": container.restarts,
        "ready": container.ready,
        "started": container.started,
        "state": state(container.state, container.id),
        "lastState": state(container.last, container.id) if container.last else {},
    }


def state(of: State, id_: str) -> Json:
    """A ContainerState."""
    match of:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason} | ({"message": message} if message else {})}
        case Live(since):
            return {"running": {"startedAt": rfc3339(since)}}
        case Terminated(code, since, at, message):
            times = {"startedAt": rfc3339(since), "finishedAt": rfc3339(at)}
            ended = {"exitCode": code, "reason": of.reason, **times, "containerID": id_}
            return {"terminated": ended | ({"message": message} if message else {})}


def index(found: Iterable[Json]) -> dict[str, Json]:
    """Conditions by type."""
    return {condition["type"]: condition for condition in found}
