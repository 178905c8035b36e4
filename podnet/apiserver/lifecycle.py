"""What becomes of an object on create, update and delete: upstream's strategies as pure functions of documents.

No clock, no store, no randomness: time and identity are arguments. Each function returns the document to be written, or
a Verdict, or raises ApiError; validation happens here, so nothing that was not judged is ever written.
Source: k8s.io/apiserver pkg/registry/rest (create.go, update.go, delete.go) and k8s.io/kubernetes pkg/registry/core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import msgspec

from podnet.apiserver import validation
from podnet.apiserver.defaults import DEFAULTS
from podnet.apiserver.records import Verdict
from podnet.apiserver.status import Cause, Document, bad_request, conflict, forbidden, invalid
from podnet.objects.kinds import Kind

GENERATION = frozenset({"NetworkConfig", "ServiceRoute", "ExternalPods", "DebugPort"})  # kinds that count changes
STATUS_BY_USER = frozenset({"Node"})  # kinds whose first status comes with the object
NO_BLIND_UPDATE = frozenset({"Lease", "NetworkConfig"})  # kinds that may be replaced only with a resourceVersion
IMMORTAL = frozenset({"default", "kube-system", "kube-public"})
POD_GRACE = 30  # seconds
_KEPT = ("deletionTimestamp", "deletionGracePeriodSeconds", "generation")
_DEFAULTED = ("uid", "creationTimestamp")


Settle = Callable[[Document, "Document | None"], None]
"""Completes a defaulted object, or what becomes of an old one, from what is free in the cluster; raises ApiError."""


def nothing_to_settle(_new: Document, _old: Document | None) -> None:
    """Most kinds have nothing to be given."""


class Preconditions(msgspec.Struct, rename="camel"):
    """Delete only this very object."""

    uid: str | None = None
    resource_version: str | None = None


class DeleteOptions(msgspec.Struct, rename="camel"):
    """How to delete; the garbage collector's options are accepted and mean background."""

    grace_period_seconds: int | None = None
    preconditions: Preconditions | None = None
    propagation_policy: str | None = None
    orphan_dependents: bool | None = None
    dry_run: tuple[str, ...] = ()


def timestamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds, as metav1.Time."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def identify(kind: Kind, namespace: str, document: Document) -> Document:
    """Check that the body is of this kind and belongs at this address; returns its metadata."""
    for field, expected in (("apiVersion", kind.api_version), ("kind", kind.kind)):
        given = document.get(field) or expected
        if given != expected:
            raise bad_request(f"the {field} in the data ({given}) does not match the expected one ({expected})")
    metadata = document.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise invalid(kind, "", [Cause("FieldValueTypeInvalid", "metadata", "Invalid value: must be an object")])
    if kind.namespaced:
        if metadata.get("namespace") not in (None, "", namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        metadata["namespace"] = namespace
    body = {name: value for name, value in document.items() if name not in ("kind", "apiVersion", "metadata")}
    document.clear()
    document.update(kind=kind.kind, apiVersion=kind.api_version, metadata=metadata, **body)
    for name in ("managedFields", "selfLink"):
        metadata.pop(name, None)
    return metadata


def created(kind: Kind, document: Document, uid: str, now: datetime, settle: Settle = nothing_to_settle) -> Document:
    """A new object from a body that `identify` accepted and that has a name."""
    metadata = document["metadata"]
    for name in _KEPT:
        metadata.pop(name, None)
    metadata.update(uid=uid, creationTimestamp=timestamp(now))
    if kind.kind in GENERATION:
        metadata["generation"] = 1
    if "status" in kind.subresources and kind.kind not in STATUS_BY_USER:
        document.pop("status", None)
    return _judged(kind, document, None, settle)


def updated(
    kind: Kind, subresource: str, document: Document, old: Document, settle: Settle = nothing_to_settle
) -> Document | Verdict:
    """The object after PUT or PATCH of itself or of its `status` or `finalize`."""
    metadata, before = document["metadata"], old["metadata"]
    _guard(kind, metadata, before)
    metadata.update(
        {name: before[name] for name in _DEFAULTED if not metadata.get(name)}, resourceVersion=before["resourceVersion"]
    )
    for name in _KEPT:
        metadata.pop(name, None)
    metadata.update({name: before[name] for name in _KEPT if name in before})
    new = _SUBRESOURCES[subresource](kind, document, old)
    new = _judged(kind, new, old, nothing_to_settle if subresource else settle, subresource == "status")
    if kind.kind in GENERATION and _wishes(new) != _wishes(old):
        metadata["generation"] = before.get("generation", 0) + 1
    if finished(kind, new):
        return Verdict.DELETE
    return Verdict.KEEP if new == old else new


def _guard(kind: Kind, metadata: Document, before: Document) -> None:
    name = before["name"]
    version = metadata.get("resourceVersion")
    if not version and kind.kind in NO_BLIND_UPDATE:
        why = "Invalid value: 0x0: must be specified for an update"
        raise invalid(kind, name, [Cause("FieldValueInvalid", "metadata.resourceVersion", why)])
    if metadata.get("uid") not in (None, "", before["uid"]):
        raise conflict(
            kind,
            name,
            f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {before['uid']}",
        )
    if version and version != before["resourceVersion"]:
        raise conflict(kind, name)


def _whole(kind: Kind, document: Document, old: Document) -> Document:
    if "status" in kind.subresources:
        document.pop("status", None)
        document |= {"status": old["status"]} if "status" in old else {}
    if kind.kind == "Namespace":
        document["spec"] = old["spec"]
    return document


def _status(kind: Kind, document: Document, old: Document) -> Document:
    metadata = document["metadata"] if not kind.group.endswith("podnet.dev") else old["metadata"]
    return {**old, "metadata": metadata, "status": document.get("status", {})}


def _finalize(_kind: Kind, document: Document, old: Document) -> Document:
    spec = document.get("spec")
    finalizers = spec.get("finalizers", []) if isinstance(spec, dict) else []
    return {**old, "spec": {**old["spec"], "finalizers": finalizers}}


_SUBRESOURCES = {"": _whole, "status": _status, "finalize": _finalize}


def _wishes(document: Document) -> Document:
    return {name: value for name, value in document.items() if name not in ("metadata", "status")}


def _judged(kind: Kind, document: Document, old: Document | None, settle: Settle, of_status: bool = False) -> Document:
    """Types, then defaults, then what is given out, then every rule: all wrong fields in one answer. The writer of a
    status (`of_status`) is not blamed for what was wrong before, of which it may be about to tell."""
    causes = list(validation.shape(kind, document))
    if not causes:
        if kind.kind in DEFAULTS:
            DEFAULTS[kind.kind](document)
        settle(document, old)
        causes = list(validation.causes(kind, document, old))
        if causes and of_status and old is not None:
            before = list(validation.causes(kind, old, None))
            causes = [cause for cause in causes if cause not in before]
    if causes:
        name = document["metadata"].get("name")
        raise invalid(kind, name if isinstance(name, str) else "", causes)
    return document


def bound(kind: Kind, pod: Document, node: str, now: datetime) -> Document:
    """The Pod after POST pods/NAME/binding."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    if pod["metadata"].get("deletionTimestamp"):
        raise conflict(kind, name, f"pod {name} is being deleted, cannot be assigned to a host")
    if spec.get("nodeName"):
        raise conflict(kind, name, f'pod {name} is already assigned to node "{spec["nodeName"]}"')
    spec["nodeName"] = node
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(now)}
    others = [condition for condition in pod["status"].get("conditions", ()) if condition.get("type") != "PodScheduled"]
    pod["status"]["conditions"] = [*others, scheduled]
    return pod


def deleted(kind: Kind, old: Document, options: DeleteOptions, now: datetime) -> Document | Verdict:
    """The object after DELETE: gone, or on its way."""
    metadata, name = old["metadata"], old["metadata"]["name"]
    if options.preconditions is not None:
        _check_preconditions(kind, metadata, options.preconditions)
    if kind.kind == "Namespace" and name in IMMORTAL:
        raise forbidden(kind, name, "this namespace may not be deleted")
    grace = _grace(old, options.grace_period_seconds) if kind.kind == "Pod" else 0
    if "deletionTimestamp" not in metadata or grace < metadata.get("deletionGracePeriodSeconds", 0):
        metadata["deletionTimestamp"] = timestamp(now + timedelta(seconds=grace))
        metadata["deletionGracePeriodSeconds"] = grace
        if kind.kind == "Namespace":
            old["status"]["phase"] = "Terminating"
        return Verdict.DELETE if finished(kind, old) else old
    return Verdict.DELETE if finished(kind, old) else Verdict.KEEP


def _check_preconditions(kind: Kind, metadata: Document, wanted: Preconditions) -> None:
    pairs = (
        ("UID", wanted.uid, metadata["uid"]),
        ("ResourceVersion", wanted.resource_version, metadata["resourceVersion"]),
    )
    for what, expected, actual in pairs:
        if expected is not None and expected != actual:
            why = f"Precondition failed: {what} in precondition: {expected}, {what} in object meta: {actual}"
            raise conflict(kind, metadata["name"], why)


def _grace(pod: Document, asked: int | None) -> int:
    """Seconds a kubelet has to stop the Pod; none when no kubelet has it or it has ended."""
    if not pod["spec"].get("nodeName") or pod["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    grace = pod["spec"].get("terminationGracePeriodSeconds", POD_GRACE) if asked is None else asked
    return 1 if grace < 0 else int(grace)


def finished(kind: Kind, document: Document) -> bool:
    """Whether an object that is being deleted has nothing left to wait for."""
    metadata: Mapping[str, object] = document["metadata"]
    if (
        not metadata.get("deletionTimestamp")
        or metadata.get("finalizers")
        or metadata.get("deletionGracePeriodSeconds")
    ):
        return False
    return not (kind.kind == "Namespace" and document["spec"].get("finalizers"))
