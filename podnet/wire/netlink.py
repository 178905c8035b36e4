"""Netlink framing (RFC 3549, section 2): messages in a buffer, attributes in a message.

All that rtnetlink, nftables and conntrack messages have in common. Numbers are in the machine's own byte order, and
every message and attribute is padded to four bytes. The precompiled Structs are what makes a route cost microseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

NOOP, ERROR, DONE, OVERRUN = 1, 2, 3, 4
"""Message types below 16 speak about netlink itself."""

REQUEST, MULTI, ACK = 0x1, 0x2, 0x4
DUMP_INTERRUPTED = 0x10
DUMP = 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
CAPPED, EXTENDED = 0x100, 0x200
"""Flags; the last two only on an error: the request is not repeated in it, attributes that explain it follow."""

HEADER = Struct("=IHHII")
ATTRIBUTE = Struct("=HH")
U8, U16, U32, BE16, BE32 = Struct("=B"), Struct("=H"), Struct("=I"), Struct(">H"), Struct(">I")

_ERRNO = Struct("=i")
_ATTRIBUTE_U8, _ATTRIBUTE_U32 = Struct("=HHBxxx"), Struct("=HHI")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_TYPE_MASK = 0x3FFF  # the upper two bits say "nested" and "network byte order"
_NESTED = 0x8000
_MESSAGE_TEXT = 1  # NLMSGERR_ATTR_MSG


class Malformed(ValueError):
    """Bytes that are not a netlink message."""


class Request(NamedTuple):
    """A message to send, before it has a sequence number: type, flags besides REQUEST, header and attributes."""

    kind: int
    flags: int
    body: bytes


class Message(NamedTuple):
    """A message received. `port` is the netlink port of the socket that caused it, 0 for the kernel."""

    kind: int
    flags: int
    sequence: int
    port: int
    body: bytes


class Failure(NamedTuple):
    """Why a request was refused: a positive errno and the kernel's own words, which may be empty."""

    errno: int
    text: str = ""


def frame(request: Request, sequence: int, flags: int = 0) -> bytes:
    """The bytes of one message, padded."""
    kind, own, body = request
    size = 16 + len(body)
    return HEADER.pack(size, kind, own | flags | REQUEST, sequence, 0) + body + _PADDING[size & 3]


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram; raises Malformed when a length does not fit."""
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < 16:
            raise Malformed("a netlink message ends inside its header")
        size, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if size < 16 or offset + size > end:
            raise Malformed(f"a netlink message says it is {size} bytes long, but {end - offset} are there")
        yield Message(kind, flags, sequence, port, data[offset + 16 : offset + size])
        offset += (size + 3) & ~3


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    size = 4 + len(payload)
    return ATTRIBUTE.pack(size, kind) + payload + _PADDING[size & 3]


def u8(kind: int, value: int) -> bytes:
    """An attribute of one byte."""
    return _ATTRIBUTE_U8.pack(5, kind, value)


def u32(kind: int, value: int) -> bytes:
    """An attribute of one 32-bit number."""
    return _ATTRIBUTE_U32.pack(8, kind, value)


def text(kind: int, value: str) -> bytes:
    """An attribute of zero-terminated text."""
    return attribute(kind, value.encode() + b"\0")


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes from `offset` on, by type; of several with one type the last. Raises Malformed."""
    found: dict[int, bytes] = {}
    end = len(data)
    while end - offset >= 4:
        size, kind = ATTRIBUTE.unpack_from(data, offset)
        if size < 4 or offset + size > end:
            raise Malformed(f"a netlink attribute says it is {size} bytes long, but {end - offset} are there")
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found


def string(data: bytes | None) -> str:
    """The text of an attribute, "" when it is absent."""
    return data.rstrip(b"\0").decode(errors="replace") if data else ""


def number(data: bytes | None) -> int:
    """The value of an attribute that is a number of the machine's byte order; 0 when it is absent."""
    return int.from_bytes(data, sys.byteorder) if data else 0


def failure(message: Message) -> Failure | None:
    """What an ERROR or DONE message reports; None when it is an acknowledgement."""
    if len(message.body) < 4:
        return None
    code = -_ERRNO.unpack_from(message.body)[0]
    if code <= 0:
        return None
    return Failure(code, _words(message))


def _words(message: Message) -> str:
    """NLMSGERR_ATTR_MSG: what the kernel says besides the errno (NETLINK_EXT_ACK)."""
    if not message.flags & EXTENDED or not (message.kind == DONE or message.flags & CAPPED):
        return ""
    header = 4 if message.kind == DONE else 20  # an error repeats the header of the request
    return string(attributes(message.body, header).get(_MESSAGE_TEXT))
