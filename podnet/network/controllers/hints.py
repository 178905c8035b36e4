"""Hints: in which zone or on which node an endpoint should be used.

trafficDistribution gives each ready endpoint its own place. The annotation from before it shares the endpoints out in
proportion to the zones' CPUs: a zone with too few for its share gets some of a zone that has too many, and slices that
need not be written stay as they are. When that cannot be done without overloading an endpoint, there are no hints.
Source: k8s.io/endpointslice trafficdist and topologycache.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from podnet.network.controllers.backing import Site, proportional
from podnet.network.controllers.slices import Draft
from podnet.objects.services import EndpointHints, Hint, Service, SliceEndpoint

OVERLOAD = 0.2  # how much more than its share an endpoint may get
CLOSE = ("PreferClose", "PreferSameZone")
NODE = "PreferSameNode"
DISABLED = "TopologyAwareHintsDisabled"
"""The reason of the event that says why there are no hints."""

Hinting = Callable[[str, str], EndpointHints | None]
"""From the zone and the node of a ready endpoint."""


def own_place(service: Service) -> Hinting | None:
    """How trafficDistribution hints; None when it does not."""
    wish = service.spec.traffic_distribution
    if proportional(service) or (wish not in CLOSE and wish != NODE):
        return None

    def hint(zone: str, node: str) -> EndpointHints | None:
        zones = (Hint(zone),) if zone else ()
        nodes = (Hint(node),) if node and wish == NODE else ()
        return EndpointHints(zones, nodes) if zones or nodes else None

    return hint


class Share(msgspec.Struct, frozen=True):
    """How many endpoints a zone should have, and how many it may."""

    desired: float
    most: int


def share_out(drafts: Sequence[Draft], sites: Iterable[Site]) -> str:
    """Set the hints of all endpoints in proportion to the zones' CPUs; drafts change where that differs.

    Returns why there are none, in upstream's words; "" when there are, or nothing is ready anyway.
    """
    remaining = [draft for draft in drafts if not draft.needless]
    total = sum(1 for _ in _ready(remaining))
    cpus = _cpus(sites)
    shares = _shares(cpus, total)
    if why := _obstacle(remaining, cpus, shares, total):
        for draft in remaining:
            _set(draft, [None] * len(draft.endpoints))
        return why if total else ""
    given, writable = _given(remaining, shares)
    given.update(endpoint.zone for endpoint in _ready(writable) if endpoint.zone)
    givers, takers = _exchange(shares, given)
    for draft in writable:
        _set(draft, [_hint(endpoint, givers, takers) for endpoint in draft.endpoints])
    return ""


def _obstacle(drafts: Iterable[Draft], cpus: Mapping[str, int], shares: Mapping[str, Share], total: int) -> str:
    many = f" ({total} endpoints, {len(cpus)} zones)"
    if not cpus:
        return "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
    if len(cpus) < 2:
        return "Nodes only ready in one zone"
    if len(cpus) > total:
        return f"Insufficient number of endpoints{many}"
    if not shares:
        return "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold" + many
    zoned = all(endpoint.zone for endpoint in _ready(drafts))
    return "" if zoned else "One or more endpoints do not have a zone specified"


def _ready(drafts: Iterable[Draft]) -> Iterator[SliceEndpoint]:
    return (endpoint for draft in drafts for endpoint in draft.endpoints if endpoint.conditions.ready)


def _set(draft: Draft, hints: Sequence[EndpointHints | None]) -> None:
    made = [
        endpoint if endpoint.hints == hint else replace(endpoint, hints=hint)
        for endpoint, hint in zip(draft.endpoints, hints, strict=True)
    ]
    if made != draft.endpoints:
        draft.endpoints, draft.changed = made, True


def _cpus(sites: Iterable[Site]) -> Mapping[str, int]:
    """CPUs by zone; nothing when a node does not say where it is. Nodes count alike when none says what it has."""
    counting = [site for site in sites if site.counts]
    silent = all(site.cpu is None for site in counting)
    if not all(site.zone and (site.cpu or silent) for site in counting):
        return {}
    cpus: Counter[str] = Counter()
    for site in counting:
        cpus[site.zone] += site.cpu or 1
    return cpus


def _shares(cpus: Mapping[str, int], endpoints: int) -> dict[str, Share]:
    """Each zone's share of the endpoints; {} when it cannot be had."""
    if not 2 <= len(cpus) <= endpoints:
        return {}
    whole = sum(cpus.values())
    desired = {zone: cpu / whole * endpoints for zone, cpu in sorted(cpus.items())}
    least = {zone: math.ceil(wish / (1 + OVERLOAD)) for zone, wish in desired.items()}
    left = endpoints - sum(least.values())
    if left < 0:
        return {}
    return {zone: Share(max(wish, least[zone]), least[zone] + left) for zone, wish in desired.items()}


def _given(drafts: Iterable[Draft], shares: Mapping[str, Share]) -> tuple[Counter[str], list[Draft]]:
    """Hints in slices that can stay as they are, and the other slices."""
    given: Counter[str] = Counter()
    writable = []
    for draft in drafts:
        hinted = None if draft.changed else _hinted(draft, shares)
        if hinted is None or any(number + given[zone] > shares[zone].most for zone, number in hinted.items()):
            writable.append(draft)
        else:
            given.update(hinted)
    return given, writable


def _hinted(draft: Draft, shares: Mapping[str, Share]) -> Counter[str] | None:
    """Hints by zone; None when an endpoint has none, or one for a zone that has no share."""
    hinted: Counter[str] = Counter()
    for endpoint in _ready([draft]):
        zones = [hint.name for hint in endpoint.hints.for_zones] if endpoint.hints else []
        if not zones or not all(zone in shares for zone in zones):
            return None
        hinted.update(zones)
    return hinted


def _exchange(shares: Mapping[str, Share], given: Mapping[str, int]) -> tuple[Counter[str], Counter[str]]:
    """How many endpoints each zone gives to others, and how many each takes."""
    surplus = {zone: given.get(zone, 0) - share.desired for zone, share in shares.items()}
    givers: Counter[str] = Counter()
    takers: Counter[str] = Counter()
    while True:
        giver = max(surplus, key=lambda zone: surplus[zone])
        taker = min(surplus, key=lambda zone: surplus[zone])
        give, take = surplus[giver], -surplus[taker]
        if min(give, take) < 0.5 or max(give, take) < 1.0:
            return givers, takers
        surplus[giver] -= 1
        surplus[taker] += 1
        givers[giver] += 1
        takers[taker] += 1


def _hint(endpoint: SliceEndpoint, givers: Counter[str], takers: Counter[str]) -> EndpointHints | None:
    """The endpoint's own zone, or one that takes while its own gives."""
    if not endpoint.conditions.ready or not endpoint.zone:
        return None
    zone = endpoint.zone
    taker = next((taker for taker in sorted(takers) if takers[taker]), "")
    if taker and givers[zone]:
        givers[zone] -= 1
        takers[taker] -= 1
        zone = taker
    return EndpointHints((Hint(zone),))
