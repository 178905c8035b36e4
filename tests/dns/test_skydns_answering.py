"""The answers of `podnet dns skydns` without sockets: before etcd was read, on bad input, and what others are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.client.etcd import Change
from podnet.daemons.dns_client import DnsClient, NoAnswer, Server
from podnet.dns.skydns_answering import REGISTRY, SkyAnswers
from podnet.network.dns.settings import server
from podnet.network.dns.skydns_answers import Options
from podnet.network.dns.skydns_config import Settings
from podnet.wire import dns

GIVEN = Settings(Options(dns.name("skydns.local"), dns.name("hostmaster.skydns.local")))
SERVERS = tuple(map(server, ("192.0.2.53", "192.0.2.54")))
VALUES = {
    "/skydns/local/skydns/a": '{"host":"10.0.0.1"}',
    "/skydns/local/skydns/out": '{"host":"www.example.com"}',
    "/skydns/local/skydns/bad": "{",
    "/skydns/config": "{}",
}


class Others(DnsClient):
    """Knows one address, and what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, Sequence[Server]]] = []

    async def ask(self, message: bytes, servers: Sequence[Server], *, whole: bool = False) -> bytes:
        query = dns.read_query(message)
        self.asked.append((dns.text(query.name), servers))
        if dns.text(query.name) != "www.example.com":
            raise NoAnswer("nobody knows")
        return dns.answer(query, dns.piece([dns.record(dns.A, 9, bytes((192, 0, 2, 1)))]))


def puts(values: dict[str, str]) -> list[Change]:
    return [Change(key, text) for key, text in values.items()]


def made() -> SkyAnswers:
    answers = SkyAnswers(Settings(GIVEN.options, SERVERS), Others(), rotate=True)
    answers.told(puts(VALUES))
    return answers


async def said(answers: SkyAnswers, asked: bytes) -> bytes | None:
    found = answers.datagram(asked, "127.0.0.1")
    return found if isinstance(found, bytes | None) else await found


async def ask(answers: SkyAnswers, name: str, type_: int = dns.A) -> dns.Message:
    found = await said(answers, dns.question(7, dns.name(name), type_))
    assert found is not None
    return dns.read(found)


def shown(message: dns.Message) -> list[str]:
    return [dns.shown(each) for each in message.answers]


async def test_nothing_is_known_before_etcd_was_read() -> None:
    answers = SkyAnswers(GIVEN, Others())
    assert (await ask(answers, "a.skydns.local")).rcode == dns.SERVFAIL
    answers.told(())
    assert (await ask(answers, "a.skydns.local")).rcode == dns.NXDOMAIN


async def test_changes_are_in_the_next_answer() -> None:
    answers = made()
    answers.told((Change("/skydns/local/skydns/b/1", '{"host":"10.0.0.2"}'), Change("/skydns/local/skydns/a", None)))
    assert shown(await ask(answers, "b.skydns.local")) == ["10.0.0.2"]
    assert (await ask(answers, "a.skydns.local")).rcode == dns.NXDOMAIN
    answers.told((Change("/skydns/local/skydns/b", None, below=True),))
    assert (await ask(answers, "b.skydns.local")).rcode == dns.NXDOMAIN


async def test_records_that_are_none_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    answers = made()
    answers.told((Change("/skydns/local/skydns/b", '{"host":"10.0.0.2"}'),))
    assert [each.getMessage().split()[0] for each in caplog.records] == ["/skydns/local/skydns/bad"]


