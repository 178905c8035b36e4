"""The real plugin under a runtime that kills, repeats itself and asks at the wrong time: no pod is ever left half-made.

Every ADD here asks for a host port and limits, so that a whole pod has links, addresses, routes, neighbours, elements
of nft, qdiscs, flows, and a record. "Nothing is left" compares all of that with what was there before (dumps.py).
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from podnet.agent.attachments_file import NAME, read
from podnet.kernel.netns import socket_in
from tests.lab.dumps import Dump, difference, dump
from tests.lab.labs import LiveLab, live_lab, needs_root, until
from tests.lab.runtime import VERSION, Answer, Runtime

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("cni")]

NODE = "node1"
PORT = 31000
PLUGIN_ROUNDS, AGENT_ROUNDS, SWEEP = 40, 32, 0.005
UNKNOWN_CONTAINER, NETNS, TRY_AGAIN, UNAVAILABLE, NOT_APPLIED = 3, 8, 11, 50, 100
WHOLE = {
    "portMappings": [{"hostPort": PORT, "containerPort": 53, "protocol": "udp"}],
    "bandwidth": {"ingressRate": 10**7, "ingressBurst": 10**5, "egressRate": 10**7, "egressBurst": 10**5},
}
NOT_AS_MADE = "the pod's network is not as it was made"
NOTHING_VALID: dict[str, Any] = {"cni.dev/valid-attachments": []}


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("cni", "--nodes", "1", "--no-demo", "--dual-stack") as made:
        until(lambda: made.settled(NODE), "the node is as it should be")
        yield made


@pytest.fixture
def runtime(live: LiveLab, tmp_path: Path) -> Iterator[Runtime]:
    """Whatever a test does, afterwards the node is as before."""
    before = live.dump(NODE)
    made = Runtime(live, NODE, tmp_path)
    yield made
    left = leftovers(made, before)
    made.call("GC", config=NOTHING_VALID)
    assert left == []


def leftovers(runtime: Runtime, before: Dump) -> list[str]:
    """What is there that was not: in the kernel, in the agent, in its file, in the memory of connections."""
    agent, database = runtime.live.agent(NODE), f"{runtime.live.lab.node(NODE).state_dir}/{NAME}"
    with suppress(AssertionError):  # DEL answers before the last of a record goes
        until(lambda: not rows(database), "the records are gone", 1)
    flows = [line for line in runtime.live.run(NODE, "conntrack -L -p udp").splitlines() if "=10.244." in line]
    known = [str(each) for each in agent.ask("attachments")["attachments"]]
    return [*difference(before, runtime.live.dump(NODE)), *map(str, rows(database)), *flows, *known]


def rows(database: str) -> list[Any]:
    """Records and their addresses."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return [*db.execute("SELECT * FROM attachment"), *db.execute("SELECT * FROM address")]


def recorded(runtime: Runtime) -> list[tuple[str, ...]]:
    """The addresses of each record on disk."""
    return [record.addresses for record in read(runtime.live.lab.node(NODE).state_dir)[0]]


def clean(runtime: Runtime, pod: str, by: str) -> None:
    """One DEL, or one GC that has no valid attachments, and no more than that."""
    answer = runtime.call("DEL", pod) if by == "DEL" else runtime.call("GC", config=NOTHING_VALID)
    assert answer.exit == 0, answer


def send_to_the_host_port(runtime: Runtime) -> None:
    """A flow that the node translates, if the pod is there."""
    address = runtime.live.lab.node(NODE).addresses[0]
    runtime.live.run("fabric", ["bash", "-c", f"echo > /dev/udp/{address}/{PORT}"])


def usable(runtime: Runtime, pod: str, addresses: tuple[str, ...]) -> None:
    """Another container can have the very addresses."""
    answer = runtime.add(pod, ips=addresses)
    assert answer.exit == 0, answer
    assert answer.addresses == tuple(each.partition("/")[0] for each in addresses)
    assert runtime.call("DEL", pod).exit == 0


