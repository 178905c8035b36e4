"""Which pods stand behind which Service, kept event by event.

Ten thousand Services select among fifty thousand pods, and one pod changes. So pods are found by namespace and label,
Services by one label of their selector (the one fewest others are found by), and the event of one object names the few
Services whose endpoints may differ: `changed`. For each of them `backing` gives everything its endpoints follow from,
and the pure functions beside this module (endpointslices, endpoints, mirroring) turn that into actions.

Of a Pod only a `Target` is kept, of a Node only a `Site`: news that change neither change nothing. Feeding the same
objects in any order gives the same answers; this index saves time and decides nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import TypeVar

import msgspec

from podnet.network.controllers.scheduler import ENDED, ready
from podnet.objects.cluster import Key
from podnet.objects.core import ZONE, Node, Pod
from podnet.objects.meta import Object
from podnet.objects.services import SERVICE_NAME, Endpoints, EndpointSlice, Service

TOPOLOGY_MODE = ("service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints")
_APART = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")

K = TypeVar("K")
V = TypeVar("V")

Label = tuple[str, str, str]
"""Namespace, key, value."""


class Target(msgspec.Struct, frozen=True, gc=False):
    """What endpoints need to know of a Pod. `since`: when its readiness changed; `ports`: name, protocol, number."""

    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str]
    ips: tuple[str, ...]
    node: str
    hostname: str
    subdomain: str
    ready: bool
    since: str | None
    leaving: bool
    ended: bool
    ports: tuple[tuple[str, str, int], ...]

    def ip(self, family: str) -> str:
        """The address of a family (IPv4, IPv6), or ""."""
        return next((ip for ip in self.ips if (":" in ip) == (family == "IPv6")), "")


def target(pod: Pod) -> Target:
    """A Pod as endpoints see it."""
    meta, spec, status = pod.metadata, pod.spec, pod.status
    condition = next((item for item in status.conditions if item.type == "Ready"), None)
    return Target(
        meta.namespace, meta.name, meta.uid, meta.labels,
        tuple(item.ip for item in status.pod_ips) or ((status.pod_ip,) if status.pod_ip else ()),
        spec.node_name, spec.hostname, spec.subdomain,
        condition is not None and condition.status == "True",
        condition.last_transition_time if condition is not None else None,
        meta.deletion_timestamp is not None,
        status.phase in ENDED,
        tuple(
            (port.name, port.protocol, port.container_port)
            for container in spec.containers for port in container.ports if port.name
        ),
    )  # fmt: skip


class Site(msgspec.Struct, frozen=True):
    """What endpoints need to know of a Node. `cpu`: thousandths, None when it says none; `counts`: takes traffic."""

    zone: str = ""
    cpu: int | None = None
    counts: bool = True


def site(node: Node) -> Site:
    """A Node as endpoints see it."""
    labels = node.metadata.labels
    counts = ready(node) and not any(label in labels for label in _APART)
    return Site(labels.get(ZONE, ""), _milli(str(node.status.allocatable.get("cpu", ""))), counts)


def _milli(quantity: str) -> int | None:
    """Thousandths of a CPU; None for what is no number."""
    try:
        return int(Decimal(quantity[:-1]) if quantity.endswith("m") else Decimal(quantity) * 1000)
    except (InvalidOperation, ValueError, OverflowError):
        return None


def selects(service: Service) -> bool:
    """Whether the Service's endpoints are pods that it selects."""
    return bool(service.spec.selector) and service.spec.type != "ExternalName"


def proportional(service: Service) -> bool:
    """Whether hints shall follow the zones' CPUs: the annotation from before trafficDistribution."""
    mode = next((note for name in TOPOLOGY_MODE if (note := service.metadata.annotations.get(name))), "")
    return mode in ("Auto", "auto")


class Backing(msgspec.Struct, frozen=True):
    """All that the endpoints of one Service follow from.

    service    None when there is none of this name
    withdrawn  it was deleted just now, and what was made for it by hand goes with it
    targets    the pods that it selects, by name
    sites      every node, by name
    slices     the slices labelled with its name, by name
    taken      keys of every slice there is
    """

    key: Key
    service: Service | None = None
    withdrawn: bool = False
    targets: tuple[Target, ...] = ()
    sites: Mapping[str, Site] = {}
    slices: tuple[EndpointSlice, ...] = ()
    endpoints: Endpoints | None = None
    taken: Container[Key] = ()


