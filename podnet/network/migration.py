"""Changing the scheme of a live cluster without losing a packet: new paths are made before old ones go.

Every node publishes, after applying, which schemes it *accepts* (its kernel can receive them) and which it *sends*
(its routes use them). From these two words of every peer, and the configured scheme, each node decides alone:

    to a peer    send the configured scheme as soon as the peer accepts it; until then one that it does accept
    to receive   accept the configured scheme, and every scheme that some peer still sends

So a change runs in three waves without any coordinator: all accept the new scheme, all send it, all stop accepting the
old one. A node whose agent is down simply stays in the wave it was in, and the others keep talking to it as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.backends import BACKENDS, options, parse_scheme, scheme
from podnet.network.view import NodeInfo, NodeView, is_v6
from podnet.state.resource import Resource


def choose(wanted: str, peer: NodeInfo) -> str:
    """The scheme to use towards a peer; one that never published anything gets the configured one."""
    if not peer.accepts or wanted in peer.accepts:
        return wanted
    return next((name for name in peer.accepts if parse_scheme(name)), wanted)


def schemes(view: NodeView) -> dict[str, list[NodeInfo]]:
    """Every scheme this node has to accept, with the peers it is used towards (perhaps none)."""
    wanted = scheme(view.network.backend)
    used: dict[str, list[NodeInfo]] = {wanted: []}
    for peer in view.peers:
        used.setdefault(choose(wanted, peer), []).append(peer)
        for sent in peer.sends:
            if sent not in used and parse_scheme(sent):
                used[sent] = []
    return used


def connect(view: NodeView) -> Iterator[Resource]:
    """The configured backend towards every peer; while a migration runs, the former one beside it."""
    wanted = scheme(view.network.backend)
    for name, peers in schemes(view).items():
        backend = view.network.backend if name == wanted else parse_scheme(name)
        assert backend is not None, "schemes() yields only what parses"
        yield from BACKENDS[str(backend.get("type", "vxlan"))].connect(view.narrowed(backend, peers))


def published(view: NodeView) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(accepts, sends) as this node may publish them once the view's desired state is applied."""
    used = schemes(view)
    sends = sorted(name for name, peers in used.items() if peers) or [scheme(view.network.backend)]
    return tuple(sorted(used)), tuple(sends)


def pod_mtu(view: NodeView) -> int:
    """Bytes a pod may send in one packet so that it fits every scheme in use and both families."""
    if view.network.mtu:
        return view.network.mtu
    families = {is_v6(cidr) for cidr in view.me.pod_cidrs}
    costs = [0]
    for name in schemes(view):
        backend = parse_scheme(name)
        if backend is not None:
            chosen = options(backend)
            costs += [BACKENDS[chosen.type].overhead(chosen, v6) for v6 in families]
    return view.facts.mtu - max(costs)
