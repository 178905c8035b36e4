"""DNS messages: what a server reads of a question, and the bytes of what it says.

A question is one name, a type and a class. Names are kept as they stand on the wire (a length before each label, a zero
at the end), in lower case where they are compared, since comparing bytes is one look into a dict. An answer is put
together from pieces that were made long before: six bytes of counts and the records, whose owner is a pointer to the
question. So what costs is made once, when the cluster changes, and a packet costs a few joins of bytes.

Sources: RFC 1035 (messages), 2308 (negative answers), 2782 (SRV), 3596 (AAAA), 6891 (EDNS), 8482 (ANY).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

A, NS, CNAME, SOA, PTR, HINFO, TXT, AAAA, SRV, OPT, AXFR, ANY = 1, 2, 5, 6, 12, 13, 16, 28, 33, 41, 252, 255
TYPES = {
    "A": A, "NS": NS, "CNAME": CNAME, "SOA": SOA, "PTR": PTR, "HINFO": HINFO, "TXT": TXT, "AAAA": AAAA, "SRV": SRV,
    "AXFR": AXFR, "ANY": ANY, "MX": 15, "NAPTR": 35, "DS": 43, "DNSKEY": 48, "SVCB": 64, "HTTPS": 65, "CAA": 257,
}  # fmt: skip
"""By name."""

TYPE_NAMES = {number: name for name, number in TYPES.items()}
IN, CHAOS = 1, 3
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
RCODES = {
    NOERROR: "NOERROR", FORMERR: "FORMERR", SERVFAIL: "SERVFAIL", NXDOMAIN: "NXDOMAIN", NOTIMP: "NOTIMP",
    REFUSED: "REFUSED", BADVERS: "BADVERS",
}  # fmt: skip

QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
PLAIN_SIZE, EDNS_SIZE = 512, 1232
"""Bytes of the largest UDP answer for a client that says nothing, and of the largest at all: no link fragments it."""

NONE = b"\0\0\0\0\0\0"
"""The counts of an answer without records."""

OWN_OPT = b"\0" + struct.pack(">HHIH", OPT, EDNS_SIZE, 0, 0)
"""What stands in an answer to a client that speaks EDNS."""

_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHIH")
_OWNER = b"\xc0\x0c"
MAX_NAME, MAX_LABEL = 255, 63


class Malformed(ValueError):
    """Bytes that are no DNS message, or one that no answer belongs to."""


class Query(msgspec.Struct, frozen=True, gc=False):
    """A question as it came.

    name   in lower case, as on the wire
    asked  the question section as it came, letters' case included
    size   bytes that the client takes by UDP
    edns   whether it speaks EDNS, and so may be given an OPT record; `version` is the one it speaks
    """

    id: int
    flags: int
    name: bytes
    type: int
    cls: int
    asked: bytes
    size: int = PLAIN_SIZE
    edns: bool = False
    version: int = 0


class Record(msgspec.Struct, frozen=True, gc=False):
    """A resource record; `name` and what names are in `data` as on the wire, without pointers."""

    name: bytes
    type: int
    ttl: int
    data: bytes
    cls: int = IN


class Message(msgspec.Struct, frozen=True, gc=False):
    """An answer, read back: by tests, by whoever forwards and by those who explain."""

    id: int
    flags: int
    question: Query | None
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()

    @property
    def rcode(self) -> int:
        """Without what EDNS adds to it."""
        return self.flags & 0xF


# -- names


def name(text: str) -> bytes:
    """A name as on the wire, in the case given. Raises Malformed: a label of no or over 63 bytes, over 255 in all."""
    labels = [label.encode("utf-8") for label in text.rstrip(".").split(".")] if text.rstrip(".") else []
    if any(not 0 < len(label) <= MAX_LABEL for label in labels):
        raise Malformed(f"{text}: a label has 1 to 63 bytes")
    made = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(made) > MAX_NAME:
        raise Malformed(f"{text}: a name has at most 255 bytes")
    return made


def text(wire: bytes) -> str:
    """A name for people, without the last dot; what is no printable character as \\DDD."""
    return ".".join(map(_shown, labels(wire))) or "."


def labels(wire: bytes) -> Iterator[bytes]:
    """The labels of a name as on the wire."""
    at = 0
    while wire[at]:
        yield wire[at + 1 : at + 1 + wire[at]]
        at += 1 + wire[at]


def lower(wire: bytes) -> bytes:
    """For comparison. A length is at most 63, which is no letter."""
    return wire.lower()


def parent(wire: bytes) -> bytes:
    """Without the first label; the root's is the root."""
    return wire[1 + wire[0] :] if wire[0] else wire


def below(wire: bytes, zone: bytes) -> bool:
    """Whether a name is that of a zone or below it; both in lower case."""
    while len(wire) > len(zone):
        wire = parent(wire)
    return wire == zone


