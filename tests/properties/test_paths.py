"""The result depends on the state only, never on the path taken to it.

A history is a list of events: a node, the configuration or a pod comes, changes or goes, or a node merely says that it
is alive. Whatever the order, however they are batched, however often they are repeated, and whether or not former
results are remembered, the same objects mean the same kernel state; and what did not change stays the same object.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.desired import Desired, desired, node_state
from podnet.network.memo import Memo
from podnet.network.view import Attachment
from podnet.network.viewing import problems, view
from podnet.objects.cluster import Cluster
from podnet.objects.core import Condition, Node
from podnet.state.resource import NodeState
from tests.worlds import attachment, attachments, cluster, config, configs, facts, node, nodes

Event = tuple[Any, Any]
"""(what it is about, the new value; None when it is gone). Heartbeats are about ("beat", i)."""

THINGS = st.one_of(
    *(st.tuples(st.just(("node", i)), st.none() | nodes(i)) for i in (1, 2, 3)),
    *(st.tuples(st.just(("pod", k)), st.none() | attachments(1, k)) for k in (1, 2)),
    st.tuples(st.just(("config", 0)), st.none() | configs()),
)
BEATS = st.tuples(st.tuples(st.just("beat"), st.sampled_from([1, 2, 3])), st.integers(1, 99))
HISTORIES = st.lists(THINGS | THINGS | BEATS, max_size=14)


class Watcher:
    """What an agent of n1 holds: a snapshot, its pods, and what it remembers."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.pods: dict[tuple[str, str], Attachment] = {}
        self.memo: Memo = {}

    def take(self, events: Iterable[Event]) -> None:
        """Take in a batch."""
        for (what, number), value in events:
            match what:
                case "pod":
                    pod = attachment(1, number)
                    self.pods.pop(pod.id, None)
                    if value is not None:
                        self.pods[pod.id] = value
                case "config":
                    self.put("networkconfigs", config().key, value)
                case "node":
                    self.put("nodes", node(number).key, value)
                case _:
                    key = node(number).key
                    if key in self.cluster.nodes:
                        self.put("nodes", key, beaten(self.cluster.nodes[key], str(value)))

    def put(self, plural: str, key: tuple[str, str], value: Any) -> None:
        """A snapshot shares every mapping that did not change."""
        rest = {other: each for other, each in getattr(self.cluster, plural).items() if other != key}
        self.cluster = self.cluster.with_objects(plural, rest if value is None else {**rest, key: value})

    def units(self, memo: Memo | None) -> Desired | None:
        """What the kernel should hold, unit by unit; None while nothing is known."""
        seen = view(self.cluster, facts(1), tuple(self.pods.values()), memo)
        return None if seen is None else desired(seen, memo)

    def state(self, memo: Memo | None = None) -> NodeState | None:
        """All of it."""
        units = self.units(memo)
        return None if units is None else node_state(units)


def beaten(living: Node, version: str) -> Node:
    """A heartbeat."""
    ready = Condition(type="Ready", status="True", last_transition_time=version)
    meta = replace(living.metadata, resource_version=version)
    return replace(living, metadata=meta, status=replace(living.status, conditions=(ready,)))


@settings(max_examples=30, deadline=None)
@given(HISTORIES)
def test_what_is_remembered_never_matters(history: list[Event]) -> None:
    watcher = Watcher()
    for event in history:
        watcher.take([event])
        assert watcher.units(watcher.memo) == watcher.units(None)
        assert problems(watcher.cluster, watcher.memo) == problems(watcher.cluster)
    again = watcher.units(watcher.memo)
    for unit, resources in (watcher.units(watcher.memo) or {}).items():
        assert again is not None
        assert resources is again[unit]


@settings(max_examples=30, deadline=None)
@given(HISTORIES, st.randoms(use_true_random=False))
def test_any_batching_and_repetition_ends_in_the_same_state(history: list[Event], random: Any) -> None:
    one, other = Watcher(), Watcher()
    for event in history:
        one.take([event])
        one.state(one.memo)
    rest = list(history)
    while rest:
        size = random.randint(1, len(rest))
        batch, rest = rest[:size], rest[size:]
        other.take(batch * random.randint(1, 2) if len(batch) == 1 else batch)
        other.state(other.memo)
    assert one.state(one.memo) == other.state(other.memo)


@settings(max_examples=30, deadline=None)
@given(HISTORIES, st.randoms(use_true_random=False))
def test_any_order_of_unrelated_events_ends_in_the_same_state(history: list[Event], random: Any) -> None:
    last = [(what, value) for what, value in dict(history).items() if what[0] != "beat"]
    shuffled = random.sample(last, len(last))
    one, other, straight = Watcher(), Watcher(), Watcher()
    one.take(event for event in history if event[0][0] != "beat")
    for event in shuffled:
        other.take([event])
        other.state(other.memo)
    straight.take(last)
    assert one.state() == other.state(other.memo) == straight.state()


@settings(max_examples=40, deadline=None)
@given(HISTORIES, st.integers(1, 99))
def test_heartbeats_leave_every_unit_the_same_object(history: list[Event], version: int) -> None:
    watcher = Watcher()
    watcher.take(history)
    before = watcher.units(watcher.memo)
    watcher.take([(("beat", i), version) for i in (1, 2, 3)])
    after = watcher.units(watcher.memo)
    assert (before is None) == (after is None)
    for unit, resources in (after or {}).items():
        assert before is not None
        assert resources is before[unit]


def changed(watcher: Watcher, *events: Event) -> set[str]:
    """The units that are other objects after these events."""
    before = watcher.units(watcher.memo) or {}
    watcher.take(events)
    after = watcher.units(watcher.memo) or {}
    return {"/".join(unit) for unit in {*before, *after} if before.get(unit) is not after.get(unit)}


def test_a_change_costs_what_depends_on_it() -> None:
    watcher = Watcher()
    watcher.take([(("config", 0), config(dual=True)), *((("node", i), node(i, dual=True)) for i in (1, 2))])
    watcher.take((("pod", k), attachment(1, k, dual=True)) for k in (1, 2))
    assert changed(watcher, (("pod", 3), attachment(1, 3))) == {"pod/c1-3/eth0"}
    assert changed(watcher, (("pod", 1), attachment(1, 1, dual=True, mode="ptp"))) == {"pod/c1-1/eth0"}
    assert changed(watcher, (("pod", 3), None)) == {"pod/c1-3/eth0"}
    assert changed(watcher, (("node", 3), node(3, dual=True))) == {"backend", "masquerade"}
    assert changed(watcher, (("node", 3), node(3, True, ["vxlan"], ["vxlan"]))) == set()
    assert changed(watcher, (("config", 0), config(dual=True, masquerade=False))) == {"masquerade"}
    assert changed(watcher, (("config", 0), config(dual=True, mtu=1400))) >= {"pods", "pod/c1-1/eth0", "masquerade"}
    assert changed(watcher, (("node", 1), node(1, True, labels={"a": "b"}))) == set()


def test_the_order_of_objects_does_not_matter() -> None:
    world = [node(i, dual=True) for i in (1, 2, 3)]
    states = []
    for order in (world, world[::-1]):
        seen = view(cluster(order, config()), facts(1))
        assert seen is not None
        states.append(desired(seen))
    assert states[0] == states[1]
