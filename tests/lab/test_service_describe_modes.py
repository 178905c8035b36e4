"""What `podnet service describe` says is what packets meet, in every mode: who answers, whom the server sees, what is
refused or dropped, with whom a client stays and how many connections there are.

The sentences are those of the command (its function, over what the agent answers); the packets are real ones, by TCP
and UDP, in IPv4 and IPv6, from pods, nodes and a machine outside that takes the node as its way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from podnet.cli.service import met
from podnet.network.proxy.explain import Meeting, client_at
from podnet.network.proxy.live import Live
from podnet.network.proxy.shown import ServicesShown
from podnet.objects.kinds import SERVICES
from tests.lab.labs import NAMESPACE, needs_root, until
from tests.lab.service_asks import Ask, Flow, ask_all, told
from tests.lab.service_world import HERE, OUTSIDE, Service, World, world

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("describe-modes"), pytest.mark.timeout(300)]

FLOWS = 24
"""Enough to meet both of two endpoints."""

CLIENTS = {"near": "node1", "a": "node1", "node1": "node1", "outside-1": "node1", "stranger-1": "node1", "far": "node3"}
"""Each with the node that leads its packets."""

NAMES = ("many", "none", "local", "local-there", "inner-there", "guarded")


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("sdm") as built:
        services(built)
        yield built


def services(made: World) -> None:
    balanced: dict[str, Any] = {"type": "LoadBalancer"}
    external = lambda name: [Service(name, len(made.services) + 1).external(v6) for v6 in (False, True)]  # noqa: E731
    made.service("many", "a", "b", externalIPs=external("many"), **balanced)
    made.service("none", externalIPs=external("none"), **balanced)
    made.service("local", "a", "b", externalTrafficPolicy="Local", **balanced)
    made.service("local-there", "b", externalTrafficPolicy="Local", **balanced)
    made.service("inner-there", "b", internalTrafficPolicy="Local", type="NodePort")
    ranges = [f"{address}/{128 if ':' in address else 32}" for address in OUTSIDE["outside"]]
    made.service("guarded", "a", "b", loadBalancerSourceRanges=ranges, **balanced)
    made.service("sticky", "a", "a2", "b", sessionAffinity="ClientIP", type="NodePort")


@pytest.fixture(scope="module", params=HERE)
def lab(request: pytest.FixtureRequest, made: World) -> World:
    made.proxy(mode=request.param)
    return made


@pytest.fixture(params=[False, True], ids=["IPv4", "IPv6"])
def v6(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def asked(lab: World, node: str, name: str) -> ServicesShown:
    """What the agent says."""
    answer = lab.live.ask(node, f"services?namespace={NAMESPACE}&name={name}")
    return msgspec.convert(answer, ServicesShown)


def meetings(lab: World, shown: ServicesShown, client: str, v6: bool) -> list[Meeting]:
    """What the command says to a client."""
    assert shown.mode == lab.name
    return list(met(client_at(lab.clients[client].addresses[v6], shown.surroundings), shown.services[0], shown))


def expected(lab: World, meeting: Meeting, client: str) -> str:
    """In words as answers are told."""
    if meeting.outcome != "to":
        return "refused" if meeting.outcome == "refused" else "lost"
    own = client.partition("-")[0]
    return " | ".join(
        sorted(
            f"{lab.owner(share.endpoint.address)} from {CLIENTS[client] if share.hidden else own}"
            for share in meeting.shares
            if share.percent
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_packets_meet_what_is_said(lab: World, v6: bool, name: str) -> None:
    said: dict[str, str] = {}
    asks: dict[str, list[Ask]] = {}
    shown = {node: asked(lab, node, name) for node in set(CLIENTS.values())}
    for client, node in CLIENTS.items():
        for meeting in meetings(lab, shown[node], client, v6):
            key = f"{client} to {meeting.address} {meeting.number}/{meeting.protocol}"
            said[key] = expected(lab, meeting, client)
            ask = Ask(lab.clients[client], meeting.address, meeting.number, meeting.protocol)
            asks[key] = [ask] * (FLOWS if "|" in said[key] else 1)
    answers = iter(ask_all([ask for several in asks.values() for ask in several], lab.mode.refusal + 0.3))
    heard = {key: told([next(answers) for _ in several], lab.owner) for key, several in asks.items()}
    assert heard == said
    assert len(said) >= 2 * len(CLIENTS)


def test_who_stays_and_what_is_connected(lab: World, v6: bool) -> None:
    """A client stays with one endpoint, of which the command knows, as of the connections."""
    service, client = lab.services["sticky"], lab.clients["near"]
    where = (service.cluster(v6), 80)
    flows = [Flow(Ask(client, *where)) for _ in range(3)]
    try:
        (server,) = {flow.server for flow in flows}
        endpoint, source = lab.pods[server].addresses[v6], client.addresses[v6]
        (meeting,) = (
            each
            for each in meetings(lab, asked(lab, "node1", "sticky"), "near", v6)
            if (each.scope, each.protocol) == ("cluster", "tcp")
        )
        assert {share.endpoint.address: share.percent for share in meeting.shares if share.percent} == {endpoint: 100}
        live = known(lab, v6)
        kept = live.affinity or live.affinity_at[f"[{where[0]}]:80" if v6 else f"{where[0]}:80"]
        assert endpoint in kept.values()
        assert source in kept or (lab.name == "nftables" and v6)
        assert live.connections == {endpoint: 3}
        text = lab.live.podnet("service", "describe", "sticky", "-n", NAMESPACE, "--from", source, "--node", "node1")
        assert f"in mode {lab.name}" in text
        assert "affinity 10800 s" in text
        assert "100.0%" in text
    finally:
        for flow in flows:
            flow.close()
    until(lambda: known(lab, v6).connections == {}, "no connection is left", 20)


def known(lab: World, v6: bool) -> Live:
    """Of the Service's TCP port."""
    (found,) = (
        each.live
        for each in asked(lab, "node1", "sticky").services[0].ports
        if (each.port.protocol, each.port.v6) == ("tcp", v6)
    )
    assert found is not None
    return found


