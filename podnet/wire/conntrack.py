"""Connection tracking entries in ctnetlink (linux/netfilter/nfnetlink_conntrack.h): find, forget and make flows.

A flow is two tuples: how its first packet looked, and how the answers look, which is where a NAT shows. Kernels since
5.8 filter a dump by the parts of either tuple that CTA_FILTER names; an older one sends every flow, so the caller
matches again. An entry is removed by its first tuple and its id, so that a newer flow of the same tuple stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address, ip_network
from operator import attrgetter
from struct import Struct

import msgspec

from podnet.wire.netlink import BE16, BE32, CREATE, DUMP, EXCLUSIVE, Request, attribute, attributes, nest, u8, u32
from podnet.wire.spelling import IPV4, IPV6, ip_text, pack_ip

NEW, GET, DELETE = 0x100, 0x101, 0x102
"""Message types: subsystem 1 and IPCTNL_MSG_CT_*."""

_HEADER = Struct("=BBH")  # struct nfgenmsg
_ORIGINAL, _REPLY, _STATE, _SOURCE_NAT, _TIMEOUT, _ID, _ZONE, _FILTER = 1, 2, 4, 6, 7, 12, 18, 25
_STATE_TCP, _TCP_STATE = 1, 1
_TCP_OVER = {b"\x07", b"\x08"}  # TIME_WAIT, CLOSE
_TUPLE_IP, _TUPLE_PROTOCOL, _TUPLE_ZONE = 1, 2, 3
_NUMBER, _FROM_PORT, _TO_PORT = 1, 2, 3
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2
_BY_SOURCE, _BY_DESTINATION, _BY_PROTOCOL, _BY_TO_PORT = 0x1, 0x2, 0x8, 0x20


Place = tuple[str, int]
"""Address and port."""


class Flow(msgspec.Struct, frozen=True, gc=False):
    """What identifies a flow and what ForgetFlows asks about. `original`, `entry`, `zone`: as the kernel sent them."""

    family: int
    protocol: int
    source: str
    destination: str
    to_port: int
    answered_by: str
    reply_port: int
    original: bytes
    entry: bytes
    zone: bytes = b""


class Pattern(msgspec.Struct, frozen=True, gc=False):
    """Flows of one family whose parts equal every field that is set (not 0 or "").

    `unserved` is a CIDR that the destination is in, and means that nobody translated the flow.
    """

    family: int
    protocol: int = 0
    to_port: int = 0
    source: str = ""
    destination: str = ""
    answered_by: str = ""
    reply_port: int = 0
    unserved: str = ""

    def matches(self, flow: Flow) -> bool:
        """Whether the flow is meant."""
        if self.unserved and (flow.answered_by != flow.destination or not _within(flow.destination, self.unserved)):
            return False
        return flow.family == self.family and all(
            wanted in ("", 0, seen)
            for wanted, seen in (
                (self.protocol, flow.protocol),
                (self.to_port, flow.to_port),
                (self.source, flow.source),
                (self.destination, flow.destination),
                (self.answered_by, flow.answered_by),
                (self.reply_port, flow.reply_port),
            )
        )


class Index:
    """Many patterns at once: as if each were asked, in the time of as many questions as they set different fields."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        asked: dict[tuple[str, ...], set[object]] = {}
        self._asked: list[tuple[Callable[[Pattern | Flow], object], set[object]]] = []
        self._within: list[Pattern] = []
        for pattern in patterns:
            if pattern.unserved:
                self._within.append(pattern)
                continue
            fields = ("family", *(name for name in _FIELDS if getattr(pattern, name)))
            if fields not in asked:
                asked[fields] = set()
                self._asked.append((attrgetter(*fields), asked[fields]))
            asked[fields].add(attrgetter(*fields)(pattern))

    def matches(self, flow: Flow) -> bool:
        """Whether some pattern means the flow."""
        return any(of(flow) in wanted for of, wanted in self._asked) or any(each.matches(flow) for each in self._within)


_FIELDS = ("protocol", "to_port", "source", "destination", "answered_by", "reply_port")


def _within(address: str, cidr: str) -> bool:
    return ip_address(address) in ip_network(cidr)


def dump(pattern: Pattern) -> Request:
    """Ask for the flows that match, and perhaps for more: a pattern is not wholly said in what the kernel filters."""
    seen = _filterable(pattern)
    original = (
        (_BY_SOURCE if seen.source else 0)
        | (_BY_DESTINATION if seen.destination else 0)
        | (_BY_PROTOCOL if seen.protocol else 0)
        | (_BY_TO_PORT if seen.to_port else 0)
    )
    reply = _BY_SOURCE if seen.answered_by else 0
    body = _HEADER.pack(seen.family, 0, 0)
    if original or reply:
        parts = _tuple(seen.family, seen.source, seen.destination, seen.protocol, seen.to_port)
        body += nest(_ORIGINAL, *parts)
        body += nest(_REPLY, *_tuple(seen.family, seen.answered_by)) if reply else b""
        body += nest(_FILTER, u32(_FILTER_ORIGINAL, original), u32(_FILTER_REPLY, reply))
    return Request(GET, DUMP, body)


