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
from podnet.network.view import is_v6
from podnet.state.host import ForgetFlows
from podnet.state.iptables import IptablesChain
from podnet.state.nft import Element
from podnet.state.plan import Plan
from podnet.state.resource import Resource

UDP = PROTOCOLS["udp"]
_LEADING = ("endpoints", "routed", "targets")
_FIRST = ("services",)


Reached = tuple[str, int, str, int]
"""Frontend's address and port, endpoint's address and port."""


def forget(plan: Plan, reachable: Iterable[Reached]) -> Iterator[ForgetFlows]:
    """`reachable`: by all UDP frontends as they are now; read only when something of UDP changed."""
    gone: dict[Reached, None] = {}
    fresh: dict[tuple[str, int], None] = {}
    for step in plan.steps:
        for element in (step.old, step.resource if step.verb == "delete" else None):
            if isinstance(element, Element) and element.set in _LEADING and (place := _place(element)):
                endpoint, _, number = element.value.partition(" . ")
                gone[*place, endpoint, int(number)] = None
        if step.verb == "add" and isinstance(step.resource, Element) and step.resource.set in _FIRST:
            place = _place(step.resource)
            fresh.update({place: None} if place else {})
    if gone:
        kept = frozenset(reachable)
        for each in gone:
            if each not in kept:
                yield _led(*each)
    for address, port in fresh:
        yield ForgetFlows(UDP, port, destination=address, answered_by=address)


def forget_chains(
    plan: Plan, reachable: Iterable[tuple[str, str, int, str, int]], own: Iterable[str]
) -> Iterator[ForgetFlows]:
    """The same for mode iptables: a Service's chain names its endpoints' chains, and shared chains have a line for each
    frontend. `reachable` begins with the code of each ServicePort; `own` are the addresses that serve node ports."""
    chains = [
        (step.verb, step.resource, step.old)
        for step in plan.steps
        if isinstance(step.resource, IptablesChain) and step.resource.table == "nat"
    ]
    gone = dict.fromkeys(_gone_endpoints(chains))
    before, after = _lines(chains, tuple(own))
    if not (gone or before or after):
        return
    known = list(reachable)
    kept: set[Reached] = {(address, port, endpoint, number) for _, address, port, endpoint, number in known}
    served = {(address, port) for address, port, _, _ in kept}
    fronts: dict[str, dict[tuple[str, int], None]] = {}
    for code, address, port, _, _ in known:
        fronts.setdefault(code, {})[address, port] = None
    for code, endpoint, number in gone:
        for address, port in fronts.get(code, ()):
            if is_v6(address) == is_v6(endpoint) and (address, port, endpoint, number) not in kept:
                yield _led(address, port, endpoint, number)
    for address, port in before:
        if (address, port) not in after and (address, port) not in served:
            yield ForgetFlows(UDP, port, destination=address)
    for address, port in after:
        if (address, port) not in before:
            yield ForgetFlows(UDP, port, destination=address, answered_by=address)


def _led(address: str, port: int, endpoint: str, number: int) -> ForgetFlows:
    return ForgetFlows(UDP, port, destination=address, answered_by=endpoint, reply_port=number)


_Chains = Iterable[tuple[str, IptablesChain, Resource | None]]
_SERVICE = re.compile(r"KUBE-SV[CL]-(.*)")
_LED = re.compile(r"-j (KUBE-SEP-\S+)$")
_DNAT = re.compile(r"-p udp .*-j DNAT --to-destination (?P<address>\S+):(?P<port>\d+)$")
_LINE = re.compile(r"-p udp (?:-d (?P<address>\S+) )?--dport (?P<port>\d+) -j KUBE-")


def _gone_endpoints(chains: _Chains) -> Iterator[tuple[str, str, int]]:
    """(code of the ServicePort, address, port) for each endpoint's chain that goes."""
    places: dict[tuple[str, str], tuple[str, int]] = {}
    led: list[tuple[str, str, str]] = []
    for verb, chain, old in chains:
        was = _rules(chain if verb == "delete" else old)
        if verb == "delete":
            for found in filter(None, map(_DNAT.search, was)):
                places[chain.family, chain.name] = found["address"].strip("[]"), int(found["port"])
        if service := _SERVICE.fullmatch(chain.name):
            led += [(chain.family, service[1], match[1]) for rule in was if (match := _LED.search(rule))]
    for family, code, name in led:
        if (family, name) in places:
            yield code, *places[family, name]


def _lines(chains: _Chains, own: tuple[str, ...]) -> tuple[dict[tuple[str, int], None], dict[tuple[str, int], None]]:
    """The frontends of UDP in shared chains that change, before and after."""
    sides: tuple[dict[tuple[str, int], None], dict[tuple[str, int], None]] = {}, {}
    for verb, chain, old in chains:
        if chain.name in ("KUBE-SERVICES", "KUBE-NODEPORTS"):
            nodes = [address for address in own if is_v6(address) == (chain.family == "ip6")]
            was, now = (chain, None) if verb == "delete" else (old, chain)
            first, then = (dict.fromkeys(_rules(each)) for each in (was, now))
            for side, rules in zip(sides, (first.keys() - then.keys(), then.keys() - first.keys()), strict=True):
                for found in filter(None, map(_LINE.search, sorted(rules))):
                    for address in [found["address"]] if found["address"] else nodes:
                        side[address, int(found["port"])] = None
    return sides


def _rules(chain: Resource | None) -> tuple[str, ...]:
    return chain.rules or () if isinstance(chain, IptablesChain) else ()


def _place(element: Element) -> tuple[str, int] | None:
    """(address, port) of the frontend that an element of our table is about; None when it is not one of UDP."""
    parts = element.element.split(" . ")
    if element.table != TABLE:
        return None
    if element.set == "routed":
        address, port, lane, _ = parts
        return (address, int(port)) if protocol_of(lane) == UDP else None
    return (parts[0], int(parts[2])) if parts[1] == str(UDP) else None
