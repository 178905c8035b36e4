"""From a Service and its slices to ServicePorts: what the node's proxy has to make of it.

Headless and ExternalName Services, and those that name another proxy, give nothing; neither do slices of headless
ones. A port of a slice belongs to the Service's port of the same name and protocol. A cluster address of a family
makes one ServicePort of that family; externalIPs and load balancers' addresses go to the one of their own.
Source: k8s.io/kubernetes pkg/proxy (newBaseServiceInfo, shouldSkipService, endpointslicecache.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from ipaddress import IPv6Address, ip_address, ip_network
from typing import NamedTuple

from podnet.network.proxy.algorithms import ALGORITHMS, RANDOM
from podnet.network.proxy.choice import Candidate, under_cluster, under_local
from podnet.network.proxy.splitting import Choose, Labels, shares
from podnet.network.service_port import Endpoint, Place, Segment, ServicePort
from podnet.network.view import is_v6
from podnet.objects import services
from podnet.objects.network import ServiceRouteSpec
from podnet.objects.services import HEADLESS, SERVICE_NAME, EndpointSlice, Service, SliceEndpoint

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
AFFINITY_ANNOTATION = "podnet.dev/affinity-of"
"""On a Service: "Service" keeps a client with its pod across all ports; "Port" is the default, and upstream's way."""

RETRY_ANNOTATION = "podnet.dev/retry"
"""On a Service: "true" leads a connection that is refused or not answered to another endpoint."""

ALGORITHM_ANNOTATION = "podnet.dev/algorithm"
"""On a Service: one of algorithms.ALGORITHMS."""

FALLBACK_ANNOTATION = "podnet.dev/local-fallback"
"""On a Service with externalTrafficPolicy Local: "true" leads clients outside to other nodes' endpoints, as under
policy Cluster and so with the node's own address, while none of this node is ready. Without it the last one here that
terminates goes on getting new clients, as long as it says that it serves, and then they are dropped."""

RANGES_ANNOTATION = "service.beta.kubernetes.io/load-balancer-source-ranges"
AFFINITY_SECONDS = 10800
FAMILIES = {False: "IPv4", True: "IPv6"}
NO_ADDRESS = ("", "None")


def service_ports(
    service: Service,
    slices: Iterable[EndpointSlice],
    place: Place,
    route: ServiceRouteSpec | None = None,
    labels: Labels = lambda pod: {},
) -> tuple[ServicePort, ...]:
    """Every ServicePort of a Service, by family and then in the order of its ports.

    `route` splits its clients (splitting.py), for which `labels` tells those of a pod.
    """
    return tuple(_service_ports(service, tuple(slices), place, Split(route or ServiceRouteSpec(), labels)))


class Split(NamedTuple):
    """How clients are split, with the labels of pods."""

    route: ServiceRouteSpec
    labels: Labels

    def default(self, found: tuple[Candidate, ...], choose: Choose) -> tuple[Endpoint, ...]:
        """For clients that no segment names."""
        return shares(self.route.default, found, self.labels, choose)


def owner(piece: EndpointSlice) -> tuple[str, str] | None:
    """(namespace, name) of the Service that a slice belongs to."""
    name = piece.metadata.labels.get(SERVICE_NAME)
    return (piece.metadata.namespace, name) if name else None


def _service_ports(
    service: Service, slices: tuple[EndpointSlice, ...], place: Place, split: Split
) -> Iterator[ServicePort]:
    for cluster_ip in cluster_addresses(service):
        for port in service.spec.ports:
            found = tuple(_candidates(port, slices, is_v6(cluster_ip)))
            yield _service_port(service, port, cluster_ip, found, place, split)


def cluster_addresses(service: Service) -> tuple[str, ...]:
    """In the order of the Service's families; none of a Service that is not ours to serve."""
    spec = service.spec
    if PROXY_NAME in service.metadata.labels or spec.type == "ExternalName":
        return ()
    texts = spec.cluster_ips or (spec.cluster_ip,)
    return tuple(found for text in texts if text not in NO_ADDRESS and (found := _address(text)))


def outer_addresses(service: Service) -> tuple[str, ...]:
    """externalIPs and those of load balancers, of both families."""
    spec = service.spec
    if not spec.external_ips and spec.type != "LoadBalancer":
        return ()
    return tuple(address for v6 in FAMILIES for some in _outer(service, v6) for address in some)


