"""What one node sees: the cluster, its own facts and its pods, as one immutable value.

Every feature is a function of a `NodeView`. Building one parses each Node object once and shares the result while the
node stays the same, so a heartbeat of a thousand nodes leaves `peers` the identical tuple.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import ClassVar

import msgspec

from podnet.network.memo import Memo, forget, recall
from podnet.network.nodes import addresses_of, ranges_of, usable_address, usable_range
from podnet.objects.cluster import Cluster
from podnet.objects.core import Node
from podnet.objects.network import ACCEPTS_ANNOTATION, NETWORK_NAME, SENDS_ANNOTATION, NetworkSpec

Network = IPv4Network | IPv6Network
Words = tuple[str, ...]

ATTACHMENTS = ("bridge", "ptp")
MTU = {False: range(576, 65536), True: range(1280, 65536)}
"""What a pod's interface may have, without and with IPv6 (RFC 791, RFC 8200)."""


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
    `default_route` is false for a second interface in the same namespace; `inode` tells the namespace from a later one
    at the same path (0: unknown); `ended`: DEL was answered, only its flows and then its addresses are to be given up.
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
    inode: int = 0
    ended: bool = False

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

    `accepts` and `sends` are what its agent published after applying, and empty when it never did; network/migration.py
    says what the words mean.
    """

    name: str
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    accepts: Words = ()
    sends: Words = ()

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
    """Reduce a Node object; what can't be used is left out (problems() names it)."""
    annotations = node.metadata.annotations
    return NodeInfo(
        name=node.metadata.name,
        addresses=_one_per_family(filter(None, (usable_address(text) for _, text in addresses_of(node)))),
        pod_cidrs=_one_per_family(filter(None, (usable_range(text) for _, text in ranges_of(node)))),
        accepts=_words(annotations.get(ACCEPTS_ANNOTATION, "")),
        sends=_words(annotations.get(SENDS_ANNOTATION, "")),
    )


def view(
    cluster: Cluster,
    facts: LocalFacts,
    attachments: tuple[Attachment, ...] = (),
    memo: Memo | None = None,
    said: tuple[Words, Words] | None = None,
) -> NodeView | None:
    """What the node named in `facts` sees; None while the cluster has no usable network configuration or not this node.

    `said` is (accepts, sends) as this node's agent last tried to publish them: its Node object may not show that yet.
    """
    memo = {} if memo is None else memo
    node, config = cluster.nodes.get(("", facts.node)), cluster.network
    if node is None or config is None:
        return None
    network = recall(memo, "network", (config,), lambda: None if any(mistakes(config.spec)) else config.spec)
    if network is None:
        return None
    me = _info(memo, facts.node, node)
    if said is not None:
        me = recall(memo, "said", (me, said), lambda info=me: _saying(info, *said))  # type: ignore[misc]
    peers = recall(memo, "peers", (cluster.nodes, me.addresses, me.pod_cidrs), lambda: _peers(cluster, me, memo))
    return NodeView(me=me, peers=peers, network=network, facts=facts, attachments=attachments)


def _saying(info: NodeInfo, accepts: Words, sends: Words) -> NodeInfo:
    return msgspec.structs.replace(info, accepts=accepts, sends=sends)


def _peers(cluster: Cluster, me: NodeInfo, memo: Memo) -> tuple[NodeInfo, ...]:
    found = [_info(memo, name, node) for (_, name), node in sorted(cluster.nodes.items()) if name != me.name]
    forget(memo, "node", {("node", name) for _, name in cluster.nodes})
    return recall(memo, "distinct", (me.addresses, me.pod_cidrs, *found), lambda: tuple(_distinct(me, found)))


def _info(memo: Memo, name: str, node: Node) -> NodeInfo:
    return recall(memo, ("node", name), (node,), lambda: node_info(node))


def _distinct(me: NodeInfo, found: Iterable[NodeInfo]) -> Iterator[NodeInfo]:
    """The peers that can be reached: what is mine stays mine, and a range belongs to the first who has it."""
    mine = [ip_network(cidr) for cidr in me.pod_cidrs]
    taken: set[str] = set()
    for peer in found:
        cidrs = tuple(cidr for cidr in peer.pod_cidrs if base_address(cidr) not in taken and _apart(cidr, mine))
        addresses = tuple(address for address in peer.addresses if address not in me.addresses)
        taken.update(map(base_address, cidrs))
        if cidrs and addresses:
            same = (cidrs, addresses) == (peer.pod_cidrs, peer.addresses)
            yield peer if same else msgspec.structs.replace(peer, pod_cidrs=cidrs, addresses=addresses)


def _apart(cidr: str, networks: Iterable[Network]) -> bool:
    network = ip_network(cidr)
    return not any(network.version == other.version and network.overlaps(other) for other in networks)


