"""Every wrong field is named, with upstream's reason: one row a mistake."""

from __future__ import annotations

from typing import Any

import pytest

from podnet.apiserver import validation
from podnet.apiserver.defaults import DEFAULTS
from podnet.apiserver.status import Cause
from podnet.objects.kinds import BY_KIND
from tests.apiserver import documents as make
from tests.apiserver.documents import Document, at

INVALID, REQUIRED, UNSUPPORTED = "FieldValueInvalid", "FieldValueRequired", "FieldValueNotSupported"
FORBIDDEN, DUPLICATE, TYPE = "FieldValueForbidden", "FieldValueDuplicate", "FieldValueTypeInvalid"
TOO_LONG = "FieldValueTooLong"


def judge(document: Document, old: Document | None = None) -> list[Cause]:
    kind = BY_KIND[document["apiVersion"], document["kind"]]
    causes = list(validation.shape(kind, document))
    if not causes:
        DEFAULTS.get(kind.kind, lambda _: None)(document)
        causes = list(validation.causes(kind, document, old))
    return causes


def found(document: Document, old: Document | None = None) -> list[tuple[str, str]]:
    return [(cause.field, cause.reason) for cause in judge(document, old)]


RIGHT = [
    make.pod(),
    make.node(),
    make.service(),
    make.config_map(a="b"),
    make.secret(),
    make.namespace(),
    make.lease(),
    make.event(),
    make.endpoint_slice(),
    make.endpoints(),
    make.network_config(),
    make.service_route(),
]


@pytest.mark.parametrize("document", RIGHT, ids=lambda document: document["kind"])
def test_right_objects_pass(document: Document) -> None:
    assert judge(document) == []


