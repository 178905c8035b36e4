"""Services and their endpoints, as far as podnet acts on them.

Source: k8s.io/api/core/v1/types.go and k8s.io/api/discovery/v1/types.go; field meanings and defaults are upstream's.
"""

from __future__ import annotations

import msgspec

from podnet.objects.core import Condition
from podnet.objects.meta import Object, Value


class ServicePort(Value, frozen=True):
    """One port of a Service; `target_port` is a number, or the name of a container port, which each pod resolves."""

    name: str = ""
    protocol: str = "TCP"
    port: int = 0
    target_port: int | str = 0
    node_port: int = 0
    app_protocol: str | None = None


class ClientIPConfig(Value, frozen=True):
    """Seconds for which a client stays with its endpoint after its last new connection."""

    timeout_seconds: int | None = None


class SessionAffinityConfig(Value, frozen=True):
    """Settings of sessionAffinity."""

    client_ip: ClientIPConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(Value, frozen=True):
    """What the user wants of a Service; addresses and node ports are filled in by the API server."""

    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str | None = None
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    external_ips: tuple[str, ...] = msgspec.field(default=(), name="externalIPs")
    external_name: str = ""
    load_balancer_ip: str = msgspec.field(default="", name="loadBalancerIP")
    load_balancer_class: str | None = None
    load_balancer_source_ranges: tuple[str, ...] = ()
    allocate_load_balancer_node_ports: bool | None = None
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: str = "Cluster"
    external_traffic_policy: str = "Cluster"
    health_check_node_port: int = 0
    publish_not_ready_addresses: bool = False
    traffic_distribution: str | None = None


class LoadBalancerIngress(Value, frozen=True):
    """One address at which a load balancer takes traffic; with `ip_mode` Proxy it forwards by itself."""

    ip: str = ""
    hostname: str = ""
    ip_mode: str = "VIP"


class LoadBalancerStatus(Value, frozen=True):
    """What a load balancer says of itself."""

    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Value, frozen=True):
    """What became of a Service."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: tuple[Condition, ...] = ()


class Service(Object, frozen=True):
    """A stable address for a set of pods."""

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class SlicePort(Value, frozen=True):
    """One port of all endpoints of a slice; `port` None stands for every port."""

    name: str = ""
    protocol: str = "TCP"
    port: int | None = None
    app_protocol: str | None = None


class EndpointConditions(Value, frozen=True):
    """None means unknown, which counts as ready and serving, and as not terminating."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(Value, frozen=True):
    """A zone or a node that should use an endpoint."""

    name: str = ""


class EndpointHints(Value, frozen=True):
    """Who should use an endpoint, as the controller suggests."""

    for_zones: tuple[Hint, ...] = ()
    for_nodes: tuple[Hint, ...] = ()


class ObjectReference(Value, frozen=True):
    """What an endpoint is."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class SliceEndpoint(Value, frozen=True):
    """One endpoint; its addresses are exchangeable, and podnet uses the first."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None
    target_ref: ObjectReference | None = None
    hints: EndpointHints | None = None


class EndpointSlice(Object, frozen=True):
    """Some endpoints of the Service named by the label SERVICE_NAME; `address_type` is IPv4, IPv6 or FQDN."""

    address_type: str = ""
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()


SERVICE_NAME = "kubernetes.io/service-name"
"""The label of a slice that names its Service."""

HEADLESS = "service.kubernetes.io/headless"
"""The label of slices that no proxy serves."""

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
"""The label of a slice that says who writes it."""

CONTROLLER = "endpointslice-controller.k8s.io"
"""That is the control plane's own controller; it makes slices of pods that a Service selects."""

CHANGE_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
"""The annotation of a slice that says when what it follows from last changed."""


class EndpointAddress(Value, frozen=True):
    """One address of an Endpoints object."""

    ip: str = ""
    hostname: str = ""
    node_name: str | None = None
    target_ref: ObjectReference | None = None


class EndpointSubset(Value, frozen=True):
    """Addresses that have the same ports."""

    addresses: tuple[EndpointAddress, ...] = ()
    not_ready_addresses: tuple[EndpointAddress, ...] = ()
    ports: tuple[SlicePort, ...] = ()


class Endpoints(Object, frozen=True):
    """The endpoints of the Service of the same name, for clients from before slices."""

    subsets: tuple[EndpointSubset, ...] = ()
