"""The user's commands on a whole cluster: what they say of a healthy one, and of one that somebody broke."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.labs import LiveLab, live_lab, needs_root, until, watching

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("commands"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("commands", "--dual-stack") as made:
        yield made


def ask(live: LiveLab, *words: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(live.podnet(*words, "-o", "json", code=code))
    return found


@contextmanager
def rules(live: LiveLab, node: str, text: str) -> Iterator[None]:
    """A foreign table in a node's namespace, meanwhile."""
    live.run(node, "nft -f -", text=f"table inet foreign {{ {text} }}")
    try:
        yield
    finally:
        live.run(node, "nft delete table inet foreign")


def test_check_proves_nine_pods_and_three_nodes_quickly(live: LiveLab) -> None:
    found = ask(live, "check")
    kinds = [each["kind"] for each in found["endpoints"]]
    assert (kinds.count("pod"), kinds.count("node")) == (9, 3)
    # 126 ordered pairs, two families, three probes; and each pod's localhost from each of its containers.
    assert found["probes"] >= 126 * 2 * 3 + 9
    assert (found["ok"], found["failed"]) == (True, [])
    assert min(ask(live, "check")["seconds"] for _ in range(3)) < 1.5, (
        "the best of three, since others share the machine"
    )


def test_check_covers_every_promise_of_the_model(live: LiveLab) -> None:
    """Break everything, and see what was tried."""
    drop = (
        "chain c { type filter hook forward priority -300; drop; };"
        " chain i { type filter hook input priority -300; iifname != lo drop; };"
    )
    with rules(live, "node1", drop):
        failed = ask(live, "check", code=1)["failed"]
    # Between pods of one node it depends on the machine: br_netfilter leads them through forward chains too.
    assert {each["relation"] for each in failed} | {"pod to pod, same node"} == {
        "pod to pod, same node",
        "pod to pod, other node",
        "pod to node, same node",
        "pod to node, other node",
        "node to pod, same node",
        "node to pod, other node",
    }
    assert {each["probe"] for each in failed} == {"tcp", "udp"}


def test_check_sees_containers_of_one_pod(live: LiveLab) -> None:
    assert "localhost across the containers of 1 pod, within 8 others" in live.podnet("check")


def test_check_finds_translation(live: LiveLab) -> None:
    """A masquerade of everything that leaves node2, as a careless script would set."""
    nat = 'chain c { type nat hook postrouting priority 90; oifname "podnet.1" masquerade; };'
    with rules(live, "node2", nat):
        found = ask(live, "check", code=1)
    assert all(each["reason"].startswith("the source is translated") for each in found["failed"])
    assert all("on node2" in each["look"] for each in found["failed"])
    assert ask(live, "check")["ok"]


def test_check_works_while_an_agent_is_down(live: LiveLab) -> None:
    with live.without("agent-node2"):
        assert ask(live, "check")["ok"]


def test_watch_takes_pods_in_and_leaves_them_out(live: LiveLab) -> None:
    with watching(live) as watched:
        live.pod("newcomer", "node2")
        time.sleep(1.0)
        live.delete_pod("newcomer")
        time.sleep(1.0)
    watched[0].lossless()


def test_watch_sees_an_outage(live: LiveLab) -> None:
    with watching(live) as watched:
        with rules(live, "node3", "chain c { type filter hook prerouting priority -300; udp dport 8472 drop; };"):
            time.sleep(1.0)
        time.sleep(1.5)
    found = watched[0].document
    assert not found["ok"]
    assert found["lost"] > 100
    assert 700 < found["longest_gap_ms"] < 2500
    assert all("other node" in each["relation"] for each in found["failed"])
    assert {each["to"] for each in found["bursts"] if each["from"] == "node1"} == {
        f"demo/{place.name}" for place in live.places() if place.node == "node3"
    }


def test_plan_and_its_difference(live: LiveLab) -> None:
    until(lambda: all(live.settled(node.name) for node in live.lab.nodes), "settled")
    shown = ask(live, "plan")["nodes"]
    assert [each["node"] for each in shown] == ["node1", "node2", "node3"]
    assert any(unit.startswith("pod/") for unit in shown[0]["units"])
    assert ask(live, "plan", "--diff")["nodes"][0]["steps"] == []
    assert live.podnet("plan", "--diff", "--node", "node2") == "no difference\n"


def test_status(live: LiveLab) -> None:
    nodes = ask(live, "status")["nodes"]
    assert [(each["node"], each["ready"], each["attachments"]) for each in nodes] == [
        (f"node{number}", True, 3) for number in (1, 2, 3)
    ]
    assert {each["mtu"] for each in nodes} == {1430}
    with live.without("agent-node3"):
        found = ask(live, "status", code=1)["nodes"][2]
        assert (found["node"], found["ready"], found["agent"]) == ("node3", False, False)


def test_doctor_finds_nothing_wrong_with_a_lab(live: LiveLab) -> None:
    found = ask(live, "doctor")
    assert [each for each in found["findings"] if each["severity"] != "ok"] == []


def test_doctor_finds_what_somebody_did(live: LiveLab) -> None:
    live.run("node1", "iptables-nft -P FORWARD DROP")
    live.run("node2", "ip route add 10.244.77.0/24 via 192.168.77.1")
    live.run("node3", "sysctl -qw net.ipv4.conf.eth0.rp_filter=1")
    try:
        found = ask(live, "doctor", code=1)
    finally:
        live.run("node1", "nft delete table ip filter")
        live.run("node2", "ip route del 10.244.77.0/24")
        live.run("node3", "sysctl -qw net.ipv4.conf.eth0.rp_filter=0")
    errors = {(each["node"], each["check"]) for each in found["findings"] if each["severity"] == "error"}
    assert errors == {("node1", "forward firewall"), ("node2", "address ranges"), ("node3", "reverse path filter")}


def test_what_doctor_calls_an_error_is_one(live: LiveLab) -> None:
    """A strict reverse path filter indeed keeps pods from other nodes, and the fix that doctor gives mends it."""
    parameter = "net.ipv4.conf.eth0.rp_filter"
    live.run("node3", f"sysctl -qw {parameter}=1")
    try:
        failed = ask(live, "check", code=1)["failed"]
        assert {each["relation"] for each in failed} == {"pod to node, other node"}
        assert {each["to"] for each in failed} == {"node3"}
        (finding,) = (e for e in ask(live, "doctor", "--node", "node3", code=1)["findings"] if e["severity"] == "error")
        live.run("node3", finding["fix"].partition(" (")[0])
        assert ask(live, "check")["ok"]
    finally:
        live.run("node3", f"sysctl -qw {parameter}=0 net.ipv4.conf.all.rp_filter=0")


def test_clean_refuses_beside_an_agent_and_the_agent_mends_what_was_forced(live: LiveLab) -> None:
    live.podnet("clean", "--node", "node1", code=2)
    assert ask(live, "check")["ok"]
    listed = ask(live, "clean", "--node", "node1", "--dry-run")["removed"]
    assert any(each.startswith("vxlan podnet.1") for each in listed)
    live.podnet("clean", "--node", "node1", "--force")
    until(lambda: live.settled("node1"), "node1 is mended", 5.0)
    assert ask(live, "check")["ok"]
