"""What holds for EndpointSlices and Endpoints, made by controllers or by hand for a Service without selector.

Source: k8s.io/kubernetes pkg/apis/discovery/validation and pkg/apis/core/validation (ValidateEndpoints).
"""

from __future__ import annotations

import ipaddress

from podnet.apiserver.validation import rules
from podnet.apiserver.validation.pod import PROTOCOLS
from podnet.apiserver.validation.rules import Causes, duplicate, required, too_many, unsupported, wrong
from podnet.objects.services import (
    EndpointAddress,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
    Hint,
    SliceEndpoint,
    SlicePort,
)

ADDRESS_TYPES = ("IPv4", "IPv6", "FQDN")
SLICE_ENDPOINTS = 1000
ENDPOINT_ADDRESSES = 100
SLICE_PORTS = 100
HINTS = 8


def endpoint_slice(new: EndpointSlice) -> Causes:
    """A whole EndpointSlice."""
    yield from rules.one_of("addressType", new.address_type, ADDRESS_TYPES)
    if len(new.endpoints) > SLICE_ENDPOINTS:
        yield too_many("endpoints", len(new.endpoints), SLICE_ENDPOINTS)
    else:
        for index, endpoint in enumerate(new.endpoints):
            yield from _slice_endpoint(f"endpoints[{index}]", endpoint, new.address_type)
    if len(new.ports) > SLICE_PORTS:
        yield too_many("ports", len(new.ports), SLICE_PORTS)
    else:
        yield from _slice_ports(new.ports)


def _slice_endpoint(field: str, endpoint: SliceEndpoint, family: str) -> Causes:
    if not endpoint.addresses:
        yield required(f"{field}.addresses", "must contain at least 1 address")
    elif len(endpoint.addresses) > ENDPOINT_ADDRESSES:
        yield too_many(f"{field}.addresses", len(endpoint.addresses), ENDPOINT_ADDRESSES)
    for number, address in enumerate(endpoint.addresses):
        yield from _slice_address(f"{field}.addresses[{number}]", address, family)
    if endpoint.hostname is not None:
        yield from rules.dns_label(f"{field}.hostname", endpoint.hostname)
    if endpoint.node_name is not None:
        yield from rules.dns_subdomain(f"{field}.nodeName", endpoint.node_name)
    if endpoint.hints is not None:
        yield from _hints(f"{field}.hints.forZones", endpoint.hints.for_zones)
        yield from _hints(f"{field}.hints.forNodes", endpoint.hints.for_nodes)


def _hints(field: str, hints: tuple[Hint, ...]) -> Causes:
    if len(hints) > HINTS:
        yield too_many(field, len(hints), HINTS)
        return
    names = [hint.name for hint in hints]
    yield from rules.unique(f"{field}[{{}}].name", names)
    for index, name in enumerate(names):
        yield from rules.label_value(f"{field}[{index}].name", name) if name else [required(f"{field}[{index}].name")]


def _slice_address(field: str, address: str, family: str) -> Causes:
    if family == "FQDN":
        yield from rules.dns_subdomain(field, address.removesuffix("."))
        if "." not in address.removesuffix("."):
            yield wrong(field, address, "should be a domain with at least two segments separated by dots")
    elif any(rules.address(field, address)) or family != f"IPv{ipaddress.ip_address(address).version}":
        yield wrong(field, address, f"must be a valid {family} address")
    else:
        yield from rules.plain_address(field, address)


def _slice_ports(ports: tuple[SlicePort, ...]) -> Causes:
    names = [port.name for port in ports]
    for index, port in enumerate(ports):
        field = f"ports[{index}]"
        if port.name:
            yield from rules.dns_label(f"{field}.name", port.name)
        if names.index(port.name) < index:
            yield duplicate(f"{field}.name", port.name)
        yield from _port(field, port)


def _port(field: str, port: SlicePort) -> Causes:
    """What slices and Endpoints share; a slice's port may be left out and means all."""
    if port.port is not None:
        yield from rules.port(f"{field}.port", port.port)
    if port.protocol not in PROTOCOLS:
        yield unsupported(f"{field}.protocol", port.protocol, PROTOCOLS)
    if port.app_protocol is not None:
        yield from rules.qualified_name(f"{field}.appProtocol", port.app_protocol)


def endpoint_slice_update(new: EndpointSlice, old: EndpointSlice) -> Causes:
    """A slice is of one family for life."""
    return rules.immutable("addressType", new.address_type, old.address_type)


def endpoints(new: Endpoints) -> Causes:
    """A whole Endpoints object."""
    for index, subset in enumerate(new.subsets):
        yield from _subset(f"subsets[{index}]", subset)


def _subset(field: str, subset: EndpointSubset) -> Causes:
    if not subset.addresses and not subset.not_ready_addresses:
        yield required(field, "must specify `addresses` or `notReadyAddresses`")
    for name, addresses in (("addresses", subset.addresses), ("notReadyAddresses", subset.not_ready_addresses)):
        for number, address in enumerate(addresses):
            yield from _address(f"{field}.{name}[{number}]", address)
    for number, port in enumerate(subset.ports):
        where = f"{field}.ports[{number}]"
        if port.name:
            yield from rules.dns_label(f"{where}.name", port.name)
        elif len(subset.ports) > 1:
            yield required(f"{where}.name")
        if port.port is None:
            yield from rules.port(f"{where}.port", 0)
        yield from _port(where, port)


def _address(field: str, address: EndpointAddress) -> Causes:
    yield from rules.plain_address(f"{field}.ip", address.ip)
    if address.hostname:
        yield from rules.dns_label(f"{field}.hostname", address.hostname)
    if address.node_name is not None:
        yield from rules.dns_subdomain(f"{field}.nodeName", address.node_name)
