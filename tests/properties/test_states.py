"""From any state to any other: one plan is enough, drift is repaired exactly, and what is off is gone.

The kernel is the forty lines of tests/kernel_stub.py, which refuse what a kernel would refuse: so a plan that arrives
is also a plan whose steps are in an order that works.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.desired import desired, node_state
from podnet.network.hostports import TABLE
from podnet.network.view import Attachment, Bandwidth, PortMapping
from podnet.objects.cluster import Cluster
from podnet.state.links import Link
from podnet.state.nft import Element
from podnet.state.plan import Plan, plan
from podnet.state.resource import Key, NodeState, Resource
from podnet.state.routes import Address, Proxied, Route
from tests import kernel_stub
from tests.worlds import attachment, cluster, clusters, config, node, pod_sets, seen, state_of

SETTINGS = settings(max_examples=50, deadline=None)
SIDES = st.tuples(clusters(), pod_sets(1))
Side = tuple[Cluster, tuple[Attachment, ...]]


def held(side: Side) -> dict[Key, Resource]:
    return dict(node_state(desired(seen(side[0], 1, side[1]))))


@SETTINGS
@given(SIDES, SIDES)
def test_one_plan_leads_from_any_state_to_any_other_and_the_second_is_empty(before: Side, then: Side) -> None:
    start, goal = held(before), held(then)
    reached = kernel_stub.apply(plan(goal, start), start)
    assert not kernel_stub.differences(goal, reached)
    assert not plan(goal, reached)


@SETTINGS
@given(SIDES)
def test_from_nothing_and_to_nothing(side: Side) -> None:
    goal = held(side)
    assert kernel_stub.apply(plan(goal, {}), {}) == goal
    assert kernel_stub.apply(plan({}, goal), goal) == {}


@SETTINGS
@given(SIDES, SIDES, st.data())
def test_from_the_middle_of_another_plan(before: Side, then: Side, data: st.DataObject) -> None:
    """An agent that is killed while it works leaves some state; the next one reads it and arrives."""
    start, goal = held(before), held(then)
    steps = plan(goal, start).steps
    done = data.draw(st.integers(0, len(steps)))
    middle = kernel_stub.apply(Plan(steps[:done]), start)
    assert not kernel_stub.differences(goal, kernel_stub.apply(plan(goal, middle), middle))


@SETTINGS
@given(SIDES, SIDES)
def test_what_a_reading_leaves_out_does_not_matter(before: Side, then: Side) -> None:
    """The kernel does not say where the other end of a pair is, and pods that nobody asks for are not read."""
    start, goal = held(before), held(then)
    read = kernel_stub.Stub(start).read(goal)
    assert not kernel_stub.differences(goal, kernel_stub.apply(plan(goal, read), start))


@SETTINGS
@given(SIDES, st.data())
def test_any_one_thing_that_was_removed_is_repaired_and_nothing_else(side: Side, data: st.DataObject) -> None:
    goal = held(side)
    key = data.draw(st.sampled_from(sorted(goal)))
    actual = dict(goal)
    kernel_stub.remove(actual, key)
    steps = plan(goal, actual)
    assert {step.resource.key for step in steps.steps} == {each for each in goal if goal[each] != actual.get(each)}
    assert {step.verb for step in steps.steps if step.resource.key == key} == {"add"}
    if not isinstance(goal[key], Link) and key[0] not in ("PodLink", "NftTable"):
        assert len(steps.steps) == 1
    assert kernel_stub.apply(steps, actual) == goal


ALTERED: dict[str, dict[str, Any]] = {
    "Link": {"mtu": 999},
    "PodLink": {"up": False},
    "Sysctl": {"value": "7"},
    "Shaper": {"rate": 1},
    "Redirect": {"to": ""},
    "Neighbour": {"mac": "00:00:00:00:00:01"},
    "FdbEntry": {"dst": "203.0.113.1"},
    "Route": {"via": "203.0.113.1"},
    "NftTable": {"body": "somebody's"},
    "Element": {"value": "somebody's"},
}


@SETTINGS
@given(SIDES, st.data())
def test_any_one_thing_that_was_altered_is_put_right_and_nothing_else(side: Side, data: st.DataObject) -> None:
    goal = held(side)
    alterable = (key for key, each in goal.items() if key[0] in ALTERED and not isinstance(each, Proxied))
    key = data.draw(st.sampled_from(sorted(alterable)))
    actual = {**goal, key: replace(goal[key], **ALTERED[key[0]])}
    (step,) = plan(goal, actual).steps
    assert (step.verb, step.resource, step.old) == ("change", goal[key], actual[key])
    assert kernel_stub.apply(Plan((step,)), actual) == goal


@SETTINGS
@given(SIDES, st.data())
def test_a_tunnel_with_other_parameters_is_made_anew_with_all_that_was_on_it(side: Side, data: st.DataObject) -> None:
    goal = held(side)
    tunnels = sorted(key for key, each in goal.items() if isinstance(each, Link) and type(each).fixed)
    assume(tunnels)
    key = data.draw(st.sampled_from(tunnels))
    actual = {**goal, key: replace(goal[key], local="203.0.113.9")}
    steps = plan(goal, actual)
    verbs = {step.resource.key: step.verb for step in steps.steps}
    assert verbs == {key: "replace"} | {each: "add" for each, value in goal.items() if value.on == ("", key[2])}
    assert kernel_stub.apply(steps, actual) == goal


@SETTINGS
@given(SIDES, SIDES)
def test_what_bears_no_mark_is_never_touched(before: Side, then: Side) -> None:
    """Plans are about what was read as ours or is wanted; no step names anything else."""
    start, goal = held(before), held(then)
    for step in plan(goal, start).steps:
        assert step.resource.key in start or step.resource.key in goal


# -- off means gone

WORLD = {"dual": True}
PODS = (
    attachment(
        1, 1, dual=True, ports=(PortMapping(8080, 80), PortMapping(53, 53, "udp")), bandwidth=Bandwidth(9, 9, 9, 9)
    ),
    attachment(1, 2, dual=True, mode="ptp", ports=(PortMapping(8081, 80),)),
    attachment(1, 3, dual=True),
)


def world(backend: str = "vxlan", accepts: tuple[str, ...] = (), sends: tuple[str, ...] = (), **spec: Any) -> Cluster:
    return cluster([node(i, True, accepts, sends) for i in (1, 2, 3)], config({"type": backend}, dual=True, **spec))


def difference(then: NodeState, before: NodeState) -> tuple[set[Key], set[Key]]:
    """(keys that a plan deletes or that go with a link it deletes, keys that it touches otherwise)."""
    steps = plan(then, before)
    after = kernel_stub.apply(steps, before)
    assert not kernel_stub.differences(then, after)
    return set(before) - set(after), {step.resource.key for step in steps.steps if step.verb != "delete"}


def test_masquerade_off() -> None:
    before = state_of(world(), 1, PODS)
    gone, touched = difference(state_of(world(masquerade=False), 1, PODS), before)
    assert gone == {key for key in before if "podnet-masquerade" in key}
    assert touched == set()


@pytest.mark.parametrize(("old", "new"), [("vxlan", "host-gw"), ("host-gw", "vxlan")])
def test_the_former_backend_is_gone_after_the_waves(old: str, new: str) -> None:
    """Wave by wave: made before, moved at once, and at the end only deletions of the former one's."""
    word = f"{new}@1"
    first = state_of(world(old, (old,), (old,)), 1, PODS)
    asking = state_of(world(new, (old,), (old,)), 1, PODS)
    sending = state_of(world(new, (word, old), (old,)), 1, PODS)
    last = state_of(world(new, (word, old), (word,)), 1, PODS)
    tunnel = {
        key for key, each in state_of(world("vxlan"), 1).items() if each.key[2:3] in [("podnet.1",), ("podnet-v6.1",)]
    }

    gone, _ = difference(asking, first)
    assert gone == set()
    assert {key: first[key] for key in first if key[0] == "Route"} == {
        k: v for k, v in asking.items() if k[0] == "Route"
    }

    gone, touched = difference(sending, asking)
    assert {key[0] for key in gone} <= {"Neighbour", "FdbEntry"}
    assert {key[2] for key in touched if key[0] == "Route"} == {f"10.244.{i}.0/24" for i in (2, 3)} | {
        f"fd00:10:244:{i}::/64" for i in (2, 3)
    }

    gone, touched = difference(last, sending)
    assert {key[0] for key in gone} <= {"Link", "Address", "Sysctl"}
    assert gone <= set(sending) - set(state_of(world(new), 1, PODS))
    assert {type(last[key]).__name__ for key in touched} <= {"Bridge", "Veth", "PodLink", "Ifb"}, "only the MTU"
    assert last == state_of(world(new), 1, PODS)
    assert bool(tunnel & set(last)) == (new == "vxlan")


