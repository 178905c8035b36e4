"""Addresses, routes, neighbours, forwarding entries: what is sent is what is received."""

from __future__ import annotations

import ipaddress
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.wire import routes
from podnet.wire.netlink import CREATE, DUMP, REPLACE, Request, attribute, attributes
from podnet.wire.routes import AddressMessage, FdbMessage, NeighbourMessage, RouteMessage
from tests.wire.shapes import ADDRESSES, INDEXES, IPV4, IPV6, MACS

ADDRESS_MESSAGES = st.one_of(
    *(
        st.builds(
            AddressMessage,
            index=INDEXES,
            address=addresses,
            prefix=st.integers(0, longest),
            scope=st.sampled_from([routes.UNIVERSE, routes.LINK]),
            permanent=st.booleans(),
            protocol=st.integers(0, 255),
            deprecated=st.booleans(),
        )
        for addresses, longest in ((IPV4, 32), (IPV6, 128))
    )
)
ROUTE_MESSAGES = st.one_of(
    *(
        st.builds(
            RouteMessage,
            dst=addresses,
            prefix=st.integers(1, longest),
            gateway=addresses | st.just(""),
            link=INDEXES | st.just(0),
            source=addresses | st.just(""),
            scope=st.sampled_from(scopes),
            onlink=st.booleans(),
            protocol=st.integers(0, 255),
            table=st.integers(1, 255),
        )
        for addresses, longest, scopes in ((IPV4, 32, [0, 253]), (IPV6, 128, [0]))
    )
)
NEIGHBOURS = st.builds(
    NeighbourMessage,
    index=INDEXES,
    address=ADDRESSES,
    mac=MACS,
    permanent=st.booleans(),
    protocol=st.integers(0, 255),
    proxied=st.booleans(),
)
FDB_ENTRIES = st.builds(FdbMessage, index=INDEXES, mac=MACS, dst=ADDRESSES, permanent=st.booleans())


@given(ADDRESS_MESSAGES)
def test_an_address_comes_back(message: AddressMessage) -> None:
    request = routes.add_address(message)
    assert request[:2] == (routes.NEW_ADDRESS, CREATE | REPLACE)
    assert routes.decode_address(request.body) == message
    assert routes.decode_address(routes.delete_address(message).body) == message


@given(ADDRESS_MESSAGES)
def test_an_ipv4_network_gets_its_broadcast_address(message: AddressMessage) -> None:
    broadcast = attributes(routes.add_address(message).body, 8).get(4)
    interface = ipaddress.ip_interface(f"{message.address}/{message.prefix}")
    if interface.version == 4 and message.prefix < 31:
        assert broadcast == interface.network.broadcast_address.packed
    else:
        assert broadcast is None


@given(ADDRESS_MESSAGES)
def test_only_a_deprecated_address_has_lifetimes_and_it_lives_for_ever(message: AddressMessage) -> None:
    lifetimes = attributes(routes.add_address(message).body, 8).get(6)
    assert lifetimes == (struct.pack("=IIII", 0, 0xFFFFFFFF, 0, 0) if message.deprecated else None)


def test_an_address_of_an_old_kernel_has_its_flags_in_the_header() -> None:
    body = struct.pack("=BBBBI", 2, 24, 0x80, 0, 3) + attribute(2, bytes([10, 0, 0, 1]))
    assert routes.decode_address(body) == AddressMessage(3, "10.0.0.1", 24)


@given(ROUTE_MESSAGES)
def test_a_route_comes_back(message: RouteMessage) -> None:
    request = routes.replace_route(message)
    assert request[:2] == (routes.NEW_ROUTE, CREATE | REPLACE)
    assert routes.decode_route(request.body) == message
    assert routes.decode_route(routes.delete_route(message).body) == message


@pytest.mark.parametrize("dst", ["0.0.0.0", "::"])
def test_a_default_route_comes_back(dst: str) -> None:
    message = RouteMessage(dst, 0, link=3)
    assert routes.decode_route(routes.replace_route(message).body) == message


