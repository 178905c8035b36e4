"""The variables by which a container finds Services, from the days when there was no DNS: the kubelet's, and Docker's.

They tell of the Services that exist when the container is made: those of the pod's namespace, and `kubernetes` in
`default`, which is told of even where enableServiceLinks is false.
Source: k8s.io/kubernetes pkg/kubelet/envvars, pkg/kubelet/kubelet_pods.go (getServiceEnvVarMap).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from podnet.objects.core import Pod
from podnet.objects.services import Service

MASTER = ("default", "kubernetes")


def variables(pod: Pod, services: Iterable[Service]) -> dict[str, str]:
    """X_SERVICE_HOST, X_SERVICE_PORT, X_PORT_80_TCP and so on, for every Service that the pod is told of."""
    return {name: value for service in _told(pod, services) for name, value in _of(service)}


def _told(pod: Pod, services: Iterable[Service]) -> list[Service]:
    """The Services by name; one of the pod's own namespace goes before the master's of the same name."""
    found: dict[str, Service] = {}
    for service in services:
        own = service.metadata.namespace == pod.metadata.namespace and pod.spec.enable_service_links is not False
        if service.spec.cluster_ip in ("", "None"):
            continue
        if own:
            found[service.metadata.name] = service
        elif service.key == MASTER:
            found.setdefault(service.metadata.name, service)
    return [found[name] for name in sorted(found)]


def _of(service: Service) -> Iterator[tuple[str, str]]:
    name, ip, ports = _upper(service.metadata.name), service.spec.cluster_ip, service.spec.ports
    yield f"{name}_SERVICE_HOST", ip
    if ports:
        yield f"{name}_SERVICE_PORT", str(ports[0].port)
    for port in ports:
        if port.name:
            yield f"{name}_SERVICE_PORT_{_upper(port.name)}", str(port.port)
    host = f"[{ip}]" if ":" in ip else ip
    if ports:
        yield f"{name}_PORT", f"{ports[0].protocol.lower()}://{host}:{ports[0].port}"
    for port in ports:
        link = f"{name}_PORT_{port.port}_{port.protocol}"
        yield link, f"{port.protocol.lower()}://{host}:{port.port}"
        yield f"{link}_PROTO", port.protocol.lower()
        yield f"{link}_PORT", str(port.port)
        yield f"{link}_ADDR", ip


def _upper(name: str) -> str:
    return name.replace("-", "_").upper()
