"""Who gets the next connection, met with real packets: the algorithms of Services, and policy Local without a hole."""

from __future__ import annotations

import json
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest

from podnet.network.proxy.algorithms import LEAST, ROUND_ROBIN, SOURCE_HASH
from podnet.network.proxy.service_ports import ALGORITHM_ANNOTATION, FALLBACK_ANNOTATION
from podnet.objects.kinds import SERVICES
from tests.lab.labs import NAMESPACE, needs_root, until
from tests.lab.service_asks import Ask, ask_all, told
from tests.lab.service_world import SERVERS, TALK, Endpoint, Service, World, both, world

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("algorithms"), pytest.mark.timeout(240)]

FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def there() -> Iterator[World]:
    with world("algorithms") as made:
        yield made


def annotate(there: World, service: str, **annotations: str | None) -> None:
    names = {"algorithm": ALGORITHM_ANNOTATION, "fallback": FALLBACK_ANNOTATION}
    change = {"metadata": {"annotations": {names[name]: value for name, value in annotations.items()}}}
    there.live.api(lambda api: api.patch(SERVICES, service, change, NAMESPACE, into=dict))
    there.settle()


def servers(there: World, client: str, host: str, port: int = 80, times: int = 60) -> list[str]:
    """Who answers, one after the other."""
    ask = Ask(there.clients[client], host, port)
    return [answer.server or answer.error for _ in range(times) for answer in ask_all([ask])]


@FAMILIES
def test_round_robin_takes_turns(there: World, v6: bool) -> None:
    name = f"turns{6 if v6 else 4}"
    service = there.service(name, *SERVERS, type="NodePort")
    annotate(there, name, algorithm=ROUND_ROBIN)
    heard = servers(there, "near", service.cluster(v6))
    assert set(heard[:3]) == set(SERVERS)
    assert heard == heard[:3] * 20, "always in the same order"
    outside = servers(there, "outside", there.live.lab.node("node3").addresses[v6], service.node_port, 30)
    assert outside == outside[:3] * 10
    there.endpoints(name, "a", "b")
    assert Counter(servers(there, "near", service.cluster(v6), times=20)) == {"a": 10, "b": 10}


@FAMILIES
def test_a_client_stays_with_its_hash_while_others_come_and_go(there: World, v6: bool) -> None:
    name = f"hash{6 if v6 else 4}"
    service = there.service(name, *SERVERS, type="LoadBalancer")
    annotate(there, name, algorithm=SOURCE_HASH)
    clients = [*there.pods, "node1", "node2", "node3"]

    def choices() -> dict[str, str]:
        found = {}
        for client in clients:
            (found[client],) = set(servers(there, client, service.cluster(v6), times=8))
        return found

    before = choices()
    there.endpoints(name, "a", "b")
    without = choices()
    assert all(without[client] == server for client, server in before.items() if server != "a2")
    assert "a2" not in without.values()
    there.endpoints(name, *SERVERS)
    assert choices() == before, "who comes back has its clients back"
    for node in there.live.lab.nodes:
        (heard,) = set(servers(there, f"outside-{node.number}", service.balancer(v6), times=8))
        assert heard == servers(there, "outside-1", service.balancer(v6), times=1)[0], "all nodes choose alike"


@FAMILIES
@pytest.mark.parametrize("algorithm", [SOURCE_HASH, ROUND_ROBIN])
def test_policy_local_and_affinity_have_lanes_of_their_own(there: World, v6: bool, algorithm: str) -> None:
    """Those outside under policy Local are led by other chains, and so is who is new under affinity."""
    ending = f"{algorithm[0]}{6 if v6 else 4}"
    local = there.service(f"local-{ending}", *SERVERS, type="NodePort", externalTrafficPolicy="Local")
    sticky = there.service(f"sticky-{ending}", *SERVERS, sessionAffinity="ClientIP")
    for service in (local, sticky):
        annotate(there, service.name, algorithm=algorithm)
    node1 = there.live.lab.node("node1").addresses[v6]
    for client in ("outside", "stranger"):
        heard = servers(there, client, node1, local.node_port, 20)
        assert set(heard) <= {"a", "a2"}
        assert Counter(heard)[heard[0]] == (20 if algorithm == SOURCE_HASH else 10)
    for client in ("near", "far"):
        assert len(set(servers(there, client, sticky.cluster(v6), times=10))) == 1
    if algorithm == ROUND_ROBIN:
        new = [servers(there, client, sticky.cluster(v6), times=1)[0] for client in ("a", "a2", "node1")]
        assert len({*new, servers(there, "near", sticky.cluster(v6), times=1)[0]}) > 1, "those who are new take turns"