async def test_settings_in_etcd_count_before_those_given(caplog: pytest.LogCaptureFixture) -> None:
    answers = made()
    said = '{"ttl":7,"hostmaster":"me@here.org","round_robin":false,"nameservers":["192.0.2.9:53"],"ndot":1}'
    answers.told([Change("/skydns/config", said)])
    assert [each.ttl for each in (await ask(answers, "a.skydns.local")).answers] == [7]
    assert dns.name("me.here.org") in (await ask(answers, "skydns.local", dns.SOA)).answers[0].data
    await ask(answers, "com")
    assert isinstance(answers._client, Others)
    assert answers._client.asked == [("com", [("192.0.2.9", 53)])]
    for bad in ("{", '{"ttl":-1}', '{"nameservers":["ns.example.com"]}', '{"hostmaster":"a..b"}'):
        answers.told([Change("/skydns/config", bad)])
        assert "can't be used" in caplog.messages[-1]
        assert answers.now.options.ttl == 7
    answers.told([Change("/skydns/config", '{"no_rec":true}')])
    assert (answers.now.options.ttl, answers.now.servers) == (3600, ())
    answers.told([Change("/skydns", None, below=True)])
    assert answers.now == answers._given


async def test_others_are_asked_in_turn_and_only_for_what_they_know() -> None:
    answers = made()
    assert shown(await ask(answers, "out.skydns.local")) == ["www.example.com", "192.0.2.1"]
    assert shown(await ask(answers, "www.example.com")) == ["192.0.2.1"]
    assert (await ask(answers, "no.example.com")).rcode == dns.SERVFAIL
    assert (await ask(answers, "com")).rcode == dns.SERVFAIL
    client = answers._client
    assert isinstance(client, Others)
    assert [name for name, _ in client.asked] == ["www.example.com", "www.example.com", "no.example.com"]
    assert len({servers[0] for _, servers in client.asked}) == 2


async def test_what_etcd_hides_is_read_when_it_is_named() -> None:
    hidden = {"/skydns/local/skydns/web/_tcp/_http/1": '{"host":"a.skydns.local","port":80}'}
    read: list[str] = []

    async def reading(key: str) -> dict[str, str]:
        read.append(key)
        return hidden

    answers = SkyAnswers(GIVEN, Others(), reading=reading)
    answers.told(puts(VALUES))
    assert shown(await ask(answers, "_http._tcp.web.skydns.local", dns.SRV)) == ["10 100 80 a.skydns.local"]
    assert shown(await ask(answers, "a.skydns.local")) == ["10.0.0.1"]
    hidden.clear()
    assert (await ask(answers, "_http._tcp.web.skydns.local", dns.SRV)).rcode == dns.NXDOMAIN
    await ask(answers, "*._tcp.web.skydns.local", dns.SRV)
    assert read == [*["/skydns/local/skydns/web/_tcp/_http"] * 2, "/skydns/local/skydns/web/_tcp"]


@pytest.mark.parametrize(
    ("change", "rcode"),
    [({"flags": 0x2800}, dns.NOTIMP), ({"cls": 2}, dns.REFUSED), ({"type_": dns.AXFR}, dns.REFUSED), ({}, dns.NOERROR)],
)
async def test_what_is_not_served(change: dict[str, int], rcode: int) -> None:
    asked = dns.question(7, dns.name("a.skydns.local"), **{"type_": dns.A, **change})
    for found in (await said(made(), asked), *await made().stream(asked, "127.0.0.1")):
        assert found is not None
        assert dns.read(found).rcode == rcode


QUESTION = dns.question(7, dns.name("*.skydns.local"), dns.SRV)


@settings(max_examples=150)
@given(st.binary(max_size=80) | st.tuples(st.integers(0, len(QUESTION) - 1), st.binary(min_size=1, max_size=4)).map(
    lambda spoilt: QUESTION[: spoilt[0]] + spoilt[1] + QUESTION[spoilt[0] + len(spoilt[1]) :]
))  # fmt: skip
def test_any_bytes_are_answered_or_not_but_never_raise(message: bytes) -> None:
    found = asyncio.run(said(made(), message))
    assert found is None or found[:2] == message[:2]


def test_metrics_have_the_names_of_skydns() -> None:
    assert {metric.name for metric in REGISTRY.collect()} == {
        f"skydns_skydns_dns_{name}"
        for name in (
            "request_count",
            "error_count",
            "cachemiss_count",
            "request_duration_seconds",
            "response_size_bytes",
        )
    }
