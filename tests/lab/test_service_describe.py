"""`podnet service describe` in a live lab: it says what is there, while connections are open, refused and contested."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from podnet.objects.kinds import ENDPOINTSLICES, EVENTS, SERVICES
from podnet.objects.services import SERVICE_NAME
from tests.lab.labs import LiveLab, live_lab, needs_root, until

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("lab-describe"), pytest.mark.timeout(180)]

CONNECT = """\
import socket, sys
address, port, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held = [socket.create_connection((address, port), 5) for _ in range(times)]
print("connected", flush=True)
sys.stdin.read()
"""
CLIENT = "demo/web-1"


FLOWS = 20
"""Connections that surely do not all begin with the same endpoint."""


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("describe", "--nodes", "2", "--dual-stack") as made:
        yield made


def make(live: LiveLab, name: str, annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A Service of both families at port 80 in front of the demo pods, unless told otherwise."""
    whole = {
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": 8080}],
        "ipFamilyPolicy": "RequireDualStack",
        **spec,
    }
    document = {"metadata": {"name": name, "namespace": "demo", "annotations": annotations or {}}, "spec": whole}
    made: dict[str, Any] = live.api(lambda api: api.create(SERVICES, document, into=dict))
    return made


def described(live: LiveLab, name: str, *words: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        live.podnet("service", "describe", name, "-n", "demo", "-o", "json", *words, code=code)
    )
    return found


def ready(live: LiveLab, name: str, number: int) -> None:
    """What the node decided, and what its kernel holds of it, both families."""

    def there() -> bool:
        return [(each["ready"], each["held"]) for each in shown(live, name, "")] == [(number, True)]

    until(there, f"{name} has {number} endpoints", 15, 0.1)


def shown(live: LiveLab, name: str, brief: str = "&brief=1") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = live.ask("node1", f"services?namespace=demo&name={name}{brief}")["services"]
    return [each for each in found if each["ports"]]


def lives(value: dict[str, Any], v6: bool = False) -> dict[str, Any]:
    """What the kernel adds, of a Service's one port."""
    (found,) = (each["live"] for each in value["service"]["ports"] if each["port"]["v6"] == v6)
    return dict(found)


