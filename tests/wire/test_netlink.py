"""Framing: what is framed is read back, and what is broken is refused instead of read on."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.wire import netlink
from podnet.wire.netlink import ACK, Failure, Malformed, Message, Request

REQUESTS = st.builds(Request, st.integers(16, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=40))


@given(st.lists(REQUESTS, max_size=5))
def test_messages_come_back_in_order(requests: list[Request]) -> None:
    data = b"".join(netlink.frame(request, number, ACK) for number, request in enumerate(requests))
    found = list(netlink.messages(data))
    assert [(m.kind, m.body, m.sequence, m.port) for m in found] == [
        (request.kind, request.body, number, 0) for number, request in enumerate(requests)
    ]
    assert all(m.flags == request.flags | ACK | netlink.REQUEST for m, request in zip(found, requests, strict=True))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = list(netlink.messages(data))
    except Malformed:
        return
    assert sum(16 + len(message.body) for message in found) <= len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 15,
        netlink.HEADER.pack(15, 16, 0, 1, 0),
        netlink.HEADER.pack(17, 16, 0, 1, 0),
        netlink.HEADER.pack(0, 0, 0, 0, 0),
    ],
)
def test_a_length_that_does_not_fit_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        list(netlink.messages(data))


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=20), max_size=8))
def test_attributes_come_back(found: dict[int, bytes]) -> None:
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in found.items())
    assert len(data) % 4 == 0
    assert netlink.attributes(data) == found
    assert netlink.attributes(b"head" + data, 4) == found
    nested = netlink.attributes(netlink.nest(7, data))
    assert netlink.attributes(nested[7]) == found


@given(st.binary(max_size=100))
def test_any_bytes_are_attributes_or_refused(data: bytes) -> None:
    try:
        found = netlink.attributes(data)
    except Malformed:
        return
    assert sum(map(len, found.values())) <= len(data)


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 255), st.text("abcäß", max_size=8))
def test_numbers_and_text(number: int, small: int, text: str) -> None:
    found = netlink.attributes(netlink.u32(1, number) + netlink.u8(2, small) + netlink.text(3, text))
    assert netlink.number(found[1]) == number
    assert netlink.number(found[2]) == small
    assert netlink.string(found[3]) == text


def test_what_is_absent_is_zero_and_empty() -> None:
    assert netlink.number(None) == 0
    assert netlink.string(None) == ""


def error(code: int, flags: int = 0, more: bytes = b"", kind: int = netlink.ERROR) -> Message:
    header = bytes(16) if kind == netlink.ERROR else b""
    return Message(kind, flags, 1, 0, (-code).to_bytes(4, "little", signed=True) + header + more)


@pytest.mark.skipif(netlink.U16.pack(1) != b"\1\0", reason="the bytes above are of a little-endian machine")
class TestFailures:
    def test_an_acknowledgement_is_none(self) -> None:
        assert netlink.failure(error(0)) is None

    def test_the_errno(self) -> None:
        assert netlink.failure(error(errno.EEXIST)) == Failure(errno.EEXIST)

    def test_the_kernels_words(self) -> None:
        flags = netlink.CAPPED | netlink.EXTENDED
        words = netlink.text(1, "Nexthop has invalid gateway")
        assert netlink.failure(error(errno.ENETUNREACH, flags, words)) == Failure(
            errno.ENETUNREACH, "Nexthop has invalid gateway"
        )

    def test_the_words_at_the_end_of_a_dump(self) -> None:
        words = netlink.text(1, "ipv4: FIB table does not exist")
        done = error(errno.ENOENT, netlink.EXTENDED, words, netlink.DONE)
        assert netlink.failure(done) == Failure(errno.ENOENT, "ipv4: FIB table does not exist")

    def test_a_request_repeated_in_an_error_is_not_taken_for_words(self) -> None:
        assert netlink.failure(error(errno.EPERM, 0, os.urandom(24))) == Failure(errno.EPERM)

    def test_an_end_without_a_code(self) -> None:
        assert netlink.failure(Message(netlink.DONE, 0, 1, 0, b"")) is None
