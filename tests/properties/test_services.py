"""Services join what holds for everything else: no path, no memory and no order matters, drift is repaired exactly,
and what is off is gone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.desired import desired
from podnet.network.proxy.bridged import FILTERED
from podnet.network.proxy.nft_chains import TABLE
from podnet.network.viewing import problems
from podnet.objects.cluster import Cluster
from podnet.objects.network import NetworkConfig, ProxySpec
from podnet.objects.services import (
    EndpointSlice,
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServicePort,
    ServiceStatus,
    SlicePort,
)
from podnet.state.nft import Element
from podnet.state.plan import Plan, plan
from tests import kernel_stub
from tests.properties.test_paths import Event, Watcher
from tests.worlds import attachment, backend, cluster, config, endpoint_slice, facts, node, seen, service, state_of

PODS = (attachment(1, 1, dual=True), attachment(1, 2, dual=True, mode="ptp"))
RANGES = ("10.96.0.0/16", "fd00:10:96::/112")
PORTS = (SlicePort("web", port=8080), SlicePort("dns", "UDP", 5353))


def proxied(mode: str = "nftables", **more: Any) -> NetworkConfig:
    """The cluster's configuration with this proxy."""
    spec = {"service_cidrs": RANGES} | {
        key: more.pop(key) for key in ("masquerade_all", "node_port_addresses") if key in more
    }
    return config(dual=True, proxy=ProxySpec(mode=mode, **spec), **more)


def numbered(k: int, status: bool = False, **spec: Any) -> Service:
    """Service s<k>, which has its own addresses and ports."""
    ports = (ServicePort("web", port=80, node_port=30080 + k), ServicePort("dns", "UDP", 53, node_port=30080 + k))
    ingress = ServiceStatus(LoadBalancerStatus((LoadBalancerIngress(f"203.0.113.{k}"),)))
    given = {"cluster_ips": (f"10.96.0.{k}", f"fd00:10:96::{k}"), "type": "LoadBalancer"} | spec
    return service(f"s{k}", *ports, status=ingress if status else ServiceStatus(), **given)


def piece(k: int, part: int, *endpoints: Any) -> EndpointSlice:
    """One of the slices of Service s<k>."""
    return endpoint_slice(f"s{k}", *endpoints, name=f"s{k}-{part}", ports=PORTS)


def services(k: int) -> st.SearchStrategy[Service]:
    policies = st.sampled_from(["Cluster", "Local"])
    return st.builds(
        lambda **more: numbered(k, **more),
        status=st.booleans(),
        type=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
        cluster_ips=st.sampled_from([(f"10.96.0.{k}", f"fd00:10:96::{k}"), (f"10.96.0.{k}",), ("None",)]),
        external_ips=st.sampled_from([(), (f"198.51.100.{k}",)]),
        load_balancer_source_ranges=st.sampled_from([(), ("192.0.2.0/24", "192.0.2.7/32")]),
        session_affinity=st.sampled_from(["None", "ClientIP"]),
        internal_traffic_policy=policies,
        external_traffic_policy=policies,
    )


def slices(k: int, part: int) -> st.SearchStrategy[EndpointSlice]:
    each = st.builds(
        backend,
        st.sampled_from([f"10.244.{i}.{n}" for i in (1, 2) for n in (2, 3)]),
        st.sampled_from(["n1", "n2", None]),
        ready=st.sampled_from([True, False, None]),
        terminating=st.booleans(),
    )
    return st.lists(each, max_size=3).map(lambda found: piece(k, part, *found))


THINGS = st.one_of(
    *(st.tuples(st.just(("services", k)), st.none() | services(k)) for k in (1, 2)),
    *(st.tuples(st.just(("endpointslices", 10 * k + p)), st.none() | slices(k, p)) for k in (1, 2) for p in (1, 2)),
    st.tuples(st.just(("node", 2)), st.none() | st.builds(node, st.just(2), st.booleans())),
    st.tuples(st.just(("pod", 1)), st.none() | st.just(PODS[0])),
    st.tuples(
        st.just(("config", 0)),
        st.builds(proxied, st.sampled_from(["nftables", "nftables", "none"]), masquerade_all=st.booleans()),
    ),
)
HISTORIES = st.lists(THINGS, max_size=12)


class Serving(Watcher):
    """An agent of n1 that hears of Services too."""

    def __init__(self) -> None:
        super().__init__()
        self.take([(("config", 0), proxied()), (("node", 1), node(1, True))])

    def take(self, events: Iterable[Event]) -> None:
        for (what, number), value in events:
            if what == "services":
                self.put(what, ("default", f"s{number}"), value)
            elif what == "endpointslices":
                self.put(what, ("default", f"s{number // 10}-{number % 10}"), value)
            else:
                super().take([((what, number), value)])


