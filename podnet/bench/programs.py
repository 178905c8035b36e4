"""Programs that a bench starts, each with a log, perhaps in a namespace, perhaps on one CPU; and what they use.

They live as long as the arena, so nobody stops them unless a measurement wants it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

BIN = os.path.dirname(sys.executable)
PATIENCE = 20.0


class NotReady(Exception):
    """Something did not come up in time; the text has the last lines of its log."""


class Programs:
    """Starts programs; their logs are in `folder`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, words: Sequence[str], place: str = "", cpu: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start one in the namespace at `place` ("": here), on the CPU of this number (None: on any)."""
        before = ["nsenter", f"--net={place}"] if place else []
        before += ["taskset", "-c", str(cpu)] if cpu is not None else []
        with open(self._log(name), "wb") as log:
            started = subprocess.Popen([*before, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._started[name] = started
        return started

    def said(self, name: str) -> bytes:
        """The last lines of a log."""
        with open(self._log(name), "rb") as file:
            return b"".join(file.readlines()[-15:])

    def until(self, ready: Callable[[], object], name: str, seconds: float = PATIENCE) -> None:
        """Wait for what shows that it is ready. Raises NotReady."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end or self._started[name].poll() is not None:
                raise NotReady(f"{name} did not come up:\n{self.said(name).decode(errors='replace')}")
            time.sleep(0.02)

    def _log(self, name: str) -> str:
        return f"{self.folder}/{name}.log"


def on_cpu(place: int) -> int:
    """The number of the first or second CPU, when there is more than one."""
    available = sorted(os.sched_getaffinity(0))
    return available[place % len(available)]


def resident(pid: int) -> float:
    """Resident memory of a process, in 10^6 bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        found = re.search(r"^VmRSS:\s+(\d+) kB$", file.read(), re.MULTILINE)
    assert found, "a live process has a VmRSS"
    return int(found[1]) * 1024 / 1e6


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def cpu_seconds(pid: int) -> float:
    """CPU seconds of all threads of a process that live, from the scheduler, to the nanosecond."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError), open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total / 1e9