@given(ROUTE_MESSAGES)
def test_a_large_table_number_is_an_attribute(message: RouteMessage) -> None:
    body = routes.replace_route(message).body + attribute(15, struct.pack("=I", 1000))
    assert routes.decode_route(body) == msgspec.structs.replace(message, table=1000)


@pytest.mark.parametrize(("family", "kind"), [(2, 2), (2, 3), (10, 5), (7, 1), (128, 1)])
def test_what_is_no_ip_route_or_the_kernels_own_is_none(family: int, kind: int) -> None:
    assert routes.decode_route(struct.pack("=BBBBBBBBI", family, 32, 0, 0, 254, 2, 0, kind, 0)) is None


@pytest.mark.parametrize("family", [2, 10])
@pytest.mark.parametrize("kind", [6, 7, 8, 9])
def test_a_blackhole_and_its_like_lead_nowhere(family: int, kind: int) -> None:
    """IPv6 shows them on lo."""
    body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 254, 2, 0, kind, 0) + attribute(4, struct.pack("=I", 1))
    assert routes.decode_route(body) == RouteMessage("::" if family == 10 else "0.0.0.0", 0, protocol=2)


def test_deleting_takes_a_blackhole_too() -> None:
    """The eighth byte is the type; 0 is any."""
    assert routes.delete_route(RouteMessage("10.0.0.0", 8, scope=routes.NOWHERE)).body[7] == 0
    assert routes.delete_route(RouteMessage("10.0.0.0", 8)).body[7] == 1


def test_ipv6_knows_no_scope() -> None:
    body = routes.replace_route(RouteMessage("fd00::", 64, link=3, scope=routes.LINK)).body
    assert routes.decode_route(body) == RouteMessage("fd00::", 64, link=3)


@given(NEIGHBOURS)
def test_a_neighbour_comes_back(message: NeighbourMessage) -> None:
    request = routes.replace_neighbour(message)
    assert request[:2] == (routes.NEW_NEIGHBOUR, CREATE | REPLACE)
    assert routes.decode_neighbour(request.body) == message
    assert routes.decode_neighbour(routes.delete_neighbour(message).body) == message


@given(FDB_ENTRIES)
def test_a_forwarding_entry_comes_back(message: FdbMessage) -> None:
    request = routes.replace_fdb(message)
    assert request[:2] == (routes.NEW_NEIGHBOUR, CREATE | REPLACE)
    assert routes.decode_neighbour(request.body) == message
    assert routes.decode_neighbour(routes.delete_fdb(message).body) == message


def test_a_bridges_own_entry_is_none() -> None:
    by_bridge = struct.pack("=BxxxiHBB", 7, 3, 0x80, 0x04, 0) + attribute(2, bytes(6))
    with_dst = struct.pack("=BxxxiHBB", 7, 3, 0x80, 0x04, 0) + attribute(2, bytes(6)) + attribute(1, bytes(4))
    assert routes.decode_neighbour(by_bridge) is None
    assert routes.decode_neighbour(with_dst) is None


def test_a_neighbour_that_did_not_answer_has_no_mac() -> None:
    body = struct.pack("=BxxxiHBB", 2, 3, 0x20, 0, 0) + attribute(1, bytes([10, 0, 0, 1]))
    assert routes.decode_neighbour(body) == NeighbourMessage(3, "10.0.0.1", "", permanent=False)


@pytest.mark.parametrize(
    ("request_", "kind", "header"),
    [
        (routes.dump_addresses(), routes.GET_ADDRESS, bytes(8)),
        (routes.dump_neighbours(), routes.GET_NEIGHBOUR, bytes(12)),
        (routes.dump_fdb(3), routes.GET_NEIGHBOUR, struct.pack("=BxxxiHBB", 7, 3, 0, 0, 0)),
        (routes.dump_routes(2, 112, 254), routes.GET_ROUTE, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 112, 0, 0, 0)),
    ],
)
def test_dumps_ask_with_a_filter_the_kernel_knows(request_: Request, kind: int, header: bytes) -> None:
    assert request_ == (kind, DUMP, header)
