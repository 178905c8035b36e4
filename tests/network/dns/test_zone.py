"""Names by the DNS specification, and that a zone depends on the cluster alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.network.dns import records
from podnet.network.dns.answers import Elsewhere
from podnet.network.dns.records import EMPTY, POD_TTL, Expected, Node
from podnet.network.dns.zone import Options, Zone, outdated, zone
from podnet.network.memo import Memo
from podnet.objects.meta import Object
from podnet.objects.services import ServicePort, SlicePort
from podnet.wire import dns
from podnet.wire.dns import AAAA, CNAME, PTR, SOA, SRV, TXT, A
from tests.network.dns.names import alias, ask, cluster, endpoint, made, piece, pod, said, service

SVC = "svc.cluster.local"


def test_a_service_with_an_address():
    where = made(service("web", "10.96.0.7", "fd00::7"))
    assert said(where, f"web.demo.{SVC}") == ["10.96.0.7"]
    assert said(where, f"WEB.Demo.{SVC}", AAAA) == ["fd00::7"]
    assert said(where, f"_http._tcp.web.demo.{SVC}", SRV) == [f"0 100 80 web.demo.{SVC}"]
    assert said(where, "7.0.96.10.in-addr.arpa", PTR) == [f"web.demo.{SVC}"]
    assert said(where, str(dns.text(dns.reverse("fd00::7"))), PTR) == [f"web.demo.{SVC}"]
    assert said(where, f"web.demo.{SVC}", TXT) == "NODATA"
    assert said(where, f"_tcp.web.demo.{SVC}", SRV) == "NODATA"
    assert said(where, f"_https._tcp.web.demo.{SVC}", SRV) == "NXDOMAIN"
    assert said(where, f"x.web.demo.{SVC}") == "NXDOMAIN"


def test_only_named_ports_have_srv_records():
    where = made(service("web", "10.96.0.7", ports=(ServicePort("", "TCP", 80),)))
    assert said(where, f"_tcp.web.demo.{SVC}", SRV) == "NXDOMAIN"


def test_a_headless_service():
    slices = (
        piece("db", endpoint("10.1.0.2", "db-0"), endpoint("10.1.0.3"), endpoint("10.1.0.4", "db-9", ready=False)),
        piece("db", endpoint("fd00::2", "db-0"), number=2),
    )
    where = made(service("db"), *slices)
    assert said(where, f"db.demo.{SVC}") == ["10.1.0.2", "10.1.0.3"]
    assert said(where, f"db.demo.{SVC}", turn=1) == ["10.1.0.3", "10.1.0.2"]
    assert said(where, f"db.demo.{SVC}", AAAA) == ["fd00::2"]
    assert said(where, f"db-0.db.demo.{SVC}") == ["10.1.0.2"]
    assert said(where, f"db-0.db.demo.{SVC}", AAAA) == ["fd00::2"]
    assert said(where, f"10-1-0-3.db.demo.{SVC}") == ["10.1.0.3"]
    assert said(where, f"db-9.db.demo.{SVC}") == "NXDOMAIN"
    heard = ask(where, f"_http._tcp.db.demo.{SVC}", SRV)
    assert isinstance(heard, dns.Message)
    assert sorted(dns.shown(each) for each in heard.answers) == [
        f"0 100 8080 10-1-0-3.db.demo.{SVC}",
        f"0 100 8080 db-0.db.demo.{SVC}",
    ]
    more = {(dns.text(each.name), dns.shown(each)) for each in heard.additional if each.type != dns.OPT}
    assert (f"db-0.db.demo.{SVC}", "fd00::2") in more
    assert said(where, "2.0.1.10.in-addr.arpa", PTR) == [f"db-0.db.demo.{SVC}"]
    assert isinstance(ask(where, "3.0.1.10.in-addr.arpa", PTR), Elsewhere)


@pytest.mark.parametrize(
    ("name", "seconds"), [("web", 30), ("_http._tcp.web", 30), ("db", 5), ("_http._tcp.db", 5), ("db-0.db", 5)]
)
def test_how_long_caches_keep_it(name: str, seconds: int):
    """A cache in front would show yesterday's pods of a headless Service for as long as it keeps them."""
    where = made(service("web", "10.96.0.7"), service("db"), piece("db", endpoint("10.0.0.1", "db-0")))
    heard = ask(where, f"{name}.demo.{SVC}", SRV if "_" in name else A)
    assert isinstance(heard, dns.Message)
    assert {each.ttl for each in (*heard.answers, *heard.additional) if each.type != dns.OPT} == {seconds}


def test_no_name_when_no_endpoint_is_ready():
    assert said(made(service("db")), f"db.demo.{SVC}") == "NXDOMAIN"
    away = piece("db", endpoint("10.1.0.2", "db-0", ready=False))
    assert said(made(service("db"), away), f"db.demo.{SVC}") == "NXDOMAIN"
    eager = made(service("db", publish_not_ready_addresses=True), away)
    assert said(eager, f"db-0.db.demo.{SVC}") == ["10.1.0.2"]


