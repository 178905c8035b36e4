"""Questions of one flow to servers that answer, that answer something else, and that don't."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from podnet.daemons.dns_talk import DnsTalk
from podnet.kernel.netns import NoNamespace
from podnet.network.dns.tracing import Counters
from podnet.wire import dns

Says = Callable[[dns.Query, bool], bytes | None]
ADDRESS = dns.piece([dns.record(dns.A, 30, bytes((10, 96, 0, 7)))])
BIND = {"hits.bind": ("7",), "misses.bind": ("3",), "servers.bind": ("127.0.0.1#10053 6 0", "10.0.0.1#53 1 0")}


class Server:
    """One port of 127.0.0.1, by UDP and TCP: `says` is told the question and whether it came by TCP."""

    def __init__(self) -> None:
        self.says: Says = lambda query, tcp: dns.answer(query, ADDRESS)
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind(("127.0.0.1", 0))
        self.port = self._datagrams.getsockname()[1]
        self._streams = socket.create_server(("127.0.0.1", self.port))
        self._threads = [threading.Thread(target=each) for each in (self._udp, self._tcp)]
        for each in self._threads:
            each.start()

    def _udp(self) -> None:
        while message := self._datagrams.recvfrom(4096):
            if message[0] == b"end":
                return
            if (said := self.says(dns.read_query(message[0]), False)) is not None:
                self._datagrams.sendto(said, message[1])

    def _tcp(self) -> None:
        while True:
            channel, _ = self._streams.accept()
            with channel, channel.makefile("rwb") as file:
                if not (size := int.from_bytes(file.read(2), "big")):
                    return
                said = self.says(dns.read_query(file.read(size)), True) or b""
                file.write(len(said).to_bytes(2, "big") + said)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"end", ("127.0.0.1", self.port))
        socket.create_connection(("127.0.0.1", self.port)).close()
        for each in self._threads:
            each.join()
        self._datagrams.close()
        self._streams.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def talk(server: Server) -> Iterator[DnsTalk]:
    with DnsTalk("", "127.0.0.1", server.port) as made:
        yield made


def test_an_answer(talk: DnsTalk) -> None:
    said = talk.ask("web.test", dns.A, 5)
    assert (said.code, said.texts, said.ttl, said.aa, said.error) == ("NOERROR", ("10.96.0.7",), 30, True, "")
    assert 0 < said.seconds < 5


def test_an_answer_that_was_cut_off_is_asked_for_by_tcp(server: Server, talk: DnsTalk) -> None:
    server.says = lambda query, tcp: dns.answer(query, ADDRESS if tcp else dns.NONE, 0, dns.AA if tcp else dns.TC)
    assert talk.ask("web.test", dns.A, 5).texts == ("10.96.0.7",)


def test_what_is_no_answer_is_passed_over(server: Server, talk: DnsTalk) -> None:
    server.says = lambda query, tcp: b"\0\0" + dns.answer(query, ADDRESS)[2:] if query.id else None
    assert talk.ask("web.test", dns.A, 0.05).error == "no answer"
    server.says = lambda query, tcp: query.id.to_bytes(2, "big") + b"\x81\0\0\1" + bytes(6)
    assert talk.ask("web.test", dns.A, 5).error == "it ends too early"


def test_silence_is_tried_again(server: Server, talk: DnsTalk) -> None:
    asked: list[int] = []
    server.says = lambda query, tcp: asked.append(query.id)
    assert talk.ask("web.test", dns.A, 0.05, tries=3).rcode is None
    assert len(asked) == 3


def test_a_port_at_which_nobody_listens() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with DnsTalk("", "127.0.0.1", port) as talk:
        assert talk.ask("web.test", dns.A, 5).error == "Connection refused"


def test_what_a_dnsmasq_counts(server: Server, talk: DnsTalk) -> None:
    def says(query: dns.Query, tcp: bool) -> bytes:
        text = dns.txt(*BIND[dns.text(query.name)])
        return dns.answer(query, dns.piece([dns.record(dns.TXT, 0, text, cls=dns.CHAOS)]))

    server.says = says
    assert talk.counters() == Counters(7, 3, ("127.0.0.1#10053", "10.0.0.1#53"))
    server.says = lambda query, tcp: dns.answer(query, dns.NONE, dns.REFUSED)
    assert talk.counters() is None


def test_nothing_translated_it(talk: DnsTalk) -> None:
    assert talk.behind("") == ""
    assert talk.behind("/nowhere") == ""


def test_a_namespace_that_is_gone() -> None:
    with pytest.raises(NoNamespace):
        DnsTalk("/nowhere", "127.0.0.1")
