"""Traffic control: a token bucket and a redirect are recognised as what was asked for."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.wire import tc
from podnet.wire.netlink import DUMP, attribute, attributes, nest, text
from podnet.wire.tc import QdiscMessage
from tests.wire.shapes import INDEXES

RATES = st.integers(8, 800_000_000_000)
BURSTS = st.integers(8, 2**31 - 8)


@given(INDEXES, RATES, BURSTS)
def test_a_shaper_comes_back_as_what_the_kernel_keeps_of_it(index: int, rate: int, burst: int) -> None:
    per_second, ticks = tc.bucket(rate, burst)
    if ticks >= 2**32:
        return  # a bucket of more than 275 seconds
    found = tc.decode_qdisc(tc.shape(index, rate, burst).body)
    assert found == QdiscMessage(index, tc.ROOT, "tbf", per_second, ticks)


def test_a_shaper_is_that_of_the_cni_bandwidth_plugin() -> None:
    """10 Mbit/s, 2 Mbit of burst: rate 1,250,000, buffer 0.2 s in ticks, limit of 25 ms at that rate and the burst."""
    options = attributes(attributes(tc.shape(3, 10_000_000, 2_000_000).body, 20)[2])
    fields = struct.unpack("=BBHhHI12xIII", options[1])
    assert fields == (0, 1, 0, 0, 0, 1_250_000, 31_250 + 250_000, 3_125_000, 0)
    assert 4 not in options  # no 64-bit rate is needed


def test_a_rate_beyond_32_bits_has_an_attribute_of_its_own() -> None:
    options = attributes(attributes(tc.shape(3, 80_000_000_000, 8_000_000).body, 20)[2])
    assert struct.unpack("=Q", options[4]) == (10_000_000_000,)


@given(INDEXES, INDEXES)
def test_a_redirect_comes_back(index: int, target: int) -> None:
    assert tc.decode_redirect(tc.redirect(index, target).body) == (index, target)


def test_a_filter_for_all_protocols_of_the_ingress_queue() -> None:
    _family, index, handle, parent, info = struct.unpack_from("=BxxxiIII", tc.redirect(3, 4).body)
    assert (index, handle, parent) == (3, 0, 0xFFFF0000)
    assert info.to_bytes(4, "little") == b"\0\3\1\0"  # ETH_P_ALL in network order, priority 1


def header(index: int = 3) -> bytes:
    return struct.pack("=BxxxiIII", 0, index, 0, 0xFFFF0000, 0)


def selector(mask: int) -> bytes:
    return struct.pack("=BBBxHHhhIIIii", 1, 0, 1, 0, 0, 0, 0, 0, mask, 0, 0, 0)


def action(kind: str, verdict: int) -> bytes:
    parameters = struct.pack("=IIiiiiI", 0, 0, 4, 0, 0, verdict, 9)
    return nest(7, nest(1, text(1, kind), nest(2, attribute(2, parameters))))


@pytest.mark.parametrize(
    "body",
    [
        header(),
        header() + text(1, "bpf"),
        header() + text(1, "u32") + nest(2),
        header() + text(1, "u32") + nest(2, attribute(5, selector(0xFF)), action("mirred", 1)),
        header() + text(1, "u32") + nest(2, attribute(5, selector(0))),
        header() + text(1, "u32") + nest(2, attribute(5, selector(0)), action("gact", 1)),
        header() + text(1, "u32") + nest(2, attribute(5, selector(0)), action("mirred", 2)),
    ],
    ids=["nothing", "another kind", "a hash table", "matches some", "no action", "another action", "only mirrors"],
)
def test_any_other_filter_is_none(body: bytes) -> None:
    assert tc.decode_redirect(body) is None


def test_any_other_queue_has_no_rate() -> None:
    body = struct.pack("=BxxxiIII", 0, 3, 0, tc.ROOT, 0) + text(1, "pfifo_fast") + attribute(2, bytes(20))
    assert tc.decode_qdisc(body) == QdiscMessage(3, tc.ROOT, "pfifo_fast")
    assert tc.decode_qdisc(tc.ingress(3).body) == QdiscMessage(3, tc.INGRESS, "ingress")


def test_queues_are_asked_for_and_removed_by_parent() -> None:
    assert struct.unpack("=BxxxiIII", tc.delete_qdisc(3, tc.ROOT).body) == (0, 3, 0, tc.ROOT, 0)
    assert struct.unpack("=BxxxiIII", tc.delete_qdisc(3, tc.INGRESS).body) == (0, 3, 0xFFFF0000, tc.INGRESS, 0)
    assert tc.dump_qdiscs().flags == tc.dump_filters(3).flags == DUMP
    assert struct.unpack("=BxxxiIII", tc.dump_filters(3).body) == (0, 3, 0, 0xFFFF0000, 0)