@settings(max_examples=40, deadline=None)
@given(HISTORIES)
def test_what_is_remembered_never_matters(history: list[Event]) -> None:
    watcher = Serving()
    for event in history:
        watcher.take([event])
        assert watcher.units(watcher.memo) == watcher.units(None)
    again = watcher.units(watcher.memo)
    assert again is not None
    assert all(resources is again[unit] for unit, resources in (watcher.units(watcher.memo) or {}).items())


@settings(max_examples=40, deadline=None)
@given(HISTORIES, st.randoms(use_true_random=False))
def test_any_order_and_any_batching_end_in_the_same_state(history: list[Event], random: Any) -> None:
    last = list(dict(history).items())
    one, other = Serving(), Serving()
    one.take(history)
    for event in random.sample(last, len(last)):
        other.take([event])
        other.state(other.memo)
    assert one.state() == other.state(other.memo)


@settings(max_examples=40, deadline=None)
@given(HISTORIES, HISTORIES, st.data())
def test_one_plan_is_enough_from_any_state_and_from_the_middle_of_another(
    before: list[Event], then: list[Event], data: st.DataObject
) -> None:
    watcher = Serving()
    watcher.take(before)
    start = watcher.state(watcher.memo) or {}
    watcher.take(then)
    goal = watcher.state(watcher.memo) or {}
    steps = plan(goal, start).steps
    middle = kernel_stub.apply(Plan(steps[: data.draw(st.integers(0, len(steps)))]), start)
    for found in (start, middle, {}):
        reached = kernel_stub.apply(plan(goal, found), found)
        assert reached == goal
        assert not plan(goal, reached)


def world(*, mode: str = "nftables", without: int = 0, **spec: Any) -> Cluster:
    """Two Services with affinity, policy Local, ranges and all kinds of addresses."""
    full: dict[str, Any] = {
        "status": True,
        "external_traffic_policy": "Local",
        "load_balancer_source_ranges": ("192.0.2.0/24",),
    }
    both = (numbered(1, **full), numbered(2, session_affinity="ClientIP", external_ips=("198.51.100.2",)))
    pieces = [piece(k, 1, backend("10.244.1.2", "n1"), backend("10.244.2.2", "n2")) for k in (1, 2)]
    left = [each for each in both if each.metadata.name != f"s{without}"]
    return cluster([node(1, True), node(2, True)], proxied(mode, **spec), services=left, slices=pieces)


GOAL = state_of(world(), 1, PODS)
OURS = {key for key in GOAL if TABLE in key} | {key for key in GOAL if key[2:] == ("net/ipv4/conf/all/route_localnet",)}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(key for key in OURS if key[0] != "NftTable")))
def test_any_one_thing_that_was_removed_is_repaired_and_nothing_else(key: tuple[str, ...]) -> None:
    actual = {other: each for other, each in GOAL.items() if other != key}
    (step,) = plan(GOAL, actual).steps
    assert (step.verb, step.resource) == ("add", GOAL[key])


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(key for key in OURS if isinstance(GOAL[key], Element) and GOAL[key].value)))  # type: ignore[attr-defined]
def test_any_one_element_that_was_altered_is_put_right(key: tuple[str, ...]) -> None:
    actual = {**GOAL, key: replace(GOAL[key], value="somebody's")}
    (step,) = plan(GOAL, actual).steps
    assert (step.verb, step.resource) == ("change", GOAL[key])


def test_off_means_gone_and_nothing_else_is_touched() -> None:
    steps = plan(state_of(world(mode="none"), 1, PODS), GOAL).steps
    assert {step.verb for step in steps} == {"delete"}
    routes = {key for key in GOAL if key[0] == "Route" and key[2] in RANGES}
    bridged = {key for key in GOAL if key[0] == "Sysctl" and key[2] in FILTERED.values()}
    assert {step.resource.key for step in steps} == OURS | routes | bridged
    assert len(routes) == 2


def test_a_service_that_goes_takes_along_its_own() -> None:
    gone = state_of(world(without=1), 1, PODS)
    steps = plan(gone, GOAL).steps
    own = {each.key for each in desired(seen(world(), 1, PODS))["service", "default", "s1"]}
    assert {step.resource.key for step in steps} == own
    assert {step.verb for step in steps} == {"delete"}


def test_the_last_service_with_an_affinity_takes_its_chains_along() -> None:
    steps = plan(state_of(world(without=2), 1, PODS), GOAL).steps
    assert [step.resource.key[2] for step in steps if step.verb == "change"] == ["ip", "ip6"]
    assert {step.resource.kind for step in steps if step.verb == "change"} == {"NftTable"}


