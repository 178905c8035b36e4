"""What load balancers make of a cluster's Services on one node: addresses to answer for, and health checks.

Few Services have a load balancer, so only those are looked at again when endpoints change.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from podnet.network.memo import Memo, each, group, recall
from podnet.network.proxy.announce import Claim, announced, claims, fit
from podnet.network.proxy.claims import NODE_PORT, Lost
from podnet.network.proxy.health import health_check, health_port
from podnet.network.proxy.service_ports import owner
from podnet.network.service_port import Place
from podnet.network.view import HealthCheck
from podnet.objects.cluster import Cluster, Key
from podnet.objects.services import EndpointSlice, Service

Slices = Mapping[Key, EndpointSlice]


def borne(cluster: Cluster, node: str, memo: Memo) -> tuple[str, ...]:
    """The addresses that this node answers for."""
    services, slices = _balanced(cluster, memo)
    if not services:
        return ()
    candidates = recall(memo, "fit", (cluster.nodes,), lambda: fit(cluster.nodes.values()))

    def of(key: Key) -> tuple[Claim, ...]:
        return tuple(claims(services[key], slices[key].values()))

    wanted = each(memo, "claims", (), (services, slices), of, lambda key: key)
    made = (candidates, wanted)
    return recall(memo, "borne", made, lambda: announced(node, candidates, chain.from_iterable(wanted.values())))


def health_checks(cluster: Cluster, node: str, memo: Memo, without: Lost) -> tuple[HealthCheck, ...]:
    """What is served at health check node ports here; `without`: what others have."""
    services, slices = _balanced(cluster, memo)
    place = Place(node)

    def of(key: Key) -> HealthCheck | None:
        refused = ("tcp", NODE_PORT, health_port(services[key])) in without.get(key, {})
        return None if refused else health_check(services[key], slices[key].values(), place)

    made = each(memo, "health checks", (), (services, slices, without), of, lambda key: key)
    return recall(memo, "all health checks", (made,), lambda: tuple(check for check in made.values() if check))


def _balanced(cluster: Cluster, memo: Memo) -> tuple[Mapping[Key, Service], Mapping[Key, Slices]]:
    """The Services that have a load balancer, and their slices."""
    services = recall(
        memo,
        "balanced",
        (cluster.services,),
        lambda: {key: each for key, each in cluster.services.items() if each.spec.type == "LoadBalancer"},
    )
    groups = group(memo, "slices", cluster.endpointslices, owner) if services else {}
    return services, {key: groups.get(key, _NONE) for key in services}


_NONE: Slices = {}