@contextmanager
def held(there: World, client: str, service: Service, count: int) -> Iterator[None]:
    """So many connections that stay."""
    with ExitStack() as stack:
        for _ in range(count):
            made = stack.enter_context(there.clients[client].socket("tcp", False))
            made.setblocking(True)
            made.settimeout(5)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            made.connect((service.cluster(False), 80))
            assert made.recv(100)
        yield


def test_least_connections_favours_who_has_few(there: World) -> None:
    service = there.service("least", "a")
    annotate(there, "least", algorithm=LEAST)
    with held(there, "near", service, 60):
        there.endpoints("least", "a", "b")

        def favoured() -> Counter[str]:
            asks = [Ask(there.clients["near"], service.cluster(False), 80)] * 200
            return Counter(answer.server for answer in ask_all(asks))

        until(lambda: favoured()["b"] > 160, "b gets most of it", 45.0, 0.5)
        far = Counter(servers(there, "far", service.cluster(False), times=100))
        assert 25 < far["a"] < 75, "another node has no connections, so it has no reason"
    until(lambda: 60 < favoured()["a"] < 140, "when they are over both are alike", 45.0, 0.5)


def test_an_unknown_algorithm_is_reported_and_everything_served(there: World) -> None:
    service = there.service("wrong", *SERVERS)
    annotate(there, "wrong", algorithm="best")
    assert set(servers(there, "near", service.cluster(False))) == set(SERVERS)
    found = there.live.ask("node1", "status")["problems"]
    assert [each["reason"] for each in found if each["object"] == f"Service/{NAMESPACE}/wrong"] == ["NoSuchAlgorithm"]


# -- Local without a hole


def heard(there: World, client: str, host: str, port: int) -> str:
    return told(ask_all([Ask(there.clients[client], host, port)]), there.owner)


@FAMILIES
def test_local_falls_back_while_nothing_is_here(there: World, v6: bool) -> None:
    name = f"local{6 if v6 else 4}"
    service = there.service(name, "a", "b", type="LoadBalancer", externalTrafficPolicy="Local")
    there.settle()
    places = (there.live.lab.node("node1").addresses[v6], service.node_port), (service.balancer(v6), 80)
    for host, port in places:
        assert heard(there, "outside-1", host, port) == "a from outside"
    there.endpoints(name, "b")
    for host, port in places:
        assert heard(there, "outside-1", host, port) == "lost"
    annotate(there, name, fallback="true")
    for host, port in places:
        assert heard(there, "outside-1", host, port) == "b from node1", "the price: whom it sees"
    there.endpoints(name, Endpoint("a", ready=False, terminating=True), "b")
    for host, port in places:
        assert heard(there, "outside-1", host, port) == "b from node1", "who leaves may be gone before it is known"
    there.endpoints(name, "a", "b")
    for host, port in places:  # that it is masqueraded no longer is the second transaction of the change
        serving = partial(heard, there, "outside-1", host, port)
        until(lambda serving=serving: serving() == "a from outside", "one is ready here again", 1.0)  # type: ignore[misc]
        assert serving() == "a from outside"


def test_a_roll_out_of_the_only_local_pod_loses_nothing(there: World) -> None:
    service = there.service(
        "rolled", "a", "b", type="NodePort", externalTrafficPolicy="Local", ports=both(("web", 80))[:1]
    )
    annotate(there, "rolled", fallback="true")
    node1 = there.live.lab.node("node1").addresses[0]
    netns = there.clients["outside"].netns
    words = ["nsenter", f"--net={netns}", *TALK, "load", node1, str(service.node_port)]
    load = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(5):
            there.endpoints("rolled", Endpoint("a", ready=False, terminating=True), "b")
            there.endpoints("rolled", "b")
            there.endpoints("rolled", "a", "b")
        found: dict[str, Any] = json.loads(load.communicate("stop\n", timeout=10)[0])
    finally:
        load.kill()
        load.communicate()
    assert found["errors"] == []
    assert set(found["answers"]) == {"a", "b"}
    assert found["slowest"] < 0.9, "nobody had to say it twice"
