"""What holds for a Service by itself. What it may become is in service_update.py; addresses and node ports are given
out before this is asked (allocation.py), so an object that is judged here is complete.

Source: k8s.io/kubernetes pkg/apis/core/validation (ValidateService), with its words.
"""

from __future__ import annotations

import ipaddress

from podnet.apiserver.validation import rules
from podnet.apiserver.validation.pod import PROTOCOLS
from podnet.apiserver.validation.rules import Causes, duplicate, forbidden, required, unsupported, wrong
from podnet.network.controllers.service_fields import needs_health_check, reachable_from_outside
from podnet.objects.services import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)

TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
FAMILIES = ("IPv4", "IPv6")
FAMILY_POLICIES = ("SingleStack", "PreferDualStack", "RequireDualStack")
DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")
AFFINITY_SECONDS = 86400
KUBELET_PORT = 10250
SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"
TOPOLOGY_HINTS = "service.kubernetes.io/topology-aware-hints"
TOPOLOGY_MODE = "service.kubernetes.io/topology-mode"
ONLY_LOAD_BALANCER = "may only be used when `type` is 'LoadBalancer'"


class SpecForm(ServiceSpec, frozen=True):
    """A spec as validated: here it matters whether a policy was given."""

    internal_traffic_policy: str = ""
    external_traffic_policy: str = ""


class IngressForm(LoadBalancerIngress, frozen=True):
    """An ingress as validated: here it matters whether a mode was given."""

    ip_mode: str = ""


class LoadBalancerForm(LoadBalancerStatus, frozen=True):
    """A load balancer's status as validated."""

    ingress: tuple[IngressForm, ...] = ()


class StatusForm(ServiceStatus, frozen=True):
    """A Service's status as validated."""

    load_balancer: LoadBalancerForm = LoadBalancerForm()


class ServiceForm(Service, frozen=True):
    """A Service as validated."""

    spec: SpecForm = SpecForm()
    status: StatusForm = StatusForm()


def headless(spec: ServiceSpec) -> bool:
    """Whether it has no address of its own, on purpose."""
    return spec.cluster_ips == ("None",)


def service(new: ServiceForm) -> Causes:
    """A whole Service."""
    spec, annotations = new.spec, new.metadata.annotations
    yield from _topology(annotations)
    yield from rules.one_of("spec.type", spec.type, TYPES)
    yield from _for_type(spec)
    yield from _ports(spec)
    yield from rules.labels("spec.selector", spec.selector)
    yield from _affinity(spec)
    yield from cluster_ips(spec)
    for index, address in enumerate(spec.external_ips):
        yield from rules.plain_address(f"spec.externalIPs[{index}]", address)
    yield from _source_ranges(spec, annotations)
    yield from _load_balancer(spec)
    yield from _traffic(spec)
    yield from _status(new)


def _topology(annotations: dict[str, str]) -> Causes:
    mode, hints = annotations.get(TOPOLOGY_MODE), annotations.get(TOPOLOGY_HINTS)
    if mode is not None and hints is not None and mode != hints:
        field = f"metadata.annotations[{TOPOLOGY_MODE}]"
        yield wrong(field, mode, f"must match annotations[{TOPOLOGY_HINTS}] when both are specified")


def _for_type(spec: SpecForm) -> Causes:
    if spec.type == "ExternalName":
        yield from _external_name(spec)
    elif not spec.ports and not headless(spec):
        yield required("spec.ports")
    if spec.type in ("NodePort", "LoadBalancer") and headless(spec):
        yield wrong("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {spec.type} services")


def _external_name(spec: SpecForm) -> Causes:
    given = (
        ("clusterIPs", spec.cluster_ips),
        ("ipFamilies", spec.ip_families),
        ("ipFamilyPolicy", spec.ip_family_policy),
    )
    for name, value in given:
        if value:
            yield forbidden(f"spec.{name}", "may not be set for ExternalName services")
    name = spec.external_name.removesuffix(".")
    yield from rules.dns_subdomain("spec.externalName", name) if name else [required("spec.externalName")]


# Ports ---------------------------------------------------------------------------------------------------------------


