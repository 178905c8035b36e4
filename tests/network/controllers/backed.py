"""A small world of Services and pods, an index over it, and hands that carry actions out in it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

import msgspec
from msgspec.structs import replace

from podnet.network.controllers import endpoints, endpointslices, mirroring
from podnet.network.controllers.actions import Action, Create, Delete, Replace, Report
from podnet.network.controllers.backing import Backing, Backings
from podnet.objects.cluster import Key
from podnet.objects.core import Condition, Container, ContainerPort, Node, NodeStatus, Pod, PodIP, PodSpec, PodStatus
from podnet.objects.meta import Object, ObjectMeta
from podnet.objects.services import (
    EndpointAddress,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)

NOON = "2026-11-22T12:00:00Z"
LATER = "2026-11-22T12:00:07Z"
HTTP = ServicePort("http", port=80, target_port=8080)


def node(name: str = "n1", zone: str = "", cpu: str = "", ready: str = "True", **labels: str) -> Node:
    zones = {"topology.kubernetes.io/zone": zone} if zone else {}
    status = NodeStatus(conditions=(Condition("Ready", ready),), allocatable={"cpu": cpu} if cpu else {})
    return Node(ObjectMeta(name=name, labels={**zones, **labels}), status=status)


def pod(
    name: str = "p1", ip: str = "10.0.0.1", ready: bool = True, on: str = "n1", app: str = "web", going: bool = False,
    phase: str = "Running", since: str = NOON, ports: dict[str, int] | None = None, namespace: str = "default",
    **spec: Any,
) -> Pod:  # fmt: skip
    meta = ObjectMeta(name, namespace, f"uid-{name}", labels={"app": app}, deletion_timestamp=NOON if going else None)
    listens = tuple(ContainerPort(number, name=what) for what, number in (ports or {}).items())
    ips = tuple(PodIP(each) for each in ip.split(",") if each)
    state = (Condition("Ready", str(ready), last_transition_time=since),)
    status = PodStatus(phase=phase, pod_ip=ips[0].ip if ips else "", pod_ips=ips, conditions=state)
    return Pod(meta, PodSpec(node_name=on, containers=(Container("main", ports=listens),), **spec), status)


def service(name: str = "web", labels: dict[str, str] | None = None, notes: Any = None, **spec: Any) -> Service:
    meta = ObjectMeta(name, "default", f"uid-{name}", labels=labels or {}, annotations=notes or {})
    defaults: dict[str, Any] = {
        "cluster_ip": "10.96.0.1", "ip_families": ("IPv4",), "selector": {"app": "web"}, "ports": (HTTP,)
    }  # fmt: skip
    return Service(replace(meta, creation_timestamp=NOON), ServiceSpec(**{**defaults, **spec}))


def handmade(*ips: str, unready: Iterable[str] = (), name: str = "web", **meta: Any) -> Endpoints:
    subset = EndpointSubset(
        tuple(map(EndpointAddress, ips)), tuple(map(EndpointAddress, unready)), (SlicePort("http", port=80),)
    )
    return Endpoints(ObjectMeta(name, "default", f"uid-of-{name}", **meta), (subset,))


class World:
    """Objects by kind and key, as a server would hold them, and an index that was told of each."""

    def __init__(self, *objects: Object) -> None:
        self.objects: dict[tuple[str, Key], Object] = {}
        self.index = Backings()
        self.versions = count(1)
        self.put(node(), *objects)

    def put(self, *objects: Object) -> None:
        for each in objects:
            kind = f"{type(each).__name__.lower()}s".replace("endpointss", "endpoints")
            version = str(next(self.versions))
            new = replace(each, metadata=replace(each.metadata, resource_version=version))
            self.objects[kind, each.key] = new
            self.index.put(kind, each.key, new)

    def drop(self, kind: str, name: str, namespace: str = "default") -> None:
        del self.objects[kind, (namespace, name)]
        self.index.put(kind, (namespace, name), None)

    def pods(self, number: int, first: int = 0, **more: Any) -> None:
        for n in range(first, first + number):
            self.put(pod(f"p{n:04}", f"10.1.{n // 250}.{n % 250 + 1}", **more))

    def decide(self, name: str = "web") -> list[Action]:
        """Everything to do about one Service."""
        return decide(self.index.backing(("default", name)))

    def settle(self) -> list[Action]:
        """Let the controllers work until they have nothing to do; what they did first."""
        done: list[Action] = []
        for _ in range(10):
            if not self.index.changed:
                return done
            actions = [action for key in list(self.index.changed) for action in decide(self.index.backing(key))]
            self.carry_out(actions)
            done += actions
        raise AssertionError(f"the controllers never rest: {done[-1]}")

    def carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Create(kind, namespace, document):
                    key = (namespace, document["metadata"]["name"])
                    assert (kind.plural, key) not in self.objects
                    made = msgspec.convert(document, kind.type)
                    self.put(replace(made, metadata=replace(made.metadata, uid=f"uid-of-{key[1]}")))
                case Replace(kind, namespace, name, document):
                    old = self.objects[kind.plural, (namespace, name)].metadata
                    assert document["metadata"]["resourceVersion"] == old.resource_version
                    assert document["metadata"]["uid"] == old.uid
                    self.put(msgspec.convert(document, kind.type))
                case Delete(kind, namespace, name, uid):
                    assert self.objects[kind.plural, (namespace, name)].metadata.uid == uid
                    self.drop(kind.plural, name, namespace)
                case Report():
                    pass
                case _:
                    raise AssertionError(action)

    def slices(self, family: str = "") -> list[EndpointSlice]:
        found = [each for each in self.objects.values() if isinstance(each, EndpointSlice)]
        return sorted((each for each in found if family in ("", each.address_type)), key=lambda each: each.key)

    def slice(self) -> EndpointSlice:
        """The only one."""
        (found,) = self.slices()
        return found

    def endpoint(self) -> SliceEndpoint:
        """The only one of the only slice."""
        (found,) = self.slice().endpoints
        return found

    def old(self, name: str = "web") -> Endpoints:
        """The Endpoints object."""
        found = self.objects["endpoints", ("default", name)]
        assert isinstance(found, Endpoints)
        return found


def decide(backing: Backing) -> list[Action]:
    return [*endpointslices.reconcile(backing), *endpoints.reconcile(backing), *mirroring.reconcile(backing)]


def addresses(*slices: EndpointSlice) -> list[str]:
    return sorted(endpoint.addresses[0] for each in slices for endpoint in each.endpoints)
