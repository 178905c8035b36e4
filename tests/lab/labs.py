"""Live labs for tests: brought up with podnet's own command, disturbed by hand, always taken down again.

A lab's name carries the process that made it, `t<pid>-<what>`, so the labs of a test run that was killed are known by
their dead owner and removed by the next run; nobody else's lab is ever touched.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import pytest

from podnet.cli.target import AgentAway, Node, of_lab
from podnet.client.api import Api
from podnet.client.errors import ApiError
from podnet.lab import process, registry, supervisor, teardown
from podnet.lab.building import answers, api_of
from podnet.lab.sandbox import read_all
from podnet.lab.workload import PORT
from podnet.network.view import Attachment
from podnet.objects.kinds import NETWORKCONFIGS, NODES, PODS
from tests.lab.dumps import Dump, difference, dump

BIN = os.path.dirname(sys.executable)
PODNET = f"{BIN}/podnet"
OURS = re.compile(r"t(\d+)-.*")
SECONDS = 60.0
NAMESPACE = "default"
T = TypeVar("T")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def until(happened: Callable[[], T | None], what: str, seconds: float = 10.0, every: float = 0.01) -> T:
    """Wait for something and return it; fails with what it was."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(every)
    return found


def run(*words: str, text: str = "", code: int | None = 0) -> str:
    """Run a command to its end and return its output; `code` is the exit code it must have, None for any."""
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert code is None or done.returncode == code, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


class Place(NamedTuple):
    """A pod that runs: where it is, and what makes it this very pod and no successor."""

    namespace: str
    name: str
    node: str
    netns: str
    addresses: tuple[str, ...]
    inode: int
    pids: tuple[int, ...]