def _ports(spec: SpecForm) -> Causes:
    for index, port in enumerate(spec.ports):
        yield from _port(f"spec.ports[{index}]", port, need_name=len(spec.ports) > 1)
        if spec.type == "ClusterIP" and port.node_port:
            yield forbidden(f"spec.ports[{index}].nodePort", "may not be used when `type` is 'ClusterIP'")
        if spec.type == "LoadBalancer" and port.port == KUBELET_PORT:
            why = f"may not expose port {KUBELET_PORT} externally since it is used by kubelet"
            yield wrong(f"spec.ports[{index}]", port.port, why)
    yield from rules.unique("spec.ports[{}].name", (port.name for port in spec.ports))
    yield from _repeated("spec.ports[{}].nodePort", [(port.protocol, port.node_port) for port in spec.ports])
    yield from _repeated("spec.ports[{}]", [(port.protocol, port.port) for port in spec.ports])


def _repeated(field: str, pairs: list[tuple[str, int]]) -> Causes:
    for index, (protocol, number) in enumerate(pairs):
        if number and pairs.index((protocol, number)) < index:
            whole = {"protocol": protocol, "port": number}
            yield duplicate(field.format(index), number if field.endswith("nodePort") else whole)


def _port(field: str, port: ServicePort, need_name: bool) -> Causes:
    if port.name:
        yield from rules.dns_label(f"{field}.name", port.name)
    elif need_name:
        yield required(f"{field}.name")
    yield from rules.port(f"{field}.port", port.port)
    yield from rules.one_of(f"{field}.protocol", port.protocol, PROTOCOLS)
    if isinstance(port.target_port, str):
        yield from rules.port_name(f"{field}.targetPort", port.target_port)
    else:
        yield from rules.port(f"{field}.targetPort", port.target_port)
    if port.app_protocol is not None:
        yield from rules.qualified_name(f"{field}.appProtocol", port.app_protocol)


# Affinity, addresses -------------------------------------------------------------------------------------------------


def _affinity(spec: SpecForm) -> Causes:
    yield from rules.one_of("spec.sessionAffinity", spec.session_affinity, ("ClientIP", "None"))
    config, field = spec.session_affinity_config, "spec.sessionAffinityConfig"
    if spec.session_affinity == "None" and config is not None:
        yield forbidden(field, "must not be set when session affinity is None")
    if spec.session_affinity != "ClientIP":
        return
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    if seconds is None:
        yield required(field, "when session affinity type is ClientIP")
    elif not 0 < seconds <= AFFINITY_SECONDS:
        why = f"must be greater than 0 and less than {AFFINITY_SECONDS}"
        yield wrong(f"{field}.clientIP.timeoutSeconds", seconds, why)


def cluster_ips(spec: ServiceSpec) -> Causes:
    """clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy say one thing; also asked before anything is allocated."""
    if spec.type == "ExternalName":
        return
    field, shown = "spec.clusterIPs", list(spec.cluster_ips)
    if spec.cluster_ip and not shown:
        yield required(field)
    elif spec.cluster_ip and shown[0] != spec.cluster_ip:
        yield wrong(field, shown, "first value must match `clusterIP`")
    elif not spec.cluster_ip and shown:
        yield wrong(field, shown, "must be empty when `clusterIP` is not specified")
    for index, family in enumerate(spec.ip_families):
        if family not in FAMILIES:
            yield unsupported(f"spec.ipFamilies[{index}]", family, FAMILIES)
    yield from rules.unique("spec.ipFamilies[{}]", spec.ip_families)
    if spec.ip_family_policy is not None and spec.ip_family_policy not in FAMILY_POLICIES:
        yield unsupported("spec.ipFamilyPolicy", spec.ip_family_policy, FAMILY_POLICIES)
    yield from _addresses(spec)


