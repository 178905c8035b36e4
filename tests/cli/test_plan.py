"""`podnet plan`: what agents answer, and plans computed from a file without any agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from podnet.network.backends import BACKENDS
from tests.cli.conftest import Agent, Podnet
from tests.cli.fakes import STATUS, make_lab

STEPS = {"steps": [{"verb": "add", "text": "route 10.244.2.0/24"}], "text": "+ route 10.244.2.0/24\n"}


CONFIG = "kind: NetworkConfig\napiVersion: podnet.dev/v1\nmetadata: {name: default}"


def cluster(folder: Path, backend: str = "vxlan", spec: str = "", *nodes: str) -> str:
    config = f"{CONFIG}\nspec: {{backend: {{type: {backend}}}{spec}}}"
    path = folder / "cluster.yaml"
    path.write_text("\n---\n".join([config, *(nodes or (node("a", 1), node("b", 2)))]))
    return str(path)


def node(name: str, number: int) -> str:
    return f"""
kind: Node
apiVersion: v1
metadata: {{name: {name}}}
spec: {{podCIDRs: [10.244.{number}.0/24]}}
status: {{addresses: [{{type: InternalIP, address: 10.0.0.{number}}}]}}"""


# -- asked


def test_what_the_agent_says(podnet: Podnet, agent: Agent) -> None:
    agent()
    assert podnet("plan") == (0, "sysctl ip_forward value=1\n", "")
    value = json.loads(podnet("plan", "-o", "json")[1])
    assert value["nodes"][0]["node"] == "node1"
    assert value["nodes"][0]["units"] == {"forwarding": ["sysctl net/ipv4/ip_forward value=1"]}


def test_no_difference(podnet: Podnet, agent: Agent) -> None:
    agent()
    assert podnet("plan", "--diff") == (0, "no difference\n", "")


def test_a_difference_ends_with_1(podnet: Podnet, agent: Agent) -> None:
    agent(plan=STEPS)
    assert podnet("plan", "--diff", "--node", "node1") == (1, "+ route 10.244.2.0/24\n", "")
    code, out, _ = podnet("plan", "--diff", "-o", "json")
    assert (code, json.loads(out)["nodes"][0]["steps"]) == (1, STEPS["steps"])


def test_all_nodes_of_a_lab_or_one(podnet: Podnet, agent: Agent, bare: Path) -> None:
    for each, steps in zip(make_lab().nodes, (STEPS, {"steps": [], "text": ""}), strict=True):
        agent(each.run_dir, status=STATUS | {"node": each.name}, plan=steps)
    assert podnet("plan", "--diff") == (1, "# node1\n+ route 10.244.2.0/24\n\n# node2\nno difference\n", "")
    assert podnet("plan", "--diff", "--node", "node2") == (0, "no difference\n", "")
    assert podnet("plan", "--node", "node7")[2] == (
        "podnet: there is no node node7 here: lab default has node1, node2\n"
    )


def test_no_agent(bare: Path, podnet: Podnet) -> None:
    code, _, err = podnet("plan", "--diff")
    assert code == 2
    assert err.endswith("agent.sock: start it, or compute from a file with -f\n")


# -- computed


def test_every_node_of_a_file(bare: Path, podnet: Podnet) -> None:
    code, out, err = podnet("plan", "-f", cluster(bare), "--uplink", "ens3", "--mtu", "9000")
    assert (code, err) == (0, "")
    assert "# a\n" in out
    assert "# b\n" in out
    assert "vxlan podnet.1 mtu=8950" in out
    assert "dev=ens3" in out


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_one_node_of_a_file_with_any_backend(bare: Path, podnet: Podnet, backend: str) -> None:
    code, out, _ = podnet("plan", "-f", cluster(bare, backend), "--node", "a")
    assert code == 0
    assert "#" not in out.split("\n")[0]
    assert "route 10.244.2.0/24" in out


def test_it_needs_no_root_and_no_lab(bare: Path, podnet: Podnet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    make_lab("a")
    make_lab("b")
    assert podnet("plan", "-f", cluster(bare), "--node", "a")[0] == 0


def test_values_for_programs(bare: Path, podnet: Podnet) -> None:
    value: dict[str, Any] = json.loads(podnet("plan", "-f", cluster(bare), "--node", "a", "-o", "json")[1])
    assert "sysctl net/ipv4/ip_forward value=1" in value["nodes"][0]["units"]["forwarding"]


def test_the_subnet_around_a_node_is_assumed(bare: Path, podnet: Podnet) -> None:
    path = cluster(bare, "vxlan, directRouting: true")
    assert "route 10.244.2.0/24 via=10.0.0.2 dev=eth0" in podnet("plan", "-f", path, "--node", "a")[1]


def test_mistakes_that_are_treated_as_absent_are_told(bare: Path, podnet: Podnet) -> None:
    path = cluster(bare, "vxlan", "", node("a", 1), node("b", 1))
    code, _, err = podnet("plan", "-f", path, "--node", "a")
    assert code == 0
    assert "Node/b: podCIDR 10.244.1.0/24 overlaps 10.244.1.0/24 of node a" in err


@pytest.mark.parametrize(
    ("backend", "spec", "args", "says"),
    [
        ("vxlan", "", ["--node", "z"], "cluster.yaml has no Node z: it has a, b"),
        ("nope", "", [], "cluster.yaml: NetworkConfig: spec.backend.type: Unsupported value: 'nope'"),
        ("vxlan, vni: 0", "", [], "cluster.yaml: NetworkConfig: spec.backend.vni: "),
        ("vxlan", ", mtu: many", [], "cluster.yaml: spec.mtu: Expected `int`, got `str`"),
        ("vxlan", "", ["--diff"], "--diff compares with a real kernel, which -f has not: leave one of them out"),
        ("vxlan", "", ["--mtu", "5"], "Invalid value for '--mtu'"),
    ],
)
def test_wrong_files_and_options(
    bare: Path, podnet: Podnet, backend: str, spec: str, args: list[str], says: str
) -> None:
    code, out, err = podnet("plan", "-f", cluster(bare, backend, spec), *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no NetworkConfig named default: add one, its spec may be empty"),
        ("{", "not YAML"),
        ("kind: Pod\napiVersion: v9\nmetadata: {name: x}", "is no kind podnet knows"),
        (f"{CONFIG}\n---\nkind: Node\napiVersion: v1\nmetadata: {{name: a}}", "Node a in"),
    ],
)
def test_files_that_lack_something(bare: Path, podnet: Podnet, text: str, says: str) -> None:
    (bare / "c.yaml").write_text(text)
    code, out, err = podnet("plan", "-f", str(bare / "c.yaml"))
    assert (code, out) == (2, "")
    assert says in err


def test_no_such_file(bare: Path, podnet: Podnet) -> None:
    code, _, err = podnet("plan", "-f", "/nowhere.yaml")
    assert code == 2
    assert "No such file or directory" in err


def test_options_of_a_file_without_one(bare: Path, podnet: Podnet) -> None:
    assert podnet("plan", "--uplink", "x")[2] == (
        "podnet: --uplink and --mtu belong to -f; an agent reads them from its node\n"
    )
