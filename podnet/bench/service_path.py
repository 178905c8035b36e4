"""What a Service costs its clients: connections through it, against the same path with one NAT rule and nothing else.

A client and a server on one node, attached point-to-point as podnet does it. One node has podnet's tables with all
Services, and the client asks for the last of them; the other has podnet's links and routes and a single hand-written
rule, so that what differs is what the tables cost. Sockets of both ends belong to this process and one thread: the
kernel makes a connection within connect(), and nobody has to be woken.

The third node is in mode userspace, with the real proxy process. Sender, receiver and proxy share one CPU, as does the
same stream through the node in mode nftables, so that the rates tell what each spends on a byte.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Self

from podnet.bench import arena
from podnet.bench.figures import Figure, at_least, at_most, figure, in_turns, ratios, until_sure
from podnet.bench.programs import BIN, PATIENCE, NotReady
from podnet.bench.service_node import Node
from podnet.bench.service_objects import PORT, TARGET, cluster, cluster_ip, endpoint_slice
from podnet.bench.stream import Stream, stay_on
from podnet.daemons.proxy_feed import Feed
from podnet.kernel import netns
from podnet.kernel.dataplane import NFT_KINDS
from podnet.kernel.netns import socket_in
from podnet.lab import fabric
from podnet.network.desired import desired
from podnet.network.pods import host_ifname, pod_mac
from podnet.network.proxy.userspace import orders
from podnet.network.view import Attachment

SERVICES = 10_000
TURNS, AT_ONCE = 100, 100
ERROR, SECONDS = 0.01, 20.0
BACKENDS = ("10.0.1.3", "10.0.1.4", "10.0.1.5", "10.0.1.6")
"""The server has four addresses, one for each endpoint; the first is the pod's."""

BY_HAND = ("10.96.0.99", 80)
RULE = "ip daddr {} tcp dport {} dnat to {}:{}"
_RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER of no time: close() resets, and the port can be had again."""


def connections(name: str) -> Iterator[Figure]:
    """Connections through a Service, their number and how long one takes."""
    with _one_cpu(), ExitStack() as stack:
        last = (cluster_ip(SERVICES - 1), PORT)
        ours = stack.enter_context(_Caller(_served("nftables"), last))
        hand = stack.enter_context(_Caller(_by_hand(), BY_HAND))
        pairs = in_turns(ours.latency, hand.latency, TURNS, f"connect to the last of {SERVICES:,} Services")
        yield figure(name, f"connect to the last of {SERVICES:,} Services", "us", [mine for mine, _ in pairs])
        yield figure(name, "connect by one NAT rule", "us", [theirs for _, theirs in pairs])
        yield figure(name, "the difference", "us", [mine - theirs for mine, theirs in pairs], at_most(10))
        pairs = in_turns(ours.rate, hand.rate, TURNS, "connections in a second")
        yield figure(name, "connections through a Service", "1/s", [mine for mine, _ in pairs])
        yield figure(name, "connections, Service to one NAT rule", "ratio", ratios(pairs), at_least(0.9))


def throughput(name: str) -> Iterator[Figure]:
    """TCP in mode userspace against mode nftables, one core for everything."""
    last, cpus = (cluster_ip(SERVICES - 1), PORT), (0, 0)
    with _one_cpu():
        kernel, user = _served("nftables", "stream-"), _served("userspace", "stream-")
        with _proxy(user):
            streams = [Stream(place(each, 0), place(each, 1), "0.0.0.0", TARGET, last, cpus) for each in (user, kernel)]
            mine, theirs = streams
            pairs = until_sure(mine.rate, theirs.rate, ERROR, SECONDS, "TCP in mode userspace")
            for stream in streams:
                stream.close()
    yield figure(name, "TCP in mode userspace, one core", "Gbit/s", [ours for ours, _ in pairs])
    yield figure(name, "TCP in mode nftables, one core", "Gbit/s", [other for _, other in pairs])
    yield figure(name, "TCP, userspace to nftables, one core", "ratio", ratios(pairs), at_least(0.5))


# -- the nodes


def place(node: Node, pod: int) -> str:
    """The namespace of a node's client (0) or server (1)."""
    return node.pods[pod].netns


