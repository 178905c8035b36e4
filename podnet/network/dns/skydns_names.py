"""SkyDNS's records as a tree of names, kept up as etcd changes.

A name is asked for by its place. Everything below the place answers too, so `svc.cluster.local` has the addresses of
all Services; `*` and `any` stand for any one label; what begins with `_` answers only to whoever names it, as it was
with etcd 2. What stands in etcd is other people's text: what can't be a record is kept as a problem, and is absent.
Sources: skynetservices/skydns README.md, msg/service.go, backends/etcd/etcd.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from itertools import islice
from typing import Annotated

import msgspec

from podnet.network.value import Value
from podnet.wire import dns

WILD = ("*", "any")
MOST = 5000
"""Records of one question; more fit into no message."""

LONGEST = 16_000
"""Bytes of a text."""

Word = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
Count = Annotated[int, msgspec.Meta(ge=0, le=0x7FFFFFFF)]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A record as it stands in etcd. What is 0 or empty is not given."""

    host: str = ""
    port: Word = 0
    priority: Word = 0
    weight: Count = 0
    text: str = ""
    mail: bool = False
    ttl: Count = 0
    targetstrip: Count = 0
    group: str = ""


class Leaf(Value, frozen=True):
    """A record at its place; `address` is empty when the host is a name."""

    name: bytes
    depth: int
    entry: Entry
    address: bytes
    host: bytes


class _Place:
    """A name in the tree."""

    __slots__ = ("children", "leaf")

    def __init__(self) -> None:
        self.children: dict[str, _Place] = {}
        self.leaf: Leaf | None = None


_ENTRY = msgspec.json.Decoder(Entry)


class Names:
    """The tree; keys are etcd's, with the prefix. `problems` has the keys that can't be used, and why."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self.problems: dict[str, str] = {}
        self._root = _Place()
        for key, text in (values or {}).items():
            self.put(key, text)

    def put(self, key: str, text: str) -> None:
        """Set a record."""
        parts = _parts(key)
        try:
            leaf = _leaf(parts, text)
        except (msgspec.MsgspecError, dns.Malformed) as error:
            self.problems[key] = str(error)
            return
        self.problems.pop(key, None)
        at = self._root
        for part in parts:
            at = at.children.setdefault(part, _Place())
        at.leaf = leaf

    def remove(self, key: str, below: bool = False) -> None:
        """Take a record away, and with `below` all that stand below it. One that is not there is no mistake."""
        self.problems.pop(key, None)
        trail = [self._root]
        parts = _parts(key)
        for part in parts:
            if part not in trail[-1].children:
                return
            trail.append(trail[-1].children[part])
        trail[-1].leaf = None
        if below:
            trail[-1].children.clear()
        for place, part in reversed([*zip(trail, parts, strict=False)]):
            if place.children[part].leaf or place.children[part].children:
                break
            del place.children[part]

    def at(self, name: bytes) -> Leaf | None:
        """The record of just this name."""
        place = self._walk(_path(name))
        return place.leaf if place else None

    def find(self, name: bytes) -> list[Leaf] | None:
        """The records of a name and of all below it; None when there is no such name. Of more than MOST it has one
        too many."""
        path = _path(name)
        wild = next((at for at, part in enumerate(path) if part in WILD), len(path))
        place = self._walk(path[:wild])
        return None if place is None else _distinct(islice(_matching(place, path[wild:]), MOST + 1))

    def _walk(self, path: Sequence[str]) -> _Place | None:
        at: _Place | None = self._root
        for part in path:
            at = at.children.get(part) if at else None
        return at


def _parts(key: str) -> list[str]:
    """Without the prefix: local, cluster, svc, ..."""
    return key.strip("/").split("/")[1:]


def _path(name: bytes) -> list[str]:
    return [label.decode(errors="replace") for label in dns.labels(name)][::-1]


def _leaf(parts: Sequence[str], text: str) -> Leaf:
    entry = _ENTRY.decode(text)
    if len(entry.text.encode()) > LONGEST:
        raise dns.Malformed(f"a text of more than {LONGEST} bytes")
    name = dns.lower(dns.name(".".join(reversed(parts))))
    try:
        address = ip_address(entry.host).packed
    except ValueError:
        return Leaf(name, len(parts), entry, b"", dns.name(entry.host))
    return Leaf(name, len(parts), entry, address, b"")


def _matching(place: _Place, path: Sequence[str]) -> Iterator[Leaf]:
    if not path:
        yield from _all(place)
        return
    here, rest = path[0], path[1:]
    for part, child in place.children.items():
        if part == here or (here in WILD and not part.startswith("_")):
            yield from _matching(child, rest)


def _all(place: _Place) -> Iterator[Leaf]:
    if place.leaf:
        yield place.leaf
    for part, child in place.children.items():
        if not part.startswith("_"):
            yield from _all(child)


def _distinct(leaves: Iterable[Leaf]) -> list[Leaf]:
    """Each meaning once, and of several groups only that of the shortest key."""
    entries = ((leaf, leaf.entry) for leaf in leaves)
    found = {(e.host, e.port, e.priority, e.weight, e.text): leaf for leaf, e in reversed([*entries])}
    return _grouped([*found.values()][::-1])


def _grouped(leaves: list[Leaf]) -> list[Leaf]:
    """No group counts when the shortest keys disagree about it; what has none is in all."""
    least = min((leaf.depth for leaf in leaves), default=0)
    groups = {leaf.entry.group for leaf in leaves if leaf.depth == least} - {""}
    return [leaf for leaf in leaves if leaf.entry.group in (groups | {""})] if len(groups) == 1 else leaves
