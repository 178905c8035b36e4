"""A program for inside pods and nodes: a server that says who asks, and clients for it. Needs nothing but Python.

serve NAME PORT [NAME PORT]...   answer TCP and UDP, both families: "NAME CLIENT"; a TCP client may go on talking: echo
ask PROTOCOL HOST PORT           print the answer, or the error
keep HOST PORT SOURCE            send UDP from a fixed port for ever; print each new answerer and when (Unix time)
load HOST PORT                   connect again and again until standard input ends; print how it went, as JSON
"""

from __future__ import annotations

import json
import select
import selectors
import socket
import struct
import sys
import time
from contextlib import suppress

PATIENCE = 5.0
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: leave with a reset, so that no port is kept busy by a connection that is over."""


def serve(*words: str) -> None:
    """One thread, for ever."""
    ready = selectors.DefaultSelector()
    for name, port in zip(words[::2], words[1::2], strict=True):
        tcp = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        udp.bind(("::", int(port)))
        ready.register(tcp, selectors.EVENT_READ, ("accept", name))
        ready.register(udp, selectors.EVENT_READ, ("udp", name))
    while True:
        for key, _ in ready.select():
            assert isinstance(key.fileobj, socket.socket)
            what, name = key.data
            with suppress(OSError):
                if what == "accept":
                    connection, address = key.fileobj.accept()
                    ready.register(connection, selectors.EVENT_READ, ("echo", name))
                    connection.sendall(_answer(name, address))
                elif what == "udp":
                    _, address = key.fileobj.recvfrom(2048)
                    key.fileobj.sendto(_answer(name, address), address)
                else:
                    _echo(ready, key.fileobj)


def _echo(ready: selectors.BaseSelector, connection: socket.socket) -> None:
    said = b""
    with suppress(OSError):
        said = connection.recv(2048)
        connection.sendall(said)
    if not said:
        ready.unregister(connection)
        connection.close()


def _answer(name: str, address: tuple[str, int]) -> bytes:
    return f"{name} {address[0].removeprefix('::ffff:')}".encode()


def ask(protocol: str, host: str, port: str) -> None:
    """Once; half a second is enough in a lab."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(_family(host), kind) as client:
        client.settimeout(0.5)
        try:
            client.connect((host, int(port)))
            if protocol == "udp":
                client.send(b"?")
            print(client.recv(2048).decode())
        except OSError as error:
            print(f"error {error}")


def keep(host: str, port: str, source: str) -> None:
    """A datagram each 5 ms."""
    last = ""
    with socket.socket(_family(host), socket.SOCK_DGRAM) as client:
        client.bind(("", int(source)))
        while True:
            client.sendto(b"?", (host, int(port)))
            if select.select([client], [], [], 0.005)[0]:
                name = client.recv(2048).decode().split()[0]
                if name != last:
                    print(time.time(), name, flush=True)
                    last = name


def load(host: str, port: str) -> None:
    """One connection after the other; each has been answered when the next begins."""
    answers: dict[str, int] = {}
    errors: list[str] = []
    slowest = 0.0
    while not select.select([sys.stdin], [], [], 0)[0]:
        began = time.monotonic()
        try:
            with socket.create_connection((host, int(port)), PATIENCE) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                name = client.recv(2048).decode().split()[0]
            answers[name] = answers.get(name, 0) + 1
        except OSError as error:
            errors.append(str(error))
        slowest = max(slowest, time.monotonic() - began)
    print(json.dumps({"answers": answers, "errors": errors, "slowest": slowest}))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
