"""The prober on this machine's loopback, without root: what is sent, what is measured, what is left behind."""

from __future__ import annotations

import asyncio
import os
import socket

import msgspec
import pytest

from podnet.daemons import prober
from podnet.daemons.prober import Prober
from podnet.daemons.stations import HEADER, Spaces, Station, device_mtu, errno_name, make_socket, nonce
from podnet.kernel.netns import NoNamespace
from podnet.network.reach import Endpoint, Report, Seen

POD = Endpoint("p/lo", "default/p", "pod", "n1", "", ("127.0.0.1",), "lo")
NODE = Endpoint("n2", "n2", "node", "n2", "", ("127.0.0.2",), "lo")
"""A pod on loopback always sends from 127.0.0.1, so the other end is a node, which may use any address."""

RUN = b"8 bytes."


async def check(*endpoints: Endpoint) -> Report:
    with Prober() as made:
        return await made.check(endpoints)


async def test_pod_and_node_reach_each_other() -> None:
    found = await check(POD, NODE)
    assert found.failed == ()
    assert found.cells == {("p/lo", "n2"): True, ("n2", "p/lo"): True, ("p/lo", "p/lo"): True}
    assert found.probes == 2 * 3 + 1
    assert 0 < found.seconds < 1


async def test_nothing_is_left_open() -> None:
    await check(POD, NODE)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await check(POD, NODE)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_an_address_that_is_not_there() -> None:
    gone = msgspec.structs.replace(POD, key="q", name="default/q", addresses=("192.0.2.7",))
    found = await check(POD, NODE, gone)
    (failure,) = found.failed
    assert failure.reason == "pod default/q does not carry its address 192.0.2.7"
    assert found.cells["p/lo", "n2"]
    assert ("p/lo", "q") not in found.cells


async def test_a_namespace_that_is_not_there() -> None:
    gone = msgspec.structs.replace(POD, key="q", netns="/nowhere/ns")
    assert [failure.reason for failure in (await check(gone)).failed] == ["the namespace /nowhere/ns does not exist"]


async def test_a_pod_that_sends_from_elsewhere_is_seen() -> None:
    """127.0.0.3 is bound, but loopback sends from 127.0.0.1."""
    odd = msgspec.structs.replace(POD, addresses=("127.0.0.3",))
    found = await check(odd, NODE)
    assert {failure.reason for failure in found.failed} == {"the pod sends from 127.0.0.1, not from 127.0.0.3"}
    assert {failure.probe for failure in found.failed} == {"tcp", "udp", "mtu"}


async def test_silence_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "TIMEOUT", 0.1)
    monkeypatch.setattr(Station, "_echo", lambda *_: None)
    monkeypatch.setattr(Station, "_answer", lambda *_: None)
    found = await check(POD, NODE)
    assert {(failure.probe, failure.source) for failure in found.failed} == {
        ("tcp", "default/p"),
        ("udp", "default/p"),
        ("tcp", "n2"),
        ("udp", "n2"),
        ("localhost", "default/p"),
    }


async def test_big_ones_that_vanish_are_a_black_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "TIMEOUT", 0.1)
    genuine = Station._note

    def small_only(self: Station, address: str, peer: tuple[str, int], data: bytes) -> bool:
        return len(data) < 1000 and genuine(self, address, peer, data)

    monkeypatch.setattr(Station, "_note", small_only)
    found = await check(POD, NODE)
    assert {failure.probe for failure in found.failed} == {"mtu"}
    assert all(failure.reason.startswith("MTU black hole: 65535 bytes") for failure in found.failed)


async def test_containers_are_clients_of_their_pods_localhost() -> None:
    here = f"/proc/{os.getpid()}/ns/net"
    several = msgspec.structs.replace(POD, containers=(("web", here), ("ended", "/proc/0/ns/net")))
    found = await check(several)
    assert (found.ok, found.probes) == (True, 1), "a container that just ended proves nothing"


