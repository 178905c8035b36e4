"""Paths, queries and Accept headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.apiserver.status import ApiError
from podnet.apiserver.target import Query, Target, parse_path, wants_table
from podnet.objects.kinds import KINDS, LEASES, NAMESPACES, NETWORKCONFIGS, NODES, PODS

PATHS = [
    ("/api/v1/pods", Target(PODS)),
    ("/api/v1/namespaces/a/pods", Target(PODS, "a")),
    ("/api/v1/namespaces/a/pods/b", Target(PODS, "a", "b")),
    ("/api/v1/namespaces/a/pods/b/status", Target(PODS, "a", "b", "status")),
    ("/api/v1/namespaces/a/pods/b/log", Target(PODS, "a", "b", "log")),
    ("/api/v1/namespaces", Target(NAMESPACES)),
    ("/api/v1/namespaces/a", Target(NAMESPACES, "", "a")),
    ("/api/v1/namespaces/a/status", Target(NAMESPACES, "", "a", "status")),
    ("/api/v1/namespaces/a/finalize", Target(NAMESPACES, "", "a", "finalize")),
    ("/api/v1/nodes/n1", Target(NODES, "", "n1")),
    ("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", Target(LEASES, "kube-node-lease", "n1")),
    ("/apis/podnet.dev/v1/networkconfigs/default/status", Target(NETWORKCONFIGS, "", "default", "status")),
]


@pytest.mark.parametrize(("path", "target"), PATHS)
def test_paths(path: str, target: Target) -> None:
    assert parse_path(path) == target


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/v1",
        "/api/v2/pods",
        "/api/v1/nothing",
        "/apis",
        "/apis/podnet.dev",
        "/apis/podnet.dev/v1",
        "/apis/podnet.dev/v2/networkconfigs",
        "/api/v1/pods/b",
        "/api/v1/namespaces/a/nodes",
        "/api/v1/namespaces/a/pods/b/c",
        "/api/v1/namespaces/a/pods/b/log/x",
        "/api/v1/nodes/n1/log",
        "/api/v1/namespaces//pods",
        "/api/v1/namespaces/a/pods//status",
        "/metrics",
        "/../api/v1/pods",
    ],
)
def test_paths_to_nothing(path: str) -> None:
    assert parse_path(path) is None


@given(st.sampled_from(KINDS), st.data())
def test_a_kinds_own_paths_lead_back_to_it(kind: object, data: st.DataObject) -> None:
    for each in KINDS:
        namespace = "team" if each.namespaced else ""
        sub = data.draw(st.sampled_from(["", *each.subresources]))
        assert parse_path(each.path(namespace, "x", sub)) == Target(each, namespace, "x", sub)
        assert parse_path(each.path(namespace)) == Target(each, namespace)
        assert parse_path(each.path()) == Target(each)


@given(st.text(max_size=60))
def test_no_path_breaks_the_parser(path: str) -> None:
    target = parse_path(f"/api/v1/{path}")
    assert target is None or target.kind in KINDS


TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        (TABLE, True),
        (f"{TABLE},application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", True),
        ("application/json;as=Table;v=v2;g=meta.k8s.io,application/json", False),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json", False),
        ("application/vnd.kubernetes.protobuf,application/json", False),
        ("application/yaml, */*;q=0.1", False),
        (f"application/json,{TABLE}", False),
    ],
)
def test_representations(accept: str, expected: bool) -> None:
    assert wants_table(accept) is expected


@pytest.mark.parametrize(
    "accept", ["text/html", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v2;g=meta.k8s.io"]
)
def test_representations_that_we_do_not_have(accept: str) -> None:
    with pytest.raises(ApiError) as caught:
        wants_table(accept)
    assert (caught.value.code, caught.value.reason) == (406, "NotAcceptable")


def test_flags_and_numbers() -> None:
    query = Query({"watch": "true", "a": "0", "b": "False", "c": "1", "d": "", "limit": "500"})
    assert [query.flag(name) for name in ("watch", "a", "b", "c", "d", "e")] == [True, False, False, True, False, False]
    assert (query.number("limit"), query.number("x"), query.number("d", 7)) == (500, 0, 7)


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "1" * 19, "٣"])
def test_wrong_numbers(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        Query({"limit": text}).number("limit")
    assert caught.value.code == 400


def test_dry_run_is_all_or_nothing() -> None:
    assert Query({"dryRun": "All"}).dry_run
    assert not Query({}).dry_run
    with pytest.raises(ApiError):
        _ = Query({"dryRun": "Some"}).dry_run


@pytest.mark.parametrize(
    "values",
    [
        {"resourceVersionMatch": "Roughly", "resourceVersion": "1"},
        {"resourceVersionMatch": "Exact"},
        {"resourceVersionMatch": "Exact", "resourceVersion": "0"},
        {"sendInitialEvents": "true", "watch": "true"},
        {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": "1"},
    ],
)
def test_parameters_that_contradict_each_other(values: dict[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        Query(values).check()
    assert (caught.value.code, caught.value.reason) == (422, "Invalid")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"resourceVersion": "5", "resourceVersionMatch": "Exact"},
        {"resourceVersion": "0", "resourceVersionMatch": "NotOlderThan"},
        {"watch": "true", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"},
    ],
)
def test_parameters_that_agree(values: dict[str, str]) -> None:
    Query(values).check()
