"""The userspace proxy on the loopback, without root: only where a packet was going is made up."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest

from podnet.daemons import userspace_proxy, userspace_udp
from podnet.daemons.listening import bound
from podnet.daemons.proxy_feed import Feed, FeedServer, ask
from podnet.daemons.splicing import Pipes
from podnet.daemons.userspace_proxy import Proxy, Status
from podnet.network.proxy.userspace import Orders
from podnet.network.service_port import Endpoint, ServicePort

HOST = "127.0.0.1"
VIP = ("10.96.0.1", 80)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def port(protocol: str, *numbers: int, **fields: object) -> ServicePort:
    ends = tuple(Endpoint(HOST, number) for number in numbers)
    made = ServicePort("shop", "web", "", protocol, False, *VIP, internal=ends, cluster=ends, external=ends)
    return msgspec.structs.replace(made, **fields)


class Server:
    """A TCP server; `accepted` are the connections that reached it."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Streams] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            await self.accepted.put((reader, writer))

        self._server = await asyncio.start_server(serve, HOST, 0)
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    def close(self) -> None:
        assert self._server
        self._server.close()
        for writer in self._writers:
            writer.close()


class World:
    """A proxy, and what it is told."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.proxy = Proxy()
        self.servers: list[Server] = []

    async def server(self) -> tuple[Server, int]:
        self.servers.append(Server())
        return self.servers[-1], await self.servers[-1].start()

    def tell(self, *ports: ServicePort) -> None:
        self.proxy.update(Orders((HOST,), ("127.0.0.0/8",), ports, self.number))

    async def connect(self) -> Streams:
        return await asyncio.open_connection(HOST, self.number)

    async def pair(self) -> tuple[Streams, Streams]:
        server, number = await self.server()
        self.tell(port("tcp", number))
        client = await self.connect()
        return client, await server.accepted.get()


@pytest.fixture
async def world(unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(userspace_proxy, "of_stream", lambda accepted: VIP)
    monkeypatch.setattr(userspace_udp, "of_datagram", lambda netlink, local, peer: VIP)
    made = World(unused_tcp_port)
    yield made
    made.proxy.close()
    for server in made.servers:
        server.close()
    await asyncio.sleep(0)


async def exchange(world: World) -> bytes:
    reader, writer = await world.connect()
    try:
        return await reader.read()
    finally:
        writer.close()


async def is_reset(world: World) -> None:
    """A connection is accepted and then reset, at once or soon."""
    with pytest.raises(ConnectionResetError):
        await exchange(world)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_what_one_end_says_the_other_hears_and_ends_one_by_one(world: World):
    (reader, writer), (heard, answer) = await world.pair()
    said = os.urandom(3 << 20)
    writer.write(said)
    writer.write_eof()
    assert await heard.read() == said
    answer.write(said[::-1])
    answer.close()
    assert await reader.read() == said[::-1]
    writer.close()
    await until(lambda: world.proxy.status().connections == 0)


async def test_an_idle_connection_holds_no_pipe(world: World):
    (_, writer), (heard, _) = await world.pair()
    before = len(os.listdir("/proc/self/fd"))
    writer.write(b"x")
    assert await heard.readexactly(1) == b"x"
    await asyncio.sleep(0.02)
    assert len(world.proxy._pipes._spare) == 1
    assert len(os.listdir("/proc/self/fd")) == before + 2
    writer.close()


async def test_a_reset_reaches_the_other_end(world: World):
    (reader, writer), (heard, answer) = await world.pair()
    writer.write(b"x")
    await heard.readexactly(1)
    answer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    answer.transport.abort()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    await until(lambda: world.proxy.status().connections == 0)


async def test_a_refused_attempt_takes_the_next_endpoint(world: World, unused_tcp_port_factory: Callable[[], int]):
    server, number = await world.server()
    world.tell(port("tcp", unused_tcp_port_factory(), number))
    for _ in range(3):
        _, writer = await world.connect()
        await server.accepted.get()
        writer.close()
    status = world.proxy.status()
    assert (status.accepted, status.given_up) == (3, 0)
    assert status.attempts >= 1


async def test_after_four_refusals_the_client_is_reset(world: World, unused_tcp_port_factory: Callable[[], int]):
    world.tell(port("tcp", unused_tcp_port_factory()))
    await is_reset(world)
    assert (world.proxy.status().attempts, world.proxy.status().given_up) == (4, 1)


async def test_whoever_was_not_led_here_is_reset(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(userspace_proxy, "of_stream", lambda accepted: (HOST, world.number))
    world.tell(port("tcp", 1))
    await is_reset(world)
    assert world.proxy.status().refused == 1


async def test_details_of_connections_and_affinities(world: World):
    server, number = await world.server()
    world.tell(port("tcp", number, affinity=60))
    _, writer = await world.connect()
    await server.accepted.get()
    await until(lambda: world.proxy.status().connections == 1)
    (found,) = world.proxy.status(details=True).services
    assert (found.label, found.protocol) == ("shop/web", "tcp")
    assert found.connections == {f"{HOST}:{number}": 1}
    assert found.affinities == {HOST: f"{HOST}:{number}"}
    writer.close()


async def test_an_address_that_is_taken_is_said_and_had_later(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(userspace_proxy, "SWEEP", 0.01)
    with socket.create_server((HOST, world.number)):
        world.tell()
        assert str(world.number) in world.proxy.status().trouble
    running = asyncio.create_task(world.proxy.run())
    await until(lambda: not world.proxy.status().trouble)
    running.cancel()
    await is_reset(world)  # by the proxy: nobody else listens


async def test_an_address_that_is_no_longer_ours_is_given_back(world: World):
    world.tell()
    world.proxy.update(Orders(port=world.number))
    with pytest.raises(ConnectionRefusedError):
        await world.connect()


class Echo(asyncio.DatagramProtocol):
    """Answers with its own port in front."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.number: int = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(b"%d %b" % (self.number, data), addr)


