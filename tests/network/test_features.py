"""The small features one by one: forwarding, masquerade, host ports, bandwidth; and their sum."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from podnet.network import desired as sum_of
from podnet.network.bandwidth import ifb_name
from podnet.network.desired import NODE_FEATURES, after, desired, node_state
from podnet.network.memo import Memo
from podnet.network.pods import host_ifname
from podnet.network.view import Attachment, Bandwidth, NodeView, PortMapping
from podnet.objects.core import NodeSpec
from podnet.state.host import Action, ForgetFlows, Sysctl
from podnet.state.links import Ifb, Redirect, Shaper
from podnet.state.nft import Element, NftTable
from podnet.state.plan import plan
from podnet.state.resource import Conflict, Key, Resource
from tests.worlds import attachment, cluster, config, node, seen, state_of

DUAL = cluster([node(1, dual=True), node(2, dual=True)], config(dual=True))
SINGLE = cluster([node(1), node(2)], config())


def elements(state: dict[Key, Resource], table: str) -> set[tuple[str, str, str]]:
    return {
        (each.set, each.element, each.value)
        for each in state.values()
        if isinstance(each, Element) and each.table == table
    }


def body(state: dict[Key, Resource], table: str) -> str:
    found = state["NftTable", "", "inet", table]
    assert isinstance(found, NftTable)
    return found.body


# -- forwarding


def test_forwarding_in_each_family_that_pods_use() -> None:
    v4, v6 = Sysctl("net/ipv4/ip_forward", "1"), Sysctl("net/ipv6/conf/all/forwarding", "1")
    assert {v4, v6} <= set(state_of(DUAL, 1).values())
    only_v4 = state_of(SINGLE, 1).values()
    assert v4 in only_v4
    assert v6 not in only_v4
    only = msgspec.structs.replace(node(1, dual=True), spec=NodeSpec(pod_cidrs=("fd00:10:244:1::/64",)))
    only_v6 = state_of(cluster([only], config(dual=True)), 1).values()
    assert v6 in only_v6
    assert v4 not in only_v6


# -- masquerade


def test_what_leaves_the_cluster_is_translated_and_nothing_else() -> None:
    state = state_of(DUAL, 1)
    text = body(state, "podnet-masquerade")
    rule = "{0} saddr {1} {0} daddr != {{ {2} }} {0} daddr != @nodes-{0} masquerade fully-random"
    assert [line.strip() for line in text.splitlines() if "masquerade" in line] == [
        rule.format("ip", "10.244.1.0/24", "10.244.0.0/16, 224.0.0.0/4"),
        rule.format("ip6", "fd00:10:244:1::/64", "fd00:10:244::/48, ff00::/8"),
    ]
    assert "hook postrouting priority srcnat" in text
    assert elements(state, "podnet-masquerade") == {
        ("nodes-ip", "192.168.77.11", ""),
        ("nodes-ip", "192.168.77.12", ""),
        ("nodes-ip6", "fd77::11", ""),
        ("nodes-ip6", "fd77::12", ""),
    }


def test_a_node_that_comes_costs_one_element_a_family() -> None:
    more = cluster([node(1), node(2), node(3)], config())
    steps = plan(state_of(more, 1), state_of(SINGLE, 1)).steps
    nft = [step for step in steps if step.resource.kind in ("NftTable", "Element")]
    assert [(step.verb, step.resource.key[-1]) for step in nft] == [("add", "192.168.77.13")]


def test_a_family_without_a_cluster_range_treats_the_node_s_own_as_inside() -> None:
    world = cluster([node(1, dual=True)], config())
    assert "ip6 daddr != { fd00:10:244:1::/64, ff00::/8 }" in body(state_of(world, 1), "podnet-masquerade")


def test_masquerade_off() -> None:
    off = cluster([node(1), node(2)], config(masquerade=False))
    assert [key for key in state_of(off, 1) if "podnet-masquerade" in key] == []


# -- host ports


def published(*ports: PortMapping, **more: Any) -> set[tuple[str, str, str]]:
    return elements(state_of(DUAL, 1, [attachment(1, 1, dual=True, ports=ports, **more)]), "podnet-hostports")


def test_a_host_port_on_every_address() -> None:
    assert published(PortMapping(8080, 80)) == {
        ("ports-ip", "6 . 8080", "10.244.1.2 . 80"),
        ("ports-ip6", "6 . 8080", "fd00:10:244:1::2 . 80"),
        ("targets-ip", "10.244.1.2 . 6 . 80", ""),
        ("targets-ip6", "fd00:10:244:1::2 . 6 . 80", ""),
    }


def test_a_host_port_on_one_address() -> None:
    assert published(PortMapping(53, 5353, "udp", "192.168.77.11")) == {
        ("addressed-ip", "192.168.77.11 . 17 . 53", "10.244.1.2 . 5353"),
        ("targets-ip", "10.244.1.2 . 17 . 5353", ""),
    }
    assert published(PortMapping(53, 5353, "udp", "fd77::11")) == {
        ("addressed-ip6", "fd77::11 . 17 . 53", "fd00:10:244:1::2 . 5353"),
        ("targets-ip6", "fd00:10:244:1::2 . 17 . 5353", ""),
    }


def test_two_host_ports_may_lead_to_one_port() -> None:
    found = published(PortMapping(8080, 80), PortMapping(8081, 80))
    assert len([each for each in found if each[0].startswith("targets")]) == 2
    assert len(found) == 6


def test_publishing_a_port_is_elements_only() -> None:
    other = attachment(1, 2, dual=True, ports=(PortMapping(9090, 90),))
    before = state_of(DUAL, 1, [attachment(1, 1, dual=True), other])
    after_ = state_of(DUAL, 1, [attachment(1, 1, dual=True, ports=(PortMapping(8080, 80),)), other])
    assert {step.resource.kind for step in plan(after_, before).steps} == {"Element"}
    assert {step.verb for step in plan(before, after_).steps} == {"delete"}


def test_no_chains_for_ports_that_nobody_has() -> None:
    """Any chain that translates makes the kernel track all connections."""
    plain = cluster([node(1), node(2)], config(masquerade=False))
    kinds = {key[0] for key in state_of(plain, 1, [attachment(1, 1)])}
    assert not kinds & {"NftTable", "Element"}


@pytest.mark.parametrize(
    ("mode", "where"), [("bridge", {"podnet0"}), ("ptp", {"podnet0", host_ifname(attachment(1, 1))})]
)
@pytest.mark.parametrize("default", ["bridge", "ptp"])
def test_localhost_may_be_led_to_a_pod(default: str, mode: str, where: set[str]) -> None:
    """Where its packets come out, whatever pods are to be from now on; other hosts on that link can't use it."""
    pods = [attachment(1, 1, mode=mode, ports=(PortMapping(8080, 80),)), attachment(1, 2, mode=mode)]
    state = state_of(cluster([node(1)], config(attachment=default)), 1, pods)
    assert {each.dev for each in state.values() if isinstance(each, Sysctl) and "route_localnet" in each.name} == where
    assert 'iifname "podnet*" ip daddr 127.0.0.0/8 drop' in body(state, "podnet-hostports")


