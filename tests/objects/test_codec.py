"""Documents in, objects out; what does not fit is an InvalidObject that names the field, and never anything else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.objects.codec import InvalidObject, convert, decode, encode
from podnet.objects.core import Node, Pod
from podnet.objects.kinds import KINDS
from podnet.objects.meta import Object
from podnet.objects.network import NetworkConfig
from podnet.objects.services import Service

WRONG: list[tuple[type[Object], Any, str, str]] = [
    (Node, [], "", "Expected `object`, got `array`"),
    (Node, {"spec": 1}, "spec", "Expected `object`, got `int`"),
    (Node, {"spec": {"podCIDRs": "10.0.0.0/8"}}, "spec.podCIDRs", "Expected `array`, got `str`"),
    (Node, {"spec": {"podCIDRs": ["10.0.0.0/8", 7]}}, "spec.podCIDRs[1]", "Expected `str`, got `int`"),
    (Node, {"spec": {"taints": [{}, {"key": 1}]}}, "spec.taints[1].key", "Expected `str`, got `int`"),
    (Node, {"metadata": {"labels": {"a": 1}}}, "metadata.labels[...]", "Expected `str`, got `int`"),
    (
        Pod,
        {"spec": {"containers": [{"ports": [{"hostIP": 0}]}]}},
        "spec.containers[0].ports[0].hostIP",
        "Expected `str`",
    ),
    (Pod, {"spec": {"hostNetwork": "true"}}, "spec.hostNetwork", "Expected `bool`, got `str`"),
    (NetworkConfig, {"spec": {"mtu": "1400"}}, "spec.mtu", "Expected `int`, got `str`"),
    (NetworkConfig, {"spec": {"mtu": 1400.5}}, "spec.mtu", "Expected `int`, got `float`"),
    (
        NetworkConfig,
        {"spec": {"backend": {"type": None}}},
        "spec.backend[...]",
        "Expected `bool | int | str`, got `null`",
    ),
    (NetworkConfig, {"spec": {"nodeMask": {"ipv4": []}}}, "spec.nodeMask.ipv4", "Expected `int`, got `array`"),
    (Service, {"spec": {"clusterIP": {}}}, "spec.clusterIP", "Expected `str`, got `object`"),
]


@pytest.mark.parametrize(("kind", "document", "field", "message"), WRONG)
def test_the_field_is_named(kind: type[Object], document: Any, field: str, message: str) -> None:
    for attempt in (lambda: convert(document, kind), lambda: decode(msgspec.json.encode(document), kind)):
        with pytest.raises(InvalidObject) as caught:
            attempt()
        assert caught.value.field == field
        assert caught.value.message.startswith(message)
        assert str(caught.value) == (f"{field}: {caught.value.message}" if field else caught.value.message)


@pytest.mark.parametrize(
    "data", [b"", b"nul", b'{"metadata":', b"\xff", b'{"metadata":{"name":"\xff"}}', '{"metadata":{"name":"\ud800"}}']
)
def test_what_is_not_json(data: bytes | str) -> None:
    with pytest.raises(InvalidObject, match="not JSON"):
        decode(data, Node)


def test_nested_without_end() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = {"metadata": deep}
    with pytest.raises(InvalidObject):
        convert({"metadata": {"labels": deep}}, Node)
    with pytest.raises(InvalidObject, match="nested too deeply"):
        decode(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, Node)


@pytest.mark.parametrize(("document", "field"), [({"metadata": {"labels": {1: "x"}}}, "metadata.labels"), ({1: 2}, "")])
def test_keys_that_json_does_not_have(document: Any, field: str) -> None:
    """YAML has numbers as keys."""
    with pytest.raises(InvalidObject) as caught:
        convert(document, Node)
    assert caught.value.field == field


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["metadata", "spec", "status", "name", "labels", "podCIDRs", "x"]), inner)
    ),
    max_leaves=12,
)


@given(st.sampled_from(KINDS), JSON)
def test_any_document_is_an_object_or_invalid(kind: Any, document: Any) -> None:
    try:
        made = convert(document, kind.type)
    except InvalidObject:
        return
    assert convert(msgspec.to_builtins(made), kind.type) == made


@given(st.sampled_from(KINDS), st.binary(max_size=40) | st.text(max_size=40))
def test_any_bytes_are_an_object_or_invalid(kind: Any, data: bytes | str) -> None:
    try:
        made = decode(data, kind.type)
    except InvalidObject:
        return
    assert decode(encode(made), kind.type) == made


def test_upstream_spelling_and_defaults() -> None:
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "namespace": "b", "uid": "u", "managedFields": [{"manager": "kubectl"}]},
        "spec": {"nodeName": "n", "hostNetwork": True, "containers": [{"name": "c", "ports": [{"hostIP": "1.2.3.4"}]}]},
        "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "hostIP": "1.1.1.1"},
    }
    pod = convert(document, Pod)
    assert (pod.key, pod.spec.node_name, pod.spec.host_network) == (("b", "a"), "n", True)
    assert pod.spec.containers[0].ports[0].host_ip == "1.2.3.4"
    assert (pod.status.pod_ips[0].ip, pod.status.host_ip, pod.status.phase) == ("10.0.0.1", "1.1.1.1", "")
    del document["apiVersion"], document["kind"], document["metadata"]["managedFields"]
    assert msgspec.json.decode(encode(pod)) == document


def test_objects_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Node().metadata.name = "x"  # type: ignore[misc]


def test_a_network_configuration_has_its_defaults() -> None:
    spec = decode(b"{}", NetworkConfig).spec
    assert (spec.pod_cidrs, spec.backend, spec.attachment) == (("10.244.0.0/16",), {"type": "vxlan"}, "ptp")
    assert (spec.masquerade, spec.mtu, spec.node_mask.ipv4, spec.node_mask.ipv6) == (True, 0, 24, 64)
