"""What one node sees: the cluster, its own facts and its pods, as one immutable value.

Every feature is a function of a `NodeView`. Building one parses each Node object once and shares the result while the
node stays the same, so a heartbeat of a thousand nodes leaves `peers` the identical tuple.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from itertools import pairwise
from typing import ClassVar

import msgspec

from podnet.network.memo import Memo, recall
from podnet.objects.cluster import Cluster
from podnet.objects.core import Node
from podnet.objects.network import ACCEPTS_ANNOTATION, SENDS_ANNOTATION, NetworkSpec

Network = IPv4Network | IPv6Network


class Value(msgspec.Struct, frozen=True, gc=False):
    """Base of the plain values in this module."""


class Options(Value, frozen=True):
    """Base of a backend's options; WIRE names the fields that both ends of a path must agree on."""

    WIRE: ClassVar[tuple[str, ...]] = ()

    type: str = ""


class PortMapping(Value, frozen=True):
    """A host port: `protocol` is tcp, udp or sctp; host_ip "" means every address of the node."""

    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""


class Bandwidth(Value, frozen=True):
    """Limits as the CNI capability bandwidth has them: rates in bits/s, bursts in bits, seen from the pod; 0 = none."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


class Attachment(Value, frozen=True):
    """One interface of one container: the IPAM record, and all that attaching it needs.

    `addresses` are ip/prefix, at most one per family, as allocated; `netns` is the path of the pod's namespace;
    `network` the CNI network's name; `mode` "bridge" or "ptp"; `pod` is namespace/name for people, "" when unknown;
    `default_route` is false for a second interface in the same namespace.
    """

    container_id: str
    ifname: str
    netns: str
    network: str = "podnet"
    addresses: tuple[str, ...] = ()
    mac: str = ""
    mtu: int = 0
    mode: str = "bridge"
    pod: str = ""
    ports: tuple[PortMapping, ...] = ()
    bandwidth: Bandwidth | None = None
    boot_id: str = ""
    default_route: bool = True

    @property
    def id(self) -> tuple[str, str]:
        """What CNI identifies an attachment by."""
        return (self.container_id, self.ifname)


class LocalFacts(Value, frozen=True):
    """What was read of the node itself before anything is decided; frozen and passed in.

    `prefixes` are the subnets directly on the uplink; `missing` names the kernel features that are absent, and why.
    """

    node: str
    uplink: str = ""
    mtu: int = 1500
    prefixes: tuple[str, ...] = ()
    missing: Mapping[str, str] = {}


class NodeInfo(Value, frozen=True):
    """A node reduced to what routing needs. Addresses and CIDRs are in inet_ntop spelling, at most one per family.

    `accepts` names the backends this node's kernel can receive now, `sends` those its routes use now; both are what
    its agent published after applying, and empty when it never did (see network/desired.py on migration).
    """

    name: str
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    accepts: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()

    def address(self, like: str) -> str | None:
        """This node's address of the family that `like` (an address or CIDR) has."""
        return next((address for address in self.addresses if is_v6(address) == is_v6(like)), None)


class Problem(Value, frozen=True):
    """A user's mistake, or a missing piece, that does not stop the rest: reported as log line, metric and Event.

    `object` names it as kind/name, `field` its JSON path or "".
    """

    object: str
    reason: str
    message: str
    field: str = ""


class NodeView(Value, frozen=True):
    """All that the features of one node are computed from; `mtu` is what the schemes in use leave to a pod's packet."""

    me: NodeInfo
    peers: tuple[NodeInfo, ...]
    network: NetworkSpec
    facts: LocalFacts
    attachments: tuple[Attachment, ...] = ()
    mtu: int = 0

    def narrowed(self, backend: Mapping[str, str | int | bool], peers: Iterable[NodeInfo]) -> NodeView:
        """The same view as if the cluster used `backend` and only these peers existed."""
        network = msgspec.structs.replace(self.network, backend=dict(backend))
        return msgspec.structs.replace(self, network=network, peers=tuple(peers))


def is_v6(address: str) -> bool:
    """Whether an address or CIDR string is IPv6."""
    return ":" in address


