"""The loop body against a kernel in memory: partial passes equal full ones, and nothing is lost on the way.

Most of what is shown here is shown twice: by single stories, and by random histories in which the cluster changes,
pods come and go, other hands remove and alter things, and the agent is restarted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.kernel.fake import FakeDataplane
from podnet.kernel.reconciler import Reconciler, Units
from podnet.network.desired import after, desired
from podnet.network.memo import Memo
from podnet.network.pods import host_ifname
from podnet.network.view import Attachment, Bandwidth, PortMapping
from podnet.network.viewing import view
from podnet.objects.cluster import Cluster
from podnet.state.host import Action, ForgetFlows, Sysctl
from podnet.state.links import Bridge, Link, Redirect, Shaper, Veth
from podnet.state.plan import Plan
from podnet.state.resource import Key, NodeState, Resource, state
from podnet.state.routes import Address, Neighbour, Route
from tests.kernel_stub import Stub
from tests.properties.test_paths import BEATS, THINGS, Event, Watcher
from tests.worlds import attachment, cluster, config, facts, node, seen

UPLINK = {"eth0": ("192.168.77.11/24", "fd77::11/64")}
PODS = tuple(f"/run/netns/p1-{k}" for k in (1, 2, 3))
WORLD = cluster([node(1, True), node(2, True)], config(dual=True))


def fake() -> FakeDataplane:
    return FakeDataplane(UPLINK, PODS)


def units_of(*pods: Attachment, world: Cluster = WORLD, memo: Memo | None = None) -> Units:
    return desired(seen(world, 1, pods), memo)


def wanted(units: Units) -> dict[Key, Resource]:
    return state(each for resources in units.values() for each in resources)


def unlike(units: Units, kernel: FakeDataplane | Stub) -> list[str]:
    """How a kernel differs from what is wanted, as a fresh agent would see it."""
    return [f"{step.verb} {step.resource.key}" for step in Reconciler(kernel).difference(units).steps]


# -- single stories


def test_the_first_pass_makes_everything_and_the_second_does_nothing() -> None:
    kernel = fake()
    reconciler = Reconciler(kernel)
    units = units_of(attachment(1, 1, True))
    first = reconciler.reconcile(units)
    assert {step.resource.key for step in first.plan.steps} == set(wanted(units))
    assert (first.failed, first.held, first.unsettled) == ((), (), {})
    assert not unlike(units, kernel)
    reads = len(kernel.plans)
    assert reconciler.reconcile(units) == type(first)(Plan())
    assert len(kernel.plans) == reads, "an empty plan is not even shown to the kernel"


def test_our_own_changes_come_back_as_events_and_agree() -> None:
    kernel = fake()
    reconciler = Reconciler(kernel)
    units = units_of(attachment(1, 1, True))
    reconciler.reconcile(units)
    events: list[Any] = [("new", each) for each in kernel.holds.values() if not each.key[1]]
    assert not reconciler.observe(events)
    assert not reconciler.observe([])
    reconciler.reconcile({})
    assert not reconciler.observe([("del", each) for _, each in events])


def test_a_burst_is_judged_by_its_last_word() -> None:
    """A replacement is seen as gone, then new; and what agrees at the end was never a problem."""
    kernel = fake()
    reconciler = Reconciler(kernel)
    units = units_of()
    reconciler.reconcile(units)
    route = next(each for each in wanted(units).values() if isinstance(each, Route))
    altered = replace(route, via="10.9.9.9")
    agreed = reconciler.observe([("del", route), ("new", altered), ("new", route)])
    assert (agreed, reconciler.observe([("new", route), ("new", altered)])) == (False, True)


@pytest.mark.parametrize(
    ("event", "dirty"),
    [
        (("new", Route("10.99.0.0/16", via="192.168.77.12")), {"Route"}),
        (("del", Route("10.99.0.0/16")), set()),
        (("foreign", Route("10.99.0.0/16")), set()),
        (("foreign", Route("10.244.2.0/24")), {"Route"}),
        (("del", Address("podnet0", "10.244.1.1/24")), {"Address"}),
        (("new", Address("podnet0", "10.244.1.1/24")), set()),
        (("new", Bridge(name="podnet0", mtu=1)), {"Link"}),
        (("new", Bridge(name="podnet9")), {"Link"}),
        (("dirty", "Sysctl"), {"Sysctl"}),
        (("dirty", "all"), None),
    ],
)
def test_only_a_disagreement_makes_a_kind_dirty(event: Any, dirty: set[str] | None) -> None:
    reconciler = Reconciler(fake())
    reconciler.reconcile(units_of())
    assert reconciler.observe([event]) == (dirty != set())
    assert reconciler.dirty == dirty


def dirty_after(*distrusted: set[str] | None) -> set[str] | None:
    reconciler = Reconciler(fake())
    reconciler.reconcile({})
    for kinds in distrusted:
        reconciler.distrust(kinds)
    return reconciler.dirty


def test_distrust_adds_up() -> None:
    assert dirty_after() == set()
    assert dirty_after({"Route"}, {"Link"}) == {"Route", "Link"}
    assert dirty_after({"Route"}, None, {"Link"}) is None, "everything already"
    untried = Reconciler(fake())
    untried.distrust({"Route"})
    assert untried.dirty is None, "nothing was ever read"


def test_a_dirty_kind_is_read_whole_and_only_it() -> None:
    kernel = Stub()
    reconciler = Reconciler(kernel)
    units = units_of()
    reconciler.reconcile(units)
    kernel.reads.clear()
    reconciler.reconcile(units)
    assert kernel.reads == []
    reconciler.distrust({"Route", "Link"})
    reconciler.reconcile(units)
    assert kernel.reads == [frozenset({"Route", "Link"})]


@pytest.mark.parametrize("kind", ["Link", "Address", "Neighbour", "FdbEntry", "Route", "NftTable", "Element", "Sysctl"])
def test_drift_of_each_kind_is_repaired_in_one_pass(kind: str) -> None:
    kernel = fake()
    reconciler = Reconciler(kernel)
    pod = attachment(1, 1, True, ports=(PortMapping(80, 80),), bandwidth=Bandwidth(9, 9, 9, 9))
    units = units_of(pod)
    reconciler.reconcile(units)
    kernel.events()
    for key in sorted(each for each in wanted(units) if each[0] == kind and not each[1]):
        if isinstance(sysctl := wanted(units)[key], Sysctl):
            kernel.put(replace(sysctl, value="7"))
        else:
            kernel.vanish(key)
        assert unlike(units, kernel)
        assert reconciler.observe(kernel.events())
        done = reconciler.reconcile(units)
        assert (done.failed, done.held) == ((), ())
        assert not unlike(units, kernel), key


def test_a_pod_that_is_attached_again_in_the_same_namespace_gets_everything_again() -> None:
    """A veth that goes takes along the pod's side, about which no event tells."""
    kernel = fake()
    reconciler = Reconciler(kernel)
    memo: Memo = {}
    pod = attachment(1, 1, True, mode="ptp")
    for pods in ((pod,), (), (replace(pod, addresses=("10.244.1.9/24",)),), (), (pod,)):
        units = units_of(*pods, memo=memo)
        reconciler.reconcile(units)
        assert reconciler.dirty == set()
        assert not unlike(units, kernel)
        assert {key for key in kernel.holds if key[1]} == {key for key in wanted(units) if key[1]}