def _outer(service: Service, v6: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    balancer = (entry.ip for entry in service.status.load_balancer.ingress if entry.ip and entry.ip_mode == "VIP")
    external = _addresses(service.spec.external_ips, v6)
    return external, _addresses(balancer, v6) if service.spec.type == "LoadBalancer" else ()


def _service_port(
    service: Service,
    port: services.ServicePort,
    cluster_ip: str,
    found: tuple[Candidate, ...],
    place: Place,
    split: Split,
) -> ServicePort:
    spec, v6 = service.spec, is_v6(cluster_ip)
    everywhere, here = partial(under_cluster, place=place), partial(under_local, place=place)
    cluster, local = split.default(found, everywhere), split.default(found, here)
    outside = spec.type != "ClusterIP" or bool(spec.external_ips)
    local_wanted = spec.external_traffic_policy == "Local" and outside
    fallen_back = _falls_back(service) and not any(each.ready and each.node == place.node for each in found)
    external_local = local_wanted and not fallen_back
    internal_local = spec.internal_traffic_policy == "Local"
    external_ips, balancer_ips = _outer(service, v6)
    return ServicePort(
        namespace=service.metadata.namespace,
        service=service.metadata.name,
        name=port.name,
        protocol=port.protocol.lower(),
        v6=v6,
        cluster_ip=cluster_ip,
        port=port.port,
        node_port=port.node_port,
        external_ips=external_ips,
        balancer_ips=balancer_ips,
        source_ranges=_source_ranges(service, v6),
        affinity=affinity(service),
        affinity_of=_affinity_of(service, port) if affinity(service) else "",
        internal_local=internal_local,
        external_local=external_local,
        health_check_node_port=spec.health_check_node_port if local_wanted and spec.type == "LoadBalancer" else 0,
        internal=local if internal_local else cluster,
        external=local if external_local else cluster,
        cluster=cluster,
        segments=tuple(_segments(split, found, v6, internal_local, external_local, (everywhere, here))),
        algorithm=algorithm(service),
        retry=retried(service),
        anywhere=bool(cluster),
    )


def _segments(
    split: Split,
    found: tuple[Candidate, ...],
    v6: bool,
    internal_local: bool,
    external_local: bool,
    policies: tuple[Choose, Choose],
) -> Iterator[Segment]:
    for segment in split.route.segments:
        sources = tuple(sorted(text for text in segment.sources if is_v6(text) == v6))
        cluster, local = (shares(segment.backends, found, split.labels, policy) for policy in policies)
        if sources:
            yield Segment(sources, local if internal_local else cluster, local if external_local else cluster, cluster)


def _candidates(port: services.ServicePort, slices: Iterable[EndpointSlice], v6: bool) -> Iterator[Candidate]:
    for piece in slices:
        if piece.address_type != FAMILIES[v6] or HEADLESS in piece.metadata.labels:
            continue
        for each in piece.ports:
            if each.name == port.name and each.protocol == port.protocol and each.port:
                yield from (made for entry in piece.endpoints for made in _candidate(entry, each.port, v6))


def _candidate(entry: SliceEndpoint, port: int, v6: bool) -> Iterator[Candidate]:
    """None of a condition counts as fine, as it does for kube-proxy."""
    address = _address(entry.addresses[0]) if entry.addresses else None
    if address is None or is_v6(address) != v6:
        return
    yield Candidate(
        address=address,
        port=port,
        node=entry.node_name or "",
        ready=entry.conditions.ready is not False,
        serving=entry.conditions.serving is not False,
        terminating=bool(entry.conditions.terminating),
        zones=tuple(hint.name for hint in entry.hints.for_zones) if entry.hints else (),
        nodes=tuple(hint.name for hint in entry.hints.for_nodes) if entry.hints else (),
        pod=(entry.target_ref.namespace, entry.target_ref.name) if entry.target_ref else ("", ""),
    )


def affinity(service: Service) -> int:
    """Seconds that a client stays with its endpoint; 0: not at all."""
    if service.spec.session_affinity != "ClientIP":
        return 0
    config = service.spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    return AFFINITY_SECONDS if seconds is None else seconds


def retried(service: Service) -> bool:
    """Whether a connection that fails goes to another endpoint."""
    return service.metadata.annotations.get(RETRY_ANNOTATION) == "true"


def algorithm(service: Service) -> str:
    """The algorithm that it asks for; an unknown one is as if it were not there (faults.py)."""
    asked = service.metadata.annotations.get(ALGORITHM_ANNOTATION, RANDOM)
    return asked if asked in ALGORITHMS else RANDOM


def _falls_back(service: Service) -> bool:
    return service.metadata.annotations.get(FALLBACK_ANNOTATION) == "true"


def _affinity_of(service: Service, port: services.ServicePort) -> str:
    whole = service.metadata.annotations.get(AFFINITY_ANNOTATION) == "Service"
    name = f"{service.metadata.namespace}/{service.metadata.name}"
    return name if whole else f"{name}:{port.name}/{port.protocol}"


def _source_ranges(service: Service, v6: bool) -> tuple[str, ...] | None:
    """Ranges of the other family alone leave nobody of this one; none at all leave everybody."""
    texts = service.spec.load_balancer_source_ranges or tuple(
        filter(None, (text.strip() for text in service.metadata.annotations.get(RANGES_ANNOTATION, "").split(",")))
    )
    if not texts or service.spec.type != "LoadBalancer":
        return None
    return tuple(sorted({text for text in map(_range, texts) if text and is_v6(text) == v6}))


def _addresses(texts: Iterable[str], v6: bool) -> tuple[str, ...]:
    return tuple(sorted({text for text in map(_address, texts) if text and is_v6(text) == v6}))


@lru_cache(maxsize=1 << 16)
def _address(text: str) -> str | None:
    """In the kernel's spelling; None for what is no address. One with a zone is of one link only; one that holds an
    IPv4 address is that address."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return None if found.scope_id else str(found.ipv4_mapped or found)
    return str(found)


def _range(text: str) -> str | None:
    try:
        return str(ip_network(text.strip(), strict=False))
    except ValueError:
        return None
