"""What holds for the metadata of every object. Source: k8s.io/apimachinery pkg/api/validation/objectmeta.go."""

from __future__ import annotations

from collections.abc import Callable

from podnet.apiserver.validation.rules import (
    Causes,
    dns_label,
    dns_subdomain,
    forbidden,
    immutable,
    labels,
    qualified_name,
    required,
    too_long,
)
from podnet.objects.meta import ObjectMeta

ANNOTATIONS_LIMIT = 256 * 1024  # bytes of all keys and values together
NameRule = Callable[[str, str], Causes]


def metadata(meta: ObjectMeta, namespaced: bool, name_rule: NameRule = dns_subdomain) -> Causes:
    """Names, labels, annotations, owners and finalizers of one object."""
    if meta.name:
        yield from name_rule("metadata.name", meta.name)
    else:
        yield required("metadata.name", "name or generateName is required")
    if not namespaced and meta.namespace:
        yield forbidden("metadata.namespace", "not allowed on this type")
    elif namespaced:
        yield from dns_label("metadata.namespace", meta.namespace)
    yield from labels("metadata.labels", meta.labels)
    for key in meta.annotations:
        yield from qualified_name("metadata.annotations", key.lower())
    if sum(len(key) + len(value) for key, value in meta.annotations.items()) > ANNOTATIONS_LIMIT:
        yield too_long("metadata.annotations", ANNOTATIONS_LIMIT)
    yield from _references(meta)


def _references(meta: ObjectMeta) -> Causes:
    for index, owner in enumerate(meta.owner_references):
        parts = (("apiVersion", owner.api_version), ("kind", owner.kind), ("name", owner.name), ("uid", owner.uid))
        for name, value in parts:
            if not value:
                yield required(f"metadata.ownerReferences[{index}].{name}")
    if sum(owner.controller for owner in meta.owner_references) > 1:
        yield forbidden("metadata.ownerReferences", "Only one reference can have Controller set to true")
    for finalizer in meta.finalizers:
        yield from qualified_name("metadata.finalizers", finalizer)


def metadata_update(new: ObjectMeta, old: ObjectMeta) -> Causes:
    """What an update may not do to metadata."""
    yield from immutable("metadata.uid", new.uid, old.uid)
    yield from immutable("metadata.creationTimestamp", new.creation_timestamp, old.creation_timestamp)
    if old.deletion_timestamp is not None:
        added = sorted(set(new.finalizers) - set(old.finalizers))
        if added:
            yield forbidden(
                "metadata.finalizers",
                f"no new finalizers can be added if the object is being deleted, found new finalizers {added}",
            )
