"""The names of all Services and of their addresses, found out when somebody asks.

A name says which Service it belongs to, so nothing is kept for it: the Service is looked up, and its names are made
(records.py). What was asked for lately is kept ready to be sent, until the cluster changes. Ten thousand Services then
need hardly more memory than themselves, and a change of one costs nothing before its name is asked for. Only the way
back, from an address to Services, is kept.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from ipaddress import ip_address
from itertools import chain
from operator import is_
from typing import cast

from podnet.network.dns import records
from podnet.network.dns.records import EMPTY, Names, Node, Nodes
from podnet.network.memo import Memo, each, group
from podnet.objects.cluster import Cluster, Key
from podnet.objects.services import SERVICE_NAME, EndpointSlice, Service
from podnet.state.difference import changes, replaced
from podnet.wire import dns

READY = 10_000
"""Names that are kept ready: an answer takes half the time then, and a name some 300 bytes."""

Slices = Mapping[Key, Mapping[Key, EndpointSlice]]
Owners = Mapping[str, tuple[Key, ...]]
"""By address: the Services that give it a name."""

_NO_SLICES: Mapping[Key, EndpointSlice] = {}
_ARPA = (b"\7in-addr\4arpa\0", b"\3ip6\4arpa\0")


class ServiceNames(Mapping[bytes, Node]):
    """Every name in lower case, as on the wire, and what stands there; `others` are no Services'."""

    def __init__(
        self, domain: str, services: Mapping[Key, Service], slices: Slices, owners: Owners, others: Nodes
    ) -> None:
        self.domain, self.services, self.slices, self.owners, self.others = domain, services, slices, owners, others
        self._suffix = dns.lower(dns.name(f"svc.{domain}"))
        self._ready: dict[bytes, Node] = {}

    def __getitem__(self, name: bytes) -> Node:
        node = self._ready.get(name)
        if node is None:
            node = self._found(name)
            if len(self._ready) > READY:
                self._ready.clear()
            self._ready[name] = node
        return node

    def __iter__(self) -> Iterator[bytes]:
        units = (self.unit(key).nodes for key in self.services)
        return chain(self.others, chain.from_iterable(units), map(_reverse, self.owners))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def items(self) -> ItemsView[bytes, Node]:
        """Each Service's names are made once."""
        return _Items(self)

    def unit(self, key: Key) -> Names:
        """All names of a Service."""
        service = self.services.get(key)
        if service is None:
            return Names({})
        return records.service_names(self.domain, service, self.slices.get(key, _NO_SLICES).values())

    def changed(self, old: ServiceNames) -> Iterator[tuple[bytes, Node, Node]]:
        """Names at which something else may stand than in `old`, and what stood and stands there."""
        for name in changes(self.others, old.others):
            yield name, old.others.get(name, EMPTY), self.others.get(name, EMPTY)
        made: tuple[dict[Key, Names], dict[Key, Names]] = {}, {}
        moved: set[str] = set()
        for key in dict.fromkeys((*changes(self.services, old.services), *changes(self.slices, old.slices))):
            service = self.services.get(key)
            if service is old.services.get(key) and not (service and service.spec.cluster_ip == "None"):
                continue
            was, now = made[0][key], made[1][key] = old.unit(key), self.unit(key)
            for name in dict.fromkeys((*was.nodes, *now.nodes)):
                yield name, was.nodes.get(name, EMPTY), now.nodes.get(name, EMPTY)
            moved.update(ip for ip, _ in {*was.pointers} ^ {*now.pointers})
        for address in {str(ip_address(ip)) for ip in moved}:
            yield _reverse(address), old._pointer(address, made[0]), self._pointer(address, made[1])

    def _found(self, name: bytes) -> Node:
        if name.endswith(self._suffix):
            key, itself = _owner(name, len(name) - len(self._suffix))
            service = self.services.get(key)
            if service is not None:
                return (records.own_node(service) if itself else EMPTY) or self.unit(key).nodes[name]
        elif name.endswith(_ARPA):
            address = dns.address_of(name)
            if address in self.owners:
                return self._pointer(address)
        return self.others[name]

    def _pointer(self, address: str, made: Mapping[Key, Names] | None = None) -> Node:
        """`made` spares making the names of these Services again."""
        owners = self.owners.get(address, ())
        units = ((made and made.get(key)) or self.unit(key) for key in owners)
        pairs = chain.from_iterable(unit.pointers for unit in units)
        own = [name for ip, name in pairs if ip == address or str(ip_address(ip)) == address]
        return records.pointer_node(own) if own else EMPTY


class _Items(ItemsView[bytes, Node]):
    _mapping: ServiceNames

    def __iter__(self) -> Iterator[tuple[bytes, Node]]:
        names = self._mapping
        units = (names.unit(key).nodes.items() for key in names.services)
        pointers = ((_reverse(ip), names._pointer(ip)) for ip in names.owners)
        return chain(names.others.items(), chain.from_iterable(units), pointers)


def service_names(domain: str, cluster: Cluster, others: Nodes, memo: Memo) -> ServiceNames:
    """Of a cluster; the very same as last time when nothing changed."""
    slices = group(memo, "slices", cluster.endpointslices, _service)
    bare = ServiceNames(domain, cluster.services, slices, {}, {})
    of = (cluster.services, slices)
    owners = _owners(memo, each(memo, "addressed", (domain,), of, lambda key: _addresses(bare, key), lambda key: key))
    inputs = (domain, *of, owners, others)
    last = memo.get("whole")
    if last is None or not all(map(is_, last[0], inputs)):
        memo["whole"] = last = (inputs, ServiceNames(*inputs))
    return cast("ServiceNames", last[1])


def _addresses(names: ServiceNames, key: Key) -> tuple[str, ...]:
    """Those that have a name by a Service, which holds them itself if it can."""
    found = tuple(dict.fromkeys(str(ip_address(ip)) for ip, _ in names.unit(key).pointers))
    held = names.services[key].spec.cluster_ips
    return held if held == found else found


def _owners(memo: Memo, addressed: Mapping[Key, tuple[str, ...]]) -> Owners:
    last = memo.get("owners")
    before, result = cast("tuple[Mapping[Key, tuple[str, ...]], Owners]", (*last[0], last[1]) if last else ({}, {}))
    fresh: dict[str, tuple[Key, ...]] = {}
    for key in changes(addressed, before):
        now = addressed.get(key, ())
        for ip in {*now, *before.get(key, ())}:
            held = fresh.get(ip, result.get(ip, ()))
            fresh[ip] = tuple(sorted({*held, key} if ip in now else {*held} - {key}))
    gone = [ip for ip, owners in fresh.items() if not owners and ip in result]
    if fresh:
        result = replaced(result, {ip: owners for ip, owners in fresh.items() if owners}, gone)
    memo["owners"] = ((addressed,), result)
    return result


def _service(piece: EndpointSlice) -> Key | None:
    name = piece.metadata.labels.get(SERVICE_NAME)
    return (piece.metadata.namespace, name) if name else None


def _owner(name: bytes, end: int) -> tuple[Key, bool]:
    """The Service to whom a name belongs that ends there in the suffix of Services, and whether it is its own."""
    at, starts = 0, [0, 0]
    while at < end:
        starts.append(at)
        at += 1 + name[at]
    if at > end or len(starts) < 4:
        return ("", ""), False
    service, namespace = name[starts[-2] + 1 : starts[-1]], name[starts[-1] + 1 : end]
    return (namespace.decode("utf-8", "replace"), service.decode("utf-8", "replace")), len(starts) == 4


def _reverse(address: str) -> bytes:
    return dns.lower(dns.reverse(address))
