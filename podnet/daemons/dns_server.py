"""A DNS server's sockets: UDP and TCP of any number of addresses, for whoever knows the answers.

An answer that is known at once is sent before the next packet is looked at, without a task or a copy. One that others
must be asked for is a coroutine, of which so many may be under way; who comes beyond that hears SERVFAIL and no memory
grows. A TCP connection may ask again and again (RFC 7766); it ends when it is silent for a while, and when there are
too many of them the new one is closed. Whoever sends more than a question needs is not listened to any more, so what
all connections hold is bounded.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, Protocol

from podnet.daemons.listening import bound

log = logging.getLogger(__name__)

PENDING = 1000
"""Answers that may be awaited at a time (CoreDNS' max_concurrent)."""

CONNECTIONS, CONNECTIONS_EACH = 1000, 100
IDLE_SECONDS = 10.0
LONGEST = 4096
"""Bytes of a question by TCP: a name, and EDNS with any options that are in use."""

_BUFFER = 4 << 20
_RCVBUFFORCE = 33


class Answering(Protocol):
    """Who knows the answers. Neither may raise on any bytes; None: no answer is due."""

    def datagram(self, message: bytes, client: str) -> bytes | Coroutine[Any, Any, bytes | None] | None:
        """The answer to a datagram."""

    async def stream(self, message: bytes, client: str) -> Iterable[bytes]:
        """The messages that answer one in a TCP connection, none to end it."""

    def busy(self, message: bytes) -> bytes | None:
        """What is said when too many answers are under way."""


class DnsServer:
    """Serves until closed."""

    def __init__(self, answering: Answering, *, idle: float = IDLE_SECONDS) -> None:
        self.pending: set[asyncio.Task[None]] = set()
        self._answering = answering
        self._idle = idle
        self._transports: list[asyncio.DatagramTransport] = []
        self._servers: list[asyncio.Server] = []
        self._clients: Counter[str] = Counter()

    async def listen(self, address: str, port: int) -> None:
        """Serve at one more address, at port 0 wherever there is room. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        datagrams, streams = _pair(address, port)
        _widen(datagrams)
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
        self._transports.append(transport)
        self._servers.append(await asyncio.start_server(self._stream, sock=streams, limit=LONGEST))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        return [transport.get_extra_info("sockname")[:2] for transport in self._transports]

    @property
    def connections(self) -> int:
        """How many TCP connections there are."""
        return self._clients.total()

    async def close(self) -> None:
        """Take no more questions; answers under way are still given, for a second."""
        for server in self._servers:
            server.close()
        if self.pending:
            await asyncio.wait(self.pending, timeout=1)
        for transport in self._transports:
            transport.close()
        await asyncio.sleep(0)  # in which they are closed

    def received(self, message: bytes, client: Any, transport: asyncio.DatagramTransport) -> None:
        """Answer a datagram."""
        said = self._answering.datagram(message, client[0])
        if said is None:
            return
        if isinstance(said, bytes):
            transport.sendto(said, client)
        elif len(self.pending) >= PENDING:
            said.close()
            if refused := self._answering.busy(message):
                transport.sendto(refused, client)
        else:
            task = asyncio.create_task(_later(said, client, transport))
            self.pending.add(task)
            task.add_done_callback(self.pending.discard)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = writer.get_extra_info("peername", ("",))[0]
        self._clients[client] += 1
        try:
            if self._clients[client] <= CONNECTIONS_EACH and self.connections <= CONNECTIONS:
                await self._converse(reader, writer, client)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str) -> None:
        while True:
            async with asyncio.timeout(self._idle):
                size = int.from_bytes(await reader.readexactly(2), "big")
                if size > LONGEST:
                    return
                message = await reader.readexactly(size)
            said = [*await self._answering.stream(message, client)]
            if not said:
                return
            for each in said:
                writer.write(len(each).to_bytes(2, "big") + each)
                async with asyncio.timeout(self._idle):
                    await writer.drain()


def _widen(datagrams: socket.socket) -> None:
    """Questions wait for a busy CPU in there; without the right to have it all, as many as the machine allows."""
    try:
        datagrams.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
    except PermissionError:
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)


def _pair(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Sockets for UDP and TCP at one port; any that is free for both when it is 0."""
    while True:
        datagrams = bound(address, port, socket.SOCK_DGRAM)
        try:
            return datagrams, bound(address, datagrams.getsockname()[1], socket.SOCK_STREAM)
        except OSError as error:
            datagrams.close()
            if port or error.errno != errno.EADDRINUSE:
                raise


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._server.received(data, addr, self._transport)

    def error_received(self, exc: Exception) -> None:
        """A client that is gone; nothing is owed to it."""


async def _later(said: Awaitable[bytes | None], client: Any, transport: asyncio.DatagramTransport) -> None:
    answer = await said
    if answer is not None and not transport.is_closing():
        transport.sendto(answer, client)
