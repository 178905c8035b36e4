"""Problems and incidents as Kubernetes Events, on the object that they are about.

An Event's name follows from what it says, so that a second one about the same, by whichever node, collides with the
first. Of a problem, which lasts, once is enough; an incident, which happens again and again, is counted.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha1
from typing import Any

from podnet.client.api import Api
from podnet.client.errors import ApiError
from podnet.network.view import Problem
from podnet.objects.kinds import CONFIGMAPS, EVENTS, PODS, SERVICEROUTES, SERVICES
from podnet.objects.meta import Object

NAMESPACED = {kind.kind: kind for kind in (SERVICES, SERVICEROUTES, CONFIGMAPS, PODS)}


class Counted(Object, frozen=True):
    """An Event, as far as it matters here."""

    count: int = 1


async def write(api: Api, problem: Problem, node: str, again: bool = False) -> None:
    """`again`: it counts when there is one already. Raises ApiError."""
    document = event(problem, node, await _uid(api, problem))
    try:
        await api.create(EVENTS, document)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        if again:
            await _count(api, document)


async def _count(api: Api, document: dict[str, Any]) -> None:
    meta = document["metadata"]
    before = await api.get(EVENTS, meta["name"], meta["namespace"], into=Counted)
    patch = {"count": before.count + 1, "lastTimestamp": document["lastTimestamp"]}
    await api.patch(EVENTS, meta["name"], patch, meta["namespace"])


async def _uid(api: Api, problem: Problem) -> str:
    """That of the object, since kubectl describe shows Events by it; "" when it is gone or has no namespace."""
    kind, namespace, name = _named(problem)
    if kind not in NAMESPACED or not namespace:
        return ""
    try:
        return (await api.get(NAMESPACED[kind], name, namespace, into=Object)).metadata.uid
    except ApiError as error:
        if error.code != 404:
            raise
        return ""


def event(problem: Problem, node: str, uid: str = "") -> dict[str, Any]:
    """The Event's document."""
    kind, namespace, name = _named(problem)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = sha1(f"{problem}{uid}".encode(), usedforsecurity=False).hexdigest()[:16]
    about = {"kind": kind, "namespace": namespace, "name": name, "uid": uid, "fieldPath": problem.field}
    version = NAMESPACED[kind].api_version if kind in NAMESPACED else ""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{digest}", "namespace": namespace or "default"},
        "involvedObject": {key: text for key, text in (about | {"apiVersion": version}).items() if text},
        "type": "Warning",
        "reason": problem.reason,
        "message": problem.message,
        "source": {"component": "podnet", "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _named(problem: Problem) -> tuple[str, str, str]:
    """(kind, namespace, name) of kind/name or kind/namespace/name."""
    kind, *parts = problem.object.split("/")
    return kind, parts[0] if len(parts) > 1 else "", parts[-1]