METADATA = [
    ("metadata.name", "Web", "metadata.name", INVALID),
    ("metadata.name", "a/b", "metadata.name", INVALID),
    ("metadata.name", "x" * 254, "metadata.name", INVALID),
    ("metadata.name", "", "metadata.name", REQUIRED),
    ("metadata.name", 5, "metadata.name", TYPE),
    ("metadata.namespace", "not.a.label", "metadata.namespace", INVALID),
    ("metadata.labels", {"a b": "c"}, "metadata.labels", INVALID),
    ("metadata.labels", {"a": "c d"}, "metadata.labels", INVALID),
    ("metadata.labels", {"a": "x" * 64}, "metadata.labels", INVALID),
    ("metadata.labels", {"/a": "c"}, "metadata.labels", INVALID),
    ("metadata.labels", {"UPPER/a": "c"}, "metadata.labels", INVALID),
    ("metadata.labels", {"a/": "c"}, "metadata.labels", INVALID),
    ("metadata.labels", {"x" * 64: "c"}, "metadata.labels", INVALID),
    ("metadata.labels", {"a": 1}, "metadata.labels[...]", TYPE),
    ("metadata.labels", [], "metadata.labels", TYPE),
    ("metadata.annotations", {"a b": "c"}, "metadata.annotations", INVALID),
    ("metadata.annotations", {"a": "x" * (256 * 1024)}, "metadata.annotations", TOO_LONG),
    ("metadata.finalizers", ["no good"], "metadata.finalizers", INVALID),
    (
        "metadata.ownerReferences",
        [{"kind": "Pod", "name": "x", "uid": "1"}],
        "metadata.ownerReferences[0].apiVersion",
        REQUIRED,
    ),
    (
        "metadata.ownerReferences",
        [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": name, "controller": True} for name in "ab"],
        "metadata.ownerReferences",
        FORBIDDEN,
    ),
]


@pytest.mark.parametrize(("path", "value", "field", "reason"), METADATA)
def test_metadata(path: str, value: Any, field: str, reason: str) -> None:
    assert (field, reason) in found(at(make.config_map(), path, value))


def test_cluster_wide_objects_have_no_namespace() -> None:
    assert found(at(make.node(), "metadata.namespace", "default")) == [("metadata.namespace", FORBIDDEN)]


@pytest.mark.parametrize(
    ("document", "name"),
    [(make.namespace, "a.b"), (make.service, "1web"), (make.service, "a.b"), (make.network_config, "other")],
)
def test_kinds_with_narrower_names(document: Any, name: str) -> None:
    assert ("metadata.name", INVALID) in found(at(document(), "metadata.name", name))


def test_annotation_keys_may_be_upper_case() -> None:
    assert judge(at(make.pod(), "metadata.annotations", {"Example.COM/Key": "any value at all \n"})) == []


C = "spec.containers.0"
F = "spec.containers[0]"
PROBE = f"{C}.livenessProbe"
POD = [
    ("spec", "x", "spec", TYPE),
    ("spec.containers", [], "spec.containers", REQUIRED),
    ("spec.containers", "x", "spec.containers", TYPE),
    (f"{C}.name", "", f"{F}.name", REQUIRED),
    (f"{C}.name", "Web", f"{F}.name", INVALID),
    (f"{C}.image", "", f"{F}.image", REQUIRED),
    (f"{C}.image", 7, f"{F}.image", TYPE),
    (f"{C}.resources", {"limits": []}, f"{F}.resources.limits", TYPE),
    (f"{C}.ports.0.containerPort", 0, f"{F}.ports[0].containerPort", REQUIRED),
    (f"{C}.ports.0.containerPort", 65536, f"{F}.ports[0].containerPort", INVALID),
    (f"{C}.ports.0.containerPort", "80", f"{F}.ports[0].containerPort", TYPE),
    (f"{C}.ports.0.hostPort", -1, f"{F}.ports[0].hostPort", INVALID),
    (f"{C}.ports.0.hostIP", "10.0.0", f"{F}.ports[0].hostIP", INVALID),
    (f"{C}.ports.0.hostIP", "fe80::1%eth0", f"{F}.ports[0].hostIP", INVALID),
    (f"{C}.ports.0.protocol", "tcp", f"{F}.ports[0].protocol", UNSUPPORTED),
    (f"{C}.ports.0.name", "a-very-long-name", f"{F}.ports[0].name", INVALID),
    (f"{C}.ports.0.name", "80", f"{F}.ports[0].name", INVALID),
    (f"{C}.ports.0.name", "a--b", f"{F}.ports[0].name", INVALID),
    (f"{C}.ports.0.name", "-a", f"{F}.ports[0].name", INVALID),
    (f"{C}.ports.0.name", "a_b", f"{F}.ports[0].name", INVALID),
    (
        f"{C}.ports",
        [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}],
        f"{F}.ports[1].name",
        DUPLICATE,
    ),
    (
        f"{C}.ports",
        [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}],
        f"{F}.ports[1].hostPort",
        DUPLICATE,
    ),
    (f"{C}.env", [{"value": "x"}], f"{F}.env[0].name", REQUIRED),
    (f"{C}.env", [{"name": "1A"}], f"{F}.env[0].name", INVALID),
    (f"{C}.env", [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {}}}], f"{F}.env[0].valueFrom", INVALID),
    (f"{C}.env", [{"name": "A", "valueFrom": {}}], f"{F}.env[0].valueFrom", INVALID),
    (PROBE, {}, f"{F}.livenessProbe", REQUIRED),
    (PROBE, {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}, f"{F}.livenessProbe", FORBIDDEN),
    (PROBE, {"exec": {}}, f"{F}.livenessProbe.exec.command", REQUIRED),
    (PROBE, {"tcpSocket": {"port": 0}}, f"{F}.livenessProbe.tcpSocket.port", INVALID),
    (PROBE, {"httpGet": {"port": "UP"}}, f"{F}.livenessProbe.httpGet.port", INVALID),
    (PROBE, {"httpGet": {"port": 80, "scheme": "FTP"}}, f"{F}.livenessProbe.httpGet.scheme", UNSUPPORTED),
    (PROBE, {"httpGet": {"port": 80}, "periodSeconds": -1}, f"{F}.livenessProbe.periodSeconds", INVALID),
    (PROBE, {"httpGet": {"port": 80}, "timeoutSeconds": -1}, f"{F}.livenessProbe.timeoutSeconds", INVALID),
    (PROBE, {"httpGet": {"port": 80}, "initialDelaySeconds": -1}, f"{F}.livenessProbe.initialDelaySeconds", INVALID),
    (PROBE, {"httpGet": {"port": 80}, "failureThreshold": -1}, f"{F}.livenessProbe.failureThreshold", INVALID),
    (PROBE, {"httpGet": {"port": 80}, "successThreshold": 2}, f"{F}.livenessProbe.successThreshold", INVALID),
    ("spec.restartPolicy", "Sometimes", "spec.restartPolicy", UNSUPPORTED),
    ("spec.terminationGracePeriodSeconds", -1, "spec.terminationGracePeriodSeconds", INVALID),
    ("spec.nodeName", "N1", "spec.nodeName", INVALID),
    ("spec.nodeSelector", {"a b": "c"}, "spec.nodeSelector", INVALID),
    ("spec.hostname", "a.b", "spec.hostname", INVALID),
    ("spec.subdomain", "A", "spec.subdomain", INVALID),
    ("spec.hostAliases", [{"ip": "x", "hostnames": ["a"]}], "spec.hostAliases[0].ip", INVALID),
    ("spec.hostAliases", [{"ip": "10.0.0.1", "hostnames": ["A"]}], "spec.hostAliases[0].hostnames", INVALID),
    ("spec.dnsPolicy", "Fast", "spec.dnsPolicy", UNSUPPORTED),
    ("spec.dnsPolicy", "None", "spec.dnsConfig.nameservers", REQUIRED),
    ("spec.dnsConfig", {"nameservers": ["x"]}, "spec.dnsConfig.nameservers[0]", INVALID),
    ("spec.dnsConfig", {"nameservers": ["1.1.1.1"] * 4}, "spec.dnsConfig.nameservers", INVALID),
    ("spec.dnsConfig", {"searches": ["a"] * 33}, "spec.dnsConfig.searches", INVALID),
    ("spec.dnsConfig", {"searches": ["A"]}, "spec.dnsConfig.searches[0]", INVALID),
    ("spec.dnsConfig", {"options": [{"value": "1"}]}, "spec.dnsConfig.options[0]", REQUIRED),
    ("spec.tolerations", [{"key": "a b"}], "spec.tolerations[0].key", INVALID),
    ("spec.tolerations", [{"operator": "Equal"}], "spec.tolerations[0].operator", INVALID),
    ("spec.tolerations", [{"key": "a", "operator": "In"}], "spec.tolerations[0].operator", UNSUPPORTED),
    ("spec.tolerations", [{"key": "a", "operator": "Exists", "value": "x"}], "spec.tolerations[0].operator", INVALID),
    ("spec.tolerations", [{"key": "a", "effect": "Maybe"}], "spec.tolerations[0].effect", UNSUPPORTED),
    ("status.containerStatuses", [{"restartCount": "one"}], "status.containerStatuses[0].restartCount", TYPE),
]


