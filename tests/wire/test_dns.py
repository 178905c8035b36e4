"""DNS messages: what is read, what is written, and that no bytes whatever do harm."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.wire import dns
from podnet.wire.dns import AAAA, NONE, RD, SOA, SRV, TXT, A, Malformed, Record

NAME = dns.name("Web.demo.svc.cluster.local")
LABEL = st.text(st.characters(codec="ascii", exclude_characters=".", min_codepoint=33), min_size=1, max_size=20)


def ask(asked: bytes = NAME, type_: int = A, **more: int) -> bytes:
    return dns.question(7, asked, type_, **more)


@given(st.lists(LABEL, min_size=1, max_size=8))
def test_names_come_back(labels: list[str]):
    wire = dns.name(".".join(labels))
    assert [label.decode() for label in dns.labels(wire)] == labels
    assert dns.read_name(b"xx" + wire + b"yy", 2) == (wire, 2 + len(wire))
    assert dns.below(dns.lower(wire), dns.lower(dns.parent(wire)))
    assert not dns.below(dns.lower(dns.parent(wire)), dns.lower(wire))


@pytest.mark.parametrize("text", ["a..b", "x" * 64, ".".join(["abcdefg"] * 32)])
def test_what_is_no_name(text: str):
    with pytest.raises(Malformed):
        dns.name(text)


def test_names_for_people():
    assert dns.text(dns.name("a.b.")) == "a.b"
    assert dns.text(b"\0") == "."
    assert dns.text(b"\x03a.b\0") == "a\\046b"
    assert dns.reverse("10.96.0.1") == dns.name("1.0.96.10.in-addr.arpa")


def test_a_query_is_read():
    query = dns.read_query(ask())
    assert (query.name, query.type, query.cls, query.size, query.edns) == (NAME.lower(), A, 1, 1232, True)
    assert query.asked[: len(NAME)] == NAME
    plain = dns.read_query(ask(size=0))
    assert (plain.size, plain.edns) == (512, False)
    assert dns.read_query(ask(size=100)).size == 512
    assert dns.read_query(ask(size=4096)).size == 1232


POINTER = b"\0\7\1\0\0\1\0\0\0\0\0\0"


@pytest.mark.parametrize(
    "message",
    [
        b"", b"short", POINTER, POINTER + b"\xc0\x0c\0\1\0\1", POINTER + b"\x40a\0\0\1\0\1", POINTER + b"\3www",
        POINTER + b"\xc0\x00\0\1\0\1", POINTER + b"\xff\xff\0\1\0\1", POINTER + b"\1a\xc0\x0c\0\1\0\1", ask()[:-3],
        POINTER + b"\x3f" + b"x" * 63 * 5, b"\0\7\1\0\0\2" + ask()[6:], b"\0\7\1\0\0\0" + ask()[6:],
    ],
)  # fmt: skip
def test_what_no_answer_belongs_to(message: bytes):
    with pytest.raises(Malformed):
        dns.read_query(message)
    said = dns.refusal(message)
    assert said is None if len(message) < 12 else said is not None and dns.read(said).rcode == dns.FORMERR


def test_an_answer_is_not_answered():
    answer = dns.answer(dns.read_query(ask()), NONE)
    with pytest.raises(Malformed):
        dns.read_query(answer)
    assert dns.refusal(answer) is None


def test_an_unknown_opcode_is_said_to_be_unknown():
    update = bytes((*ask()[:2], 5 << 3, *ask()[3:8], 9, 9, 9, 9))
    said = dns.refusal(update)
    assert said is not None
    assert (dns.read(said).rcode, said[2] >> 3 & 0xF) == (dns.NOTIMP, 5)


def test_what_is_written_is_read():
    query = dns.read_query(ask(type_=SRV))
    target = dns.name("a.web.demo.svc.cluster.local")
    made = dns.piece([dns.record(SRV, 30, dns.srv(0, 100, 80, target))], [], [dns.record(A, 30, b"\n\0\0\1", target)])
    found = dns.read(dns.answer(query, made))
    assert (found.id, found.rcode, bool(found.flags & RD)) == (7, 0, True)
    assert found.question is not None
    assert found.question.asked == query.asked
    assert [dns.shown(each) for each in (*found.answers, *found.additional[:1])] == [
        "0 100 80 a.web.demo.svc.cluster.local",
        "10.0.0.1",
    ]
    assert found.answers[0].name == NAME
    assert found.additional[1].type == dns.OPT


def test_records_for_people():
    soa = dns.soa(dns.name("ns.dns.x"), dns.name("hostmaster.x"), 5, 30)
    found = dns.read(dns.answer(dns.read_query(ask()), dns.piece([], [dns.record(SOA, 30, soa)])))
    assert found.authority == (Record(NAME, SOA, 30, soa),)
    assert dns.shown(Record(NAME, TXT, 30, dns.txt("1.1.0", "a b"))) == '"1.1.0" "a b"'
    assert dns.shown(Record(NAME, AAAA, 30, dns.address("fd00::1")[1])) == "fd00::1"
    assert dns.shown(Record(NAME, 99, 30, b"\1\2")) == "0102"


def test_what_is_too_long_says_so():
    made = dns.piece([dns.record(A, 30, b"\n\0\0\1")] * 100)
    query = dns.read_query(ask(size=0))
    short = dns.answer(query, made)
    assert len(short) <= 512
    assert dns.read(short).flags & dns.TC
    whole = dns.answer(query, made, size=0)
    assert len(dns.read(whole).answers) == 100
    assert not dns.read(whole).flags & dns.TC


def test_an_extended_rcode():
    query = dns.read_query(ask())
    found = dns.read(dns.answer(query, NONE, dns.BADVERS))
    assert (found.rcode, found.additional[0].ttl >> 24) == (0, 1)


@given(st.binary(max_size=120), st.booleans())
def test_no_bytes_do_harm(message: bytes, answer: bool):
    try:
        dns.read(message) if answer else dns.read_query(message)
    except Malformed:
        assert (said := dns.refusal(message)) is None or len(said) == 12


@given(st.randoms(use_true_random=False))
def test_no_change_of_a_good_message_does_harm(rng: random.Random):
    made = bytearray(dns.answer(dns.read_query(ask()), dns.piece([dns.record(A, 30, b"\n\0\0\1")])))
    for _ in range(rng.randint(1, 4)):
        made[rng.randrange(len(made))] = rng.randrange(256)
    message = bytes(made[: rng.randint(0, len(made))])
    for parse in (dns.read, dns.read_query):
        try:
            parse(message)
        except Malformed:
            assert dns.refusal(message) is None or len(message) >= 12


@pytest.mark.parametrize("address", ["10.96.0.1", "0.0.0.0", "fd00::7", "::", "2001:db8::1:0:0:1"])
def test_addresses_of_names(address: str):
    assert dns.address_of(dns.lower(dns.reverse(address))) == address


@pytest.mark.parametrize(
    "text", ["0.96.10.in-addr.arpa", "01.0.96.10.in-addr.arpa", "in-addr.arpa", "::1.in-addr.arpa", "1.ip6.arpa", "com"]
)
def test_names_of_no_address(text: str):
    assert dns.address_of(dns.name(text)) == ""
    assert dns.address_of(b"\0") == dns.address_of(b"\1x\x23y\0") == ""