def _filterable(pattern: Pattern) -> Pattern:
    """A port means nothing without a protocol; and of IPv6 addresses the kernel (5.8 to 6.18 at least) sends exactly
    the flows that do not match, since it takes the result of ipv6_addr_cmp() for equality."""
    plain = pattern if pattern.protocol else msgspec.structs.replace(pattern, to_port=0)
    if pattern.family == IPV4:
        return plain
    return msgspec.structs.replace(plain, source="", destination="", answered_by="")


def _tuple(family: int, source: str, destination: str = "", protocol: int = 0, to_port: int = 0) -> Iterator[bytes]:
    first = 1 if family == IPV4 else 3  # CTA_IP_V4_SRC or CTA_IP_V6_SRC; the destination follows it
    pairs = ((first, source), (first + 1, destination))
    yield nest(_TUPLE_IP, *(attribute(kind, pack_ip(address)) for kind, address in pairs if address))
    if protocol:
        port = attribute(_TO_PORT, BE16.pack(to_port)) if to_port else b""
        yield nest(_TUPLE_PROTOCOL, u8(_NUMBER, protocol), port)


def original(answered_from: Place, to: Place, protocol: int) -> Request:
    """Ask for the one flow whose answers go from one address and port to another; ENOENT when there is none."""
    return Request(GET, 0, _of(answered_from) + _side(_REPLY, protocol, answered_from, to))


def named(protocol: int, source: Place, to: Place) -> Request:
    """Ask for the one flow whose first packet looked so; ENOENT when there is none."""
    return Request(GET, 0, _of(source) + _side(_ORIGINAL, protocol, source, to))


def translated(protocol: int, source: Place, to: Place, seen: str, seconds: int) -> Request:
    """Make a flow that nobody has begun: its packets will leave with the source address `seen`, and with their own
    port unless that is taken. It is gone after `seconds` without a packet. EEXIST when there is one."""
    first = 1 if _of(source)[0] == IPV4 else 4  # CTA_NAT_V4_MINIP, CTA_NAT_V6_MINIP; the end of the range follows
    address = pack_ip(seen)
    body = _of(source) + _side(_ORIGINAL, protocol, source, to) + _side(_REPLY, protocol, to, source)
    body += attribute(_TIMEOUT, BE32.pack(seconds))
    body += nest(_SOURCE_NAT, attribute(first, address), attribute(first + 1, address))
    return Request(NEW, CREATE | EXCLUSIVE, body)


def _of(place: Place) -> bytes:
    return _HEADER.pack(IPV6 if ":" in place[0] else IPV4, 0, 0)


def _side(kind: int, protocol: int, source: Place, to: Place) -> bytes:
    family = IPV6 if ":" in source[0] else IPV4
    addresses, _ = _tuple(family, source[0], to[0], protocol)
    ports = attribute(_FROM_PORT, BE16.pack(source[1])) + attribute(_TO_PORT, BE16.pack(to[1]))
    return nest(kind, addresses, nest(_TUPLE_PROTOCOL, u8(_NUMBER, protocol), ports))


def delete(flow: Flow) -> Request:
    """Remove one flow; ENOENT when it is gone or another has its place."""
    zone = attribute(_ZONE, flow.zone) if flow.zone else b""
    body = _HEADER.pack(flow.family, 0, 0) + nest(_ORIGINAL, flow.original) + attribute(_ID, flow.entry) + zone
    return Request(DELETE, 0, body)


def decode(body: bytes) -> Flow | None:
    """A flow as the kernel describes it; None when it is not IPv4 or IPv6. Raises Malformed."""
    family = body[0]
    if family not in (IPV4, IPV6):
        return None
    found = attributes(body, 4)
    original = attributes(found.get(_ORIGINAL, b""))
    reply = attributes(found.get(_REPLY, b""))
    protocol = attributes(original.get(_TUPLE_PROTOCOL, b""))
    answering = attributes(reply.get(_TUPLE_PROTOCOL, b""))
    source, destination = _addresses(original, family)
    return Flow(
        family,
        int.from_bytes(protocol.get(_NUMBER, b""), "big"),
        source,
        destination,
        int.from_bytes(protocol.get(_TO_PORT, b""), "big"),
        _addresses(reply, family)[0],
        int.from_bytes(answering.get(_FROM_PORT, b""), "big"),
        found.get(_ORIGINAL, b""),
        found.get(_ID, b""),
        found.get(_ZONE, b""),
    )


def lives(body: bytes) -> bool:
    """Whether a flow is still in use, as far as its protocol tells: a TCP connection that ended is kept for a while."""
    state = attributes(attributes(body, 4).get(_STATE, b""))
    return attributes(state.get(_STATE_TCP, b"")).get(_TCP_STATE) not in _TCP_OVER


def _addresses(side: dict[int, bytes], family: int) -> tuple[str, str]:
    found = attributes(side.get(_TUPLE_IP, b""))
    first = 1 if family == IPV4 else 3
    return tuple(ip_text(found[kind]) if kind in found else "" for kind in (first, first + 1))  # type: ignore[return-value]
