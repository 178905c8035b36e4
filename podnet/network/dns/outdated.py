"""Which remembered answers a change of the cluster made wrong, from the Services that changed alone.

For whoever keeps answers but not the zone: a node's cache may hold that there is no such name, or yesterday's address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from podnet.network.dns.records import EMPTY, Expected, Names, outdated, service_names
from podnet.network.memo import Memo, group
from podnet.objects.cluster import Cluster, Key
from podnet.objects.services import SERVICE_NAME, EndpointSlice, Service
from podnet.state.difference import changes
from podnet.wire import dns

Slices = Mapping[Key, Mapping[Key, EndpointSlice]]


class OutdatedNames:
    """Follows one cluster, snapshot by snapshot; keeps the last one only."""

    def __init__(self) -> None:
        self._memo: Memo = {}
        self._services: Mapping[Key, Service] = {}
        self._slices: Slices = {}
        self._followed = False

    def follow(self, cluster: Cluster, domain: str) -> tuple[tuple[bytes, int, Expected], ...]:
        """Names of Services and of their endpoints, and addresses that have a name now and had none, each with a type
        and what the answer has to be (records.outdated). Of the first snapshot nothing is known to be."""
        slices = group(self._memo, "slices", cluster.endpointslices, _owner)
        before = self._services, self._slices
        self._services, self._slices = cluster.services, slices
        if not self._followed:
            self._followed = True
            return ()
        touched = dict.fromkeys((*changes(cluster.services, before[0]), *changes(slices, before[1])))
        return tuple(
            each
            for key in touched
            for each in _outdated(_names(domain, key, *before), _names(domain, key, cluster.services, slices))
        )


def _outdated(before: Names, now: Names) -> Iterator[tuple[bytes, int, Expected]]:
    """Of one Service. Others may have its addresses too, before or after it, so of a new one any name will do."""
    for name in dict.fromkeys((*before.nodes, *now.nodes)):
        for type_, expected in outdated(before.nodes.get(name, EMPTY), now.nodes.get(name, EMPTY)):
            yield name, type_, expected
    known = {address for address, _ in before.pointers}
    for address in dict.fromkeys(address for address, _ in now.pointers):
        if address not in known:
            yield dns.lower(dns.reverse(address)), dns.PTR, None


def _names(domain: str, key: Key, services: Mapping[Key, Service], slices: Slices) -> Names:
    service = services.get(key)
    return service_names(domain, service, slices.get(key, {}).values()) if service else Names({})


def _owner(piece: EndpointSlice) -> Key | None:
    name = piece.metadata.labels.get(SERVICE_NAME)
    return (piece.metadata.namespace, name) if name else None
