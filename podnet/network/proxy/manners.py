"""What the modes do each in its own way with one and the same ServicePort, as far as a client notices.

What is alike in all of them is in explain.py. A manner answers for one frontend and one sort of client: which endpoints
there are for it, who of them gets which part of new connections, whose address they see, and what is not served at all.
Its answers are those of the mode's own module, which renders them: tests hold the two together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Literal

from podnet.network.proxy import ipvs, nftables, userspace
from podnet.network.proxy.algorithms import RANDOM, ROUND_ROBIN
from podnet.network.proxy.balancing import TIMEOUTS
from podnet.network.service_port import Endpoint, Frontend, Segment, ServicePort
from podnet.network.value import Value
from podnet.network.view import is_v6

LOCALHOSTS = ("127.0.0.1", "::1")
"""Where nobody but the node itself meets a node port; a mode serves none, one or both."""

Parts = tuple[str, Mapping[Endpoint, float]]
"""The algorithm that picks, and each endpoint's part, of any whole."""


class Client(Value, frozen=True):
    """Who connects: a "pod" of this node, this "node" itself, or someone "outside", which pods of other nodes are too.
    `address` "" is any of that sort that no segment and no source range speaks of."""

    kind: Literal["pod", "node", "outside"]
    address: str = ""


class Surroundings(Value, frozen=True):
    """What the answer depends on besides the Service. `addresses` are those of the node that serve node ports, `own`
    its ranges for pods and `pods` the cluster's; `mode` is what this node does, whatever spec.proxy asks for; `apart`:
    its pods meet each other with the bridge's address (bridged.py); the rest are settings from spec.proxy."""

    addresses: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    masquerade_all: bool = False
    source_ranges_for_all: bool = False
    mode: str = "nftables"
    apart: bool = False


class Manner:
    """Mode nftables; each other one says where it differs.

    segments     clients that a ServiceRoute names have endpoints of their own
    guards_none  source ranges are asked also where there is no endpoint at all
    timeouts     seconds that each attempt to connect to a TCP endpoint may take before the next one is tried
    """

    segments = True
    guards_none = True
    timeouts: tuple[float, ...] = ()

    def unserved(self, port: ServicePort, frontend: Frontend, who: Client) -> str:
        """Why the packet goes on as if there were no such Service; "" when it does not."""
        return ""

    def chosen(self, port: ServicePort, part: ServicePort | Segment, inner: bool, who: Client) -> tuple[Endpoint, ...]:
        """The endpoints for a client; `inner`: at the cluster address."""
        if inner:
            return part.internal
        return part.external if who.kind == "outside" else part.cluster

    def parts(self, port: ServicePort, part: Segment | None, endpoints: tuple[Endpoint, ...]) -> Parts:
        """Who gets how much; `part` is the segment that decides."""
        picking = nftables.picked_by_id(port) if part is None and nftables.by_id(port) else port
        return picking.algorithm, Counter(nftables.slots(picking, endpoints))

    def retries(self, port: ServicePort) -> bool:
        """Whether a connection that is refused or not answered may reach another endpoint with the client's own
        retransmission; those of segments may not."""
        return nftables.retries(port)

    def hides(self, port: ServicePort, inner: bool, who: Client, around: Surroundings) -> bool:
        """Whether the node's address stands in for the client's at every endpoint."""
        if who.kind == "node":
            return True
        return around.masquerade_all or not self.inside(port, who, around) if inner else not port.external_local

    def inside(self, port: ServicePort, who: Client, around: Surroundings) -> bool:
        """Whether it is one of those who keep their address at a cluster address."""
        return among(who.address, around.pods) if who.address else who.kind == "pod"

    def loops(self, endpoint: Endpoint, who: Client) -> bool:
        """Whether an endpoint meets itself, and sees the node therefore."""
        return endpoint.local and endpoint.address == who.address


class Iptables(Manner):
    """kube-proxy's chains: equal chances, no ServiceRoutes; what has no endpoints is refused before anything else, but
    for what the node itself sends to external addresses."""

    segments = False
    guards_none = False

    def unserved(self, port: ServicePort, frontend: Frontend, who: Client) -> str:
        """KUBE-EXTERNAL-SERVICES has no part in OUTPUT; to a node port the packet comes in again."""
        if who.kind == "node" and frontend.scope in ("external", "balancer") and not port.anywhere:
            return "no endpoint is ready, and kube-proxy's chains refuse that only to others than the node itself"
        return ""

    def chosen(self, port: ServicePort, part: ServicePort | Segment, inner: bool, who: Client) -> tuple[Endpoint, ...]:
        """Outside and in alike under policy Cluster."""
        return super().chosen(port, part, inner, who) if inner or port.external_local else port.cluster

    def parts(self, port: ServicePort, part: Segment | None, endpoints: tuple[Endpoint, ...]) -> Parts:
        """1/n for each."""
        return RANDOM, dict.fromkeys(endpoints, 1)

    def retries(self, port: ServicePort) -> bool:
        """Never."""
        return False

    def inside(self, port: ServicePort, who: Client, around: Surroundings) -> bool:
        """This node's pods; everybody, when their range is not known."""
        own = [cidr for cidr in around.own if is_v6(cidr) == port.v6][:1]
        return not own or (among(who.address, own) if who.address else who.kind == "pod")

    def loops(self, endpoint: Endpoint, who: Client) -> bool:
        """A rule of each endpoint's chain, wherever it is."""
        return endpoint.address == who.address


class Userspace(Manner):
    """A proxy that connects by itself: in turn, by weight, and to the next endpoint when one does not answer."""

    timeouts = TIMEOUTS

    def unserved(self, port: ServicePort, frontend: Frontend, who: Client) -> str:
        """What the proxy can't do."""
        return "" if port.protocol in userspace.PROTOCOLS else f"mode userspace has no {port.protocol.upper()}"

    def parts(self, port: ServicePort, part: Segment | None, endpoints: tuple[Endpoint, ...]) -> Parts:
        """Exactly by weight."""
        return ROUND_ROBIN, {each: each.weight for each in endpoints}

    def retries(self, port: ServicePort) -> bool:
        """Not by the client; see timeouts."""
        return False

    def loops(self, endpoint: Endpoint, who: Client) -> bool:
        """See origins.py."""
        return endpoint.address == who.address


class Ipvs(Manner):
    """Virtual servers: one list of endpoints for everybody at a frontend, and the kernel's schedulers."""

    segments = False

    def chosen(self, port: ServicePort, part: ServicePort | Segment, inner: bool, who: Client) -> tuple[Endpoint, ...]:
        """Under policy Local the node's own clients have those of others only while it has none."""
        if inner:
            return port.internal
        return port.external or (port.cluster if port.external_local and who.kind != "outside" else ())

    def parts(self, port: ServicePort, part: Segment | None, endpoints: tuple[Endpoint, ...]) -> Parts:
        """By weight; where a client's address decides, live.py tells the table."""
        algorithm = port.algorithm if port.algorithm in ipvs.SCHEDULERS else ROUND_ROBIN
        return algorithm, {each: each.weight for each in endpoints}

    def retries(self, port: ServicePort) -> bool:
        """Never."""
        return False


MANNERS: Mapping[str, Manner] = {"nftables": Manner(), "iptables": Iptables(), "userspace": Userspace(), "ipvs": Ipvs()}
"""By mode; where none is at work nothing is met."""


def among(address: str, ranges: Iterable[str]) -> bool:
    """Whether an address is in one of the CIDRs."""
    found = ip_address(address)
    return any(found in ip_network(each) for each in ranges if is_v6(each) == is_v6(address))