def test_answers_come_back_the_same_way() -> None:
    """From a pod of the same node and from localhost, the pod sees the node; from elsewhere the client itself."""
    published = attachment(1, 1, dual=True, ports=(PortMapping(8080, 80),))
    text = body(state_of(DUAL, 1, [published]), "podnet-hostports")
    rules = [line.split() for line in text.splitlines() if "masquerade" in line]
    assert [rule[5] for rule in rules] == ["10.244.1.0/24", "fd00:10:244:1::/64", "127.0.0.0/8"]
    assert all(rule[:3] == ["ct", "status", "dnat"] for rule in rules)


def flows(before: tuple[PortMapping, ...], then: tuple[PortMapping, ...], **more: Any) -> set[Action]:
    old = attachment(1, 1, dual=True, ports=before)
    new = attachment(1, 1, dual=True, ports=then, **more)
    view = seen(DUAL, 1, [new])
    steps = plan(node_state(desired(view)), state_of(DUAL, 1, [old]))
    return set(after(view, steps))


UDP = PortMapping(53, 5353, "udp")


def test_udp_flows_to_the_node_are_forgotten_when_a_port_appears() -> None:
    assert flows((), (UDP,)) == {
        ForgetFlows(protocol=17, to_port=53, destination=each) for each in ("192.168.77.11", "fd77::11", "127.0.0.1")
    }


