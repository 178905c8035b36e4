"""The EndpointSlices of a Service with a selector: which pods, at which ports, in which state.

Pods that resolve the Service's ports to the same numbers share slices, a hundred endpoints in each at most. What is
stored stays where it is as far as possible: one pod's change rewrites one slice, an endpoint never moves to another
slice, and new endpoints go first into slices that are written anyway, then all into one with room, then into new ones.
Source: k8s.io/endpointslice reconciler.go, utils.go; k8s.io/kubernetes pkg/controller/endpointslice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from msgspec.structs import replace

from podnet.network.controllers import hints
from podnet.network.controllers.actions import Action, Report
from podnet.network.controllers.backing import Backing, Target, proportional, selects
from podnet.network.controllers.hints import Hinting
from podnet.network.controllers.slices import (
    Draft,
    Identity,
    Ports,
    controlled_by,
    delete,
    identity,
    order,
    owner,
    settle,
    with_change_time,
)
from podnet.objects.kinds import SERVICES
from podnet.objects.meta import ObjectMeta
from podnet.objects.services import (
    CONTROLLER,
    HEADLESS,
    MANAGED_BY,
    SERVICE_NAME,
    EndpointConditions,
    EndpointSlice,
    ObjectReference,
    Service,
    SliceEndpoint,
    SlicePort,
)

FULL = 100
"""Endpoints in one slice."""
_RESERVED = (SERVICE_NAME, MANAGED_BY, HEADLESS)

Desired = dict[Identity, SliceEndpoint]


def reconcile(backing: Backing) -> Iterator[Action]:
    """What to write so that the Service's slices are right; nothing when they are."""
    service = backing.service
    uid = service.metadata.uid if service is not None else ""
    lost = [each for each in backing.slices if _lost(each, uid)]
    if service is not None and selects(service):
        ours = [each for each in backing.slices if _is_ours(each) and each not in lost]
        wanted = families(service)
        for family in wanted:
            yield from _family(backing, service, family, [each for each in ours if each.address_type == family])
        lost += [each for each in ours if each.address_type not in wanted]
    yield from map(delete, lost)


def families(service: Service) -> tuple[str, ...]:
    """The families in which the Service has endpoints, as address types."""
    spec = service.spec
    if spec.ip_families:
        return spec.ip_families
    if spec.cluster_ip == "None":
        return ("IPv4", "IPv6")
    return ("IPv6",) if ":" in spec.cluster_ip else ("IPv4",)


def _is_ours(slice_: EndpointSlice) -> bool:
    return slice_.metadata.labels.get(MANAGED_BY) == CONTROLLER


def _lost(slice_: EndpointSlice, uid: str) -> bool:
    """Whether the slice was made for a Service that is no more (`uid` is the present one's)."""
    owners = slice_.metadata.owner_references
    if _is_ours(slice_):
        return not uid or not controlled_by(slice_, uid)
    return bool(owners) and all(reference.kind == "Service" and reference.uid != uid for reference in owners)


# Endpoints -----------------------------------------------------------------------------------------------------------


def published(backing: Backing, service: Service, family: str) -> Iterator[Target]:
    """The pods that are endpoints: those that have an address, have not ended, and are on a node that exists."""
    for target in backing.targets:
        placed = target.node in backing.sites or service.spec.publish_not_ready_addresses
        if placed and not target.ended and target.ip(family):
            yield target


def resolver(service: Service) -> Callable[[Target], Ports]:
    """The Service's ports as a pod has them: named ones looked up in it, those that it lacks left out."""
    known: dict[tuple[tuple[str, str, int], ...], Ports] = {}
    named = any(isinstance(port.target_port, str) for port in service.spec.ports)

    def resolve(target: Target) -> Ports:
        names = target.ports if named else ()
        if names not in known:
            known[names] = order(_resolved(service, names))
        return known[names]

    return resolve


def _resolved(service: Service, names: Sequence[tuple[str, str, int]]) -> Iterator[SlicePort]:
    for port in service.spec.ports:
        number: int | None = port.target_port if isinstance(port.target_port, int) else None
        if number is None:
            wish = (port.target_port, port.protocol)
            number = next((number for name, protocol, number in names if (name, protocol) == wish), None)
        if number is not None:
            yield SlicePort(port.name, port.protocol, number or port.port, port.app_protocol)


def hostname(target: Target, service: Service) -> str | None:
    """The name that the pod has in the Service's domain, if it asked for one."""
    return target.hostname if target.hostname and target.subdomain == service.metadata.name else None


def _endpoint(target: Target, service: Service, family: str, zone: str, hinting: Hinting | None) -> SliceEndpoint:
    ready = service.spec.publish_not_ready_addresses or (target.ready and not target.leaving)
    return SliceEndpoint(
        (target.ip(family),),
        EndpointConditions(ready, target.ready, target.leaving),
        hostname(target, service),
        target.node or None,
        zone or None,
        ObjectReference("Pod", target.namespace, target.name, target.uid),
        hinting(zone, target.node) if hinting is not None and ready else None,
    )


def _desired(backing: Backing, service: Service, family: str) -> dict[Ports, Desired]:
    """The endpoints of one family, by the ports at which they listen."""
    hinting = hints.own_place(service)
    resolve = resolver(service)
    found: dict[Ports, Desired] = {}
    for target in published(backing, service, family):
        site = backing.sites.get(target.node)
        endpoint = _endpoint(target, service, family, site.zone if site else "", hinting)
        found.setdefault(resolve(target), {})[identity(endpoint)] = endpoint
    return found


