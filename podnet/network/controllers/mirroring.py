"""Endpoints that people write for a Service without a selector, mirrored into slices: every reader needs one kind only.

Each subset becomes one slice per family, with a thousand addresses at most. The label skip-mirror and the annotation of
a leader's lock keep Endpoints out; those that go, or whose Service goes or gets a selector, take their slices along.
Source: k8s.io/kubernetes pkg/controller/endpointslicemirroring.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from podnet.network.controllers.actions import Action, Report
from podnet.network.controllers.backing import Backing
from podnet.network.controllers.endpoints import LEADER, repacked
from podnet.network.controllers.slices import Draft, Ports, delete, identity, order, owner, settle
from podnet.objects.kinds import ENDPOINTS
from podnet.objects.meta import ObjectMeta, OwnerReference
from podnet.objects.services import (
    CHANGE_TIME,
    MANAGED_BY,
    SERVICE_NAME,
    EndpointAddress,
    EndpointConditions,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
    SliceEndpoint,
)

CONTROLLER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
FULL = 1000
"""Addresses of one subset that are mirrored."""
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

Shape = tuple[str, Ports]
"""What the endpoints of one slice have in common: family and ports."""


def reconcile(backing: Backing) -> Iterator[Action]:
    """What to write so that the slices mirror the Endpoints; nothing when they do."""
    stored = [each for each in backing.slices if each.metadata.labels.get(MANAGED_BY) == CONTROLLER]
    endpoints = backing.endpoints
    if endpoints is None or not _mirrored(backing, endpoints):
        yield from map(delete, stored)
        return
    subsets = repacked(endpoints.subsets)
    yield from _reports(endpoints, subsets)
    face = _face(endpoints)
    for family in ("IPv4", "IPv6"):
        drafts = _drafts(family, subsets, [each for each in stored if each.address_type == family], face)
        if any(draft.changed for draft in drafts):
            grow = endpoints.metadata.deletion_timestamp is None
            yield from settle(drafts, backing.key, lambda meta: _dressed(meta, face), backing.taken, grow)


def _mirrored(backing: Backing, endpoints: Endpoints) -> bool:
    meta = endpoints.metadata
    allowed = meta.labels.get(SKIP) != "true" and LEADER not in meta.annotations
    return allowed and backing.service is not None and not backing.service.spec.selector


def _drafts(family: str, subsets: Sequence[EndpointSubset], stored: Sequence[EndpointSlice], face: Face) -> list[Draft]:
    """One slice for every set of ports."""
    desired: dict[Ports, list[SliceEndpoint]] = {}
    for subset in subsets:
        if found := [endpoint for endpoint in _endpoints(subset) if _family(endpoint.addresses[0]) == family]:
            desired.setdefault(subset.ports, []).extend(found)
    rest: dict[Ports, list[EndpointSlice]] = {}
    for slice_ in stored:
        rest.setdefault(order(slice_.ports), []).append(slice_)
    drafts = []
    for ports, endpoints in desired.items():
        old = rest[ports].pop(0) if rest.get(ports) else None
        drafts.append(Draft(family, ports, endpoints, old, old is None or not _same(old, endpoints, face)))
    return drafts + [Draft(family, slice_.ports, old=slice_) for group in rest.values() for slice_ in group]


def _same(old: EndpointSlice, endpoints: Sequence[SliceEndpoint], face: Face) -> bool:
    """Whether a stored slice says what it shall, in whatever order."""
    return _dressed(old.metadata, face) == old.metadata and sorted(old.endpoints, key=_rank) == sorted(
        endpoints, key=_rank
    )


def _rank(endpoint: SliceEndpoint) -> tuple[str, ...]:
    addresses, hostname, name = identity(endpoint)
    return (*addresses, hostname or "", name or "")


def _endpoints(subset: EndpointSubset) -> list[SliceEndpoint]:
    """The subset's addresses, ready ones first, up to the limit; without those that are none."""
    every = [(each, True) for each in subset.addresses] + [(each, False) for each in subset.not_ready_addresses]
    return [_endpoint(address, ready) for address, ready in every if _family(address.ip)][:FULL]


def _endpoint(address: EndpointAddress, ready: bool) -> SliceEndpoint:
    return SliceEndpoint(
        (address.ip,), EndpointConditions(ready=ready), address.hostname or None, address.node_name, None,
        address.target_ref,
    )  # fmt: skip


def _family(ip: str) -> str:
    """IPv4 or IPv6; "" for what is no address."""
    try:
        return f"IPv{ipaddress.ip_address(ip).version}"
    except ValueError:
        return ""


def _reports(endpoints: Endpoints, subsets: Sequence[EndpointSubset]) -> Iterator[Action]:
    """What could not be mirrored."""
    every = [address for subset in subsets for address in (*subset.addresses, *subset.not_ready_addresses)]
    bad = sum(1 for address in every if not _family(address.ip))
    skipped = len(every) - bad - sum(len(_endpoints(subset)) for subset in subsets)
    if bad:
        told = f"Skipped {bad} invalid IP addresses when mirroring to EndpointSlices"
        yield Report(ENDPOINTS, endpoints, "InvalidIPAddress", told)
    if skipped:
        most = f"A max of {FULL} addresses can be mirrored to EndpointSlices per Endpoints subset."
        yield Report(ENDPOINTS, endpoints, "TooManyAddressesToMirror", f"{most} {skipped} addresses were skipped")


Face = tuple[Mapping[str, str], Mapping[str, str], OwnerReference]
"""Labels, annotations and owner of a mirrored slice."""


def _face(endpoints: Endpoints) -> Face:
    meta = endpoints.metadata
    labels = {**meta.labels, SERVICE_NAME: meta.name, MANAGED_BY: CONTROLLER}
    kept = {name: value for name, value in meta.annotations.items() if name not in (CHANGE_TIME, _APPLIED)}
    return labels, kept, owner(ENDPOINTS, endpoints)


def _dressed(meta: ObjectMeta, face: Face) -> ObjectMeta:
    labels, annotations, of = face
    return replace(meta, labels=labels, annotations=annotations, owner_references=(of,))
