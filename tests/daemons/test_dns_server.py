"""A DNS server on loopback, and clients that do what no client should."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from podnet.daemons import dns_server
from podnet.daemons.asking import Asking
from podnet.daemons.dns_server import LONGEST, DnsServer
from podnet.wire import dns
from podnet.wire.dns import SERVFAIL, A, Malformed
from tests.client.waiting import until

ADDRESS = dns.piece([dns.record(A, 30, b"\x0a\0\0\1")])
MANY = dns.piece([dns.record(A, 30, bytes((10, 0, n >> 8, n & 255))) for n in range(2000)])


class Answers:
    """Knows every name; `slow...` only when it is `let`, and `many...` has many addresses."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.seen: list[str] = []

    def datagram(self, message: bytes, client: str) -> bytes | Coroutine[Any, Any, bytes | None] | None:
        self.seen.append(client)
        try:
            query = dns.read_query(message)
        except Malformed:
            return dns.refusal(message)
        return self._slow(query) if query.name.startswith(b"\4slow") else self._quick(query, None)

    def _quick(self, query: dns.Query, size: int | None) -> bytes:
        return dns.answer(query, MANY if query.name.startswith(b"\4many") else ADDRESS, size=size)

    async def _slow(self, query: dns.Query) -> bytes | None:
        await self.let.wait()
        return self._quick(query, None)

    async def stream(self, message: bytes, client: str) -> Iterable[bytes]:
        try:
            query = dns.read_query(message)
        except Malformed:
            return filter(None, [dns.refusal(message)])
        return [self._quick(query, 0)] * (3 if query.type == dns.AXFR else 1)

    def busy(self, message: bytes) -> bytes | None:
        return dns.answer(dns.read_query(message), dns.NONE, SERVFAIL)


@asynccontextmanager
async def served(address: str = "127.0.0.1", idle: float = 5.0) -> AsyncIterator[tuple[Asking, Answers, DnsServer]]:
    answers = Answers()
    server = DnsServer(answers, idle=idle)
    await server.listen(address, 0)
    try:
        yield Asking(address, server.addresses[0][1], 5.0), answers, server
    finally:
        answers.let.set()
        await server.close()


