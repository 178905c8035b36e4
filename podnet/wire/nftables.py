"""nftables as text: the commands that carry out steps, and what a listing says.

Text is nft's interface, and numeric, stateless listings spell each element in one way only: protocols, marks (0x%08x)
and ports as numbers, interface names in quotes, a single address without its prefix length, concatenations with " . ".
Elements that are written in that spelling are read back equal. Everything of a listing that is not an element is the
table's skeleton; its hash tells whether a table is still as it was when we wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from podnet.state.nft import Element, NftTable

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_ELEMENT = re.compile(r'(?:[^"{};,#$\\\n]|"[^"\\\n]*")+')
_TABLE = re.compile(r"^table (\S+) (\S+)", re.MULTILINE)
_SET = re.compile(r"^\t(?:set|map) (\S+) \{\n(.*?)^\t\}\n", re.MULTILINE | re.DOTALL)
_ELEMENTS = re.compile(r"^\t\telements = \{ (.*) \}\n", re.MULTILINE | re.DOTALL)
_TRANSIENT = re.compile(r"^\t\t(?:flags .*\b(?:dynamic|timeout)\b|timeout )", re.MULTILINE)
_DECLARED = re.compile(r"\b(?:set|map)\s+(\S+)\s*\{")
_QUOTED = r'(?:[^"]|"[^"]*")'
_COMMA = re.compile(r'((?:[^",]|"[^"]*")+)(?:,|\Z)')
_COLON = re.compile(rf"({_QUOTED}+?) : (.+)", re.DOTALL)
_COUNTER = re.compile(r" counter(?: packets \d+ bytes \d+)?(?= : |\Z)")


class NftSet(NamedTuple):
    """A set or map in a listing. `transient`: its elements come and go by themselves (dynamic, timeout)."""

    name: str
    transient: bool
    elements: tuple[str, ...]


class Listing(NamedTuple):
    """A listed table without its elements, and its sets."""

    skeleton: str
    sets: tuple[NftSet, ...]


def table_names(listing: str) -> list[tuple[str, str]]:
    """(family, name) of each table in `list tables`."""
    return [(found[1], found[2]) for found in _TABLE.finditer(listing)]


def parse(listing: str) -> Listing:
    """A table as `list table` prints it."""
    sets = tuple(_parse_set(found[1], found[2]) for found in _SET.finditer(listing))
    return Listing(_SET.sub(lambda found: _ELEMENTS.sub("", found[0]), listing), sets)


def _parse_set(name: str, block: str) -> NftSet:
    found = _ELEMENTS.search(block)
    elements = tuple(_split(found[1])) if found else ()
    return NftSet(name, _TRANSIENT.search(block) is not None, elements)


def _split(elements: str) -> Iterator[str]:
    """At commas, but not inside quotes."""
    if '"' not in elements:
        return (element.strip() for element in elements.split(","))
    return (found[1].strip() for found in _COMMA.finditer(elements))


def resource(family: str, table: str, name: str, element: str) -> Element:
    """A listed element as a resource; its counter is not part of what it is."""
    if " counter" in element:
        element = _COUNTER.sub("", element)
    if '"' not in element:
        key, _, value = element.partition(" : ")
        return Element(family, table, name, key, value)
    found = _COLON.fullmatch(element)
    return Element(family, table, name, found[1], found[2]) if found else Element(family, table, name, element)


def body(skeleton: str) -> str:
    """What stands between the outer braces of a listing."""
    return skeleton.partition("{\n")[2].rpartition("}")[0]


def declared(text: str) -> frozenset[str]:
    """The names of sets and maps that a table's body declares."""
    return frozenset(_DECLARED.findall(text))


def replace_table(table: NftTable) -> str:
    """Commands that put a table in the place of one of its name, which need not exist."""
    return f"{delete_table(table)}table {_place(table.family, table.name)} {{\n{table.body}\n}}\n"


def delete_table(table: NftTable) -> str:
    """Commands that remove a table, which need not exist."""
    place = _place(table.family, table.name)
    return f"add table {place}\ndelete table {place}\n"


def add_elements(elements: Iterable[Element]) -> str:
    """Commands that add elements; EEXIST for one that is in its map with another value."""
    return "".join(
        f"add element {place} {{ {', '.join(f'{e.element} : {e.value}' if e.value else e.element for e in group)} }}\n"
        for place, group in _by_set(elements)
    )


def delete_elements(elements: Iterable[Element]) -> str:
    """Commands that delete elements; ENOENT for one that is not there."""
    return "".join(
        f"delete element {place} {{ {', '.join(e.element for e in group)} }}\n" for place, group in _by_set(elements)
    )


def restore_elements(table: NftTable, sets: Mapping[str, Sequence[str]]) -> str:
    """Commands that add elements as a listing spelt them, with what they carry (an expiry, a counter)."""
    place = _place(table.family, table.name)
    return "".join(
        f"add element {place} {name} {{ {', '.join(elements)} }}\n" for name, elements in sets.items() if elements
    )


def _by_set(elements: Iterable[Element]) -> Iterator[tuple[str, list[Element]]]:
    groups: dict[tuple[str, str, str], list[Element]] = {}
    for element in elements:
        groups.setdefault((element.family, element.table, element.set), []).append(_checked(element))
    for (family, table, name), group in groups.items():
        yield f"{_place(family, table)} {_word(name)}", group


def _checked(element: Element) -> Element:
    """One element must not become two, nor a command; raises ValueError."""
    for part in (element.element, element.value):
        if part and not _ELEMENT.fullmatch(part):
            raise ValueError(f"{part!r} is not one nft element")
    if not element.element:
        raise ValueError("an nft element without a key")
    return element


def _place(family: str, table: str) -> str:
    return f"{_word(family)} {_word(table)}"


def _word(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not an nft name")
    return name
