"""What is not a netlink object: kernel parameters, and follow-up actions that are not a state at all."""

from __future__ import annotations

import msgspec

from podnet.state.resource import Key, Resource


class Sysctl(Resource, frozen=True, gc=False):
    """A kernel parameter, `name` with slashes (net/ipv4/ip_forward), since link names may contain dots.

    `dev` is the link it belongs to, "" when it is not per link.
    """

    name: str
    value: str
    netns: str = ""
    dev: str = ""

    @property
    def key(self) -> Key:
        """A parameter by its path."""
        return ("Sysctl", self.netns, self.name)

    @property
    def on(self) -> tuple[str, str] | None:
        """Per-link parameters go with their link."""
        return (self.netns, self.dev) if self.dev else None


class ForgetFlows(msgspec.Struct, frozen=True, gc=False):
    """Action: delete conntrack entries. Every field that is not empty must match; one field at least is set.

    `protocol` is an IP protocol number, `to_port` the original destination port, `source`, `destination` the original
    addresses, `answered_by` and `reply_port` the reply's source (what is behind a DNAT). `unserved` is a CIDR: flows to
    one of its addresses that nobody translated.
    """

    protocol: int = 0
    to_port: int = 0
    source: str = ""
    destination: str = ""
    answered_by: str = ""
    reply_port: int = 0
    unserved: str = ""


class Announce(msgspec.Struct, frozen=True, gc=False):
    """Action: tell everybody on the link of `dev` that `address` is here now (gratuitous ARP, unsolicited NA)."""

    dev: str
    address: str


Action = ForgetFlows | Announce
