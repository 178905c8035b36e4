"""Which names came to be between two snapshots of a cluster, from the Services that changed alone.

For whoever keeps answers but not the zone: a node's cache may hold that there is no such name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from podnet.network.dns.records import EMPTY, Names, service_names
from podnet.network.memo import Memo, group
from podnet.objects.cluster import Cluster, Key
from podnet.objects.services import SERVICE_NAME, EndpointSlice, Service
from podnet.state.difference import changes
from podnet.wire import dns

Slices = Mapping[Key, Mapping[Key, EndpointSlice]]


class Births:
    """Follows one cluster, snapshot by snapshot; keeps the last one only."""

    def __init__(self) -> None:
        self._memo: Memo = {}
        self._services: Mapping[Key, Service] = {}
        self._slices: Slices = {}
        self._followed = False

    def follow(self, cluster: Cluster, domain: str) -> tuple[tuple[bytes, int], ...]:
        """Names of Services and of their endpoints, and addresses, each with a type, that have an answer now and had
        none before. Of the first snapshot nothing is new."""
        slices = group(self._memo, "slices", cluster.endpointslices, _owner)
        before = self._services, self._slices
        self._services, self._slices = cluster.services, slices
        if not self._followed:
            self._followed = True
            return ()
        touched = dict.fromkeys((*changes(cluster.services, before[0]), *changes(slices, before[1])))
        return tuple(
            name
            for key in touched
            for name in _born(_names(domain, key, *before), _names(domain, key, cluster.services, slices))
        )


def _born(before: Names, now: Names) -> Iterator[tuple[bytes, int]]:
    for name, node in now.nodes.items():
        known = {type_ for type_, _ in before.nodes.get(name, EMPTY)}
        yield from ((name, type_) for type_, _ in node if type_ not in known)
    known_addresses = {address for address, _ in before.pointers}
    for address in dict.fromkeys(address for address, _ in now.pointers):
        if address not in known_addresses:
            yield dns.lower(dns.reverse(address)), dns.PTR


def _names(domain: str, key: Key, services: Mapping[Key, Service], slices: Slices) -> Names:
    service = services.get(key)
    return service_names(domain, service, slices.get(key, {}).values()) if service else Names({})


def _owner(piece: EndpointSlice) -> Key | None:
    name = piece.metadata.labels.get(SERVICE_NAME)
    return (piece.metadata.namespace, name) if name else None
