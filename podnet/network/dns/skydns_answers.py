"""What SkyDNS says: the answers that follow from the records in its tree of names.

    host is an address      A or AAAA; asked for SRV, its target is the name of the key itself
    host is a name          CNAME, followed up to eight times inside and outside the domain; the target of SRV and MX
    text, mail              TXT; MX
    priority, weight, ttl   weights are shares of a hundred among those of one priority; 10, 0 and 3600 unless given
    group, targetstrip      which records answer together; how many labels a target loses

No I/O: what others must be asked for comes back as `Wanted`, and the question is put again with what they said.
Sources: skynetservices/skydns README.md, msg/service.go, server/server.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from podnet.network.dns.skydns_names import MOST, Leaf, Names
from podnet.network.value import Value
from podnet.wire import dns
from podnet.wire.dns import AA, RA, Query, Record

CHAIN = 8
"""CNAMEs that are followed."""

_LARGEST = 0xFFFF
_OPCODE = 0x7800
_META = range(128, 256)

QUESTIONS = 20
"""Others are asked at most, for one question."""

MX = 15
TIMES = (28800, 7200, 604800)
"""Refresh, retry and expire of the SOA record."""

Outside = Mapping[tuple[bytes, int], tuple[Record, ...]]
"""What others said, by name and type; nothing when they said that there is nothing."""


class Options(Value, frozen=True):
    """The server's settings; names as on the wire, in lower case. Times in seconds."""

    domain: bytes
    hostmaster: bytes
    local: bytes = b""
    ttl: int = 3600
    min_ttl: int = 60
    priority: int = 10
    ndots: int = 2
    round_robin: bool = True
    version: str = "podnet"


class Forward(Value, frozen=True):
    """Others know; `system` is how metrics call it."""

    system: str


class Wanted(Value, frozen=True):
    """Others know a part of it: what to ask them, before the question is put again."""

    questions: tuple[tuple[bytes, int], ...]


class Said(Value, frozen=True):
    """An answer."""

    rcode: int = dns.NOERROR
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    flags: int = AA | RA
    system: str = "auth"


Outcome = Said | Forward | Wanted


def answer(
    names: Names, options: Options, query: Query, *, outside: Outside | None = None, serial: int = 0, turn: int = 0
) -> Outcome:
    """What a question meets. `serial` is that of the SOA record, `turn` says which of several addresses comes first;
    `outside` is what others said to an earlier `Wanted`, None before anybody was asked."""
    if query.version or query.flags & _OPCODE:
        return Said(dns.NOTIMP if query.flags & _OPCODE else dns.BADVERS, flags=0)
    if query.cls == dns.CHAOS:
        return _chaos(query, options)
    if query.cls != dns.IN or query.type in _META:
        return Said(dns.REFUSED, flags=0)
    name = options.local if options.local and query.name == b"\x05local\x03dns" + options.domain else query.name
    if query.type == dns.PTR and (dns.below(name, _IN_ADDR) or dns.below(name, _IP6)):
        return _reverse(names, options, query)
    if not dns.below(name, options.domain):
        return Forward("recursive")
    asked = _Asked(names, options, outside or {}, query, turn)
    try:
        said = asked.said(name, serial)
    except _TooMuch:
        return Said(dns.SERVFAIL)
    return said if outside is not None or not asked.wanted else Wanted(tuple(asked.wanted)[:QUESTIONS])


_IN_ADDR, _IP6 = dns.name("in-addr.arpa"), dns.name("ip6.arpa")


def _chaos(query: Query, options: Options) -> Said:
    known = {b"version.bind": options.version, b"version.server": options.version}
    known |= {b"hostname.bind": "localhost", b"id.server": "localhost"}
    text = known.get(b".".join(dns.labels(query.name)))
    if query.type != dns.TXT or text is None:
        return Said(dns.SERVFAIL)
    return Said(answers=(Record(query.name, dns.TXT, 0, dns.txt(text), dns.CHAOS),))


def _reverse(names: Names, options: Options, query: Query) -> Said | Forward:
    leaf = names.at(query.name)
    if leaf is None or not leaf.host:
        return Forward("reverse")
    made = Record(query.name, dns.PTR, leaf.entry.ttl or options.ttl, leaf.host)
    return Said(answers=(made,), flags=RA, system="reverse")


