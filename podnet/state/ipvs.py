"""IPVS: the kernel's own load balancer, as virtual servers and the real servers behind each.

A virtual server has no name and no owner, so the mark is one of its flags: a bit that is a scheduler's to use, and that
no scheduler which we name knows. Real servers bear no mark; all behind a virtual server of ours are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from podnet.state.resource import LINK_PREFIX, Key, Resource

LINK = f"{LINK_PREFIX}-ipvs0"
"""The dummy link that has every Service's addresses, so that packets to them are the node's own (kube-proxy's
kube-ipvs0; a link of podnet bears podnet's mark)."""


class VirtualServer(Resource, frozen=True, gc=False):
    """An address and port whose connections are shared out. `protocol` is tcp, udp or sctp, `scheduler` the kernel's
    name of it, `affinity` the seconds that a client stays with its real server (0: not at all)."""

    protocol: str
    address: str
    port: int
    scheduler: str = "rr"
    affinity: int = 0

    @property
    def key(self) -> Key:
        """One for each protocol, address and port."""
        return ("VirtualServer", "", self.protocol, self.address, str(self.port))


class RealServer(Resource, frozen=True, gc=False):
    """One of those that answer for a virtual server, by destination NAT; `weight` 0 keeps the connections it has and
    gets no others."""

    protocol: str
    address: str
    port: int
    to: str
    to_port: int
    weight: int = 1

    @property
    def key(self) -> Key:
        """One for each virtual server, address and port."""
        return ("RealServer", "", self.protocol, self.address, str(self.port), self.to, str(self.to_port))

    @property
    def behind(self) -> Key:
        """The key of its virtual server."""
        return ("VirtualServer", "", self.protocol, self.address, str(self.port))


class Stay(NamedTuple):
    """A client that stays with one real server of a virtual server."""

    protocol: str
    client: str
    address: str
    port: int
    to: str


class Balanced(NamedTuple):
    """What ipvs knows by itself: who stays where, and how many connections there are, (established, others), by
    protocol, address and port of a virtual server and the address of a real one. `tables` are of scheduler sh: the
    addresses of its real servers in their order, each as often as it weighs, up to HASHED of them; a client's hash is a
    place there, counted round and round."""

    connections: Mapping[tuple[str, str, int, str], tuple[int, int]] = {}
    stays: tuple[Stay, ...] = ()
    tables: Mapping[tuple[str, str, int], tuple[str, ...]] = {}


HASHED = 256
"""Slots of scheduler sh (IP_VS_SH_TAB_SIZE)."""