@pytest.mark.parametrize(("old", "new"), [("vxlan", "host-gw"), ("host-gw", "vxlan")])
def test_no_step_of_a_wave_loses_a_packet(old: str, new: str) -> None:
    """Neither as a sender nor as a receiver, a node is without a path between two steps."""
    word = f"{new}@1"
    worlds = [
        world(old, (old,), (old,)),
        world(new, (old,), (old,)),
        world(new, (word, old), (old,)),
        world(new, (word, old), (word,)),
    ]
    for before, then in pairwise(worlds):
        steps = plan(state_of(then, 1, PODS), state_of(before, 1, PODS)).steps
        for done in range(len(steps) + 1):
            kernel = kernel_stub.apply(Plan(steps[:done]), state_of(before, 1, PODS))
            for other in (2, 3):
                for moment in (before, then):
                    peer = state_of(moment, other)
                    assert not kernel_stub.undelivered(kernel, other, peer), steps[done - 1]
                    assert not kernel_stub.undelivered(peer, 1, kernel), steps[done - 1]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_pod_that_goes_takes_along_its_own_and_no_more(index: int) -> None:
    before = state_of(world(), 1, PODS)
    rest = PODS[:index] + PODS[index + 1 :]
    gone, touched = difference(state_of(world(), 1, rest), before)
    own = set(desired(seen(world(), 1, PODS))["pod", *PODS[index].id])
    assert gone == {each.key for each in own}
    assert touched == set()


