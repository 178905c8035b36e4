"""A kernel in forty lines: enough to show what a plan does to a node, and what a node refuses.

It knows what every kernel does by itself: a link that goes takes along what is on it; both ends of a veth pair go
together; a port loses its master; a table takes its elements along. And it refuses what a kernel refuses: something on
a link that is not there, a port of no bridge, a next hop that nothing leads to.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from msgspec.structs import replace

from podnet.kernel.dataplane import ApplyError, Outcome
from podnet.state.host import Action
from podnet.state.ipvs import Balanced
from podnet.state.links import Link, PodLink, Redirect, Veth, Vxlan
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Plan, Step
from podnet.state.resource import LINK_PREFIX, Key, NodeState, Resource
from podnet.state.routes import Address, FdbEntry, Neighbour, Route

State = dict[Key, Resource]


class Refused(Exception):
    """The kernel says no."""


def apply(plan: Plan, state: NodeState) -> State:
    """The state after a plan; raises Refused at the first step that a kernel would refuse."""
    result = dict(state)
    for step in plan.steps:
        carry_out(step, result)
    return result


def carry_out(step: Step, state: State) -> None:
    """One step. Deleting what is gone is done."""
    if step.verb in ("delete", "replace"):
        remove(state, (step.old or step.resource).key)
    if step.verb != "delete":
        if why := missing(step.resource, state):
            raise Refused(f"{step.verb} {step.resource}: {why}")
        put(state, merged(step, state))


def differences(goal: NodeState, actual: NodeState) -> set[Key]:
    """Where a kernel is not as wanted; what is not managed may be anything."""
    return {key for key in {*goal, *actual} if key not in goal or key not in actual or goal[key].changes(actual[key])}


def merged(step: Step, state: State) -> Resource:
    """A change sets the fields it names; a link keeps what nobody manages."""
    wanted, old = step.resource, state.get(step.resource.key)
    if step.verb != "change" or not isinstance(wanted, Link | PodLink) or old is None:
        return wanted
    return replace(old, **{name: getattr(wanted, name) for name in step.fields})


def put(state: State, resource: Resource) -> None:
    """Make it so; a veth is born with its other end, which is down."""
    if isinstance(resource, Veth) and resource.peer and resource.key not in state:
        peer = resource.peer
        end = PodLink(netns=peer.netns, name=peer.name, mtu=peer.mtu, mac=peer.mac, up=False)
        state[end.key] = end
    state[resource.key] = resource


def remove(state: State, key: Key) -> None:
    """Take one object away, and all that goes with it."""
    gone = state.pop(key, None)
    for other in [] if gone is None else list(state.values()):
        if isinstance(other, Link) and isinstance(gone, Link) and other.master == gone.name:
            state[other.key] = replace(other, master="")
        if goes_with(other, gone):
            remove(state, other.key)
        elif isinstance(other, Redirect) and isinstance(gone, Link) and other.to == gone.name:
            state[other.key] = Redirect(other.dev, "")


def goes_with(other: Resource, gone: Resource | None) -> bool:
    """Whether `other` can't outlive `gone`."""
    match gone:
        case Veth(peer=peer) if peer is not None and other.key == ("PodLink", peer.netns, peer.name):
            return True
        case PodLink() if isinstance(other, Veth) and other.peer is not None:
            return (other.peer.netns, other.peer.name) == (gone.netns, gone.name)
        case Link() | PodLink():
            return not isinstance(other, PodLink) and other.on == (gone.key[1], gone.key[2])
        case NftTable():
            return isinstance(other, Element) and (other.family, other.table) == (gone.family, gone.name)
    return False


def missing(resource: Resource, state: NodeState) -> str:
    """What a kernel would miss; "" when nothing. Links without our prefix are the machine's own and always there."""
    on = resource.on
    ours = on is not None and (on[0] or on[1].startswith(LINK_PREFIX))
    if ours and on is not None and ("PodLink" if on[0] else "Link", *on) not in state:
        return f"no link {on}"
    match resource:
        case Link() if any(("Link", "", name) not in state for name in resource.needs):
            return f"no link {resource.needs}"
        case Redirect() if ("Link", "", resource.to) not in state:
            return f"no link {resource.to}"
        case Element() if ("NftTable", "", resource.family, resource.table) not in state:
            return f"no table {resource.table}"
        case Route(via=via) if via is not None and resource.netns and not resource.onlink:
            return "" if reachable(via, resource, state) else f"no way to {via}"
    return ""


