"""The userspace proxy with real datagrams: whose they are, where they go, and that none is lost."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from podnet.network.service_port import ServicePort
from tests.lab.hands import needs_root, wait_for
from tests.lab.proxied import VIP, Node, address, proxied, service

pytestmark = [pytest.mark.lab, needs_root]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with proxied(tmp_path_factory.mktemp("userspace")) as node:
        yield node


@pytest.fixture
def node(shared: Node) -> Iterator[Node]:
    """The node without Services and without servers."""
    yield shared
    shared.clear()


class Echo:
    """A UDP server that sends back what it gets, with its number in front, and remembers it, and from whom."""

    def __init__(self, node: Node, number: int, v6: bool = False) -> None:
        self.seen: list[bytes] = []
        self.peers: list[str] = []
        self._socket = node.open(node.server(number), v6, socket.SOCK_DGRAM)
        self._socket.bind((address(number, v6), 53))
        self._number = number
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.settimeout(None)
            while True:
                data, peer = self._socket.recvfrom(65536)
                if not data:
                    return
                self.peers.append(peer[0])
                self.seen.append(data)
                self._socket.sendto(b"%d %b" % (self._number, data), peer)


def question(made: socket.socket, text: bytes, to: tuple[str, int]) -> bytes:
    made.sendto(text, to)
    answer, peer = made.recvfrom(65536)
    assert peer[:2] == to
    return answer


def dns(*numbers: int, v6: bool = False, **fields: object) -> ServicePort:
    return service(*numbers, v6=v6, protocol="udp", to=53, **{"service": "dns", "port": 53, **fields})


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_datagrams_of_a_client_go_to_one_endpoint_and_clients_take_turns(node: Node, v6: bool):
    node.serve(dns(2, 3, v6=v6))
    servers = {number: Echo(node, number, v6) for number in (2, 3)}
    clients = [node.open("client", v6, socket.SOCK_DGRAM) for _ in range(4)]
    said = [[question(client, b"%d" % n, (VIP[v6], 53))[:1] for n in range(3)] for client in clients]
    assert all(len(set(each)) == 1 for each in said)
    assert Counter(each[0] for each in said) == {b"2": 2, b"3": 2}
    assert sum(len(server.seen) for server in servers.values()) == 12


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_whom_the_endpoint_sees(node: Node, v6: bool):
    """Also when the same client's port comes again soon, with what the kernel remembers of the flow before."""
    outside, server, client = ("fd00:5::5" if v6 else "10.5.5.5"), Echo(node, 2, v6), address(1, v6)
    for local, seen in ((False, "fd00:1:2::1" if v6 else "10.1.2.1"), (True, client)):
        for _ in range(2):
            node.serve(dns(2, v6=v6, external_ips=(outside,), external_local=local))
            for to in (VIP[v6], outside):
                with node.open("client", v6, socket.SOCK_DGRAM) as made:
                    made.bind(("", 41000))
                    question(made, b"x", (to, 53))
            node.serve()  # ends the flows
            assert server.peers[-2:] == [client, seen]


def test_no_datagram_is_lost_while_flows_begin(node: Node):
    node.serve(dns(2, 3))
    servers = [Echo(node, 2), Echo(node, 3)]
    sent = {b"%d of %d" % (n, place) for place in range(50) for n in range(10)}
    for place in range(50):
        client = node.open("client", False, socket.SOCK_DGRAM)
        for n in range(10):
            client.sendto(b"%d of %d" % (n, place), (VIP[False], 53))
    wait_for(lambda: {data for server in servers for data in server.seen} == sent)


def test_one_client_socket_and_two_services(node: Node):
    """Both flows have the same client and the same proxy; the kernel tells them apart by another port."""
    other = dns(3, service="other", cluster_ip="10.96.0.11")
    node.serve(dns(2), other)
    for number in (2, 3):
        Echo(node, number)
    client = node.open("client", False, socket.SOCK_DGRAM)
    for _ in range(3):
        assert question(client, b"x", (VIP[False], 53)) == b"2 x"
        assert question(client, b"x", ("10.96.0.11", 53)) == b"3 x"


def test_large_datagrams_pass_both_ways(node: Node):
    node.serve(dns(2))
    Echo(node, 2)
    client = node.open("client", False, socket.SOCK_DGRAM)
    data = os.urandom(60000)
    assert question(client, data, (VIP[False], 53)) == b"2 " + data


def test_a_flow_moves_when_its_endpoint_goes_and_ends_with_its_service(node: Node):
    node.serve(dns(2))
    for number in (2, 3):
        Echo(node, number)
    client = node.open("client", False, socket.SOCK_DGRAM)
    assert question(client, b"x", (VIP[False], 53)) == b"2 x"
    node.serve(dns(3))
    assert question(client, b"x", (VIP[False], 53)) == b"3 x"
    node.serve()
    assert node.ask().flows == 0


def test_after_a_refusal_datagrams_go_to_another_endpoint(node: Node):
    node.serve(dns(2, 3))
    Echo(node, 3)
    clients = [node.open("client", False, socket.SOCK_DGRAM) for _ in range(2)]
    for client in clients:
        client.sendto(b"first", (VIP[False], 53))
    time.sleep(0.2)
    for client in clients:
        client.sendto(b"second", (VIP[False], 53))
        said = {client.recv(100)}
        while b"3 second" not in said:
            said.add(client.recv(100))
