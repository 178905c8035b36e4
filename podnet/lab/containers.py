"""One container of a pod: its runs one after the other, and what the probes say about the present one.

Run N lives in the folder CONTAINER/N of its pod's sandbox (process.py). Whether to start the next run is decided from
what is on disk: the last run's exit, the restart policy and the back-off. So a kubelet that comes back after a kill -9
goes on with the same code as one that never left.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterable

import msgspec

from podnet.lab import inside, process
from podnet.lab.probes import Probing
from podnet.lab.process import CANNOT_START, LOST, Command, Ended, Running, StartError
from podnet.lab.registry import write
from podnet.lab.sandbox import Sandbox
from podnet.network.dns.resolv_conf import ClusterDns, ResolvConf
from podnet.objects.core import Container, Pod
from podnet.objects.services import Service

GRACE_SECONDS = 30


class Value(msgspec.Struct, frozen=True):
    """Base of the values in this module."""


class Waiting(Value, frozen=True):
    """Not running; `reason` as kubectl prints it."""

    reason: str
    message: str = ""


class Live(Value, frozen=True):
    """Running since a Unix time."""

    since: float


class Terminated(Value, frozen=True):
    """Ran from `since` to `at`; `message` says why it could not even start."""

    code: int
    since: float
    at: float
    message: str = ""

    @property
    def reason(self) -> str:
        """One word for kubectl."""
        return "StartError" if self.message else "Completed" if self.code == 0 else "Error"


State = Waiting | Live | Terminated


class Backoff(Value, frozen=True):
    """Seconds before a restart: none the first time, then `base`, doubling to `cap`; a run of `reset` starts over."""

    base: float = 10.0
    cap: float = 300.0
    reset: float = 600.0

    def after(self, failures: int) -> float:
        """The wait after so many short runs in a row."""
        return min(self.cap, self.base * 2.0 ** (failures - 2)) if failures > 1 else 0.0


class Host(Value, frozen=True):
    """What containers need to know of their node.

    services     gives all the Services that there are now
    dns          gives where pods ask for names now
    resolv_conf  what the node itself has: nothing, since nobody outside can be asked from inside a lab
    """

    name: str
    ips: tuple[str, ...]
    backoff: Backoff = Backoff()
    services: Callable[[], Iterable[Service]] = tuple
    dns: Callable[[], ClusterDns] = ClusterDns
    resolv_conf: ResolvConf = ResolvConf()


def runs(folder: str) -> list[int]:
    """The numbers of a container's runs, oldest first."""
    return sorted(int(name) for name in os.listdir(folder) if name.isdecimal()) if os.path.isdir(folder) else []


def container_folder(sandbox: Sandbox, name: str) -> str:
    """Where the runs of a container are."""
    return f"{sandbox.folder}/containers/{name}"


def grace_of(pod: Pod) -> int:
    """Seconds between SIGTERM and SIGKILL that a pod asked for."""
    asked = pod.spec.termination_grace_period_seconds
    return GRACE_SECONDS if asked is None else asked


