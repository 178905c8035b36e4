"""Links: bridges, tunnels, veth pairs and what hangs on a link as a queue discipline.

Names are the identity, never ifindexes. The pod's end of a veth pair is a resource of its own (`PodLink`), because it
lives in another namespace and can drift by itself; it is made and removed together with its `Veth`.
"""

from __future__ import annotations

from typing import ClassVar

from podnet.state.resource import Key, Resource


class Link(Resource, frozen=True, gc=False, kw_only=True):
    """Attributes all links share. MTU in bytes, MAC as aa:bb:cc:dd:ee:ff, `alias` for people (`ip -d link`)."""

    name: str
    mtu: int | None = None
    mac: str | None = None
    alias: str | None = None
    master: str | None = None
    up: bool = True

    @property
    def key(self) -> Key:
        """Links of the node's namespace only; see PodLink for pods."""
        return ("Link", "", self.name)

    @property
    def needs(self) -> tuple[str, ...]:
        """Links that have to exist first."""
        return (self.master,) if self.master else ()


class Bridge(Link, frozen=True, gc=False, kw_only=True):
    """A Linux bridge without STP."""


class Vxlan(Link, frozen=True, gc=False, kw_only=True):
    """A VXLAN tunnel end point (RFC 7348): `vni`, UDP `port`, `local` underlay address, `dev` underlay link."""

    fixed: ClassVar[frozenset[str]] = frozenset({"vni", "port", "local", "dev", "learning"})

    vni: int
    port: int
    local: str
    dev: str | None = None
    learning: bool = False


class VethPeer(Resource, frozen=True, gc=False):
    """How the pod's end is born: in which namespace, with which name, MAC and MTU."""

    netns: str
    name: str
    mac: str
    mtu: int


class Veth(Link, frozen=True, gc=False, kw_only=True):
    """The node's end of a pod's veth pair. `hairpin` is the bridge port flag (None when not on a bridge)."""

    created_with: ClassVar[frozenset[str]] = frozenset({"peer"})

    peer: VethPeer | None = None
    hairpin: bool | None = None


class Ifb(Link, frozen=True, gc=False, kw_only=True):
    """An intermediate functional block: where traffic leaving a pod is shaped."""


class Dummy(Link, frozen=True, gc=False, kw_only=True):
    """A link that leads nowhere, for the addresses it has."""


class PodLink(Resource, frozen=True, gc=False, kw_only=True):
    """The pod's end of a veth pair, inside the pod's namespace."""

    netns: str
    name: str
    mtu: int | None = None
    mac: str | None = None
    up: bool = True

    @property
    def key(self) -> Key:
        """A link by its namespace and name."""
        return ("PodLink", self.netns, self.name)

    @property
    def on(self) -> tuple[str, str]:
        """Goes with its pair, like everything on it."""
        return (self.netns, self.name)


class Shaper(Resource, frozen=True, gc=False):
    """A token bucket (tc-tbf) as root queue of a link: `rate` in bits/s, `burst` in bits, 25 ms of latency."""

    dev: str
    rate: int
    burst: int

    @property
    def key(self) -> Key:
        """A link has one root queue."""
        return ("Shaper", "", self.dev)

    @property
    def on(self) -> tuple[str, str]:
        """Goes with its link."""
        return ("", self.dev)


class Redirect(Resource, frozen=True, gc=False):
    """Everything arriving on `dev` passes through `to` first (ingress qdisc, u32 match-all, mirred redirect)."""

    dev: str
    to: str

    @property
    def key(self) -> Key:
        """A link has one ingress redirect."""
        return ("Redirect", "", self.dev)

    @property
    def on(self) -> tuple[str, str]:
        """Goes with its link."""
        return ("", self.dev)
