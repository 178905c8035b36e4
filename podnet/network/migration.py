"""Changing the scheme of a live cluster without losing a packet: the receiver chooses, and old paths go last.

Every node publishes, after applying, two lists of words. A word is a scheme and how often it was chosen anew, such as
`host-gw` at first and `vxlan@3` after some changes of mind, so that a word which was left never comes back.

    accepts   first the word this node wants to be sent; then whatever else its kernel can still receive
    sends     the first words of its peers, which its routes follow

From what it last heard of the others, however old, each node decides alone:

    to a peer    send what the peer wants (what I want myself, while the peer never said anything)
    to receive   accept what I want; and all I accepted before, until every peer says that it sends my newest word only

So a change runs in three waves without any coordinator: all accept the new scheme and ask for it, all send it, all stop
accepting the old one. A node whose agent is down simply stays in the wave it was in, and the others keep talking to it
as it is; old paths are then kept until it is back or its Node object is gone.

Why no packet is lost: nobody sends me anything that I did not ask for before. A peer that says it sends my newest word
only has read it, so it has read all I asked for earlier and will never act on that again. Hence what is not my newest
word can go. This needs that an agent never reads the API backwards, that it decides knowing what it last tried to say
(`said` of view()), and that it says nothing which it decided before its last look.
Two options of one scheme that share a device (directRouting) are one word: both ends can receive both.
"""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.backends import BACKENDS, options, parse_scheme, scheme
from podnet.network.view import NodeInfo, NodeView, is_v6
from podnet.state.resource import Resource


def wanted(view: NodeView) -> str:
    """The word this node asks its peers to send: the peers' own if it is new to this node, so that all agree on one."""
    name = scheme(view.network.backend)
    last, count = _split(view.me.accepts[0]) if view.me.accepts else ("", -1)
    heard = [_split(word) for node in (view.me, *view.peers) for word in (*node.accepts, *node.sends)]
    known = max((number for word, number in heard if word == name), default=-1)
    if known < max(0, count + (last != name)):
        known = 1 + max((number for _, number in heard), default=-1)
    return f"{name}@{known}" if known else name


def asked(peer: NodeInfo, mine: str) -> str:
    """The word to send a peer."""
    return next((word for word in peer.accepts if parse_scheme(_split(word)[0])), mine)


def schemes(view: NodeView) -> dict[str, list[NodeInfo]]:
    """Every scheme this node has to accept, its own first, with the peers it is used towards (perhaps none)."""
    mine = wanted(view)
    used: dict[str, list[NodeInfo]] = {_split(word)[0]: [] for word in _accepted(view, mine)}
    for peer in view.peers:
        used.setdefault(_split(asked(peer, mine))[0], []).append(peer)
    return used


def connect(view: NodeView) -> Iterator[Resource]:
    """The configured backend towards every peer; while a migration runs, the former ones beside it."""
    own = scheme(view.network.backend)
    for name, peers in schemes(view).items():
        backend = view.network.backend if name == own else parse_scheme(name)
        assert backend is not None, "schemes() yields only what parses"
        yield from BACKENDS[str(backend.get("type", "vxlan"))].connect(view.narrowed(backend, peers))


def published(view: NodeView) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(accepts, sends) as this node may publish them once the view's desired state is applied."""
    mine = wanted(view)
    sends = {asked(peer, mine) for peer in view.peers} or {mine}
    return _accepted(view, mine), tuple(sorted(sends))


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


def _accepted(view: NodeView, mine: str) -> tuple[str, ...]:
    """My word, and until every peer follows it, one for each other scheme that was or is in use."""
    words = {_split(mine)[0]: mine}
    if any(peer.sends != (mine,) for peer in view.peers):
        for word in (*view.me.accepts, *(word for peer in view.peers for word in peer.sends)):
            name = _split(word)[0]
            if parse_scheme(name):
                words.setdefault(name, word)
    return tuple(words.values())


def _split(word: str) -> tuple[str, int]:
    """The scheme and the count of a word."""
    name, _, count = word.partition("@")
    return name, int(count) if count.isdecimal() and len(count) < 10 else 0
