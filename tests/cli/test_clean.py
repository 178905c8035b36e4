"""`podnet clean`: what it refuses, what it lists; that it removes the right things is tests/lab/test_check_clean.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from podnet.kernel import dataplane
from podnet.kernel.outcome import ApplyError, Outcome
from podnet.state.host import Sysctl
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Plan
from podnet.state.resource import Resource
from podnet.state.routes import Route
from tests.cli.conftest import Agent, Podnet
from tests.cli.fakes import make_lab

THERE: tuple[Resource, ...] = (
    NftTable("inet", "podnet-masquerade", "chain x { }"),
    Element("inet", "podnet-masquerade", "nodes-ip", "10.0.0.1"),
    Route("10.244.2.0/24", dev="podnet.1"),
    Sysctl("net/ipv4/ip_forward", "1"),
)


class FakeDataplane:
    """Holds THERE; routes in `stuck` can't be removed."""

    made: list[FakeDataplane]
    stuck: frozenset[str] = frozenset()

    def __init__(self, state_dir: str, netns: str, patient: bool) -> None:
        assert not patient
        assert Path(state_dir).is_dir()
        self.where = (state_dir, netns)
        self.applied: list[Plan] = []
        self.closed = False
        self.made.append(self)

    def read(self, desired: dict[Any, Any]) -> dict[Any, Resource]:
        assert desired == {}
        return {resource.key: resource for resource in THERE}

    def apply(self, plan: Plan) -> Outcome:
        self.applied.append(plan)
        failed = [ApplyError(s.resource, "delete", 16) for s in plan.steps if s.resource.key[-1] in self.stuck]
        return Outcome(failed=tuple(failed))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kernel(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[FakeDataplane]]:
    """A kernel that holds THERE."""

    def start(*stuck: str) -> list[FakeDataplane]:
        FakeDataplane.made, FakeDataplane.stuck = [], frozenset(stuck)
        monkeypatch.setattr(dataplane, "KernelDataplane", FakeDataplane)
        return FakeDataplane.made

    return start


@pytest.fixture
def files(bare: Path) -> list[Path]:
    """What an agent leaves behind, and a neighbour's file."""
    made = [
        "conf_dir/10-podnet.conflist",
        "conf_dir/20-other.conf",
        "state_dir/attachments.db",
        "state_dir/sysctl.json",
    ]
    for name in made:
        (bare / name).parent.mkdir(exist_ok=True)
        (bare / name).write_text("x")
    return [bare / name for name in made]


def test_dry_run_changes_nothing(podnet: Podnet, kernel: Any, files: list[Path]) -> None:
    made = kernel()
    code, out, err = podnet("clean", "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "would remove  nfttable inet podnet-masquerade",
        "would remove  sysctl net/ipv4/ip_forward value=1 (gets its former value)",
        "would remove  route 10.244.2.0/24 dev=podnet.1",
        f"would remove  {files[0]}",
        f"would remove  {files[3]}",
    ]
    assert (made[0].applied, made[0].closed) == ([], True)
    assert all(file.exists() for file in files)


def test_clean(podnet: Podnet, kernel: Any, files: list[Path]) -> None:
    made = kernel()
    code, out, _ = podnet("clean")
    assert code == 0
    assert out.splitlines()[0] == "removed  nfttable inet podnet-masquerade"
    assert {step.verb for step in made[0].applied[0].steps} == {"delete"}
    assert len(made[0].applied[0].steps) == len(THERE)
    assert [file.exists() for file in files] == [False, True, True, False]


def test_all_forgets_the_records_too(podnet: Podnet, kernel: Any, files: list[Path], bare: Path) -> None:
    kernel()
    code, out, _ = podnet("clean", "--all", "-o", "json")
    value = json.loads(out)
    assert (code, value["dryRun"], value["failed"], value["node"]) == (0, False, [], "this machine")
    assert value["removed"][-1] == str(bare / "state_dir")
    assert not (bare / "state_dir").exists()
    assert files[1].exists()


def test_what_cannot_be_removed(podnet: Podnet, kernel: Any, files: list[Path]) -> None:
    kernel("10.244.2.0/24")
    code, out, _ = podnet("clean")
    assert code == 1
    assert "FAILED  cannot delete route 10.244.2.0/24 dev=podnet.1: Device or resource busy" in out
    assert files[3].exists(), "what is remembered is needed for the next try"


def test_without_a_state_directory_none_is_left(podnet: Podnet, kernel: Any, bare: Path) -> None:
    kernel()
    assert podnet("clean")[0] == 0
    assert not (bare / "state_dir").exists()


def test_nothing_there(podnet: Podnet, kernel: Any, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel()
    monkeypatch.setattr(FakeDataplane, "read", lambda self, desired: {})
    assert podnet("clean") == (0, "there is nothing of podnet here\n", "")


def test_a_running_agent_would_put_it_back(podnet: Podnet, kernel: Any, agent: Agent) -> None:
    made = kernel()
    agent()
    code, out, err = podnet("clean")
    assert (code, out, made) == (2, "", [])
    assert err == "podnet: the agent is running and would put everything back: stop it first, or say --force\n"
    assert podnet("clean", "--dry-run")[0] == 0
    assert podnet("clean", "--force")[0] == 0
    assert podnet("plan")[0] == 0, "the sockets of a living agent stay"


def test_a_lab_asks_for_a_node(podnet: Podnet, kernel: Any, bare: Path) -> None:
    made = kernel()
    lab = make_lab(netns="/nowhere")
    code, _, err = podnet("clean")
    assert (code, made) == (2, [])
    assert "say --node with one of node1, node2, or --run-dir for this machine itself" in err
    assert podnet("clean", "--node", "node2")[0] == 0
    assert made[0].where == (lab.nodes[1].state_dir, "/nowhere")


def test_another_machines_name(podnet: Podnet, kernel: Any, bare: Path) -> None:
    made = kernel()
    assert podnet("clean", "--node", "node9")[0] == 2
    assert made == []


def test_a_lab_node_whose_namespace_is_gone(podnet: Podnet, bare: Path) -> None:
    make_lab(netns="/nowhere")
    code, _, err = podnet("clean", "--node", "node1")
    assert (code, err) == (2, "podnet: the namespace /nowhere does not exist: podnet lab down removes what is left\n")


def test_not_root(podnet: Podnet, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert podnet("clean")[2] == "podnet: removing links, routes and tables needs root: use sudo\n"
