"""From a step of a plan to the rtnetlink requests that carry it out.

Everything here may be repeated: adding what exists makes it so, deleting what is missing is done. The kernel's answer
that says just that is named in `Write.forgive`. Nothing is sent from here, and the only questions asked are the
ifindex of a name and the descriptor of a namespace.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from podnet.state.links import Bridge, Dummy, Ifb, Link, PodLink, Redirect, Shaper, Veth, Vxlan
from podnet.state.plan import Step
from podnet.state.resource import ROUTE_PROTOCOL, Resource
from podnet.state.routes import Address, FdbEntry, Neighbour, Proxied, Route
from podnet.wire import links, routes, tc
from podnet.wire.links import LinkMessage, VxlanData
from podnet.wire.netlink import Request
from podnet.wire.routes import AddressMessage, FdbMessage, NeighbourMessage, RouteMessage

L = TypeVar("L", bound=Link | PodLink)

KINDS: dict[type[Link], str] = {Bridge: "bridge", Vxlan: "vxlan", Veth: "veth", Ifb: "ifb", Dummy: "dummy"}
"""Our links and what the kernel calls them."""

_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL})
_GONE_QDISC = _GONE | {errno.EINVAL}  # "no ingress queue here" is EINVAL

_REMOVED = 0x706F646E
"""The link group of what is about to be removed."""


class Lookup(Protocol):
    """What encoding has to know of the namespace that the step is for."""

    def index(self, name: str) -> int:
        """The ifindex of a link; raises NoLink."""

    def namespace(self, path: str) -> int:
        """An open descriptor of a namespace, valid until the requests were sent; raises NoNamespace."""


class NoLink(Exception):
    """There is no link of that name."""


class Write(NamedTuple):
    """A request; the errnos that mean it was done already; what to send for its step after EEXIST or EINVAL."""

    request: Request
    forgive: frozenset[int] = frozenset()
    instead: tuple[Request, ...] = ()


def writes(step: Step, lookup: Lookup) -> Iterator[Write]:
    """The requests of one step, in order. Raises NoLink, NoNamespace, and ValueError for an address that is none."""
    resource = step.resource
    if step.verb in ("delete", "replace"):
        yield from _REMOVE[type(step.old or resource)](step.old or resource, lookup)
    if step.verb == "change" and isinstance(resource, Link | PodLink):
        resource = _only(resource, step.fields)  # setting a MAC, even to what it is, flushes the link's neighbours
    if step.verb == "change" and isinstance(resource, Link):
        yield from map(Write, _changes(_link(resource, lookup)))
    elif step.verb != "delete":
        yield from _MAKE[type(resource)](resource, lookup)


def _only(link: L, fields: tuple[str, ...]) -> L:
    """The link with no other attributes managed than these."""
    managed = ("mtu", "mac", "alias", "master", "hairpin")
    return msgspec.structs.replace(
        link, **{name: None for name in managed if name not in fields and name in link.__struct_fields__}
    )


def _link(link: Link, lookup: Lookup) -> LinkMessage:
    return LinkMessage(
        name=link.name,
        mtu=link.mtu,
        mac=link.mac,
        alias=link.alias,
        master=lookup.index(link.master) if link.master else None,
        up=link.up,
        hairpin=link.hairpin if isinstance(link, Veth) else None,
    )


def _make_link(link: Link, lookup: Lookup) -> Iterator[Write]:
    whole = _link(link, lookup)
    message = msgspec.structs.replace(whole, kind=KINDS[type(link)], alias=None, hairpin=None)
    if isinstance(link, Vxlan):
        message = msgspec.structs.replace(message, vxlan=_vxlan(link, lookup))
    elif isinstance(link, Veth):
        message = msgspec.structs.replace(message, peer=_peer(link, lookup))
    elif isinstance(link, Bridge) and link.mtu:
        message = msgspec.structs.replace(message, mtu=link.mtu - 1)  # see _set_later
    yield Write(links.create(message), instead=tuple(_changes(whole)))
    later = LinkMessage(name=link.name, alias=whole.alias, hairpin=whole.hairpin, mtu=_set_later(link))
    if later != LinkMessage(name=link.name):
        yield Write(links.change(later))


def _set_later(link: Link) -> int | None:
    """While the kernel makes a link it ignores alias and hairpin, and takes a bridge's MTU for a mere beginning: the
    bridge follows the MTU of its ports, unless its own was changed."""
    return link.mtu if isinstance(link, Bridge) else None


def _changes(link: LinkMessage) -> Iterator[Request]:
    """A link must be on its bridge before something can be said of it as a port."""
    yield links.change(msgspec.structs.replace(link, hairpin=None))
    if link.hairpin is not None:
        yield links.change(LinkMessage(name=link.name, hairpin=link.hairpin))


def _vxlan(link: Vxlan, lookup: Lookup) -> VxlanData:
    underlay = lookup.index(link.dev) if link.dev else 0
    return VxlanData(link.vni, link.port, link.local, underlay, link.learning)


def _peer(link: Veth, lookup: Lookup) -> LinkMessage:
    if link.peer is None:
        raise ValueError(f"veth {link.name} is to be made without its other end")
    peer = link.peer
    # Not up: the kernel opens this end before it knows the other (ENOTCONN). Its PodLink brings it up.
    return LinkMessage(name=peer.name, mac=peer.mac, mtu=peer.mtu, netns_fd=lookup.namespace(peer.netns))


def remove_together(removed: Sequence[Link]) -> list[Write]:
    """How to remove many links by one request: one alone costs the kernel some 15 ms, and so do all at once."""
    return [
        *(Write(links.enlist(link.name, _REMOVED), _GONE) for link in removed),
        Write(links.delete_group(_REMOVED), _GONE),
    ]


def _remove_link(link: Link, _lookup: Lookup) -> Iterator[Write]:
    yield Write(links.delete(link.name), _GONE)


def _make_pod_link(link: PodLink, _lookup: Lookup) -> Iterator[Write]:
    """It was born with its veth, so there is only something to set."""
    yield Write(links.change(LinkMessage(name=link.name, mtu=link.mtu, mac=link.mac, up=link.up)))


def _remove_pod_link(link: PodLink, _lookup: Lookup) -> Iterator[Write]:
    yield Write(links.delete(link.name), _GONE)


def _address(address: Address, lookup: Lookup) -> AddressMessage:
    ip, _, prefix = address.address.partition("/")
    index, deprecated = lookup.index(address.dev), address.deprecated
    return AddressMessage(index, ip, int(prefix), protocol=ROUTE_PROTOCOL, deprecated=deprecated)


def _route(route: Route, lookup: Lookup) -> RouteMessage:
    dst, _, prefix = route.dst.partition("/")
    return RouteMessage(
        dst,
        int(prefix),
        route.via or "",
        lookup.index(route.dev) if route.dev else 0,
        route.src or "",
        routes.LINK if route.scope_link else routes.UNIVERSE,
        route.onlink,
        ROUTE_PROTOCOL,
    )


def _make_route(route: Route, lookup: Lookup) -> Iterator[Write]:
    message = _route(route, lookup)
    yield Write(routes.replace_route(message), instead=tuple(_led_to(message)))


def _led_to(message: RouteMessage) -> Iterator[Request]:
    """IPv6 refuses (EINVAL) a next hop on this link while another route leads to it over another link, as the very
    route that is to be replaced does when its destination holds the next hop. A route to the hop alone, for a moment,
    makes it acceptable, and the replacement stays one step. See ip6_route_check_nh_onlink() in net/ipv6/route.c."""
    if message.onlink and ":" in message.gateway:
        hop = RouteMessage(message.gateway, 128, link=message.link, protocol=ROUTE_PROTOCOL)
        yield from (routes.replace_route(hop), routes.replace_route(message), routes.delete_route(hop))


def _remove_route(route: Route, _lookup: Lookup) -> Iterator[Write]:
    """By destination and our protocol only: whoever has put a route of his own there keeps it."""
    dst, _, prefix = route.dst.partition("/")
    message = RouteMessage(dst, int(prefix), scope=routes.NOWHERE, protocol=ROUTE_PROTOCOL)
    yield Write(routes.delete_route(message), _GONE)


def _neighbour(neighbour: Neighbour | Proxied, lookup: Lookup) -> NeighbourMessage:
    if isinstance(neighbour, Proxied):
        index = lookup.index(neighbour.dev)
        return NeighbourMessage(index, neighbour.address, protocol=ROUTE_PROTOCOL, proxied=True)
    return NeighbourMessage(lookup.index(neighbour.dev), neighbour.address, neighbour.mac, protocol=ROUTE_PROTOCOL)


def _make_neighbour(neighbour: Neighbour | Proxied, lookup: Lookup) -> Iterator[Write]:
    yield Write(routes.replace_neighbour(_neighbour(neighbour, lookup)))


def _remove_neighbour(neighbour: Neighbour | Proxied, lookup: Lookup) -> Iterator[Write]:
    yield Write(routes.delete_neighbour(_neighbour(neighbour, lookup)), _GONE)


def _fdb(entry: FdbEntry, lookup: Lookup) -> FdbMessage:
    return FdbMessage(lookup.index(entry.dev), entry.mac, entry.dst)


def _make_redirect(redirect: Redirect, lookup: Lookup) -> Iterator[Write]:
    """Made anew each time: a filter has no identity that could be replaced without knowing its handle."""
    dev, target = lookup.index(redirect.dev), lookup.index(redirect.to)
    yield Write(tc.delete_qdisc(dev, tc.INGRESS), _GONE_QDISC)
    yield Write(tc.ingress(dev))
    yield Write(tc.redirect(dev, target))


def _make_shaper(shaper: Shaper, lookup: Lookup) -> Iterator[Write]:
    yield Write(tc.shape(lookup.index(shaper.dev), shaper.rate, shaper.burst))


_MAKE: Mapping[type[Resource], Callable[[Any, Lookup], Iterator[Write]]] = {
    **dict.fromkeys(KINDS, _make_link),
    PodLink: _make_pod_link,
    Address: lambda address, lookup: iter((Write(routes.add_address(_address(address, lookup))),)),
    Route: _make_route,
    **dict.fromkeys((Neighbour, Proxied), _make_neighbour),
    FdbEntry: lambda entry, lookup: iter((Write(routes.replace_fdb(_fdb(entry, lookup))),)),
    Shaper: _make_shaper,
    Redirect: _make_redirect,
}

_REMOVE: Mapping[type[Resource], Callable[[Any, Lookup], Iterator[Write]]] = {
    **dict.fromkeys((Link, *KINDS), _remove_link),
    PodLink: _remove_pod_link,
    Address: lambda address, lookup: iter((Write(routes.delete_address(_address(address, lookup)), _GONE),)),
    Route: _remove_route,
    **dict.fromkeys((Neighbour, Proxied), _remove_neighbour),
    FdbEntry: lambda entry, lookup: iter((Write(routes.delete_fdb(_fdb(entry, lookup)), _GONE),)),
    Shaper: lambda shaper, lookup: iter((Write(tc.delete_qdisc(lookup.index(shaper.dev), tc.ROOT), _GONE_QDISC),)),
    Redirect: lambda entry, lookup: iter((Write(tc.delete_qdisc(lookup.index(entry.dev), tc.INGRESS), _GONE_QDISC),)),
}