def mistakes(spec: NetworkSpec) -> Iterator[tuple[str, str]]:
    """(field, message) of what makes a network configuration unusable; the API server refuses more than this."""
    from podnet.network.backends import validate  # here, because backends are built on this module

    for index, text in enumerate(spec.pod_cidrs):
        if usable_range(text) is None:
            yield f"spec.podCIDRs[{index}]", f"{text!r} is no range for pods; write one such as 10.244.0.0/16"
    families = sorted(map(is_v6, spec.pod_cidrs))
    if families not in ([False], [True], [False, True]):
        yield "spec.podCIDRs", "must hold one range, or one for each IP family"
    if spec.attachment not in ATTACHMENTS:
        yield "spec.attachment", f"Unsupported value: {spec.attachment!r}: supported values: {', '.join(ATTACHMENTS)}"
    allowed = MTU[True in families]
    if spec.mtu and spec.mtu not in allowed:
        yield "spec.mtu", f"must be 0 (derived) or from {allowed[0]} to {allowed[-1]}"
    yield from ((f"spec.backend.{field}", message) for field, message in validate(spec.backend))


def problems(cluster: Cluster, memo: Memo | None = None) -> tuple[Problem, ...]:
    """What in the cluster's objects can't be honoured; each such thing is treated as absent. `memo` as for view()."""
    memo = {} if memo is None else memo
    return recall(memo, "problems", (cluster.nodes, cluster.network), lambda: tuple(_problems(cluster, memo)))


def _problems(cluster: Cluster, memo: Memo) -> Iterator[Problem]:
    config = cluster.network
    inside: list[Network] = []
    if config is not None:
        found = tuple(mistakes(config.spec))
        for field, message in found:
            yield Problem(f"NetworkConfig/{NETWORK_NAME}", "InvalidNetworkConfig", f"{field}: {message}", field)
        inside = [] if found else [ip_network(cidr) for cidr in config.spec.pod_cidrs]
    infos = []
    for (_, name), node in sorted(cluster.nodes.items()):
        yield from recall(memo, ("faults", name), (node, config), lambda node=node: tuple(_faults(node, inside)))  # type: ignore[misc]
        infos.append(_info(memo, name, node))
    forget(memo, "faults", {("faults", name) for _, name in cluster.nodes})
    yield from recall(memo, "shared", tuple(infos), lambda: (*_overlaps(infos), *_duplicates(infos)))


def _faults(node: Node, inside: Iterable[Network]) -> Iterator[Problem]:
    name, addresses, ranges = f"Node/{node.metadata.name}", dict(addresses_of(node)), dict(ranges_of(node))
    if not addresses:
        yield Problem(name, "NoInternalIP", "the node has no InternalIP; its kubelet must report one")
    if not ranges:
        yield Problem(name, "NoPodCIDR", "the node has no podCIDR; is a node IPAM controller running?")
    for field, text in addresses.items():
        if usable_address(text) is None:
            yield Problem(name, "InvalidAddress", f"{text!r} is no address that other nodes can reach", field)
    for field, text in ranges.items():
        if usable_range(text) is None:
            yield Problem(name, "InvalidPodCIDR", f"{text!r} is no range for pods", field)
        elif inside and _apart(text, inside):
            message = (
                f"podCIDR {text} is in no range of NetworkConfig/{NETWORK_NAME}; add one, or pods are masqueraded there"
            )
            yield Problem(name, "PodCIDROutside", message, field)


def _overlaps(infos: Iterable[NodeInfo]) -> Iterator[Problem]:
    """Two ranges are nested or apart: so the widest one before in order is the only one to compare with."""
    ranges = ((ip_network(cidr), info.name) for info in infos for cidr in info.pod_cidrs)
    widest: tuple[Network, str] | None = None
    for network, name in sorted(ranges, key=lambda entry: (entry[0].version, entry[0], entry[1])):
        if widest is None or widest[0].version != network.version or not widest[0].overlaps(network):
            widest = network, name
            continue
        message = f"podCIDR {network} overlaps {widest[0]} of node {widest[1]}"
        yield Problem(f"Node/{name}", "PodCIDROverlap", message, "spec.podCIDRs")


def _duplicates(infos: Iterable[NodeInfo]) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for info in infos:
        for address in info.addresses:
            owner = owners.setdefault(address, info.name)
            if owner != info.name:
                message = f"address {address} is that of node {owner} too"
                yield Problem(f"Node/{info.name}", "DuplicateAddress", message, "status.addresses")


def _one_per_family(values: Iterable[str]) -> tuple[str, ...]:
    first: dict[bool, str] = {}
    for value in values:
        first.setdefault(is_v6(value), value)
    return tuple(first.values())


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (word.strip() for word in text.split(","))))
