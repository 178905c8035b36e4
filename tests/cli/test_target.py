"""Which cluster a command means, and talking to its agents."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest
from click.shell_completion import ShellComplete

from podnet.agent.attachments import Attachments
from podnet.cli import main, target
from podnet.cli.target import AgentAway, Node, endpoints, endpoints_on_record, resolve
from podnet.errors import UserError
from podnet.lab import process, sandbox
from podnet.network.ipam import ranges
from podnet.network.view import Attachment
from tests.cli.conftest import Agent
from tests.cli.fakes import STATUS, make_lab


def machine(folder: Path) -> Node:
    return Node("", "", str(folder / "run_dir"), str(folder / "state_dir"), str(folder / "conf_dir"))


# -- resolve


def test_a_machine_without_labs_is_itself(bare: Path) -> None:
    found = resolve()
    assert (found.lab, found.nodes) == ("", (machine(bare),))


def test_the_only_lab(bare: Path) -> None:
    lab = make_lab("six")
    found = resolve()
    assert (found.lab, found.kubeconfig) == ("six", lab.kubeconfig)
    assert [node.name for node in found.nodes] == ["node1", "node2"]
    assert found.nodes[0].run_dir == f"{lab.nodes[0].folder}/run"


def test_the_default_lab_goes_before_others(bare: Path) -> None:
    make_lab("six")
    make_lab("default")
    assert resolve().lab == "default"
    assert resolve(lab="six").lab == "six"


def test_several_labs_need_a_name(bare: Path) -> None:
    make_lab("a")
    make_lab("b")
    with pytest.raises(UserError, match="there are several labs: say --lab with one of a, b"):
        resolve()


def test_folders_mean_this_machine_even_beside_a_lab(bare: Path) -> None:
    make_lab()
    found = resolve(run_dir="/run/x", state_dir="/var/x", kubeconfig="/k")
    assert (found.lab, found.kubeconfig) == ("", "/k")
    assert (found.nodes[0].run_dir, found.nodes[0].state_dir) == ("/run/x", "/var/x")


def test_contradictions_and_unknown_names(bare: Path) -> None:
    with pytest.raises(UserError, match="exclude each other"):
        resolve(lab="default", run_dir="/run/x")
    with pytest.raises(UserError, match="no lab is named 'nope'"):
        resolve(lab="nope")
    with pytest.raises(UserError, match="can't name a lab"):
        resolve(lab="../etc")


def test_one_node_of_several(bare: Path) -> None:
    make_lab()
    assert [node.name for node in resolve().only("node2").nodes] == ["node2"]
    assert len(resolve().only(None).nodes) == 2
    with pytest.raises(UserError, match="there is no node node9 here: lab default has node1, node2"):
        resolve().only("node9")


def test_this_machine_by_the_name_its_agent_has(bare: Path, agent: Agent) -> None:
    with pytest.raises(UserError, match="this machine is no node whose agent answers"):
        resolve().only("node1")
    agent()
    assert resolve().only("node1").nodes == resolve().nodes
    with pytest.raises(UserError, match="this machine is node1"):
        resolve().only("node2")


# -- asking


def test_an_answer(bare: Path, agent: Agent) -> None:
    agent()
    assert machine(bare).ask("status") == STATUS


def test_nobody_there(bare: Path) -> None:
    with pytest.raises(AgentAway, match=r"no agent runs at .*/agent.sock"):
        machine(bare).ask("status")


def test_a_socket_that_a_killed_agent_left(bare: Path) -> None:
    (bare / "run_dir").mkdir()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(bare / "run_dir/agent.sock"))
    left.close()
    with pytest.raises(AgentAway, match=r"does not answer: .*refused"):
        machine(bare).ask("status")


def test_an_agent_that_hangs(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "SECONDS", 0.05)
    (bare / "run_dir").mkdir()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(bare / "run_dir/agent.sock"))
        deaf.listen()
        with pytest.raises(AgentAway, match="timed out"):
            machine(bare).ask("status")


def test_answers_that_are_none(bare: Path, agent: Agent) -> None:
    agent(status=b"<html>", plan=None)
    with pytest.raises(AgentAway, match="answered something else"):
        machine(bare).ask("status")
    with pytest.raises(AgentAway, match="answered 404"):
        machine(bare).ask("plan")


def test_a_socket_of_root(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(target._Connection, "connect", refuse)
    with pytest.raises(UserError, match=r"only root may talk to the agent at .*: use sudo"):
        machine(bare).ask("status")


# -- endpoints


def test_endpoints_of_a_machine(bare: Path, agent: Agent) -> None:
    agent()
    node, pod = endpoints(machine(bare))
    assert (node.name, node.kind, node.addresses, node.device) == ("node1", "node", ("127.0.0.2",), "up0")
    assert (pod.name, pod.kind, pod.node, pod.addresses) == ("default/p", "pod", "node1", ("127.0.0.1",))


def test_a_machine_whose_address_nobody_tells_has_pods_only(bare: Path, agent: Agent) -> None:
    agent(status={"node": "node1"})
    assert [each.kind for each in endpoints(machine(bare))] == ["pod"]


async def test_records_say_the_same(bare: Path) -> None:
    store = await Attachments.open(str(bare / "state_dir"), "boot")
    await store.add(Attachment("c1", "eth0", "/ns/p", pod="default/p"), ranges.of_node(["10.1.0.0/24"]))
    await store.close()
    (pod,) = endpoints_on_record(msgspec.structs.replace(machine(bare), name="node1"))
    assert (pod.name, pod.node, pod.netns) == ("default/p", "node1", "/ns/p")


def test_no_records(bare: Path) -> None:
    with pytest.raises(UserError, match="no agent has run with this state directory"):
        endpoints_on_record(machine(bare))


def test_containers_of_a_lab_pod(bare: Path, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab(nodes=1)
    folder = Path(lab.nodes[0].pods_dir, "uid")
    for run in ("web/0", "web/1", "side/0"):
        (folder / "containers" / run).mkdir(parents=True)
    sandbox.save(sandbox.Sandbox("c1", "uid", "default", "p", str(folder), ""))
    running = {"web/1": process.Running(11, 10), "side/0": process.Running(21, 20), "web/0": process.Ended(0, 1.0)}
    monkeypatch.setattr(process, "look", lambda path: running["/".join(path.split("/")[-2:])])
    agent(run_dir=lab.nodes[0].run_dir)
    pod = endpoints(resolve().nodes[0])[1]
    assert pod.containers == (("side", "/proc/21/ns/net"), ("web", "/proc/11/ns/net"))


# -- options


def test_options_complete_names_of_labs(bare: Path) -> None:
    for name in ("one", "other", "two"):
        make_lab(name)
    found = ShellComplete(main.podnet, {}, "podnet", "_PODNET_COMPLETE").get_completions(["status", "--lab"], "o")
    assert [item.value for item in found] == ["one", "other"]


def test_options_complete_names_of_nodes(bare: Path) -> None:
    complete = ShellComplete(main.podnet, {}, "podnet", "_PODNET_COMPLETE").get_completions
    assert complete(["plan", "--node"], "n") == []
    make_lab("one", nodes=1)
    assert [item.value for item in complete(["plan", "--node"], "n")] == ["node1"]
    make_lab("two", nodes=2)
    assert complete(["plan", "--node"], "n") == [], "which lab?"
    assert [item.value for item in complete(["doctor", "--lab", "two", "--node"], "n")] == ["node1", "node2"]
