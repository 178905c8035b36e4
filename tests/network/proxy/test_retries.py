"""Connections that nobody answers: where the repeated SYN goes, and whose refusals are kept from the client."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from podnet.network.proxy.nft_chains import ATTEMPTS, REDRAWS
from podnet.network.proxy.nftables import ids_of
from tests.network.proxy.meeting import family, machine, service_port
from tests.network.proxy.nft_machine import Machine, Packet, Walk


def picks(made: Machine, packet: Packet, *slots: int) -> str:
    """The target when these slots are picked, one after the other."""
    dice = iter(slots)
    return Walk(made, packet, lambda size: next(dice) % size).run().target


@pytest.mark.parametrize("v6", [False, True])
def test_each_attempt_is_somewhere_else_and_the_last_one_may_be_refused(v6: bool) -> None:
    port = service_port(v6, here=2, there=2, retry=True)
    net, made = family(port), machine(port)
    packet = Packet(net.pod, net.cluster_ip, 80)
    seen = [made.one(packet, slot) for slot in (0, 1, 2, 3)]
    assert len({each.target for each in seen}) == 4
    assert [each.retried for each in seen] == [True] * (ATTEMPTS - 1) + [False] * 2
    assert len(made.held["ejected"]) == 3, "of the last attempt nobody knows yet"
    ejected = dict(made.held["ejected"])
    for other in (packet._replace(from_port=40001), packet._replace(sequence=1001)):
        assert made.one(other, 3).retried, "another connection has its own attempts"
        assert made.held["ejected"] == ejected


@pytest.mark.parametrize("v6", [False, True])
def test_only_connections_of_the_service_itself_are_retried(v6: bool) -> None:
    """Another Service has the same pods, and clients of a segment have no retries; what refuses them is heard."""
    port = service_port(v6, here=1, there=1, retry=True, split=True)
    net = family(port)
    other = replace(
        service_port(v6, here=1, there=1), service="other", port=81, node_port=30081, external_ips=(), balancer_ips=()
    )
    made = machine(port, other)
    for address, number in ((net.cluster_ip, 80), (net.external, 80), (net.balancer, 80), (net.node, 30080)):
        assert made.one(Packet(net.stranger, address, number)).retried
        assert not made.one(Packet(net.pod, address, number)).retried
    for address, number in ((net.cluster_ip, 81), (net.node, 30081)):
        seen = made.one(Packet(net.stranger, address, number))
        assert (seen.what, seen.retried) == ("to", False)


def test_who_picks_an_ejected_endpoint_picks_again_but_not_for_ever() -> None:
    port = service_port(here=0, there=4, retry=True)
    net, made = family(port), machine(port)
    packet = Packet(net.pod, net.cluster_ip, 80)
    known = ids_of(port)
    targets = {slot: f"{each.address} . {each.port}" for slot, each in enumerate(port.cluster)}
    made.held["ejected"] = {known[each]: "" for each in port.cluster[:3]}
    assert picks(made, packet, 0, 1, 2, 3) == targets[3]
    made.held["ejected"] = {known[each]: "" for each in port.cluster}
    assert picks(made, packet._replace(from_port=40001), *[0] * REDRAWS, 2) == targets[2], "somebody is asked"


def test_one_port_of_a_pod_may_be_ejected_while_another_serves() -> None:
    """Services of the same pods: what one finds out says nothing of another port, and all of the same one."""
    here = service_port(retry=True)
    other = replace(
        here, port=81, internal=tuple(replace(each, port=9) for each in here.internal), external=(), cluster=()
    )
    same = replace(here, port=82)
    assert not set(ids_of(here).values()) & set(ids_of(other).values())
    assert ids_of(here) == ids_of(same)
