"""How many bits per second TCP carries between two network namespaces.

Sockets belong to the namespace they were made in, so two threads of this process are sender and receiver, and no
program has to be started there. Each has a CPU of its own: on veth links the sender's CPU also does all the forwarding,
so it is the bottleneck, and the rate is a measure of what the path costs. Data goes in blocks that the receiver
acknowledges, so that two streams can take turns within milliseconds and meet the same weather.
"""

from __future__ import annotations

import os
import socket
import threading
import time

from podnet.kernel.netns import socket_in

BLOCK = 1 << 20
RENEW = 25
PORT = 5201
PATIENCE = 10.0


class Stream:
    """TCP from a namespace (a path) to another, where `address` is, one connection at a time.

    `to` is what the sender asks for, where that is not the receiver's own address and port but leads there; `cpus` are
    the places of the CPUs of sender and receiver. A connection's ports decide on queues and hash buckets all along the
    path, which can be luck or bad luck; so every RENEW blocks there is a new one. Raises OSError without a path.
    """

    def __init__(
        self,
        sender: str,
        receiver: str,
        address: str,
        port: int = PORT,
        to: tuple[str, int] | None = None,
        cpus: tuple[int, int] = (0, 1),
    ) -> None:
        self._place = sender, receiver, (address, port), to or (address, port), cpus[1]
        self._data = bytes(BLOCK)
        self._blocks = 0
        self._connection = _connect(*self._place)
        stay_on(cpus[0])

    def rate(self) -> float:
        """Gbit/s of the next block, from its first byte to the acknowledgement of its last. Raises OSError."""
        if self._blocks % RENEW == 0:
            self._connection.close()
            self._connection = _connect(*self._place)
            self._send()  # until the congestion window is open
        self._blocks += 1
        start = time.perf_counter()
        self._send()
        return BLOCK * 8 / 1e9 / (time.perf_counter() - start)

    def _send(self) -> None:
        self._connection.sendall(self._data)
        if not self._connection.recv(1):
            raise ConnectionResetError("the receiver has gone")

    def close(self) -> None:
        """End the connection; the receiver follows."""
        self._connection.close()


def _connect(
    sender: str, receiver: str, place: tuple[str, int], to: tuple[str, int], receivers_cpu: int
) -> socket.socket:
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    with socket_in(receiver, family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(1)
        connection = socket_in(sender, family, socket.SOCK_STREAM)
        try:
            connection.settimeout(PATIENCE)
            connection.connect(to)
        except OSError:
            connection.close()
            raise
        accepted, _ = listener.accept()
    threading.Thread(target=_receive, args=(accepted, receivers_cpu), daemon=True).start()
    return connection


def _receive(connection: socket.socket, cpu: int) -> None:
    stay_on(cpu)
    buffer = bytearray(BLOCK)
    with connection:
        while count := connection.recv_into(buffer):
            while count < BLOCK:
                more = connection.recv_into(buffer, BLOCK - count)
                if not more:
                    return
                count += more
            connection.sendall(b".")


def stay_on(place: int) -> None:
    """Keep the calling thread on the first or second CPU, when there is more than one."""
    available = range(os.cpu_count() or 1)
    os.sched_setaffinity(0, {available[place % len(available)]})
