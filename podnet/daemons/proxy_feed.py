"""How the agent tells the userspace proxy what to do: lines of JSON over a unix socket, each answered with a Status.

On each new connection the agent tells the whole, then only what changes. So neither has to know what the other
remembers: a proxy that was restarted is told again as soon as it listens, and one that loses its agent goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

import msgspec

from podnet.daemons.userspace_proxy import Proxy, Status
from podnet.network.proxy.userspace import Orders, since

RETRY = 0.2
"""Seconds between attempts to reach the proxy."""

POLL = 0.5
"""Seconds between questions, by which a proxy that ended is noticed."""

LONGEST = 1 << 28
"""Bytes of a line: some 500,000 endpoints."""


class Message(msgspec.Struct, frozen=True):
    """Orders, or none for a mere question; `details` asks for every ServicePort's connections."""

    orders: Orders | None = None
    details: bool = False


class FeedServer:
    """The proxy's end."""

    def __init__(self, path: str, proxy: Proxy) -> None:
        self.path = path
        self._proxy = proxy
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen, for root and ourselves only. Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self.path, limit=LONGEST)
        finally:
            os.umask(mask)

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while line := await reader.readline():
                message = msgspec.json.decode(line, type=Message)
                if message.orders is not None:
                    self._proxy.update(message.orders)
                writer.write(msgspec.json.encode(self._proxy.status(message.details)) + b"\n")
                await writer.drain()
        except (OSError, ValueError, msgspec.MsgspecError):
            pass  # the agent went away, or is no agent
        finally:
            self._open.discard(writer)
            writer.close()


class Feed:
    """The agent's end: `update` as often as you like, `run` keeps the proxy told. `heard` is told of every answer."""

    def __init__(self, path: str, heard: Callable[[Status | None], None] = lambda status: None) -> None:
        self.path = path
        self.trouble: str | None = "the userspace proxy was not reached yet"
        self._heard = heard
        self._orders: Orders | None = None
        self._changed = asyncio.Event()
        self._told = asyncio.Event()

    def update(self, orders: Orders) -> None:
        """What the proxy is to do from now on; equal orders are not sent again."""
        if orders != self._orders:
            self._orders = orders
            self._told.clear()
            self._changed.set()

    async def settled(self, seconds: float = 1.0) -> bool:
        """Wait until the proxy follows the newest orders, so that what the kernel then leads to it is expected there.
        False when it took longer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._told.wait()
        return self._told.is_set()

    async def run(self) -> None:
        """For ever; cancel it to stop. The proxy goes on."""
        while True:
            try:
                await self._talk()
            except (OSError, EOFError, ValueError) as error:
                self.trouble = f"the userspace proxy at {self.path} can't be reached: {error}"
                self._heard(None)
            await asyncio.sleep(RETRY)

    async def _talk(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self.path, limit=LONGEST)
        told: Orders | None = None
        self._changed.set()
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._changed.wait()
                self._changed.clear()
                now = self._orders
                news = None if now is None or now is told else since(told, now) if told else now
                self._take(await _ask(reader, writer, Message(news)))
                told = now
                if told is not None and told is self._orders:
                    self._told.set()
        finally:
            self._told.clear()
            writer.close()

    def _take(self, status: Status) -> None:
        self.trouble = status.trouble or None
        self._heard(status)


async def ask(path: str, details: bool = True) -> Status:
    """What the proxy at `path` is doing. Raises OSError, EOFError."""
    reader, writer = await asyncio.open_unix_connection(path, limit=LONGEST)
    try:
        return await _ask(reader, writer, Message(details=details))
    finally:
        writer.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: Message) -> Status:
    writer.write(msgspec.json.encode(message) + b"\n")
    await writer.drain()
    line = await reader.readline()
    if not line:
        raise EOFError("it closed the connection")
    return msgspec.json.decode(line, type=Status)
