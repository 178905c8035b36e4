"""Ports of a node that lead to one pod: ExternalPods for as long as the pod lives, a DebugPort for a time.

What a pod got of its ExternalPods is written on the pod itself, as the annotation EXTERNAL_ANNOTATION: a JSON list of
`Published`. So it lasts as long as the pod, whoever restarts, and is gone with it.
"""

from __future__ import annotations

import msgspec

from podnet.objects.core import Condition
from podnet.objects.meta import Object, ObjectMeta, Value

EXTERNAL_ANNOTATION = "podnet.dev/external"
DEBUG_SECONDS = 1800


class ExternalPort(Value, frozen=True):
    """One port that each selected pod gets a port of its node for."""

    name: str = ""
    container_port: int = 0
    protocol: str = "TCP"


class ExternalPodsSpec(Value, frozen=True):
    """Which pods of the namespace, and which of their ports; `address` "node" or "external" names the node's
    InternalIP or ExternalIP."""

    selector: dict[str, str] = {}
    ports: tuple[ExternalPort, ...] = ()
    address: str = "node"


class Published(Value, frozen=True, omit_defaults=False):
    """Where a pod's port is reached from outside; written in full."""

    name: str = ""
    address: str = ""
    port: int = 0
    container_port: int = 0
    protocol: str = "TCP"

    @property
    def what(self) -> tuple[str, int, str]:
        """What keeps its port while nothing of this changes."""
        return (self.name, self.container_port, self.protocol)


class ExternalPod(Value, frozen=True):
    """One selected pod and where it is reached; `waiting` names ports that it lacks."""

    pod: str = ""
    node: str = ""
    published: tuple[Published, ...] = ()
    waiting: tuple[str, ...] = ()


class ExternalPodsStatus(Value, frozen=True):
    """All selected pods that have a node, and whether all of them have what they should."""

    pods: tuple[ExternalPod, ...] = ()
    conditions: tuple[Condition, ...] = ()


class ExternalPods(Object, frozen=True):
    """Gives each selected pod a stable node address and port for each of its ports (podnet.dev/v1)."""

    spec: ExternalPodsSpec = ExternalPodsSpec()
    status: ExternalPodsStatus = ExternalPodsStatus()


class DebugPortSpec(Value, frozen=True):
    """A port of a pod for `seconds` from the object's creation; `node_port` is filled in, or wished for."""

    pod: str = ""
    port: int = 0
    protocol: str = "TCP"
    seconds: int = DEBUG_SECONDS
    node_port: int = 0


class DebugPortStatus(Value, frozen=True):
    """Where the pod is reached, and until when (RFC 3339)."""

    node: str = ""
    address: str = ""
    expires: str = ""


class DebugPort(Object, frozen=True):
    """Leases a node port to a pod for a time (podnet.dev/v1)."""

    spec: DebugPortSpec = DebugPortSpec()
    status: DebugPortStatus = DebugPortStatus()


_ANNOTATION = msgspec.json.Decoder(tuple[Published, ...])


def published(metadata: ObjectMeta) -> tuple[Published, ...]:
    """What a pod's annotation says; nothing when there is none or it can't be read."""
    try:
        return _ANNOTATION.decode(metadata.annotations.get(EXTERNAL_ANNOTATION, "[]"))
    except msgspec.MsgspecError:
        return ()
