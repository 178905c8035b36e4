"""JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7386) over decoded documents.

Every function returns the patched document and may reuse parts of its input, which the caller owns and gives up.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from podnet.apiserver.status import ApiError, Document, bad_request, unprocessable

Json = Any  # a decoded JSON value
OPERATIONS_LIMIT = 10_000


def merge(document: Json, patch: Json) -> Json:
    """RFC 7386: null removes, objects merge, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = document if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def without_nulls(value: Json) -> Json:
    """Kubernetes reads a null field as absent; so do we, before anything else looks at a document."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def json_patch(document: Document, operations: Json) -> Document:
    """RFC 6902, all operations or none; raises ApiError 400 (malformed) or 422 (cannot be applied)."""
    if not isinstance(operations, list) or not all(isinstance(operation, dict) for operation in operations):
        raise bad_request("error decoding patch: a JSON patch is an array of operations")
    if len(operations) > OPERATIONS_LIMIT:
        raise ApiError(
            413, "RequestEntityTooLarge", f"The allowed maximum operations in a JSON patch is {OPERATIONS_LIMIT}"
        )
    for operation in operations:
        verb = _OPERATIONS.get(str(operation.get("op")))
        if verb is None or not isinstance(operation.get("path"), str):
            raise bad_request(f"error decoding patch: unknown operation {operation}")
        document = verb(document, operation)
    if not isinstance(document, dict):
        raise unprocessable("the patch would leave no object")
    return document


def _parts(pointer: Json) -> list[str]:
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise bad_request(f"error decoding patch: {pointer!r} is no JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _step(value: Json, part: str, pointer: str) -> Json:
    if isinstance(value, dict) and part in value:
        return value[part]
    if isinstance(value, list):
        return value[_index(part, len(value), pointer)]
    raise unprocessable(f"the path {pointer} does not exist")


def _index(part: str, length: int, pointer: str) -> int:
    plain = part.isascii() and part.isdigit() and (part == "0" or not part.startswith("0"))
    if not plain or int(part) >= length:
        raise unprocessable(f"the path {pointer} does not exist")
    return int(part)


def _find(document: Json, pointer: str) -> Json:
    for part in _parts(pointer):
        document = _step(document, part, pointer)
    return document


def _parent(document: Json, pointer: str) -> tuple[Json, str]:
    *parts, last = _parts(pointer)
    for part in parts:
        document = _step(document, part, pointer)
    return document, last


def _add(document: Json, operation: Document) -> Json:
    return _place(document, operation["path"], _value(operation))


def _value(operation: Document) -> Json:
    if "value" not in operation:
        raise bad_request(f"error decoding patch: operation without a value: {operation}")
    return operation["value"]


def _place(document: Json, pointer: str, value: Json) -> Json:
    if not pointer:
        return value
    parent, last = _parent(document, pointer)
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(last, len(parent) + 1, pointer), value)
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        raise unprocessable(f"the path {pointer} does not exist")
    return document


def _remove(document: Json, operation: Document) -> Json:
    pointer = operation["path"]
    if not pointer:
        raise unprocessable("the patch would leave no object")
    parent, last = _parent(document, pointer)
    _step(parent, last, pointer)
    del parent[int(last) if isinstance(parent, list) else last]
    return document


def _replace(document: Json, operation: Document) -> Json:
    pointer, value = operation["path"], _value(operation)
    if not pointer:
        return value
    parent, last = _parent(document, pointer)
    _step(parent, last, pointer)
    parent[int(last) if isinstance(parent, list) else last] = value
    return document


def _copy(document: Json, operation: Document) -> Json:
    return _place(document, operation["path"], copy.deepcopy(_find(document, operation.get("from", ""))))


def _move(document: Json, operation: Document) -> Json:
    source = operation.get("from", "")
    if operation["path"].startswith(f"{source}/"):
        raise unprocessable(f"{source} cannot be moved into itself")
    value = _find(document, source)
    return _place(_remove(document, {"path": source}), operation["path"], value)


def _test(document: Json, operation: Document) -> Json:
    found, wanted = _find(document, operation["path"]), operation.get("value")
    if not _same(found, wanted):
        raise unprocessable(f"testing value {operation['path']} failed")
    return document


def _same(one: Json, other: Json) -> bool:
    """JSON equality: Python takes true for 1, JSON does not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


_OPERATIONS: Mapping[str, Callable[[Json, Document], Json]] = {
    "add": _add, "remove": _remove, "replace": _replace, "copy": _copy, "move": _move, "test": _test,
}  # fmt: skip
