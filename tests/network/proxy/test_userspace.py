"""What userspace mode puts into a kernel and tells its proxy."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.network.proxy import userspace
from podnet.network.proxy.balancing import Table, identity
from podnet.network.service_port import Endpoint, Segment, ServicePort
from podnet.network.view import LocalFacts, NodeInfo, NodeView
from podnet.objects.network import NetworkSpec, ProxySpec
from podnet.state.host import ForgetFlows, Sysctl
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Plan, Step, plan
from podnet.state.resource import state

ME = NodeInfo("node1", ("192.168.77.11", "fd77::11"), ("10.244.1.0/24", "fd00:1::/64"))
SPEC = NetworkSpec(pod_cidrs=("10.244.0.0/16", "fd00::/16"))
VIEW = NodeView(ME, (), SPEC, LocalFacts("node1"))
E4, E6 = Endpoint("10.244.2.2", 8080), Endpoint("fd00:2::2", 8080)
WEB = ServicePort(
    "default", "web", "", "tcp", False, "10.96.0.1", 80, internal=(E4,), external=(E4,), cluster=(E4,), anywhere=True
)


def made(port: ServicePort, view: NodeView = VIEW) -> dict[tuple[str, str], str]:
    found = [each for each in userspace.serve(view, (port,)) if isinstance(each, Element)]
    assert all(each.table == userspace.TABLE for each in found)
    return {(each.set, each.element): each.value for each in found}


def with_proxy(**fields: object) -> NodeView:
    return msgspec.structs.replace(VIEW, network=msgspec.structs.replace(SPEC, proxy=ProxySpec(**fields)))  # type: ignore[arg-type]


def changed(**fields: object) -> ServicePort:
    return msgspec.structs.replace(WEB, **fields)


def test_one_element_leads_a_frontend_to_the_proxy():
    port = changed(node_port=30080, external_ips=("1.2.3.4",), balancer_ips=("1.2.3.5",))
    assert made(port) == {
        ("cluster-ips", "10.96.0.1"): "",
        ("services", "10.96.0.1 . 6 . 80"): "goto led",
        ("services", "1.2.3.4 . 6 . 80"): "goto led",
        ("services", "1.2.3.5 . 6 . 80"): "goto led",
        ("node-ports", "6 . 30080"): "goto led",
    }


def test_ipv6_and_udp():
    port = changed(v6=True, cluster_ip="fd96::1", protocol="udp", internal=(E6,), external=(E6,), cluster=(E6,))
    (first, second) = userspace.serve(VIEW, (port,))
    assert first == Element("ip6", userspace.TABLE, "cluster-ips", "fd96::1")
    assert second == Element("ip6", userspace.TABLE, "services", "fd96::1 . 17 . 80", "goto led")


@pytest.mark.parametrize(
    ("fields", "cluster", "node"),
    [
        ({"internal": (), "external": (), "cluster": (), "anywhere": False}, "goto refuse", "goto refuse"),
        ({"internal": (), "internal_local": True}, "drop", "goto led"),
        ({"external": (), "external_local": True}, "goto led", "goto inside"),
    ],
    ids=["nobody", "nobody here for pods", "nobody here for outsiders"],
)
def test_who_finds_no_endpoint(fields: dict[str, object], cluster: str, node: str):
    found = made(changed(node_port=30080, **fields))
    assert found["services", "10.96.0.1 . 6 . 80"] == cluster
    assert found["node-ports", "6 . 30080"] == node


@pytest.mark.parametrize(
    ("fields", "cluster", "node"),
    [
        ({"internal": (E4,), "external": (E4,), "cluster": (E4,)}, "goto led", "goto led"),
        ({}, "drop", "drop"),
        ({"cluster": (E4,)}, "drop", "goto inside"),
    ],
    ids=["some", "nobody", "nobody here"],
)
def test_clients_of_a_segment_find_its_endpoints_or_nobody(
    fields: dict[str, tuple[Endpoint, ...]], cluster: str, node: str
):
    segment = Segment(("10.9.0.0/17", "10.9.128.0/17"), **fields)
    found = made(changed(node_port=30080, segments=(segment, Segment(("10.10.1.1/32",)))))
    assert found["services", "10.96.0.1 . 6 . 80"] == "goto led"
    assert found["segments", "10.96.0.1 . 6 . 80 . 10.9.0.0/16"] == cluster
    assert found["segment-ports", "6 . 30080 . 10.9.0.0/16"] == node
    assert found["segments", "10.96.0.1 . 6 . 80 . 10.10.1.1"] == "drop"


def test_a_segment_is_served_also_where_nobody_else_is():
    nobody: dict[str, object] = {"internal": (), "external": (), "cluster": (), "anywhere": False}
    found = made(changed(segments=(Segment(("10.9.0.0/16",), (E4,)), Segment(("10.8.0.0/16",))), **nobody))
    assert found["services", "10.96.0.1 . 6 . 80"] == "goto refuse"
    assert found["segments", "10.96.0.1 . 6 . 80 . 10.9.0.0/16"] == "goto led"
    assert found["segments", "10.96.0.1 . 6 . 80 . 10.8.0.0/16"] == "goto refuse"


def test_source_ranges_guard_the_balancers_address_alone_and_never_overlap():
    port = changed(
        balancer_ips=("1.2.3.5",), node_port=30080, source_ranges=("10.0.0.0/8", "10.1.0.0/16", "9.9.9.9/32")
    )
    found = made(port)
    assert [key for name, key in found if name.startswith("guarded")] == ["1.2.3.5 . 6 . 80"]
    assert sorted(key for name, key in found if name == "allowed") == [
        "1.2.3.5 . 6 . 80 . 10.0.0.0/8",
        "1.2.3.5 . 6 . 80 . 9.9.9.9",
    ]


def test_source_ranges_that_admit_nobody():
    found = made(changed(balancer_ips=("1.2.3.5",), source_ranges=()))
    assert ("guarded", "1.2.3.5 . 6 . 80") in found
    assert not [key for name, key in found if name == "allowed"]


def test_source_ranges_for_all():
    port = changed(external_ips=("1.2.3.4",), node_port=30080, source_ranges=("10.0.0.0/8",))
    found = made(port, with_proxy(source_ranges_for_all=True))
    assert ("guarded", "1.2.3.4 . 6 . 80") in found
    assert ("guarded-ports", "6 . 30080") in found
    assert ("allowed-ports", "6 . 30080 . 10.0.0.0/8") in found
    assert ("guarded", "10.96.0.1 . 6 . 80") not in found


def test_what_it_cannot_do_is_left_out():
    port = changed(protocol="sctp")
    assert made(port) == {}
    assert userspace.orders(VIEW, [WEB, port]).ports == (WEB,)


def test_a_family_that_the_node_does_not_have():
    view = msgspec.structs.replace(VIEW, me=NodeInfo("node1", ("192.168.77.11",), ("10.244.1.0/24",)))
    assert made(changed(v6=True, cluster_ip="fd96::1"), view) == {}
    assert [table.family for table in userspace.frame(view) if isinstance(table, NftTable)] == ["ip"]


def body(view: NodeView, family: str) -> str:
    return next(each.body for each in userspace.frame(view) if isinstance(each, NftTable) and each.family == family)


def test_the_tables_lead_to_the_nodes_own_address():
    assert "dnat to 192.168.77.11:10265\n" in body(VIEW, "ip")
    assert "dnat to [fd77::11]:10265\n" in body(VIEW, "ip6")
    assert "ip saddr != { 10.244.1.0/24, 127.0.0.0/8, 192.168.77.11 } drop" in body(VIEW, "ip")
    assert "ip6 saddr != { ::1, fd00:1::/64, fd77::11 } drop" in body(VIEW, "ip6")


def test_node_ports_at_some_addresses_and_addresses_that_no_service_has():
    view = with_proxy(node_port_addresses=("192.168.77.0/24",), service_cidrs=("10.96.0.0/12", "fd96::/108"))
    assert "    fib daddr type local ip daddr { 192.168.77.0/24 } goto node-ports\n" in body(view, "ip")
    assert "    ip daddr { 10.96.0.0/12 } drop\n" in body(view, "ip")
    assert "    fib daddr type local goto node-ports\n" in body(view, "ip6")
    assert "    ip6 daddr { fd96::/108 } drop\n" in body(view, "ip6")


def test_127_0_0_1_may_be_led_to_pods_still_and_strangers_are_kept_from_it():
    assert Sysctl("net/ipv4/conf/all/route_localnet", "1") in list(userspace.frame(VIEW))
    assert '    iifname != "lo" ip daddr 127.0.0.0/8 return\n    goto services\n' in body(VIEW, "ip")
    assert '    iifname != "lo" ip daddr 127.0.0.0/8 ct direction original drop\n' in body(VIEW, "ip")
    assert "127" not in body(VIEW, "ip6")


def test_the_proxy_is_told_where_to_listen_and_who_is_inside():
    orders = userspace.orders(VIEW, [WEB])
    assert orders.addresses == ME.addresses
    assert {"10.244.1.0/24", "192.168.77.11", "127.0.0.0/8", "fd00:1::/64", "::1"} <= set(orders.inside)
    assert msgspec.json.decode(msgspec.json.encode(orders), type=userspace.Orders) == orders


def test_who_is_seen_is_told_once_and_when_it_changes():
    first, second = userspace.orders(VIEW, [WEB]), userspace.orders(VIEW, [DNS])
    assert first.origins
    assert userspace.since(first, second).origins is None
    masked = userspace.orders(with_proxy(masquerade_all=True), [DNS])
    assert userspace.since(second, masked).origins == masked.origins != second.origins


def steps(before: ServicePort | None, now: ServicePort | None) -> Plan:
    old, new = (state(r for r in userspace.serve(VIEW, (port,))) if port else {} for port in (before, now))
    return plan(new, old)


DNS = changed(protocol="udp", port=53, node_port=30053)


def test_stale_udp_flows_are_those_of_what_changed():
    def forgotten(before: ServicePort | None, now: ServicePort | None) -> list[str]:
        return sorted(map(repr, userspace.forget(VIEW, steps(before, now))))

    def flows(**found: str) -> list[str]:
        return sorted(
            repr(ForgetFlows(17, int(port), destination=destination, answered_by=answered))
            for where, answered in found.items()
            for destination, port in (where.split("_"),)
        )

    own = {"10.96.0.1_53": "10.96.0.1", "192.168.77.11_30053": "192.168.77.11", "127.0.0.1_30053": "127.0.0.1"}
    proxied = dict.fromkeys(own, "192.168.77.11")
    assert forgotten(None, DNS) == flows(**own)
    assert forgotten(DNS, None) == flows(**proxied)
    assert forgotten(DNS, changed(protocol="udp", port=53, node_port=30053, internal=(E4, E4))) == []
    refused = msgspec.structs.replace(DNS, internal=(), external=(), cluster=(), anywhere=False)
    assert forgotten(DNS, refused) == flows(**proxied)


def test_tcp_connections_are_never_forgotten():
    assert not list(userspace.forget(VIEW, steps(None, WEB)))
    assert not list(userspace.forget(VIEW, steps(WEB, None)))
    other = Element("inet", "podnet-hostports", "services", "17 . 53", "x")
    assert not list(userspace.forget(VIEW, Plan((Step("add", other),))))


names = st.lists(st.integers(0, 9), unique=True)


@given(names, names, st.sets(st.integers(0, 9)))
def test_a_proxy_that_is_told_the_changes_knows_the_whole(before: list[int], now: list[int], other: set[int]):
    def ports(numbers: list[int], changed: set[int]) -> list[ServicePort]:
        return [all_ports[number, number in changed] for number in numbers]

    all_ports = {
        (number, more): msgspec.structs.replace(
            WEB, service=f"s{number}", cluster_ip=f"10.96.1.{number}", node_port=31000 + number if more else 0
        )
        for number in range(10)
        for more in (False, True)
    }
    first, second = userspace.orders(VIEW, ports(before, set())), userspace.orders(VIEW, ports(now, other))
    news = userspace.since(first, second)
    assert not news.whole
    told, straight = Table(), Table()
    told.change(first.ports, (), ())
    told.change(news.ports, news.gone, ())
    straight.change(second.ports, (), ())
    keys = [("tcp", f"10.96.1.{number}", 80) for number in range(10)]
    keys += [("tcp", "1.1.1.1", 31000 + number) for number in range(10)]
    for key in keys:
        one, two = told.find(*key), straight.find(*key)
        assert (one and one[0].port) == (two and two[0].port)
    assert {identity(entry.port) for entry in told.entries} == {identity(entry.port) for entry in straight.entries}
