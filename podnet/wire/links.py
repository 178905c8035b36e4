"""Links in rtnetlink (linux/if_link.h): bridges, VXLAN devices, veth pairs, ifb.

A veth pair is one message: the other end, its namespace, name and addresses are an attribute of the first end. One
Struct stands for what is sent and for what is received, with ifindexes as the kernel speaks them; names are the
business of kernel/.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

import msgspec

from podnet.wire.netlink import (
    BE16,
    CREATE,
    DUMP,
    EXCLUSIVE,
    Request,
    attribute,
    attributes,
    nest,
    number,
    string,
    text,
    u8,
    u32,
)
from podnet.wire.spelling import ip_text, mac_text, pack_ip, pack_mac

NEW, DELETE, GET = 16, 17, 18
"""Message types (RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK)."""

ETHER = 1
"""ARPHRD_ETHER: only these have a MAC of six bytes."""

_HEADER = Struct("=BxHiII")  # struct ifinfomsg
_UP = 0x1
_RUNNING = 0x40
_ADDRESS, _NAME, _MTU, _PAIR, _MASTER, _PORT, _INFO, _ALIAS, _GROUP, _NETNS_FD, _FILTER = (
    1,
    3,
    4,
    5,
    10,
    12,
    18,
    20,
    27,
    28,
    29,
)
_INFO_KIND, _INFO_DATA, _INFO_PORT_KIND, _INFO_PORT_DATA = 1, 2, 4, 5
_VXLAN_ID, _VXLAN_LINK, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 3, 4, 7, 15, 17
_VETH_PEER = 1
_PORT_HAIRPIN = 4
_WITHOUT_STATISTICS = u32(_FILTER, 8)


class VxlanData(msgspec.Struct, frozen=True, gc=False):
    """The VXLAN part of a link: network identifier, UDP port, local address, underlay ifindex (0: any), learning."""

    vni: int
    port: int
    local: str = ""
    link: int = 0
    learning: bool = True


class LinkMessage(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A link. None means: not said. `index` 0 means: the one called `name`. `master` 0 means: no master.

    `pair` (the ifindex of a veth's other end, in its namespace), `carrier` and `hardware` (ARPHRD_*) are only read.
    `netns_fd` is only sent: the open namespace the link is born in.
    """

    index: int = 0
    name: str = ""
    kind: str = ""
    up: bool | None = None
    mtu: int | None = None
    mac: str | None = None
    alias: str | None = None
    master: int | None = None
    hairpin: bool | None = None
    vxlan: VxlanData | None = None
    peer: LinkMessage | None = None
    netns_fd: int | None = None
    pair: int = 0
    carrier: bool = False
    hardware: int = 0


def create(link: LinkMessage) -> Request:
    """Make a link; EEXIST when there is one of that name. Alias and hairpin need a second message: `change`."""
    return Request(NEW, CREATE | EXCLUSIVE, _encode(link))


def change(link: LinkMessage) -> Request:
    """Set what is said of the link with that index or name; ENODEV when there is none. Its kind is not sent."""
    return Request(NEW, 0, _encode(msgspec.structs.replace(link, kind="", vxlan=None, peer=None)))


def delete(name: str) -> Request:
    """Remove a link; ENODEV when there is none."""
    return Request(DELETE, 0, _HEADER.pack(0, 0, 0, 0, 0) + text(_NAME, name))


def enlist(name: str, group: int) -> Request:
    """Put a link into a group; ENODEV when there is none."""
    return Request(NEW, 0, _HEADER.pack(0, 0, 0, 0, 0) + text(_NAME, name) + u32(_GROUP, group))


def delete_group(group: int) -> Request:
    """Remove all links of a group in one go; ENODEV when it is empty, and nothing is done if one can't be removed."""
    return Request(DELETE, 0, _HEADER.pack(0, 0, 0, 0, 0) + u32(_GROUP, group))


def get(name: str) -> Request:
    """Ask for one link; ENODEV when there is none."""
    return Request(GET, 0, _HEADER.pack(0, 0, 0, 0, 0) + text(_NAME, name) + _WITHOUT_STATISTICS)


def dump() -> Request:
    """Ask for all links."""
    return Request(GET, DUMP, _HEADER.pack(0, 0, 0, 0, 0) + _WITHOUT_STATISTICS)


