"""Debian's dnsmasq on loopback, at a port of our own, with servers that a test writes: no root is needed."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from podnet.client.informer import Pace
from podnet.daemons.asking import Asking
from podnet.daemons.dns_client import NoAnswer
from podnet.daemons.dnsmasq import Dnsmasq
from podnet.daemons.purging import Purging
from podnet.network.dns.dnsmasq import looping, plan, servers
from podnet.network.dns.records import Expected
from podnet.network.dns.settings import Server, Settings
from podnet.wire import dns
from tests.client.waiting import until
from tests.daemons.test_asking import Server as Answering
from tests.daemons.test_asking import served

pytestmark = pytest.mark.lab

QUICK = Pace(first=0.01, base=0.02, cap=0.1)
SOA = dns.record(
    6, 30, dns.soa(dns.name("ns"), dns.name("mail"), 1, 30), owner=dns.name("cluster.local")
)  # what is missing may be remembered for 30 s


def free_port() -> int:
    """One that is free by UDP and TCP."""
    with socket.create_server(("127.0.0.1", 0)) as made, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(made.getsockname())
        return int(made.getsockname()[1])


class World:
    """A dnsmasq, its log, and who asks it."""

    def __init__(self, folder: Path, *args: str, pace: Pace | None = QUICK) -> None:
        self.log: list[str] = []
        self.loops: set[str] = set()
        given = [
            "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--user=", "--dns-loop-detect",
            "--listen-address=127.0.0.1", "--bind-interfaces", f"--port={free_port()}", *args,
        ]  # fmt: skip
        file = str(folder / "servers")
        made = plan(given, file)
        self.asking = Asking(made.address, made.port, seconds=2, tries=3)
        self.dnsmasq = Dnsmasq(["dnsmasq", *made.args], file, self.heard, pace)
        self.dnsmasq.serve("")

    def heard(self, line: str) -> None:
        self.log.append(line)
        if found := looping(line):
            self.loops.add(found)

    async def up(self) -> None:
        """Until it answers."""
        asking = msgspec.structs.replace(self.asking, seconds=0.1, tries=1)
        async with asyncio.timeout(20):
            while True:
                with suppress(NoAnswer):
                    await asking.ask("cachesize.bind", dns.TXT, dns.CHAOS)
                    return
                await asyncio.sleep(0.01)

    async def address(self, name: str = "web.cluster.local") -> str:
        answer = await self.asking.ask(name, dns.A)
        return " ".join(map(dns.shown, answer.answers)) or dns.RCODES[answer.rcode]

    def running(self) -> int:
        child = self.dnsmasq._child
        assert child is not None
        return child.pid


@asynccontextmanager
async def running(world: World) -> AsyncIterator[asyncio.Task[int]]:
    task = asyncio.create_task(world.dnsmasq.run())
    try:
        await world.up()
        yield task
    finally:
        await world.dnsmasq.end()
        with suppress(asyncio.CancelledError):
            task.cancel()
            await task


def fixed(address: str, ttl: int = 30) -> Answering:
    """Every name has this address."""
    made = dns.piece([dns.record(dns.A, ttl, socket.inet_aton(address))])
    return Answering(lambda message: [dns.answer(dns.read_query(message), made)])


async def test_other_servers_change_and_the_cache_is_cleared_while_questions_are_asked_and_none_is_lost(
    tmp_path: Path,
) -> None:
    async with served(fixed("10.0.0.1").reply) as (first, _), served(fixed("10.0.0.2").reply) as (second, _):
        stubs = {"cluster.local": (Server("127.0.0.1", first.port),)}
        world = World(tmp_path, "--cache-size=0")
        world.dnsmasq.serve(servers(Settings(stubs), ()))
        async with running(world):
            pid, answers = world.running(), []
            once = msgspec.structs.replace(world.asking, seconds=10, tries=1)

            async def keep_asking() -> None:
                while True:
                    answers.append((await once.ask("web.cluster.local", dns.A)).answers)

            asking = [asyncio.create_task(keep_asking()) for _ in range(4)]
            for number in range(10):
                before = len(answers)
                more = {f"n{number}.test": (Server("127.0.0.1", second.port),)}
                world.dnsmasq.serve(servers(Settings(stubs | more), ()))
                await until(lambda: len(answers) > before + 20, 20)  # noqa: B023
                world.dnsmasq.clear()
                await until(lambda: len(answers) > before + 40, 20)  # noqa: B023
            assert not any(task.done() for task in asking)  # it would be for want of an answer
            for task in asking:
                task.cancel()
            assert all(answers)
            assert await world.address("a.n9.test") == "10.0.0.2"
            assert await world.address("a.n0.test") == "REFUSED"
            assert world.running() == pid


async def test_another_server_takes_over_without_a_restart(tmp_path: Path) -> None:
    async with served(fixed("10.0.0.1").reply) as (first, _), served(fixed("10.0.0.2").reply) as (second, _):
        world = World(tmp_path)
        world.dnsmasq.serve(servers(Settings(), (Server("127.0.0.1", first.port),)))
        async with running(world):
            assert await world.address() == "10.0.0.1"
            others = servers(Settings(upstreams=(Server("127.0.0.1", second.port),)), ())
            assert world.dnsmasq.serve(others)
            await until(lambda: any(f"#{second.port}" in line for line in world.log), 20)
            assert await world.address() == "10.0.0.2"
            assert not world.dnsmasq.serve(others)
            assert world.dnsmasq.starts == 1


async def test_one_that_dies_is_started_again_and_knows_its_servers(tmp_path: Path) -> None:
    async with served(fixed("10.0.0.1").reply) as (upstream, _):
        world = World(tmp_path)
        world.dnsmasq.serve(servers(Settings({"cluster.local": (Server("127.0.0.1", upstream.port),)}), ()))
        async with running(world):
            for number in (1, 2):
                assert world.dnsmasq.starts == number
                assert world.dnsmasq._child
                world.dnsmasq._child.signal(signal.SIGKILL)
                await until(lambda: world.dnsmasq.starts > number)  # noqa: B023
                await world.up()
                assert await world.address() == "10.0.0.1"


async def test_one_that_is_not_to_be_started_again(tmp_path: Path) -> None:
    world = World(tmp_path, pace=None)
    async with running(world) as task:
        assert world.dnsmasq._child
        world.dnsmasq._child.signal(signal.SIGKILL)
        assert await task == -signal.SIGKILL
    world = World(tmp_path, "--no-such-option", pace=None)
    assert await world.dnsmasq.run() == 1
    assert any("bad command line options" in line for line in world.log)


async def test_one_that_keeps_dying_can_be_ended_while_it_is_down(tmp_path: Path) -> None:
    world = World(tmp_path, "--no-such-option", pace=Pace(first=60, base=60, cap=60))
    task = asyncio.create_task(world.dnsmasq.run())
    await until(lambda: world.dnsmasq.starts == 1 and world.dnsmasq._child is None, 20)
    await world.dnsmasq.end()
    assert await task == 1


async def test_told_to_clear_while_it_starts_it_lives(tmp_path: Path) -> None:
    world = World(tmp_path)
    task = asyncio.create_task(world.dnsmasq.run())
    await until(lambda: world.dnsmasq._child)
    for _ in range(20):
        world.dnsmasq.clear()
    await until(lambda: any("cleared cache" in line for line in world.log), 20)
    await world.up()
    assert world.dnsmasq.starts == 1
    await world.dnsmasq.end()
    assert await task == 0


async def test_a_negative_answer_is_gone_soon_after_the_name_came_to_be(tmp_path: Path) -> None:
    there: set[bytes] = set()

    def reply(message: bytes) -> list[bytes]:
        query = dns.read_query(message)
        if query.name in there:
            return [dns.answer(query, dns.piece([dns.record(dns.A, 30, bytes((10, 0, 0, 7)))]))]
        return [dns.answer(query, dns.piece([], [SOA]), dns.NXDOMAIN)]

    async with served(reply) as (upstream, _):
        world = World(tmp_path)
        world.dnsmasq.serve(servers(Settings({"cluster.local": (Server("127.0.0.1", upstream.port),)}), ()))
        async with running(world):
            assert await world.address("new.cluster.local") == "NXDOMAIN"
            there |= {dns.name("new.cluster.local"), dns.name("other.cluster.local")}
            assert await world.address("new.cluster.local") == "NXDOMAIN"  # it remembers
            purging = Purging(world.asking.has, world.dnsmasq.clear, asyncio.get_running_loop().time)
            purger = asyncio.create_task(purging.run())
            purging.add([("new.cluster.local", "A", None), ("other.cluster.local", "A", None)])
            await until(lambda: purging.purged == 2, 20)
            cleared = purging.cleared
            assert cleared >= 1  # once, unless the machine is slow
            assert await world.address("new.cluster.local") == "10.0.0.7"
            purging.add([("new.cluster.local", "A", ("10.0.0.7",))])
            await until(lambda: purging.purged == 3, 20)
            assert purging.cleared == cleared
            purger.cancel()


def served_records(known: dict[tuple[str, int], list[bytes]], message: bytes) -> list[bytes]:
    """What is known of a name; NXDOMAIN of any other. An alias leads to one whose address is known."""
    query = dns.read_query(message)
    name = dns.text(query.name)
    alias = known.get((name, dns.CNAME))
    if alias and query.type == dns.A:
        target = known[dns.text(dns.lower(alias[0])), dns.A]
        more = [dns.record(dns.A, 30, data, alias[0]) for data in target]
        return [dns.answer(query, dns.piece([dns.record(dns.CNAME, 30, alias[0]), *more]))]
    found = known.get((name, query.type))
    if found is None:
        return [dns.answer(query, dns.piece([], [SOA]), dns.NXDOMAIN)]
    return [dns.answer(query, dns.piece([dns.record(query.type, 30, data) for data in found]))]


async def test_an_answer_that_changed_or_is_gone_is_forgotten_soon(tmp_path: Path) -> None:
    """Of each type that a Service's names have, with what dnsmasq makes of them; none of them is expected in vain."""
    one, two, three = (bytes((10, 0, 0, number)) for number in (1, 2, 3))
    web, old, now = (dns.name(f"{name}.cluster.local") for name in ("Web", "Old", "Now"))
    back = "7.0.96.10.in-addr.arpa"
    targets = {("old.cluster.local", dns.A): [one], ("now.cluster.local", dns.A): [two]}
    known = {
        **targets,
        ("web.cluster.local", dns.A): [one],
        ("alias.cluster.local", dns.CNAME): [old],
        ("to.cluster.local", dns.A): [three],
        ("_http._tcp.cluster.local", dns.SRV): [dns.srv(0, 100, 80, web)],
        (back, dns.PTR): [old],
        ("gone.cluster.local", dns.A): [one],
    }
    async with served(lambda message: served_records(known, message)) as (upstream, _):
        world = World(tmp_path)
        place = (Server("127.0.0.1", upstream.port),)
        world.dnsmasq.serve(servers(Settings({"cluster.local": place, "10.in-addr.arpa": place}), ()))
        async with running(world):
            asked = [("alias.cluster.local", dns.A), *known]
            before = [(await world.asking.ask(*each)).answers for each in asked]
            assert all(before)
            known.clear()
            known |= {
                **targets,
                ("web.cluster.local", dns.A): [two],
                ("alias.cluster.local", dns.CNAME): [now],
                ("to.cluster.local", dns.CNAME): [now],
                ("_http._tcp.cluster.local", dns.SRV): [dns.srv(0, 100, 81, web)],
                (back, dns.PTR): [web, now],
            }
            assert await world.address("web.cluster.local") == "10.0.0.1"  # it remembers
            purging = Purging(world.asking.has, world.dnsmasq.clear, asyncio.get_running_loop().time)
            purger = asyncio.create_task(purging.run())
            words: list[tuple[str, str, Expected]] = [
                ("web.cluster.local", "A", ("10.0.0.2",)),
                ("alias.cluster.local", "CNAME", ("Now.cluster.local",)),
                ("to.cluster.local", "CNAME", ("Now.cluster.local",)),
                ("to.cluster.local", "A", ()),
                ("_http._tcp.cluster.local", "SRV", ("0 100 81 Web.cluster.local",)),
                (back, "PTR", ("Web.cluster.local", "Now.cluster.local")),
                ("gone.cluster.local", "A", ()),
            ]
            purging.add(words)
            await until(lambda: purging.purged == len(words), 20)
            cleared = purging.cleared
            assert cleared >= 1
            for name, said in {
                "web": "10.0.0.2",
                "alias": "Now.cluster.local 10.0.0.2",
                "to": "Now.cluster.local 10.0.0.2",
                "gone": "NXDOMAIN",
            }.items():
                assert (await world.address(f"{name}.cluster.local")).lower() == said.lower()
            purging.add(words)  # now they are in the cache
            await until(lambda: purging.purged == 2 * len(words), 20)
            assert purging.cleared == cleared
            purger.cancel()