# Slices --------------------------------------------------------------------------------------------------------------


def _family(backing: Backing, service: Service, family: str, stored: Sequence[EndpointSlice]) -> Iterator[Action]:
    """The writes for the slices of one family."""
    shared = proportional(service)
    labels = _labels(service)
    rest: dict[Ports, list[EndpointSlice]] = {}
    for slice_ in stored:
        rest.setdefault(order(slice_.ports), []).append(slice_)
    drafts: list[Draft] = []
    for ports, desired in _desired(backing, service, family).items():
        kept = [_keep(slice_, desired, shared, labels) for slice_ in rest.pop(ports, ())]
        drafts += _fit(Draft(family, ports), kept, desired)
    drafts += [Draft(family, slice_.ports, old=slice_) for group in rest.values() for slice_ in group]
    if all(draft.needless for draft in drafts):
        _hold_place(drafts, family, labels)
    if shared and (why := hints.share_out(drafts, backing.sites.values())):
        yield Report(SERVICES, service, hints.DISABLED, f"{why}, addressType: {family}")
    if any(draft.changed for draft in drafts):
        yield from settle(drafts, backing.key, _dress(backing, service, stored, drafts), backing.taken, _grows(service))


def _grows(service: Service) -> bool:
    return service.metadata.deletion_timestamp is None


def _keep(slice_: EndpointSlice, desired: Desired, shared: bool, labels: Mapping[str, str]) -> Draft:
    """A stored slice with those of its endpoints that are still desired, as they are now; takes them out of `desired`.

    With `shared` hints are somebody else's concern and no reason for a change.
    """
    kept = []
    changed = slice_.metadata.labels != labels
    for old in slice_.endpoints:
        new = desired.pop(identity(old), None)
        if new is None:
            changed = True
        elif new == (replace(old, hints=None) if shared and old.hints else old):
            kept.append(old)
        else:
            kept.append(new)
            changed = True
    return Draft(slice_.address_type, slice_.ports, kept, slice_, changed or not kept)


def _fit(blank: Draft, kept: list[Draft], desired: Desired) -> list[Draft]:
    """Find a place for every endpoint that is new."""
    drafts = list(kept)
    for draft in sorted(kept, key=lambda draft: -len(draft.endpoints)):
        if draft.changed and draft.endpoints:
            _fill(draft, desired)
    while desired:
        draft = _roomy(drafts, len(desired)) or replace(blank, endpoints=[])
        if draft.old is None:
            drafts.append(draft)
        _fill(draft, desired)
        draft.changed = True
    return drafts


def _roomy(drafts: Sequence[Draft], number: int) -> Draft | None:
    """The fullest slice not written yet that takes so many more."""
    fits = [draft for draft in drafts if not draft.changed and len(draft.endpoints) + number <= FULL]
    return max(fits, key=lambda draft: len(draft.endpoints)) if fits and number < FULL else None


def _fill(draft: Draft, desired: Desired) -> None:
    for which in list(islice(desired, FULL - len(draft.endpoints))):
        draft.endpoints.append(desired.pop(which))


def _hold_place(drafts: list[Draft], family: str, labels: Mapping[str, str]) -> None:
    """A Service without endpoints has one slice that says so."""
    if len(drafts) == 1 and drafts[0].old is not None:
        old = drafts[0].old
        if not old.ports and not old.endpoints and old.metadata.labels == labels:
            drafts[0].empty, drafts[0].changed = True, False
            return
    drafts.append(Draft(family, (), empty=True))


# Metadata ------------------------------------------------------------------------------------------------------------


def _labels(service: Service) -> dict[str, str]:
    """The Service's own labels, and those that say whose the slice is."""
    labels = {name: value for name, value in service.metadata.labels.items() if name not in _RESERVED}
    headless = {HEADLESS: ""} if service.spec.cluster_ip in ("", "None") else {}
    return {**labels, **headless, SERVICE_NAME: service.metadata.name, MANAGED_BY: CONTROLLER}


def _dress(
    backing: Backing, service: Service, stored: Sequence[EndpointSlice], drafts: Sequence[Draft]
) -> Callable[[ObjectMeta], ObjectMeta]:
    time = _change_time(backing, service, stored, drafts)
    labels, owners = _labels(service), (owner(SERVICES, service),)

    def dress(meta: ObjectMeta) -> ObjectMeta:
        return with_change_time(replace(meta, labels=labels, owner_references=owners), time)

    return dress


def _change_time(
    backing: Backing, service: Service, stored: Sequence[EndpointSlice], drafts: Sequence[Draft]
) -> str | None:
    """When the earliest of the changes now written happened: a pod's readiness changed, or the Service was made."""
    before = {identity(each): each.conditions.serving for slice_ in stored for each in slice_.endpoints}
    since = {target.name: target.since for target in backing.targets}
    times = [
        since.get(each.target_ref.name)
        for draft in drafts if draft.changed
        for each in draft.endpoints
        if each.target_ref is not None and before.get(identity(each)) is not each.conditions.serving
    ]  # fmt: skip
    if not stored:
        times.append(service.metadata.creation_timestamp)
    return min(filter(None, times), default=None)
