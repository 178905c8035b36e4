"""What of Services and their routes can't be honoured, said so that their owners hear of it.

Each such wish is treated as if it were not there, and everything else goes on; claims.py speaks of what several
Services want at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from podnet.network.proxy import splitting
from podnet.network.proxy.algorithms import ALGORITHMS, RANDOM
from podnet.network.proxy.service_ports import (
    ALGORITHM_ANNOTATION,
    affinity,
    cluster_addresses,
    outer_addresses,
    retried,
)
from podnet.network.view import Problem, is_v6
from podnet.objects.cluster import Key
from podnet.objects.network import NETWORK_NAME, NetworkSpec, ServiceRoute
from podnet.objects.services import Service

NAMES = {False: "IPv4", True: "IPv6"}
LACKS = {"iptables": ("segments", "weights"), "ipvs": ("segments",)}
"""What of routes a mode does not do."""


def of_service(service: Service, families: Collection[bool], mode: str = "") -> Iterator[Problem]:
    """`families`: whether IPv6, of the cluster's ranges for pods; `mode`: what makes Services there."""
    name = f"Service/{service.metadata.namespace}/{service.metadata.name}"
    inner = cluster_addresses(service)
    for address in (*inner, *outer_addresses(service)) if inner else ():
        if is_v6(address) not in families:
            message = f"{address} is not served: the cluster has no {NAMES[is_v6(address)]} range for pods"
            yield Problem(name, "NoSuchFamily", message, "spec.clusterIPs" if address in inner else "spec")
    if inner and mode == "userspace" and any(port.protocol == "SCTP" for port in service.spec.ports):
        message = "mode userspace has no SCTP; use nftables or iptables"
        yield Problem(name, "UnsupportedProtocol", message, "spec.ports")
    asked = service.metadata.annotations.get(ALGORITHM_ANNOTATION, RANDOM)
    if inner and asked not in ALGORITHMS:
        message = f"{ALGORITHM_ANNOTATION}: {asked!r} is none of {', '.join(ALGORITHMS)}"
        yield Problem(name, "NoSuchAlgorithm", message, "metadata.annotations")
    if inner and retried(service):
        if affinity(service):
            message = (
                "podnet.dev/retry does nothing together with sessionAffinity ClientIP: clients stay where they are"
            )
            yield Problem(name, "NoRetry", message, "metadata.annotations")
        elif others := sorted({port.protocol for port in service.spec.ports} - {"TCP"}):
            message = f"podnet.dev/retry is for TCP: ports of {', '.join(others)} have no retries"
            yield Problem(name, "NoRetry", message, "metadata.annotations")


def of_routes(routes: Iterable[ServiceRoute], services: Collection[Key], mode: str = "") -> Iterator[Problem]:
    """Of all routes; `services` are the names of those there are, `mode` is what makes them."""
    by_service: dict[Key, list[ServiceRoute]] = {}
    for route in routes:
        name, spec = _named(route), route.spec
        yield from (
            Problem(name, "InvalidServiceRoute", f"{field} {message}", field)
            for field, message in splitting.mistakes(spec)
        )
        asked = {"segments": bool(spec.segments), "weights": len(spec.default) > 1}
        if lacks := [what for what in LACKS.get(mode, ()) if asked[what]]:
            message = f"mode {mode} knows no {' and no '.join(lacks)}: all clients have the default's endpoints"
            yield Problem(name, "UnsupportedByMode", f"{message}; use nftables or userspace", "spec")
        key = (route.metadata.namespace, spec.service)
        if spec.service and key not in services:
            message = f"there is no Service {spec.service} in namespace {key[0]}"
            yield Problem(name, "NoSuchService", message, "spec.service")
        by_service.setdefault(key, []).append(route)
    for key, several in by_service.items():
        holds = splitting.in_force(several) if len(several) > 1 else None
        for route in several if holds else ():
            if route is not holds and not any(splitting.mistakes(route.spec)):
                message = f"ServiceRoute {holds.metadata.name} is older and holds for Service {key[1]}"  # type: ignore[union-attr]
                yield Problem(_named(route), "AnotherRouteHolds", message, "spec.service")


def of_mode(network: NetworkSpec, known: Iterable[str]) -> Iterator[Problem]:
    """A mode that nobody knows leaves Services unserved."""
    mode = network.proxy.mode
    if mode not in (*known, "none"):
        message = f"spec.proxy.mode: {mode!r} is no mode, so Services lead nowhere: use one of {', '.join(known)}, none"
        yield Problem(f"NetworkConfig/{NETWORK_NAME}", "UnknownProxyMode", message, "spec.proxy.mode")


def _named(route: ServiceRoute) -> str:
    return f"ServiceRoute/{route.metadata.namespace}/{route.metadata.name}"
