"""Who has a frontend that several Services ask for: the oldest of them, by creation time and then by name.

A claim is (protocol, address, port), and the address NODE_PORT stands for a node port at any address; that of a health
check is one too. Claims are collected
Service by Service, and only what somebody else claims too is looked at further: the others lose that frontend, and
keep the rest of what they have. A cluster address that is lost takes its ServicePort with it. Two addresses of one
Service may be equal too; the cluster's comes first then, and all that are outside are alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from msgspec.structs import replace

from podnet.network.memo import Memo, each, recall
from podnet.network.proxy.health import health_port
from podnet.network.proxy.service_ports import cluster_addresses, outer_addresses
from podnet.network.service_port import ServicePort
from podnet.network.value import Value
from podnet.network.view import Problem, is_v6
from podnet.objects.cluster import Key
from podnet.objects.services import Service
from podnet.state.difference import changes

NODE_PORT = ""
Claim = tuple[str, str, int]
Services = Mapping[Key, tuple[ServicePort, ...]]
Lost = Mapping[Key, Mapping[Claim, Key]]
"""By Service: what it asked for in vain, and who has it."""


class Claims(Value, frozen=True):
    """What one Service asks for, and since when; a claim that stands here twice is in conflict with itself."""

    since: str
    claims: tuple[Claim, ...]


def lost(memo: Memo, services: Mapping[Key, Service], own: tuple[str, ...]) -> Lost:
    """`own` are the node's addresses, at which node ports are."""
    made = each(memo, "frontend claims", (own,), (services,), lambda key: asked(services[key], own), lambda key: key)
    fought = _contested(memo, made)
    return recall(memo, "frontends lost", (fought, made), lambda: _settled(fought, made))


def asked(service: Service, own: Iterable[str]) -> Claims:
    """The claims of a Service."""
    return Claims(service.metadata.creation_timestamp or "", tuple(_asked(service, tuple(own))))


def _asked(service: Service, own: tuple[str, ...]) -> Iterator[Claim]:
    inner, outer = cluster_addresses(service), outer_addresses(service)
    if outer:
        families = {is_v6(address) for address in inner}
        outer = tuple(address for address in outer if is_v6(address) in families)
    for port in service.spec.ports if inner else ():
        protocol = port.protocol.lower()
        yield from ((protocol, address, port.port) for address in inner)
        places = dict.fromkeys((address, port.port) for address in outer)
        if port.node_port:
            places |= dict.fromkeys((address, port.node_port) for address in (NODE_PORT, *own))
        yield from ((protocol, *place) for place in places)
    number = health_port(service) if inner else 0
    yield from (("tcp", address, number) for address in (NODE_PORT, *own) if number)


def _contested(memo: Memo, made: Mapping[Key, Claims]) -> Mapping[Claim, tuple[Key, ...]]:
    """Claims that are made more than once, with who makes them."""
    known, (holders, result) = cast(
        "tuple[tuple[Mapping[Key, Claims]], tuple[dict[Claim, tuple[Key, ...]], dict[Claim, tuple[Key, ...]]]]",
        memo.get("frontends contested", (({},), ({}, {}))),
    )
    before = known[0]
    moved: dict[Claim, None] = {}
    for key in changes(made, before):
        for claim in before[key].claims if key in before else ():
            holders[claim] = tuple(holder for holder in holders[claim] if holder != key)
            moved[claim] = None
        for claim in made[key].claims if key in made else ():
            holders[claim] = (*holders.get(claim, ()), key)
            moved[claim] = None
    again = {claim: holders[claim] for claim in moved if len(holders[claim]) > 1}
    if again or not moved.keys().isdisjoint(result):
        result = {claim: keys for claim, keys in result.items() if claim not in moved} | again
    for claim in moved:
        if not holders[claim]:
            del holders[claim]
    memo["frontends contested"] = ((made,), (holders, result))
    return result


def _settled(fought: Mapping[Claim, tuple[Key, ...]], made: Mapping[Key, Claims]) -> Lost:
    found: dict[Key, dict[Claim, Key]] = {}
    for claim, keys in fought.items():
        winner = min(keys, key=lambda key: (made[key].since, key))
        for key in keys:
            if key != winner or keys.count(key) > 1:
                found.setdefault(key, {})[claim] = winner
    return found


def honoured(memo: Memo, services: Services, without: Lost, own: tuple[str, ...]) -> Services:
    """The Services as they can be."""
    if not without:
        return services
    return each(
        memo,
        "services honoured",
        (own,),
        (services, without),
        lambda key: reduced(key, services[key], without[key], own) if key in without else services[key],
        lambda key: key,
    )


def reduced(
    key: Key, ports: tuple[ServicePort, ...], without: Mapping[Claim, Key], own: tuple[str, ...]
) -> tuple[ServicePort, ...]:
    """A Service's ports without what others have, and each claim once."""
    return tuple(_reduced(ports, {claim for claim, winner in without.items() if winner != key}, own))


def _reduced(ports: tuple[ServicePort, ...], taken: set[Claim], own: tuple[str, ...]) -> Iterator[ServicePort]:
    for port in ports:
        cluster = (port.protocol, port.cluster_ip, port.port)
        if cluster in taken:
            continue
        taken.add(cluster)
        at_node = {(port.protocol, address, port.node_port) for address in own if is_v6(address) == port.v6}
        refused = (port.protocol, NODE_PORT, port.node_port) in taken or not taken.isdisjoint(at_node)
        external, balancer = (
            tuple(address for address in addresses if (port.protocol, address, port.port) not in taken)
            for addresses in (port.external_ips, port.balancer_ips)
        )
        taken |= {(port.protocol, address, port.port) for address in (*external, *balancer)}
        taken |= set() if refused or not port.node_port else at_node
        kept = replace(port, external_ips=external, balancer_ips=balancer, node_port=0 if refused else port.node_port)
        yield port if kept == port else kept


def problems(without: Lost) -> Iterator[Problem]:
    """One for each port that somebody else has."""
    for (namespace, name), claims in sorted(without.items()):
        places: dict[tuple[str, int, Key], list[str]] = {}
        for (protocol, address, port), winner in sorted(claims.items()):
            places.setdefault((protocol, port, winner), []).append(address)
        for (protocol, port, winner), addresses in places.items():
            where = f"node port {port}" if NODE_PORT in addresses else f"port {port} at {', '.join(addresses)}"
            holder = "/".join(winner)
            who = (
                "is asked for twice" if winner == (namespace, name) else f"is that of Service {holder}, which is older"
            )
            yield Problem(f"Service/{namespace}/{name}", "FrontendTaken", f"{protocol} {where} {who}", "spec")
