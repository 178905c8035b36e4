"""Strategic merge patch: a merge that knows which lists are really maps, and by which key.

`kubectl apply`, `edit` and `set` send it. Directives: `$patch: replace|delete|merge`, `$retainKeys`,
`$deleteFromPrimitiveList/f`, `$setElementOrder/f`. The table says, for a list under a parent field, the key that tells
its elements apart; a list that is not in the table is replaced whole.
Source: k8s.io/apimachinery pkg/util/strategicpatch/patch.go; keys from the patchMergeKey tags of k8s.io/api.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from podnet.apiserver.status import Document, bad_request

Json = Any  # a decoded JSON value

MERGE_KEYS: Mapping[tuple[str, str], str] = {
    ("metadata", "ownerReferences"): "uid",
    ("spec", "containers"): "name",
    ("spec", "initContainers"): "name",
    ("spec", "ephemeralContainers"): "name",
    ("spec", "volumes"): "name",
    ("spec", "imagePullSecrets"): "name",
    ("spec", "hostAliases"): "ip",
    ("spec", "topologySpreadConstraints"): "topologyKey",
    ("spec", "schedulingGates"): "name",
    ("spec", "resourceClaims"): "name",
    ("spec", "ports"): "port",
    **{
        (containers, field): key
        for containers in ("containers", "initContainers", "ephemeralContainers")
        for field, key in {
            "ports": "containerPort", "env": "name", "volumeMounts": "mountPath", "volumeDevices": "devicePath",
        }.items()
    },
    ("status", "conditions"): "type",
    ("status", "addresses"): "type",
    ("status", "podIPs"): "ip",
    ("status", "hostIPs"): "ip",
}  # fmt: skip
PRIMITIVE_SETS = frozenset({("metadata", "finalizers"), ("spec", "finalizers"), ("spec", "podCIDRs")})
_ORDER, _DELETE_PRIMITIVES, _RETAIN, _PATCH = "$setElementOrder/", "$deleteFromPrimitiveList/", "$retainKeys", "$patch"


def strategic_merge(document: Document, patch: Document, parent: str = "") -> Document:
    """Apply `patch` to `document`, which is given up; raises ApiError 400 for a patch that makes no sense."""
    directive = patch.get(_PATCH)
    if directive == "replace":
        return {name: _plain(value) for name, value in patch.items() if not _directive(name) and value is not None}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"unknown patch type found: {directive}")
    merged = document
    if _RETAIN in patch:
        retained = _list(patch, _RETAIN)
        merged = {name: value for name, value in document.items() if name in retained}
    for name, value in patch.items():
        if not name.startswith("$"):
            _merge_field(merged, name, value, patch, parent)
    for name in patch:
        _list_directive(merged, name, patch, parent)
    return merged


def _merge_field(merged: Document, name: str, value: Json, patch: Document, parent: str) -> None:
    present = merged.get(name)
    if value is None:
        merged.pop(name, None)
    elif isinstance(value, dict):
        merged[name] = strategic_merge(present if isinstance(present, dict) else {}, value, name)
    elif isinstance(value, list) and (parent, name) in MERGE_KEYS:
        merged[name] = _merge_list(_elements(present), _elements(value), MERGE_KEYS[parent, name], name)
        _reorder(merged, name, patch, parent)
    elif isinstance(value, list) and (parent, name) in PRIMITIVE_SETS:
        kept = present if isinstance(present, list) else []
        merged[name] = kept + [item for item in value if item not in kept]
        _reorder(merged, name, patch, parent)
    else:
        merged[name] = _plain(value)


def _list_directive(merged: Document, name: str, patch: Document, parent: str) -> None:
    if name.startswith(_DELETE_PRIMITIVES):
        field = name.removeprefix(_DELETE_PRIMITIVES)
        if isinstance(merged.get(field), list):
            unwanted = _list(patch, name)
            merged[field] = [item for item in merged[field] if item not in unwanted]
    elif name.startswith(_ORDER) and name.removeprefix(_ORDER) not in patch:
        _reorder(merged, name.removeprefix(_ORDER), patch, parent)


def _list(patch: Document, name: str) -> list[Json]:
    value = patch[name]
    if not isinstance(value, list):
        raise bad_request(f"{name} must be a list")
    return value


def _elements(value: Json) -> list[Document]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise bad_request("a list that merges by key must hold objects")
    return value


def _merge_list(present: list[Document], patch: list[Document], key: str, field: str) -> list[Document]:
    if any(item.get(_PATCH) == "replace" for item in patch):
        return [_plain(item) for item in patch if item.get(_PATCH) != "replace"]
    merged = list(present)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        index = next((index for index, old in enumerate(merged) if old.get(key) == item[key]), None)
        if item.get(_PATCH) == "delete":
            merged = [old for old in merged if old.get(key) != item[key]]
        elif index is None:
            merged.append(strategic_merge({}, item, field))
        else:
            merged[index] = strategic_merge(merged[index], item, field)
    return merged


def _reorder(merged: Document, field: str, patch: Document, parent: str) -> None:
    """Listed elements in the listed order; what the client does not know stays behind its present neighbour."""
    present = merged.get(field)
    if _ORDER + field not in patch or not isinstance(present, list):
        return
    order = _list(patch, _ORDER + field)
    key = MERGE_KEYS.get((parent, field))
    places = {_identity(item, key): place for place, item in enumerate(order)}
    ranks: list[tuple[float, int]] = []
    behind = -1.0
    for index, item in enumerate(present):
        place = places.get(_identity(item, key))
        behind = behind if place is None else float(place)
        ranks.append((behind + (0.5 if place is None else 0.0), index))
    merged[field] = [present[index] for _, index in sorted(ranks)]


def _identity(item: Json, key: str | None) -> str:
    return repr(item.get(key) if key is not None and isinstance(item, dict) else item)


def _plain(value: Json) -> Json:
    """A value that is new here: nothing to merge with, so directives inside it have no meaning and nulls no object."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if item is not None and not _directive(name)}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _directive(name: str) -> bool:
    return name in (_PATCH, _RETAIN) or name.startswith((_ORDER, _DELETE_PRIMITIVES))
