"""Differences are found by identity, whatever the order of keys."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.state.difference import PIECE, PersistentMap, changes, replaced

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


NUMBERS = st.integers(0, 200)
STEPS = st.lists(st.tuples(st.dictionaries(NUMBERS, NUMBERS, max_size=60), st.sets(NUMBERS, max_size=60)), max_size=5)


@settings(max_examples=40)
@given(STEPS)
def test_versions_are_mappings_like_others(steps: list[tuple[dict[int, int], set[int]]]) -> None:
    """Whatever is replaced and taken away, each version stays what it was and tells how it differs from any other."""
    history: list[tuple[dict[int, int], Mapping[int, int]]] = [({}, {})]
    for fresh, gone in steps:
        plain, version = history[-1]
        there = [key for key in gone if key in plain or key in fresh]
        after = {key: value for key, value in {**plain, **fresh}.items() if key not in gone}
        history.append((after, replaced(version, fresh, there)))
    for plain, version in history:
        assert version == plain
        assert (len(version), sorted(version), sorted(version.values())) == (
            len(plain),
            sorted(plain),
            sorted(plain.values()),
        )
        assert dict(version.items()) == {key: version[key] for key in version} == {**version} == plain
        assert all((key in version, version.get(key)) == (key in plain, plain.get(key)) for key in range(200))
        for other, older in history:
            assert sorted(changes(version, older)) == sorted(changes(plain, other))


def test_a_version_shares_what_it_can() -> None:
    first = PersistentMap({number: object() for number in range(10_000)})
    second = replaced(first, {17: object()}, [4711])
    assert sorted(changes(second, first)) == [17, 4711]
    assert sum(a is not b for a, b in zip(first._pieces, second._pieces, strict=True)) <= 2


def test_pieces_stay_small_and_are_not_too_many() -> None:
    grown = replaced({}, dict.fromkeys(range(10_000)))
    assert max(map(len, grown._pieces)) < 4 * PIECE
    shrunk = replaced(grown, {}, range(9_990))
    assert (len(shrunk), len(shrunk._pieces)) == (10, 1)
