"""What a packet would meet at each frontend of a Service, said to people.

The same facts that a mode makes rules of, read the other way: for a client and an address, which endpoints and with
what chance, whose address they see as the client's, and what happens instead when there are none. What a mode does in
its own way is in manners.py. Tests compare this with a walk through each mode's rendered rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from podnet.network.proxy.manners import LOCALHOSTS, MANNERS, Client, Manner, Surroundings, among
from podnet.network.proxy.nftables import frontends
from podnet.network.service_port import Endpoint, Frontend, Scope, Segment, ServicePort
from podnet.network.value import Value
from podnet.network.view import is_v6

Outcome = Literal["to", "refused", "dropped", "unserved"]
"""Of a packet; one that is unserved goes on as if there were no such Service."""


class Share(Value, frozen=True):
    """An endpoint and its part of new connections in percent; `hidden`: it sees the node's address as the client's."""

    endpoint: Endpoint
    percent: float
    hidden: bool


class Meeting(Value, frozen=True):
    """What new connections meet at a frontend. `why` explains what is no endpoint.

    `segment` are the CIDRs of the ServiceRoute's segment that decides, () for everybody else; `affinity` in seconds;
    `retry`: the client's own retransmission may reach another endpoint; `timeouts`: the seconds after which the node
    tries the next one by itself; `algorithm` picks among the endpoints; `source_ranges` who may come here at all, None:
    everybody.
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
    timeouts: tuple[float, ...] = ()
    algorithm: str = ""
    source_ranges: tuple[str, ...] | None = None


def client_at(address: str, around: Surroundings) -> Client:
    """Who has an address, as this node sees it."""
    if address in (*around.addresses, *LOCALHOSTS):
        return Client("node", address)
    return Client("pod" if among(address, around.own) else "outside", address)


def explain(ports: Iterable[ServicePort], who: Client, around: Surroundings) -> Iterator[Meeting]:
    """Every frontend that the client can reach by its family; without an address of the client also what each segment
    would meet."""
    manner = MANNERS.get(around.mode)
    if manner is None:
        return
    for port in ports:
        if who.address and is_v6(who.address) != port.v6:
            continue
        addresses = [address for address in around.addresses if is_v6(address) == port.v6]
        for frontend in frontends(port, addresses):
            if frontend.address in LOCALHOSTS and who.kind != "node":
                continue
            for part in _parts(port, who) if manner.segments else (None,):
                yield _meeting(manner, port, frontend, part, who, around)


def _parts(port: ServicePort, who: Client) -> Iterator[Segment | None]:
    """The segments that decide; None stands for those whom no segment names."""
    if who.address:
        yield next((each for each in port.segments if among(who.address, each.sources)), None)
    else:
        yield None
        yield from port.segments


def _meeting(
    manner: Manner, port: ServicePort, frontend: Frontend, part: Segment | None, who: Client, around: Surroundings
) -> Meeting:
    inner = frontend.scope == "cluster"
    guarded = frontend.scope == "balancer" or (around.source_ranges_for_all and not inner)
    ranges = port.source_ranges if guarded and (port.anywhere or manner.guards_none) else None
    endpoints = manner.chosen(port, part or port, inner, who)
    outcome, why = _outcome(port, part, endpoints, inner, who, ranges)
    if unserved := manner.unserved(port, frontend, who):
        outcome, why = "unserved", unserved
    reached = outcome == "to"
    algorithm, parts = manner.parts(port, part, endpoints) if reached else ("", {})
    hidden = reached and manner.hides(port, inner, who, around)
    return Meeting(
        port=port.label,
        protocol=port.protocol,
        scope=frontend.scope,
        address=frontend.address,
        number=frontend.port,
        outcome=outcome,
        why=why,
        shares=tuple(
            Share(each, 100 * times / sum(parts.values()), hidden or _masked(manner, each, who, around))
            for each, times in parts.items()
        ),
        segment=part.sources if part else (),
        affinity=port.affinity if reached and not part else 0,
        retry=reached and not part and manner.retries(port),
        timeouts=manner.timeouts if reached and port.protocol == "tcp" else (),
        algorithm=algorithm,
        source_ranges=ranges,
    )


def _masked(manner: Manner, endpoint: Endpoint, who: Client, around: Surroundings) -> bool:
    """Whether this endpoint sees the node's address, and others do not."""
    bridged = around.apart and who.kind == "pod" and among(endpoint.address, around.own)
    return bridged or manner.loops(endpoint, who)


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
