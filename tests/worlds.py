"""Small clusters to try the core on: builders, worlds written in YAML, and strategies for whole histories.

Node i (1, 2, ...) is called n<i>, has the addresses 192.168.77.<10+i> and fd77::<10+i> on eth0, and the ranges
10.244.<i>.0/24 and fd00:10:244:<i>::/64. Pod k of node i has the addresses with host part 1+k.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from hypothesis import strategies as st

from podnet.network import pods
from podnet.network.desired import desired, node_state
from podnet.network.view import Attachment, Bandwidth, LocalFacts, NodeView, PortMapping
from podnet.network.viewing import view
from podnet.objects.cluster import Cluster
from podnet.objects.codec import convert
from podnet.objects.core import Node, NodeAddress, NodeSpec, NodeStatus
from podnet.objects.kinds import BY_KIND
from podnet.objects.meta import Object, ObjectMeta
from podnet.objects.network import (
    ACCEPTS_ANNOTATION,
    NETWORK_NAME,
    SENDS_ANNOTATION,
    NetworkConfig,
    NetworkSpec,
    ProxySpec,
)
from podnet.objects.services import (
    SERVICE_NAME,
    EndpointConditions,
    EndpointHints,
    EndpointSlice,
    Hint,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from podnet.state.resource import Key, Resource

RANGES = {False: ("10.244.0.0/16",), True: ("10.244.0.0/16", "fd00:10:244::/48")}
BACKENDS: list[dict[str, str | int | bool]] = [
    {"type": "vxlan"},
    {"type": "host-gw"},
    {"type": "vxlan", "vni": 5},
    {"type": "vxlan", "port": 4789},
    {"type": "vxlan", "directRouting": True},
]


def node(i: int, dual: bool = False, accepts: Iterable[str] = (), sends: Iterable[str] = (), **meta: Any) -> Node:
    """Node i. The annotations are there only when they say something."""
    words = {ACCEPTS_ANNOTATION: ",".join(accepts), SENDS_ANNOTATION: ",".join(sends)}
    addresses = [f"192.168.77.{10 + i}", *([f"fd77::{10 + i}"] if dual else ())]
    return Node(
        metadata=ObjectMeta(name=f"n{i}", annotations={key: text for key, text in words.items() if text}, **meta),
        spec=NodeSpec(pod_cidrs=(f"10.244.{i}.0/24", *((f"fd00:10:244:{i}::/64",) if dual else ()))),
        status=NodeStatus(addresses=tuple(NodeAddress("InternalIP", address) for address in addresses)),
    )


NONE = ProxySpec(mode="none")


def config(backend: Mapping[str, str | int | bool] | None = None, dual: bool = False, **spec: Any) -> NetworkConfig:
    """The cluster's one network configuration; worlds with Services say which proxy they want."""
    given: dict[str, Any] = {"pod_cidrs": RANGES[dual], "proxy": NONE} | spec
    return NetworkConfig(
        metadata=ObjectMeta(name=NETWORK_NAME), spec=NetworkSpec(backend=dict(backend or {"type": "vxlan"}), **given)
    )


def cluster(
    nodes: Iterable[Node],
    network: NetworkConfig | None = None,
    revision: int = 0,
    services: Iterable[Service] = (),
    slices: Iterable[EndpointSlice] = (),
) -> Cluster:
    """A snapshot of these objects and this configuration."""
    return Cluster(
        revision,
        {each.key: each for each in nodes},
        networkconfigs={network.key: network} if network else {},
        services={each.key: each for each in services},
        endpointslices={each.key: each for each in slices},
    )


def service(name: str = "web", *ports: ServicePort, **more: Any) -> Service:
    """Service default/<name> at 10.96.0.1, TCP port 80, unless told otherwise; also its labels, annotations, status."""
    meta = {key: more.pop(key) for key in ("labels", "annotations") if key in more}
    status = {key: more.pop(key) for key in ("status",) if key in more}
    spec = {"cluster_ip": "10.96.0.1", "ports": ports or (ServicePort(port=80),)} | more
    return Service(metadata=ObjectMeta(name=name, namespace="default", **meta), spec=ServiceSpec(**spec), **status)


def backend(
    address: str, node: str | None = None, zones: str = "", nodes: str = "", **conditions: Any
) -> SliceEndpoint:
    """One endpoint of a slice, with hints as words."""
    hints = EndpointHints(tuple(map(Hint, zones.split())), tuple(map(Hint, nodes.split()))) if zones or nodes else None
    return SliceEndpoint((address,), EndpointConditions(**conditions), node_name=node, hints=hints)


def endpoint_slice(of: str, *endpoints: SliceEndpoint, name: str = "", v6: bool = False, **more: Any) -> EndpointSlice:
    """A slice of Service default/<of>, to port 8080 unless told otherwise."""
    labels = {SERVICE_NAME: of} | more.pop("labels", {})
    ports = more.pop("ports", (SlicePort(port=8080),))
    meta = ObjectMeta(name=name or f"{of}-{'v6' if v6 else 'v4'}", namespace="default", labels=labels)
    return EndpointSlice(metadata=meta, address_type="IPv6" if v6 else "IPv4", endpoints=endpoints, ports=ports, **more)


def facts(i: int, **more: Any) -> LocalFacts:
    """What node i reads of itself."""
    return LocalFacts(f"n{i}", **{"uplink": "eth0", "prefixes": ("192.168.77.0/24", "fd77::/64")} | more)