def reachable(via: str, route: Route, state: NodeState) -> bool:
    """Whether something on the link leads to a next hop: a subnet, a route, or IPv6's link-local addresses."""
    target = ip_address(via)
    for other in state.values():
        match other:
            case Address() if (other.netns, other.dev) == (route.netns, route.dev):
                network = ip_network(other.address, strict=False)
            case Route(via=None) if (other.netns, other.dev) == (route.netns, route.dev):
                network = ip_network(other.dst)
            case _:
                continue
        if target in network:
            return True
    return target.version == 6 and target.is_link_local


def undelivered(sender: NodeState, to: int, receiver: NodeState) -> str:
    """Why a packet for a pod of node `to` (of tests/worlds.py) does not arrive between two kernels; "" when it does."""
    route = sender.get(("Route", "", f"10.244.{to}.0/24"))
    if not isinstance(route, Route) or route.via is None or route.dev is None:
        return "no route"
    if route.dev == "eth0":
        return "" if route.via == f"192.168.77.{10 + to}" else f"routed to {route.via}"
    device = sender.get(("Link", "", route.dev))
    neighbour = sender.get(("Neighbour", "", route.dev, route.via))
    if not isinstance(device, Vxlan) or not isinstance(neighbour, Neighbour):
        return f"no device {route.dev}, or no neighbour"
    entry = sender.get(("FdbEntry", "", route.dev, neighbour.mac))
    if not isinstance(entry, FdbEntry):
        return "no forwarding entry"
    ends = [(each.vni, each.port, each.local, each.mac) for each in receiver.values() if isinstance(each, Vxlan)]
    packet = (device.vni, device.port, entry.dst, neighbour.mac)
    return "" if packet in ends else f"{packet} meets {ends}"


class Stub:
    """The dataplane port over that kernel. `refuse` names keys that fail, `absent` namespaces that are not there."""

    def __init__(self, state: NodeState | None = None) -> None:
        self.state: State = dict(state or {})
        self.refuse: set[Key] = set()
        self.absent: set[str] = set()
        self.plans: list[Plan] = []
        self.acts: list[Action] = []
        self.reads: list[frozenset[str] | None] = []

    def read(self, desired: NodeState, kinds: frozenset[str] | None = None) -> State:
        """As a kernel is read: pods that nobody asks for are not seen, nor where the other end of a pair is."""
        self.reads.append(kinds)
        pods = {"", *(key[1] for key in desired)} - self.absent
        found = (each for key, each in self.state.items() if key[1] in pods and (kinds is None or key[0] in kinds))
        return {each.key: replace(each, peer=None) if isinstance(each, Veth) else each for each in found}

    def apply(self, plan: Plan) -> Outcome:
        self.plans.append(plan)
        done: list[Step] = []
        held: list[Step] = []
        failed = []
        for step in plan.steps:
            try:
                if step.resource.key in self.refuse:
                    failed.append(ApplyError(step.resource, step.verb, errno.EPERM))
                elif step.resource.key[1] in self.absent:
                    (done if step.verb == "delete" else held).append(step)
                else:
                    carry_out(step, self.state)
                    done.append(step)
            except Refused:
                held.append(step)
        return Outcome(tuple(done), tuple(failed), tuple(held))

    def act(self, actions: Iterable[Action]) -> None:
        self.acts += actions

    def intact(self, desired: NodeState) -> bool:
        """Nobody flushes iptables here."""
        return True

    def remembered(self, family: str, table: str, name: str) -> tuple[str, ...]:
        """This kernel puts nothing into sets by itself."""
        return ()

    def forget(self, family: str, table: str, name: str, elements: Iterable[str]) -> None:
        """So nothing can be taken out of them."""

    def translated(self) -> dict[tuple[int, str, int, str], int]:
        """Nor are there connections."""
        return {}

    def balanced(self) -> Balanced:
        """Nor a load balancer."""
        return Balanced()

    def close(self) -> None:
        """Nothing to give back."""