def test_another_container_in_a_namespace_that_was_used_before() -> None:
    kernel = fake()
    reconciler = Reconciler(kernel)
    for name in ("first", "second", "third"):
        reconciler.reconcile(units_of(attachment(1, 1, container_id=name)))
        reconciler.reconcile(units_of())
    units = units_of(attachment(1, 1, container_id="last"))
    assert reconciler.reconcile(units).held == ()
    assert not unlike(units, kernel)


def test_only_what_changed_is_looked_at() -> None:
    kernel = Stub()
    reconciler = Reconciler(kernel)
    memo: Memo = {}
    reconciler.reconcile(units_of(memo=memo))
    kernel.reads.clear()
    pod = attachment(1, 1, mode="ptp")
    done = reconciler.reconcile(units_of(pod, memo=memo))
    own = {each.key for each in units_of(pod)["pod", *pod.id]}
    assert {step.resource.key for step in done.plan.steps} == own
    assert kernel.reads == []


def test_what_the_kernel_refuses_is_named_and_tried_again() -> None:
    kernel = Stub()
    reconciler = Reconciler(kernel)
    pod = attachment(1, 1)
    key = ("Neighbour", "", "podnet0", "10.244.1.2")
    kernel.refuse = {key}
    units = units_of(pod)
    done = reconciler.reconcile(units)
    assert [error.resource.key for error in done.failed] == [key]
    assert set(done.unsettled) == {("pod", *pod.id)}
    assert "Operation not permitted" in done.unsettled["pod", *pod.id]
    assert reconciler.dirty == {"Neighbour"}
    again = reconciler.reconcile(units)
    assert [step.resource.key for step in again.plan.steps] == [key]
    kernel.refuse = set()
    assert reconciler.reconcile(units).unsettled == {}
    assert not unlike(units, kernel)
    assert not reconciler.reconcile(units).plan