def attachment(i: int, k: int, dual: bool = False, **more: Any) -> Attachment:
    """Pod k of node i, on the bridge unless told otherwise."""
    addresses = (f"10.244.{i}.{k + 1}/24", *((f"fd00:10:244:{i}::{k + 1:x}/64",) if dual else ()))
    made = Attachment(f"c{i}-{k}", "eth0", f"/run/netns/p{i}-{k}", addresses=addresses, pod=f"default/p{i}-{k}")
    return named(msgspec.structs.replace(made, **more))


def named(made: Attachment) -> Attachment:
    """With the MAC that its address implies, as IPAM gives it."""
    return msgspec.structs.replace(made, mac=made.mac or pods.pod_mac(made.addresses, made.id))


def seen(world: Cluster, i: int, attachments: Iterable[Attachment] = (), **more: Any) -> NodeView:
    """What node i sees; it must see something."""
    found = view(world, facts(i, **more), tuple(attachments))
    assert found is not None
    return found


def state_of(world: Cluster, i: int, attachments: Iterable[Attachment] = (), **more: Any) -> dict[Key, Resource]:
    """What node i's kernel should hold."""
    return dict(node_state(desired(seen(world, i, attachments, **more))))


# -- worlds in YAML


class Local(msgspec.Struct, forbid_unknown_fields=True):
    """The test-only document `kind: Attachments`: what belongs to one node and not to the API."""

    kind: str
    node: str
    facts: dict[str, Any] = {}
    attachments: tuple[Attachment, ...] = ()


World = tuple[Cluster, dict[str, LocalFacts], dict[str, tuple[Attachment, ...]]]


def load_world(path: Path) -> World:
    """(cluster, facts by node, attachments by node) of a multi-document YAML file; facts default to those above."""
    world, local, objects = Cluster(), [], dict[str, dict[Key, Object]]()
    for document in filter(None, yaml.safe_load_all(path.read_text())):
        if document["kind"] == "Attachments":
            local.append(msgspec.convert(document, Local))
            continue
        kind = BY_KIND[document["apiVersion"], document["kind"]]
        made = convert(document, kind.type)
        objects.setdefault(kind.plural, {})[made.key] = made
    for plural, found in objects.items():
        world = world.with_objects(plural, found)  # type: ignore[arg-type]
    read = {name: LocalFacts(name, uplink="eth0", prefixes=("192.168.77.0/24", "fd77::/64")) for _, name in world.nodes}
    read |= {each.node: msgspec.structs.replace(read[each.node], **each.facts) for each in local if each.facts}
    return world, read, {each.node: tuple(map(named, each.attachments)) for each in local}


# -- strategies


def port_mappings(k: int) -> st.SearchStrategy[tuple[PortMapping, ...]]:
    """Host ports of pod k, which no other pod has."""
    ports = st.builds(
        PortMapping,
        st.integers(8000 + 10 * k, 8009 + 10 * k),
        st.integers(80, 82),
        st.sampled_from(["tcp", "udp", "sctp"]),
        st.sampled_from(["", "192.168.77.11", "fd77::11"]),
    )
    return st.lists(ports, max_size=3, unique_by=lambda port: (port.protocol, port.host_port)).map(tuple)


def attachments(i: int, k: int, dual: bool = True) -> st.SearchStrategy[Attachment]:
    """Pod k of node i, in any mode, with any extras."""
    rates = st.sampled_from([0, 1_000_000])
    return st.builds(
        lambda **more: attachment(i, k, dual, **more),
        mode=st.sampled_from(["bridge", "ptp"]),
        mtu=st.sampled_from([0, 1400]),
        default_route=st.booleans(),
        ports=port_mappings(k),
        bandwidth=st.none() | st.builds(Bandwidth, rates, st.just(8000), rates, st.just(8000)),
    )


def pod_sets(i: int, dual: bool = True, most: int = 3) -> st.SearchStrategy[tuple[Attachment, ...]]:
    """Some of the first pods of node i."""
    each = [st.none() | attachments(i, k, dual) for k in range(1, most + 1)]
    return st.tuples(*each).map(lambda found: tuple(filter(None, found)))


WORDS = ["vxlan", "host-gw", "vxlan:vni=5", "vxlan:port=4789", "vxlan@1", "host-gw@2", "vxlan@3"]


def nodes(i: int) -> st.SearchStrategy[Node]:
    """Node i with one or two families and any history of migrations."""
    words = st.lists(st.sampled_from(WORDS), max_size=2)
    return st.builds(lambda dual, accepts, sends: node(i, dual, accepts, sends), st.booleans(), words, words)


def configs(dual: bool = True) -> st.SearchStrategy[NetworkConfig]:
    """Any valid configuration."""
    return st.builds(
        lambda backend, **spec: config(backend, dual, **spec),
        st.sampled_from(BACKENDS),
        attachment=st.sampled_from(["bridge", "ptp"]),
        masquerade=st.booleans(),
        mtu=st.sampled_from([0, 1400]),
    )


def clusters(most: int = 4) -> st.SearchStrategy[Cluster]:
    """A configuration, node n1, and some others."""
    others = st.tuples(*(st.none() | nodes(i) for i in range(2, most + 1)))
    return st.builds(lambda me, rest, network: cluster([me, *filter(None, rest)], network), nodes(1), others, configs())
