"""The library that daemons are preloaded with: sockets are taken over, readiness is told, and who drains ends."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hatch_build import recipe
from podnet.kernel.inherited import sockets_of

SOURCE = Path(__file__).parents[2] / "native" / "libpodnet-sockets.c"
DRAIN = signal.SIGRTMIN + 8
SECONDS = 10.0

DAEMON = """
import os, select, socket, sys
family, address, port, words = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
for number in range(3, 64):  # as dnsmasq does at its start
    try:
        os.close(number)
    except OSError:
        pass
kinds = socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_DGRAM
udp, tcp, upstream = (socket.socket(family, kind) for kind in kinds)
udp.bind((address, port))
tcp.bind((address, port))
tcp.listen()
waiting = select.poll()
for channel in (udp, tcp, *((upstream,) if "busy" in words else ())):
    waiting.register(channel, select.POLLIN)
while True:
    for number, _ in waiting.poll():
        if number == udp.fileno():
            said, client = udp.recvfrom(100)
            udp.sendto(words[0].encode() + b" " + said, client)
        elif number == tcp.fileno():
            connection, _ = tcp.accept()
            connection.sendall(words[0].encode())
            connection.close()
"""


class Daemon(NamedTuple):
    process: subprocess.Popen[bytes]
    ready: int

    def is_ready(self) -> bool:
        return bool(select.select([self.ready], [], [], SECONDS)[0]) and os.read(self.ready, 1) == b"1"


class Place:
    """An address, and who serves it."""

    def __init__(self, library: Path, family: socket.AddressFamily, address: str) -> None:
        self.library, self.family, self.address = library, family, address
        with socket.socket(family, socket.SOCK_STREAM) as free:
            free.bind((address, 0))
            self.port = free.getsockname()[1]
        self.names = [f"{kind}/{address}/{self.port}" for kind in ("udp", "tcp")]
        self.started: list[Daemon] = []

    def start(self, *words: str, held: dict[str, int] | None = None) -> Daemon:
        ready, tell = os.pipe()
        held = held or {}
        environment = {
            "LD_PRELOAD": str(self.library),
            "PODNET_SOCKETS": ",".join(f"{name}={held.get(name, -1)}" for name in self.names),
            "PODNET_READY": str(tell),
            "PODNET_DRAIN": str(DRAIN),
        }
        command = [sys.executable, "-I", "-S", "-c", DAEMON, str(int(self.family)), self.address, str(self.port)]
        process = subprocess.Popen([*command, *words], env=environment, pass_fds=(tell, *held.values()))
        os.close(tell)
        self.started.append(Daemon(process, ready))
        return self.started[-1]

    def ask(self) -> bytes:
        with socket.socket(self.family, socket.SOCK_DGRAM) as client:
            client.settimeout(SECONDS)
            client.sendto(b"?", (self.address, self.port))
            return client.recv(100)

    def connect(self) -> bytes:
        with socket.create_connection((self.address, self.port), SECONDS) as client:
            return client.recv(100)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target, command = recipe(SOURCE, tmp_path_factory.mktemp("library"))
    subprocess.run([*command, "-DDRAIN_SECONDS=1"], check=True)
    return target


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
def place(request: pytest.FixtureRequest, library: Path) -> Iterator[Place]:
    made = Place(library, *request.param)
    yield made
    for daemon in made.started:
        daemon.process.kill()
        daemon.process.wait()
        os.close(daemon.ready)


def test_a_successor_has_the_very_same_sockets(place: Place) -> None:
    first = place.start("first")
    assert first.is_ready()
    held = sockets_of(first.process.pid, place.names)
    assert sorted(held) == sorted(place.names)
    first.process.kill()
    first.process.wait()
    with socket.socket(place.family, socket.SOCK_DGRAM) as client:
        client.settimeout(SECONDS)
        client.sendto(b"meanwhile", (place.address, place.port))
        second = place.start("second", held=held)
        assert second.is_ready()
        assert client.recv(100) == b"second meanwhile"
    assert place.connect() == b"second"
    for number in held.values():
        os.close(number)


def test_who_drains_hears_nobody_any_more_and_ends(place: Place) -> None:
    first = place.start("first")
    assert first.is_ready()
    held = sockets_of(first.process.pid, place.names)
    second = place.start("second", held=held)
    assert second.is_ready()
    first.process.send_signal(DRAIN)
    assert first.process.wait(SECONDS) == 0
    assert {place.ask() for _ in range(20)} == {b"second ?"}
    for number in held.values():
        os.close(number)


def test_who_awaits_an_answer_has_a_while(place: Place) -> None:
    busy = place.start("first", "busy")
    assert busy.is_ready()
    began = time.monotonic()
    busy.process.send_signal(DRAIN)
    assert busy.process.wait(SECONDS) == 0
    assert time.monotonic() - began > 0.9
    with pytest.raises(OSError, match="refused"):
        place.connect()


def test_sockets_of_nobody() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
        assert sockets_of(gone.pid, ["udp/127.0.0.1/53"]) == {}
