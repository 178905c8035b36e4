"""Which node answers for which address of a load balancer, and what makes its kernel do so."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from podnet.network.proxy import announce
from podnet.network.proxy.announce import Claim, announced, announcer, bear, claims, fit, tell
from podnet.network.view import LocalFacts, NodeInfo, NodeView
from podnet.objects.core import Condition, Node, NodeStatus
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import NetworkSpec
from podnet.objects.services import (
    EndpointConditions,
    EndpointSlice,
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServiceSpec,
    ServiceStatus,
    SliceEndpoint,
)
from podnet.state.host import Announce
from podnet.state.plan import Plan, Step, plan
from podnet.state.resource import state
from podnet.state.routes import Address

NODES = ("node1", "node2", "node3")
ADDRESSES = st.ip_addresses().map(str)
NAMES = st.lists(st.text("abcdef", min_size=1), min_size=1, max_size=8, unique=True)


def service(*addresses: str, policy: str = "Cluster", cls: str | None = None, **fields: str) -> Service:
    ingress = tuple(LoadBalancerIngress(ip=address) for address in addresses)
    spec = ServiceSpec(type="LoadBalancer", external_traffic_policy=policy, load_balancer_class=cls)
    spec = msgspec.structs.replace(spec, **fields)
    return Service(ObjectMeta(name="web", namespace="shop"), spec, ServiceStatus(LoadBalancerStatus(ingress)))


def piece(*endpoints: tuple[str | None, EndpointConditions]) -> EndpointSlice:
    entries = (SliceEndpoint((f"10.1.0.{n}",), each, node_name=node) for n, (node, each) in enumerate(endpoints))
    return EndpointSlice(endpoints=tuple(entries))


READY, ENDING = EndpointConditions(), EndpointConditions(ready=False, serving=True, terminating=True)


@given(ADDRESSES, NAMES)
def test_exactly_one_node_answers_whatever_the_order(address: str, names: list[str]):
    claim = Claim(address)
    answering = [name for name in names if announced(name, names, [claim]) == (address,)]
    assert answering == [announcer(address, names)]
    assert announcer(address, reversed(names)) == answering[0]


@given(ADDRESSES, NAMES, st.data())
def test_only_the_addresses_of_a_node_that_dies_move(address: str, names: list[str], data: st.DataObject):
    dead = data.draw(st.sampled_from(names))
    before, after = announcer(address, names), announcer(address, [name for name in names if name != dead])
    assert before in (dead, after)


def test_addresses_are_spread():
    counts = Counter(announcer(f"192.168.77.{number}", NODES) for number in range(240))
    assert min(counts[name] for name in NODES) > 50


def test_nobody_answers_without_candidates():
    assert announcer("192.168.77.200", ()) is None
    assert announced("node1", (), [Claim("192.168.77.200", ("node1",))]) == ()


def test_under_policy_local_only_nodes_with_an_endpoint_answer():
    local = [Claim(f"192.168.77.{number}", ("node2", "node9")) for number in range(200, 220)]
    assert len(announced("node2", NODES, local)) == 20
    assert announced("node1", NODES, local) == ()


def test_when_no_node_that_may_answer_has_one_any_other_does():
    claim = Claim("192.168.77.200", ("node9",))
    assert [bool(announced(name, NODES, [claim])) for name in NODES].count(True) == 1


def test_a_shared_address_goes_where_both_services_can_be():
    shared = [Claim("192.168.77.200", ("node1", "node2")), Claim("192.168.77.200"), Claim("192.168.77.200", ("node2",))]
    assert announced("node2", NODES, shared) == ("192.168.77.200",)


def node(name: str, ready: str = "True", **labels: str) -> Node:
    return Node(ObjectMeta(name=name, labels=labels), status=NodeStatus(conditions=(Condition("Ready", ready),)))


def test_ready_nodes_that_are_not_excluded_may_answer():
    excluded = node("c", **{announce.EXCLUDED: ""})
    assert fit([node("b"), node("a"), excluded, node("d", "False"), node("e", "Unknown"), Node()]) == ("a", "b")


def test_what_a_service_claims():
    assert list(claims(service("192.168.77.200", "fd77::200"), [])) == [Claim("192.168.77.200"), Claim("fd77::200")]
    assert not list(claims(service("192.168.77.200", type="ClusterIP"), []))
    assert not list(claims(service(), []))


def test_whose_load_balancers_are_ours():
    assert list(claims(service("192.168.77.200", cls=announce.CLASS), [], classless=False))
    assert not list(claims(service("192.168.77.200"), [], classless=False))
    assert not list(claims(service("192.168.77.200", cls="example.com/other"), []))


def test_an_address_that_another_machine_proxies_is_not_ours():
    proxied = LoadBalancerStatus((LoadBalancerIngress(ip="192.168.77.200", ip_mode="Proxy"),))
    other = msgspec.structs.replace(service(), status=ServiceStatus(proxied))
    assert not list(claims(other, []))


def test_policy_local_claims_the_nodes_of_ready_endpoints_or_of_the_last_that_serve():
    local = service("192.168.77.200", policy="Local")
    (claim,) = claims(local, [piece(("node1", READY), ("node2", ENDING)), piece((None, READY))])
    assert claim.nodes == ("node1",)
    (claim,) = claims(local, [piece(("node2", ENDING), ("node3", EndpointConditions(ready=False, serving=False)))])
    assert claim.nodes == ("node2",)


VIEW = NodeView(
    NodeInfo("node1", ("192.168.77.11",)),
    (),
    NetworkSpec(),
    LocalFacts("node1", "eth0", prefixes=("192.168.77.0/24", "fd77::/64")),
)


def test_an_address_on_the_uplinks_subnet_is_borne_there_and_never_sent_from():
    found = list(bear(VIEW, ["192.168.77.200", "fd77::200", "10.9.9.9"]))
    assert found == [
        Address("eth0", "192.168.77.200/32", deprecated=True),
        Address("eth0", "fd77::200/128", deprecated=True),
    ]


def test_an_address_is_announced_when_it_comes():
    have, want = state(bear(VIEW, ["192.168.77.200"])), state(bear(VIEW, ["192.168.77.201", "fd77::200"]))
    assert set(tell(plan(want, have))) == {Announce("eth0", "192.168.77.201"), Announce("eth0", "fd77::200")}
    assert not list(tell(plan(want, want)))
    assert not list(tell(Plan((Step("add", Address("podnet0", "10.244.1.1/24")),))))
