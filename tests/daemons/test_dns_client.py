"""Asking several servers on loopback: in which order, what counts as an answer, and what to do without."""

from __future__ import annotations

import pytest

from podnet.daemons import dns_client
from podnet.daemons.asking import Asking
from podnet.daemons.dns_client import DnsClient, NoAnswer, Server
from podnet.wire import dns
from podnet.wire.dns import NXDOMAIN, REFUSED, SERVFAIL, TC, A
from tests.daemons.test_asking import address, served

QUESTION = dns.question(7, dns.name("Www.example.test"), A)


def at(asking: Asking) -> Server:
    return asking.address, asking.port


async def asked(servers: list[Server], client: DnsClient | None = None, whole: bool = False) -> dns.Message:
    return dns.read(await (client or DnsClient(0.3)).ask(QUESTION, servers, whole=whole))


async def test_an_answer_has_the_id_of_its_question_and_the_server_saw_another() -> None:
    ids: set[int] = set()
    async with served(lambda message: [address(message)]) as (asking, server):
        for _ in range(4):
            said = await asked([at(asking)])
            assert (said.id, [dns.shown(each) for each in said.answers]) == (7, ["10.0.0.1"])
        ids = {query.id for query in server.asked}
    assert len(ids) > 1, "an id that can be guessed"


@pytest.mark.parametrize("rcode", [SERVFAIL, REFUSED, dns.NOTIMP])
async def test_a_useless_answer_is_taken_when_there_is_no_better(rcode: int) -> None:
    async with served(lambda message: [address(message, rcode=rcode)]) as (useless, _):
        assert (await asked([at(useless)])).rcode == rcode
        async with served(lambda message: [address(message)]) as (good, _):
            assert (await asked([at(useless), at(good)])).answers
        async with served(lambda message: [address(message, rcode=NXDOMAIN)]) as (good, _):
            assert (await asked([at(useless), at(good)])).rcode == NXDOMAIN


async def test_who_does_not_answer_is_asked_last_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    client = DnsClient(0.2)
    async with served(lambda message: []) as (silent, mute), served(lambda message: [address(message)]) as (good, _):
        for _ in range(3):
            assert (await asked([at(silent), at(good)], client)).answers
        assert len(mute.asked) == 1
        assert client.failures == {at(silent): 1}
        with pytest.raises(NoAnswer, match="did not answer"):
            await asked([at(silent)], client)
        monkeypatch.setattr(dns_client, "SHUNNED", 0.0)
        client._shun(at(good))
        assert (await asked([at(silent), at(good)], client)).answers
        assert len(mute.asked) == 3, "after a while it is asked as before"


async def test_a_closed_port_costs_no_time() -> None:
    async with served(lambda message: [address(message)]) as (gone, _):
        pass
    with pytest.raises(NoAnswer):
        await asked([at(gone)], DnsClient(60))


async def test_nobody_to_ask() -> None:
    with pytest.raises(NoAnswer):
        await asked([])


def forged(message: bytes) -> list[bytes]:
    """Another id, another question, no answer at all, then the answer."""
    other = dns.question(0, dns.name("evil.test"), A)
    return [
        b"\0\0" + address(message)[2:],
        message[:2] + address(other)[2:],
        message,
        b"",
        message[:11],
        address(message),
    ]


async def test_what_is_no_answer_to_the_question_is_passed_over() -> None:
    async with served(forged) as (asking, _):
        assert [dns.shown(each) for each in (await asked([at(asking)])).answers] == ["10.0.0.1"]


async def test_a_cut_answer_is_asked_for_again_by_tcp_if_it_must_be_whole() -> None:
    calls: list[int] = []

    def reply(message: bytes) -> list[bytes]:
        calls.append(1)
        return (
            [address(message, TC, rcode=0)]
            if len(calls) % 2
            else [b"", address(b"\0\0" + message[2:]), address(message)]
        )

    async with served(reply) as (asking, _):
        whole = await asked([at(asking)], whole=True)
        assert (whole.id, whole.flags & TC, len(calls)) == (7, 0, 2)
        cut = await asked([at(asking)])
        assert cut.flags & TC
        assert len(calls) == 3