def message(query: Query, said: Said, size: int | None = None) -> bytes:
    """An answer's bytes. What does not fit `size` (see wire/dns.py) loses first what was not asked for, and where there
    is no size it has that of TCP, beyond which there is only SERVFAIL."""
    answers, authority, additional = (_bytes(query, part) for part in (said.answers, said.authority, said.additional))
    limit = _LARGEST if size == 0 else size
    whole = dns.answer(query, dns.piece(answers, authority, additional), said.rcode, said.flags, limit)
    if _cut(whole) and additional:
        whole = dns.answer(query, dns.piece(answers, authority), said.rcode, said.flags, limit)
    return dns.answer(query, dns.NONE, dns.SERVFAIL, said.flags) if size == 0 and _cut(whole) else whole


def _cut(whole: bytes) -> bool:
    return bool(whole[2] & dns.TC >> 8)


def _bytes(query: Query, part: Iterable[Record]) -> list[bytes]:
    """The question's own name is a pointer to it, in the case that it was asked in."""
    return [
        dns.record(each.type, each.ttl, each.data, cls=each.cls)
        if each.name == query.name
        else dns.record(each.type, each.ttl, each.data, each.name, each.cls)
        for each in part
    ]


class _TooMuch(Exception):
    """No message holds the records, or it would take long to find them."""


