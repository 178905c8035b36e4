"""What is not a netlink object: kernel parameters, daemons, and follow-up actions that are not a state at all."""

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


class Daemon(Resource, frozen=True, gc=False):
    """A process of somebody else's program that runs beside the agent and outlives it.

    argv     absolute, or found in PATH; it stays in the foreground, in a folder of its own, and logs to its stderr
    files    (name, content) in that folder
    sockets  "protocol/address/port" at which its clients ask (udp or tcp): a successor gets the very same ones, so that
             a change, as any difference is, loses nobody; such a program waits with poll()
    current  whether it is the executable that is installed now
    """

    name: str
    argv: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()
    sockets: tuple[str, ...] = ()
    current: bool = True

    @property
    def key(self) -> Key:
        """A daemon by name."""
        return ("Daemon", "", self.name)


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


class SignalDaemon(msgspec.Struct, frozen=True, gc=False):
    """Action: send a signal to a daemon, if it runs."""

    name: str
    number: int


Action = ForgetFlows | Announce | SignalDaemon
