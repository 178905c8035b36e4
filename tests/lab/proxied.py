"""A client, a node with the real userspace proxy, and three servers in namespaces of their own.

    client 10.1.1.2 -- node 10.9.0.1 -- server2..4 10.1.2.2, 10.1.3.2, 10.1.4.2       (and the same in fd00:)

The rules are those that network/proxy/userspace.py renders, put in by the reconciler's own dataplane; the proxy is the
real program, told what to do over its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from podnet.daemons import proxy_feed
from podnet.daemons.proxy_feed import Feed
from podnet.daemons.userspace_proxy import Status
from podnet.kernel import netns
from podnet.kernel.dataplane import KernelDataplane
from podnet.network.proxy.userspace import frame, orders, serve
from podnet.network.service_port import Endpoint, ServicePort
from podnet.network.view import LocalFacts, NodeInfo, NodeView
from podnet.objects.network import NetworkSpec, ProxySpec
from podnet.state.plan import plan
from podnet.state.resource import state
from tests.lab.hands import wait_for

NODE = ("10.9.0.1", "fd00:9::1")
VIP = {False: "10.96.0.10", True: "fd00:96::10"}
SERVERS = (2, 3, 4)
SPEC = NetworkSpec(pod_cidrs=("10.1.0.0/16", "fd00:1::/32"), proxy=ProxySpec(mode="userspace"))
KINDS = frozenset({"NftTable", "Element", "Sysctl"})
VIEW = NodeView(NodeInfo("node1", NODE, ("10.1.1.0/24", "fd00:1:1::/64")), (), SPEC, LocalFacts("node1", "up0"))


def address(number: int, v6: bool = False) -> str:
    return f"fd00:1:{number}::2" if v6 else f"10.1.{number}.2"


def endpoints(numbers: tuple[int, ...], port: int = 80, v6: bool = False) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(address(number, v6), port) for number in numbers)


def service(*numbers: int, v6: bool = False, protocol: str = "tcp", to: int = 80, **fields: object) -> ServicePort:
    found = endpoints(numbers, to, v6)
    plain = ServicePort(
        "default", "web", "", protocol, v6, VIP[v6], 80, internal=found, external=found, cluster=found, anywhere=True
    )
    return msgspec.structs.replace(plain, **fields)


class Node:
    """The namespaces, and what listens in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.sockets: list[socket.socket] = []
        for name in ("client", "node", *map(self.server, SERVERS)):
            netns.create(self.path(name))
            self.ip(name, "link set lo up")
            self.run(name, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")  # neighbours are asked at once
        self.ip("node", *(f"addr add {each}/{128 if ':' in each else 32} dev lo" for each in NODE))
        for number, name in ((1, "client"), *((n, self.server(n)) for n in SERVERS)):
            self.plug(name, number)
        with netns.inside(self.path("node")):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        self.plane = KernelDataplane(str(folder), self.path("node"))
        self.proxy = self.start_proxy()

    @staticmethod
    def server(number: int) -> str:
        return f"server{number}"

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def ip(self, name: str, *lines: str) -> None:
        self.run(name, "ip", "-batch", "-", text="\n".join(lines))

    def run(self, name: str, *argv: str, text: str = "") -> str:
        command = ["nsenter", f"--net={self.path(name)}", *argv]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout

    def plug(self, name: str, number: int) -> None:
        self.ip("node", f"link add {name} type veth peer name eth0 netns {self.path(name)}")
        self.ip(
            "node",
            f"addr add 10.1.{number}.1/24 dev {name}",
            f"addr add fd00:1:{number}::1/64 dev {name} nodad",
            f"link set {name} up",
        )
        self.ip(
            name,
            f"addr add {address(number)}/24 dev eth0",
            f"addr add {address(number, True)}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via 10.1.{number}.1",
            f"route add default via fd00:1:{number}::1",
        )

    def start_proxy(self) -> subprocess.Popen[bytes]:
        code = "from podnet.cli.main import main; main()"
        argv = ["nsenter", f"--net={self.path('node')}", sys.executable, "-c", code, "userspace-proxy"]
        process = subprocess.Popen([*argv, "--run-dir", str(self.folder)])
        self.processes.append(process)
        wait_for(lambda: os.path.exists(self.feed), 20)
        return process

    @property
    def feed(self) -> str:
        return str(self.folder / "userspace.sock")

    def serve(self, *ports: ServicePort) -> Status:
        """Bring rules and proxy to these, as an agent would."""
        wanted = state(r for unit in (frame(VIEW), *(serve(VIEW, (port,)) for port in ports)) for r in unit)
        outcome = self.plane.apply(plan(wanted, self.plane.read(wanted, KINDS)))
        assert not outcome.failed
        assert not plan(wanted, self.plane.read(wanted, KINDS))
        heard: list[Status] = []

        async def tell() -> None:
            feed = Feed(self.feed, lambda status: heard.append(status) if status else None)
            feed.update(orders(VIEW, ports))
            running = asyncio.create_task(feed.run())
            while not heard:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            running.cancel()

        asyncio.run(asyncio.wait_for(tell(), 10))
        return heard[0]

    def ask(self) -> Status:
        return asyncio.run(proxy_feed.ask(self.feed))

    def open(self, name: str, v6: bool, kind: socket.SocketKind) -> socket.socket:
        family = socket.AF_INET6 if v6 else socket.AF_INET
        made = netns.socket_in(self.path(name), family, kind)
        made.settimeout(8)
        self.sockets.append(made)
        return made

    def listen(self, number: int, port: int = 80, v6: bool = False) -> socket.socket:
        made = self.open(self.server(number), v6, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address(number, v6), port))
        made.listen(2000)
        return made

    def accept(self, listener: socket.socket) -> socket.socket:
        made, _ = listener.accept()
        made.settimeout(8)
        self.sockets.append(made)
        return made

    def connect(self, to: str | None = None, port: int = 80, v6: bool = False, name: str = "client") -> socket.socket:
        made = self.open(name, v6, socket.SOCK_STREAM)
        made.connect((to or VIP[v6], port))
        return made

    def naming(self, number: int, v6: bool = False) -> None:
        """A server that says its number and whom it sees to everyone, until its listener is closed."""
        listener = self.listen(number, v6=v6)

        def answer() -> None:
            with contextlib.suppress(OSError):
                listener.settimeout(None)
                while True:
                    made, peer = listener.accept()
                    with made, contextlib.suppress(OSError):
                        made.sendall(f"{number} {peer[0]}".encode())

        threading.Thread(target=answer, daemon=True).start()

    def who(self, to: str | None = None, port: int = 80, v6: bool = False, name: str = "client") -> str:
        with self.connect(to, port, v6, name) as made:
            return everything(made).split(b" ")[0].decode()

    def silent(self, number: int) -> None:
        """A server that is there and never answers."""
        rules = "table inet dead { chain c { type filter hook input priority 0; meta l4proto tcp drop\n}\n}"
        self.run(self.server(number), "nft", "-f", "-", text=rules)

    def clear(self) -> None:
        """No sockets, no silent servers, no Services."""
        for made in self.sockets:
            with contextlib.suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)
            made.close()
        self.sockets.clear()
        for number in SERVERS:
            self.run(self.server(number), "nft", "flush", "ruleset")
        self.serve()

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait(10)
        self.plane.close()
        for name in ("client", "node", *map(self.server, SERVERS)):
            netns.remove(self.path(name))


def everything(made: socket.socket) -> bytes:
    parts = []
    while part := made.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def proxied(folder: Path) -> Iterator[Node]:
    """The node, gone afterwards."""
    node = Node(folder)
    try:
        yield node
    finally:
        node.close()
