"""What kube-proxy tells load balancers of this node: whether it serves, and how many endpoints a Service has here.

Two questions. At a Service's healthCheckNodePort a load balancer asks whether to send its traffic to this node: yes
while a ready endpoint is here; one that is terminating still serves, but attracts nobody new. At port 10256 it asks
whether the node's proxy works: yes unless a change has waited longer than PATIENCE to reach the kernel. `/healthz` also
says no for a node that is about to go, so that connections drain from it; `/livez` does not, since restarting the proxy
would not help. Times are seconds since the epoch and come as arguments.
Source: k8s.io/kubernetes pkg/proxy/healthcheck/{service_health,proxy_health}.go, KEP-3836.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from podnet.network.proxy.service_ports import PROXY_NAME
from podnet.network.service_port import Place
from podnet.network.value import Value
from podnet.network.view import HealthCheck
from podnet.objects.core import Node
from podnet.objects.network import NetworkSpec
from podnet.objects.services import CHANGE_TIME, HEADLESS, EndpointSlice, Service

PATIENCE = 60.0
"""Twice kube-proxy's default syncPeriod."""

LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"
_JSON = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}


class Progress(Value, frozen=True):
    """`waiting`: since when the oldest change has not reached the kernel, None when all have; `updated`: when the
    last one did, 0 before the first."""

    waiting: float | None = None
    updated: float = 0.0

    def healthy(self, now: float, patience: float = PATIENCE) -> bool:
        """Whether changes reach the kernel."""
        return self.waiting is None or now - self.waiting < patience


class Answer(Value, frozen=True):
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: str


def health_port(service: Service) -> int:
    """The node port at which a Service's health check is asked; 0 when it has none."""
    spec = service.spec
    asked = spec.type == "LoadBalancer" and spec.external_traffic_policy == "Local"
    return spec.health_check_node_port if asked and PROXY_NAME not in service.metadata.labels else 0


def health_check(service: Service, slices: Iterable[EndpointSlice], place: Place) -> HealthCheck | None:
    """The health check of a Service, None when it has none."""
    meta, port = service.metadata, health_port(service)
    if not port:
        return None
    here = {
        entry.addresses[0]
        for piece in slices
        if HEADLESS not in piece.metadata.labels
        for entry in piece.endpoints
        if entry.addresses and entry.node_name == place.node and entry.conditions.ready is not False
    }
    return HealthCheck(meta.namespace, meta.name, port, len(here))


def answer(check: HealthCheck, healthy: bool) -> Answer:
    """What a load balancer is told; `healthy`: whether the proxy works."""
    body = {
        "service": {"namespace": check.namespace, "name": check.service},
        "localEndpoints": check.endpoints,
        "serviceProxyHealthy": healthy,
    }
    weight = {"X-Load-Balancing-Endpoint-Weight": str(check.endpoints)}
    return Answer(200 if check.endpoints and healthy else 503, _JSON | weight, _json(body))


def healthz(progress: Progress, now: float, eligible: bool) -> Answer:
    """Whether load balancers should use this node."""
    healthy = progress.healthy(now)
    body = _times(progress, healthy and eligible, now) | {"nodeEligible": eligible}
    return Answer(200 if healthy and eligible else 503, _JSON, _json(body))


def livez(progress: Progress, now: float) -> Answer:
    """Whether the proxy works."""
    healthy = progress.healthy(now)
    return Answer(200 if healthy else 503, _JSON, _json(_times(progress, healthy, now)))


def eligible(node: Node | None) -> bool:
    """Whether load balancers may count on a node: not when it is being deleted, or about to be."""
    if node is None:
        return True
    going = node.metadata.deletion_timestamp is not None
    return not going and all(taint.key != LEAVING_TAINT for taint in node.spec.taints)


def trigger_time(piece: EndpointSlice) -> float | None:
    """When the change happened that a slice's newest version tells of; None when it does not say."""
    text = piece.metadata.annotations.get(CHANGE_TIME, "")
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def configz(network: NetworkSpec, node: str) -> dict[str, object]:
    """The settings in kube-proxy's own words (kubeproxy.config.k8s.io/v1alpha1), as far as they exist here."""
    proxy = network.proxy
    return {
        "kubeproxy.config.k8s.io": {
            "mode": proxy.mode,
            "hostnameOverride": node,
            "clusterCIDR": ",".join(network.pod_cidrs),
            "detectLocalMode": "ClusterCIDR",
            "nodePortAddresses": list(proxy.node_port_addresses),
            "iptables": {"masqueradeAll": proxy.masquerade_all},
            "nftables": {"masqueradeAll": proxy.masquerade_all},
        }
    }


def _times(progress: Progress, healthy: bool, now: float) -> dict[str, object]:
    """As upstream, `lastUpdated` of an answer that says yes is now: nothing newer is missing."""
    return {"lastUpdated": _time(now if healthy else progress.updated), "currentTime": _time(now)}


def _time(seconds: float) -> str:
    """Go's way to print a time."""
    when = datetime.fromtimestamp(seconds, UTC)
    fraction = f".{when.microsecond:06}".rstrip("0").rstrip(".")
    return f"{when:%Y-%m-%d %H:%M:%S}{fraction} +0000 UTC"


def _json(body: object) -> str:
    return msgspec.json.encode(body).decode()
