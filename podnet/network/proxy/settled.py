"""What a client of known address meets where chance has no say any more: it stays with an endpoint, or its hash picks.

In mode nftables the hash is the kernel's jhash over what nftables puts side by side in registers (nft_chains.py), so
that of an IPv6 client's affinity too; ipvs has one of its own. Source: B. Jenkins, "lookup3"; Linux
include/linux/jhash.h, net/netfilter/nft_hash.c.
"""

from __future__ import annotations

import sys
from functools import reduce
from ipaddress import ip_address
from operator import xor
from zlib import crc32

from msgspec.structs import replace

from podnet.network.proxy.algorithms import HASHED, SOURCE_HASH, hashed
from podnet.network.proxy.explain import Meeting
from podnet.network.proxy.live import NFTABLES, Live, place
from podnet.network.proxy.manners import Client
from podnet.network.proxy.nft_chains import SEED
from podnet.network.service_port import ServicePort, order
from podnet.state.ipvs import HASHED as HASHED_BY_IPVS

_START = 0xDEADBEEF
_WORD = 0xFFFFFFFF
_GOLDEN = 0x61C88647


def settled(meeting: Meeting, who: Client, port: ServicePort, live: Live | None, mode: str = NFTABLES) -> Meeting:
    """With everything for one endpoint if that is certain. The node itself comes to its own addresses with those; in
    mode ipvs all frontends are."""
    own = meeting.scope == "node" or mode == "ipvs"
    source = meeting.address if who.kind == "node" and own else who.address
    if not source or not meeting.shares:
        return meeting
    kept = _kept(meeting, known_as(port, source) if mode == NFTABLES else source, live)
    chosen = {share.endpoint for share in meeting.shares if share.endpoint.address == kept}
    table = live.tables.get(place(meeting.address, meeting.number)) if live else None
    if not chosen and table:
        picked = table[balanced_slot(source) % len(table)]
        chosen = {share.endpoint for share in meeting.shares if share.endpoint.address == picked}
    elif not chosen and meeting.algorithm == SOURCE_HASH and mode == NFTABLES:
        endpoints = tuple(sorted((share.endpoint for share in meeting.shares), key=order))
        chosen = {hashed(endpoints)[slot(source)]}
    if len(chosen) != 1:
        return meeting
    shares = (replace(share, percent=100.0 * (share.endpoint in chosen)) for share in meeting.shares)
    return replace(meeting, shares=tuple(shares))


def _kept(meeting: Meeting, client: str, live: Live | None) -> str | None:
    """The address that a client stays with."""
    if live is None or not meeting.affinity:
        return None
    here = live.affinity_at.get(place(meeting.address, meeting.number), {})
    return live.affinity.get(client, here.get(client))


def slot(source: str) -> int:
    """Which of HASHED slots a client's address has."""
    return _scaled(jhash(ip_address(source).packed, SEED), HASHED)


def balanced_slot(source: str) -> int:
    """Which of ipvs' slots a client's address has. Source: Linux net/netfilter/ipvs/ip_vs_sh.c, linux/hash.h."""
    packed = ip_address(source).packed
    folded = reduce(xor, (int.from_bytes(packed[at : at + 4], "big") for at in range(0, len(packed), 4)))
    return (folded * _GOLDEN & _WORD) * HASHED_BY_IPVS >> 32


def known_as(port: ServicePort, source: str) -> str:
    """The kernel's word for a client in its memory of affinity: an address of IPv4, a hash of IPv6."""
    if not port.v6:
        return source
    number = crc32(port.affinity_of.encode()).to_bytes(4, sys.byteorder)
    return f"{_scaled(jhash(number + ip_address(source).packed, 1), _WORD):#010x}"


def jhash(data: bytes, seed: int) -> int:
    """32 bits for a whole number of 32-bit words, at least one."""
    words = memoryview(data).cast("I")
    a = b = c = (_START + len(data) + seed) & _WORD
    place = 0
    while len(words) - place > 3:
        a, b, c = _mixed(a + words[place], b + words[place + 1], c + words[place + 2])
        place += 3
    rest = (*words[place:], 0, 0)
    a, b, c = a + rest[0], b + rest[1], c + rest[2]
    for turn in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, ((c ^ b) - _turned(b, turn)) & _WORD, a
    return b


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for turn in (4, 6, 8, 16, 19, 4):
        a, b, c = b, (c + b) & _WORD, ((a - c) ^ _turned(c, turn)) & _WORD
    return a, b, c


def _turned(value: int, bits: int) -> int:
    value &= _WORD
    return (value << bits | value >> 32 - bits) & _WORD


def _scaled(value: int, size: int) -> int:
    return value * size >> 32
