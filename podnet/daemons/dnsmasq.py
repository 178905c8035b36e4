"""A dnsmasq that is kept running, told of other servers without a restart, and made to forget.

One that dies is started again, at once the first time, later and later when it keeps dying. SIGHUP makes it read its
file of servers again and clear its cache; one that is only just starting would die of that, so it gets it when it says
that it has started.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress

from podnet.client.informer import Backoff, Pace
from podnet.daemons.children import Child

log = logging.getLogger(__name__)

PACE = Pace(first=0.05, base=0.2, cap=10.0, healthy=30.0)
"""Of starting again."""

STARTING = 1.0
"""Seconds after which it is taken for started when it does not say so: its log may go elsewhere."""

ENDING = 5.0
"""Seconds that it may take to end."""


class Dnsmasq:
    """See the module; make it inside the event loop.

    args          the command line, program first
    servers_file  the path that `args` say to read servers from
    heard         is given each line of its log
    pace          how soon it is started again; None: it is not
    """

    def __init__(
        self, args: Sequence[str], servers_file: str, heard: Callable[[str], None], pace: Pace | None = PACE
    ) -> None:
        self.starts = 0
        """How often it was started."""
        self._args = args
        self._file = servers_file
        self._heard = heard
        self._backoff = Backoff(pace) if pace else None
        self._loop = asyncio.get_running_loop()
        self._child: Child | None = None
        self._written: str | None = None
        self._rest = b""
        self._up = self._late = False
        self._over = asyncio.Event()

    def serve(self, servers: str) -> bool:
        """Use this file of servers from now on; whether it is another than before. Raises OSError."""
        if servers == self._written:
            return False
        beside = f"{self._file}.new"
        with open(beside, "w", encoding="ascii") as file:
            file.write(servers)
        os.chmod(beside, 0o644)  # it gave up being root
        os.replace(beside, self._file)
        self._written = servers
        self.clear()
        return True

    def clear(self) -> None:
        """Empty its cache."""
        if self._child is not None and self._up:
            self._child.signal(signal.SIGHUP)
        else:
            self._late = True

    async def run(self) -> int:
        """Keep it running until `end`, or as long as it lives when it is not to be started again; its exit status.
        Raises OSError when there is no such program."""
        while True:
            code = await self._once()
            if self._over.is_set() or self._backoff is None:
                return code
            wait = self._backoff.next(self._loop.time())
            log.error("dnsmasq ended with status %d and is started again in %.2f s", code, wait)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._over.wait()
                    return code

    async def end(self) -> None:
        """Let it finish what it does, and end it."""
        self._over.set()
        if (child := self._child) is not None:
            child.signal(signal.SIGTERM)
            await asyncio.wait([child.ended], timeout=ENDING)
            child.kill()

    async def _once(self) -> int:
        self._up = self._late = False
        self._rest = b""
        self.starts += 1
        self._child = child = Child(self._args, self._lines)
        timer = self._loop.call_later(STARTING, self._started)
        try:
            return await child.wait()
        finally:
            timer.cancel()
            self._child = None

    def _started(self) -> None:
        if self._up:
            return
        self._up = True
        if self._late:
            self.clear()

    def _lines(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            if ": started, version " in text:
                self._started()
            self._heard(text)
