"""The wire decoder against a tiny encoder of its own, and against damage."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.apiserver.protobuf import MAGIC, decode
from podnet.apiserver.status import ApiError


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    return b"".join(field(number, value) for number, value in fields)


def body(kind: str, raw: bytes, version: str = "v1") -> bytes:
    return MAGIC + message((1, message((1, version), (2, kind))), (2, raw), (3, ""), (4, ""))


def metadata(name: str, *more: tuple[int, int | str | bytes]) -> bytes:
    return message((1, name), (2, ""), (3, ""), (4, ""), (5, ""), (6, ""), (7, 0), (8, b""), *more)


def test_a_namespace_as_kubectl_sends_it() -> None:
    raw = message((1, metadata("team")), (2, b""), (3, message((1, ""))))
    assert decode(body("Namespace", raw)) == {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}


def test_a_config_map() -> None:
    entries = [
        (2, message((1, "a"), (2, "b"))),
        (2, message((1, "c"), (2, ""))),
        (3, message((1, "d"), (2, b"\x00\xff"))),
    ]
    document = decode(body("ConfigMap", message((1, metadata("m")), *entries, (4, 1))))
    assert document["data"] == {"a": "b", "c": ""}
    assert document["binaryData"] == {"d": base64.b64encode(b"\x00\xff").decode()}
    assert document["immutable"] is True


def test_a_secret() -> None:
    raw = message((1, metadata("s")), (2, message((1, "key"), (2, b"value"))), (3, "Opaque"))
    document = decode(body("Secret", raw))
    assert (document["data"], document["type"]) == ({"key": "dmFsdWU="}, "Opaque")


def test_a_service() -> None:
    number = message((1, 0), (2, 8080), (3, ""))
    name = message((1, 1), (2, 0), (3, "http"))
    first = message((1, "a"), (2, "TCP"), (3, 80), (4, number), (5, 0))
    second = message((1, "b"), (3, 81), (4, name), (5, 30001))
    spec = message((1, first), (1, second), (2, message((1, "app"), (2, "web"))), (3, ""), (4, "NodePort"), (13, 0))
    document = decode(body("Service", message((1, metadata("web")), (2, spec), (3, message((1, b""))))))
    assert document["spec"] == {
        "ports": [
            {"name": "a", "protocol": "TCP", "port": 80, "targetPort": 8080},
            {"name": "b", "port": 81, "targetPort": "http", "nodePort": 30001},
        ],
        "selector": {"app": "web"},
        "type": "NodePort",
    }


def test_a_delete_that_may_not_wait() -> None:
    raw = message((1, 0), (2, message((1, "uid-1"))), (4, "Background"), (5, "All"))
    assert decode(body("DeleteOptions", raw)) == {
        "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": "uid-1"},
        "propagationPolicy": "Background", "dryRun": ["All"],
    }  # fmt: skip


def test_negative_numbers_and_metadata() -> None:
    owner = message((1, "Pod"), (3, "web"), (4, "u"), (5, "v1"), (6, 1))
    labels = (11, message((1, "a"), (2, "b")))
    raw = message((1, metadata("x", labels, (12, message((1, "n"), (2, ""))), (13, owner), (14, "f/x"))))
    assert decode(body("Namespace", raw))["metadata"] == {
        "name": "x", "labels": {"a": "b"}, "annotations": {"n": ""}, "finalizers": ["f/x"],
        "ownerReferences": [{"kind": "Pod", "name": "web", "uid": "u", "apiVersion": "v1", "controller": True}],
    }  # fmt: skip
    assert decode(body("DeleteOptions", message((1, -1))))["gracePeriodSeconds"] == -1


def test_fields_of_the_future_are_skipped() -> None:
    fixed = varint(90 << 3 | 1) + bytes(8) + varint(91 << 3 | 5) + bytes(4)
    assert decode(body("Namespace", message((1, metadata("x")), (99, "new")) + fixed))["metadata"] == {"name": "x"}


def test_a_later_field_wins() -> None:
    assert decode(body("Namespace", message((1, metadata("x")), (1, metadata("y")))))["metadata"]["name"] == "y"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "does not appear"),
        (b"{}", "does not appear"),
        (body("Pod", b""), "Pod is understood only as application/json"),
        (MAGIC, "this kind"),
        (MAGIC + b"\xff", "damaged"),
        (MAGIC + b"\x0a\x05ab", "damaged"),
        (MAGIC + b"\x0b", "damaged"),
        (MAGIC + b"\x80" * 11, "damaged"),
        (MAGIC + field(1, 5), "damaged"),
        (body("Namespace", field(1, 5)), "damaged"),
        (body("Namespace", field(1, field(1, b"\xff"))), "damaged"),
        (body("ConfigMap", field(2, field(1, 5))), "damaged"),
        (body("Service", field(2, field(1, field(3, "x")))), "damaged"),
    ],
)
def test_damage_is_a_bad_request(data: bytes, words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        decode(data)
    assert caught.value.code == 400


KINDS = st.sampled_from(["Namespace", "ConfigMap", "Secret", "Service", "DeleteOptions"])


def answer(data: bytes) -> object:
    """The type of what a body decodes to, or the code with which it is refused."""
    try:
        return type(decode(data))
    except ApiError as error:
        return error.code


@given(KINDS, st.binary(max_size=200))
def test_no_body_breaks_the_decoder(kind: str, raw: bytes) -> None:
    for data in (MAGIC + raw, body(kind, raw)):
        assert answer(data) in (dict, 400)


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=5))
def test_maps_survive(data: dict[str, str]) -> None:
    entries = [(2, message((1, key), (2, value))) for key, value in data.items()]
    assert decode(body("ConfigMap", message(*entries))).get("data", {}) == data
