"""Frames that say where an address is, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.wire.announcing import frame
from podnet.wire.spelling import pack_ip

MAC = "02:00:00:00:00:07"


def test_a_gratuitous_arp_request():
    found = frame(MAC, "192.168.77.200")
    assert found[:14].hex() == "ffffffffffff" + "020000000007" + "0806"
    assert found[14:22].hex() == "0001" + "0800" + "06" + "04" + "0001"
    assert found[22:].hex() == "020000000007" + "c0a84dc8" + "000000000000" + "c0a84dc8"


def test_an_unsolicited_neighbour_advertisement():
    found = frame(MAC, "fd77::200")
    assert found[:14].hex() == "333300000001" + "020000000007" + "86dd"
    header, message = found[14:54], found[54:]
    assert header[:8].hex() == "60000000" + "0020" + "3a" + "ff"
    assert header[8:] == pack_ip("fd77::200") + pack_ip("ff02::1")
    assert message[:2].hex() == "8800"
    assert message[4:8].hex() == "a0000000"
    assert message[8:] == pack_ip("fd77::200") + bytes.fromhex("0201020000000007")


@given(st.ip_addresses(v=6).map(str), st.binary(min_size=6, max_size=6))
def test_the_checksum_covers_addresses_and_message(address: str, mac: bytes):
    found = frame(mac.hex(":"), address)
    covered = found[22:54] + (len(found) - 54).to_bytes(4, "big") + (58).to_bytes(4, "big") + found[54:]
    total = sum(int.from_bytes(covered[place : place + 2], "big") for place in range(0, len(covered), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


def test_what_is_no_address():
    with pytest.raises(ValueError):
        frame(MAC, "192.168.77")
