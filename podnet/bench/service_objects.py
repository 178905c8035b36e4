"""Services of any number, as the API server would tell of them: each with as many endpoints as asked for.

The Services have no selectors, and one slice each, as a controller of one's own would write it. All addresses follow
from numbers, so that nothing repeats: the cluster address from that of the Service, a pod's from Service and place.
"""

from __future__ import annotations

import msgspec

from podnet.bench import synthetic
from podnet.objects.cluster import Cluster
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import NETWORK_NAME, ProxySpec
from podnet.objects.services import (
    SERVICE_NAME,
    EndpointSlice,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)

NAMESPACE = "default"
PORT, TARGET = 80, 8080
FIRST_SERVICE = 10 << 24 | 96 << 16 | 16 << 8
FIRST_POD = 10 << 24 | 128 << 16
"""10.96.16.0 and 10.128.0.0: the latter leaves room for eight million pods."""


def dotted(number: int) -> str:
    """An IPv4 address."""
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def cluster_ip(number: int) -> str:
    """Where the Service of this number is met, at PORT."""
    return dotted(FIRST_SERVICE + number)


def pods(number: int, count: int) -> tuple[str, ...]:
    """The addresses behind it, at TARGET."""
    return tuple(dotted(FIRST_POD + number * count + place) for place in range(count))


def service(number: int) -> Service:
    """The Service of this number."""
    address = cluster_ip(number)
    port = ServicePort(port=PORT, target_port=TARGET)
    return Service(
        metadata=ObjectMeta(name=f"s{number}", namespace=NAMESPACE),
        spec=ServiceSpec(cluster_ip=address, cluster_ips=(address,), ports=(port,)),
    )


def endpoint_slice(number: int, addresses: tuple[str, ...]) -> EndpointSlice:
    """The Service's slice, with these endpoints on some other node."""
    return EndpointSlice(
        metadata=ObjectMeta(name=f"s{number}-x", namespace=NAMESPACE, labels={SERVICE_NAME: f"s{number}"}),
        address_type="IPv4",
        ports=(SlicePort(port=TARGET),),
        endpoints=tuple(SliceEndpoint(addresses=(address,), node_name="elsewhere") for address in addresses),
    )


def changed(number: int, count: int, turn: int) -> EndpointSlice:
    """The same with another first endpoint, which no other turn has."""
    return endpoint_slice(number, (dotted(FIRST_POD + (1 << 22) + turn), *pods(number, count)[1:]))


def cluster(services: int, endpoints: int, mode: str = "nftables") -> Cluster:
    """A cluster of one node, synthetic.node(1), and so many Services with so many endpoints each."""
    base = synthetic.cluster(1, "host-gw")
    config = base.networkconfigs["", NETWORK_NAME]
    spec = msgspec.structs.replace(config.spec, proxy=ProxySpec(mode=mode))
    made = {(NAMESPACE, f"s{number}"): service(number) for number in range(services)}
    slices = {
        (NAMESPACE, f"s{number}-x"): endpoint_slice(number, pods(number, endpoints)) for number in range(services)
    }
    return Cluster(
        nodes=base.nodes,
        networkconfigs={("", NETWORK_NAME): msgspec.structs.replace(config, spec=spec)},
        services=made,
        endpointslices=slices,
    )
