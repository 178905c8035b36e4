"""kubedns in front of its cache: whose searches it completes, whom it asks, and what it says when nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from podnet.daemons.dns_client import DnsClient, NoAnswer, Server
from podnet.dns.answering import Answers, Servers
from podnet.network.dns.named import SEARCH_ANNOTATION
from podnet.network.dns.zone import clients, completes
from podnet.objects.core import Pod, PodDNSConfig
from podnet.wire import dns
from tests.network.dns.names import cluster, made, pod, service, shown

CACHE, STUB, UP = ("127.0.0.1", 53), ("10.0.0.1", 53), ("10.0.0.2", 53)
CORP, WWW = dns.name("corp.test"), dns.name("www.example.test")
SVC = "svc.cluster.local"
ASKING, OTHER = "10.244.0.5", "10.244.0.6"


class Client(DnsClient):
    """Others: a function of the name."""

    def __init__(self, rcode: int | None = dns.NOERROR, address: str = "192.0.2.1") -> None:
        super().__init__()
        self.asked: list[tuple[str, tuple[Server, ...]]] = []
        self._rcode, self._address = rcode, address

    async def ask(self, message: bytes, servers: Sequence[Server], *, whole: bool = False) -> bytes:
        query = dns.read_query(message)
        self.asked.append((dns.text(query.name), tuple(servers)))
        if self._rcode is None:
            raise NoAnswer
        records = [dns.record(dns.A, 60, dns.address(self._address)[1])]
        there = self._rcode == dns.NOERROR and query.type == dns.A
        return dns.answer(query, dns.piece(records if there else ()), self._rcode, dns.RA)


def told(client: Client, text: str, type_: int = dns.A, who: str = ASKING) -> dns.Message:
    answers = Answers(client)
    answers.zone = made(service("web", "10.96.0.7"))
    answers.servers = Servers({CORP: (STUB,)}, (UP,), (CACHE,))
    answers.namespaces = lambda client: {ASKING: "demo", "10.244.0.7": "shop"}.get(client, "")
    said = answers.datagram(dns.question(7, dns.name(text), type_), who)
    if said is None or isinstance(said, bytes):
        return dns.read(said or b"")
    found = asyncio.run(said)
    return dns.read(found or b"")


def test_who_is_asked_for_what() -> None:
    servers = Servers({CORP: (STUB,)}, (UP,), (CACHE,))
    assert servers.of(WWW) == [CACHE, UP]
    assert servers.of(dns.name("db.corp.test")) == [CACHE, STUB]
    assert servers.of(dns.reverse("192.0.2.1")) == [UP], "the cache would ask us"
    assert servers.all == {CACHE, STUB, UP}
    servers.looping.add(CACHE)
    assert servers.of(WWW) == [UP]


def test_one_question_is_enough() -> None:
    client = Client()
    first = f"www.example.test.demo.{SVC}"
    found = told(client, first)
    assert (found.rcode, shown(found.answers)) == (dns.NOERROR, ["www.example.test", "192.0.2.1"])
    assert [dns.text(each.name) for each in found.answers] == [first, "www.example.test"]
    assert client.asked == [("www.example.test", (CACHE, UP))]
    nothing = told(client, first, dns.AAAA)
    assert (nothing.rcode, shown(nothing.answers)) == (dns.NOERROR, ["www.example.test"])


@pytest.mark.parametrize("who", [OTHER, "10.244.0.7", "127.0.0.1"])
def test_for_others_there_is_no_such_name(who: str) -> None:
    client = Client()
    assert told(client, f"www.example.test.demo.{SVC}", who=who).rcode == dns.NXDOMAIN
    assert client.asked == []


@pytest.mark.parametrize("rcode", [dns.NXDOMAIN, dns.REFUSED, dns.SERVFAIL, None])
def test_what_nobody_knows_is_answered_as_ever(rcode: int | None) -> None:
    found = told(Client(rcode), f"www.example.test.demo.{SVC}")
    assert (found.rcode, found.answers, len(found.authority)) == (dns.NXDOMAIN, (), 1)


@pytest.mark.parametrize("rcode", [dns.NXDOMAIN, dns.REFUSED])
def test_the_name_itself_is_passed_on(rcode: int) -> None:
    assert told(Client(rcode), "www.example.test").rcode == rcode


def annotated(value: str | None, **spec: object) -> Pod:
    plain = pod("a", ASKING)
    marks = {} if value is None else {SEARCH_ANNOTATION: value}
    return replace(plain, metadata=replace(plain.metadata, annotations=marks), spec=replace(plain.spec, **spec))


@pytest.mark.parametrize(
    ("one", "asked_for", "everybody"),
    [
        (annotated(None), False, True),
        (annotated("server"), True, True),
        (annotated("client"), False, False),
        (annotated("server", dns_policy="None"), False, False),
        (annotated("server", dns_config=PodDNSConfig(searches=("corp.test",))), False, False),
        (annotated("server", dns_config=PodDNSConfig(nameservers=("10.96.0.10",))), True, True),
    ],
)
def test_whose_searches_are_completed(one: Pod, asked_for: bool, everybody: bool) -> None:
    assert (completes(one, False), completes(one, True)) == (asked_for, everybody)
    assert dict(clients(cluster(one), False, {})) == ({ASKING: "demo"} if asked_for else {})


def test_a_pod_that_ended_has_no_address() -> None:
    ended = replace(annotated("server"), status=pod("a", ASKING, phase="Failed").status)
    assert dict(clients(cluster(ended), True, {})) == {}
