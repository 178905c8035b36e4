"""What the kernel says changed: multicast sockets, turned into few words for the reconciler.

An event is a pair. ("new", resource) and ("del", resource): an object with our mark, as it is now or was. ("foreign",
resource): an object without our mark came or went that may stand where one of ours is wanted. ("dirty", kind):
something of that kind changed in a way that only a reading can tell; "facts" stands for the node's own links and
addresses, "all" for everything, after the kernel had more to say than the socket could hold. Of pods only kinds are
told (podmonitor.py). Changes that we made are not reported where that can be told (own.py); elsewhere they agree with
what the reconciler knows.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Container, Iterator
from typing import Literal

import msgspec

from podnet.kernel import decode
from podnet.kernel.netlink import BURST, NETFILTER, READ, ROUTE, Netlink, listen
from podnet.kernel.own import Own
from podnet.kernel.podmonitor import Heard, PodMonitor
from podnet.state.resource import TABLE_PREFIX, Resource
from podnet.wire import links, rtnetlink
from podnet.wire.links import LinkMessage
from podnet.wire.netlink import Message, attributes, messages, number, string
from podnet.wire.routes import BRIDGE, MAIN, AddressMessage, FdbMessage, NeighbourMessage, RouteMessage
from podnet.wire.tc import INGRESS, QdiscMessage

Event = tuple[Literal["new", "del", "foreign", "dirty"], Resource | str]

_NFTABLES_GROUP, _NFTABLES = 7, 10  # multicast group; subsystem, the upper byte of a message's type
_ELEMENT_MESSAGES = frozenset({12, 13, 14})  # NFT_MSG_*SETELEM

LOST_WHEN_DOWN = ("Address", "Route", "Neighbour", "FdbEntry")
"""A link that goes down takes these along, the IPv4 routes among them without a word."""


class Monitor:
    """Listens in the namespace at `netns`; never blocks. `own` is that of the dataplane for the same namespace."""

    def __init__(self, netns: str = "", own: Own | None = None) -> None:
        """Raises NoNamespace."""
        self._own = own or Own()
        self._route = listen(netns, ROUTE, rtnetlink.GROUPS)
        self._nft = listen(netns, NETFILTER, (_NFTABLES_GROUP,))
        self._pods = PodMonitor(netns)
        self._links: dict[int, LinkMessage] = {}
        self._names: dict[int, str] = {}
        with Netlink(ROUTE, netns) as netlink:  # after joining, so nothing is missed
            for body in netlink.dump(links.dump()):
                self._know(links.decode(body))

    @property
    def filenos(self) -> tuple[int, ...]:
        """What to wait on until it is readable."""
        return (self._route.fileno(), self._nft.fileno(), self._pods.socket.fileno())

    def close(self) -> None:
        """Stop listening."""
        self._route.close()
        self._nft.close()
        self._pods.socket.close()

    def read(self) -> list[Event]:
        """What has happened since the last call, each thing once, in order."""
        own = self._own.ports()
        events: dict[Event, None] = {}
        heard: list[Heard] = []
        for source in (self._inside(heard), self._node(own), self._tables(own), self._judged(heard, own)):
            try:
                for event in source:
                    events.pop(event, None)  # the last time counts
                    events[event] = None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                events["dirty", "all"] = None
        return list(events)

    def _node(self, own: frozenset[int]) -> Iterator[Event]:
        for message in _newest(list(_drain(self._route)), self._names):
            yield from self._changed(message, own)

    def _tables(self, own: frozenset[int]) -> Iterator[Event]:
        for message in _drain(self._nft):
            yield from _table_changed(message, own)

    def _inside(self, heard: list[Heard]) -> Iterator[Event]:
        """Heard before the node's own news and judged after it: what comes of a link depends on its other end."""
        heard.extend(self._pods.hear())
        yield from ()

    def _judged(self, heard: list[Heard], own: frozenset[int]) -> Iterator[Event]:
        for kind in self._pods.judge(heard, own, self._stays):
            yield "dirty", kind

    def _stays(self, index: int) -> bool:
        return index in self._names and not self._own.removes(self._names[index], gone=False)

    def _changed(self, message: Message, own: frozenset[int]) -> Iterator[Event]:
        if message.kind in (links.NEW, links.DELETE):
            if message.body[0] == BRIDGE:
                yield from self._port(message)
            else:
                yield from self._link(message.kind == links.NEW, links.decode(message.body))
        elif message.kind in rtnetlink.NETCONF:
            if len(attributes(message.body, 4)) == 2:  # a link and one parameter; a new link's come all at once
                yield "dirty", "Sysctl"
        elif message.port in own:
            return
        elif message.kind in rtnetlink.FILTERS:
            yield "dirty", "Redirect"
        else:
            change = rtnetlink.decode(message)
            if change is not None:
                yield from self._object(change.verb == "new", change.body)

    def _know(self, link: LinkMessage) -> LinkMessage | None:
        """Take note of a link; returns what was known of it."""
        before = self._links.get(link.index)
        self._links[link.index] = link
        self._names[link.index] = link.name
        return before

    def _port(self, message: Message) -> Iterator[Event]:
        """A bridge speaks of its port: the one thing it says alone is the hairpin flag."""
        index, hairpin = links.decode_port(message.body)
        known = self._links.get(index)
        if message.kind == links.NEW and known is not None and hairpin != known.hairpin:
            yield from self._link(True, msgspec.structs.replace(known, hairpin=hairpin))

    def _link(self, present: bool, link: LinkMessage) -> Iterator[Event]:
        before = self._know(link)
        if not present:
            del self._links[link.index], self._names[link.index]
        down = not present or (before is not None and before.up and not link.up)
        if down and not self._own.removes(link.name, gone=not present):
            yield from (("dirty", kind) for kind in LOST_WHEN_DOWN)
        if before is not None and before.name != link.name and decode.our_link(before.name):
            yield "dirty", "Link"
        if decode.our_link(link.name):
            yield "new" if present else "del", decode.link(link, self._names)
        elif not present or before is None or _differs(before, link):
            yield "dirty", "facts"

    def _object(self, present: bool, body: rtnetlink.Body) -> Iterator[Event]:
        match body:
            case AddressMessage():
                yield from self._address(present, body)
            case RouteMessage() if body.table == MAIN:
                route = decode.route(body, self._names, "")
                yield _verb(present, decode.our_route(body)), route
            case NeighbourMessage():
                neighbour = decode.neighbour(body, self._names, "")
                yield _verb(present, decode.our_neighbour(body, neighbour.dev, "")), neighbour
            case FdbMessage():
                entry = decode.fdb_entry(body, self._names)
                yield _verb(present, decode.our_fdb_entry(body, entry.dev)), entry
            case QdiscMessage() if decode.our_link(self._names.get(body.index, "")):
                yield "dirty", "Redirect" if body.parent == INGRESS else "Shaper"

    def _address(self, present: bool, message: AddressMessage) -> Iterator[Event]:
        address = decode.address(message, self._names, "")
        ours = decode.our_address(message, address.dev, "")
        yield _verb(present, ours), address
        if not present and not self._own.removes(address.dev, gone=False):
            yield "dirty", "Route"  # one that had it as its source went without a word
        if not ours and not decode.our_link(address.dev):
            yield "dirty", "facts"