class ContainerLife:
    """Keeps one container as its pod's restart policy says; `once` marks an init container.

    `changed()` is called whenever something that a PodStatus shows is different.
    """

    def __init__(
        self,
        pod: Pod,
        container: Container,
        sandbox: Sandbox,
        host: Host,
        changed: Callable[[], None],
        once: bool = False,
    ) -> None:
        self.container = container
        self.once = once
        self.folder = container_folder(sandbox, container.name)
        self.state: State = Waiting("PodInitializing" if pod.spec.init_containers and not once else "ContainerCreating")
        self.last: Terminated | None = None
        self.restarts = 0
        self._pod = pod
        self._sandbox = sandbox
        self._host = host
        self._changed = changed
        self._short_runs = 0
        self._variables = inside.environment(pod, container, sandbox.ips, host.ips, host.services())
        self.probing = Probing(container, sandbox.ips[0], self._variables, changed)

    @property
    def ready(self) -> bool:
        """Whether it runs and its readiness probe, if any, succeeded; an init container is ready when it succeeded."""
        if self.once:
            return isinstance(self.state, Terminated) and self.state.code == 0
        return isinstance(self.state, Live) and self.probing.ready

    @property
    def started(self) -> bool:
        """Whether it runs and its startup probe, if any, succeeded."""
        return isinstance(self.state, Live) and self.probing.started

    @property
    def run_folder(self) -> str:
        """The folder of the newest run; of run 0 when there was none."""
        return f"{self.folder}/{self.restarts}"

    def adopt(self) -> None:
        """Take the state from disk; what runs counts as ready, so a kubelet's restart is no change of a pod."""
        self.recall()
        if isinstance(self.state, Live):
            self.probing.adopt()

    async def live(self) -> int:
        """Run, and restart as the policy says; the last run's exit code. Cancelling it leaves the process alone."""
        self.adopt()
        adopted = isinstance(self.state, Live)
        while not (isinstance(self.state, Terminated) and self._final(self.state)):
            if isinstance(self.state, Live):
                await self._follow(adopted)
            else:
                await self._back_off()
                await process.finish(self._start())
            adopted = False
        return self.state.code

    def _final(self, state: Terminated) -> bool:
        """Whether nothing more is to run. An init container counts only if it ran in the present sandbox."""
        if self.once and state.at < self._sandbox.made_at:
            return False
        policy = self._pod.spec.restart_policy
        return policy == "Never" or (state.code == 0 and (self.once or policy != "Always"))

    def recall(self) -> None:
        """Take the state from disk."""
        numbers = runs(self.folder)
        if not numbers:
            return
        states = [self._state_of(f"{self.folder}/{number}") for number in numbers[-2:]]
        self.state = states[-1]
        self.restarts = numbers[-1]
        if len(states) > 1 and isinstance(states[0], Terminated):
            self.last = states[0]

    def _state_of(self, folder: str) -> State:
        found = process.look(folder)
        if found is None:  # the kubelet was killed before the run began; whoever comes late must not begin it now
            process.void(folder)
            found = process.look(folder)
        since = process.started_at(folder)
        if isinstance(found, Running):
            return Live(since)
        assert isinstance(found, Ended)
        message = _read(f"{folder}/error")
        return Terminated(CANNOT_START if message else found.code, since, found.at, message)

    async def _start(self) -> None:
        """Begin the next run."""
        numbers = runs(self.folder)
        number = numbers[-1] + 1 if numbers else 0
        folder = f"{self.folder}/{number}"
        os.makedirs(folder)
        for old in numbers[:-1]:
            shutil.rmtree(f"{self.folder}/{old}")
        try:
            await asyncio.to_thread(process.start, folder, self._command())
        except StartError as error:
            write(f"{folder}/error", str(error).encode())
        self.recall()
        self._changed()

    def _command(self) -> Command:
        pod, sandbox = self._pod, self._sandbox
        return Command(
            argv=inside.command(self.container, self._variables),
            env=self._variables,
            netns=sandbox.netns,
            hostname=inside.hostname(pod, self._host.name),
            binds=((f"{sandbox.folder}/hosts", "/etc/hosts"), (f"{sandbox.folder}/resolv.conf", "/etc/resolv.conf")),
            cwd=self.container.working_dir or "/",
        )

    async def _follow(self, adopted: bool) -> None:
        """Probe the present run until it ended."""
        folder = self.run_folder
        running = await process.settled(folder)
        pid = running.pid if isinstance(running, Running) else 0
        probing = asyncio.create_task(self._probe(pid, adopted))
        try:
            await process.ended(folder)
        finally:
            probing.cancel()
            await asyncio.wait([probing])
        self.recall()
        if isinstance(self.state, Terminated) and self.state.code == LOST:
            process.kill_session(pid, self._sandbox.netns)
        self._changed()

    async def _probe(self, pid: int, adopted: bool) -> None:
        if await self.probing.unhealthy(pid, adopted):
            await process.stop(self.run_folder, grace_of(self._pod))

    async def _back_off(self) -> None:
        """Wait as long as the short runs so far demand."""
        if not isinstance(self.state, Terminated):
            return
        backoff = self._host.backoff
        self._short_runs = 1 if self.state.at - self.state.since > backoff.reset else self._short_runs + 1
        delay = self.state.at + backoff.after(self._short_runs) - time.time()
        self.last = self.state
        if delay > 0:
            which = f"container={self.container.name} pod={self._pod.metadata.name}"
            self.state = Waiting("CrashLoopBackOff", f"back-off {delay:.0f}s restarting failed {which}")
            self._changed()
            await asyncio.sleep(delay)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""
