"""Figures: medians, quartiles, goals, turns."""

from __future__ import annotations

import io
import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.bench import figures
from podnet.bench.figures import Figure, at_least, at_most, figure, in_turns, ratios, uncertainty, until_sure

SAMPLES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50)


def test_the_value_is_the_median_and_low_and_high_the_quartiles() -> None:
    assert figure("s", "n", "ms", [5, 1, 4, 2, 3]) == Figure("s", "n", 3, "ms", 2, 4)


def test_one_sample_has_no_spread() -> None:
    assert figure("s", "n", "ms", [7]) == Figure("s", "n", 7, "ms", 7, 7)


def test_no_sample_is_no_figure() -> None:
    with pytest.raises(ValueError, match="s/n"):
        figure("s", "n", "ms", [])


@given(SAMPLES)
def test_the_value_lies_between_low_and_high(samples: list[float]) -> None:
    made = figure("s", "n", "ms", samples)
    assert made.low <= made.value <= made.high
    assert min(samples) - 1e-4 <= made.low
    assert made.high <= max(samples) + 1e-4


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (at_most(0.3), 0.29, True),
        (at_most(0.3), 0.3, True),
        (at_most(0.3), 0.31, False),
        (at_least(0.95), 0.96, True),
        (at_least(0.95), 0.95, True),
        (at_least(0.95), 0.94, False),
    ],
)
def test_goals(goal: figures.Goal, value: float, met: bool) -> None:
    made = figure("s", "n", "ratio", [value], goal)
    assert (made.goal, made.met) == (goal.limit, met)


def test_a_goal_is_judged_before_the_value_is_rounded() -> None:
    made = figure("s", "n", "ratio", [1 / 3 + 1e-6], at_most(1 / 3))
    assert made.value == 0.3333
    assert made.met is False


def test_turns_alternate_and_the_warm_up_is_thrown_away() -> None:
    calls: list[str] = []

    def call(name: str) -> float:
        calls.append(name)
        return len(calls)

    pairs = in_turns(lambda: call("a"), lambda: call("b"), turns=2, warm_up=1)
    assert calls == ["a", "b"] * 3
    assert pairs == [(3, 4), (5, 6)]


@given(SAMPLES)
def test_the_median_is_within_the_uncertainty_of_some_sample_interval(samples: list[float]) -> None:
    assert 0 <= uncertainty(samples) <= (max(samples) - min(samples)) / 2


def test_uncertainty_shrinks_with_the_root_of_the_number_of_samples() -> None:
    few, many = ([number / count for number in range(count)] for count in (100, 10_000))
    assert uncertainty(few) / uncertainty(many) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("covered", [0.92])
def test_the_interval_covers_the_true_median(covered: float) -> None:
    dice = random.Random(1)
    hits = 0
    for _ in range(300):
        samples = [dice.lognormvariate(0, 0.5) for _ in range(101)]
        hits += abs(median(samples) - 1) <= uncertainty(samples)
    assert hits / 300 >= covered


def test_until_sure_stops_when_it_is_sure() -> None:
    dice = random.Random(4)
    quiet = until_sure(lambda: 1.0, lambda: 1.0, error=0.01, seconds=60)
    loud = until_sure(lambda: dice.uniform(0.8, 1.2), lambda: 1.0, error=0.01, seconds=60)
    assert len(quiet) == figures.BATCH
    assert len(loud) > len(quiet)
    assert figure("s", "n", "ratio", ratios(loud)).value == pytest.approx(1.0, abs=0.02)


def test_until_sure_stops_when_time_is_up() -> None:
    dice = random.Random(2)
    pairs = until_sure(lambda: dice.uniform(0.1, 10), lambda: 1.0, error=1e-9, seconds=0)
    assert len(pairs) == figures.BATCH


def test_until_sure_keeps_ours_and_the_other_apart_when_it_swaps_them() -> None:
    dice = random.Random(3)
    pairs = until_sure(lambda: dice.uniform(5, 6), lambda: dice.uniform(1, 2), error=1e-9, seconds=0.01)
    assert {mine > 4 > theirs for mine, theirs in pairs} == {True}


def test_ratios_are_ours_to_the_other() -> None:
    assert ratios([(1, 2), (3, 1)]) == [0.5, 3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_log_is_the_last_line_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", log := io.StringIO())
    in_turns(lambda: 1, lambda: 1, turns=3, said="x")
    assert log.getvalue() == "x: turn 3 of 3\n"


def test_progress_on_a_terminal_replaces_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", log := Terminal())
    in_turns(lambda: 1, lambda: 1, turns=2, said="x", warm_up=0)
    assert log.getvalue() == "\r\x1b[Kx: turn 1 of 2\r\x1b[Kx: turn 2 of 2\n"
