"""Which clients endpoints get to see with their own address in mode userspace: those that mode nftables keeps.

There a source stays as it is, with four exceptions: who came to an external address, unless the policy is Local; who
came to a cluster address and is no pod; a pod that meets itself; and a pod that leaves the cluster, which masquerades.
The proxy's connections are its own, so it decides the same before it makes them (daemons/dialling.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from podnet.network.pods import bridges
from podnet.network.proxy.bridged import MODULE
from podnet.network.service_port import Endpoint, Scope, ServicePort
from podnet.network.value import Value
from podnet.network.view import NodeView

ANYWHERE = ("0.0.0.0/0", "::/0")

Network = IPv4Network | IPv6Network


class Origins(Value, frozen=True):
    """What decides it, as CIDRs; `nodes` are plain addresses.

    here      the node's own addresses: there is nothing to keep
    pods      who keeps an address at cluster addresses; nobody under masqueradeAll
    own       this node's pods, which leave the cluster with the node's address; inside it are `within` and `nodes`
    apart     pods that answer each other directly, past the node, which could not translate that back
    """

    here: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


def origins(view: NodeView) -> Origins:
    """Of a node."""
    network, own = view.network, view.me.pod_cidrs
    return Origins(
        here=("127.0.0.0/8", "::1/128", *view.local(False), *view.local(True)),
        pods=() if network.proxy.masquerade_all else network.pod_cidrs,
        own=own,
        within=(network.pod_cidrs or own) if network.masquerade else ANYWHERE,
        nodes=tuple(address for node in (view.me, *view.peers) for address in node.addresses),
        apart=own if MODULE in view.facts.missing and bridges(view) else (),
    )


class Keeping:
    """The same, to be asked about each connection."""

    def __init__(self, origins: Origins) -> None:
        self._here, self._pods, self._own, self._within, self._apart = (
            tuple(map(ip_network, each))
            for each in (origins.here, origins.pods, origins.own, origins.within, origins.apart)
        )
        self._nodes = frozenset(origins.nodes)

    def keeps(self, port: ServicePort, scope: Scope, client: str, endpoint: Endpoint) -> bool:
        """Whether `endpoint` is to see the address of a client that came to an address of this scope. One with a zone
        means nothing beyond its link."""
        if client == endpoint.address or "%" in client or not (scope == "cluster" or port.external_local):
            return False
        source, target = ip_address(client), ip_address(endpoint.address)
        if _in(source, self._here) or (scope == "cluster" and not _in(source, self._pods)):
            return False
        if _in(source, self._apart) and _in(target, self._apart):
            return False
        return not _in(source, self._own) or endpoint.address in self._nodes or _in(target, self._within)


def _in(address: IPv4Address | IPv6Address, networks: Iterable[Network]) -> bool:
    return any(network.version == address.version and address in network for network in networks)
