"""kubedns' answers over real sockets, with other servers on loopback."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from podnet.daemons.asking import Asking
from podnet.daemons.dns_client import DnsClient, Server
from podnet.daemons.dns_server import DnsServer
from podnet.dns.answering import Answers, Servers
from podnet.network.dns.zone import Zone
from podnet.wire import dns
from podnet.wire.dns import NXDOMAIN, REFUSED, SERVFAIL, TC, TYPES, A
from tests.daemons.test_asking import Reply, address, served
from tests.daemons.test_dns_client import at
from tests.network.dns.names import alias, endpoint, made, piece, service, shown

SVC = "demo.svc.cluster.local"


def zone() -> Zone:
    many = [endpoint(f"10.2.{number >> 8}.{number & 255}") for number in range(200)]
    return made(
        service("web", "10.96.0.1", "fd00::1"), service("db"), service("many"), piece("many", *many),
        piece("db", endpoint("10.0.0.1", "db-0"), endpoint("10.0.0.2")),
        alias("outside", "www.example.test"), alias("inside", f"web.{SVC}"), alias("back", "back.corp.test"),
    )  # fmt: skip


@asynccontextmanager
async def kubedns(
    upstreams: tuple[Server, ...] = (), stubs: Mapping[bytes, tuple[Server, ...]] | None = None, **options: Any
) -> AsyncIterator[tuple[Asking, Answers]]:
    answers = Answers(DnsClient(0.3), **options)
    answers.zone = zone()
    answers.servers = Servers(stubs or {}, upstreams)
    server = DnsServer(answers)
    await server.listen("127.0.0.1", 0)
    try:
        yield Asking("127.0.0.1", server.addresses[0][1], 5.0), answers
    finally:
        await server.close()


async def raw(asking: Asking, message: bytes) -> dns.Message:
    """By UDP, as it comes."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        made.connect(at(asking))
        await loop.sock_sendall(made, message)
        async with asyncio.timeout(5):
            return dns.read(await loop.sock_recv(made, 65_535))


def says(address_: str) -> Reply:
    """A server that knows one address for every name."""
    made = dns.piece([dns.record(A, 30, dns.address(address_)[1])])
    return lambda message: [dns.answer(dns.read_query(message), made, flags=dns.RA)]


async def test_until_it_knows_the_cluster_it_fails() -> None:
    async with kubedns() as (asking, answers):
        ready, answers.zone = answers.zone, None
        for name in (f"web.{SVC}", f"none.{SVC}", "www.example.test"):
            assert (await asking.ask(name, A)).rcode == SERVFAIL
        answers.zone = ready
        assert shown((await asking.ask(f"web.{SVC}", A)).answers) == ["10.96.0.1"]


@pytest.mark.parametrize("size", [0, 512, 1232, 4096])
async def test_what_is_too_long_for_a_packet_is_whole_by_tcp(size: int) -> None:
    async with kubedns() as (asking, _):
        said = await raw(asking, dns.question(7, dns.name(f"many.{SVC}"), A, size=size))
        assert said.flags & TC
        assert not said.answers
        assert bool(said.additional) == bool(size)
        assert len((await asking.ask(f"many.{SVC}", A)).answers) == 200


async def test_letters_come_back_as_they_were() -> None:
    async with kubedns() as (asking, answers):
        for type_ in (A, TYPES["AAAA"], TYPES["SRV"]):
            asked = dns.name("wEb.DeMo.svc.cluster.LOCAL")
            said = await raw(asking, dns.question(7, asked, type_))
            assert said.question is not None
            assert said.question.asked[:-4] == asked
        assert (answers.quick, answers.others) == (2, 1)


async def test_the_longest_stub_domain_is_asked() -> None:
    places = [served(says(f"192.0.2.{number}")) for number in (1, 2, 3)]
    async with places[0] as (one, _), places[1] as (two, _), places[2] as (rest, _):
        stubs = {dns.name("corp.test"): (at(one),), dns.name("eu.corp.test"): (at(two),)}
        async with kubedns((at(rest),), stubs) as (asking, _):
            for name, expected in [
                ("db.corp.test", "192.0.2.1"),
                ("corp.test", "192.0.2.1"),
                ("DB.EU.Corp.test", "192.0.2.2"),
                ("xeu.corp.test", "192.0.2.1"),
                ("xcorp.test", "192.0.2.3"),
                ("test", "192.0.2.3"),
            ]:
                assert shown((await asking.ask(name, A)).answers) == [expected], name


