"""What ExternalPods and DebugPorts mean to a node: host ports of its pods, which come and go while the pod runs.

A leased port is led like a hostPort (hostports.py): an element of its maps. The API server gives out numbers that
nobody else has; should one be claimed twice all the same (somebody wrote it by hand), the first pod by name has it,
and what a pod's own hostPorts claim goes before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from podnet.network.view import Attachment, PortMapping
from podnet.objects.cluster import Key
from podnet.objects.core import Pod
from podnet.objects.leases import EXTERNAL_ANNOTATION, DebugPort, published

PROTOCOLS = ("tcp", "udp", "sctp")
Leases = Mapping[str, tuple[PortMapping, ...]]
"""By namespace/name of the pod."""


def node_of(pod: Pod) -> str | None:
    """The node on which a pod has external ports; None when it has none."""
    return pod.spec.node_name if EXTERNAL_ANNOTATION in pod.metadata.annotations else None


def leases(pods: Mapping[Key, Pod], debug_ports: Mapping[Key, DebugPort]) -> Leases:
    """The leased ports of each pod; `pods` are those with external ports."""
    found: dict[str, list[PortMapping]] = {}
    taken: set[tuple[int, str]] = set()
    for key, port in sorted((*_external(pods), *_debug(debug_ports)), key=lambda each: (each[0], str(each[1]))):
        claim = (port.host_port, port.protocol)
        if port.protocol in PROTOCOLS and _number(port.host_port) and _number(port.container_port):
            if claim not in taken:
                found.setdefault("/".join(key), []).append(port)
            taken.add(claim)
    return {pod: tuple(ports) for pod, ports in found.items()}


def _external(pods: Mapping[Key, Pod]) -> Iterator[tuple[Key, PortMapping]]:
    for key, pod in pods.items():
        if not pod.spec.host_network:
            for each in published(pod.metadata):
                yield key, PortMapping(each.port, each.container_port, each.protocol.lower())


def _debug(debug_ports: Mapping[Key, DebugPort]) -> Iterator[tuple[Key, PortMapping]]:
    for (namespace, _), each in debug_ports.items():
        if each.metadata.deletion_timestamp is None:
            spec = each.spec
            yield (namespace, spec.pod), PortMapping(spec.node_port, spec.port, spec.protocol.lower())


def _number(port: int) -> bool:
    return 0 < port < 65536


def assign(attachments: Iterable[Attachment], leased: Leases) -> Mapping[tuple[str, str], tuple[PortMapping, ...]]:
    """The leased ports of each attachment: those of its pod, if it is the pod's first interface and its newest."""
    if not leased:
        return {}
    newest = {each.pod: each for each in attachments if each.default_route and not each.ended and each.pod in leased}
    own = {(port.host_port, port.protocol) for each in attachments for port in each.ports}
    found = {}
    for pod, attachment in newest.items():
        free = tuple(port for port in leased[pod] if (port.host_port, port.protocol) not in own)
        found[attachment.id] = leased[pod] if len(free) == len(leased[pod]) else free
    return found


def extended(attachment: Attachment, leased: tuple[PortMapping, ...]) -> Attachment:
    """The attachment as if the leased ports were its own."""
    return msgspec.structs.replace(attachment, ports=attachment.ports + leased) if leased else attachment
