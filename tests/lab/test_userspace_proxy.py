"""The userspace proxy with real connections: turns, attempts, affinity, refusals, ends, throughput."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from podnet.daemons import proxy_feed
from podnet.daemons.proxy_feed import Feed
from podnet.daemons.userspace_proxy import Status
from podnet.network.proxy.userspace import orders
from tests.lab.hands import needs_root
from tests.lab.proxied import NODE, SERVERS, VIEW, VIP, Node, everything, proxied, service

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
def test_takes_the_endpoints_in_turn(node: Node, v6: bool):
    node.serve(service(2, 3, 4, v6=v6))
    for number in SERVERS:
        node.naming(number, v6)
    seen = [node.who(v6=v6) for _ in range(9)]
    assert seen[:3] * 3 == seen
    assert set(seen) == {"2", "3", "4"}


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_every_kind_of_address_leads_there(node: Node, v6: bool):
    outside, balancer, own = ("fd00:5::5", "fd00:5::6", NODE[1]) if v6 else ("10.5.5.5", "10.5.5.6", NODE[0])
    node.serve(service(2, v6=v6, node_port=30080, external_ips=(outside,), balancer_ips=(balancer,)))
    node.naming(2, v6)
    for to, port in ((VIP[v6], 80), (outside, 80), (balancer, 80), (own, 30080)):
        assert node.who(to, port, v6) == "2"
    for to, port in ((own, 30080), ("::1" if v6 else "127.0.0.1", 30080)):
        assert node.who(to, port, v6, "node") == "2"


def test_a_pod_reaches_itself(node: Node):
    node.serve(service(2))
    node.naming(2)
    assert node.who(name="server2") == "2"


def test_a_refusing_endpoint_costs_no_time_and_a_silent_one_a_quarter_of_a_second(node: Node):
    node.serve(service(2, 3, 4))
    node.naming(4)
    node.silent(2)
    took = []
    for _ in range(6):
        began = time.monotonic()
        assert node.who() == "4"
        took.append(time.monotonic() - began)
    assert max(took) < 0.75
    assert max(took) >= 0.25
    assert node.ask().given_up == 0


def test_all_four_attempts_follow_the_schedule_and_then_the_client_is_reset(node: Node):
    node.serve(service(2, 3))
    node.silent(2)
    node.silent(3)
    before = node.ask()
    began = time.monotonic()
    with node.connect() as made, pytest.raises(ConnectionResetError):
        made.recv(1)
    assert time.monotonic() - began == pytest.approx(3.75, abs=0.4)
    after = node.ask()
    assert (after.attempts - before.attempts, after.given_up - before.given_up) == (4, 1)


def test_affinity_keeps_a_client_until_its_endpoint_fails(node: Node):
    node.serve(service(2, 3, 4, affinity=60))
    for number in SERVERS:
        node.naming(number)
    first = node.who()
    assert {node.who() for _ in range(6)} == {first}
    node.silent(int(first))
    second = node.who()
    assert second != first
    assert {node.who() for _ in range(6)} == {second}
    assert node.ask().services[0].affinities == {"10.1.1.2": f"10.1.{second}.2:80"}


def test_affinity_ends_after_its_time(node: Node):
    node.serve(service(2, 3, 4, affinity=1))
    for number in SERVERS:
        node.naming(number)
    first = node.who()
    time.sleep(1.2)
    assert node.who() != first


def test_what_has_no_endpoint_is_refused_at_once(node: Node):
    node.serve(service(anywhere=False, node_port=30080))
    for to, port in ((VIP[False], 80), (NODE[0], 30080)):
        began = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            node.connect(to, port)
        assert time.monotonic() - began < 0.5


def test_another_port_of_a_service_and_the_proxy_itself_are_refused(node: Node):
    node.serve(service(2))
    for to, port in ((VIP[False], 81), (NODE[0], 10265)):
        with pytest.raises(ConnectionRefusedError):
            node.connect(to, port)


def test_source_ranges_hold_for_the_balancers_address(node: Node):
    port = service(2, balancer_ips=("10.5.5.6",), source_ranges=("10.1.3.0/24", "10.1.3.0/25", "10.7.0.1/32"))
    node.serve(port)
    node.naming(2)
    assert node.who("10.5.5.6", name="server3") == "2"
    assert node.who() == "2"
    made = node.open("client", False, socket.SOCK_STREAM)
    made.settimeout(0.5)
    with pytest.raises(TimeoutError):
        made.connect(("10.5.5.6", 80))


def test_each_end_may_finish_before_the_other(node: Node):
    node.serve(service(2))
    listener = node.listen(2)
    client = node.connect()
    server = node.accept(listener)
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert everything(server) == b"question"
    server.sendall(b"answer" * 1000)
    server.close()
    assert everything(client) == b"answer" * 1000


def test_a_reset_is_passed_on(node: Node):
    node.serve(service(2))
    listener = node.listen(2)
    client = node.connect()
    server = node.accept(listener)
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_slow_reader_slows_the_sender_and_loses_nothing(node: Node):
    node.serve(service(2))
    listener = node.listen(2)
    client = node.connect()
    server = node.accept(listener)
    client.settimeout(0.5)
    block, sent = os.urandom(1 << 20), 0
    with contextlib.suppress(TimeoutError):
        while sent < 1 << 30:
            sent += client.send(block[sent % len(block) :])
    assert sent < 1 << 28
    client.shutdown(socket.SHUT_WR)
    received = everything(server)
    assert received == (block * (sent // len(block) + 1))[:sent]


def test_changes_do_not_touch_connections_that_are_open(node: Node):
    node.serve(service(2))
    listener = node.listen(2)
    node.naming(3)
    client = node.connect()
    server = node.accept(listener)
    for change in ((service(3),), ()):
        node.serve(*change)
        client.sendall(b"still")
        assert server.recv(5) == b"still"
        if change:
            assert node.who() == "3"
    assert node.ask().connections == 1


def test_a_thousand_connections_at_once(node: Node):
    node.serve(service(2, 3, 4))
    count, listeners = 1000, [node.listen(number) for number in SERVERS]
    accepted: Counter[int] = Counter()

    async def echo(number: int, listener: socket.socket) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted[number] += 1
            writer.write(await reader.read(100))
            await writer.drain()
            await reader.read()
            writer.close()

        await asyncio.start_server(serve, sock=listener, backlog=2000)

    async def one(place: int) -> bytes:
        made = node.open("client", False, socket.SOCK_STREAM)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (VIP[False], 80))
        reader, writer = await asyncio.open_connection(sock=made)
        writer.write(str(place).encode())
        said = await reader.read(100)
        everybody.release()
        await all_open.wait()
        writer.close()
        return said

    async def main() -> list[bytes]:
        for number, listener in zip(SERVERS, listeners, strict=True):
            await echo(number, listener)
        clients = [asyncio.create_task(one(place)) for place in range(count)]
        for _ in range(count):
            await everybody.acquire()
        assert (await proxy_feed.ask(node.feed)).connections == count
        all_open.set()
        said = await asyncio.gather(*clients)
        while (await proxy_feed.ask(node.feed)).connections:  # noqa: ASYNC110 - the servers, who close their ends, run
            await asyncio.sleep(0.05)
        return said

    everybody, all_open = asyncio.Semaphore(0), asyncio.Event()
    said = asyncio.run(asyncio.wait_for(main(), 50))
    assert said == [str(place).encode() for place in range(count)]
    assert max(accepted.values()) - min(accepted.values()) <= 1


def test_a_restarted_proxy_is_told_again(node: Node):
    node.serve(service(2))
    node.naming(2)
    heard: list[Status | None] = []

    async def main() -> None:
        feed = Feed(node.feed, heard.append)
        feed.update(orders(VIEW, [service(2)]))
        running = asyncio.create_task(feed.run())
        await until(lambda: feed.trouble is None)
        node.proxy.terminate()
        await asyncio.to_thread(node.proxy.wait, 10)
        await until(lambda: feed.trouble is not None)
        node.proxy = await asyncio.to_thread(node.start_proxy)
        await until(lambda: feed.trouble is None)
        running.cancel()

    async def until(done) -> None:
        async with asyncio.timeout(10):
            while not done():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    asyncio.run(main())
    assert None in heard
    assert node.who() == "2"


def test_throughput_is_at_least_half_of_destination_nat_on_one_core(node: Node):
    """One core for client, server and proxy alike. Bits for each second of its time, which tells the same on an idle
    core, and on a shared one the truth; the middle of three pairs of runs."""
    cpu = min(os.sched_getaffinity(0))
    os.sched_setaffinity(node.proxy.pid, {cpu})
    node.serve(service(2, to=5201))
    node.run("node", "nft", "-f", "-", text=nat("ip daddr 10.96.0.99 tcp dport 80 dnat to 10.1.2.2:5201"))
    server = Sink(node, cpu)
    try:
        figures = [(server.rate("10.96.0.99"), server.rate(VIP[False])) for _ in range(3)]
    finally:
        server.close()
        node.run("node", "nft", "delete", "table", "ip", "direct")
    ratio = sorted(proxied / direct for direct, proxied in figures)[1]
    print(f"userspace/dnat {ratio:.2f}: {figures}")
    assert ratio >= 0.5


def nat(rule: str) -> str:
    return f"table ip direct {{\nchain c {{\ntype nat hook prerouting priority -101\n{rule}\n}}\n}}\n"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Sink:
    """iperf3, both ends on one core."""

    def __init__(self, node: Node, cpu: int) -> None:
        self._node, self._cpu = node, cpu
        self._process = subprocess.Popen(self._command("server2", "-s"), stdout=subprocess.DEVNULL)
        time.sleep(0.3)

    def _command(self, name: str, *words: str) -> list[str]:
        return ["taskset", "-c", str(self._cpu), "nsenter", f"--net={self._node.path(name)}", "iperf3", *words]

    def rate(self, to: str) -> float:
        """Bits for each second that the core spent on client, server and proxy."""
        argv, before = (
            self._command("client", "-c", to, "-p", "80", "-t", "1.5", "-J"),
            cpu_seconds(self._node.proxy.pid),
        )
        end = msgspec.json.decode(subprocess.run(argv, capture_output=True, check=True).stdout)["end"]
        received, used = end["sum_received"], end["cpu_utilization_percent"]
        spent = (used["host_total"] + used["remote_total"]) / 100 * received["seconds"]
        return float(received["bytes"] * 8 / (spent + cpu_seconds(self._node.proxy.pid) - before))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
