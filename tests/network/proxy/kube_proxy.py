"""Eight Services with which kube-proxy's own behaviour is well known, as this node's ServicePorts.

svc1 ClusterIP · svc2 LoadBalancer, policy Local, its endpoint elsewhere, health check port · svc3 NodePort · svc4
external address, two endpoints · svc5 LoadBalancer with source ranges and affinity · svc6 without endpoints · svc7
both policies Local, an endpoint here and one elsewhere · svc8 internalTrafficPolicy Local, its endpoint elsewhere.
"""

from __future__ import annotations

from podnet.network.proxy.iptables import Settings
from podnet.network.service_port import Endpoint, ServicePort

SETTINGS = Settings(cluster_cidr="10.0.0.0/8", node_addresses=("192.168.0.2",))


def service(number: int, *endpoints: Endpoint, **more: object) -> ServicePort:
    """Policy Local or Cluster, as the flags in `more` say; endpoints that are `local` are on this node."""
    here = tuple(endpoint for endpoint in endpoints if endpoint.local)
    return ServicePort(
        namespace=f"ns{number}",
        service=f"svc{number}",
        name="p80",
        protocol="tcp",
        v6=False,
        cluster_ip=f"172.30.0.{40 + number}",
        port=80,
        internal=here if more.get("internal_local") else endpoints,
        external=here if more.get("external_local") else endpoints,
        cluster=endpoints,
        anywhere=bool(endpoints),
        **more,  # type: ignore[arg-type]
    )


def at(number: int, local: bool = False) -> Endpoint:
    return Endpoint(f"10.180.0.{number}", 80, local)


SVC1 = service(1, at(1))
SVC2 = service(
    2,
    at(2),
    external_local=True,
    node_port=3001,
    external_ips=("192.168.99.22",),
    balancer_ips=("1.2.3.4",),
    health_check_node_port=30000,
)
SVC3 = service(3, at(3), node_port=3003)
SVC4 = service(4, at(4), at(5), external_ips=("192.168.99.33",))
SVC5 = service(5, at(3), node_port=3002, balancer_ips=("5.6.7.8",), source_ranges=("203.0.113.0/25",), affinity=10800)
SVC6 = service(6)
SVC7 = service(7, at(6), at(7, local=True), internal_local=True, external_local=True, node_port=3004)
SVC8 = service(8, at(8), internal_local=True)

SERVICES = (SVC1, SVC2, SVC3, SVC4, SVC5, SVC6, SVC7, SVC8)