class _Asked:
    """One question below the domain; `wanted` collects what others must be asked for."""

    def __init__(self, names: Names, options: Options, outside: Outside, query: Query, turn: int) -> None:
        self.wanted: dict[tuple[bytes, int], None] = {}
        self._names, self._options, self._outside, self._query, self._turn = names, options, outside, query, turn
        self._left = MOST

    def said(self, name: bytes, serial: int) -> Said:
        apex = name == self._options.domain
        soa = self._soa(serial)
        if apex and self._query.type == dns.SOA:
            return Said(answers=(soa,))
        leaves = self._find(self._where(name, apex))
        if leaves is None and not apex:
            return Said(dns.NXDOMAIN, authority=(self._negative(soa),))
        answers, additional = self._records(name, leaves or [])
        if not answers:
            return Said(authority=(self._negative(soa),))
        return Said(answers=_evened(answers), additional=tuple(dict.fromkeys(additional)))

    def _find(self, name: bytes) -> list[Leaf] | None:
        found = self._names.find(name)
        self._left -= len(found or ())
        if self._left < 0:
            raise _TooMuch
        return found

    def _where(self, name: bytes, apex: bool) -> bytes:
        """The domain's own addresses and name servers stand below it."""
        if apex and self._query.type in (dns.A, dns.AAAA):
            return b"\x04self" + name
        return b"\x02ns\x03dns" + name if apex and self._query.type == dns.NS else name

    def _records(self, name: bytes, leaves: list[Leaf]) -> tuple[list[Record], list[Record]]:
        owner, type_ = self._query.name, self._query.type
        if type_ in (dns.A, dns.AAAA):
            return self._turned(self._addresses(owner, leaves, (type_,), (name,))), []
        if type_ == dns.SRV:
            return self._srv(owner, leaves)
        if type_ == MX:
            return self._mx(owner, [leaf for leaf in leaves if leaf.entry.mail])
        if type_ == dns.NS and name == self._options.domain:
            return self._ns(owner, [leaf for leaf in leaves if leaf.address])
        if type_ == dns.TXT:
            return [
                self._record(owner, leaf, dns.TXT, _text(leaf.entry.text)) for leaf in leaves if leaf.entry.text
            ], []
        leaf = self._names.at(name)
        if type_ == dns.CNAME and leaf and leaf.host:
            return [self._record(owner, leaf, dns.CNAME, leaf.host)], []
        return [], []

    def _record(self, owner: bytes, leaf: Leaf, type_: int, data: bytes) -> Record:
        return Record(owner, type_, leaf.entry.ttl or self._options.ttl, data)

    def _addresses(
        self, owner: bytes, leaves: list[Leaf], types: tuple[int, ...], trail: tuple[bytes, ...]
    ) -> list[Record]:
        """Addresses of these types, through CNAMEs where a host is a name; `trail` has the names on the way."""
        found: list[Record] = []
        for leaf in leaves:
            if leaf.address:
                type_ = dns.A if len(leaf.address) == 4 else dns.AAAA
                found += [self._record(owner, leaf, type_, leaf.address)] if type_ in types else []
            elif leaf.host != b"\0" and dns.lower(leaf.host) not in trail and len(trail) <= CHAIN:
                rest = self._followed(dns.lower(leaf.host), types, trail)
                found += [] if rest is None else [self._record(owner, leaf, dns.CNAME, leaf.host), *rest]
        return found

    def _followed(self, target: bytes, types: tuple[int, ...], trail: tuple[bytes, ...]) -> list[Record] | None:
        """What is at the end of a CNAME; None when it leads nowhere."""
        leaves = self._find(target)
        if leaves is not None:
            return self._addresses(target, leaves, types, (*trail, target)) or None
        if dns.below(target, self._options.domain):
            return None
        return self._others(target, types)

    def _others(self, target: bytes, types: Iterable[int]) -> list[Record] | None:
        """What others said; None when they know no such name, or are yet to be asked."""
        if sum(1 for _ in dns.labels(target)) < self._options.ndots:
            return None
        said = [self._outside.get((target, type_)) for type_ in types]
        self.wanted |= dict.fromkeys((target, type_) for type_ in types if (target, type_) not in self._outside)
        known = [each for each in said if each is not None]
        return [record for each in known for record in each] if known else None

    def _srv(self, owner: bytes, leaves: list[Leaf]) -> tuple[list[Record], list[Record]]:
        total: dict[int, int] = {}
        for leaf in leaves:
            total[self._priority(leaf)] = total.get(self._priority(leaf), 0) + (leaf.entry.weight or 100)
        answers: list[Record] = []
        additional: list[Record] = []
        for leaf in leaves:
            target, more = self._target(leaf)
            priority = self._priority(leaf)
            share = 100 * (leaf.entry.weight or 100) // total[priority]
            answers.append(self._record(owner, leaf, dns.SRV, dns.srv(priority, share, leaf.entry.port, target)))
            additional += more
        return answers, additional

    def _priority(self, leaf: Leaf) -> int:
        return leaf.entry.priority or self._options.priority

    def _mx(self, owner: bytes, leaves: list[Leaf]) -> tuple[list[Record], list[Record]]:
        answers: list[Record] = []
        additional: list[Record] = []
        for leaf in leaves:
            target, more = self._target(leaf)
            answers.append(self._record(owner, leaf, MX, self._priority(leaf).to_bytes(2, "big") + target))
            additional += more
        return answers, additional

    def _ns(self, owner: bytes, leaves: list[Leaf]) -> tuple[list[Record], list[Record]]:
        every = (dns.A, dns.AAAA)
        answers = [self._record(owner, leaf, dns.NS, leaf.name) for leaf in leaves]
        return answers, [each for leaf in leaves for each in self._addresses(leaf.name, [leaf], every, ())]

    def _target(self, leaf: Leaf) -> tuple[bytes, list[Record]]:
        """Where a service is, and the addresses that go with it."""
        every = (dns.A, dns.AAAA)
        target = _stripped(leaf.name if leaf.address else leaf.host, leaf.entry.targetstrip)
        if leaf.address:
            return target, self._addresses(target, [leaf], every, ())
        name = dns.lower(target)
        if dns.below(name, self._options.domain):
            return target, self._addresses(target, self._find(name) or [], every, (name,))
        return target, self._others(name, every) or []

    def _turned(self, found: list[Record]) -> list[Record]:
        """Addresses take turns; resolvers want CNAMEs in their order."""
        if not self._options.round_robin or any(each.type == dns.CNAME for each in found) or not found:
            return found
        at = self._turn % len(found)
        return found[at:] + found[:at]

    def _soa(self, serial: int) -> Record:
        options = self._options
        data = dns.soa(b"\x02ns\x03dns" + options.domain, options.hostmaster, serial, options.min_ttl, TIMES)
        return Record(options.domain, dns.SOA, options.ttl, data)

    def _negative(self, soa: Record) -> Record:
        return msgspec.structs.replace(soa, ttl=self._options.min_ttl)


def _evened(answers: list[Record]) -> tuple[Record, ...]:
    """Each record once, one CNAME for a name, and all with the least time to live."""
    least = min(each.ttl for each in answers)
    found: dict[tuple[bytes, ...], Record] = {}
    for each in answers:
        key = (each.name, b"") if each.type == dns.CNAME else (each.name, each.type.to_bytes(2, "big"), each.data)
        found.setdefault(key, msgspec.structs.replace(each, ttl=least))
    return tuple(found.values())


def _stripped(name: bytes, count: int) -> bytes:
    """Without its first labels, unless nothing would be left."""
    short = name
    for _ in range(count):
        short = dns.parent(short)
    return name if short == b"\0" else short


def _text(text: str) -> bytes:
    """In strings of at most 255 bytes."""
    data = text.encode()
    return b"".join(bytes((len(part),)) + part for part in (data[at : at + 255] for at in range(0, len(data), 255)))
