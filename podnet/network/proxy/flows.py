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


def forget_chains(
    plan: Plan, reachable: Iterable[tuple[str, str, int, str]], own: Iterable[str]
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
    kept = {(address, port, endpoint) for _, address, port, endpoint in known}
    served = {(address, port) for address, port, _ in kept}
    fronts = dict.fromkeys((code, address, port) for code, address, port, _ in known)
    for code, endpoint in gone:
        for other, address, port in fronts:
            if other == code and is_v6(address) == is_v6(endpoint) and (address, port, endpoint) not in kept:
                yield ForgetFlows(UDP, port, destination=address, answered_by=endpoint)
    for address, port in before:
        if (address, port) not in after and (address, port) not in served:
            yield ForgetFlows(UDP, port, destination=address)
    for address, port in after:
        if (address, port) not in before:
            yield ForgetFlows(UDP, port, destination=address, answered_by=address)


_Chains = Iterable[tuple[str, IptablesChain, Resource | None]]
_SERVICE = re.compile(r"KUBE-SV[CL]-(.*)")
_LED = re.compile(r"-j (KUBE-SEP-\S+)$")
_DNAT = re.compile(r"-p udp .*-j DNAT --to-destination (?P<address>\S+):\d+$")
_LINE = re.compile(r"-p udp (?:-d (?P<address>\S+) )?--dport (?P<port>\d+) -j KUBE-")


def _gone_endpoints(chains: _Chains) -> Iterator[tuple[str, str]]:
    """(code of the ServicePort, address) for each endpoint's chain that goes."""
    addresses: dict[tuple[str, str], str] = {}
    led: list[tuple[str, str, str]] = []
    for verb, chain, old in chains:
        was = _rules(chain if verb == "delete" else old)
        if verb == "delete":
            for found in filter(None, map(_DNAT.search, was)):
                addresses[chain.family, chain.name] = found["address"].strip("[]")
        if service := _SERVICE.fullmatch(chain.name):
            led += [(chain.family, service[1], match[1]) for rule in was if (match := _LED.search(rule))]
    for family, code, name in led:
        if (family, name) in addresses:
            yield code, addresses[family, name]


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
