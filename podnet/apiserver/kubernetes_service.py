"""The Service `kubernetes` in the namespace default: how a pod finds the API server.

Its address is the first of the service range, its only endpoint this very server. There is one server, so keeping the
endpoints right is making them what they should be every few seconds; whoever else stands in them goes. A server that
listens on the loopback only has no address that a pod could use: then the Service has no endpoint.
Source: k8s.io/kubernetes pkg/controlplane/controller/kubernetesservice and pkg/controlplane/reconcilers.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress

from podnet.apiserver.registry import Registry
from podnet.apiserver.status import ApiError, Document
from podnet.network.controllers.service_ips import Range
from podnet.objects.kinds import ENDPOINTS, ENDPOINTSLICES, SERVICES, Kind
from podnet.objects.services import SERVICE_NAME

NAMESPACE, NAME = "default", "kubernetes"
PORT = 443
KEEP_SECONDS = 10.0
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
_FAR = {4: "192.0.2.1", 6: "2001:db8::1"}  # documentation addresses: asked for the way to them, never sent anything
_LOST_RACES = ("Conflict", "NotFound", "AlreadyExists")
Address = tuple[str, int]


def advertised(wish: str, listening: Sequence[Address], version: int) -> Address | None:
    """Where pods reach this server: the wished-for address, else the first that is not the loopback's.

    `listening`: what the sockets are bound to; one that is bound to all addresses stands for that of the way out.
    """
    if wish:
        return wish, listening[0][1]
    for host, port in listening:
        address = ipaddress.ip_address(host.partition("%")[0])
        if address.version != version or address.is_loopback or address.is_link_local:
            continue
        found = _way_out(version) if address.is_unspecified else str(address)
        if found:
            return found, port
    return None


def _way_out(version: int) -> str:
    """This machine's address on the way to the world; "" when there is no way."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((_FAR[version], 9))
        return str(probe.getsockname()[0])
    return ""


def wanted(of: Range, place: Address | None) -> list[tuple[Kind, Document]]:
    """The Service, its slice and its Endpoints; `place` is this server's address, of the range's family."""
    port = {"name": "https", "port": place[1] if place else PORT, "protocol": "TCP"}
    labels = {"component": "apiserver", "provider": "kubernetes"}
    spec = {
        "type": "ClusterIP", "clusterIP": of.first, "clusterIPs": [of.first], "ipFamilies": [of.family],
        "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
        "ports": [{"name": "https", "protocol": "TCP", "port": PORT, "targetPort": port["port"]}],
    }  # fmt: skip
    endpoints = [{"addresses": [place[0]], "conditions": {"ready": True}}] if place else []
    subsets = [{"addresses": [{"ip": place[0]}], "ports": [port]}] if place else []
    return [
        (SERVICES, {"metadata": {"name": NAME, "labels": labels}, "spec": spec}),
        (ENDPOINTSLICES, {
            "metadata": {"name": NAME, "labels": {SERVICE_NAME: NAME}},
            "addressType": of.family, "endpoints": endpoints, "ports": [port],
        }),
        (ENDPOINTS, {"metadata": {"name": NAME, "labels": {SKIP_MIRROR: "true"}}, "subsets": subsets}),
    ]  # fmt: skip


async def ensure(registry: Registry, documents: Sequence[tuple[Kind, Document]]) -> None:
    """Make them so; what is so already is not written. Raises ApiError."""
    for kind, document in documents:
        with suppress(ApiError):
            if _other_kind_of(registry.get(kind, NAMESPACE, NAME).document(), document):
                await registry.delete(kind, NAMESPACE, NAME)
        try:
            await _ensure(registry, kind, document)
        except ApiError as error:
            if error.reason not in _LOST_RACES:
                raise


def _other_kind_of(old: Document, new: Document) -> bool:
    """Whether it has to be made anew: the range has changed, and addresses and families can't."""
    if "spec" in new:
        return bool(old["spec"].get("clusterIP") != new["spec"]["clusterIP"])
    return bool(old.get("addressType") != new.get("addressType"))


async def _ensure(registry: Registry, kind: Kind, document: Document) -> None:
    try:
        await registry.patch(kind, NAMESPACE, NAME, lambda old: _merged(old, document))
    except ApiError as error:
        if error.reason != "NotFound":
            raise
        await registry.create(kind, NAMESPACE, {**document, "metadata": dict(document["metadata"])})


def _merged(old: Document, new: Document) -> Document:
    """`old` with what is ours in it: labels are added, everything else is replaced."""
    labels = {**old["metadata"].get("labels", {}), **new["metadata"]["labels"]}
    body = {name: value for name, value in new.items() if name != "metadata"}
    if "spec" in body:
        body["spec"] = {**{name: value for name, value in old["spec"].items() if name != "selector"}, **body["spec"]}
    return {**old, **body, "metadata": {**old["metadata"], "labels": labels}}
