"""Retries in a live lab: whom a refusal reaches, how soon, and that nobody but those who asked for it waits.

The pods of the lab answer at 8080; at port 9 they refuse. The addresses of nodes stand for pods on the host's network.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from podnet.objects.kinds import ENDPOINTSLICES, SERVICEROUTES, SERVICES
from podnet.objects.services import SERVICE_NAME
from tests.lab.labs import LiveLab, live_lab, needs_root, until

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("lab-retries"), pytest.mark.timeout(180)]

TRY = """\
import json, socket, sys, time
outcomes = []
for _ in range(int(sys.argv[3])):
    start = time.monotonic()
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 8).close()
        outcome = "connected"
    except OSError as error:
        outcome = type(error).__name__
    outcomes.append((outcome, time.monotonic() - start))
print(json.dumps(outcomes))
"""
RETRY = {"podnet.dev/retry": "true"}
CLIENT = "demo/web-1"
REFUSING = 9
AT_ONCE, SOON = 0.5, 3.0


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("retries", "--nodes", "2", "--dual-stack") as made:
        yield made


def tried(live: LiveLab, place: str, address: str, port: int = 80, times: int = 1) -> list[tuple[str, float]]:
    found = json.loads(live.run(place, [sys.executable, "-I", "-S", "-c", TRY, address, str(port), str(times)]))
    return [(outcome, seconds) for outcome, seconds in found]


def make(live: LiveLab, name: str, target: int, annotations: dict[str, str] | None = None, **more: Any) -> list[str]:
    """A Service of both families in front of the demo pods, at this port of theirs; its cluster addresses."""
    spec = {
        "type": "NodePort",
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": target}],
        "ipFamilyPolicy": "RequireDualStack",
        **more,
    }
    document = {"metadata": {"name": name, "namespace": "demo", "annotations": annotations or {}}, "spec": spec}
    made: dict[str, Any] = live.api(lambda api: api.create(SERVICES, document, into=dict))
    return [*made["spec"]["clusterIPs"], str(made["spec"]["ports"][0].get("nodePort", ""))]


def led(live: LiveLab, name: str, number: int) -> None:
    """Wait until a Service has so many endpoints on both nodes."""

    def ready() -> bool:
        shown = [live.ask(node, f"services?namespace=demo&name={name}")["services"] for node in ("node1", "node2")]
        return all(each and each[0]["held"] and each[0]["ready"] == number for each in shown)

    until(ready, f"{name} has {number} endpoints", 15)


@pytest.fixture(scope="module")
def dead(live: LiveLab) -> dict[str, list[str]]:
    """Services of which every endpoint refuses, with and without retries."""
    made = {"dead": make(live, "dead", REFUSING, RETRY), "dead0": make(live, "dead0", REFUSING)}
    for name in made:
        led(live, name, 9)
    return made


@pytest.mark.parametrize("v6", [False, True])
def test_a_service_without_retries_refuses_at_once_beside_one_with(
    live: LiveLab, dead: dict[str, list[str]], v6: bool
) -> None:
    node = ["192.168.77.11", "fd77::11"][v6]
    ((said, seconds),) = tried(live, CLIENT, dead["dead"][v6])
    assert said == "ConnectionRefusedError"
    assert seconds < SOON, "the last attempt's refusal is for the client"
    for place, address, port in ((CLIENT, dead["dead0"][v6], 80), (CLIENT, node, int(dead["dead0"][2]))):
        for said, seconds in tried(live, place, address, port, 4):
            assert (said, seconds < AT_ONCE) == ("ConnectionRefusedError", True), (address, seconds)


def test_a_dead_port_ejects_no_pod_from_a_service_at_another(live: LiveLab, dead: dict[str, list[str]]) -> None:
    alive = make(live, "alive", 8080, RETRY)
    led(live, "alive", 9)
    assert tried(live, CLIENT, dead["dead"][0])[0][0] == "ConnectionRefusedError"
    node = live.place("web-1").node
    until(lambda: "demo/dead" in live.ask(node, "status")["ejected"], "pods are ejected", 3)
    assert "demo/alive" not in live.ask(node, "status")["ejected"]
    for said, seconds in tried(live, CLIENT, alive[0], times=20):
        assert (said, seconds < AT_ONCE) == ("connected", True)


def test_at_most_half_of_the_endpoints_stay_ejected(live: LiveLab, dead: dict[str, list[str]]) -> None:
    node = live.place("web-1").node

    def ejected() -> int:
        return sum("." in each for each in live.ask(node, "status")["ejected"].get("demo/dead", ()))

    def kernel() -> int:
        return live.run(node, "nft list set ip podnet-services ejected").count("expires")

    with ThreadPoolExecutor(8) as clients:
        outcomes = [clients.submit(tried, live, CLIENT, dead["dead"][0]) for _ in range(8)]
        assert all(said == "ConnectionRefusedError" for each in outcomes for said, _ in each.result())
    until(lambda: ejected() == kernel() == 4, "half of nine, rounded down, are ejected", 5, 0.1)


def test_clients_of_a_segment_hear_the_refusal(live: LiveLab, dead: dict[str, list[str]]) -> None:
    (address, *_) = live.place("web-1").addresses
    document = {
        "metadata": {"name": "dead", "namespace": "demo"},
        "spec": {"service": "dead", "segments": [{"from": [address], "backends": [{"selector": {"app": "web"}}]}]},
    }
    live.api(lambda api: api.create(SERVICEROUTES, document, into=dict))
    try:
        until(lambda: tried(live, CLIENT, dead["dead"][0])[0][1] < AT_ONCE, "the segment has no retries", 15)
        for said, seconds in tried(live, CLIENT, dead["dead"][0], times=4):
            assert (said, seconds < AT_ONCE) == ("ConnectionRefusedError", True)
    finally:
        live.api(lambda api: api.delete(SERVICEROUTES, "dead", "demo"))


def test_endpoints_on_the_nodes_own_network_are_retried_too(live: LiveLab) -> None:
    """One good pod, and this node itself, which refuses: to a pod beside it and to itself."""
    address = make(live, "hosts", 80, RETRY, selector=None, ipFamilyPolicy="SingleStack")[0]
    good, node = live.place("web-2").addresses[0], live.place("web-1").node
    bad = {"node1": "192.168.77.11", "node2": "192.168.77.12"}[node]
    for name, endpoint, port in (("good", good, 8080), ("bad", bad, REFUSING)):
        slice_ = {
            "metadata": {"name": f"hosts-{name}", "namespace": "demo", "labels": {SERVICE_NAME: "hosts"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [endpoint], "conditions": {"ready": True}}],
            "ports": [{"name": "", "port": port, "protocol": "TCP"}],
        }
        live.api(lambda api, slice_=slice_: api.create(ENDPOINTSLICES, slice_, into=dict))  # type: ignore[misc]
    led(live, "hosts", 2)
    for place in (CLIENT, node):
        found = tried(live, place, address, times=12)
        assert [said for said, _ in found] == ["connected"] * 12, found
        assert max(seconds for _, seconds in found) < SOON
