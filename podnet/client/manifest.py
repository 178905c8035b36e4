"""`kubectl apply` in small: make the cluster hold what a YAML text says.

An object that is missing is created; one that exists is patched, by a strategic merge where the API has one (built-in
kinds) and a merge otherwise. There is no three-way merge: a field that vanished from the text stays in the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import yaml

from podnet.client.api import Api, Document, PatchType
from podnet.client.errors import ApiError
from podnet.objects.codec import InvalidObject
from podnet.objects.kinds import BY_KIND, Kind


class Applied(msgspec.Struct, frozen=True):
    """What became of one object; str() is kubectl's line."""

    kind: Kind
    namespace: str
    name: str
    outcome: Literal["created", "configured", "unchanged"]

    def __str__(self) -> str:
        group = f".{self.kind.group}" if self.kind.group else ""
        return f"{self.kind.singular}{group}/{self.name} {self.outcome}"


def documents(text: str) -> Iterator[tuple[Kind, Document]]:
    """The objects of a YAML (or JSON) text, Lists unpacked. Raises InvalidObject, which names the place."""
    try:
        parts = [part for part in yaml.safe_load_all(text) if part is not None]
    except yaml.YAMLError as error:
        raise InvalidObject(f"not YAML: {' '.join(str(error).split())}") from None
    for part in parts:
        items = part.get("items", ()) if isinstance(part, dict) and part.get("kind") == "List" else [part]
        yield from map(_identified, items)


def _identified(document: Any) -> tuple[Kind, Document]:
    if not isinstance(document, dict):
        raise InvalidObject(f"expected an object, got {type(document).__name__}")
    api_version, name = document.get("apiVersion", ""), document.get("kind", "")
    kind = BY_KIND.get((api_version, name))
    if kind is None:
        raise InvalidObject(f"{name or 'nothing'} of {api_version or 'no apiVersion'} is no kind podnet knows", "kind")
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("name"):
        raise InvalidObject("missing", "metadata.name")
    return kind, document


async def apply(api: Api, text: str, namespace: str = "") -> tuple[Applied, ...]:
    """Apply every object of a text, in its order. Raises InvalidObject before anything is sent, ApiError."""
    return tuple([await apply_one(api, kind, document, namespace) for kind, document in list(documents(text))])


async def apply_one(api: Api, kind: Kind, document: Document, namespace: str = "") -> Applied:
    """Create or patch one object. Raises ApiError."""
    name = document["metadata"]["name"]
    own = document["metadata"].get("namespace", "")
    namespace = (own or namespace or api.namespace) if kind.namespaced else ""
    before = await _version(api, kind, name, namespace)
    if not before and await _created(api, kind, document, namespace):
        return Applied(kind, namespace, name, "created")
    strategy: PatchType = "strategic" if _built_in(kind) else "merge"
    after = await api.patch(kind, name, document, namespace, strategy=strategy, into=dict)
    changed = before != after["metadata"].get("resourceVersion")
    return Applied(kind, namespace, name, "configured" if changed else "unchanged")


def _built_in(kind: Kind) -> bool:
    return not kind.group or kind.group.endswith(".k8s.io")


async def _version(api: Api, kind: Kind, name: str, namespace: str) -> str:
    """The resourceVersion, "" if there is no such object."""
    try:
        document = await api.get(kind, name, namespace, into=dict)
    except ApiError as error:
        if error.code == 404:
            return ""
        raise
    return str(document["metadata"].get("resourceVersion", ""))


async def _created(api: Api, kind: Kind, document: Document, namespace: str) -> bool:
    """Create; False when another one was quicker."""
    try:
        await api.create(kind, document, namespace, into=dict)
    except ApiError as error:
        if error.reason == "AlreadyExists":
            return False
        raise
    return True
