"""Ports of nodes that lead to one pod, met with real packets: ExternalPods and debug ports in a lab."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podnet.client.errors import ApiError
from podnet.objects.kinds import DEBUGPORTS, EXTERNALPODS, PODS, SERVICES
from podnet.objects.leases import EXTERNAL_ANNOTATION
from tests.lab.labs import NAMESPACE, PODNET, Place, needs_root, run, until
from tests.lab.service_asks import Ask, ask_all, told
from tests.lab.service_world import OTHER_PORT, PORT, TALK, World, world

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("leases"), pytest.mark.timeout(180)]

NODES = ("node1", "node2")
PORTS = [{"name": "rpc", "containerPort": PORT}, {"name": "rpc-udp", "containerPort": PORT, "protocol": "UDP"}]


@pytest.fixture(scope="module")
def there() -> Iterator[World]:
    with world("leases") as made:
        document = {
            "metadata": {"name": "registry", "namespace": NAMESPACE},
            "spec": {"selector": {"app": "rpc"}, "ports": PORTS},
        }
        made.live.api(lambda api: api.create(EXTERNALPODS, document, into=dict))
        for node in NODES:
            start(made, f"rpc-{node}", node)
        yield made


def start(there: World, name: str, node: str) -> Place:
    command = [*TALK, "serve", name, str(PORT)]
    made = there.live.pod(name, node, labels={"app": "rpc"}, command=command)
    direct = [Ask(there.clients["near"], made.addresses[0], PORT)]
    until(lambda: ask_all(direct)[0].server == name, f"{name} listens")
    return made


def external(there: World, pod: str) -> dict[str, dict[str, Any]]:
    """What the pod's annotation says, by name."""
    found = there.live.api(lambda api: api.get(PODS, pod, NAMESPACE, into=dict))
    return {each["name"]: each for each in json.loads(found["metadata"]["annotations"][EXTERNAL_ANNOTATION])}


def heard(there: World, client: str, host: str, port: int, protocol: str = "tcp") -> str:
    return told(ask_all([Ask(there.clients[client], host, port, protocol)]), there.owner)


def variables(place: Place) -> dict[str, str]:
    pairs = Path(f"/proc/{place.pids[-1]}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def test_each_pod_is_told_where_it_is_reached(there: World) -> None:
    taken = set()
    for number, node in enumerate(NODES, 1):
        given = external(there, f"rpc-{node}")
        found = variables(there.live.place(f"rpc-{node}"))
        for name, each in given.items():
            assert each["address"] == f"192.168.77.{10 + number}" == there.live.lab.node(node).addresses[0]
            key = f"PODNET_EXTERNAL_{name.replace('-', '_').upper()}"
            assert (found[f"{key}_ADDRESS"], found[f"{key}_PORT"]) == (each["address"], str(each["port"]))
            taken.add(each["port"])
    assert len(taken) == 4
    assert all(30000 <= port <= 32767 for port in taken)


def test_clients_reach_the_pod_and_it_sees_them(there: World) -> None:
    for node in NODES:
        given, own = external(there, f"rpc-{node}"), there.live.lab.node(node)
        for name, protocol in (("rpc", "tcp"), ("rpc-udp", "udp")):
            for host in own.addresses:
                for client in ("outside", "far", "node3"):
                    answer = heard(there, client, host, given[name]["port"], protocol)
                    assert answer == f"rpc-{node} from {client}", f"{client} {host} {protocol}"
            own_pod = "near" if node == "node1" else f"rpc-{node}"
            there_too = heard(there, "near", own.addresses[0], given[name]["port"], protocol)
            assert there_too == f"rpc-{node} from {'node1' if own_pod == 'near' else 'near'}"


def test_a_restart_of_agent_and_api_changes_nothing(there: World) -> None:
    before = {node: external(there, f"rpc-{node}") for node in NODES}
    with there.live.without("agent-node1", "api"):
        assert heard(there, "outside", *_at(before["node1"])) == "rpc-node1 from outside"
    assert {node: external(there, f"rpc-{node}") for node in NODES} == before
    for node in NODES:
        assert heard(there, "outside", *_at(before[node])) == f"rpc-{node} from outside"
    until(lambda: there.live.settled("node1"), "node1 settled")


def _at(given: dict[str, dict[str, Any]]) -> tuple[str, int]:
    return given["rpc"]["address"], given["rpc"]["port"]


def test_the_status_names_all_and_a_pod_that_goes_gives_back(there: World) -> None:
    start(there, "rpc-short", "node2")
    given = external(there, "rpc-short")

    def status() -> set[str]:
        found = there.live.api(lambda api: api.get(EXTERNALPODS, "registry", NAMESPACE, into=dict))
        return {row["pod"] for row in found.get("status", {}).get("pods", ()) if len(row["published"]) == 2}

    until(lambda: status() == {"rpc-node1", "rpc-node2", "rpc-short"}, "the status names all")
    with pytest.raises(ApiError, match="already allocated"):
        _take(there, given["rpc"]["port"])
    there.live.delete_pod("rpc-short")
    until(lambda: status() == {"rpc-node1", "rpc-node2"}, "the status names those that are left")
    until(lambda: heard(there, "outside", *_at(given)) != "rpc-short from outside", "it leads nowhere")
    until(lambda: _took(there, given["rpc"]["port"]), "the number is free again")


def _take(there: World, port: int) -> None:
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}
    document = {"metadata": {"name": "thief", "namespace": NAMESPACE}, "spec": spec}
    there.live.api(lambda api: api.create(SERVICES, document, into=dict))