@pytest.mark.parametrize(("path", "value", "field", "reason"), POD)
def test_pods(path: str, value: Any, field: str, reason: str) -> None:
    assert (field, reason) in found(at(make.pod(), path, value))


def test_all_mistakes_of_a_pod_are_named_at_once() -> None:
    wrong = at(at(make.pod(name="A"), "spec.restartPolicy", "x"), f"{C}.ports.0.containerPort", -1)
    assert {field for field, _ in found(wrong)} == {
        "metadata.name",
        "spec.restartPolicy",
        f"{F}.ports[0].containerPort",
    }


def test_container_names_are_unique_over_init_containers_too() -> None:
    container = {"name": "main", "image": "x"}
    assert found(make.pod(initContainers=[container])) == [("spec.containers[1].name", DUPLICATE)]


def test_a_host_network_pod_publishes_its_own_ports() -> None:
    wrong = at(make.pod(hostNetwork=True), f"{C}.ports.0.hostPort", 81)
    assert found(wrong) == [(f"{F}.ports[0].hostPort", INVALID)]
    assert judge(make.pod(hostNetwork=True)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (
            "spec.dnsConfig",
            {"nameservers": ["::1"], "searches": [".", "a.b."], "options": [{"name": "ndots", "value": "2"}]},
        ),
        (
            "spec.tolerations",
            [{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule", "tolerationSeconds": 5}],
        ),
        (
            f"{C}.env",
            [{"name": "my.env-NAME"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        ),
        (f"{C}.readinessProbe", {"httpGet": {"port": "http"}, "successThreshold": 3}),
        (f"{C}.volumeMounts", [{"anything": ["podnet", "does not read"]}]),
        (f"{C}.resources", {"limits": {"cpu": 1, "memory": "1Gi"}}),
    ],
)
def test_what_a_pod_may_say(path: str, value: Any) -> None:
    assert judge(at(make.pod(), path, value)) == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (f"{C}.image", "nginx:2", []),
        ("spec.activeDeadlineSeconds", 5, []),
        ("spec.tolerations", [{"operator": "Exists"}], []),
        ("metadata.labels", {"a": "b"}, []),
        ("spec.nodeName", "n2", [("spec", FORBIDDEN)]),
        (f"{C}.env", [{"name": "A"}], [("spec", FORBIDDEN)]),
        ("spec.hostNetwork", True, [("spec", FORBIDDEN)]),
        ("metadata.uid", "other", [("metadata.uid", INVALID)]),
        ("metadata.creationTimestamp", "2020-01-01T00:00:00Z", [("metadata.creationTimestamp", INVALID)]),
    ],
)
def test_what_an_update_may_change_in_a_pod(path: str, value: Any, expected: list[tuple[str, str]]) -> None:
    old = make.pod()
    DEFAULTS["Pod"](old)
    new = at(old, path, value)
    if path == "spec.hostNetwork":  # its default ports would differ too
        new["spec"]["containers"][0]["ports"][0]["hostPort"] = 80
    assert found(new, old) == expected


def test_tolerations_are_only_ever_added() -> None:
    old = make.pod(tolerations=[{"key": "a", "operator": "Exists"}])
    DEFAULTS["Pod"](old)
    assert found(at(old, "spec.tolerations", [{"key": "b", "operator": "Exists"}]), old) == [
        ("spec.tolerations", FORBIDDEN)
    ]


def test_finalizers_of_an_object_that_is_going_can_only_go() -> None:
    old = at(
        at(make.config_map(), "metadata.deletionTimestamp", "2026-01-01T00:00:00Z"), "metadata.finalizers", ["a.b/c"]
    )
    assert found(at(old, "metadata.finalizers", ["a.b/c", "d.e/f"]), old) == [("metadata.finalizers", FORBIDDEN)]
    assert found(at(old, "metadata.finalizers", []), old) == []


NODE = [
    ("spec.podCIDRs", ["10.0.0.0/33"], "spec.podCIDRs[0]", INVALID),
    ("spec.podCIDRs", ["10.0.0.1"], "spec.podCIDRs[0]", INVALID),
    ("spec.podCIDRs", ["10.0.0.1/24"], "spec.podCIDRs[0]", INVALID),
    ("spec.podCIDRs", ["10.0.0.0/24", "10.0.1.0/24"], "spec.podCIDRs[1]", INVALID),
    ("spec.podCIDRs", "10.0.0.0/24", "spec.podCIDRs", TYPE),
    ("spec.taints", [{"key": "a", "effect": "Never"}], "spec.taints[0].effect", UNSUPPORTED),
    ("spec.taints", [{"key": "a"}], "spec.taints[0].effect", REQUIRED),
    ("spec.taints", [{"key": "", "effect": "NoSchedule"}], "spec.taints[0].key", INVALID),
    ("spec.taints", [{"key": "a", "effect": "NoSchedule"}] * 2, "spec.taints[1]", DUPLICATE),
    ("status.addresses", [{"type": "Street", "address": "x"}], "status.addresses[0].type", UNSUPPORTED),
    ("status.addresses", [{"type": "InternalIP", "address": "x"}], "status.addresses[0].address", INVALID),
    (
        "status.daemonEndpoints",
        {"kubeletEndpoint": {"Port": 70000}},
        "status.daemonEndpoints.kubeletEndpoint.Port",
        INVALID,
    ),
]


@pytest.mark.parametrize(("path", "value", "field", "reason"), NODE)
def test_nodes(path: str, value: Any, field: str, reason: str) -> None:
    assert (field, reason) in found(at(make.node(), path, value))


def test_a_node_keeps_the_range_it_was_given() -> None:
    old = make.node(podCIDRs=["10.244.0.0/24"])
    assert found(at(make.node(), "spec.podCIDRs", ["10.244.1.0/24"]), old) == [("spec.podCIDRs", FORBIDDEN)]
    assert found(make.node(podCIDRs=["10.244.1.0/24", "fd00::/64"]), make.node()) == []


def test_both_spellings_of_a_nodes_range_agree() -> None:
    document = make.node()
    document["spec"] = {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.1.0/24"]}
    assert [field for field, _ in found(document)] == []  # the list wins, as it does for every reader
    assert document["spec"]["podCIDR"] == "10.0.1.0/24"


CONFIG = [
    (make.config_map(), "data", {"a/b": "c"}, "data[a/b]", INVALID),
    (make.config_map(), "data", {"..": "c"}, "data[..]", INVALID),
    (make.config_map(), "data", {"x" * 254: "c"}, f"data[{'x' * 254}]", INVALID),
    (make.config_map(), "data", {"a": 1}, "data[...]", TYPE),
    (make.config_map(), "binaryData", {"a": "%"}, "binaryData[a]", INVALID),
    (make.config_map(a="b"), "binaryData", {"a": "eA=="}, "data", INVALID),
    (make.config_map(), "data", {"a": "x" * (1 << 20), "b": "x"}, "", TOO_LONG),
    (make.secret(), "data", {"a": "not base64!"}, "data[a]", INVALID),
    (make.secret(), "data", {"a b": "eA=="}, "data[a b]", INVALID),
    (make.secret(), "data", {"a": "eHh4" * (1 << 19)}, "data", TOO_LONG),
    (make.secret(), "type", "kubernetes.io/tls", "data[tls.crt]", REQUIRED),
    (make.lease(), "spec.leaseDurationSeconds", 0, "spec.leaseDurationSeconds", INVALID),
    (make.lease(), "spec.leaseTransitions", -1, "spec.leaseTransitions", INVALID),
    (make.lease(), "spec.renewTime", 5, "spec.renewTime", TYPE),
    (make.event(), "involvedObject.namespace", "other", "involvedObject.namespace", INVALID),
    (make.event(), "source", "me", "source", TYPE),
]


@pytest.mark.parametrize(("document", "path", "value", "field", "reason"), CONFIG)
def test_configuration(document: Document, path: str, value: Any, field: str, reason: str) -> None:
    assert (field, reason) in found(at(document, path, value))


def test_an_event_is_about_something() -> None:
    document = make.event()
    del document["involvedObject"]
    assert found(document) == [("involvedObject", REQUIRED)]


@pytest.mark.parametrize("old", [make.config_map(a="b"), make.secret(data={"a": "eA=="})], ids=["ConfigMap", "Secret"])
def test_immutable_means_for_ever(old: Document) -> None:
    frozen = at(old, "immutable", True)
    assert found(frozen, old) == []
    assert found(at(frozen, "data", {}), frozen) == [("data", FORBIDDEN)]
    assert found(at(frozen, "immutable", False), frozen) == [("immutable", FORBIDDEN)]
    assert found(at(frozen, "metadata.labels", {"a": "b"}), frozen) == []


def test_a_secret_keeps_its_type() -> None:
    assert found(make.secret(type="example.com/x"), make.secret()) == [("type", INVALID)]


NETWORK = [
    ("spec.podCIDRs", [], "spec.podCIDRs", REQUIRED),
    ("spec.podCIDRs", "10.0.0.0/8", "spec.podCIDRs", TYPE),
    ("spec.podCIDRs", ["10.0.0.0"], "spec.podCIDRs[0]", INVALID),
    ("spec.podCIDRs", ["10.244.1.0/16"], "spec.podCIDRs[0]", INVALID),
    ("spec.podCIDRs", ["nonsense"], "spec.podCIDRs[0]", INVALID),
    ("spec.podCIDRs", ["10.0.0.0/16", "10.1.0.0/16"], "spec.podCIDRs[1]", INVALID),
    ("spec.podCIDRs", ["10.0.0.0/16", "10.0.0.0/16"], "spec.podCIDRs[1]", INVALID),
    ("spec.podCIDRs", ["127.0.0.0/16"], "spec.podCIDRs[0]", INVALID),
    ("spec.podCIDRs", ["224.0.0.0/16"], "spec.podCIDRs[0]", INVALID),
    ("spec.podCIDRs", ["169.254.0.0/16"], "spec.podCIDRs[0]", INVALID),
    ("spec.podCIDRs", ["fe80::/48"], "spec.podCIDRs[0]", INVALID),
    ("spec.podCIDRs", ["0.0.0.0/0"], "spec.podCIDRs[0]", INVALID),
    ("spec.podCIDRs", ["10.0.0.0/25"], "spec.nodeMask.ipv4", INVALID),
    ("spec.podCIDRs", ["fd00::/32"], "spec.nodeMask.ipv6", INVALID),
    ("spec.nodeMask", {"ipv4": 31}, "spec.nodeMask.ipv4", INVALID),
    ("spec.nodeMask", {"ipv4": 15}, "spec.nodeMask.ipv4", INVALID),
    ("spec.nodeMask", {"ipv4": "24"}, "spec.nodeMask.ipv4", TYPE),
    ("spec.attachment", "veth", "spec.attachment", UNSUPPORTED),
    ("spec.mtu", 575, "spec.mtu", INVALID),
    ("spec.mtu", -1, "spec.mtu", INVALID),
    ("spec.mtu", 65536, "spec.mtu", INVALID),
    ("spec.mtu", "1500", "spec.mtu", TYPE),
    ("spec.masquerade", "yes", "spec.masquerade", TYPE),
    ("spec.proxy", {"mode": "ebpf"}, "spec.proxy.mode", UNSUPPORTED),
    ("spec.proxy", {"masqueradeAll": "yes"}, "spec.proxy.masqueradeAll", TYPE),
    ("spec.proxy", {"nodePortAddresses": ["10.0.0.1"]}, "spec.proxy.nodePortAddresses[0]", INVALID),
    ("spec.proxy", {"serviceCIDRs": ["10.96.0.1/16"]}, "spec.proxy.serviceCIDRs[0]", INVALID),
    ("spec.proxy", {"serviceCIDRs": ["10.96.0.0/16", "10.97.0.0/16"]}, "spec.proxy.serviceCIDRs[1]", INVALID),
    ("spec.proxy", {"serviceCIDRs": ["fd00::/112", "10.244.128.0/20"]}, "spec.proxy.serviceCIDRs[1]", INVALID),
    ("spec.backend", {"type": "carrier-pigeon"}, "spec.backend.type", UNSUPPORTED),
    ("spec.backend", {"type": "vxlan", "port": "x"}, "spec.backend.port", INVALID),
    ("spec.backend", {"type": "vxlan", "colour": "red"}, "spec.backend.colour", INVALID),
    ("spec.backend", {"type": ["vxlan"]}, "spec.backend[...]", TYPE),
]


@pytest.mark.parametrize(("path", "value", "field", "reason"), NETWORK)
def test_network_configurations(path: str, value: Any, field: str, reason: str) -> None:
    assert (field, reason) in found(at(make.network_config(), path, value))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"podCIDRs": ["10.244.0.0/16", "fd00:10:244::/48"]},
        {"podCIDRs": ["fd00:10:244::/56"], "nodeMask": {"ipv6": 72}},
        {"podCIDRs": ["10.244.0.0/24"], "nodeMask": {"ipv4": 28}},
        {"backend": {"type": "host-gw"}},
        {"backend": {"type": "vxlan", "port": 4789}},
        {"attachment": "ptp", "mtu": 1400, "masquerade": False},
        {"proxy": {"mode": "iptables", "serviceCIDRs": ["10.96.0.0/16", "fd00::/112"]}},
        {"mtu": 576},
    ],
)
def test_network_configurations_that_work(spec: Document) -> None:
    assert judge(make.network_config(**spec)) == []


