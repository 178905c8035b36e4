"""What is said to questions that are not as usual, and to pods whose searches are completed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.network.dns.answers import Elsewhere, answer, quick
from podnet.wire import dns
from podnet.wire.dns import AAAA, SRV, A
from tests.network.dns.names import alias, ask, made, said, service, shown

SVC = "svc.cluster.local"
WEB = dns.name(f"web.demo.{SVC}")
WHERE = made(service("web", "10.96.0.7"), service("two", "10.96.0.8", "fd00::8"), alias("far", "www.example.com"))


def heard(message: bytes) -> dns.Message:
    made = answer(WHERE, dns.read_query(message))
    assert isinstance(made, bytes)
    return dns.read(made)


@pytest.mark.parametrize(
    ("type_", "cls", "flags", "rcode"),
    [
        (A, 1, 0x0100, dns.NOERROR),
        (A, 255, 0x0100, dns.NOERROR),
        (A, 3, 0x0100, dns.REFUSED),
        (dns.AXFR, 1, 0x0100, dns.REFUSED),
        (251, 1, 0x0100, dns.NOTIMP),
        (A, 1, 0x2100, dns.NOTIMP),
        (dns.AXFR, 1, 0x2100, dns.NOTIMP),
        (A, 1, 0x2800, dns.NOTIMP),
        (65280, 1, 0x0100, dns.NOERROR),
    ],
)
def test_what_is_not_as_usual(type_: int, cls: int, flags: int, rcode: int):
    message = dns.question(7, WEB, type_, cls=cls, flags=flags)
    assert heard(message).rcode == rcode
    assert quick(WHERE, message) is None or rcode == dns.NOERROR


def test_a_version_of_edns_that_nobody_knows():
    message = bytearray(dns.question(7, WEB, A))
    message[-5] = 1
    found = heard(bytes(message))
    assert (found.rcode, found.additional[0].ttl >> 24) == (0, 1)
    assert quick(WHERE, bytes(message)) is None


def test_all_there_is_is_not_told():
    found = heard(dns.question(7, WEB, dns.ANY))
    assert [each.type for each in found.answers] == [dns.HINFO]


@pytest.mark.parametrize("name", ["www.example.com", "local", "1.1.1.1.in-addr.arpa", "xcluster.local"])
def test_names_of_others(name: str):
    found = ask(WHERE, name)
    assert found == Elsewhere(dns.name(name))


@given(st.binary(max_size=60), st.sampled_from([b"", WEB, b"\0"]), st.integers(0, 1))
def test_what_is_quick_is_right(rest: bytes, asked: bytes, edns: int):
    """Whatever stands around a good name: if there is a quick answer, it is the answer."""
    message = b"\0\7\1\0\0\1\0\0\0\0\0" + bytes((edns,)) + asked + rest
    short = quick(WHERE, message)
    if short is not None:
        assert short == answer(WHERE, dns.read_query(message))


@given(st.sampled_from([0, 512, 1232]), st.sampled_from([A, AAAA, SRV]), st.booleans(), st.integers(0, 0xFFFF))
def test_the_usual_is_quick(size: int, type_: int, wanted: bool, id_: int):
    name = f"_http._tcp.two.demo.{SVC}" if type_ == SRV else f"Two.demo.{SVC}"
    message = dns.question(id_, dns.name(name), type_, size=size, flags=dns.RD if wanted else 0)
    short = quick(WHERE, message)
    assert short is not None
    assert short == answer(WHERE, dns.read_query(message))


SEARCHES = [f"demo.{SVC}", SVC, "cluster.local", ""]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("web", ["10.96.0.7"]),
        ("web.demo", [f"web.demo.{SVC}", "10.96.0.7"]),
        (f"web.demo.{SVC}", [f"web.demo.{SVC}", "10.96.0.7"]),
        ("web.demo.svc", [f"web.demo.{SVC}", "10.96.0.7"]),
        (f"none.demo.{SVC}", "NXDOMAIN"),
    ],
)
def test_a_search_is_completed(wanted: str, found: list[str] | str):
    first = f"{wanted}.{SEARCHES[0]}"
    assert said(WHERE, first, namespace="demo") == found
    assert said(WHERE, first) == (found if wanted == "web" else "NXDOMAIN")
    assert said(WHERE, first, namespace="other") == (found if wanted == "web" else "NXDOMAIN")
    for rest in SEARCHES[1:3]:
        if said(WHERE, f"{wanted}.{rest}") == "NXDOMAIN":
            assert said(WHERE, f"{wanted}.{rest}", namespace="demo") == "NXDOMAIN"


def test_a_completed_search_of_a_type_that_is_not_there():
    found = ask(WHERE, f"web.demo.demo.{SVC}", AAAA, namespace="demo")
    assert isinstance(found, dns.Message)
    assert (found.rcode, shown(found.answers), len(found.authority)) == (0, [f"web.demo.{SVC}"], 1)


def test_a_search_that_others_must_complete():
    found = ask(WHERE, f"www.example.com.demo.{SVC}", namespace="demo")
    assert isinstance(found, Elsewhere)
    assert (found.name, len(found.chain)) == (dns.name("www.example.com"), 1)
    assert found.missing is not None
    assert dns.read(found.missing).rcode == dns.NXDOMAIN


def test_a_completed_search_that_ends_at_an_alias():
    found = ask(WHERE, f"far.demo.demo.{SVC}", namespace="demo")
    assert isinstance(found, Elsewhere)
    assert (found.name, len(found.chain)) == (dns.name("www.example.com"), 2)