def test_udp_flows_to_the_pod_are_forgotten_when_a_port_goes() -> None:
    gone = {ForgetFlows(protocol=17, to_port=53, answered_by=pod) for pod in ("10.244.1.2", "fd00:10:244:1::2")}
    assert flows((UDP,), ()) == gone


def test_a_port_that_moves_is_both() -> None:
    moved = flows((UDP,), (UDP,), addresses=("10.244.1.9/24", "fd00:10:244:1::2/64"))
    assert moved == {
        ForgetFlows(protocol=17, to_port=53, answered_by="10.244.1.2"),
        ForgetFlows(protocol=17, to_port=53, destination="192.168.77.11"),
        ForgetFlows(protocol=17, to_port=53, destination="127.0.0.1"),
    }


def test_only_flows_of_the_address_that_the_port_is_on() -> None:
    addressed = PortMapping(53, 5353, "udp", "192.168.77.11")
    assert flows((), (addressed,)) == {ForgetFlows(protocol=17, to_port=53, destination="192.168.77.11")}
    assert flows((addressed,), ()) == {
        ForgetFlows(protocol=17, to_port=53, destination="192.168.77.11", answered_by="10.244.1.2")
    }


def test_tcp_ends_by_itself_and_nothing_changed_is_nothing_to_forget() -> None:
    assert flows((), (PortMapping(80, 80),)) == set()
    assert flows((UDP,), (UDP,)) == set()


# -- bandwidth


def limited(**limits: int) -> dict[Key, Resource]:
    pod = attachment(1, 1, bandwidth=Bandwidth(**limits))
    state = state_of(SINGLE, 1, [pod])
    return {key: each for key, each in state.items() if isinstance(each, Shaper | Redirect | Ifb)}


def test_limits_are_on_the_node_s_side() -> None:
    """To the pod: on the node's end of the pair. From the pod: what arrives there is led through an ifb."""
    pod = attachment(1, 1)
    dev, ifb = host_ifname(pod), ifb_name(pod)
    both = limited(ingress_rate=1000, ingress_burst=80, egress_rate=2000, egress_burst=160)
    assert set(both.values()) == {
        Shaper(dev, 1000, 80),
        Shaper(ifb, 2000, 160),
        Redirect(dev, ifb),
        Ifb(name=ifb, mtu=1450, alias="egress limit of default/p1-1"),
    }
    assert set(limited(ingress_rate=1000, ingress_burst=80).values()) == {Shaper(dev, 1000, 80)}
    assert Shaper(dev, 1000, 80) not in limited(egress_rate=2000, egress_burst=160).values()
    assert limited() == {}


# -- the sum


def test_each_feature_and_each_pod_is_a_unit() -> None:
    units = desired(seen(DUAL, 1, [attachment(1, 1), attachment(1, 2)]))
    node = {*((name,) for name in NODE_FEATURES), ("dns-cache",), ("together",)}
    assert set(units) == {*node, ("pod", "c1-1", "eth0"), ("pod", "c1-2", "eth0")}


def test_two_features_that_want_one_thing_differently_are_our_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def wants_otherwise(view: NodeView) -> Any:
        yield Sysctl("net/ipv4/ip_forward", "0")

    monkeypatch.setattr(sum_of, "NODE_FEATURES", {**NODE_FEATURES, "rebel": wants_otherwise})
    with pytest.raises(Conflict):
        node_state(desired(seen(DUAL, 1)))


def test_a_pod_costs_its_own_unit() -> None:
    memo: Memo = {}
    first = desired(seen(DUAL, 1, [attachment(1, 1)]), memo)
    view = msgspec.structs.replace(seen(DUAL, 1), attachments=(attachment(1, 1), attachment(1, 2)))
    second = desired(view, memo)
    assert all(second[unit] is first[unit] for unit in first)


def test_the_memo_forgets_pods_that_are_gone() -> None:
    memo: Memo = {}
    view = seen(DUAL, 1, [attachment(1, 1)])
    desired(view, memo)
    assert ("pod", "c1-1", "eth0") in memo
    desired(msgspec.structs.replace(view, attachments=()), memo)
    assert ("pod", "c1-1", "eth0") not in memo


def test_an_attachment_is_a_value() -> None:
    assert Attachment("a", "b", "/c").id == ("a", "b")
    assert attachment(1, 1) == attachment(1, 1)
