"""A tiny machine that walks nftables' chains, so that what a packet meets is read off the rendered text and elements.

It knows the words that our tables use and stops at any other. `numgen random mod N` takes the slot that the walk is
given, so that running every slot gives the whole distribution. Chains are read when they are first entered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address, ip_network
from itertools import chain, count
from typing import NamedTuple
from zlib import crc32

from podnet.state.nft import Element, NftTable
from podnet.state.resource import Resource

CHAIN = re.compile(r"^  chain (\S+) \{\n(.*?)^  \}\n", re.MULTILINE | re.DOTALL)
LITERAL = re.compile(r"0x[0-9a-f]+|[0-9a-f]{4}:[0-9a-f]{4}")
NUMBERS = {"tcp": "6", "udp": "17"}
ENDS = {"reject": "refused", "drop": "dropped", "masquerade": "masquerade", "accept": "accept"}
DECLARED = re.compile(r"^  (?:set|map) (\S+) \{", re.MULTILINE)


class Packet(NamedTuple):
    """The first packet of a connection; `host`: this node sends it itself."""

    source: str
    destination: str
    port: int
    protocol: int = 6
    host: bool = False
    from_port: int = 40000
    sequence: int = 1000


class Seen(NamedTuple):
    """What became of it: "to" an endpoint, "refused", "dropped" or "through" untouched; `retried`: it bears the label,
    so a refusal will not reach the client."""

    what: str
    target: str = ""
    masqueraded: bool = False
    retried: bool = False


class Fails(Exception):
    """The rule does not match."""


class Ends(Exception):
    """A verdict that ends the walk of this hook."""


@lru_cache(maxsize=8)
def chains(body: str) -> dict[str, list[list[str]]]:
    """Rules as lists of words, by chain."""
    return {
        found[1]: [rule.split() for rule in found[2].splitlines() if not rule.lstrip().startswith("type ")]
        for found in CHAIN.finditer(body)
    }


class Machine:
    """One table with its elements. What a walk remembers (affinity) stays; `held` may be asked and changed."""

    def __init__(self, resources: Iterable[Resource], host: Iterable[str]) -> None:
        """`host`: the node's own addresses. Raises AssertionError when an element fits no declared set."""
        found = list(resources)
        (self.table,) = (each for each in found if isinstance(each, NftTable))
        self.chains = chains(self.table.body)
        self.host = frozenset(host)
        self.held: dict[str, dict[str, str]] = {name: {} for name in DECLARED.findall(self.table.body)}
        for each in found:
            if isinstance(each, Element):
                assert self.held[each.set].setdefault(each.element, each.value) == each.value, each

    def all(self, packet: Packet) -> Counter[Seen]:
        """How many of the slots lead where. For what has no affinity."""
        result: Counter[Seen] = Counter()
        for slot in count():
            for name in ("attempts", "tries", "ejected"):
                self.held.get(name, {}).clear()
            walk = Walk(self, packet, lambda _, slot=slot: slot)  # type: ignore[misc]
            result[walk.run()] += 1
            if slot + 1 >= walk.sizes:
                return result
        raise AssertionError

    def one(self, packet: Packet, slot: int = 0) -> Seen:
        """One connection."""
        return Walk(self, packet, lambda size: slot % size).run()


