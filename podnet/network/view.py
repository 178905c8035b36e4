"""What one node sees: the cluster, its own facts and its pods, as one immutable value.

Every feature is a function of a `NodeView`; viewing.py makes one from the cluster's objects. Two views that share a
part by identity (`is`) see the same there, so what depends on that part need not be computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import ClassVar

import msgspec

from podnet.network.service_port import ServicePort
from podnet.network.value import Value
from podnet.objects.network import PRIMARY, NetworkSpec

Network = IPv4Network | IPv6Network
Words = tuple[str, ...]


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

    `prefixes` are the subnets directly on the uplink; `addresses` all that its links have, but for loopback, link-local
    ones and podnet's own; `missing` names the kernel features that are absent, and why; `others` where another
    kube-proxy's rules stand, which is looked for while mode iptables is asked for.
    """

    node: str
    uplink: str = ""
    mtu: int = 1500
    prefixes: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    missing: Mapping[str, str] = {}
    others: Words = ()


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


class HealthCheck(Value, frozen=True):
    """What is served at one healthCheckNodePort; `endpoints` are the addresses of ready endpoints on this node."""

    namespace: str
    service: str
    port: int
    endpoints: int


class Resolver(Value, frozen=True):
    """The cluster's DNS Service as a node sees it: its cluster addresses; `cached`: this node's own cache answers;
    `known`: addresses of the node's pods whose searches the server completes, and which it therefore has to see."""

    addresses: Words = ()
    cached: bool = False
    known: Words = ()


class Problem(Value, frozen=True):
    """A user's mistake, or a missing piece, that does not stop the rest: reported as log line, metric and Event.

    `object` names it as kind/name, `field` its JSON path or "".
    """

    object: str
    reason: str
    message: str
    field: str = ""


class NodeView(Value, frozen=True):
    """All that the features of one node are computed from.

    `mtu` is what the schemes in use leave to a pod's packet; `services` holds each Service's ports by (namespace,
    name), `affinities` the seconds of affinity that some Service asks for, and `retries` whether one asks for those;
    `algorithms` those that Services ask for (proxy/algorithms.py); `bridged`, for features that do not see the pods, is
    whether some of them are on the bridge, or new ones will be, and `published` whether some have ports of the node;
    `leases` the ports that pods of this node have for a
    time, by the pod's namespace/name; `checks` what load balancers can ask here; `resolver` where names are asked for.
    """

    me: NodeInfo
    peers: tuple[NodeInfo, ...]
    network: NetworkSpec
    facts: LocalFacts
    attachments: tuple[Attachment, ...] = ()
    mtu: int = 0
    services: Mapping[tuple[str, str], tuple[ServicePort, ...]] = {}
    affinities: tuple[int, ...] = ()
    retries: bool = False
    borne: Words = ()
    algorithms: Words = ()
    bridged: bool = False
    published: bool = False
    leases: Mapping[str, tuple[PortMapping, ...]] = {}
    checks: tuple[HealthCheck, ...] = ()
    resolver: Resolver = Resolver()

    def local(self, v6: bool) -> tuple[str, ...]:
        """All addresses of this node in one family, that of its Node object first."""
        every = dict.fromkeys((*self.me.addresses, *self.facts.addresses))
        return tuple(address for address in every if is_v6(address) == v6)

    def node_ports_at(self, v6: bool) -> tuple[str, ...]:
        """CIDRs of one family that hold the addresses which serve node ports; () means that all of them do."""
        own = tuple(f"{address}/{128 if v6 else 32}" for address in self.me.addresses if is_v6(address) == v6)
        asked = self.network.proxy.node_port_addresses
        return tuple(cidr for word in asked for cidr in (own if word == PRIMARY else (word,)) if is_v6(cidr) == v6)

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
