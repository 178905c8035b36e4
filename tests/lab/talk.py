"""A program for inside pods and nodes: a server that says who asks, and clients for it. Needs nothing but Python.

serve NAME PORT             answer TCP and UDP, both families: "NAME CLIENT"
ask PROTOCOL HOST PORT      print the answer, or the error
keep HOST PORT SOURCE       send UDP from a fixed port for ever; print each new answerer and when (Unix time)
"""

from __future__ import annotations

import select
import socket
import sys
import time


def serve(name: str, port: str) -> None:
    """One thread, for ever."""
    tcp = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.bind(("::", int(port)))
    while True:
        for ready in select.select([tcp, udp], [], [])[0]:
            if ready is tcp:
                connection, address = tcp.accept()
                connection.sendall(_answer(name, address))
                connection.close()
            else:
                _, address = udp.recvfrom(2048)
                udp.sendto(_answer(name, address), address)


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


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
