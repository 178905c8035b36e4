"""`podnet status`: the agents' words as a table, and what is said when they have none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from podnet.client import api
from podnet.objects.core import Node, NodeAddress, NodeSpec, NodeStatus
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import ACCEPTS_ANNOTATION
from tests.cli.conftest import Agent, Podnet
from tests.cli.fakes import STATUS, make_lab


def test_a_lab(podnet: Podnet, agent: Agent, bare: Path) -> None:
    for node in make_lab().nodes:
        agent(node.run_dir, status=STATUS | {"node": node.name})
    code, out, err = podnet("status")
    assert (code, err) == (0, "")
    header, one, two = out.splitlines()
    assert header.split() == [
        "NODE",
        "READY",
        "BACKEND",
        "ACCEPTS",
        "SENDS",
        "POD",
        "CIDRS",
        "PODS",
        "MTU",
        "UPLINK",
        "PASSES",
    ]
    assert one.split() == ["node1", "yes", "vxlan", "vxlan", "vxlan", "10.244.0.0/24", "1", "1450", "up0", "3"]
    assert two.startswith("node2  yes")


def test_an_agent_that_is_away_or_not_ready(podnet: Podnet, agent: Agent, bare: Path) -> None:
    lab = make_lab()
    agent(lab.nodes[0].run_dir, status=STATUS | {"ready": False, "reason": "Node/node1 has no podCIDR yet"})
    code, out, _ = podnet("status")
    assert code == 1
    lines = out.splitlines()
    assert lines[1].startswith("node1  no ")
    assert lines[2].split()[:3] == ["node2", "no", "-"]
    assert lines[3] == "node1: Node/node1 has no podCIDR yet"
    assert lines[4].startswith("node2: no agent runs at ")


def test_ejected_endpoints(podnet: Podnet, agent: Agent, bare: Path) -> None:
    ejected = {"demo/web": ["10.244.1.2", "10.244.2.7"]}
    for node in make_lab().nodes:
        agent(node.run_dir, status=STATUS | {"node": node.name, "ejected": ejected if node.name == "node2" else {}})
    code, out, _ = podnet("status")
    assert code == 0
    assert out.splitlines()[3:] == ["node2: ejected from Service demo/web: 10.244.1.2 10.244.2.7"]
    nodes = json.loads(podnet("status", "-o", "json")[1])["nodes"]
    assert [node["ejected"] for node in nodes] == [{}, ejected]


def test_what_is_undone_and_wrong_is_told_once(podnet: Podnet, agent: Agent, bare: Path) -> None:
    problem = {"object": "Node/x", "reason": "NoPodCIDR", "message": "it has none", "field": ""}
    last = {"steps": 2, "failed": ["cannot add route"], "held": ["veth x"], "seconds": 0.1}
    for node in make_lab().nodes:
        agent(node.run_dir, status=STATUS | {"node": node.name, "problems": [problem], "lastPass": last})
    out = podnet("status")[1]
    assert out.count("Node/x: it has none") == 1
    assert "node1: failed: cannot add route" in out
    assert "node2: waits for its link or namespace: veth x" in out


def test_a_migration_under_way(podnet: Podnet, agent: Agent, bare: Path) -> None:
    agent(make_lab(nodes=1).nodes[0].run_dir, status=STATUS | {"accepts": ["host-gw", "vxlan"], "sends": ["vxlan"]})
    assert "host-gw vxlan  vxlan" in podnet("status")[1]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    """An API that knows two nodes."""
    (bare / "none").write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": {}}],
            }
        )
    )

    async def listed(self: object, kind: object, **more: object) -> tuple[Node, ...]:
        status = NodeStatus(addresses=(NodeAddress("InternalIP", "10.0.0.9"),))
        meta = ObjectMeta(name="node9", annotations={ACCEPTS_ANNOTATION: "host-gw"})
        return (
            Node(metadata=ObjectMeta(name="node1")),
            Node(metadata=meta, spec=NodeSpec(pod_cidrs=("10.244.9.0/24",)), status=status),
        )

    monkeypatch.setattr(api.Api, "list", listed)


def test_nodes_of_other_machines(podnet: Podnet, agent: Agent, elsewhere: None) -> None:
    agent()
    code, out, err = podnet("status")
    assert (code, err) == (0, "")
    assert out.splitlines()[2].split() == ["node9", "-", "-", "host-gw", "-", "10.244.9.0/24", "-", "-", "-", "-"]


def test_without_an_api_this_node_is_shown(podnet: Podnet, agent: Agent) -> None:
    agent()
    code, out, err = podnet("status", "-o", "json")
    assert code == 0
    assert [node["node"] for node in json.loads(out)["nodes"]] == ["node1"]
    assert err.startswith("podnet: only this node is shown, the API could not be asked: ")


def test_nothing_here(podnet: Podnet, bare: Path) -> None:
    code, out, err = podnet("status")
    assert (code, out) == (2, "")
    assert err.endswith("agent.sock: start it, or bring up a lab with podnet lab up\n")
