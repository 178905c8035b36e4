"""What should run, and that it keeps running: starts, restarts, adoption, a changed lab.json."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from podnet.lab import process, registry, supervisor
from podnet.lab.process import Command, Ended, Running
from podnet.lab.registry import Lab
from podnet.lab.supervisor import Program, Supervisor, keep, launch, programs
from tests.labs.test_registry import lab
from tests.labs.values import read_text, until

# -- what should run


def test_a_lab_runs_an_api_and_the_programs_of_each_node(root: Path) -> None:
    made = lab(root)
    assert list(programs(made)) == ["api", *made.nodes[0].programs, *made.nodes[1].programs]


def test_the_api_server(root: Path) -> None:
    made = lab(root)
    program = programs(made)["api"]
    assert program.port == 40000
    assert program.command.netns == made.fabric_netns
    words = " ".join(program.command.argv)
    assert f"apiserver --data-dir {made.folder}/api" in words
    assert "--listen-fd {fd}" in words
    assert "--public-url https://127.0.0.1:40000" in words
    assert "--service-cluster-ip-range 10.96.0.0/16 " in words
    assert "--load-balancer-pool 192.168.77.200-192.168.77.250 " in words
    assert words.endswith("--listen 192.168.77.1:6443")


def test_the_api_server_of_a_dual_stack_lab(root: Path) -> None:
    argv = programs(lab(root, dual_stack=True))["api"].command.argv
    assert argv[-1] == "[fd77::1]:6443"
    assert argv[argv.index("--service-cluster-ip-range") + 1] == "10.96.0.0/16,fd00:10:96::/112"
    assert argv[argv.index("--load-balancer-pool") + 1] == "192.168.77.200-192.168.77.250,fd77::200-fd77::250"


def test_an_agent(root: Path) -> None:
    made = lab(root)
    command = programs(made)["agent-node2"].command
    node = made.node("node2")
    assert command.netns == node.netns
    assert command.argv[1:] == (
        *("agent", "--node", "node2", "--kubeconfig", node.kubeconfig, "--state-dir", node.state_dir),
        *("--run-dir", node.run_dir, "--conf-dir", node.conf_dir, "--listen", "192.168.77.12:10258"),
    )


def test_a_kubelet(root: Path) -> None:
    made = lab(root)
    command = programs(made)["kubelet-node1"].command
    assert command.netns == made.node("node1").netns
    assert command.argv == (sys.executable, "-P", "-m", "podnet.lab.kubelet", "one", "node1")


def test_programs_keep_what_they_start_and_get_a_clean_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    for program in programs(lab(root)).values():
        assert program.command.keep
        assert "SECRET" not in program.command.env
        assert program.command.env["SSL_CERT_FILE"] == os.devnull


# -- launching


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(supervisor, "CAP_SECONDS", 0.1)


def script(text: str) -> Program:
    return Program(Command(("sh", "-c", text), {"PATH": os.environ["PATH"]}, keep=True))


@pytest.mark.usefixtures("shim")
async def test_a_program_with_a_port_gets_a_bound_socket(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import socket, sys; print(socket.socket(fileno=int(sys.argv[1])).getsockname())"
    launch(str(tmp_path), Program(Command((sys.executable, "-c", code, "{fd}")), port=port))
    await process.ended(str(tmp_path))
    assert f"('127.0.0.1', {port})" in read_text(f"{tmp_path}/log")


@pytest.mark.usefixtures("shim")
def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            launch(str(tmp_path), msgspec.structs.replace(script("true"), port=taken.getsockname()[1]))


# -- keeping


@asynccontextmanager
async def kept(folder: str, program: Program) -> AsyncIterator[None]:
    task = asyncio.create_task(keep(folder, program))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await process.stop(folder, 0)


def pid(folder: str) -> int:
    found = process.look(folder)
    return found.pid if isinstance(found, Running) else 0


@pytest.mark.usefixtures("shim", "_quick")
async def test_a_killed_program_is_started_again(tmp_path: Path) -> None:
    folder = str(tmp_path / "p")
    async with kept(folder, script("sleep 60")):
        await until(lambda: pid(folder))
        first = pid(folder)
        os.kill(first, signal.SIGKILL)
        await until(lambda: pid(folder) not in (0, first))


@pytest.mark.usefixtures("shim", "_quick")
async def test_a_program_that_always_ends_is_tried_less_and_less_often(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = str(tmp_path / "p")
    async with kept(folder, script(f"echo x >> {tmp_path}/starts; exit 1")):
        await until(lambda: len(caplog.records) >= 4)
    waits = [float(record.message.split("again in ")[1].split()[0]) for record in caplog.records]
    assert waits == sorted(waits)
    assert waits[-1] == 0.1
    assert "p ended with 1" in caplog.text


@pytest.mark.usefixtures("shim", "_quick")
async def test_one_that_runs_already_is_adopted(tmp_path: Path) -> None:
    folder = str(tmp_path / "p")
    process.start(folder, script("sleep 60").command)
    before = process.look(folder)
    async with kept(folder, script("sleep 60")):
        await asyncio.sleep(0.1)
        assert process.look(folder) == before


@pytest.mark.usefixtures("shim", "_quick")
async def test_one_that_can_not_be_started_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = str(tmp_path / "p")
    async with kept(folder, Program(Command((str(tmp_path / "later"),)))):
        await until(lambda: "can't be started" in caplog.text)
        caplog.clear()
        os.symlink("/bin/cat", tmp_path / "later")
        await until(lambda: "p ended with 0" in caplog.text)


# -- following lab.json


class World:
    """A lab whose programs are sleeps, under a supervisor."""

    def __init__(self, made: Lab) -> None:
        self.lab = made
        self.supervisor = Supervisor(made)

    def running(self) -> set[str]:
        folder = f"{self.lab.folder}/programs"
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return {name for name in names if pid(f"{folder}/{name}")}


@pytest.fixture
async def world(root: Path, shim: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    def sleeps(of: Lab) -> dict[str, Program]:
        return {name: script("sleep 60") for name in programs(of)}

    monkeypatch.setattr(supervisor, "programs", sleeps)
    found = World(lab(root))
    task = asyncio.create_task(found.supervisor.run())
    yield found
    task.cancel()
    for each in found.supervisor._tasks.values():
        each.cancel()
    await asyncio.wait([task, *found.supervisor._tasks.values()])
    for name in found.running():
        await process.stop(found.lab.program(name), 0)


async def test_everything_is_started(world: World) -> None:
    await until(lambda: world.running() == set(programs(world.lab)))


async def test_a_new_node_gets_its_programs_and_a_removed_one_loses_them(world: World) -> None:
    await until(lambda: len(world.running()) == 7)
    before = {name: pid(world.lab.program(name)) for name in world.running()}
    node = registry.make_node(world.lab.folder, 3, False)
    registry.save(msgspec.structs.replace(world.lab, nodes=(world.lab.nodes[0], node)))
    world.supervisor.reload.set()
    await until(lambda: world.running() == {"api", *world.lab.nodes[0].programs, *node.programs})
    stayed = ("api", "agent-node1", "kubelet-node1")
    assert {name: pid(world.lab.program(name)) for name in stayed} == {name: before[name] for name in stayed}


async def test_without_lab_json_it_ends_and_leaves_the_programs(world: World) -> None:
    await until(lambda: len(world.running()) == 7)
    os.unlink(f"{world.lab.folder}/lab.json")
    world.supervisor.reload.set()
    await asyncio.sleep(0.1)
    assert len(world.running()) == 7


# -- the process itself


@pytest.mark.usefixtures("shim")
async def test_start_starts_one_and_only_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(root)
    sleeper = root.parent / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    folder = made.program("supervisor")
    try:
        assert supervisor.start(made)
        first = pid(folder)
        signals: list[signal.Signals] = []
        monkeypatch.setattr(process, "send", lambda folder, number: signals.append(number))
        assert not supervisor.start(made)
        assert pid(folder) == first
        assert signals == [signal.SIGHUP]
    finally:
        process.stop_now(folder)


def test_an_unknown_lab_is_said(root: Path) -> None:
    with pytest.raises(SystemExit, match="no lab is named 'none'"):
        supervisor.main(["none"])


def test_ended_is_a_value() -> None:
    assert Ended(1, 2.0) == Ended(1, 2.0)
