"""Endpoints: the same as the slices, for clients from before them.

One object per Service with a selector, of the Service's first family; addresses that have the same ports are one
subset. A thousand addresses at most, the ready ones first, with an annotation when there were more.
Source: k8s.io/kubernetes pkg/controller/endpoint, pkg/api/v1/endpoints (RepackSubsets).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from podnet.network.controllers.actions import Action, Create, Delete, Replace
from podnet.network.controllers.backing import Backing, Target, selects
from podnet.network.controllers.endpointslices import families, hostname, resolver
from podnet.network.controllers.slices import Ports, order, plain, with_change_time
from podnet.objects.kinds import ENDPOINTS
from podnet.objects.meta import ObjectMeta
from podnet.objects.services import (
    HEADLESS,
    EndpointAddress,
    Endpoints,
    EndpointSubset,
    ObjectReference,
    Service,
    SlicePort,
)

CONTROLLER = "endpoint-controller"
MANAGED_BY = "endpoints.kubernetes.io/managed-by"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
LEADER = "control-plane.alpha.kubernetes.io/leader"
"""The annotation of Endpoints that are a lock and nothing else."""
CAPACITY = 1000

Subsets = tuple[EndpointSubset, ...]
Groups = dict[Ports, tuple[list[EndpointAddress], list[EndpointAddress]]]
"""By ports: the addresses that are ready, and those that are not."""


def reconcile(backing: Backing) -> Iterator[Action]:
    """What to write so that the Service's Endpoints are right; nothing when they are."""
    service, stored = backing.service, backing.endpoints
    if service is None:
        if stored is not None and LEADER not in stored.metadata.annotations and (backing.withdrawn or _is_ours(stored)):
            yield Delete(ENDPOINTS, *stored.key, stored.metadata.uid)
    elif selects(service):
        subsets, truncated = _fitting(_subsets(backing, service))
        meta = stored.metadata if stored is not None else ObjectMeta(service.metadata.name, service.metadata.namespace)
        annotations = {name: value for name, value in meta.annotations.items() if name != OVER_CAPACITY}
        annotations |= {OVER_CAPACITY: "truncated"} if truncated else {}
        new = replace(meta, labels=_labels(service), annotations=annotations)
        if stored is None or stored.subsets != subsets or new != meta:
            document = _document(with_change_time(new, _change_time(backing, service, subsets)), subsets)
            yield from _write(backing, service, document)


def _is_ours(endpoints: Endpoints) -> bool:
    return endpoints.metadata.labels.get(MANAGED_BY) == CONTROLLER


def _write(backing: Backing, service: Service, document: Mapping[str, Any]) -> Iterator[Action]:
    if backing.endpoints is not None:
        yield Replace(ENDPOINTS, *backing.key, document)
    elif service.metadata.deletion_timestamp is None:
        yield Create(ENDPOINTS, backing.key[0], document)


def _labels(service: Service) -> dict[str, str]:
    labels = {name: value for name, value in service.metadata.labels.items() if name != HEADLESS}
    headless = {HEADLESS: ""} if service.spec.cluster_ip in ("", "None") else {}
    return {**labels, **headless, MANAGED_BY: CONTROLLER}


def _document(meta: ObjectMeta, subsets: Subsets) -> dict[str, Any]:
    document = plain(Endpoints(meta, subsets))
    for subset in document.get("subsets", ()):
        for port in subset.get("ports", ()):
            port.setdefault("protocol", "TCP")  # left out because it is the default, which old clients may not know
    return document


# Subsets -------------------------------------------------------------------------------------------------------------


def _subsets(backing: Backing, service: Service) -> Subsets:
    """The Service's pods, by the ports at which they listen."""
    family = families(service)[0]
    resolve = resolver(service)
    tolerant = service.spec.publish_not_ready_addresses
    groups: Groups = {}
    for target in backing.targets:
        ip = "" if target.ended or (target.leaving and not tolerant) else target.ip(family)
        ports = resolve(target) if ip else ()
        if ip and (ports or (not service.spec.ports and service.spec.cluster_ip == "None")):
            ready, unready = groups.setdefault(ports, ([], []))
            (ready if target.ready or tolerant else unready).append(_address(target, service, ip))
    return _ordered(groups)