def reverse(address: str) -> bytes:
    """Where the name of an address stands."""
    return name(ip_address(address).reverse_pointer)


def address_of(wire: bytes) -> str:
    """The address whose name this is, in lower case; "" when it is none's, or no name at all."""
    try:
        *parts, tree, _ = [label.decode("ascii", "replace") for label in labels(wire)]
        if tree == "in-addr":
            return str(IPv4Address(".".join(reversed(parts))))
        nibbles = "".join(reversed(parts))
        groups = (nibbles[at : at + 4] for at in range(0, len(nibbles), 4))
        return str(IPv6Address(":".join(groups))) if len(parts) == len(nibbles) == 32 else ""
    except (ValueError, IndexError):
        return ""


def _shown(label: bytes) -> str:
    return "".join(chr(c) if 0x21 <= c < 0x7F and c not in b".\\" else f"\\{c:03d}" for c in label)


def read_name(message: bytes, at: int) -> tuple[bytes, int]:
    """A name that may end in a pointer, as on the wire without it; and where the next thing begins. Pointers lead only
    backwards, so none leads in a circle. Raises Malformed."""
    parts: list[bytes] = []
    size, end, limit = 1, 0, at
    while True:
        length = _byte(message, at)
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | _byte(message, at + 1)
            end = end or at + 2
            if target >= limit:
                raise Malformed("a pointer that does not lead backwards")
            at = limit = target
            continue
        if length > MAX_LABEL:
            raise Malformed("a label of an unknown kind")
        if not length:
            return b"".join(parts) + b"\0", end or at + 1
        size += 1 + length
        if size > MAX_NAME or at + 1 + length > len(message):
            raise Malformed("a name that is too long")
        parts.append(message[at : at + 1 + length])
        at += 1 + length


def _byte(message: bytes, at: int) -> int:
    if at >= len(message):
        raise Malformed("it ends too early")
    return message[at]


# -- reading


def read_query(message: bytes) -> Query:
    """The question of a query. Raises Malformed when it has none that can be answered; see `refusal` then."""
    if len(message) < 12:
        raise Malformed("shorter than a header")
    id_, flags, questions, answers, authority, additional = _HEADER.unpack_from(message)
    if flags & QR:
        raise Malformed("an answer")
    if questions != 1 or answers or authority:
        raise Malformed("not just one question")
    asked, at = read_name(message, 12)
    if at + 4 > len(message) or at != 12 + len(asked):
        raise Malformed("a question that is no question")
    type_, cls = struct.unpack_from(">HH", message, at)
    plain = Query(id_, flags, lower(asked), type_, cls, message[12 : at + 4])
    return _with_edns(plain, message, at + 4, additional) if additional else plain


def _with_edns(query: Query, message: bytes, at: int, count: int) -> Query:
    for _ in range(count):
        record, at = _record(message, at)
        if record.type == OPT:
            if record.name != b"\0":
                raise Malformed("an OPT record with a name")
            size, version = max(record.cls, PLAIN_SIZE), record.ttl >> 16 & 0xFF
            return msgspec.structs.replace(query, edns=True, size=min(size, EDNS_SIZE), version=version)
    return query


def refusal(message: bytes) -> bytes | None:
    """What to say to what `read_query` does not take: FORMERR, NOTIMP, or nothing to what is no query at all."""
    if len(message) < 12 or message[2] & 0x80:
        return None
    opcode = message[2] >> 3 & 0xF
    flags = QR | opcode << 11 | (message[2] & 1) << 8 | (NOTIMP if opcode else FORMERR)
    return message[:2] + struct.pack(">HHHHH", flags, 0, 0, 0, 0)


def read(message: bytes) -> Message:
    """A whole message. Raises Malformed."""
    if len(message) < 12:
        raise Malformed("shorter than a header")
    id_, flags, questions, *counts = _HEADER.unpack_from(message)
    at, question = 12, None
    for _ in range(questions):
        asked, after = read_name(message, at)
        if after + 4 > len(message):
            raise Malformed("it ends too early")
        type_, cls = struct.unpack_from(">HH", message, after)
        question = Query(id_, flags, lower(asked), type_, cls, asked + message[after : after + 4])
        at = after + 4
    sections: list[tuple[Record, ...]] = []
    for count in counts:
        records = []
        for _ in range(count):
            record, at = _record(message, at)
            records.append(record)
        sections.append(tuple(records))
    return Message(id_, flags, question, *sections)


def _record(message: bytes, at: int) -> tuple[Record, int]:
    owner, at = read_name(message, at)
    if at + 10 > len(message):
        raise Malformed("it ends too early")
    type_, cls, ttl, length = _RECORD.unpack_from(message, at)
    at += 10
    if at + length > len(message):
        raise Malformed("it ends too early")
    return Record(owner, type_, ttl, _whole(message, type_, at, length), cls), at + length


