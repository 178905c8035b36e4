"""Differences are found by identity, whatever the order of keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podnet.state.difference import changes

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
