"""Whatever a document says, it is judged: accepted and then printable, selectable and stable, or refused by name.

Each example takes a right object and puts a random value at a random place, known or unknown. Nothing but ApiError may
come out of the whole pure path that a request takes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.apiserver import lifecycle
from podnet.apiserver.bodies import decode, patcher
from podnet.apiserver.discovery import MERGE_PATCHES, STRATEGIC
from podnet.apiserver.lifecycle import DeleteOptions
from podnet.apiserver.records import FIELDS, Key, Record, Selection, Verdict
from podnet.apiserver.status import ApiError, resource
from podnet.apiserver.tables import table
from podnet.objects.kinds import BY_KIND, Kind
from tests.apiserver import documents as make
from tests.apiserver.documents import NOW, UID, Document

RICH = make.pod(
    nodeName="n1",
    initContainers=[{"name": "init", "image": "x", "env": [{"name": "A", "value": "b"}]}],
    tolerations=[{"key": "a", "operator": "Exists"}],
    dnsConfig={"nameservers": ["1.1.1.1"], "options": [{"name": "ndots"}]},
    hostAliases=[{"ip": "10.0.0.1", "hostnames": ["a"]}],
)
RICH["spec"]["containers"] = [
    {
        "name": "main",
        "image": "x",
        "ports": [{"containerPort": 80, "hostPort": 80}],
        "resources": {"limits": {"cpu": 1}},
        "livenessProbe": {"httpGet": {"port": 80}},
    }
]
RICH["metadata"] |= {"labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["e.f/g"]}
STATE = {"name": "main", "ready": True, "restartCount": 1, "state": {"running": {}}, "lastState": {"terminated": {}}}
RICH["status"] = {
    "phase": "Running",
    "podIP": "10.244.0.5",
    "conditions": [{"type": "Ready", "status": "True"}],
    "containerStatuses": [STATE],
    "initContainerStatuses": [{"state": {"terminated": {"exitCode": 1}}}],
}
BASES = [
    RICH,
    make.node(taints=[{"key": "a", "effect": "NoSchedule"}], podCIDRs=["10.0.0.0/24"]),
    make.service(type="LoadBalancer"),
    make.config_map(a="b"),
    make.secret(data={"a": "eA=="}, stringData={"b": "c"}),
    make.namespace(),
    make.lease(renewTime="x"),
    make.event(source={"component": "x"}, series={"lastObservedTime": "y"}, count=3, firstTimestamp="z"),
    make.endpoint_slice(),
    make.network_config(nodeMask={"ipv4": 24}, mtu=1400),
]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
        st.sampled_from(["10.0.0.0/24", "fd00::/48", "Exists", "None", "True", "2026-01-01T00:00:00Z", "0.0.0.0/0"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "type", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def spoiled(draw: st.DrawFn) -> Document:
    """A right document with a value changed, added or removed somewhere."""
    document = copy.deepcopy(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 2))):
        place: Any = document
        while True:
            steps = list(place) if isinstance(place, dict) else list(range(len(place)))
            step = draw(st.sampled_from([*steps, "new"]) if steps else st.just("new"))
            if step == "new" or not isinstance(place[step], dict | list) or draw(st.booleans()):
                break
            place = place[step]
        if isinstance(place, list) and step == "new":
            place.append(draw(VALUES))
        elif step != "new" and draw(st.integers(0, 3)) == 0:
            del place[step]
        else:
            place[step] = draw(VALUES)
    return document


def judged(kind: Kind, document: Document) -> Record:
    """The record of a document, by the whole path of a create and of a status update; raises ApiError."""
    namespace = "" if not kind.namespaced else {"Lease": "kube-node-lease"}.get(kind.kind, "default")
    status = copy.deepcopy(document.get("status"))
    lifecycle.identify(kind, namespace, document)
    created = lifecycle.created(kind, document, UID, NOW)
    key = Key(resource(kind), namespace, created["metadata"]["name"])
    record = Record.write(key, 1, created)
    if status is not None and "status" in kind.subresources:
        changed = lifecycle.updated(kind, "status", record.document() | {"status": status}, record.document())
        if isinstance(changed, dict):
            record = Record.write(key, 2, changed)
    return record


def outcome(attempt: Callable[[], Any]) -> Any:
    """What it gives, or the ApiError that it raises."""
    try:
        return attempt()
    except ApiError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(spoiled())
def test_any_document_is_refused_by_name_or_works_everywhere(document: Document) -> None:
    kind = BY_KIND.get((str(document.get("apiVersion")), str(document.get("kind"))), BY_KIND["v1", "Pod"])
    record = outcome(lambda: judged(kind, document))
    if isinstance(record, ApiError):
        assert record.code == 400 or (record.code == 422 and record.details and record.details["causes"])
        return
    assert table(kind, [record], NOW, "Object", {})["rows"][0]["cells"]
    for field in FIELDS.get(resource(kind), ()):
        Selection.parse(resource(kind), "", "a", f"{field}!=x").matches(record)
    assert lifecycle.updated(kind, "", record.document(), record.document()) is Verdict.KEEP
    lifecycle.deleted(kind, record.document(), DeleteOptions(), NOW)


@given(st.sampled_from([*MERGE_PATCHES, STRATEGIC]), VALUES, st.sampled_from(BASES))
def test_any_patch_is_applied_or_refused(media: str, patch: Any, document: Document) -> None:
    body = msgspec.json.encode(patch)
    result = outcome(lambda: patcher(body, media, (*MERGE_PATCHES, STRATEGIC))(copy.deepcopy(document)))
    assert isinstance(result, dict) or result.code in (400, 413, 422)


MEDIA = ["application/json", "", "application/vnd.kubernetes.protobuf", "text/plain"]


@given(st.binary(max_size=50), st.sampled_from(MEDIA))
def test_any_body_is_a_document_or_refused(body: bytes, media: str) -> None:
    result = outcome(lambda: decode(body, media))
    assert isinstance(result, dict) or result.code in (400, 415)