async def test_many_pairs_are_probed_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "BATCH", 2)
    nodes = [msgspec.structs.replace(NODE, key=f"n{i}", name=f"n{i}", addresses=(f"127.0.1.{i}",)) for i in range(1, 8)]
    found = await check(POD, *nodes)
    assert (found.ok, found.probes) == (True, 7 * 2 * 3 + 1)


# -- stations


class Heard(list[tuple[int, Seen]]):
    def __call__(self, number: int, seen: Seen) -> None:
        self.append((number, seen))


@pytest.fixture
async def station() -> tuple[Station, Heard]:
    heard = Heard()
    made = Station(POD, RUN, heard)
    made.start(asyncio.get_running_loop())
    return made, heard


async def test_udp_is_echoed_and_noted(station: tuple[Station, Heard]) -> None:
    made, heard = station
    with make_socket("127.0.0.1", socket.SOCK_DGRAM) as client:
        client.connect(made.udp["127.0.0.1"])
        client.send(HEADER.pack(RUN, 7) + b"rest")
        assert await asyncio.get_running_loop().sock_recv(client, 100) == HEADER.pack(RUN, 7) + b"rest"
        assert heard == [(7, Seen("p/lo", "127.0.0.1", client.getsockname()[1], "127.0.0.1"))]
    made.close()


@pytest.mark.parametrize("packet", [b"", b"short", HEADER.pack(b"another.", 1), b"x" * 100])
async def test_packets_of_others_get_no_answer(station: tuple[Station, Heard], packet: bytes) -> None:
    made, heard = station
    with make_socket("127.0.0.1", socket.SOCK_DGRAM) as client:
        client.connect(made.udp["127.0.0.1"])
        client.send(packet)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.get_running_loop().sock_recv(client, 100)
    assert heard == []
    made.close()


async def test_connections_of_others_are_closed(station: tuple[Station, Heard]) -> None:
    made, heard = station
    reader, writer = await asyncio.open_connection(*made.tcp["127.0.0.1"])
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert await reader.read(10) == b""
    assert heard == []
    writer.close()
    made.close()


async def test_a_connection_may_be_used_again_and_again(station: tuple[Station, Heard]) -> None:
    made, heard = station
    reader, writer = await asyncio.open_connection(*made.tcp["127.0.0.1"])
    for number in range(3):
        writer.write(HEADER.pack(RUN, number))
        assert await reader.readexactly(HEADER.size) == HEADER.pack(RUN, number)
    assert [number for number, _ in heard] == [0, 1, 2]
    writer.close()
    made.close()


def test_a_station_that_cannot_be_opened_closes_what_it_opened() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):
        Station(msgspec.structs.replace(POD, addresses=("127.0.0.1", "192.0.2.7")), RUN, Heard())
    assert len(os.listdir("/proc/self/fd")) == before


def test_mtu_of_a_link() -> None:
    with make_socket("127.0.0.1", socket.SOCK_DGRAM) as any_socket:
        assert device_mtu(any_socket, "lo") >= 16384
        assert device_mtu(any_socket, "nosuchlink") == 0


async def test_visits_return_what_was_made_or_raised() -> None:
    spaces = Spaces()
    assert await spaces.visit("", lambda: 7) == 7
    with pytest.raises(NoNamespace):
        await spaces.visit("/nowhere", lambda: 7)
    with pytest.raises(ZeroDivisionError):
        await spaces.visit("", lambda: 1 // 0)
    spaces.close()


def test_errors_by_name() -> None:
    assert errno_name(ConnectionRefusedError(111, "x")) == "ECONNREFUSED"
    assert errno_name(TimeoutError()) == errno_name(OSError(110, "x")) == "timeout"
    assert errno_name(NoNamespace("x")) == "NoNamespace"
    assert errno_name(OSError("odd")) == "odd"


def test_every_run_has_its_own_nonce() -> None:
    assert len({nonce() for _ in range(10)}) == 10
    assert len(nonce()) == len(RUN)
