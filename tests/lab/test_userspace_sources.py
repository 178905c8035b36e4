"""The userspace proxy with real connections: whom an endpoint sees, whatever else has the same address and port."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from podnet.network.service_port import Endpoint
from tests.lab.hands import needs_root
from tests.lab.proxied import NODE, VIP, Node, address, everything, proxied, service

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


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_whom_the_endpoint_sees(node: Node, v6: bool):
    """Also where the kernel refuses packets that come from where their source is not."""
    for conf in ("all", "server2"):
        node.run("node", "sysctl", "-qw", f"net.ipv4.conf.{conf}.rp_filter=1")
    outside, near, client = ("fd00:5::5" if v6 else "10.5.5.5"), ("fd00:1:2::1" if v6 else "10.1.2.1"), address(1, v6)
    node.naming(2, v6)
    for local, seen in ((False, near), (True, client)):
        node.serve(service(2, v6=v6, external_ips=(outside,), external_local=local))
        for to, from_ in ((VIP[v6], client), (outside, seen)):
            with node.connect(to, v6=v6) as made:
                assert everything(made).decode() == f"2 {from_}"


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_an_endpoint_in_the_nodes_own_network_sees_the_client(node: Node, v6: bool):
    """It answers from the node to the node, without ever leaving it."""
    here = (Endpoint(NODE[v6], 81),)
    node.serve(service(v6=v6, internal=here, cluster=here, external=here, node_port=30081, external_local=True))
    listener = node.open("node", v6, socket.SOCK_STREAM)
    listener.bind((NODE[v6], 81))
    listener.listen()
    for to, port in ((VIP[v6], 80), (NODE[v6], 30081)):
        client = node.connect(to, port, v6)
        server = node.accept(listener)
        assert server.getpeername()[0] == address(1, v6)
        server.sendall(b"x")
        assert client.recv(1) == b"x"


@pytest.fixture
def few(node: Node) -> Iterator[Node]:
    """Its client has ten ports to connect from."""
    ports = node.run("client", "sysctl", "-n", "net.ipv4.ip_local_port_range").strip()
    node.run("client", "sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40009")
    yield node
    node.run("client", "sysctl", "-qw", f"net.ipv4.ip_local_port_range={ports}")


@pytest.mark.parametrize("direct", [False, True])
def test_a_client_that_uses_few_ports_is_seen_every_time(few: Node, direct: bool):
    """Its port to the endpoint is one that ended a moment ago; or one that the client itself has a connection from."""
    few.serve(service(2))
    few.naming(2)
    held = [few.connect(address(2)) for _ in range(5)] if direct else []
    before = few.ask().attempts
    for _ in range(30):
        with few.connect() as made:
            assert everything(made) == b"2 10.1.1.2"
    assert few.ask().attempts == before
    assert all(everything(each) == b"2 10.1.1.2" for each in held)


def test_two_clients_with_one_port(node: Node):
    """Both stay; the endpoint sees each with an address of its own."""
    node.serve(service(2))
    listener, ends = node.listen(2), []
    for name in ("client", "server3"):
        made = node.open(name, False, socket.SOCK_STREAM)
        made.bind(("", 40000))
        made.connect((VIP[False], 80))
        ends.append((made, node.accept(listener)))
    for client, server in ends:
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        assert server.getpeername()[0] == client.getsockname()[0]