def _whole(message: bytes, type_: int, at: int, length: int) -> bytes:
    """What a record says, its names without pointers."""
    if type_ in (NS, CNAME, PTR):
        return read_name(message, at)[0]
    if type_ == SOA:
        first, after = read_name(message, at)
        second, after = read_name(message, after)
        return first + second + message[after : at + length]
    if type_ == SRV and length > 6:
        return message[at : at + 6] + read_name(message, at + 6)[0]
    return message[at : at + length]


def shown(record: Record) -> str:
    """What a record says, for people."""
    data = record.data
    if record.type in (A, AAAA) and len(data) in (4, 16):
        return str(ip_address(data))
    if record.type in (NS, CNAME, PTR):
        return text(data)
    if record.type == SRV and len(data) > 6:
        return " ".join((*map(str, struct.unpack_from(">HHH", data)), text(data[6:])))
    if record.type == TXT:
        return " ".join(f'"{each.decode("ascii", "backslashreplace")}"' for each in strings(data))
    return data.hex()


def strings(data: bytes) -> Iterator[bytes]:
    """The strings of a TXT record."""
    at = 0
    while at < len(data):
        yield data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]


# -- writing


def record(type_: int, ttl: int, data: bytes, owner: bytes = _OWNER, cls: int = IN) -> bytes:
    """A record; its owner is the question's name unless said otherwise. `ttl` in seconds."""
    return owner + _RECORD.pack(type_, cls, ttl, len(data)) + data


def address(ip: str) -> tuple[int, bytes]:
    """The type of an address' record, and what it says."""
    packed = ip_address(ip).packed
    return (A if len(packed) == 4 else AAAA), packed


def srv(priority: int, weight: int, port: int, target: bytes) -> bytes:
    """What an SRV record says."""
    return struct.pack(">HHH", priority, weight, port) + target


def txt(*words: str) -> bytes:
    """What a TXT record says."""
    return b"".join(bytes((len(word),)) + word.encode() for word in words)


def soa(
    server: bytes, mail: bytes, serial: int, negative: int, times: tuple[int, int, int] = (7200, 1800, 86400)
) -> bytes:
    """What an SOA record says; `negative` is for how many seconds a name may be remembered as missing (RFC 2308)."""
    return server + mail + struct.pack(">IIIII", serial, *times, negative)


def counts(answers: int, authority: int = 0, additional: int = 0) -> bytes:
    """What stands before records in a piece."""
    return struct.pack(">HHH", answers, authority, additional)


def piece(answers: Iterable[bytes], authority: Iterable[bytes] = (), additional: Iterable[bytes] = ()) -> bytes:
    """Records ready to be sent: their counts, then they."""
    sections = [[*answers], [*authority], [*additional]]
    return counts(*map(len, sections)) + b"".join(each for section in sections for each in section)


def owned(made: bytes, owner: bytes) -> Iterator[bytes]:
    """The answers of a piece, each as a record of `owner`; b"": still of the question's name. Of a piece made by
    `record` alone: pointers for owners, none inside."""
    at = 6
    for _ in range(made[0] << 8 | made[1]):
        end = at + 12 + (made[at + 10] << 8 | made[at + 11])
        yield (owner or _OWNER) + made[at + 2 : end]
        at = end


def records_of(made: bytes) -> list[Record]:
    """The answers of a piece, without their owner."""
    found = (_record(each, 0)[0] for each in owned(made, b"\0"))
    return [*found]


def answer(query: Query, made: bytes, rcode: int = NOERROR, flags: int = AA, size: int | None = None) -> bytes:
    """The message that answers a question with a piece; one longer than `size` (None: the client's own, 0: no limit, as
    in TCP) only says so, with the flag TC."""
    limit = query.size if size is None else size
    whole = _message(query, made, rcode, flags)
    if not limit or len(whole) <= limit:
        return whole
    return _message(query, NONE, rcode, flags | TC)


def _message(query: Query, made: bytes, rcode: int, flags: int) -> bytes:
    word = QR | flags | query.flags & (RD | 0x7800) | rcode & 0xF
    head = struct.pack(">HHH", query.id, word, 1)
    if not query.edns:
        return b"".join((head, made[:6], query.asked, made[6:]))
    more = (int.from_bytes(made[4:6], "big") + 1).to_bytes(2, "big")
    opt = b"\0" + struct.pack(">HHIH", OPT, EDNS_SIZE, rcode >> 4 << 24, 0)
    return b"".join((head, made[:4], more, query.asked, made[6:], opt))


def question(id_: int, asked: bytes, type_: int, *, cls: int = IN, flags: int = RD, size: int = EDNS_SIZE) -> bytes:
    """A query. `size` 0: without EDNS."""
    head = _HEADER.pack(id_, flags, 1, 0, 0, 1 if size else 0)
    opt = b"\0" + struct.pack(">HHIH", OPT, size, 0, 0) if size else b""
    return head + asked + struct.pack(">HH", type_, cls) + opt
