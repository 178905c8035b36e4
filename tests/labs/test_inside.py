"""hosts, resolv.conf, environment and command of a container, as the kubelet writes them."""

from __future__ import annotations

from typing import Any

import pytest

from podnet.lab import inside
from podnet.objects.codec import convert
from podnet.objects.core import Container
from podnet.objects.leases import EXTERNAL_ANNOTATION
from podnet.objects.meta import ObjectMeta
from podnet.objects.services import Service, ServicePort, ServiceSpec
from tests.labs.values import container, pod

IPS = ("10.244.1.2", "fd00::2")
HOST_IPS = ("192.168.77.11",)


# -- hostname


@pytest.mark.parametrize(
    ("name", "spec", "expected"),
    [
        ("web", {}, "web"),
        ("web", {"hostname": "db"}, "db"),
        ("web", {"hostNetwork": True}, "node1"),
        ("web", {"hostNetwork": True, "hostname": "db"}, "node1"),
        ("a" * 70, {}, "a" * 63),
        ("a" * 62 + "-bcd", {}, "a" * 62),
    ],
)
def test_hostname(name: str, spec: dict[str, Any], expected: str) -> None:
    assert inside.hostname(pod(name=name, **spec), "node1") == expected


# -- hosts


def test_hosts_names_the_pod_under_each_of_its_addresses() -> None:
    lines = inside.hosts(pod(), IPS, "ignored", "cluster.local").splitlines()
    assert lines[0] == "# Kubernetes-managed hosts file."
    assert "127.0.0.1\tlocalhost" in lines
    assert lines[-2:] == ["10.244.1.2\tweb", "fd00::2\tweb"]


def test_hosts_with_a_subdomain_has_the_full_name_too() -> None:
    last = inside.hosts(pod(subdomain="db"), IPS[:1], "", "cluster.local").splitlines()[-1]
    assert last == "10.244.1.2\tweb.db.default.svc.cluster.local\tweb"


def test_a_pod_with_hostnetwork_has_the_nodes_hosts() -> None:
    assert inside.hosts(pod(hostNetwork=True), IPS, "1.2.3.4 machine\n", "cluster.local") == "1.2.3.4 machine\n"


def test_host_aliases_come_last() -> None:
    aliases = [{"ip": "1.1.1.1", "hostnames": ["one", "uno"]}, {"ip": "2.2.2.2", "hostnames": ["two"]}]
    text = inside.hosts(pod(hostAliases=aliases), IPS, "", "cluster.local")
    assert text.endswith("\n# Entries added by HostAliases.\n1.1.1.1\tone\tuno\n2.2.2.2\ttwo\n")


# -- fields


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web"),
        ("metadata.namespace", "default"),
        ("metadata.uid", "uid-web"),
        ("metadata.labels['app']", "shop"),
        ("metadata.labels['app.example/tier']", "front"),
        ("metadata.annotations['note']", "two words"),
        ("metadata.labels['none']", ""),
        ("spec.nodeName", "node1"),
        ("status.podIP", "10.244.1.2"),
        ("status.podIPs", "10.244.1.2,fd00::2"),
        ("status.hostIP", "192.168.77.11"),
        ("status.hostIPs", "192.168.77.11"),
        ("status.unknown", ""),
    ],
)
def test_fields(path: str, value: str) -> None:
    metadata = {"labels": {"app": "shop", "app.example/tier": "front"}, "annotations": {"note": "two words"}}
    assert inside.field(pod(metadata=metadata), path, IPS, HOST_IPS) == value


def test_fields_before_there_are_addresses() -> None:
    assert inside.field(pod(), "status.podIP", (), ()) == ""
    assert inside.field(pod(), "status.hostIP", (), ()) == ""


# -- environment


def first(document: dict[str, Any]) -> Container:
    return convert({"metadata": {"name": "x"}, "spec": {"containers": [document]}}, type(pod())).spec.containers[0]


def variables(*env: dict[str, Any]) -> dict[str, str]:
    return inside.environment(pod(), first(container(env=list(env))), IPS, HOST_IPS)


def test_every_container_has_a_path_and_its_hostname() -> None:
    assert variables() == {"PATH": inside.PATH, "HOME": "/root", "HOSTNAME": "web"}


def test_plain_values_and_fields() -> None:
    found = variables(
        {"name": "A", "value": "1"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    )
    assert found["A"] == "1"
    assert found["IP"] == "10.244.1.2"


def test_a_value_may_refer_to_those_before_it() -> None:
    found = variables({"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)"}, {"name": "C", "value": "3"})
    assert found["B"] == "1$(C)"


def test_services_are_told_of_and_may_be_referred_to() -> None:
    services = [
        Service(ObjectMeta("db", "default"), ServiceSpec(cluster_ip="10.96.0.7", ports=(ServicePort(port=5432),)))
    ]
    env = [{"name": "URL", "value": "db://$(DB_SERVICE_HOST)"}, {"name": "DB_SERVICE_PORT", "value": "mine"}]
    found = inside.environment(pod(), first(container(env=env)), IPS, HOST_IPS, services)
    assert found["URL"] == "db://10.96.0.7"
    assert found["DB_PORT_5432_TCP_ADDR"] == "10.96.0.7"
    assert found["DB_SERVICE_PORT"] == "mine", "what the pod says goes before"
    assert found["PATH"] == inside.PATH


def test_a_variable_may_replace_ours() -> None:
    assert variables({"name": "PATH", "value": "/only"})["PATH"] == "/only"


def test_an_empty_value() -> None:
    assert variables({"name": "EMPTY"})["EMPTY"] == ""


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(NONE)", "$(NONE)"),
        ("$(A", "$(A"),
        ("$A", "$A"),
        ("100$", "100$"),
        ("$()", "$()"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert inside.expand(text, {"A": "1"}) == expanded


# -- command


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"command": ["a"], "args": ["b", "c"]}, ("a", "b", "c")),
        ({"command": ["a", "$(X)"]}, ("a", "5")),
        ({"args": ["only", "args"]}, ("only", "args")),
        ({}, inside.PAUSE),
    ],
)
def test_command(fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert inside.command(first({"name": "x", **fields}), {"X": "5"}) == expected


def test_a_pod_is_told_where_it_is_reached_from_outside() -> None:
    text = '[{"name": "rpc-v2", "address": "10.0.0.1", "port": 30001, "containerPort": 20880, "protocol": "TCP"}]'
    told = pod(metadata={"annotations": {EXTERNAL_ANNOTATION: text}})
    env = [{"name": "REGISTER", "value": "$(PODNET_EXTERNAL_RPC_V2_ADDRESS):$(PODNET_EXTERNAL_RPC_V2_PORT)"}]
    found = inside.environment(told, first(container(env=env)), IPS, HOST_IPS)
    assert found["REGISTER"] == "10.0.0.1:30001"
    spoilt = pod(metadata={"annotations": {EXTERNAL_ANNOTATION: "[{]"}})
    assert inside.external(spoilt) == inside.external(pod()) == {}
