"""Choosing a number from a range of which the first ones are kept for people who ask for one by name.

A range is `size` offsets, 0 to size-1; the lowest `static` are the static band. Whoever asks for nothing in particular
gets one of the others, from a random start so that an address just freed is not given to the next one, and one of the
static band only when nothing else is left. A wish is honoured anywhere in the range.
Source: KEP-3070 and KEP-3668; k8s.io/kubernetes pkg/registry/core/service/allocator (randomScanStrategyWithOffset).
"""

from __future__ import annotations

from collections.abc import Callable

Dice = Callable[[int], int]
"""A number from 0 to its argument, which is excluded."""


def static_band(size: int, share: int, limit: int) -> int:
    """How many of `size` are kept: one in `share`, at least 16 and at most `limit`; none of a range of up to 16."""
    return 0 if size <= 16 else min(max(16, size // share), limit)


def choose(size: int, static: int, taken: Callable[[int], bool], dice: Dice) -> int | None:
    """A free offset; None when all are taken."""
    for low, high in ((static, size), (0, static)):
        start = dice(high - low) if high > low else 0
        for step in range(high - low):
            offset = low + (start + step) % (high - low)
            if not taken(offset):
                return offset
    return None
