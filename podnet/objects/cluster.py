"""The immutable snapshot of the cluster that everything else is computed from.

A `Cluster` holds one mapping per kind. A new event makes a new `Cluster` that shares every mapping and object that did
not change, so "is it the same object?" is the whole test for "did this input change?".
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from podnet.objects.core import ConfigMap, Namespace, Node, Pod
from podnet.objects.leases import DebugPort
from podnet.objects.meta import Object
from podnet.objects.network import NETWORK_NAME, NetworkConfig, ServiceRoute
from podnet.objects.services import EndpointSlice, Service

Key = tuple[str, str]


class Cluster(msgspec.Struct, frozen=True, gc=False):
    """What the API server says, at one moment. `revision` counts snapshots of this process; it orders, nothing more."""

    revision: int = 0
    nodes: Mapping[Key, Node] = {}
    pods: Mapping[Key, Pod] = {}
    namespaces: Mapping[Key, Namespace] = {}
    configmaps: Mapping[Key, ConfigMap] = {}
    services: Mapping[Key, Service] = {}
    endpointslices: Mapping[Key, EndpointSlice] = {}
    serviceroutes: Mapping[Key, ServiceRoute] = {}
    debugports: Mapping[Key, DebugPort] = {}
    networkconfigs: Mapping[Key, NetworkConfig] = {}

    @property
    def network(self) -> NetworkConfig | None:
        """The cluster's network configuration, or None when there is none (yet)."""
        return self.networkconfigs.get(("", NETWORK_NAME))

    def with_objects(self, plural: str, objects: Mapping[Key, Object]) -> Cluster:
        """The next snapshot, in which the mapping named `plural` is `objects`."""
        return msgspec.structs.replace(self, revision=self.revision + 1, **{plural: objects})
