"""Services as features of a node: the frame that a mode needs once, the part of each Service, and of each pod.

MODES is the list of modes, and `spec.proxy.mode` of the cluster's configuration chooses. Changing it is a difference
like any other: what the old mode had is taken away after what the new one needs is there, and connections that are
established are in the kernel's flow table and stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Protocol

from podnet.network.memo import Memo, each, recall
from podnet.network.proxy import bridged, flows, iptables, ipvs, localhost, nft_chains, nftables, unserved, userspace
from podnet.network.proxy.algorithms import LEAST, ROUND_ROBIN, SOURCE_HASH, Flows, Loads, loads
from podnet.network.service_port import ServicePort
from podnet.network.view import Attachment, LocalFacts, NodeView, Problem, base_address, is_v6
from podnet.objects.network import NETWORK_NAME
from podnet.state.host import Action, ForgetFlows
from podnet.state.plan import Plan
from podnet.state.resource import Resource
from podnet.state.routes import Route

LOCALHOST = "127.0.0.1"
Services = Mapping[tuple[str, str], tuple[ServicePort, ...]]


class Mode(Protocol):
    """How one kind of proxy says it to a kernel."""

    def frame(self, view: NodeView) -> Iterator[Resource]:
        """What is needed once, whatever Services there are."""

    def serve(self, view: NodeView, ports: tuple[ServicePort, ...]) -> Iterator[Resource]:
        """One Service's part."""

    def together(self, view: NodeView, services: Services, memo: Memo) -> Iterator[Resource]:
        """What has a part of every Service in it."""

    def hairpin(self, view: NodeView, attachment: Attachment) -> Iterator[Resource]:
        """What lets a pod of this node reach itself through a Service."""

    def forget(self, view: NodeView, plan: Plan) -> Iterator[Action]:
        """The flows that a difference has made wrong."""


class Nftables:
    """See nftables.py."""

    def frame(self, view: NodeView) -> Iterator[Resource]:
        """A table and routes for each family of the cluster; 127.0.0.1 may be led to pods."""
        algorithms = tuple(name for name in view.algorithms if name in (ROUND_ROBIN, SOURCE_HASH))
        for v6 in families(view):
            pods, own, ranges = _ranges(view, v6)
            yield nft_chains.table(
                nft_chains.Settings(v6, pods, own, view.affinities, ranges, view.retries, algorithms)
            )
            yield from routes(view, v6)
            if not v6:
                yield localhost.ALLOWED

    def serve(self, view: NodeView, ports: tuple[ServicePort, ...]) -> Iterator[Resource]:
        """Elements only."""
        proxy, there = view.network.proxy, families(view)
        for port in ports:
            if port.v6 in there:
                addresses = node_addresses(view, port.v6)
                yield from nftables.elements(port, addresses, proxy.masquerade_all, proxy.source_ranges_for_all)

    def together(self, view: NodeView, services: Services, memo: Memo) -> Iterator[Resource]:
        """Nothing."""
        return iter(())

    def hairpin(self, view: NodeView, attachment: Attachment) -> Iterator[Resource]:
        """An element."""
        there = families(view)
        for address in map(base_address, attachment.addresses):
            if is_v6(address) in there:
                yield nftables.hairpin(address, is_v6(address))

    def forget(self, view: NodeView, plan: Plan) -> Iterator[Action]:
        """See flows.py."""
        return flows.forget(plan, (reached for _, reached in _udp(view)))


class Iptables:
    """See iptables.py."""

    def frame(self, view: NodeView) -> Iterator[Resource]:
        """Routes, and a table for what kube-proxy's chains do not do; they are in `together`."""
        for v6 in families(view):
            yield unserved.table(v6, _ranges(view, v6)[2])
            yield from routes(view, v6)

    def serve(self, view: NodeView, ports: tuple[ServicePort, ...]) -> Iterator[Resource]:
        """The chains that are this Service's alone."""
        for port in _of(view, ports):
            yield from unserved.serve(port)
            yield from iptables.own(port, _settings(view, port.v6))

    def together(self, view: NodeView, services: Services, memo: Memo) -> Iterator[Resource]:
        """The chains in which every Service has lines."""

        def lines(key: tuple[str, str]) -> tuple[tuple[bool, iptables.Line], ...]:
            ports = _of(view, services[key])
            return tuple((port.v6, line) for port in ports for line in iptables.shared(port, _settings(view, port.v6)))

        said = each(memo, "lines", (view,), (services,), lines, lambda key: key)
        for v6 in families(view):
            own = (line for key in sorted(said) for family, line in said[key] if family == v6)
            yield from iptables.frame(own, _settings(view, v6))

    def hairpin(self, view: NodeView, attachment: Attachment) -> Iterator[Resource]:
        """Nothing: a rule for each endpoint does it."""
        return iter(())

    def forget(self, view: NodeView, plan: Plan) -> Iterator[Action]:
        """See flows.py."""
        coded = ((iptables.code(port), *reached) for port, reached in _udp(view))
        own = (address for v6 in families(view) for address in node_addresses(view, v6))
        return flows.forget_chains(plan, coded, own)


