"""What a bench says: figures, each with its spread and, where there is one, its goal.

Machines differ and are busy at times, so what has a goal is mostly a ratio: podnet and what it is compared with take
turns in one run, each turn gives one ratio, and the median of these is the value. `low` and `high` are the quartiles,
between which the middle half of the turns lay.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median, quantiles
from typing import TypeVar

import msgspec

Sample = TypeVar("Sample")

BATCH = 100
"""Turns between two looks at how sure the result is."""


class Figure(msgspec.Struct, frozen=True):
    """One measured number; `goal` and `met` are None when nothing was promised."""

    suite: str
    name: str
    value: float
    unit: str
    low: float
    high: float
    goal: float | None = None
    met: bool | None = None


class Goal(msgspec.Struct, frozen=True):
    """A promise about a figure."""

    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether the promise is kept; the limit itself keeps it."""
        return value >= self.limit if self.at_least else value <= self.limit


def at_most(limit: float) -> Goal:
    """A promise that less is better than."""
    return Goal(limit)


def at_least(limit: float) -> Goal:
    """A promise that more is better than."""
    return Goal(limit, at_least=True)


def figure(suite: str, name: str, unit: str, samples: Sequence[float], goal: Goal | None = None) -> Figure:
    """The median of some samples with its quartiles; raises ValueError without samples."""
    if not samples:
        raise ValueError(f"{suite}/{name}: no samples")
    low, _, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else (samples[0],) * 3
    value = median(samples)
    limit, met = (goal.limit, goal.met(value)) if goal else (None, None)
    return Figure(suite, name, round(value, 4), unit, round(low, 4), round(high, 4), limit, met)


def ratios(pairs: Iterable[tuple[float, float]]) -> list[float]:
    """One ratio per turn: ours to the other's."""
    return [ours / other for ours, other in pairs]


def in_turns(
    ours: Callable[[], Sample], other: Callable[[], Sample], turns: int, said: str = "", warm_up: int = 1
) -> list[tuple[Sample, Sample]]:
    """Call both in turns and return what they measured; the first `warm_up` turns are thrown away."""
    pairs = []
    for turn in range(-warm_up, turns):
        pairs.append((ours(), other()))
        if said:
            say(f"{said}: turn {turn + 1} of {turns}", again=turn + 1 < turns)
    return pairs[warm_up:]


def until_sure(
    ours: Callable[[], float], other: Callable[[], float], error: float, seconds: float, said: str = ""
) -> list[tuple[float, float]]:
    """Take turns, each side first in every other batch, until the median ratio is sure to +-`error`, or time is up."""
    end = time.monotonic() + seconds
    pairs = in_turns(ours, other, BATCH, warm_up=BATCH // 10)
    while (unsure := uncertainty(ratios(pairs))) > error and time.monotonic() < end:
        say(f"{said}: {len(pairs)} turns, +-{unsure:.1%}", again=True)
        pairs += [(mine, theirs) for theirs, mine in in_turns(other, ours, BATCH, warm_up=0)]
        pairs += in_turns(ours, other, BATCH, warm_up=0)
    say(f"{said}: {len(pairs)} turns, +-{unsure:.1%}")
    return pairs


def uncertainty(samples: Sequence[float]) -> float:
    """Half the width of the interval that has the true median in it in 95 of 100 cases (by order statistics)."""
    ordered, reach = sorted(samples), 0.98 * math.sqrt(len(samples))
    middle = (len(samples) - 1) / 2
    low, high = max(0, math.floor(middle - reach)), min(len(samples) - 1, math.ceil(middle + reach))
    return (ordered[high] - ordered[low]) / 2


def say(text: str, again: bool = False) -> None:
    """Progress on stderr; `again` means that the next line replaces this one, where somebody looks at it."""
    terminal = sys.stderr.isatty()
    if again and not terminal:
        return
    sys.stderr.write(f"\r\x1b[K{text}" if terminal else text)
    sys.stderr.write("" if again else "\n")
    sys.stderr.flush()
