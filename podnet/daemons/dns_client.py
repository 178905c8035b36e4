"""Asking other DNS servers: by UDP from a port and with an id that nobody can guess, by TCP when an answer is too long.

Several servers are asked one after the other, beginning with the one that answered last; one that does not answer in
time, or refuses, is the last to be asked for a while.
Source: RFC 5452 (what makes an answer ours), RFC 7766 (TCP).
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Sequence
from typing import Any

from podnet.wire import dns

Server = tuple[str, int]
"""Address and port."""

TIMEOUT = 2.0
"""Seconds for one server to answer."""

SHUNNED = 10.0
"""Seconds for which a server that did not answer comes last."""

_USELESS = (dns.SERVFAIL, dns.REFUSED, dns.NOTIMP)


class NoAnswer(Exception):
    """No server gave a useful answer."""


class DnsClient:
    """Asks; `failures` counts the times a server did not answer."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.failures: dict[Server, int] = {}
        self._timeout = timeout
        self._shunned: dict[Server, float] = {}

    async def ask(self, message: bytes, servers: Sequence[Server], *, whole: bool = False) -> bytes:
        """The answer to a query, under its own id. `whole`: never one that is cut off. Raises NoAnswer."""
        useless: bytes | None = None
        for server in sorted(servers, key=lambda each: self._shunned.get(each, -math.inf)):
            try:
                async with asyncio.timeout(self._timeout):
                    said = await self._ask(message, server, whole)
            except (OSError, TimeoutError, EOFError):
                self._shun(server)
                continue
            if said[3] & 0xF not in _USELESS:
                return said
            useless = useless or said
        if useless is None:
            raise NoAnswer(", ".join(f"{address}#{port}" for address, port in servers) + " did not answer")
        return useless

    def _shun(self, server: Server) -> None:
        now = time.monotonic()
        self.failures[server] = self.failures.get(server, 0) + 1
        self._shunned = {each: since for each, since in self._shunned.items() if now - since < SHUNNED} | {server: now}

    async def _ask(self, message: bytes, server: Server, whole: bool) -> bytes:
        unguessable = secrets.token_bytes(2) + message[2:]
        said = await _by_udp(unguessable, server)
        if said[2] & 0x2 and whole:
            said = await _by_tcp(unguessable, server)
        return message[:2] + said[2:]


async def _by_udp(message: bytes, server: Server) -> bytes:
    asked = _asked(message)
    loop = asyncio.get_running_loop()
    transport, waiting = await loop.create_datagram_endpoint(lambda: _Waiting(asked, loop), remote_addr=server)
    try:
        transport.sendto(message)
        return await waiting.answer
    finally:
        transport.close()


async def _by_tcp(message: bytes, server: Server) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(message).to_bytes(2, "big") + message)
        while True:
            said = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            if _fits(said, _asked(message)):
                return said
    finally:
        writer.close()


def _asked(message: bytes) -> tuple[bytes, bytes]:
    """By what an answer is known: the id, and the question with its type and class."""
    _, end = dns.read_name(message, 12)
    return message[:2], message[12 : end + 4].lower()


def _fits(said: bytes, asked: tuple[bytes, bytes]) -> bool:
    id_, question = asked
    return (
        len(said) >= 12
        and said[:2] == id_
        and bool(said[2] & 0x80)
        and (said[12 : 12 + len(question)].lower() == question or said[4:6] == b"\0\0")
    )


class _Waiting(asyncio.DatagramProtocol):
    def __init__(self, asked: tuple[bytes, bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self._asked = asked

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if not self.answer.done() and _fits(data, self._asked):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.cancel()
