"""The one diff: from what a kernel holds to what it should hold, as an ordered list of steps.

Nothing else in podnet compares desired with actual state. Drift repair, restart, upgrade, a change of backend, turning
a feature off, `podnet plan` and CNI CHECK are all this function. Adds come before deletes, so a new path stands before
the old one goes; within each, kinds follow ORDER.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from podnet.state.links import Link, Veth
from podnet.state.resource import Key, NodeState, Resource

ORDER = (
    "NftTable",  # policy stands before a link is up
    "Element",
    "Link",
    "PodLink",
    "Sysctl",  # per-link parameters need the link
    "Shaper",
    "Redirect",  # needs its ifb
    "Address",  # routes need their link's address
    "Neighbour",
    "FdbEntry",
    "Route",  # last: traffic starts when everything under it is there
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
        if present is not None and present.on in gone:
            present = None
        step = _step(wanted, present)
        if step is not None:
            made.append(step)
    for key, present in actual.items():
        if key not in desired and present.on not in gone:
            removed.append(Step("delete", present))
    return Plan((*_sorted(made), *reversed(_sorted(removed))))


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
    """Links that go or are made anew: whatever the kernel holds on them goes too, without our asking."""
    for key, present in actual.items():
        if not isinstance(present, Link):
            continue
        wanted = desired.get(key)
        if wanted is None or wanted.replaces(present):
            yield ("", present.name)
            peer = present.peer if isinstance(present, Veth) else None
            if peer is not None:
                yield (peer.netns, peer.name)


def _sorted(steps: list[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: (RANK[step.resource.kind], _depth(step.resource), step.resource.key))


def _depth(resource: Resource) -> int:
    """Bridges and tunnels before the links that are enslaved to them."""
    return 1 if isinstance(resource, Link) and resource.needs else 0
