"""Traffic control in rtnetlink (linux/pkt_sched.h, pkt_cls.h): what the CNI bandwidth limits need and no more.

A token bucket (tbf) shapes what leaves a link. What arrives can't be queued, so an ingress qdisc with a filter that
matches everything (u32) redirects it (mirred) to an ifb, which has a token bucket of its own.
"""

from __future__ import annotations

from struct import Struct

import msgspec

from podnet.wire.netlink import BE16, CREATE, DUMP, REPLACE, U32, Request, attribute, attributes, nest, number, string
from podnet.wire.netlink import text as text_attribute

NEW_QDISC, DELETE_QDISC, GET_QDISC = 36, 37, 38
NEW_FILTER, DELETE_FILTER, GET_FILTER = 44, 45, 46
"""Message types (RTM_*)."""

ROOT, INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
"""Parents of a link's outgoing and incoming queue disciplines."""

LATENCY = 25_000
"""Microseconds a packet may wait in a token bucket, as in the CNI bandwidth plugin."""

_HEADER = Struct("=BxxxiIII")  # struct tcmsg
_SHAPER_HANDLE, _INGRESS_HANDLE = 0x10000, 0xFFFF0000
_ALL_PROTOCOLS = 1 << 16 | number(BE16.pack(3))  # priority 1, ETH_P_ALL
_KIND, _OPTIONS = 1, 2

_TBF = Struct("=BBHhHI12xIII")  # struct tc_tbf_qopt: rate, (peak rate), limit, buffer, mtu
_TBF_PARAMETERS, _TBF_RATE64 = 1, 4
_U64 = Struct("=Q")
_ETHERNET = 1
_TICKS = 15.625
"""Packet scheduler ticks per microsecond: 64 ns each (PSCHED_SHIFT), the same on every kernel since 2.6.31."""

_U32_SELECTOR, _U32_ACTIONS = 5, 7
_SELECTOR = Struct("=BBBxHHhhIIIii")  # struct tc_u32_sel with one key
_TERMINAL, _ONE_KEY = 1, 1
_ACTION_KIND, _ACTION_OPTIONS, _MIRRED_PARAMETERS = 1, 2, 2
_MIRRED = Struct("=IIiiiiI")  # struct tc_mirred
_STOLEN, _EGRESS_REDIRECT = 4, 1


class QdiscMessage(msgspec.Struct, frozen=True, gc=False):
    """A queue discipline; `rate` (bytes/s) and `ticks` (bucket size as time at that rate) only of a tbf."""

    index: int
    parent: int
    kind: str
    rate: int = 0
    ticks: int = 0


def bucket(rate: int, burst: int) -> tuple[int, int]:
    """(bytes/s, ticks) of a bucket of `rate` bits/s and `burst` bits: all that the kernel keeps of them."""
    per_second = max(rate // 8, 1)
    return per_second, int((burst // 8) * 1_000_000 / per_second * _TICKS)


def shape(index: int, rate: int, burst: int) -> Request:
    """Give a link a token bucket of `rate` bits/s and `burst` bits as root queue."""
    per_second, ticks = bucket(rate, burst)
    limit = int(per_second * LATENCY / 1_000_000) + burst // 8
    slow = min(per_second, 0xFFFFFFFF)
    parameters = _TBF.pack(0, _ETHERNET, 0, 0, 0, slow, min(limit, 0xFFFFFFFF), ticks, 0)
    options = [attribute(_TBF_PARAMETERS, parameters)]
    if per_second > slow:
        options.append(attribute(_TBF_RATE64, _U64.pack(per_second)))
    body = _HEADER.pack(0, index, _SHAPER_HANDLE, ROOT, 0) + text_attribute(_KIND, "tbf") + nest(_OPTIONS, *options)
    return Request(NEW_QDISC, CREATE | REPLACE, body)


def delete_qdisc(index: int, parent: int) -> Request:
    """Remove a link's ROOT or INGRESS queue; ENOENT or EINVAL when it has but the one that every link has."""
    handle = 0 if parent == ROOT else _INGRESS_HANDLE
    return Request(DELETE_QDISC, 0, _HEADER.pack(0, index, handle, parent, 0))


def ingress(index: int) -> Request:
    """Give a link an ingress queue, to which filters attach."""
    return Request(
        NEW_QDISC,
        CREATE | REPLACE,
        _HEADER.pack(0, index, _INGRESS_HANDLE, INGRESS, 0) + text_attribute(_KIND, "ingress"),
    )


def redirect(index: int, target: int) -> Request:
    """Send everything that arrives on a link with an ingress queue through link `target` first."""
    selector = _SELECTOR.pack(_TERMINAL, 0, _ONE_KEY, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    mirred = nest(
        1,
        text_attribute(_ACTION_KIND, "mirred"),
        nest(
            _ACTION_OPTIONS, attribute(_MIRRED_PARAMETERS, _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, target))
        ),
    )
    options = nest(_OPTIONS, attribute(_U32_SELECTOR, selector), nest(_U32_ACTIONS, mirred))
    header = _HEADER.pack(0, index, 0, _INGRESS_HANDLE, _ALL_PROTOCOLS)
    return Request(NEW_FILTER, CREATE, header + text_attribute(_KIND, "u32") + options)


def dump_qdiscs() -> Request:
    """Ask for the queue disciplines of all links."""
    return Request(GET_QDISC, DUMP, _HEADER.pack(0, 0, 0, 0, 0))


def dump_filters(index: int) -> Request:
    """Ask for the filters of one link's ingress queue."""
    return Request(GET_FILTER, DUMP, _HEADER.pack(0, index, 0, _INGRESS_HANDLE, 0))


def decode_qdisc(body: bytes) -> QdiscMessage:
    """A queue discipline as the kernel describes it. Raises Malformed."""
    _family, index, _handle, parent, _info = _HEADER.unpack_from(body)
    found = attributes(body, 20)
    kind = string(found.get(_KIND))
    if kind != "tbf":
        return QdiscMessage(index, parent, kind)
    options = attributes(found.get(_OPTIONS, b""))
    parameters = options.get(_TBF_PARAMETERS, b"").ljust(_TBF.size, b"\0")
    slow, _limit, ticks, _mtu = _TBF.unpack_from(parameters)[5:]
    return QdiscMessage(index, parent, kind, number(options.get(_TBF_RATE64)) or slow, ticks)


def decode_redirect(body: bytes) -> tuple[int, int] | None:
    """(ifindex, target ifindex) when a filter is the one `redirect` makes; None for any other. Raises Malformed."""
    index = _HEADER.unpack_from(body)[1]
    found = attributes(body, 20)
    options = attributes(found.get(_OPTIONS, b""))
    if string(found.get(_KIND)) != "u32" or not _matches_all(options.get(_U32_SELECTOR, b"")):
        return None
    action = attributes(attributes(options.get(_U32_ACTIONS, b"")).get(1, b""))
    parameters = attributes(action.get(_ACTION_OPTIONS, b"")).get(_MIRRED_PARAMETERS, b"")
    if string(action.get(_ACTION_KIND)) != "mirred" or len(parameters) < _MIRRED.size:
        return None
    verdict, target = _MIRRED.unpack_from(parameters)[5:]
    return (index, target) if verdict == _EGRESS_REDIRECT else None


def _matches_all(selector: bytes) -> bool:
    """One key with an empty mask (a hash table, which u32 lists too, has no selector)."""
    return len(selector) == _SELECTOR.size and U32.unpack_from(selector, 16)[0] == 0
