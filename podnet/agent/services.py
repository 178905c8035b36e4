"""What `podnet service` asks an agent: each Service as this node sees it, and what its kernel knows about it.

The decisions are the view's ServicePorts. What the kernel, or the userspace proxy, adds is read at that moment: whether
all that is decided is there, who stays with which endpoint, which endpoints are passed over, and the connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from itertools import chain

from podnet.agent import proxy_metrics
from podnet.agent.agent import Agent
from podnet.daemons.proxy_feed import ask
from podnet.network.proxy import bridged
from podnet.network.proxy.feature import families, mode_name, node_addresses
from podnet.network.proxy.live import Live, Memory, Proxied, live, places
from podnet.network.proxy.manners import LOCALHOSTS, Surroundings
from podnet.network.proxy.service_ports import owner
from podnet.network.proxy.shown import ServiceShown, ServicesShown, Shown
from podnet.network.service_port import ServicePort
from podnet.network.view import NodeView, Problem
from podnet.objects.cluster import Cluster, Key
from podnet.objects.services import Service
from podnet.state.ipvs import Balanced
from podnet.state.resource import Resource

POLICIES = ("internal", "external")


async def show(
    agent: Agent, namespace: str = "", name: str = "", brief: bool = False, proxy: str = ""
) -> ServicesShown:
    """All Services, or those of a namespace or a name. `brief` leaves out what the kernel must be asked for; `proxy` is
    the socket of the userspace proxy."""
    seen, cluster = agent.view, agent.cluster
    if seen is None or cluster is None:
        return ServicesShown(agent.node, reason=agent.not_ready() or "")
    chosen = {
        key: service
        for key, service in sorted(cluster.services.items())
        if namespace in ("", key[0]) and name in ("", key[1])
    }
    ports = {key: _served(seen, key) for key in chosen}
    around = _surroundings(seen)
    memory = None if brief else await _memory(agent, ports, around.mode, proxy)
    held = {} if brief else await _held(agent, chosen)
    counted = _counted(cluster, chosen)
    problems = _problems(agent)

    def known(port: ServicePort) -> Live | None:
        return live(port, memory, around.addresses, around.mode) if memory else None

    shown = (
        ServiceShown(
            *key,
            service.spec.type,
            service.spec.cluster_ips or tuple(filter(None, (service.spec.cluster_ip,))),
            *counted.get(key, (0, 0)),
            tuple(
                Shown(port, live(port, memory, around.addresses, around.mode) if memory else None)
                for port in ports[key]
            ),
            held.get(key),
            problems.get(key, ()),
        )
        for key, service in chosen.items()
    )
    return ServicesShown(agent.node, around.mode, "", around, tuple(shown))


def _served(seen: NodeView, key: Key) -> tuple[ServicePort, ...]:
    there = families(seen)
    return tuple(port for port in seen.services.get(key, ()) if port.v6 in there)


def _surroundings(seen: NodeView) -> Surroundings:
    proxy, mode = seen.network.proxy, mode_name(seen)
    return Surroundings(
        tuple(address for v6 in families(seen) for address in _served_at(seen, v6, mode)),
        seen.me.pod_cidrs,
        seen.network.pod_cidrs,
        proxy.masquerade_all,
        proxy.source_ranges_for_all,
        mode,
        seen.bridged and bridged.MODULE in seen.facts.missing,
    )


def _served_at(seen: NodeView, v6: bool, mode: str) -> Iterator[str]:
    """Where node ports are; localhost differs by mode."""
    yield from (each for each in node_addresses(seen, v6) if mode != "ipvs" or each not in LOCALHOSTS)
    chosen = seen.node_ports_at(v6)
    loopback = not chosen or any(ip_address(LOCALHOSTS[v6]) in ip_network(cidr, strict=False) for cidr in chosen)
    if mode == "userspace" and v6 and loopback:
        yield LOCALHOSTS[v6]


async def _memory(agent: Agent, ports: Mapping[Key, tuple[ServicePort, ...]], mode: str, proxy: str) -> Memory:
    wanted = places((port for some in ports.values() for port in some), mode)
    plane = agent.reconciler.dataplane
    sets = await agent.in_kernel(lambda: {place: plane.remembered(*place) for place in wanted})
    balanced = await agent.in_kernel(plane.balanced) if mode == "ipvs" else Balanced()
    proxied = await _proxied(proxy) if mode == "userspace" else {}
    return Memory(sets, await asyncio.to_thread(plane.translated), proxied, balanced)


async def _proxied(socket: str) -> dict[tuple[str, str, bool], Proxied]:
    """What the userspace proxy tells; nothing while it can't be reached, which is a problem of the node's."""
    try:
        status = await ask(socket)
    except (OSError, EOFError, ValueError):
        return {}
    return {
        (each.label, each.protocol, each.v6): Proxied(each.connections, each.affinities) for each in status.services
    }


async def _held(agent: Agent, chosen: Mapping[Key, Service]) -> dict[Key, bool]:
    """By a fresh reading."""
    units = {unit: resources for unit, resources in agent.units.items() if unit[0] == "service" and unit[1:] in chosen}
    plan = await agent.in_kernel(lambda: agent.reconciler.difference(units, only=True))
    missing = {step.resource.key for step in plan.steps}
    return {(unit[1], unit[2]): missing.isdisjoint(each.key for each in made) for unit, made in units.items()}


def _counted(cluster: Cluster, chosen: Mapping[Key, Service]) -> dict[Key, tuple[int, int]]:
    """(ready, all) endpoints: a pod is one in both families; what is no pod counts by its address."""
    found: dict[Key, dict[object, bool]] = {}
    for piece in cluster.endpointslices.values():
        key = owner(piece)
        if key is None or key not in chosen:
            continue
        known = found.setdefault(key, {})
        for endpoint in piece.endpoints:
            pod = endpoint.target_ref
            who = (pod.namespace, pod.name) if pod else endpoint.addresses[:1]
            known[who] = known.get(who, False) or endpoint.conditions.ready is not False
    return {key: (sum(known.values()), len(known)) for key, known in found.items()}


def _problems(agent: Agent) -> dict[Key, tuple[Problem, ...]]:
    """By Service; those of a route too."""
    routes = agent.cluster.serviceroutes if agent.cluster else {}
    found: dict[Key, tuple[Problem, ...]] = {}
    for problem in agent.problems:
        kind, *key = problem.object.split("/")
        if len(key) == 2 and kind in ("Service", "ServiceRoute"):
            namespace, name = key
            route = routes.get((namespace, name)) if kind == "ServiceRoute" else None
            about = (namespace, route.spec.service if route else name)
            found[about] = (*found.get(about, ()), problem)
    return found


def count_without_local(agent: Agent) -> None:
    """Let the metrics tell, whenever they are asked, how many ports have policy Local and no endpoint here."""
    for v6, family in proxy_metrics.FAMILIES.items():
        for policy in POLICIES:
            gauge = proxy_metrics.NO_LOCAL_ENDPOINTS.labels(family, policy)
            gauge.set_function(lambda v6=v6, policy=policy: without_local(agent.view, v6, policy))  # type: ignore[misc]


def count_rules(agent: Agent) -> None:
    """Let the metrics tell, whenever they are asked, how many iptables rules there are."""

    def wanted() -> Iterator[Resource]:
        there = agent.view is not None and mode_name(agent.view) == "iptables"
        return chain.from_iterable(agent.units.values() if there else ())

    proxy_metrics.REGISTRY.register(proxy_metrics.IptablesRules(wanted))


def without_local(seen: NodeView | None, v6: bool, policy: str) -> int:
    """`policy` is "internal" or "external"."""
    ports = (port for some in (seen.services.values() if seen else ()) for port in some if port.v6 == v6)
    if policy == "internal":
        return sum(port.internal_local and port.anywhere and not port.internal for port in ports)
    return sum(port.external_local and port.anywhere and not port.external for port in ports)
