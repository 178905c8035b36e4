"""The row of a Pod: one word for what a dozen container states add up to. Source: printPod of upstream's printers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from podnet.apiserver.status import Document

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


def age(timestamp: str | None, now: datetime) -> str:
    """`5m30s` since an RFC 3339 time, as coarse as upstream's HumanDuration."""
    if not timestamp:
        return "<unknown>"
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return "<unknown>"
    return duration(int((now - moment.replace(tzinfo=moment.tzinfo or UTC)).total_seconds()))


def duration(seconds: int) -> str:
    """Whole seconds for people; two units at most."""
    if seconds < -1:
        return "<invalid>"
    for limit, big, big_word, small, small_word in (
        (2 * _MINUTE, 1, "s", 0, ""),
        (10 * _MINUTE, _MINUTE, "m", 1, "s"),
        (3 * _HOUR, _MINUTE, "m", 0, ""),
        (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
        (2 * _DAY, _HOUR, "h", 0, ""),
        (8 * _DAY, _DAY, "d", _HOUR, "h"),
        (2 * _YEAR, _DAY, "d", 0, ""),
        (8 * _YEAR, _YEAR, "y", _DAY, "d"),
    ):
        if seconds < limit:
            rest = seconds % big // small if small else 0
            return f"{max(seconds, 0) // big}{big_word}" + (f"{rest}{small_word}" if rest else "")
    return f"{seconds // _YEAR}y"


def pod_cells(document: Document, now: datetime) -> list[object]:
    """Name, Ready, Status, Restarts, Age, IP, Node, Nominated Node, Readiness Gates."""
    spec, status, metadata = document["spec"], document.get("status", {}), document["metadata"]
    states: Sequence[Document] = status.get("containerStatuses", ())
    ready = sum(bool(state.get("ready") and "running" in state.get("state", {})) for state in states)
    return [
        metadata["name"], f"{ready}/{len(spec['containers'])}", _reason(document), _restarts(status, now),
        age(metadata.get("creationTimestamp"), now), status.get("podIP") or "<none>", spec.get("nodeName") or "<none>",
        status.get("nominatedNodeName") or "<none>", "<none>",
    ]  # fmt: skip


def _reason(document: Document) -> str:
    spec, status = document["spec"], document.get("status", {})
    phase = status.get("phase", "")
    if "deletionTimestamp" in document["metadata"]:
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if phase not in ("Succeeded", "Failed"):
            return "Terminating"
    starting = _initializing(status.get("initContainerStatuses", ()), len(spec.get("initContainers", ())))
    if starting and not _condition(status, "Initialized"):
        return starting
    return _running(status, status.get("reason") or phase)


def _condition(status: Document, kind: str) -> bool:
    return any(item.get("type") == kind and item.get("status") == "True" for item in status.get("conditions", ()))


def _initializing(states: Sequence[Document], total: int) -> str:
    for index, state in enumerate(states):
        kind = state.get("state", {})
        if "terminated" in kind and kind["terminated"].get("exitCode", 0) == 0:
            continue
        if "terminated" in kind:
            return f"Init:{_ended(kind['terminated'])}"
        waiting = kind.get("waiting", {}).get("reason", "")
        return f"Init:{waiting}" if waiting not in ("", "PodInitializing") else f"Init:{index}/{total}"
    return ""


def _ended(terminated: Document) -> str:
    signal = terminated.get("signal")
    return terminated.get("reason") or (f"Signal:{signal}" if signal else f"ExitCode:{terminated.get('exitCode', 0)}")


def _running(status: Document, reason: str) -> str:
    alive = False
    for state in reversed(status.get("containerStatuses", ())):
        kind = state.get("state", {})
        if kind.get("waiting", {}).get("reason"):
            reason = kind["waiting"]["reason"]
        elif "terminated" in kind:
            reason = _ended(kind["terminated"])
        alive = alive or bool(state.get("ready") and "running" in kind)
    if reason == "Completed" and alive:
        return "Running" if _condition(status, "Ready") else "NotReady"
    return reason


def _restarts(status: Document, now: datetime) -> str:
    states = status.get("containerStatuses", ())
    count = sum(state.get("restartCount", 0) for state in states)
    ends = [state.get("lastState", {}).get("terminated", {}).get("finishedAt") for state in states]
    latest = max(filter(None, ends), default=None)
    return f"{count} ({age(latest, now)} ago)" if count and latest else str(count)
