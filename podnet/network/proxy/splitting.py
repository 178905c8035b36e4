"""ServiceRoutes: which clients of a Service have which of its endpoints, and in what shares.

A route splits its Service's endpoints into backends by the labels of their pods. A list of backends gives each one its
weight, however many endpoints it has, and its endpoints equal parts of that; an endpoint belongs to the first backend
that selects it. What a route says wrongly makes it as if it were not there, and is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import lcm

import msgspec

from podnet.network.proxy.choice import Candidate
from podnet.network.service_port import Endpoint
from podnet.objects.network import RouteBackend, ServiceRoute, ServiceRouteSpec

Network = IPv4Network | IPv6Network
Choose = Callable[[Sequence[Candidate]], tuple[Endpoint, ...]]
Labels = Callable[[tuple[str, str]], Mapping[str, str]]
MAPPED = IPv6Network("::ffff:0:0/96")
"""IPv4 addresses as sockets of IPv6 spell them (RFC 4291 2.5.5.2); no packet bears one."""

MOST_SEGMENTS = 200
"""A segment's number is part of the packet's mark in mode nftables (see there)."""


def mistakes(spec: ServiceRouteSpec) -> Iterator[tuple[str, str]]:
    """(field, message) of what makes a route unusable."""
    if not spec.service:
        yield "spec.service", "is required: the name of a Service in the route's namespace"
    if len(spec.segments) > MOST_SEGMENTS:
        yield "spec.segments", f"must have at most {MOST_SEGMENTS} items"
    seen: list[tuple[str, Network]] = []
    for number, segment in enumerate(spec.segments):
        field = f"spec.segments[{number}]"
        if not segment.sources:
            yield f"{field}.from", "is required: at least one CIDR"
        for place, text in enumerate(segment.sources):
            yield from _source(f"{field}.from[{place}]", text, seen)
        yield from _backends(f"{field}.backends", segment.backends, needed=True)
    yield from _backends("spec.default", spec.default, needed=False)


def _source(field: str, text: str, seen: list[tuple[str, Network]]) -> Iterator[tuple[str, str]]:
    try:
        network = ip_network(text)
    except ValueError:
        yield field, f"{text!r} is no CIDR; write one such as 10.1.0.0/16, without host bits"
        return
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        plain = _plain(network)
        yield field, f"{text} holds no client, as IPv4 clients come with their IPv4 addresses; write {plain}"
        return
    for other, there in seen:
        if there.version == network.version and there.overlaps(network):
            yield field, f"{text} overlaps {there} of {other}"
    seen.append((field, network))


def _plain(network: IPv6Network) -> IPv4Network:
    return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - MAPPED.prefixlen))


def _backends(field: str, backends: Sequence[RouteBackend], needed: bool) -> Iterator[tuple[str, str]]:
    if needed and not backends:
        yield field, "is required: at least one backend"
    for number, backend in enumerate(backends):
        if not 0 <= backend.weight <= 1000:
            yield f"{field}[{number}].weight", "must be from 0 to 1000"
    if backends and not any(backend.weight for backend in backends):
        yield field, "one weight at least must not be 0"


def in_force(routes: Iterable[ServiceRoute]) -> ServiceRoute | None:
    """The one of a Service's routes that holds: the oldest that has no mistake."""
    usable = [route for route in routes if not any(mistakes(route.spec))]
    return min(usable, key=lambda route: (route.metadata.creation_timestamp or "", route.metadata.name), default=None)


def shares(
    backends: Sequence[RouteBackend], candidates: Sequence[Candidate], labels: Labels, choose: Choose
) -> tuple[Endpoint, ...]:
    """The endpoints of a list of backends with their weights; `choose` is the policy. No backends: all endpoints."""
    if not backends:
        return choose(candidates)
    members: list[list[Candidate]] = [[] for _ in backends]
    for candidate in candidates:
        of = labels(candidate.pod)
        place = next((place for place, each in enumerate(backends) if each.selector.items() <= of.items()), None)
        if place is not None and backends[place].weight:
            members[place].append(candidate)
    chosen = choose([candidate for group in members for candidate in group])
    parts = [[each for each in chosen if _among(each, group)] for group in members]
    whole = lcm(*(len(part) or 1 for part in parts))
    weighed = (
        msgspec.structs.replace(each, weight=backend.weight * whole // len(part))
        for backend, part in zip(backends, parts, strict=True)
        for each in part
    )
    return tuple(sorted(weighed, key=lambda each: (each.address, each.port)))


def _among(endpoint: Endpoint, group: Iterable[Candidate]) -> bool:
    return any((each.address, each.port) == (endpoint.address, endpoint.port) for each in group)
