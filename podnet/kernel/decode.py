"""From rtnetlink messages to resources: what is ours, and how it is spelt.

The rules about marks are here. On a node, everything on our links is ours, except the link-local addresses that the
kernel makes and entries that are learned. Elsewhere, and in pods, only what carries our protocol number is: a pod may
add addresses to its own link. Dumps and events are read by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping

from podnet.state.links import Bridge, Dummy, Ifb, Link, PodLink, Shaper, Veth, Vxlan
from podnet.state.resource import LINK_PREFIX, ROUTE_PROTOCOL
from podnet.state.routes import Address, FdbEntry, Neighbour, Proxied, Route
from podnet.wire import routes
from podnet.wire.links import LinkMessage
from podnet.wire.routes import AddressMessage, FdbMessage, NeighbourMessage, RouteMessage
from podnet.wire.tc import QdiscMessage

Names = Mapping[int, str]
"""Link names by ifindex, of one namespace."""


def our_link(name: str) -> bool:
    """Whether a link of the node's namespace bears our mark."""
    return name.startswith(LINK_PREFIX)


def name_of(names: Names, index: int) -> str:
    """A link's name, or #index when it has just gone."""
    return names.get(index) or f"#{index}"


def link(message: LinkMessage, names: Names) -> Link:
    """A link of the node; of a kind that we don't make a plain Link, which differs from any wish."""
    master = name_of(names, message.master) if message.master else None
    name, mtu, mac, alias, up = message.name, message.mtu, message.mac, message.alias, bool(message.up)
    match message.kind:
        case "bridge":
            return Bridge(name=name, mtu=mtu, mac=mac, alias=alias, master=master, up=up)
        case "veth":
            hairpin = message.hairpin
            return Veth(name=name, mtu=mtu, mac=mac, alias=alias, master=master, up=up, hairpin=hairpin)
        case "dummy":
            return Dummy(name=name, mtu=mtu, mac=mac, alias=alias, master=master, up=up)
        case "ifb":
            return Ifb(name=name, mtu=mtu, mac=mac, alias=alias, master=master, up=up)
        case "vxlan" if (tunnel := message.vxlan) is not None:
            return Vxlan(
                name=name,
                mtu=mtu,
                mac=mac,
                alias=alias,
                master=master,
                up=up,
                vni=tunnel.vni,
                port=tunnel.port,
                local=tunnel.local,
                dev=name_of(names, tunnel.link) if tunnel.link else None,
                learning=tunnel.learning,
            )
    return Link(name=name, mtu=mtu, mac=mac, alias=alias, master=master, up=up)


def pod_link(message: LinkMessage, netns: str) -> PodLink:
    """A link inside a pod."""
    return PodLink(netns=netns, name=message.name, mtu=message.mtu, mac=message.mac, up=bool(message.up))


def address(message: AddressMessage, names: Names, netns: str) -> Address:
    """An address on a link."""
    return Address(name_of(names, message.index), f"{message.address}/{message.prefix}", netns, message.deprecated)


def our_address(message: AddressMessage, dev: str, netns: str) -> bool:
    """Whether an address is ours; see above."""
    if message.protocol == ROUTE_PROTOCOL:
        return True
    return not netns and our_link(dev) and message.permanent and not _made_by_kernel(message)


def _made_by_kernel(message: AddressMessage) -> bool:
    """An IPv6 link-local address without our protocol number."""
    return ":" in message.address and message.scope == routes.LINK


def route(message: RouteMessage, names: Names, netns: str) -> Route:
    """A route. IPv6 knows no scopes, so there a route without a next hop counts as one of link scope."""
    scope_link = message.scope == routes.LINK if ":" not in message.dst else not message.gateway
    return Route(
        f"{message.dst}/{message.prefix}",
        message.gateway or None,
        name_of(names, message.link) if message.link else None,
        message.onlink,
        scope_link,
        message.source or None,
        netns,
    )


def our_route(message: RouteMessage) -> bool:
    """Whether a route is ours."""
    return message.protocol == ROUTE_PROTOCOL and message.table == routes.MAIN


def neighbour(message: NeighbourMessage, names: Names, netns: str) -> Neighbour | Proxied:
    """A neighbour entry, or an address that is answered for."""
    if message.proxied:
        return Proxied(name_of(names, message.index), message.address, netns)
    return Neighbour(name_of(names, message.index), message.address, message.mac, netns)


def our_neighbour(message: NeighbourMessage, dev: str, netns: str) -> bool:
    """Whether a neighbour entry is ours: never one that was learned."""
    lasts = message.permanent or message.proxied
    return lasts and (message.protocol == ROUTE_PROTOCOL or (not netns and our_link(dev)))


def fdb_entry(message: FdbMessage, names: Names) -> FdbEntry:
    """A forwarding entry of a VXLAN device."""
    return FdbEntry(name_of(names, message.index), message.mac, message.dst)


def our_fdb_entry(message: FdbMessage, dev: str) -> bool:
    """Whether a forwarding entry is ours."""
    return message.permanent and our_link(dev)


def shaper(message: QdiscMessage, names: Names) -> Shaper:
    """A token bucket, as closely as the kernel's ticks tell: `burst` is rounded."""
    burst = round(message.ticks * 64 * message.rate / 1_000_000_000)
    return Shaper(name_of(names, message.index), message.rate * 8, burst * 8)
