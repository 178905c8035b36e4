"""What holds for Services, EndpointSlices and Leases.

Only what can be said without allocating anything; cluster addresses and node ports are given out elsewhere. The structs
here widen those of objects/ by the fields that only validation looks at.
Source: k8s.io/kubernetes pkg/apis/core/validation (ValidateService), pkg/apis/discovery/validation.
"""

from __future__ import annotations

import msgspec

from podnet.apiserver.status import Cause
from podnet.apiserver.validation import rules
from podnet.apiserver.validation.pod import PROTOCOLS
from podnet.apiserver.validation.rules import Causes, duplicate, required, unsupported, wrong
from podnet.objects.meta import Object, Value
from podnet.objects.services import EndpointSlice, Service, ServicePort

TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
ADDRESS_TYPES = ("IPv4", "IPv6", "FQDN")
SLICE_ENDPOINTS = 1000
SLICE_PORTS = 100


class LeaseSpec(Value, frozen=True):
    """A Lease's spec; durations in seconds."""

    holder_identity: str = ""
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None
    renew_time: str | None = None
    acquire_time: str | None = None


class Lease(Object, frozen=True):
    """A Lease as validated."""

    spec: LeaseSpec = LeaseSpec()


def service(new: Service) -> Causes:
    """A whole Service."""
    spec = new.spec
    yield from rules.one_of("spec.type", spec.type, TYPES)
    if spec.type == "ExternalName":
        yield from rules.dns_subdomain("spec.externalName", spec.external_name.removesuffix("."))
    elif not spec.ports and spec.cluster_ip != "None":
        yield required("spec.ports")
    for index, port in enumerate(spec.ports):
        yield from _port(f"spec.ports[{index}]", port, need_name=len(spec.ports) > 1)
    yield from rules.unique("spec.ports[{}].name", (port.name for port in spec.ports))
    yield from rules.unique("spec.ports[{}]", (f"{port.protocol}/{port.port}" for port in spec.ports))
    yield from rules.labels("spec.selector", spec.selector)
    if spec.cluster_ip not in ("", "None"):
        yield from rules.address("spec.clusterIP", spec.cluster_ip)
    for index, address in enumerate(spec.external_ips):
        yield from rules.address(f"spec.externalIPs[{index}]", address)
    yield from rules.one_of("spec.sessionAffinity", spec.session_affinity, ("ClientIP", "None"))
    yield from rules.one_of("spec.internalTrafficPolicy", spec.internal_traffic_policy, ("Cluster", "Local"))
    yield from rules.one_of("spec.externalTrafficPolicy", spec.external_traffic_policy, ("Cluster", "Local"))


def _port(field: str, port: ServicePort, need_name: bool) -> Causes:
    if port.name:
        yield from rules.dns_label(f"{field}.name", port.name)
    elif need_name:
        yield required(f"{field}.name")
    yield from rules.port(f"{field}.port", port.port)
    yield from rules.one_of(f"{field}.protocol", port.protocol, PROTOCOLS)
    if isinstance(port.target_port, str):
        yield from rules.port_name(f"{field}.targetPort", port.target_port)
    elif port.target_port:
        yield from rules.port(f"{field}.targetPort", port.target_port)
    yield from rules.within(f"{field}.nodePort", port.node_port, 0, 65535)


def service_update(new: Service, old: Service) -> Causes:
    """The cluster address stays while the Service has one."""
    if old.spec.cluster_ip and new.spec.type != "ExternalName":
        yield from rules.immutable("spec.clusterIP", new.spec.cluster_ip, old.spec.cluster_ip)


def endpoint_slice(new: EndpointSlice) -> Causes:
    """A whole EndpointSlice."""
    yield from rules.one_of("addressType", new.address_type, ADDRESS_TYPES)
    if len(new.endpoints) > SLICE_ENDPOINTS:
        yield Cause(
            "FieldValueTooMany",
            "endpoints",
            f"Too many: {len(new.endpoints)}: must have at most {SLICE_ENDPOINTS} items",
        )
    if len(new.ports) > SLICE_PORTS:
        yield Cause("FieldValueTooMany", "ports", f"Too many: {len(new.ports)}: must have at most {SLICE_PORTS} items")
    for index, endpoint in enumerate(new.endpoints):
        if not endpoint.addresses:
            yield required(f"endpoints[{index}].addresses", "must contain at least 1 address")
        for number, address in enumerate(endpoint.addresses):
            yield from _endpoint_address(f"endpoints[{index}].addresses[{number}]", address, new.address_type)
    names = [port.name for port in new.ports]
    for index, port in enumerate(new.ports):
        if names.index(port.name) < index:
            yield duplicate(f"ports[{index}].name", port.name)
        if port.protocol not in PROTOCOLS:
            yield unsupported(f"ports[{index}].protocol", port.protocol, PROTOCOLS)
        if port.port is not None:
            yield from rules.port(f"ports[{index}].port", port.port)


def _endpoint_address(field: str, address: str, family: str) -> Causes:
    if family == "FQDN":
        yield from rules.dns_subdomain(field, address)
        return
    causes = list(rules.address(field, address))
    yield from causes
    if not causes and (":" in address) != (family == "IPv6"):
        yield wrong(field, address, f"must be a valid {family} address")


def endpoint_slice_update(new: EndpointSlice, old: EndpointSlice) -> Causes:
    """A slice is of one family for life."""
    return rules.immutable("addressType", new.address_type, old.address_type)


def lease(new: Lease) -> Causes:
    """A whole Lease."""
    if new.spec.lease_duration_seconds is not None and new.spec.lease_duration_seconds <= 0:
        yield wrong("spec.leaseDurationSeconds", new.spec.lease_duration_seconds, "must be greater than 0")
    if new.spec.lease_transitions is not None:
        yield from rules.not_negative("spec.leaseTransitions", new.spec.lease_transitions)