def test_an_affinity_that_is_over_is_not_told(lab: World, v6: bool) -> None:
    """Though in modes iptables and nftables nobody asks the kernel's memory meanwhile."""
    if not lab.mode.expires:
        pytest.skip("there it lasts as long as what is left of connections")

    def limit(seconds: int) -> None:
        settings = {"clientIP": {"timeoutSeconds": seconds}}
        spec = {"sessionAffinityConfig": settings}
        lab.live.api(lambda api: api.patch(SERVICES, "sticky", {"spec": spec}, NAMESPACE, into=dict))
        lab.settle()

    limit(2)
    try:
        assert ask_all([Ask(lab.clients["near"], lab.services["sticky"].cluster(v6), 80)])[0].server
        assert known(lab, v6).affinity
        until(lambda: not known(lab, v6).affinity, "it is over", 10)
    finally:
        limit(10800)


def test_as_json(lab: World) -> None:
    """The mode, the frontends, and what is known, for a program."""
    words = ("service", "describe", "many", "-n", NAMESPACE, "-o", "json", "--from", f"{NAMESPACE}/near")
    value = json.loads(lab.live.podnet(*words))
    assert value["mode"] == lab.name
    (meeting,) = (
        each
        for each in value["meetings"]
        if (each["scope"], each["protocol"], ":" in each["address"]) == ("cluster", "tcp", False)
    )
    assert [round(share["percent"], 3) for share in meeting["shares"]] == [50] * 2
    turns = {"nftables": "random", "iptables": "random"}.get(lab.name, "round-robin")
    assert meeting["algorithm"] == turns
    assert meeting["timeouts"] == ([0.25, 0.5, 1, 2] if lab.name == "userspace" else [])
