"""How a socket towards an endpoint is made: from which port, and what is tried when that one is taken."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from podnet.daemons import dialling
from podnet.daemons.dialling import UPPER, dial
from podnet.kernel.netlink import Netlink, NetlinkError
from podnet.network.service_port import Endpoint
from podnet.wire.conntrack import Place

HOST = "127.0.0.1"
NETLINK = cast(Netlink, object())
KINDS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind((HOST, 0))
        udp.bind(tcp.getsockname())
        tcp.listen()
        yield Endpoint(HOST, tcp.getsockname()[1])


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Place, str, bool]]:
    """(protocol, from where, as whom, alone)"""
    made: list[tuple[int, Place, str, bool]] = []

    def show(netlink: Netlink, protocol: int, local: Place, remote: Place, source: str, alone: bool) -> None:
        made.append((protocol, local, source, alone))

    monkeypatch.setattr(dialling, "show", show)
    return made


@KINDS
def test_who_is_not_shown_leaves_as_the_node(
    kind: socket.SocketKind, endpoint: Endpoint, shown: list[tuple[int, Place, str, bool]]
) -> None:
    with dial(NETLINK, kind, endpoint, HOST, None) as made:
        made.setblocking(True)
        assert made.getpeername() == (HOST, endpoint.port)
    assert shown == []


@KINDS
def test_a_client_is_shown_before_the_first_packet_from_a_port_like_its_own(
    kind: socket.SocketKind, endpoint: Endpoint, shown: list[tuple[int, Place, str, bool]]
) -> None:
    with dial(NETLINK, kind, endpoint, HOST, ("192.0.2.1", 1234)) as made:
        local = made.getsockname()
    stream = kind is socket.SOCK_STREAM
    assert shown == [(6 if stream else 17, local, "192.0.2.1", not stream)]
    assert local == (HOST, 1234 | UPPER)


@KINDS
def test_a_port_that_is_taken_is_replaced_by_a_free_one(
    kind: socket.SocketKind, endpoint: Endpoint, shown: list[tuple[int, Place, str, bool]]
) -> None:
    with socket.socket(type=kind) as other:
        other.bind((HOST, 0))
        taken = other.getsockname()[1]
        port = taken if taken >= UPPER else pytest.skip("free ports are elsewhere here")
        with dial(NETLINK, kind, endpoint, HOST, ("192.0.2.1", port)) as made:
            local = made.getsockname()
    assert local[1] != taken
    assert shown == [(6 if kind is socket.SOCK_STREAM else 17, local, "192.0.2.1", True)]


def test_other_errors_are_the_callers(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(*_: object, **__: object) -> None:
        raise NetlinkError(errno.ENOMEM, "no")

    monkeypatch.setattr(dialling, "show", show)
    with pytest.raises(NetlinkError):
        dial(NETLINK, socket.SOCK_STREAM, endpoint, HOST, ("192.0.2.1", 1234))
