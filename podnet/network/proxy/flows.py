"""UDP flows that a change of Services makes wrong, and no others.

UDP has no connection that ends, so the kernel's flow table would lead a client that keeps sending to an endpoint that
is gone for ever, or keep it unanswered when its first packet came before the Service. Which flows those are follows
from the difference alone: an endpoint that no slot of a frontend names any more, and a frontend that was not there.
So a restart of the agent forgets nothing by itself, and makes good what changed while it was away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from podnet.network.proxy.nft_chains import TABLE
from podnet.network.proxy.nftables import PROTOCOLS, protocol_of
from podnet.state.host import ForgetFlows
from podnet.state.iptables import IptablesChain
from podnet.state.nft import Element
from podnet.state.plan import Plan

UDP = PROTOCOLS["udp"]
_LEADING = ("endpoints", "routed", "targets")
_FIRST = ("services",)


def forget(plan: Plan, reachable: Iterable[tuple[str, int, str]]) -> Iterator[ForgetFlows]:
    """`reachable`: (frontend's address, port, endpoint's address) of all UDP frontends as they are now; read only when
    something of UDP changed."""
    gone: dict[tuple[str, int, str], None] = {}
    fresh: dict[tuple[str, int], None] = {}
    for step in plan.steps:
        for element in (step.old, step.resource if step.verb == "delete" else None):
            if isinstance(element, Element) and element.set in _LEADING and (place := _place(element)):
                gone[*place, element.value.split(" . ")[0]] = None
        if step.verb == "add" and isinstance(step.resource, Element) and step.resource.set in _FIRST:
            place = _place(step.resource)
            fresh.update({place: None} if place else {})
    if gone:
        kept = frozenset(reachable)
        for address, port, endpoint in gone:
            if (address, port, endpoint) not in kept:
                yield ForgetFlows(UDP, port, destination=address, answered_by=endpoint)
    for address, port in fresh:
        yield ForgetFlows(UDP, port, destination=address, answered_by=address)


def forget_chains(plan: Plan, reachable: Iterable[tuple[str, int, str]]) -> Iterator[ForgetFlows]:
    """The same for mode iptables, whose chain of an endpoint says its address and protocol."""
    gone = dict.fromkeys(
        found["address"].strip("[]")
        for step in plan.steps
        if step.verb == "delete" and isinstance(step.resource, IptablesChain)
        for rule in step.resource.rules or ()
        if (found := _DNAT.search(rule))
    )
    if gone:
        kept = {endpoint for _, _, endpoint in reachable}
        yield from (ForgetFlows(UDP, answered_by=endpoint) for endpoint in gone if endpoint not in kept)


_DNAT = re.compile(r"-p udp .*-j DNAT --to-destination (?P<address>\S+):\d+$")


def _place(element: Element) -> tuple[str, int] | None:
    """(address, port) of the frontend that an element of our table is about; None when it is not one of UDP."""
    parts = element.element.split(" . ")
    if element.table != TABLE:
        return None
    if element.set == "routed":
        address, port, lane, _ = parts
        return (address, int(port)) if protocol_of(lane) == UDP else None
    return (parts[0], int(parts[2])) if parts[1] == str(UDP) else None