def test_a_host_port_that_goes() -> None:
    before = state_of(world(), 1, PODS)
    fewer = (replace(PODS[0], ports=PODS[0].ports[:1]), *PODS[1:])
    gone, touched = difference(state_of(world(), 1, fewer), before)
    elements = [before[key] for key in gone]
    assert len(gone) == 4, "in each family, the map's element and the pod's own"
    assert all(isinstance(each, Element) and each.table == TABLE and " 53" in each.element for each in elements)
    assert touched == set()


def test_a_limit_that_goes() -> None:
    before = state_of(world(), 1, PODS)
    free = (replace(PODS[0], bandwidth=None), *PODS[1:])
    gone, touched = difference(state_of(world(), 1, free), before)
    assert sorted(key[0] for key in gone) == ["Link", "Redirect", "Shaper", "Shaper"]
    assert touched == set()


def test_a_node_that_goes() -> None:
    before = state_of(world(), 1, PODS)
    without = cluster([node(1, True), node(2, True)], config(dual=True))
    gone, touched = difference(state_of(without, 1, PODS), before)
    assert sorted(key[0] for key in gone) == sorted(2 * ["Element", "FdbEntry", "Neighbour", "Route"])
    assert touched == set()


def test_another_attachment_mode_is_for_new_pods() -> None:
    """Those that run keep what they have, and so does what they share."""
    assert state_of(world(attachment="bridge"), 1, PODS) == state_of(world(attachment="ptp"), 1, PODS)


def test_a_changed_address_replaces_only_what_carries_it() -> None:
    before = state_of(world(), 1, PODS)
    moved = replace(PODS[2], addresses=("10.244.1.99/24", PODS[2].addresses[1]))
    gone, touched = difference(state_of(world(), 1, (*PODS[:2], moved)), before)
    assert {key[0] for key in gone | touched} == {"Address", "Neighbour"}
    assert Address("eth0", "10.244.1.99/24", "/run/netns/p1-3").key in touched
    assert not [key for key in touched if key[0] == Route("").key[0]]
