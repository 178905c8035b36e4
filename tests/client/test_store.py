"""The informer's memory: identity, bad documents, order and doubt; all without I/O."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.client.errors import ApiError
from podnet.client.store import Disorder, Listing, Problem, Store, older, same
from podnet.objects.core import Node
from podnet.objects.kinds import NODES
from podnet.objects.meta import Object
from podnet.state.difference import changes

Document = dict[str, Any]


def node(name: str, version: int, cidr: str = "10.244.0.0/24", **more: Any) -> Document:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "spec": {"podCIDR": cidr}} | more


def invalid(name: str, version: int, wrong: Any = 1) -> Document:
    return node(name, version) | {"spec": {"podCIDRs": wrong}}


def event(type_: str, document: Document) -> bytes:
    return json.dumps({"type": type_, "object": document}).encode()


def listing(store: Store, version: int, *items: Document) -> Listing:
    made = Listing()
    store.add_page(made, str(version), [json.dumps(item).encode() for item in items])
    return made


def filled(*items: Document, version: int = 10) -> tuple[Store, list[Problem]]:
    problems: list[Problem] = []
    store = Store(NODES, "https://server", problems.append)
    store.take(listing(store, version, *items))
    return store, problems


def names(store: Store) -> list[str]:
    return sorted(name for _, name in store.objects)


def held(store: Store, name: str) -> Object:
    return store.objects["", name]


def test_events_change_the_objects() -> None:
    store, _ = filled(node("a", 1))
    assert store.apply(event("ADDED", node("b", 11)))
    assert store.apply(event("MODIFIED", node("a", 12, "10.244.9.0/24")))
    changed = held(store, "a")
    assert isinstance(changed, Node)
    assert changed.spec.pod_cidr == "10.244.9.0/24"
    assert store.apply(event("DELETED", node("b", 13)))
    assert not store.apply(event("DELETED", node("never", 14)))
    assert (names(store), store.version) == (["a"], "14")


def test_an_equal_value_keeps_the_identity() -> None:
    store, _ = filled(node("a", 1))
    before = held(store, "a")
    assert not store.apply(event("MODIFIED", node("a", 11, status={"unused": 1})))
    assert held(store, "a") is before
    assert not store.take(listing(store, 20, node("a", 15)))
    assert held(store, "a") is before
    assert store.version == "20"
    assert store.apply(event("MODIFIED", node("a", 21, "10.0.0.0/24")))
    assert held(store, "a") is not before


def test_a_recreated_object_is_another_one() -> None:
    store, _ = filled({"metadata": {"name": "a", "uid": "1"}})
    before = held(store, "a")
    assert store.apply(event("ADDED", {"metadata": {"name": "a", "uid": "2", "resourceVersion": "11"}}))
    assert held(store, "a") is not before


def test_same_looks_at_everything_but_the_version() -> None:
    store, _ = filled(node("a", 1), node("b", 2))
    a, b = held(store, "a"), held(store, "b")
    assert same(a, a)
    assert not same(a, b)


def test_a_list_says_whether_anything_changed() -> None:
    store, _ = filled(node("a", 1), node("b", 2))
    assert not store.take(listing(store, 11, node("b", 2), node("a", 1)))
    assert store.take(listing(store, 12, node("a", 1)))
    assert store.take(listing(store, 13, node("c", 13)))
    assert names(store) == ["c"]


def test_a_list_in_pages_has_the_version_of_the_first() -> None:
    store, _ = filled()
    made = listing(store, 5, node("a", 1))
    store.add_page(made, "6", [json.dumps(node("b", 6)).encode()])
    assert store.take(made)
    assert (store.version, names(store)) == ("5", ["a", "b"])


def test_an_invalid_object_keeps_its_last_good_version() -> None:
    store, problems = filled(node("a", 1))
    before = held(store, "a")
    assert not store.apply(event("MODIFIED", invalid("a", 11)))
    assert held(store, "a") is before
    assert store.version == "11"
    assert [str(problem) for problem in problems] == ["Node a: spec.podCIDRs: Expected `array`, got `int`"]
    assert not store.take(listing(store, 12, invalid("a", 11)))
    assert held(store, "a") is before
    assert len(problems) == 1, "the same complaint is not repeated"
    store.apply(event("MODIFIED", invalid("a", 13, [1])))
    assert len(problems) == 2, "another complaint is"
    assert list(store.problems) == [("", "a")]


def test_an_invalid_object_that_never_was_good_is_absent() -> None:
    store, problems = filled(invalid("a", 1), node("b", 2))
    assert names(store) == ["b"]
    store.apply(event("ADDED", invalid("c", 11)))
    assert names(store) == ["b"]
    assert [problem.key for problem in problems] == [("", "a"), ("", "c")]


def test_problems_end_when_the_object_becomes_good_or_goes() -> None:
    store, _ = filled(invalid("a", 1), invalid("b", 2), invalid("c", 3))
    assert store.apply(event("MODIFIED", node("a", 11)))
    assert not store.apply(event("DELETED", invalid("b", 12)))
    assert list(store.problems) == [("", "c")]
    store.take(listing(store, 13))
    assert store.problems == {}


def test_an_invalid_object_can_be_deleted() -> None:
    store, _ = filled(node("a", 1))
    store.apply(event("MODIFIED", invalid("a", 11)))
    assert store.apply(event("DELETED", invalid("a", 12)))
    assert store.objects == {}


@pytest.mark.parametrize("document", [{"metadata": {"name": 1}}, {"metadata": {}}, {}, {"metadata": None}])
def test_an_object_without_a_name_is_a_problem(document: Document) -> None:
    store, problems = filled(document, node("a", 1))
    assert names(store) == ["a"]
    assert problems[0].key == ("", "")
    assert not store.apply(event("ADDED", document))


def test_bookmarks_advance_the_version_only() -> None:
    store, _ = filled(node("a", 1))
    before = held(store, "a")
    assert not store.apply(event("BOOKMARK", {"kind": "Node", "metadata": {"resourceVersion": "99"}}))
    assert (store.version, held(store, "a") is before) == ("99", True)


@pytest.mark.parametrize("type_", ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"])
def test_going_back_in_time_is_noticed(type_: str) -> None:
    store, _ = filled(node("a", 1))
    with pytest.raises(Disorder, match="went back in time, from version 10 to 9"):
        store.apply(event(type_, node("a", 9, "10.9.9.0/24")))


def test_an_invalid_object_from_the_past_is_disorder_too() -> None:
    store, _ = filled(node("a", 1))
    with pytest.raises(Disorder):
        store.apply(event("MODIFIED", invalid("a", 9)))


def test_versions_without_order_are_never_older() -> None:
    assert older("9", "10")
    assert not older("10", "10")
    assert not older("", "10")
    assert not older("abc", "10")
    assert not older("9", "x")


@pytest.mark.parametrize(
    "line",
    [b"half", b"[]", b'{"type":"ADDED"}', b'{"type":1,"object":{}}', b"\xff", b'{"type":"A","object":' + b"[" * 9999],
)
def test_a_line_that_is_no_event(line: bytes) -> None:
    store, _ = filled()
    with pytest.raises(Disorder, match="no event"):
        store.apply(line)


def test_an_event_of_an_unknown_type() -> None:
    store, _ = filled()
    with pytest.raises(Disorder, match="unknown type 'MOVED'"):
        store.apply(event("MOVED", node("a", 11)))


def test_an_error_event_is_the_servers_error() -> None:
    store, _ = filled()
    with pytest.raises(ApiError, match=r"too old \(410 Expired, from https://server\)") as caught:
        store.apply(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}))
    assert caught.value.expired
    with pytest.raises(ApiError, match="500 Unknown"):
        store.apply(event("ERROR", {}))


def test_doubt() -> None:
    items = [node(name, 1) for name in "abcd"]
    store, _ = filled(*items)
    assert store.doubt(listing(store, 11, *items[:2])) == ""
    assert "lost more than half" in store.doubt(listing(store, 11, *items[:1]))
    assert "lost more than half" in store.doubt(listing(store, 11))
    assert "older than what was seen" in store.doubt(listing(store, 9, *items))
    assert store.doubt(listing(store, 10, *items)) == ""


def test_the_first_list_and_an_empty_cluster_raise_no_doubt() -> None:
    store = Store(NODES)
    assert store.doubt(listing(store, 5)) == ""
    store.take(listing(store, 5))
    assert store.doubt(listing(store, 6)) == ""


def test_invalid_objects_count_as_held_in_a_list() -> None:
    store, _ = filled(node("a", 1))
    assert store.doubt(listing(store, 11, invalid("a", 11))) == ""


@given(st.lists(st.sampled_from(["MODIFIED a", "MODIFIED b", "ADDED c", "DELETED a", "DELETED c", "list", "look"])))
def test_a_snapshot_stays_and_knows_what_differs(story: list[str]) -> None:
    store, _ = filled(node("a", 1), node("b", 2))
    last, then, version = store.snapshot(), dict(store.objects), 10
    for step in [*story, "look"]:
        version += 1
        kind, _, name = step.partition(" ")
        if step == "list":
            store.take(listing(store, version, node("a", version, f"10.1.{version}.0/24")))
        elif name:
            store.apply(event(kind, node(name, version, f"10.0.{version}.0/24")))
        else:
            now = store.snapshot()
            assert dict(now) == dict(store.objects)
            assert set(changes(now, last)) == set(changes(dict(now), dict(last)))
            assert dict(last) == then
            last, then = now, dict(now)


def test_what_is_not_needed_is_as_if_it_were_not_there() -> None:
    store = Store(NODES, keep=lambda each: each.spec.pod_cidr != "")
    store.take(listing(store, 10, node("a", 1), node("b", 2, "")))
    assert names(store) == ["a"]
    assert not store.apply(event("ADDED", node("c", 11, "")))
    assert store.apply(event("MODIFIED", node("a", 12, "")))
    assert store.apply(event("MODIFIED", node("b", 13)))
    assert not store.apply(event("DELETED", node("c", 14, "")))
    assert (names(store), dict(store.snapshot()), store.version) == (["b"], store.objects, "14")
