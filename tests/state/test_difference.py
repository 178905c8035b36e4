"""Differences are found by identity, whatever the order of keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podnet.state.difference import Successor, changes, replaced

OBJECTS = [object(), object(), None]
MAPPINGS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(range(3)))


@given(MAPPINGS, MAPPINGS)
def test_exactly_the_keys_whose_objects_differ(new: dict[str, int], old: dict[str, int]) -> None:
    """None is a value like any other."""
    one, other = ({key: OBJECTS[value] for key, value in each.items()} for each in (new, old))
    wanted = {key for key in {*one, *other} if (key in one) != (key in other) or one[key] is not other[key]}
    found = changes(one, other)
    assert sorted(found) == sorted(wanted)


def test_nothing() -> None:
    one = dict(zip("abc", OBJECTS, strict=True))
    assert changes(one, one) == changes(dict(one), one) == changes(dict(reversed(one.items())), one) == []


def test_equal_is_not_identical() -> None:
    assert changes({"a": [1]}, {"a": [1]}) == ["a"]


@given(MAPPINGS, st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=8), st.integers(1, 4))
def test_a_copy_knows_what_was_replaced(first: dict[str, int], steps: list[tuple[str, int]], reach: int) -> None:
    """As comparing tells, to the copy before and to older ones; 0 takes a key away."""
    history: list[dict[str, object]] = [{key: object() for key in first}]
    for key, value in steps:
        last = history[-1]
        if value or key in last:
            history.append(replaced(last, {key: object()}) if value else replaced(last, {}, [key]))
    for older, newer in zip(history, history[reach:], strict=False):
        assert sorted(changes(newer, older)) == sorted(changes(dict(newer), dict(older)))
        assert sorted(changes(older, newer)) == sorted(changes(dict(older), dict(newer)))


def test_a_copy_keeps_no_more_than_the_one_before() -> None:
    one = replaced({"a": 1}, {"a": 2})
    two = replaced(one, {"a": 3})
    assert (one.before, two.before) == (None, one)
    assert isinstance(two, Successor)
    assert changes(two, one) == ["a"]
    assert changes(one, {"a": 2}) == []