def client_and_server(name: str) -> Node:
    """A node with a client and a server, not attached yet."""
    pods = []
    for number, role in enumerate(("client", "server"), 2):
        path, addresses = f"{arena.NETNS}/{name}-{role}", (f"10.0.1.{number}/32",)
        netns.create(path)
        mac = pod_mac(addresses, (name, role))
        pods.append(Attachment(f"{name}-{role}", "eth0", path, addresses=addresses, mac=mac, mode="ptp"))
    return Node(name, tuple(pods))


def _served(mode: str, prefix: str = "") -> Node:
    """With all Services, of which the last leads to the server's four addresses."""
    node, nodes = client_and_server(prefix + mode), cluster(SERVICES, len(BACKENDS), mode)
    here = endpoint_slice(SERVICES - 1, BACKENDS)
    node.take(nodes.with_objects("endpointslices", {**nodes.endpointslices, here.key: here}))
    server = node.pods[1]
    more = BACKENDS[1:]
    fabric.configure(server.netns, [f"address add {address}/32 dev eth0" for address in more])
    via = f"via {BACKENDS[0]} dev {host_ifname(server)} onlink"
    fabric.configure(node.netns, [f"route add {address}/32 {via}" for address in more])
    return node


def _by_hand() -> Node:
    """With one rule."""
    node = client_and_server("by-hand")
    units = desired(node.see(cluster(0, 0)), node.memo)
    node.hold({unit: tuple(each for each in units[unit] if each.kind not in NFT_KINDS) for unit in units})
    rule = RULE.format(*BY_HAND, BACKENDS[0], TARGET)
    rules = f"table ip hand {{ chain in {{ type nat hook prerouting priority dstnat\n{rule}\n}}\n}}"
    subprocess.run(["nsenter", f"--net={node.netns}", "nft", rules], check=True)
    return node


@contextmanager
def _proxy(node: Node) -> Iterator[None]:
    """The userspace proxy of a node, told of its Services, on the CPU of the caller."""
    command = ["nsenter", f"--net={node.netns}", f"{BIN}/podnet", "userspace-proxy", "--run-dir", node.folder]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            asyncio.run(_tell(node))
            yield
        finally:
            process.terminate()


async def _tell(node: Node) -> None:
    """Bring a proxy its orders, as the agent does."""
    assert node.seen is not None, "it was served"
    heard = asyncio.Event()
    feed = Feed(f"{node.folder}/userspace.sock", lambda status: heard.set() if status and status.ports else None)
    feed.update(orders(node.seen, (port for ports in node.seen.services.values() for port in ports)))
    running = asyncio.create_task(feed.run())
    try:
        async with asyncio.timeout(PATIENCE):
            await heard.wait()
    except TimeoutError:
        raise NotReady(f"the userspace proxy: {feed.trouble or 'it took no orders'}") from None
    finally:
        running.cancel()


@contextmanager
def _one_cpu() -> Iterator[None]:
    """Keep this thread, and what it starts, on one CPU for a while."""
    before = os.sched_getaffinity(0)
    stay_on(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# -- the calls


class _Caller:
    """Connects from a node's client to `to`, again and again; its server listens at all its addresses."""

    def __init__(self, node: Node, to: tuple[str, int]) -> None:
        client, server = (place(node, number) for number in (0, 1))
        self._client, self._to = client, to
        self._listener = socket_in(server, socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind(("0.0.0.0", TARGET))
        self._listener.listen(2 * AT_ONCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def latency(self) -> float:
        """Microseconds of connect(), the median of AT_ONCE."""
        made = self._sockets()
        taken = []
        for each in made:
            start = time.perf_counter_ns()
            each.connect(self._to)
            taken.append(time.perf_counter_ns() - start)
        for each in made:
            self._finish(each)
        return median(taken) / 1e3

    def rate(self) -> float:
        """Connections in a second, from the SYN to the reset of each."""
        made = self._sockets()
        start = time.perf_counter()
        for each in made:
            each.connect(self._to)
            self._finish(each)
        return len(made) / (time.perf_counter() - start)

    def _sockets(self) -> list[socket.socket]:
        with netns.inside(self._client):
            made = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(AT_ONCE)]
        for each in made:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return made

    def _finish(self, connection: socket.socket) -> None:
        accepted, _ = self._listener.accept()
        connection.close()
        accepted.close()
