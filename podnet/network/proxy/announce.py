"""Which node answers for a load balancer's address on the nodes' own link, so that an outside host finds exactly one.

Every node computes the same: the candidates are the nodes that are Ready, under externalTrafficPolicy Local those of
them with an endpoint, and the one whose name hashes highest with the address has it (rendezvous hashing). When a node
dies only its own addresses move; when it returns it gets the same ones back.

The node that has an address bears it on its uplink, alone (/32, /128) and deprecated, so that nothing is ever sent from
it: the kernel then answers ARP and NDP by itself, also while no agent runs. A gratuitous ARP or unsolicited neighbour
advertisement tells those who knew another node. Packets are translated before they could be taken for the node's own,
on every node alike, so a pod's way to the address does not depend on who announces it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256

from podnet.network.proxy.service_ports import PROXY_NAME
from podnet.network.value import Value
from podnet.network.view import NodeView, is_v6, on_link
from podnet.objects.core import Node
from podnet.objects.services import EndpointSlice, Service
from podnet.state.host import Action, Announce
from podnet.state.plan import Plan
from podnet.state.resource import LINK_PREFIX, Resource
from podnet.state.routes import Address

CLASS = "podnet.dev/pool"
"""The loadBalancerClass of addresses from podnet's own pool."""

EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"


class Claim(Value, frozen=True):
    """An address that some node has to answer for: one of `nodes`, None: whichever."""

    address: str
    nodes: tuple[str, ...] | None = None


def fit(nodes: Iterable[Node]) -> tuple[str, ...]:
    """The names of the nodes that may announce: Ready, and not excluded from load balancers."""
    return tuple(sorted(node.metadata.name for node in nodes if _ready(node) and EXCLUDED not in node.metadata.labels))


def claims(service: Service, slices: Iterable[EndpointSlice], classless: bool = True) -> Iterator[Claim]:
    """The addresses of a Service's load balancer, if that is podnet's; `classless`: whether podnet is the load
    balancer of Services that name no class."""
    spec = service.spec
    ours = spec.load_balancer_class == CLASS or (classless and spec.load_balancer_class is None)
    if spec.type != "LoadBalancer" or not ours or PROXY_NAME in service.metadata.labels:
        return
    nodes = _bearers(slices) if spec.external_traffic_policy == "Local" else None
    for entry in service.status.load_balancer.ingress:
        if entry.ip and entry.ip_mode == "VIP":
            yield Claim(entry.ip, nodes)


def announced(node: str, candidates: Iterable[str], wanted: Iterable[Claim]) -> tuple[str, ...]:
    """The addresses that `node` has to answer for. An address of several Services goes where all of them can be."""
    candidates = tuple(candidates)
    nodes: dict[str, tuple[str, ...]] = {}
    for claim in wanted:
        before = nodes.get(claim.address, candidates)
        both = before if claim.nodes is None else tuple(name for name in before if name in claim.nodes)
        nodes[claim.address] = both or before
    return tuple(sorted(address for address, names in nodes.items() if announcer(address, names) == node))


def announcer(address: str, candidates: Iterable[str]) -> str | None:
    """The one candidate that answers for an address; None when there is no candidate."""
    return max(candidates, key=lambda name: (sha256(f"{name} {address}".encode()).digest(), name), default=None)


def bear(view: NodeView, addresses: Iterable[str]) -> Iterator[Resource]:
    """What makes this node's kernel answer; others than those directly on the uplink nobody would ask for."""
    for address in addresses:
        if on_link(view.facts, address):
            yield Address(view.facts.uplink, f"{address}/{128 if is_v6(address) else 32}", deprecated=True)


def tell(plan: Plan) -> Iterator[Action]:
    """The announcements of addresses that came; computed from the difference alone. On links of ours nobody listens."""
    for step in plan.steps:
        address = step.resource
        if step.verb != "delete" and isinstance(address, Address) and address.deprecated and not _ours(address.dev):
            yield Announce(address.dev, address.address.partition("/")[0])


def _ours(dev: str) -> bool:
    return dev.startswith(LINK_PREFIX)


def _ready(node: Node) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in node.status.conditions)


def _bearers(slices: Iterable[EndpointSlice]) -> tuple[str, ...]:
    """The nodes of ready endpoints, or of those that still serve; none at all leave it to any node."""
    ready: dict[str, None] = {}
    serving: dict[str, None] = {}
    for piece in slices:
        for entry in piece.endpoints:
            if entry.node_name and entry.conditions.ready is not False:
                ready[entry.node_name] = None
            elif entry.node_name and entry.conditions.serving is not False and entry.conditions.terminating:
                serving[entry.node_name] = None
    return tuple(sorted(ready or serving))
