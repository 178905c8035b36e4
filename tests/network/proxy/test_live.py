"""What the kernel put into our sets by itself, read as what it means for a Service."""

from __future__ import annotations

from itertools import count

import pytest
from msgspec.structs import replace

from podnet.network.proxy.explain import explain
from podnet.network.proxy.iptables import Settings as Rules
from podnet.network.proxy.iptables import own
from podnet.network.proxy.live import (
    Live,
    Memory,
    Proxied,
    affinities,
    ejected,
    ejections,
    excess,
    live,
    places,
    recent,
    retried,
    with_ejections,
)
from podnet.network.proxy.manners import Client, Surroundings
from podnet.network.proxy.nft_chains import TABLE, Settings, table
from podnet.network.proxy.nftables import ids_of
from podnet.network.service_port import ServicePort
from podnet.state.ipvs import Balanced, Stay
from tests.network.proxy.meeting import AFFINITY, FOUR, SIX, family, machine, node_addresses, service_port
from tests.network.proxy.nft_machine import Packet, Walk

KEY = ("default", "web")


def told(port: ServicePort, memory: Memory) -> Live:
    return live(port, memory, node_addresses(family(port)))


@pytest.mark.parametrize("v6", [False, True])
def test_affinity_as_the_chains_remember_it(v6: bool) -> None:
    port = service_port(v6, here=1, there=2, affinity=AFFINITY, affinity_of="default/web")
    net, made = family(port), machine(port)
    seen = {
        source: made.one(Packet(source, net.cluster_ip, 80), slot).target.split()[0]
        for slot, source in enumerate((net.pod, net.outside, net.far_pod))
    }
    held = tuple(f"{key} : {value}" for key, value in made.held[f"affinity-{AFFINITY}"].items())
    place = affinities(v6, AFFINITY)
    assert place in places((port,))
    memory = Memory({place: (*held, "0x00000001 . 10.0.0.1 : 1:2")}, {})
    found = told(port, memory).affinity
    if v6:
        assert sorted(found.values()) == sorted(seen.values())
        assert all(client.startswith("0x") for client in found)
    else:
        assert found == seen
        assert told(replace(port, affinity_of="default/other"), memory).affinity == {}
    gone = replace(port, internal=(), external=(), cluster=())
    assert told(gone, memory).affinity == {}


def test_the_sets_are_those_of_the_table() -> None:
    body = table(Settings(False, (), (), (AFFINITY,), (), True)).body
    for place in (affinities(False, AFFINITY), ejections(False)):
        assert place[:2] == ("ip", TABLE)
        assert f"  {place[2]} {{" in body


def test_ejected_endpoints_of_those_that_retry() -> None:
    port = service_port(retry=True)
    first, second = port.endpoints
    known = ids_of(port)
    high, _, low = known[first].partition(":")
    memory = Memory({ejections(False): (f"{high:0>4}:{low:0>4}", "fffe:1", "none")}, {})
    assert told(port, memory).ejected == (first.address,)
    assert told(replace(port, retry=False), memory).ejected == ()
    services = {KEY: (port,), ("default", "plain"): (service_port(),)}
    assert retried(services) == {KEY: (port,)}
    assert ejected(retried(services), memory.sets) == {(KEY, first.address)}
    assert ejected(retried(services), {ejections(True): (known[second],)}) == frozenset()


def test_shares_while_endpoints_are_ejected() -> None:
    """Those that the chains give, walked with every first slot; a segment's clients have no retries."""
    port = service_port(here=1, there=3, retry=True, split=True)
    net, made, known = family(port), machine(port), ids_of(port)
    out, around = port.endpoints[1:3], Surroundings((net.node,), (net.own,), (net.pods,))
    for who in (Client("outside", net.stranger), Client("pod", net.pod)):
        (meeting,) = (each for each in explain((port,), who, around) if each.scope == "cluster")
        now = with_ejections(meeting, Live(ejected=tuple(each.address for each in out)))
        made.held["ejected"] = {known[each]: "" for each in out}
        walks = []
        for first in range(4):
            dice = count(first)
            packet = Packet(who.address, net.cluster_ip, 80, from_port=40000 + first)
            walks.append(Walk(made, packet, lambda size, dice=dice: next(dice) % size).run().target.split()[0])  # type: ignore[misc]
        got = {share.endpoint.address for share in now.shares if share.percent}
        assert got == set(walks)
        assert sum(share.percent for share in now.shares) == pytest.approx(100)
    (meeting,) = (each for each in explain((port,), Client("node"), around) if each.scope == "cluster" and each.retry)
    everybody = Live(ejected=tuple(each.address for each in port.endpoints))
    assert with_ejections(meeting, everybody) == with_ejections(meeting, None) == meeting, "somebody is asked"
    halves = with_ejections(meeting, Live(ejected=tuple(each.address for each in out)))
    assert [share.percent for share in halves.shares] == [50, 0, 0, 50]


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize(("number", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (7, 3)])
def test_at_most_half_of_the_endpoints_stay_ejected(number: int, most: int, v6: bool) -> None:
    port = service_port(v6, here=0, there=number, retry=True)
    known, place = ids_of(port), ejections(v6)
    every = frozenset(known.values())
    first, *_, last = (*port.endpoints, *port.endpoints)
    for before in (frozenset(), frozenset({(KEY, last.address)})):
        beyond = excess({KEY: (port,)}, {place: every | {"fffe:1"}}, before).get(place, frozenset())
        assert len(every - beyond) == most
        assert "fffe:1" not in beyond, "it is another Service's"
        assert not most or known[last if before else first] not in beyond, "the first one stays"
    assert excess({KEY: (port,)}, {place: {known[first]} if most else set()}, frozenset()) == {}


