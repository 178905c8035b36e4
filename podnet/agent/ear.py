"""When the agent hears the kernel: at once after a silence, and after a breath while there is much to hear.

Making one pod is dozens of messages, most of them about the same few things, and what is read together is told once.
So a storm costs far less when it is heard in gulps, and none is longer than PAUSE, which no repair notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from podnet.kernel.monitor import Event

PAUSE = 0.1
"""Seconds between two readings; the sockets hold what comes in many of these."""


class Source(Protocol):
    """What the kernel says something through."""

    @property
    def filenos(self) -> tuple[int, ...]:
        """What to wait on until it is readable."""

    def read(self) -> list[Event]:
        """What has happened since the last call."""


class Ear:
    """Tells what `monitor` read, from now on. Needs a running loop."""

    def __init__(self, monitor: Source, tell: Callable[[list[Event]], None]) -> None:
        self._monitor = monitor
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.time()
        self._listen()

    def _listen(self) -> None:
        for fileno in self._monitor.filenos:
            self._loop.add_reader(fileno, self._something)

    def _something(self) -> None:
        for fileno in self._monitor.filenos:
            self._loop.remove_reader(fileno)
        self._loop.call_at(self._next, self._read)

    def _read(self) -> None:
        if events := self._monitor.read():
            self._tell(events)  # of what we did ourselves there is nothing to tell
        self._next = self._loop.time() + PAUSE
        self._listen()