class Userspace:
    """See userspace.py."""

    frame = staticmethod(userspace.frame)
    serve = staticmethod(userspace.serve)
    hairpin = staticmethod(userspace.hairpin)
    forget = staticmethod(userspace.forget)

    def together(self, view: NodeView, services: Services, memo: Memo) -> Iterator[Resource]:
        """Nothing."""
        return iter(())


class Ipvs:
    """See ipvs.py."""

    def frame(self, view: NodeView) -> Iterator[Resource]:
        """A table and routes for each family of the cluster, and the link that has the addresses."""
        for v6 in families(view):
            yield ipvs.table(ipvs.Settings(v6, *_ranges(view, v6)))
            yield from routes(view, v6)
        yield from ipvs.link()

    def serve(self, view: NodeView, ports: tuple[ServicePort, ...]) -> Iterator[Resource]:
        """Virtual servers, the cluster's addresses and elements."""
        proxy = view.network.proxy
        for port in _of(view, ports):
            served = tuple(each for each in node_addresses(view, port.v6) if each != LOCALHOST)
            settings = ipvs.Serving(view.local(port.v6), served, proxy.masquerade_all, proxy.source_ranges_for_all)
            yield from ipvs.serve(port, settings)

    def together(self, view: NodeView, services: Services, memo: Memo) -> Iterator[Resource]:
        """External addresses: several Services may have ports at the same one."""

        def outer(key: tuple[str, str]) -> tuple[str, ...]:
            return tuple(at for port in _of(view, services[key]) for at in (*port.external_ips, *port.balancer_ips))

        said = each(memo, "outer addresses", (view,), (services,), outer, lambda key: key)
        inner = {port.cluster_ip for ports in services.values() for port in ports}
        for at in sorted({at for some in said.values() for at in some} - inner):
            yield from ipvs.address(at, cluster=False)

    def hairpin(self, view: NodeView, attachment: Attachment) -> Iterator[Resource]:
        """An element."""
        there = families(view)
        for address in map(base_address, attachment.addresses):
            if is_v6(address) in there:
                yield ipvs.hairpin(address, is_v6(address))

    def forget(self, view: NodeView, plan: Plan) -> Iterator[Action]:
        """See ipvs.py."""
        return ipvs.forget(plan)


MODES: Mapping[str, Mode] = {"nftables": Nftables(), "iptables": Iptables(), "userspace": Userspace(), "ipvs": Ipvs()}

MODULE = "ip_vs"


def mode_of(view: NodeView) -> Mode | None:
    """What `spec.proxy.mode` asks for; None for "none", or for what nobody knows."""
    return MODES.get(mode_name(view))


def mode_name(view: NodeView) -> str:
    """What this node does, whatever it was asked for."""
    return mode_in_force(view.network.proxy.mode, view.facts)


def mode_in_force(mode: str, facts: LocalFacts) -> str:
    """What a node with these facts does when it is asked for `mode`."""
    return "nftables" if _refused(mode, facts) else mode


def _refused(mode: str, facts: LocalFacts) -> bool:
    return (mode == "ipvs" and MODULE in facts.missing) or (mode == "iptables" and bool(facts.others))


def refusal(view: NodeView) -> Problem | None:
    """Why this node does not do what `spec.proxy.mode` asks for; Services stay reachable by mode nftables."""
    mode, facts = view.network.proxy.mode, view.facts
    if not _refused(mode, facts):
        return None
    if mode == "ipvs":
        why, what = f"kernel module {MODULE}: {facts.missing[MODULE]}", ""
    else:
        why = f"another kube-proxy's rules stand in {' and '.join(facts.others)}"
        what = ": stop it there and run kube-proxy --cleanup"
    message = f"spec.proxy.mode {mode} is refused: {why}; this node uses mode nftables instead{what}"
    return Problem(f"NetworkConfig/{NETWORK_NAME}", "ProxyModeRefused", message, "spec.proxy.mode")


