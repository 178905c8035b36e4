"""Bands: what is chosen freely keeps off the static band while it can, and never takes what is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.network.controllers.bands import choose, static_band


@pytest.mark.parametrize(
    ("size", "share", "limit", "static"),
    [(16, 16, 256, 0), (17, 16, 256, 16), (256, 16, 256, 16), (4096, 16, 256, 256), (65536, 16, 256, 256),
     (16, 32, 128, 0), (2768, 32, 128, 86), (86 * 32 - 1, 32, 128, 85), (65535, 32, 128, 128)],
)  # fmt: skip
def test_static_bands(size: int, share: int, limit: int, static: int) -> None:
    assert static_band(size, share, limit) == static


def test_the_dice_say_where_to_begin() -> None:
    assert choose(100, 16, lambda _: False, lambda _: 5) == 21
    assert choose(100, 16, {21, 22}.__contains__, lambda _: 5) == 23
    assert choose(100, 16, {99}.__contains__, lambda size: size - 1) == 16, "the band goes round"


def test_the_static_band_is_the_last_resort() -> None:
    assert choose(100, 16, lambda offset: offset >= 16, lambda _: 3) == 3
    assert choose(100, 16, lambda _: True, lambda _: 0) is None
    assert choose(10, 0, lambda offset: offset != 4, lambda _: 9) == 4


@given(st.integers(1, 60), st.integers(0, 60), st.sets(st.integers(0, 59)), st.randoms(use_true_random=False))
def test_free_and_of_the_best_band(size: int, static: int, taken: set[int], random: object) -> None:
    static = min(static, size)
    dice = random.randrange  # type: ignore[attr-defined]
    found = choose(size, static, taken.__contains__, dice)
    free = set(range(size)) - taken
    if found is None:
        assert not free
    else:
        assert found in free
        assert found >= static or not any(offset >= static for offset in free)
