"""Where two mappings differ, by identity: the step that everything which costs only what changed begins with.

A large mapping that changes a little, again and again, is kept as versions. Each is a PersistentMap, a row of small
dicts by the hash of the key, and the next version shares with it all but the few that it has another content for. So a
version costs what changed, whoever holds an old one keeps it, and two versions are compared by looking only into the
pieces that they do not share.
"""

from __future__ import annotations

from collections.abc import Hashable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from itertools import chain, compress
from operator import is_not
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

PIECE = 32
"""Entries in a piece when a map is cut anew; a quarter of it to four times as many later."""


class PersistentMap(Mapping[K, V]):
    """A mapping that nobody changes, in pieces shared with the one it was made from; see replaced.

    Iteration is by piece, so the order means nothing.
    """

    __slots__ = ("_pieces", "_size")

    def __init__(self, entries: Mapping[K, V]) -> None:
        """Cut `entries` into pieces."""
        count = 1 << (len(entries) // PIECE).bit_length()
        pieces: list[dict[K, V]] = [{} for _ in range(count)]
        for key, value in entries.items():
            pieces[hash(key) & (count - 1)][key] = value
        self._pieces, self._size = pieces, len(entries)

    def __getitem__(self, key: K) -> V:
        pieces = self._pieces
        return pieces[hash(key) & (len(pieces) - 1)][key]

    def __contains__(self, key: object) -> bool:
        pieces = self._pieces
        return key in pieces[hash(key) & (len(pieces) - 1)]

    def __iter__(self) -> Iterator[K]:
        return chain.from_iterable(self._pieces)

    def __len__(self) -> int:
        return self._size

    def values(self) -> ValuesView[V]:
        """Without a lookup for each."""
        return _Values(self)

    def items(self) -> ItemsView[K, V]:
        """Without a lookup for each."""
        return _Items(self)

    def replaced(self, fresh: Mapping[K, V], gone: Iterable[K]) -> PersistentMap[K, V]:
        """The next version."""
        pieces, size, mask = list(self._pieces), self._size, len(self._pieces) - 1
        own: set[int] = set()

        def piece(key: K) -> dict[K, V]:
            place = hash(key) & mask
            if place not in own:
                own.add(place)
                pieces[place] = pieces[place].copy()
            return pieces[place]

        for key, value in fresh.items():
            entries = piece(key)
            size += key not in entries
            entries[key] = value
        for key in gone:
            del piece(key)[key]
            size -= 1
        made: PersistentMap[K, V] = PersistentMap.__new__(PersistentMap)
        made._pieces, made._size = pieces, size
        crowded, empty = size > 4 * PIECE * len(pieces), 4 * size < PIECE * len(pieces)
        return PersistentMap(made) if crowded or (empty and len(pieces) > 1) else made

    def changes(self, old: PersistentMap[K, V]) -> list[K] | None:
        """As the function; None when the two are cut otherwise."""
        if len(old._pieces) != len(self._pieces):
            return None
        others = map(is_not, self._pieces, old._pieces)
        pairs = compress(zip(self._pieces, old._pieces, strict=True), others)
        return [key for new, before in pairs for key in changes(new, before)]


class _Values(ValuesView[V]):
    _mapping: PersistentMap[object, V]

    def __iter__(self) -> Iterator[V]:
        return chain.from_iterable(map(dict.values, self._mapping._pieces))


class _Items(ItemsView[K, V]):
    _mapping: PersistentMap[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return chain.from_iterable(map(dict.items, self._mapping._pieces))


def replaced(before: Mapping[K, V], fresh: Mapping[K, V], gone: Iterable[K] = ()) -> PersistentMap[K, V]:
    """`before` with the values of `fresh` and without the keys in `gone`, each of which it has."""
    versions = before if isinstance(before, PersistentMap) else PersistentMap(before)
    return versions.replaced(fresh, gone)


def changes(new: Mapping[K, object], old: Mapping[K, object]) -> list[K]:
    """The keys for which the two do not hold the identical object."""
    if new is old:
        return []
    if isinstance(new, PersistentMap) and isinstance(old, PersistentMap):
        found = new.changes(old)
        if found is not None:
            return found
    if len(new) == len(old) and list(new) == list(old):
        return list(compress(new, map(is_not, new.values(), old.values())))
    different = [key for key, value in new.items() if old.get(key, _NOTHING) is not value]
    return different + [key for key in old if key not in new]


_NOTHING = object()
