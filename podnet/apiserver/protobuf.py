"""Bodies that kubectl sends as protobuf and never retries as JSON: `create namespace|configmap|secret|service`.

A body is the magic `k8s\\0` and an Unknown{1: TypeMeta{1: apiVersion, 2: kind}, 2: raw}. A message is a table from
field number to (JSON name, how to read it); fields without a row are skipped, as protobuf wants it.
Source: the generated.proto files of k8s.io/apimachinery and k8s.io/api.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from podnet.apiserver.status import Document, bad_request

MAGIC = b"k8s\0"
CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
Reader = Callable[[Any], Any]
Message = Mapping[int, tuple[str, Reader]]


def decode(body: bytes) -> Document:
    """The document as JSON would have had it; raises ApiError 400."""
    if not body.startswith(MAGIC):
        raise bad_request("provided data does not appear to be a protobuf message")
    try:
        unknown = dict(_fields(body[len(MAGIC) :]))
        types = _message(_TYPE_META, unknown.get(1, b""))
        message = MESSAGES.get(types.get("kind", ""))
        if message is None:
            raise bad_request(f"{types.get('kind', 'this kind')} is understood only as application/json")
        return types | _message(message, unknown.get(2, b""))
    except (IndexError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise bad_request(f"the protobuf message is damaged: {error}") from None


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, varint or bytes) pairs of one message."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        length, position = (8, position) if wire == 1 else (4, position) if wire == 5 else _varint(data, position)
        if wire not in (1, 2, 5) or position + length > len(data):
            raise IndexError(f"field {number} ends beyond the message")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise IndexError("a number has more than ten bytes")


def _message(table: Message, data: bytes) -> Document:
    document: Document = {}
    for number, value in _fields(data):
        if number not in table:
            continue
        name, read = table[number]
        item = read(value)
        if isinstance(item, list):
            document.setdefault(name, []).extend(item)
        elif isinstance(item, _Entry):
            document.setdefault(name, {}).update(item)
        elif item not in ("", None, {}):
            document[name] = item
    return document


class _Entry(dict[str, Any]):
    """One entry of a map field."""


def _text(value: bytes) -> str:
    return value.decode()


def _number(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _many(read: Reader) -> Reader:
    return lambda value: [read(value)]


def _map(read: Reader) -> Reader:
    def entry(value: bytes) -> _Entry:
        pair = dict(_fields(value))
        return _Entry({_text(pair.get(1, b"")): read(pair.get(2, b""))})

    return entry


def _nested(table: Message) -> Reader:
    return lambda value: _message(table, value)


def _given(value: int) -> int | None:
    """A number or flag that is always on the wire and means "not set" when zero."""
    return _number(value) or None


def _port_or_name(value: bytes) -> int | str | None:
    fields = dict(_fields(value))
    return _text(fields.get(3, b"")) if fields.get(1) else _given(fields.get(2, 0))


_TYPE_META: Message = {1: ("apiVersion", _text), 2: ("kind", _text)}
_OWNER: Message = {
    1: ("kind", _text), 3: ("name", _text), 4: ("uid", _text), 5: ("apiVersion", _text),
    6: ("controller", bool), 7: ("blockOwnerDeletion", bool),
}  # fmt: skip
_META: Message = {
    1: ("name", _text), 2: ("generateName", _text), 3: ("namespace", _text), 5: ("uid", _text),
    6: ("resourceVersion", _text), 11: ("labels", _map(_text)), 12: ("annotations", _map(_text)),
    13: ("ownerReferences", _many(_nested(_OWNER))), 14: ("finalizers", _many(_text)),
}  # fmt: skip
_OBJECT: Message = {1: ("metadata", _nested(_META))}
_SERVICE_PORT: Message = {
    1: ("name", _text), 2: ("protocol", _text), 3: ("port", _given), 4: ("targetPort", _port_or_name),
    5: ("nodePort", _given), 6: ("appProtocol", _text),
}  # fmt: skip
_SERVICE_SPEC: Message = {
    1: ("ports", _many(_nested(_SERVICE_PORT))), 2: ("selector", _map(_text)), 3: ("clusterIP", _text),
    4: ("type", _text), 5: ("externalIPs", _many(_text)), 7: ("sessionAffinity", _text), 8: ("loadBalancerIP", _text),
    9: ("loadBalancerSourceRanges", _many(_text)), 10: ("externalName", _text), 11: ("externalTrafficPolicy", _text),
    12: ("healthCheckNodePort", _given), 13: ("publishNotReadyAddresses", _given), 17: ("ipFamilyPolicy", _text),
    18: ("clusterIPs", _many(_text)), 19: ("ipFamilies", _many(_text)), 20: ("allocateLoadBalancerNodePorts", bool),
    21: ("loadBalancerClass", _text), 22: ("internalTrafficPolicy", _text),
}  # fmt: skip
_PRECONDITIONS: Message = {1: ("uid", _text), 2: ("resourceVersion", _text)}

MESSAGES: Mapping[str, Message] = {
    "Namespace": {**_OBJECT, 2: ("spec", _nested({1: ("finalizers", _many(_text))}))},
    "ConfigMap": {**_OBJECT, 2: ("data", _map(_text)), 3: ("binaryData", _map(_base64)), 4: ("immutable", bool)},
    "Secret": {
        **_OBJECT, 2: ("data", _map(_base64)), 3: ("type", _text), 4: ("stringData", _map(_text)),
        5: ("immutable", bool),
    },
    "Service": {**_OBJECT, 2: ("spec", _nested(_SERVICE_SPEC))},
    "DeleteOptions": {
        1: ("gracePeriodSeconds", _number), 2: ("preconditions", _nested(_PRECONDITIONS)),
        3: ("orphanDependents", bool), 4: ("propagationPolicy", _text), 5: ("dryRun", _many(_text)),
    },
}  # fmt: skip
