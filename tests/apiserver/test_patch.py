"""JSON Patch by the examples of RFC 6902, merge patch by the table of RFC 7386."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.apiserver.patch import OPERATIONS_LIMIT, json_patch, merge, without_nulls
from podnet.apiserver.status import ApiError

# RFC 6902, appendix A
APPLIED = [
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"foo": "bar", "baz": "qux"}),
    ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
    ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
    (
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
    ),
    (
        {"foo": ["a", "b", "c", "d"]},
        [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
        {"foo": ["a", "c", "d", "b"]},
    ),
    (
        {"baz": "qux", "foo": ["a", 2, "c"]},
        [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}],
        {"baz": "qux", "foo": ["a", 2, "c"]},
    ),
    ({"foo": "bar"}, [{"op": "add", "path": "/child", "value": {"g": {}}}], {"foo": "bar", "child": {"g": {}}}),
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}], {"foo": "bar", "baz": "qux"}),
    ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc"]}], {"foo": ["bar", ["abc"]]}),
    ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
    ({"/": 9}, [{"op": "test", "path": "/~1", "value": 9}], {"/": 9}),
    ({"a": {"b": [1]}}, [{"op": "copy", "from": "/a", "path": "/c"}], {"a": {"b": [1]}, "c": {"b": [1]}}),
    ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
    ({"a": 1}, [{"op": "add", "path": "/a", "value": None}], {"a": None}),
    ({"": 1}, [{"op": "remove", "path": "/"}], {}),
    ({"a": [[1, 2]]}, [{"op": "replace", "path": "/a/0/1", "value": 3}], {"a": [[1, 3]]}),
]


@pytest.mark.parametrize(("document", "patch", "expected"), APPLIED)
def test_json_patch(document: Any, patch: Any, expected: Any) -> None:
    assert json_patch(copy.deepcopy(document), patch) == expected


REFUSED = [
    ({"foo": "bar"}, [{"op": "add", "path": "/baz/bat", "value": "qux"}], 422),
    ({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "bar"}], 422),
    ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": "10"}], 422),
    ({"a": 1}, [{"op": "test", "path": "/a", "value": True}], 422),
    ({"a": [True]}, [{"op": "test", "path": "/a", "value": [1]}], 422),
    ({"a": {"b": 0}}, [{"op": "test", "path": "/a", "value": {"b": False}}], 422),
    ({"a": 1}, [{"op": "test", "path": "/b", "value": None}], 422),
    ({"a": 1}, [{"op": "remove", "path": "/b"}], 422),
    ({"a": 1}, [{"op": "remove", "path": ""}], 422),
    ({"a": 1}, [{"op": "replace", "path": "/b", "value": 1}], 422),
    ({"a": 1}, [{"op": "replace", "path": "", "value": [1]}], 422),
    ({"a": [1]}, [{"op": "add", "path": "/a/2", "value": 1}], 422),
    ({"a": [1]}, [{"op": "add", "path": "/a/01", "value": 1}], 422),
    ({"a": [1]}, [{"op": "remove", "path": "/a/-"}], 422),
    ({"a": [1]}, [{"op": "remove", "path": "/a/-1"}], 422),
    ({"a": [1]}, [{"op": "remove", "path": "/a/²"}], 422),
    ({"a": "x"}, [{"op": "add", "path": "/a/b", "value": 1}], 422),
    ({"a": {"b": 1}}, [{"op": "move", "from": "/a", "path": "/a/b"}], 422),
    ({"a": 1}, [{"op": "copy", "from": "/x", "path": "/y"}], 422),
    ({"a": 1}, [{"op": "add", "path": "/b"}], 400),
    ({"a": 1}, [{"op": "add", "path": "b", "value": 1}], 400),
    ({"a": 1}, [{"op": "add", "path": 5, "value": 1}], 400),
    ({"a": 1}, [{"op": "merge", "path": "/b", "value": 1}], 400),
    ({"a": 1}, [{"op": "copy", "from": 5, "path": "/b"}], 400),
    ({"a": 1}, {"op": "add", "path": "/b", "value": 1}, 400),
    ({"a": 1}, ["add"], 400),
    ({"a": 1}, [{"op": "test", "path": "/a", "value": 1}] * (OPERATIONS_LIMIT + 1), 413),
]


@pytest.mark.parametrize(("document", "patch", "code"), REFUSED)
def test_json_patches_that_cannot_be(document: Any, patch: Any, code: int) -> None:
    with pytest.raises(ApiError) as caught:
        json_patch(document, patch)
    assert caught.value.code == code


# RFC 7386, appendix A
MERGED = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("document", "patch", "expected"), MERGED)
def test_merge_patch(document: Any, patch: Any, expected: Any) -> None:
    assert merge(copy.deepcopy(document), patch) == expected


SCALARS = st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from(["x", "y"]))
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(OBJECTS, OBJECTS)
def test_merging_what_differs_gives_the_other(one: Any, other: Any) -> None:
    def difference(before: Any, after: Any) -> Any:
        patch = {name: None for name in before if name not in after}
        for name, value in after.items():
            old = before.get(name)
            patch[name] = difference(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        return patch

    assert merge(copy.deepcopy(one), difference(one, other)) == other


@given(OBJECTS, OBJECTS)
def test_merging_twice_is_merging_once(document: Any, patch: Any) -> None:
    once = merge(copy.deepcopy(document), patch)
    assert merge(copy.deepcopy(once), patch) == once


@given(OBJECTS)
def test_replacing_everything_by_a_json_patch(document: Any) -> None:
    patch = [{"op": "add", "path": f"/{name}", "value": value} for name, value in document.items()]
    assert json_patch({}, patch) == document


def test_a_null_field_is_an_absent_field() -> None:
    assert without_nulls({"a": None, "b": {"c": None, "d": [{"e": None}, 1]}}) == {"b": {"d": [{}, 1]}}


def test_a_null_in_a_list_stays_to_be_refused() -> None:
    assert without_nulls({"a": [None]}) == {"a": [None]}
