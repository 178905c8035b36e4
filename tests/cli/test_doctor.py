"""`podnet doctor`: who is asked for what, how findings are shown, and with which code it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from podnet.client import api
from podnet.daemons import surveyor
from podnet.kernel.netns import NoNamespace
from podnet.network.checkup.survey import Agent as Said
from podnet.network.checkup.survey import ClusterFacts, CniFile, Survey
from podnet.objects.core import Node, NodeAddress, NodeSpec, NodeStatus
from podnet.objects.kinds import NODES
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import NetworkConfig
from tests.cli.conftest import Agent, Podnet
from tests.cli.fakes import STATUS, make_lab

Bend = Callable[..., list[Any]]


@pytest.fixture
def survey(monkeypatch: pytest.MonkeyPatch) -> Bend:
    """Nodes are not really looked at: each is as the agents say, changed as wanted. Returns what was asked for."""

    def bend(**more: Any) -> list[Any]:
        asked: list[Any] = []

        def look(site: Any, agent: Said, cluster: ClusterFacts, problems: tuple[str, ...], attachments: int) -> Survey:
            asked.append((site, agent, cluster, problems, attachments))
            base = Survey(
                site.node, agent, cluster, problems, conflists=(CniFile("10-podnet.conflist", ("podnet-cni",)),)
            )
            return msgspec.structs.replace(base, **more)

        monkeypatch.setattr(surveyor, "survey", look)
        return asked

    return bend


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    """An API with two nodes that have the same address."""
    (bare / "kube").write_text(
        "current-context: c\ncontexts: [{name: c, context: {cluster: c}}]\n"
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n"
    )
    status = NodeStatus(addresses=(NodeAddress("InternalIP", "10.0.0.9"),))
    nodes = [
        Node(metadata=ObjectMeta(name=f"node{i}"), spec=NodeSpec(pod_cidrs=(f"10.244.{i}.0/24",)), status=status)
        for i in (1, 2)
    ]

    async def listed(self: object, kind: object, **more: object) -> list[Any]:
        return nodes if kind is NODES else [NetworkConfig(metadata=ObjectMeta(name="default"))]

    monkeypatch.setattr(api.Api, "list", listed)


def test_a_healthy_machine(podnet: Podnet, agent: Agent, cluster: None, survey: Bend, bare: Path) -> None:
    asked = survey(problems=())
    agent()
    code, out, err = podnet("doctor", "--kubeconfig", str(bare / "kube"))
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "healthy"
    assert out.startswith(
        "nothing wrong with: cluster objects, node ranges, equal MTU, agent, API, CNI configuration, "
    )
    ((site, said, facts, problems, attachments),) = asked
    assert (site.node, site.netns, site.conf_dir) == ("node1", "", str(bare / "conf_dir"))
    assert (said.uplink, said.mtu, said.pod_cidrs, said.backend) == ("up0", 1450, ("10.244.0.0/24",), {"type": "vxlan"})
    assert facts.pod_cidrs == ("10.244.0.0/16",)
    assert [node.name for node in facts.nodes] == ["node1", "node2"]
    assert problems == ("Node/node2: address 10.0.0.9 is that of node node1 too",)
    assert attachments == 1


def test_errors_end_with_1(podnet: Podnet, agent: Agent, cluster: None, survey: Bend, bare: Path) -> None:
    survey(sysctls={"net/ipv4/ip_forward": "0"})
    agent()
    code, out, _ = podnet("doctor", "--kubeconfig", str(bare / "kube"))
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == "ERROR    cluster objects: Node/node2: address 10.0.0.9 is that of node node1 too"
    assert lines[4] == "ERROR    forwarding (node1): net/ipv4/ip_forward is 0"
    assert lines[5].startswith("         why  no packet passes")
    assert lines[6].startswith("         fix  the agent sets it")
    assert lines[-1] == "2 errors, 0 warnings, 0 notes"
    assert "forwarding" not in lines[-2]


def test_warnings_do_not(podnet: Podnet, agent: Agent, survey: Bend) -> None:
    survey(programs=frozenset({"NetworkManager"}))
    agent()
    code, out, _ = podnet("doctor", "-o", "json")
    value = json.loads(out)
    assert (code, value["ok"]) == (0, True)
    wrong = [each for each in value["findings"] if each["severity"] != "ok"]
    assert [(each["check"], each["severity"], each["node"]) for each in wrong] == [
        ("API", "warning", "node1"),
        ("other network managers", "warning", "node1"),
    ]
    assert wrong[1]["what"] == "NetworkManager runs here"
    assert wrong[1]["fix"]
    assert value["findings"][-1]["severity"] == "ok"


def test_without_an_api_the_agent_tells_the_mistakes(podnet: Podnet, agent: Agent, survey: Bend) -> None:
    asked = survey()
    agent(status=STATUS | {"problems": [{"object": "Node/x", "reason": "r", "message": "m", "field": ""}]})
    podnet("doctor")
    assert asked[0][2].away
    assert asked[0][3] == ("Node/x: m",)


def test_every_node_of_a_lab_or_one(podnet: Podnet, agent: Agent, survey: Bend, bare: Path) -> None:
    asked = survey()
    for node in make_lab().nodes[:1]:
        agent(node.run_dir, status=STATUS | {"node": node.name})
    code, out, _ = podnet("doctor")
    assert code == 1
    assert {each[0].node for each in asked} == {"node1", "node2"}
    assert "ERROR    agent (node2): no agent runs at" in out
    asked.clear()
    assert podnet("doctor", "--node", "node1")[0] == 0
    assert [each[0].node for each in asked] == ["node1"]


def test_a_node_without_a_namespace(podnet: Podnet, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: object) -> None:
        raise NoNamespace("/nowhere")

    monkeypatch.setattr(surveyor, "survey", look)
    code, _, err = podnet("doctor")
    assert (code, err) == (2, "podnet: the namespace /nowhere does not exist: podnet lab up repairs a lab\n")


def test_not_root(podnet: Podnet, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert podnet("doctor")[2] == "podnet: looking into the nodes' network namespaces needs root: use sudo\n"
