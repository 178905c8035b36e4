"""As much of Services, slices, pods and namespaces as names need, for whoever holds ten thousand of them.

These stand in a Cluster where the whole objects stand, with the same attributes, and the zone made of them is the same.
A slice keeps its endpoints as bytes, since of most slices nobody ever asks: a Service with an address of its own has
names without them. What is the same in many objects is held once.
"""

from __future__ import annotations

from functools import lru_cache
from sys import intern
from typing import Any, cast

import msgspec
from msgspec.structs import force_setattr, replace

from podnet.objects import kinds
from podnet.objects.core import PodDNSConfig, PodIP
from podnet.objects.kinds import Kind
from podnet.objects.meta import Object, Value
from podnet.objects.services import CONTROLLER, HEADLESS, MANAGED_BY, SERVICE_NAME

SEARCH_ANNOTATION = "podnet.dev/dns-search"
"""On a pod: "server" asks that its searches are completed by the server; anything else, that they are not."""


@lru_cache(maxsize=1000)
def _once(ports: tuple[Port, ...]) -> tuple[Port, ...]:
    """Equal ports are the same object."""
    return ports


class Meta(Value, frozen=True):
    """Of metadata."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""

    def __post_init__(self) -> None:
        force_setattr(self, "namespace", intern(self.namespace))


class Named(Value, frozen=True):
    """Of any object, and all of a namespace."""

    metadata: Meta = Meta()

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return (self.metadata.namespace, self.metadata.name)


class Port(Value, frozen=True):
    """Of a port of a Service or a slice."""

    name: str = ""
    protocol: str = "TCP"
    port: int | None = None


class Spec(Value, frozen=True):
    """Of a Service."""

    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")
    ports: tuple[Port, ...] = ()
    external_name: str = ""
    publish_not_ready_addresses: bool = False

    def __post_init__(self) -> None:
        force_setattr(self, "type", intern(self.type))
        force_setattr(self, "ports", _once(self.ports))
        if self.cluster_ips == (self.cluster_ip,):
            force_setattr(self, "cluster_ips", (self.cluster_ip,))


class NamedService(Named, frozen=True):
    """Its addresses and ports."""

    spec: Spec = Spec()


class Labels(Value, frozen=True):
    """Of a slice."""

    service: str = msgspec.field(default="", name=SERVICE_NAME)
    headless: str | None = msgspec.field(default=None, name=HEADLESS)
    maker: str = msgspec.field(default="", name=MANAGED_BY)

    def __post_init__(self) -> None:
        force_setattr(self, "maker", intern(self.maker))

    def get(self, label: str) -> str:
        """As a mapping's."""
        return self.service if label == SERVICE_NAME else ""


class SliceMeta(Meta, frozen=True):
    """Of a slice's metadata."""

    labels: Labels = Labels()


class Conditions(Value, frozen=True):
    """Of an endpoint."""

    ready: bool | None = None


_READY = Conditions()
"""What is not known counts as ready, so that need not be said."""


class Endpoint(Value, frozen=True):
    """Of a slice."""

    addresses: tuple[str, ...] = ()
    hostname: str | None = None
    conditions: Conditions = _READY


_ENDPOINTS = msgspec.json.Decoder(tuple[Endpoint, ...] | None)


class NamedSlice(Named, frozen=True):
    """Its endpoints, as bytes."""

    metadata: SliceMeta = SliceMeta()
    address_type: str = ""
    ports: tuple[Port, ...] | None = ()
    kept: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"[]"), name="endpoints")

    def __post_init__(self) -> None:
        force_setattr(self, "address_type", intern(self.address_type))
        force_setattr(self, "ports", _once(self.ports or ()))
        brief = msgspec.json.encode([_brief(each) for each in self.endpoints])
        force_setattr(self, "kept", bytes(memoryview(brief)))  # a copy is as long as it must be

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints."""
        return _ENDPOINTS.decode(self.kept) or ()


def needed(piece: NamedSlice) -> bool:
    """Whether names may follow from a slice. Of those that the control plane made, its own label says whether they are
    a headless Service's; those made by others are looked at whatever they are."""
    labels = piece.metadata.labels
    return labels.headless is not None or labels.maker != CONTROLLER


def _brief(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, conditions=_READY) if endpoint.conditions.ready is not False else endpoint


class Annotations(Value, frozen=True):
    """Of a pod."""

    search: str | None = msgspec.field(default=None, name=SEARCH_ANNOTATION)

    def get(self, annotation: str) -> str | None:
        """As a mapping's."""
        return self.search if annotation == SEARCH_ANNOTATION else None


class PodMeta(Meta, frozen=True):
    """Of a pod's metadata."""

    annotations: Annotations = Annotations()


class PodSpec(Value, frozen=True):
    """Of a pod's spec."""

    host_network: bool = False
    dns_policy: str = "ClusterFirst"
    dns_config: PodDNSConfig | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "dns_policy", intern(self.dns_policy))


class PodStatus(Value, frozen=True):
    """Of a pod's status."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = msgspec.field(default=(), name="podIPs")

    def __post_init__(self) -> None:
        force_setattr(self, "phase", intern(self.phase))
        if self.pod_ips == (PodIP(self.pod_ip),):
            force_setattr(self, "pod_ips", ())  # means the same


class NamedPod(Named, frozen=True):
    """Its addresses, and how it searches."""

    metadata: PodMeta = PodMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


def _kind(whole: Kind, part: Any) -> Kind:
    return replace(whole, type=cast("type[Object]", part))


SERVICES = _kind(kinds.SERVICES, NamedService)
ENDPOINTSLICES = _kind(kinds.ENDPOINTSLICES, NamedSlice)
PODS = _kind(kinds.PODS, NamedPod)
NAMESPACES = _kind(kinds.NAMESPACES, Named)
"""What to watch."""
