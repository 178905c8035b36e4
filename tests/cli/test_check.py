"""`podnet check`: what it prints and with which code it ends; the packets here stay on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
from pathlib import Path

import msgspec
import pytest
import yaml

from podnet.agent.attachments import Attachments
from podnet.cli import matrix
from podnet.daemons.watch import Interval, Watched
from podnet.network.ipam import ranges
from podnet.network.losses import Burst
from podnet.network.reach import Endpoint, Failure, Pair, Report
from podnet.network.view import Attachment
from tests.cli.conftest import Agent, Podnet
from tests.cli.fakes import ATTACHMENT, STATUS, make_lab

GONE = ATTACHMENT | {"container_id": "c2", "netns": "/nowhere", "pod": "default/q", "addresses": ["10.1.1.9/24"]}


# -- once


def test_a_healthy_machine(podnet: Podnet, agent: Agent) -> None:
    agent()
    code, out, err = podnet("check")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2].startswith("check passed: 7 probes between 1 pod and 1 node, IPv4, ")
    assert "no NAT anywhere" in out


def test_the_value_for_programs(podnet: Podnet, agent: Agent) -> None:
    agent()
    code, out, _ = podnet("check", "-o", "json")
    value = json.loads(out)
    assert code == 0
    assert (value["ok"], value["probes"], value["failed"]) == (True, 7, [])
    assert value["endpoints"][1] == {"name": "default/p", "kind": "pod", "node": "node1", "addresses": ["127.0.0.1"]}
    assert yaml.safe_load(podnet("check", "-o", "yaml")[1])["ok"] is True


def test_a_failed_check_ends_with_1(podnet: Podnet, agent: Agent) -> None:
    agent(attachments={"attachments": [ATTACHMENT, GONE]})
    code, out, _ = podnet("check")
    assert code == 1
    assert "FAIL  default/q 10.1.1.9 (open): the namespace /nowhere does not exist" in out
    assert "look at  podnet plan --node node1 --diff; podnet ipam check" in out
    assert out.splitlines()[-1].startswith("check FAILED: 1 of 8 probes")
    code, out, _ = podnet("check", "-o", "json")
    assert (code, json.loads(out)["ok"]) == (1, False)
    assert json.loads(out)["failed"][0]["from"] == "default/q"


def test_a_lab_is_all_its_nodes(podnet: Podnet, agent: Agent) -> None:
    for node in make_lab().nodes:
        agent(node.run_dir, status=STATUS | {"node": node.name}, attachments={"attachments": []})
    assert podnet("check")[2] == "podnet: there are no pods to check the network between: run some first\n"
    lab = make_lab("two")
    agent(lab.nodes[0].run_dir, status=STATUS | {"node": "node1"})
    agent(lab.nodes[1].run_dir, status=STATUS | {"node": "node2"}, attachments={"attachments": []})
    code, out, _ = podnet("check", "--lab", "two", "-o", "json")
    assert code == 0
    assert [each["name"] for each in json.loads(out)["endpoints"]] == ["node1", "default/p", "node2"]


async def record(state_dir: Path) -> None:
    store = await Attachments.open(str(state_dir), "boot")
    await store.add(Attachment("c1", "lo", "/nowhere", pod="default/p"), ranges.of_node(["10.1.0.0/24"]))
    await store.close()


def test_an_agent_that_is_away_left_its_records(bare: Path, podnet: Podnet) -> None:
    asyncio.run(record(bare / "state_dir"))
    code, out, _ = podnet("check")
    assert code == 1
    assert "FAIL  default/p 10.1.0.2 (open)" in out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], r"no agent runs at .*/agent.sock: start it, or bring up a lab with podnet lab up"),
        (["--watch"], r"no agent runs at .*"),
        (["--rate", "5"], "--rate and --duration belong to --watch: add it, or leave them out"),
        (["--duration", "5"], "--rate and --duration belong to --watch"),
        (["--watch", "--rate", "0"], r"Invalid value for '--rate': 0 is not in the range"),
        (["--watch", "--duration", "x"], r"'x' is not a valid float"),
        (["-o", "xml"], "'xml' is not one of"),
        (["--lab", "nope"], "no lab is named 'nope'; podnet lab up makes one"),
        (["more"], "unexpected extra argument"),
    ],
)
def test_wrong_input_is_one_sentence(bare: Path, podnet: Podnet, args: list[str], says: str) -> None:
    code, out, err = podnet("check", *args)
    assert (code, out) == (2, "")
    assert re.match(f"podnet: .*{says}", err)
    assert err.count("\n") == 1


def test_not_root(bare: Path, podnet: Podnet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert podnet("check") == (2, "", "podnet: opening sockets inside pods needs root: use sudo\n")


def test_help_has_examples_and_exit_codes(podnet: Podnet) -> None:
    code, out, _ = podnet("check", "--help")
    assert code == 0
    assert "podnet check --watch" in out
    assert "0 all probes passed, 1 some failed, 2 wrong input" in out


# -- watch


def test_watch_for_a_time(podnet: Podnet, agent: Agent) -> None:
    agent()
    code, out, _ = podnet("check", "--watch", "--rate", "200", "--duration", "1.2", "-o", "json")
    value = json.loads(out)
    assert code == 0
    assert (value["ok"], value["failed"], value["lost"], value["longest_gap_ms"]) == (True, [], 0, 0)
    assert 150 < value["probes"] < 350
    assert (value["streams"], value["bursts"]) == (2, [])


def test_watch_until_ctrl_c_while_the_agent_goes_away(podnet: Podnet, agent: Agent) -> None:
    made = agent()
    threading.Timer(0.8, lambda: made.answers.clear()).start()
    threading.Timer(1.6, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    code, out, _ = podnet("check", "--watch", "--rate", "100")
    lines = out.splitlines()
    assert code == 0, out
    assert "endpoints 2" in lines[0]
    assert lines[-1].startswith("watch passed: 0 of ")


# -- text


def pod(name: str, node: str) -> Endpoint:
    return Endpoint(name, f"default/{name}", "pod", node, "", ("10.0.0.1",))


def report(endpoints: list[Endpoint], bad: set[tuple[str, str]]) -> Report:
    cells = {(a.key, b.key): (a.key, b.key) not in bad for a in endpoints for b in endpoints if a != b}
    failed = tuple(Failure(a, b, "10.0.0.1", "", "tcp", "why", "look") for a, b in sorted(bad))
    return Report(not bad, len(cells), failed, tuple(endpoints), cells, 0.1)


def test_the_matrix_groups_by_node() -> None:
    there = [pod("a", "n2"), pod("b", "n1"), Endpoint("n1", "n1", "node", "n1", "", ("10.0.0.1",))]
    text = matrix.render(report(there, {("b", "a")}))
    assert text.splitlines()[:4] == [
        "      from, to: |    1    2 |    3",
        "n1  1 n1        |    .   ok |   ok",
        "    2 default/b |   ok    . | FAIL",
        "n2  3 default/a |   ok   ok |    .",
    ]


def test_many_endpoints_are_shown_by_node() -> None:
    there = [pod(f"p{i}", f"n{i % 3}") for i in range(30)]
    lines = matrix.render(report(there, {("p0", "p1"), ("p3", "p1")})).splitlines()
    assert lines[0].split() == ["from,", "to:", "n0", "n1", "n2"]
    assert lines[1].split() == ["n0", "90", "ok", "2", "of", "100", "FAIL", "100", "ok"]
    assert lines[2].split() == ["n1", "100", "ok", "90", "ok", "100", "ok"]


def test_failures_of_a_pair_are_one_line_with_the_best_reason() -> None:
    reasons = {"tcp": "no answer within 1 s from x", "udp": "the request arrived, its answer did not"}
    failed = [Failure("a", "b", "10.0.0.1", "", probe, reason, "look") for probe, reason in reasons.items()]
    assert matrix._failures(failed)[0] == "FAIL  a -> b 10.0.0.1 (tcp, udp): the request arrived, its answer did not"


def test_no_more_than_a_dozen_failures_are_listed() -> None:
    failed = [Failure("a", f"b{i}", "10.0.0.1", "", "tcp", "why", "look") for i in range(20)]
    lines = matrix._failures(failed)
    assert lines[12] == "... and 8 more, all in podnet check -o json"
    assert lines[13:] == ["look at  look", ""]


BURST = Burst(Pair(pod("a", "n1"), pod("b", "n2"), "10.0.0.1"), 1.5, 0.25, 7, "it never arrived")


def test_a_second_of_a_watch() -> None:
    text = matrix.interval(Interval(998, 7, 12, (BURST,) * 14), 1_700_000_000.0)
    lines = text.splitlines()
    assert lines[0].endswith("sent   998  lost    7  endpoints 12")
    assert lines[1].endswith(".500  default/a -> default/b 10.0.0.1  lost 7 in 250 ms: it never arrived")
    assert lines[-1] == "  ... and 2 more"


def test_the_end_of_a_watch() -> None:
    failed = (Failure("default/a", "default/b", "10.0.0.1", "", "udp", "lost 7", "look"),)
    watched = Watched(1000, 7, 0.25, 0.012, 6, failed, (BURST,))
    assert matrix.render_watched(watched).splitlines()[-1] == (
        "watch FAILED: 7 of 1000 probes lost, longest gap 250 ms; 6 TCP streams, slowest echo 12 ms"
    )
    value = matrix.watched_document(watched, 1_700_000_000.0)
    assert (value["ok"], value["probes"], value["lost"], value["longest_gap_ms"]) == (False, 1000, 7, 250)
    assert value["bursts"] == [
        {
            "from": "default/a",
            "to": "default/b",
            "address": "10.0.0.1",
            "start": 1_700_000_001.5,
            "ms": 250,
            "lost": 7,
            "reason": "it never arrived",
        }
    ]
    assert msgspec.json.encode(value)