class LiveLab:
    """A lab, and hands to use and to break it with."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def lab(self) -> registry.Lab:
        """As lab.json has it now."""
        return registry.load(self.name)

    def podnet(self, *words: str, code: int | None = 0) -> str:
        """A command that knows --lab."""
        return run(PODNET, *words, "--lab", self.name, code=code)

    def ask(self, node: str, what: str) -> dict[str, Any]:
        """What the agent of a node says at /v1/WHAT. Raises AgentAway."""
        return self.agent(node).ask(what)

    def agent(self, node: str) -> Node:
        """A node as podnet's commands see it."""
        return of_lab(self.name).only(node).nodes[0]

    def netns(self, place: str) -> str:
        """The namespace of a node, of `fabric`, or of the pod NAMESPACE/NAME; a path stays."""
        if place.startswith("/"):
            return place
        if "/" in place:
            return self.place(place.partition("/")[2]).netns
        return f"{self.lab.folder}/netns/{place}"

    def run(self, place: str, command: str | Sequence[str], text: str = "", code: int | None = 0) -> str:
        """Run a command line in a network namespace."""
        words = command.split() if isinstance(command, str) else command
        return run("nsenter", f"--net={self.netns(place)}", *words, text=text, code=code)

    def dump(self, place: str) -> Dump:
        """See dumps.py."""
        return dump(self.netns(place))

    def metric(self, node: str, start: str) -> float:
        """The sum of the samples whose line starts so, of an agent's /metrics."""
        connection = http.client.HTTPConnection("agent")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(f"{self.lab.node(node).run_dir}/agent.sock")
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(start))

    # -- the API

    def api(self, work: Callable[[Api], Awaitable[T]]) -> T:
        """Do something with a client of the API server."""

        async def connected() -> T:
            async with api_of(self.lab) as api:
                return await work(api)

        return asyncio.run(connected())

    def configure(self, **spec: object) -> None:
        """Change NetworkConfig/default."""
        self.api(lambda api: api.patch(NETWORKCONFIGS, "default", {"spec": spec}, into=dict))

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The Node objects by name."""
        found = self.api(lambda api: api.list(NODES, into=dict))
        return {node["metadata"]["name"]: node for node in found}

    def create_pod(self, name: str, node: str, **more: Any) -> None:
        """Ask for a pod; `ports`, `command`, `labels` and `annotations` are those of its container and of itself."""
        container = {
            "name": "main",
            "image": "test",
            "command": more.get(
                "command", [sys.executable, "-I", "-S", f"{os.path.dirname(registry.__file__)}/echo.py", str(PORT)]
            ),
            "ports": more.get("ports", []),
        }
        metadata = {"name": name, "namespace": NAMESPACE}
        metadata |= {key: more.get(key, {}) for key in ("labels", "annotations")}
        spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0}
        self.api(lambda api: api.create(PODS, {"metadata": metadata, "spec": spec}, into=dict))

    def pod(self, name: str, node: str, **more: Any) -> Place:
        """Make a pod and wait until it runs."""
        self.create_pod(name, node, **more)
        return until(lambda: self.running(name), f"pod {name} runs", 20.0)

    def ask_to_delete(self, name: str) -> None:
        """Delete a pod; one that is gone is fine."""
        with suppress(ApiError):
            self.api(lambda api: api.delete(PODS, name, NAMESPACE, grace=0))

    def delete_pod(self, name: str) -> None:
        """Delete a pod and wait until nothing is left of it."""
        self.ask_to_delete(name)
        until(lambda: not any(found.name == name for found in self._sandboxes()), f"pod {name} is gone")

    def _sandboxes(self) -> Iterator[Any]:
        for node in self.lab.nodes:
            yield from read_all(node.pods_dir)

    def running(self, name: str) -> Place | None:
        """The pod of this name, once its containers run."""
        for node in self.lab.nodes:
            for found in read_all(node.pods_dir):
                if found.name == name and found.ready and (pids := _pids(found.folder)):
                    inode = os.stat(found.netns).st_ino
                    return Place(found.namespace, name, node.name, found.netns, found.ips, inode, pids)
        return None

    def place(self, name: str) -> Place:
        """A pod that runs."""
        found = self.running(name)
        assert found, f"{name} does not run"
        return found

    def places(self) -> tuple[Place, ...]:
        """Every pod."""
        return tuple(self.place(found.name) for found in self._sandboxes())

    def record(self, name: str) -> Attachment:
        """What the agent knows of a pod's interface."""
        place = self.place(name)
        known = self.ask(place.node, "attachments")["attachments"]
        (found,) = (each for each in known if each["netns"] == place.netns)
        import msgspec

        return msgspec.convert(found, Attachment)

    # -- programs

    def pid(self, program: str) -> int:
        """The process of a program: api, supervisor, agent-NODE, kubelet-NODE."""
        found = process.look(self.lab.program(program))
        return found.pid if isinstance(found, process.Running) else 0

    def kill(self, program: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal a program; its pid."""
        pid = until(lambda: self.pid(program), f"{program} runs")
        os.kill(pid, number)
        return pid

    def back(self, program: str, former: int) -> None:
        """Wait until a program runs again and, if others depend on it, is ready."""
        until(lambda: self.pid(program) not in (0, former), f"{program} is back", 15.0)
        if program.startswith("agent-"):
            until(lambda: self.ready(program.partition("-")[2]), f"{program} is ready", 15.0)
        if program == "api":
            until(lambda: self.api(answers), "the API server answers", 15.0)

    def up(self) -> None:
        """Repair the lab, as a user would."""
        run(PODNET, "lab", "up", "--name", self.name, "--no-check", "--no-demo", "--no-dns")

    def speaks(self, node: str) -> bool:
        """Whether a node's agent speaks, ready or not."""
        with suppress(AgentAway):
            return bool(self.ask(node, "status"))
        return False

    def ready(self, node: str) -> bool:
        """Whether a node's agent takes pods."""
        with suppress(AgentAway):
            return bool(self.ask(node, "status")["ready"])
        return False

    def settled(self, node: str) -> bool:
        """Whether a node's agent is ready and its kernel is as it should be."""
        with suppress(AgentAway):
            return bool(self.ask(node, "status")["ready"]) and not self.ask(node, "plan")["steps"]
        return False

    @contextmanager
    def frozen(self, program: str) -> Iterator[None]:
        """A program stands still meanwhile."""
        pid = self.kill(program, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The supervisor restarts nothing meanwhile."""
        with self.frozen("supervisor"):
            yield

    @contextmanager
    def without(self, *programs: str, number: signal.Signals = signal.SIGKILL) -> Iterator[None]:
        """These programs are down meanwhile, and back afterwards."""
        with self.paused():
            pids = {program: self.kill(program, number) for program in programs}
            for program in programs:
                until(lambda program=program: not self.pid(program), f"{program} ended")  # type: ignore[misc]
            yield
        for program, pid in pids.items():
            self.back(program, pid)

    def start(self, program: str) -> None:
        """Start a program that is down, as the supervisor would."""
        supervisor.launch(self.lab.program(program), supervisor.programs(self.lab)[program])

    # -- repair

    @contextmanager
    def repaired(self, place: str, seconds: float = 1.0) -> Iterator[list[float]]:
        """Break something in there; within `seconds` it must be as before. Gives the seconds that it took. What
        counts is when a look into the kernel began: on a busy machine the look itself takes long."""
        before, took = self.dump(place), list[float]()
        yield took
        began = looked = time.monotonic()
        while (now := self.dump(place)) != before:
            assert looked < began + seconds, "\n".join(difference(before, now))
            looked = time.monotonic()
        took.append(time.monotonic() - began)


def _pids(folder: str) -> tuple[int, ...]:
    runs = (f"{root}" for root, _, files in os.walk(f"{folder}/containers") if "pid" in files)
    found = [process.look(each) for each in sorted(runs)]
    return tuple(each.pid for each in found if isinstance(each, process.Running) and each.pid)


class Watched(NamedTuple):
    """The outcome of a watch, and how long it went."""

    document: dict[str, Any]
    seconds: float

    def lossless(self, why: object = "") -> None:
        """It must have lost nothing, and probed all the time, if not at its full rate on a machine that is busy."""
        found = self.document
        assert (found["lost"], found["failed"], found["bursts"]) == (0, [], []), f"{json.dumps(found)[:4000]}\n{why}"
        assert found["longest_stall_ms"] < 3000, "a TCP connection stood still"
        assert found["probes"] > 0.3 * 1000 * self.seconds, f"{found['probes']} probes in {self.seconds} s"


@contextmanager
def watching(live: LiveLab) -> Iterator[list[Watched]]:
    """`podnet check --watch --rate 1000` runs meanwhile, from its first probes on."""
    before = _datagrams(live)
    words = [PODNET, "check", "--watch", "--lab", live.name, "--rate", "1000", "-o", "json"]
    watch = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found: list[Watched] = []
    try:
        until(lambda: _datagrams(live) > before + 100, "the watch probes")
        began = time.monotonic()
        yield found
        seconds = time.monotonic() - began
        watch.send_signal(signal.SIGINT)
        out, err = watch.communicate(timeout=SECONDS)
        assert watch.returncode in (0, 1), err
        found.append(Watched(json.loads(out), seconds))
    finally:
        watch.kill()
        watch.communicate()


def _datagrams(live: LiveLab) -> int:
    """What the first node received."""
    for line in live.run(live.lab.nodes[0].name, "cat /proc/net/snmp").splitlines():
        words = line.split()
        if words[0] == "Udp:" and words[1].isdecimal():
            return int(words[1])
    raise AssertionError("no UDP counters")


@contextmanager
def live_lab(what: str, *options: str) -> Iterator[LiveLab]:
    """A lab of one's own, gone afterwards; without DNS servers, unless the options say --dns."""
    sweep()
    name = f"t{os.getpid()}-{what}"
    try:
        run(PODNET, "lab", "up", "--name", name, "--no-check", "--no-dns", *options)
        yield LiveLab(name)
    finally:
        teardown.down(name)


def sweep() -> None:
    """Remove the labs of test runs that are no more."""
    for name in registry.names():
        if (owner := OURS.fullmatch(name)) and not os.path.exists(f"/proc/{owner[1]}"):
            with suppress(FileNotFoundError):  # another worker sweeps too
                teardown.down(name)
