"""What rtnetlink sends by itself: one decoder a message type, and the multicast groups that carry them.

The kernel tells every change of a link, address, route, neighbour, queue or per-link parameter to whoever joined the
group. The messages are those of a dump, so wire/links.py, routes.py and tc.py decode both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from podnet.wire import links, routes, tc
from podnet.wire.links import LinkMessage
from podnet.wire.netlink import Message
from podnet.wire.routes import AddressMessage, FdbMessage, NeighbourMessage, RouteMessage
from podnet.wire.tc import QdiscMessage

Body = LinkMessage | AddressMessage | RouteMessage | NeighbourMessage | FdbMessage | QdiscMessage

GROUPS = (1, 3, 4, 5, 7, 9, 11, 24, 25)
"""RTNLGRP_*: link, neigh, tc, IPv4 address and route, IPv6 address and route, IPv4 and IPv6 netconf."""

NETCONF = frozenset({80, 81})
"""RTM_NEWNETCONF and RTM_DELNETCONF: forwarding, rp_filter, proxy_neigh of a link or of all changed."""

FILTERS = frozenset({tc.NEW_FILTER, tc.DELETE_FILTER})

_DECODERS: dict[int, tuple[Literal["new", "del"], Callable[[bytes], Body | None]]] = {
    links.NEW: ("new", links.decode),
    links.DELETE: ("del", links.decode),
    routes.NEW_ADDRESS: ("new", routes.decode_address),
    routes.DELETE_ADDRESS: ("del", routes.decode_address),
    routes.NEW_ROUTE: ("new", routes.decode_route),
    routes.DELETE_ROUTE: ("del", routes.decode_route),
    routes.NEW_NEIGHBOUR: ("new", routes.decode_neighbour),
    routes.DELETE_NEIGHBOUR: ("del", routes.decode_neighbour),
    tc.NEW_QDISC: ("new", tc.decode_qdisc),
    tc.DELETE_QDISC: ("del", tc.decode_qdisc),
}


class Change(NamedTuple):
    """One object that appeared, changed ("new") or went ("del"). `port` is the netlink port of who did it, or 0."""

    verb: Literal["new", "del"]
    body: Body
    port: int


def decode(message: Message) -> Change | None:
    """What a message reports; None when it is of no interest. Raises Malformed or ValueError."""
    entry = _DECODERS.get(message.kind)
    if entry is None:
        return None
    body = entry[1](message.body)
    return None if body is None else Change(entry[0], body, message.port)
