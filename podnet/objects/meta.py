"""The parts every Kubernetes object shares.

podnet decodes only the fields it acts on; whatever else an object carries is skipped by the decoder and never lost,
because the embedded API server stores the document itself and not these structs. All structs are frozen, so an object
can be shared between snapshots, and identity (`is`) means "nothing about it changed".
Source: k8s.io/apimachinery/pkg/apis/meta/v1/types.go.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

EMPTY: Mapping[str, str] = {}


class Value(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """Base of everything in objects/: immutable, camelCase on the wire, defaults left out."""


class OwnerReference(Value, frozen=True):
    """Who an object belongs to; the garbage collector follows it."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(Value, frozen=True):
    """Name, version and labels of an object. `resource_version` is opaque and only ever compared for equality."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()


class Object(Value, frozen=True):
    """A top-level API object; subclasses add spec and status."""

    metadata: ObjectMeta = ObjectMeta()

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name); namespace is "" for cluster-scoped objects."""
        return (self.metadata.namespace, self.metadata.name)
