"""Which endpoints a client of a Service gets, from their conditions, the policies and the hints.

Source: k8s.io/kubernetes pkg/proxy/topology.go, CategorizeEndpoints. Ready ones; when there are none, those that still
serve while they terminate. Under policy Local only this node's, in the same order of preference. Hints narrow the ready
ones under policy Cluster, but only when every ready endpoint has one and one of them is for us.
"""

from __future__ import annotations

from collections.abc import Iterable

from podnet.network.service_port import Endpoint, Place, order
from podnet.network.value import Value


class Candidate(Value, frozen=True):
    """An endpoint with what its slice says of it; `pod` is (namespace, name) of what it is, ("", "") if unknown."""

    address: str
    port: int
    node: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    pod: tuple[str, str] = ("", "")

    @property
    def falls_back(self) -> bool:
        """Whether it may be used when nothing is ready."""
        return self.serving and self.terminating


def under_cluster(candidates: Iterable[Candidate], place: Place) -> tuple[Endpoint, ...]:
    """Policy Cluster."""
    candidates = tuple(candidates)
    ready = [each for each in candidates if each.ready]
    if ready:
        return _endpoints(_hinted(ready, place), place)
    return _endpoints((each for each in candidates if each.falls_back), place)


def under_local(candidates: Iterable[Candidate], place: Place) -> tuple[Endpoint, ...]:
    """Policy Local: nothing when there is nothing here."""
    here = [each for each in candidates if each.node == place.node]
    return _endpoints([each for each in here if each.ready] or [each for each in here if each.falls_back], place)


def _hinted(ready: list[Candidate], place: Place) -> list[Candidate]:
    """Hints for nodes come before those for zones."""
    if all(each.nodes for each in ready):
        meant = [each for each in ready if place.node in each.nodes]
        if meant:
            return meant
    if place.zone and all(each.zones for each in ready):
        return [each for each in ready if place.zone in each.zones] or ready
    return ready


def _endpoints(chosen: Iterable[Candidate], place: Place) -> tuple[Endpoint, ...]:
    """Each address and port once; it is local when one of its slices says so."""
    found: dict[tuple[str, int], bool] = {}
    for each in chosen:
        found[each.address, each.port] = found.get((each.address, each.port), False) or each.node == place.node
    return tuple(sorted((Endpoint(*where, local) for where, local in found.items()), key=order))