class Held:
    """Connections of a pod that stay open."""

    def __init__(self, live: LiveLab, address: str, times: int) -> None:
        words = [sys.executable, "-I", "-S", "-c", CONNECT, address, "80", str(times)]
        self._process = subprocess.Popen(
            ["nsenter", f"--net={live.netns(CLIENT)}", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> None:
        assert self._process.stdout
        assert self._process.stdout.readline() == "connected\n"

    def __exit__(self, *_: object) -> None:
        self._process.communicate("")


@pytest.mark.parametrize("v6", [False, True])
def test_connections_and_affinity_are_what_they_are(live: LiveLab, v6: bool) -> None:
    name = f"sticky-{6 if v6 else 4}"
    address = make(live, name, sessionAffinity="ClientIP")["spec"]["clusterIPs"][v6]
    ready(live, name, 9)
    assert lives(described(live, name, "--from", CLIENT), v6)["affinity"] == {}
    with Held(live, address, 3):
        value = described(live, name, "--from", CLIENT)
    known = lives(value, v6)
    (endpoint,) = known["affinity"].values()
    assert known["connections"] == {endpoint: 3}
    (client,) = known["affinity"]
    assert certain(value, address) == endpoint
    assert v6 or client in live.place("web-1").addresses
    assert endpoint in {share["endpoint"]["address"] for each in value["meetings"] for share in each["shares"]}
    assert value["service"]["held"] is True
    text = live.podnet("service", "describe", name, "-n", "demo", "--from", CLIENT)
    assert client in text
    assert "affinity 10800 s" in text


@pytest.mark.parametrize("v6", [False, True])
def test_where_the_hash_of_a_client_leads(live: LiveLab, v6: bool) -> None:
    name = f"hashed-{6 if v6 else 4}"
    address = make(live, name, {"podnet.dev/algorithm": "source-hash"})["spec"]["clusterIPs"][v6]
    ready(live, name, 9)
    with Held(live, address, 3):
        value = described(live, name, "--from", CLIENT)
    assert lives(value, v6)["connections"] == {certain(value, address): 3}


def certain(value: dict[str, Any], address: str) -> str:
    """The endpoint that has everything at an address."""
    (meeting,) = (each for each in value["meetings"] if each["address"] == address)
    assert sorted(share["percent"] for share in meeting["shares"]) == [0] * (len(meeting["shares"]) - 1) + [100]
    return str(next(share["endpoint"]["address"] for share in meeting["shares"] if share["percent"]))


def test_an_endpoint_that_refuses_is_shown_in_events_and_in_metrics(live: LiveLab) -> None:
    made = make(live, "flaky", {"podnet.dev/retry": "true"}, selector=None, ports=[{"port": 80}])
    good, bad = (live.place(name).addresses[0] for name in ("web-2", "web-3"))
    for name, address, port in (("good", good, 8080), ("bad", bad, 9)):
        slice_ = {
            "metadata": {"name": f"flaky-{name}", "namespace": "demo", "labels": {SERVICE_NAME: "flaky"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": [{"name": "", "port": port, "protocol": "TCP"}],
        }
        live.api(lambda api, slice_=slice_: api.create(ENDPOINTSLICES, slice_, into=dict))  # type: ignore[misc]
    ready(live, "flaky", 2)
    node = live.place("web-1").node
    until(lambda: bool(live.ask(node, "status")["ready"]), "the node is ready", 10)
    with Held(live, made["spec"]["clusterIPs"][0], FLOWS):
        until(
            lambda: lives(described(live, "flaky", "--from", CLIENT))["ejected"] == [bad], "the bad one is ejected", 20
        )
        value = described(live, "flaky", "--from", CLIENT)
        assert lives(value)["connections"] == {good: FLOWS}
        shares = {each["endpoint"]["address"]: each["percent"] for each in value["meetings"][0]["shares"]}
        assert shares == {good: 100, bad: 0}
        assert "ejected, retry" in live.podnet("service", "describe", "flaky", "-n", "demo", "--from", CLIENT)
        label = '{service="demo/flaky"}'
        until(lambda: live.metric(node, f"podnet_service_ejections_total{label}") >= 1, "it is counted", 5)
        assert live.metric(node, f"podnet_service_ejected{label}") == 1
        assert f"{node}: ejected from Service demo/flaky: {bad}" in live.podnet("status").splitlines()
        (told,) = (each for each in json.loads(live.podnet("status", "-o", "json"))["nodes"] if each["node"] == node)
        assert told["ejected"] == {"demo/flaky": [bad]}
    (event,) = events(live, "EndpointEjected", 5)
    assert event["involvedObject"]["name"] == "flaky"
    assert event["involvedObject"]["uid"] == made["metadata"]["uid"]
    assert bad in event["message"]
    until(lambda: live.metric(node, f"podnet_service_ejected{label}") == 0, "it is given another chance", 20)


def events(live: LiveLab, reason: str, seconds: float) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        every = live.api(lambda api: api.list(EVENTS, "demo", into=dict))
        return [each for each in every if each["reason"] == reason]

    until(lambda: bool(found()), f"there is an Event {reason}", seconds)
    return found()


def test_metrics_have_kube_proxys_names(live: LiveLab) -> None:
    def metric(name: str) -> float:
        page = live.run("node1", "curl -s http://127.0.0.1:10249/metrics")
        found = [line.rsplit(" ", 1)[1] for line in page.splitlines() if line.startswith(f"kubeproxy_{name}")]
        return sum(map(float, found))

    known = ("service_changes_total", "endpoint_changes_total", "last_timestamp_seconds", "duration_seconds_count")
    before = {name: metric(f"sync_proxy_rules_{name}") for name in known}
    programmed = metric("network_programming_duration_seconds_count")
    assert metric("sync_proxy_rules_no_local_endpoints_total") == 0
    away = next(pod for n in range(1, 10) if (pod := live.place(f"web-{n}")).node != "node1")
    make(live, "local", selector=None, internalTrafficPolicy="Local", ipFamilyPolicy="SingleStack")
    slice_ = {
        "metadata": {
            "name": "local-1",
            "namespace": "demo",
            "labels": {SERVICE_NAME: "local"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2024-01-01T00:00:00Z"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [away.addresses[0]], "nodeName": away.node, "conditions": {"ready": True}}],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }
    live.api(lambda api: api.create(ENDPOINTSLICES, slice_, into=dict))
    until(lambda: metric("sync_proxy_rules_no_local_endpoints_total") == 1, "it is counted as without an endpoint", 5)
    until(lambda: metric("network_programming_duration_seconds_count") > programmed, "the change is timed", 5)
    assert all(metric(f"sync_proxy_rules_{name}") > before[name] for name in known)
    assert metric("sync_proxy_rules_nftables_sync_failures_total") == 0
    dropped = described(live, "local", "--node", "node1")["meetings"][0]
    assert (dropped["outcome"], "internalTrafficPolicy is Local" in dropped["why"]) == ("dropped", True)


def test_what_two_services_want_is_said_and_both_go_on(live: LiveLab) -> None:
    make(live, "first", externalIPs=["203.0.113.7"])
    ready(live, "first", 9)
    make(live, "second", externalIPs=["203.0.113.7", "203.0.113.8"])
    ready(live, "second", 9)
    first = described(live, "first")
    until(lambda: described(live, "second", code=1)["service"]["held"] is True, "the second is in the kernel", 5)
    second = described(live, "second", code=1)
    assert {each["address"] for each in first["meetings"]} >= {"203.0.113.7"}
    outer = {each["address"] for each in second["meetings"] if each["scope"] == "external"}
    assert outer == {"203.0.113.8"}
    assert [each["reason"] for each in second["service"]["problems"]] == ["FrontendTaken"]
    assert live.ask("node1", "status")["ready"] is True
    (event,) = events(live, "FrontendTaken", 20)
    assert event["involvedObject"]["name"] == "second"
    live.api(lambda api: api.delete(SERVICES, "first", "demo"))
    until(
        lambda: "203.0.113.7" in {each["address"] for each in described(live, "second")["meetings"]},
        "the second has it now",
        5,
    )
