"""The watch on this machine's loopback, without root: steady sending, counting, pods that come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec
import pytest

from podnet.daemons import streams, watch
from podnet.daemons.stations import Station
from podnet.daemons.streams import Streams
from podnet.daemons.watch import Interval, Watch, Watched
from podnet.network import losses
from podnet.network.losses import Losses
from podnet.network.reach import Endpoint, Pair, Seen

POD = Endpoint("p/lo", "default/p", "pod", "n1", "", ("127.0.0.1",))
NODE = Endpoint("n2", "n2", "node", "n2", "", ("127.0.0.2",))
OTHER = msgspec.structs.replace(NODE, key="n3", name="n3", addresses=("127.0.0.3",))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe is given up after 0.3 s, so that these tests need not wait."""
    for module in (watch, losses):
        monkeypatch.setattr(module, "PATIENCE", 0.3)


async def run(
    seconds: float, rate: float, listing: Callable[[float], Sequence[Endpoint]] = lambda at: (POD, NODE)
) -> tuple[Watched, list[Interval]]:
    """Watch for a time; `listing` says who is there after so many seconds."""
    began, told = time.monotonic(), list[Interval]()

    async def listed() -> Sequence[Endpoint]:
        return listing(time.monotonic() - began)

    return await Watch(rate, listed, told.append).run(seconds, asyncio.Event()), told


async def test_a_steady_rate_without_loss() -> None:
    cpu = time.process_time()
    found, told = await run(2.2, 1000)
    assert (found.lost, found.failed, found.bursts, found.longest_gap) == (0, (), (), 0.0)
    assert 1900 <= found.sent <= 2300
    assert [interval.lost for interval in told] == [0, 0]
    assert all(interval.endpoints == 2 and interval.sent > 800 for interval in told)
    assert found.streams == 2
    assert time.process_time() - cpu < 0.4 * 2.5, "the watch must leave most of the processor to the network"


