"""Strategic merge: lists that are maps, orders, directives; cases from upstream's own test tables, in our words."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.apiserver.status import ApiError
from podnet.apiserver.strategic import strategic_merge


def pod(*containers: Any, **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": list(containers), **spec}}


A, B, C = ({"name": name, "image": f"{name}:1"} for name in "abc")

CASES = [
    ("a field", {"a": 1, "b": 2}, {"a": 3}, {"a": 3, "b": 2}),
    ("null removes", {"a": 1, "b": 2}, {"a": None}, {"b": 2}),
    ("maps merge", {"m": {"x": 1}}, {"m": {"y": 2}}, {"m": {"x": 1, "y": 2}}),
    ("a map where there was none", {}, {"m": {"y": 2, "z": None}}, {"m": {"y": 2}}),
    ("a map instead of a value", {"m": 5}, {"m": {"y": 2}}, {"m": {"y": 2}}),
    ("$patch: replace", {"m": {"x": 1}}, {"m": {"$patch": "replace", "y": 2, "z": None}}, {"m": {"y": 2}}),
    ("$patch: delete", {"m": {"x": 1}}, {"m": {"$patch": "delete"}}, {"m": {}}),
    ("$patch: merge", {"m": {"x": 1}}, {"m": {"$patch": "merge", "y": 2}}, {"m": {"x": 1, "y": 2}}),
    ("$retainKeys", {"m": {"x": 1, "y": 2}}, {"m": {"$retainKeys": ["y", "z"], "z": 3}}, {"m": {"y": 2, "z": 3}}),
    ("an unknown list is replaced", {"l": [{"name": "a"}]}, {"l": [{"name": "b"}]}, {"l": [{"name": "b"}]}),
    ("a known list merges", pod(A, B), pod({"name": "b", "image": "b:2"}), pod(A, {"name": "b", "image": "b:2"})),
    ("a known list grows", pod(A), pod(B), pod(A, B)),
    ("an element goes", pod(A, B), pod({"name": "a", "$patch": "delete"}), pod(B)),
    ("an element that is not there goes", pod(B), pod({"name": "a", "$patch": "delete"}), pod(B)),
    ("a list is replaced", pod(A, B), pod({"$patch": "replace"}, C), pod(C)),
    ("a list is emptied", pod(A, B), pod({"$patch": "replace"}), pod()),
    (
        "lists inside lists",
        pod({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}),
        pod({"name": "a", "env": [{"name": "Y", "value": "3"}, {"name": "X", "$patch": "delete"}]}),
        pod({"name": "a", "env": [{"name": "Y", "value": "3"}]}),
    ),
    (
        "container ports by number, service ports by port",
        {"spec": {"ports": [{"port": 80, "name": "a", "nodePort": 30000}]}},
        {"spec": {"ports": [{"port": 80, "name": "b"}]}},
        {"spec": {"ports": [{"port": 80, "name": "b", "nodePort": 30000}]}},
    ),
    (
        "the order the client wants",
        pod(A, B, C),
        {
            "spec": {
                "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}],
                "containers": [{"name": "b", "image": "b:2"}],
            }
        },
        pod(C, A, {"name": "b", "image": "b:2"}),
    ),
    (
        "what the client does not know stays behind its neighbour",
        pod(A, B, C),
        {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}},
        pod(C, A, B),
    ),
    (
        "kubectl's removal of one element",
        pod(A, B),
        {"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"$patch": "delete", "name": "a"}]}},
        pod(B),
    ),
    (
        "a set grows",
        {"metadata": {"finalizers": ["a", "b"]}},
        {"metadata": {"finalizers": ["b", "c"]}},
        {"metadata": {"finalizers": ["a", "b", "c"]}},
    ),
    (
        "a set shrinks and is ordered",
        {"metadata": {"finalizers": ["a", "b", "c"]}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["c", "a"]}},
        {"metadata": {"finalizers": ["c", "a"]}},
    ),
    (
        "nothing to delete from",
        {"metadata": {}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}},
        {"metadata": {}},
    ),
    ("nothing to order", {"spec": {}}, {"spec": {"$setElementOrder/containers": [{"name": "a"}]}}, {"spec": {}}),
    (
        "a new subtree keeps no directive",
        {},
        {"spec": {"containers": [{"name": "a", "$setElementOrder/env": [{"name": "X"}], "env": [{"name": "X"}]}]}},
        pod({"name": "a", "env": [{"name": "X"}]}),
    ),
    (
        "conditions merge by type",
        {"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Disk", "status": "False"}]}},
        {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}},
        {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}, {"type": "Disk", "status": "False"}]}},
    ),
]


@pytest.mark.parametrize(
    ("document", "patch", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_strategic_merge(document: Any, patch: Any, expected: Any) -> None:
    assert strategic_merge(copy.deepcopy(document), patch) == expected


@pytest.mark.parametrize(
    "patch",
    [
        {"$patch": "explode"},
        {"spec": {"containers": [{"image": "x"}]}},
        {"spec": {"containers": ["x"]}},
        {"spec": {"$retainKeys": "x"}},
        {"spec": {"$setElementOrder/containers": "x", "containers": [A]}},
        {"metadata": {"finalizers": ["a"], "$setElementOrder/finalizers": 5}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": 5}},
    ],
)
def test_patches_that_make_no_sense(patch: Any) -> None:
    with pytest.raises(ApiError) as caught:
        strategic_merge({"metadata": {"finalizers": ["x"]}, "spec": {"containers": [dict(B)]}}, patch)
    assert (caught.value.code, caught.value.reason) == (400, "BadRequest")


CONTAINERS = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)


@given(CONTAINERS, CONTAINERS, st.data())
def test_a_patch_as_kubectl_makes_it_leads_from_one_list_to_the_other(
    old: list[str], new: list[str], data: Any
) -> None:
    before = {name: {"name": name, "image": data.draw(st.sampled_from("xy")), "kept": True} for name in old}
    after = {name: {"name": name, "image": data.draw(st.sampled_from("xy"))} for name in new}
    changes: list[Any] = [item for name, item in after.items() if before.get(name, {}).get("image") != item["image"]]
    changes += [{"$patch": "delete", "name": name} for name in old if name not in new]
    patch = {"spec": {"$setElementOrder/containers": [{"name": name} for name in new], "containers": changes}}
    result = strategic_merge(pod(*copy.deepcopy(list(before.values()))), patch)["spec"]["containers"]
    assert [item["name"] for item in result] == new
    assert [item["image"] for item in result] == [after[name]["image"] for name in new]
    assert all(item.get("kept", False) is (item["name"] in before) for item in result)


def directives(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [name for name in value if name.startswith("$")] + [
            found for item in value.values() for found in directives(item)
        ]
    return [found for item in value for found in directives(item)] if isinstance(value, list) else []


NAMES = st.sampled_from(
    [
        "spec",
        "containers",
        "env",
        "name",
        "x",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/x",
    ]
)
LEAVES = st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["replace", "delete", "a", "b"]))
PATCHES: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


def outcome(patch: Any) -> object:
    """The code with which a patch is refused, or the directives that it left behind."""
    try:
        return directives(strategic_merge(pod(dict(A), dict(B)), patch))
    except ApiError as error:
        return error.code


@given(st.dictionaries(NAMES, PATCHES, max_size=4))
def test_any_patch_is_applied_without_a_trace_of_directives_or_refused(patch: Any) -> None:
    assert outcome(patch) in (400, [])
