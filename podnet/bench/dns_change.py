"""Services that come and change while kubedns is asked for them: how many answers are late, and how many wrong.

Half of the writes create a Service, and half move a headless Service's endpoint to another address. From the moment
the API has answered, the name is asked for again and again until the answer is as written. One that is not by 0.1 s is
late; one that says neither what was written nor what was there before is wrong. Meanwhile dnsperf asks for names that
stay.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import count
from typing import Any

import msgspec

from podnet.bench import dns_objects
from podnet.bench.dns_load import Run, load, names
from podnet.bench.dns_world import FOLDER, KUBEDNS, World
from podnet.bench.figures import Figure, at_most, figure, say
from podnet.bench.service_change import worst
from podnet.bench.writing import body
from podnet.client.api import Api
from podnet.objects.kinds import ENDPOINTSLICES, SERVICES, Kind
from podnet.objects.meta import Object
from podnet.wire import dns

CHANGES, PERIOD = 10_000, 10.0
HEADLESS = 500
AT_ONCE = 32
LATE = 0.1
AGAIN = 0.02
BACKGROUND = 5_000.0
PATIENCE = 5.0


class Change(msgspec.Struct, frozen=True):
    """A write, and the addresses that its name has after it and had before (\"\": there was no such name)."""

    method: str
    kind: Kind
    made: Object
    name: str
    after: str
    before: str


class Outcome(msgspec.Struct):
    """Of all changes: seconds from the API's answer until a question was put whose answer is right, answers that were
    wrong, and questions that had none."""

    delays: list[float]
    wrong: int = 0
    lost: int = 0
    asked: int = 0


def changes(name: str, world: World) -> Iterator[Figure]:
    """Figures of all changes together."""
    world.write(_headless())
    steady = names(f"{FOLDER}/steady", [world.name(number) for number in range(world.services)])
    runs: list[Run] = []
    asking = threading.Thread(target=lambda: runs.append(load(KUBEDNS, steady, PERIOD, BACKGROUND)))
    asking.start()
    start = time.monotonic()
    outcome = asyncio.run(_change(world))
    took = time.monotonic() - start
    asking.join()
    late = sum(delay > LATE for delay in outcome.delays)
    say(f"{CHANGES:,} changes in {took:.1f} s, {outcome.asked:,} questions about them")
    what = f"{CHANGES:,} Services change"
    yield figure(name, what, "s", [took])
    yield figure(name, f"{what}, names known after {LATE:g} s", "late", [late], at_most(0))
    wrong, lost = outcome.wrong + sum(run.wrong for run in runs), outcome.lost + sum(run.lost for run in runs)
    yield figure(name, f"{what}, answers that are wrong", "answers", [wrong], at_most(0))
    yield figure(name, f"{what}, questions without an answer", "questions", [lost])
    yield figure(name, f"{what}, from the API's answer to the right one, p99", "ms", [worst(outcome.delays) * 1e3])


def more() -> int:
    """How many Services there are afterwards that were not there before."""
    return HEADLESS + CHANGES // 2


def _headless() -> Iterator[tuple[Kind, Object]]:
    for number in range(HEADLESS):
        yield SERVICES, dns_objects.headless(number)
        yield ENDPOINTSLICES, dns_objects.headless_slice(number, number)


def _changes(first: int) -> Iterator[Change]:
    """All of them; Services from number `first` on are new."""
    address = {number: dns_objects.endpoint(number) for number in range(HEADLESS)}
    for turn in range(CHANGES // 2):
        made, number = dns_objects.service(first + turn), turn % HEADLESS
        name = dns_objects.name(made.metadata.name)
        yield Change("POST", SERVICES, made, name, dns_objects.cluster_ip(first + turn), "")
        before, after = address[number], dns_objects.endpoint(HEADLESS + turn)
        address[number] = after
        moved = dns_objects.headless_slice(number, HEADLESS + turn)
        yield Change("PUT", ENDPOINTSLICES, moved, dns_objects.name(f"h{number}"), after, before)


async def _change(world: World) -> Outcome:
    """Write them evenly over PERIOD, or as quickly as the API takes them."""
    outcome, left, start = Outcome([]), iter(enumerate(_changes(world.services))), time.monotonic()
    loop = asyncio.get_running_loop()
    transport, asker = await loop.create_datagram_endpoint(_Asker, remote_addr=("127.0.0.1", KUBEDNS))

    async def some(api: Api) -> None:
        for number, change in left:
            await asyncio.sleep(start + number * PERIOD / CHANGES - time.monotonic())
            await _write(api, change)
            tasks.create_task(_follow(asker, change, outcome))

    async with world.api() as api, asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(some(api))
    transport.close()
    return outcome


async def _write(api: Api, change: Change) -> None:
    meta = change.made.metadata
    path = change.kind.path(meta.namespace, meta.name if change.method == "PUT" else "")
    await api.request(change.method, path, body=body(change.kind, change.made))


async def _follow(asker: _Asker, change: Change, outcome: Outcome) -> None:
    """Ask until the answer is right."""
    written = asked = time.monotonic()
    while True:
        said = await asker.ask(change.name)
        outcome.asked += 1
        if _right(said, change) or asked - written > PATIENCE:
            break
        outcome.lost += said == "?"
        outcome.wrong += said not in ("?", change.before)
        await asyncio.sleep(AGAIN)
        asked = time.monotonic()
    outcome.delays.append(asked - written)


def _right(said: str, change: Change) -> bool:
    """Whether that is what was written, or another endpoint that was written later."""
    moved = change.kind is ENDPOINTSLICES and said not in ("", "?")
    return IPv4Address(said) >= IPv4Address(change.after) if moved else said == change.after


class _Asker(asyncio.DatagramProtocol):
    """Asks for A records over one socket."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._waiting: dict[int, asyncio.Future[str]] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        said = dns.read(data)
        waiting = self._waiting.pop(said.id, None)
        if waiting and not waiting.done():
            waiting.set_result(dns.shown(said.answers[0]) if said.answers else "")

    async def ask(self, name: str) -> str:
        """The address; "": there is none; "?": no answer came."""
        number = next(self._ids) & 0xFFFF
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._transport.sendto(dns.question(number, dns.name(name), dns.A))
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._waiting[number]
        except TimeoutError:
            return "?"
