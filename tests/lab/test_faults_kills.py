"""Any one process of the cluster dies, or is replaced, or the API is away: pods that run notice nothing.

The measure is podnet's own `podnet check --watch` at 1,000 probes a second over every pair of nine pods and three
nodes: datagrams from new and old ports, and TCP connections that are held all the time. It must lose none.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podnet.lab import process
from podnet.lab.process import Running
from tests.lab.labs import LiveLab, Place, live_lab, needs_root, until, watching
from tests.lab.runtime import Runtime

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("kills")]

NODES = ("node1", "node2", "node3")
PROGRAMS = ("api", "supervisor", *(f"{what}-{node}" for what in ("agent", "kubelet", "proxy") for node in NODES))
SUPERVISED = tuple(program for program in PROGRAMS if program != "supervisor")
TRY_AGAIN, UNAVAILABLE = 11, 50


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("kills", "--nodes", "3") as made:
        yield made


def connected(live: LiveLab, pod: Place) -> None:
    """A pod of another node gets an answer of it, with its own address as the client's."""
    other = next(each for each in live.places() if each.node != pod.node)
    request = (
        f"import socket;s=socket.create_connection(('{pod.addresses[0]}',8080),2);s.send(b'GET / HTTP/1.0\\r\\n\\r\\n')"
    )
    seen = live.run(other.netns, ["python3", "-I", "-S", "-c", f"{request};print(s.recv(4096).decode())"])
    assert f'"client": "{other.addresses[0]}"' in seen


def a_pod_can_come_and_go(live: LiveLab, name: str, node: str) -> None:
    connected(live, live.pod(name, node))
    live.delete_pod(name)


def test_the_measure_notices_a_tenth_of_a_second(live: LiveLab) -> None:
    """What loses nothing below is worth nothing unless this loses something."""
    with watching(live) as watched:
        with live.frozen("agent-node1"):
            live.run("node1", ["sh", "-ec", "ip link set podnet.1 down; sleep 0.1"])
        until(lambda: live.settled("node1"), "the agent repaired it")
    found = watched[0].document
    assert not found["ok"]
    assert 10 < found["lost"] < 1000
    assert all(path(live, burst) == {"node1"} for burst in found["bursts"]), found["bursts"]


def path(live: LiveLab, burst: dict[str, Any]) -> set[str]:
    """Which of the two ends' nodes is node1."""
    nodes = {each.name: each.node for each in live.places()} | {node: node for node in NODES}
    return {nodes[burst[end].rpartition("/")[2]] for end in ("from", "to")} & {"node1"}


def test_killing_any_one_process_loses_nothing(live: LiveLab) -> None:
    before, killed = live.places(), []
    with watching(live) as watched:
        for program in SUPERVISED:
            pid = live.kill(program)
            killed.append((round(time.time(), 3), program))
            live.back(program, pid)
            a_pod_can_come_and_go(live, f"after-{program}", program.rpartition("-")[2] if "-" in program else "node1")
    assert watched[0].document["streams"] > 50
    watched[0].lossless(f"killed: {killed}")
    assert live.places() == before


def test_killing_the_parent_of_a_program_loses_nothing(live: LiveLab) -> None:
    """A program ends with its shim, and its supervisor starts both again."""
    with watching(live) as watched:
        for program in ("agent-node1", "kubelet-node2", "api"):
            found = process.look(live.lab.program(program))
            assert isinstance(found, Running)
            os.kill(found.shim, signal.SIGKILL)
            live.back(program, found.pid)
        a_pod_can_come_and_go(live, "after-shims", "node1")
    watched[0].lossless()


def test_killing_the_supervisor_stops_nothing(live: LiveLab) -> None:
    """Nobody watches the watchman; `podnet lab up` puts a new one there, who takes over what runs."""
    pids = {program: live.pid(program) for program in SUPERVISED}
    with watching(live) as watched:
        pid = live.kill("supervisor")
        until(lambda: not live.pid("supervisor"), "the supervisor is gone")
        a_pod_can_come_and_go(live, "without-supervisor", "node2")
        live.up()
        live.back("supervisor", pid)
        assert {program: live.pid(program) for program in SUPERVISED} == pids
        agent = live.kill("agent-node2")
        live.back("agent-node2", agent)
    watched[0].lossless()


def test_an_agent_that_is_told_to_end_withdraws_from_its_runtime(live: LiveLab, tmp_path: Path) -> None:
    """An upgrade: no pod is started meanwhile, the node says so, and what runs goes on."""
    runtime = Runtime(live, "node1", tmp_path)
    conflist = runtime.conflist.read_bytes()
    with watching(live) as watched:
        with live.without("agent-node1", number=signal.SIGTERM):
            assert not runtime.conflist.exists()
            until(lambda: not node_ready(live, "node1"), "the node is not ready")
            with runtime.pod("early"):
                answer = runtime.call("ADD", "early")
            assert (answer.exit, answer.code) == (1, TRY_AGAIN)
            assert runtime.call("STATUS").code == UNAVAILABLE
        assert runtime.conflist.read_bytes() == conflist
        until(lambda: node_ready(live, "node1"), "the node is ready")
        assert runtime.call("STATUS").exit == 0
        a_pod_can_come_and_go(live, "after-upgrade", "node1")
    watched[0].lossless()


def node_ready(live: LiveLab, name: str) -> bool:
    conditions = live.nodes()[name]["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def test_the_api_may_be_away_while_an_agent_starts(live: LiveLab, tmp_path: Path) -> None:
    """Ten seconds without API. An agent that has not heard of the cluster touches nothing, and takes no pods."""
    held, before = live.dump("node1"), live.places()
    runtime, other = Runtime(live, "node1", tmp_path), Runtime(live, "node2", tmp_path)
    with watching(live) as watched:
        with live.without("api"):
            end = time.monotonic() + 10.0
            live.kill("agent-node1")
            until(lambda: not live.pid("agent-node1"), "the agent ended")
            live.start("agent-node1")
            until(lambda: "not heard yet" in runtime.call("STATUS").words, "the agent has looked")
            with runtime.pod("early"), other.pod("local"):
                answer = runtime.call("ADD", "early")
                assert (answer.exit, answer.code) == (1, TRY_AGAIN)
                assert "the API server was not heard yet" in answer.words
                assert live.ask("node1", "status")["reason"] == "the API server was not heard yet"
                assert other.call("ADD", "local").exit == 0, "an agent that knows the cluster needs no API for a pod"
                assert other.call("DEL", "local").exit == 0
                assert runtime.call("DEL", "early").exit == 0
            assert not runtime.conflist.exists()
            while time.monotonic() < end:
                assert live.dump("node1") == held
        until(lambda: all(map(live.settled, NODES)), "the nodes are as they should be", 10)
        assert live.dump("node1") == held
        a_pod_can_come_and_go(live, "after-api", "node1")
    watched[0].lossless()
    assert live.places() == before
