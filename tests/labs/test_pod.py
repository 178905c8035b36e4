"""A pod's life from assignment to the end of its object: real processes, a fake API and fake sandboxes."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from podnet.client.errors import ApiError
from podnet.lab import pod as pods
from podnet.lab import process
from podnet.lab.containers import Backoff, ContainerLife, Host, container_folder, runs
from podnet.lab.libcni import TRY_AGAIN, PluginError
from podnet.lab.pod import PodLife
from podnet.lab.process import Command
from podnet.lab.sandbox import Sandbox, read, save
from podnet.network.dns.resolv_conf import ClusterDns
from podnet.objects.core import Condition, Pod, PodStatus
from podnet.objects.meta import Object
from tests.labs.values import container, exists, pod, read_text, until

pytestmark = pytest.mark.usefixtures("shim")

HOST = Host("node1", ("192.168.77.11",), Backoff(base=0.05, cap=0.1), dns=lambda: ClusterDns(("10.96.0.10",)))


class PlainLife(ContainerLife):
    """Runs its processes in the namespaces of the test."""

    def _command(self) -> Command:
        return msgspec.structs.replace(super()._command(), netns="", hostname="", binds=())


class FakeApi:
    """Takes statuses and deletions; `fail` has the codes with which the next requests are refused."""

    def __init__(self) -> None:
        self.statuses: list[dict[str, Any]] = []
        self.uids: list[str] = []
        self.deleted: list[tuple[str, int | None]] = []
        self.events: list[dict[str, Any]] = []
        self.fail: list[int] = []

    def _answer(self) -> None:
        if self.fail:
            raise ApiError(self.fail.pop(0), "Refused")

    async def create(self, kind: object, document: dict[str, Any]) -> None:
        self.events.append(document)

    async def get(self, kind: object, name: str, namespace: str, *, into: type[Object]) -> Object:
        return into()

    async def patch(self, kind: object, name: str, patch: dict[str, Any], namespace: str, **options: Any) -> None:
        self._answer()
        assert options == {"strategy": "strategic", "subresource": "status"}
        self.uids.append(patch["metadata"]["uid"])
        self.statuses.append(patch["status"])

    async def delete(self, kind: object, name: str, namespace: str, *, grace: int | None, uid: str) -> None:
        self._answer()
        self.deleted.append((uid, grace))

    @property
    def phases(self) -> list[str]:
        """Every phase that was reported, repetitions left out."""
        found: list[str] = []
        for status in self.statuses:
            if found[-1:] != [status["phase"]]:
                found.append(status["phase"])
        return found

    def condition(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in self.statuses[-1]["conditions"] if each["type"] == kind)
        return found


class FakeSandboxes:
    """Sandboxes in the test's own namespace; `fail` has the errors of the next calls."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.calls: list[str] = []
        self.fail: list[PluginError] = []

    def folder(self, of: Pod) -> str:
        return str(self.root / of.metadata.uid)

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.fail:
            raise self.fail.pop(0)

    def ready(self, of: Pod) -> bool:
        return read(self.folder(of)) is not None

    async def make(self, of: Pod) -> Sandbox:
        folder = self.folder(of)
        if found := read(folder):
            return found
        os.makedirs(folder, exist_ok=True)
        made = Sandbox("id", of.metadata.uid, *of.key, folder, "/proc/self/ns/net")
        self._answer("make")
        return save(msgspec.structs.replace(made, ips=("127.0.0.1",), made_at=1.0))

    async def release(self, sandbox: Sandbox) -> None:
        self._answer("release")

    async def remove(self, sandbox: Sandbox) -> None:
        self._answer("remove")
        shutil.rmtree(sandbox.folder, ignore_errors=True)


