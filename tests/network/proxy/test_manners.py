"""What is said about a Service in other modes than nftables is what a packet meets in what each renders for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.proxy import ipvs, userspace
from podnet.network.proxy.balancing import TIMEOUTS, Table
from podnet.network.proxy.explain import Meeting, client_at, explain
from podnet.network.proxy.iptables import Settings, chains
from podnet.network.proxy.manners import MANNERS, Client, Surroundings
from podnet.network.proxy.nftables import PROTOCOLS
from podnet.network.proxy.origins import Keeping, origins
from podnet.network.service_port import ServicePort
from podnet.network.view import LocalFacts, NodeInfo, NodeView
from podnet.objects.network import NetworkSpec, ProxySpec
from podnet.state.ipvs import RealServer
from tests.network.proxy import kube_machine
from tests.network.proxy.meeting import AFFINITY, FOUR, Family, endpoints, family, node_addresses, service_port
from tests.network.proxy.nft_machine import Ends, Machine, Packet, Seen, Walk
from tests.network.proxy.test_nftables import PORTS

SETTINGS = st.tuples(st.booleans(), st.booleans())
"""masqueradeAll, sourceRangesForAll."""

Chances = dict[Seen, float]


def around(net: Family, mode: str, everywhere: bool = False, all_ranges: bool = False) -> Surroundings:
    addresses = (net.node,) if mode == "ipvs" else node_addresses(net)
    return Surroundings(addresses, (net.own,), (net.pods,), everywhere, all_ranges, mode)


def everybody(port: ServicePort, known: Surroundings) -> Iterator[Client]:
    net = family(port)
    for address in (net.node, net.pod, net.far_pod, net.outside, net.stranger, *(e.address for e in port.endpoints)):
        yield client_at(address, known)


def packet(port: ServicePort, where: Meeting, who: Client) -> Packet:
    return Packet(who.address, where.address, where.number, PROTOCOLS[port.protocol], who.kind == "node")


def said(where: Meeting, masks: bool = True) -> Chances:
    """An explanation as the machines tell it; the node has its own address anyhow, `masks` or not."""
    if where.outcome != "to":
        return {Seen("through" if where.outcome == "unserved" else where.outcome): 1.0}
    return {
        Seen("to", f"{share.endpoint.address} . {share.endpoint.port}", share.hidden and masks): share.percent / 100
        for share in where.shares
    }


def unmasked(found: Chances) -> Chances:
    return {each._replace(masqueraded=False): chance for each, chance in found.items()}


# -- iptables


@settings(max_examples=20, deadline=None)
@given(PORTS, SETTINGS)
def test_iptables(port: ServicePort, chosen: tuple[bool, bool]) -> None:
    net, known = family(port), around(family(port), "iptables", *chosen)
    rules = Settings(
        v6=port.v6, cluster_cidr=net.own, masquerade_all=chosen[0], node_addresses=(net.node,), ranges_for_all=chosen[1]
    )
    machine = kube_machine.Machine(chains((port,), rules), known.addresses)
    for who in everybody(port, known):
        for where in explain((port,), who, known):
            found = machine.all(packet(port, where, who))
            if who.kind == "node":
                found = unmasked(found)
            assert said(where, who.kind != "node") == pytest.approx(found), (who, where)
            assert (where.segment, where.retry) == ((), False)


# -- userspace


def view(net: Family, chosen: tuple[bool, bool] = (False, False)) -> NodeView:
    proxy = ProxySpec("userspace", service_cidrs=(net.cidr,), masquerade_all=chosen[0], source_ranges_for_all=chosen[1])
    facts = LocalFacts("n1", "eth0", 1500, (), (net.node,))
    return NodeView(NodeInfo("n1", (net.node,), (net.own,)), (), NetworkSpec(pod_cidrs=(net.pods,), proxy=proxy), facts)


class Led(Walk):
    """What is led to the proxy is met there."""

    def between(self) -> None:
        raise Ends("accept")


@settings(max_examples=20, deadline=None)
@given(PORTS, SETTINGS)
def test_userspace(port: ServicePort, chosen: tuple[bool, bool]) -> None:
    """What is led to the proxy, whom the proxy then picks, and whose address it shows there."""
    net, known = family(port), around(family(port), "userspace", *chosen)
    seen = view(net, chosen)
    made = (each for each in (*userspace.frame(seen), *userspace.elements(seen, port)))
    machine, proxy = Machine(made, known.addresses), f":{userspace.PORT}"
    table, plain = Table(), replace(port, affinity=0)
    table.change((plain,), (), userspace.orders(seen, ()).inside)
    keeping = Keeping(origins(seen))
    for who in everybody(port, known):
        for where in explain((port,), who, known):
            found = Led(machine, packet(port, where, who), lambda size: 0).run()
            if where.outcome == "unserved":
                assert not found.target
                continue
            assert (found.what, found.target.endswith(proxy)) == (where.outcome, where.outcome == "to"), (who, where)
            entry = table.find(port.protocol, where.address, where.number)
            assert entry is not None
            turns = sum(share.endpoint.weight for share in where.shares) * 4
            picked = (entry[0].pick(entry[1], table.is_inside(who.address), who.address, 0.0) for _ in range(turns))
            assert Counter(picked) == {share.endpoint: round(share.percent * turns / 100) for share in where.shares}
            for share in where.shares:
                assert share.hidden != keeping.keeps(port, where.scope, who.address, share.endpoint), (who, where)
            assert where.timeouts == (TIMEOUTS if where.shares and port.protocol == "tcp" else ())


def test_the_proxy_takes_turns_by_weight() -> None:
    canary = tuple(replace(each, weight=weight) for each, weight in zip(endpoints(FOUR, 1, 1), (95, 5), strict=True))
    port = service_port(internal=canary, algorithm="source-hash")
    (found,) = (each for each in explain((port,), Client("pod"), around(FOUR, "userspace")) if each.scope == "cluster")
    assert ([share.percent for share in found.shares], found.algorithm) == ([95, 5], "round-robin")


# -- ipvs


class Balanced(Walk):
    """Between the rules that let a packet in and those that mask it, the virtual server of its destination."""

    servers: tuple[RealServer, ...] = ()

    def between(self) -> None:
        names = {number: name for name, number in PROTOCOLS.items()}
        place = (names[self.packet.protocol], self.packet.destination, self.packet.port)
        there = [each for each in self.servers if (each.protocol, each.address, each.port) == place]
        slots = [each for each in there for _ in range(each.weight)]
        self.sizes = len(slots)
        chosen = slots[self.pick(self.sizes)]
        self.target = f"{chosen.to} . {chosen.to_port}"


@settings(max_examples=20, deadline=None)
@given(PORTS, SETTINGS)
def test_ipvs(port: ServicePort, chosen: tuple[bool, bool]) -> None:
    net, known = family(port), around(family(port), "ipvs", *chosen)
    made = [*ipvs.serve(port, ipvs.Serving((net.node,), (net.node,), *chosen))]
    made += [ipvs.hairpin(each.address, port.v6) for each in port.endpoints if each.local]
    made += [ipvs.hairpin(net.pod, port.v6)]
    machine = Machine([ipvs.table(ipvs.Settings(port.v6, (net.pods,), (net.own,), (net.cidr,))), *made], (net.node,))

    def walked(sent: Packet) -> Chances:
        found: Counter[Seen] = Counter()
        while True:
            walk = Balanced(machine, sent, lambda size: found.total() % size)
            walk.servers = tuple(each for each in made if isinstance(each, RealServer))
            found[walk.run()] += 1
            if found.total() >= walk.sizes:
                return {each: times / found.total() for each, times in found.items()}

    for who in everybody(port, known):
        for where in explain((port,), who, known):
            found = walked(packet(port, where, who))
            if who.kind == "node":
                found = unmasked(found)
            assert said(where, who.kind != "node") == pytest.approx(found), (who, where)
            assert (where.segment, where.retry) == ((), False)


@pytest.mark.parametrize(
    ("asked", "done"),
    [("random", "round-robin"), ("source-hash", "source-hash"), ("least-connections", "least-connections")],
)
def test_schedulers_of_ipvs_by_their_names_here(asked: str, done: str) -> None:
    found = list(explain((service_port(algorithm=asked),), Client("pod"), around(FOUR, "ipvs")))
    assert {each.algorithm for each in found} == {done}


# -- all


def test_only_the_node_meets_its_localhost_where_a_mode_serves_it() -> None:
    port = service_port(affinity=AFFINITY)
    for mode in MANNERS:
        known = around(FOUR, mode)
        for who in (Client("pod"), Client("node"), Client("outside")):
            there = [each for each in explain((port,), who, known) if each.address == FOUR.localhost]
            assert len(there) == (who.kind == "node" and mode != "ipvs")
            assert all(each.affinity == AFFINITY for each in there)


def test_no_mode_means_no_meeting() -> None:
    assert list(explain((service_port(),), Client("pod"), around(FOUR, "none"))) == []