def test_an_endpoint_of_two_headless_services_has_two_names():
    slices = [piece(name, endpoint("10.1.0.2", "a")) for name in ("x", "y")]
    where = made(service("x"), service("y"), *slices)
    assert said(where, "2.0.1.10.in-addr.arpa", PTR) == [f"a.x.demo.{SVC}", f"a.y.demo.{SVC}"]


def test_what_is_no_name_harms_no_other():
    odd = piece("db", endpoint("not an address"), endpoint("10.1.0.2", "x" * 64), endpoint("10.1.0.3"))
    where = made(service("db"), odd, alias("far", "a..b"))
    assert said(where, f"db.demo.{SVC}") == ["10.1.0.3"]
    assert said(where, f"far.demo.{SVC}") == "NXDOMAIN"


def test_an_alias():
    outside = ask(made(alias("far", "www.example.com")), f"far.demo.{SVC}")
    assert isinstance(outside, Elsewhere)
    assert outside.name == dns.name("www.example.com")
    inside = made(service("web", "10.96.0.7"), alias("far", f"web.demo.{SVC}"), alias("loop", f"loop.demo.{SVC}"))
    assert said(inside, f"far.demo.{SVC}") == [f"web.demo.{SVC}", "10.96.0.7"]
    assert said(inside, f"far.demo.{SVC}", CNAME) == [f"web.demo.{SVC}"]
    assert said(inside, f"far.demo.{SVC}", AAAA) == [f"web.demo.{SVC}"]
    assert said(inside, f"loop.demo.{SVC}") == "SERVFAIL"
    dangling = made(alias("far", f"none.demo.{SVC}"))
    heard = ask(dangling, f"far.demo.{SVC}")
    assert isinstance(heard, dns.Message)
    assert (heard.rcode, len(heard.answers)) == (dns.NXDOMAIN, 1)


def test_pods():
    running, away = pod("a", "10.1.0.2", "fd00::2"), pod("b", "10.1.0.3", phase="Succeeded")
    where = made(running, away, pod("c", "192.168.0.1", host=True))
    assert said(where, "10-1-0-2.demo.pod.cluster.local") == ["10.1.0.2"]
    assert said(where, "fd00--2.demo.pod.cluster.local", AAAA) == ["fd00::2"]
    for name in ("10-1-0-3.demo", "10-1-0-2.empty", "192-168-0-1.demo", "x.demo"):
        assert said(where, f"{name}.pod.cluster.local") == "NXDOMAIN"
    trusting = made(options=Options(pods="insecure"))
    assert said(trusting, "10-1-0-9.demo.pod.cluster.local") == ["10.1.0.9"]
    assert said(trusting, "fd00--9.demo.pod.cluster.local", AAAA) == ["fd00::9"]
    assert said(trusting, "x.demo.pod.cluster.local") == "NXDOMAIN"
    assert said(made(options=Options(pods="disabled")), "pod.cluster.local") == "NXDOMAIN"


def test_the_frame():
    own = service("dns", "10.96.0.10")
    where = made(own, options=Options(service=("demo", "dns")))
    assert said(where, "dns-version.cluster.local", TXT) == ['"1.1.0"']
    for name in ("cluster.local", SVC, f"demo.{SVC}", f"empty.{SVC}", "demo.pod.cluster.local", "dns.cluster.local"):
        assert said(where, name) == "NODATA"
    assert said(where, f"nowhere.{SVC}") == "NXDOMAIN"
    assert said(where, "cluster.local", dns.NS) == ["ns.dns.cluster.local"]
    assert said(where, "ns.dns.cluster.local") == ["10.96.0.10"]
    heard = ask(where, f"none.demo.{SVC}")
    assert isinstance(heard, dns.Message)
    assert [(each.type, dns.text(each.name)) for each in heard.authority] == [(SOA, "cluster.local")]
    assert said(where, "cluster.local", SOA) != "NODATA"


NAMES, IPS = st.sampled_from("abc"), st.sampled_from(["10.1.0.1", "10.1.0.2", "fd00::1"])
ENDPOINT = st.builds(endpoint, IPS, st.sampled_from([None, "x", "y"]), st.sampled_from([None, True, False]))
OBJECT = st.one_of(
    st.builds(service, NAMES, IPS),
    st.builds(service, NAMES),
    st.builds(alias, NAMES, st.sampled_from(["example.com", f"a.demo.{SVC}"])),
    st.builds(pod, NAMES, IPS),
    st.builds(
        lambda of, one, ports: piece(of, one, ports=ports), NAMES, ENDPOINT, st.just((SlicePort("http", "TCP", 1),))
    ),
)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.lists(OBJECT, max_size=6), st.booleans()), min_size=2, max_size=6))
def test_the_way_does_not_matter(steps: Sequence[tuple[list[Object], bool]]):
    """Whatever came before, and whatever is remembered of it, a zone is that of its cluster; and what is said to be
    outdated is just what a cache may be wrong of."""
    memo: Memo = {}
    last = zone(cluster(), Options(), memo=memo)
    for number, (objects, forget) in enumerate(steps):
        if forget:
            memo.clear()
        now = zone(cluster(*objects), Options(), number, memo)
        fresh = zone(cluster(*objects), Options(), number)
        assert dict(now.names) == dict(fresh.names)
        found = [*outdated(last, now)]
        assert {(name, type_): expected and {*expected} for name, type_, expected in found} == wrong(last, now)
        assert len(found) == len({each[:2] for each in found})
        last = now