def _addresses(spec: ServiceSpec) -> Causes:
    field, shown = "spec.clusterIPs", list(spec.cluster_ips)
    if len(shown) > 2:
        yield wrong(field, shown, "may only hold up to 2 values")
    if shown[:1] == ["None"]:
        if len(shown) > 1:
            yield wrong(field, shown, "'None' must be the first and only value")
        return
    causes = [cause for index, value in enumerate(shown) for cause in rules.address(f"{field}[{index}]", value)]
    yield from causes
    if causes:
        return
    families = [f"IPv{ipaddress.ip_address(value).version}" for value in shown]
    if len(set(families)) < len(families):
        yield wrong(field, shown, "may specify no more than one IP for each IP family")
    for index, (family, expected) in enumerate(zip(families, spec.ip_families, strict=False)):
        if family != expected and expected in FAMILIES:
            why = f"expected an {expected} value as indicated by `ipFamilies[{index}]`"
            yield wrong(f"{field}[{index}]", shown[index], why)


# Traffic from outside ------------------------------------------------------------------------------------------------


def _source_ranges(spec: SpecForm, annotations: dict[str, str]) -> Causes:
    """The field, or in its absence the annotation from before there was a field; both may be padded with spaces."""
    if spec.load_balancer_source_ranges:
        field, values = "spec.LoadBalancerSourceRanges", spec.load_balancer_source_ranges
        places = [f"{field}[{index}]" for index in range(len(values))]
    elif SOURCE_RANGES in annotations:
        field, text = f"metadata.annotations[{SOURCE_RANGES}]", annotations[SOURCE_RANGES].strip()
        values = tuple(text.split(",")) if text else ()
        places = [field] * len(values)
    else:
        return
    if spec.type != "LoadBalancer":
        yield forbidden(field, ONLY_LOAD_BALANCER)
    for place, value in zip(places, values, strict=True):
        yield from rules.cidr(place, value.strip())


def _load_balancer(spec: SpecForm) -> Causes:
    if spec.type == "LoadBalancer":
        if spec.load_balancer_class is not None:
            yield from rules.qualified_name("spec.loadBalancerClass", spec.load_balancer_class)
        return
    if spec.allocate_load_balancer_node_ports is not None:
        yield forbidden("spec.allocateLoadBalancerNodePorts", ONLY_LOAD_BALANCER)
    if spec.load_balancer_class is not None:
        yield forbidden("spec.loadBalancerClass", ONLY_LOAD_BALANCER)


def _traffic(spec: SpecForm) -> Causes:
    policies, external = ("Cluster", "Local"), spec.external_traffic_policy
    if reachable_from_outside(spec.type, spec.external_ips):
        yield from rules.one_of("spec.externalTrafficPolicy", external, policies)
    elif external:
        yield wrong("spec.externalTrafficPolicy", external, "may only be set for externally-accessible services")
    if spec.internal_traffic_policy or spec.type != "ExternalName":
        yield from rules.one_of("spec.internalTrafficPolicy", spec.internal_traffic_policy, policies)
    if needs_health_check(spec.type, spec.external_traffic_policy):
        yield from rules.port("spec.healthCheckNodePort", spec.health_check_node_port)
    elif spec.health_check_node_port:
        why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield wrong("spec.healthCheckNodePort", spec.health_check_node_port, why)
    if spec.traffic_distribution is not None and spec.traffic_distribution not in DISTRIBUTIONS:
        yield unsupported("spec.trafficDistribution", spec.traffic_distribution, DISTRIBUTIONS)


def _status(new: ServiceForm) -> Causes:
    field, ingress = "status.loadBalancer.ingress", new.status.load_balancer.ingress
    if ingress and new.spec.type != "LoadBalancer":
        yield forbidden(field, "may only be used when `spec.type` is 'LoadBalancer'")
        return
    for index, item in enumerate(ingress):
        yield from _ingress(f"{field}[{index}]", item)


def _ingress(field: str, item: IngressForm) -> Causes:
    if item.ip:
        yield from rules.address(f"{field}.ip", item.ip)
        yield from rules.one_of(f"{field}.ipMode", item.ip_mode, ("VIP", "Proxy"))
    elif item.ip_mode:
        yield forbidden(f"{field}.ipMode", "may not be specified when `ip` is not set")
    if item.hostname:
        yield from rules.dns_subdomain(f"{field}.hostname", item.hostname)
        if not any(rules.address("", item.hostname)):
            yield wrong(f"{field}.hostname", item.hostname, "must be a DNS name, not an IP address")
