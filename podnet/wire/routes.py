"""Addresses, routes, neighbours and forwarding entries in rtnetlink (linux/rtnetlink.h, neighbour.h, if_addr.h).

One Struct a message, for sending and receiving alike, with ifindexes. Routes are the hot path: ten thousand of them
are written and read in a tenth of a second, so their code prefers few calls to symmetry.
"""

from __future__ import annotations

from struct import Struct

import msgspec

from podnet.wire.netlink import CREATE, DUMP, REPLACE, Request, attribute, attributes, number, u8, u32
from podnet.wire.spelling import IPV4, IPV6, family_of, ip_text, mac_text, pack_ip, pack_mac

NEW_ADDRESS, DELETE_ADDRESS, GET_ADDRESS = 20, 21, 22
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
NEW_NEIGHBOUR, DELETE_NEIGHBOUR, GET_NEIGHBOUR = 28, 29, 30
"""Message types (RTM_*)."""

BRIDGE = 7
"""AF_BRIDGE: a neighbour message of this family is a forwarding entry."""

MAIN = 254
"""The main routing table."""

UNIVERSE, LINK, NOWHERE = 0, 253, 255
"""Scopes: anywhere, directly on the link; and, to delete a route, whichever it has."""

PERMANENT = 0x80
"""Set for an address that has no end of life (IFA_F_PERMANENT), and as a neighbour's state (NUD_PERMANENT)."""

_ADDRESS = Struct("=BBBBI")  # struct ifaddrmsg
_NO_DAD = 0x02
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_LIFETIMES, _IFA_FLAGS, _IFA_PROTOCOL = 1, 2, 4, 6, 8, 11
_DEPRECATED = 0x20
_LIFETIMES = Struct("=IIII")  # struct ifa_cacheinfo: preferred, valid, and when made and changed
_FOREVER = 0xFFFFFFFF

_ROUTE = Struct("=BBBBBBBBI")  # struct rtmsg
_DST, _OIF, _GATEWAY, _SOURCE, _TABLE = 1, 4, 5, 7, 15
_UNICAST, _ANY_KIND = 1, 0
_KINDS = frozenset({_UNICAST, 6, 7, 8, 9})  # blackhole, unreachable, prohibit, throw; not what the kernel makes itself
_ONLINK = 0x4

_NEIGHBOUR = Struct("=BxxxiHBB")  # struct ndmsg
_ND_DST, _ND_MAC, _ND_PROTOCOL = 1, 2, 12
_SELF, _PROXIED = 0x02, 0x08


class AddressMessage(msgspec.Struct, frozen=True, gc=False):
    """An address on a link. `protocol` says who made it (0: unknown; kernels before 5.18 never tell)."""

    index: int
    address: str
    prefix: int
    scope: int = UNIVERSE
    permanent: bool = True
    protocol: int = 0
    deprecated: bool = False


def add_address(message: AddressMessage) -> Request:
    """Set an address without duplicate address detection, or make an existing one permanent."""
    return Request(NEW_ADDRESS, CREATE | REPLACE, _encode_address(message))


def delete_address(message: AddressMessage) -> Request:
    """Remove an address; EADDRNOTAVAIL when it is not there."""
    return Request(DELETE_ADDRESS, 0, _encode_address(message))


def dump_addresses() -> Request:
    """Ask for all addresses of both families."""
    return Request(GET_ADDRESS, DUMP, _ADDRESS.pack(0, 0, 0, 0, 0))


def _encode_address(message: AddressMessage) -> bytes:
    data = pack_ip(message.address)
    flags = (PERMANENT if message.permanent else 0) | (_DEPRECATED if message.deprecated else 0) | _NO_DAD
    body = (
        _ADDRESS.pack(IPV4 if len(data) == 4 else IPV6, message.prefix, flags, message.scope, message.index)
        + attribute(_IFA_LOCAL, data)
        + attribute(_IFA_ADDRESS, data)
        + u32(_IFA_FLAGS, flags)
        + u8(_IFA_PROTOCOL, message.protocol)
    )
    if len(data) == 4 and message.prefix < 31:
        body += attribute(_IFA_BROADCAST, _broadcast(data, message.prefix))
    if message.deprecated:
        body += attribute(_IFA_LIFETIMES, _LIFETIMES.pack(0, _FOREVER, 0, 0))
    return body