def _encode(link: LinkMessage) -> bytes:
    flags = _HEADER.pack(0, 0, link.index, _UP if link.up else 0, 0 if link.up is None else _UP)
    return flags + b"".join(_attributes(link))


def _attributes(link: LinkMessage) -> Iterator[bytes]:
    if link.name:
        yield text(_NAME, link.name)
    if link.mtu is not None:
        yield u32(_MTU, link.mtu)
    if link.mac is not None:
        yield attribute(_ADDRESS, pack_mac(link.mac))
    if link.alias is not None:
        yield attribute(_ALIAS, link.alias.encode())
    if link.master is not None:
        yield u32(_MASTER, link.master)
    if link.netns_fd is not None:
        yield u32(_NETNS_FD, link.netns_fd)
    info = b"".join(_info(link))
    if info:
        yield nest(_INFO, info)


def _info(link: LinkMessage) -> Iterator[bytes]:
    if link.kind:
        yield text(_INFO_KIND, link.kind)
    if link.vxlan is not None:
        yield nest(_INFO_DATA, *_vxlan(link.vxlan))
    if link.peer is not None:
        yield nest(_INFO_DATA, attribute(_VETH_PEER, _encode(link.peer)))
    if link.hairpin is not None:
        yield text(_INFO_PORT_KIND, "bridge")
        yield nest(_INFO_PORT_DATA, u8(_PORT_HAIRPIN, link.hairpin))


def _vxlan(vxlan: VxlanData) -> Iterator[bytes]:
    yield u32(_VXLAN_ID, vxlan.vni)
    yield attribute(_VXLAN_PORT, BE16.pack(vxlan.port))
    yield u8(_VXLAN_LEARNING, vxlan.learning)
    if vxlan.local:
        local = pack_ip(vxlan.local)
        yield attribute(_VXLAN_LOCAL if len(local) == 4 else _VXLAN_LOCAL6, local)
    if vxlan.link:
        yield u32(_VXLAN_LINK, vxlan.link)


def decode(body: bytes) -> LinkMessage:
    """A link as the kernel describes it: `up`, `mtu` and `master` are always known then."""
    _family, hardware, index, flags, _change = _HEADER.unpack_from(body)
    found = attributes(body, 16)
    info = attributes(found.get(_INFO, b""))
    kind = string(info.get(_INFO_KIND))
    mac, alias, data = found.get(_ADDRESS, b""), found.get(_ALIAS), info.get(_INFO_DATA, b"")
    return LinkMessage(
        index=index,
        name=string(found.get(_NAME)),
        kind=kind,
        up=bool(flags & _UP),
        mtu=number(found.get(_MTU)),
        mac=mac_text(mac) if len(mac) == 6 else None,
        alias=string(alias) if alias else None,
        master=number(found.get(_MASTER)),
        hairpin=_hairpin(info),
        vxlan=_decode_vxlan(data) if kind == "vxlan" else None,
        peer=_decode_peer(data) if kind == "veth" and data else None,
        pair=number(found.get(_PAIR)),
        carrier=bool(flags & _RUNNING),
        hardware=hardware,
    )


def decode_port(body: bytes) -> tuple[int, bool | None]:
    """(ifindex, hairpin) of a message in which a bridge (AF_BRIDGE) describes its port."""
    port = attributes(attributes(body, 16).get(_PORT, b"")).get(_PORT_HAIRPIN)
    return _HEADER.unpack_from(body)[2], bool(number(port)) if port is not None else None


def _hairpin(info: dict[int, bytes]) -> bool | None:
    if string(info.get(_INFO_PORT_KIND)) != "bridge":
        return None
    return bool(number(attributes(info.get(_INFO_PORT_DATA, b"")).get(_PORT_HAIRPIN)))


def _decode_vxlan(data: bytes) -> VxlanData:
    found = attributes(data)
    local = found.get(_VXLAN_LOCAL) or found.get(_VXLAN_LOCAL6)
    return VxlanData(
        vni=number(found.get(_VXLAN_ID)),
        port=int.from_bytes(found.get(_VXLAN_PORT, b""), "big"),
        local=ip_text(local) if local else "",
        link=number(found.get(_VXLAN_LINK)),
        learning=bool(number(found.get(_VXLAN_LEARNING))),
    )


def _decode_peer(data: bytes) -> LinkMessage | None:
    """Only in requests: the kernel does not say what the other end of a veth pair is like."""
    peer = attributes(data).get(_VETH_PEER)
    return decode(peer) if peer else None