def test_a_refused_deletion_is_tried_again() -> None:
    kernel = Stub()
    reconciler = Reconciler(kernel)
    pod = attachment(1, 1)
    reconciler.reconcile(units_of(pod))
    kernel.refuse = {("Link", "", host_ifname(pod))}
    assert reconciler.reconcile(units_of()).failed
    kernel.refuse = set()
    units = units_of()
    reconciler.reconcile(units)
    assert not unlike(units, kernel)


def test_what_waits_for_a_namespace_is_held_and_disturbs_nobody() -> None:
    kernel = fake()
    reconciler = Reconciler(kernel)
    memo: Memo = {}
    early, fine = attachment(1, 1, netns="/run/netns/late"), attachment(1, 2)
    units = units_of(early, fine, memo=memo)
    done = reconciler.reconcile(units)
    assert done.failed == ()
    assert set(done.unsettled) == {("pod", *early.id)}
    assert {step.resource.key for step in done.held} <= {each.key for each in units["pod", *early.id]}
    assert reconciler.dirty == set(), "waiting is no reason to read everything again"
    assert reconciler.reconcile(units).unsettled, "it is tried at each pass, though nothing changed"
    kernel.pods.add("/run/netns/late")
    assert reconciler.reconcile(units).unsettled == {}
    assert not unlike(units, kernel)


def test_a_namespace_that_is_gone_makes_no_trouble_for_removal() -> None:
    kernel = fake()
    reconciler = Reconciler(kernel)
    pod = attachment(1, 1)
    reconciler.reconcile(units_of(pod))
    kernel.remove_pod(pod.netns)
    reconciler.observe(kernel.events())
    done = reconciler.reconcile(units_of())
    assert (done.failed, done.held) == ((), ())
    assert not unlike(units_of(), kernel)


def test_follow_up_actions_come_from_the_plan_and_after_it() -> None:
    kernel = fake()
    reconciler = Reconciler(kernel)
    view_ = seen(WORLD, 1, [attachment(1, 1, ports=(PortMapping(53, 53, "udp"),))])
    order: list[str] = []

    def follow(steps: Plan) -> Iterable[Action]:
        order.append(f"{len(kernel.plans)} plans")
        return after(view_, steps)

    reconciler.reconcile(desired(view_), follow)
    assert order == ["1 plans"]
    assert ForgetFlows(protocol=17, to_port=53, destination="192.168.77.11") in kernel.acted
    acted = len(kernel.acted)
    reconciler.reconcile(desired(view_), follow)
    assert len(kernel.acted) == acted


def test_polling_sees_what_sends_no_event() -> None:
    kernel = fake()
    reconciler = Reconciler(kernel)
    units = units_of()
    assert not reconciler.poll("Sysctl", units), "nothing was applied yet, so nothing can have drifted"
    reconciler.reconcile(units)
    assert not reconciler.poll("Sysctl", units)
    kernel.put(Sysctl("net/ipv4/ip_forward", "0"))
    kernel.events()
    assert reconciler.poll("Sysctl", units)
    assert reconciler.dirty == {"Sysctl"}
    reconciler.reconcile(units)
    assert not unlike(units, kernel)


def test_a_difference_changes_nothing() -> None:
    kernel = fake()
    reconciler = Reconciler(kernel)
    pod = attachment(1, 1)
    units = units_of(pod)
    assert len(reconciler.difference(units).steps) == len(wanted(units))
    assert (kernel.holds, reconciler.dirty) == ({}, None)
    reconciler.reconcile(units)
    kernel.put(Route("10.99.0.0/16", via="192.168.77.12", dev="eth0"))
    assert [step.verb for step in reconciler.difference(units).steps] == ["delete"]
    mine: Units = {("pod", *pod.id): units["pod", *pod.id]}
    assert not reconciler.difference(mine, only=True), "another's business"


def test_a_restart_changes_nothing() -> None:
    kernel = fake()
    units = units_of(attachment(1, 1, True), attachment(1, 2, True, mode="ptp", bandwidth=Bandwidth(9, 9, 9, 9)))
    Reconciler(kernel).reconcile(units)
    assert not Reconciler(kernel).reconcile(units).plan


