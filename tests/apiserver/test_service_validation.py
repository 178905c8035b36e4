"""What is wrong with a Service, in upstream's words; and what it may become."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver import documents as make
from tests.apiserver.documents import Document, at
from tests.apiserver.test_validation import DUPLICATE, FORBIDDEN, INVALID, REQUIRED, TYPE, UNSUPPORTED, found, judge

ONE = {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
BOTH = {
    "clusterIP": "10.96.0.5",
    "clusterIPs": ["10.96.0.5", "fd00::5"],
    "ipFamilies": ["IPv4", "IPv6"],
    "ipFamilyPolicy": "RequireDualStack",
}
HEADLESS = {"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
TWO = [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]


def whole(**spec: Any) -> Document:
    """A Service that has what is given out."""
    return make.service(**{**ONE, **spec})


def balanced(**spec: Any) -> Document:
    return whole(**{"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}], **spec})


def external(**spec: Any) -> Document:
    return make.service(**{"type": "ExternalName", "externalName": "a.example", "ports": [], **spec})


RIGHT = [
    whole(),
    whole(**BOTH),
    whole(**HEADLESS),
    whole(**HEADLESS, ports=[]),
    whole(
        type="NodePort",
        ports=[{"port": 53, "name": p, "protocol": p.upper(), "nodePort": 30053} for p in ("tcp", "udp")],
    ),
    whole(
        ports=[{"port": 53, "name": "tcp"}, {"port": 53, "name": "sctp", "protocol": "SCTP", "targetPort": "dns-sctp"}]
    ),
    whole(externalIPs=["192.0.2.1", "2001:db8::1", "224.0.1.1"], externalTrafficPolicy="Local"),
    whole(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 86400}}),
    whole(internalTrafficPolicy="Local", trafficDistribution="PreferSameZone"),
    balanced(),
    balanced(externalTrafficPolicy="Local", healthCheckNodePort=30123),
    balanced(loadBalancerSourceRanges=["10.0.0.1/8", " 2001:db8::/32 "], loadBalancerClass="example.com/lb"),
    balanced(allocateLoadBalancerNodePorts=False, ports=[{"port": 80}]),
    external(),
    external(externalName="a.example."),
    external(ports=[{"port": 80}]),
]


@pytest.mark.parametrize("document", RIGHT)
def test_right_services_pass(document: Document) -> None:
    assert judge(document) == []


WRONG: list[tuple[Document, str, Any, str, str]] = [
    (whole(), "type", "Magic", "spec.type", UNSUPPORTED),
    (whole(), "ports", [], "spec.ports", REQUIRED),
    (whole(), "ports.0.port", 0, "spec.ports[0].port", INVALID),
    (whole(), "ports.0.port", 65536, "spec.ports[0].port", INVALID),
    (whole(), "ports.0.port", "80", "spec.ports[0].port", TYPE),
    (whole(), "ports", [{"port": 80}, {"port": 81, "name": "b"}], "spec.ports[0].name", REQUIRED),
    (whole(), "ports", [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}], "spec.ports[1].name", DUPLICATE),
    (whole(), "ports", [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}], "spec.ports[1]", DUPLICATE),
    (whole(), "ports.0.name", "A", "spec.ports[0].name", INVALID),
    (whole(), "ports.0.targetPort", "x_y", "spec.ports[0].targetPort", INVALID),
    (whole(), "ports.0.targetPort", 70000, "spec.ports[0].targetPort", INVALID),
    (whole(), "ports.0.protocol", "ICMP", "spec.ports[0].protocol", UNSUPPORTED),
    (whole(), "ports.0.appProtocol", "a b", "spec.ports[0].appProtocol", INVALID),
    (whole(), "ports.0.nodePort", 30080, "spec.ports[0].nodePort", FORBIDDEN),
    (balanced(), "ports", [{**port, "nodePort": 30080} for port in TWO], "spec.ports[1].nodePort", DUPLICATE),
    (balanced(), "ports.0.port", 10250, "spec.ports[0]", INVALID),
    (whole(), "selector", {"a b": "c"}, "spec.selector", INVALID),
    (whole(), "clusterIPs", [], "spec.clusterIPs", REQUIRED),
    (whole(), "clusterIPs", ["10.96.0.6"], "spec.clusterIPs", INVALID),
    (whole(), "clusterIP", "", "spec.clusterIPs", INVALID),
    (whole(), "clusterIPs", ["10.96.0.5", "x"], "spec.clusterIPs[1]", INVALID),
    (whole(), "clusterIPs", ["10.96.0.5", "10.96.0.6"], "spec.clusterIPs", INVALID),
    (whole(**BOTH), "clusterIPs", [*BOTH["clusterIPs"], "fd00::6"], "spec.clusterIPs", INVALID),
    (whole(**HEADLESS), "clusterIPs", ["None", "fd00::6"], "spec.clusterIPs", INVALID),
    (whole(), "ipFamilies", ["IPv6"], "spec.clusterIPs[0]", INVALID),
    (whole(), "ipFamilies", ["IPX"], "spec.ipFamilies[0]", UNSUPPORTED),
    (whole(), "ipFamilies", ["IPv4", "IPv4"], "spec.ipFamilies[1]", DUPLICATE),
    (whole(), "ipFamilyPolicy", "Both", "spec.ipFamilyPolicy", UNSUPPORTED),
    (whole(**HEADLESS), "type", "NodePort", "spec.clusterIPs[0]", INVALID),
    (whole(**HEADLESS), "type", "LoadBalancer", "spec.clusterIPs[0]", INVALID),
    (whole(), "externalIPs", ["x"], "spec.externalIPs[0]", INVALID),
    (whole(), "externalIPs", ["127.0.0.1"], "spec.externalIPs[0]", INVALID),
    (whole(), "externalIPs", ["::ffff:127.0.0.1"], "spec.externalIPs[0]", INVALID),
    (whole(), "externalIPs", ["192.0.2.1", "169.254.1.1"], "spec.externalIPs[1]", INVALID),
    (whole(), "externalIPs", ["0.0.0.0"], "spec.externalIPs[0]", INVALID),
    (whole(), "externalIPs", ["fe80::1"], "spec.externalIPs[0]", INVALID),
    (whole(), "externalIPs", ["224.0.0.251"], "spec.externalIPs[0]", INVALID),
    (whole(), "externalIPs", ["ff02::1"], "spec.externalIPs[0]", INVALID),
    (whole(), "sessionAffinity", "Cookie", "spec.sessionAffinity", UNSUPPORTED),
    (whole(), "internalTrafficPolicy", "x", "spec.internalTrafficPolicy", UNSUPPORTED),
    (whole(), "externalTrafficPolicy", "Local", "spec.externalTrafficPolicy", INVALID),
    (balanced(), "externalTrafficPolicy", "x", "spec.externalTrafficPolicy", UNSUPPORTED),
    (balanced(externalTrafficPolicy="Local"), "healthCheckNodePort", 0, "spec.healthCheckNodePort", INVALID),
    (balanced(), "healthCheckNodePort", 30001, "spec.healthCheckNodePort", INVALID),
    (whole(), "trafficDistribution", "Nearby", "spec.trafficDistribution", UNSUPPORTED),
    (whole(), "loadBalancerClass", "a.b/c", "spec.loadBalancerClass", FORBIDDEN),
    (balanced(), "loadBalancerClass", "a b", "spec.loadBalancerClass", INVALID),
    (whole(), "allocateLoadBalancerNodePorts", True, "spec.allocateLoadBalancerNodePorts", FORBIDDEN),
    (whole(), "loadBalancerSourceRanges", ["10.0.0.0/8"], "spec.LoadBalancerSourceRanges", FORBIDDEN),
    (balanced(), "loadBalancerSourceRanges", ["10.0.0.0/8", "10.0.0.0"], "spec.LoadBalancerSourceRanges[1]", INVALID),
    (balanced(), "loadBalancerSourceRanges", ["10.0.0.0/255.0.0.0"], "spec.LoadBalancerSourceRanges[0]", INVALID),
    (external(), "externalName", "", "spec.externalName", REQUIRED),
    (external(), "externalName", "a_b.example", "spec.externalName", INVALID),
    (external(), "clusterIPs", ["10.96.0.5"], "spec.clusterIPs", FORBIDDEN),
    (external(), "ipFamilies", ["IPv4"], "spec.ipFamilies", FORBIDDEN),
    (external(), "ipFamilyPolicy", "SingleStack", "spec.ipFamilyPolicy", FORBIDDEN),
]


@pytest.mark.parametrize(("document", "path", "value", "field", "reason"), WRONG)
def test_wrong_fields_are_named(document: Document, path: str, value: Any, field: str, reason: str) -> None:
    assert (field, reason) in found(at(document, f"spec.{path}", value))


AFFINITY = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"


@pytest.mark.parametrize("seconds", [0, -1, 86401])
def test_affinity_lasts_up_to_a_day(seconds: int) -> None:
    document = whole(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}})
    (cause,) = judge(document)
    assert cause.field == AFFINITY
    assert cause.message == f"Invalid value: {seconds}: must be greater than 0 and less than 86400"


RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"


@pytest.mark.parametrize(
    ("document", "value", "reasons"),
    [
        (balanced(), "10.0.0.0/8, 192.168.0.0/16", []),
        (balanced(), " ", []),
        (balanced(), "10.0.0.0/8,x", [INVALID]),
        (balanced(loadBalancerSourceRanges=["10.0.0.0/8"]), "x", []),
        (whole(), "10.0.0.0/8", [FORBIDDEN]),
    ],
)
def test_source_ranges_of_old(document: Document, value: str, reasons: list[str]) -> None:
    document = at(document, "metadata.annotations", {RANGES: value})
    assert found(document) == [(f"metadata.annotations[{RANGES}]", reason) for reason in reasons]


def test_the_two_spellings_of_topology_agree() -> None:
    annotations = {f"service.kubernetes.io/topology-{name}": "Auto" for name in ("mode", "aware-hints")}
    assert judge(at(whole(), "metadata.annotations", annotations)) == []
    annotations["service.kubernetes.io/topology-mode"] = "Disabled"
    ((field, reason),) = found(at(whole(), "metadata.annotations", annotations))
    assert (field, reason) == ("metadata.annotations[service.kubernetes.io/topology-mode]", INVALID)


INGRESS = "status.loadBalancer.ingress"


@pytest.mark.parametrize(
    ("document", "ingress", "causes"),
    [
        (balanced(), [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1", "ipMode": "Proxy"}, {"hostname": "lb.example"}], []),
        (balanced(), [{"ip": "x"}], [(f"{INGRESS}[0].ip", INVALID)]),
        (balanced(), [{"ip": "192.0.2.1", "ipMode": "x"}], [(f"{INGRESS}[0].ipMode", UNSUPPORTED)]),
        (balanced(), [{"hostname": "a.b", "ipMode": "VIP"}], [(f"{INGRESS}[0].ipMode", FORBIDDEN)]),
        (balanced(), [{"hostname": "a_b"}], [(f"{INGRESS}[0].hostname", INVALID)]),
        (balanced(), [{"hostname": "192.0.2.1"}], [(f"{INGRESS}[0].hostname", INVALID)]),
        (balanced(), "x", [(INGRESS, TYPE)]),
        (whole(), [{"ip": "192.0.2.1"}], [(INGRESS, FORBIDDEN)]),
    ],
)
def test_what_a_load_balancer_says(document: Document, ingress: Any, causes: list[tuple[str, str]]) -> None:
    assert found({**document, "status": {"loadBalancer": {"ingress": ingress}}}) == causes


# Changes


CHANGES: list[tuple[Document, Document, list[tuple[str, str]]]] = [
    (whole(), whole(), []),
    (whole(), whole(**BOTH), []),
    (whole(), whole(**BOTH, type="NodePort"), []),
    (whole(**BOTH), whole(), []),
    (whole(), external(), []),
    (external(), whole(), []),
    (whole(), whole(clusterIP="10.96.0.6", clusterIPs=["10.96.0.6"]), [("spec.clusterIPs[0]", INVALID)]),
    (whole(), whole(**HEADLESS), [("spec.clusterIPs[0]", INVALID)]),
    (whole(**HEADLESS), whole(), [("spec.clusterIPs[0]", INVALID)]),
    (whole(**HEADLESS), whole(**HEADLESS | {"ipFamilies": ["IPv6"]}), []),
    (whole(**BOTH), whole(**BOTH | {"clusterIPs": ["10.96.0.5", "fd00::6"]}), [("spec.clusterIPs[1]", INVALID)]),
    (
        whole(**BOTH),
        whole(ipFamilyPolicy="PreferDualStack"),
        [("spec.ipFamilyPolicy", INVALID), ("spec.ipFamilyPolicy", INVALID)],
    ),
    (
        whole(),
        whole(**BOTH | {"clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.6", "fd00::5"]}),
        [("spec.clusterIPs[0]", INVALID)],
    ),
    (
        whole(),
        whole(clusterIP="fd00::5", clusterIPs=["fd00::5"], ipFamilies=["IPv6"]),
        [("spec.clusterIPs[0]", INVALID), ("spec.ipFamilies[0]", INVALID)],
    ),
    (whole(), whole(clusterIP="", clusterIPs=[]), [("spec.clusterIPs[0]", INVALID)]),
    (whole(), whole(ipFamilies=[]), [("spec.ipFamilies[0]", INVALID)]),
    (balanced(), balanced(loadBalancerClass="a.b/c"), [("spec.loadBalancerClass", INVALID)]),
    (whole(), balanced(loadBalancerClass="a.b/c"), []),
    (
        balanced(externalTrafficPolicy="Local", healthCheckNodePort=30001),
        balanced(externalTrafficPolicy="Local", healthCheckNodePort=30002),
        [("spec.healthCheckNodePort", FORBIDDEN)],
    ),
]


@pytest.mark.parametrize(("old", "new", "causes"), CHANGES)
def test_what_a_service_may_become(old: Document, new: Document, causes: list[tuple[str, str]]) -> None:
    assert judge(old) == []
    assert sorted(found(new, old)) == causes


def test_messages_are_upstreams() -> None:
    new = whole(clusterIP="10.96.0.6", clusterIPs=["10.96.0.6"])
    assert [str(cause) for cause in judge(new, whole())] == [
        'spec.clusterIPs[0]: Invalid value: ["10.96.0.6"]: may not change once set'
    ]
    wrong = whole(clusterIPs=["fd00::5"], clusterIP="fd00::5", externalIPs=["127.0.0.1"])
    assert [str(cause) for cause in judge(wrong)] == [
        'spec.clusterIPs[0]: Invalid value: "fd00::5": expected an IPv4 value as indicated by `ipFamilies[0]`',
        'spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)',
    ]
