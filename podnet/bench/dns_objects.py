"""Services as a DNS server meets them in a cluster: with a named port, and slices with all that a controller writes.

The Services have no selectors, so the API's own controller writes no slices; those that are written here in its name it
leaves alone, since each has its Service as owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from podnet.bench.service_objects import NAMESPACE, PORT, TARGET, cluster_ip, dotted, pods
from podnet.bench.service_objects import service as plain
from podnet.objects.kinds import ENDPOINTSLICES, SERVICES, Kind
from podnet.objects.meta import Object, ObjectMeta, OwnerReference
from podnet.objects.services import (
    CONTROLLER,
    HEADLESS,
    MANAGED_BY,
    SERVICE_NAME,
    EndpointConditions,
    EndpointSlice,
    ObjectReference,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)

DOMAIN = "cluster.local"
EACH = 4
_READY = EndpointConditions(ready=True, serving=True, terminating=False)
_CHANGING = 10 << 24 | 200 << 16
"""10.200.0.0: where the endpoints of headless Services are."""


def name(service: str) -> str:
    """What clients ask for."""
    return f"{service}.{NAMESPACE}.svc.{DOMAIN}"


def steady(numbers: range) -> Iterator[tuple[Kind, Object]]:
    """The Services s<number>, each with a cluster address."""
    for number in numbers:
        yield SERVICES, service(number)


def backed(services: Iterable[Service]) -> Iterator[tuple[Kind, Object]]:
    """Of these Services, as the API has them, the slices: EACH endpoints."""
    for each in services:
        own, number = each.metadata, int(each.metadata.name[1:])
        owned = OwnerReference("v1", "Service", own.name, own.uid, controller=True)
        made = endpoint_slice(own.name, pods(number, EACH), {MANAGED_BY: CONTROLLER})
        yield ENDPOINTSLICES, replace(made, metadata=replace(made.metadata, owner_references=(owned,)))


def service(number: int) -> Service:
    """The Service s<number>, met at service_objects.cluster_ip."""
    made = plain(number)
    return replace(made, spec=replace(made.spec, ports=(ServicePort("http", "TCP", PORT, TARGET),)))


def headless(number: int) -> Service:
    """The Service h<number>."""
    spec = ServiceSpec(cluster_ip="None", cluster_ips=("None",), ports=(ServicePort("http", "TCP", TARGET, TARGET),))
    return Service(ObjectMeta(name=f"h{number}", namespace=NAMESPACE), spec)


def endpoint(turn: int) -> str:
    """The address of a headless Service's only endpoint after so many changes of any of them."""
    return dotted(_CHANGING + turn)


def headless_slice(number: int, turn: int) -> EndpointSlice:
    """Its slice."""
    return endpoint_slice(f"h{number}", (endpoint(turn),), {HEADLESS: ""})


def endpoint_slice(owner: str, addresses: tuple[str, ...], labels: dict[str, str]) -> EndpointSlice:
    """The slice of a Service."""
    meta = ObjectMeta(name=f"{owner}-x7k2p", namespace=NAMESPACE, labels={SERVICE_NAME: owner, **labels})
    endpoints = tuple(_endpoint(owner, place, address) for place, address in enumerate(addresses))
    return EndpointSlice(meta, "IPv4", endpoints, (SlicePort("http", "TCP", TARGET),))


def _endpoint(owner: str, place: int, address: str) -> SliceEndpoint:
    pod = ObjectReference("Pod", NAMESPACE, f"{owner}-{place}", f"0b7ae8a7-6b1c-4c52-9f3d-{hash(address):012x}"[:36])
    return SliceEndpoint((address,), _READY, node_name=f"node-{place}", target_ref=pod)


__all__ = [
    "DOMAIN",
    "EACH",
    "backed",
    "cluster_ip",
    "endpoint",
    "headless",
    "headless_slice",
    "name",
    "service",
    "steady",
]
