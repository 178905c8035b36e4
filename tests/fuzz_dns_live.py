"""Bad packets for a real kubedns over UDP and TCP, with an API server of its own, on loopback; see fuzz_dns."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from podnet.bench.programs import resident
from podnet.client.api import Api
from podnet.client.config import load
from podnet.client.errors import ApiError
from podnet.daemons.asking import Asking
from podnet.daemons.dns_client import NoAnswer
from podnet.objects.kinds import NAMESPACES, SERVICES
from podnet.wire import dns
from podnet.wire.dns import Malformed
from tests.fuzz_dns import packets
from tests.network.dns.names import service

BURST, EACH = 200, 20
"""Packets between two looks whether it still answers; packets in a TCP connection."""

GROWTH = 4.0
"""MB."""

ADDRESS = "10.96.7.1"


def live(count: int) -> str:
    """Throw so many by UDP and a tenth of them by TCP. Raises AssertionError."""
    chance = random.Random(count)
    with kubedns() as (pid, port):
        asyncio.run(_throw(port, max(count // 10, 10_000), chance))
        before = resident(pid)
        asyncio.run(_throw(port, count, chance))
        after = resident(pid)
        assert after < before + GROWTH, f"its memory grew from {before:.1f} to {after:.1f} MB"
        return f"{count:,} packets by UDP, {count // 10:,} by TCP; {before:.1f} MB before, {after:.1f} MB after"


async def _throw(port: int, count: int, chance: random.Random) -> None:
    await _udp(port, packets(chance), count)
    await _tcp(port, packets(chance), count // 10, chance)


async def _udp(port: int, thrown: Iterator[bytes], count: int) -> None:
    """Throw some, look what comes back, and see that a good question still has its answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("127.0.0.1", port))
        asking.setblocking(False)
        for _ in range(-(-count // BURST)):
            for _, message in zip(range(BURST), thrown, strict=False):
                with suppress(BlockingIOError):
                    asking.send(message)
            await _alive(port)
            with suppress(BlockingIOError):
                while said := asking.recv(4096):
                    assert len(said) >= 12
                    assert said[2] & 0x80


async def _alive(port: int) -> None:
    found = await Asking("127.0.0.1", port, 5.0).ask("web.demo.svc.cluster.local", dns.A)
    assert [dns.shown(each) for each in found.answers] == [ADDRESS]


async def _tcp(port: int, thrown: Iterator[bytes], count: int, chance: random.Random) -> None:
    """Some in each connection, the last cut short at times; what comes back is an answer to one of them."""
    for _ in range(-(-count // EACH)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        some = [message for _, message in zip(range(EACH), thrown, strict=False)]
        frames = b"".join(len(message).to_bytes(2, "big") + message for message in some)
        writer.write(frames[: len(frames) - chance.choice((0, 0, 1, 5))])
        if writer.can_write_eof():
            writer.write_eof()
        ids = {message[:2] for message in some}
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            async with asyncio.timeout(10):
                while True:
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    assert (await reader.readexactly(size))[:2] in ids
        writer.close()
    await _alive(port)


class Kubedns(NamedTuple):
    """A process, and where it listens."""

    pid: int
    port: int


@contextmanager
def kubedns() -> Iterator[Kubedns]:
    """An API server with a few Services, and `podnet dns kubedns`, on loopback."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        api, port, config = _free(), _free(), f"{folder}/admin.kubeconfig"

        def start(*words: str) -> int:
            program, env = f"{os.path.dirname(sys.executable)}/podnet", os.environ | {"PROMETHEUS_PORT": "0"}
            with open(f"{folder}/{words[0]}.log", "wb") as log:
                started = subprocess.Popen([program, *words], env=env, stdout=log, stderr=log)
            stack.callback(started.wait)
            stack.callback(started.kill)
            return started.pid

        start("apiserver", "--data-dir", folder, "--listen", f"127.0.0.1:{api}")
        _until(lambda: os.path.exists(config) and _written(config))
        words = ["--dns-port", str(port), "--dns-bind-address", "127.0.0.1", "--healthz-port", "0"]
        pid = start("dns", "kubedns", *words, "--nameservers", "127.0.0.1:9", "--kubeconfig", config)
        _until(lambda: asyncio.run(_answers(port)))
        yield Kubedns(pid, port)


def _free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _written(config: str) -> bool:
    """Whether the API server has taken the objects."""

    async def write() -> None:
        async with Api(load(config)) as api:
            await api.create(NAMESPACES, {"metadata": {"name": "demo"}})
            await api.create(SERVICES, service("web", ADDRESS))
            await api.create(SERVICES, service("db"))

    try:
        asyncio.run(write())
    except ApiError:
        return False
    return True


async def _answers(port: int) -> bool:
    try:
        await _alive(port)
    except (AssertionError, OSError, Malformed, NoAnswer):
        return False
    return True


def _until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come up"
        time.sleep(0.1)
