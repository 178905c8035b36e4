"""A cache that only saves time: a function's last result, reused while its inputs are the identical objects.

When a recomputed result equals the one before, the old object is returned, so that identity keeps meaning "unchanged"
for whoever depends on it. Dropping the memo at any moment changes no result (tests/properties shows it).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable
from typing import TypeVar

T = TypeVar("T")

Memo = dict[Hashable, tuple[tuple[object, ...], object]]


def recall(memo: Memo, key: Hashable, inputs: tuple[object, ...], make: Callable[[], T]) -> T:
    """`make()`, or its last result for `key` when every input is the identical object it was then."""
    last = memo.get(key)
    if last is not None and len(last[0]) == len(inputs) and all(a is b for a, b in zip(last[0], inputs, strict=True)):
        return last[1]  # type: ignore[return-value]
    made = make()
    if last is not None and last[1] == made:
        made = last[1]
    memo[key] = (inputs, made)
    return made


def forget(memo: Memo, group: str, alive: Container[tuple[str, ...]]) -> None:
    """Drop what is remembered under keys (group, ...) that are no longer in use."""
    for key in [key for key in memo if isinstance(key, tuple) and key[0] == group and key not in alive]:
        del memo[key]
