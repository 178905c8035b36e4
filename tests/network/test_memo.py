"""The cache saves time and keeps identity; it never decides anything."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.network.memo import Memo, each, forget, group, joined, recall
from podnet.state.difference import changes


def test_the_same_inputs_are_not_computed_again() -> None:
    memo: Memo = {}
    one, calls = [1], []

    def make() -> list[int]:
        calls.append(1)
        return [len(calls)]

    first = recall(memo, "k", (one,), make)
    assert recall(memo, "k", (one,), make) is first
    assert len(calls) == 1


def test_equal_is_not_identical_so_it_is_computed_again() -> None:
    memo: Memo = {}
    assert recall(memo, "k", ([1],), lambda: 1) == 1
    assert recall(memo, "k", ([1],), lambda: 2) == 2


def test_an_equal_result_stays_the_same_object() -> None:
    memo: Memo = {}
    first = recall(memo, "k", (object(),), lambda: ["x"])
    assert recall(memo, "k", (object(),), lambda: ["x"]) is first


def test_another_number_of_inputs_is_another_input() -> None:
    memo: Memo = {}
    one = object()
    assert recall(memo, "k", (one,), lambda: 1) == 1
    assert recall(memo, "k", (one, one), lambda: 2) == 2
    assert recall(memo, "k", (), lambda: 3) == 3


def test_keys_do_not_share() -> None:
    memo: Memo = {}
    assert recall(memo, "a", (), lambda: 1) == 1
    assert recall(memo, "b", (), lambda: 2) == 2


def test_what_is_gone_is_forgotten() -> None:
    memo: Memo = {}
    for key in ("all", ("pod", "a"), ("pod", "b"), ("node", "a")):
        recall(memo, key, (), lambda: 1)
    forget(memo, "pod", {("pod", "b")})
    assert set(memo) == {"all", ("pod", "b"), ("node", "a")}


class Thing:
    """Compared by identity, as inputs are; results are compared by what they say."""

    def __init__(self, says: int) -> None:
        self.says = says


KEYS = ("a", "b", "c", "d")
Things = dict[str, Thing]
Step = tuple[str, str, int]
"""(which mapping, key, the new value: 0 takes the key away); or ("inputs", "", anything)."""

STEPS = st.lists(
    st.tuples(st.sampled_from(["one", "two", "two", "inputs"]), st.sampled_from(KEYS), st.integers(0, 3)), max_size=25
)


def changed(mapping: Things, key: str, value: int) -> Things:
    """Another mapping that shares every other value."""
    rest = {other: thing for other, thing in mapping.items() if other != key}
    return {**rest, key: Thing(value)} if value else rest


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_each_equals_computing_all_anew_and_makes_only_what_was_touched(steps: list[Step]) -> None:
    memo: Memo = {}
    one: Things = {}
    two: Things = {}
    inputs = Thing(0)
    before: Mapping[tuple[str, str], list[int]] = {}
    for what, key, value in (("one", "a", 1), *steps):
        calls: list[str] = []
        was = one, two, inputs
        match what:
            case "one":
                one = changed(one, key, value)
            case "two":
                two = changed(two, key, value)
            case _:
                inputs = Thing(value % 2)

        def make(name: str, one: Things = one, two: Things = two, inputs: Thing = inputs) -> list[int]:
            return [inputs.says, one[name].says, two[name].says if name in two else -1]

        def counted(name: str, calls: list[str] = calls) -> list[int]:
            calls.append(name)
            return make(name)

        found = each(memo, "k", (inputs,), (one, two), counted, lambda name: ("unit", name))
        assert found == {("unit", name): make(name) for name in one}
        touched = set(one) if inputs is not was[2] else {*changes(one, was[0]), *changes(two, was[1])}
        assert sorted(calls) == sorted(touched & set(one))
        for unit, result in found.items():
            assert (result is before.get(unit)) == (result == before.get(unit))
        assert (found is before) == (found == before) or not before
        assert each(memo, "k", (inputs,), (one, two), make, lambda name: ("unit", name)) is found
        before = found


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_groups_equal_grouping_all_anew_and_untouched_ones_stay(steps: list[Step]) -> None:
    memo: Memo = {}
    members: Things = {}
    before: Mapping[int, Mapping[str, Thing]] = {}

    def by(thing: Thing) -> int | None:
        return thing.says - 1 or None  # 1 is left out

    for _, key, value in steps:
        was, members = members, changed(members, key, value)
        found = group(memo, "g", members, by)
        places = {place for thing in members.values() if (place := by(thing)) is not None}
        assert found == {place: {k: v for k, v in members.items() if by(v) == place} for place in places}
        moved = {by(thing) for thing in (was.get(key), members.get(key)) if thing is not None}
        assert all(found[place] is before[place] for place in places - moved)
        assert group(memo, "g", members, by) is found
        before = found


def test_groups_of_a_whole_batch() -> None:
    memo: Memo = {}
    first = {key: Thing(2) for key in KEYS}
    group(memo, "g", first, lambda thing: thing.says)
    second = {"a": first["a"], "b": Thing(3), "e": Thing(2)}
    found = group(memo, "g", second, lambda thing: thing.says)
    assert found == {2: {"a": first["a"], "e": second["e"]}, 3: {"b": second["b"]}}


PARTS = st.tuples(*(st.dictionaries(st.sampled_from(keys), st.integers(1, 3)) for keys in ("ab", "cd")))


@given(st.lists(PARTS, max_size=6))
def test_joined_is_all_parts_and_stays_while_they_do(history: list[tuple[dict[str, int], dict[str, int]]]) -> None:
    memo: Memo = {}
    before: Mapping[str, int] = {}
    for parts in history:
        made = joined(memo, "all", *parts)
        assert made == parts[0] | parts[1]
        assert sorted(changes(made, before)) == sorted(changes(dict(made), dict(before)))
        assert joined(memo, "all", *map(dict, parts)) is made
        before = made


def test_joined_lets_a_key_change_its_part() -> None:
    memo: Memo = {}
    joined(memo, "all", {"a": 1}, {"b": 2})
    assert joined(memo, "all", {"b": 2}, {"a": 1}) == {"a": 1, "b": 2}