def test_half_of_this_nodes_endpoints_where_a_policy_is_local() -> None:
    port = service_port(here=1, there=3, local=(True, False), retry=True)
    (own,) = port.internal
    sets = {ejections(False): frozenset({ids_of(port)[own]})}
    assert excess({KEY: (port,)}, sets, frozenset()) == sets, "nobody would be left for clients inside"


def test_connections_through_any_of_the_frontends() -> None:
    port = service_port()
    near, far = (endpoint.address for endpoint in port.endpoints)
    flows = {
        (6, FOUR.cluster_ip, 80, near): 2,
        (6, FOUR.node, 30080, near): 3,
        (6, FOUR.external, 80, far): 1,
        (6, FOUR.cluster_ip, 81, far): 9,
        (17, FOUR.cluster_ip, 80, far): 9,
        (6, FOUR.cluster_ip, 80, "10.244.1.99"): 9,
    }
    assert told(port, Memory({}, flows)).connections == {near: 5, far: 1}
    assert told(service_port(True), Memory({}, flows)).connections == {}
    assert SIX.cluster_ip not in FOUR


def test_nothing_is_asked_for_what_needs_nothing() -> None:
    assert places((service_port(), service_port(retry=True, affinity=0, protocol="udp"))) == frozenset()
    assert places((service_port(True, retry=True),)) == {ejections(True)}


RECENT = service_port(here=1, there=2, affinity=AFFINITY)


def test_in_mode_iptables_the_first_list_that_still_counts_decides() -> None:
    """The lists are those that the rules name."""
    rules = " ".join(rule for made in own(RECENT, Rules()) for rule in made.rules or ())
    first, second, third = RECENT.endpoints
    sets = {
        recent(RECENT, first): ("10.244.1.9 : 7.5", "10.244.1.8 : 7.0"),
        recent(RECENT, second): ("10.244.1.9 : 0.0",),
        recent(RECENT, third): ("10.244.1.8 : 0.0", "10.244.1.9 : 0.1"),
    }
    assert sets.keys() == places((RECENT,), "iptables")
    assert all(f"-m recent --name {name} --rcheck --seconds {AFFINITY}" in rules for _, _, name in sets)
    flows = {(6, FOUR.cluster_ip, 80, first.address): 3}
    found = live(RECENT, Memory(sets, flows), node_addresses(FOUR), "iptables")
    assert found == Live({"10.244.1.8": first.address, "10.244.1.9": second.address}, connections={first.address: 3})
    plain = replace(RECENT, affinity=0)
    assert places((plain,), "iptables") == frozenset()
    assert live(plain, Memory(sets, {}), (), "iptables") == Live()


def test_the_userspace_proxy_tells_of_its_own_and_older_connections_are_the_kernels() -> None:
    port = service_port(True, here=1, there=1, affinity=AFFINITY)
    near, far = port.endpoints
    told = Proxied(
        {f"[{near.address}]:8080": 2, "[fd00::77]:8080": 1}, {"fd00::9": f"[{far.address}]:80", "fd00::8": "[::7]:80"}
    )
    flows = {(6, SIX.cluster_ip, 80, near.address): 1, (6, SIX.cluster_ip, 80, SIX.node): 2}
    memory = Memory({}, flows, {(port.label, "tcp", True): told})
    assert places((port,), "userspace") == frozenset()
    assert live(port, memory, (SIX.node,), "userspace") == Live({"fd00::9": far.address}, connections={near.address: 3})
    other = replace(port, service="other", cluster_ip="fd00:10:96::2")
    assert live(other, memory, (), "userspace") == Live()


def test_ipvs_counts_by_frontend_and_udp_is_never_established() -> None:
    port = service_port(here=1, there=1, affinity=AFFINITY)
    near, far = (each.address for each in port.endpoints)
    at = ("tcp", FOUR.cluster_ip, 80)
    counts = {
        (*at, near): (2, 1),
        ("tcp", FOUR.node, 30080, near): (1, 0),
        (*at, far): (0, 0),
        ("tcp", "10.96.9.9", 80, far): (9, 9),
        ("udp", FOUR.cluster_ip, 80, far): (0, 4),
    }
    stays = (Stay("tcp", FOUR.pod, FOUR.cluster_ip, 80, far), Stay("tcp", FOUR.pod, "10.96.9.9", 80, far))
    memory = Memory({}, {}, {}, Balanced(counts, stays, {at: (near, far), ("tcp", "10.96.9.9", 80): (far,)}))
    place = f"{FOUR.cluster_ip}:80"
    assert live(port, memory, (FOUR.node,), "ipvs") == Live(
        connections={near: 3}, affinity_at={place: {FOUR.pod: far}}, inactive={near: 1}, tables={place: (near, far)}
    )
    udp = replace(port, protocol="udp", affinity=0)
    assert live(udp, memory, (FOUR.node,), "ipvs") == Live(connections={far: 4})
