"""What upstream fills in when a user leaves it out. Defaults are written into the document, so every reader sees them.
They run on documents whose types were checked (validation.shape).
Source: k8s.io/kubernetes pkg/apis/core/v1/defaults.go; podnet's own defaults come from the NetworkConfig structs.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping

import msgspec

from podnet.apiserver.status import Document
from podnet.network.controllers.service_fields import outside
from podnet.objects.leases import DEBUG_SECONDS
from podnet.objects.network import NetworkSpec

AFFINITY_SECONDS = 10800


def namespace(document: Document) -> None:
    """The label by which policies select a namespace, and the finalizer that empties it."""
    metadata = document["metadata"]
    metadata.setdefault("labels", {}).setdefault("kubernetes.io/metadata.name", metadata.get("name", ""))
    document.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    document.setdefault("status", {}).setdefault("phase", "Active")


def node(document: Document) -> None:
    """podCIDR and podCIDRs are two spellings of one thing."""
    spec = document.setdefault("spec", {})
    if spec.get("podCIDR") and not spec.get("podCIDRs"):
        spec["podCIDRs"] = [spec["podCIDR"]]
    elif spec.get("podCIDRs"):
        spec["podCIDR"] = spec["podCIDRs"][0]


def pod(document: Document) -> None:
    """Everything a kubelet must not have to guess."""
    spec = document.setdefault("spec", {})
    for name, value in _POD.items():
        spec.setdefault(name, value)
    spec.setdefault("securityContext", {})
    for container in _containers(spec):
        _container(container, bool(spec.get("hostNetwork")))
    status = document.setdefault("status", {})
    status.setdefault("phase", "Pending")
    status.setdefault("qosClass", _quality(spec))


_POD: Mapping[str, object] = {
    "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler", "enableServiceLinks": True,
}  # fmt: skip
_PROBE: Mapping[str, int] = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}


def _containers(spec: Document) -> Iterator[Document]:
    for name in ("initContainers", "containers"):
        yield from spec.get(name) or ()


def _container(container: Document, host_network: bool) -> None:
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    image = container.get("image", "")
    latest = image.endswith(":latest") or ":" not in image.rpartition("/")[2]
    container.setdefault("imagePullPolicy", "Always" if latest and "@" not in image else "IfNotPresent")
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
        if host_network and "containerPort" in port:
            port.setdefault("hostPort", port["containerPort"])
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if name in container:
            _probe(container[name])


def _probe(probe: Document) -> None:
    for name, value in _PROBE.items():
        probe.setdefault(name, value)
    if "httpGet" in probe:
        probe["httpGet"].setdefault("path", "/")
        probe["httpGet"].setdefault("scheme", "HTTP")


def _quality(spec: Document) -> str:
    resources = [container.get("resources") or {} for container in _containers(spec)]
    if not any(resources):
        return "BestEffort"
    limits = [wish.get("limits", {}) for wish in resources]
    exact = all({"cpu", "memory"} <= set(limit) for limit in limits)
    same = all(wish.get("requests", limit) == limit for wish, limit in zip(resources, limits, strict=True))
    return "Guaranteed" if exact and same else "Burstable"


def service(document: Document) -> None:
    """Type, affinity and policies, and what every port has; addresses and node ports are given out elsewhere."""
    spec = document.setdefault("spec", {})
    _missing(spec, "type", "ClusterIP")
    _affinity(spec)
    for port in spec.get("ports", ()):
        _missing(port, "protocol", "TCP")
        if "port" in port:
            _missing(port, "targetPort", port["port"])
    if spec["type"] in ("ClusterIP", "NodePort", "LoadBalancer"):
        _missing(spec, "internalTrafficPolicy", "Cluster")
    if outside(spec):
        _missing(spec, "externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    ingress = document.setdefault("status", {}).setdefault("loadBalancer", {}).get("ingress", ())
    for item in filter(lambda item: item.get("ip"), ingress):
        item.setdefault("ipMode", "VIP")


def _missing(document: Document, name: str, value: object) -> None:
    """A default that also stands in for 0 and ""."""
    if document.get(name) in (None, "", 0):
        document[name] = value


def _affinity(spec: Document) -> None:
    _missing(spec, "sessionAffinity", "None")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        config.setdefault("timeoutSeconds", AFFINITY_SECONDS)


def secret(document: Document) -> None:
    """stringData is write-only: it becomes data."""
    document.setdefault("type", "Opaque")
    for key, value in document.pop("stringData", {}).items():
        document.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()


def endpoint_slice(document: Document) -> None:
    """Names and protocols of ports; endpoints are ready unless said otherwise."""
    for port in document.get("ports", ()):
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def endpoints(document: Document) -> None:
    """Protocols of ports."""
    for subset in document.get("subsets", ()):
        for port in subset.get("ports", ()):
            _missing(port, "protocol", "TCP")


def network_config(document: Document) -> None:
    """A NetworkConfig shows every setting that is in force."""
    spec = document.setdefault("spec", {})
    _fill(spec, NetworkSpec())
    spec["backend"].setdefault("type", "vxlan")


def external_pods(document: Document) -> None:
    """The node's own address, and protocols of ports."""
    spec = document.setdefault("spec", {})
    _missing(spec, "address", "node")
    for port in spec.get("ports", ()):
        _missing(port, "protocol", "TCP")


def debug_port(document: Document) -> None:
    """TCP, for half an hour."""
    spec = document.setdefault("spec", {})
    _missing(spec, "protocol", "TCP")
    spec.setdefault("seconds", DEBUG_SECONDS)


def _fill(document: Document, default: msgspec.Struct) -> None:
    for field in msgspec.structs.fields(default):
        value = getattr(default, field.name)
        if isinstance(value, msgspec.Struct):
            _fill(document.setdefault(field.encode_name, {}), value)
        else:
            document.setdefault(field.encode_name, msgspec.to_builtins(value))


DEFAULTS: Mapping[str, Callable[[Document], None]] = {
    "Namespace": namespace,
    "Node": node,
    "Pod": pod,
    "Service": service,
    "Secret": secret,
    "EndpointSlice": endpoint_slice,
    "Endpoints": endpoints,
    "NetworkConfig": network_config,
    "ExternalPods": external_pods,
    "DebugPort": debug_port,
}
