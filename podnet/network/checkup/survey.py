"""What `podnet doctor` looks at: the facts of one node, frozen, before anyone judges them.

daemons/surveyor.py gathers them; a field that could not be gathered has its default, which no check takes for a fault.
"""

from __future__ import annotations

from collections.abc import Mapping

from podnet.network.value import Value
from podnet.network.view import NodeInfo


class Link(Value, frozen=True):
    """A network link. `addresses` are ip/prefix; `vni`, `port` of a vxlan; `checksum_offload` None if unknown."""

    name: str
    kind: str = ""
    mtu: int = 0
    mac: str = ""
    addresses: tuple[str, ...] = ()
    vni: int = 0
    port: int = 0
    driver: str = ""
    checksum_offload: bool | None = None
    managed: bool = False
    """NetworkManager takes care of it."""
    advertised: bool = False
    """It has an IPv6 address that a router advertised."""
    master: str = ""
    """The bridge that it is a port of."""


class Route(Value, frozen=True):
    """A route of the main table; `dst` is a CIDR, `ours` that it bears our mark, `advertised` by an IPv6 router."""

    dst: str
    dev: str = ""
    ours: bool = False
    advertised: bool = False


class Chain(Value, frozen=True):
    """A chain of nft, or of legacy iptables in the same words; one that is jumped to has no `hook` and `policy`."""

    family: str
    table: str
    name: str
    hook: str = ""
    policy: str = ""
    rules: tuple[str, ...] = ()
    legacy: bool = False


class Port(Value, frozen=True):
    """An open UDP port; `owner` is a program's name, "" for the kernel."""

    number: int
    owner: str = ""


class CniFile(Value, frozen=True):
    """A network configuration that container runtimes would read; `fault` why they can't."""

    name: str
    types: tuple[str, ...] = ()
    fault: str = ""


class Agent(Value, frozen=True):
    """What the node's agent says. `away` why it says nothing; `undone` what its last pass could not do; `proxy` how it
    makes Services."""

    away: str = ""
    reason: str = ""
    undone: tuple[str, ...] = ()
    backend: Mapping[str, str | int | bool] = {}
    mtu: int = 0
    uplink: str = ""
    pod_cidrs: tuple[str, ...] = ()
    proxy: str = ""


class ClusterFacts(Value, frozen=True):
    """What the API says; `away` why it says nothing."""

    away: str = ""
    pod_cidrs: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = ()
    nodes: tuple[NodeInfo, ...] = ()
    pods: int = 0


class Survey(Value, frozen=True):
    """Everything about one node. `sysctls` by path below /proc/sys, absent ones left out; `missing` feature: reason."""

    node: str
    agent: Agent = Agent()
    cluster: ClusterFacts = ClusterFacts()
    problems: tuple[str, ...] = ()
    """Mistakes in the cluster's objects (network/view.py)."""
    kernel: tuple[int, int] = (0, 0)
    links: tuple[Link, ...] = ()
    routes: tuple[Route, ...] = ()
    chains: tuple[Chain, ...] = ()
    ports: tuple[Port, ...] = ()
    sysctls: Mapping[str, str] = {}
    flows: int = 0
    neighbours: int = 0
    attachments: int = 0
    resolvers: tuple[str, ...] = ()
    programs: frozenset[str] = frozenset()
    keeps_foreign_routes: bool = True
    """systemd-networkd was told to (ManageForeignRoutes=no)."""
    conflists: tuple[CniFile, ...] = ()
    missing: Mapping[str, str] = {}

    @property
    def uplink(self) -> Link | None:
        """The link to the other nodes."""
        return self.link(self.agent.uplink)

    def link(self, name: str) -> Link | None:
        """A link by name."""
        return next((link for link in self.links if link.name == name), None)

    def number(self, sysctl: str) -> int | None:
        """A kernel parameter as a number; None when it is absent or none."""
        text = self.sysctls.get(sysctl, "")
        return int(text) if text.isdecimal() else None
