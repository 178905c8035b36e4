"""Records, and what a selection sees of a change."""

from __future__ import annotations

import pytest

from podnet.apiserver.records import Change, Key, Record, Selection
from podnet.apiserver.status import ApiError
from tests.apiserver import documents as make
from tests.apiserver.documents import Document, at

WEB = Key("pods", "default", "web")


def record(document: Document, revision: int = 1, resource: str = "pods") -> Record:
    metadata = document["metadata"]
    return Record.write(Key(resource, metadata.get("namespace", ""), metadata["name"]), revision, document)


def labelled(revision: int, **labels: str) -> Record:
    return record(at(make.pod(), "metadata.labels", labels), revision)


def test_a_record_is_the_document_with_its_revision() -> None:
    written = record(make.pod(), 7)
    assert written.document()["metadata"]["resourceVersion"] == "7"
    assert Record.read(WEB, 7, written.value) == written


def test_documents_are_fresh_copies() -> None:
    written = record(make.pod())
    written.document()["metadata"]["name"] = "changed"
    assert written.document()["metadata"]["name"] == "web"


@pytest.mark.parametrize(
    ("document", "resource", "path", "value"),
    [
        (make.pod(nodeName="n1"), "pods", "spec.nodeName", "n1"),
        (make.pod(), "pods", "spec.nodeName", ""),
        (make.pod(), "pods", "spec.hostNetwork", "false"),
        (make.pod(hostNetwork=True), "pods", "spec.hostNetwork", "true"),
        (at(make.pod(), "status.phase", "Running"), "pods", "status.phase", "Running"),
        (make.pod(), "pods", "metadata.name", "web"),
        (make.pod(), "pods", "metadata.namespace", "default"),
        (make.node(unschedulable=True), "nodes", "spec.unschedulable", "true"),
        (make.namespace(), "namespaces", "name", "team"),
        (make.event(source={"component": "kubelet"}), "events", "source", "kubelet"),
        (make.event(), "events", "involvedObject.name", "web"),
        (make.secret(), "secrets", "type", "Opaque"),
        (make.service(clusterIP="10.96.0.1"), "services", "spec.clusterIP", "10.96.0.1"),
    ],
)
def test_selectable_fields(document: Document, resource: str, path: str, value: str) -> None:
    assert record(document, resource=resource).field(path) == value


def test_a_field_below_something_that_is_no_object_is_empty() -> None:
    assert record(at(make.pod(), "status", "odd")).field("status.phase") == ""


@pytest.mark.parametrize(
    ("namespace", "labels", "fields", "expected"),
    [
        ("", "", "", True),
        ("default", "", "", True),
        ("other", "", "", False),
        ("", "app=web", "", True),
        ("", "app!=web", "", False),
        ("", "", "spec.nodeName=n1", True),
        ("", "", "spec.nodeName!=n1", False),
        ("", "app=web", "spec.nodeName=", False),
    ],
)
def test_selections(namespace: str, labels: str, fields: str, expected: bool) -> None:
    pod = at(make.pod(nodeName="n1"), "metadata.labels", {"app": "web"})
    assert Selection.parse("pods", namespace, labels, fields).matches(record(pod)) is expected


@pytest.mark.parametrize(
    ("labels", "fields", "words"),
    [
        ("a in", "", "unable to parse labelSelector"),
        ("", "nonsense", "unable to parse fieldSelector"),
        ("", "spec.containers=x", "field label not supported: spec.containers"),
        ("", "status.podIP=x,spec.image=y", "field label not supported: spec.image"),
    ],
)
def test_wrong_selectors(labels: str, fields: str, words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        Selection.parse("pods", "", labels, fields)
    assert caught.value.code == 400


A, B = labelled(1, app="a"), labelled(2, app="b")
EVENTS = [
    (None, A, "app=a", "ADDED"),
    (None, A, "app=b", None),
    (A, B, "", "MODIFIED"),
    (A, B, "app=b", "ADDED"),
    (A, B, "app=a", "DELETED"),
    (A, B, "app=c", None),
    (B, None, "", "DELETED"),
    (B, None, "app=b", "DELETED"),
    (B, None, "app=a", None),
]


@pytest.mark.parametrize(("before", "after", "labels", "expected"), EVENTS)
def test_objects_appear_and_vanish_as_they_match(
    before: Record | None, after: Record | None, labels: str, expected: str | None
) -> None:
    event = Selection.parse("pods", "", labels, "").event(Change(5, WEB, before, after))
    assert (event.type if event else None) == expected


def test_what_went_is_told_as_it_last_was_with_the_revision_of_its_going() -> None:
    change = Change(5, WEB, A, None)
    event = Selection("pods").event(change)
    assert event is not None
    document = event.record.document()
    assert document["metadata"]["resourceVersion"] == "5"
    assert document["metadata"]["labels"] == {"app": "a"}
    assert Selection("pods").event(change) == event
    assert change.gone is change.gone, "encoded once for all watchers"
