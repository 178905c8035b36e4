"""One container's life: runs, restarts, back-off, adoption. Real processes, without namespaces of their own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from podnet.lab import process
from podnet.lab.containers import Backoff, ContainerLife, Host, Live, Terminated, Waiting, grace_of, runs
from podnet.lab.process import Command, Running
from podnet.lab.sandbox import Sandbox
from tests.labs.values import container, pod, sandbox, until

pytestmark = pytest.mark.usefixtures("shim")

QUICK = Backoff(base=0.05, cap=0.1, reset=60)


class PlainLife(ContainerLife):
    """Runs its processes in the namespaces of the test."""

    def _command(self) -> Command:
        return msgspec.structs.replace(super()._command(), netns="", hostname="", binds=())


Make = Callable[..., PlainLife]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes the life of a container that runs a script."""

    def life(
        script: str = "sleep 60", once: bool = False, backoff: Backoff = QUICK, made_at: float = 1.0, **spec: Any
    ) -> PlainLife:
        fields = {
            key: spec.pop(key)
            for key in ("env", "workingDir", "command", "startupProbe", "livenessProbe", "readinessProbe")
            if key in spec
        }
        owner = pod(container(script=script, **fields), **spec)
        place = sandbox(tmp_path, made_at=made_at)
        host = Host("node1", ("192.168.77.11",), backoff)
        return PlainLife(owner, owner.spec.containers[0], place, host, lambda: changes.append(1), once)

    changes: list[int] = []
    return life


@asynccontextmanager
async def living(life: ContainerLife) -> AsyncIterator[asyncio.Task[int]]:
    """Lets it live during the block, and kills what is left."""
    task = asyncio.create_task(life.live())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        for number in runs(life.folder):
            await process.stop(f"{life.folder}/{number}", 0)


def is_live(life: ContainerLife) -> bool:
    return isinstance(life.state, Live)


def output(life: ContainerLife, number: int = 0) -> list[str]:
    lines = Path(life.folder, str(number), "log").read_text().splitlines()
    return [line.split(" ", 3)[3] for line in lines]


# -- restart policy


@pytest.mark.parametrize(
    ("policy", "script", "code"), [("Never", "exit 0", 0), ("Never", "exit 4", 4), ("OnFailure", "exit 0", 0)]
)
async def test_what_is_not_restarted(make: Make, policy: str, script: str, code: int) -> None:
    life = make(script, restartPolicy=policy)
    async with living(life) as task:
        assert await task == code
    assert runs(life.folder) == [0]
    assert isinstance(life.state, Terminated)
    assert life.state.code == code
    assert life.state.since <= life.state.at


@pytest.mark.parametrize(("policy", "script"), [("Always", "exit 0"), ("Always", "exit 4"), ("OnFailure", "exit 4")])
async def test_what_is_restarted(make: Make, policy: str, script: str) -> None:
    life = make(script, restartPolicy=policy)
    async with living(life):
        await until(lambda: life.restarts >= 3)
    assert life.last is not None
    assert len(runs(life.folder)) <= 3


async def test_on_failure_ends_with_the_first_success(make: Make, tmp_path: Path) -> None:
    life = make(f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -ge 3 ]", restartPolicy="OnFailure")
    async with living(life) as task:
        assert await task == 0
    assert life.restarts == 2


async def test_an_init_container_runs_once_whatever_the_policy(make: Make) -> None:
    life = make("exit 0", once=True, restartPolicy="Always")
    async with living(life) as task:
        assert await task == 0
    assert life.ready


async def test_a_failing_init_container_is_tried_again(make: Make, tmp_path: Path) -> None:
    life = make(f"test -e {tmp_path}/ok || {{ touch {tmp_path}/ok; exit 1; }}", once=True)
    async with living(life) as task:
        assert await task == 0
    assert life.restarts == 1


async def test_an_init_container_of_an_older_sandbox_runs_again(make: Make) -> None:
    async with living(make("exit 0", once=True)) as task:
        await task
    again = make("exit 0", once=True, made_at=4e9)
    again.recall()
    assert not again._final(again.state)  # type: ignore[arg-type]


# -- back-off


@pytest.mark.parametrize(
    ("runs_so_far", "seconds"), [(0, 0), (1, 0), (2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 300), (50, 300)]
)
def test_backoff_doubles_to_its_cap(runs_so_far: int, seconds: float) -> None:
    assert Backoff().after(runs_so_far) == seconds


async def test_a_crashing_container_waits_longer_each_time(make: Make) -> None:
    life = make("exit 1", backoff=Backoff(base=0.3, cap=60))
    async with living(life):
        await until(lambda: isinstance(life.state, Waiting) and life.state.reason == "CrashLoopBackOff")
        assert life.restarts == 1
        assert isinstance(life.state, Waiting)
        assert life.state.message.endswith("restarting failed container=main pod=web")
        assert life.last is not None
        assert life.last.code == 1
        await until(lambda: life.restarts == 2)


async def test_a_long_run_starts_the_backoff_over(make: Make) -> None:
    life = make("sleep 0.1; exit 1", backoff=Backoff(base=60, cap=60, reset=0.05))
    async with living(life):
        await until(lambda: life.restarts >= 3)


# -- start


