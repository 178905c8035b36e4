"""DebugPorts: a node port that leads to one pod, for a time.

The number is given out in the write that makes the object, which also makes the pod its owner. It is over when its time
is, or when that very pod is gone: a later one of the same name is not meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from podnet.network.controllers.actions import Action, Delete, Patch
from podnet.network.controllers.node_ports import FULL, Numbers, port_token
from podnet.network.controllers.service_ips import Refusal, Token
from podnet.objects.cluster import Key
from podnet.objects.core import Node, Pod
from podnet.objects.kinds import DEBUGPORTS
from podnet.objects.leases import DebugPort

Document = dict[str, Any]


def tokens(lease: DebugPort) -> Iterator[Token]:
    """The node port that it has."""
    if lease.spec.node_port:
        yield port_token(lease.spec.node_port)


def settle(document: Document, before: Document | None, pod: Pod | None, free: Numbers) -> list[Refusal]:
    """Give a new lease of `pod` (None: there is no such pod) its number and its owner."""
    spec = document["spec"]
    if before is not None:
        spec.setdefault("nodePort", before["spec"]["nodePort"])
        return []
    if pod is None:
        return [Refusal("there is no such pod in this namespace", "spec.pod", spec["pod"])]
    if pod.spec.host_network:
        return [Refusal("is in its node's own network: its ports are the node's already", "spec.pod", spec["pod"])]
    if spec.get("nodePort"):
        why = free.reserve(spec["nodePort"])
        if why:
            return [Refusal(why, "spec.nodePort", spec["nodePort"])]
    else:
        spec["nodePort"] = free.any()
        if not spec["nodePort"]:
            return [Refusal(f"failed to allocate a nodePort: {FULL}")]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}
    document["metadata"]["ownerReferences"] = [owner]
    return []


def reconcile(leases: Iterable[DebugPort], pods: Mapping[Key, Pod], nodes: Mapping[Key, Node]) -> Iterator[Action]:
    """Tell in each status where the pod is reached, and until when."""
    for lease in leases:
        pod = pods.get((lease.metadata.namespace, lease.spec.pod))
        name = pod.spec.node_name if pod else ""
        node = nodes.get(("", name))
        own = (entry.address for entry in (node.status.addresses if node else ()) if entry.type == "InternalIP")
        found = {"node": name, "address": next(own, ""), "expires": expires(lease)}
        if any(getattr(lease.status, field) != value for field, value in found.items()):
            yield Patch(DEBUGPORTS, *lease.key, {"status": found}, "status")


def expires(lease: DebugPort) -> str:
    """When it is over (RFC 3339, UTC); "" when nobody can say."""
    created = _moment(lease)
    end = created + timedelta(seconds=lease.spec.seconds) if created else None
    return end.strftime("%Y-%m-%dT%H:%M:%SZ") if end else ""


def over(leases: Iterable[DebugPort], pods: Mapping[Key, Pod], now: datetime) -> Iterator[Action]:
    """Delete those whose time is up, and those whose pod is gone."""
    for lease in leases:
        meta = lease.metadata
        pod = pods.get((meta.namespace, lease.spec.pod))
        owner = next((each.uid for each in meta.owner_references if each.kind == "Pod"), "")
        created = _moment(lease)
        late = created is not None and (now - created).total_seconds() >= lease.spec.seconds
        if late or pod is None or pod.metadata.uid != owner:
            yield Delete(DEBUGPORTS, *lease.key, meta.uid)


def _moment(lease: DebugPort) -> datetime | None:
    try:
        return datetime.fromisoformat(lease.metadata.creation_timestamp or "")
    except ValueError:
        return None
