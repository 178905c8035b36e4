"""Addresses between text and bytes, spelt exactly as the kernel's tools spell them.

A state compares what was written with what is read, so there must be one spelling of each address: that of inet_ntop
(RFC 5952, with the dotted tail of IPv4-mapped addresses). `ipaddress` is right as well but five times slower, and ten
thousand routes are read in a tenth of a second only without it.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address
from struct import Struct

IPV4, IPV6 = 2, 10
"""Address families (AF_INET, AF_INET6)."""

_EIGHT = Struct(">8H")


def pack_ip(text: str) -> bytes:
    """Four or sixteen bytes of an address; raises ValueError when it is none."""
    if ":" in text:
        return _pack_ipv6(text)
    data = bytes(map(int, text.split(".")))
    if len(data) != 4:
        raise ValueError(f"{text!r} is not an IP address")
    return data


@lru_cache(maxsize=4096)
def _pack_ipv6(text: str) -> bytes:
    return IPv6Address(text).packed


def ip_text(data: bytes) -> str:
    """The spelling of four or sixteen bytes; raises ValueError for another length."""
    if len(data) == 4:
        return "%d.%d.%d.%d" % (*data,)  # noqa: UP031  twice as fast as an f-string of four parts
    if len(data) == 16:
        return _ipv6_text(data)
    raise ValueError(f"an address of {len(data)} bytes")


@lru_cache(maxsize=4096)
def _ipv6_text(data: bytes) -> str:
    words = _EIGHT.unpack(data)
    start, length = _zeros(words)
    if start == 0 and (length == 6 or (length == 5 and words[5] == 0xFFFF)):
        return f"::{'ffff:' if length == 5 else ''}{ip_text(data[12:])}"
    if length < 2:
        return ":".join(f"{word:x}" for word in words)
    head, tail = words[:start], words[start + length :]
    return f"{':'.join(f'{word:x}' for word in head)}::{':'.join(f'{word:x}' for word in tail)}"


def _zeros(words: tuple[int, ...]) -> tuple[int, int]:
    """(start, length) of the first longest run of zero words."""
    best, run = (0, 0), 0
    for place, word in enumerate(words):
        run = run + 1 if word == 0 else 0
        if run > best[1]:
            best = (place - run + 1, run)
    return best


def family_of(text: str) -> int:
    """The address family of an address or CIDR."""
    return IPV6 if ":" in text else IPV4


def pack_cidr(text: str) -> tuple[bytes, int]:
    """An `ip/prefix` as bytes and prefix length; without a slash the prefix is the whole address."""
    address, _, prefix = text.partition("/")
    data = pack_ip(address)
    return data, int(prefix) if prefix else len(data) * 8


def pack_mac(text: str) -> bytes:
    """Six bytes of aa:bb:cc:dd:ee:ff; raises ValueError when it is not six pairs."""
    data = bytes.fromhex(text.replace(":", ""))
    if len(data) != 6:
        raise ValueError(f"{text!r} is not a MAC address")
    return data


def mac_text(data: bytes) -> str:
    """Lower case, with colons, as the kernel's tools print it."""
    return data.hex(":")