async def test_silence_is_counted_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 0.4 s to 0.9 s the node does not answer."""
    began, genuine = time.monotonic(), Station._note

    def note(self: Station, address: str, peer: tuple[str, int], data: bytes) -> bool:
        silent = self.endpoint.key == "n2" and 0.4 < time.monotonic() - began < 0.9
        return not silent and genuine(self, address, peer, data)

    monkeypatch.setattr(Station, "_note", note)
    monkeypatch.setattr(Streams, "expect", lambda *_: None)
    found, _ = await run(1.5, 200)
    assert 30 <= found.lost <= 70
    assert 0.35 <= found.longest_gap <= 0.65
    (burst,) = found.bursts
    assert (burst.pair.source.key, burst.pair.target.key, burst.reason) == ("p/lo", "n2", "it never arrived")
    assert 0.25 <= burst.start <= 0.55
    assert [failure.target for failure in found.failed] == ["n2"]


async def test_who_comes_and_goes_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """n3 is there from the start and then not, n2 comes later; a socket of one that left answers no more."""
    monkeypatch.setattr(watch, "LISTING", 0.1)
    found, told = await run(1.3, 400, lambda at: (POD, OTHER) if at < 0.6 else (POD, NODE))
    assert (found.lost, found.failed) == (0, ())
    assert found.sent > 400
    assert told[0].endpoints == 2


async def test_nobody_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LISTING", 0.1)
    found, _ = await run(0.8, 200, lambda at: (POD, NODE) if at > 0.3 else ())
    assert found.failed == ()
    assert found.sent > 40


async def test_a_missing_address_counts_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "OPENING", 0.5)
    gone = msgspec.structs.replace(NODE, key="gone", name="gone", addresses=("192.0.2.9",))
    found, _ = await run(0.8, 100, lambda at: (POD, NODE, gone))
    assert [failure.reason for failure in found.failed] == ["node gone does not carry its address 192.0.2.9"]


async def test_a_missing_address_of_one_that_just_came_is_forgiven() -> None:
    gone = msgspec.structs.replace(NODE, key="gone", addresses=("192.0.2.9",))
    found, _ = await run(0.6, 100, lambda at: (POD, NODE, gone))
    assert found.failed == ()


async def test_stop_ends_it_early() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, stop.set)
    began = time.monotonic()

    async def listed() -> Sequence[Endpoint]:
        return POD, NODE

    found = await Watch(100, listed, lambda _: None).run(None, stop)
    assert time.monotonic() - began < 2.0
    assert found.lost == 0


async def test_our_own_pause_is_no_loss() -> None:
    """The loop stands still for longer than a probe may take; its answers wait in the sockets meanwhile."""
    asyncio.get_running_loop().call_later(0.3, time.sleep, 0.6)
    found, _ = await run(1.2, 300)
    assert (found.lost, found.failed) == (0, ())


async def test_source_ports_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ROTATE", 0.2)
    ports, genuine = set[int](), Losses.arrived

    def arrived(self: Losses, number: int, seen: Seen) -> None:
        ports.add(seen.port)
        genuine(self, number, seen)

    monkeypatch.setattr(Losses, "arrived", arrived)
    monkeypatch.setattr(Streams, "expect", lambda *_: None)
    found, _ = await run(1.0, 200)
    assert (found.lost, found.failed) == (0, ())
    assert len(ports) > 4, "two senders, several ports each"


# -- streams


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


PAIR = Pair(POD, NODE, "127.0.0.2")


async def broken(server_lives: bool) -> Streams:
    """A stream whose server closes it at once."""
    import socket

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.2", 0)
    address = server.sockets[0].getsockname()
    if not server_lives:
        server.close()

    async def dial(pair: Pair) -> tuple[socket.socket, tuple[str, int]]:
        made = socket.socket()
        made.setblocking(False)
        return made, address

    found = Streams(dial, b"12345678", Clock())
    found.expect([PAIR], 0.0)
    await asyncio.sleep(0.1)
    server.close()
    return found


@pytest.mark.parametrize(("lives", "why"), [(True, "ECONNRESET"), (False, "ECONNREFUSED")])
async def test_a_cut_stream_counts_after_a_later_listing(lives: bool, why: str) -> None:
    found = await broken(lives)
    found.expect([PAIR], 0.0)
    assert found.broken == [], "that listing began before"
    found.expect([PAIR], 0.5)
    assert [failure.reason for failure in found.broken] == [f"a TCP connection was cut: {why}"]
    assert found.count == 1, "it is opened anew"
    await found.close()


async def test_a_cut_stream_of_a_pod_that_is_gone_does_not_count() -> None:
    found = await broken(True)
    found.expect([], 0.5)
    found.expect([PAIR], 1.0)
    assert found.broken == []
    await found.close()


async def test_a_stream_that_still_waits_is_as_slow_as_it_has_waited() -> None:
    """A watch that ends before SILENCE must not call that a quick echo."""
    import socket

    server = socket.create_server(("127.0.0.2", 0))  # connections wait here and are never served

    async def dial(pair: Pair) -> tuple[socket.socket, tuple[str, int]]:
        made = socket.socket()
        made.setblocking(False)
        return made, server.getsockname()

    clock = Clock()
    found = Streams(dial, b"12345678", clock)
    found.expect([PAIR], 0.0)
    await asyncio.sleep(0.05)
    clock.now = 6.0
    assert found.longest == 6.0
    found.expect([], 6.0)
    assert found.longest == 0.0, "its pod is gone"
    await found.close()
    server.close()


async def test_streams_are_spread_over_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "AT_MOST", 4)
    nodes = [msgspec.structs.replace(NODE, key=f"n{i}") for i in range(10)]
    every = [Pair(POD, node, "127.0.0.2") for node in nodes]
    assert [pair.target.key for pair in streams._spread(every)] == ["n0", "n3", "n6", "n9"]
    assert list(streams._spread([])) == []