def test_ipv6_needs_an_mtu_of_1280() -> None:
    assert found(make.network_config(podCIDRs=["fd00::/48"], mtu=1279)) == [("spec.mtu", INVALID)]


def test_messages_say_what_to_write() -> None:
    causes = judge(make.network_config(podCIDRs=["10.244.1.0/16"], attachment="x", mtu=5))
    words = " ".join(str(cause) for cause in causes)
    assert "10.244.0.0/16" in words
    assert '"bridge", "ptp"' in words
    assert "between 576 and 65535" in words


SEGMENT = "spec.segments[0]"
ROUTE = [
    ("spec.service", "", "spec.service", INVALID),
    ("spec.service", 5, "spec.service", TYPE),
    ("spec.segments.0.from", [], f"{SEGMENT}.from", INVALID),
    ("spec.segments.0.from", ["10.1.0.1/16"], f"{SEGMENT}.from[0]", INVALID),
    ("spec.segments.0.from", ["::ffff:10.0.0.0/104"], f"{SEGMENT}.from[0]", INVALID),
    ("spec.segments.0.from", ["10.1.0.0/16", "10.1.2.0/24"], f"{SEGMENT}.from[1]", INVALID),
    ("spec.segments.0.backends", [], f"{SEGMENT}.backends", INVALID),
    ("spec.segments.0.backends", [{"weight": -1}], f"{SEGMENT}.backends[0].weight", INVALID),
    ("spec.segments.0.backends", [{"selector": {"a b": "c"}}], f"{SEGMENT}.backends[0].selector", INVALID),
    ("spec.default", [{"weight": 0}], "spec.default", INVALID),
    ("spec.default", [{"selector": {"a": "b c"}}], "spec.default[0].selector", INVALID),
]


@pytest.mark.parametrize(("path", "value", "field", "reason"), ROUTE)
def test_service_routes(path: str, value: Any, field: str, reason: str) -> None:
    assert (field, reason) in found(at(make.service_route(), path, value))
