"""A node's kernel in memory: the same port, the same rules, no root.

What the rules are, the contract tests say, which hold for this and for the kernel: what goes along with a link, what is
held, what replaces what. Besides the port there is what other hands can do: `vanish` and `put` change things behind
podnet's back, and `events` tells of it as the monitor would.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_interface
from typing import Literal

import msgspec

from podnet.kernel import iptables, ipvs, nft
from podnet.kernel.conntrack import Translated
from podnet.kernel.dataplane import stages
from podnet.kernel.monitor import LOST_WHEN_DOWN, Event
from podnet.kernel.outcome import Outcome, Tally
from podnet.state.host import Action, Sysctl
from podnet.state.ipvs import Balanced, RealServer, VirtualServer
from podnet.state.links import Link, PodLink, Redirect, Veth, Vxlan
from podnet.state.nft import Element, NftTable
from podnet.state.plan import ORDER, Plan, Step
from podnet.state.resource import LINK_PREFIX, Key, NodeState, Resource
from podnet.state.routes import Address, Neighbour, Proxied, Route
from podnet.wire.netlink import Failure
from podnet.wire.nftables import declared

_MAC, _NO_MAC = "02:00:00:00:00:01", "00:00:00:00:00:00"

_DIRTY = {
    "NftTable": ("Element", "NftTable"),
    "Element": ("Element",),
    "Shaper": ("Shaper",),
    "Redirect": ("Redirect",),
    "Sysctl": ("Sysctl",),
    "Daemon": ("Daemon",),
}
"""Kinds of which the monitor says only that they changed."""


class Refused(Exception):
    """What the kernel would answer."""

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(text)
        self.failure = Failure(number, text)


class Absent(Exception):
    """A link or namespace that is not there, or is down."""


class FakeDataplane:
    """`uplinks`: the node's own links and their addresses (ip/prefix); `pods`: the namespaces there are."""

    def __init__(self, uplinks: Mapping[str, Iterable[str]] | None = None, pods: Iterable[str] = ()) -> None:
        self.uplinks = {name: tuple(addresses) for name, addresses in (uplinks or {}).items()}
        self.pods = set(pods)
        self.holds: dict[Key, Resource] = {}
        """All that is ours, in all namespaces."""
        self.parameters: dict[tuple[str, str], str] = {}
        """Kernel parameters by namespace and name; all others are "0"."""
        self.before: dict[str, str] = {}
        """What the node's parameters were before we changed them."""
        self.plans: list[Plan] = []
        self.acted: list[Action] = []
        self.closed = False
        self.memory: dict[tuple[str, str, str], tuple[str, ...]] = {}
        """What `remembered` answers, by family, table and name."""
        self.flows: dict[Translated, int] = {}
        """What `translated` answers."""
        self.balance = Balanced()
        """What `balanced` answers."""
        self._pairs: dict[str, Key] = {}
        self._events: dict[Event, None] = {}

    # The port.

    def read(self, desired: NodeState, kinds: frozenset[str] | None = None) -> dict[Key, Resource]:
        """See Dataplane."""
        wanted = frozenset(ORDER) if kinds is None else kinds
        places = {key[1] for key in desired} | {""}
        found = {
            key: resource
            for key, resource in self.holds.items()
            if key[0] in wanted and key[1] in places and (key[0] != "PodLink" or key in desired)
        }
        sysctls = [Sysctl(name, "") for name in self.before]
        sysctls += [resource for resource in desired.values() if isinstance(resource, Sysctl)]
        for sysctl in sysctls if "Sysctl" in wanted else ():
            if self._has(sysctl.netns, sysctl.dev):
                found[sysctl.key] = msgspec.structs.replace(sysctl, value=self._value(sysctl))
        return found

    def apply(self, plan: Plan) -> Outcome:
        """See Dataplane."""
        self.plans.append(plan)
        tally = Tally()
        first, last = nft.split(plan.steps)
        first.sort(key=lambda step: step.verb != "delete")
        chains = [step for step in plan.steps if step.resource.kind in iptables.KINDS]
        made, gone = ipvs.split(plan.steps)
        daemons = [step for step in plan.steps if step.resource.kind == "Daemon"]
        for steps in (first, chains, made, *(steps for _, steps in stages(plan.steps)), daemons, gone, last):
            for step in steps:
                self._carry_out(step, tally)
        return tally.outcome()

    def act(self, actions: Iterable[Action]) -> None:
        """See Dataplane."""
        self.acted.extend(actions)

    def intact(self, desired: NodeState) -> bool:
        """See Dataplane."""
        return all(key in self.holds for key in desired)

    def remembered(self, family: str, table: str, name: str) -> tuple[str, ...]:
        """See Dataplane."""
        return self.memory.get((family, table, name), ())

    def forget(self, family: str, table: str, name: str, elements: Iterable[str]) -> None:
        """See Dataplane."""
        gone, place = set(elements), (family, table, name)
        self.memory[place] = tuple(each for each in self.remembered(*place) if each not in gone)

    def translated(self) -> Mapping[Translated, int]:
        """See Dataplane."""
        return self.flows

    def balanced(self) -> Balanced:
        """See Dataplane."""
        return self.balance

    def close(self) -> None:
        """See Dataplane."""
        self.closed = True

    # Other hands.

    def vanish(self, key: Key) -> None:
        """Someone removes an object; what is on it goes too."""
        resource = self.holds[key]
        self._remove(resource)
        self._tell("del", resource)

    def put(self, resource: Resource) -> None:
        """Someone makes or changes an object. Raises Absent, Refused."""
        self._make(resource)
        self._tell("new", resource)

    def remove_pod(self, netns: str) -> None:
        """A pod's namespace goes, and with it both ends of its links."""
        for name, pair in tuple(self._pairs.items()):
            if pair[1] == netns:
                self.vanish(("Link", "", name))
        self.pods.discard(netns)
        self._drop(lambda resource: resource.key[1] == netns)

    def events(self) -> list[Event]:
        """What a monitor would have reported since the last call. It sees the node's namespace only."""
        events, self._events = list(self._events), {}
        return events

    def _tell(self, verb: Literal["new", "del"], resource: Resource) -> None:
        if resource.key[1]:
            return
        kinds = _DIRTY.get(resource.kind, ())
        if isinstance(resource, Link) and (verb == "del" or not resource.up):
            kinds = LOST_WHEN_DOWN
        for kind in kinds:
            self._events["dirty", kind] = None
        if resource.kind not in _DIRTY:
            self._events[verb, resource] = None

    # One step.

    def _carry_out(self, step: Step, tally: Tally) -> None:
        try:
            if step.verb in ("delete", "replace"):
                self._remove(step.old or step.resource)
            if step.verb != "delete":
                self._make(step.resource)
        except Absent:
            tally.absent(step)
        except Refused as error:
            tally.fail(step, error.failure)
        else:
            tally.succeed(step)

    def _make(self, resource: Resource) -> None:
        self._need(*(resource.on or (resource.key[1], "")))
        match resource:
            case Link():
                self._make_link(resource)
            case PodLink():
                self._make_pod_link(resource)
            case Sysctl():
                self._make_sysctl(resource)
            case _:
                self._check(resource)
                self.holds[resource.key] = resource
        if isinstance(resource, NftTable):
            sets = declared(resource.body)
            self._drop(lambda r: isinstance(r, Element) and r.key[2:4] == resource.key[2:4] and r.set not in sets)

    def _need(self, netns: str, link: str = "") -> None:
        """Raises Absent when there is no such namespace, or no such link in it."""
        if not self._has(netns, link):
            raise Absent

    def _has(self, netns: str, link: str) -> bool:
        if netns and netns not in self.pods:
            return False
        if link in ("", "lo") or (not netns and link in self.uplinks):
            return True
        return ("PodLink" if netns else "Link", netns, link) in self.holds

    def _check(self, resource: Resource) -> None:
        match resource:
            case Redirect():
                self._need("", resource.to)
            case Route():
                self._check_route(resource)
            case RealServer():
                if resource.behind not in self.holds:
                    raise Refused(errno.ESRCH)
            case Element():
                table = self.holds.get(("NftTable", "", resource.family, resource.table))
                if not isinstance(table, NftTable) or resource.set not in declared(table.body):
                    raise Refused(errno.ENOENT)

    def _check_route(self, route: Route) -> None:
        if route.via and not route.onlink and not self._reaches(route.netns, route.via):
            raise Refused(errno.EHOSTUNREACH if ":" in route.via else errno.ENETUNREACH)
        link = self.holds.get(("PodLink" if route.netns else "Link", route.netns, route.dev or ""))
        if isinstance(link, Link | PodLink) and not link.up:
            raise Absent

    def _reaches(self, netns: str, hop: str) -> bool:
        """Whether a next hop is in the network of an address, or is itself reached by a route without one; each link
        leads to IPv6's link-local addresses by itself."""
        if ip_address(hop).version == 6 and ip_address(hop).is_link_local:
            return True
        here = [resource for resource in self.holds.values() if resource.key[1] == netns]
        networks = [address.address for address in here if isinstance(address, Address)]
        networks += [route.dst for route in here if isinstance(route, Route) and not route.via]
        networks += [] if netns else [address for addresses in self.uplinks.values() for address in addresses]
        return any(ip_address(hop) in ip_interface(network).network for network in networks)

    def _make_link(self, link: Link) -> None:
        underlay = link.dev if isinstance(link, Vxlan) else None
        for name in filter(None, (link.master, underlay)):
            self._need("", name)
        present = self.holds.get(link.key)
        if present is None and isinstance(link, Veth):
            self._make_pair(link)
        made = _merged(link, present or msgspec.structs.replace(link, mtu=link.mtu or 1500, mac=link.mac or _MAC))
        self.holds[link.key] = msgspec.structs.replace(made, peer=None) if isinstance(made, Veth) else made
        if not link.up:
            self._drop(lambda r: r.on == ("", link.name) and _lost_when_down(r))

    def _make_pair(self, link: Veth) -> None:
        peer = link.peer
        if peer is None:
            raise Refused(errno.EINVAL, f"veth {link.name} is to be made without its other end")
        self._need(peer.netns)
        other = PodLink(netns=peer.netns, name=peer.name, mtu=peer.mtu, mac=peer.mac, up=False)
        if other.key in self.holds:
            raise Refused(errno.EEXIST)
        self.holds[other.key] = other
        self._pairs[link.name] = other.key

    def _make_pod_link(self, link: PodLink) -> None:
        if link.name == "lo":
            self.holds.setdefault(link.key, PodLink(netns=link.netns, name="lo", mtu=65536, mac=_NO_MAC, up=False))
        self._need(link.netns, link.name)
        if link.key not in self.holds:
            raise Absent
        self.holds[link.key] = _merged(link, self.holds[link.key])

    def _make_sysctl(self, sysctl: Sysctl) -> None:
        present = self._value(sysctl)
        if not sysctl.netns and not sysctl.dev.startswith(LINK_PREFIX) and present != sysctl.value:
            self.before.setdefault(sysctl.name, present)
        self.parameters[sysctl.netns, sysctl.name] = sysctl.value
        if sysctl.value == "0":  # as if it had never been touched
            del self.parameters[sysctl.netns, sysctl.name]

    def _value(self, sysctl: Sysctl) -> str:
        return self.parameters.get((sysctl.netns, sysctl.name), "0")

    def _remove(self, resource: Resource) -> None:
        if isinstance(resource, Sysctl):
            if not resource.netns and resource.name in self.before:
                self.parameters["", resource.name] = self.before.pop(resource.name)
            return
        self.holds.pop(resource.key, None)
        if isinstance(resource, NftTable):
            self._drop(lambda r: isinstance(r, Element) and r.key[2:4] == resource.key[2:4])
        if isinstance(resource, VirtualServer):
            self._drop(lambda r: isinstance(r, RealServer) and r.behind == resource.key)
        if isinstance(resource, Link):
            pair = self._pairs.pop(resource.name, None)
            for key in (resource.key, pair) if pair else (resource.key,):
                self.holds.pop(key, None)
                self._drop(lambda r, on=key[1:]: r.on == on)  # type: ignore[misc]
            self._free_ports(resource.name)

    def _free_ports(self, master: str) -> None:
        for key, port in self.holds.items():
            if isinstance(port, Veth) and port.master == master:
                self.holds[key] = msgspec.structs.replace(port, master=None, hairpin=None)
            elif isinstance(port, Link) and port.master == master:
                self.holds[key] = msgspec.structs.replace(port, master=None)

    def _drop(self, meant: Callable[[Resource], bool]) -> None:
        self.holds = {key: resource for key, resource in self.holds.items() if not meant(resource)}


def _lost_when_down(resource: Resource) -> bool:
    return isinstance(resource, Route | Neighbour | Proxied) or (
        isinstance(resource, Address) and ":" in resource.address
    )


def _merged(wanted: Resource, present: Resource) -> Resource:
    """`present` with the managed fields of `wanted`."""
    values = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
    return msgspec.structs.replace(present, **{name: value for name, value in values.items() if value is not None})
