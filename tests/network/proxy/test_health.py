"""What load balancers are told of Services and of the node."""

from __future__ import annotations

import json

import msgspec
import pytest

from podnet.network.proxy import health
from podnet.network.proxy.health import Progress
from podnet.network.service_port import Place
from podnet.network.view import HealthCheck
from podnet.objects.core import Node, NodeSpec, Taint
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import NetworkSpec, ProxySpec
from podnet.objects.services import CHANGE_TIME, EndpointConditions, EndpointSlice, Service, ServiceSpec, SliceEndpoint

HERE = Place("node1")
SPEC = ServiceSpec(
    type="LoadBalancer", cluster_ip="10.96.0.1", external_traffic_policy="Local", health_check_node_port=31000
)
SERVICE = Service(metadata=ObjectMeta(name="web", namespace="shop"), spec=SPEC)


def endpoint(address: str, node: str = "node1", **conditions: bool) -> SliceEndpoint:
    return SliceEndpoint((address,), EndpointConditions(**conditions), node_name=node)


def piece(*endpoints: SliceEndpoint, **labels: str) -> EndpointSlice:
    return EndpointSlice(metadata=ObjectMeta(labels=labels), address_type="IPv4", endpoints=endpoints)


def checked(*slices: EndpointSlice) -> int:
    found = health.health_check(SERVICE, slices, HERE)
    assert found
    assert (found.namespace, found.service, found.port) == ("shop", "web", 31000)
    return found.endpoints


def test_ready_endpoints_of_this_node_count_once_each():
    first = piece(endpoint("10.1.0.1"), endpoint("10.1.0.2", ready=True), endpoint("10.1.0.3", "node2"))
    assert checked(first, piece(endpoint("10.1.0.1"))) == 2
    assert checked() == 0


def test_a_terminating_endpoint_attracts_nobody_though_it_serves():
    assert checked(piece(endpoint("10.1.0.1", ready=False, serving=True, terminating=True))) == 0


def test_slices_of_headless_services_do_not_count():
    assert checked(piece(endpoint("10.1.0.1"), **{"service.kubernetes.io/headless": ""})) == 0


@pytest.mark.parametrize(
    "service",
    [
        Service(SERVICE.metadata, msgspec.structs.replace(SPEC, type="NodePort")),
        Service(SERVICE.metadata, msgspec.structs.replace(SPEC, external_traffic_policy="Cluster")),
        Service(SERVICE.metadata, msgspec.structs.replace(SPEC, health_check_node_port=0)),
        Service(ObjectMeta(name="web", labels={"service.kubernetes.io/service-proxy-name": "other"}), SPEC),
    ],
    ids=["node port", "policy Cluster", "no port", "another proxy's"],
)
def test_services_without_a_health_check(service: Service):
    assert health.health_check(service, [piece(endpoint("10.1.0.1"))], HERE) is None


@pytest.mark.parametrize(("count", "healthy", "status"), [(2, True, 200), (0, True, 503), (2, False, 503)])
def test_a_service_is_answered_for_as_upstream_does(count: int, healthy: bool, status: int):
    found = health.answer(HealthCheck("shop", "web", 31000, count), healthy)
    assert found.status == status
    assert found.headers == {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": str(count),
    }
    assert json.loads(found.body) == {
        "service": {"namespace": "shop", "name": "web"},
        "localEndpoints": count,
        "serviceProxyHealthy": healthy,
    }


def test_the_proxy_is_healthy_until_a_change_waits_too_long():
    assert Progress().healthy(1e9)
    assert Progress(waiting=100.0).healthy(159.9)
    assert not Progress(waiting=100.0).healthy(160.0)


def test_healthz_and_livez():
    well, ill = Progress(None, 1000.0), Progress(1000.0, 900.5)
    assert health.healthz(well, 1200.0, True).status == health.livez(well, 1200.0).status == 200
    assert json.loads(health.healthz(well, 1200.0, True).body) == {
        "lastUpdated": "1970-01-01 00:20:00 +0000 UTC",
        "currentTime": "1970-01-01 00:20:00 +0000 UTC",
        "nodeEligible": True,
    }
    found = health.livez(ill, 1200.0)
    assert found.status == health.healthz(ill, 1200.0, True).status == 503
    assert json.loads(found.body) == {
        "lastUpdated": "1970-01-01 00:15:00.5 +0000 UTC",
        "currentTime": "1970-01-01 00:20:00 +0000 UTC",
    }


def test_a_node_that_is_leaving_fails_healthz_but_not_livez():
    found = health.healthz(Progress(), 1.0, False)
    assert (found.status, json.loads(found.body)["nodeEligible"]) == (503, False)
    told = json.loads(health.healthz(Progress(None, 900.0), 1200.0, False).body)["lastUpdated"]
    assert told == "1970-01-01 00:15:00 +0000 UTC", "a no tells when the kernel was last brought up to date"
    assert health.livez(Progress(), 1.0).status == 200


def test_which_nodes_load_balancers_may_count_on():
    assert health.eligible(None)
    assert health.eligible(Node(spec=NodeSpec(taints=(Taint("else", effect="NoSchedule"),))))
    assert not health.eligible(Node(spec=NodeSpec(taints=(Taint("ToBeDeletedByClusterAutoscaler"),))))
    assert not health.eligible(Node(metadata=ObjectMeta(deletion_timestamp="2026-01-01T00:00:00Z")))


@pytest.mark.parametrize(
    ("text", "when"),
    [("1970-01-01T00:16:40Z", 1000.0), ("1970-01-01T00:16:40.25+00:00", 1000.25), ("yesterday", None), ("", None)],
)
def test_when_a_change_happened(text: str, when: float | None):
    annotations = {CHANGE_TIME: text} if text else {}
    assert health.trigger_time(EndpointSlice(metadata=ObjectMeta(annotations=annotations))) == when


def test_the_settings_in_kube_proxys_words():
    network = NetworkSpec(pod_cidrs=("10.1.0.0/16", "fd00::/56"), proxy=ProxySpec(mode="iptables", masquerade_all=True))
    found = health.configz(network, "node1")["kubeproxy.config.k8s.io"]
    assert isinstance(found, dict)
    assert found["mode"] == "iptables"
    assert found["clusterCIDR"] == "10.1.0.0/16,fd00::/56"
    assert found["iptables"] == {"masqueradeAll": True}