def wrong(last: Zone, now: Zone) -> dict[tuple[bytes, int], set[str] | Expected]:
    """By two whole zones."""
    had, has = ({(n, t): p for n, node in each.names.items() for t, p in node} for each in (last, now))
    found: dict[tuple[bytes, int], set[str] | Expected] = {}
    for at in had.keys() | has.keys():
        before, after = ({(dns.shown(r), r.ttl) for r in dns.records_of(of.get(at, dns.NONE))} for of in (had, has))
        lasted, lasts = (any(ttl > POD_TTL for _, ttl in each) for each in (before, after))
        texts = {text for text, _ in after}
        if not before:
            found[at] = texts if lasts else None
        elif lasted and not after and at[1] != PTR:
            found[at] = ()
        elif lasted and after and texts != {text for text, _ in before}:
            found[at] = texts
    return found


@pytest.mark.parametrize("count", [2, 40, 100])
def test_many_endpoints(count: int):
    endpoints = [endpoint(f"10.1.0.{number}") for number in range(count)]
    where = made(service("db"), piece("db", *endpoints))
    for type_, name in ((A, f"db.demo.{SVC}"), (SRV, f"_http._tcp.db.demo.{SVC}")):
        plain, large = (ask(where, name, type_, size) for size in (0, 1232))
        assert isinstance(plain, dns.Message)
        assert isinstance(large, dns.Message)
        for heard in (plain, large):
            assert len(heard.answers) == (0 if heard.flags & dns.TC else count)
        assert bool(large.flags & dns.TC) is (count > (70 if type_ == A else 10))


def node(*addresses: str, ttl: int = 30) -> Node:
    return records.addresses(addresses, ttl)


FAR, NEAR = (((CNAME, dns.piece([dns.record(CNAME, 30, dns.name(to))])),) for to in ("far.example", "near.example"))


@pytest.mark.parametrize(
    ("before", "now", "wrong"),
    [
        (EMPTY, node("10.0.0.1"), [(A, ("10.0.0.1",))]),
        (EMPTY, node("10.0.0.1", ttl=5), [(A, None)]),
        (node("10.0.0.1"), node("10.0.0.2"), [(A, ("10.0.0.2",))]),
        (node("10.0.0.1", "fd00::1"), node("10.0.0.1"), [(AAAA, ())]),
        (node("10.0.0.1", "10.0.0.2"), node("10.0.0.2", "10.0.0.1"), []),
        (node("10.0.0.1"), EMPTY, [(A, ())]),
        (node("10.0.0.1", ttl=5), node("10.0.0.2", ttl=5), []),
        (node("10.0.0.1", ttl=5), EMPTY, []),
        (node("10.0.0.1", ttl=5), node("10.0.0.2"), []),
        (node("10.0.0.1"), FAR, [(CNAME, ("far.example",)), (A, ())]),
        (FAR, NEAR, [(CNAME, ("near.example",))]),
        (records.pointer_node([dns.name("a")]), EMPTY, []),
    ],
)
def test_what_a_cache_is_wrong_of(before: Node, now: Node, wrong: list[tuple[int, Expected]]):
    assert [*records.outdated(before, now)] == wrong


WEB_NAME = dns.name("Web.demo")


@pytest.mark.parametrize(
    ("said", "flags", "expected", "right"),
    [
        ([dns.record(A, 30, b"\n\0\0\1")], 0, None, True),
        ([], dns.NXDOMAIN, None, False),
        ([], dns.NXDOMAIN, (), True),
        ([], dns.REFUSED, (), None),
        ([], dns.TC, None, True),
        ([dns.record(A, 30, b"\n\0\0\1")], 0, (), False),
        ([dns.record(A, 30, b"\n\0\0\1"), dns.record(A, 30, b"\n\0\0\2")], 0, ("10.0.0.2", "10.0.0.1"), True),
        ([dns.record(A, 30, b"\n\0\0\1")], 0, ("10.0.0.2",), False),
        ([dns.record(CNAME, 30, dns.name("x")), dns.record(A, 30, b"\n\0\0\1", dns.name("x"))], 0, (), True),
        ([dns.record(CNAME, 30, dns.name("x")), dns.record(A, 30, b"\n\0\0\1", dns.name("x"))], 0, None, False),
    ],
)
def test_whether_an_answer_is_as_expected(said: list[bytes], flags: int, expected: Expected, right: bool | None):
    query = dns.read_query(dns.question(7, WEB_NAME, A))
    message = dns.read(dns.answer(query, dns.piece(said), flags & 0xF, flags & dns.TC))
    assert records.as_expected(message, expected) is right
