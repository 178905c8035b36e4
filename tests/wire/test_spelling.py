"""One spelling for each address: that of the kernel's own tools."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from podnet.wire import spelling

WORDS = st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF, 0xFD00, 0x0A]), min_size=8, max_size=8)


@given(st.binary(min_size=4, max_size=4))
def test_ipv4_is_spelt_as_inet_ntop_does(data: bytes) -> None:
    assert spelling.ip_text(data) == socket.inet_ntop(socket.AF_INET, data)
    assert spelling.pack_ip(spelling.ip_text(data)) == data


@given(st.one_of(st.binary(min_size=16, max_size=16), WORDS.map(lambda words: b"".join(w.to_bytes(2) for w in words))))
@example(bytes(16))
@example(bytes(15) + b"\1")
@example(bytes(10) + b"\xff\xff\1\2\3\4")
@example(bytes(12) + b"\1\2\3\4")
@example(bytes.fromhex("20010db8000000000001000000000001"))
def test_ipv6_is_spelt_as_inet_ntop_does(data: bytes) -> None:
    assert spelling.ip_text(data) == socket.inet_ntop(socket.AF_INET6, data)
    assert spelling.pack_ip(spelling.ip_text(data)) == data


@given(st.ip_addresses())
def test_what_ipaddress_spells_is_understood(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert spelling.pack_ip(str(address)) == address.packed
    assert spelling.family_of(str(address)) == (socket.AF_INET if address.version == 4 else socket.AF_INET6)


@pytest.mark.parametrize(
    "text", ["", "10.0.0", "10.0.0.0.1", "10.0.0.256", "10.0.0.x", "fd00::1::2", "fd00:g::", "::/0"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        spelling.pack_ip(text)


@pytest.mark.parametrize("length", [0, 3, 5, 15, 17])
def test_an_address_has_four_or_sixteen_bytes(length: int) -> None:
    with pytest.raises(ValueError, match=f"an address of {length} bytes"):
        spelling.ip_text(bytes(length))


@given(st.binary(min_size=6, max_size=6))
def test_macs(data: bytes) -> None:
    text = spelling.mac_text(data)
    assert text == ":".join(f"{byte:02x}" for byte in data)
    assert spelling.pack_mac(text) == spelling.pack_mac(text.upper()) == data


@pytest.mark.parametrize("text", ["", "aa:bb:cc:dd:ee", "aa:bb:cc:dd:ee:ff:00", "aa:bb:cc:dd:ee:gg"])
def test_what_is_no_mac_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        spelling.pack_mac(text)
