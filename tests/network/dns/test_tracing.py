"""Whose answer it is, and who contradicts whom."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from podnet.network.dns.explain import Explanation
from podnet.network.dns.named import SEARCH_ANNOTATION
from podnet.network.dns.tracing import (
    Answer,
    Counters,
    DnsPod,
    Heard,
    Layer,
    completed_for,
    disagreements,
    dns_pods,
    heard,
    origin,
)
from podnet.objects.cluster import Cluster
from podnet.objects.core import Container, Pod, PodSpec
from podnet.objects.meta import ObjectMeta
from podnet.objects.services import EndpointSlice, ObjectReference, SliceEndpoint, SlicePort
from podnet.wire import dns
from tests.network.dns.names import ask, endpoint, made, pod, service

KEY = ("kube-system", "kube-dns")
FOUND = Heard(dns.NOERROR, True, (Answer("web", "A", 30, "10.96.0.7"),))
MISSING = Heard(dns.NXDOMAIN, False, (), 12)
BEFORE, PASSED = Counters(3, 5), Counters(9, 6)


def kube_dns(*args: str, port: int = 53) -> Cluster:
    containers = (
        Container("kubedns", command=("podnet", "dns", "kubedns"), args=args),
        Container("dnsmasq", command=("dnsmasq", "-k")),
    )
    server = Pod(ObjectMeta(name="kube-dns-1", namespace="kube-system"), PodSpec(containers=containers))
    ends = (
        SliceEndpoint(("10.244.0.9",), target_ref=ObjectReference("Pod", "kube-system", "kube-dns-1")),
        SliceEndpoint(("10.244.0.8",)),
        endpoint("10.244.0.7", ready=False),
    )
    meta = ObjectMeta(name="s", namespace="kube-system", labels={"kubernetes.io/service-name": "kube-dns"})
    part = EndpointSlice(meta, "IPv4", ends, (SlicePort("dns", "UDP", port), SlicePort("tcp", "TCP", 1)))
    return Cluster().with_objects("pods", {server.key: server}).with_objects("endpointslices", {part.key: part})


def test_the_pods_behind_the_service() -> None:
    other, one = dns_pods(kube_dns("--dns-port=10053", "--config-map", "kube-dns", "--pods=insecure"), KEY)
    assert other == DnsPod("kube-system/10.244.0.8", "10.244.0.8")
    assert one == DnsPod(
        "kube-system/kube-dns-1", "10.244.0.9", "dnsmasq", 53, 10053, "off", "insecure", ("kube-system", "kube-dns")
    )
    assert dns_pods(kube_dns(), ("x", "y")) == ()


def test_whose_searches_are_completed() -> None:
    plain = pod("a", "10.244.0.5")
    asking = replace(plain, metadata=replace(plain.metadata, annotations={SEARCH_ANNOTATION: "server"}))
    for how, port, expected in (
        ("annotated", 10053, ("", "demo")),
        ("all", 10053, ("demo", "demo")),
        ("off", 10053, ("", "")),
        ("all", 53, ("", "")),
    ):
        servers = dns_pods(kube_dns("--dns-port=10053", f"--complete-searches={how}", port=port), KEY)
        assert (completed_for(plain, servers), completed_for(asking, servers)) == expected
        assert not completed_for(None, servers)
        assert completed_for(asking, servers, asked=True) == ("" if how == "off" else "demo")


def test_what_a_message_says() -> None:
    where = made(service("web", "10.96.0.7", "10.96.0.8"))
    found = ask(where, "web.demo.svc.cluster.local")
    assert isinstance(found, dns.Message)
    said = heard(found, 0.5)
    assert (said.code, said.aa, said.texts, said.ttl) == ("NOERROR", True, ("10.96.0.7", "10.96.0.8"), 30)
    missing = ask(where, "nope.demo.svc.cluster.local")
    assert isinstance(missing, dns.Message)
    assert (heard(missing, 0).code, heard(missing, 0).ttl) == ("NXDOMAIN", 30)
    assert Heard(error="no answer").code == "no answer"
    assert Heard(dns.NOERROR).code == "NODATA"


@pytest.mark.parametrize(
    ("said", "after", "ours", "node_cache", "expected"),
    [
        (FOUND, PASSED, True, False, "kubedns"),
        (FOUND, PASSED, True, True, "kubedns"),
        (MISSING, BEFORE, True, False, "its cache"),
        (MISSING, PASSED, True, False, "its cache"),
        (MISSING, PASSED, True, True, "a DNS pod's cache"),
        (MISSING, BEFORE, True, True, "its cache"),
        (FOUND, BEFORE, False, False, "its cache"),
        (FOUND, PASSED, False, False, "other servers"),
        (MISSING, PASSED, False, True, "the DNS Service"),
        (Heard(dns.REFUSED), BEFORE, False, False, "itself: no server for it"),
        (FOUND, None, True, False, "itself"),
        (FOUND, None, False, False, "other servers"),
        (Heard(), PASSED, True, False, "-"),
    ],
)
def test_where_an_answer_comes_from(
    said: Heard, after: Counters | None, ours: bool, node_cache: bool, expected: str
) -> None:
    assert origin(said, BEFORE if after else None, after, ours, node_cache) == expected


def test_layers_that_contradict() -> None:
    right = Explanation("records", records=("10.96.0.7",))
    good, stale = Layer("p", "kubedns", FOUND), Layer("p", "dnsmasq", MISSING)
    assert [*disagreements("web.", right, [good])] == []
    (said,) = disagreements("web.", right, [good, stale])
    assert said == "p: dnsmasq says NXDOMAIN about web., the API has 10.96.0.7: its cache is stale, for 12 s at most"
    gone = Explanation("NXDOMAIN", "no Service")
    assert [*disagreements("web.", gone, [stale])] == []
    (said,) = disagreements("web.", gone, [good])
    assert said.endswith("says 10.96.0.7 about web., the API has NXDOMAIN: its watch is behind, look at its log")
    (said,) = disagreements("web.", right, [Layer("p", "kubedns", Heard(dns.SERVFAIL))])
    assert "has not heard all" in said
    (said,) = disagreements("web.", gone, [Layer("p", "dnsmasq", Heard(error="no answer"))])
    assert "gives no answer" in said
    assert [*disagreements("www.", Explanation("outside"), [stale])] == []
    assert [*disagreements("far.", Explanation("records"), [stale])] == []