async def test_datagrams_go_there_and_back(world: World, unused_udp_port: int):
    loop = asyncio.get_running_loop()
    transport, echo = await loop.create_datagram_endpoint(Echo, (HOST, 0))
    world.tell(port("udp", unused_udp_port, echo.number))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
        client.connect((HOST, world.number))
        heard = b""
        while not heard:  # a first datagram may have gone to the port at which nobody is
            await loop.sock_sendall(client, b"x")
            try:
                async with asyncio.timeout(0.2):
                    heard = await loop.sock_recv(client, 100)
            except TimeoutError:
                continue
        assert heard == b"%d x" % echo.number
    assert world.proxy.status().flows == 1
    world.tell()
    assert world.proxy.status().flows == 0
    transport.close()


async def test_idle_flows_end(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(userspace_udp, "IDLE", 0.0)
    loop = asyncio.get_running_loop()
    transport, echo = await loop.create_datagram_endpoint(Echo, (HOST, 0))
    world.tell(port("udp", echo.number))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
        client.connect((HOST, world.number))
        await loop.sock_sendall(client, b"x")
        await loop.sock_recv(client, 100)
    await asyncio.sleep(0.01)
    world.proxy._sweep()
    assert world.proxy.status().flows == 0
    transport.close()


async def test_the_feed_tells_the_whole_and_then_changes_and_again_after_a_restart(world: World, tmp_path: Path):
    path, heard = str(tmp_path / "userspace.sock"), list[Status | None]()
    server, feed = FeedServer(path, world.proxy), Feed(path, heard.append)
    ports = [port("tcp", 1, service=f"s{n}", cluster_ip=f"10.96.1.{n}") for n in range(3)]
    feed.update(Orders((HOST,), (), tuple(ports), world.number))
    running = asyncio.create_task(feed.run())
    await until(lambda: None in heard)
    assert not await feed.settled(0.01)
    assert feed.trouble
    assert path in feed.trouble
    await server.start()
    assert os.stat(path).st_mode & 0o777 == 0o600
    await until(lambda: feed.trouble is None)
    feed.update(Orders((HOST,), (), tuple(ports[1:]), world.number))
    assert await feed.settled()
    assert world.proxy.status().ports == (await ask(path)).ports == 2
    server.close()
    world.proxy.update(Orders(port=world.number))
    server = FeedServer(path, world.proxy)
    await server.start()
    await until(lambda: world.proxy.status().ports == 2)
    running.cancel()
    server.close()


async def test_a_stranger_on_the_feed_changes_nothing(world: World, tmp_path: Path):
    path = str(tmp_path / "userspace.sock")
    server = FeedServer(path, world.proxy)
    await server.start()
    world.tell(port("tcp", 1))
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert await reader.read() == b""
    writer.close()
    assert (await ask(path)).ports == 1
    server.close()


def test_pipes_are_used_again():
    pipes = Pipes()
    first = pipes.take()
    pipes.give(first)
    assert pipes.take() == first
    pipes.give(first, empty=False)
    with pytest.raises(OSError):
        os.fstat(first[0])
    pipes.close()


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::7"])
def test_an_address_may_come_later(address: str, unused_tcp_port: int):
    try:
        with bound(address, unused_tcp_port, socket.SOCK_STREAM) as made:
            assert made.getsockname()[0] == address
    except OSError as error:
        pytest.skip(f"this machine has no such family: {error}")
