"""The fields of a Service that hang together: what a change leaves out stays, what a new type can't have goes.

A user may send again the manifest from before anything was allocated, and gets to keep what was allocated; and who only
changes the type need not clean up behind the old one. A field that the user changed in the same breath is left alone,
and validation has its say. Specs here are decoded JSON, since the document itself is what is stored.
Source: k8s.io/kubernetes pkg/registry/core/service: patchAllocatedValues, normalizeClusterIPs, dropTypeDependentFields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = dict[str, Any]
Spec = dict[str, Any]


def needs_node_ports(type_: str) -> bool:
    """Whether nodes serve this type of Service on ports of their own."""
    return type_ in ("NodePort", "LoadBalancer")


def needs_health_check(type_: str, external_policy: str) -> bool:
    """Whether a load balancer has to be told which nodes have endpoints."""
    return type_ == "LoadBalancer" and external_policy == "Local"


def reachable_from_outside(type_: str, external_ips: Sequence[str]) -> bool:
    """Whether traffic from outside the cluster has a way in, so that a policy for it means anything."""
    return needs_node_ports(type_) or (type_ == "ClusterIP" and bool(external_ips))


def type_of(spec: Mapping[str, Any]) -> str:
    """Its type; ClusterIP when not said."""
    return spec.get("type") or "ClusterIP"


def checked(spec: Mapping[str, Any]) -> bool:
    """Whether it has a health check node port."""
    return needs_health_check(type_of(spec), spec.get("externalTrafficPolicy", ""))


def outside(spec: Mapping[str, Any]) -> bool:
    """Whether it has a policy for traffic from outside."""
    return reachable_from_outside(type_of(spec), spec.get("externalIPs", ()))


def node_ports(spec: Mapping[str, Any]) -> set[int]:
    """The node ports of its ports."""
    return {port["nodePort"] for port in spec.get("ports", ()) if port.get("nodePort")}


# What stays ----------------------------------------------------------------------------------------------------------


def keep(new: Spec, old: Spec | None) -> None:
    """Put back into `new` what was allocated for `old` and isn't mentioned; make clusterIP and clusterIPs agree."""
    if old is None:
        if new.get("clusterIP") and not new.get("clusterIPs"):
            new["clusterIPs"] = [new["clusterIP"]]
        return
    if "ExternalName" not in (type_of(new), type_of(old)):
        _keep(new, old, "clusterIP")
        _keep(new, old, "clusterIPs")
    if needs_node_ports(type_of(new)) and needs_node_ports(type_of(old)):
        _keep_node_ports(new, old)
    if checked(new) and checked(old):
        _keep(new, old, "healthCheckNodePort")
    _agree(new, old)


def _keep(new: Spec, old: Spec, name: str) -> None:
    if not new.get(name) and old.get(name):
        new[name] = old[name]


def _keep_node_ports(new: Spec, old: Spec) -> None:
    """By the port's name, unless another port has the number now."""
    used = node_ports(new)
    known = {port.get("name", ""): port.get("nodePort") for port in old.get("ports", ())}
    for port in new.get("ports", ()):
        number = known.get(port.get("name", ""))
        if not port.get("nodePort") and number and number not in used:
            port["nodePort"] = number


def _agree(new: Spec, old: Spec) -> None:
    """Clients from before clusterIPs change clusterIP alone."""
    single, before = new.get("clusterIP", ""), old.get("clusterIP", "")
    if single == before:
        if not new.get("clusterIPs"):
            _keep(new, old, "clusterIPs")
    elif _same(new, old, "clusterIPs"):
        new["clusterIPs"] = [single] if single else []


def _same(new: Spec, old: Spec, name: str) -> bool:
    """Whether a field stays; empty and absent are one."""
    return (new.get(name) or None) == (old.get(name) or None)


# What goes -----------------------------------------------------------------------------------------------------------


def drop(document: Document, old: Spec) -> None:
    """Take out of a changed Service what its new type can't have and the user did not touch."""
    new: Spec = document["spec"]
    if type_of(new) == "ExternalName" != type_of(old):
        if _same(new, old, "clusterIP") and _same(new, old, "clusterIPs"):
            _remove(new, "clusterIP", "clusterIPs")
        _remove_same(new, old, "ipFamilies", "ipFamilyPolicy")
    if needs_node_ports(type_of(old)) and not needs_node_ports(type_of(new)) and node_ports(new) <= node_ports(old):
        for port in new.get("ports", ()):
            _remove(port, "nodePort")
    if checked(old) and not checked(new):
        _remove_same(new, old, "healthCheckNodePort")
    if type_of(old) == "LoadBalancer" != type_of(new):
        _remove_same(new, old, "allocateLoadBalancerNodePorts", "loadBalancerClass")
    if outside(old) and not outside(new):
        _remove_same(new, old, "externalTrafficPolicy")
    if type_of(new) != "LoadBalancer" and "status" in document:
        document["status"] = {**document["status"], "loadBalancer": {}}


def _remove(spec: Spec, *names: str) -> None:
    for name in names:
        spec.pop(name, None)


def _remove_same(new: Spec, old: Spec, *names: str) -> None:
    _remove(new, *(name for name in names if new.get(name) == old.get(name)))
