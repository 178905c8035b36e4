"""podnet's own settings: one cluster-scoped `NetworkConfig` named `default` chooses the scheme for the whole cluster.

The object is plain: `spec.backend.type` names the backend, the other keys of `spec.backend` are that backend's
options, validated by the backend's own `Options` struct (network/backends). Changing the type on a live cluster is how
a migration is asked for.
"""

from __future__ import annotations

import msgspec

from podnet.objects.core import Condition
from podnet.objects.meta import Object, Value

NETWORK_NAME = "default"
ACCEPTS_ANNOTATION = "podnet.dev/accepts"
SENDS_ANNOTATION = "podnet.dev/sends"
PROBLEMS_ANNOTATION = "podnet.dev/service-problems"
"""What of Services one node alone can't honour: on its Node, as network/conditions.py writes and reads it."""


PRIMARY = "primary"
"""In nodePortAddresses: the first InternalIP of each family (kube-proxy's word)."""


class NodeMask(Value, frozen=True):
    """Prefix length of the range cut for each node, per family (kube-controller-manager's defaults)."""

    ipv4: int = 24
    ipv6: int = 64


class ProxySpec(Value, frozen=True):
    """How Services reach their endpoints.

    mode                  "nftables", "iptables", "userspace", "ipvs", or "none": something else does it
    masquerade_all        cluster addresses too are left with the node's own address as source, always
    node_port_addresses   CIDRs of the node's addresses that serve NodePorts; () means all of them, localhost included,
                          and so does none of a family for that family; "primary" is the Node object's own InternalIPs
    service_cidrs         the ranges of cluster addresses: traffic to those that no Service has is refused
    source_ranges_for_all loadBalancerSourceRanges hold for NodePorts and externalIPs as well
    """

    mode: str = "nftables"
    masquerade_all: bool = False
    node_port_addresses: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = msgspec.field(default=(), name="serviceCIDRs")
    source_ranges_for_all: bool = False


class DnsSpec(Value, frozen=True):
    """How pods find names.

    domain           the cluster's, under which Services have their names
    service          namespace/name of the Service behind which the cluster's DNS servers are
    node_local       a cache on each node answers at that Service's address, and at `local_addresses`
    local_addresses  of the cache, one for each family; the address after each is used too
    rate_limit       queries a second that each pod may ask, beyond which they are dropped on its node; 0: any number
    """

    domain: str = "cluster.local"
    service: str = "kube-system/kube-dns"
    node_local: bool = False
    local_addresses: tuple[str, ...] = ("169.254.20.10", "fd00:169:254:20::10")
    rate_limit: int = 2000


class NetworkSpec(Value, frozen=True):
    """Cluster-wide network settings.

    pod_cidrs    the cluster's ranges, at most one per family, from which every node gets its own
    backend      `{"type": "vxlan", ...options}`
    attachment   "bridge" (cni0 style) or "ptp" (a /32 and proxy ARP, Calico style)
    masquerade   pods leave the cluster with their node's address
    proxy        how Services are made
    dns          how pods find names
    mtu          bytes of a pod's interface; 0 derives it from the uplink and the backend
    """

    pod_cidrs: tuple[str, ...] = msgspec.field(default=("10.244.0.0/16",), name="podCIDRs")
    node_mask: NodeMask = NodeMask()
    backend: dict[str, str | int | bool] = msgspec.field(default_factory=lambda: {"type": "vxlan"})
    attachment: str = "ptp"
    masquerade: bool = True
    proxy: ProxySpec = ProxySpec()
    dns: DnsSpec = DnsSpec()
    mtu: int = 0


class NetworkConfig(Object, frozen=True):
    """The cluster's network configuration (podnet.dev/v1)."""

    spec: NetworkSpec = NetworkSpec()


class RouteBackend(Value, frozen=True):
    """Endpoints whose pods bear these labels, and their share beside the other backends of the same list."""

    selector: dict[str, str] = {}
    weight: int = 1


class RouteSegment(Value, frozen=True):
    """Clients with addresses in these CIDRs, and where they go."""

    sources: tuple[str, ...] = msgspec.field(default=(), name="from")
    backends: tuple[RouteBackend, ...] = ()


class ServiceRouteSpec(Value, frozen=True):
    """How the clients of one Service of the same namespace are split.

    segments   the first list of CIDRs that holds a client's address decides; they may not overlap
    default    where everybody else goes; (): to all endpoints of the Service
    """

    service: str = ""
    segments: tuple[RouteSegment, ...] = ()
    default: tuple[RouteBackend, ...] = ()


class ServiceRouteStatus(Value, frozen=True):
    """Whether a route can be honoured (network/conditions.py)."""

    conditions: tuple[Condition, ...] = ()


class ServiceRoute(Object, frozen=True):
    """Splits one Service by client, by weight, or both (podnet.dev/v1)."""

    spec: ServiceRouteSpec = ServiceRouteSpec()
    status: ServiceRouteStatus = ServiceRouteStatus()