def changed(watcher: Serving, *events: Event) -> set[str]:
    """The units that are other objects after these events."""
    before = watcher.units(watcher.memo) or {}
    watcher.take(events)
    after = watcher.units(watcher.memo) or {}
    return {"/".join(unit) for unit in {*before, *after} if before.get(unit) is not after.get(unit)}


def test_a_change_costs_what_depends_on_it() -> None:
    watcher = Serving()
    here = backend("10.244.1.2", "n1")
    watcher.take([(("services", k), numbered(k)) for k in (1, 2)])
    watcher.take([(("endpointslices", 11), piece(1, 1, here)), (("endpointslices", 21), piece(2, 1, here))])
    watcher.units(watcher.memo)
    assert changed(watcher, (("endpointslices", 11), piece(1, 1))) == {"service/default/s1"}
    assert changed(watcher, (("endpointslices", 12), piece(1, 2, here))) == {"service/default/s1"}
    assert changed(watcher, (("endpointslices", 13), piece(3, 1, here))) == set(), "of no Service"
    assert changed(watcher, (("endpointslices", 12), piece(1, 2, here))) == set(), "written again"
    assert changed(watcher, (("services", 2), numbered(2, labels={"a": "b"}))) == set()
    assert changed(watcher, (("services", 2), None)) == {"service/default/s2"}
    assert changed(watcher, (("pod", 2), PODS[1])) == {"pod/c1-2/eth0"}
    assert changed(watcher, (("pod", 1), PODS[0])) == {"pod/c1-1/eth0", "pod/c1-2/eth0", "pods", "services"}, "a bridge"
    assert changed(watcher, (("pod", 3), attachment(1, 3))) == {"pod/c1-3/eth0"}
    assert changed(watcher, (("node", 2), node(2, True))) == {"backend", "masquerade"}
    assert changed(watcher, (("beat", 1), 7)) == set()
    affine = numbered(1, session_affinity="ClientIP")
    assert changed(watcher, (("services", 1), affine)) == {"service/default/s1", "services"}
    everywhere = proxied(masquerade_all=True)
    assert changed(watcher, (("config", 0), everywhere)) == {"service/default/s1"}


@pytest.mark.parametrize(
    ("cidrs", "served"),
    [
        ((), {"192.168.77.11", "127.0.0.1", "fd77::11"}),
        (("192.168.77.0/24",), {"192.168.77.11", "fd77::11"}),
        (("127.0.0.0/8", "fd77::/64"), {"127.0.0.1", "fd77::11"}),
        (("203.0.113.0/24", "2001:db8::/32"), set()),
        (("0.0.0.0/0", "::/0"), {"192.168.77.11", "127.0.0.1", "fd77::11"}),
        (("primary",), {"192.168.77.11", "fd77::11"}),
        (("primary", "127.0.0.1/32"), {"192.168.77.11", "127.0.0.1", "fd77::11"}),
    ],
)
def test_node_ports_are_served_where_the_configuration_says(cidrs: tuple[str, ...], served: set[str]) -> None:
    """In a family of which it says nothing: everywhere, as kube-proxy does."""
    found = state_of(world(node_port_addresses=cidrs), 1)
    keys = [key[5].split(" . ") for key in found if key[4:5] == ("services",)]
    assert {address for address, _, port in keys if port in ("30081", "30082")} == served


@pytest.mark.parametrize(
    ("cidrs", "others"),
    [((), {"203.0.113.7", "fd78::7"}), (("203.0.113.0/24", "primary"), {"203.0.113.7"}), (("primary",), set())],
)
def test_node_ports_are_served_at_all_that_a_node_has(cidrs: tuple[str, ...], others: set[str]) -> None:
    """Beside the addresses of its Node object; two Services that want one of these places are told."""
    there = ("203.0.113.7", "fd78::7")
    rival = numbered(3, external_ips=there[:1])
    rival = replace(rival, spec=replace(rival.spec, ports=(ServicePort("web", port=30081),)))
    alone = cluster([node(1, True)], proxied(node_port_addresses=cidrs), services=[numbered(1)])
    both = cluster([node(1, True)], proxied(), services=[numbered(1), rival])
    keys = [key[5].split(" . ") for key in state_of(alone, 1, addresses=there) if key[4:5] == ("services",)]
    assert {address for address, _, port in keys if port == "30081"} & {*there} == others
    state_of(both, 1, addresses=there)
    assert "FrontendTaken" in {each.reason for each in problems(both, facts=facts(1, addresses=there))}


def test_a_node_without_a_range_of_a_family_still_serves_it() -> None:
    """Its own processes are clients too."""
    dual = cluster([node(1), node(2, True)], proxied(), services=[numbered(1)])
    assert {key[2] for key in state_of(dual, 1) if key[0] == "NftTable" and TABLE in key} == {"ip", "ip6"}