class World:
    """One pod with everything around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api = FakeApi()
        self.sandboxes = FakeSandboxes(folder)
        self.ready = asyncio.Event()
        self.ready.set()

    def life(self, of: Pod) -> PodLife:
        return PodLife(of, self.api, self.sandboxes, HOST, self.ready)  # type: ignore[arg-type]

    @asynccontextmanager
    async def living(self, life: PodLife) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(life.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self.sweep(life.pod)

    async def sweep(self, of: Pod) -> None:
        if found := read(self.sandboxes.folder(of)):
            for each in (*of.spec.init_containers, *of.spec.containers):
                folder = container_folder(found, each.name)
                for number in runs(folder):
                    await process.stop(f"{folder}/{number}", 0)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(pods, "ContainerLife", PlainLife)
    monkeypatch.setattr(pods, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(pods, "RETRY_CAP_SECONDS", 0.05)
    return World(tmp_path)


def deleted(of: Pod, grace: int | None = 1) -> Pod:
    """The pod after someone asked for its deletion."""
    metadata = msgspec.structs.replace(
        of.metadata, deletion_timestamp="2026-01-01T00:00:00Z", deletion_grace_period_seconds=grace
    )
    return msgspec.structs.replace(of, metadata=metadata)


def is_ready(world: World) -> Callable[[], bool]:
    return lambda: bool(world.api.statuses) and world.api.condition("Ready")["status"] == "True"


def pid_of(life: PodLife) -> int:
    found = process.look(life.mains[0].run_folder)
    assert isinstance(found, process.Running)
    return found.pid


# -- life


async def test_a_pod_gets_ready(world: World) -> None:
    life = world.life(pod(container("one"), container("two")))
    async with world.living(life):
        await until(is_ready(world))
    status = world.api.statuses[-1]
    assert world.api.phases == ["Pending", "Running"]
    assert status["podIP"] == "127.0.0.1"
    assert status["hostIP"] == "192.168.77.11"
    assert [each["name"] for each in status["containerStatuses"]] == ["one", "two"]
    assert set(world.api.uids) == {"uid-web"}


async def test_a_pod_whose_node_was_taken_for_dead_says_that_it_is_ready(world: World) -> None:
    life = world.life(pod())
    async with world.living(life):
        await until(is_ready(world))
        said = len(world.api.statuses)
        lost = PodStatus(phase="Running", conditions=(Condition("Ready", "False", "NodeNotReady"),))
        life.update(msgspec.structs.replace(life.pod, status=lost))
        await until(lambda: len(world.api.statuses) > said)
        assert world.api.condition("Ready")["status"] == "True"
        life.update(msgspec.structs.replace(life.pod, status=PodStatus(phase="Running")))
        await asyncio.sleep(0.05)
        assert len(world.api.statuses) == said + 1


async def test_a_pod_that_ends_well(world: World) -> None:
    life = world.life(pod(container(script="exit 0"), restartPolicy="Never"))
    async with world.living(life):
        await until(lambda: "Succeeded" in world.api.phases and "release" in world.sandboxes.calls)
        assert world.api.deleted == []
        assert exists(world.sandboxes.folder(life.pod))


async def test_a_pod_that_ends_badly(world: World) -> None:
    life = world.life(pod(container("one", "exit 0"), container("two", "exit 3"), restartPolicy="Never"))
    async with world.living(life):
        await until(lambda: "Failed" in world.api.phases)
    codes = [each["state"]["terminated"]["exitCode"] for each in world.api.statuses[-1]["containerStatuses"]]
    assert codes == [0, 3]


async def test_init_containers_run_in_order_before_the_others(world: World, tmp_path: Path) -> None:
    say = f"echo %s >> {tmp_path}/order"
    life = world.life(
        pod(
            container("main", say % "main"),
            initContainers=[container("first", f"sleep 0.1; {say % 'first'}"), container("second", say % "second")],
            restartPolicy="Never",
        )
    )
    async with world.living(life):
        await until(lambda: "Succeeded" in world.api.phases)
    assert read_text(f"{tmp_path}/order").split() == ["first", "second", "main"]
    assert world.api.condition("Initialized")["status"] == "True"


async def test_a_failed_init_container_ends_a_pod_that_never_restarts(world: World) -> None:
    life = world.life(pod(container(), initContainers=[container("first", "exit 2")], restartPolicy="Never"))
    async with world.living(life):
        await until(lambda: "Failed" in world.api.phases)
    assert runs(container_folder(read(world.sandboxes.folder(life.pod)), "main")) == []  # type: ignore[arg-type]


async def test_a_crashing_container_keeps_the_pod_running(world: World) -> None:
    life = world.life(pod(container("good"), container("bad", "exit 1")))
    async with world.living(life):
        await until(lambda: life.mains and life.mains[1].restarts >= 2)
        await until(lambda: world.api.statuses[-1]["containerStatuses"][1]["restartCount"] >= 2)
        assert world.api.phases == ["Pending", "Running"]


async def test_files_are_there_before_the_containers(world: World) -> None:
    life = world.life(pod(hostAliases=[{"ip": "1.2.3.4", "hostnames": ["db"]}]))
    async with world.living(life):
        await until(is_ready(world))
        folder = world.sandboxes.folder(life.pod)
        assert "1.2.3.4\tdb" in read_text(folder, "hosts")
        assert "nameserver 10.96.0.10" in read_text(folder, "resolv.conf")


async def test_what_a_resolver_can_not_take_is_told(world: World) -> None:
    life = world.life(pod(dnsConfig={"nameservers": ["10.0.0.1", "10.0.0.2", "10.0.0.3"]}))
    async with world.living(life):
        await until(is_ready(world))
    (event,) = world.api.events
    assert (event["reason"], event["involvedObject"]["kind"]) == ("DNSConfigForming", "Pod")
    assert event["message"].endswith("nameserver line is: 10.96.0.10 10.0.0.1 10.0.0.2")


# -- trouble with the network


async def test_it_waits_for_the_network(world: World) -> None:
    world.ready.clear()
    life = world.life(pod())
    async with world.living(life):
        await until(lambda: world.api.statuses)
        await asyncio.sleep(0.05)
        assert world.sandboxes.calls == []
        assert world.api.statuses[-1]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
        world.ready.set()
        await until(is_ready(world))


async def test_a_pod_with_hostnetwork_does_not_wait(world: World) -> None:
    world.ready.clear()
    async with world.living(world.life(pod(hostNetwork=True))):
        await until(is_ready(world))


async def test_a_refused_sandbox_is_tried_again_and_told(world: World) -> None:
    world.sandboxes.fail = [PluginError("podnet-cni", "ADD", TRY_AGAIN, "agent away") for _ in range(3)]
    async with world.living(world.life(pod())):
        await until(is_ready(world))
    assert world.sandboxes.calls == ["make"] * 4
    told = [condition.get("message") or "" for status in world.api.statuses for condition in status["conditions"]]
    assert any("agent away" in message for message in told)
    assert not world.api.condition("PodReadyToStartContainers")["message"]


# -- end


async def test_deletion_stops_everything_and_then_the_object_goes(world: World) -> None:
    life = world.life(pod(container(script="trap 'exit 7' TERM; while :; do sleep 0.01; done")))
    async with world.living(life) as task:
        await until(is_ready(world))
        await asyncio.sleep(0.1)
        life.update(deleted(life.pod, 5))
        await asyncio.wait_for(task, 5)
    assert world.sandboxes.calls == ["make", "release", "remove"]
    assert world.api.deleted == [("uid-web", 0)]
    ended = world.api.statuses[-1]
    assert ended["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7
    assert ended["phase"] == "Failed"
    assert not exists(world.sandboxes.folder(life.pod))


async def test_after_the_grace_it_is_killed(world: World) -> None:
    life = world.life(pod(container(script="trap '' TERM; while :; do sleep 0.01; done")))
    async with world.living(life) as task:
        await until(is_ready(world))
        await asyncio.sleep(0.1)
        life.update(deleted(life.pod, 1))
        await asyncio.wait_for(task, 5)
    assert world.api.statuses[-1]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137


async def test_a_shorter_grace_counts_at_once(world: World) -> None:
    life = world.life(pod(container(script="trap '' TERM; while :; do sleep 0.01; done")))
    async with world.living(life) as task:
        await until(is_ready(world))
        life.update(deleted(life.pod, 600))
        await asyncio.sleep(0.2)
        assert not task.done()
        life.update(deleted(life.pod, 0))
        await asyncio.wait_for(task, 5)
    assert world.api.deleted


async def test_a_longer_grace_has_no_effect(world: World) -> None:
    life = world.life(pod())
    life.end(3)
    life.end(30)
    assert life._grace == 3


async def test_deletion_without_a_grace_uses_the_pods_own(world: World) -> None:
    life = world.life(pod(terminationGracePeriodSeconds=9))
    life.update(deleted(life.pod, None))
    assert life._grace == 9


async def test_an_object_that_vanished_takes_everything_along(world: World) -> None:
    life = world.life(pod())
    async with world.living(life) as task:
        await until(is_ready(world))
        world.api.fail = [404, 404]
        life.end()
        await asyncio.wait_for(task, 5)
    assert world.sandboxes.calls[-1] == "remove"
    assert not exists(world.sandboxes.folder(life.pod))


async def test_deletion_before_anything_was_made(world: World) -> None:
    world.ready.clear()
    life = world.life(pod())
    async with world.living(life) as task:
        await until(lambda: world.api.statuses)
        life.update(deleted(life.pod))
        await asyncio.wait_for(task, 5)
    assert world.sandboxes.calls == []
    assert world.api.deleted == [("uid-web", 0)]


async def test_deletion_while_an_init_container_runs(world: World) -> None:
    life = world.life(pod(container(), initContainers=[container("first")]))
    async with world.living(life) as task:
        await until(lambda: life.inits and os.path.exists(f"{life.inits[0].run_folder}/pid"))
        life.update(deleted(life.pod))
        await asyncio.wait_for(task, 5)
    assert world.api.deleted


async def test_deletion_of_a_finished_pod(world: World) -> None:
    life = world.life(pod(container(script="exit 0"), restartPolicy="Never"))
    async with world.living(life) as task:
        await until(lambda: "Succeeded" in world.api.phases and "release" in world.sandboxes.calls)
        life.update(deleted(life.pod))
        await asyncio.wait_for(task, 5)
    assert world.sandboxes.calls == ["make", "release", "remove"]


async def test_what_fails_at_the_end_is_tried_again(world: World) -> None:
    life = world.life(pod())
    async with world.living(life) as task:
        await until(is_ready(world))
        world.sandboxes.fail = [PluginError("x", "DEL", TRY_AGAIN, "later")] * 2
        world.api.fail = [500, 503, 0]
        life.update(deleted(life.pod))
        await asyncio.wait_for(task, 5)
    assert world.sandboxes.calls.count("release") >= 2
    assert world.api.deleted == [("uid-web", 0)]


# -- a kubelet that comes and goes


async def test_cancelling_leaves_everything_running_and_the_next_goes_on(world: World) -> None:
    first = world.life(pod())
    task = asyncio.create_task(first.run())
    await until(is_ready(world))
    before = pid_of(first)
    task.cancel()
    await asyncio.wait([task])
    world.api.statuses.clear()
    world.ready.clear()
    second = world.life(pod())
    async with world.living(second):
        await until(is_ready(world))
        assert pid_of(second) == before
    assert world.sandboxes.calls == ["make"]


async def test_a_new_kubelet_never_says_that_a_running_pod_is_not_ready(world: World) -> None:
    probe = {"exec": {"command": ["true"]}, "initialDelaySeconds": 60}
    slow = pod(container("one", readinessProbe=probe, startupProbe=probe), container("two"))
    first = world.life(slow)
    task = asyncio.create_task(first.run())
    await until(lambda: first.mains and first.mains[0].run_folder and exists(f"{first.mains[0].run_folder}/pid"))
    await until(lambda: exists(f"{first.mains[1].run_folder}/pid"))
    task.cancel()
    await asyncio.wait([task])
    world.api.statuses.clear()
    async with world.living(world.life(slow)):
        await until(lambda: world.api.statuses)
        await asyncio.sleep(0.1)
    assert [world.api.phases, world.api.condition("Ready")["status"]] == [["Running"], "True"]
    assert all(each["ready"] for status in world.api.statuses for each in status["containerStatuses"])


async def test_a_deletion_that_came_meanwhile_starts_nothing(world: World) -> None:
    first = world.life(pod())
    task = asyncio.create_task(first.run())
    await until(is_ready(world))
    task.cancel()
    await asyncio.wait([task])
    second = world.life(pod())
    second.update(deleted(pod()))
    async with world.living(second) as again:
        await asyncio.wait_for(again, 5)
    assert world.sandboxes.calls == ["make", "release", "remove"]
    assert not exists(world.sandboxes.folder(second.pod))


async def test_a_finished_pod_is_not_started_again(world: World) -> None:
    finished = pod(restartPolicy="Never")
    finished = msgspec.structs.replace(finished, status=msgspec.structs.replace(finished.status, phase="Succeeded"))
    async with world.living(world.life(finished)):
        await asyncio.sleep(0.1)
    assert world.sandboxes.calls == []
    assert world.api.statuses == []


async def test_the_start_time_is_kept(world: World) -> None:
    known = pod()
    known = msgspec.structs.replace(
        known, status=msgspec.structs.replace(known.status, start_time="2020-01-01T00:00:00Z")
    )
    async with world.living(world.life(known)):
        await until(is_ready(world))
    assert world.api.statuses[-1]["startTime"] == "2020-01-01T00:00:00Z"


# -- status


async def test_nothing_is_said_twice(world: World) -> None:
    async with world.living(world.life(pod())):
        await until(is_ready(world))
        count = len(world.api.statuses)
        await asyncio.sleep(0.1)
        assert len(world.api.statuses) == count


async def test_a_status_that_was_refused_is_sent_again(world: World) -> None:
    world.api.fail = [500, 500]
    async with world.living(world.life(pod())):
        await until(is_ready(world))


async def test_a_status_that_will_never_be_taken_is_given_up(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.api.fail = [422]
    async with world.living(world.life(pod())):
        await until(is_ready(world))
    assert "Refused" in caplog.text
