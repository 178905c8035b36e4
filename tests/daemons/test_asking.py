"""Asking servers on loopback that answer as real ones do, late, wrongly, or not at all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from podnet.daemons.asking import Asking
from podnet.daemons.dns_client import NoAnswer
from podnet.wire import dns
from podnet.wire.dns import NXDOMAIN, SERVFAIL, TC, Malformed

Reply = Callable[[bytes], list[bytes]]
"""What a server sends for a packet."""


class Server(asyncio.DatagramProtocol):
    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked: list[dns.Query] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        self.asked.append(dns.read_query(data))
        for each in self.reply(data):
            self.transport.sendto(each, addr)


@asynccontextmanager
async def served(reply: Reply, seconds: float = 5.0) -> AsyncIterator[tuple[Asking, Server]]:
    """The same by UDP and TCP."""
    loop = asyncio.get_running_loop()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        for each in reply(message):
            writer.write(len(each).to_bytes(2, "big") + each)
        writer.close()

    tcp = await asyncio.start_server(stream, "127.0.0.1", 0)
    port = tcp.sockets[0].getsockname()[1]
    transport, server = await loop.create_datagram_endpoint(lambda: Server(reply), local_addr=("127.0.0.1", port))
    try:
        yield Asking("127.0.0.1", port, seconds), server
    finally:
        transport.close()
        tcp.close()


def address(message: bytes, flags: int = 0, rcode: int = 0) -> bytes:
    made = dns.piece([dns.record(dns.A, 30, b"\x0a\0\0\1")]) if not rcode else dns.NONE
    return dns.answer(dns.read_query(message), made, rcode, flags)


async def test_an_answer() -> None:
    async with served(lambda message: [address(message)]) as (asking, server):
        answer = await asking.ask("Web.demo", dns.A)
        assert [dns.shown(record) for record in answer.answers] == ["10.0.0.1"]
        assert await asking.has("web.demo", "A") is True
    assert [dns.text(query.name) for query in server.asked] == ["web.demo"] * 2


async def test_what_is_no_answer_to_the_question_is_passed_over() -> None:
    def reply(message: bytes) -> list[bytes]:
        other = dns.question(int.from_bytes(message[:2], "big"), dns.name("other"), dns.A)
        spoofed = bytes((message[0] ^ 1,)) + address(message)[1:]
        return [b"junk", message, spoofed, address(other, rcode=NXDOMAIN), address(message)]

    async with served(reply) as (asking, _):
        assert (await asking.ask("web.demo", dns.A)).answers


async def test_what_does_not_fit_is_asked_for_by_tcp() -> None:
    first = True

    def reply(message: bytes) -> list[bytes]:
        nonlocal first
        was, first = first, False
        return [address(message, TC if was else 0)]

    async with served(reply) as (asking, server):
        assert not (await asking.ask("web.demo", dns.A)).flags & TC
        assert len(server.asked) == 1


@pytest.mark.parametrize(("rcode", "there"), [(NXDOMAIN, False), (SERVFAIL, None)])
async def test_whether_there_is_a_record(rcode: int, there: bool | None) -> None:
    async with served(lambda message: [address(message, rcode=rcode)]) as (asking, _):
        assert await asking.has("web.demo", "A") is there


async def test_a_server_that_says_nothing_is_asked_twice() -> None:
    async with served(lambda _: [], seconds=0.05) as (asking, server):
        with pytest.raises(NoAnswer, match=r"^127.0.0.1:\d+ did not answer$"):
            await asking.ask("web.demo", dns.A)
        assert len(server.asked) == 2
        assert await asking.has("web.demo", "A") is None


async def test_an_answer_that_cannot_be_read() -> None:
    async with served(lambda message: [address(message)[:-2]]) as (asking, _):
        with pytest.raises(NoAnswer, match="answered what can't be read: it ends too early"):
            await asking.ask("web.demo", dns.A)


async def test_nobody_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        port = made.getsockname()[1]
    with pytest.raises(NoAnswer, match=rf"^127.0.0.1:{port} did not answer$"):
        await Asking("127.0.0.1", port).ask("web.demo", dns.A)


async def test_a_name_that_is_none() -> None:
    with pytest.raises(Malformed):
        await Asking("127.0.0.1").ask("a..b", dns.A)
