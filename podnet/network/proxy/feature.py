"""Services as features of a node: the frame that a mode needs once, the part of each Service, and of each pod.

A mode is a module with the functions of `Mode`; MODES is the list, and `spec.proxy.mode` of the cluster's
configuration chooses. Changing it is a difference like any other: what the old mode had is taken away after what the
new one needs is there, and connections that are established are in the kernel's flow table and stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from podnet.network.proxy import flows, nft_chains, nftables
from podnet.network.service_port import ServicePort
from podnet.network.view import Attachment, NodeView, base_address, is_v6
from podnet.state.host import Action, Sysctl
from podnet.state.plan import Plan
from podnet.state.resource import Resource
from podnet.state.routes import Route

LOCALHOST = "127.0.0.1"


class Mode(Protocol):
    """How one kind of proxy says it to a kernel."""

    def frame(self, view: NodeView) -> Iterator[Resource]:
        """What is needed once, whatever Services there are."""

    def serve(self, view: NodeView, ports: tuple[ServicePort, ...]) -> Iterator[Resource]:
        """One Service's part."""

    def hairpin(self, view: NodeView, attachment: Attachment) -> Iterator[Resource]:
        """What lets a pod of this node reach itself through a Service."""


class Nftables:
    """See nftables.py."""

    def frame(self, view: NodeView) -> Iterator[Resource]:
        """A table and routes for each family of the cluster; 127.0.0.1 may be led to pods."""
        proxy = view.network.proxy
        for v6 in families(view):
            pods, own, ranges = (
                tuple(cidr for cidr in cidrs if is_v6(cidr) == v6)
                for cidrs in (view.network.pod_cidrs, view.me.pod_cidrs, proxy.service_cidrs)
            )
            yield nft_chains.table(nft_chains.Settings(v6, pods, own, view.affinities, ranges, view.retries))
            # A packet of the node itself is routed before it is translated: without a default route it would not leave.
            yield from (Route(cidr, dev=view.facts.uplink, scope_link=not v6) for cidr in ranges)
            if not v6:
                yield Sysctl("net/ipv4/conf/all/route_localnet", "1")

    def serve(self, view: NodeView, ports: tuple[ServicePort, ...]) -> Iterator[Resource]:
        """Elements only."""
        proxy, there = view.network.proxy, families(view)
        for port in ports:
            if port.v6 in there:
                addresses = node_addresses(view, port.v6)
                yield from nftables.elements(port, addresses, proxy.masquerade_all, proxy.source_ranges_for_all)

    def hairpin(self, view: NodeView, attachment: Attachment) -> Iterator[Resource]:
        """An element."""
        there = families(view)
        for address in map(base_address, attachment.addresses):
            if is_v6(address) in there:
                yield nftables.hairpin(address, is_v6(address))


MODES: Mapping[str, Mode] = {"nftables": Nftables()}


def frame(view: NodeView) -> Iterator[Resource]:
    """The node feature."""
    mode = MODES.get(view.network.proxy.mode)
    return mode.frame(view) if mode else iter(())


def serve(view: NodeView, ports: tuple[ServicePort, ...]) -> Iterator[Resource]:
    """The feature of each Service."""
    mode = MODES.get(view.network.proxy.mode)
    return mode.serve(view, ports) if mode else iter(())


def hairpin(view: NodeView, attachment: Attachment) -> Iterator[Resource]:
    """The feature of each pod."""
    mode = MODES.get(view.network.proxy.mode)
    return mode.hairpin(view, attachment) if mode else iter(())


def forget(view: NodeView, plan: Plan) -> Iterator[Action]:
    """The flows that must not stay; see flows.py."""
    return flows.forget(plan, _udp(view))


def _udp(view: NodeView) -> Iterator[tuple[str, int, str]]:
    for ports in view.services.values():
        for port in ports:
            if port.protocol == "udp":
                for frontend in nftables.frontends(port, node_addresses(view, port.v6)):
                    yield from ((frontend.address, frontend.port, each.address) for each in port.endpoints)


def families(view: NodeView) -> tuple[bool, ...]:
    """Of the cluster's pods: IPv4 before IPv6."""
    return tuple(sorted({is_v6(cidr) for cidr in view.network.pod_cidrs}))


def node_addresses(view: NodeView, v6: bool) -> tuple[str, ...]:
    """Where node ports are served."""
    own = tuple(address for address in view.me.addresses if is_v6(address) == v6)
    return own if v6 else (*own, LOCALHOST)
