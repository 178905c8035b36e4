"""The controllers' hands: their actions carried out on the registry.

An action that lost a race (Conflict, NotFound, AlreadyExists, or a namespace that ends) is forgotten, for the change
that beat it starts the next pass.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from podnet.apiserver.lifecycle import DeleteOptions, Preconditions, timestamp
from podnet.apiserver.registry import Registry
from podnet.apiserver.status import ApiError, Document
from podnet.apiserver.strategic import strategic_merge
from podnet.network.controllers.actions import Action, Bind, Create, Delete, Finalize, Patch, Replace, Report
from podnet.objects.kinds import EVENTS, NAMESPACES

_COMPONENT = "podnet-apiserver"
_LOST_RACES = ("Conflict", "NotFound", "AlreadyExists", "Forbidden")


class Hands:
    """See the module's story; `report` is told what failed for any other reason."""

    def __init__(self, registry: Registry, report: Callable[[str], None] = print) -> None:
        self._registry = registry
        self._report = report

    async def carry_out(self, actions: Iterable[Action]) -> bool:
        """Begin all in their order and wait for all; False when one of them has to be tried again."""
        return all(await asyncio.gather(*map(self._do, actions)))

    async def _do(self, action: Action) -> bool:
        try:
            await self._attempt(action)
        except ApiError as error:
            if error.reason not in _LOST_RACES:
                self._report(f"controller: {type(action).__name__} failed: {error}")
                return False
        return True

    async def _attempt(self, action: Action) -> None:
        registry = self._registry
        match action:
            case Create(kind, namespace, document):
                await registry.create(kind, namespace, dict(document))
            case Replace(kind, namespace, name, document):
                await registry.replace(kind, namespace, name, dict(document))
            case Patch(kind, namespace, name, document, subresource):
                change = _stamped(document, self._registry.now())
                await registry.patch(kind, namespace, name, lambda old: strategic_merge(old, change), subresource)
            case Delete(kind, namespace, name, uid, grace):
                options = DeleteOptions(grace_period_seconds=grace, preconditions=Preconditions(uid=uid))
                await registry.delete(kind, namespace, name, options)
            case Bind(namespace, name, node):
                await registry.bind(namespace, name, node)
            case Finalize(name):
                empty = {"metadata": {"name": name}, "spec": {"finalizers": []}}
                await registry.replace(NAMESPACES, "", name, empty, "finalize")
            case Report():
                await registry.create(EVENTS, *_event(action, self._registry.now()))


def _stamped(document: Mapping[str, Any], now: datetime) -> Document:
    """Conditions change now, unless they say since when they hold; the pure part does not know when that is."""
    status = dict(document.get("status", {}))
    if "conditions" in status:
        status["conditions"] = [{"lastTransitionTime": timestamp(now), **item} for item in status["conditions"]]
    return {**document, **({"status": status} if status else {})}


def _event(report: Report, now: datetime) -> tuple[str, Document]:
    """(namespace, Event). Its name follows from what it says, so the same report is stored once."""
    meta = report.about.metadata
    digest = hashlib.sha256(f"{meta.uid}{report.reason}{report.message}".encode()).hexdigest()[:16]
    about = {
        "kind": report.kind.kind, "apiVersion": report.kind.api_version, "name": meta.name, "uid": meta.uid,
        **({"namespace": meta.namespace} if meta.namespace else {}),
    }  # fmt: skip
    namespace, time = meta.namespace or "default", timestamp(now)
    return namespace, {
        "metadata": {"name": f"{meta.name[:200]}.{digest}"}, "involvedObject": about, "reason": report.reason,
        "message": report.message, "type": report.type, "firstTimestamp": time, "lastTimestamp": time, "count": 1,
        "source": {"component": _COMPONENT}, "reportingComponent": _COMPONENT, "reportingInstance": "",
    }  # fmt: skip