def frame(view: NodeView) -> Iterator[Resource]:
    """The node feature."""
    mode = mode_of(view)
    if mode is not None:
        yield from mode.frame(view)
        yield from bridged.pass_the_node(view)


def serve(view: NodeView, ports: tuple[ServicePort, ...]) -> Iterator[Resource]:
    """The feature of each Service."""
    mode = mode_of(view)
    return mode.serve(view, ports) if mode else iter(())


def together(view: NodeView, services: Services, memo: Memo) -> tuple[Resource, ...]:
    """The feature of all Services."""
    mode = mode_of(view)
    if mode is None:
        return ()
    return recall(memo, "together", (view, services), lambda: tuple(mode.together(view, services, memo)))


def hairpin(view: NodeView, attachment: Attachment) -> Iterator[Resource]:
    """The feature of each pod."""
    mode = mode_of(view)
    return mode.hairpin(view, attachment) if mode else iter(())


def forget(view: NodeView, plan: Plan) -> Iterator[Action]:
    """The flows that must not stay. Every mode looks for what was its own: it may just have been left.

    Who asked for a Service before any mode was there would go on unserved, also when it sends its SYN again.
    """
    for mode in MODES.values():
        yield from mode.forget(view, plan)
    ranges = view.network.proxy.service_cidrs
    for step in plan.steps:
        if step.verb == "add" and isinstance(step.resource, Route) and step.resource.dst in ranges:
            yield ForgetFlows(unserved=step.resource.dst)


def least_loaded(view: NodeView, flows: Flows) -> Loads:
    """The weights that connections ask for, of Services balanced by them."""
    ports = (port for several in view.services.values() for port in several if port.algorithm == LEAST)
    placed = (
        (port, (nftables.PROTOCOLS[port.protocol], where.address, where.port))
        for port in ports
        for where in nftables.frontends(port, node_addresses(view, port.v6))
    )
    return loads(placed, flows)


def _udp(view: NodeView) -> Iterator[tuple[ServicePort, flows.Reached]]:
    for ports in view.services.values():
        for port in ports:
            if port.protocol == "udp":
                for where in nftables.frontends(port, node_addresses(view, port.v6)):
                    yield from ((port, (where.address, where.port, each.address, each.port)) for each in port.endpoints)


def _of(view: NodeView, ports: tuple[ServicePort, ...]) -> Iterator[ServicePort]:
    there = families(view)
    return (port for port in ports if port.v6 in there)


def _ranges(view: NodeView, v6: bool) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Of one family: the cluster's for pods, this node's, those for Services."""
    pods, own, services = (
        tuple(cidr for cidr in cidrs if is_v6(cidr) == v6)
        for cidrs in (view.network.pod_cidrs, view.me.pod_cidrs, view.network.proxy.service_cidrs)
    )
    return pods, own, services


def _settings(view: NodeView, v6: bool) -> iptables.Settings:
    proxy = view.network.proxy
    return iptables.Settings(
        v6=v6,
        cluster_cidr=next((cidr for cidr in view.me.pod_cidrs if is_v6(cidr) == v6), ""),
        masquerade_all=proxy.masquerade_all,
        node_port_addresses=view.node_ports_at(v6),
        node_addresses=tuple(address for address in view.me.addresses if is_v6(address) == v6),
        other_addresses=tuple(address for address in view.local(v6) if address not in view.me.addresses),
        ranges_for_all=proxy.source_ranges_for_all,
    )


def routes(view: NodeView, v6: bool) -> Iterator[Route]:
    """To cluster addresses. A packet of the node itself is routed before it is translated: without a default route it
    would not leave."""
    for cidr in view.network.proxy.service_cidrs:
        if is_v6(cidr) == v6:
            yield Route(cidr, dev=view.facts.uplink, scope_link=not v6)


def families(view: NodeView) -> tuple[bool, ...]:
    """Of the cluster's pods: IPv4 before IPv6."""
    return tuple(sorted({is_v6(cidr) for cidr in view.network.pod_cidrs}))


def node_addresses(view: NodeView, v6: bool) -> tuple[str, ...]:
    """Where node ports are served: where the configuration says; everywhere in a family of which it says nothing."""
    chosen = tuple(ip_network(cidr, strict=False) for cidr in view.node_ports_at(v6))
    every = view.local(v6) if v6 else (*view.local(v6), LOCALHOST)
    return tuple(address for address in every if not chosen or any(ip_address(address) in cidr for cidr in chosen))