def base_address(cidr: str) -> str:
    """The network address of a CIDR: 10.244.1.0 of 10.244.1.0/24."""
    return cidr.partition("/")[0]


def first_address(cidr: str) -> str:
    """The first host of a CIDR, which podnet reserves as the gateway: 10.244.1.1 of 10.244.1.0/24."""
    return str(ip_network(cidr)[1])


def on_link(facts: LocalFacts, address: str) -> bool:
    """Whether an address is in one of the subnets directly on the uplink."""
    return any(ip_address(address) in ip_interface(prefix).network for prefix in facts.prefixes)


def node_info(node: Node) -> NodeInfo:
    """Reduce a Node object; what does not parse is left out (problems() names it)."""
    cidrs = node.spec.pod_cidrs or tuple(filter(None, (node.spec.pod_cidr,)))
    internal = (entry.address for entry in node.status.addresses if entry.type == "InternalIP")
    annotations = node.metadata.annotations
    return NodeInfo(
        name=node.metadata.name,
        addresses=_one_per_family(filter(None, map(_address, internal))),
        pod_cidrs=_one_per_family(filter(None, map(_cidr, cidrs))),
        accepts=_words(annotations.get(ACCEPTS_ANNOTATION, "")),
        sends=_words(annotations.get(SENDS_ANNOTATION, "")),
    )


def view(
    cluster: Cluster, facts: LocalFacts, attachments: tuple[Attachment, ...] = (), memo: Memo | None = None
) -> NodeView | None:
    """What the node named in `facts` sees; None while the cluster has no network configuration or not this node."""
    memo = {} if memo is None else memo
    me = cluster.nodes.get(("", facts.node))
    if cluster.network is None or me is None:
        return None
    spec = cluster.network.spec
    return NodeView(
        me=recall(memo, ("node", facts.node), (me,), lambda: node_info(me)),
        peers=recall(memo, "peers", (cluster.nodes,), lambda: _peers(cluster, facts.node, memo)),
        network=recall(memo, "network", (cluster.network,), lambda: spec),
        facts=facts,
        attachments=attachments,
    )


def problems(cluster: Cluster) -> tuple[Problem, ...]:
    """What in the cluster's nodes can't be honoured: missing or overlapping ranges, missing addresses."""
    return tuple(_node_problems(cluster)) + tuple(_overlaps(cluster))


def _peers(cluster: Cluster, me: str, memo: Memo) -> tuple[NodeInfo, ...]:
    found = []
    for (_, name), node in cluster.nodes.items():
        if name != me:
            found.append(_peer(memo, name, node))
    return tuple(sorted(filter(lambda peer: peer.pod_cidrs and peer.addresses, found), key=lambda peer: peer.name))


def _peer(memo: Memo, name: str, node: Node) -> NodeInfo:
    return recall(memo, ("node", name), (node,), lambda: node_info(node))


def _node_problems(cluster: Cluster) -> Iterable[Problem]:
    for (_, name), node in cluster.nodes.items():
        info = node_info(node)
        if not info.addresses:
            yield Problem(f"Node/{name}", "NoInternalIP", "the node has no InternalIP; its kubelet must report one")
        if not info.pod_cidrs:
            yield Problem(f"Node/{name}", "NoPodCIDR", "the node has no podCIDR; is a node IPAM controller running?")


def _overlaps(cluster: Cluster) -> Iterable[Problem]:
    ranges = sorted(
        (ip_network(cidr), name)
        for (_, name), node in cluster.nodes.items()
        for cidr in node_info(node).pod_cidrs
        if not is_v6(cidr)
    )
    for (one, owner), (other, intruder) in pairwise(ranges):
        if one.overlaps(other):
            message = f"podCIDR {other} overlaps {one} of node {owner}"
            yield Problem(f"Node/{intruder}", "PodCIDROverlap", message, "spec.podCIDRs")


def _one_per_family(values: Iterable[str]) -> tuple[str, ...]:
    first: dict[bool, str] = {}
    for value in values:
        first.setdefault(is_v6(value), value)
    return tuple(first.values())


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (word.strip() for word in text.split(","))))


def _address(text: str) -> str | None:
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _cidr(text: str) -> str | None:
    try:
        return str(ip_network(text))
    except ValueError:
        return None
