"""The one loop body that keeps a kernel as it should be: observe, diff, apply.

`actual` is what was last read from the kernel, carried forward by steps the kernel acknowledged. Any event that does
not agree with it marks its kind dirty, and a dirty kind is read again, whole, before the next diff. While nothing is
dirty only the units that changed are compared. Nothing is ever flushed, and nothing is deleted before `reconcile` is
called for the first time, which the agent does only when every informer has listed once and the facts were read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from podnet.kernel.dataplane import ApplyError, Dataplane
from podnet.kernel.monitor import Event
from podnet.state.difference import changes
from podnet.state.host import Action
from podnet.state.plan import Plan, Step, carry, plan, restrict
from podnet.state.resource import Key, NodeState, Resource, state

Unit = tuple[str, ...]
Units = Mapping[Unit, tuple[Resource, ...]]
After = Callable[[Plan], Iterable[Action]]


class Pass(msgspec.Struct, frozen=True):
    """What one reconciliation did. `unsettled` names the units that are not as desired yet, with the reasons."""

    plan: Plan
    failed: tuple[ApplyError, ...] = ()
    held: tuple[Step, ...] = ()
    unsettled: Mapping[Unit, str] = {}


class Reconciler:
    """Owns the last reading of one node's kernel. Synchronous; every call comes from the one kernel thread."""

    def __init__(self, dataplane: Dataplane) -> None:
        self.dataplane = dataplane
        self.dirty: set[str] | None = None
        """Kinds to read again; None means everything."""
        self.actual: dict[Key, Resource] = {}
        self._attempted: Units = {}
        self._seen: dict[str, tuple[Units, dict[Unit, dict[Key, Resource]]]] = {}
        self._unsettled: frozenset[Unit] = frozenset()

    def distrust(self, kinds: Iterable[str] | None = None) -> None:
        """Read these kinds (None: all) again before the next diff."""
        if kinds is None:
            self.dirty = None
        elif self.dirty is not None:
            self.dirty.update(kinds)

    def observe(self, events: Iterable[Event]) -> bool:
        """Take in what the monitor saw; True when something disagrees, so that a pass is needed."""
        last: dict[object, Event] = {}
        for event in events:
            last[event[1] if isinstance(event[1], str) else event[1].key] = event
        for verb, subject in last.values():
            if isinstance(subject, str):
                self.distrust(None if subject == "all" else (subject,))
            elif not self._agrees(verb, subject):
                self.distrust((subject.kind,))
        return self.dirty is None or bool(self.dirty)

    def _agrees(self, verb: str, seen: Resource) -> bool:
        known = self.actual.get(seen.key)
        match verb:
            case "new":
                return known is not None and not known.changes(seen)
            case "del":
                return known is None
            case _:  # foreign: something without our mark stands where we want ours
                return known is None

    def poll(self, kind: str, units: Units) -> bool:
        """Look at a kind that sends no events (sysctls); True when it drifted."""
        wanted = self._of_kind(kind, units)
        seen = self.dataplane.read(wanted, frozenset({kind}))
        drifted = any(key in self.actual and self.actual[key].changes(value) for key, value in seen.items())
        if drifted:
            self.distrust((kind,))
        return drifted

    def canaries(self, units: Units) -> bool:
        """Look whether somebody flushed iptables, which says nothing; True when a canary chain is gone."""
        chains = self._of_kind("IptablesChain", units)
        if not chains or self.dataplane.intact(chains):
            return False
        self.distrust(("IptablesChain", "IptablesJump"))
        return True

    def _of_kind(self, kind: str, units: Units) -> dict[Key, Resource]:
        """There may be a hundred thousand resources, of which few are meant and few are new."""
        known, found = self._seen.get(kind, ({}, {}))
        for unit in changes(units, known):
            found.pop(unit, None)
            if these := {r.key: r for r in units.get(unit, ()) if type(r).__name__ == kind}:
                found[unit] = these
        self._seen[kind] = units, found
        return {key: resource for these in found.values() for key, resource in these.items()}

    def difference(self, units: Units, only: bool = False) -> Plan:
        """The plan that a pass would carry out now, from a fresh reading; changes nothing. `only`: of these units."""
        desired = _state(units)
        actual = self.dataplane.read(desired, frozenset(key[0] for key in desired) if only else None)
        return plan(desired, restrict(actual, desired) if only else actual)

    def reconcile(self, units: Units, after: After = lambda _: ()) -> Pass:
        """One pass: make the kernel hold what `units` say."""
        steps = self._plan(units)
        outcome = self.dataplane.apply(steps) if steps else None
        self._attempted = units
        self._unsettled = frozenset()
        if outcome is None:
            return Pass(steps)
        for step in outcome.done:
            carry(self.actual, step)
        self.dataplane.act(tuple(after(steps)))
        reasons = {error.resource.key: str(error) for error in outcome.failed}
        self.distrust({key[0] for key in reasons})
        reasons |= {step.resource.key: "waits for its link or namespace" for step in outcome.held}
        unsettled = _units_of(units, reasons)
        self._unsettled = frozenset(unsettled)
        return Pass(steps, outcome.failed, outcome.held, unsettled)

    def _plan(self, units: Units) -> Plan:
        if self.dirty is None or self.dirty:
            desired = _state(units)
            self._read(desired)
            return plan(desired, self.actual)
        last = self._attempted
        touched = {*changes(units, last), *self._unsettled}
        desired = state(resource for unit in touched for resource in units.get(unit, ()))
        before = {resource.key for unit in touched for resource in last.get(unit, ())}
        return plan(desired, restrict(self.actual, before | desired.keys()))

    def _read(self, desired: NodeState) -> None:
        if self.dirty is None:
            self.actual = self.dataplane.read(desired)
        else:
            kinds = frozenset(self.dirty)
            fresh = self.dataplane.read(desired, kinds)
            self.actual = {key: value for key, value in self.actual.items() if key[0] not in kinds} | fresh
        self.dirty = set()


def _state(units: Units) -> dict[Key, Resource]:
    return state(resource for resources in units.values() for resource in resources)


def _units_of(units: Units, reasons: Mapping[Key, str]) -> dict[Unit, str]:
    if not reasons:
        return {}
    found = {}
    for unit, resources in units.items():
        reason = next((reasons[r.key] for r in resources if r.key in reasons), None)
        if reason is not None:
            found[unit] = reason
    return found