def _newest(heard: list[Message], known: Container[int]) -> Iterator[Message]:
    """Without what is said of a link again while it stays up or down: making one pod is a dozen such messages, and
    decoding them is most of what listening costs. The first word about a new link stays: it has the name by which what
    follows is told."""
    news = [message for message in heard if message.kind == links.NEW]
    newest = {_about(message): message for message in news}
    first = {index: message for message in reversed(news) if (index := _index(message)) not in known}
    for message in heard:
        repeated = message.kind == links.NEW and message is not newest[_about(message)]
        if not repeated or message is first.get(_index(message)):
            yield message


def _index(message: Message) -> int:
    """The ifindex of struct ifinfomsg."""
    return number(message.body[4:8])


def _about(message: Message) -> bytes:
    """Family, type and ifindex of struct ifinfomsg, and of its flags whether the link is up (IFF_UP)."""
    return message.body[:8] + bytes((number(message.body[8:12]) & 1,))


def _verb(present: bool, ours: bool) -> Literal["new", "del", "foreign"]:
    """An object that lost our mark is foreign: the reconciler knows whether it wants the place."""
    if not ours:
        return "foreign"
    return "new" if present else "del"


def _differs(before: LinkMessage, link: LinkMessage) -> bool:
    """Whether a link that is not ours changed in what the node's facts are made of."""
    return (before.name, before.up, before.mtu, before.mac) != (link.name, link.up, link.mtu, link.mac)


def _table_changed(message: Message, own: frozenset[int]) -> Iterator[Event]:
    """Each nftables message but the last of a transaction names its table in its first attribute."""
    if message.kind >> 8 != _NFTABLES or message.port in own:
        return
    if string(attributes(message.body, 4).get(1)).startswith(TABLE_PREFIX):
        yield "dirty", "Element"
        if message.kind & 0xFF not in _ELEMENT_MESSAGES:
            yield "dirty", "NftTable"


def _drain(channel: socket.socket) -> Iterator[Message]:
    for _ in range(BURST):
        try:
            data = channel.recv(READ)
        except BlockingIOError:
            return
        yield from messages(data)
