"""Reading one namespace through rtnetlink into resources that compare equal to the wishes they fulfil.

Each kind is one dump. A wish is consulted for two things only: an object without our mark is reported where one is
wanted, since it is the same kernel object; and where the kernel keeps less than a resource says (a token bucket in
ticks, a route whose device it chose itself), an object that is what the wish would have made is reported as the wish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import msgspec

from podnet.kernel import decode
from podnet.kernel.netlink import Netlink
from podnet.state.links import Redirect, Shaper
from podnet.state.resource import ROUTE_PROTOCOL, Key, NodeState, Resource
from podnet.state.routes import Route
from podnet.wire import links, routes, tc
from podnet.wire.links import LinkMessage
from podnet.wire.routes import FdbMessage, NeighbourMessage
from podnet.wire.spelling import IPV4, IPV6


class Reading:
    """What one namespace holds now; `netns` is "" for the node's."""

    def __init__(self, netlink: Netlink, netns: str, desired: NodeState) -> None:
        self.netlink = netlink
        self.netns = netns
        self.desired = desired
        self.links = [links.decode(body) for body in netlink.dump(links.dump())]
        self.names = {link.index: link.name for link in self.links}

    def read(self, kinds: frozenset[str]) -> Iterator[Resource]:
        """The resources of these kinds; raises NetlinkError."""
        for kind, reader in _READERS.items():
            if kind in kinds:
                yield from reader(self)

    def wanted(self, key: Key) -> bool:
        """Whether an object without our mark is reported all the same."""
        return key in self.desired

    def node_links(self) -> Iterator[Resource]:
        """Links that bear our prefix."""
        return (decode.link(link, self.names) for link in self._ours())

    def _ours(self) -> Iterator[LinkMessage]:
        return (link for link in self.links if not self.netns and decode.our_link(link.name))

    def pod_links(self) -> Iterator[Resource]:
        """The links of this pod that are wanted."""
        found = (decode.pod_link(link, self.netns) for link in self.links if self.netns)
        return (link for link in found if self.wanted(link.key))

    def addresses(self) -> Iterator[Resource]:
        """Our addresses."""
        for body in self.netlink.dump(routes.dump_addresses()):
            message = routes.decode_address(body)
            found = decode.address(message, self.names, self.netns)
            if decode.our_address(message, found.dev, self.netns) or self.wanted(found.key):
                yield found

    def routes(self) -> Iterator[Resource]:
        """Our routes in the main table, by the kernel's own filter where it has one."""
        names, netns, desired = self.names, self.netns, self.desired
        for family in (IPV4, IPV6):
            for body in self.netlink.dump(routes.dump_routes(family, ROUTE_PROTOCOL, routes.MAIN)):
                message = routes.decode_route(body)
                if message is None or not decode.our_route(message):
                    continue
                found = decode.route(message, names, netns)
                wish = desired.get(found.key)
                yield found if wish is None or wish == found else _as_wished(found, cast(Route, wish))

    def neighbours(self) -> Iterator[Resource]:
        """Our neighbours, and on the node what its links answer for; never a learned one, even if wanted: it would
        expire."""
        dumps = (routes.dump_neighbours(), *(() if self.netns else (routes.dump_proxied(),)))
        for body in (body for request in dumps for body in self.netlink.dump(request)):
            message = routes.decode_neighbour(body)
            if not isinstance(message, NeighbourMessage) or not (message.permanent or message.proxied):
                continue
            found = decode.neighbour(message, self.names, self.netns)
            if decode.our_neighbour(message, found.dev, self.netns) or self.wanted(found.key):
                yield found

    def fdb_entries(self) -> Iterator[Resource]:
        """Forwarding entries of our VXLAN devices."""
        for link in self._ours():
            for body in self.netlink.dump(routes.dump_fdb(link.index)) if link.kind == "vxlan" else ():
                message = routes.decode_neighbour(body)
                if isinstance(message, FdbMessage) and message.index == link.index and message.permanent:
                    yield decode.fdb_entry(message, self.names)

    def shapers(self) -> Iterator[Resource]:
        """Token buckets on our links."""
        for qdisc in self._qdiscs():
            if qdisc.kind == "tbf" and qdisc.parent == tc.ROOT:
                found = decode.shaper(qdisc, self.names)
                wish = cast(Shaper | None, self.desired.get(found.key))
                same = wish is not None and tc.bucket(wish.rate, wish.burst) == (qdisc.rate, qdisc.ticks)
                yield wish if wish is not None and same else found

    def redirects(self) -> Iterator[Resource]:
        """Ingress queues on our links; one that redirects nothing has target ""."""
        for qdisc in self._qdiscs():
            if qdisc.kind == "ingress":
                filters = self.netlink.dump(tc.dump_filters(qdisc.index))
                targets = [found[1] for body in filters if (found := tc.decode_redirect(body)) is not None]
                to = decode.name_of(self.names, targets[0]) if targets else ""
                yield Redirect(decode.name_of(self.names, qdisc.index), to)

    def _qdiscs(self) -> Iterator[tc.QdiscMessage]:
        ours = {link.index for link in self._ours()}
        found = (tc.decode_qdisc(body) for body in self.netlink.dump(tc.dump_qdiscs())) if ours else ()
        return (qdisc for qdisc in found if qdisc.index in ours)


def _as_wished(found: Route, wish: Route) -> Route:
    """A wish without a device leaves it to the kernel; and IPv6 has no scope."""
    return msgspec.structs.replace(
        found, dev=found.dev if wish.dev else None, scope_link=wish.scope_link if ":" in found.dst else found.scope_link
    )


_READERS: dict[str, Callable[[Reading], Iterator[Resource]]] = {
    "Link": Reading.node_links,
    "PodLink": Reading.pod_links,
    "Address": Reading.addresses,
    "Route": Reading.routes,
    "Neighbour": Reading.neighbours,
    "FdbEntry": Reading.fdb_entries,
    "Shaper": Reading.shapers,
    "Redirect": Reading.redirects,
}
"""One dump a kind."""

KINDS = frozenset(_READERS)
POD_KINDS = frozenset({"PodLink", "Address", "Route", "Neighbour"})