class Walk:
    """One packet on its way."""

    def __init__(self, machine: Machine, packet: Packet, pick: Callable[[int], int]) -> None:
        self.machine, self.packet, self.pick = machine, packet, pick
        self.target, self.sizes, self.masqueraded, self.labelled = "", 1, False, False
        self.scratch = {"mark": "0x00000000", "priority": ""}

    def run(self) -> Seen:
        """prerouting or output, then postrouting."""
        try:
            self.chain("output" if self.packet.host else "prerouting")
        except Ends as verdict:
            if str(verdict) != "accept":
                return Seen(str(verdict))
        try:
            self.between()
            self.chain("postrouting")
        except Ends as verdict:
            self.masqueraded = str(verdict) == "masquerade"
        return Seen("to" if self.target else "through", self.target, self.masqueraded, self.labelled)

    def between(self) -> None:
        """What else happens on the way."""

    def chain(self, name: str) -> None:
        """Raises Ends at a verdict; returns at the chain's end."""
        for rule in self.machine.chains[name]:
            words = iter([*rule, ""])
            try:
                if self.rule(words):
                    return
            except Fails:
                continue

    def rule(self, words: Iterator[str]) -> bool:
        """True: leave the chain."""
        for word in words:
            if word in ("", "return"):
                return word == "return"
            if word in ENDS:
                raise Ends(ENDS[word])
            if word in ("goto", "jump"):
                self.chain(next(words))
                if word == "goto":
                    return True
            elif self.statement(word, words):
                return True
        return False

    def statement(self, word: str, words: Iterator[str]) -> bool:
        """True after a vmap that led away."""
        if word == "dnat":
            plain = next(words) == "to"
            assert plain or next(words) == "to"
            self.target = next(words) if plain else self.value(words)
            raise Ends("accept")
        if word in ("update", "delete"):
            self.remember(word, words)
            return False
        first = [word, next(words)] if word in ("meta", "ct") else [word]
        if first in (["ct", "timeout"], ["ct", "label"]):
            assert [next(words), next(words)][0] == "set"
            self.labelled |= first[1] == "label"
            return False
        return self.register(first[1], words) if first[-1] in self.scratch else self.match(first, words)

    def register(self, name: str, words: Iterator[str]) -> bool:
        """`meta mark set ...`, `meta mark & bit == bit`, `meta priority @ejected`."""
        operator = next(words)
        if operator == "&":
            bit, _, wanted = next(words), next(words), next(words)
            if self.bits(name) & int(bit, 16) != int(wanted, 16):
                raise Fails
        elif operator != "set":
            return self.match(["meta", name], chain([operator], words))
        else:
            self.scratch[name] = self.given(name, words)
        return False

    def given(self, name: str, words: Iterator[str]) -> str:
        """A literal, the register with a bit more or less, a hash, or what a map says."""
        first = [next(words)]
        if first == ["meta"]:
            first.append(next(words))
        if first == ["meta", name]:
            operator = next(words)
            if operator in "|&":
                bits, number = self.bits(name), int(next(words), 16)
                return f"{bits | number if operator == '|' else bits & number:#010x}"
            return self.value(iter([operator, *words]), first)
        if first == ["jhash"]:
            text, operator = self.concatenation([], words)
            assert [operator, next(words), next(words), next(words)] == ["mod", "4294967295", "seed", "0x1"]
            return f"{crc32(text.encode()):#010x}"
        if LITERAL.fullmatch(first[0]):
            return f"{int(first[0], 16):#010x}" if first[0].startswith("0x") else first[0]
        return self.value(words, first)

    def bits(self, name: str) -> int:
        """A register as a number."""
        return int(self.scratch[name], 16)

    def match(self, first: list[str], words: Iterator[str]) -> bool:
        """An expression and what it is compared with or looked up in; True after a vmap that led away."""
        text, operator = self.concatenation(first, words)
        if operator == "vmap":
            verdict = self.lookup(next(words), text).split()
            if verdict[0] in ENDS:
                raise Ends(ENDS[verdict[0]])
            self.chain(verdict[1])
            return verdict[0] == "goto"
        negated = operator == "!="
        wanted = next(words) if negated else operator
        if wanted == "{":
            values = " ".join(words_until(words, "}")).split(", ")
            found = any(inside(text, each) for each in values)
        elif wanted.startswith("@"):
            found = self.found(wanted, text) is not None
        else:
            found = inside(text, wanted.strip('"'))
        if found == negated:
            raise Fails
        return False

    def value(self, words: Iterator[str], first: list[str] | None = None) -> str:
        """`key map @name`."""
        text, operator = self.concatenation(first or [], words)
        assert operator == "map", operator
        return self.lookup(next(words), text)

    def remember(self, verb: str, words: Iterator[str]) -> None:
        """`@name { key : meta priority }`, or without a value."""
        held = self.machine.held[next(words)[1:]]
        assert next(words) == "{"
        key, after = self.concatenation([], words)
        if after == "limit":
            self.count(held, key, words)
            return
        value = self.operand(iter([]), words) if after == ":" else ""
        assert after == "}" or next(words) == "}"
        if verb == "delete":
            held.pop(key, None)
        else:
            held[key] = value

    def count(self, held: dict[str, str], key: str, words: Iterator[str]) -> None:
        """`limit rate over 1/hour burst N packets }`: Fails up to the Nth time."""
        assert [next(words), next(words), next(words), next(words)] == ["rate", "over", "1/hour", "burst"]
        held[key] = str(int(held.get(key, 0)) + 1)
        most = int(next(words))
        assert [next(words), next(words)] == ["packets", "}"]
        if int(held[key]) <= most:
            raise Fails

    def concatenation(self, first: list[str], words: Iterator[str]) -> tuple[str, str]:
        """(its text, the word after it)."""
        parts = [self.operand(iter([*first]), words)]
        while (word := next(words)) == ".":
            parts.append(self.operand(iter([]), words))
        return " . ".join(parts), word

    def operand(self, first: Iterator[str], rest: Iterator[str]) -> str:
        """One selector as text."""

        def word() -> str:
            return next(first, None) or next(rest)

        packet = self.packet
        match word():
            case "ip" | "ip6":
                name = word()
                return (
                    packet.source
                    if name == "saddr"
                    else packet.destination
                    if not self.target
                    else self.target.split()[0]
                )
            case "meta":
                return str(packet.protocol) if (name := word()) == "l4proto" else self.scratch[name]
            case "tcp":
                assert word() == "sequence"
                return str(packet.sequence)
            case "th":
                return str(packet.port if word() == "dport" else packet.from_port)
            case "numgen":
                assert [word(), word()] == ["random", "mod"]
                size = int(word())
                self.sizes = max(self.sizes, size)
                return str(self.pick(size))
            case "fib":
                end = packet.source if word() == "saddr" else packet.destination
                assert word() == "type"
                return "local" if end in self.machine.host else "unicast"
            case "iifname":
                return "lo" if packet.host else "eth0"
            case "ct":
                if (name := word()) in ("status", "direction"):
                    return "original" if name == "direction" else "dnat" if self.target else "new"
                assert [name, word(), word()][0] == "original"
                return packet.destination
            case other:
                raise AssertionError(f"unknown word {other}")

    def lookup(self, name: str, key: str) -> str:
        """Of a map; Fails when it is not there."""
        found = self.found(name, key)
        if found is None:
            raise Fails
        return self.machine.held[name[1:]][found]

    def found(self, name: str, key: str) -> str | None:
        """The element that holds a key; the last part of one may be a range."""
        held = self.machine.held[name[1:]]
        front, dot, last = key.rpartition(" . ")
        ranges = (each for each in held if each.startswith(front + dot) and "/" in each)
        return key if key in held else next((each for each in ranges if inside(last, each[len(front + dot) :])), None)


def words_until(words: Iterator[str], last: str) -> list[str]:
    """The words before `last`, which is taken too."""
    found = []
    while (word := next(words)) != last:
        found.append(word)
    return found


def inside(text: str, wanted: str) -> bool:
    """Equal, or an address in a range."""
    return ip_address(text) in ip_network(wanted) if "/" in wanted else text == NUMBERS.get(wanted, wanted)
