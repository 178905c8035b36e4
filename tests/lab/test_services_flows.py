"""Flows to Services through changes: what must stay where it is, what must move at once, and that nothing is lost.

Affinity and its end; UDP flows, of which exactly the stale ones are forgotten; TCP connections through the removal of
endpoints, an agent's death and a change of mode; new connections during a thousand changes. The same for every mode.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager

import pytest

from podnet.client.api import Api
from podnet.objects.kinds import SERVICES
from tests.lab.labs import NAMESPACE, needs_root, until
from tests.lab.service_asks import Ask, Flow, ask_all
from tests.lab.service_world import HERE, OTHER_PORT, PORT, PROTOCOLS, TALK, Service, World, both, world

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("services-flows")]

STAYS = 2
"""Seconds of affinity."""

STICKY_PORTS = range(80, 88)
CHANGES = 1000
FAMILIES = (False, True)
LOOPBACK = {False: "127.0.0.1", True: "::1"}


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("svcf") as built:
        affinity = {"clientIP": {"timeoutSeconds": STAYS}}
        ports = both(*((f"p{port}", port) for port in STICKY_PORTS))
        built.service("sticky", "a", "b", ports=ports, sessionAffinity="ClientIP", sessionAffinityConfig=affinity)
        built.service(
            "sticky-local", "a", "a2", "b", type="NodePort", externalTrafficPolicy="Local",
            sessionAffinity="ClientIP", sessionAffinityConfig=affinity,
        )  # fmt: skip
        for name in ("datagrams", "connections"):
            built.service(name, "a", "b", type="NodePort")
        built.service("loaded", "a", "b", type="NodePort", ports=both(("web", 80))[:1])
        built.service("bystander", "a")
        built.service("late", type="NodePort")
        yield built


@pytest.fixture(scope="module", params=HERE)
def lab(request: pytest.FixtureRequest, made: World) -> World:
    made.proxy(mode=request.param)
    return made


@pytest.fixture(params=FAMILIES, ids=["IPv4", "IPv6"])
def v6(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# -- affinity


def servers(asks: Sequence[Ask]) -> dict[str, str]:
    """Who answers whom."""
    names = [f"{ask.client.name} to {ask.host} {ask.protocol}/{ask.port}" for ask in asks]
    return {name: answer.server for name, answer in zip(names, ask_all(asks), strict=True)}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [f"{key}: first {before[key]}, then {after[key]}" for key in before if before[key] != after[key]]


def sticky(lab: World) -> list[Ask]:
    """One client and many ports, each of which has an affinity of its own: so one look is a whole distribution."""
    hosts = [lab.services["sticky"].cluster(v6) for v6 in FAMILIES]
    return [Ask(lab.clients["near"], host, n, word) for host in hosts for n in STICKY_PORTS for word in PROTOCOLS]


def test_a_client_stays_with_its_endpoint_until_it_was_away_too_long(lab: World) -> None:
    asks = sticky(lab)
    first = servers(asks)
    assert {*first.values()} == {"a", "b"}
    for _ in range(5):
        time.sleep(STAYS / 4)
        assert changed(first, servers(asks)) == []
    time.sleep(STAYS * 1.5)
    assert bool(changed(first, servers(asks))) is lab.mode.expires


def test_affinity_ends_with_its_endpoint(lab: World) -> None:
    """A client moves when its endpoint is not ready any more, and does not come back when it is."""
    asks = sticky(lab)
    assert {*servers(asks).values()} == {"a", "b"}
    only_b = dict.fromkeys(servers(asks), "b")
    lab.endpoints("sticky", "b")
    assert changed(only_b, servers(asks)) == []
    lab.endpoints("sticky", "a", "b")
    assert changed(only_b, servers(asks)) == []


def test_affinity_and_policy_local(lab: World, v6: bool) -> None:
    """One of the local endpoints, always the same; who comes through another node has another affinity."""
    port, nodes = lab.services["sticky-local"].node_port, lab.live.lab.nodes
    asks = [Ask(lab.clients[name], nodes[0].addresses[v6], port) for name in ("outside", "stranger", "far", "node2")]
    first = servers(asks)
    assert {*first.values()} <= {"a", "a2"}
    for _ in range(8):
        assert changed(first, servers(asks)) == []
    (answer,) = ask_all([Ask(lab.clients["outside"], nodes[1].addresses[v6], port)])
    assert (answer.server, lab.owner(answer.source)) == ("b", "outside")


# -- UDP


@contextmanager
def flows(asks: Sequence[Ask]) -> Iterator[list[Flow]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Flow(ask))) for ask in asks]


def remembered(lab: World, nodes: Sequence[str], v6: bool) -> Mapping[tuple[str, ...], str]:
    """The kernels' memory of UDP flows by node, client's address and port, and address asked: its identity."""
    command = f"conntrack -L -p udp -f ipv{6 if v6 else 4} -o id"
    found: dict[tuple[str, ...], str] = {}
    for node in nodes:
        for line in lab.live.run(node, command).splitlines():
            words = dict(word.split("=") for word in reversed(line.split()) if "=" in word)
            found[node, words["src"], words["sport"], words["dst"]] = words["id"]
    return found


def datagrams(lab: World, v6: bool) -> dict[str, list[Ask]]:
    """By the node whose memory they are in: pods', a node's own, and those from outside to a node port."""
    service = lab.services["datagrams"]
    cluster, node2 = service.cluster(v6), lab.live.lab.node("node2").addresses[v6]
    return {
        "node1": [Ask(lab.clients["near"], cluster, 80, "udp")] * 8,
        "node3": [Ask(lab.clients["node3"], cluster, 80, "udp")] * 8,
        "node2": [Ask(lab.clients["outside"], node2, service.node_port, "udp")] * 8,
    }


def identities(lab: World, places: Sequence[str], opened: Sequence[Flow], v6: bool) -> list[str]:
    memory = remembered(lab, sorted({*places}), v6)
    return [memory.get((place, *flow.place), "") for place, flow in zip(places, opened, strict=True)]


def all_say(opened: Sequence[Flow], wanted: str) -> bool:
    return {flow.say() for flow in opened} == {wanted}


def all_move(places: Sequence[str], opened: Sequence[Flow], wanted: str, seconds: float) -> None:
    """Within so many seconds; says in whose memory the others are."""
    end = time.monotonic() + seconds
    said: dict[str, str] = {"": ""}
    while said and time.monotonic() < end:
        said = {place: word for place, flow in zip(places, opened, strict=True) if (word := flow.say(0.1)) != wanted}
    assert not said, f"not within {seconds} s: all have moved to {wanted}"


def test_exactly_the_stale_udp_flows_are_forgotten(lab: World, v6: bool) -> None:
    lab.endpoints("datagrams", "a", "b")
    places = [place for place, asks in datagrams(lab, v6).items() for _ in asks]
    others = [Ask(lab.clients["near"], lab.services["bystander"].cluster(v6), 80, "udp")] * 2
    with flows([ask for asks in datagrams(lab, v6).values() for ask in asks]) as opened, flows(others) as bystanders:
        said = [flow.say() for flow in opened]
        assert {*said} == {"a", "b"}
        assert all_say(bystanders, "a")
        before = identities(lab, places, opened, v6)
        untouched = identities(lab, ["node1"] * 2, bystanders, v6)
        assert all(before)
        assert all(untouched)
        lab.endpoints("datagrams", "b")
        all_move(places, opened, "b", 1.5)
        after = identities(lab, places, opened, v6)
        assert of_b(said, after) == of_b(said, before)
        assert identities(lab, ["node1"] * 2, bystanders, v6) == untouched
        lab.endpoints("datagrams", "a", "b")
        assert all_say(opened, "b")
        assert identities(lab, places, opened, v6) == after


def test_udp_flows_to_a_port_that_is_no_endpoint_any_more(lab: World, v6: bool) -> None:
    """The same pods serve at another port: what went to the old one goes there, and the others stay as they are."""
    lab.endpoints("datagrams", "a", "b")
    places = [place for place, asks in datagrams(lab, v6).items() for _ in asks]
    others = [Ask(lab.clients["near"], lab.services["bystander"].cluster(v6), 80, "udp")] * 2
    with flows([ask for asks in datagrams(lab, v6).values() for ask in asks]) as opened, flows(others) as bystanders:
        assert {flow.say() for flow in opened} == {"a", "b"}
        assert all_say(bystanders, "a")
        untouched = identities(lab, ["node1"] * 2, bystanders, v6)
        for port, wanted in ((OTHER_PORT, {"a-alt", "b-alt"}), (PORT, {"a", "b"})):
            lab.move("datagrams", port)
            until(lambda: {flow.say(0.1) for flow in opened} <= wanted, f"all have moved to {port}", 2.5)  # noqa: B023
            moved = identities(lab, places, opened, v6)
            assert {flow.say() for flow in opened} <= wanted
            assert identities(lab, places, opened, v6) == moved
        assert identities(lab, ["node1"] * 2, bystanders, v6) == untouched


def test_udp_that_came_before_its_endpoints_or_its_service(lab: World, v6: bool) -> None:
    """A client that goes on sending is remembered as one whom nobody answers, or whom the node itself refuses."""
    late, soon = lab.services["late"], Service(f"soon-{lab.name}-{v6:d}", 200 + v6)
    node2 = lab.live.lab.node("node2").addresses[v6]
    asks = [
        Ask(lab.clients["near"], late.cluster(v6), 80, "udp"),
        Ask(lab.clients["outside"], node2, late.node_port, "udp"),
    ]
    asks += [
        Ask(lab.clients["near"], soon.cluster(v6), 80, "udp"),
        Ask(lab.clients["outside"], node2, soon.node_port, "udp"),
    ]
    lab.endpoints("late")
    with flows(asks) as opened:
        assert [flow.say(0.1) for flow in opened] == [""] * 4
        lab.live.api(lambda api: lab.set_endpoints(api, "late", "b"))
        lab.make(soon, "b", type="NodePort")
        until(lambda: [flow.say(0.05) for flow in opened] == ["b"] * 4, "all are answered", 2.0)
        lab.unmake(soon)
        lab.endpoints("late")
        until(lambda: [flow.say(0.05) for flow in opened] == [""] * 4, "nobody is answered any more", 2.0)


def test_udp_flows_over_an_agents_death(lab: World, v6: bool) -> None:
    """Its restart forgets nothing; what changed while it was away is made good."""
    lab.endpoints("datagrams", "a", "b")
    near = datagrams(lab, v6)["node1"] * 3
    with flows(near) as opened:
        said = [flow.say() for flow in opened]
        before = identities(lab, ["node1"] * len(near), opened, v6)
        assert {*said} == {"a", "b"}
        assert all(before)
        lab.live.back("agent-node1", lab.live.kill("agent-node1"))
        lab.settle()
        assert [flow.say() for flow in opened] == said
        assert identities(lab, ["node1"] * len(near), opened, v6) == before
        with lab.live.without("agent-node1"):
            lab.live.api(lambda api: lab.set_endpoints(api, "datagrams", "b"))
            assert [flow.say() for flow in opened] == said
        all_move(["node1"] * len(near), opened, "b", 3.0)
        after = identities(lab, ["node1"] * len(near), opened, v6)
        assert of_b(said, after) == of_b(said, before)


def of_b(said: Sequence[str], each: Sequence[str]) -> list[str]:
    """Those of the flows that b answered."""
    return [identity for word, identity in zip(said, each, strict=True) if word == "b"]


# -- TCP


def test_established_connections_live_through_everything(lab: World, v6: bool) -> None:
    """The removal of their endpoint, the death of agents, and another mode and back."""
    lab.endpoints("connections", "a", "b")
    service, node2 = lab.services["connections"], lab.live.lab.node("node2").addresses[v6]
    cluster = service.cluster(v6)
    asks = [Ask(lab.clients[name], cluster, 80) for name in ("near", "far", "node3") for _ in range(8)]
    asks += [Ask(lab.clients["outside"], node2, service.node_port)] * 8
    with flows(asks) as opened:
        assert {flow.server for flow in opened} == {"a", "b"}
        assert all(flow.echoes() for flow in opened)
        lab.endpoints("connections", "b")
        assert {answer.server for answer in ask_all(asks)} == {"b"}
        assert all(flow.echoes() for flow in opened), "after the removal of an endpoint"
        for node in ("node1", "node3"):
            lab.live.back(f"agent-{node}", lab.live.kill(f"agent-{node}"))
        assert all(flow.echoes() for flow in opened), "after the death of agents"
        lab.proxy(mode="none")
        until(lambda: {answer.server for answer in ask_all(asks)} == {""}, "nobody makes Services")
        until(lambda: all(lab.live.settled(node.name) for node in lab.live.lab.nodes), "nor refuses them any more")
        assert all(flow.echoes() for flow in opened), "without a proxy"
        early = [Flow(ask, wait=False) for ask in asks[::8]]
        lab.proxy(mode=lab.name)
        assert all(flow.echoes() for flow in opened), "with a proxy again"
        # Where node ports of before still have connections (ipvs), nobody is refused either.
        again = [True] * 3 + [lab.name == "ipvs"]
        assert [flow.connects(8.0) for flow in early] == again, "who came too early sends its SYN again"
        assert {answer.server for answer in ask_all(asks)} == {"b"}


def test_connections_through_localhost_live_through_every_other_mode(lab: World) -> None:
    """Also where the other mode does not lead there. Mode ipvs leads nobody there."""
    lab.endpoints("connections", "a", "b")
    here, port = lab.name, lab.services["connections"].node_port
    places = [LOOPBACK[v6] for v6 in FAMILIES if ("6" if v6 else "4") in lab.mode.localhost]
    assert places or here == "ipvs"
    asks = [Ask(lab.clients["node1"], place, port) for place in places] * 20
    datagrams = [Ask(lab.clients["node1"], place, port, "udp") for place in places] * 20
    with flows(asks) as opened, flows(datagrams) as heard:
        said = [flow.say() for flow in heard]
        assert not places or {flow.server for flow in opened} == {*said} == {"a", "b"}
        for mode in (*(each for each in HERE if each != here), here):
            lab.proxy(mode=mode)
            assert all(flow.echoes() for flow in opened), mode
            assert here == "userspace" or [flow.say() for flow in heard] == said, mode


def test_no_connection_is_lost_during_a_thousand_changes(lab: World) -> None:
    """A lost SYN would be sent again after a second: nothing may take as long."""
    service, node2 = lab.services["loaded"], lab.live.lab.node("node2").addresses
    near, outside = lab.clients["near"].netns, lab.clients["outside"].netns
    places = [
        (near, service.cluster(False), 80),
        (near, service.cluster(True), 80),
        (outside, node2[0], service.node_port),
    ]
    loads = [
        subprocess.Popen(
            ["nsenter", f"--net={netns}", *TALK, "load", host, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for netns, host, port in places
    ]
    passes = lab.live.ask("node1", "status")["passes"]
    try:
        lab.live.api(lambda api: change_often(lab, api))
        lab.settle()
        outcomes = [json.loads(load.communicate("stop\n", timeout=10)[0]) for load in loads]
    finally:
        for load in loads:
            load.kill()
            load.communicate()
    for outcome in outcomes:
        assert not outcome["errors"], outcome
        assert outcome["slowest"] < 0.9, outcome
        assert {*outcome["answers"]} == {"a", "a2", "b"}
        assert min(outcome["answers"].values()) > 100, outcome
    seen = lab.live.ask("node1", "status")["passes"] - passes
    assert seen > CHANGES / 4, "a busy agent sees some changes as one"


async def change_often(lab: World, api: Api) -> None:
    """Each time other endpoints, but always some."""
    dice, before = random.Random(3), ["a", "b"]
    for number in range(CHANGES):
        choices = [["a"], ["b"], ["a2"], ["a", "b"], ["a2", "b"], ["a", "a2", "b"]]
        before = dice.choice([each for each in choices if each != before])
        await lab.set_endpoints(api, "loaded", *before, families="46"[number % 2])
        await asyncio.sleep(0.01)  # else an agent sees several as one


# -- from end to end: selectors, readiness, names of ports


def test_from_pods_to_connections(lab: World) -> None:
    """Everything by the cluster's own controllers: addresses, node port, slices; a port by name."""
    spec = {
        "selector": {"app": "whole"}, "type": "NodePort", "ipFamilyPolicy": "RequireDualStack",
        "ports": [{"port": 80, "targetPort": "web"}],
    }  # fmt: skip
    metadata = {"name": "whole", "namespace": NAMESPACE}
    made = lab.live.api(lambda api: api.create(SERVICES, {"metadata": metadata, "spec": spec}, into=dict))
    (port,) = made["spec"]["ports"]
    for name, node in (("w1", "node1"), ("w2", "node2")):
        ports = [{"name": "web", "containerPort": PORT}]
        lab.live.create_pod(name, node, labels={"app": "whole"}, ports=ports, command=[*TALK, "serve", name, str(PORT)])
    node3 = lab.live.lab.node("node3").addresses
    asks = [Ask(lab.clients["far"], host, 80) for host in made["spec"]["clusterIPs"]] * 12
    asks += [Ask(lab.clients["outside"], host, port["nodePort"]) for host in node3] * 12
    try:
        until(lambda: {answer.server for answer in ask_all(asks)} == {"w1", "w2"}, "both serve", 20.0)
        lab.live.delete_pod("w1")
        until(lambda: {answer.server for answer in ask_all(asks)} == {"w2"}, "the one that is left serves", 5.0)
        lab.live.delete_pod("w2")
        patience = lab.mode.refusal + 0.3
        until(lambda: {answer.error for answer in ask_all(asks, patience)} == {"refused"}, "clients are refused", 5.0)
    finally:
        for name in ("w1", "w2"):
            lab.live.ask_to_delete(name)
        lab.live.api(lambda api: api.delete(SERVICES, "whole", NAMESPACE))
