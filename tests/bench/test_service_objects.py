"""The synthetic Services: nothing repeats, and a node sees just what they say."""

from __future__ import annotations

import pytest

from podnet.bench import synthetic
from podnet.bench.service_objects import changed, cluster, cluster_ip, endpoint_slice, pods, service
from podnet.network.desired import desired, node_state
from podnet.network.view import LocalFacts, NodeView
from podnet.network.viewing import problems, view
from podnet.objects.cluster import Cluster

FACTS = LocalFacts(synthetic.facts().node, "lo")


def seen(made: Cluster) -> NodeView:
    found = view(made, FACTS)
    assert found is not None
    return found


def test_addresses_do_not_repeat() -> None:
    services = {cluster_ip(number) for number in range(12_500)}
    endpoints = {address for number in range(5_000) for address in pods(number, 50)}
    fresh = {changed(number % 10, 4, number).endpoints[0].addresses[0] for number in range(1_000)}
    assert (len(services), len(endpoints), len(fresh)) == (12_500, 250_000, 1_000)
    assert not services & endpoints
    assert not (services | endpoints) & fresh


def test_services_are_in_the_usual_range_and_not_where_the_first_ones_are() -> None:
    assert cluster_ip(0) == "10.96.16.0"
    assert cluster_ip(12_499) == "10.96.64.211"
    assert pods(1, 4) == ("10.128.0.4", "10.128.0.5", "10.128.0.6", "10.128.0.7")


def test_a_slice_belongs_to_its_service() -> None:
    made = endpoint_slice(7, pods(7, 2))
    assert made.metadata.labels["kubernetes.io/service-name"] == service(7).metadata.name


def test_a_change_is_one_endpoint() -> None:
    before = [endpoint.addresses for endpoint in endpoint_slice(3, pods(3, 4)).endpoints]
    after = [endpoint.addresses for endpoint in changed(3, 4, 9).endpoints]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, True, True]


@pytest.mark.parametrize("mode", ["nftables", "iptables", "userspace"])
def test_a_node_sees_every_service_with_every_endpoint(mode: str) -> None:
    made = cluster(20, 4, mode)
    assert problems(made) == ()
    ports = [port for ports in seen(made).services.values() for port in ports]
    assert {port.cluster_ip for port in ports} == {cluster_ip(number) for number in range(20)}
    assert {len(port.internal) for port in ports} == {4}
    assert seen(made).network.proxy.mode == mode


def test_an_endpoint_is_an_element() -> None:
    state = node_state(desired(seen(cluster(20, 4))))
    elements = [key for key in state if key[0] == "Element" and "endpoints" in key]
    assert len(elements) == 80
