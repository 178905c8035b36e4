"""`podnet lab` as a command line: help, and one sentence with exit code 2 for everything a user can get wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from podnet.cli import lab as cli
from podnet.cli import main as entry
from podnet.errors import UserError
from podnet.lab import registry
from podnet.lab.report import NodeReport, ProgramReport, Report
from tests.labs.test_registry import lab as make_lab

COMMANDS = ["up", "down", "status", "exec", "kubeconfig", "add-node", "remove-node", "logs"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `podnet lab WORDS`."""
    with pytest.raises(SystemExit) as ended:
        entry.main(["lab", *words])
    out, err = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), out, err


@pytest.fixture(autouse=True)
def _root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone is root, and no lab exists."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


# -- help


def test_every_command_is_there() -> None:
    assert sorted(cli.lab.commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "Example" in out
    assert f"podnet lab {command}" in out
    assert "--name" in out


def test_the_groups_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_options(capsys: pytest.CaptureFixture[str], command: str) -> None:
    more = {"exec": [], "remove-node": ["x"], "logs": ["x"]}.get(command, [])
    code, _, err = run(capsys, command, *more, "--nonsense")
    assert code == 2
    assert err.startswith("podnet: ")
    assert "Traceback" not in err


# -- what a lab needs


def test_without_root(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for words in (["up"], ["down"]):
        code, _, err = run(capsys, *words)
        assert code == 2
        assert "needs root: run it as root, or with sudo" in err
    assert not root.exists()


@pytest.mark.parametrize("command", [["add-node"], ["remove-node", "node1"], ["exec", "node1", "--", "true"]])
def test_without_root_on_a_lab(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, root: Path, command: list[str]
) -> None:
    make_lab(root, "default")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "needs root" in err


def test_a_missing_tool_is_named_with_its_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = run(capsys, "up")
    assert code == 2
    assert "the command ip is missing: install iproute2" in err


def test_an_unknown_backend_names_those_there_are(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    code, _, err = run(capsys, "up", "--backend", "pigeon")
    assert code == 2
    assert "there is no backend 'pigeon': use one of host-gw, vxlan" in err
    assert not root.exists()


def refusing(kind: str) -> Any:
    """A kernel that makes no links of one kind."""

    def run(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        refused = kind in words
        return subprocess.CompletedProcess(
            words, 2 if refused else 0, "", "Error: Unknown device type.\n" if refused else ""
        )

    return run


@pytest.mark.parametrize(
    ("lacks", "backend", "fine"),
    [("vxlan", "vxlan", False), ("vxlan", "host-gw", True), ("veth", "host-gw", False), ("bridge", "vxlan", False)],
)
def test_a_missing_kernel_feature(monkeypatch: pytest.MonkeyPatch, lacks: str, backend: str, fine: bool) -> None:
    monkeypatch.setattr(subprocess, "run", refusing(lacks))
    if fine:
        cli.need_kernel(backend)
        return
    with pytest.raises(UserError, match=f"this kernel makes no {lacks} links .Error: Unknown device type"):
        cli.need_kernel(backend)


# -- names


@pytest.mark.parametrize("command", ["status", "kubeconfig", "add-node"])
@pytest.mark.parametrize("name", ["default", "other"])
def test_a_lab_that_is_not_there(capsys: pytest.CaptureFixture[str], command: str, name: str) -> None:
    code, _, err = run(capsys, command, "--name", name)
    assert code == 2
    assert err == f"podnet: no lab is named '{name}'; podnet lab up makes one\n"


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_a_name_that_can_not_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(cli, "need_kernel", lambda backend: None)
    code, _, err = run(capsys, command, "--name", "../x")
    assert code == 2
    assert "can't name a lab" in err


def test_down_of_nothing(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    code, _, err = run(capsys, "down")
    assert code == 0
    assert "there is no lab default: nothing to do" in err
    assert not root.exists()


def test_down_all(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    for name in ("one", "two"):
        make_lab(root, name)
    code, _, err = run(capsys, "down", "--all")
    assert code == 0
    assert "lab one is gone" in err
    assert "lab two is gone" in err
    assert not root.exists()


def test_a_damaged_lab_can_still_be_taken_down(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    made = make_lab(root)
    Path(made.folder, "lab.json").write_text("{")
    code, _, err = run(capsys, "status", "--name", "one")
    assert code == 2
    assert "podnet lab down --name one removes it" in err
    assert run(capsys, "down", "--name", "one")[0] == 0
    assert not root.exists()


def test_kubeconfig(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    made = make_lab(root, "default")
    assert run(capsys, "kubeconfig")[:2] == (0, f"{made.kubeconfig}\n")


# -- completion


def test_names_are_completed(root: Path) -> None:
    for name in ("one", "other", "two"):
        make_lab(root, name)
    context = click.Context(cli.lab)
    parameter = cli.down.params[0]
    assert cli._complete(context, parameter, "o") == ["one", "other"]
    assert cli._complete(context, parameter, "") == list(registry.names())


def test_places_are_completed(root: Path) -> None:
    make_lab(root, "default")
    context = click.Context(cli.lab)
    assert cli._complete_where(context, cli.down.params[0], "node") == ["node1", "node2"]
    context.params["name"] = "none"
    assert cli._complete_where(context, cli.down.params[0], "") == []


# -- status


@pytest.mark.parametrize("ok", [True, False])
def test_status_as_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, root: Path, ok: bool
) -> None:
    make_lab(root, "default")
    shown = Report(
        "default", ok, "all is well" if ok else "not ready: node2", "/k",
        (ProgramReport("api", "running", 42, "2026-01-01T00:00:00Z"),),
        (NodeReport("node1", ("192.168.77.11",), True, 3), NodeReport("node2", ("192.168.77.12",), ok, None)),
    )  # fmt: skip
    monkeypatch.setattr("podnet.lab.report.report", lambda lab: shown)
    code, out, _ = run(capsys, "status")
    assert code == (0 if ok else 1)
    assert f"lab default: {shown.summary}" in out
    assert "PROGRAM" in out
    assert "192.168.77.12" in out
    code, out, _ = run(capsys, "status", "-o", "yaml")
    assert "summary:" in out


def test_the_hints_fit_the_lab(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [os.path.abspath(".venv/bin/podnet"), "lab", "up"])
    monkeypatch.setenv("PATH", "/nowhere")
    one = make_lab(root, "one")
    assert "  .venv/bin/podnet lab down --name one" in cli._hints(one, True)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "  podnet lab down --name one" in cli._hints(one, True)
    assert "--name" not in cli._hints(make_lab(root, "default"), False)


def test_importing_the_command_is_quick() -> None:
    """It is imported for every completion: nothing slow may come along."""
    code = (
        "import sys, podnet.cli.lab; print(sorted({'aiohttp', 'asyncio', 'cryptography', 'yaml'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['asyncio']"
