"""Addresses, routes, neighbours and forwarding entries: layer 3 and its glue to layer 2.

Addresses are strings in the kernel's own spelling (inet_ntop), so that a value read back is equal to the value written.
"""

from __future__ import annotations

from typing import ClassVar

from podnet.state.resource import Key, Resource


class Address(Resource, frozen=True, gc=False):
    """An address on a link, `address` as ip/prefix. Set without duplicate address detection: IPAM already knows.

    `deprecated`: packets to it are taken, but none is sent from it unless a program asks to (RFC 4862, 5.5.4).
    """

    dev: str
    address: str
    netns: str = ""
    deprecated: bool = False

    @property
    def key(self) -> Key:
        """The kernel allows one entry per link, address and prefix."""
        return ("Address", self.netns, self.dev, self.address)

    @property
    def on(self) -> tuple[str, str]:
        """Goes with its link."""
        return (self.netns, self.dev)


class Route(Resource, frozen=True, gc=False):
    """A route of podnet's own protocol number in the main table; `dst` is a CIDR (0.0.0.0/0 and ::/0 for default).

    `onlink` pretends the next hop is directly reachable; `scope_link` marks a destination on the link itself.
    """

    dst: str
    via: str | None = None
    dev: str | None = None
    onlink: bool = False
    scope_link: bool = False
    src: str | None = None
    netns: str = ""

    @property
    def key(self) -> Key:
        """One route per destination, so replacing it is atomic."""
        return ("Route", self.netns, self.dst)

    @property
    def on(self) -> tuple[str, str] | None:
        """Goes with its link."""
        return (self.netns, self.dev) if self.dev else None

    def changes(self, actual: Resource) -> tuple[str, ...]:
        """A route is replaced whole, so a next hop the wish does not have is a difference too."""
        return () if self == actual else ("route",)


class Neighbour(Resource, frozen=True, gc=False):
    """A permanent neighbour (ARP or NDP) entry."""

    dev: str
    address: str
    mac: str
    netns: str = ""

    @property
    def key(self) -> Key:
        """One entry per link and address."""
        return ("Neighbour", self.netns, self.dev, self.address)

    @property
    def on(self) -> tuple[str, str]:
        """Goes with its link."""
        return (self.netns, self.dev)


class Proxied(Resource, frozen=True, gc=False):
    """An IPv6 address elsewhere, for which a link answers neighbour solicitations (with `proxy_ndp` on).

    IPv4 needs none: `proxy_arp` answers for whatever the node has a route to.
    """

    dev: str
    address: str
    netns: str = ""

    @property
    def key(self) -> Key:
        """In a table of its own beside that of neighbours."""
        return ("Neighbour", self.netns, self.dev, self.address, "proxied")

    @property
    def on(self) -> tuple[str, str]:
        """Goes with its link."""
        return (self.netns, self.dev)


class FdbEntry(Resource, frozen=True, gc=False):
    """A permanent forwarding entry of a VXLAN device: frames for `mac` go to underlay address `dst`."""

    fixed: ClassVar[frozenset[str]] = frozenset()

    dev: str
    mac: str
    dst: str

    @property
    def key(self) -> Key:
        """One destination per device and MAC."""
        return ("FdbEntry", "", self.dev, self.mac)

    @property
    def on(self) -> tuple[str, str]:
        """Goes with its link."""
        return ("", self.dev)