def _address(target: Target, service: Service, ip: str) -> EndpointAddress:
    reference = ObjectReference("Pod", target.namespace, target.name, target.uid)
    return EndpointAddress(ip, hostname(target, service) or "", target.node or None, reference)


def _ordered(groups: Groups) -> Subsets:
    """Subsets in an order that depends on nothing but themselves."""
    return tuple(
        EndpointSubset(tuple(sorted(ready, key=_rank)), tuple(sorted(unready, key=_rank)), ports)
        for ports, (ready, unready) in sorted(groups.items(), key=lambda item: _port_rank(item[0]))
    )


def _rank(address: EndpointAddress) -> tuple[str, str]:
    return address.ip, address.target_ref.uid if address.target_ref else ""


def _port_rank(ports: Ports) -> list[tuple[str, str, int]]:
    return [(port.name, port.protocol, port.port or 0) for port in ports]


def repacked(subsets: Iterable[EndpointSubset]) -> Subsets:
    """Subsets as people write them, with each address in one subset, with all its ports."""
    found: dict[tuple[tuple[str, str], bool], tuple[EndpointAddress, dict[SlicePort, None]]] = {}
    for subset in subsets:
        for ready, addresses in ((True, subset.addresses), (False, subset.not_ready_addresses)):
            for address in addresses:
                ports = found.setdefault((_rank(address), ready), (address, {}))[1]
                ports.update(dict.fromkeys(subset.ports))
    groups: Groups = {}
    for (_, ready), (address, at) in found.items():
        groups.setdefault(order(at), ([], []))[0 if ready else 1].append(address)
    return _ordered(groups)


def _fitting(subsets: Subsets) -> tuple[Subsets, bool]:
    """At most CAPACITY addresses, ready ones first, from each subset in proportion; and whether some were left out."""
    ready = sum(len(subset.addresses) for subset in subsets)
    unready = sum(len(subset.not_ready_addresses) for subset in subsets)
    if ready + unready <= CAPACITY:
        return subsets, False
    if ready > CAPACITY:
        shares = _shares([len(subset.addresses) for subset in subsets], CAPACITY)
        cut = [
            replace(subset, addresses=subset.addresses[:share], not_ready_addresses=())
            for subset, share in zip(subsets, shares, strict=True)
        ]
    else:
        shares = _shares([len(subset.not_ready_addresses) for subset in subsets], CAPACITY - ready)
        cut = [
            replace(subset, not_ready_addresses=subset.not_ready_addresses[:share])
            for subset, share in zip(subsets, shares, strict=True)
        ]
    return tuple(subset for subset in cut if subset.addresses or subset.not_ready_addresses), True


def _shares(numbers: Sequence[int], room: int) -> Iterator[int]:
    """Of each number its part of the room, rounded up while there is any left."""
    whole, left = sum(numbers), room
    for number in numbers:
        share = min(math.ceil(number / whole * room), left)
        left -= min(share, number)
        yield share


def _change_time(backing: Backing, service: Service, subsets: Subsets) -> str | None:
    """When the earliest of the changes now written happened, as in endpointslices."""
    before = dict(_states(backing.endpoints.subsets)) if backing.endpoints is not None else {}
    since = {target.uid: target.since for target in backing.targets}
    times = [since.get(uid) for uid, ready in _states(subsets) if before.get(uid) is not ready]
    if backing.endpoints is None:
        times.append(service.metadata.creation_timestamp)
    return min(filter(None, times), default=None)


def _states(subsets: Subsets) -> Iterator[tuple[str, bool]]:
    """The uid of each pod, and whether it is ready."""
    for subset in subsets:
        for ready, addresses in ((True, subset.addresses), (False, subset.not_ready_addresses)):
            yield from ((address.target_ref.uid, ready) for address in addresses if address.target_ref)
