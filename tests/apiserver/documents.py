"""Documents that are right, to be made wrong one field at a time."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

Document = dict[str, Any]

NOW = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
UID = "00000000-0000-4000-8000-000000000001"


def meta(name: str, namespace: str = "default", **more: Any) -> Document:
    return {"name": name, **({"namespace": namespace} if namespace else {}), **more}


def pod(name: str = "web", namespace: str = "default", **spec: Any) -> Document:
    container = {"name": "main", "image": "nginx:1", "ports": [{"containerPort": 80, "name": "http"}]}
    complete = {"containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta(name, namespace), "spec": complete}


def node(name: str = "n1", ready: bool = True, **spec: Any) -> Document:
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": meta(name, ""), "spec": spec,
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        },
    }  # fmt: skip


def service(name: str = "web", **spec: Any) -> Document:
    base = {"selector": {"app": "web"}, "ports": [{"port": 80, "name": "http"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta(name), "spec": {**base, **spec}}


def config_map(name: str = "settings", namespace: str = "default", **data: str) -> Document:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(name, namespace), "data": data}


def secret(name: str = "key", **fields: Any) -> Document:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta(name), "type": "Opaque", **fields}


def namespace(name: str = "team") -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta(name, "")}


def lease(name: str = "n1", **spec: Any) -> Document:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": meta(name, "kube-node-lease"),
        "spec": spec,
    }


def event(name: str = "e", **fields: Any) -> Document:
    about = {"kind": "Pod", "name": "web", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Event", "metadata": meta(name), "involvedObject": about, **fields}


def endpoint_slice(name: str = "web-1", **fields: Any) -> Document:
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta(name), "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.5"]}], "ports": [{"name": "http", "port": 80}], **fields,
    }  # fmt: skip


def endpoints(name: str = "web", **subset: Any) -> Document:
    subset = {"addresses": [{"ip": "10.244.0.5"}], "ports": [{"name": "http", "port": 80}], **subset}
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta(name), "subsets": [subset]}


def service_route(name: str = "split", **spec: Any) -> Document:
    complete = {
        "service": "web",
        "segments": [{"from": ["10.1.0.0/16"], "backends": [{"selector": {"v": "2"}}]}],
        **spec,
    }
    return {"apiVersion": "podnet.dev/v1", "kind": "ServiceRoute", "metadata": meta(name), "spec": complete}


def external_pods(name: str = "registry", **spec: Any) -> Document:
    complete = {"selector": {"app": "web"}, "ports": [{"name": "rpc", "containerPort": 20880}], **spec}
    return {"apiVersion": "podnet.dev/v1", "kind": "ExternalPods", "metadata": meta(name), "spec": complete}


def debug_port(name: str = "web-80-tcp", **spec: Any) -> Document:
    complete = {"pod": "web", "port": 80, **spec}
    return {"apiVersion": "podnet.dev/v1", "kind": "DebugPort", "metadata": meta(name), "spec": complete}


def network_config(**spec: Any) -> Document:
    complete = {"podCIDRs": ["10.244.0.0/16"], "backend": {"type": "vxlan"}, **spec}
    metadata = meta("default", "")
    return {"apiVersion": "podnet.dev/v1", "kind": "NetworkConfig", "metadata": metadata, "spec": complete}


def at(document: Document, path: str, value: Any) -> Document:
    """A copy with the field at `path` (dots and numbers) set to `value`."""
    changed = copy.deepcopy(document)
    parents: list[Any] = [int(part) if part.isdigit() else part for part in path.split(".")]
    last = parents.pop()
    place: Any = changed
    for part in parents:
        place = place[part] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value
    return changed
