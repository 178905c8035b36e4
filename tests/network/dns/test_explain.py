"""Why a name has no answer, in words, and that the words go with what the zone says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.network.dns.answers import Elsewhere
from podnet.network.dns.explain import Explanation, asked_outside, explain
from podnet.network.dns.settings import Server, Settings
from podnet.network.dns.zone import Options
from podnet.network.memo import Memo
from podnet.objects.core import Namespace
from podnet.objects.meta import ObjectMeta
from podnet.objects.services import ObjectReference, ServicePort, SliceEndpoint, SlicePort
from podnet.wire import dns
from podnet.wire.dns import AAAA, ANY, AXFR, SRV, TXT, A
from tests.network.dns.names import DEFAULTS, alias, ask, cluster, endpoint, made, piece, pod, service

OBJECTS = (
    service("web", "10.96.0.7"),
    service("plain", "10.96.0.8", ports=(ServicePort("", "TCP", 80),)),
    alias("far", "www.example.com"),
    service("db"),
    piece(
        "db",
        endpoint("10.1.0.2", "db-0"),
        endpoint("10.1.0.4", "db-9", ready=False),
        SliceEndpoint(("10.1.0.5",), target_ref=ObjectReference("Pod", "demo", "loose")),
        ports=(SlicePort("sql", "TCP", 5432),),
    ),
    service("down", selector={"app": "down"}),
    service("sick"),
    piece("sick", SliceEndpoint(("10.1.0.6",), endpoint("", ready=False).conditions, None, None, None,
                                ObjectReference("Pod", "demo", "sick-1"))),
    service("hand"),
    pod("web-1", "10.244.0.5"),
    pod("done", "10.244.0.6", phase="Succeeded"),
    pod("host", "192.168.0.1", host=True),
    Namespace(ObjectMeta(name="shop")),
)  # fmt: skip
CLUSTER = cluster(*OBJECTS)
MEMO: Memo = {}
SVC = "svc.cluster.local"
WEB, DB = f"web.demo.{SVC}", f"db.demo.{SVC}"


def about(name: str, type_: int = A, options: Options = DEFAULTS) -> Explanation:
    return explain(CLUSTER, options, name, type_, MEMO if options == DEFAULTS else None)


@pytest.mark.parametrize(
    ("name", "type_", "outcome", "why", "instead"),
    [
        (f"web.shop.{SVC}", A, "NXDOMAIN", "no Service web in namespace shop; there is web in namespace demo", WEB),
        (f"wbe.demo.{SVC}", A, "NXDOMAIN", "no Service wbe in namespace demo", WEB),
        (f"web.dmeo.{SVC}", A, "NXDOMAIN", "no namespace dmeo", WEB),
        (f"web.{SVC}", A, "NXDOMAIN", "no namespace web; web is a Service, and its namespace", WEB),
        (f"demos.{SVC}", A, "NXDOMAIN", "no namespace demos", f"demo.{SVC}"),
        (f"demo.{SVC}", A, "NODATA", "it is the namespace demo", ""),
        (SVC, A, "NODATA", "only has namespaces below it", ""),
        (f"web.demo.demo.{SVC}", A, "NXDOMAIN", "so nothing below it; web of namespace demo is", WEB),
        (WEB, AAAA, "NODATA", "Service web has no IPv6 address", ""),
        (WEB, SRV, "NODATA", "SRV records stand at the names of ports", f"_http._tcp.{WEB}"),
        (WEB, TXT, "NODATA", "has addresses and no such record", ""),
        (f"_https._tcp.{WEB}", SRV, "NXDOMAIN", "Service web has no port https/TCP", f"_http._tcp.{WEB}"),
        (f"_http._tcp.{WEB}", A, "NODATA", "at a port's name stands only SRV", f"_http._tcp.{WEB}"),
        (f"_tcp.{WEB}", SRV, "NODATA", f"SRV records stand at _PORT._PROTOCOL.{WEB}", f"_http._tcp.{WEB}"),
        (f"_http._tcp.plain.demo.{SVC}", SRV, "NXDOMAIN", "no port of Service plain has a name", ""),
        (f"x.{WEB}", A, "NXDOMAIN", "only endpoints of headless Services", WEB),
        (f"far.demo.{SVC}", A, "records", "it is another name for www.example.com", ""),
        (f"x.far.demo.{SVC}", A, "NXDOMAIN", "only another name for www.example.com", f"far.demo.{SVC}"),
        (f"down.demo.{SVC}", A, "NXDOMAIN", "no endpoint: no pod that has an address is labelled app=down", ""),
        (f"hand.demo.{SVC}", A, "NXDOMAIN", "headless and has no endpoint: it has no selector", ""),
        (f"sick.demo.{SVC}", A, "NXDOMAIN", "headless and none of its endpoints is ready: sick-1 (10.1.0.6)", ""),
        (DB, AAAA, "NODATA", "no endpoint of it is IPv6", ""),
        (f"db-9.{DB}", A, "NXDOMAIN", "the endpoint 10.1.0.4 is not ready", ""),
        (f"db-0.{DB}", AAAA, "NODATA", "address of the other IP family only", ""),
        (f"10-1-0-2.{DB}", A, "NXDOMAIN", "has a hostname, db-0", f"db-0.{DB}"),
        (f"loose.{DB}", A, "NXDOMAIN", "pod loose has no hostname here: set spec.hostname, and spec.subdomain: db",
         f"10-1-0-5.{DB}"),
        (f"web-1.{DB}", A, "NXDOMAIN", "pod web-1 is none of its endpoints", f"db-0.{DB}"),
        (f"_sq._tcp.{DB}", SRV, "NXDOMAIN", "no port sq/TCP", f"_sql._tcp.{DB}"),
        (f"db-0.db.{SVC}", A, "NXDOMAIN", "no namespace db", ""),
        ("web.demo.cluster.local", A, "NXDOMAIN", f"end in {SVC} (Services)", WEB),
        ("web.cluster.local", A, "NXDOMAIN", f"end in {SVC} (Services)", WEB),
        ("cluster.local", A, "NODATA", "the cluster's domain itself", ""),
        ("x.dns.cluster.local", A, "NXDOMAIN", "is the DNS server's own", ""),
        ("web-1.demo.pod.cluster.local", A, "NXDOMAIN", "by their addresses", "10-244-0-5.demo.pod.cluster.local"),
        ("10-244-0-5.empty.pod.cluster.local", A, "NXDOMAIN", "demo/web-1 has it", "10-244-0-5.demo.pod.cluster.local"),
        ("10-244-0-9.demo.pod.cluster.local", A, "NXDOMAIN", "no pod of namespace demo has the address", ""),
        ("10-244-0-6.demo.pod.cluster.local", A, "NXDOMAIN", "pod done, whose address is 10.244.0.6, has ended", ""),
        ("192-168-0-1.demo.pod.cluster.local", A, "NXDOMAIN", "uses its node's network", ""),
        ("10-244-0-5.demo.pod.cluster.local", AAAA, "NODATA", "no record of this type", ""),
        ("zzz.demo.pod.cluster.local", A, "NXDOMAIN", "zzz is no address with dashes", ""),
        ("1-2-3-4.nope.pod.cluster.local", A, "NXDOMAIN", "there is no namespace nope", ""),
        ("demo.pod.cluster.local", A, "NODATA", "its address with dashes and its namespace", ""),
        ("web.demo.svc.kluster.lokal", A, "outside", "domain is cluster.local, not kluster.lokal", WEB),
        ("web.demo", A, "outside", f"ends in {SVC}, which a search list adds", WEB),
        ("web.demo.svc", A, "outside", f"ends in {SVC}", WEB),
        ("www.example.com", A, "outside", "not below cluster.local", ""),
        ("9.0.96.10.in-addr.arpa", dns.PTR, "outside", "no Service has this address", ""),
        (WEB, AXFR, "refused", "takes no such question", ""),
    ],
)  # fmt: skip
def test_why(name: str, type_: int, outcome: str, why: str, instead: str) -> None:
    found = about(name + ".", type_)
    assert (found.outcome, why in found.why) == (outcome, True), found
    assert instead in (found.instead or ("",)), found


def test_records_need_no_words() -> None:
    assert about(WEB) == Explanation("records", service=("demo", "web"), records=("10.96.0.7",))
    completed = explain(CLUSTER, DEFAULTS, f"{WEB[:8]}.demo.{SVC}", A, MEMO, "demo")
    assert completed.records == ("10.96.0.7", WEB)
    further = explain(CLUSTER, DEFAULTS, f"www.example.com.demo.{SVC}", A, MEMO, "demo")
    assert (further.outcome, "completes the search and asks others for www.example.com" in further.why) == (
        "outside",
        True,
    )
    assert about(f"db-0.{DB}").service == ("demo", "db")
    assert about("cluster.local", ANY).outcome == "records"


def test_a_server_without_names_of_pods() -> None:
    found = about("10-244-0-5.demo.pod.cluster.local", options=Options(pods="disabled"))
    assert "--pods disabled" in found.why


def test_whom_others_are_asked() -> None:
    stub, up = Server("10.0.0.1"), Server("10.0.0.2", 5353)
    said = Settings({"corp.test": (stub,)}, (up,))
    assert asked_outside(said, "www.Corp.test.") == ("corp.test", (stub,))
    assert asked_outside(said, "corp.example") == ("", (up,))
    assert asked_outside(Settings(), "corp.example") == ("", ())


WORDS = "web demo db db-0 far sick svc pod dns cluster local _http _tcp 10-244-0-5 x shop _ arpa"
LABELS = st.sampled_from(WORDS.split())
ZONE = made(*OBJECTS)


@settings(max_examples=60, deadline=None)
@given(st.lists(LABELS, max_size=5), st.booleans(), st.sampled_from([A, AAAA, SRV, TXT]))
def test_every_name_without_an_answer_is_explained(words: list[str], inside: bool, type_: int) -> None:
    name = ".".join([*words, *(["cluster", "local"] if inside else [])]) + "."
    found, heard = about(name, type_), ask(ZONE, name, type_)
    if isinstance(heard, Elsewhere):
        assert found.outcome in ("outside", "records")
    else:
        said = "records" if heard.answers else "NXDOMAIN" if heard.rcode else "NODATA"
        assert found.outcome == said
    assert found.outcome == "records" or found.why