@pytest.mark.parametrize("by", ["DEL", "GC"])
def test_the_plugin_is_killed_in_the_midst_of_an_add(runtime: Runtime, by: str) -> None:
    before, made = runtime.live.dump(NODE), 0
    for turn in range(PLUGIN_ROUNDS):
        with runtime.pod(f"p{turn}"):
            call = runtime.start("ADD", f"p{turn}", {"runtimeConfig": WHOLE})
            time.sleep(SWEEP * turn / PLUGIN_ROUNDS)
            call.kill()
            call.communicate()
            if turn % 4 == 0:
                send_to_the_host_port(runtime)
            seen = recorded(runtime)
            clean(runtime, f"p{turn}", by)
            assert leftovers(runtime, before) == [], f"round {turn}, {by}"
            for addresses in seen:
                made += 1
                usable(runtime, f"p{turn}", addresses)
    assert made, "no kill was late enough for a record"


def test_the_agent_is_killed_in_the_midst_of_an_add(runtime: Runtime) -> None:
    live, program, before, ends = runtime.live, f"agent-{NODE}", runtime.live.dump(NODE), []
    with live.paused():
        for turn in range(AGENT_ROUNDS):
            with runtime.pod(f"a{turn}"):
                pid, call = live.pid(program), runtime.start("ADD", f"a{turn}", {"runtimeConfig": WHOLE})
                time.sleep(SWEEP * 1.6 * turn / AGENT_ROUNDS)
                os.kill(pid, 9)
                answer = runtime.end(call)
                assert answer.code in (0, TRY_AGAIN), answer
                until(lambda: not live.pid(program), "the agent ended")
                live.start(program)
                until(lambda: live.ready(NODE), "the agent is ready")
                seen = recorded(runtime)
                ends.append((answer.code, len(seen)))
                clean(runtime, f"a{turn}", ("DEL", "GC")[turn % 2])
                assert leftovers(runtime, before) == [], f"round {turn}: {ends}"
                for addresses in seen:
                    usable(runtime, f"a{turn}", addresses)
    assert (TRY_AGAIN, 0) in ends, "no agent died before it had a record"
    assert (TRY_AGAIN, 1) in ends, "no agent died between record and answer"


def test_the_agent_is_killed_in_the_midst_of_a_del(runtime: Runtime) -> None:
    live, program, before = runtime.live, f"agent-{NODE}", runtime.live.dump(NODE)
    with live.paused():
        for turn in range(8):
            with runtime.pod(f"d{turn}"):
                assert runtime.add(f"d{turn}", **WHOLE).exit == 0
                send_to_the_host_port(runtime)
                pid, call = live.pid(program), runtime.start("DEL", f"d{turn}")
                time.sleep(SWEEP * turn / 8)
                os.kill(pid, 9)
                answer = runtime.end(call)
                until(lambda: not live.pid(program), "the agent ended")
                live.start(program)
                until(lambda: live.ready(NODE), "the agent is ready")
                if answer.exit:
                    clean(runtime, f"d{turn}", ("DEL", "GC")[turn % 2])
                assert leftovers(runtime, before) == [], f"round {turn}: {answer}"


def test_del_may_come_late_twice_and_without_a_namespace(runtime: Runtime) -> None:
    with runtime.pod("late"):
        assert runtime.add("late", **WHOLE).exit == 0
        assert [runtime.call("DEL", "late").exit for _ in range(3)] == [0, 0, 0]
        assert runtime.add("late", **WHOLE).exit == 0
    assert [runtime.call("DEL", "late").exit for _ in range(2)] == [0, 0]
    assert runtime.call("DEL", "never").exit == 0


def test_a_del_while_its_add_is_under_way_comes_after_it(runtime: Runtime) -> None:
    before = runtime.live.dump(NODE)
    for turn in range(10):
        with runtime.pod(f"r{turn}"):
            call = runtime.start("ADD", f"r{turn}", {"runtimeConfig": WHOLE})
            time.sleep(SWEEP * turn / 10)
            assert runtime.call("DEL", f"r{turn}").exit == 0
            if runtime.end(call).exit == 0:
                assert runtime.call("DEL", f"r{turn}").exit == 0
        assert leftovers(runtime, before) == []