async def test_nobody_knows_other_names() -> None:
    async with kubedns() as (asking, _):
        assert (await asking.ask("www.example.test", A)).rcode == REFUSED
    async with served(lambda message: []) as (silent, _), kubedns((at(silent),)) as (asking, _):
        assert (await asking.ask("www.example.test", A)).rcode == SERVFAIL
        assert (await asking.ask(f"outside.{SVC}", A)).rcode == SERVFAIL
        assert shown((await asking.ask(f"web.{SVC}", A)).answers) == ["10.96.0.1"]


async def test_without_recursion_nobody_is_asked() -> None:
    async with served(says("192.0.2.1")) as (up, server), kubedns((at(up),)) as (asking, _):
        said = await raw(asking, dns.question(7, dns.name("www.example.test"), A, flags=0))
        assert (said.rcode, server.asked) == (REFUSED, [])


async def test_an_alias_of_a_name_outside() -> None:
    async with served(says("192.0.2.1")) as (up, _), kubedns((at(up),)) as (asking, _):
        said = await asking.ask(f"outside.{SVC}", A)
        assert shown(said.answers) == ["www.example.test", "192.0.2.1"]
        assert [dns.text(each.name) for each in said.answers] == [f"outside.{SVC}", "www.example.test"]
        assert shown((await asking.ask(f"inside.{SVC}", A)).answers) == [f"web.{SVC}", "10.96.0.1"]
        assert shown((await asking.ask(f"outside.{SVC}", TYPES["CNAME"])).answers) == ["www.example.test"]
    async with served(lambda message: [address(message, rcode=NXDOMAIN)]) as (up, _), kubedns((at(up),)) as (asking, _):
        said = await asking.ask(f"outside.{SVC}", A)
        assert (said.rcode, shown(said.answers)) == (NXDOMAIN, ["www.example.test"])


async def test_an_alias_whose_answer_is_no_dns() -> None:
    def garbage(message: bytes) -> list[bytes]:
        return [message[:2] + b"\x81\x80\0\1\0\5\0\0\0\0" + message[12:]]

    async with served(garbage) as (up, _), kubedns((at(up),)) as (asking, _):
        assert (await asking.ask(f"outside.{SVC}", A)).rcode == SERVFAIL


async def test_a_server_that_leads_back_is_found_and_left() -> None:
    async with kubedns() as (asking, answers), served(says("192.0.2.1")) as (up, _):
        here = at(asking)
        stubs = {dns.name("corp.test"): (here, at(up))}
        answers.servers = Servers(stubs, (here,))
        assert await answers.find_loops() == {here}
        assert shown((await asking.ask("db.corp.test", A)).answers) == ["192.0.2.1"]
        assert (await asking.ask("www.example.test", A)).rcode == REFUSED
        answers.servers = Servers(stubs, (at(up),))
        assert shown((await asking.ask("www.example.test", A)).answers) == ["192.0.2.1"]


async def transferred(port: int) -> str:
    return await asyncio.to_thread(
        lambda: subprocess.run(
            ["dig", "@127.0.0.1", "-p", str(port), "cluster.local", "AXFR", "+nocmd", "+nostats"],
            capture_output=True, text=True, timeout=20, check=False,
        ).stdout
    )  # fmt: skip


@pytest.mark.skipif(not shutil.which("dig"), reason="bind9-dnsutils is not installed")
async def test_the_whole_zone_for_those_who_may() -> None:
    async with kubedns(transfers=["10.0.0.0/8", "127.0.0.0/8", "::1/128"]) as (asking, _):
        lines = [line.split() for line in (await transferred(asking.port)).splitlines() if line and line[0] != ";"]
        assert lines[0][3] == lines[-1][3] == "SOA"
        found = {(line[0], line[3], line[4]) for line in lines}
        assert (f"web.{SVC}.", "A", "10.96.0.1") in found
        assert (f"outside.{SVC}.", "CNAME", "www.example.test.") in found
        assert len([each for each in found if each[:2] == (f"many.{SVC}.", "A")]) == 200
        assert all(each[0].endswith("cluster.local.") for each in found)
    async with kubedns(transfers=["10.0.0.0/8"]) as (asking, _):
        assert "Transfer failed" in await transferred(asking.port)


async def test_a_zone_of_many_messages() -> None:
    async with kubedns(transfers=["127.0.0.1/32"]) as (_, answers):
        answers.zone = made(*(service(f"s{number}", f"10.96.{number >> 8}.{number & 255}") for number in range(1, 900)))
        said = [*await answers.stream(dns.question(7, dns.name("cluster.local"), dns.AXFR), "127.0.0.1")]
        assert len(said) > 1
        read = [record for each in said for record in dns.read(each).answers]
        assert read[0] == read[-1]
        assert len([each for each in read if each.type == A]) == 899
        assert all(len(each) < 65_536 for each in said)