async def test_a_storm_of_changed_names_that_nobody_asked_for_clears_nothing(tmp_path: Path) -> None:
    async with served(fixed("10.0.0.2").reply) as (upstream, _):
        world = World(tmp_path)
        world.dnsmasq.serve(servers(Settings({"cluster.local": (Server("127.0.0.1", upstream.port),)}), ()))
        async with running(world):
            purging = Purging(world.asking.has, world.dnsmasq.clear, asyncio.get_running_loop().time)
            purger = asyncio.create_task(purging.run())
            began = asyncio.get_running_loop().time()
            purging.add((f"n{number}.cluster.local", "A", ("10.0.0.2",)) for number in range(1000))
            await until(lambda: purging.purged == 1000, 60)
            print(f"1,000 changed names seen to in {asyncio.get_running_loop().time() - began:.2f} s")
            assert purging.cleared == 0
            purger.cancel()


class Back(asyncio.DatagramProtocol):
    """Gives what it is asked to whoever is at `place`."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.place = place
        self.out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.out.sendto(data, self.place)

    def connection_lost(self, exc: Exception | None) -> None:
        self.out.close()


async def test_a_server_that_leads_back_is_found(tmp_path: Path) -> None:
    world = World(tmp_path)
    place = (world.asking.address, world.asking.port)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Back(place), local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    world.dnsmasq.serve(servers(Settings(), (Server("127.0.0.1", port),)))
    async with running(world):
        await until(lambda: world.loops == {f"127.0.0.1:{port}"}, 20)
    transport.close()
