"""Strategies for what all netlink messages are made of."""

from __future__ import annotations

import socket

from hypothesis import strategies as st

INDEXES = st.integers(1, 2**31 - 1)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=15)
MACS = st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":"))
IPV4 = st.binary(min_size=4, max_size=4).map(lambda data: socket.inet_ntop(socket.AF_INET, data))
IPV6 = st.binary(min_size=16, max_size=16).map(lambda data: socket.inet_ntop(socket.AF_INET6, data))
ADDRESSES = IPV4 | IPV6