def _broadcast(data: bytes, prefix: int) -> bytes:
    """As the CNI plugins and every installer set it; the kernel itself leaves it 0.0.0.0."""
    return (int.from_bytes(data, "big") | (1 << (32 - prefix)) - 1).to_bytes(4, "big")


def decode_address(body: bytes) -> AddressMessage:
    """An address as the kernel describes it. Raises Malformed or ValueError."""
    _family, prefix, flags, scope, index = _ADDRESS.unpack_from(body)
    found = attributes(body, 8)
    data = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS) or b""
    flags = number(found.get(_IFA_FLAGS)) or flags
    return AddressMessage(
        index,
        ip_text(data),
        prefix,
        scope,
        bool(flags & PERMANENT),
        number(found.get(_IFA_PROTOCOL)),
        bool(flags & _DEPRECATED),
    )


class RouteMessage(msgspec.Struct, frozen=True, gc=False):
    """A route: destination address and prefix length, next hop ("": none), out ifindex (0: let it be found).

    We make unicast routes only. A blackhole or the like is read as a route without next hop and link, so it equals none
    of ours. Deleting with the scope NOWHERE means whichever route of this protocol is there.
    """

    dst: str
    prefix: int
    gateway: str = ""
    link: int = 0
    source: str = ""
    scope: int = UNIVERSE
    onlink: bool = False
    protocol: int = 0
    table: int = MAIN


def replace_route(message: RouteMessage) -> Request:
    """Make the route to this destination so, in one step also when there was another."""
    return Request(NEW_ROUTE, CREATE | REPLACE, encode_route(message))


def delete_route(message: RouteMessage) -> Request:
    """Remove a route of this protocol; what is not said is not compared. ESRCH when there is none."""
    return Request(DELETE_ROUTE, 0, encode_route(message))


def dump_routes(family: int, protocol: int = 0, table: int = 0) -> Request:
    """Ask for routes; kernels since 4.20 leave out other protocols and tables, given NETLINK_GET_STRICT_CHK."""
    return Request(GET_ROUTE, DUMP, _ROUTE.pack(family, 0, 0, 0, table, protocol, 0, 0, 0))


def encode_route(message: RouteMessage) -> bytes:
    """The body of a route message."""
    dst = pack_ip(message.dst)
    family = IPV4 if len(dst) == 4 else IPV6
    body = _ROUTE.pack(
        family,
        message.prefix,
        0,
        0,
        message.table,
        message.protocol,
        message.scope if family == IPV4 else UNIVERSE,
        _ANY_KIND if message.scope == NOWHERE else _UNICAST,
        _ONLINK if message.onlink else 0,
    )
    if message.prefix:
        body += attribute(_DST, dst)
    if message.gateway:
        body += attribute(_GATEWAY, pack_ip(message.gateway))
    if message.link:
        body += u32(_OIF, message.link)
    if message.source:
        body += attribute(_SOURCE, pack_ip(message.source))
    return body


def decode_route(body: bytes) -> RouteMessage | None:
    """A route as the kernel describes it; None when it is no IP route or one of the kernel's own. Raises Malformed."""
    family, prefix, _slen, _tos, table, protocol, scope, kind, flags = _ROUTE.unpack_from(body)
    if kind not in _KINDS or family not in _ANY:
        return None
    found = attributes(body, 12)
    dst, gateway, source = found.get(_DST), found.get(_GATEWAY), found.get(_SOURCE)
    return RouteMessage(
        ip_text(dst) if dst else _ANY[family],
        prefix,
        ip_text(gateway) if gateway else "",
        number(found.get(_OIF)) if kind == _UNICAST else 0,
        ip_text(source) if source else "",
        scope,
        bool(flags & _ONLINK),
        protocol,
        number(found.get(_TABLE)) or table,
    )