async def test_it_gets_its_command_environment_and_directory(make: Make, tmp_path: Path) -> None:
    life = make(
        'echo "$IP $PWD"',
        restartPolicy="Never",
        workingDir=str(tmp_path),
        env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    )
    async with living(life) as task:
        await task
    assert output(life) == [f"127.0.0.1 {tmp_path}"]


async def test_what_can_not_be_executed_is_a_start_error(make: Make) -> None:
    life = make(restartPolicy="Never", command=["/no/such/program"])
    async with living(life) as task:
        assert await task == 128
    assert isinstance(life.state, Terminated)
    assert life.state.reason == "StartError"
    assert life.state.message == "exec /no/such/program: No such file or directory"


def test_the_command_of_a_container_has_every_namespace(make: Make) -> None:
    life = make()
    command = ContainerLife._command(life)
    assert command.netns == "/proc/self/ns/net"
    assert command.hostname == "web"
    assert [target for _, target in command.binds] == ["/etc/hosts", "/etc/resolv.conf"]
    assert command.cwd == "/"
    assert not command.keep


# -- a kubelet that comes and goes


async def test_cancelling_leaves_the_process_alone_and_the_next_adopts_it(make: Make) -> None:
    life = make()
    async with asyncio.timeout(10):
        task = asyncio.create_task(life.live())
        await until(lambda: is_live(life))
        before = process.look(life.run_folder)
        task.cancel()
        await asyncio.wait([task])
    again = make()
    async with living(again):
        await until(lambda: is_live(again))
        assert process.look(again.run_folder) == before
        assert again.restarts == 0
        assert again.ready


async def test_an_exit_that_nobody_saw_is_found(make: Make) -> None:
    life = make("sleep 0.2; exit 9", restartPolicy="Never")
    task = asyncio.create_task(life.live())
    await until(lambda: is_live(life))
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0.4)
    async with living(make(restartPolicy="Never")) as again:
        assert await again == 9


async def test_a_run_that_never_began_counts_as_lost(make: Make) -> None:
    life = make(restartPolicy="Never")
    os.makedirs(life.run_folder)
    async with living(life) as task:
        assert await task == process.LOST


async def test_a_killed_shim_is_a_lost_container_that_is_restarted(make: Make) -> None:
    life = make()
    async with living(life):
        await until(lambda: is_live(life))
        found = process.look(life.run_folder)
        assert isinstance(found, Running)
        os.kill(found.shim, signal.SIGKILL)
        await until(lambda: life.restarts == 1 and is_live(life))
        assert life.last is not None
        assert life.last.code == process.LOST


async def test_nothing_was_ever_run(make: Make) -> None:
    life = make()
    life.recall()
    assert life.state == Waiting("ContainerCreating")
    assert life.restarts == 0


def test_a_container_behind_init_containers_says_so(make: Make) -> None:
    assert make(initContainers=[container("first")]).state == Waiting("PodInitializing")
    assert make(initContainers=[container("first")], once=True).state == Waiting("ContainerCreating")


# -- probes (their rules are in test_probes.py)


def probe(script: str, **fields: Any) -> dict[str, Any]:
    return {"exec": {"command": ["sh", "-c", script]}, "periodSeconds": 1, "failureThreshold": 1, **fields}


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exec probes run without entering namespaces."""
    monkeypatch.setattr(process, "enter", lambda pid, command: list(command))


@pytest.mark.usefixtures("_here")
async def test_ready_when_the_readiness_probe_says_so(make: Make, tmp_path: Path) -> None:
    life = make(readinessProbe=probe(f"test -e {tmp_path}/ok"))
    async with living(life):
        await until(lambda: life.started)
        assert not life.ready
        (tmp_path / "ok").touch()
        await until(lambda: life.ready)


@pytest.mark.usefixtures("_here")
async def test_an_unhealthy_container_is_stopped_and_restarted(make: Make, tmp_path: Path) -> None:
    (tmp_path / "ok").touch()
    life = make(livenessProbe=probe(f"test -e {tmp_path}/ok"), terminationGracePeriodSeconds=1)
    async with living(life):
        await until(lambda: life.ready)
        (tmp_path / "ok").unlink()
        await until(lambda: life.restarts == 1)
        assert life.last is not None
        assert life.last.code == 143


@pytest.mark.usefixtures("_here")
async def test_not_started_before_the_startup_probe_says_so(make: Make, tmp_path: Path) -> None:
    life = make(startupProbe=probe(f"test -e {tmp_path}/ok", failureThreshold=50))
    async with living(life):
        await until(lambda: is_live(life))
        assert not life.started
        assert not life.ready
        (tmp_path / "ok").touch()
        await until(lambda: life.started and life.ready)


# -- the rest


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [({}, 30), ({"terminationGracePeriodSeconds": 0}, 0), ({"terminationGracePeriodSeconds": 5}, 5)],
)
def test_grace(fields: dict[str, Any], seconds: int) -> None:
    assert grace_of(pod(**fields)) == seconds


def test_runs_are_numbers_in_order(tmp_path: Path) -> None:
    for name in ("10", "2", "0", "notes", "1x"):
        (tmp_path / name).mkdir()
    assert runs(str(tmp_path)) == [0, 2, 10]
    assert runs(str(tmp_path / "none")) == []


def test_a_sandbox_in_short(tmp_path: Path) -> None:
    assert isinstance(sandbox(tmp_path), Sandbox)
