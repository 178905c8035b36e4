"""IPVS messages: the exact bytes for the kernel, and what its own say."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.wire import ipvs
from podnet.wire.ipvs import MARK, PERSISTENT, ServerMessage, ServiceMessage
from podnet.wire.netlink import DUMP, Request
from tests.wire.shapes import IPV4, IPV6

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="the bytes here are those of a little-endian machine")

PORTS = st.integers(1, 65535)
NUMBERS = st.integers(0, 2**31)
WEB = ServiceMessage(6, "10.96.0.10", 80)
WEB_HEX = "06000100 02000000 06000200 06000000 14000300 0a60000a" + "00" * 12 + "06000400 00500000"


def test_the_family_is_asked_for_by_name() -> None:
    request = ipvs.get_family()
    assert (request.kind, request.flags) == (16, 0)
    assert request.body == bytes.fromhex("03010000 09000200 49505653 00000000")
    assert ipvs.decode_family(bytes.fromhex("01020000 06000100 1c000000")) == 28


def test_a_virtual_server() -> None:
    whole = WEB._replace(scheduler="rr", flags=MARK | PERSISTENT, timeout=10800)
    more = "07000600 72720000 0c000700 21000000 ffffffff 08000800 302a0000 08000900 ffffffff"
    body = bytes.fromhex("01010000 54000180" + WEB_HEX + more)
    assert ipvs.put_service(28, whole) == Request(28, 0, body)
    assert ipvs.put_service(28, whole, present=True).body[0] == ipvs.SET_SERVICE
    assert ipvs.decode_service(body) == whole
    assert ipvs.delete_service(28, WEB).body == bytes.fromhex("03010000 30000180" + WEB_HEX)
    assert ipvs.dump_services(28) == Request(28, DUMP, bytes.fromhex("04010000"))


def test_a_real_server() -> None:
    server = ServerMessage("10.244.1.5", 8080, 3)
    which = "14000100 0af40105" + "00" * 12 + "06000200 1f900000"
    more = "08000300 00000000 08000400 03000000 08000500 00000000 08000600 00000000"
    body = bytes.fromhex("05010000 30000180" + WEB_HEX + "40000280" + which + more)
    assert ipvs.put_server(28, WEB, server) == Request(28, 0, body)
    counts = bytes.fromhex(
        "44000280" + which + "08000400 03000000 08000700 02000000 08000800 05000000 0c000a00" + "00" * 8
    )
    assert ipvs.decode_server(b"\0" * 4 + counts, v6=False) == ServerMessage("10.244.1.5", 8080, 3, 2, 5)
    assert ipvs.delete_server(28, WEB, server).body == bytes.fromhex("07010000 30000180" + WEB_HEX + "20000280" + which)
    assert ipvs.dump_servers(28, WEB) == Request(28, DUMP, bytes.fromhex("08010000 30000180" + WEB_HEX))


@given(st.one_of(st.tuples(IPV4, IPV4), st.tuples(IPV6, IPV6)), PORTS, PORTS, NUMBERS, st.sampled_from([6, 17, 132]))
def test_what_is_said_is_understood(ips: tuple[str, str], port: int, to_port: int, value: int, protocol: int) -> None:
    service = ServiceMessage(protocol, ips[0], port, "wrr", value, value)
    assert ipvs.decode_service(ipvs.put_service(20, service).body) == service
    server = ServerMessage(ips[1], to_port, value)
    assert ipvs.decode_server(ipvs.put_server(20, service, server).body, ":" in ips[0]) == server


def test_a_virtual_server_of_marked_packets_is_nobody_elses() -> None:
    """IPVS_SVC_ATTR_FWMARK instead of an address."""
    body = bytes.fromhex("01010000 14000180 06000100 02000000 08000500 07000000")
    assert ipvs.decode_service(body) is None
