"""What a packet would meet at each frontend of a Service in mode nftables, said to people.

The same facts that nftables.py makes elements of, read the other way: for a client and an address, which endpoints and
with what chance, whose address they see as the client's, and what happens instead when there are none. A test compares
this with a walk through the rendered chains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Literal

from podnet.network.proxy import nftables
from podnet.network.service_port import Endpoint, Frontend, Scope, Segment, ServicePort
from podnet.network.value import Value
from podnet.network.view import is_v6

Outcome = Literal["to", "refused", "dropped"]


class Client(Value, frozen=True):
    """Who connects: a "pod" of this node, this "node" itself, or someone "outside", which pods of other nodes are too.
    `address` "" is any of that sort that no segment and no source range speaks of."""

    kind: Literal["pod", "node", "outside"]
    address: str = ""


class Surroundings(Value, frozen=True):
    """What the answer depends on besides the Service. `addresses` are the node's own, `own` its ranges for pods and
    `pods` the cluster's; `proxied`: a program of the node connects to endpoints (mode userspace); the rest are settings
    of spec.proxy."""

    addresses: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    masquerade_all: bool = False
    source_ranges_for_all: bool = False
    proxied: bool = False


class Share(Value, frozen=True):
    """An endpoint and its part of new connections in percent; `hidden`: it sees the node's address as the client's."""

    endpoint: Endpoint
    percent: float
    hidden: bool


class Meeting(Value, frozen=True):
    """What new connections meet at a frontend. `why` explains what is no endpoint.

    `segment` are the CIDRs of the ServiceRoute's segment that decides, () for everybody else; `affinity` in seconds;
    `algorithm` picks among the endpoints; `source_ranges` who may come here at all, None: everybody.
    """

    port: str
    protocol: str
    scope: Scope
    address: str
    number: int
    outcome: Outcome
    why: str = ""
    shares: tuple[Share, ...] = ()
    segment: tuple[str, ...] = ()
    affinity: int = 0
    retry: bool = False
    algorithm: str = ""
    source_ranges: tuple[str, ...] | None = None


def client_at(address: str, around: Surroundings) -> Client:
    """Who has an address, as this node sees it."""
    if address in around.addresses:
        return Client("node", address)
    return Client("pod" if among(address, around.own) else "outside", address)


def explain(ports: Iterable[ServicePort], who: Client, around: Surroundings) -> Iterator[Meeting]:
    """Every frontend that the client can reach by its family; without an address of the client also what each segment
    would meet."""
    for port in ports:
        if who.address and is_v6(who.address) != port.v6:
            continue
        addresses = [address for address in around.addresses if is_v6(address) == port.v6]
        for frontend in nftables.frontends(port, addresses):
            for part in _parts(port, who):
                yield _meeting(port, frontend, part, who, around)


def among(address: str, ranges: Iterable[str]) -> bool:
    """Whether an address is in one of the CIDRs."""
    found = ip_address(address)
    return any(found in ip_network(each) for each in ranges if is_v6(each) == is_v6(address))


def _parts(port: ServicePort, who: Client) -> Iterator[Segment | None]:
    """The segments that decide; None stands for those whom no segment names."""
    if who.address:
        yield next((each for each in port.segments if among(who.address, each.sources)), None)
    else:
        yield None
        yield from port.segments


def _meeting(port: ServicePort, frontend: Frontend, part: Segment | None, who: Client, around: Surroundings) -> Meeting:
    inner = frontend.scope == "cluster"
    guarded = frontend.scope == "balancer" or (around.source_ranges_for_all and not inner)
    ranges = port.source_ranges if guarded else None
    endpoints = _chosen(part or port, inner, who)
    outcome, why = _outcome(port, part, endpoints, inner, who, ranges)
    reached = outcome == "to"
    picking = nftables.picked_by_id(port) if part is None and nftables.by_id(port) else port
    return Meeting(
        port=port.label,
        protocol=port.protocol,
        scope=frontend.scope,
        address=frontend.address,
        number=frontend.port,
        outcome=outcome,
        why=why,
        shares=_shares(picking, endpoints, who, _hidden(port, inner, who, around)) if reached else (),
        segment=part.sources if part else (),
        affinity=port.affinity if reached and not part else 0,
        retry=reached and not part and nftables.retries(port),
        algorithm=picking.algorithm if reached else "",
        source_ranges=ranges,
    )


def _chosen(part: ServicePort | Segment, inner: bool, who: Client) -> tuple[Endpoint, ...]:
    if inner:
        return part.internal
    return part.external if who.kind == "outside" else part.cluster


def _outcome(
    port: ServicePort,
    part: Segment | None,
    endpoints: tuple[Endpoint, ...],
    inner: bool,
    who: Client,
    ranges: tuple[str, ...] | None,
) -> tuple[Outcome, str]:
    if ranges is not None and who.address and not among(who.address, ranges):
        return "dropped", f"{who.address} is in no range of loadBalancerSourceRanges"
    if endpoints:
        return "to", ""
    if not port.anywhere:
        return "refused", "no endpoint is ready"
    policy = "internalTrafficPolicy" if inner else "externalTrafficPolicy"
    if port.internal_local if inner else port.external_local and who.kind == "outside":
        return "dropped", f"no endpoint on this node is ready, and {policy} is Local"
    return "dropped", "no endpoint of the segment is ready" if part else "no endpoint is ready"


def _hidden(port: ServicePort, inner: bool, who: Client, around: Surroundings) -> bool:
    """Whether the node's address stands in for the client's."""
    if who.kind == "node" or around.proxied:
        return True
    if inner:
        inside = among(who.address, around.pods) if who.address else who.kind == "pod"
        return around.masquerade_all or not inside
    return not port.external_local


def _shares(port: ServicePort, endpoints: tuple[Endpoint, ...], who: Client, hidden: bool) -> tuple[Share, ...]:
    slots = nftables.slots(port, endpoints)
    return tuple(
        Share(each, 100 * times / len(slots), hidden or (each.local and each.address == who.address))
        for each, times in Counter(slots).items()
    )
