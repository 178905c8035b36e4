"""A cache that only saves time: a function's last result, reused while its inputs are the identical objects.

When a recomputed result equals the one before, the old object is returned, so that identity keeps meaning "unchanged"
for whoever depends on it. Dropping the memo at any moment changes no result (tests/properties shows it).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from typing import TypeVar, cast

from podnet.state.difference import changes, replaced

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
U = TypeVar("U", bound=Hashable)

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


def each(
    memo: Memo,
    name: str,
    inputs: tuple[object, ...],
    of: tuple[Mapping[K, object], ...],
    make: Callable[[K], T],
    called: Callable[[K], U],
) -> Mapping[U, T]:
    """`{called(k): make(k)}` for the keys of the first mapping in `of`.

    What is made again are the keys for which a mapping in `of` holds another object than last time, or all of them
    when `inputs` are others. When nothing changed the very same mapping is returned; nobody may change it.
    """
    last = memo.get(name)
    known, result = cast("tuple[tuple[object, ...], Mapping[U, T]]", last or ((*inputs, *({} for _ in of)), {}))
    before = cast("tuple[Mapping[K, object], ...]", known[len(inputs) :])
    if last is not None and all(a is b for a, b in zip(known[: len(inputs)], inputs, strict=True)):
        touched = {key: None for new, old in zip(of, before, strict=True) for key in changes(new, old)}
    else:
        touched = dict.fromkeys((*of[0], *before[0]))
    result = _made_again(result, touched, of[0], make, called)
    memo[name] = ((*inputs, *of), result)
    return result


def _made_again(
    result: Mapping[U, T], touched: Iterable[K], there: Container[K], make: Callable[[K], T], called: Callable[[K], U]
) -> Mapping[U, T]:
    """`result` itself when nothing came out otherwise."""
    fresh: dict[U, T] = {}
    gone: list[U] = []
    for key in touched:
        place = called(key)
        if key not in there:
            gone += [place] if place in result else []
            continue
        made = make(key)
        if place not in result or result[place] != made:
            fresh[place] = made
    return replaced(result, fresh, gone) if fresh or gone else result


def joined(memo: Memo, name: str, *parts: Mapping[K, T]) -> Mapping[K, T]:
    """All parts as one mapping; no key is in two. The very same one as last time when nothing changed."""
    last = memo.get(name)
    before, result = cast("tuple[tuple[Mapping[K, T], ...], Mapping[K, T]]", last or ((), {}))
    if len(before) != len(parts):
        before = ({},) * len(parts)
    fresh: dict[K, T] = {}
    gone: list[K] = []
    for now, then in zip(parts, before, strict=True):
        for key in changes(now, then):
            if key in now:
                fresh[key] = now[key]
            else:
                gone.append(key)
    gone = [key for key in gone if key not in fresh]
    if fresh or gone:
        result = replaced(result, fresh, gone)
    memo[name] = (parts, result)
    return result


def group(memo: Memo, name: str, members: Mapping[K, T], by: Callable[[T], U | None]) -> Mapping[U, Mapping[K, T]]:
    """Members by what `by` says of them (None: left out). A group in which nothing changed is the same object."""
    last = memo.get(name)
    before, groups = cast("tuple[Mapping[K, T], Mapping[U, Mapping[K, T]]]", (*last[0], last[1])) if last else ({}, {})
    touched = changes(members, before)
    moved: dict[U, dict[K, T]] = {}
    for key in touched:
        for member in (before.get(key), members.get(key)):
            place = by(member) if member is not None else None
            if place is not None:
                kept = moved.setdefault(place, dict(groups.get(place, {})))
                kept.pop(key, None)
                if member is members.get(key):
                    kept[key] = cast("T", member)
    gone = [place for place, kept in moved.items() if not kept]
    fresh = {place: kept if len(kept) > 1 else _One(*kept.items()) for place, kept in moved.items() if kept}
    if moved:
        groups = replaced(groups, fresh, filter(groups.__contains__, gone))
    memo[name] = ((members,), groups)
    return groups


class _One(Mapping[K, T]):
    """A mapping with one entry, as most groups are: a fourth of a dict's memory."""

    __slots__ = ("_entry",)

    def __init__(self, entry: tuple[K, T]) -> None:
        self._entry = entry

    def __getitem__(self, key: K) -> T:
        if key == self._entry[0]:
            return self._entry[1]
        raise KeyError(key)

    def __iter__(self) -> Iterator[K]:
        return iter(self._entry[:1])

    def __len__(self) -> int:
        return 1


def forget(memo: Memo, group: str, alive: Container[tuple[str, ...]]) -> None:
    """Drop what is remembered under keys (group, ...) that are no longer in use."""
    for key in [key for key in memo if isinstance(key, tuple) and key[0] == group and key not in alive]:
        del memo[key]
