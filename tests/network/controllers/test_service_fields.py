"""What a change of a Service leaves as it was, and what its new type drops."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from podnet.network.controllers.service_fields import drop, keep

Spec = dict[str, Any]
OLD: Spec = {
    "type": "LoadBalancer", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"],
    "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
    "ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30002}],
    "externalTrafficPolicy": "Local", "healthCheckNodePort": 30003, "allocateLoadBalancerNodePorts": True,
    "loadBalancerClass": "a.b/c",
}  # fmt: skip
GIVEN = ("clusterIP", "clusterIPs", "healthCheckNodePort")


def without(spec: Spec, *names: str) -> Spec:
    return {name: copy.deepcopy(value) for name, value in spec.items() if name not in names}


def test_the_manifest_from_before_changes_nothing() -> None:
    new = without(OLD, *GIVEN)
    for port in new["ports"]:
        del port["nodePort"]
    keep(new, OLD)
    assert new == OLD


def test_a_new_service_has_both_spellings_of_its_address() -> None:
    new: Spec = {"clusterIP": "10.96.0.7"}
    keep(new, None)
    assert new == {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"]}
    both: Spec = {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.8"]}
    keep(both, None)
    assert both["clusterIPs"] == ["10.96.0.8"], "validation has its say"


def test_node_ports_go_by_name() -> None:
    ports = [{"name": "b", "port": 91}, {"name": "new", "port": 92}, {"name": "c", "port": 93, "nodePort": 30001}]
    new = {**without(OLD), "ports": [*ports, {"name": "a", "port": 94}]}
    keep(new, OLD)
    assert [port.get("nodePort") for port in new["ports"]] == [30002, None, 30001, None], "a's has gone to c"


def test_an_old_client_changes_cluster_ip_alone() -> None:
    new = {**without(OLD), "clusterIP": "10.96.0.9"}
    keep(new, OLD)
    assert new["clusterIPs"] == ["10.96.0.9"]
    new = {**without(OLD, "clusterIPs"), "clusterIP": "10.96.0.9"}
    keep(new, OLD)
    assert new["clusterIPs"] == ["10.96.0.9"]
    gone = {**without(OLD), "type": "ExternalName", "clusterIP": ""}
    keep(gone, OLD)
    assert not gone["clusterIPs"]


def becoming(change: Spec, old: Spec = OLD) -> tuple[Spec, Spec]:
    """(the fields that went, the new document)."""
    document: Spec = {
        "spec": {**without(old), **change},
        "status": {"loadBalancer": {"ingress": [1]}, "conditions": []},
    }
    before = copy.deepcopy(document["spec"])
    drop(document, old)
    return {name: value for name, value in before.items() if name not in document["spec"]}, document


BALANCER = {"allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"}


@pytest.mark.parametrize(
    ("change", "gone", "node_ports"),
    [
        ({}, set(), True),
        ({"externalTrafficPolicy": "Cluster"}, {"healthCheckNodePort"}, True),
        ({"type": "NodePort"}, BALANCER, True),
        ({"type": "ClusterIP"}, {*BALANCER, "externalTrafficPolicy"}, False),
        ({"type": "ClusterIP", "externalIPs": ["192.0.2.1"]}, BALANCER, False),
        (
            {"type": "ExternalName"},
            {*BALANCER, "externalTrafficPolicy", "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"},
            False,
        ),
    ],
)
def test_what_a_new_type_drops(change: Spec, gone: set[str], node_ports: bool) -> None:
    dropped, document = becoming(change)
    assert set(dropped) == gone
    assert all(("nodePort" in port) == node_ports for port in document["spec"]["ports"])
    stays = document["spec"]["type"] == "LoadBalancer"
    assert document["status"] == {"loadBalancer": {"ingress": [1]} if stays else {}, "conditions": []}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"type": "NodePort", "healthCheckNodePort": 30009}, "healthCheckNodePort"),
        ({"type": "NodePort", "loadBalancerClass": "d.e/f"}, "loadBalancerClass"),
        ({"type": "ClusterIP", "externalTrafficPolicy": "Cluster"}, "externalTrafficPolicy"),
        ({"type": "ExternalName", "clusterIP": "10.96.0.9"}, "clusterIPs"),
        ({"type": "ExternalName", "ipFamilies": ["IPv6"]}, "ipFamilies"),
    ],
)
def test_what_the_user_touched_is_left_to_validation(change: Spec, field: str) -> None:
    dropped, _ = becoming(change)
    assert field not in dropped


def test_a_new_node_port_is_left_to_validation() -> None:
    _, document = becoming({"type": "ClusterIP", "ports": [{"name": "a", "port": 80, "nodePort": 30077}]})
    assert document["spec"]["ports"][0]["nodePort"] == 30077