class Backings:
    """See the module's story. `changed`: the Services to look at, in the order in which they changed."""

    def __init__(self) -> None:
        self.changed: dict[Key, None] = {}
        self._services: dict[Key, Service] = {}
        self._found_by: dict[Key, Label] = {}
        self._finding: dict[Label, dict[Key, None]] = {}
        self._members: dict[Key, dict[Key, Target]] = {}
        self._targets: dict[Key, Target] = {}
        self._labelled: dict[Label, set[Key]] = {}
        self._sites: dict[str, Site] = {}
        self._on: dict[str, set[Key]] = {}
        self._proportional: set[Key] = set()
        self._slices: dict[Key, EndpointSlice] = {}
        self._slices_of: dict[Key, dict[Key, EndpointSlice]] = {}
        self._endpoints: dict[Key, Endpoints] = {}
        self._withdrawn: set[Key] = set()

    def backing(self, key: Key) -> Backing:
        """What is known now; asking makes the Service unchanged."""
        self.changed.pop(key, None)
        withdrawn = key in self._withdrawn and key not in self._services
        self._withdrawn.discard(key)
        members, slices = self._members.get(key, {}), self._slices_of.get(key, {})
        return Backing(
            key, self._services.get(key), withdrawn, tuple(members[pod] for pod in sorted(members)), self._sites,
            tuple(slices[name] for name in sorted(slices)), self._endpoints.get(key), self._slices,
        )  # fmt: skip

    def put(self, kind: str, key: Key, new: Object | None) -> None:
        """One object of a kind (its plural) is `new` now, or gone (None)."""
        match kind:
            case "pods":
                self._put_pod(key, target(new) if isinstance(new, Pod) else None)
            case "services":
                self._put_service(key, new if isinstance(new, Service) else None)
            case "endpointslices":
                self._put_slice(key, new if isinstance(new, EndpointSlice) else None)
            case "endpoints":
                _set(self._endpoints, key, new if isinstance(new, Endpoints) else None)
                self.changed[key] = None
            case "nodes":
                self._put_node(key[1], site(new) if isinstance(new, Node) else None)

    def _put_pod(self, key: Key, new: Target | None) -> None:
        old = self._targets.get(key)
        if old == new:
            return
        touched = [*self._behind(old), *self._behind(new)]
        self._file(key, old, new)
        _set(self._targets, key, new)
        for service in touched:
            stays = new is not None and self._services[service].spec.selector.items() <= new.labels.items()
            _set(self._members.setdefault(service, {}), key, new if stays else None)
            self.changed[service] = None

    def _behind(self, pod: Target | None) -> Iterator[Key]:
        """The Services that select a pod."""
        for label in _labels(pod):
            for key in self._finding.get(label, ()):
                if pod is not None and self._services[key].spec.selector.items() <= pod.labels.items():
                    yield key

    def _file(self, key: Key, old: Target | None, new: Target | None) -> None:
        """Make a pod found by what it is now."""
        before, after = set(_labels(old)), set(_labels(new))
        for label in before - after:
            _drop(self._labelled, label, key)
        for label in after - before:
            self._labelled.setdefault(label, set()).add(key)
        was, now = (old.node if old else ""), (new.node if new else "")
        if was != now:
            _drop(self._on, was, key)
            if now:
                self._on.setdefault(now, set()).add(key)

    def _put_service(self, key: Key, new: Service | None) -> None:
        old = self._services.get(key)
        before = old.spec.selector if old is not None and selects(old) else {}
        after = new.spec.selector if new is not None and selects(new) else {}
        if before != after:
            self._select(key, after)
        _set(self._services, key, new)
        (self._proportional.add if new is not None and proportional(new) else self._proportional.discard)(key)
        if new is None:
            self._withdrawn.add(key)
        self.changed[key] = None

    def _select(self, key: Key, selector: Mapping[str, str]) -> None:
        """Choose how the Service is found, and find its pods."""
        if found_by := self._found_by.pop(key, None):
            del self._finding[found_by][key]
            if not self._finding[found_by]:
                del self._finding[found_by]
        self._members.pop(key, None)
        if not selector:
            return
        labels = [(key[0], name, value) for name, value in sorted(selector.items())]
        best = min(labels, key=lambda label: len(self._finding.get(label, ())))
        self._found_by[key] = best
        self._finding.setdefault(best, {})[key] = None
        fewest, *others = sorted((self._labelled.get(label, set()) for label in labels), key=len)
        pods = fewest.intersection(*others)
        self._members[key] = {pod: self._targets[pod] for pod in pods}

    def _put_slice(self, key: Key, new: EndpointSlice | None) -> None:
        old = self._slices.get(key)
        for each, now in ((old, None), (new, new)):
            if each is not None and (name := each.metadata.labels.get(SERVICE_NAME)):
                of = (key[0], name)
                _set(self._slices_of.setdefault(of, {}), key, now)
                if not self._slices_of[of]:
                    del self._slices_of[of]
                self.changed[of] = None
        _set(self._slices, key, new)

    def _put_node(self, name: str, new: Site | None) -> None:
        old = self._sites.get(name)
        if old == new:
            return
        _set(self._sites, name, new)
        self.changed.update(dict.fromkeys(self._proportional))
        if old is None or new is None or old.zone != new.zone:
            for pod in self._on.get(name, ()):
                self.changed.update(dict.fromkeys(self._behind(self._targets[pod])))


def _labels(pod: Target | None) -> list[Label]:
    return [(pod.namespace, key, value) for key, value in pod.labels.items()] if pod is not None else []


def _set(mapping: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def _drop(groups: dict[K, set[Key]], group: K, key: Key) -> None:
    """Take a key out of a group, and the group away with its last one."""
    keys = groups.get(group)
    if keys is not None:
        keys.discard(key)
        if not keys:
            del groups[group]
