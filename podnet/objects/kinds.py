"""The table of every kind podnet speaks: one row serves the client, the API server's discovery and the CLI.

A row is all that is needed to build a path (`/api/v1/namespaces/{ns}/pods/{name}`) and to decode an answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from podnet.objects import core, leases, network, services
from podnet.objects.meta import Object, Value


class Kind(Value, frozen=True):
    """One served resource: its group, version, names and the struct it decodes into."""

    group: str
    version: str
    kind: str
    plural: str
    type: type[Object]
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """`v1`, or `group/version` outside the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        """Lower-case kind, as kubectl accepts it."""
        return self.kind.lower()

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of a collection, an object or a subresource; no trailing slash."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        parts += ["namespaces", namespace] if self.namespaced and namespace else []
        return "/".join([*parts, self.plural, *filter(None, (name, subresource))])


NAMESPACES = Kind("", "v1", "Namespace", "namespaces", core.Namespace, False, ("ns",), ("status", "finalize"))
NODES = Kind("", "v1", "Node", "nodes", core.Node, False, ("no",), ("status",))
PODS = Kind("", "v1", "Pod", "pods", core.Pod, True, ("po",), ("status", "log", "binding", "exec"))
SERVICES = Kind("", "v1", "Service", "services", services.Service, True, ("svc",), ("status",))
ENDPOINTS = Kind("", "v1", "Endpoints", "endpoints", services.Endpoints, True, ("ep",))
CONFIGMAPS = Kind("", "v1", "ConfigMap", "configmaps", core.ConfigMap, True, ("cm",))
SECRETS = Kind("", "v1", "Secret", "secrets", core.Secret)
EVENTS = Kind("", "v1", "Event", "events", core.Event, True, ("ev",))
ENDPOINTSLICES = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", services.EndpointSlice)
LEASES = Kind("coordination.k8s.io", "v1", "Lease", "leases", core.Lease)
NETWORKCONFIGS = Kind(
    "podnet.dev", "v1", "NetworkConfig", "networkconfigs", network.NetworkConfig, False, ("netcfg",), ("status",)
)
SERVICEROUTES = Kind(
    "podnet.dev", "v1", "ServiceRoute", "serviceroutes", network.ServiceRoute, True, ("svcroute",), ("status",)
)
EXTERNALPODS = Kind("podnet.dev", "v1", "ExternalPods", "externalpods", leases.ExternalPods, True, (), ("status",))
DEBUGPORTS = Kind("podnet.dev", "v1", "DebugPort", "debugports", leases.DebugPort, True, (), ("status",))

KINDS: tuple[Kind, ...] = (
    NAMESPACES, NODES, PODS, SERVICES, ENDPOINTS, CONFIGMAPS, SECRETS, EVENTS, ENDPOINTSLICES, LEASES, NETWORKCONFIGS,
    SERVICEROUTES, EXTERNALPODS, DEBUGPORTS,
)  # fmt: skip

BY_KIND: Mapping[tuple[str, str], Kind] = {(kind.api_version, kind.kind): kind for kind in KINDS}