def test_a_restart_deletes_what_became_stale_meanwhile() -> None:
    kernel = fake()
    pod = attachment(1, 1, True)
    Reconciler(kernel).reconcile(units_of(pod))
    done = Reconciler(kernel).reconcile(units_of())
    assert {step.verb for step in done.plan.steps} == {"delete"}
    assert not [each for each in kernel.holds.values() if isinstance(each, Veth)]


def test_an_ifb_that_is_removed_gets_its_redirect_back() -> None:
    kernel = fake()
    reconciler = Reconciler(kernel)
    pod = attachment(1, 1, bandwidth=Bandwidth(0, 0, 9, 9))
    units = units_of(pod)
    reconciler.reconcile(units)
    ifb = next(each.to for each in wanted(units).values() if isinstance(each, Redirect))
    kernel.vanish(("Link", "", ifb))
    reconciler.observe(kernel.events())
    made = {type(step.resource) for step in reconciler.reconcile(units).plan.steps}
    assert made == {type(wanted(units)["Link", "", ifb]), Shaper, Redirect}


# -- random histories


class Twin:
    """An agent whose passes are partial, and its twin that reads everything each time."""

    def __init__(self) -> None:
        self.watcher = Watcher()
        self.kernels = (fake(), fake())
        self.reconcilers = tuple(map(Reconciler, self.kernels))
        self.units: Units | None = None

    def step(self, event: Event) -> None:
        """One event of the cluster, or one of other hands; then a pass of each."""
        (what, number), value = event
        if what == "restart":
            self.reconcilers = tuple(map(Reconciler, self.kernels))
        elif what == "drift":
            self.drift(number, value)
        else:
            self.watcher.take([event])
        self.reconcile()

    def drift(self, place: int, value: str) -> None:
        """Other hands remove something of the node's, or put something else in its place."""
        for kernel in self.kernels:
            mine: NodeState = {key: each for key, each in kernel.holds.items() if not key[1]}
            if not mine:
                return
            key = sorted(mine)[place % len(mine)]
            other = damaged(mine[key]) if value == "alter" else None
            if other is None:
                kernel.vanish(key)
            else:
                kernel.put(other)

    def reconcile(self) -> None:
        """The partial pass sees events, the full one needs none."""
        units = self.watcher.units(self.watcher.memo)
        if units is None:
            return
        self.reconcilers[0].observe(self.kernels[0].events())
        self.reconcilers[1].distrust()
        for reconciler in self.reconcilers:
            done = reconciler.reconcile(units)
            assert (done.failed, done.held) == ((), ())
        assert not unlike(units, self.kernels[0])
        assert self.kernels[0].holds == self.kernels[1].holds
        assert self.kernels[0].parameters == self.kernels[1].parameters


def damaged(good: Resource) -> Resource | None:
    """The same object, spoilt; None for what can only be there or not."""
    match good:
        case Link():
            return replace(good, mtu=999)
        case Route():
            return replace(good, via=None, dev="eth0", onlink=False)
        case Neighbour():
            return replace(good, mac="02:00:00:00:00:99")
        case Shaper():
            return replace(good, rate=1)
    return None


OTHERS = st.one_of(
    st.tuples(st.tuples(st.just("drift"), st.integers(0, 60)), st.sampled_from(["vanish", "alter"])),
    st.tuples(st.tuples(st.just("restart"), st.just(0)), st.none()),
)
START: list[Event] = [(("config", 0), config(dual=True)), (("node", 1), node(1, True)), (("node", 2), node(2, True))]


@settings(max_examples=40, deadline=None)
@given(st.lists(THINGS | THINGS | OTHERS | OTHERS | BEATS, min_size=4, max_size=16))
def test_partial_passes_equal_full_ones(history: list[Event]) -> None:
    twin = Twin()
    for event in (*START, *history):
        twin.step(event)


@settings(max_examples=40, deadline=None)
@given(st.lists(THINGS, max_size=12))
def test_units_never_share_a_kernel_object(history: list[Event]) -> None:
    """A partial pass deletes what a unit gives up; nobody else may want it."""
    watcher = Watcher()
    watcher.take([*START, *history])
    keys = [each.key for resources in (watcher.units(None) or {}).values() for each in set(resources)]
    assert len(keys) == len(set(keys))


def test_an_agent_that_sees_nothing_changes_nothing() -> None:
    assert view(Cluster(), facts(1)) is None
    twin = Twin()
    twin.step(START[1])
    assert [kernel.plans for kernel in twin.kernels] == [[], []]
