"""A program as a child of ours: what it prints is heard, how it ends is known, and nothing of it is left behind.

It is started in one step that no cancellation interrupts, in a session of its own: signals of a terminal don't reach
it, and its own children end with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from subprocess import DEVNULL, Popen

PIECE = 1 << 16
"""Bytes read at a time."""


class Child:
    """A running program; make it inside the event loop.

    heard   is given what it prints, on either output, in pieces as they come
    ended   its exit status; negative: the signal that ended it. What it printed was heard before
    Raises OSError when it can't be started.
    """

    def __init__(self, args: Sequence[str], heard: Callable[[bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._heard = heard
        self._output, writer = os.pipe()
        try:
            self._process = Popen(args, stdin=DEVNULL, stdout=writer, stderr=writer, start_new_session=True)
        except OSError:
            os.close(self._output)
            raise
        finally:
            os.close(writer)
        self.pid = self._process.pid
        os.set_blocking(self._output, False)
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._output, self._read)
        self._loop.add_reader(self._pidfd, self._reap)

    def signal(self, number: int) -> None:
        """To the program, if it runs still."""
        if not self.ended.done():
            self._process.send_signal(number)

    def kill(self) -> None:
        """At once, with its children."""
        if not self.ended.done():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Its exit status; when that is waited for no longer, it is killed."""
        try:
            return await asyncio.shield(self.ended)
        except asyncio.CancelledError:
            self.kill()
            await asyncio.shield(self.ended)
            raise

    def _read(self) -> None:
        with suppress(BlockingIOError):
            if piece := os.read(self._output, PIECE):
                self._heard(piece)
            else:
                self._loop.remove_reader(self._output)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.kill()  # before its number can be another's
        code = self._process.wait()
        with suppress(BlockingIOError):
            while piece := os.read(self._output, PIECE):
                self._heard(piece)
        self._loop.remove_reader(self._output)
        os.close(self._output)
        os.close(self._pidfd)
        self.ended.set_result(code)