def frame(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


async def heard(reader: asyncio.StreamReader) -> dns.Message:
    async with asyncio.timeout(5):
        return dns.read(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server ends a connection without a word."""
    async with asyncio.timeout(5):
        try:
            return await reader.read(1) == b""
        except ConnectionError:
            return True


QUESTION = dns.question(7, dns.name("web"), A)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_by_udp_and_by_tcp(address: str) -> None:
    async with served(address) as (asking, answers, _):
        assert [dns.shown(each) for each in (await asking.ask("web", A)).answers] == ["10.0.0.1"]
        assert answers.seen == [address]
        assert len((await asking.ask("many", A)).answers) == 2000, "by TCP, since UDP has no room"


async def test_a_port_that_is_taken() -> None:
    async with served() as (_, _, server):
        with pytest.raises(OSError, match="in use"):
            await DnsServer(Answers()).listen("127.0.0.1", server.addresses[0][1])


async def test_a_burst_waits_for_a_busy_server() -> None:
    async with served() as (asking, answers, server):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            for _ in range(200):  # while this runs, the server does not
                sending.sendto(QUESTION, server.addresses[0])
        assert (await asking.ask("web", A)).answers
        assert len(answers.seen) == 201


async def test_many_questions_in_one_connection() -> None:
    async with served() as (_, _, server):
        reader, writer = await asyncio.open_connection(*server.addresses[0])
        for _ in range(3):
            writer.write(frame(QUESTION) * 2)
            assert [(await heard(reader)).id for _ in range(2)] == [7, 7]
        writer.write(frame(dns.question(8, dns.name("zone"), dns.AXFR)))
        assert [(await heard(reader)).id for _ in range(3)] == [8, 8, 8], "several messages are one answer"
        writer.close()


async def test_slow_answers_hold_up_nobody_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_server, "PENDING", 2)
    async with served() as (asking, answers, server):
        slow = [asyncio.create_task(asking.ask("slow", A)) for _ in range(2)]
        await until(lambda: len(server.pending) == 2)
        assert (await asking.ask("web", A)).answers
        refused = await _by_udp(server, dns.question(9, dns.name("slow"), A))
        assert (refused.id, refused.rcode) == (9, SERVFAIL)
        answers.let.set()
        assert all(each.answers for each in await asyncio.gather(*slow))
        await until(lambda: not server.pending)


async def _by_udp(server: DnsServer, message: bytes) -> dns.Message:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.connect(server.addresses[0])
        await loop.sock_sendall(asking, message)
        async with asyncio.timeout(5):
            return dns.read(await loop.sock_recv(asking, 4096))


async def test_answers_under_way_are_given_before_the_end() -> None:
    async with served() as (asking, answers, server):
        slow = asyncio.create_task(asking.ask("slow", A))
        await until(lambda: server.pending)
        asyncio.get_running_loop().call_later(0.05, answers.let.set)
        await server.close()
        assert (await slow).answers


async def test_an_empty_packet_and_one_that_is_too_long() -> None:
    async with served() as (asking, _, server):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            for message in (b"", QUESTION[:5], QUESTION + bytes(60_000)):
                sending.sendto(message, server.addresses[0])
        assert (await asking.ask("web", A)).answers


@pytest.mark.parametrize(
    "sent", [frame(b""), frame(bytes(LONGEST + 1)), b"\xff\xff" + bytes(65_535), frame(b"\0\1\x80" + bytes(9))]
)
async def test_frames_that_end_a_connection(sent: bytes) -> None:
    async with served() as (asking, _, server):
        reader, writer = await asyncio.open_connection(*server.addresses[0])
        writer.write(sent)
        assert await ended(reader)
        writer.close()
        assert (await asking.ask("many", A)).answers


async def test_who_is_slow_or_says_nothing_is_sent_away() -> None:
    async with served(idle=0.3) as (_, _, server):
        silent, cut, slow = [await asyncio.open_connection(*server.addresses[0]) for _ in range(3)]
        cut[1].write(frame(QUESTION)[:10])
        start = asyncio.get_running_loop().time()

        async def drip() -> None:
            for byte in frame(QUESTION):
                slow[1].write(bytes((byte,)))
                await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        assert all([await ended(reader) for reader, _ in (silent, cut, slow)])
        assert asyncio.get_running_loop().time() - start < 4, "a byte now and then does not count"
        dripping.cancel()
        for _, writer in (silent, cut, slow):
            writer.close()


async def test_who_does_not_read_is_sent_away() -> None:
    async with served(idle=0.3) as (asking, _, server):
        _, writer = await asyncio.open_connection(*server.addresses[0], limit=1024)
        writer.write(frame(dns.question(7, dns.name("many"), A)) * 1000)  # 32 MB of answers
        await until(lambda: not server.connections)
        assert (await asking.ask("web", A)).answers
        writer.close()


async def test_connections_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_server, "CONNECTIONS_EACH", 5)
    async with served() as (asking, _, server):
        open_ones = [await asyncio.open_connection(*server.addresses[0]) for _ in range(5)]
        await until(lambda: server.connections == 5)
        reader, writer = await asyncio.open_connection(*server.addresses[0])
        assert await ended(reader), "a sixth of one client"
        writer.close()
        reader, writer = await asyncio.open_connection(*server.addresses[0], local_addr=("127.0.0.2", 0))
        writer.write(frame(QUESTION))
        assert (await heard(reader)).answers, "another client"
        writer.close()
        for _, writer in open_ones:
            writer.close()
        await until(lambda: not server.connections)
        assert len((await asking.ask("many", A)).answers) == 2000