_ANY = {IPV4: "0.0.0.0", IPV6: "::"}


class NeighbourMessage(msgspec.Struct, frozen=True, gc=False):
    """A neighbour of a link: who has `address` there. `proxied`: nobody, but the link answers for it."""

    index: int
    address: str
    mac: str = ""
    permanent: bool = True
    protocol: int = 0
    proxied: bool = False


def replace_neighbour(message: NeighbourMessage) -> Request:
    """Make the entry for this address so."""
    return Request(NEW_NEIGHBOUR, CREATE | REPLACE, _encode_neighbour(message))


def delete_neighbour(message: NeighbourMessage) -> Request:
    """Remove an entry; ENOENT when there is none."""
    return Request(DELETE_NEIGHBOUR, 0, _encode_neighbour(message))


def dump_neighbours() -> Request:
    """Ask for all neighbours of both families."""
    return Request(GET_NEIGHBOUR, DUMP, _NEIGHBOUR.pack(0, 0, 0, 0, 0))


def dump_proxied() -> Request:
    """Ask for all addresses that links answer for."""
    return Request(GET_NEIGHBOUR, DUMP, _NEIGHBOUR.pack(0, 0, 0, _PROXIED, 0))


def _encode_neighbour(message: NeighbourMessage) -> bytes:
    state, flags = PERMANENT if message.permanent else 0, _PROXIED if message.proxied else 0
    return (
        _NEIGHBOUR.pack(family_of(message.address), message.index, state, flags, 0)
        + attribute(_ND_DST, pack_ip(message.address))
        + (attribute(_ND_MAC, pack_mac(message.mac)) if message.mac else b"")
        + (u8(_ND_PROTOCOL, message.protocol) if message.protocol else b"")
    )


class FdbMessage(msgspec.Struct, frozen=True, gc=False):
    """A forwarding entry that a VXLAN device itself holds: frames for `mac` go to `dst`."""

    index: int
    mac: str
    dst: str
    permanent: bool = True


def replace_fdb(message: FdbMessage) -> Request:
    """Make the entry for this MAC so."""
    return Request(NEW_NEIGHBOUR, CREATE | REPLACE, _encode_fdb(message))


def delete_fdb(message: FdbMessage) -> Request:
    """Remove an entry; ENOENT when there is none."""
    return Request(DELETE_NEIGHBOUR, 0, _encode_fdb(message))


def dump_fdb(index: int) -> Request:
    """Ask for the forwarding entries of one link (kernels since 5.0, given NETLINK_GET_STRICT_CHK; before: of all)."""
    return Request(GET_NEIGHBOUR, DUMP, _NEIGHBOUR.pack(BRIDGE, index, 0, 0, 0))


def _encode_fdb(message: FdbMessage) -> bytes:
    return (
        _NEIGHBOUR.pack(BRIDGE, message.index, PERMANENT if message.permanent else 0, _SELF, 0)
        + attribute(_ND_MAC, pack_mac(message.mac))
        + attribute(_ND_DST, pack_ip(message.dst))
    )


def decode_neighbour(body: bytes) -> NeighbourMessage | FdbMessage | None:
    """A neighbour or VXLAN forwarding entry; None for what is neither (a bridge's own entries). Raises Malformed."""
    family, index, state, flags, _kind = _NEIGHBOUR.unpack_from(body)
    found = attributes(body, 12)
    dst, mac = found.get(_ND_DST), mac_text(found.get(_ND_MAC, b""))
    permanent = bool(state & PERMANENT)
    if not dst:
        return None
    if family == BRIDGE:
        return FdbMessage(index, mac, ip_text(dst), permanent) if flags & _SELF else None
    proxied = bool(flags & _PROXIED)
    return NeighbourMessage(index, ip_text(dst), mac, permanent, number(found.get(_ND_PROTOCOL)), proxied)
