"""What is certain for a client of known address: the kernel's hashes, and what they and affinity mean for shares."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from podnet.network.proxy.algorithms import SOURCE_HASH, hashed
from podnet.network.proxy.explain import Meeting, explain
from podnet.network.proxy.live import Live
from podnet.network.proxy.manners import Client, Surroundings
from podnet.network.proxy.settled import balanced_slot, jhash, known_as, settled, slot
from podnet.network.service_port import Endpoint, ServicePort
from tests.network.proxy.meeting import AFFINITY, FOUR, SIX, service_port

CLIENT = Client("pod", FOUR.pod)
MEASURED = {"10.1.228.69": 80, "10.151.61.191": 97, "fd00:7c48::be66": 5, "fd00:6133::4daa": 126}
"""The slots that a kernel gave (Linux 6.18)."""


def met(port: ServicePort, who: Client = CLIENT, scope: str = "cluster") -> Meeting:
    return next(each for each in explain((port,), who, Surroundings(("192.168.77.9",))) if each.scope == scope)


def percents(meeting: Meeting) -> dict[str, float]:
    return {share.endpoint.address: share.percent for share in meeting.shares}


def test_hashes_are_the_kernels() -> None:
    assert {address: slot(address) for address in MEASURED} == MEASURED


def test_who_is_known_by_the_kernel_stays() -> None:
    port = service_port(here=1, there=2, affinity=AFFINITY, affinity_of="default/web")
    first, second, third = port.endpoints
    found = settled(met(port), CLIENT, port, Live({FOUR.pod: second.address}))
    assert percents(found) == {first.address: 0, second.address: 100, third.address: 0}
    for live in (None, Live({"10.9.9.9": second.address}), Live({FOUR.pod: "10.9.9.9"})):
        assert settled(met(port), CLIENT, port, live) == met(port)
    assert settled(met(port), Client("pod"), port, Live({FOUR.pod: second.address})) == met(port)


def test_in_ipv6_by_a_hash_that_differs_by_service() -> None:
    port = service_port(True, here=2, there=0, affinity=AFFINITY, affinity_of="default/web")
    who = Client("pod", SIX.pod)
    word = known_as(port, SIX.pod)
    assert word != known_as(replace(port, affinity_of="default/other"), SIX.pod)
    found = settled(met(port, who), who, port, Live({word: port.endpoints[0].address}))
    assert sorted(percents(found).values()) == [0, 100]


@pytest.mark.parametrize("retry", [False, True])
def test_a_hash_decides_but_not_with_retries(retry: bool) -> None:
    port = service_port(here=2, there=3, algorithm=SOURCE_HASH, retry=retry)
    found = settled(met(port), CLIENT, port, None)
    if retry:
        assert found == met(port)
        return
    (chosen,) = (address for address, percent in percents(found).items() if percent)
    assert chosen == hashed(port.internal)[slot(FOUR.pod)].address


def test_two_endpoints_of_one_pod_are_not_told_apart() -> None:
    two = (Endpoint("10.244.1.2", 80), Endpoint("10.244.1.2", 81))
    port = service_port(internal=two, affinity=AFFINITY, affinity_of="default/web")
    assert settled(met(port), CLIENT, port, Live({FOUR.pod: "10.244.1.2"})) == met(port)


def test_the_node_comes_to_its_own_addresses_with_those() -> None:
    port = service_port(here=2, there=0, affinity=AFFINITY, affinity_of="default/web", node_port=30080)
    node, live = Client("node", FOUR.node), Live({"192.168.77.9": port.endpoints[1].address})
    found = settled(met(port, node, "node"), node, port, live)
    assert percents(found)[port.endpoints[1].address] == 100
    assert settled(met(port, node), node, port, live) == met(port, node)


def test_words_beyond_three_are_mixed_in() -> None:
    assert len({jhash(bytes([number]) + bytes(19), 1) for number in range(50)}) == 50


def test_other_modes_know_clients_by_their_address_and_ipvs_by_the_frontend_too() -> None:
    port = service_port(True, here=2, there=0, affinity=AFFINITY)
    first, second = port.endpoints
    who, node = Client("pod", SIX.pod), Client("node", SIX.node)
    plain, at = Live({SIX.pod: second.address}), Live(affinity_at={f"[{SIX.cluster_ip}]:80": {SIX.pod: second.address}})
    stays, any_of_them = {first.address: 0, second.address: 100}, {first.address: 50, second.address: 50}

    def found(mode: str, live: Live, scope: str = "cluster", client: Client = who) -> dict[str, float]:
        meetings = explain((port,), client, Surroundings((SIX.node,), mode=mode))
        (meeting,) = (each for each in meetings if each.scope == scope)
        return percents(settled(meeting, client, port, live, mode))

    for mode in ("iptables", "userspace"):
        assert found(mode, plain) == found(mode, plain, "node") == stays
    assert (found("ipvs", at), found("ipvs", at, "node")) == (stays, any_of_them)
    itself = Live(affinity_at={f"[{SIX.cluster_ip}]:80": {SIX.cluster_ip: first.address}})
    assert found("ipvs", itself, client=node) == {first.address: 100, second.address: 0}


@pytest.mark.parametrize(
    ("source", "expected"), [("10.244.1.16", 166), ("10.244.1.17", 8), ("fd00:10:244:1::1:10", 75), ("0.0.0.1", 0x61)]
)
def test_ipvs_has_a_hash_of_its_own(source: str, expected: int) -> None:
    assert balanced_slot(source) == expected


def test_a_table_of_ipvs_decides_where_no_affinity_does() -> None:
    port = service_port(here=2, there=0, algorithm=SOURCE_HASH, affinity=AFFINITY)
    first, second = (each.address for each in port.endpoints)
    at = f"{FOUR.cluster_ip}:80"
    slots = tuple(second if place == balanced_slot(FOUR.pod) % 8 else first for place in range(8))
    (meeting, *_) = explain((port,), CLIENT, Surroundings(mode="ipvs"))
    for kept, chosen in (({}, second), ({at: {FOUR.pod: first}}, first)):
        found = settled(meeting, CLIENT, port, Live(affinity_at=kept, tables={at: slots}), "ipvs")
        assert percents(found) == {each: 100 * (each == chosen) for each in (first, second)}
    assert settled(meeting, CLIENT, port, Live(), "ipvs") == meeting
