"""The one diff: from what a kernel holds to what it should hold, as an ordered list of steps.

Nothing else in podnet compares desired with actual state. Drift repair, restart, upgrade, a change of backend, turning
a feature off, `podnet plan` and CNI CHECK are all this function. Adds come before deletes, so a new path stands before
the old one goes; within each, kinds follow ORDER.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from podnet.state.links import Link, Redirect, Veth
from podnet.state.resource import Key, NodeState, Resource
from podnet.state.routes import Route

ORDER = (
    "NftTable",  # policy stands before a link is up
    "Element",
    "IptablesChain",
    "IptablesJump",
    "VirtualServer",  # shares out before its address is the node's
    "RealServer",
    "Link",
    "PodLink",
    "Sysctl",  # per-link parameters need the link
    "Shaper",
    "Redirect",  # needs its ifb
    "Address",  # routes need their link's address
    "Neighbour",
    "FdbEntry",
    "Route",  # traffic starts when everything under it is there
    "Daemon",  # needs the addresses that it listens at
)
"""In which order kinds are added; deletes go the other way."""

RANK = {kind: rank for rank, kind in enumerate(ORDER)}


class Step(msgspec.Struct, frozen=True, gc=False):
    """One thing to do. `add` and `change` make `resource` so; `replace` deletes `old` first; `delete` removes it."""

    verb: Literal["add", "change", "replace", "delete"]
    resource: Resource
    old: Resource | None = None
    fields: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True, gc=False):
    """What to do, in order. An empty plan is false."""

    steps: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)


def plan(desired: NodeState, actual: NodeState) -> Plan:
    """The steps that turn `actual` into `desired`, both holding only what bears our mark."""
    gone = frozenset(_vanishing(desired, actual))
    made, removed = [], []
    for key, wanted in desired.items():
        present = actual.get(key)
        step = _step(wanted, None if present is None or _lost(present, gone) else present)
        if step is not None:
            made.append(step)
    for key, present in actual.items():
        if key not in desired and present.on not in gone:
            removed.append(Step("delete", present))
    return Plan((*_sorted(made), *reversed(_sorted(removed))))


def carry(state: dict[Key, Resource], step: Step) -> None:
    """Bring `state` to what a kernel holds after it acknowledged a step; a link that goes takes along what is on it."""
    old = step.old or step.resource
    if step.verb in ("delete", "replace") and isinstance(old, Link):
        ends = frozenset(_ends(old))
        for key in [key for key, present in state.items() if present.on in ends]:
            del state[key]
    if step.verb == "delete":
        state.pop(step.resource.key, None)
    else:
        state[step.resource.key] = step.resource


def restrict(state: NodeState, keys: Iterable[Key]) -> dict[Key, Resource]:
    """The part of a state that has these keys: both sides of a partial plan."""
    return {key: state[key] for key in keys if key in state}


def _step(wanted: Resource, present: Resource | None) -> Step | None:
    if present is None:
        return Step("add", wanted)
    fields = wanted.changes(present)
    if not fields:
        return None
    return Step("replace" if wanted.replaces(present) else "change", wanted, present, fields)


def _vanishing(desired: NodeState, actual: NodeState) -> Iterator[tuple[str, str]]:
    """Links that go, are made anew or are not there: the kernel holds nothing on them, whatever was read before."""
    for key, present in actual.items():
        if isinstance(present, Link) and ((wanted := desired.get(key)) is None or wanted.replaces(present)):
            yield from _ends(present)
    for key, wanted in desired.items():
        if isinstance(wanted, Link) and key not in actual:
            yield from _ends(wanted)


def _ends(link: Link) -> Iterator[tuple[str, str]]:
    yield ("", link.name)
    if isinstance(link, Veth) and link.peer is not None:
        yield (link.peer.netns, link.peer.name)


def _lost(present: Resource, gone: frozenset[tuple[str, str]]) -> bool:
    """Whether this went with a link; a redirect needs the link that it leads to as well."""
    return present.on in gone or (isinstance(present, Redirect) and ("", present.to) in gone)


def place(resource: Resource) -> tuple[int, bool, Key]:
    """Where a resource comes among those that are added; sorts them."""
    return (RANK[resource.kind], _leans(resource), resource.key)


def _sorted(steps: list[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: place(step.resource))


def _leans(resource: Resource) -> bool:
    """Whether it may need another of its kind: a port its bridge, a next hop the route that leads to it."""
    if isinstance(resource, Route):
        return resource.via is not None and not resource.onlink
    return isinstance(resource, Link) and bool(resource.needs)