def _took(there: World, port: int) -> bool:
    try:
        _take(there, port)
    except ApiError:
        return False
    there.live.api(lambda api: api.delete(SERVICES, "thief", NAMESPACE))
    return True


def test_a_selector_that_comes_late_and_goes(there: World) -> None:
    there.live.api(lambda api: api.patch(PODS, "a2", {"metadata": {"labels": {"app": "rpc"}}}, NAMESPACE, into=dict))
    given = until(lambda: _external(there, "a2"), "a running pod gets its ports")
    until(lambda: heard(there, "outside", *_at(given)) == "a2 from outside", "they lead to it")
    there.live.api(lambda api: api.patch(PODS, "a2", {"metadata": {"labels": {"app": None}}}, NAMESPACE, into=dict))
    until(lambda: not _external(there, "a2"), "they are withdrawn")
    until(lambda: heard(there, "outside", *_at(given)) == "refused", "they lead nowhere")


def _external(there: World, pod: str) -> dict[str, dict[str, Any]]:
    try:
        return external(there, pod)
    except KeyError:
        return {}


# -- debug ports


def leased(there: World, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(there.live.podnet("debug-port", *words, "-o", "json"))
    return found


def test_a_debug_port_leads_to_its_pod_until_it_is_released(there: World) -> None:
    tcp = leased(there, "b", str(OTHER_PORT))
    udp = leased(there, "b", str(OTHER_PORT), "--protocol", "udp")
    assert tcp["address"] == there.live.lab.node("node2").addresses[0]
    assert tcp["nodePort"] != udp["nodePort"]
    until(lambda: heard(there, "outside", tcp["address"], tcp["nodePort"]) == "b-alt from outside", "tcp leads to b")
    until(lambda: heard(there, "outside", udp["address"], udp["nodePort"], "udp") == "b-alt from outside", "and udp")
    assert {each["protocol"] for each in leased(there, "list")["leases"]} == {"TCP", "UDP"}
    again = leased(there, "b", str(OTHER_PORT), "--for", "2h")
    assert again["nodePort"] == tcp["nodePort"]
    assert 7000 < again["left"] <= 7201
    with pytest.raises(ApiError, match="already allocated"):
        _take(there, tcp["nodePort"])
    assert "no longer leads to b:9001" in there.live.podnet("debug-port", "release", "b")
    until(lambda: heard(there, "outside", tcp["address"], tcp["nodePort"]) == "refused", "it leads nowhere")
    assert there.live.podnet("debug-port", "list").strip() == "no debug ports are leased"


def test_a_debug_port_ends_with_its_time_and_with_its_pod(there: World) -> None:
    found = leased(there, "a", str(PORT), "--for", "2s")
    until(lambda: heard(there, "outside", found["address"], found["nodePort"]) == "a from outside", "it leads to a")
    began = time.monotonic()
    until(lambda: not leased(there, "list")["leases"], "it is over", 12.0, 0.2)
    assert time.monotonic() - began < 10
    there.live.pod("short", "node1")
    leased(there, "short", "80")
    there.live.delete_pod("short")
    gone = there.live.api(lambda api: api.list(DEBUGPORTS, into=dict))
    until(lambda: not leased(there, "list")["leases"], f"the pod's lease ends: {gone}", 12.0, 0.2)


def test_what_cannot_be_leased_is_a_sentence(there: World) -> None:
    assert "no such pod" in _refused(there, "nobody", "80")
    assert "no time" in _refused(there, "a", "80", "--for", "soon")
    assert "has no such lease" in _refused(there, "release", "a")


def _refused(there: World, *words: str) -> str:
    line = " ".join((PODNET, "debug-port", *words, "--lab", there.live.name, "2>&1"))
    return run("sh", "-c", line, code=2)
