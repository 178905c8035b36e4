"""The cache saves time and keeps identity; it never decides anything."""

from __future__ import annotations

from podnet.network.memo import Memo, forget, recall


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
