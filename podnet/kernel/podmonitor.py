"""What others change inside pods, heard without entering them.

A socket may listen to all namespaces that its own has a number for (NETLINK_LISTEN_ALL_NSID), and the kernel gives one
to each pod with its veth pair. Such a number is no path, so all that is said is which kind to read again. Most of what
pods do is none of our business: only what bears our mark counts, a route that is replaced, and a link that is not as
it was. What we do ourselves inside pods comes from a netlink port of our own and is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from podnet.kernel import decode
from podnet.kernel.netlink import BURST, READ, ROUTE, listen
from podnet.state.resource import ROUTE_PROTOCOL
from podnet.wire import rtnetlink
from podnet.wire.links import LinkMessage
from podnet.wire.netlink import REPLACE, Message, attributes, messages, number
from podnet.wire.routes import MAIN, AddressMessage, NeighbourMessage, RouteMessage
from podnet.wire.rtnetlink import Change

KINDS = ("PodLink", "Address", "Route", "Neighbour")
"""What there is inside a pod that tells of its changes."""

_GROUPS = (1, 3, 5, 7, 9, 11, 28)
"""RTNLGRP_*: link, neigh, IPv4 address and route, IPv6 address and route, namespace numbers."""

_SOL_NETLINK, _ALL_NAMESPACES = 270, 8
_NUMBER_DELETED, _NUMBER = 89, 1  # RTM_DELNSID, NETNSA_NSID

Shape = tuple[bool | None, int | None, str | None]
Shapes = dict[int, Shape | None]
_NEW: Shape = (None, None, None)  # a link of which nothing was heard yet

Heard = tuple[int, Message]
"""A message, and the number of the namespace that it comes from."""


class PodMonitor:
    """Listens from the namespace at `netns` into those that it has links to; never blocks."""

    def __init__(self, netns: str = "") -> None:
        """Raises NoNamespace."""
        self.socket = listen(netns, ROUTE, _GROUPS)
        self.socket.setsockopt(_SOL_NETLINK, _ALL_NAMESPACES, 1)
        self._shapes: dict[int, Shapes] = {}
        """What links were like, by number of the namespace and ifindex; None for those that are not our business."""

    def hear(self) -> Iterator[Heard]:
        """What was said inside pods since the last call. Raises OSError (ENOBUFS)."""
        for _ in range(BURST):
            try:
                data, ancillary, _flags, _sender = self.socket.recvmsg(READ, 64)
            except BlockingIOError:
                return
            place = _namespace(ancillary)
            for message in messages(data):
                if place is not None:
                    yield place, message
                elif message.kind == _NUMBER_DELETED:  # and soon given to the next pod
                    self._shapes.pop(number(attributes(message.body, 4).get(_NUMBER)), None)

    def judge(self, heard: Iterable[Heard], own: frozenset[int], stays: Callable[[int], bool]) -> Iterator[str]:
        """The kinds that have something to read again.

        `own` are our netlink ports. `stays` tells of an ifindex on the node whether there is such a link, and one that
        we are not about to remove; it has to know of everything that happened before `hear`.
        """
        for place, message in heard:
            change = rtnetlink.decode(message) if message.port not in own else None
            if change is not None:
                yield from self._judge(self._shapes.setdefault(place, {}), change, message.flags, stays)

    def _judge(self, here: Shapes, change: Change, flags: int, stays: Callable[[int], bool]) -> Iterator[str]:
        match change.body:
            case LinkMessage(index=index) if change.verb == "del":
                here.pop(index, None)
            case LinkMessage() as link if link.name == "lo" or stays(link.pair):
                yield from self._link(here, link)
            case LinkMessage(index=index):
                here[index] = None  # it goes with its pair, or is the pod's own
            case AddressMessage() as address if here.get(address.index, _NEW) and change.verb == "del":
                if address.protocol == ROUTE_PROTOCOL:
                    yield from ("Address", "Route")  # a next hop that only it made reachable took its route along
            case RouteMessage() as route if here.get(route.link, _NEW) and route.table == MAIN:
                if decode.our_route(route) or flags & REPLACE:
                    yield "Route"
            case NeighbourMessage() as entry if here.get(entry.index, _NEW) and entry.protocol == ROUTE_PROTOCOL:
                yield "Neighbour"

    def _link(self, here: Shapes, link: LinkMessage) -> Iterator[str]:
        before, now = here.get(link.index), (link.up, link.mtu, link.mac)
        here[link.index] = now
        if before is None or before == now:
            return
        if before[0] and not link.up:
            yield from KINDS
        elif before[1:] != now[1:]:
            yield "PodLink"


def _namespace(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_NETLINK, _ALL_NAMESPACES):
            return number(data)
    return None