DRIFTS = {
    "address": ("ip addr del {ip}/32 dev eth0", "dev=eth0"),
    "route": ("ip route del default", "add route 0.0.0.0/0"),
    "route of IPv6": ("ip -6 route del default", "add route ::/0"),
    "down": ("ip link set eth0 down", "eth0"),
    "MTU": ("ip link set eth0 mtu 1300", "change podlink"),
    "MAC": ("ip link set eth0 address 02:00:00:00:00:01", "change podlink"),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_check_passes_only_what_is_as_it_was_made(runtime: Runtime, drift: str) -> None:
    """The agent repairs pods too, so CHECK comes before that, and says so, or after it."""
    command, words = DRIFTS[drift]
    with runtime.pod("pod") as netns:
        added = runtime.add("pod", **WHOLE)
        check = {"prevResult": added.document, "runtimeConfig": WHOLE}
        assert runtime.call("CHECK", "pod", check).exit == 0
        made = dump(netns)
        with runtime.live.repaired(netns):
            runtime.live.run(netns, command.format(ip=added.addresses[0]))
            answer = runtime.call("CHECK", "pod", check)
            if answer.exit == 0:
                assert difference(made, dump(netns)) == []
            else:
                assert (answer.code, answer.document["msg"]) == (NOT_APPLIED, NOT_AS_MADE)
                assert words in answer.document["details"]
        assert runtime.call("CHECK", "pod", check).exit == 0
        assert runtime.call("DEL", "pod").exit == 0


@pytest.mark.parametrize("mode", ["ptp", "bridge"])
def test_a_second_interface_leaves_the_first_as_it_is(runtime: Runtime, mode: str) -> None:
    with runtime.pod("pod") as netns:
        one = runtime.call("ADD", "pod", {"attachment": mode, "runtimeConfig": WHOLE})
        alone = dump(netns), runtime.live.dump(NODE)
        two = runtime.call("ADD", "pod", {"attachment": mode}, ifname="net1")
        for added, ifname in ((one, "eth0"), (two, "net1")):
            assert added.exit == 0, added
            assert runtime.call("CHECK", "pod", {"prevResult": added.document}, ifname=ifname).exit == 0
            for address in added.addresses:
                greet(runtime.live.netns(NODE), netns, address)
        greet(netns, runtime.live.netns(NODE), runtime.live.lab.node(NODE).addresses[0])
        assert runtime.live.settled(NODE)
        assert runtime.call("DEL", "pod", ifname="net1").exit == 0
        assert difference(alone[0], dump(netns)) == difference(alone[1], runtime.live.dump(NODE)) == []
        assert runtime.call("DEL", "pod").exit == 0


def test_neighbours_that_joined_in_different_ways_reach_each_other(runtime: Runtime) -> None:
    """In IPv4: the bridge answers for who is not on it."""
    with runtime.pod("bridged") as bridged, runtime.pod("direct") as direct:
        one = runtime.call("ADD", "bridged", {"attachment": "bridge"})
        two = runtime.call("ADD", "direct", {"attachment": "ptp"})
        greet(bridged, direct, two.addresses[0])
        greet(direct, bridged, one.addresses[0])
        assert [runtime.call("DEL", pod).exit for pod in ("bridged", "direct")] == [0, 0]


def greet(client: str, server: str, address: str) -> None:
    """A connection between two namespaces, from the one to an address of the other."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket_in(server, family, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen()
        with socket_in(client, family, socket.SOCK_STREAM) as caller:
            caller.settimeout(2)
            caller.connect(listener.getsockname())


UNREPAIRABLE = {
    "the interface has another name": ("ip link set eth0 down; ip link set eth0 name lost", "eth0"),
    "the interface is in another namespace": ("ip link set eth0 netns {elsewhere}", "eth0"),
}


@pytest.mark.parametrize("drift", UNREPAIRABLE)
def test_check_says_what_is_wrong(runtime: Runtime, drift: str) -> None:
    command, words = UNREPAIRABLE[drift]
    with runtime.pod("pod") as netns, runtime.pod("elsewhere") as elsewhere:
        added = runtime.add("pod", **WHOLE)
        runtime.live.run(netns, ["sh", "-ec", command.format(elsewhere=elsewhere)])
        answer = runtime.call("CHECK", "pod", {"prevResult": added.document, "runtimeConfig": WHOLE})
        assert (answer.code, answer.document["msg"]) == (NOT_APPLIED, NOT_AS_MADE)
        assert words in answer.document["details"]
        assert runtime.call("DEL", "pod").exit == 0
        assert "lost" not in runtime.live.run(netns, "ip -o link")
        assert runtime.live.run(elsewhere, "ip -o link").count("\n") == 1


def test_check_compares_with_the_result_of_the_add(runtime: Runtime) -> None:
    with runtime.pod("pod"):
        added = runtime.add("pod")
        other = {**added.document, "ips": [{"address": "10.244.0.250/24", "interface": 2}]}
        answer = runtime.call("CHECK", "pod", {"prevResult": other})
        assert (answer.code, answer.document["msg"]) == (NOT_APPLIED, NOT_AS_MADE)
        assert added.addresses[0] in answer.document["details"]
        assert runtime.call("DEL", "pod").exit == 0


def test_check_of_what_was_never_attached(runtime: Runtime) -> None:
    with runtime.pod("pod"):
        added = runtime.call("ADD", "pod")
        assert runtime.call("CHECK", "other", {"prevResult": added.document}).code == UNKNOWN_CONTAINER
        assert runtime.call("DEL", "pod").exit == 0
        assert runtime.call("CHECK", "pod", {"prevResult": added.document}).code == UNKNOWN_CONTAINER


def test_without_an_agent(live: LiveLab, runtime: Runtime) -> None:
    assert runtime.call("STATUS").exit == 0
    with runtime.pod("pod"):
        added = runtime.call("ADD", "pod")
        with live.without(f"agent-{NODE}"):
            expected = dict.fromkeys(("ADD", "DEL", "CHECK", "GC"), TRY_AGAIN) | {"STATUS": UNAVAILABLE, "VERSION": 0}
            for command, code in expected.items():
                pod = "pod" if command in ("ADD", "DEL", "CHECK") else ""
                answer = runtime.call(command, pod, {"prevResult": added.document, **NOTHING_VALID})
                assert answer.code == code, (command, answer)
                assert answer.document["cniVersion"] == VERSION
        assert runtime.call("CHECK", "pod", {"prevResult": added.document}).exit == 0
        assert runtime.call("STATUS").exit == 0
        assert runtime.call("DEL", "pod").exit == 0


def test_a_namespace_that_is_none(runtime: Runtime) -> None:
    answer = runtime.call("ADD", "nowhere")
    assert (answer.exit, answer.code) == (1, NETNS)


def test_a_hundred_adds_at_once_have_addresses_of_their_own(runtime: Runtime) -> None:
    names = [f"m{number}" for number in range(100)]
    with ExitStack() as pods:
        for name in names:
            pods.enter_context(runtime.pod(name))
        answers: list[Answer] = [runtime.end(call) for call in [runtime.start("ADD", name) for name in names]]
        assert [answer.exit for answer in answers] == [0] * 100
        for family in (0, 1):
            assert len({answer.addresses[family] for answer in answers}) == 100
        some = runtime.live.run(runtime.path(names[37]), "ip -o address show dev eth0")
        assert answers[37].addresses[0] in some
        assert answers[37].addresses[1] in some
        gone = [runtime.end(call) for call in [runtime.start("DEL", name) for name in names]]
        assert [answer.exit for answer in gone] == [0] * 100
